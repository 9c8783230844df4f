"""The scheduler: one at a time, repeated by its seed, and an end of every thread."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

import walkv
from walkv import AsyncStore, Wal, WriteBack, WriteThrough
from walkv.engine import core, store, syncer, wal
from walkv.testing import SimulatedFileSystem
from walkv.testing.schedule import (
    Deadlock,
    Only,
    Preemptions,
    Priorities,
    RandomWalk,
    Schedule,
    Strategy,
)

STRATEGIES: list[Callable[[], Strategy]] = [RandomWalk, Priorities, Preemptions]


def scheduled(**options: Any) -> Schedule:
    return Schedule(SimulatedFileSystem(seed=1), **options)


def given(module: ModuleType, name: str) -> Any:
    """What a module of the engine gets under a name at this moment."""
    return vars(module)[name]


def commits(seed: int, strategy: Strategy, **options: Any) -> tuple[Any, ...]:
    """Threads and tasks on one store: who did what, and what was chosen."""
    fs = SimulatedFileSystem(seed=seed)
    schedule = Schedule(fs, seed=seed, strategy=strategy, **options)
    done: list[tuple[str, str, str]] = []
    fs.on_operation = lambda operation, path: done.append((schedule.current.name, operation, path))
    with schedule:
        store = walkv.open("/s", filesystem=schedule.filesystem)

        def write(name: bytes) -> None:
            for policy in (Wal(), WriteBack(), WriteThrough()):
                store.put(name, b"1", sync=policy)

        async def main() -> None:
            tasks = AsyncStore.of(store)
            await asyncio.gather(*(tasks.put(b"t%d" % n, b"1") for n in range(3)))
            await tasks.get_many([b"a"])

        for name in ("a", "b"):
            schedule.start(write, name.encode(), name=name)
        schedule.start_tasks(main)
        schedule.start(store.compact, name="compact")
        schedule.run()
        assert store.count() == 5
        store.close()
    return done, schedule.point_count, schedule.deviations, fs.clock.monotonic_seconds


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("options", [{}, {"sync_seconds": 0.01}, {"lines": (wal, syncer)}])
def test_a_seed_and_the_deviations_repeat_a_run(
    strategy: Callable[[], Strategy], options: dict[str, Any]
) -> None:
    first = commits(3, strategy(), **options)
    assert commits(3, strategy(), **options) == first
    assert commits(3, Only(first[2]), **options) == first


def test_seeds_lead_to_different_orders() -> None:
    assert len({str(commits(seed, RandomWalk())[0]) for seed in range(5)}) == 5


def test_the_default_is_to_go_on() -> None:
    assert commits(3, Only({}))[2] == {}


def test_only_one_runs_at_a_time() -> None:
    inside: list[str] = []
    with scheduled(seed=4) as schedule:

        def work(name: str) -> None:
            for _ in range(20):
                inside.append(name)
                assert inside == [name]
                inside.remove(name)
                schedule.point("here")

        for name in "abc":
            schedule.start(work, name)
        schedule.run()


def test_time_passes_when_all_wait() -> None:
    order: list[tuple[str, float]] = []
    with scheduled() as schedule:
        begun = schedule.clock.monotonic_seconds

        def work(name: str, seconds: float) -> None:
            schedule.filesystem.sleep(seconds)
            order.append((name, round(schedule.clock.monotonic_seconds - begun, 6)))

        async def tasks() -> None:
            await asyncio.sleep(20)
            order.append(("task", round(asyncio.get_running_loop().time() - begun, 6)))

        schedule.start(work, "long", 30.0)
        schedule.start(work, "short", 10.0)
        schedule.start_tasks(tasks)
        schedule.run()
    assert order == [("short", 10.0), ("task", 20.0), ("long", 30.0)]


def test_a_deadlock_says_who_waits_for_what() -> None:
    before = threading.active_count()
    with scheduled(strategy=Preemptions(0)) as schedule:
        first, second = (given(wal, "threading").Lock() for _ in range(2))

        def take(one: Any, other: Any) -> None:
            with one:
                schedule.filesystem.sleep(1)
                with other:
                    raise AssertionError("not reached")

        schedule.start(take, first, second, name="left")
        schedule.start(take, second, first, name="right")
        with pytest.raises(Deadlock) as caught:
            schedule.run()
    text = str(caught.value)
    assert "left: waits for the lock of test_schedule.py:" in text
    assert "right: waits for" in text
    assert "take" in text
    assert threading.active_count() == before


def test_a_run_without_end_is_a_deadlock() -> None:
    with scheduled(max_points=100) as schedule:

        def forever() -> None:
            while True:
                schedule.point("again")

        schedule.start(forever)
        with pytest.raises(Deadlock, match="no end after 100 points"):
            schedule.run()


def test_the_first_error_is_raised_and_all_threads_end() -> None:
    before = threading.active_count()
    with scheduled() as schedule:
        opened = walkv.open("/s", sync=WriteBack(), filesystem=schedule.filesystem)
        opened.put(b"k", b"v")
        assert schedule.alive == ["walkv-sync"]

        async def waits() -> None:
            await asyncio.gather(asyncio.sleep(1e6), AsyncStore.of(opened).put(b"a", b"1"))

        schedule.start_tasks(waits)
        schedule.start(lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            schedule.run()
    assert threading.active_count() == before
    assert given(core, "threading") is threading


def test_stop_reaches_whoever_waits_in_a_shield() -> None:
    fs = SimulatedFileSystem()
    with Schedule(fs) as schedule:
        opened = walkv.open("/s", filesystem=schedule.filesystem)
        opened.put(b"k", b"v")
        fs.on_operation = lambda operation, path: schedule.stop(KeyError(operation))
        with pytest.raises(KeyError):
            opened.compact()


def test_conditions_and_queues_tell_time_from_a_wake_up() -> None:
    found: list[Any] = []
    with scheduled() as schedule:
        condition = given(core, "threading").Condition(given(core, "threading").Lock())
        items = given(syncer, "SimpleQueue")()

        def wait() -> None:
            with condition:
                found.append(condition.wait(1.0))
                found.append(condition.wait(5.0))
            with pytest.raises(queue.Empty):
                items.get(timeout=1.0)
            found.append(items.get(timeout=10.0))

        def wake() -> None:
            schedule.filesystem.sleep(2.0)
            with condition:
                condition.notify_all()
            schedule.filesystem.sleep(3.0)
            items.put("item")

        schedule.start(wait)
        schedule.start(wake)
        schedule.run()
    assert found == [False, True, "item"]


def test_a_condition_whose_lock_is_not_held() -> None:
    with scheduled():
        condition = given(core, "threading").Condition(given(core, "threading").Lock())
        with pytest.raises(RuntimeError):
            condition.notify_all()
        with pytest.raises(RuntimeError):
            condition.wait()


def test_the_scheduler_finds_a_race_between_two_lines() -> None:
    """Read, then write, without a lock: only points between lines come in between."""

    def lost(seed: int, lines: Any) -> bool:
        with scheduled(seed=seed, lines=lines) as schedule:
            namespace: dict[str, Any] = {"count": 0}
            source = "def add():\n    global count\n    seen = count\n    count = seen + 1\n"
            exec(compile(source, store.__file__ or "", "exec"), namespace)
            for _ in range(2):
                schedule.start(namespace["add"])
            schedule.run()
        return bool(namespace["count"] == 1)

    assert not any(lost(seed, ()) for seed in range(10))
    assert any(lost(seed, (store,)) for seed in range(10))


def test_one_schedule_at_a_time_and_on_a_simulation_only() -> None:
    with scheduled(), pytest.raises(RuntimeError), scheduled():
        pass
    with pytest.raises(TypeError):
        Schedule(walkv.engine.vfs.OsFileSystem())


def test_a_quiet_piece_is_not_interrupted() -> None:
    with scheduled(seed=2) as schedule:
        seen: list[int] = []

        def work(number: int) -> None:
            with schedule.quiet():
                for _ in range(5):
                    seen.append(number)
                    schedule.point("none")

        for number in range(3):
            schedule.start(work, number)
        schedule.run()
    assert [seen[n] for n in (0, 5, 10)] == [seen[n] for n in (4, 9, 14)]


def test_the_layer_at_its_smallest() -> None:
    from tests.laboratory.job import Figures, Scale
    from tests.laboratory.schedules.plans import LAYER

    total = Figures()
    for job in LAYER.jobs(Scale.QUICK, 1):
        total.add(LAYER.run(job))
    assert total.failures == []
    for name in ("schedules", "crash points", "acknowledged checked", "scheduling points"):
        assert total.counts[name] > 0
    assert total.states
