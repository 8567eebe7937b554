"""What was measured, as one JSON that later runs add to.

```text
{"sessions": [{"started", "command", "machine", "versions", "events", …}],
 "rows": [{"session": 0, "section", "table", "peer", "case", "unit", "runs": [{"value": …}], "median": …, "note"} or {…, "skipped": why}]}
```

A table that is measured again loses what it had; the others stay, each row with the session that measured it. So the large sizes can be
run by hand, one after the other, and stand beside the rest.
"""

import json
import os
import statistics
from pathlib import Path


class Results:
    """The rows of a file, and the session that adds to them."""

    def __init__(self, path: Path, session: dict):
        self.path = path
        known = json.loads(path.read_text()) if path.exists() else {"sessions": [], "rows": []}
        self.sessions = known["sessions"] + [session]
        self.rows = known["rows"]

    def add(self, section: str, table: str, peer: str, case: str, unit: str, runs: list[dict], note: str = "") -> None:
        """Adds a row measured several times: the value of each run in `unit`, and what else is known of it."""
        median = statistics.median(run["value"] for run in runs)
        self._put({"section": section, "table": table, "peer": peer, "case": case, "unit": unit, "runs": runs, "median": median, "note": note})
        values = ", ".join(f"{run['value']:,.2f}" for run in runs)
        print(f"{section:7} {table:12} {peer:40} {case:16} {median:14,.2f} {unit:10} ({values})", flush=True)

    def skip(self, section: str, table: str, peer: str, case: str, why: str) -> None:
        """Adds a row that could not be measured, with the reason."""
        self._put({"section": section, "table": table, "peer": peer, "case": case, "skipped": why})
        print(f"{section:7} {table:12} {peer:40} {case:16} skipped: {why}", flush=True)

    def forget(self, section: str, table: str) -> None:
        """Takes out the rows of a table that is measured anew, so that none stays under a name that is gone."""
        self.rows = [row for row in self.rows if (row["section"], row["table"]) != (section, table)]

    def _put(self, row: dict) -> None:
        self.rows.append({"session": len(self.sessions) - 1, **row})
        unfinished = self.path.with_suffix(".new")
        unfinished.write_text(json.dumps({"sessions": self.sessions, "rows": self.rows}, indent=1))
        os.replace(unfinished, self.path)


def missing(tools: dict, needs: list[str]) -> str | None:
    """Why the first of `needs` that is not there could not be fetched."""
    for need in needs:
        if "version" not in tools.get(need, {}):
            return tools.get(need, {}).get("missing", f"{need} was not fetched")
    return None
