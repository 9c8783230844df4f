"""How a store fares, seen from outside of the process that writes to it."""

from __future__ import annotations

import os

from walkv import limits
from walkv.engine import watch
from walkv.engine.store import open as open_store
from walkv.engine.vfs import OsFileSystem
from walkv.engine.watch import Health, Published, Stats
from walkv.errors import CorruptionError
from walkv.ops.storefiles import examine


def published(directory: str | os.PathLike[str]) -> Published | None:
    """What a store's writer has told of itself; None if nobody has it open for writing.

    Takes no lock and changes nothing. Of a writer on another host it is not known whether it is
    still there.

    Raises:
        PermissionError: its lock file may not be read.
    """
    return watch.published(OsFileSystem(), os.path.abspath(os.fspath(directory)))


def health(directory: str | os.PathLike[str]) -> Health:
    """Whether a store can be read, and what its writer says of itself.

    ``Store.health`` says it of a store that is open. Takes no lock and changes nothing.

    Raises:
        FileNotFoundError: there is no store.
        FormatError: something else is there, or a store of a newer format.
        EncryptionError: its key is missing or wrong.
    Cost: a look at the store as opening takes.
    """
    path = os.path.abspath(os.fspath(directory))
    try:
        found = examine(path)
        if found is None:
            raise FileNotFoundError(2, "there is no walkv store here", path)
        with open_store(path, read_only=True) as store:
            status = store.health()
    except CorruptionError as error:
        return Health("failed", (str(error),))
    if found.holder is not None and found.holder.failure:
        return Health("failed", (f"its writer has failed: {found.holder.failure}",))
    if status.status != "ok":
        return status
    reasons = tuple(_reasons(path, None if found.holder is None else found.holder.stats))
    return Health("degraded", reasons) if reasons else Health("ok")


def _reasons(path: str, said: Stats | None) -> list[str]:
    """What is to be seen to, by the disk and by what the writer has said last, if it has."""
    reasons = []
    if said is not None and said.background_error:
        reasons.append(f"a flush or merge failed: {said.background_error}")
    min_free_bytes = limits.DEFAULT_MIN_FREE_BYTES if said is None else said.min_free_bytes
    free_bytes = OsFileSystem().free_bytes(path)
    if free_bytes is not None and free_bytes < min_free_bytes:
        reasons.append(
            f"puts are refused: the disk has {free_bytes:,} bytes left, below the floor of "
            f"{min_free_bytes:,}"
        )
    if said is not None and said.snapshot_count >= limits.MAX_SNAPSHOTS:
        reasons.append("merges are behind: commits wait for them")
    return reasons
