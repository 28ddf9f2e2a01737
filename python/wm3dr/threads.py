"""How many threads this process may really use."""

import math
import os
from pathlib import Path


def usable_threads(root: Path = Path("/")) -> int:
    """Return the number of CPUs that affinity and cgroup quota leave to this process, at least 1.

    Containers often show every CPU of the host and allow the time of two; pools sized by `os.cpu_count()` then
    stall each other. Reads cgroup v2 (`cpu.max`) and v1 (`cpu.cfs_quota_us`), from the group of the process up to
    the root, and takes the smallest.

    Parameters
    ----------
    root : Path
        Where `proc` and `sys` are found; tests pass their own.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *(math.ceil(quota) for quota in _cgroup_quotas(root))]))


def check_threads(threads: int | None) -> int:
    """Return `threads`, or the usable number for None; TypeError or ValueError for anything but an int >= 1."""
    if threads is None:
        return usable_threads()
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise TypeError(f"'threads' must be an int or None, not {type(threads).__name__}")
    if threads < 1:
        raise ValueError(f"'threads' must be at least 1, not {threads}")
    return threads


def _cgroup_quotas(root: Path) -> list[float]:
    """Return the CPU quotas (in CPUs) that apply to this process; empty where there is none."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    quotas = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            bases = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        elif "cpu" in controllers.split(","):
            bases = [root / "sys/fs/cgroup/cpu", root / "sys/fs/cgroup/cpu,cpuacct"]
        else:
            continue
        folder = Path(group.lstrip("/"))
        for base in bases:
            for level in [folder, *folder.parents]:
                quota = _quota_v2(base / level) if controllers == "" else _quota_v1(base / level)
                if quota is not None:
                    quotas.append(quota)
    return quotas


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 and period > 0 else None
