"""Merganser's own commands, and what its load test has measured."""

import json
import os
import subprocess
from pathlib import Path

import measure

REPO = Path(__file__).resolve().parents[2]


class NotBuilt(Exception):
    """A binary that is not there; the text says which and what makes it."""


class Store:
    """A store of the batch layer below `folder`, with no server beside it: history comes in by import alone."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "views").mkdir(parents=True, exist_ok=True)
        (folder / "spill").mkdir(exist_ok=True)
        definition = REPO / "views/user_stats.sql"
        (folder / "views" / definition.name).write_text(definition.read_text())
        # Whatever this shell has set, MERGANSER_BIN_DIR included, is no setting of the runs that are measured.
        self.env = dict.fromkeys(name for name in os.environ if name.startswith("MERGANSER_")) | {
            "MERGANSER_STORE__URL": str(folder / "store"),
            "MERGANSER_LOG__DIR": str(folder / "log"),
            "MERGANSER_VIEWS__DIR": str(folder / "views"),
            "MERGANSER_BATCH_LAYER__SPEED_LAYER": "",
            "MERGANSER_BATCH_LAYER__SPILL_DIR": str(folder / "spill"),
        }

    def batch_layer(self, *arguments) -> measure.Measured:
        """Runs `batch-layer` with `arguments`; its output is in `<first argument>.log`."""
        # In a folder without merganser.toml, so that the defaults hold.
        return measure.run([program("batch-layer"), *arguments], self.folder / f"{arguments[0]}.log", env=self.env, cwd=self.folder)

    def imported(self) -> list[Path]:
        """The files of the master dataset."""
        return sorted(self.folder.glob("store/master/imports/*/*.parquet"))

    def newest_view(self) -> list[Path]:
        """The files of the newest version of user_stats."""
        manifest = json.loads(max(self.folder.glob("store/views/user_stats/manifests/*.json")).read_text())
        return [self.folder / "store" / file["path"] for file in manifest["files"]]


def program(name: str) -> Path:
    """A binary: below MERGANSER_BIN_DIR, or of the release build."""
    default = Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target")) / "release"
    found = Path(os.environ.get("MERGANSER_BIN_DIR", default), name).resolve()
    if not found.is_file():
        raise NotBuilt(f"{found} is not there; `cargo build --release --workspace --bins` makes it")
    return found


def version() -> str:
    """Of the binaries, and the commit of this folder, with a + if it has changes."""
    said = subprocess.run([program("batch-layer"), "--version"], capture_output=True, text=True, cwd="/").stdout.split()
    commit = subprocess.run(["git", "describe", "--always", "--dirty=+", "--exclude=*"], capture_output=True, text=True, cwd=REPO).stdout.strip()
    return " ".join([*said[1:2], commit])


# What the load test calls the rows that stand beside the peers' of a section.
_LOAD_TEST_ROWS = {"ingest": "append", "reads": "get, per bucket"}


def load_test(section: str) -> tuple[list[tuple[str, dict]], str]:
    """What `make load-test` has measured of `section`, `ingest` or `reads`: a case and its run each; and how it was measured.

    Raises LookupError, saying what to do, where its report is not there or has no such rows.
    """
    report = Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target")) / "load-test/report.json"
    if not report.is_file():
        raise LookupError("there is no target/load-test/report.json; `make load-test` writes it")
    known = json.loads(report.read_text())
    wanted = _LOAD_TEST_ROWS[section]
    runs = []
    for row in known.get("rows", []):
        if row.get("what") == wanted and not row["figures"].get("errors"):
            figures = row["figures"]
            runs.append((row["load"], {"value": figures["items_per_second"], "p50_us": figures["p50_us"], "p99_us": figures["p99_us"]}))
    if not runs:
        raise LookupError(f"target/load-test/report.json has no rows of `{wanted}`")
    return runs, "; ".join(f"{name}: {value}" for name, value in known.get("environment", []))
