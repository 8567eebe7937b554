"""What the numbers were measured on: the machine, and what its disk takes for a sync."""

import os
import platform
import statistics
import time
from pathlib import Path


def describe() -> dict:
    """Cores, memory, processor, kernel, and what else was running (load average) when this was asked."""
    cpu = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "cpu": cpu[0] if cpu else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def sync_latency_us(folder: Path, bytes_each: int = 1024, syncs: int = 500) -> dict:
    """Microseconds of an append of `bytes_each` and its fdatasync in `folder`: p50 and p99, into a growing and a preallocated file."""
    latencies = {}
    for kind in ("growing", "preallocated"):
        file = folder / "sync-latency"
        fd = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        try:
            if kind == "preallocated":
                # Zeros that were written: blocks that are only reserved still change the file's metadata at first use.
                os.write(fd, bytes(bytes_each * syncs))
                os.fsync(fd)
                os.lseek(fd, 0, os.SEEK_SET)
            latencies[kind] = _percentiles([_append_us(fd, bytes_each) for _ in range(syncs)])
        finally:
            os.close(fd)
            file.unlink()
    return latencies


def _append_us(fd: int, bytes_each: int) -> float:
    payload = os.urandom(bytes_each)
    start = time.perf_counter_ns()
    os.write(fd, payload)
    os.fdatasync(fd)
    return (time.perf_counter_ns() - start) / 1000


def _percentiles(values: list[float]) -> dict:
    cuts = statistics.quantiles(values, n=100)
    return {"p50": cuts[49], "p99": cuts[98]}
