"""The view with Polars. Usage: polars_job.py MASTER_GLOB OUT_FOLDER SPILL_FOLDER

A partition of the master dataset at a time: a user is in one partition only, and the files of a partition are in log order by name. So
only a quarter of the history is in memory at once, and each file that is written is sorted, as those of Merganser are.
"""

import os
import sys

os.environ["POLARS_MAX_THREADS"] = "2"

import glob

import polars as pl

master, out, _ = sys.argv[1:]
partitions = sorted({os.path.basename(file) for file in glob.glob(master)})
for partition in partitions:
    events = pl.scan_parquet(os.path.join(os.path.dirname(master), partition))
    view = (
        events.select("user_id", "event_id", "event_time", "amount")
        .unique(["user_id", "event_id"], keep="first", maintain_order=False)
        .group_by("user_id", bucket=pl.col("event_time").dt.truncate("1d"))
        .agg(
            event_count=pl.len(),
            revenue=pl.col("amount").sum(),
            first_event_time=pl.col("event_time").min(),
            last_event_time=pl.col("event_time").max(),
        )
        .sort("user_id", "bucket")
    )
    view.collect().write_parquet(f"{out}/{partition}", compression="zstd")
