"""Reads one user's rows from sorted Parquet with DuckDB. Usage: duckdb_reader.py FILE USERS SECONDS

Prints `{"per_second", "rows", "latencies_us"}`. The statement is prepared once.
"""

import json
import random
import sys
import time

import duckdb

file, users, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
latencies_us, rows = [], 0
chance = random.Random(5)
with duckdb.connect() as db:
    db.execute("SET threads = 2; SET TimeZone = 'UTC'; SET enable_object_cache = true")
    db.execute(f"PREPARE of_user AS SELECT * FROM read_parquet('{file}') WHERE user_id = ?")
    start = now = time.perf_counter()
    while now < start + seconds:
        rows += len(db.execute(f"EXECUTE of_user('{chance.randrange(users):012}')").fetchall())
        before, now = now, time.perf_counter()
        latencies_us.append((now - before) * 1e6)
print(json.dumps({"per_second": len(latencies_us) / (now - start), "rows": rows / len(latencies_us), "latencies_us": latencies_us}))
