"""Opens a store: for writing (lock, recover, run) or for reading (look, follow)."""

from __future__ import annotations

import sys
import warnings
from typing import Any, Final

from walkv import limits
from walkv.engine import files, manifest, wal
from walkv.engine.core import Engine
from walkv.engine.follower import Follower
from walkv.engine.keep import KeepLog
from walkv.engine.keyring import VARIABLE, Key, Keyring, Secret
from walkv.engine.policies import SyncPolicy, check_policy
from walkv.engine.snapshot import BlockCache
from walkv.engine.vfs import FileSystem, LockHeldError, OsFileSystem, SyncError, environment
from walkv.engine.watch import publish
from walkv.errors import FormatError, LockedError

DEFAULT_SLOW_SECONDS: Final = 1.0


def open_engine(
    directory: str,
    *,
    policy: SyncPolicy,
    create: bool,
    memtable_bytes: int,
    cache_bytes: int,
    keep_log: KeepLog | None,
    min_free_bytes: int,
    slow_seconds: float,
    fs: FileSystem,
    keyring: Keyring,
) -> Engine:
    """Take the lock, recover, and return a running engine.

    Raises:
        LockedError: another opener writes to the store.
        FileNotFoundError: there is no store and ``create`` is false.
        FormatError: not a store, or of a newer format.
        CorruptionError: durable data is damaged or missing.
        EncryptionError: the key does not fit the store.
        OSError: from the file system.
    """
    directory = fs.absolute(directory)
    _prepare_directory(fs, directory, create)
    network = fs.network_name(directory)
    if network is not None:
        warnings.warn(
            f"{directory} is on a network file system ({network}), where locks and syncs may not "
            "do what walkv relies on; use a local disk for data you must not lose",
            stacklevel=4,
        )
    lock_path = fs.join(directory, files.LOCK_NAME)
    try:
        lock = fs.lock(lock_path)
    except LockHeldError as error:
        raise _locked(directory, lock_path, error.holder) from None
    except OSError as error:
        raise OSError(
            error.errno,
            f"{error.strerror}: the store cannot be opened for writing; see to the permissions, or "
            "open it with read_only=True",
            directory,
        ) from error
    try:
        engine = Engine(
            fs,
            directory,
            policy,
            lock,
            BlockCache(cache_bytes),
            memtable_bytes,
            min_free_bytes,
            slow_seconds,
            keyring,
        )
        try:
            engine.start(create, keep_log)
            engine.on_rest = lambda: publish(engine)
            publish(engine)
        except SyncError as error:
            engine.abort()
            raise wal.failed(error.error) from error.error
        except BaseException:
            engine.abort()
            raise
    except BaseException:
        lock.release()
        raise
    return engine


def _prepare_directory(fs: FileSystem, directory: str, create: bool) -> None:
    if fs.is_directory(directory):
        if files.is_new(fs, directory) and not create:
            raise files.not_found(directory)
        return
    try:
        fs.list(directory)
    except FileNotFoundError:
        if not create:
            raise files.not_found(directory) from None
        fs.make_directory(directory)
    except NotADirectoryError:
        raise FormatError(
            f"{directory}: this is a file, and a walkv store is a directory; choose another path",
            path=directory,
            supported=manifest.VERSIONS,
        ) from None


def _locked(directory: str, lock_path: str, holder: dict[str, Any]) -> LockedError:
    pid, host = holder.get("pid"), holder.get("host")
    who = f"process {pid} on {host}" if pid else "another opener"
    return LockedError(
        f"{directory}: {who} has this store open for writing, and only one may; close it there, "
        "or open it here with read_only=True",
        path=lock_path,
        pid=pid if isinstance(pid, int) else None,
        host=host if isinstance(host, str) else None,
    )


def open_follower(
    directory: str, *, cache_bytes: int, fs: FileSystem, keyring: Keyring
) -> Follower:
    """Open read-only.

    Raises:
        FileNotFoundError: there is no store.
        FormatError: not a store, or of a newer format.
        CorruptionError: durable data is damaged or missing.
    """
    directory = fs.absolute(directory)
    if not fs.is_directory(directory) or files.is_new(fs, directory):
        raise FileNotFoundError(2, "there is no walkv store here to read", directory)
    return Follower(fs, directory, BlockCache(cache_bytes), keyring)


def start_engine(
    path: Any,
    *,
    sync: SyncPolicy,
    read_only: bool,
    create: bool,
    memtable_bytes: int,
    cache_bytes: int,
    keep_log: KeepLog | None,
    min_free_bytes: int,
    slow_seconds: float,
    filesystem: FileSystem | None,
    key: Key | None,
) -> Engine | Follower:
    """What ``open`` and ``aopen`` share."""
    check_policy(sync)
    if memtable_bytes < limits.MIN_MEMTABLE_BYTES:
        raise ValueError(
            f"memtable_bytes must be at least {limits.MIN_MEMTABLE_BYTES}, not {memtable_bytes}"
        )
    if cache_bytes < 0:
        raise ValueError(f"cache_bytes must be 0 or more, not {cache_bytes}")
    if min_free_bytes < 0:
        raise ValueError(f"min_free_bytes must be 0 or more, not {min_free_bytes}")
    if not slow_seconds > 0:
        raise ValueError(f"slow_seconds must be above 0, not {slow_seconds}")
    if keep_log is not None and not isinstance(keep_log, KeepLog):
        raise TypeError(f"keep_log is a KeepLog(seconds, max_bytes), not {keep_log!r}")
    fs: FileSystem = OsFileSystem() if filesystem is None else filesystem
    directory = path if isinstance(path, str) else _path_text(path)
    keyring = Keyring(given_secret(key), fs.random_bytes)
    if read_only:
        return open_follower(directory, cache_bytes=cache_bytes, fs=fs, keyring=keyring)
    return open_engine(
        directory,
        policy=sync,
        create=create,
        memtable_bytes=memtable_bytes,
        cache_bytes=cache_bytes,
        keep_log=keep_log,
        min_free_bytes=min_free_bytes,
        slow_seconds=slow_seconds,
        fs=fs,
        keyring=keyring,
    )


def given_secret(key: Key | None) -> Secret | None:
    """The key that was given, or else the one in the environment."""
    if key is not None:
        return key if isinstance(key, Secret) else Secret(key)
    ambient = environment(VARIABLE)
    return Secret(ambient, ambient=True) if ambient else None


def _path_text(path: Any) -> str:
    """A ``str`` for a path-like object."""
    found = path.__fspath__() if hasattr(path, "__fspath__") else path
    if isinstance(found, bytes):
        found = found.decode(sys.getfilesystemencoding(), "surrogateescape")
    if not isinstance(found, str):
        raise TypeError(f"path is a str or a path-like object, not {type(path).__name__}")
    return found
