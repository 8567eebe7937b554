"""Writes what was measured into the marked region of docs/performance.md. Usage: report.py RESULTS_JSON [DOCUMENT]

Nothing between the marks is written by hand; everything that is said about the numbers is outside of them.
"""

import json
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
DOCUMENT = REPO / "docs/performance.md"
BEGIN, END = "<!-- bench-peers:begin -->", "<!-- bench-peers:end -->"
MERGANSER = "Merganser"


def write(results: Path, document: Path = DOCUMENT) -> None:
    """Replaces the region of `document` by the tables of `results`. A document without the marks is refused."""
    text = document.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{document} has no {BEGIN} … {END}; put both where the tables are to stand")
    known = json.loads(results.read_text())
    document.write_text(f"{before}{BEGIN}\n\n{tables(known)}\n{END}{after}")
    print(f"the tables are in {document}")


def tables(known: dict) -> str:
    """All tables, as Markdown."""
    rows, sessions = known["rows"], known["sessions"]
    parts = [measured_on(rows, sessions), *batch([row for row in rows if row["section"] == "batch"])]
    for section, title, unit in (("ingest", "Durable ingest", "events/s"), ("reads", "Point reads", "answers/s")):
        of_section = [row for row in rows if row["section"] == section]
        for table in dict.fromkeys(row["table"] for row in of_section):
            parts += [f"### {title}: {grouped(table)}", rates([row for row in of_section if row["table"] == table], unit)]
    # What a peer complained of may name files; where this folder lies is nobody's business.
    return "\n\n".join(parts).replace(f"{REPO}/", "") + "\n"


def measured_on(rows: list[dict], sessions: list[dict]) -> str:
    """When, where, with what: a line for each session whose rows are still there."""
    lines = []
    for number in sorted({row["session"] for row in rows}):
        session, machine = sessions[number], sessions[number]["machine"]
        sections = ", ".join(dict.fromkeys(f"{row['section']} ({grouped(row['table'])})" for row in rows if row["session"] == number))
        disk = session["disk_us"]
        lines.append(
            f"- **{session['started']}**, `{session['command']}`: {sections}. {machine['cores']} cores ({machine['cpu']}), "
            f"{machine['memory_bytes'] / 2**30:.0f} GiB, Linux {machine['kernel']}, load {machine['load']:.1f} at the start. "
            f"Append of 1 KiB and fdatasync: p50 {disk['growing']['p50']:,.0f} µs, p99 {disk['growing']['p99']:,.0f} µs; preallocated "
            f"p50 {disk['preallocated']['p50']:,.0f} µs, p99 {disk['preallocated']['p99']:,.0f} µs. "
            + ", ".join(f"{name} {version}" for name, version in session["versions"].items()) + "."
        )
    return "\n".join(lines)


def batch(rows: list[dict]) -> list[str]:
    """For each number of events the runs, and once more with what is done at import; then how both grow."""
    parts = []
    tables_by_events = {int(table.split()[0]): [row for row in rows if row["table"] == table] for table in {row["table"] for row in rows}}
    for events, of_table in sorted(tables_by_events.items()):
        full = [row for row in of_table if row["case"] == "full"]
        peers = [row["median"] for row in full if row["peer"] != MERGANSER and "median" in row]
        lines = [f"### Batch, {events:,} events: the recompute", "| | median | each run | events/s | processor | peak memory | to the fastest peer |",
                 "|---|--:|---|--:|--:|--:|--:|"]
        for row in sorted(full, key=lambda row: row.get("median", float("inf"))):
            lines.append(run_line(row, row["peer"], events, min(peers, default=None)))
        parts.append("\n".join([lines[0], "", *lines[1:]]))
        imported = next((row for row in of_table if row["case"] == "import" and "median" in row), None)
        ours = next((row for row in full if row["peer"] == MERGANSER and "median" in row), None)
        if imported and ours:
            both = imported["median"] + ours["median"]
            against = f" | {both / min(peers):.2f} ×" if peers else " | "
            parts.append("\n".join([
                f"#### {events:,} events: with what Merganser does when history comes in, once",
                "", "| | median | each run | events/s | processor | peak memory | to the fastest peer |", "|---|--:|---|--:|--:|--:|--:|",
                run_line(imported, "import: check, divide by user, hash, write, read back", events, None),
                run_line(ours, "the recompute, as above", events, None),
                f"| together | {both:.2f} s | | {events / both:,.0f} | | {against} |",
            ]))
    if len(tables_by_events) > 1:
        parts.append(growth(tables_by_events))
    return parts


def run_line(row: dict, name: str, events: int, fastest: float | None) -> str:
    if "skipped" in row:
        return f"| {name} | skipped: {row['skipped']} | | | | | |"
    middle = sorted(row["runs"], key=lambda run: run["value"])[len(row["runs"]) // 2]
    peak = max(run["peak_rss_bytes"] for run in row["runs"])
    against = f"{row['median'] / fastest:.2f} ×" if fastest else ""
    return (f"| {name} | {row['median']:.2f} s | {values(row, 2)} | {events / row['median']:,.0f} "
            f"| {middle['cpu_seconds']:.1f} s | {peak / 2**20:,.0f} MiB | {against} |")


def growth(tables_by_events: dict[int, list[dict]]) -> str:
    """Nanoseconds an event at each size, of Merganser and of each peer that was measured at more than one."""
    sizes = sorted(tables_by_events)
    medians = {}
    for events, rows in tables_by_events.items():
        for row in rows:
            if "median" in row:
                medians.setdefault(f"{row['peer']}, {row['case']}" if row["peer"] == MERGANSER else row["peer"], {})[events] = row["median"]
    lines = ["### Batch: growth, ns an event", "", "| | " + " | ".join(f"{size:,}" for size in sizes) + " |", "|---|" + "--:|" * len(sizes)]
    for name, by_events in medians.items():
        if len(by_events) > 1:
            cells = [f"{1e9 * by_events[size] / size:,.0f}" if size in by_events else "" for size in sizes]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rates(rows: list[dict], unit: str) -> str:
    """Rates and latencies of servers, with what the disk took right before where that was asked."""
    with_disk = any("disk_us" in run for row in rows for run in row.get("runs", []))
    lines = [f"| | case, connections | {unit} | each run | p50 | p99 |" + (" fdatasync p50 before |" if with_disk else ""),
             "|---|---|--:|---|--:|--:|" + ("--:|" if with_disk else "")]
    for row in rows:
        if "skipped" in row:
            lines.append(f"| {row['peer']} | {row['case']} | skipped: {row['skipped']} | | | |" + (" |" if with_disk else ""))
            continue
        middle = sorted(row["runs"], key=lambda run: run["value"])[len(row["runs"]) // 2]
        latency = [f"{middle[name]:,.0f} µs" if name in middle else "" for name in ("p50_us", "p99_us")]
        line = f"| {row['peer']} | {row['case']} | {row['median']:,.0f} | {values(row, 0)} | {' | '.join(latency)} |"
        if with_disk:
            line += f" {middle['disk_us']['growing']['p50']:,.0f} µs |" if "disk_us" in middle else " |"
        lines.append(line)
    notes = dict.fromkeys(row["note"] for row in rows if row.get("note"))
    return "\n".join([*lines, *(f"\n{note}" for note in notes)])


def values(row: dict, digits: int) -> str:
    """Every run of a row, in the order in which they ran."""
    return " · ".join(f"{run['value']:,.{digits}f}" for run in row["runs"])


def grouped(table: str) -> str:
    """The number that a table is named by, with its thousands apart."""
    return " ".join(f"{int(word):,}" if word.isdigit() else word for word in table.split())


if __name__ == "__main__":
    write(*map(Path, sys.argv[1:]))
