"""The repaired store while it is being made: under another name, until it is whole.

Invariants:
    1. What is not finished is called ``<target>.repairing`` and has a file ``UNFINISHED`` in it,
       which a live repair holds locked. The next repair to the same target removes it.
    2. Nothing else is ever removed: a directory of that name without that file is in the way.
    3. The name of the target appears in one step, once everything below it is durable.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from walkv.engine import files, manifest, segment
from walkv.engine.keyring import Keyring, Secret
from walkv.engine.manifest import Manifest
from walkv.engine.segment import STORE_ID_BYTES
from walkv.engine.snapshot import SnapshotSummary, SnapshotWriter
from walkv.engine.vfs import FileSystem, LockHeldError, OsFileSystem, ensure_synced
from walkv.errors import LockedError
from walkv.ops.repairing import merging
from walkv.ops.repairing.snapshots import Entry

SUFFIX: Final = ".repairing"
MARK: Final = "UNFINISHED"
SCRATCH: Final = "scratch"


class Target:
    """A store that is being made.

    Attributes:
        directory: where it is until it is finished.
    """

    def __init__(self, fs: FileSystem, directory: str) -> None:
        self._fs = fs
        self.directory = directory

    @property
    def scratch(self) -> str:
        """A directory for what is needed until the store is written."""
        return self._fs.join(self.directory, SCRATCH)

    def write(
        self,
        entries: Iterator[Entry],
        last_sequence: int,
        created_ns: int | None,
        secret: Secret | None,
        step: Callable[[], None],
    ) -> int:
        """Write entries as the only snapshot of a new store; returns how many there are.

        Args:
            entries: in key order, without tombstones.
            last_sequence: the highest sequence ever given.
            created_ns: when the store was first made, if known.
            secret: the new store is encrypted, and this is the key that opens it.
            step: called now and then.
        """
        fs, directory = self._fs, self.directory
        for name in (files.LOG_DIRECTORY, files.SNAPSHOT_DIRECTORY, files.QUARANTINE_DIRECTORY):
            fs.make_directory(fs.join(directory, name))
        store_id = fs.random_bytes(STORE_ID_BYTES)
        keyring = Keyring(secret, fs.random_bytes)
        keyring.begin(store_id)
        inside = fs.join(directory, files.SNAPSHOT_DIRECTORY)
        writer = SnapshotWriter(fs, inside, store_id, 1, keyring=keyring)
        summaries: tuple[SnapshotSummary, ...] = ()
        try:
            highest = merging.write(writer, entries, step)
            if writer.entry_count:
                summaries = (writer.finish(),)
            else:
                fs.unlink(writer.path)
        finally:
            writer.close()
        highest = max(highest, last_sequence)
        shutil.rmtree(self.scratch, ignore_errors=True)
        log = fs.join(directory, files.LOG_DIRECTORY)
        segment.begin(fs, log, store_id, highest + 1, keyring).file.close()
        ensure_synced(lambda: fs.sync_directory(directory))
        made_ns = fs.wall_time_ns() if created_ns is None else created_ns
        ring = keyring.ring
        known = Manifest(store_id, 1, 2, highest, made_ns, (highest + 1,), summaries, ring)
        manifest.write(fs, directory, known, keyring)
        return summaries[0].entry_count if summaries else 0


@contextmanager
def building(path: str) -> Iterator[Target]:
    """A store that has its name once the block ended well, and is gone if it did not.

    Raises:
        FileExistsError: there is something at ``path``, or in the way of making it.
        LockedError: another repair to it is running.
    """
    fs = OsFileSystem()
    _check_free(path)
    temporary = path + SUFFIX
    mark = fs.join(temporary, MARK)
    if os.path.lexists(temporary) and not os.path.isfile(mark):
        raise FileExistsError(
            errno.EEXIST,
            "this is in the way of a repair; remove it, or choose another target",
            temporary,
        )
    fs.make_directory(temporary)
    try:
        lock = fs.lock(mark)
    except LockHeldError as error:
        pid = error.holder.get("pid")
        raise LockedError(
            f"{path}: another repair (process {pid}) is writing it; wait for it, or choose another "
            "target",
            path=mark,
            pid=pid if isinstance(pid, int) else None,
        ) from None
    try:
        for name in fs.list(temporary):
            if name != MARK:
                _remove(fs.join(temporary, name))
        yield Target(fs, temporary)
        fs.unlink(mark)
        ensure_synced(lambda: fs.sync_directory(temporary))
        _check_free(path)
        fs.rename(temporary, path)
        ensure_synced(lambda: fs.sync_directory(fs.parent(path)))
    except BaseException:
        # The mark goes last: what a kill leaves of this is still known as unfinished.
        with suppress(OSError):
            for name in fs.list(temporary):
                if name != MARK:
                    _remove(fs.join(temporary, name))
            _remove(temporary)
        raise
    finally:
        lock.release()


def _check_free(path: str) -> None:
    if not os.path.lexists(path) or (os.path.isdir(path) and not os.listdir(path)):
        return
    raise FileExistsError(
        errno.EEXIST,
        "a repair writes a new store, and this is here already; choose another target",
        path,
    )


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)
