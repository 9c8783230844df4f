"""Segments kept after they were settled, to go back in time with and to follow changes from.

A settled segment is in a snapshot, and the store needs it no more. Where the log is kept, it is
renamed instead of removed:

    log/KEEP                                   the setting, as JSON; with it the log is kept
    log/<first sequence, 20 digits>.kept       a settled segment, byte for byte as it was

Invariants:
    1. The setting is the store's: whoever opens it next keeps the log too, and no gap arises.
    2. A kept segment is sealed, and nothing in the store depends on it.
    3. A segment is renamed within its directory, which is atomic: it is there under one name. What
       a crash left under the old one, recovery renames.

Source: PostgreSQL's archive of WAL segments. Copying them elsewhere at once was rejected: it makes
every flush wait for another medium; a backup takes them from here.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Final

from walkv import limits
from walkv.engine import segment
from walkv.engine.vfs import FileSystem, ensure_synced
from walkv.errors import CorruptionError, FormatError

NAME: Final = "KEEP"
SUFFIX: Final = ".kept"

_TEMPORARY: Final = "KEEP.tmp"
_MOST_BYTES: Final = 4096
_LONGEST_SECONDS: Final = 1e9 * 9


@dataclass(frozen=True, slots=True)
class KeepLog:
    """How much of the settled log a store keeps: what both bounds allow.

    Attributes:
        seconds: segments whose last commit is older go.
        max_bytes: the oldest go while all together have more. 0 ends the keeping.
    """

    seconds: float = 7 * 86_400.0
    max_bytes: int = 1 * limits.GIB

    def __post_init__(self) -> None:
        if not self.seconds >= 0:
            raise ValueError(f"seconds must be 0 or more, not {self.seconds}")
        if not self.max_bytes >= 0:
            raise ValueError(f"max_bytes must be 0 or more, not {self.max_bytes}")


ALL: Final = KeepLog(math.inf, 1 << 62)
"""Whatever it takes."""


def kept_name(first_sequence: int) -> str:
    """The name of the kept segment that begins with a sequence."""
    return segment.file_name(first_sequence).removesuffix(segment.SUFFIX) + SUFFIX


def kept_segments(fs: FileSystem, log_directory: str) -> list[int]:
    """First sequences of the kept segments, ascending."""
    found = []
    for name in fs.list(log_directory):
        stem = name.removesuffix(SUFFIX)
        first_sequence = segment.parse_file_name(stem + segment.SUFFIX)
        if stem != name and first_sequence is not None:
            found.append(first_sequence)
    return found


def kept_bytes(fs: FileSystem, log_directory: str) -> int:
    """Their size, all together. Cost: a ``stat`` each."""
    sizes = (_size(fs, log_directory, first) for first in kept_segments(fs, log_directory))
    return sum(sizes)


def _size(fs: FileSystem, log_directory: str, first_sequence: int) -> int:
    try:
        file = fs.open(fs.join(log_directory, kept_name(first_sequence)))
    except FileNotFoundError:
        return 0  # trimmed just now
    try:
        return file.size()
    finally:
        file.close()


def read_setting(fs: FileSystem, log_directory: str) -> KeepLog | None:
    """What the store is set to keep, or None.

    Raises:
        CorruptionError: the setting is there and cannot be read.
    """
    if NAME not in fs.list(log_directory):
        return None
    path = fs.join(log_directory, NAME)
    try:
        fields = json.loads(fs.read_file(path, _MOST_BYTES))
        return KeepLog(float(fields["seconds"]), int(fields["max_bytes"]))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise CorruptionError(
            f"the setting of what is kept of the log cannot be read ({error}); remove this file, "
            "and open the store with keep_log=... to set it again",
            path=path,
        ) from None


def write_setting(fs: FileSystem, log_directory: str, setting: KeepLog) -> None:
    """Set what the store keeps, durably; with ``max_bytes`` 0 nothing, and kept segments go."""
    names = fs.list(log_directory)
    if _TEMPORARY in names:
        fs.unlink(fs.join(log_directory, _TEMPORARY))
    if not setting.max_bytes:
        for first_sequence in kept_segments(fs, log_directory):
            fs.unlink(fs.join(log_directory, kept_name(first_sequence)))
        if NAME in names:
            fs.unlink(fs.join(log_directory, NAME))
        return
    temporary = fs.join(log_directory, _TEMPORARY)
    file = fs.create(temporary)
    try:
        fields = {"seconds": setting.seconds, "max_bytes": setting.max_bytes}
        file.write(json.dumps(fields).encode(), 0)
        ensure_synced(file.sync)
    finally:
        file.close()
    fs.rename(temporary, fs.join(log_directory, NAME))
    ensure_synced(lambda: fs.sync_directory(log_directory))


def keep_segment(fs: FileSystem, log_directory: str, first_sequence: int) -> None:
    """Keep a settled segment."""
    old = fs.join(log_directory, segment.file_name(first_sequence))
    fs.rename(old, fs.join(log_directory, kept_name(first_sequence)))


def trim(fs: FileSystem, log_directory: str, setting: KeepLog, next_created_ns: int) -> None:
    """Remove kept segments that are too old or too many.

    Args:
        next_created_ns: when the first unsettled segment was begun, and so the last kept one ended.
    Cost: a ``stat`` for each of them, and a header of 64 bytes for those that may be too old.
    """
    kept = kept_segments(fs, log_directory)
    sizes = {first: _size(fs, log_directory, first) for first in kept}
    total_bytes = sum(sizes.values())
    oldest_ns = fs.wall_time_ns() - min(setting.seconds, _LONGEST_SECONDS) * 1e9
    for number, first in enumerate(kept):
        last = number + 1 == len(kept)
        ended_ns = next_created_ns if last else _created_ns(fs, log_directory, kept[number + 1])
        if total_bytes <= setting.max_bytes and ended_ns >= oldest_ns:
            return
        fs.unlink(fs.join(log_directory, kept_name(first)))
        total_bytes -= sizes[first]


def _created_ns(fs: FileSystem, log_directory: str, first_sequence: int) -> int:
    """When a kept segment was begun; the clock's highest number if that cannot be read."""
    try:
        file = fs.open(fs.join(log_directory, kept_name(first_sequence)))
    except FileNotFoundError:
        return 1 << 63
    try:
        return segment.peek_header(file).created_ns
    except (CorruptionError, FormatError):
        return 1 << 63
    finally:
        file.close()
