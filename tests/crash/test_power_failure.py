"""The power fails after every operation of a workload, in every way the model allows.

The oracle: commits B1 to Bn in order, A the last one acknowledged as durable, I the last one begun
(noted before the call). What is recovered is exactly the state after B1 to Bj, with A <= j <= I; -1
stands for "there is no store", which is right until ``open`` has returned.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from support.workload import (
    State,
    Step,
    batch,
    call,
    compare_and_set,
    delete,
    delete_range,
    put,
    state_of,
    transaction,
)
from xxhash import xxh3_128_digest

import walkv
from walkv import Store, Wal, WriteBack, WriteThrough, limits
from walkv.engine import wal
from walkv.engine.wal import SyncPolicy
from walkv.testing import Disk, SimulatedFileSystem

PATH = "/data/s.walkv"
MEMTABLE_BYTES = 4_096
POLICIES: dict[str, SyncPolicy] = {
    "Wal": Wal(),
    "WriteThrough": WriteThrough(),
    "WriteBack": WriteBack(interval_seconds=1.0),
    "WriteBack by size": WriteBack(interval_seconds=1e6, max_unsynced_bytes=1_000),
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A memtable of a few entries, and little written ahead: the same code, more of it per byte."""
    monkeypatch.setattr(limits, "MIN_MEMTABLE_BYTES", 1)
    monkeypatch.setattr(wal, "_AHEAD", bytes(700))
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def open_on(
    fs: SimulatedFileSystem, policy: SyncPolicy | None = None, *, create: bool = True
) -> Store:
    return walkv.open(
        PATH,
        sync=Wal() if policy is None else policy,
        create=create,
        memtable_bytes=MEMTABLE_BYTES,
        filesystem=fs,
    )


@dataclass
class Trial:
    """One workload under one policy, with its oracle.

    Attributes:
        states: the state after each number of commits.
        acknowledged: A.
        returned: commits that returned to the caller, whatever their policy promises.
        begun: I.
        results: what was recovered from each disk seen.
        disk_count, crash_count: distinct disks, and crash states in all.
        thorough_share: share of the disks on which recovery itself is crashed and repeated.
        kill_share: share of the operations after which the process is killed as well.
    """

    policy: SyncPolicy
    chooser: random.Random
    states: list[State] = field(default_factory=lambda: [{}])
    acknowledged: int = -1
    returned: int = -1
    begun: int = 0
    results: dict[bytes, int] = field(default_factory=dict)
    disk_count: int = 0
    crash_count: int = 0
    kill_count: int = 0
    thorough_share: float = 0.02
    kill_share: float = 0.0

    def index_of(self, state: State) -> int:
        for number in range(len(self.states) - 1, -1, -1):
            if self.states[number] == state:
                return number
        known = self.states[max(self.acknowledged, 0)]
        changed = {k for k in {*known, *state} if known.get(k) != state.get(k)}
        raise AssertionError(
            f"no prefix of the commits; against the acknowledged state it differs at {changed}"
        )

    def run(self, steps: list[Step]) -> None:
        """The workload; after every operation of it the power fails (and the process is killed)."""
        fs = SimulatedFileSystem(seed=self.chooser.randrange(1 << 30))

        def crash(operation: str, path: str) -> None:
            synced = operation.startswith("sync") and path.endswith(".wal")
            if synced and type(self.policy) is WriteBack:
                self.acknowledged = max(self.acknowledged, self.returned)
            self.crash(fs, f"{operation} {path}")
            if self.chooser.random() < self.kill_share:
                self.kill(fs, f"{operation} {path}")

        fs.on_operation = crash
        store = open_on(fs, self.policy)
        self.acknowledged = self.returned = 0
        for step in steps:
            if step.name == "reopen":
                store.close()
                self.acknowledged = self.returned
                store = open_on(fs, self.policy)
                continue
            if step.effect is not None:
                after = dict(self.states[-1])
                step.effect(after)
                assert after not in self.states, f"{step.name} changes nothing: j is not unique"
                self.states.append(after)
                self.begun += 1
            step.run(store)
            if step.effect is not None:
                self.returned += 1
                if type(self.policy) is not WriteBack:
                    self.acknowledged = self.returned
            if step.name == "sync":
                self.acknowledged = self.returned
            fs.clock.advance(0.3)
        assert state_of(store) == self.states[-1]
        store.close()
        self.acknowledged = self.returned
        self.crash(fs, "the end")

    def crash(self, fs: SimulatedFileSystem, moment: str) -> None:
        for disk in fs.crash_states(self.chooser):
            self.crash_count += 1
            try:
                found = self.recovered(disk)
                assert self.acknowledged <= found <= self.begun
            except BaseException as error:
                error.add_note(f"power failure after: {moment}; {self.bounds()}")
                raise

    def bounds(self) -> str:
        return f"A={self.acknowledged} returned={self.returned} I={self.begun}"

    def recovered(self, disk: Disk) -> int:
        """j of a disk. The first time it is seen: recovery is tried in every way."""
        key = digest(disk)
        if key not in self.results:
            self.disk_count += 1
            self.results[key] = self.recover(disk)
        return self.results[key]

    def recover(self, disk: Disk) -> int:
        fs = SimulatedFileSystem.after_power_failure(disk)
        thorough = self.chooser.random() < self.thorough_share
        known: list[Disk] = []
        if thorough:
            fs.on_operation = lambda operation, path: known.extend(fs.crash_states(self.chooser))
        try:
            store = open_on(fs, create=False)
        except FileNotFoundError:
            fs.on_operation = None
            with open_on(fs) as store:
                assert state_of(store) == {}
            return -1
        state = state_of(store)
        number = self.index_of(state)
        fs.on_operation = None
        if not thorough:
            return number
        # Killed after it, and opened once more: recovery is idempotent.
        again = fs.after_kill()
        fs.kill()
        with open_on(again) as store:
            assert state_of(store) == state
            store.put(b"more", b"1")
            assert store.verify().ok
        with open_on(again) as store:
            assert store.recovery_report.clean
            assert state_of(store) == {**state, b"more": b"1"}
        # The power fails during recovery: what it found, the next one finds.
        for inner in {digest(disk): disk for disk in known}.values():
            with open_on(SimulatedFileSystem.after_power_failure(inner)) as store:
                assert state_of(store) == state, "lost by a crash during recovery"
        return number

    def kill(self, fs: SimulatedFileSystem, moment: str) -> None:
        """``kill -9`` here; then the power fails while, or after, the next process recovers."""
        self.kill_count += 1
        after = fs.after_kill()

        def crash(operation: str, path: str) -> None:
            self.crash(after, f"kill -9 after {moment}, recovery: {operation} {path}")

        after.on_operation = crash
        try:
            store = open_on(after, create=False)
        except FileNotFoundError:
            assert self.returned == -1, f"no store, killed after: {moment}"
            return
        found = self.index_of(state_of(store))
        assert self.returned <= found <= self.begun, f"killed after: {moment}; {self.bounds()}"
        # What was served is durable.
        for disk in after.crash_states(self.chooser):
            assert self.recovered(disk) == found, f"served and lost, killed after: {moment}"


def digest(disk: Disk) -> bytes:
    parts = [repr((path, len(data))).encode() + data for path, data in sorted(disk.files.items())]
    return xxh3_128_digest(b"".join([*parts, repr(sorted(disk.directories)).encode()]))


def short() -> list[Step]:
    """From nothing: each kind of commit, a clean reopening."""
    return [
        put(b"n", b"1"),
        batch(2, b"b1", b"b2"),
        delete(b"b1"),
        call("sync", lambda store: store.sync()),
        compare_and_set(3),
        call("reopen", id),
        put(b"n", b"4"),
        transaction(5, b"t1"),
    ]


def rotating() -> list[Step]:
    """Rotations, flushes, merges and their removals."""
    steps: list[Step] = []
    for number in range(14):
        steps.append(put(b"f%d" % (number % 7), b"%03d" % number + b"x" * 400))
        if number == 9:
            steps.append(delete_range(number, b"f"))
        if number % 5 == 4:
            steps.append(batch(100 + number, b"b1", b"b2"))
    steps.append(call("compact", lambda store: store.compact()))
    steps.append(put(b"n", b"200"))
    steps.append(call("reopen", id))
    steps.append(put(b"n", b"201"))
    steps.append(call("compact", lambda store: store.compact()))
    return steps


def random_steps(chooser: random.Random) -> list[Step]:
    steps: list[Step] = []
    for number in range(1, 26):
        kind = chooser.randrange(10)
        if kind < 4:
            steps.append(batch(number, *(b"k%d" % chooser.randrange(9) for _ in range(3))))
        elif kind < 6:
            value = b"%04d" % number + b"v" * chooser.choice([0, 300, 1_500])
            steps.append(put(b"k%d" % chooser.randrange(9), value))
        elif kind == 6:
            steps.append(delete_range(number, b"k%d" % chooser.randrange(9)))
        elif kind == 7:
            steps.append(transaction(number, b"t"))
        elif kind == 8:
            steps.append(call("compact", lambda store: store.compact()))
        else:
            steps.append(call("reopen", id))
    return steps


def report(trial: Trial, name: str) -> None:
    print(  # noqa: T201  # every run says what it covered
        f"{name}: {trial.begun} commits, {trial.crash_count} crash states, "
        f"{trial.disk_count} distinct, {trial.kill_count} kills, lost 0"
    )


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("workload", [short, rotating])
def test_a_power_failure_after_every_operation(
    workload: Callable[[], list[Step]], policy: str
) -> None:
    trial = Trial(POLICIES[policy], random.Random(7))
    trial.run(workload())
    report(trial, f"{workload.__name__}, {policy}")
    assert trial.disk_count > 50


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("workload", [short, rotating])
def test_a_kill_after_every_operation_then_a_power_failure(
    workload: Callable[[], list[Step]], policy: str
) -> None:
    trial = Trial(POLICIES[policy], random.Random(11), thorough_share=0.02)
    trial.kill_share = 1.0 if workload is short else 0.1
    trial.run(workload())
    report(trial, f"{workload.__name__}, {policy}, kills")
    assert trial.kill_count > 20


@pytest.mark.parametrize("seed", range(4))
def test_random_workloads(seed: int) -> None:
    print(f"seed {seed}")  # noqa: T201  # to do it again
    chooser = random.Random(seed)
    trial = Trial(chooser.choice(list(POLICIES.values())), chooser)
    trial.run(random_steps(chooser))
    report(trial, f"random {seed}, {trial.policy}")


def test_with_the_real_amount_written_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal, "_AHEAD", bytes(256 * limits.KIB))
    trial = Trial(Wal(), random.Random(3))
    trial.run(short())
    report(trial, "short, written ahead in full")


def test_the_directories_above_a_new_store_are_durable() -> None:
    fs = SimulatedFileSystem()
    with walkv.open("/one/two/three/s.walkv", filesystem=fs) as store:
        store.put(b"k", b"v")
        disks = list(fs.crash_states(random.Random(0)))
    assert disks
    for disk in disks:
        after = SimulatedFileSystem.after_power_failure(disk)
        with walkv.open("/one/two/three/s.walkv", create=False, filesystem=after) as store:
            assert store[b"k"] == b"v"


# -- what write-back may lose --------------------------------------------------------------------


def test_write_back_loses_at_most_its_interval() -> None:
    fs = SimulatedFileSystem()
    store = open_on(fs, WriteBack(interval_seconds=1.0))
    times: list[float] = []
    for number in range(30):
        store.put(b"%02d" % number, b"x" * 20)
        times.append(fs.clock.monotonic_seconds)
        fs.clock.advance(0.15)
        now = fs.clock.monotonic_seconds
        due = sum(1 for time in times if time <= now - 1.0 - 0.15)
        for disk in fs.crash_states(random.Random(number)):
            after = open_on(SimulatedFileSystem.after_power_failure(disk), create=False)
            assert list(after.scan(keys_only=True)) == [b"%02d" % n for n in range(after.count())]
            assert after.count() >= due


def test_write_back_loses_at_most_its_bytes() -> None:
    fs = SimulatedFileSystem()
    store = open_on(fs, WriteBack(interval_seconds=1e9, max_unsynced_bytes=1_000))
    for number in range(40):
        store.put(b"%02d" % number, b"x" * 100)
        worst = min(
            open_on(SimulatedFileSystem.after_power_failure(disk), create=False).count()
            for disk in fs.crash_states(random.Random(number))
        )
        # A frame of such a put has more than 144 bytes.
        assert number + 1 - worst <= 1_000 // 144


def test_a_write_through_commit_makes_earlier_ones_durable() -> None:
    fs = SimulatedFileSystem()
    store = open_on(fs, WriteBack(interval_seconds=1e9))
    store.put(b"a", b"1")
    store.put(b"b", b"2")
    worst = [SimulatedFileSystem.after_power_failure(d) for d in fs.crash_states(random.Random(0))]
    assert min(open_on(f, create=False).count() for f in worst) == 0
    store.put(b"c", b"3", sync=WriteThrough())
    for disk in fs.crash_states(random.Random(0)):
        assert open_on(SimulatedFileSystem.after_power_failure(disk), create=False).count() == 3
