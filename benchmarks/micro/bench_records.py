"""Records of an agent: a message and a small checkpoint."""

import random
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import walkv
from benchmarks.agent import data
from benchmarks.micro.conftest import Sizes
from benchmarks.micro.rounds import in_rounds

CALLS = 200


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[walkv.AgentStore]:
    """An agent's store, write-back throughout: what is timed is walkv and not the disk."""
    policies = dict.fromkeys(("messages", "checkpoints"), walkv.WriteBack())
    with walkv.AgentStore(
        tmp_path / "agent.walkv", sync=walkv.WriteBack(), policies=policies
    ) as agent:
        yield agent


@pytest.mark.benchmark(group="records")
def bench_message_encode(benchmark: BenchmarkFixture, agent: walkv.AgentStore) -> None:
    schema = agent.messages.table.schema
    made = agent.messages.append("s", **data.message(random.Random(1)))
    benchmark(lambda: schema.encode(schema.values(made)))


@pytest.mark.benchmark(group="records")
def bench_message_decode(benchmark: BenchmarkFixture, agent: walkv.AgentStore) -> None:
    schema = agent.messages.table.schema
    made = agent.messages.append("s", **data.message(random.Random(1)))
    encoded = schema.encode(schema.values(made))
    assert benchmark(lambda: schema.build(schema.decode(encoded).values)) == made


@pytest.mark.benchmark(group="records")
def bench_message_append(
    benchmark: BenchmarkFixture, agent: walkv.AgentStore, sizes: Sizes
) -> None:
    message = data.message(random.Random(1))
    in_rounds(
        benchmark,
        lambda: agent.messages.append("s", **message),
        rounds=2 * sizes.rounds,
        calls=CALLS,
    )


@pytest.mark.benchmark(group="records")
def bench_message_last_50(benchmark: BenchmarkFixture, agent: walkv.AgentStore) -> None:
    rng = random.Random(1)
    agent.messages.append_many("s", [data.message(rng) for _ in range(1_000)])
    assert len(benchmark(lambda: agent.messages.history("s", limit=50))) == 50


@pytest.mark.benchmark(group="records")
def bench_checkpoint_put(
    benchmark: BenchmarkFixture, agent: walkv.AgentStore, sizes: Sizes
) -> None:
    """A state of 1 KB, of which one message of two is new."""
    rng = random.Random(1)
    states = [data.state(rng, 1_000)]
    for step in range(1, CALLS):
        states.append(data.grown(rng, states[-1], step))
    numbers = count()

    def put() -> None:
        number = next(numbers)
        agent.checkpoints.put("t", f"c{number}", states[number % CALLS])

    in_rounds(benchmark, put, rounds=sizes.rounds, calls=CALLS)


@pytest.mark.benchmark(group="records")
def bench_checkpoint_latest(benchmark: BenchmarkFixture, agent: walkv.AgentStore) -> None:
    rng = random.Random(1)
    state = data.state(rng, 1_000)
    for step in range(20):
        state = data.grown(rng, state, step)
        agent.checkpoints.put("t", f"c{step}", state)
    found = benchmark(lambda: agent.checkpoints.get("t"))
    assert found is not None
    assert found.data == state
