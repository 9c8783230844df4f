"""What the machine says of itself: mounts, memory, limits. Read from Linux's ``/proc``.

Elsewhere the functions say None, and whoever asks says less.
"""

from __future__ import annotations

import os
import re
from typing import Final, NamedTuple

_OCTAL: Final = re.compile(r"\\([0-7]{3})")
"""How the mount table writes blanks in names."""

MEMORY_KINDS: Final = frozenset(("tmpfs", "ramfs"))


class Mount(NamedTuple):
    """A mounted file system.

    Attributes:
        point: the directory that it is mounted at.
        kind: ``ext4`` and the like.
        source: the device, or what stands for it.
        options: of the mount and of the file system.
    """

    point: str
    kind: str
    source: str
    options: tuple[str, ...]


def mount_of(path: str) -> Mount | None:
    """The mount that a path is on; None where there is no mount table."""
    real = os.path.realpath(path)
    best: Mount | None = None
    for mount in _mounts():
        inside = real == mount.point or real.startswith(mount.point.rstrip("/") + "/")
        if inside and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def _mounts() -> list[Mount]:
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
            return [_mount(line.split()) for line in table]
    except OSError:
        return []


def _mount(fields: list[str]) -> Mount:
    kind, source, options = fields[fields.index("-") + 1 :][:3]
    point = _OCTAL.sub(lambda octal: chr(int(octal[1], 8)), fields[4])
    named = dict.fromkeys((*fields[5].split(","), *options.split(",")))
    return Mount(point, kind, source, tuple(named))


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
