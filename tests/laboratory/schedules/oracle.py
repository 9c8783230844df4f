"""What a schedule of commits is to do, and the oracle that watches it; see ``schedules``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from random import Random
from typing import Any, Final

import walkv
from tests.laboratory.job import Figures
from walkv import (
    ClosedError,
    ConflictError,
    Store,
    StoreFailedError,
    Wal,
    WriteBack,
    WriteThrough,
    limits,
)
from walkv.engine.policies import SyncPolicy
from walkv.testing import Disk, FaultyFileSystem, LostError, SimulatedFileSystem
from walkv.testing.schedule import (
    Only,
    Preemptions,
    Priorities,
    RandomWalk,
    Schedule,
    Strategy,
)

PATH: Final = "/s"
MEMTABLE_BYTES: Final = 3_000
DISKS_PER_POINT: Final = 5
MAX_WAIT_SECONDS: Final = 0.7
"""Below the second after which the idle timer would rescue a commit that nobody has woken."""

BACK: Final = WriteBack(interval_seconds=0.2, max_unsynced_bytes=900)
POLICIES: Final[dict[str, list[SyncPolicy]]] = {
    "wal": [Wal()],
    "through": [WriteThrough()],
    "back": [BACK],
    "mixed": [Wal(), Wal(), WriteThrough(), BACK],
}
State = dict[bytes, bytes]


class Violation(AssertionError):
    """What was read or returned is not what the rules allow; of what is lost a ``LostError``."""


# -- what to do ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What a job's text says. ``strategy`` is walk[:share], pct:changes, pre:count or
    only:choice.thread,..., and ``fault`` the number of the sync that fails; 0 for none."""

    threads: int = 0
    tasks: int = 0
    commits: int = 4
    policy: str = "mixed"
    helper: str = "none"
    close: str = "end"
    fault: int = 0
    sync_ms: int = 10
    lines: int = 0
    strategy: str = "walk"
    runs: int = 1

    @classmethod
    def parse(cls, text: str) -> Plan:
        given: dict[str, str] = dict(part.split("=", 1) for part in text.split())
        return replace(cls(), **{n: type(getattr(cls, n))(value) for n, value in given.items()})

    def text(self) -> str:
        shown = [each for each in fields(self) if getattr(self, each.name) != each.default]
        return " ".join(f"{each.name}={getattr(self, each.name)}" for each in shown)

    def make_strategy(self) -> Strategy:
        kind, _, rest = self.strategy.partition(":")
        if kind == "pct":
            return Priorities(int(rest))
        if kind == "pre":
            return Preemptions(int(rest))
        if kind == "only":
            pairs = [part.split(".") for part in rest.split(",") if part]
            return Only({int(choice): int(thread) for choice, thread in pairs})
        return RandomWalk(float(rest or 1))


@dataclass(eq=False)
class Commit:
    """One commit: begun, then perhaps written (``number`` from 1), then perhaps returned."""

    tag: bytes
    policy: SyncPolicy
    operations: list[tuple[Any, ...]]
    pause_seconds: float
    cancel_after: float | None
    transact: bool
    began: float = 0.0
    read: bytes | None = None
    number: int = 0
    returned_at: float | None = None

    @property
    def least_bytes(self) -> int:
        return 44 + sum(len(part) for each in self.operations for part in each[1:])


def commits_of(plan: Plan, worker: str, seed: int) -> list[Commit]:
    """What a worker commits; with fewer commits, the beginning of it."""
    chooser = Random(f"{seed} {worker}")
    made = []
    for number in range(plan.commits):
        tag = f"<{worker}.{number}>".encode()
        kind = chooser.choice(("put", "put", "put", "batch", "range", "transact"))
        value = tag + b"v" * chooser.choice((0, 0, 30, 400))
        key = b"k%d" % chooser.randrange(4)
        operations: list[tuple[Any, ...]] = [("put", key, value)]
        if kind == "batch":
            operations += [("put", b"b%d" % chooser.randrange(3), tag), ("put", b"b9", tag)]
        elif kind == "range":
            operations = [("range", chooser.choice((b"k", b"b"))), ("put", b"r", tag)]
        elif kind == "transact":
            operations = [("put", b"n", tag)]
        made.append(
            Commit(
                tag,
                chooser.choice(POLICIES[plan.policy]),
                operations,
                chooser.choice((0.0, 0.0, 0.0, 0.004, 0.2, 0.205)),
                chooser.choice((None, None, 0.0, 0.005)) if worker.startswith("task") else None,
                kind == "transact",
            )
        )
    return made


def fill(batch: Any, commit: Commit) -> None:
    """Put a commit's operations into a batch or transaction."""
    for kind, *arguments in commit.operations:
        (batch.put if kind == "put" else batch.delete_range)(*arguments)


# -- what must be --------------------------------------------------------------------------------


@dataclass
class Oracle:
    """Watches one schedule. ``states[j]`` is the state after the first j commits."""

    plan: Plan
    fs: SimulatedFileSystem
    faulty: FaultyFileSystem
    schedule: Schedule
    chooser: Random
    figures: Figures
    begun: list[Commit] = field(default_factory=list)
    order: list[Commit] = field(default_factory=list)
    states: list[State] = field(default_factory=lambda: [{}])
    durable: int = 0
    known: dict[bytes, int] = field(default_factory=dict)
    failed: bool = False
    closing: bool = False

    def on_operation(self, operation: str, path: str) -> None:
        try:
            if operation == "write" and path.endswith(".wal"):
                self._see_write(path)
            self.figures.counts["crash points"] += 1
            self.crash(self.fs, f"{operation} {path}")
        except Exception as error:  # noqa: BLE001  # not to be swallowed by the engine
            self.schedule.stop(error)

    def _see_write(self, path: str) -> None:
        content = self.fs.read_file(path, limits.MIB)
        found = [each for each in self.begun if not each.number and each.tag in content]
        if len(found) > 1:
            raise Violation(f"one write, several commits: {[each.tag for each in found]}")
        for commit in found:
            state = dict(self.states[-1])
            if commit.transact and state.get(b"n") != commit.read:
                raise Violation(f"{commit.tag!r} commits over {state.get(b'n')!r}, unread")
            for kind, *arguments in commit.operations:
                if kind == "put":
                    state[arguments[0]] = arguments[1]
                else:
                    state = {k: v for k, v in state.items() if not k.startswith(arguments[0])}
            self.order.append(commit)
            self.states.append(state)
            commit.number = len(self.order)

    @contextmanager
    def watch(self, commit: Commit) -> Iterator[None]:
        """Around the call that commits."""
        clock = self.schedule.clock
        commit.began, failed_before = clock.monotonic_seconds, self.failed
        self.begun.append(commit)
        try:
            yield
        except StoreFailedError as error:
            self.note_failure(error)
        except (ClosedError, ConflictError) as error:
            if commit.number:
                raise Violation(f"{commit.tag!r} was written, and refused: {error}") from error
            if isinstance(error, ClosedError) and not self.closing:
                raise Violation("closed, and nobody has closed it") from error
        except (asyncio.CancelledError, TimeoutError):
            if commit.cancel_after is None:
                raise
        else:
            commit.returned_at = clock.monotonic_seconds
            if failed_before:
                raise Violation(f"{commit.tag!r} succeeds after the store has failed")
            if type(commit.policy) is not WriteBack:
                self._check_returned(commit)

    def note_failure(self, error: StoreFailedError) -> None:
        if error.__cause__ not in self.faulty.raised:
            raise Violation(f"failed, and no sync has: {error}") from error
        self.failed = True

    def _check_returned(self, commit: Commit) -> None:
        if not commit.number:
            raise Violation(f"{commit.tag!r} returned and was never written")
        waited = self.schedule.clock.monotonic_seconds - commit.began
        if waited > MAX_WAIT_SECONDS and not commit.transact:
            raise Violation(f"{commit.tag!r} waited for {waited:.3f} s: a lost wake-up")
        self.settle(commit.number)

    def settle(self, number: int) -> None:
        """The first ``number`` commits are promised to be on the medium, from now on."""
        self.figures.counts["acknowledged checked"] += max(0, number - self.durable)
        self.durable = max(self.durable, number)
        with self.schedule.quiet():
            surely = next(self.fs.crash_states(Random(0)))
            found = self.recovered(surely)
            if found < number:
                raise LostError(f"acknowledged, and {number - found} commits not synced")
            log = b"".join(data for path, data in surely.files.items() if path.endswith(".wal"))
            live = self.fs.visible().files.items()
            for path, data in live:
                tags = [each.tag for each in self.order[:number] if each.tag in data]
                if path.endswith(".wal") and not all(tag in log for tag in tags):
                    raise LostError(f"acknowledged, and not all synced: {tags}")

    def returned(self) -> int:
        """The number of the last commit that has returned, under any policy."""
        numbers = [each.number for each in self.order if each.returned_at is not None]
        return max(numbers, default=0)

    def least(self) -> int:
        """A."""
        if self.faulty.raised:
            return self.durable
        slack = 3 * self.schedule.sync_seconds + 0.002
        oldest = self.schedule.clock.monotonic_seconds - BACK.interval_seconds - slack
        least = self.durable
        for commit in self.order[least:]:
            if commit.returned_at is not None and commit.returned_at < oldest:
                least = commit.number
        last, unsynced = self.returned(), 0
        for commit in reversed(self.order[least:last]):
            unsynced += commit.least_bytes
            if unsynced > BACK.max_unsynced_bytes:
                return max(least, commit.number)
        return least

    def crash(self, fs: SimulatedFileSystem, moment: str) -> None:
        """The power fails, in some of the possible ways."""
        disks = {disk.digest(): disk for disk in fs.crash_states(self.chooser)}
        every = list(disks)
        picked = self.chooser.sample(every[1:-1], min(DISKS_PER_POINT - 2, max(len(every) - 2, 0)))
        least = self.least()
        for key in dict.fromkeys([every[0], *picked, every[-1]]):
            found = self.recovered(disks[key], key)
            if found < least:
                lost = [each.tag.decode() for each in self.order[found:least]]
                raise LostError(f"acknowledged, lost by a power failure after {moment}: {lost}")

    def recovered(self, disk: Disk, key: bytes | None = None) -> int:
        """j of a disk."""
        key = disk.digest() if key is None else key
        found = self.known.get(key)
        if found is None:
            self.figures.states.add(key)
            fs = SimulatedFileSystem.after_power_failure(disk)
            found = self.known[key] = self.number_of(dict(open_on(fs).scan()))
        return found

    def number_of(self, state: State) -> int:
        for number in range(len(self.states) - 1, -1, -1):
            if self.states[number] == state:
                return number
        shown = sorted({value[:12] for value in state.values()})
        raise LostError(f"no prefix of {[each.tag for each in self.order]}: {shown}")

    def check_read(self, state: State, at_least: int) -> None:
        """What a view shows is the state after some commit, none that had returned left out."""
        found = self.number_of(state)
        if found < at_least:
            raise Violation(f"a view shows {found} commits, and {at_least} had returned")

    def check_idle(self) -> None:
        """Nobody commits any more: what is written back is on the medium by its time."""
        self.schedule.sleep(2 * BACK.interval_seconds)
        with self.schedule.quiet():
            self.crash(self.fs, "the last commit, some time later")

    def check_end(self) -> None:
        """All threads have ended, and the store is closed, or has failed."""
        self.schedule.sleep(0.01)
        if left := [name for name in self.schedule.alive if not name.startswith("asyncio_")]:
            raise Violation(f"threads are left after the close: {left}")
        if not self.faulty.raised:
            self.settle(len(self.order))
        with self.schedule.quiet():
            self.crash(self.fs, "the end")
            for evicted in (False, True):
                after = self.fs.after_kill(evicted=evicted)
                found = self.number_of(dict(open_on(after).scan()))
                if found < (self.durable if self.faulty.raised else len(self.order)):
                    raise LostError(
                        f"acknowledged; after a kill {found} of {len(self.order)} are there"
                    )
                self.crash(after, f"the end, a kill (evicted: {evicted}) and a recovery")


def open_on(fs: SimulatedFileSystem) -> Store:
    return walkv.open(PATH, create=False, memtable_bytes=MEMTABLE_BYTES, filesystem=fs)
