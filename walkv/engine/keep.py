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
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from walkv import limits
from walkv.engine import segment
from walkv.engine.vfs import FileSystem, ensure_synced
from walkv.errors import CorruptionError, FormatError

NAME: Final = "KEEP"
SUFFIX: Final = ".kept"

TEMPORARY_NAME: Final = "KEEP.tmp"
_MOST_BYTES: Final = 4096
_LONGEST_SECONDS: Final = 9e9
_NEVER_NS: Final = 1 << 63


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
        if type(self.max_bytes) is not int or self.max_bytes < 0:
            raise ValueError(f"max_bytes must be 0 or more, and an int, not {self.max_bytes!r}")


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


def settled_segments(fs: FileSystem, log_directory: str, before: int) -> list[int]:
    """First sequences of what there is before the first unsettled segment, ascending: kept, or
    settled just now and still to be renamed."""
    names = {segment.file_name(first) for first in kept_segments(fs, log_directory)}
    names.update(fs.list(log_directory))
    found = (segment.parse_file_name(name) for name in sorted(names))
    return [first for first in found if first is not None and first < before]


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
    if TEMPORARY_NAME in names:
        fs.unlink(fs.join(log_directory, TEMPORARY_NAME))
    if not setting.max_bytes:
        for first_sequence in kept_segments(fs, log_directory):
            fs.unlink(fs.join(log_directory, kept_name(first_sequence)))
        if NAME in names:
            fs.unlink(fs.join(log_directory, NAME))
        return
    temporary = fs.join(log_directory, TEMPORARY_NAME)
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


class KeptLog:
    """The kept segments of an open store. One thread at a time changes it; any may ask.

    Attributes:
        setting: how much is kept.
        sizes: bytes of each kept segment, by its first sequence, ascending. Replaced, never
            changed.
    """

    def __init__(self, fs: FileSystem, log_directory: str, setting: KeepLog) -> None:
        """Cost: a ``stat`` for each kept segment."""
        self._fs = fs
        self._inside = log_directory
        self.setting = setting
        self.sizes = {first: self._size(first) for first in kept_segments(fs, log_directory)}

    def _size(self, first_sequence: int) -> int:
        try:
            file = self._fs.open(self._fs.join(self._inside, kept_name(first_sequence)))
        except OSError:
            return 0  # gone, or not to be read: nothing depends on it
        try:
            return file.size()
        finally:
            file.close()

    def take_in(self, unsettled_first: int) -> None:
        """Keep every segment before the first unsettled one, and let go of what is too much.

        Raises:
            OSError, CorruptionError, FormatError: some were not kept; the next time, then.
        """
        for name in self._fs.list(self._inside):
            first = segment.parse_file_name(name)
            if first is not None and first < unsettled_first:
                keep_segment(self._fs, self._inside, first)
                self.sizes = {**self.sizes, first: self._size(first)}
        self._trim(unsettled_first)

    def _trim(self, unsettled_first: int) -> None:
        sizes = dict(sorted(self.sizes.items()))
        if not sizes:
            return
        total_bytes = sum(sizes.values())
        oldest_ns = self._fs.wall_time_ns() - min(self.setting.seconds, _LONGEST_SECONDS) * 1e9
        for first, next_first in pairwise([*sizes, unsettled_first]):
            # A segment ended, at the latest, when the next one was begun.
            if total_bytes <= self.setting.max_bytes and self._created_ns(next_first) >= oldest_ns:
                break
            with suppress(FileNotFoundError):  # somebody has removed it
                self._fs.unlink(self._fs.join(self._inside, kept_name(first)))
            total_bytes -= sizes.pop(first)
        self.sizes = sizes

    def _created_ns(self, first_sequence: int) -> int:
        """When a segment was begun; never, if that cannot be read."""
        name = kept_name if first_sequence in self.sizes else segment.file_name
        try:
            file = self._fs.open(self._fs.join(self._inside, name(first_sequence)))
        except OSError:
            return _NEVER_NS
        try:
            return segment.peek_header(file).created_ns
        except (CorruptionError, FormatError):
            return _NEVER_NS
        finally:
            file.close()
