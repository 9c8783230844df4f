"""Crash states: the power fails after every operation of a workload, in every way there is.

Every sequence of a few steps, and long random ones, under each policy. After each operation that
changes or syncs anything the legal disks are listed; each that was not seen before is opened, and
what it holds must be the state after some number j of commits with ``A <= j <= I``.

A share of the disks is *thorough*: the store found there is killed and opened again (the same
state), committed to and verified; and the power fails once more after every operation of the
recovery itself and of the commits after it.
"""

from __future__ import annotations

from itertools import product
from random import Random
from typing import Final

from tests.laboratory.job import Figures, Job, Layer, Scale, off_main_thread
from tests.laboratory.steps import (
    PATH,
    POLICIES,
    check_known,
    name_of,
    open_store,
    operations_of,
    parse,
    perform,
    policy_of,
    random_steps,
    shrink,
    small_store,
)
from walkv import Store, View, WriteBack
from walkv.engine.policies import SyncPolicy
from walkv.testing import Disk, LostError, ModelStore, SimulatedFileSystem

State = dict[bytes, bytes]

ALPHABET: Final = (
    "put a 200",
    "delete a",
    "batch b -a c",
    "transact c",
    "sync",
    "rotate",
    "flush",
    "compact",
    "close",
    "kill",
)

_THOROUGH_SHARE: Final = 0.01
_KILL_SHARE: Final = 0.02
_NEVER: Final = float("inf")


class Memory:
    """What was recovered from each disk seen; one for all trials of a job.

    Attributes:
        results: by digest of the disk, and the time of day where entries may expire.
    """

    def __init__(self, chooser: Random, figures: Figures, thorough_share: float) -> None:
        self._chooser = chooser
        self._figures = figures
        self._thorough_share = thorough_share
        self._results: dict[bytes, State | None] = {}

    def recovered(self, disk: Disk, wall_ns: int, *, expiring: bool) -> State | None:
        """The state that a disk holds; None if there is no store."""
        digest = disk.digest()
        key = digest + wall_ns.to_bytes(8, "little") if expiring else digest
        if key not in self._results:
            self._figures.states.add(digest)
            self._results[key] = self._recover(disk, wall_ns)
        return self._results[key]

    def _recover(self, disk: Disk, wall_ns: int) -> State | None:
        fs = SimulatedFileSystem.after_power_failure(disk)
        fs.clock.wall_ns = wall_ns
        thorough = self._chooser.random() < self._thorough_share
        crashed: list[Disk] = []
        if thorough:
            fs.on_operation = lambda operation, path: self._crash_again(fs, crashed)
        try:
            store = open_store(fs, create=False)
        except FileNotFoundError:
            return None
        state = dict(store.scan())
        assert [store.get(key) for key in state] == list(state.values()), "get and scan differ"
        self._check_evidence(fs, store, disk)
        if thorough:
            self._go_on(fs, store, state)
            for inner in {disk.digest(): disk for disk in crashed}.values():
                found = self._again(inner, wall_ns)
                if found != state:
                    raise LostError("a crash during recovery changed what is recovered")
        return state

    def _check_evidence(self, fs: SimulatedFileSystem, store: Store, disk: Disk) -> None:
        """What was cut off is kept."""
        report = store.recovery_report
        if report.cut_bytes:
            assert report.quarantine_path is not None, "a torn tail was cut and not kept"
            saved = fs.visible().files.get(report.quarantine_path, b"")
            name, offset = report.quarantine_path.rpartition("/")[2].split(".wal.")
            cut = disk.files[f"{PATH}/log/{name}.wal"][int(offset.split(".")[0]) :]
            assert saved == cut, "a torn tail was cut and not kept"
            self._figures.counts["torn tails cut"] += 1

    def _again(self, disk: Disk, wall_ns: int) -> State | None:
        """As ``recovered``, not thorough a second time."""
        share, self._thorough_share = self._thorough_share, 0.0
        try:
            return self.recovered(disk, wall_ns, expiring=True)
        finally:
            self._thorough_share = share

    def _crash_again(self, fs: SimulatedFileSystem, disks: list[Disk]) -> None:
        self._figures.counts["crash points during recovery"] += 1
        disks.extend(fs.crash_states(self._chooser))

    def _go_on(self, fs: SimulatedFileSystem, store: Store, state: State) -> None:
        """Idempotent, and usable: killed and opened again, committed to, crashed once more."""
        fs.on_operation = None
        again = fs.after_kill()
        fs.kill()
        with open_store(again) as store:
            assert dict(store.scan()) == state, "recovery is not idempotent"
            store.put(b"more", b"1")
            assert store.verify().ok, "what was recovered does not verify"
            later: list[Disk] = []
            again.on_operation = lambda operation, path: self._crash_again(again, later)
            store.put(b"more", b"2")
            again.on_operation = None
        with open_store(again) as store:
            assert store.recovery_report.clean, "a closed store was not clean"
            assert dict(store.scan()) == {**state, b"more": b"2"}
        legal = [{**state, b"more": value} for value in (b"1", b"2")]
        for disk in {disk.digest(): disk for disk in later}.values():
            found = self._again(disk, again.clock.wall_ns)
            assert found in legal, "lost by a second crash, after the recovery from the first"


class Trial:
    """One workload under one policy.

    Attributes:
        steps: the workload.
        kill_share: share of the operations after which the process is killed as well.
        crash_from: the first step at whose operations the power fails. What happens before it is
            looked at by the trials of the shorter workloads.
    """

    def __init__(
        self,
        policy: SyncPolicy,
        steps: list[str],
        memory: Memory,
        chooser: Random,
        figures: Figures,
        *,
        seed: int = 0,
        crash_from: int = 0,
        kill_share: float = _KILL_SHARE,
    ) -> None:
        self._policy = policy
        self.steps = steps
        self._crash_from = crash_from
        self._kill_share = kill_share
        self._memory = memory
        self._chooser = chooser
        self._figures = figures
        self._fs = SimulatedFileSystem(seed=seed)
        self._model = ModelStore()
        self._opened = False
        self._crashing = crash_from == 0
        self._returned = 0
        self._log_synced = False
        self._expiring = any(name_of(step) == "expire" for step in steps)
        self._deadlines: list[float] = [_NEVER]
        self._sizes: list[int] = [0]
        self._moment = "open"
        self._store: Store | None = None
        self._views: list[tuple[View, State]] = []

    @property
    def _now_ms(self) -> int:
        return self._fs.clock.wall_ns // 1_000_000

    def run(self) -> None:
        """The whole workload.

        Raises:
            AssertionError: something was lost, or invented; a note says when.
        """
        try:
            self._open()
            for number, step in enumerate(self.steps):
                self._crashing = number >= self._crash_from
                self._moment = step
                self._do(step)
                self._look_at_views()
            self._crashing = True
            self._moment = "the end"
            self._crash("nothing", "")
            assert self._store is not None
            assert dict(self._store.scan()) == self._model.live(now_ms=self._now_ms)
            self._figures.counts["acknowledged checked"] += self._model.acknowledged
        except Exception as error:
            error.add_note(f"in step {self._moment!r} of {'; '.join(self.steps)}")
            raise

    def _look_at_views(self) -> None:
        for view, state in self._views:
            seen = dict(view.scan())
            # What expires leaves a view as well.
            assert seen == {key: state[key] for key in seen}, "a view sees what came after it"
            assert self._expiring or seen == state, "a view has lost what was there"

    def _open(self) -> None:
        self._views.clear()
        self._fs.on_operation = self._crash
        store = open_store(self._fs, self._policy)
        self._opened = True
        found = dict(store.scan())
        number = self._model.check(found, now_ms=self._now_ms, at_least=self._returned)
        self._model.recovered(number)
        del self._deadlines[number + 1 :], self._sizes[number + 1 :]
        self._returned = number
        self._store = store

    def _do(self, step: str) -> None:
        store = self._store
        assert store is not None
        match name_of(step):
            case "view":
                self._views.append((store.view(), dict(store.scan())))
            case "wait":
                self._fs.clock.advance(float(step.split()[1]))
            case "close":
                store.close()
                self._model.acknowledge(self._returned)
                self._open()
            case "kill":
                before, self._fs = self._fs, self._fs.after_kill()
                before.kill()
                self._open()
            case _:
                self._perform(store, step)

    def _perform(self, store: Store, step: str) -> None:
        number = self._model.begun + 1
        operations = operations_of(step, number)
        policy = policy_of(step) or self._policy
        if operations is not None:
            self._model.begin(operations, now_ms=self._now_ms)
            interval = policy.interval_seconds if isinstance(policy, WriteBack) else _NEVER
            self._deadlines.append(self._fs.clock.monotonic_seconds + interval)
            self._sizes.append(sum(len(part) for o in operations for part in o[1:3] if part))
        perform(store, step, operations)
        if operations is not None:
            self._returned = number
        durable = not isinstance(policy, WriteBack)
        if step == "sync" or (operations is not None and (durable or self._log_synced)):
            self._model.acknowledge(self._returned)
        if operations is not None and isinstance(policy, WriteBack):
            self._check_bounds(policy)

    def _crash(self, operation: str, path: str) -> None:
        """The power fails here; called after every operation."""
        if path.endswith(".wal"):
            self._log_synced = operation.startswith("sync")
            if self._log_synced:
                self._model.acknowledge(self._returned)
        if not self._crashing:
            return
        self._lose_power(self._fs, f"{operation} {path}")
        if self._chooser.random() < self._kill_share:
            self._kill(f"{operation} {path}")

    def _lose_power(self, fs: SimulatedFileSystem, moment: str) -> None:
        self._figures.counts["crash points"] += 1
        self._figures.counts["commits checked at crash points"] += self._model.acknowledged
        for disk in fs.crash_states(self._chooser):
            self._figures.counts["crash states"] += 1
            try:
                self._check(
                    self._memory.recovered(disk, self._fs.clock.wall_ns, expiring=self._expiring)
                )
            except Exception as error:
                error.add_note(f"power failure after: {moment}")
                raise

    def _kill(self, moment: str) -> None:
        """The process is killed here. Whatever its policy, what has returned is there; and what the
        next process serves is durable, though this one had not synced it."""
        self._figures.counts["kills simulated"] += 1
        after = self._fs.after_kill()
        after.on_operation = lambda operation, path: self._lose_power(
            after, f"{operation} {path} of a recovery, killed after: {moment}"
        )
        try:
            try:
                store = open_store(after, create=False)
            except FileNotFoundError:
                self._check(None)
                return
            found = dict(store.scan())
            self._model.check(found, now_ms=self._now_ms, at_least=self._returned)
            for disk in after.crash_states(self._chooser):
                served = self._memory.recovered(
                    disk, self._fs.clock.wall_ns, expiring=self._expiring
                )
                if served != found:
                    raise LostError("acknowledged by serving it, and lost")
        except Exception as error:
            error.add_note(f"killed after: {moment}")
            raise

    def _check(self, found: State | None) -> None:
        if found is None:
            if self._opened:
                raise LostError("the store itself is not there")
        else:
            self._model.check(found, now_ms=self._now_ms)

    def _check_bounds(self, policy: WriteBack) -> None:
        """What write-back has not yet made durable is not overdue, and no more than its bytes.

        Without threads the deadline is looked at whenever something is committed.
        """
        unsynced = slice(self._model.acknowledged + 1, self._returned + 1)
        overdue = self._fs.clock.monotonic_seconds - min(self._deadlines[unsynced], default=_NEVER)
        if overdue > 0:
            raise LostError(f"write-back has left a commit unsynced for {overdue} s too long")
        if sum(self._sizes[unsynced]) > policy.max_unsynced_bytes:
            raise LostError(f"write-back has left {sum(self._sizes[unsynced])} bytes unsynced")


def jobs(scale: Scale, seed: int) -> list[Job]:
    """Each policy's random workloads, and the sequences that begin with each step."""
    made = []
    if scale is not Scale.SOAK:
        depth = 2 if scale is Scale.QUICK else 4
        made += [
            Job(LAYER.name, f"exhaustive {depth} {name_of(step)}", seed, 10.0) for step in ALPHABET
        ]
    count, length = {Scale.QUICK: (1, 20), Scale.FULL: (1, 80), Scale.SOAK: (2, 120)}[scale]
    made += [
        Job(LAYER.name, f"random {length} {policy}", seed + number, 5.0)
        for policy in POLICIES
        for number in range(count)
    ]
    return made


@off_main_thread
def run(job: Job) -> Figures:
    """``exhaustive DEPTH FIRST``, ``random LENGTH POLICY``, or ``POLICY: STEP; STEP; ...``; this
    with ``killed`` before it to kill the process after every operation."""
    figures = Figures()
    with small_store():
        kind, *words = job.text.split()
        if kind == "exhaustive":
            depth, first = int(words[0]), next(s for s in ALPHABET if name_of(s) == words[1])
            _exhaust(job, depth, first, figures)
        elif kind == "random":
            steps = random_steps(Random(job.seed), int(words[0]))
            _try(job, words[1], steps, figures)
        else:
            policy, _, text = job.text.partition(":")
            if policy.removeprefix("killed ") not in POLICIES:
                raise ValueError(f"{policy!r} is no policy; there are {', '.join(POLICIES)}")
            steps = parse(text)
            check_known(steps)
            _try(job, policy, steps, figures)
    return figures


def _exhaust(job: Job, depth: int, first: str, figures: Figures) -> None:
    chooser = Random(job.seed)
    memory = Memory(chooser, figures, _THOROUGH_SHARE)
    for length in range(depth):
        for rest in product(ALPHABET, repeat=length):
            steps = [first, *rest]
            for name, policy in POLICIES.items():
                trial = Trial(
                    policy,
                    steps,
                    memory,
                    chooser,
                    figures,
                    seed=job.seed,
                    crash_from=len(steps) - 1,
                )
                figures.counts["workloads"] += 1
                try:
                    trial.run()
                except Exception as error:  # noqa: BLE001  # every failure is reported
                    _report(job, name, steps, error, figures)
                    return


def _try(job: Job, policy: str, steps: list[str], figures: Figures) -> None:
    figures.counts["workloads"] += 1
    try:
        _run_alone(job.seed, policy, steps, figures)
    except Exception as error:  # noqa: BLE001  # every failure is reported
        _report(job, policy, steps, error, figures)


def _run_alone(seed: int, policy: str, steps: list[str], figures: Figures) -> None:
    chooser = Random(seed)
    memory = Memory(chooser, figures, _THOROUGH_SHARE)
    killed, _, name = policy.rpartition(" ")
    share = 1.0 if killed else _KILL_SHARE
    Trial(POLICIES[name], steps, memory, chooser, figures, seed=seed, kill_share=share).run()


def _report(job: Job, policy: str, steps: list[str], error: Exception, figures: Figures) -> None:
    """A failure, as the shortest workload that fails alone."""

    def fails(shorter: list[str]) -> bool:
        try:
            _run_alone(job.seed, policy, shorter, Figures())
        except Exception:  # noqa: BLE001  # any failure will do
            return True
        return False

    if fails(steps):
        steps = shrink(steps, fails)
        job = job._replace(text=f"{policy}: {'; '.join(steps)}")
        try:
            _run_alone(job.seed, policy, steps, Figures())
        except Exception as shortest:  # noqa: BLE001  # shown in place of the first
            error = shortest
    figures.fail(job, error)


LAYER: Final = Layer("crashes", "Crash states", jobs, run)
