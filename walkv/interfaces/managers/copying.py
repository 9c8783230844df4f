"""A copy of a store is put in the place of another one.

A store is replaced inside its own directory, whose lock is held meanwhile:

    RESTORING/                                    the new store, being made
    RESTORED.open-it-once-with-DatabaseManager/   the new store, complete, until it is in place

Once the new one is complete and durable, the manifest of the old one is removed: that is when the
new one takes its place. Then its files are moved up, and its manifest last.

Invariants:
    1. At every moment of a replacement the directory holds a manifest, with all that this lists, or
       else a name that ``walkv.open`` does not know: it opens the old store or the new one, or
       refuses, and never makes an empty one. ``finish_replacement`` puts the new one in place.
    2. Nothing is replaced while somebody has it open. What is not of a store is left where it is.

Source: renaming whole directories was rejected, since there is a moment with nothing at the path,
and a store can be made there; exchanging two of them at once would do, and not every file system
can.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import Final

from walkv import limits
from walkv.engine import files, manifest
from walkv.engine.keyring import Key
from walkv.engine.store import open
from walkv.engine.vfs import Lock, LockHeldError, OsFileSystem
from walkv.errors import CorruptionError, LockedError
from walkv.ops.copying import copy_store

_CACHE_BYTES: Final = 1 * limits.MIB
_PART: Final = "RESTORING"
_WHOLE: Final = "RESTORED.open-it-once-with-DatabaseManager"


def replace_store(source: str, path: str, key: Key | None = None) -> None:
    """Put a copy of the store at ``source`` in the place of the one at ``path``, if there is one.

    Args:
        key: of the source; it becomes that of the copy.
    Raises:
        LockedError: the store at ``path`` is open.
        FormatError: there is something else than a store at ``path``.
        CorruptionError: the source is damaged.
        OSError: the copy cannot be written. Whatever is raised, the store at ``path`` is as it was;
            but if its files cannot be moved, ``finish_replacement`` goes on with that.
    Durability: the new store is durable, and in place.
    """
    is_new = not os.path.lexists(path)
    lock = _locked(path)
    try:
        _finish(path)
        try:
            with open(source, read_only=True, cache_bytes=_CACHE_BYTES, key=key) as backup:
                secret = backup.engine.catalog.keyring.secret
                copy_store(backup.engine, os.path.join(path, _PART), secret)
        except BaseException:
            shutil.rmtree(path if is_new else os.path.join(path, _PART), ignore_errors=True)
            raise
        os.rename(os.path.join(path, _PART), os.path.join(path, _WHOLE))
        sync_directory(path)
        with suppress(FileNotFoundError):  # a damaged store may have none, and a new one has none
            os.unlink(os.path.join(path, manifest.NAME))
        _finish(path)
    finally:
        lock.release()


def _locked(path: str) -> Lock:
    """The lock of the store at a path, which is made if there is none."""
    fs = OsFileSystem()
    fs.make_directory(path)
    if not _is_interrupted(path):
        with suppress(CorruptionError):  # a damaged store is what restoring is for
            files.is_new(fs, path)
    lock_path = os.path.join(path, files.LOCK_NAME)
    try:
        return fs.lock(lock_path)
    except LockHeldError as error:
        raise LockedError(
            f"{path}: this store is open or being restored, and cannot be replaced; close it first",
            path=lock_path,
            pid=error.holder.get("pid"),
            host=error.holder.get("host"),
        ) from None


def _is_interrupted(path: str) -> bool:
    return any(os.path.lexists(os.path.join(path, name)) for name in (_PART, _WHOLE))


def finish_replacement(path: str) -> None:
    """Finish a replacement that was interrupted, or undo it if the new store was not complete; in
    all other cases, do nothing.

    Raises:
        LockedError: the store is open, or being replaced right now.
    """
    if _is_interrupted(path):
        lock = _locked(path)
        try:
            _finish(path)
        finally:
            lock.release()


def _finish(path: str) -> None:
    """As ``finish_replacement``, for who has the lock."""
    whole = os.path.join(path, _WHOLE)
    if os.path.isdir(whole) and not os.path.lexists(os.path.join(path, manifest.NAME)):
        # Nothing of the old store may go before its end is durable.
        sync_directory(path)
        for name in sorted(files.OWN_NAMES - {files.LOCK_NAME, manifest.NAME}):
            new, old = os.path.join(whole, name), os.path.join(path, name)
            if os.path.isdir(new):
                if os.path.isdir(old):
                    shutil.rmtree(old)
                os.rename(new, old)
        sync_directory(path)
        sync_directory(whole)
        os.rename(os.path.join(whole, manifest.NAME), os.path.join(path, manifest.NAME))
        sync_directory(path)
    # With a manifest in its place, what is left is of no use to anybody. What cannot be removed now
    # is seen to when the store is opened again.
    for name in (_PART, _WHOLE):
        shutil.rmtree(os.path.join(path, name), ignore_errors=True)


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    OsFileSystem().sync_directory(path)


def write_file(path: str, data: bytes) -> None:
    """Write a file whole: it is there, durably, with all of ``data``, or as it was before."""
    fs = OsFileSystem()
    temporary = f"{path}.tmp"
    if os.path.exists(temporary):
        fs.unlink(temporary)
    file = fs.create(temporary)
    try:
        file.write(data, 0)
        file.sync()
    finally:
        file.close()
    fs.rename(temporary, path)
    sync_directory(os.path.dirname(path))
