"""Brings the peers below one folder: Python packages, Debian packages unpacked without being installed, a server in Go.

    python3 fetch.py FOLDER [--only PACKAGE…]

Python packages go into `FOLDER/venv`, Debian packages into `FOLDER/root`, Go programs into `FOLDER/bin`. What is installed on the machine
is taken from there. `FOLDER/tools.json` says what there is, in which version, and why the rest could not be had: nothing here fails
because a peer is missing. This file knows the standard library alone, as it makes the venv in which the others run.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
NATS_SERVER = "github.com/nats-io/nats-server/v2@v2.15.2"
# Package, and the libraries it needs that a machine may lack.
REDIS = ["redis-server", "redis-tools", "libjemalloc2", "liblzf1", "libatomic1"]
POSTGRES = ["postgresql-15", "postgresql-client-15", "libpq5"]


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("folder", type=Path)
    flags.add_argument("--only", nargs="*", help="Python packages; nothing else is fetched then")
    args = flags.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    folder = args.folder.resolve()
    tools = python_packages(folder, args.only)
    if args.only is None:
        tools |= {
            "redis": unpacked(folder, "redis-server", REDIS, "redis-benchmark"),
            "postgres": unpacked(folder, "postgres", POSTGRES, "pgbench"),
            "nats-server": from_go(folder, "nats-server", NATS_SERVER),
            "java": installed("java", "-version"),
        }
    (folder / "tools.json").write_text(json.dumps(tools, indent=1))
    for name, tool in tools.items():
        print(f"{name:12} {tool.get('version') or 'missing: ' + tool['missing']}")


def python_packages(folder: Path, only: list[str] | None) -> dict:
    """Installs the pinned packages one by one, so that one that cannot be had keeps none of the others away."""
    python = folder / "venv/bin/python"
    wanted = [line.split("==") for line in (HERE / "requirements.txt").read_text().split()]
    wanted = [(name, version) for name, version in wanted if only is None or name in only]
    tools = {}
    if not python.exists():
        try:
            call([sys.executable, "-m", "venv", folder / "venv"])
        except Missing as error:
            return {name: {"missing": str(error)} for name, _ in wanted}
    for name, version in wanted:
        show = "import importlib.metadata as m, sys; sys.exit(m.version(sys.argv[1]) != sys.argv[2])"
        there = subprocess.run([python, "-c", show, name, version], stderr=subprocess.DEVNULL).returncode == 0
        try:
            if not there:
                call([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{name}=={version}"])
            tools[name] = {"version": version}
        except Missing as error:
            tools[name] = {"missing": str(error)}
    return tools


def unpacked(folder: Path, program: str, packages: list[str], companion: str) -> dict:
    """`program` and its `companion` from this machine, or from Debian packages unpacked below `folder`."""
    root = folder / "root"
    libraries = root / "usr/lib/x86_64-linux-gnu"
    try:
        if not (find(program, root) and find(companion, root)):
            if not shutil.which("apt-get"):
                raise Missing(f"{program} is not installed and there is no apt-get")
            debs = folder / "debs"
            debs.mkdir(exist_ok=True)
            try:
                call(["apt-get", "download", *packages], cwd=debs)
            except Missing as error:
                raise Missing(f"{error}; after `apt-get update` it may be found") from error
            for package in packages:
                for deb in debs.glob(f"{package}_*.deb"):
                    call(["dpkg", "-x", deb, root])
        found = find(program, root)
        if found is None:
            raise Missing(f"{program} is in none of {', '.join(packages)}")
        env = {"LD_LIBRARY_PATH": str(libraries)} if root in found.parents else {}
        return {"path": str(found), "companion": str(find(companion, root)), "env": env, "version": version(found, "--version", env)}
    except Missing as error:
        return {"missing": str(error)}


def find(program: str, root: Path) -> Path | None:
    """Where `program` is: where Debian keeps PostgreSQL's, whose names on the path are wrappers, on the path, or below `root`."""
    folders = [*Path("/usr/lib/postgresql").glob("*/bin"), *os.get_exec_path(), root / "usr/bin", *root.glob("usr/lib/postgresql/*/bin")]
    programs = (Path(folder, program) for folder in folders)
    return next((path for path in programs if path.is_file() and os.access(path, os.X_OK)), None)


def from_go(folder: Path, program: str, module: str) -> dict:
    """`program` built from a pinned Go module."""
    built = folder / "bin" / program
    try:
        if not built.exists():
            if not shutil.which("go"):
                raise Missing("there is no Go toolchain to build it with")
            call(["go", "install", module], cwd=folder, env={**os.environ, "GOBIN": str(built.parent)})
        return {"path": str(built), "version": version(built, "--version", {})}
    except Missing as error:
        return {"missing": str(error)}


def installed(program: str, flag: str) -> dict:
    """`program` of this machine, which is too large to be fetched."""
    found = shutil.which(program)
    return {"path": found, "version": version(Path(found), flag, {})} if found else {"missing": f"there is no {program}"}


class Missing(Exception):
    """Why a tool cannot be had."""


def call(command: list, **how) -> None:
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **how)
    if done.returncode != 0:
        last = (done.stdout.strip().splitlines() or ["no word why"])[-1]
        raise Missing(f"{command[0]} … ended with {done.returncode}: {last}")


def version(program: Path, flag: str, env: dict) -> str:
    said = subprocess.run([program, flag], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **env}).stdout
    number = re.search(r"\d+(\.\d+)+", said)
    if number is None:
        raise Missing(f"{program} does not run: {said.strip()[:200]}")
    return number.group()


if __name__ == "__main__":
    main()
