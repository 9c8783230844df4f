"""Look, then act: what state a store was left in, and what to do about it.

``look`` reads the manifest, the snapshots' footers and the unsettled segments, and reaches a
verdict. It writes nothing, ever. ``act`` does what the verdict says.

The verdict on a segment whose frames end before the file does:

    - not the newest one, and not sealed     damage: refuse
    - sealed, and not only zeros follow      damage: refuse
    - a later valid frame promises past it   damage: refuse
    - nothing but zeros follows              a clean end, or commits lost to a crash; cut silently
    - anything else                          torn tail: save the bytes, cut, report

Invariants:
    1. Looking is pure. Read-only openers and ``verify`` use nothing else.
    2. Acting may be killed at any point and done again: bytes are saved and synced before they are
       cut, and what is removed is what no manifest names.
    3. Nothing is served before the tail and the directories were synced: after a ``kill -9`` the
       page cache may be ahead of the disk. What no frame states to be durable is written again
       before that, because a sync that had failed left its pages marked clean.
    4. After an unclean end the tail is sealed where it is valid, and commits go on in a new segment
       with a new salt. A lost sequence is never reused in the segment that lost it.

Source: "Can Applications Recover from fsync Failures?" (ATC'20) for invariant 3, Protocol-Aware
Recovery (FAST'18) for telling damage from a crash. Cutting at the first bad frame, as most logs
do, was rejected: it turns every damaged bit into silent loss of all that follows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from walkv import limits
from walkv.engine import batch, frame, keep, manifest, segment, snapshot
from walkv.engine.files import LOG_DIRECTORY, QUARANTINE_DIRECTORY, SNAPSHOT_DIRECTORY
from walkv.engine.frame import BadFrame
from walkv.engine.keyring import NO_KEYS, Keyring
from walkv.engine.manifest import Manifest
from walkv.engine.memtable import ENTRY_OVERHEAD_BYTES, Memtable
from walkv.engine.segment import Scanner, Tail
from walkv.engine.snapshot import BlockCache, SnapshotReader
from walkv.engine.vfs import File, FileSystem, ensure_synced
from walkv.errors import CorruptionError

_COPY_BYTES = 1 * limits.MIB


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What opening the store found and did.

    Attributes:
        created: the store did not exist before.
        clean: it had been closed, and nothing had to be done.
        segment_count: segments of the log that were read.
        frame_count: committed batches replayed from them.
        operation_count: operations in those.
        cut_bytes: bytes of a torn tail that were cut off; 0 where there was none.
        cut_reason: why they were no valid frame; empty where nothing was cut.
        quarantine_path: where the cut bytes were saved, or None.
        removed_files: files that no manifest named, removed.
        last_sequence: the highest sequence recovered.
        elapsed_seconds: time that opening took.
    """

    created: bool = False
    clean: bool = True
    segment_count: int = 0
    frame_count: int = 0
    operation_count: int = 0
    cut_bytes: int = 0
    cut_reason: str = ""
    quarantine_path: str | None = None
    removed_files: tuple[str, ...] = ()
    last_sequence: int = 0
    elapsed_seconds: float = 0.0

    def __str__(self) -> str:
        if self.created:
            return "created a new store"
        state = "was closed cleanly" if self.clean else "was not closed cleanly"
        text = (
            f"the store {state}; replayed {self.frame_count} batches "
            f"({self.operation_count} operations) from {_counted(self.segment_count, 'segment')} "
            f"in {self.elapsed_seconds * 1e3:.1f} ms"
        )
        if self.cut_bytes:
            text += f"; cut a torn tail of {self.cut_bytes} bytes ({self.cut_reason})"
            if self.quarantine_path:
                text += f", saved in {self.quarantine_path}"
        if self.removed_files:
            text += f"; removed {_counted(len(self.removed_files), 'unfinished file')}"
        return text


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


@dataclass(slots=True)
class TailState:
    """How the newest segment ended.

    Attributes:
        scanner: stands at the end of its last valid frame.
        cut_bytes: bytes behind that, which are to be cut: torn, or zeros.
        torn: they are not all zeros.
        clean: the last frame is the mark of a clean close.
    """

    scanner: Scanner
    cut_bytes: int
    torn: bool
    clean: bool


@dataclass(slots=True)
class Findings:
    """The verdict: the store as it can be recovered, and what that takes."""

    manifest: Manifest
    snapshots: tuple[SnapshotReader, ...]
    memtable: Memtable
    tail: TailState
    last_sequence: int
    unknown_files: list[str] = field(default_factory=list)
    frame_count: int = 0
    operation_count: int = 0


def look(fs: FileSystem, directory: str, cache: BlockCache, keyring: Keyring = NO_KEYS) -> Findings:
    """Read the store and reach a verdict; changes nothing.

    Args:
        keyring: the opener's; takes in the store's ring.
    Raises:
        FileNotFoundError: there is no manifest.
        FormatError: a format this version does not read.
        EncryptionError: the key does not fit the store.
        CorruptionError: damage to bytes that had been durable, or a missing file.
    Cost: a read of the manifest, two per snapshot, and of the whole unsettled log.
    """
    known = manifest.read(fs, directory, keyring)
    snapshots = open_snapshots(fs, directory, known, cache, keyring)
    log_directory = fs.join(directory, LOG_DIRECTORY)
    memtable = Memtable()
    findings = Findings(
        manifest=known,
        snapshots=snapshots,
        memtable=memtable,
        tail=None,  # type: ignore[arg-type]  # set below, before anyone sees it
        last_sequence=known.last_sequence,
    )
    if not known.segments:
        raise CorruptionError(
            "the manifest names no segment", path=fs.join(directory, manifest.NAME)
        )
    expected_first: int | None = None
    for number, first_sequence in enumerate(known.segments):
        newest = number == len(known.segments) - 1
        path = fs.join(log_directory, segment.file_name(first_sequence))
        scanner = open_segment(fs, path, known.store_id, keyring)
        if expected_first is not None and first_sequence != expected_first:
            raise CorruptionError(
                "this segment does not continue the one before it",
                path=path,
                offset_bytes=40,
                expected=f"sequence {expected_first}",
                found=f"sequence {first_sequence}",
            )
        replay(scanner, findings)
        tail = judge(scanner, lambda scanner=scanner: replay(scanner, findings))  # type: ignore[misc]
        # Zeros behind a seal hide nothing: they were written ahead, and a sync that failed has lost
        # their truncation.
        if not newest and (tail.torn or not scanner.sealed):
            raise damage(scanner, "a sealed segment ends before its seal")
        expected_first = scanner.next_sequence
        findings.tail = tail
    findings.last_sequence = max(known.last_sequence, findings.tail.scanner.next_sequence - 1)
    _find_unknown(fs, directory, findings)
    return findings


def open_snapshots(
    fs: FileSystem,
    directory: str,
    known: Manifest,
    cache: BlockCache,
    keyring: Keyring = NO_KEYS,
) -> tuple[SnapshotReader, ...]:
    """The snapshots a manifest names, newest first, footers checked."""
    readers = []
    for summary in known.snapshots:
        path = fs.join(directory, SNAPSHOT_DIRECTORY, snapshot.file_name(summary.snapshot_id))
        try:
            reader = SnapshotReader(fs, path, known.store_id, summary.snapshot_id, cache, keyring)
        except FileNotFoundError:
            raise missing(path, "snapshot") from None
        if reader.summary != summary:
            raise CorruptionError(
                "this snapshot is not the one the manifest names",
                path=path,
                expected=summary,
                found=reader.summary,
            )
        readers.append(reader)
    return tuple(readers)


def open_segment(
    fs: FileSystem, path: str, store_id: bytes, keyring: Keyring | None = NO_KEYS
) -> Scanner:
    """A scanner at the start of a segment; see ``Scanner``."""
    try:
        file = fs.open(path)
    except FileNotFoundError:
        raise missing(path, "segment") from None
    return Scanner(file, segment.read_header(file, store_id), keyring)


def missing(path: str, kind: str) -> CorruptionError:
    return CorruptionError(
        f"the manifest names this {kind}, and it is missing",
        path=path,
        expected=f"the {kind}",
        found="no file",
    )


def replay(scanner: Scanner, findings: Findings) -> None:
    """Apply the frames a scanner still has to the memtable.

    Raises:
        CorruptionError: a valid frame whose payload does not decode.
    """
    memtable = findings.memtable
    table = memtable.table
    decode = batch.decode
    commit = frame.COMMIT
    start = scanner.offset
    for found in scanner.frames():
        if found.kind == commit:
            try:
                operations = decode(found.payload)
                if len(operations) != 2 * found.operation_count:
                    raise ValueError(f"{len(operations) // 2} operations")
            except ValueError as error:
                raise CorruptionError(
                    f"a valid frame does not decode: {error}",
                    path=scanner.file.path,
                    offset_bytes=start,
                ) from None
            subject, item = operations[0], operations[1]
            if len(operations) == 2 and type(item) is bytes and memtable.newest_view < 0:
                table[subject] = (found.first_sequence, item, 0, None)
                memtable.bytes_used += len(found.payload) + ENTRY_OVERHEAD_BYTES
            else:
                memtable.prepare(operations, found.first_sequence).publish(memtable)
            findings.frame_count += 1
            findings.operation_count += found.operation_count
        start = found.end_offset


def judge(scanner: Scanner, read_on: Callable[[], None]) -> TailState:
    """The verdict on the end of a segment that was scanned to where its frames end.

    Args:
        read_on: takes in the frames that the scanner finds from here on. A live writer may have
            appended since the scan ended; only what stays bad when read again is damage.
    Raises:
        CorruptionError: what follows was durable and is damaged.
    """
    cut_bytes = max(scanner.file.size() - scanner.offset, 0)
    torn = cut_bytes > 0 and not scanner.ends_in_zeros()
    if torn:
        if scanner.sealed:
            raise damage(scanner, "a sealed segment does not end with its seal")
        promise = scanner.promised_past()
        if promise is not None:
            before = scanner.offset
            read_on()
            if scanner.offset > before:
                return judge(scanner, read_on)
            raise damage(
                scanner,
                f"a frame that was durable is damaged (the frame at byte {promise[0]} says that "
                f"everything up to byte {promise[1].synced_offset} was durable)",
            )
    clean = scanner.last is not None and scanner.last.kind == frame.CLOSE and not cut_bytes
    return TailState(scanner, cut_bytes, torn, clean)


def damage(scanner: Scanner, reason: str) -> CorruptionError:
    stop = scanner.stop or BadFrame("bytes follow the seal")
    return CorruptionError(
        f"{reason}: {stop.reason}",
        path=scanner.file.path,
        offset_bytes=scanner.offset,
        expected=stop.expected,
        found=stop.found,
    )


def _find_unknown(fs: FileSystem, directory: str, findings: Findings) -> None:
    """Files of ours that the manifest does not name: left over, to be removed or kept.

    Raises:
        CorruptionError: one of them holds commits, so the manifest is not the newest.
    """
    known = findings.manifest
    wanted = {segment.file_name(first) for first in known.segments}
    wanted |= {snapshot.file_name(s.snapshot_id) for s in known.snapshots}
    unknown = findings.unknown_files
    for name in (LOG_DIRECTORY, SNAPSHOT_DIRECTORY):
        inside = fs.join(directory, name)
        entries = fs.list(inside) if fs.is_directory(inside) else []
        if name == LOG_DIRECTORY and keep.TEMPORARY_NAME in entries:
            unknown.append(fs.join(inside, keep.TEMPORARY_NAME))
        for entry in entries:
            first_sequence = segment.parse_file_name(entry)
            ours = first_sequence is not None or snapshot.parse_file_name(entry) is not None
            if not ours or entry in wanted:
                continue
            if first_sequence is not None and first_sequence < known.segments[0]:
                if keep.NAME in entries:
                    continue  # settled, and to be kept
            elif first_sequence is not None and first_sequence > known.segments[-1]:
                _check_unused(fs, fs.join(inside, entry), directory)
            unknown.append(fs.join(inside, entry))
    if manifest.TEMPORARY_NAME in fs.list(directory):
        unknown.append(fs.join(directory, manifest.TEMPORARY_NAME))


def _check_unused(fs: FileSystem, path: str, directory: str) -> None:
    """Nothing is appended to a segment before a durable manifest names it, so one that is newer
    than the manifest's tail has a header at most."""
    file = fs.open(path)
    try:
        used = file.size() > segment.HEADER_BYTES
    finally:
        file.close()
    if used:
        raise CorruptionError(
            "the manifest is older than the log: it does not name a segment that holds commits",
            path=fs.join(directory, manifest.NAME),
            expected=f"a manifest that names {path}",
            found="an older one",
        )


def act(fs: FileSystem, directory: str, findings: Findings) -> tuple[Tail, RecoveryReport]:
    """Do what the verdict says; returns the tail, cut where it is valid, and the report.

    Raises:
        OSError: a write failed; the store is as it was or partly mended, and can be opened again.
        SyncError: something could not be made durable.
    Cost: four syncs; with a torn tail three more and a copy of it.
    """
    scanner = findings.tail.scanner
    path = scanner.file.path
    quarantine_path = None
    if findings.tail.torn:
        quarantine_path = _save(fs, directory, findings.tail)
    scanner.file.close()
    if not fs.is_directory(fs.join(directory, SNAPSHOT_DIRECTORY)):
        # An empty directory is easily lost where stores are copied, and nothing with it.
        fs.make_directory(fs.join(directory, SNAPSHOT_DIRECTORY))
    file = fs.open(path, writable=True)
    if not findings.tail.clean:
        # Also where nothing is seen behind it: a failed sync may have lost an earlier truncation.
        file.truncate(scanner.offset)
    _write_again(file, scanner)
    ensure_synced(file.sync)
    # The manifest's own name first: what it does not name may go only once it cannot go back.
    ensure_synced(lambda: fs.sync_directory(directory))
    for unknown in findings.unknown_files:
        fs.unlink(unknown)
    for name in (LOG_DIRECTORY, SNAPSHOT_DIRECTORY):
        synced_directory = fs.join(directory, name)
        ensure_synced(lambda name=synced_directory: fs.sync_directory(name))  # type: ignore[misc]
    report = RecoveryReport(
        clean=findings.tail.clean,
        segment_count=len(findings.manifest.segments),
        frame_count=findings.frame_count,
        operation_count=findings.operation_count,
        cut_bytes=findings.tail.cut_bytes if findings.tail.torn else 0,
        cut_reason=scanner.stop.reason if findings.tail.torn and scanner.stop else "",
        quarantine_path=quarantine_path,
        removed_files=tuple(findings.unknown_files),
        last_sequence=findings.last_sequence,
    )
    return Tail(file, scanner.header, scanner.offset, scanner.sealed), report


def _write_again(file: File, scanner: Scanner) -> None:
    """Write what is not known to be durable once more, in place, so that the next sync covers it.

    If the process before us stopped because a sync had failed, the kernel has marked the pages
    clean: they can be read, the next sync would succeed, and they are not on the medium.
    """
    offset = segment.HEADER_BYTES
    if scanner.last is not None:
        offset = max(offset, scanner.last.synced_offset)
    while offset < scanner.offset:
        data = file.read(offset, min(_COPY_BYTES, scanner.offset - offset))
        file.write(data, offset)
        offset += len(data)


def _save(fs: FileSystem, directory: str, tail: TailState) -> str:
    """Copy the bytes about to be cut into ``quarantine/``, durably."""
    scanner = tail.scanner
    inside = fs.join(directory, QUARANTINE_DIRECTORY)
    fs.make_directory(inside)
    ensure_synced(lambda: fs.sync_directory(directory))
    stem = f"{segment.file_name(scanner.header.first_sequence)}.{scanner.offset}"
    taken = set(fs.list(inside))
    name, number = f"{stem}.torn", 1
    while name in taken:
        # Left by an earlier recovery that was killed after saving: keep that evidence as well.
        name, number = f"{stem}.{number}.torn", number + 1
    path = fs.join(inside, name)
    copy = fs.create(path)
    try:
        done = 0
        while done < tail.cut_bytes:
            size = min(_COPY_BYTES, tail.cut_bytes - done)
            data = scanner.file.read(scanner.offset + done, size)
            if not data:
                break
            copy.write(data, done)
            done += len(data)
        ensure_synced(copy.sync)
    finally:
        copy.close()
    ensure_synced(lambda: fs.sync_directory(inside))
    return path
