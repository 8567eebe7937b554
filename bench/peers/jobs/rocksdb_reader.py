"""Reads one user's rows from RocksDB inside this process. Usage: rocksdb_reader.py FOLDER PARQUET USERS SECONDS

A row is one entry; its key is user and day, so a user's rows are neighbours. FOLDER is filled from PARQUET unless it is there, and what
is measured then is a seek and twelve steps. Prints `{"per_second", "rows", "latencies_us"}`.
"""

import json
import random
import sys
import time
from pathlib import Path

import duckdb
from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, ReadOptions

folder, parquet, users, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])


def options() -> Options:
    blocks = BlockBasedOptions()
    blocks.set_block_cache(Cache(1 << 30))
    blocks.set_bloom_filter(10, False)
    options = Options(raw_mode=True)
    options.set_block_based_table_factory(blocks)
    options.set_compression_type(DBCompressionType.lz4())
    return options


def fill() -> None:
    value = "concat_ws('|', event_count, revenue, first_event_time, last_event_time)"
    rows = duckdb.connect().execute(f"SELECT user_id, strftime(bucket, '%Y%m%d'), {value} FROM '{parquet}'")
    db = Rdict(folder, options())
    while chunk := rows.fetchmany(100_000):
        for user, day, value in chunk:
            db[f"{user}{day}".encode()] = value.encode()
    db.flush()
    db.compact_range(None, None)
    db.close()


if not Path(folder).exists():
    fill()
db = Rdict(folder, options())
read = ReadOptions()
latencies_us, rows = [], 0
chance = random.Random(5)
start = now = time.perf_counter()
while now < start + seconds:
    user = f"{chance.randrange(users):012}".encode()
    for key, value in db.items(from_key=user, read_opt=read):
        if not key.startswith(user):
            break
        rows += 1
    before, now = now, time.perf_counter()
    latencies_us.append((now - before) * 1e6)
db.close()
print(json.dumps({"per_second": len(latencies_us) / (now - start), "rows": rows / len(latencies_us), "latencies_us": latencies_us}))
