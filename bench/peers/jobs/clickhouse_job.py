"""The view with ClickHouse inside this process (chdb). Usage: clickhouse_job.py MASTER_GLOB OUT_FOLDER SPILL_FOLDER"""

import sys

import chdb

master, out, _ = sys.argv[1:]
chdb.query(f"""
    INSERT INTO FUNCTION file('{out}/view.parquet', Parquet)
    SELECT user_id, toStartOfDay(event.1, 'UTC') AS bucket, count() AS event_count, sum(event.2) AS revenue,
           min(event.1) AS first_event_time, max(event.1) AS last_event_time
    FROM (
        SELECT user_id, argMin((event_time, assumeNotNull(amount)), _offset) AS event
        FROM file('{master}', Parquet) GROUP BY user_id, event_id
    )
    GROUP BY user_id, bucket ORDER BY user_id, bucket
    SETTINGS max_threads = 2, output_format_parquet_string_as_string = 1
""")
