"""Durable ingest: 200-byte events, each synced to disk before it is acknowledged, from 1, 16 and 64 connections on the same machine.

Every client is the load tool that the peer comes with, but for NATS, whose Python client stands in: the row *not synced* shows what that
client reaches when the disk is out of the way. How long this disk takes to sync is measured right before every run and kept with it.

Not comparable: Redis Streams knows no event ids, so it takes repeats; JetStream knows them for two minutes, PostgreSQL for ever by its unique
key, Merganser within its window, and for ever in the next batch. Only Merganser also folds each event before it acknowledges. PostgreSQL's
1,000 rows of a statement are made inside the server, so that they need not cross the wire nor be parsed.
"""

import asyncio

import clients
import merganser
import servers
from machine import sync_latency_us
from results import missing

CONNECTIONS = [1, 16, 64]
TABLE = "synced"
UNSYNCED = "not synced, for the scale"
EVENT_BYTES = 200
# What stands beside the payload in a Redis or PostgreSQL event: user, id, time, type, amount.
PAYLOAD = "x" * (EVENT_BYTES - 60)

_XADD = ["XADD", "events", "*", "user_id", "u__rand_int__", "event_id", "__rand_int__", "amount", "12.34", "payload", PAYLOAD]
_CREATE = """CREATE TABLE events (user_id text, event_id bigint, event_time timestamptz, event_type text, amount numeric(18, 4),
    payload text, PRIMARY KEY (user_id, event_id))"""
_INSERT_ONE = rf"""\set user random(0, 999999)
\set id random(0, 9000000000000000000)
INSERT INTO events VALUES ('u' || :user, :id, now(), 'sale', 12.34, '{PAYLOAD}') ON CONFLICT DO NOTHING;
"""
_INSERT_MANY = rf"""INSERT INTO events
SELECT 'u' || (random() * 999999)::int, (random() * 9000000000000000)::bigint, now(), 'sale', 12.34, '{PAYLOAD}' FROM generate_series(1, 1000)
ON CONFLICT DO NOTHING;
"""


class NotStored(Exception):
    """A server that holds another number of events than it acknowledged."""


def measure_all(results, tools: dict, folder, seconds: int, runs: int) -> None:
    """Adds a row for each peer and case, each measured `runs` times in turns on a fresh server; Merganser's are those of its load test."""
    data = folder / "ingest"
    peers = {
        "Redis Streams": (["redis"], _redis), "PostgreSQL": (["postgres"], _postgres), "NATS JetStream": (["nats-server", "nats-py"], _nats),
    }
    for table in (TABLE, UNSYNCED):
        results.forget("ingest", table)
    taken: dict[tuple, list[dict]] = {}
    skipped = {peer: why for peer, (needs, _) in peers.items() if (why := missing(tools, needs))}
    for _ in range(runs):
        for peer, (needs, cases) in peers.items():
            if peer in skipped:
                continue
            try:
                for table, case, run in cases(tools[needs[0]], data, seconds):
                    taken.setdefault((table, peer, case), []).append(run)
            except (servers.NotStarted, clients.ClientFailed, NotStored) as error:
                skipped[peer] = str(error)
    for peer, why in skipped.items():
        results.skip("ingest", TABLE, peer, "all", why)
    for (table, peer, case), measured in taken.items():
        results.add("ingest", table, peer, case, "events/s", measured)
    try:
        found, how = merganser.load_test("ingest")
        for case, run in found:
            results.add("ingest", TABLE, "Merganser", case, "events/s", [run], note=f"Merganser's rows are of one run of `make load-test`. {how}")
    except LookupError as error:
        results.skip("ingest", TABLE, "Merganser", "all", str(error))


def _redis(tool: dict, folder, seconds: int):
    with servers.redis(tool, folder) as server:
        for connections, pipeline in [(c, 1) for c in CONNECTIONS] + [(1, 100), (16, 100)]:
            clients.redis_cli(server, "FLUSHALL")
            disk_us = sync_latency_us(folder, syncs=200)
            run = clients.redis_benchmark(server, connections, pipeline, seconds, _XADD, 1_000_000_000)
            if int(clients.redis_cli(server, "XLEN", "events")) == 0:
                raise NotStored("the stream is empty after the run")
            case = f"single, {connections}" if pipeline == 1 else f"{pipeline} a pipeline, {connections}"
            yield TABLE, case, {**run, "disk_us": disk_us}


def _postgres(tool: dict, folder, seconds: int):
    with servers.postgres(tool, folder) as server:
        def sql(statement: str) -> str:
            return servers.psql(tool, server.env, statement)

        sql(_CREATE)
        scripts = [(c, 1, _INSERT_ONE) for c in CONNECTIONS] + [(c, 1000, _INSERT_MANY) for c in (1, 16)]
        for connections, rows, script in scripts:
            sql("TRUNCATE events")
            disk_us = sync_latency_us(folder, syncs=200)
            run = clients.pgbench(server, connections, seconds, script, folder)
            run["value"] *= rows
            if int(sql("SELECT count(*) FROM events")) < 0.99 * run["transactions"] * rows:
                raise NotStored("the table has fewer rows than were acknowledged")
            yield TABLE, f"single, {connections}" if rows == 1 else f"{rows:,} a statement, {connections}", {**run, "disk_us": disk_us}


def _nats(tool: dict, folder, seconds: int):
    for table, synced, counts in ((TABLE, True, CONNECTIONS), (UNSYNCED, False, [64])):
        with servers.nats(tool, folder, synced) as server:
            asyncio.run(_add_stream(server.port))
            for connections in counts:
                disk_us = sync_latency_us(folder, syncs=200)
                run = clients.nats_publish(server, connections, seconds)
                yield table, f"single, {connections}", {**run, "disk_us": disk_us}


async def _add_stream(port: int) -> None:
    import nats
    client = await nats.connect(f"nats://127.0.0.1:{port}")
    await client.jetstream().add_stream(name="EVENTS", subjects=["events"])
    await client.close()
