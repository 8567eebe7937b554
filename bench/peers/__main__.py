"""Merganser beside what a user would pick instead: same data, same durability, same machine, in one run.

    python3 bench/peers/fetch.py target/bench-peers
    target/bench-peers/venv/bin/python bench/peers --folder target/bench-peers

What each section compares is said where it is: batch.py, ingest.py, reads.py. Results go to `FOLDER/results.json` (results.py), and from
there into docs/performance.md (report.py). `--smoke` takes a small history, and DuckDB and Polars alone, and only asks whether all agree.
"""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

# The readings of all sections: events in the batch's main table, and in the tables of its growth.
EVENTS = 20_000_000
GROWTH = [1_000_000, 10_000_000]
READ_USERS = 1_000_000
SMOKE_EVENTS = 20_000
SECTIONS = ["batch", "ingest", "reads"]


def main() -> int:
    flags = argparse.ArgumentParser(prog="bench/peers", description=__doc__.splitlines()[0])
    flags.add_argument("--folder", type=Path, required=True, help="where fetch.py has put the peers; data and results go there too")
    flags.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    flags.add_argument("--events", type=int, default=EVENTS, help=f"of the batch's main table (default {EVENTS})")
    flags.add_argument("--growth", type=int, nargs="*", help="events of the tables of growth (default 1 and 10 million, beside the default --events)")
    flags.add_argument("--users", type=int, default=READ_USERS, help=f"of the view that is read (default {READ_USERS})")
    flags.add_argument("--seconds", type=int, default=5, help="of each run of ingest and reads")
    flags.add_argument("--runs", type=int, default=3)
    flags.add_argument("--document", type=Path, help="where the tables go, between its marks (default docs/performance.md)")
    flags.add_argument("--smoke", action="store_true", help="seconds: do all results agree?")
    args = flags.parse_args()
    folder = args.folder.resolve()
    tools = json.loads((folder / "tools.json").read_text())
    if args.smoke:
        return smoke(folder, tools)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are ended on the way out
    import batch
    import report
    from measure import CommandFailed
    from merganser import NotBuilt
    try:
        run_sections(args, opened(folder / "results.json", tools), tools, folder / "data")
    except (batch.Disagreement, CommandFailed, NotBuilt) as error:
        print(f"bench-peers: {error}", file=sys.stderr)
        return 1
    report.write(folder / "results.json", args.document or report.DOCUMENT)
    return 0


def run_sections(args: argparse.Namespace, results, tools: dict, data: Path) -> None:
    """Measures what `args` ask for."""
    import batch
    import ingest
    import reads
    if "batch" in args.sections:
        batch.measure_all(results, tools, data, args.events, args.runs)
        fastest = batch.fastest_peer(results.rows, args.events)
        sizes = args.growth if args.growth is not None else GROWTH if args.events == EVENTS else []
        for events in sizes:
            batch.measure_all(results, tools, data, events, args.runs, [fastest] if fastest else [])
    if "ingest" in args.sections:
        ingest.measure_all(results, tools, data, args.seconds, args.runs)
    if "reads" in args.sections:
        reads.measure_all(results, tools, data, args.users, args.seconds, args.runs)


def smoke(folder: Path, tools: dict) -> int:
    """Every result of a small history is compared; nothing is asserted about time, and no document is written."""
    from results import missing
    if why := missing(tools, ["duckdb"]) or missing(tools, ["polars"]):
        print(f"bench-peers-smoke SKIPPED: {why}")
        return 0
    import batch
    import measure
    import merganser
    (folder / "smoke.json").unlink(missing_ok=True)
    results = opened(folder / "smoke.json", tools)
    peers = [peer for peer in batch.PEERS if batch.PEERS[peer][0] in (["duckdb"], ["polars"])]
    try:
        batch.measure_all(results, tools, folder / "data", SMOKE_EVENTS, 1, peers)
    except (batch.Disagreement, measure.CommandFailed, merganser.NotBuilt) as error:
        print(f"bench-peers-smoke: {error}", file=sys.stderr)
        return 1
    failed = [f"{row['peer']}: {row['skipped']}" for row in results.rows if "skipped" in row]
    if failed:
        print(f"bench-peers-smoke: {'; '.join(failed)}", file=sys.stderr)
        return 1
    print(f"{'; '.join(peers)} agree with Merganser over {SMOKE_EVENTS} events")
    return 0


def opened(path: Path, tools: dict):
    """The results in `path`, with a session for this command."""
    import machine
    import merganser
    from results import Results
    return Results(path, {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": os.environ.get("PEERS_COMMAND", " ".join(["python bench/peers", *sys.argv[1:]])).strip(),
        "machine": machine.describe(),
        "disk_us": machine.sync_latency_us(path.parent),
        "versions": {"merganser": merganser.version()} | {name: tool["version"] for name, tool in tools.items() if "version" in tool},
    })


if __name__ == "__main__":
    sys.exit(main())
