"""One command, measured from outside: wall time, processor time, peak memory of it and all it starts."""

import os
import subprocess
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.05


class CommandFailed(Exception):
    """A command that was measured and ended badly; the text has the end of what it said."""


@dataclass
class Measured:
    """What a command took. `peak_rss_bytes` is the sum of each process's own peak: exact for one process, an upper bound for several."""

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
        peaks: dict[int, int] = {}
        ended = threading.Event()
        watcher = threading.Thread(target=_watch, args=(child.pid, peaks, ended))
        watcher.start()
        try:
            _, status, usage = os.wait4(child.pid, 0)
            seconds = time.perf_counter() - start
        finally:
            ended.set()
            watcher.join()
    code = os.waitstatus_to_exitcode(status)
    child.returncode = code
    if code != 0:
        said = log.read_text(errors="replace").strip().splitlines()[-5:]
        raise CommandFailed(f"{Path(str(command[0])).name} ended with {code}: {' | '.join(said)} ({log})")
    return Measured(seconds, usage.ru_utime + usage.ru_stime, sum(peaks.values()))


def warm(files: list[Path]) -> None:
    """Reads `files` once, so that every command finds them in the page cache."""
    for file in files:
        with file.open("rb") as source:
            while source.read(1 << 22):
                pass


def _watch(session: int, peaks: dict[int, int], ended: threading.Event) -> None:
    while not ended.is_set():
        for process in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.getsid(int(process)) == session:
                    peaks[int(process)] = _peak_rss_bytes(process)
            except (OSError, StopIteration):
                continue  # it has ended
        ended.wait(SAMPLE_SECONDS)


def _peak_rss_bytes(process: str) -> int:
    """VmHWM: the peak since the program began, which only grows, so that no spike between two samples is missed."""
    lines = Path("/proc", process, "status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
