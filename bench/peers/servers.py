"""The servers of peers: each started on a free port of 127.0.0.1 with its data in a folder of its own, and ended by its pid.

Every server syncs before it acknowledges. What else differs from its defaults is what its manual tells whoever measures it.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

READY_SECONDS = 60
END_SECONDS = 60


@dataclass
class Server:
    """A server that answers, and what its clients need to run."""

    port: int
    client: str
    env: dict


class NotStarted(Exception):
    """A server that did not come up; the text names its log."""


@contextmanager
def redis(tool: dict, folder: Path, synced: bool = True) -> Iterator[Server]:
    """Redis with an append-only file, synced before each answer if `synced`; without snapshots and rewrites, which would only disturb."""
    port = free_port()
    settings = {
        "port": port, "bind": "127.0.0.1", "dir": fresh(folder), "save": "", "daemonize": "no", "appendonly": "yes" if synced else "no",
        "appendfsync": "always", "auto-aof-rewrite-percentage": 0,
    }
    command = [tool["path"]] + [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
    with running(command, port, folder, tool["env"]):
        yield Server(port, tool["companion"], tool["env"])


@contextmanager
def postgres(tool: dict, folder: Path, settings: dict | None = None) -> Iterator[Server]:
    """PostgreSQL with a user and a database `bench`. It refuses to be root, so root runs it in a namespace where root is user 1000."""
    port = free_port()
    fresh(folder)
    data = folder / "data"
    other_user = ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []
    initdb = Path(tool["path"]).with_name("initdb")
    env = {**tool["env"], "LC_ALL": "C"}
    made = subprocess.run(
        [*other_user, initdb, "-D", data, "-U", "bench", "-A", "trust", "-E", "UTF8", "--no-locale"],
        env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    if made.returncode != 0:
        raise NotStarted(f"initdb: {made.stdout.strip().splitlines()[-1]}")
    settings = {
        "port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "shared_buffers": "1GB", "max_wal_size": "4GB",
        "max_connections": 100, "TimeZone": "UTC", **(settings or {}),
    }
    command = [*other_user, tool["path"], "-D", data] + [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with running(command, port, folder, env):
        client = {**env, "PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "bench", "PGDATABASE": "postgres"}
        psql(tool, client, "SELECT 1", patience=READY_SECONDS)
        yield Server(port, tool["companion"], client)


@contextmanager
def nats(tool: dict, folder: Path, synced: bool = True) -> Iterator[Server]:
    """NATS with JetStream; `synced`: each message is synced before it is acknowledged."""
    port = free_port()
    fresh(folder)
    interval = "always" if synced else "2m"
    (folder / "nats.conf").write_text(
        f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{folder}/data", sync_interval: {interval}, max_file: 20GB }}\n'
    )
    with running([tool["path"], "-c", folder / "nats.conf"], port, folder, {}):
        yield Server(port, "", {})


def psql(tool: dict, client: dict, statement: str, patience: float = 0, stdin=None) -> str:
    """What `psql` says to `statement`; tried again for `patience` seconds while the server is not up."""
    command = [Path(tool["companion"]).with_name("psql"), "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", statement]
    end = time.monotonic() + patience
    while True:
        said = subprocess.run(command, env={**os.environ, **client}, stdin=stdin, capture_output=True, text=True)
        if said.returncode == 0:
            return said.stdout
        if time.monotonic() >= end:
            raise NotStarted(f"psql: {said.stderr.strip()}")
        time.sleep(0.2)


@contextmanager
def running(command: list, port: int, folder: Path, env: dict) -> Iterator[None]:
    """Keeps `command` running until its port accepts, through the block, and then ends it; its log is in `folder`."""
    log = folder / "server.log"
    with log.open("ab") as output:
        server = subprocess.Popen(
            [str(word) for word in command], env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder
        )
    try:
        await_port(server, port, log)
        yield
    finally:
        server.send_signal(signal.SIGINT)  # which all three take as: now, and in order
        try:
            server.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def await_port(server: subprocess.Popen, port: int, log: Path) -> None:
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            raise NotStarted(f"it ended with {server.returncode} at its start; see {log}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise NotStarted(f"nothing listens on 127.0.0.1:{port} after {READY_SECONDS} s; see {log}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
