"""A store at one moment, written anew as another store: under the same key, another one, or none.

Invariants:
    1. A copy is a moment of its source: the entries of a prefix of the commits, each with its
       expiry, and what is to be kept of the log. It is a store of its own, and counts its sequences
       from 1.
    2. It is durable, and was read again, before it gets a name that anyone looks at.
    3. It is under the key that was asked for, and under none if that was none, whatever is in the
       environment.

Source: copying the files of an open store was rejected: log and snapshots change hands while they
are copied, whoever copies would have to know all about it, and they are bound to the data keys.
What is to be the same store, with its sequences, is a backup's.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from walkv import limits
from walkv.engine import files, keep
from walkv.engine.core import Engine
from walkv.engine.follower import Follower
from walkv.engine.inspect import Progress
from walkv.engine.keyring import Key, Keyring, Secret
from walkv.engine.opening import DEFAULT_SLOW_SECONDS, given_secret, open_engine
from walkv.engine.policies import WriteBack
from walkv.engine.store import open as open_store
from walkv.engine.vfs import OsFileSystem
from walkv.errors import CorruptionError
from walkv.ops.keys import engine_of
from walkv.ops.placing import building

log = logging.getLogger("walkv")

_BATCH_BYTES: Final = 1 * limits.MIB
_BATCH_OPERATIONS: Final = 4096
_MEMTABLE_BYTES: Final = 16 * limits.MIB
_CACHE_BYTES: Final = 1 * limits.MIB


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What a copy holds.

    Attributes:
        path: the new store.
        sequence: the last operation of the source that is in it.
        entry_count: its entries.
        encrypted: it is under a key.
        size_bytes: of its files.
        elapsed_seconds: time that it took.
    """

    path: str
    sequence: int
    entry_count: int
    encrypted: bool
    size_bytes: int
    elapsed_seconds: float


def copy(
    source: Any,
    target: str | os.PathLike[str],
    *,
    key: Key | None = None,
    new_key: Key | None = None,
    plain: bool = False,
    progress: Progress | None = None,
) -> CopyReport:
    """Copy what is in a store into a new one, while anybody writes to it.

    That is how a store is encrypted that is not, how one is decrypted, and how one is written
    without anything that was deleted. The copy keeps its log if the source does, and begins with an
    empty one; its sequences are others, so it cannot follow the source in the same backups.

    Args:
        source: its path; or a store or an agent's store that is open.
        target: the path of the new store; there is nothing yet, or an empty directory.
        key: of the source, if it is a path and encrypted; by default ``WALKV_KEY``.
        new_key: of the copy; by default it has that of the source, or none if that has none.
        plain: the copy is not encrypted, whatever the source is.
        progress: called with entries done and about how many there are to do, each once to write
            it and once to read it again; what it raises ends the copy.
    Raises:
        FileNotFoundError: there is no store.
        FileExistsError: there is something at the target.
        LockedError: somebody else is copying to it.
        EncryptionError: the key does not fit the source, or ``new_key`` is none.
        CorruptionError: the source is damaged, or the copy does not hold what was written to it.
        ClosedError: the source was closed meanwhile.
        ValueError: ``new_key`` and ``plain``.
        OSError, StoreFailedError: the copy cannot be written. Whatever is raised, there is nothing
            at the target.
    Cost: reads the source and writes the copy, then reads the copy. Memory: some batches, and what
        the source keeps for a view.
    Durability: the copy is durable when this returns.
    """
    if plain and new_key is not None:
        raise ValueError("give new_key or plain, not both")
    began = time.monotonic()
    wanted = None if new_key is None else given_secret(new_key)
    final = os.path.abspath(os.fsdecode(target))
    with _reading(source, key) as engine:
        if os.path.realpath(final).startswith(os.path.realpath(engine.path) + os.sep):
            raise OSError(errno.EINVAL, "a copy cannot be inside of the store itself", final)
        if wanted is None and not plain:
            wanted = engine.catalog.keyring.secret
        with building(final, "copying") as built:
            copied = copy_store(engine, built, wanted, progress)
            size_bytes = _size(built)
    return CopyReport(
        path=final,
        sequence=copied.sequence,
        entry_count=copied.entry_count,
        encrypted=wanted is not None,
        size_bytes=size_bytes,
        elapsed_seconds=time.monotonic() - began,
    )


@contextmanager
def _reading(source: Any, key: Key | None) -> Iterator[Engine | Follower]:
    engine = engine_of(source)
    if engine is not None:
        yield engine
        return
    with open_store(source, read_only=True, cache_bytes=_CACHE_BYTES, key=key) as store:
        yield store.engine


class Copied(NamedTuple):
    """What a copy holds.

    Attributes:
        sequence: the last operation of the source that is in it.
    """

    entry_count: int
    sequence: int


def copy_store(
    source: Engine | Follower,
    target: str,
    secret: Secret | None,
    progress: Progress | None = None,
) -> Copied:
    """As ``copy``, into a directory that nobody looks at yet.

    Args:
        secret: opens the copy; None for one that is not encrypted.
    Raises:
        As ``copy``. Whatever is raised, ``target`` may be there in part.
    """
    point = source.pin()
    try:
        told = _Told(progress, _entry_count(point))
        fs = OsFileSystem()
        made = open_engine(
            target,
            policy=WriteBack(),
            create=True,
            memtable_bytes=_MEMTABLE_BYTES,
            cache_bytes=_CACHE_BYTES,
            keep_log=None,
            min_free_bytes=limits.DEFAULT_MIN_FREE_BYTES,
            slow_seconds=DEFAULT_SLOW_SECONDS,
            fs=fs,
            keyring=Keyring(secret, fs.random_bytes),
        )
        try:
            lasting_count = _write(source, point, made, told)
        finally:
            made.close()
        # After that, so that the log of the copying is not kept.
        _keep_log(source, fs, target)
        return Copied(_check(target, lasting_count, secret, told), point.sequence)
    finally:
        point.release()


class _Told:
    """Tells how far a copy has come: each entry is written, and then read."""

    def __init__(self, progress: Progress | None, entry_count: int) -> None:
        self._progress = progress
        self._total = 2 * entry_count
        self._done = 0

    def more(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            # What newer entries replace is among those that were expected.
            self._progress(min(self._done, self._total), self._total)


def _entry_count(point: Any) -> int:
    sources = point.sources
    memtables = [sources.memtable, *(frozen.memtable for frozen in sources.frozen)]
    settled = sum(snapshot.summary.entry_count for snapshot in sources.snapshots)
    return int(settled + sum(map(len, memtables)))


def _write(source: Any, point: Any, target: Any, told: _Told) -> int:
    """Write the entries of a read point; returns how many of them never expire."""
    operations: list[Any] = []
    count = size_bytes = 0
    # Of the engine, since the public faces do not tell when an entry expires.
    for keys, items, _ in point.chunks(b"", None):
        source.check()
        told.more(len(keys))
        now_ms = source.now_ms()
        for key, item in zip(keys, items, strict=True):
            if item is None or (type(item) is list and item[0] <= now_ms):
                continue
            value = item[1] if type(item) is list else item
            entry_bytes = len(key) + len(value)
            full = len(operations) >= 2 * _BATCH_OPERATIONS
            if operations and (full or size_bytes + entry_bytes > _BATCH_BYTES):
                target.commit(operations, None)
                operations, size_bytes = [], 0
            operations += (key, item)
            size_bytes += entry_bytes
            count += value is item
    if operations:
        target.commit(operations, None)
    return count


def _keep_log(source: Engine | Follower, fs: OsFileSystem, target: str) -> None:
    try:
        setting = keep.read_setting(source.fs, source.fs.join(source.path, files.LOG_DIRECTORY))
    except CorruptionError as error:
        log.warning("walkv: %s: the copy does not keep its log: %s", target, error)
        return
    if setting is not None:
        keep.write_setting(fs, fs.join(target, files.LOG_DIRECTORY), setting)


def _check(path: str, lasting_count: int, secret: Secret | None, told: _Told) -> int:
    """Read a copy again; returns how many entries it has."""
    check_store(path, secret)
    found = expiring_count = 0
    with open_store(path, read_only=True, cache_bytes=_CACHE_BYTES, key=secret) as copy:
        point = copy.engine.pin()
        try:
            for keys, items, _ in point.chunks(b"", None):
                told.more(len(keys))
                found += sum(type(item) is bytes for item in items)
                expiring_count += sum(type(item) is list for item in items)
        finally:
            point.release()
    # Those that expire are not held against anything: the copy may have dropped some already.
    if found != lasting_count:
        raise CorruptionError(
            "the copy does not hold what was written to it",
            path=path,
            expected=lasting_count,
            found=found,
        )
    return found + expiring_count


def check_store(path: str, key: Key | None = None) -> None:
    """Read every byte of a store that nobody writes to.

    Raises:
        CorruptionError, FormatError: it is damaged.
        EncryptionError: this is not its key.
    """
    with open_store(path, read_only=True, cache_bytes=_CACHE_BYTES, key=key) as store:
        for problem in store.verify().problems:
            raise problem


def _size(path: str) -> int:
    inside = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]
    return sum(os.path.getsize(each) for each in inside)
