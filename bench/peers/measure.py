"""One command, measured from outside: wall time, processor time, peak memory of it and all it starts."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.05
# What a command leaves running, as Spark does its Java, has so long to end by itself.
LEFT_SECONDS = 10


class CommandFailed(Exception):
    """A command that was measured and ended badly; the text has the end of what it said."""


@dataclass
class Measured:
    """What a command took, with all that it started.

    `peak_rss_bytes` is the sum of each process's own peak: exact for one process, an upper bound for several.
    """

    seconds: float
    cpu_seconds: float
    peak_rss_bytes: int

    def row(self) -> dict:
        return {"value": self.seconds, **asdict(self)}


def run(command: list, log: Path, env: dict | None = None, cwd: Path | None = None) -> Measured:
    """Runs `command` to its end with its output in the file `log`, in this environment changed by `env`, where None takes a name out.

    Raises CommandFailed if it does not end with 0.
    """
    environment = {name: value for name, value in {**os.environ, **(env or {})}.items() if value is not None}
    with log.open("wb") as output:
        os.sync()  # what others left to be written is not this command's
        start = time.perf_counter()
        # A session of its own: its processes are found by it, whatever their parents.
        child = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env=environment, cwd=cwd, start_new_session=True,
        )
        seen: dict[int, Usage] = {}
        ended = threading.Event()
        watcher = threading.Thread(target=_watch, args=(child.pid, seen, ended))
        watcher.start()
        try:
            _, status, usage = os.wait4(child.pid, 0)
            seconds = time.perf_counter() - start
        finally:
            ended.set()
            watcher.join()
            _end_session(child.pid)
    code = os.waitstatus_to_exitcode(status)
    child.returncode = code
    if code != 0:
        said = log.read_text(errors="replace").strip().splitlines()[-5:]
        raise CommandFailed(f"{Path(str(command[0])).name} ended with {code}: {' | '.join(said)} ({log})")
    # What was waited for is known exactly; what was left running only by what was last seen of it.
    cpu_seconds = max(usage.ru_utime + usage.ru_stime, sum(process.cpu_seconds for process in seen.values()))
    return Measured(seconds, cpu_seconds, sum(process.peak_rss_bytes for process in seen.values()))


def warm(files: list[Path]) -> None:
    """Reads `files` once, so that every command finds them in the page cache."""
    for file in files:
        with file.open("rb") as source:
            while source.read(1 << 22):
                pass


@dataclass
class Usage:
    """What one process had taken when it was last looked at."""

    cpu_seconds: float
    peak_rss_bytes: int


def _watch(session: int, seen: dict[int, Usage], ended: threading.Event) -> None:
    while not ended.is_set():
        for process in _session(session):
            try:
                seen[process] = _usage(process)
            except (OSError, StopIteration):
                continue  # it has ended
        ended.wait(SAMPLE_SECONDS)


def _session(session: int) -> list[int]:
    """The processes of a session."""
    def of_session(process: int) -> bool:
        try:
            return os.getsid(process) == session
        except OSError:
            return False

    return [int(name) for name in os.listdir("/proc") if name.isdigit() and of_session(int(name))]


def _usage(process: int) -> Usage:
    """Processor time, and VmHWM: the peak since the program began, which only grows, so that no spike between two looks is missed."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    peak_kib = int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), 1024 * peak_kib)


def _end_session(session: int) -> None:
    """Waits until nothing is left of a command, so that it takes nothing from the next; what stays is ended."""
    end = time.monotonic() + LEFT_SECONDS
    while left := _session(session):
        if time.monotonic() > end:
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            return
        time.sleep(SAMPLE_SECONDS)
