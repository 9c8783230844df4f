"""What kind of file system a file is on, from the mount table of Linux."""

from __future__ import annotations

import os
import re

_OCTAL = re.compile(r"\\([0-7]{3})")
"""How the mount table writes blanks in names."""

_NETWORK_TYPES = frozenset(
    ["nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre", "afs"]
    + [f"fuse.{name}" for name in ("sshfs", "glusterfs", "s3fs", "rclone", "gcsfuse")]
)

_IN_PLACE = frozenset(("ext2", "ext3", "ext4", "tmpfs"))
"""Linux file systems that always write where the bytes are. Others may need space for a new version
of them (XFS does if the file was cloned), and a process that puts bytes into a mapping when there
is none left is killed."""

_in_place_devices: dict[int, bool] = {}


def keeps_space(device: int) -> bool:
    """Whether bytes of a file on a device can be set again without further space."""
    known = _in_place_devices.get(device)
    if known is None:
        number = f"{os.major(device)}:{os.minor(device)}"
        kinds = {kind for mounted, _, kind in mounts() if mounted == number}
        known = _in_place_devices[device] = bool(kinds) and kinds <= _IN_PLACE
    return known


def mounts() -> list[tuple[str, str, str]]:
    """Device number, mount point and type of what is mounted, in order; on Linux only."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as table:
            lines = [line.split() for line in table]
    except OSError:
        return []
    points = [_OCTAL.sub(lambda octal: chr(int(octal[1], 8)), fields[4]) for fields in lines]
    kinds = [fields[fields.index("-") + 1] for fields in lines]
    return list(zip([fields[2] for fields in lines], points, kinds, strict=True))


def network_type(path: str) -> str | None:
    """The type of the network file system ``path`` is on, or None; always that but on Linux."""
    real = os.path.realpath(path)
    best, found = "", None
    for _, point, kind in mounts():
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, found = point, kind
    return found if found in _NETWORK_TYPES else None
