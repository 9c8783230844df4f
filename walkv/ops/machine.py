"""What the machine says of itself: its memory. Read from Linux's ``/proc``.

Elsewhere the functions say None, and whoever asks says less.
"""

from __future__ import annotations


def available_memory_bytes() -> int | None:
    """What new allocations may take: of the machine, or of the control group, if that is less."""
    found = []
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    limit, used = _number("/sys/fs/cgroup/memory.max"), _number("/sys/fs/cgroup/memory.current")
    if limit is not None and used is not None:
        found.append(max(limit - used, 0))
    return min(found, default=None)


def resident_bytes(pid: int) -> int | None:
    """Memory of a process that is in RAM; None if that cannot be read, or there is none."""
    for line in _lines(f"/proc/{pid}/status"):
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return None


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readlines()
    except OSError:
        return []


def _number(path: str) -> int | None:
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None
