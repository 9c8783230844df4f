"""The repaired store, while it is being made."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from walkv.engine import files, manifest, segment
from walkv.engine.keyring import Keyring, Secret
from walkv.engine.manifest import Manifest
from walkv.engine.segment import STORE_ID_BYTES
from walkv.engine.snapshot import SnapshotSummary, SnapshotWriter
from walkv.engine.vfs import FileSystem, OsFileSystem, ensure_synced
from walkv.ops import placing
from walkv.ops.repairing import merging
from walkv.ops.repairing.snapshots import Entry

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
    """A store that has its name once the block ended well; see ``placing.building``."""
    with placing.building(path, "repairing") as directory:
        yield Target(OsFileSystem(), directory)
