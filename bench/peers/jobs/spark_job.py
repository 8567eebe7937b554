"""The view with Spark on this machine's two cores. Usage: spark_job.py MASTER_GLOB OUT_FOLDER SPILL_FOLDER"""

import sys

from pyspark.sql import SparkSession, functions as f

master, out, spill = sys.argv[1:]
spark = (
    SparkSession.builder.master("local[2]")
    .config("spark.driver.memory", "4g")
    .config("spark.driver.host", "127.0.0.1")
    .config("spark.driver.bindAddress", "127.0.0.1")
    .config("spark.ui.enabled", "false")
    .config("spark.local.dir", spill)
    .config("spark.sql.session.timeZone", "UTC")
    .config("spark.sql.parquet.compression.codec", "zstd")
    .getOrCreate()
)
spark.sparkContext.setLogLevel("ERROR")
first = f.min_by(f.struct("event_time", "amount"), f.col("_offset"))
events = spark.read.parquet(master).groupBy("user_id", "event_id").agg(first.alias("event")).select("user_id", "event.*")
(
    events.groupBy("user_id", f.date_trunc("day", "event_time").alias("bucket"))
    .agg(
        f.count("*").alias("event_count"),
        f.sum("amount").alias("revenue"),
        f.min("event_time").alias("first_event_time"),
        f.max("event_time").alias("last_event_time"),
    )
    .orderBy("user_id", "bucket")
    .write.parquet(out, mode="overwrite")
)
spark.stop()
