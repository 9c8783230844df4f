"""Saves all that can be read of a damaged store into a new one."""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

from walkv.engine import files, snapshot
from walkv.engine.inspect import Progress
from walkv.engine.keyring import Key, Keyring
from walkv.engine.opening import given_secret
from walkv.engine.ranges import NO_RANGES, RangeSet
from walkv.engine.store import open as open_store
from walkv.engine.vfs import OsFileSystem
from walkv.errors import CodecError, FormatError
from walkv.namespaces.base import Declaration
from walkv.ops import indexes
from walkv.ops.repairing import medium, merging, snapshots, sources, targets
from walkv.ops.repairing.medium import Medium
from walkv.ops.repairing.merging import Deletions, LogEntries
from walkv.ops.repairing.report import Damage, FileReport, RepairReport
from walkv.ops.repairing.segments import SegmentFile
from walkv.ops.repairing.snapshots import Survey
from walkv.ops.repairing.sources import Source
from walkv.ops.repairing.targets import Target

_PASSES = 3
"""Reading everything once, writing it, checking it."""


def repair(
    source: Any,
    target: Any,
    *,
    key: Key | None = None,
    manifest: Any = None,
    declarations: Iterable[Declaration[Any]] = (),
    progress: Progress | None = None,
) -> RepairReport:
    """Save every entry that can still be read of a store into a new store.

    The source is only read, so it may be on a read-only medium, and stays as evidence. The target
    appears once it is whole and checked; a repair that was interrupted or killed leaves none.

    Of a key the newest version wins that could be read. Where a deletion was lost, what it had
    deleted is back. Entries, their sequences and expiry stay; what was deleted or replaced for good
    does not. Kept segments are used where they have what a snapshot has lost. Indexes of records,
    and the registry of namespaces, are made to agree with the records that were saved.

    Args:
        source: the directory of the damaged store. No writer may have it open.
        target: the directory to make; it must not exist, or be empty.
        key: of an encrypted store, as ``walkv.open`` takes it, the variable of the environment
            included. The target is encrypted under the same key, and so is what is written on the
            way. What the report says of keys of entries is not.
        manifest: a file, the MANIFEST of a backup that was restored or of another copy of the same
            store. Where the store is encrypted and its own manifest is lost, the wrapped data keys
            are taken from it, and without one there are none. Nothing else is.
        declarations: of namespaces that the application has declared itself, as they were when
            their records were written. They are used where the registry of namespaces is lost; see
            ``walkv.ops.rebuild_registry``.
        progress: called with work done and work in all.
    Returns:
        What was saved and what is missing, by file, place and sequence.
    Raises:
        FileNotFoundError: there is no store at ``source``.
        FileExistsError: ``target`` is not free.
        LockedError: a writer has the source open, or another repair writes to the target.
        EncryptionError: the key does not fit the store, or, where ``reason`` is ``"lost"``, the
            wrapped data keys are gone with the manifest.
        FormatError: no store, or of a format this version does not read.
        OSError: a file may not be read, or there is no space for the target, which takes about as
            much as the source without what it has replaced.
    Cost: reads the source twice, and writes and reads the target once. Memory of a memtable, and
        16 bytes a page of the snapshots.
    Durability: on return the target is durable.
    """
    fs = Medium()
    directory, made = (fs.absolute(os.fspath(path)) for path in (source, target))
    _check_places(fs, directory, made)
    copy = None if manifest is None else fs.absolute(os.fspath(manifest))
    with medium.held(directory):
        found = sources.look(fs, directory, Keyring(given_secret(key)), copy)
        with targets.building(made) as building:
            return _Repair(found, made, building, tuple(declarations), progress).run()


def _check_places(fs: Medium, directory: str, target: str) -> None:
    if not os.path.lexists(directory):
        raise sources.not_found(directory)
    if not fs.is_directory(directory):
        raise FormatError(
            f"{directory}: this is a file, and a walkv store is a directory", path=directory
        )
    real, made = os.path.realpath(directory), os.path.realpath(target)
    if made == real or made.startswith(real + os.sep):
        raise ValueError(
            f"{target}: a repair never changes the damaged store; choose a target outside of it"
        )


class _Repair:
    def __init__(
        self,
        source: Source,
        made: str,
        building: Target,
        declarations: tuple[Declaration[Any], ...],
        progress: Progress | None,
    ) -> None:
        self._made = made
        self._building = building
        self._declarations = declarations
        self._progress = progress
        self._done_bytes = 0
        self._source = source
        known = source.manifest if source.trusted else None
        self._named = {} if known is None else {s.snapshot_id: s for s in known.snapshots}
        self._ages: dict[int, int] = {}
        self._lasts: dict[int, int] = {}
        self._made_of: dict[tuple[int, int], bool] = {}
        pages = sum(each.pages.size for each in source.snapshots)
        logs = sum(each.size for each in (*source.segments, *source.history))
        self._pass_bytes = max(pages + logs, 1)

    def _advance(self, size_bytes: int) -> None:
        self._done_bytes += size_bytes
        if self._progress is not None:
            total = _PASSES * self._pass_bytes
            self._progress(min(self._done_bytes, total), total)

    def _reach(self, passes: float) -> None:
        self._advance(int(passes * self._pass_bytes) - self._done_bytes)

    def run(self) -> RepairReport:
        source = self._source
        surveys = [
            snapshots.survey(number, path, pages, self._advance)
            for number, path, pages in source.snapshots
        ]
        surveys = self._without_inputs(self._by_age(surveys))
        gap = self._missing_snapshot(surveys)
        source.damages += gap
        lost = any(d.lost for d in source.damages if d.part == "snapshot")
        wanted = _lost_keys(surveys, everything=lost)
        secret = source.keyring.secret
        scratch = self._building.scratch
        log = LogEntries(OsFileSystem(), scratch, encrypted=secret is not None)
        covered = None
        if wanted:
            covered = self._read_history(log, wanted)
            log.deletions += self._dated_ranges(surveys)
        self._read_segments(log)
        self._reach(1)
        deletions = Deletions(log.deletions)
        runs = [(each.entries(), self._hidden(surveys, at)) for at, each in enumerate(surveys)]
        entries = merging.merged(log.runs(), runs, deletions)
        highest = self._highest(surveys)
        step = self._stepper(surveys, log)
        created_ns = None if source.manifest is None else source.manifest.created_ns
        count = self._building.write(entries, highest, created_ns, secret, step)
        self._reach(2)
        damages = self._damages(surveys, covered, gap)
        mended, disagreements = self._check(lossy=any(damage.lost for damage in damages))
        self._reach(_PASSES)
        return RepairReport(
            source=source.directory,
            target=self._made,
            files=(*self._files(surveys), *source.files),
            damages=tuple(damages),
            warnings=tuple(source.warnings),
            batch_count=log.batch_count,
            operation_count=log.operation_count,
            entry_count=count,
            last_sequence=highest,
            mended=tuple(mended),
            disagreements=tuple(disagreements),
        )

    # -- snapshots -------------------------------------------------------------------------------

    def _is_made_of(self, newer: Survey, older: Survey) -> bool:
        """Whether a snapshot was merged from an older one: they never were a store together.

        Snapshots of a store have sequences apart from each other, and no entry in common.
        """
        pair = newer.number, older.number
        if pair not in self._made_of:
            both_named = set(pair) <= self._named.keys()
            overlap = 0 < newer.first_sequence <= older.last_sequence
            self._made_of[pair] = not both_named and overlap and _share_an_entry(newer, older)
        return self._made_of[pair]

    def _by_age(self, surveys: list[Survey]) -> list[Survey]:
        """Newest first: as the manifest says, else by their sequences, and where those say nothing,
        by their ids."""
        self._lasts = {each.number: each.last_sequence for each in surveys}
        for number, summary in self._named.items():
            self._lasts[number] = max(summary.last_sequence, self._lasts.get(number, 0))
        ages = {number: -at for at, number in enumerate(self._named)}
        if not self._lasts.keys() <= ages.keys():
            before, by_sequence = 0, []
            for number in sorted(self._lasts):
                before = self._lasts[number] or before
                by_sequence.append((before, number))
            ages = {number: age for age, (_, number) in enumerate(sorted(by_sequence))}
        self._ages = ages
        return sorted(surveys, key=lambda each: ages[each.number], reverse=True)

    def _missing_snapshot(self, surveys: list[Survey]) -> list[Damage]:
        """What only a manifest would name: snapshots that are not there.

        A log that begins in the middle goes on from a snapshot that ends just before it.
        """
        source = self._source
        if source.trusted or not source.segments:
            return []
        first = source.segments[0].first_sequence
        footers = [each.pages.footer() for each in source.snapshots]
        known = [footer.last_sequence for footer in footers if footer is not None]
        last = max([*known, *(each.last_sequence for each in surveys)], default=0)
        if last + 1 < first:
            reason = "the log goes on from a snapshot, and there is none that reaches up to it"
            return [
                Damage(
                    files.SNAPSHOT_DIRECTORY,
                    "snapshot",
                    reason,
                    first_sequence=last + 1,
                    last_sequence=first - 1,
                )
            ]
        if first > 1:
            source.warnings.append(
                "without the manifest it is not known whether a snapshot is missing"
            )
        return []

    def _without_inputs(self, surveys: list[Survey]) -> list[Survey]:
        """Snapshots without those that a whole newer one was merged from."""
        kept: list[Survey] = []
        for each in surveys:
            newer = next((n for n in kept if n.whole and self._is_made_of(n, each)), None)
            if newer is None:
                kept.append(each)
                continue
            size_bytes = each.file.size
            self._source.files.append(FileReport(each.path, size_bytes, "not used"))
            self._source.warnings.append(
                f"{each.path} was not used: {newer.path} was made of it, and is whole"
            )
        return kept

    def _hidden(self, surveys: list[Survey], at: int) -> RangeSet:
        """What newer snapshots have deleted from one."""
        hidden = NO_RANGES
        for newer in surveys[:at]:
            if not self._is_made_of(newer, surveys[at]):
                hidden = hidden.union(newer.ranges)
        return hidden

    def _dated_ranges(self, surveys: list[Survey]) -> Iterator[tuple[int, bytes, bytes | None]]:
        """Deleted ranges of snapshots as those of a log: not earlier than what is older than they.

        What kept segments have from before must not come back where the deletion itself is lost.
        """
        for each in surveys:
            before = self._last_before(self._ages[each.number])
            yield from ((before, start, stop) for start, stop in each.ranges)

    def _last_before(self, age: int) -> int:
        """The highest sequence that is known of the snapshots older than one."""
        ages, lasts = self._ages, self._lasts
        return max((last for other, last in lasts.items() if ages[other] < age), default=0)

    # -- logs ------------------------------------------------------------------------------------

    def _read_segments(self, log: LogEntries) -> None:
        for each in self._source.segments:
            self._read(each, log, None)

    def _read(self, segment: SegmentFile, log: LogEntries, wanted: RangeSet | None) -> None:
        before = log.operation_count
        for commit in segment.commits():
            log.add(commit, wanted)
        damaged = any(damage.part != "torn tail" for damage in segment.damages)
        state = "damaged" if damaged else "whole"
        saved = log.operation_count - before
        self._source.files.append(FileReport(segment.path, segment.size, state, saved))
        self._advance(segment.size)

    def _read_history(self, log: LogEntries, wanted: RangeSet) -> int | None:
        """Take from settled segments what snapshots have lost.

        Returns the sequence from which on they are without a gap up to the log, or None.
        """
        source = self._source
        for each in source.history:
            self._read(each, log, wanted)
            each.damages = [replace(damage, lost=False) for damage in each.damages]
        if not source.segments:
            return None
        covered, expected = None, source.segments[0].first_sequence
        for each in reversed(source.history):
            if each.damages or each.next_sequence != expected:
                break
            covered = expected = each.first_sequence
        return covered

    # -- the report ------------------------------------------------------------------------------

    def _files(self, surveys: list[Survey]) -> list[FileReport]:
        return [
            FileReport(
                each.path,
                each.file.size,
                "damaged" if each.damages else "whole",
                each.saved_count,
                each.expected_count,
            )
            for each in surveys
        ]

    def _highest(self, surveys: list[Survey]) -> int:
        source = self._source
        known = [each.last_sequence for each in surveys]
        known += [each.next_sequence - 1 for each in (*source.segments, *source.history)]
        damages = [*source.damages, *(d for each in source.segments for d in each.damages)]
        known += [d.last_sequence or d.first_sequence or 0 for d in damages]
        if source.manifest is not None:
            known.append(source.manifest.last_sequence)
        return max(known, default=0)

    def _damages(
        self, surveys: list[Survey], covered: int | None, gap: list[Damage]
    ) -> list[Damage]:
        """All damages, those of snapshots with the sequences that they may have cost."""
        source = self._source
        found = []
        for damage in source.damages:
            if damage in gap and covered is not None and covered <= (damage.first_sequence or 0):
                reason = f"{damage.reason}; what it held was saved from kept segments"
                damage = replace(damage, lost=False, reason=reason)
            number = snapshot.parse_file_name(damage.path.rpartition("/")[2])
            lost = damage.lost and number is not None
            found.append(self._bounded(damage, number or 0, surveys, covered) if lost else damage)
        for each in surveys:
            for damage in each.damages:
                lost = damage.lost and not self._is_moot(damage, each)
                damage = replace(damage, lost=lost)
                found.append(self._bounded(damage, each.number, surveys, covered))
        for opened in (*source.history, *source.segments):
            found += opened.damages
        return found

    def _is_moot(self, damage: Damage, survey: Survey) -> bool:
        """Whether deleted ranges were lost, and there is nothing that they could have hidden."""
        if damage.part != "deleted ranges":
            return False
        return min(self._ages.values()) == self._ages[survey.number]

    def _bounded(
        self, damage: Damage, number: int, surveys: list[Survey], covered: int | None
    ) -> Damage:
        if not damage.lost:
            return damage
        source = self._source
        ages, lasts = self._ages, self._lasts
        age = ages.get(number, -1)
        newer = [each.first_sequence for each in surveys if ages[each.number] > age]
        first = 1 + self._last_before(age)
        bounds = [sequence - 1 for sequence in newer if sequence]
        if number in self._named and damage.part != "deleted ranges":
            bounds.append(lasts[number])
        if source.segments:
            bounds.append(source.segments[0].first_sequence - 1)
        last = min(bounds, default=None)
        if last is not None and last < first:
            first = 1
        if covered is None:
            return replace(damage, first_sequence=first, last_sequence=last)
        if first >= covered:
            reason = f"{damage.reason}; what it held was saved from kept segments"
            return replace(damage, lost=False, reason=reason)
        last = covered - 1 if last is None else min(last, covered - 1)
        return replace(damage, first_sequence=first, last_sequence=last)

    # -- the end ---------------------------------------------------------------------------------

    def _stepper(self, surveys: list[Survey], log: LogEntries) -> Callable[[], None]:
        total = sum(each.saved_count for each in surveys) + log.operation_count
        share = self._pass_bytes * merging.SLICE // max(total, merging.SLICE)
        return lambda: self._advance(share)

    def _check(self, *, lossy: bool) -> tuple[list[str], list[str]]:
        """Make registry and indexes agree with the records, then read the new store again."""
        mended: list[str] = []
        disagreements: list[str] = []
        secret = self._source.keyring.secret
        with open_store(self._building.directory, create=False, key=secret) as store:
            try:
                if lossy:
                    self._source.warnings += indexes.rebuild_registry(store, self._declarations)
                mended += indexes.rebuild_indexes(store)
                disagreements += indexes.verify_indexes(store)
            except (CodecError, FormatError) as error:
                disagreements.append(f"the indexes could not be checked: {error}")
            store.sync()
            checked = store.verify()
        if not checked.ok:
            raise checked.problems[0]
        return mended, disagreements


def _share_an_entry(one: Survey, other: Survey) -> bool:
    """Whether two snapshots have the same version of a key."""
    versions = heapq.merge(
        ((key, sequence) for key, _, sequence in one.entries()),
        ((key, sequence) for key, _, sequence in other.entries()),
    )
    return any(version == following for version, following in pairwise(versions))


def _lost_keys(surveys: list[Survey], *, everything: bool) -> RangeSet:
    """The keys of which snapshots may have lost something."""
    keys = RangeSet((b"",), (None,)) if everything else NO_RANGES
    for each in surveys:
        for damage in each.damages:
            if damage.lost:
                keys = keys.adding(damage.first_key or b"", damage.stop_key)
    return keys
