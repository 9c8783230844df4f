"""The world of a state machine: one store with its disk, its clock, its model, and its deaths.

A rule calls the store and the model alike. Around every rule stands ``step``: it accepts the error
of a fault that was ordered, and lets the machine die where a fuse burned down during the rule.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, Final, TypeVar

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

import walkv
from tests.laboratory.programs.loop import Driven, LoopSyncer, SteadyLoop
from walkv import AsyncStore, EncryptionError, Store, StoreFailedError, Wal, WriteBack, WriteThrough
from walkv.engine.core import Engine
from walkv.engine.policies import SyncPolicy
from walkv.testing import (
    Disk,
    FaultyFileSystem,
    ManualClock,
    ModelStore,
    Operation,
    SimulatedFileSystem,
)

T = TypeVar("T")

PATH: Final = "/data/s.walkv"
POLICIES: Final[tuple[SyncPolicy, ...]] = (
    Wal(),
    WriteThrough(),
    WriteBack(interval_seconds=2.0),
    WriteBack(interval_seconds=1e6, max_unsynced_bytes=1_500),
)
CHOICES: Final = st.sampled_from([None, *POLICIES])
STORE_KEYS: Final = (bytes(range(32)), bytes(range(32, 64)))
KEYS: Final = st.text("abc", min_size=1, max_size=3).map(str.encode)
FACES: Final = st.booleans()
"""Whether tasks call, or threads."""

DANGERS: Final = st.one_of(
    *[st.none()] * 6,
    st.tuples(st.sampled_from(["power", "power", "kill", "look"]), st.integers(1, 12)),
)
"""Mostly nothing; else what happens, and after how many operations of the file system."""

_DISKS_A_MOMENT: Final = 3


@dataclass
class Fuse:
    """What is to happen after the next so many operations of the file system.

    Attributes:
        kind: ``power`` and ``kill`` end the machine, ``look`` opens a follower.
    """

    kind: str
    left: int
    seed: int


@dataclass
class Moment:
    """What a machine that dies in the middle of a rule leaves behind.

    Attributes:
        disks: states of the medium, of which the last is gone on with; after a kill none.
        fs: the machine after a kill.
        model: the commits begun by then.
        least: commits that must be there.
        recovering: it died in a recovery.
        exactly: the number of commits that this recovery then found.
    """

    disks: list[Disk]
    fs: SimulatedFileSystem | None
    model: ModelStore
    least: int
    recovering: bool
    exactly: int | None = None


def step(
    *, failed_too: bool = False, dangerous: bool = False, **strategies: Any
) -> Callable[[Callable[..., None]], Any]:
    """A rule; see the module.

    Args:
        failed_too: also for a store that a fault has stopped.
        dangerous: it changes files: at times the machine dies in the middle of it.
        strategies: for the rule's arguments.
    """
    if dangerous:
        strategies["danger"] = DANGERS

    def decorate(function: Callable[..., None]) -> Any:
        @functools.wraps(function)
        def run(
            self: World, *args: Any, danger: tuple[str, int] | None = None, **options: Any
        ) -> None:
            self.figures["steps of programs"] += 1
            if danger is not None:
                kind, left = danger
                self.fuse = Fuse(kind, left, left)
            try:
                function(self, *args, **options)
            except (OSError, StoreFailedError) as error:
                self.excuse(error)
            self.after_step()

        made: Any = rule(**strategies)(run)  # type: ignore[no-untyped-call]
        return made if failed_too else precondition(_works)(made)

    return decorate


def _works(machine: Any) -> bool:
    return not machine.failed


class World(RuleBasedStateMachine):
    """See the module.

    Attributes:
        figures, states: what the job has counted.
        policies: what the store may be opened with.
        fs, disk: the file system with faults, and the simulated one below it.
        returned: commits that have returned, whatever their policy.
        recovered: commits that the last recovery has found.
        failed: a fault has stopped the store.
        views: open views with the number of commits they show.
        versions: of keys, where known.
        expiries: some entry has, or had, an expiry.
    """

    figures: ClassVar[Counter[str]]
    states: ClassVar[set[bytes]]
    policies: ClassVar[tuple[SyncPolicy, ...]] = POLICIES

    def __init__(self) -> None:
        super().__init__()
        self.figures["programs"] += 1
        self.clock = ManualClock()
        self.model = ModelStore()
        self.loop = SteadyLoop()
        self.policy = self.policies[0]
        self.memtable_bytes = 1_500
        self.key: bytes | None = None
        self.other_key: bytes | None = None
        self.by_tasks = False
        self.background = False
        self.returned = self.recovered = 0
        self.fuse: Fuse | None = None
        self.moment: Moment | None = None
        self.problem: BaseException | None = None
        self.recovering = False
        self.least = 0
        self.ready = False
        self.expiries = False
        self.reader: Store | None = None
        self.watcher: Store | None = None
        self.gone()
        self.enter(SimulatedFileSystem(clock=self.clock))

    def teardown(self) -> None:
        self.loop.close()

    # -- the machine -----------------------------------------------------------------------------

    def enter(self, disk: SimulatedFileSystem) -> None:
        """Go on with this file system."""
        self.disk = disk
        self.fs = FaultyFileSystem(disk, threads=False)
        disk.clock = self.clock
        disk.on_operation = self._on_operation

    def gone(self) -> None:
        """The process has ended, and with it all that was open."""
        self.views: list[tuple[Any, int]] = []
        self.transactions: list[Any] = []
        self.versions: dict[bytes, int] = {}
        self.due: list[tuple[float, int]] = []
        self.errors_excused = 0
        self.failed = False
        self.recent_sync_count = 0

    def options(self) -> dict[str, Any]:
        return {
            "sync": self.policy,
            "memtable_bytes": self.memtable_bytes,
            "cache_bytes": 20_000,
            "keep_log": walkv.KeepLog(1e9, 1 << 30),
            "min_free_bytes": 1_000,
            "slow_seconds": 5.0,
            "filesystem": self.fs,
            "key": self.key,
        }

    def with_key(self, opening: Callable[[], T]) -> T:
        """Open a store whose key may have been changed, or not, when the process ended."""
        try:
            return opening()
        except EncryptionError as error:
            if error.reason != "wrong":
                raise
            self.key, self.other_key = self.other_key, self.key
            return opening()

    def read_only(self) -> Store:
        """A reader, past all faults."""
        return self.with_key(
            lambda: walkv.open(PATH, read_only=True, filesystem=self.disk, key=self.key)
        )

    def _open_once(self, *, create: bool) -> None:
        self.with_key(lambda: self._open_with_key(create=create))

    def _open_with_key(self, *, create: bool) -> None:
        if self.by_tasks:
            self.tasks = self.loop.run(walkv.aopen(PATH, create=create, **self.options()))
            self.store = self.tasks.as_sync()
        else:
            self.store = walkv.open(PATH, create=create, **self.options())
            self.tasks = self.loop.run(self._async_face())
        engine = self.store.engine
        assert isinstance(engine, Engine)
        if self.background:
            LoopSyncer(engine, self.loop)

    async def _async_face(self) -> AsyncStore:
        return AsyncStore.of(self.store)

    def open(self, *, create: bool = False) -> None:
        """Open the store; a fault may strike once, then the disk is healed."""
        self.recovering = True
        try:
            self._open_once(create=create)
        except (OSError, StoreFailedError) as error:
            self.excuse(error)
            self.fs.heal()
            self._open_once(create=create)
        finally:
            self.recovering = False
        self.failed = False
        self.errors_excused = len(self.fs.raised)

    def face(self, tasks: bool) -> Any:
        """The store as threads see it, or as tasks do."""
        return Driven(self.loop, self.tasks) if tasks else self.store

    @contextmanager
    def looking(self) -> Iterator[None]:
        """What is called in the block is the test's own: no fault strikes it."""
        before, self.fs.paused = self.fs.paused, True
        try:
            yield
        finally:
            self.fs.paused = before

    # -- commits ---------------------------------------------------------------------------------

    @property
    def now_ms(self) -> int:
        return self.clock.wall_ns // 1_000_000

    def live(self, shown: Any = None, number: int | None = None) -> dict[bytes, bytes]:
        """What the store, or a view of it, should hold.

        Where the clock was set back over an expiry, either is right, and ``shown`` decides.
        """
        live = self.model.live(now_ms=self.now_ms, number=number)
        unsure = self.model.returning(now_ms=self.now_ms, number=number)
        if unsure:
            with self.looking():
                found = dict((self.store if shown is None else shown).scan())
            live = {k: v for k, v in live.items() if k in found or k not in unsure}
        return live

    def begun(self, operations: list[Operation]) -> int:
        """Note a commit that is about to be made."""
        self.expiries = self.expiries or any(each[-1] for each in operations if each[0] == "put")
        return self.model.begin(operations, now_ms=self.now_ms)

    @contextmanager
    def committing(
        self, operations: list[Operation], policy: SyncPolicy | None = None
    ) -> Iterator[list[int | None]]:
        """A commit is made in the block, which puts the sequence it got into the list."""
        told: list[int | None] = []
        operations = [operation for operation in operations if not empty(operation)]
        if not operations:
            yield told
            return
        number = self.begun(operations)
        stopped = self.failed
        try:
            yield told
        except BaseException as error:
            if stopped or not isinstance(error, StoreFailedError):
                self.model.refuse(number)
            raise
        self.note_versions(operations, told[0] if told else None)
        self.made(number, policy)

    def put_one(
        self, key: bytes, value: bytes, policy: SyncPolicy | None = None, tasks: bool = False
    ) -> None:
        with self.committing([("put", key, value, None)], policy) as told:
            told.append(self.face(tasks).put(key, value, sync=policy))

    def note_versions(self, operations: list[Operation], last: int | None) -> None:
        for index, (kind, *arguments) in enumerate(operations):
            if kind == "delete_range":
                for key in [k for k in self.versions if within(k, *arguments)]:
                    del self.versions[key]
            else:
                self.versions.pop(arguments[0], None)
                if kind == "put" and last is not None:
                    self.versions[arguments[0]] = last - (len(operations) - 1 - index)

    def made(self, number: int, policy: SyncPolicy | None, *, alone: bool = True) -> None:
        """A commit has returned, perhaps with others: what its policy promises is noted."""
        self.returned = max(self.returned, number)
        policy = policy or self.policy
        overdue: list[int] = []
        if isinstance(policy, WriteBack):
            now = self.clock.monotonic_seconds
            self.due.append((now + policy.interval_seconds, number))
            # A write-back commit looks at the clock, where no thread does.
            overdue = [n for due, n in self.due if due <= now and n > self.model.acknowledged]
            self.model.acknowledge(max(overdue, default=0))
            self.due = [(due, n) for due, n in self.due if due > now]
        else:
            self.model.acknowledge(number)
        with self.looking():
            unsynced_bytes = self.store.stats().unsynced_bytes
        if not unsynced_bytes:
            self.model.acknowledge(self.returned)
        if isinstance(policy, WriteBack):
            assert unsynced_bytes <= policy.max_unsynced_bytes, "more at risk than was allowed"
        synced = type(policy) is not WriteBack or (overdue and alone)
        if synced and self.returned == self.model.begun:
            assert not unsynced_bytes, "what should be durable has not been synced"

    def all_durable(self) -> None:
        self.returned = self.model.begun
        self.model.acknowledge(self.model.begun)

    # -- faults ----------------------------------------------------------------------------------

    def excuse(self, error: BaseException) -> None:
        """Accept an error that an ordered fault explains; raise any other."""
        raised = self.fs.raised
        self.figures["faults in programs"] += 1
        if isinstance(error, StoreFailedError):
            if error.__cause__ not in raised and not _caused_by(error, raised):
                raise error
            self.failed = True
        else:
            assert isinstance(error, OSError)
            recent = raised[self.errors_excused :]
            if error.errno not in {each.errno for each in recent}:
                raise error
        if not self.fs.fault or not self.fs.fault.forever:
            self.errors_excused = len(raised)

    # -- deaths ----------------------------------------------------------------------------------

    def _on_operation(self, operation: str, path: str) -> None:
        fuse = self.fuse
        if fuse is None or self.fs.paused:
            return
        fuse.left -= 1
        if fuse.left > 0:
            return
        self.fuse = None
        try:
            if fuse.kind == "look":
                self._look()
            else:
                self._die_here(fuse)
        except BaseException as error:  # noqa: BLE001  # the engine must not see it
            self.problem = self.problem or error

    def _look(self) -> None:
        """What others see in the middle of a rule: who opens now, and who follows."""
        self.figures["readers inside operations"] += 1
        least = self.least if self.recovering else self.returned
        try:
            with self.read_only() as reader:
                self.model.check(dict(reader.scan()), now_ms=self.now_ms, at_least=least)
            if self.watcher is None:
                self.watcher = self.read_only()
            try:
                self.watcher.refresh()
            except EncryptionError:
                self.watcher = self.read_only()
            self.model.check(dict(self.watcher.scan()), now_ms=self.now_ms, at_least=least)
        except FileNotFoundError:
            assert not self.ready, "there is no store any more"

    def _die_here(self, fuse: Fuse) -> None:
        model = self.model.copy()
        if fuse.kind == "kill":
            least = self.least if self.recovering else self.returned
            self.moment = Moment([], self.disk.after_kill(), model, least, self.recovering)
        else:
            disks = pick_disks(self.disk, fuse.seed)
            self.moment = Moment(disks, None, model, model.acknowledged, self.recovering)

    def after_step(self) -> None:
        self.problem = self.problem or self.loop.problem
        if self.problem is not None:
            raise self.problem
        while self.moment is not None:
            moment, self.moment = self.moment, None
            self.model = moment.model
            if moment.fs is not None:
                self.after_kill(moment.fs, moment.least)
            else:
                self.after_power_failure(moment.disks, moment.least)
            assert moment.exactly in (None, self.recovered), "two recoveries disagree"
            if self.problem is not None:
                raise self.problem

    def after_power_failure(self, disks: list[Disk], least: int) -> None:
        """Recover from each of the disks, and go on with the last."""
        for number, disk in enumerate(disks):
            self.figures["crashes in programs"] += 1
            self.states.add(disk.digest())
            fs = SimulatedFileSystem.after_power_failure(disk, seed=number)
            fs.clock = self.clock
            if number == len(disks) - 1:
                self.die(fs, least, by_power=True)
            else:
                opening = functools.partial(self._store_on, fs)
                with self.with_key(opening) as store:
                    found = dict(store.scan())
                    self.model.check(found, now_ms=self.now_ms, at_least=least)

    def _store_on(self, fs: SimulatedFileSystem) -> Store:
        options = {**self.options(), "filesystem": fs, "create": not self.ready}
        return walkv.open(PATH, **options)

    def after_kill(self, fs: SimulatedFileSystem, least: int) -> None:
        self.figures["crashes in programs"] += 1
        self.die(fs, least)

    def die(self, fs: SimulatedFileSystem, least: int, *, by_power: bool = False) -> None:
        """The process is no more; another one opens what is left."""
        self.disk.kill()
        self.gone()
        self.reader = self.watcher = None
        self.loop.close()
        self.loop = SteadyLoop()
        self.enter(fs)
        self.recover(least, create=not self.ready, by_power=by_power)

    def recover(self, least: int, *, create: bool = False, by_power: bool = False) -> None:
        """Open a store that was not closed, and find out what is there."""
        self.least = least
        self.open(create=create)
        self.ready = True
        with self.looking():
            found = dict(self.store.scan())
            report = self.store.verify()
        assert report.ok, report.problems
        number = self.model.check(found, now_ms=self.now_ms, at_least=least)
        doubtful = self.model.doubtful(found, now_ms=self.now_ms, at_least=least)
        self.model.recovered(number)
        self.returned = self.recovered = number
        moment = self.moment
        if moment is not None and moment.recovering and (by_power or moment.fs is not None):
            # The next recovery finds the same, unless the page cache was ahead of the disk.
            moment.exactly = number
        if doubtful:
            operations: list[Operation] = [("delete", key) for key in sorted(doubtful)]
            with self.committing(operations, WriteThrough()), self.store.batch(WriteThrough()) as b:
                collect(b, operations)


def pick_disks(fs: SimulatedFileSystem, seed: int) -> list[Disk]:
    """Some of the states that a power failure now may leave."""
    chooser = Random(seed)
    disks = list(fs.crash_states(chooser))
    return chooser.sample(disks, min(_DISKS_A_MOMENT, len(disks)))


def after_prefix(prefix: bytes) -> bytes:
    """Where the keys with a prefix end, if its last byte is not the highest."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def collect(target: Any, operations: list[Operation]) -> None:
    """Put operations into a batch or a transaction."""
    for kind, *arguments in operations:
        if kind == "put":
            target.put(arguments[0], arguments[1], ttl_seconds=arguments[2])
        elif kind == "delete":
            target.delete(arguments[0])
        elif arguments[1] == after_prefix(arguments[0]):
            target.delete_range(arguments[0])
        else:
            target.delete_range(start=arguments[0], stop=arguments[1])


def within(key: bytes, start: bytes | None, stop: bytes | None) -> bool:
    return (start is None or key >= start) and (stop is None or key < stop)


def empty(operation: Operation) -> bool:
    """Whether it is a range without keys, of which nothing is written."""
    kind, *arguments = operation
    return (
        kind == "delete_range"
        and arguments[1] is not None
        and ((arguments[0] or b"") >= arguments[1])
    )


def _caused_by(error: BaseException, raised: list[OSError]) -> bool:
    """Whether one of the errors is among the causes, however far down."""
    cause: BaseException | None = error
    while cause is not None:
        if any(cause is each for each in raised):
            return True
        cause = cause.__cause__
    return False
