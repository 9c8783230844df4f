"""A new store that is made beside its path, and appears there in one step.

    .<name>.<doing>/LOCK     held while it is made
    .<name>.<doing>/store/   the store, until it is whole

Invariants:
    1. Nothing is ever replaced: the path is free, or an empty directory.
    2. Whatever happens before the store is whole leaves nothing at the path. What a killed process
       has left beside it, the next one to the same path removes.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from walkv.engine import files
from walkv.engine.vfs import Lock, LockHeldError, OsFileSystem
from walkv.errors import LockedError

_STORE: Final = "store"


@contextmanager
def building(path: str, doing: str) -> Iterator[str]:
    """A directory to build a store in, durably; it is at ``path`` once the block ended well.

    Args:
        path: absolute.
        doing: what is done, in a word, such as ``"copying"``.
    Raises:
        FileExistsError: there is something at the path, or in the place to build in.
        LockedError: somebody else does the same to the same path.
        OSError: from the file system.
    """
    _check_free(path)
    fs = OsFileSystem()
    above, name = os.path.split(path)
    beside = os.path.join(above, f".{name}.{doing}")
    _check_ours(beside)
    make_directory(beside)
    lock = _locked(fs, beside, path, doing)
    try:
        for left in os.listdir(beside):
            # By a process that was killed: its lock is free.
            if left != files.LOCK_NAME:
                inside = os.path.join(beside, left)
                shutil.rmtree(inside) if os.path.isdir(inside) else os.unlink(inside)
        built = os.path.join(beside, _STORE)
        os.mkdir(built)
        yield built
        _check_free(path)
        # Over an empty directory or over nothing: the system refuses everything else.
        os.rename(built, path)
        fs.sync_directory(above)
    finally:
        # The lock's name goes last, and only what was made under the lock: whoever comes in between
        # has a lock, and perhaps a store, of their own here.
        shutil.rmtree(os.path.join(beside, _STORE), ignore_errors=True)
        with suppress(OSError):
            os.unlink(os.path.join(beside, files.LOCK_NAME))
            os.rmdir(beside)
        lock.release()


def _check_free(path: str) -> None:
    is_place = os.path.islink(path) or os.path.ismount(path)
    if is_place or (os.path.lexists(path) and not (os.path.isdir(path) and not os.listdir(path))):
        raise FileExistsError(
            errno.EEXIST,
            "there is something here already, and nothing is replaced; choose another path, or "
            "move it away",
            path,
        )


def _check_ours(beside: str) -> None:
    """See whether what is in the way was left by this: only that may be removed."""
    if not os.path.lexists(beside):
        return
    is_directory = os.path.isdir(beside) and not os.path.islink(beside)
    inside = set(os.listdir(beside)) if is_directory else {""}
    if inside and (files.LOCK_NAME not in inside or not inside <= {files.LOCK_NAME, _STORE}):
        raise FileExistsError(
            errno.EEXIST,
            "this is in the way, and was not left by an interrupted run; move it away, or choose "
            "another path",
            beside,
        )


def _locked(fs: OsFileSystem, beside: str, path: str, doing: str) -> Lock:
    lock_path = os.path.join(beside, files.LOCK_NAME)
    try:
        return fs.lock(lock_path)
    except LockHeldError as error:
        pid, host = error.holder.get("pid"), error.holder.get("host")
        raise LockedError(
            f"{path}: process {pid} is {doing} to the same path; wait until it is done",
            path=lock_path,
            pid=pid if isinstance(pid, int) else None,
            host=host if isinstance(host, str) else None,
        ) from None


def make_directory(path: str) -> None:
    """Make a directory and those above it, each with a durable name."""
    if not os.path.isdir(path):
        if os.path.lexists(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        above = os.path.dirname(path)
        make_directory(above)
        fs = OsFileSystem()
        fs.make_directory(path)
        fs.sync_directory(above)
