"""The files of a folder: which the demo stores, and reading them without being fooled.

Invariants:
    1. A file is read only if it is a regular one at the moment it is opened: no link is followed
       and no pipe is waited for.
    2. A file whose stamp is the same before and after did not change in between: every write moves
       its change time, which no program can set.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import Final

from walkv import limits

LARGEST_FILE_BYTES: Final = 64 * limits.MIB
MOST_FILES: Final = 100_000

_LEFT_OUT: Final = frozenset(
    b".git .hg .svn __pycache__ .venv venv node_modules .tox .nox .eggs "
    b".mypy_cache .ruff_cache .pytest_cache .hypothesis".split()
)
_STORE_NAMES: Final = frozenset((b"LOCK", b"MANIFEST", b"log"))

Stamp = tuple[int, int, int, int]
"""Inode, size, modification time and change time of a file."""


@dataclass(slots=True)
class Listing:
    """The files found in a folder.

    Attributes:
        root: the folder, absolute.
        stamps: by path below the root, in order.
        total_bytes: sizes of those together.
        skipped: path and reason of what was left out although it might have been expected.
    """

    root: bytes
    stamps: dict[bytes, Stamp] = field(default_factory=dict)
    total_bytes: int = 0
    skipped: list[tuple[bytes, str]] = field(default_factory=list)


def list_files(root: bytes, leave_out: bytes) -> Listing:
    """Every regular file below ``root``, but for caches, version control and stores.

    Args:
        leave_out: a directory not to look into, wherever it is.
    Cost: a ``stat`` per file; nothing is read.
    """
    listing = Listing(os.path.abspath(root))
    left_out = os.stat(leave_out)
    waiting = [b""]
    while waiting and len(listing.stamps) < MOST_FILES:
        below = waiting.pop()
        directory = os.path.join(listing.root, below)
        try:
            with os.scandir(directory) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            listing.skipped.append((below, error.strerror or str(error)))
            continue
        if os.path.samestat(os.stat(directory), left_out):
            continue
        if _STORE_NAMES.issubset(entry.name for entry in entries):
            listing.skipped.append((below, "a walkv store"))
            continue
        directories = []
        for entry in entries:
            path = os.path.join(below, entry.name)
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in _LEFT_OUT:
                    directories.append(path)
            elif entry.is_file(follow_symlinks=False):
                _add(listing, path, entry)
        waiting += reversed(directories)
    return listing


def _add(listing: Listing, path: bytes, entry: os.DirEntry[bytes]) -> None:
    if len(listing.stamps) >= MOST_FILES:
        return
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError as error:
        listing.skipped.append((path, error.strerror or str(error)))
        return
    if status.st_size > LARGEST_FILE_BYTES:
        listing.skipped.append((path, _too_large(status.st_size)))
        return
    if not os.access(os.path.join(listing.root, path), os.R_OK):
        listing.skipped.append((path, "Permission denied"))
        return
    listing.stamps[path] = _stamp(status)
    listing.total_bytes += status.st_size


def _too_large(size_bytes: int) -> str:
    return f"{size_bytes:,} bytes, more than {LARGEST_FILE_BYTES:,}"


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def read_file(path: bytes) -> tuple[bytes, Stamp | None]:
    """The bytes of a regular file, and its stamp; None if it changed while it was read.

    Raises:
        OSError: it cannot be read, is no regular file, or has grown too large.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with open(os.open(path, flags), "rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        if not stat.S_ISREG(before.st_mode):
            raise OSError(None, "not a regular file", path)
        if before.st_size > LARGEST_FILE_BYTES:
            raise OSError(None, _too_large(before.st_size), path)
        data = file.read(before.st_size + 1)
        after = os.fstat(file.fileno())
    unchanged = _stamp(before) == _stamp(after) and len(data) == before.st_size
    return data, _stamp(after) if unchanged else None
