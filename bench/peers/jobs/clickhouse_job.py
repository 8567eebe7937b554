"""The view with ClickHouse inside this process (chdb). Usage: clickhouse_job.py MASTER_GLOB OUT_FOLDER SPILL_FOLDER

A partition of the master dataset at a time: a user is in one partition only, so only a quarter of the history is in memory at once.
Measured against one statement over all, a tuple in one `argMin`, and `LIMIT 1 BY`, which all take longer.
"""

import glob
import os
import sys

import chdb

master, out, _ = sys.argv[1:]
for partition in sorted({os.path.basename(file) for file in glob.glob(master)}):
    chdb.query(f"""
        INSERT INTO FUNCTION file('{out}/{partition}', Parquet)
        SELECT user_id, toStartOfDay(time, 'UTC') AS bucket, count() AS event_count, sum(amount_kept) AS revenue,
               min(time) AS first_event_time, max(time) AS last_event_time
        FROM (
            SELECT user_id, argMin(event_time, _offset) AS time, argMin(assumeNotNull(amount), _offset) AS amount_kept
            FROM file('{os.path.join(os.path.dirname(master), partition)}', Parquet) GROUP BY user_id, event_id
        )
        GROUP BY user_id, bucket ORDER BY user_id, bucket
        SETTINGS max_threads = 2, output_format_parquet_string_as_string = 1
    """)
