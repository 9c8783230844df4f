"""Commits by policy, from a thread and from tasks."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import walkv
from benchmarks.micro import stores
from benchmarks.micro.conftest import Sizes
from benchmarks.micro.rounds import WARM_UP_ROUNDS, in_rounds

POLICIES = [walkv.WriteThrough(), walkv.Wal(), walkv.WriteBack()]
NAMES = [type(policy).__name__ for policy in POLICIES]
DURABLE_PUTS = 20
PUTS = 2_000
BATCH = 1_000
DATA = stores.dataset(BATCH)
VALUE = DATA.value(0)


def _puts(policy: walkv.WriteThrough | walkv.Wal | walkv.WriteBack) -> int:
    """Calls of a round: more where they are quick."""
    return PUTS if isinstance(policy, walkv.WriteBack) else DURABLE_PUTS


def _new_keys(key_count: int) -> Callable[[], bytes]:
    """Gives a key that was not put before at each call; they are made now, and not then."""
    return iter([DATA.key(number) for number in range(key_count)]).__next__


@pytest.mark.benchmark(group="commits, one put")
@pytest.mark.parametrize("policy", POLICIES, ids=NAMES)
def bench_put(
    benchmark: BenchmarkFixture,
    tmp_path: Path,
    sizes: Sizes,
    policy: walkv.WriteThrough | walkv.Wal | walkv.WriteBack,
) -> None:
    rounds, calls = 2 * sizes.rounds, _puts(policy)
    # Once more at the end: pytest-benchmark wants to know what a call returns.
    following = _new_keys((rounds + WARM_UP_ROUNDS) * calls + 1)
    with walkv.open(tmp_path / "store", sync=policy) as store:
        put = store.put
        in_rounds(benchmark, lambda: put(following(), VALUE), rounds=rounds, calls=calls)


@pytest.mark.benchmark(group="commits, one put awaited")
@pytest.mark.parametrize("policy", POLICIES, ids=NAMES)
@pytest.mark.parametrize("task_count", [1, 64], ids=["one_task", "64_tasks"])
def bench_async_put(
    benchmark: BenchmarkFixture,
    tmp_path: Path,
    sizes: Sizes,
    policy: walkv.WriteThrough | walkv.Wal | walkv.WriteBack,
    task_count: int,
) -> None:
    """The time of one round is that of all its puts; ``puts`` is in the extra information."""
    each = _puts(policy) if task_count == 1 else DURABLE_PUTS
    benchmark.extra_info["puts"] = task_count * each
    key_count = (sizes.rounds + WARM_UP_ROUNDS) * task_count * each
    following = _new_keys(key_count)

    async def put(store: walkv.AsyncStore) -> None:
        for _ in range(each):
            await store.put(following(), VALUE)

    async def puts(store: walkv.AsyncStore) -> None:
        await asyncio.gather(*(put(store) for _ in range(task_count)))

    with asyncio.Runner() as runner:
        store = runner.run(walkv.aopen(tmp_path / "store", sync=policy))
        in_rounds(benchmark, lambda: runner.run(puts(store)), rounds=sizes.rounds)
        runner.run(store.close())
    with walkv.open(tmp_path / "store") as written:
        assert written.count() >= task_count * each


@pytest.mark.benchmark(group="commits, a batch of 1000")
@pytest.mark.parametrize("policy", POLICIES, ids=NAMES)
def bench_batch(
    benchmark: BenchmarkFixture,
    tmp_path: Path,
    sizes: Sizes,
    policy: walkv.WriteThrough | walkv.Wal | walkv.WriteBack,
) -> None:
    items = [(DATA.key(index), DATA.value(index)) for index in range(BATCH)]
    with walkv.open(tmp_path / "store", sync=policy) as store:

        def commit() -> None:
            with store.batch() as batch:
                put = batch.put
                for key, value in items:
                    put(key, value)

        in_rounds(benchmark, commit, rounds=3 * sizes.rounds)
