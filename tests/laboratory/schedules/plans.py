"""Group commit under a deterministic scheduler: threads and tasks commit, and the power fails.

Each schedule runs some writers (threads, asyncio tasks over ``AsyncStore``, or both on one engine)
beside one that compacts, syncs, reads or closes, in one interleaving. After every operation of the
file system the power fails, in a sample of the ways the model allows. The oracle:

    order           commits in the order in which their frames were written, found by a tag in each
    prefix          what is recovered is the state after the first j of them, A <= j <= I
    A               the last that has returned as durable; of write-back commits, the last whose
                    interval is over, or which is too many bytes before the last returned
    no early return what surely is on the medium holds every commit that returned as durable
    no lost wake-up no commit waits for longer than a few syncs take

With ``fault=n`` the n-th sync of the log fails: whoever waits is told, nobody succeeds later.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

import walkv
from tests.laboratory.job import Figures, Job, Layer, Scale
from tests.laboratory.schedules.oracle import (
    MEMTABLE_BYTES,
    PATH,
    POLICIES,
    Commit,
    Oracle,
    Plan,
    Violation,
    commits_of,
    fill,
)
from tests.laboratory.steps import small_store
from walkv import AsyncStore, ClosedError, Store, StoreFailedError
from walkv.engine import syncer, wal, writes
from walkv.engine.policies import SyncPolicy
from walkv.testing import Call, Fault, FaultyFileSystem, SimulatedFileSystem
from walkv.testing.schedule import Schedule

NAME: Final = "schedules"
SHRINK_RUNS: Final = 120

# -- who does it ---------------------------------------------------------------------------------


@dataclass
class Work:
    """The threads and tasks of one schedule, on one store."""

    plan: Plan
    seed: int
    oracle: Oracle
    store: Store
    writing: int = 0

    def start(self) -> None:
        schedule = self.oracle.schedule
        for number in range(self.plan.threads):
            schedule.start(self._write, f"thread{number}", name=f"thread{number}")
        self.writing = self.plan.threads
        if self.plan.tasks:
            schedule.start_tasks(self._tasks, name="tasks")
        for helper in self.plan.helper.split("+"):
            if helper != "none":
                schedule.start(self._help, helper, name=helper)
        if self.plan.close == "race":
            schedule.start(self._close_early, name="closer")

    def _write(self, name: str) -> None:
        for commit in commits_of(self.plan, name, self.seed):
            with self.oracle.watch(commit):
                self._commit(commit)
            self.oracle.schedule.sleep(commit.pause_seconds)
        self.writing -= 1

    def _commit(self, commit: Commit) -> None:
        store, policy = self.store, self._policy(commit)
        if commit.transact:

            def change(transaction: Any) -> None:
                commit.read = transaction.get(b"n")
                fill(transaction, commit)

            store.transact(change, sync=policy)
        elif len(commit.operations) == 1:
            store.put(*commit.operations[0][1:], sync=policy)
        else:
            with store.batch(sync=policy) as batch:
                fill(batch, commit)

    def _policy(self, commit: Commit) -> SyncPolicy | None:
        """None where it is the store's: that takes the shortest way."""
        return None if commit.policy == POLICIES[self.plan.policy][0] else commit.policy

    async def _tasks(self) -> None:
        store = AsyncStore.of(self.store)
        names = [f"task{number}" for number in range(self.plan.tasks)]
        await asyncio.gather(*(self._write_in_task(store, name) for name in names))
        while self.writing:
            await asyncio.sleep(0.01)
        oracle = self.oracle
        if self.plan.close == "end":
            with self._may_stop():
                oracle.check_read({k: v async for k, v in store.scan()}, oracle.returned())
        oracle.closing = True
        with self._may_stop():
            await store.close()

    async def _write_in_task(self, store: AsyncStore, name: str) -> None:
        for commit in commits_of(self.plan, name, self.seed):
            with self.oracle.watch(commit):
                call = self._commit_in_task(store, commit)
                if commit.cancel_after is None:
                    await call
                else:
                    await asyncio.wait_for(call, commit.cancel_after or 1e-6)
            await asyncio.sleep(commit.pause_seconds)

    async def _commit_in_task(self, store: AsyncStore, commit: Commit) -> None:
        policy = self._policy(commit)
        if commit.transact:

            async def change(transaction: Any) -> None:
                commit.read = await transaction.get(b"n")
                fill(transaction, commit)

            await store.transact(change, sync=policy)
        elif len(commit.operations) == 1:
            await store.put(*commit.operations[0][1:], sync=policy)
        else:
            async with store.batch(sync=policy) as batch:
                fill(batch, commit)

    @contextmanager
    def _may_stop(self) -> Iterator[None]:
        try:
            yield
        except StoreFailedError as error:
            self.oracle.note_failure(error)
        except ClosedError:
            if not self.oracle.closing:
                raise

    def _help(self, what: str) -> None:
        oracle, store = self.oracle, self.store
        for _ in range(2):
            returned = oracle.returned()
            with self._may_stop():
                if what == "compact":
                    store.compact()
                elif what == "sync":
                    store.sync()
                    oracle.settle(returned)
                else:
                    with store.view() as view:
                        first = dict(view.scan())
                        oracle.check_read(first, returned)
                        oracle.schedule.sleep(0.02)
                        if dict(view.scan()) != first:
                            raise Violation("a view has changed")
            oracle.schedule.sleep(0.02)

    def _close_early(self) -> None:
        self.oracle.schedule.sleep(Random(self.seed).choice((0.0, 0.03, 0.1, 0.3, 0.5)))
        self.close()

    def close(self) -> None:
        self.oracle.closing = True
        with self._may_stop():
            self.store.close()


@dataclass
class NthSync:
    """Fails the n-th sync of the log."""

    left: int

    def __call__(self, call: Call) -> bool:
        if call.operation == "sync_data" and call.path.endswith(".wal"):
            self.left -= 1
            return self.left == 0
        return False


def run_schedule(plan: Plan, seed: int, figures: Figures) -> dict[int, int]:
    """One schedule; returns its deviations, and notes them on an exception."""
    fs = SimulatedFileSystem(seed=seed)
    faulty = FaultyFileSystem(fs)
    schedule = Schedule(
        faulty,
        seed=seed,
        strategy=plan.make_strategy(),
        sync_seconds=plan.sync_ms / 1000,
        lines=(wal, writes, syncer) if plan.lines else (),
        max_points=40_000,
    )
    oracle = Oracle(plan, fs, faulty, schedule, Random(seed), figures)
    try:
        with schedule:
            store = walkv.open(
                PATH,
                sync=POLICIES[plan.policy][0],
                memtable_bytes=MEMTABLE_BYTES,
                filesystem=schedule.filesystem,
            )
            fs.on_operation = oracle.on_operation
            if plan.fault:
                faulty.fault = Fault(NthSync(plan.fault))
            work = Work(plan, seed, oracle, store)
            work.start()
            schedule.run()
            if not store.closed and not faulty.raised:
                oracle.check_read(dict(store.scan()), len(oracle.order))
                oracle.check_idle()
            work.close()
            oracle.check_end()
    except BaseException as error:
        error.deviations = schedule.deviations  # type: ignore[attr-defined]
        raise
    finally:
        fs.on_operation = None
        figures.counts["schedules"] += 1
        figures.counts["scheduling points"] += schedule.point_count
    return schedule.deviations


# -- the smallest plan that fails ------------------------------------------------------------------


class Shrinker:
    """Looks for a smaller plan that fails in the same way, within some runs."""

    def __init__(self, plan: Plan, seed: int, error: BaseException) -> None:
        self.plan = replace(plan, runs=1)
        self.seed = seed
        self.error = error
        self._left = SHRINK_RUNS

    def _fails(self, plan: Plan) -> bool:
        if self._left <= 0:
            return False
        self._left -= 1
        try:
            run_schedule(plan, self.seed, Figures())
        except Exception as error:  # noqa: BLE001  # that is what is looked for
            if _shape(error) != _shape(self.error):
                return False
            self.plan, self.error = plan, error
            return True
        return False

    def run(self) -> None:
        self._shrink_work()
        numbers: dict[int, int] = getattr(self.error, "deviations", {})
        if self._fails(replace(self.plan, strategy=_only(numbers))):
            self._shrink_choices(dict(numbers))
            self._shrink_work()

    def _shrink_work(self) -> None:
        again = True
        while again:
            again = False
            plan = self.plan
            smaller = [
                replace(plan, helper="none"),
                replace(plan, close="end"),
                replace(plan, threads=max(0, plan.threads - 1)),
                replace(plan, tasks=max(0, plan.tasks - 1)),
                replace(plan, commits=max(1, plan.commits // 2)),
                replace(plan, commits=max(1, plan.commits - 1)),
                replace(plan, sync_ms=0),
                replace(plan, lines=0),
            ]
            again = any(each != plan and self._fails(each) for each in smaller)

    def _shrink_choices(self, numbers: dict[int, int]) -> None:
        """Drop preemptions: halves, quarters, ... and at last each alone."""
        size = max(1, len(numbers) // 2)
        while numbers:
            for start in range(0, len(numbers), size):
                dropped = sorted(numbers)[start : start + size]
                fewer = {c: t for c, t in numbers.items() if c not in dropped}
                if dropped and self._fails(replace(self.plan, strategy=_only(fewer))):
                    numbers = fewer
                    break
            else:
                if size == 1:
                    return
                size = max(1, size // 2)


def _shape(error: BaseException) -> str:
    """What stays the same of a failure when the work gets less."""
    return type(error).__name__ + re.sub(r"b'[^']*'|[0-9]+", "", str(error))[:24]


def _only(numbers: dict[int, int]) -> str:
    return "only:" + ",".join(f"{choice}.{thread}" for choice, thread in sorted(numbers.items()))


# -- the layer -------------------------------------------------------------------------------------


def run(job: Job) -> Figures:
    """The schedules of a job, with the seeds from its own on; ends at the first that fails."""
    plan = Plan.parse(job.text)
    figures = Figures()
    with small_store():
        for seed in range(job.seed, job.seed + plan.runs):
            try:
                run_schedule(plan, seed, figures)
            except Exception as error:  # noqa: BLE001  # a failure of the job
                shrinker = Shrinker(plan, seed, error)
                shrinker.run()
                smallest = Job(NAME, shrinker.plan.text(), seed)
                figures.fail(smallest, shrinker.error, f"first seen with: {plan.text()}, {seed}")
                break
    return figures


KINDS: Final = [
    "threads=3",
    "threads=2 policy=wal helper=compact+read",
    "threads=4 policy=wal commits=3 helper=sync",
    "threads=3 policy=back helper=read",
    "threads=2 policy=back commits=6",
    "threads=3 helper=sync+read close=race",
    "tasks=4",
    "tasks=6 policy=wal commits=3 helper=compact",
    "tasks=3 helper=read close=race",
    "threads=2 tasks=3 helper=compact",
    "threads=2 tasks=3 policy=wal close=race",
    "threads=4 policy=wal fault=3 helper=sync",
    "threads=2 tasks=3 fault=4 helper=compact",
    "tasks=5 policy=wal fault=2",
    "threads=3 lines=1 policy=wal",
]
STRATEGIES: Final = ["walk", "walk:0.15", "pct:3", "pre:4"]


def jobs(scale: Scale, seed: int) -> list[Job]:
    made = []
    for number, kind in enumerate(KINDS):
        for other, strategy in enumerate(STRATEGIES):
            if scale is Scale.QUICK and (number + other) % len(STRATEGIES):
                continue
            runs = {Scale.QUICK: 1, Scale.FULL: 5, Scale.SOAK: 3}[scale]
            text = f"{kind} sync_ms={10 if (number + other) % 3 else 0} strategy={strategy}"
            first = (seed * len(KINDS) + number) * 1_000 + other * 100
            made.append(Job(NAME, f"{text} runs={runs}", first, weight=runs * 0.3))
    return made


LAYER = Layer(NAME, "Group commit under a deterministic scheduler", jobs, run)
