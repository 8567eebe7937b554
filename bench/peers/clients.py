"""The load tools that peers come with, each run for some seconds: how many a second, and how long one took."""

import csv
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from servers import Server

# redis-benchmark counts requests, not seconds: a short run tells how many are a run of some seconds.
TRIAL_REQUESTS = 2_000
# pgbench notes one transaction in so many, so that noting is no part of what is measured.
NOTED = 0.1


class ClientFailed(Exception):
    """A load tool that ended badly; the text has what it said."""


def redis_benchmark(server: Server, connections: int, pipeline: int, seconds: int, command: list[str], keys: int) -> dict:
    """Commands a second, with `__rand_int__` in `command` replaced by a number below `keys`; latencies are of one command in its pipeline."""
    def run(requests: int) -> dict:
        flags = ["-h", "127.0.0.1", "-p", server.port, "-c", connections, "-P", pipeline, "-n", requests, "-r", keys, "--csv"]
        said = call([server.client, *flags, *command], server.env)
        return list(csv.DictReader(said.splitlines()))[-1]

    unit = connections * pipeline
    trial = float(run(max(TRIAL_REQUESTS, 10 * unit))["rps"])
    measured = run(max(int(trial * seconds), 10 * unit))
    return {
        "value": float(measured["rps"]),
        "p50_us": 1000 * float(measured["p50_latency_ms"]),
        "p99_us": 1000 * float(measured["p99_latency_ms"]),
    }


def redis_cli(server: Server, *command: str) -> str:
    """What Redis answers to one command."""
    return call([Path(server.client).with_name("redis-cli"), "-h", "127.0.0.1", "-p", server.port, *command], server.env).strip()


def pgbench(server: Server, connections: int, seconds: int, script: str, folder: Path) -> dict:
    """Transactions a second of `script`, prepared once on each connection."""
    file = folder / "pgbench.sql"
    file.write_text(script)
    for old in folder.glob("pgbench_log.*"):
        old.unlink()
    flags = ["-n", "-M", "prepared", "-c", connections, "-j", min(connections, 2), "-T", seconds, "-f", file]
    flags += ["-l", "--log-prefix", folder / "pgbench_log", "--sampling-rate", NOTED]
    said = call([server.client, *flags], server.env)
    rate = next(line for line in said.splitlines() if line.startswith("tps = ")).split()[2]
    done = next(line for line in said.splitlines() if line.startswith("number of transactions actually processed")).split(": ")[1].split("/")[0]
    noted = [int(line.split()[2]) for log in folder.glob("pgbench_log.*") for line in log.read_text().splitlines()]
    return {"value": float(rate), "transactions": int(done), **percentiles_us(noted)}


def nats_publish(server: Server, connections: int, seconds: int) -> dict:
    """Messages a second that JetStream has acknowledged to two processes of its Python client, one at a time on each connection."""
    processes = min(connections, 2)
    loader = [sys.executable, Path(__file__).resolve().parent / "jobs/nats_publisher.py", f"nats://127.0.0.1:{server.port}"]
    running = [
        subprocess.Popen([*map(str, loader), str(connections // processes), str(seconds)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    said = [process.communicate() for process in running]
    if any(process.returncode for process in running):
        raise ClientFailed(f"nats_publisher.py: {said[0][1].strip() or said[-1][1].strip()}")
    reports = [json.loads(out) for out, _ in said]
    latencies = [latency for report in reports for latency in report["latencies_us"]]
    return {"value": sum(report["per_second"] for report in reports), **percentiles_us(latencies)}


def percentiles_us(latencies_us: list) -> dict:
    """p50 and p99, where there are enough of them."""
    if len(latencies_us) < 100:
        return {}
    cuts = statistics.quantiles(latencies_us, n=100)
    return {"p50_us": cuts[49], "p99_us": cuts[98]}


def call(command: list, env: dict, stdin=None) -> str:
    done = subprocess.run([str(word) for word in command], env={**os.environ, **env}, stdin=stdin, capture_output=True, text=True)
    if done.returncode != 0:
        raise ClientFailed(f"{Path(str(command[0])).name}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
