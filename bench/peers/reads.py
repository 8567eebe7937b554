"""Point reads: one user's 12 rows out of a view of many users, each user as likely as any other, everything in memory or the page cache.

PostgreSQL reads them by primary key, DuckDB from one Parquet file that is sorted by user, RocksDB by prefix. In Redis a question is two HGETALL in
one pipeline, as whoever builds this by hand asks for the batch row and the recent row: a hash of 12 days and a hash of one. Numbers on
sockets are of 1, 16 and 64 connections.

Not comparable: DuckDB and RocksDB run inside the process that asks, so no message is sent; there Python's own share is in the number.
Merganser's answer merges the recent half, finishes it and says which version and offsets it is of; the others answer from one half.
"""

import json
import subprocess
import sys
from pathlib import Path

import duckdb

import clients
import merganser
import servers
from results import missing

TABLE = "12 rows of a user"
DAYS = 12
CONNECTIONS = [1, 16, 64]
JOBS = Path(__file__).resolve().parent / "jobs"
# DuckDB looks at the bounds of every group and reads one whole: at 12 million rows, groups of 20,000 and of 122,880 both take it longer.
_VIEW = """
COPY (
    SELECT format('{{:012}}', user_number) AS user_id, TIMESTAMP '2026-01-01' + to_days(day::INTEGER) AS bucket,
           (hash(user_number, day) % 50 + 1)::BIGINT AS event_count, (hash(user_number, day, 1) % 10000000 * 0.01)::DECIMAL(18, 4) AS revenue,
           bucket + to_seconds((hash(user_number, day, 2) % 40000)::BIGINT) AS first_event_time,
           bucket + to_seconds((40000 + hash(user_number, day, 3) % 40000)::BIGINT) AS last_event_time
    FROM range({users}) AS users(user_number), range({days}) AS days(day) ORDER BY user_number, day
) TO '{file}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 50000)
"""
_CREATE = """CREATE TABLE view (user_id text, bucket timestamp, event_count bigint, revenue numeric(18, 4), first_event_time timestamp,
    last_event_time timestamp, PRIMARY KEY (user_id, bucket))"""


class NotRead(Exception):
    """A reader that found another number of rows than a user has."""


def measure_all(results, tools: dict, folder: Path, users: int, seconds: int, runs: int) -> None:
    """Adds a row for each peer and number of connections, measured `runs` times; Merganser's are those of its load test."""
    data = servers.fresh(folder / "reads")
    parquet = data / "view.parquet"
    with duckdb.connect() as db:
        db.execute("SET threads = 2")
        db.execute(_VIEW.format(users=users, days=DAYS, file=parquet))
    table = f"{users} users"
    results.forget("reads", table)
    peers = {"PostgreSQL": ("postgres", _postgres), "Redis": ("redis", _redis), "DuckDB": ("duckdb", _duckdb), "RocksDB": ("rocksdict", _rocksdb)}
    for peer, (tool, cases) in peers.items():
        try:
            if why := missing(tools, [tool]):
                raise servers.NotStarted(why)
            for case, measured in cases(tools[tool], data, parquet, users, seconds, runs):
                results.add("reads", table, peer, case, "answers/s", measured)
        except (servers.NotStarted, clients.ClientFailed, NotRead) as error:
            results.skip("reads", table, peer, "all", str(error))
    try:
        found, how = merganser.load_test("reads")
        for case, run in found:
            results.add("reads", table, "Merganser", case, "answers/s", [run], note=f"Merganser's rows are of one run of `make load-test`. {how}")
    except LookupError as error:
        results.skip("reads", table, "Merganser", "all", str(error))
    servers.fresh(data)


def _postgres(tool: dict, data: Path, parquet: Path, users: int, seconds: int, runs: int):
    csv = data / "view.csv"
    with duckdb.connect() as db:
        db.execute(f"COPY (FROM '{parquet}') TO '{csv}' (FORMAT csv, HEADER false)")
    with servers.postgres(tool, data / "postgres", {"shared_buffers": "4GB"}) as server:
        servers.psql(tool, server.env, _CREATE)
        with csv.open() as rows:
            servers.psql(tool, server.env, "COPY view FROM STDIN (FORMAT csv)", stdin=rows)
        csv.unlink()
        servers.psql(tool, server.env, "VACUUM ANALYZE view")
        found = servers.psql(tool, server.env, f"SELECT count(*) FROM view WHERE user_id = '{users - 1:012}'")
        if int(found) != DAYS:
            raise NotRead(f"the last user has {found.strip()} rows, not {DAYS}")
        script = f"\\set user random(0, {users - 1})\nSELECT * FROM view WHERE user_id = lpad(:user::text, 12, '0') ORDER BY bucket;\n"
        clients.pgbench(server, 16, seconds, script, data)  # fills the caches
        for connections in CONNECTIONS:
            yield f"{connections}", [clients.pgbench(server, connections, seconds, script, data) for _ in range(runs)]


def _redis(tool: dict, data: Path, parquet: Path, users: int, seconds: int, runs: int):
    with servers.redis(tool, data / "redis", synced=False) as server:
        _fill_redis(server, parquet, data / "redis/commands")
        keys = int(clients.redis_cli(server, "DBSIZE"))
        if keys != 2 * users or int(clients.redis_cli(server, "HLEN", f"user:{0:012}")) != DAYS:
            raise NotRead(f"Redis has {keys} hashes, not {2 * users}")
        for connections in CONNECTIONS:
            measured = []
            for _ in range(runs):
                # Of two numbers below twice the users one is even on average: a hash of 12 days, and one of the recent day.
                run = clients.redis_benchmark(server, connections, 2, seconds, ["HGETALL", "user:__rand_int__"], 2 * users)
                measured.append({**run, "value": run["value"] / 2})
            yield f"{connections}", measured
        misses = next(line for line in clients.redis_cli(server, "INFO", "stats").splitlines() if line.startswith("keyspace_misses"))
        if int(misses.split(":")[1]) != 0:
            raise NotRead(f"some users were not there: {misses.strip()}")


def _fill_redis(server: servers.Server, parquet: Path, commands: Path) -> None:
    """Even numbers are hashes of all days of a user, odd ones of the last day; a field is a day."""
    value = "concat_ws('|', event_count, revenue, epoch_us(first_event_time), epoch_us(last_event_time))"
    with duckdb.connect() as db:
        for recent in (0, 1):
            fields = f"string_agg(strftime(bucket, '%Y%m%d') || ' ' || {value}, ' ' ORDER BY bucket)"
            where = f"WHERE bucket = (SELECT max(bucket) FROM '{parquet}')" if recent else ""
            db.execute(f"""
                COPY (SELECT 'HSET user:' || format('{{:012}}', 2 * user_id::BIGINT + {recent}) || ' ' || {fields}
                      FROM '{parquet}' {where} GROUP BY user_id) TO '{commands}' (FORMAT csv, HEADER false, QUOTE '', DELIMITER '\t')
            """)
            with commands.open() as lines:
                command = [Path(server.client).with_name("redis-cli"), "-h", "127.0.0.1", "-p", str(server.port), "--pipe"]
                clients.call(command, server.env, stdin=lines)
    commands.unlink()


def _duckdb(tool: dict, data: Path, parquet: Path, users: int, seconds: int, runs: int):
    yield "in process", [_reader("duckdb_reader.py", parquet, users, seconds) for _ in range(runs)]


def _rocksdb(tool: dict, data: Path, parquet: Path, users: int, seconds: int, runs: int):
    _reader("rocksdb_reader.py", data / "rocksdb", parquet, users, 1)  # fills it
    yield "in process", [_reader("rocksdb_reader.py", data / "rocksdb", parquet, users, seconds) for _ in range(runs)]


def _reader(job: str, *arguments) -> dict:
    done = subprocess.run([sys.executable, JOBS / job, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise clients.ClientFailed(f"{job}: {(done.stderr.strip().splitlines() or ['no word why'])[-1]}")
    said = json.loads(done.stdout)
    if said["rows"] != DAYS:
        raise NotRead(f"{job} found {said['rows']} rows of a user, not {DAYS}")
    return {"value": said["per_second"], **clients.percentiles_us(said["latencies_us"])}
