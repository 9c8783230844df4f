"""Verify: reads every byte of a store again and holds it against its checksum. Writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from walkv.engine import files, keep, manifest, recovery, segment
from walkv.engine.catalog import Catalog
from walkv.engine.core import Engine
from walkv.engine.follower import Follower
from walkv.engine.manifest import Manifest
from walkv.engine.segment import Scanner
from walkv.engine.snapshot import BlockCache, SnapshotReader
from walkv.engine.vfs import FileSystem
from walkv.engine.watch import kept_sizes, log_bytes
from walkv.errors import CorruptionError, FormatError

Progress = Callable[[int, int], None]
"""Called with how much is done, and how much there is; mostly bytes."""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What ``verify`` found.

    Attributes:
        file_count: files checked.
        checked_bytes: bytes read and held against their checksums.
        problems: one error per damaged file: where, what was expected and what was found.
    """

    file_count: int
    checked_bytes: int
    problems: tuple[CorruptionError | FormatError, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.problems


def verify(
    engine: Engine | Follower,
    progress: Progress | None = None,
    max_bytes_per_second: float | None = None,
) -> VerifyReport:
    """Read every byte of the store again and hold it against its checksum.

    Goes on after damage, so that the report names every damaged file. Writers are not blocked.

    Args:
        max_bytes_per_second: read no faster, for the sake of others.
    Cost: reads the whole store once, past the cache.
    """
    engine.check()
    if max_bytes_per_second is not None and not max_bytes_per_second > 0:
        raise ValueError(f"max_bytes_per_second must be above 0, not {max_bytes_per_second}")
    fs = engine.fs
    log_directory = fs.join(engine.path, files.LOG_DIRECTORY)
    began = fs.monotonic()
    point = engine.pin()
    problems: list[CorruptionError | FormatError] = []
    catalog = engine.catalog
    total_bytes = sum(s.summary.size_bytes for s in point.sources.snapshots) + log_bytes(engine)
    total_bytes += sum(kept_sizes(engine).values())
    file_count = checked_bytes = 0

    def advance(size_bytes: int) -> None:
        nonlocal checked_bytes
        checked_bytes += size_bytes
        if progress is not None:
            progress(min(checked_bytes, total_bytes), total_bytes)
        if max_bytes_per_second is not None:
            due = began + checked_bytes / max_bytes_per_second
            fs.sleep(max(due - fs.monotonic(), 0.0))

    def check(path: str, action: Callable[[], None]) -> None:
        nonlocal file_count
        file_count += 1
        try:
            action()
        except (CorruptionError, FormatError) as error:
            problems.append(error)
        except FileNotFoundError:
            problems.append(recovery.missing(path, "file"))

    try:
        manifest_path = fs.join(engine.path, manifest.NAME)
        check(manifest_path, catalog.check_manifest)
        for snapshot in point.sources.snapshots:
            before, count = checked_bytes, len(problems)

            def check_snapshot(known: SnapshotReader = snapshot) -> None:
                _check_snapshot(fs, known, catalog, advance)

            check(snapshot.path, check_snapshot)
            if len(problems) > count and snapshot.summary not in _newest(engine).snapshots:
                problems.pop()  # merged and removed while we looked
            advance(max(snapshot.summary.size_bytes - (checked_bytes - before), 0))
        known = catalog.manifest
        for first_sequence in known.segments:
            name = segment.file_name(first_sequence)
            path = fs.join(log_directory, name)
            durable_offset = 0
            if isinstance(engine, Engine):
                durable_offset = engine.write_log.durable_offset_of(first_sequence)
            newest = first_sequence == known.segments[-1]
            count = len(problems)

            def check_segment(
                path: str = path, newest: bool = newest, durable_offset: int = durable_offset
            ) -> None:
                _check_segment(fs, path, catalog, newest, durable_offset, advance)

            check(path, check_segment)
            if len(problems) > count and first_sequence not in _newest(engine).segments:
                problems.pop()  # flushed and removed while we looked
        kept = [n for n in keep.kept_segments(fs, log_directory) if n < known.segments[0]]
        for first_sequence in kept:
            path = fs.join(log_directory, keep.kept_name(first_sequence))
            count = len(problems)

            def check_kept(path: str = path) -> None:
                _check_kept(fs, path, catalog, advance)

            check(path, check_kept)
            still_kept = keep.kept_segments(fs, log_directory)
            if len(problems) > count and first_sequence not in still_kept:
                problems.pop()  # removed while we looked
    finally:
        point.release()
    if progress is not None:
        progress(total_bytes, total_bytes)
    return VerifyReport(file_count, checked_bytes, tuple(problems))


def _newest(engine: Engine | Follower) -> Manifest:
    """The manifest as it is now; a writer may have replaced what a reader knows."""
    known = engine.catalog.manifest
    if isinstance(engine, Follower):
        with suppress(OSError, CorruptionError, FormatError):
            return manifest.look(engine.fs, engine.path)
    return known


def _check_snapshot(
    fs: FileSystem, known: SnapshotReader, catalog: Catalog, progress: Callable[[int], None]
) -> None:
    # Opened anew: the descriptor in use would not tell that the file was replaced or removed.
    summary = known.summary
    store_id, keyring = catalog.manifest.store_id, catalog.keyring
    reader = SnapshotReader(fs, known.path, store_id, summary.snapshot_id, BlockCache(0), keyring)
    try:
        if reader.summary != summary:
            raise CorruptionError(
                "this snapshot is not the one the manifest names",
                path=known.path,
                expected=summary,
                found=reader.summary,
            )
        reader.check(progress)
    finally:
        reader.close()


def _check_segment(
    fs: FileSystem,
    path: str,
    catalog: Catalog,
    newest: bool,
    durable_offset: int,
    progress: Callable[[int], None],
) -> None:
    scanner = recovery.open_segment(fs, path, catalog.manifest.store_id, catalog.keyring)

    def read_on() -> None:
        _read_frames(scanner, progress)

    try:
        read_on()
        if not newest and not (scanner.sealed and scanner.ends_in_zeros()):
            raise recovery.damage(scanner, "a sealed segment does not end with its seal")
        # A live writer may be in the middle of a frame; only what was durable counts.
        recovery.judge(scanner, read_on)
        if scanner.offset < durable_offset:
            raise recovery.damage(scanner, "a frame that is durable is damaged")
    finally:
        scanner.file.close()


def _read_frames(scanner: Scanner, progress: Callable[[int], None]) -> None:
    start = scanner.offset
    for found in scanner.frames():
        progress(found.end_offset - start)
        start = found.end_offset


def _check_kept(
    fs: FileSystem, path: str, catalog: Catalog, progress: Callable[[int], None]
) -> None:
    # Whether it ends where the next one begins is not asked: no read depends on it, and where an
    # opener kept nothing there is a gap.
    scanner = recovery.open_segment(fs, path, catalog.manifest.store_id, catalog.keyring)
    try:
        _read_frames(scanner, progress)
        if not (scanner.sealed and scanner.ends_in_zeros()):
            raise recovery.damage(scanner, "a kept segment does not end with its seal")
    finally:
        scanner.file.close()
