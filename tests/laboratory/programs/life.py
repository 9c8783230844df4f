"""Rules for what happens to a store: it is closed, followed, stopped, and killed."""

from __future__ import annotations

import asyncio
import errno
from datetime import UTC, datetime
from random import Random
from typing import Any, Final

import hypothesis.strategies as st
from hypothesis.stateful import precondition

import walkv
from tests.laboratory.programs.rules import DELETES, PUTS, raises
from tests.laboratory.programs.world import (
    CHOICES,
    FACES,
    KEYS,
    PATH,
    POLICIES,
    STORE_KEYS,
    Fuse,
    World,
    collect,
    pick_disks,
    step,
)
from walkv import (
    Change,
    ClosedError,
    DeleteRange,
    HistoryLostError,
    LockedError,
    Put,
    ReadOnlyError,
    Store,
    StoreFailedError,
    WriteBack,
)
from walkv.engine import frame
from walkv.engine.policies import SyncPolicy
from walkv.testing import Call, Fault, Operation

CODES: Final = [errno.EIO, errno.ENOSPC, errno.EDQUOT]
SEEDS = st.integers(0, 1 << 16)
MEMBERS = st.lists(
    st.tuples(st.lists(st.one_of(PUTS, DELETES), max_size=2), CHOICES, FACES),
    min_size=2,
    max_size=5,
)


def in_order(changes: list[Change]) -> bool:
    """Whether batches follow each other, and count their operations."""
    ends = [0, *(change.last_sequence for change in changes)]
    return all(
        before < change.first_sequence
        and change.last_sequence - change.first_sequence + 1 == len(change.operations)
        for before, change in zip(ends, changes, strict=False)
    )


def replay(changes: list[Change], now_ms: int) -> dict[bytes, bytes]:
    """What a store holds that has taken in these batches."""
    held: dict[bytes, Put] = {}
    for change in changes:
        for operation in change.operations:
            if isinstance(operation, Put):
                held[operation.key] = operation
            elif isinstance(operation, DeleteRange):
                start, stop = operation
                for key in [k for k in held if start <= k and (stop is None or k < stop)]:
                    del held[key]
            else:
                held.pop(operation.key, None)
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    alive = (p for p in held.values() if p.expires_at is None or p.expires_at > now)
    return {put.key: put.value for put in alive}


class Upkeep(World):
    """What an operator does."""

    @step(seconds=st.sampled_from([0.1, 1.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @step(seconds=st.sampled_from([-30.0, -1.0, 60.0]))
    def clock_jumps(self, seconds: float) -> None:
        _ = self.live()  # the model learns of the time it was
        self.clock.wall_ns += round(seconds * 1e9)

    @step(dangerous=True, tasks=FACES)
    def sync(self, tasks: bool) -> None:
        self.face(tasks).sync()
        self.all_durable()
        with self.looking():
            assert self.store.stats().unsynced_bytes == 0

    @step(dangerous=True, tasks=FACES)
    def compact(self, tasks: bool) -> None:
        self.face(tasks).compact()
        self.all_durable()
        with self.looking():
            stats = self.store.stats()
            assert stats.memtable_entries == stats.tombstone_count == 0
            assert stats.snapshot_count <= 1
            live = len(self.live())
            assert live <= stats.snapshot_entries
            if not self.expiries:
                assert stats.snapshot_entries == live

    @precondition(lambda self: self.key is not None)
    @step(dangerous=True, tasks=FACES, turn=st.integers(0, 1), rotate=FACES)
    def rekey(self, tasks: bool, turn: int, rotate: bool) -> None:
        if self.reader is not None:
            self.reader.close()
            self.reader = None
        self.face(tasks).rekey(STORE_KEYS[turn], rotate=rotate)
        self.key, self.other_key = STORE_KEYS[turn], STORE_KEYS[1 - turn]
        if rotate:
            self.all_durable()

    @step(tasks=FACES)
    def verify(self, tasks: bool) -> None:
        seen: list[tuple[int, int]] = []
        report = self.face(tasks).verify(
            lambda done, total: seen.append((done, total)), max_bytes_per_second=1e12
        )
        assert report.ok, report.problems
        assert report.file_count >= 2
        assert seen == sorted(seen), "progress goes back"
        assert seen[-1][0] == seen[-1][1]
        assert self.store.verify().checked_bytes == report.checked_bytes

    @step(tasks=FACES)
    def numbers(self, tasks: bool) -> None:
        stats = self.face(tasks).stats()
        with self.looking():
            disk = self.disk.visible()
        assert (stats.path, stats.read_only) == (PATH, False)
        assert stats.sync_policy == str(self.policy)
        assert stats.memtable_budget_bytes == self.memtable_bytes
        assert stats.cache_bytes <= stats.cache_budget_bytes == 20_000
        assert stats.disk_bytes == stats.snapshot_bytes + stats.log_bytes + stats.kept_bytes
        files = {path: len(data) for path, data in disk.files.items()}
        assert stats.snapshot_bytes <= sum(s for p, s in files.items() if p.endswith(".snap"))
        assert stats.log_bytes <= sum(s for p, s in files.items() if p.endswith(".wal"))
        assert stats.memtable_entries + stats.snapshot_entries >= len(self.live())
        assert stats.last_sequence >= max(self.versions.values(), default=0)
        assert stats.sync_count >= self.recent_sync_count
        self.recent_sync_count = stats.sync_count
        assert not stats.background_error or self.fs.raised

    @step(tasks=FACES, back=st.integers(0, 40))
    def feed(self, tasks: bool, back: int) -> None:
        """The log, of which all is kept, holds what the store holds; and any end of it the rest."""
        face = self.face(tasks)
        found = list(face.changes(durable=False))
        assert in_order(found)
        with self.looking():
            unsure = self.model.returning(now_ms=self.now_ms)
            live = self.live()
            expected = {key: value for key, value in live.items() if key not in unsure}
            replayed = replay(found, self.now_ms)
            assert {k: v for k, v in replayed.items() if k not in unsure} == expected
        durable = list(face.changes())
        assert found[: len(durable)] == durable
        with self.looking():
            # What is left out is what is not synced; one mark may be among that.
            rest_bytes = sum(change.size_bytes for change in found[len(durable) :])
            mark_bytes = self.store.stats().unsynced_bytes - rest_bytes
            assert mark_bytes in (0, frame.HEADER_BYTES + 1)
        since = max(face.last_sequence - back, 0)
        rest = [change for change in found if change.last_sequence > since]
        assert list(face.changes(since, durable=False)) == rest
        following = face.changes(since, follow=True, durable=False)
        assert [next(following) for _ in rest] == rest
        following.close()
        assert raises(HistoryLostError, lambda: list(face.changes(face.last_sequence + 1)))

    @step(tasks=FACES)
    def attributes(self, tasks: bool) -> None:
        face = self.face(tasks)
        assert (face.path, face.closed) == (PATH, False)
        assert face.health().status in (("ok", "degraded") if self.fs.raised else ("ok",))
        assert face.recovery_report == self.store.recovery_report
        assert face.refresh() is False
        assert self.tasks.as_sync().engine is self.store.engine
        with self.looking():
            assert raises(LockedError, walkv.open, PATH, filesystem=self.fs).pid == 1
            raises(LockedError, lambda: self.loop.run(walkv.aopen(PATH, filesystem=self.fs)))
            options = {"filesystem": self.fs, "create": False}
            assert raises(FileNotFoundError, walkv.open, "/no", **options).filename == "/no"

    @step(
        dangerous=True,
        tasks=FACES,
        policy=st.sampled_from([None, *POLICIES]),
        by_tasks=FACES,
        power=FACES,
    )
    def reopen(self, tasks: bool, policy: SyncPolicy | None, by_tasks: bool, power: bool) -> None:
        """Close well, and open again, perhaps with another policy, or after a power failure."""
        views, number = self.views, self.model.begun
        raised = len(self.fs.raised)
        try:
            self.close(tasks)
        except StoreFailedError as error:
            self.excuse(error)
            self.reopen_failed()
            return
        self.all_durable()
        if power and self.moment is None:
            self.after_power_failure(pick_disks(self.disk, number), number)
            return
        for view, _ in views:
            raises(ClosedError, view.get, b"a")
        versions = self.versions
        self.gone()
        self.errors_excused = raised
        self.policy = policy or self.policy
        self.by_tasks = by_tasks
        self.least = number
        self.open()
        self.versions = versions
        # A rotation that a fault cut short leaves a seal, and no mark that says "closed".
        assert self.fs.raised or self.store.recovery_report.clean

    def close(self, tasks: bool) -> None:
        face = self.face(tasks)
        try:
            with face:
                pass
        finally:
            assert face.closed, "closed, whatever it raised"
            face.close()
            self.face(not tasks).close()
            for use in (face.get, face.delete):
                raises(ClosedError, use, b"a")
            raises(ClosedError, face.put, b"a", b"never")
            raises(ClosedError, face.sync)
            raises(ClosedError, face.stats)
            raises(ClosedError, lambda: list(face.scan()))
            raises(ClosedError, self.store.view)

    def reopen_failed(self) -> None:
        """Close a store that a fault has stopped, see to the disk, open it again."""
        try:
            self.store.close()
        except StoreFailedError as error:
            self.excuse(error)
        self.fs.heal()
        if self.reader is not None:
            self.reader.close()
            self.reader = None
        least = self.returned
        self.gone()
        self.recover(least)


class Follower(World):
    """Another process reads."""

    @step(tasks=FACES)
    def follow(self, tasks: bool) -> None:
        before = self.disk.operation_count
        if self.reader is None:
            self.reader = self.with_key(lambda: self._reader(tasks))
        reader, self.reader = self.reader, None
        reader.refresh()
        self.reader, self.reader_number = reader, self.model.begun
        found = dict(self.reader.scan())
        assert found == self.live(self.reader)
        assert list(self.reader.scan(reverse=True)) == list(found.items())[::-1]
        assert not self.reader.refresh()
        assert self.disk.operation_count == before, "a read-only store has written"
        with self.looking():
            stats = self.reader.stats()
            assert stats.read_only
            assert stats.last_sequence == self.store.stats().last_sequence
            assert self.reader.verify().ok
            assert self.reader.health().status == "ok"
            assert list(self.reader.changes()) == list(self.store.changes(durable=False))

    def _reader(self, tasks: bool) -> Store:
        options: dict[str, Any] = {"read_only": True, "filesystem": self.fs, "key": self.key}
        if tasks:
            return self.loop.run(walkv.aopen(PATH, **options)).as_sync()
        return walkv.open(PATH, **options)

    @precondition(lambda self: self.reader is not None)
    @step()
    def reader_refuses(self) -> None:
        reader: Any = self.reader
        raises(ReadOnlyError, reader.put, b"a", b"never")
        raises(ReadOnlyError, reader.delete, b"a")
        raises(ReadOnlyError, reader.batch)
        raises(ReadOnlyError, reader.transaction)
        raises(ReadOnlyError, reader.sync)
        raises(ReadOnlyError, reader.compact)
        reader.close()
        reader.close()
        raises(ClosedError, reader.refresh)
        self.reader = None


class Tasks(World):
    """Several commits by tasks at once, of which some are given up."""

    @step(
        dangerous=True,
        members=MEMBERS,
        seed=SEEDS,
        turns=st.integers(0, 6),
        sync_fails=st.sampled_from([False, False, False, True]),
    )
    def together(
        self,
        members: list[tuple[list[Operation], Any, bool]],
        seed: int,
        turns: int,
        sync_fails: bool,
    ) -> None:
        if sync_fails:
            self.fs.heal()
            self.fs.fault = Fault(lambda call: call.operation == "sync_data")
        group = [
            _Member(number, operations, policy, given_up)
            for number, (operations, policy, given_up) in enumerate(members)
        ]
        self.loop.chooser = Random(seed)
        restore = self._listen(group)
        try:
            results = self.loop.run(self._run(group, turns))
        finally:
            self.loop.chooser = None
            self.due = []  # the order in which they looked at the clock is not known
            restore()
        errors = [each for each in results if isinstance(each, Exception)]
        for error in errors:
            if not isinstance(error, (OSError, StoreFailedError)):
                raise error
            self.excuse(error)
        for member, result in zip(group, results, strict=True):
            assert member.given_up or isinstance(result, (int, Exception)), "it was not given up"
            if isinstance(result, int):
                assert result == member.sequence, "the version is not that of the commit"

    async def _run(self, group: list[_Member], turns: int) -> list[Any]:
        tasks = [asyncio.ensure_future(self._commit(member)) for member in group]
        for _ in range(turns):
            await asyncio.sleep(0)
        for member, task in zip(group, tasks, strict=True):
            if member.given_up:
                task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await self.loop.settle()
        return results

    async def _commit(self, member: _Member) -> int:
        operations = member.operations
        if len(operations) == 1:
            sequence = await self.tasks.put(member.marker, b"here", sync=member.policy)
        else:
            batch = self.tasks.batch(member.policy)
            collect(batch, operations)
            found = await batch.commit()
            assert found is not None
            sequence = found
        if not isinstance(member.policy or self.policy, WriteBack):
            engine: Any = self.store.engine
            assert engine.write_log.durable >= member.end, "acknowledged before its sync"
        if not self.failed:
            self.made(member.number, member.policy, alone=False)
        return sequence

    def _listen(self, group: list[_Member]) -> Any:
        """Note in the model when the engine begins with each commit: only it knows their order."""
        engine: Any = self.store.engine
        append, append_one = engine.append, engine.append_one
        by_marker = {member.marker: member for member in group}

        def begun(marker: bytes, call: Any) -> Any:
            member = by_marker[marker]
            member.number = self.begun(member.operations)
            try:
                end, member.sequence = call()
                member.end = end
            except StoreFailedError:
                raise
            except BaseException:
                self.model.refuse(member.number)
                raise
            self.note_versions(member.operations, member.sequence)
            return end, member.sequence

        engine.append = lambda operations, check=None: begun(
            operations[-2], lambda: append(operations, check)
        )
        engine.append_one = lambda key, value: begun(key, lambda: append_one(key, value))

        def restore() -> None:
            del engine.append, engine.append_one

        return restore


class _Member:
    """A commit among others. It ends with a marker of its own, by which the engine's call is told.

    Attributes:
        number: of the commit in the model, once begun.
        sequence: of its last operation, once made.
        end: its position in the log, once made.
    """

    def __init__(
        self, index: int, operations: list[Operation], policy: SyncPolicy | None, given_up: bool
    ) -> None:
        self.marker = b"~%d" % index
        self.operations = [*operations, ("put", self.marker, b"here", None)]
        self.policy = policy
        self.given_up = given_up
        self.number = 0
        self.sequence = 0
        self.end = 0


class Deaths(World):
    """Faults and crashes."""

    @step(nth=st.integers(1, 25), kind=st.sampled_from(["power", "kill", "look"]), seed=SEEDS)
    def fuse_is_lit(self, nth: int, kind: str, seed: int) -> None:
        """Something will happen in the middle of a later rule."""
        self.fuse = Fuse(kind, nth, seed)

    @step(failed_too=True, seed=SEEDS, nth=st.integers(0, 30))
    def lose_power(self, seed: int, nth: int) -> None:
        """The power fails now, and perhaps once more during the recovery."""
        disks = pick_disks(self.disk, seed)
        self.fuse = Fuse("power", nth, seed) if nth else None
        self.after_power_failure(disks, self.model.acknowledged)

    @step(failed_too=True, evicted=FACES, nth=st.integers(0, 30))
    def kill(self, evicted: bool, nth: int) -> None:
        # What failed syncs have lost is gone once the page cache lets go of it.
        least = self.model.acknowledged if evicted and self.fs.raised else self.returned
        twin = self.disk.after_kill(evicted=evicted)
        self.fuse = Fuse("kill", nth, nth) if nth else None
        self.after_kill(twin, least)

    @step(
        nth=st.integers(0, 12),
        code=st.sampled_from(CODES),
        forever=FACES,
        short=FACES,
        of=st.sampled_from(["call", "write", "sync"]),
    )
    def fault_is_ordered(self, nth: int, code: int, forever: bool, short: bool, of: str) -> None:
        """A call will fail: the n-th from now on, or one of the next writes, or syncs."""
        self.fs.heal()
        self.errors_excused = len(self.fs.raised)
        left = nth if of == "call" else nth % 4

        def begins(call: Call) -> bool:
            nonlocal left
            if of != "call" and not call.operation.startswith(of):
                return False
            left -= 1
            return left < 0

        code = errno.EIO if of == "sync" else code
        self.fs.fault = Fault(begins, code, forever=forever, short=short)

    @precondition(lambda self: self.fs.fault is not None)
    @step()
    def heal(self) -> None:
        self.fs.heal()
        self.errors_excused = len(self.fs.raised)

    @precondition(lambda self: self.failed)
    @step(failed_too=True, key=KEYS)
    def reopen_after_failure(self, key: bytes) -> None:
        for face in (self.store, self.face(True)):
            calls = [face.sync, face.stats, face.verify, face.view, face.compact]
            calls += [lambda face=face: face.get(key), lambda face=face: face.put(key, b"never")]
            calls += [lambda face=face: list(face.scan()), lambda face=face: face.delete(key)]
            for call in calls:
                error = raises(StoreFailedError, call)
                self.excuse(error)
        assert not self.store.closed
        raises(StoreFailedError, self.store.close)
        assert self.store.closed
        self.store.close()
        self.reopen_failed()


def _random(seed: int) -> Any:
    from random import Random

    return Random(seed)
