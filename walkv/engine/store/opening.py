"""``open`` and ``aopen``: the two doors."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from walkv import limits
from walkv.engine.keep import KeepLog
from walkv.engine.keyring import Key
from walkv.engine.opening import DEFAULT_SLOW_SECONDS, start_engine
from walkv.engine.policies import SyncPolicy, Wal
from walkv.engine.store.aio import AsyncStore
from walkv.engine.store.sync import Store
from walkv.engine.vfs import FileSystem


def open(
    path: Any,
    *,
    sync: SyncPolicy = Wal(),  # noqa: B008  # immutable
    read_only: bool = False,
    create: bool = True,
    memtable_bytes: int = limits.DEFAULT_MEMTABLE_BYTES,
    cache_bytes: int = limits.DEFAULT_CACHE_BYTES,
    keep_log: KeepLog | None = None,
    min_free_bytes: int = limits.DEFAULT_MIN_FREE_BYTES,
    slow_seconds: float = DEFAULT_SLOW_SECONDS,
    filesystem: FileSystem | None = None,
    key: Key | None = None,
) -> Store:
    """Open a store, recovering it first if it was not closed.

    Args:
        path: the store's directory, by convention ``<name>.walkv``.
        sync: when a commit is acknowledged: ``Wal()``, ``WriteThrough()`` or ``WriteBack()``.
        read_only: take no lock and write nothing; follow a writer with ``refresh()``.
        create: make the store if there is none.
        memtable_bytes: budget of the in-memory index of unsettled writes.
        cache_bytes: budget of the cache of settled blocks.
        keep_log: how much of the settled log to keep, from now on and whoever opens the store, to
            restore any moment of it from backups and to follow ``changes``; None leaves it as it
            is, which is nothing in a new store.
        min_free_bytes: puts are refused with ``DiskSpaceError`` where the disk has less free space;
            0 for never.
        slow_seconds: a sync of the log, or a wait for room, that takes longer is logged by
            ``walkv.slow``.
        filesystem: the operating system's, unless a test brings its own.
        key: encrypts a new store, and opens one that is encrypted: 32 bytes, a passphrase, a text
            that ``walkv keygen`` printed, or a function that returns one of these, called once. By
            default what the environment has in ``WALKV_KEY``, if anything.
    Raises:
        LockedError: another opener writes to the store.
        FileNotFoundError: there is no store, and ``create`` is false or ``read_only`` true.
        FormatError: the path is not a walkv store, or one of a newer format.
        CorruptionError: data that had been durable is damaged or missing; nothing was changed.
        EncryptionError: the key is missing, is not the store's, or the store is not encrypted.
        TamperedError: what is there was not written with the store's key.
        OSError: from the file system.
    Cost: reads the manifest, the snapshots' footers and the unsettled log: milliseconds for a store
        that was closed, and at most one memtable budget of log after a crash.
    """
    engine = start_engine(
        path,
        sync=sync,
        read_only=read_only,
        create=create,
        memtable_bytes=memtable_bytes,
        cache_bytes=cache_bytes,
        keep_log=keep_log,
        min_free_bytes=min_free_bytes,
        slow_seconds=slow_seconds,
        filesystem=filesystem,
        key=key,
    )
    return Store(engine)


async def aopen(
    path: Any,
    *,
    sync: SyncPolicy = Wal(),  # noqa: B008  # immutable
    read_only: bool = False,
    create: bool = True,
    memtable_bytes: int = limits.DEFAULT_MEMTABLE_BYTES,
    cache_bytes: int = limits.DEFAULT_CACHE_BYTES,
    keep_log: KeepLog | None = None,
    min_free_bytes: int = limits.DEFAULT_MIN_FREE_BYTES,
    slow_seconds: float = DEFAULT_SLOW_SECONDS,
    filesystem: FileSystem | None = None,
    key: Key | None = None,
) -> AsyncStore:
    """Open a store for asyncio; arguments and errors as in ``walkv.open``."""
    loop = asyncio.get_running_loop()
    opening = loop.run_in_executor(
        None,
        lambda: start_engine(
            path,
            sync=sync,
            read_only=read_only,
            create=create,
            memtable_bytes=memtable_bytes,
            cache_bytes=cache_bytes,
            keep_log=keep_log,
            min_free_bytes=min_free_bytes,
            slow_seconds=slow_seconds,
            filesystem=filesystem,
            key=key,
        ),
    )
    try:
        engine = await asyncio.shield(opening)
    except asyncio.CancelledError:
        # Nobody will get this store. It must not stay locked, and the loop may end with its task.
        await _finished(opening)
        if not opening.cancelled() and opening.exception() is None:
            await _finished(loop.run_in_executor(None, opening.result().close))
        raise
    return AsyncStore(engine)


async def _finished(future: asyncio.Future[Any]) -> None:
    """Wait for a future, also if cancelled meanwhile."""
    while not future.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([future])
