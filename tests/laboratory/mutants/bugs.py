"""The bugs that are planted: each a mistake that some storage engine has really shipped, or that a
careless change here would make.

``killers`` are the jobs that must notice, the likeliest first.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Mutant(NamedTuple):
    """One planted bug.

    Attributes:
        name: in the report.
        module, function: where.
        old, new: a piece of the function's source, and what is planted in its place.
        killers: jobs, as ``LAYER: TEXT``.
    """

    name: str
    module: str
    function: str
    old: str
    new: str
    killers: tuple[str, ...] = ()


_SHORT: Final = ("crashes: exhaustive 2 put", "crashes: exhaustive 2 batch")
_LONG: Final = tuple(
    f"crashes: random 60 {policy}" for policy in ("Wal", "WriteBack", "WriteThrough")
)
_CRASHES: Final = (*_SHORT, *_LONG)
_SCHEDULES: Final = (
    "schedules: threads=4 policy=wal commits=3 helper=sync sync_ms=10 strategy=walk runs=6",
    "schedules: threads=4 policy=wal commits=3 helper=sync sync_ms=10 strategy=pre:4 runs=6",
    "schedules: threads=3 lines=1 policy=wal sync_ms=10 strategy=pct:3 runs=6",
    "schedules: threads=2 tasks=3 helper=compact sync_ms=10 strategy=walk runs=6",
)
_DAMAGE: Final = (
    "damage: killed only bit:log/00000000000000000031.wal:512",
    "damage: killed only bit:log/00000000000000000031.wal:6936",
    "damage: killed bits 1/2",
)
_FAILED_SYNCS: Final = (
    "schedules: threads=4 policy=wal fault=3 helper=sync sync_ms=10 strategy=walk runs=6",
)

_PROGRAMS: Final = ("programs: WriteBack programs=45", "programs: Wal programs=45")

WAL: Final = "walkv.engine.wal"
RECOVERY: Final = "walkv.engine.recovery"
COMPACTION: Final = "walkv.engine.compaction"
CATALOG: Final = "walkv.engine.catalog"
SEGMENT: Final = "walkv.engine.segment"
MANIFEST: Final = "walkv.engine.manifest"
MEMTABLE: Final = "walkv.engine.memtable"
WRITES: Final = "walkv.engine.writes"
WRITER: Final = "walkv.engine.snapshot.writer"
READER: Final = "walkv.engine.snapshot.reader"

MUTANTS: Final = (
    Mutant(
        "acknowledge before sync",
        WRITES,
        "WriteSide.acknowledge",
        "self._log.wait(position)",
        "self.syncer.request()",
        _CRASHES,
    ),
    Mutant(
        "write-through does not sync",
        WRITES,
        "WriteSide.acknowledge",
        "self._log.sync()",
        "pass",
        ("crashes: WriteThrough: put a", *_CRASHES),
    ),
    Mutant(
        "write-back never syncs",
        WRITES,
        "WriteSide.acknowledge_back",
        "syncer.poll()",
        "pass",
        ("crashes: WriteBack: put a; wait 3; put b; put c", *_CRASHES),
    ),
    Mutant(
        "write-back forgets its bytes",
        WRITES,
        "WriteSide.acknowledge_back",
        "self._log.wait(position - policy.max_unsynced_bytes)",
        "pass",
        ("crashes: WriteBackBytes: put k 5000", "crashes: random 60 WriteBackBytes"),
    ),
    Mutant(
        "synced offset advanced before the sync returns",
        WAL,
        "Log._sync_tail",
        "self._tail.file.sync_data()",
        "self.durable = target\nself._tail.file.sync_data()",
        _SCHEDULES,
    ),
    Mutant(
        "durable read after the sync",
        WAL,
        "Log._sync_tail",
        "self.durable = target",
        "self.durable = self.position",
        _SCHEDULES,
    ),
    Mutant(
        "frames state the written offset as synced",
        WAL,
        "Log.write",
        "self.durable - self._base",
        "position - self._base",
        ("crashes: WriteBack: transact a; transact~ b c", "crashes: random 60 WriteBack"),
    ),
    Mutant(
        "retry after a failed fsync",
        WAL,
        "Log._sync_tail",
        "self._tail.file.sync_data()",
        "try:\n    self._tail.file.sync_data()\nexcept OSError:\n    self._tail.file.sync_data()",
        ("faults: Wal EIO once sync_data wal 1: phantom b", *_FAILED_SYNCS),
    ),
    Mutant(
        "a failed fsync is forgotten",
        WAL,
        "Log._poison",
        "self._failure = error",
        "self._failure = None",
        ("faults: Wal EIO once sync_data wal 1: put c 200", *_FAILED_SYNCS),
    ),
    Mutant(
        "seal without sync",
        WAL,
        "Log.seal",
        "self._sealed = True\n        self._sync_tail()",
        "self._sealed = True",
        ("crashes: WriteBack: put a; rotate; put b; kill", *_CRASHES),
    ),
    Mutant(
        "close without sync",
        WAL,
        "Log.close",
        "self._sync_tail()",
        "pass",
        ("crashes: WriteBack: put a; close", *_CRASHES),
    ),
    Mutant(
        "a failed write is taken back, and not durably",
        WAL,
        "Log.undo",
        "self._sync_tail()",
        "pass",
        ("faults: Wal short forever write wal 3: put! f; put~ g",),
    ),
    Mutant(
        "a failed write is not taken back",
        WAL,
        "Log._cut_back",
        "self._tail.file.truncate(self.position - self._base)",
        "pass",
        ("faults: Wal shortEIO once write wal 3: transact b e; conflict b",),
    ),
    Mutant(
        "a failed seal is taken back, and not durably",
        WAL,
        "Log.mark",
        "self._sync_tail()",
        "pass",
        ("faults: Wal EIO once truncate wal 1: put a; put b; rotate; put c 700; put d 900",),
    ),
    Mutant(
        "a tail is cut only where something is seen behind it",
        RECOVERY,
        "act",
        "if not findings.tail.clean:",
        "if findings.tail.cut_bytes:",
        (
            "faults: WriteBack shortEIO once write wal 4 + EIO once sync_data wal 1: put f; "
            "put g 300; put h 300",
        ),
    ),
    Mutant(
        "an older manifest over a newer log is believed",
        RECOVERY,
        "_check_unused",
        "used = file.size() > segment.HEADER_BYTES",
        "used = False",
        ("damage: killed files 1/1",),
    ),
    Mutant(
        "a reader does not see that a commit was taken back",
        SEGMENT,
        "Scanner.still_there",
        "return frames.decode(data, 0, salt=self.header.salt, offset=start) == last",
        "return True",
        ("faults: sweep Wal follow",),
    ),
    Mutant(
        "segment header not synced",
        SEGMENT,
        "create",
        "ensure_synced(file.sync)",
        "pass",
        _CRASHES,
    ),
    Mutant(
        "segment's name not synced",
        SEGMENT,
        "create",
        "fs.sync_directory(directory)",
        "pass",
        _CRASHES,
    ),
    Mutant(
        "manifest not synced",
        MANIFEST,
        "write",
        "ensure_synced(file.sync)",
        "pass",
        _CRASHES,
    ),
    Mutant(
        "manifest's name not synced",
        MANIFEST,
        "write",
        "ensure_synced(lambda: fs.sync_directory(directory))",
        "pass",
        _CRASHES,
    ),
    Mutant(
        "manifest overwritten in place",
        MANIFEST,
        "write",
        "fs.rename(temporary, fs.join(directory, NAME))",
        "if NAME in fs.list(directory):\n"
        "    fs.unlink(fs.join(directory, NAME))\n"
        "fs.rename(temporary, fs.join(directory, NAME))",
        _CRASHES,
    ),
    Mutant(
        "snapshot not synced",
        WRITER,
        "SnapshotWriter.finish",
        "ensure_synced(self._file.sync)",
        "pass",
        ("crashes: Wal: put a; flush", *_CRASHES),
    ),
    Mutant(
        "snapshot's name not synced",
        WRITER,
        "SnapshotWriter.finish",
        "ensure_synced(lambda: self._fs.sync_directory(self._directory))",
        "pass",
        ("crashes: Wal: put a; flush", *_CRASHES),
    ),
    Mutant(
        "manifest before snapshot",
        COMPACTION,
        "Compactor._write",
        "writer.finish()",
        "if catalog.manifest.snapshots:\n"
        "    known = catalog.manifest.snapshots\n"
        "    newer = type(known[0])(number, 200, 1, 0, 1)\n"
        "    catalog._replace(snapshots=(newer, *known))\n"
        "writer.finish()",
        ("crashes: Wal: put a; flush; put b; flush; put c", *_CRASHES),
    ),
    Mutant(
        "segments removed before the manifest is replaced",
        CATALOG,
        "Catalog.install_flush",
        "added = (snapshot,)",
        "for each in dropped:\n"
        "    path = self._fs.join(self._directory, LOG_DIRECTORY)\n"
        "    self._remove(self._fs.join(path, segment.file_name(each)))\n"
        "added = (snapshot,)",
        ("crashes: Wal: put a; flush", *_CRASHES),
    ),
    Mutant(
        "snapshots removed before the manifest is replaced",
        CATALOG,
        "Catalog.install_merge",
        "self._replace(",
        "for each in inputs:\n    self._remove(each.path)\nself._replace(",
        ("crashes: Wal: put a; flush; put b; compact", *_CRASHES),
    ),
    Mutant(
        "split a batch",
        WRITES,
        "WriteSide.append",
        "end = self._log.write(batch.encode(operations), count, first_sequence)",
        "half = max(count // 2, 1)\n"
        "first, rest = operations[: 2 * half], operations[2 * half :]\n"
        "end = self._log.write(batch.encode(first), half, first_sequence)\n"
        "if rest:\n"
        "    self._log.position = end\n"
        "    end = self._log.write(batch.encode(rest), count - half, first_sequence + half)",
        ("crashes: Wal: batch a b c", *_CRASHES),
    ),
    Mutant(
        "quarantine skipped",
        RECOVERY,
        "act",
        "quarantine_path = _save(fs, directory, findings.tail)",
        "pass",
        ("crashes: Wal: put a 200; put b 200", *_CRASHES),
    ),
    Mutant(
        "truncate before saving",
        RECOVERY,
        "_save",
        "stem = f",
        "cut = fs.open(scanner.file.path, writable=True)\ncut.truncate(scanner.offset)\nstem = f",
        ("crashes: Wal: put a 200; put b 200", *_CRASHES),
    ),
    Mutant(
        "a torn tail is not cut",
        RECOVERY,
        "act",
        "file.truncate(scanner.offset)",
        "pass",
        (
            "crashes: Wal: expire+ a 1e6; transact~ b c; wait 3; delete c; close; delete! d; kill; "
            "phantom c; delete~ e; conflict f; put g 300",
            *_CRASHES,
        ),
    ),
    Mutant(
        "served before it is synced",
        RECOVERY,
        "act",
        "ensure_synced(file.sync)",
        "pass",
        ("crashes: WriteBack: put a; put b; kill", *_CRASHES),
    ),
    Mutant(
        "what a failed sync lost is not written again",
        RECOVERY,
        "act",
        "_write_again(file, scanner)",
        "pass",
        (
            "faults: Wal EIO once sync_data wal 7: batch c -a; cas b; range c; transact b e; "
            "conflict b; mark; put! f",
            "faults: pairs Wal",
        ),
    ),
    Mutant(
        "files removed before the manifest's name is durable",
        RECOVERY,
        "act",
        "ensure_synced(lambda: fs.sync_directory(directory))",
        "pass",
        ("crashes: killed Wal: put a; flush",),
    ),
    Mutant(
        "damage detector switched off",
        SEGMENT,
        "Scanner.promised_past",
        "size = self.file.size()",
        "return None",
        _DAMAGE,
    ),
    Mutant(
        "frame checksum not compared",
        "walkv.engine.frame",
        "decode",
        "if actual != checksum:",
        "if False:",
        _DAMAGE,
    ),
    Mutant(
        "page checksum not compared",
        "walkv.engine.snapshot.layout",
        "decode_page",
        "if actual != view[:8] or len(data) < PAGE_HEADER_BYTES:",
        "if len(data) < PAGE_HEADER_BYTES:",
        ("damage: large during bit:snapshots/0000000010.snap:1761228", "damage: large running 60"),
    ),
    Mutant(
        "filter that loses a key",
        "walkv.engine.snapshot.blocks",
        "encode_filter",
        "hashes = sorted(hashes)",
        "hashes = sorted(hashes)[1:] or hashes",
        (
            "crashes: Wal: expire+ a 1e6; transact~ b c; put+ d; transact e a; transact~ d f; kill",
            *_CRASHES,
        ),
    ),
    Mutant(
        "tombstone dropped above an older value",
        COMPACTION,
        "Compactor._flush",
        "bottom = not self._catalog.sources.snapshots",
        "bottom = True",
        ("crashes: Wal: put a; flush; delete a; flush", *_CRASHES),
    ),
    Mutant(
        "deleted range forgotten by a flush",
        COMPACTION,
        "Compactor._flush",
        "NO_RANGES if bottom else memtable.ranges.flat()",
        "NO_RANGES",
        ("crashes: Wal: put a; flush; range a; flush", *_CRASHES),
    ),
    Mutant(
        "the older version wins a merge",
        "walkv.engine.merge",
        "_combine",
        "for part in reversed(parts):",
        "for part in parts:",
        ("crashes: Wal: put a; flush; put a; compact", *_CRASHES),
    ),
    Mutant(
        "view that sees later writes",
        MEMTABLE,
        "Memtable.kept_version",
        "return entry if entry[0] <= self.newest_view else entry[3]",
        "return None",
        ("crashes: Wal: put a; view; put a", *_CRASHES),
    ),
    Mutant(
        "transaction that misses a conflict",
        "walkv.engine.store.transaction",
        "Transaction._validate",
        "check_expected(key, version, _version(engine.newest_entry(key)))",
        "pass",
        ("crashes: Wal: put a; conflict a",),
    ),
    Mutant(
        "transaction that misses a phantom",
        "walkv.engine.store.transaction",
        "Transaction._validate",
        "if changed is not None:",
        "if False:",
        ("crashes: Wal: put a; phantom a",),
    ),
    Mutant(
        "a group's gate is never opened",
        WAL,
        "Log.wait",
        "mine.release()",
        "pass",
        _SCHEDULES,
    ),
    Mutant(
        "a waiter returns after any sync",
        WAL,
        "Log.wait",
        "continue",
        "return",
        _SCHEDULES,
    ),
    Mutant(
        "a feed gives what is not durable",
        "walkv.engine.changes",
        "_Readable.size",
        "self._durable",
        "False",
        _PROGRAMS,
    ),
    Mutant(
        "a feed leaves out a batch that it is in the middle of",
        "walkv.engine.changes",
        "Feed._further",
        "last_sequence > self._since",
        "found.first_sequence > self._since + 1",
        _PROGRAMS,
    ),
    Mutant(
        "recovery removes a settled segment that is to be kept",
        RECOVERY,
        "_find_unknown",
        "if keep.NAME in entries:",
        "if False:",
        _PROGRAMS,
    ),
    Mutant(
        "a flush removes a settled segment that is to be kept",
        CATALOG,
        "Catalog.install_flush",
        "if self.kept is not None:",
        "if False:",
        _PROGRAMS,
    ),
)
