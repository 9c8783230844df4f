"""What kind of file system a file is on, from the mount table of Linux."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

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


class Mount(NamedTuple):
    """A mounted file system.

    Attributes:
        device: its number, ``8:1`` and the like.
        point: the directory that it is mounted at.
        kind: ``ext4`` and the like.
        source: the device, or what stands for it.
        options: of the mount and of the file system.
    """

    device: str
    point: str
    kind: str
    source: str
    options: tuple[str, ...]

    @property
    def in_memory(self) -> bool:
        """Whether it has no medium, so that syncs cost nothing and nothing survives."""
        return self.kind in ("tmpfs", "ramfs")


def mounts() -> list[Mount]:
    """What is mounted, in order; on Linux only."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
            return [_mount(line.split()) for line in table]
    except OSError:
        return []


def _mount(fields: list[str]) -> Mount:
    kind, source, options = fields[fields.index("-") + 1 :][:3]
    point = _OCTAL.sub(lambda octal: chr(int(octal[1], 8)), fields[4])
    named = dict.fromkeys((*fields[5].split(","), *options.split(",")))
    return Mount(fields[2], point, kind, source, tuple(named))


def mount_of(path: str) -> Mount | None:
    """The mount that a path is on; None where there is no mount table."""
    real = os.path.realpath(path)
    best: Mount | None = None
    for mount in mounts():
        inside = real == mount.point or real.startswith(mount.point.rstrip("/") + "/")
        if inside and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def keeps_space(device: int) -> bool:
    """Whether bytes of a file on a device can be set again without further space."""
    known = _in_place_devices.get(device)
    if known is None:
        number = f"{os.major(device)}:{os.minor(device)}"
        kinds = {mount.kind for mount in mounts() if mount.device == number}
        known = _in_place_devices[device] = bool(kinds) and kinds <= _IN_PLACE
    return known


def network_type(path: str) -> str | None:
    """The type of the network file system ``path`` is on, or None; always that but on Linux."""
    mount = mount_of(path)
    return mount.kind if mount is not None and mount.kind in _NETWORK_TYPES else None
