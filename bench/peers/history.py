"""A history of events as Parquet files, the same bytes for the same size and seed.

Row `i` of the log carries the event of number `n`: its own, but for one row in a hundred, which repeats an earlier one. One repeat in
ten has another amount and is an hour later, so that it matters which of the two counts. Everything about an event is a function of its number:

- `event_id`: 16 hex digits
- `user_id`: one of `events / EVENTS_A_USER`, drawn by the square of a uniform number: few users have many events, many have few
- `event_time`: DAYS days, evenly, each event up to an hour late
- `amount`: decimal(18,4), -5 to 95
"""

from pathlib import Path

import duckdb

SEED = 5
EVENTS_A_USER = 50
DAYS = 30
FIRST_DAY = "2026-01-01"
# Files of the history are imported one by one; Merganser numbers rows in this order.
FILE_ROWS = 5_000_000

_ROWS = """
WITH numbered AS (
    SELECT i, i % 10 = 0 AS differs, CASE WHEN i > 0 AND hash(i, {seed}, 'repeat') % 100 = 0 THEN (hash(i, {seed}, 'of') % i::UBIGINT)::BIGINT ELSE i END AS n
    FROM range({first}, {end}) AS rows(i)
)
SELECT format('{{:016x}}', hash(n, {seed}, 'id')) AS event_id,
       format('u{{:08d}}', floor({users} * pow((hash(n, {seed}, 'user') % 1000000007) / 1000000007.0, 2))::BIGINT) AS user_id,
       TIMESTAMPTZ '{first_day} 00:00:00+00'
           + to_microseconds((n * {step_us} + (hash(n, {seed}, 'late') % 3600000000)::BIGINT
               + CASE WHEN i <> n AND differs THEN 3600000000 ELSE 0 END)::BIGINT) AS event_time,
       CASE WHEN hash(n, {seed}, 'type') % 4 = 0 THEN 'sale' ELSE 'view' END AS event_type,
       (((hash(n, {seed}, 'amount') % 1000000)::BIGINT - 50000 + CASE WHEN i <> n AND differs THEN 1 ELSE 0 END)::DECIMAL(18, 0)
           * 0.0001::DECIMAL(5, 4))::DECIMAL(18, 4) AS amount
FROM numbered ORDER BY i
"""


def make(folder: Path, events: int) -> list[Path]:
    """The files of a history of `events` rows below `folder`, in log order; made unless they are there."""
    folder = folder / f"history-{events}-{SEED}"
    done = folder / "done"
    starts = range(0, events, FILE_ROWS)
    files = [folder / f"part-{number:04}.parquet" for number in range(len(starts))]
    if done.exists():
        return files
    folder.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as db:
        db.execute("SET threads = 2; SET TimeZone = 'UTC'")
        for file, first in zip(files, starts):
            rows = _ROWS.format(
                seed=SEED, first=first, end=min(first + FILE_ROWS, events), first_day=FIRST_DAY,
                users=max(events // EVENTS_A_USER, 1), step_us=DAYS * 86_400_000_000 // events,
            )
            db.execute(f"COPY ({rows}) TO '{file}' (FORMAT parquet, COMPRESSION zstd)")
    done.touch()
    return files
