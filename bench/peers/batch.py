"""The batch: exact dedup, then per user and day a count, a sum, the first and the last time; sorted Parquet out.

Merganser imports a history (history.py); the files of its master dataset are what it and every peer then read, from the page cache. Of
several rows with one (user_id, event_id) the first in log order counts, which is the one with the lowest `_offset`. The time of a peer
is that of its whole process, from start to end, as is Merganser's, whose run also folds a second time (its audit), writes states from which
answers are merged, and reads its files back before it publishes.
"""

import shutil
import sys
from pathlib import Path

import duckdb

import history
import measure
from merganser import Store
from results import missing

JOBS = Path(__file__).resolve().parent / "jobs"
PEERS = {
    "DuckDB": (["duckdb"], ["duckdb_job.py"]),
    "DuckDB, a partition at a time": (["duckdb"], ["duckdb_job.py", "by-partition"]),
    "ClickHouse (chdb), a partition at a time": (["chdb"], ["clickhouse_job.py"]),
    "Polars, a partition at a time": (["polars"], ["polars_job.py"]),
    "Spark local[2]": (["pyspark", "java"], ["spark_job.py"]),
}
MERGANSER = "Merganser"
# Row count, events, amount, and a sum of hashes of whole rows: the same only for the same rows, in whatever order.
_SUMMARY = """
SELECT count(*), sum({events}), sum({revenue}), sum(hash(
    {user}::VARCHAR, epoch_us({bucket}), {events}::BIGINT, {revenue}::DECIMAL(38, 4), epoch_us({first}), epoch_us({last})
)::HUGEINT)
FROM read_parquet(?)
"""
_OF_PEER = {"user": "user_id", "bucket": "bucket", "events": "event_count", "revenue": "revenue",
            "first": "first_event_time", "last": "last_event_time"}
_OF_MERGANSER = {"user": "key", "bucket": "bucket", "events": "a0_0", "revenue": "a1_0", "first": "a2_0", "last": "a3_0"}


class Disagreement(Exception):
    """Two results that should be the same and are not."""


def measure_all(results, tools: dict, folder: Path, events: int, runs: int, peers: list[str] | None = None) -> None:
    """Adds rows for `events` events: the import, Merganser's full run and each peer's, `runs` times in turns.

    Raises Disagreement if two results differ, and CommandFailed if it is Merganser that fails; a peer that does is a row that says so.
    """
    table = f"{events} events"
    results.forget("batch", table)
    files = history.make(folder, events)
    store, imports = _import(folder / "merganser", files, runs)
    results.add("batch", table, MERGANSER, "import", "s", [measured.row() for measured in imports])
    wanted = [MERGANSER, *(PEERS if peers is None else peers)]
    taken: dict[str, list[dict]] = {}
    skipped = {peer: why for peer in wanted if peer != MERGANSER and (why := missing(tools, PEERS[peer][0]))}
    summaries = {}
    for _ in range(runs):  # in turns, so that a machine that slows down slows all
        for peer in wanted:
            if peer in skipped:
                continue
            measure.warm(store.imported())
            try:
                measured, summaries[peer] = _merganser(store) if peer == MERGANSER else _peer(peer, store, folder)
                taken.setdefault(peer, []).append(measured.row())
            except measure.CommandFailed as error:
                if peer == MERGANSER:
                    raise
                skipped[peer] = str(error)
    _agree(summaries)  # before any time is kept
    for peer in wanted:
        if peer in skipped:
            results.skip("batch", table, peer, "full", skipped[peer])
        else:
            results.add("batch", table, peer, "full", "s", taken[peer], note=f"{summaries[peer][0]} rows, {summaries[peer][1]} events")
    shutil.rmtree(folder / "merganser")


def fastest_peer(rows: list[dict], events: int) -> str | None:
    """The peer with the lowest median at `events` events, if any was measured."""
    times = {row["peer"]: row["median"] for row in rows
             if row["table"] == f"{events} events" and row["case"] == "full" and row["peer"] in PEERS and "median" in row}
    return min(times, key=times.get, default=None)


def _import(folder: Path, files: list[Path], runs: int) -> tuple[Store, list[measure.Measured]]:
    taken = []
    for _ in range(runs):
        shutil.rmtree(folder, ignore_errors=True)
        store = Store(folder)
        measure.warm(files)
        taken.append(store.batch_layer("import", *files))
    return store, taken


def _merganser(store: Store) -> tuple[measure.Measured, tuple]:
    measured = store.batch_layer("run", "--view", "user_stats", "--force")
    return measured, _summary(store.newest_view(), _OF_MERGANSER)


def _peer(peer: str, store: Store, folder: Path) -> tuple[measure.Measured, tuple]:
    out, spill = folder / "out", folder / "spill"
    for place in (out, spill):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
    job, *how = PEERS[peer][1]
    master = store.folder / "store/master/imports/*/*.parquet"
    log = folder / f"{Path(job).stem}.log"
    measured = measure.run([sys.executable, JOBS / job, master, out, spill, *how], log, env={"SPARK_LOCAL_IP": "127.0.0.1"})
    summary = _summary(sorted(out.glob("*.parquet")), _OF_PEER)
    for place in (out, spill):
        shutil.rmtree(place)
    return measured, summary


def _summary(files: list[Path], columns: dict) -> tuple:
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        return db.execute(_SUMMARY.format(**columns), [[str(file) for file in files]]).fetchone()


def _agree(summaries: dict[str, tuple]) -> None:
    if len(set(summaries.values())) > 1:
        raise Disagreement("the results differ: " + "; ".join(f"{peer}: {summary}" for peer, summary in summaries.items()))
