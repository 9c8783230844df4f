"""Executions: timed, found, counted, and cleaned up."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import walkv
from walkv import AgentStore, AsyncAgentStore, CodecError, RecordExistsError, RecordNotFoundError
from walkv.namespaces.executions import Execution
from walkv.testing import SimulatedFileSystem

DAY = 86_400.0
STATUSES = ("running", "success", "failed", "cancelled")


@pytest.fixture
def fs() -> SimulatedFileSystem:
    return SimulatedFileSystem()


@pytest.fixture
def agent(fs: SimulatedFileSystem) -> Iterator[AgentStore]:
    with AgentStore("/a.walkv", filesystem=fs) as opened:
        yield opened
        assert opened.verify() == []


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads take turns so often that what must be of one moment is seen if it is not."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


# -- begin and end -------------------------------------------------------------------------------


def test_start_and_finish(agent: AgentStore, fs: SimulatedFileSystem) -> None:
    begun = agent.executions.start(
        role="coder", tool_name="grep", input_data={"pattern": "x"}, workflow_id="w1", task_id="t1"
    )
    assert begun == agent.executions.get(begun.execution_id)
    assert (begun.status, begun.action_type) == ("running", "tool_call")
    fs.clock.advance(2.5)
    done = agent.executions.finish(begun.execution_id, ["line"])
    assert done == agent.executions.get(begun.execution_id)
    assert (done.status, done.output_data, done.error_message) == ("success", ["line"], None)
    assert done.completed_at == begun.started_at + timedelta(seconds=2.5)
    assert done.execution_time_seconds == 2.5
    failed = agent.executions.start(role="coder")
    assert failed.action_type == "role_execution"
    found = agent.executions.finish(
        failed.execution_id, status="failed", error_message="no", execution_time_seconds=0.25
    )
    assert (found.status, found.error_message) == ("failed", "no")
    assert found.execution_time_seconds == 0.25


def test_a_clock_that_goes_back_gives_no_negative_time(
    agent: AgentStore, fs: SimulatedFileSystem
) -> None:
    begun = agent.executions.start(role="coder")
    fs.clock.wall_ns -= 10**9
    assert agent.executions.finish(begun.execution_id).execution_time_seconds == 0.0


def test_what_cannot_be_done(agent: AgentStore) -> None:
    agent.executions.start(role="coder", execution_id="e1")
    before = dict(agent.store.scan())
    with pytest.raises(RecordExistsError):
        agent.executions.start(role="coder", execution_id="e1")
    with pytest.raises(RecordExistsError):
        agent.executions.log(tool_name="ls", execution_id="e1")
    with pytest.raises(RecordNotFoundError, match="'e2'"):
        agent.executions.finish("e2")
    with pytest.raises(CodecError, match=r"executions\.status"):
        agent.executions.finish("e1", status="lost")  # type: ignore[arg-type]
    with pytest.raises(CodecError, match=r"executions\.action_type"):
        agent.executions.start(action_type="dream")  # type: ignore[arg-type]
    with pytest.raises(CodecError, match=r"executions\.output_data"):
        agent.executions.finish("e1", object())
    assert dict(agent.store.scan()) == before


def test_record_times_a_block(agent: AgentStore, fs: SimulatedFileSystem) -> None:
    with agent.executions.record(role="coder", tool_name="grep", workflow_id="w1") as recording:
        begun = agent.executions.get(recording.execution.execution_id)
        assert begun == recording.execution
        recording.output = {"lines": 3}
    found = agent.executions.get(recording.execution.execution_id)
    assert found is not None
    assert (found.status, found.output_data, found.workflow_id) == ("success", {"lines": 3}, "w1")
    # By a clock that does not jump, and not by that of the file system.
    assert found.execution_time_seconds is not None
    assert found.execution_time_seconds > 0.0


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ValueError("not a number"), "failed", "ValueError: not a number"),
        (KeyboardInterrupt(), "cancelled", "KeyboardInterrupt: "),
        (SystemExit(3), "cancelled", "SystemExit: 3"),
        (OSError("no such file: caf\udce9.txt"), "failed", r"OSError: no such file: caf\udce9.txt"),
    ],
)
def test_record_notes_how_a_block_failed(
    agent: AgentStore, error: BaseException, status: str, message: str
) -> None:
    recordings = []

    def work() -> None:
        with agent.executions.record(role="coder") as recording:
            recordings.append(recording)
            recording.output = "so far"
            raise error

    with pytest.raises(type(error)) as caught:
        work()
    assert caught.value is error
    found = agent.executions.get(recordings[0].execution.execution_id)
    assert found is not None
    assert (found.status, found.error_message) == (status, message)
    assert found.output_data == "so far"
    assert found.completed_at is not None


@pytest.mark.parametrize("fails", [False, True])
def test_an_output_that_cannot_be_stored_does_no_harm(agent: AgentStore, fails: bool) -> None:
    try:
        with agent.executions.record(role="coder") as recording:
            recording.output = {"file": agent}
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert fails
    found = agent.executions.get(recording.execution.execution_id)
    assert found is not None
    assert found.status == ("failed" if fails else "success")
    assert "AgentStore" in found.output_data


class Shy:
    def __repr__(self) -> str:
        raise ZeroDivisionError


class Surrogate:
    def __repr__(self) -> str:
        return "caf\udce9"


def test_an_output_that_cannot_even_be_described_does_no_harm(agent: AgentStore) -> None:
    for output, told in [
        (Shy(), "<Shy: its repr() raised ZeroDivisionError>"),
        (Surrogate(), r"caf\udce9"),
    ]:
        with agent.executions.record(role="coder") as recording:
            recording.output = output
        found = agent.executions.get(recording.execution.execution_id)
        assert found is not None
        assert (found.status, found.output_data) == ("success", told)


def test_a_block_raises_its_own_error_though_it_could_not_be_noted(
    agent: AgentStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    error = ValueError("the real one")

    def work() -> None:
        with agent.executions.record(role="coder") as recording:
            agent.executions.delete(recording.execution.execution_id)
            raise error

    with pytest.raises(ValueError, match="the real one") as caught:
        work()
    assert caught.value is error
    (note,) = error.__notes__
    assert "how it ended could not be noted: RecordNotFoundError" in note
    assert "how it ended could not be noted" in caplog.text

    async def test() -> None:
        async with AsyncAgentStore(tmp_path / "b") as tasks:

            async def work() -> None:
                async with tasks.executions.record(role="coder") as recording:
                    await tasks.executions.delete(recording.execution.execution_id)
                    raise ValueError("another")

            with pytest.raises(ValueError, match="another") as caught:
                await work()
            assert "RecordNotFoundError" in caught.value.__notes__[0]

    asyncio.run(asyncio.wait_for(test(), 60))


def test_the_ids_of_steps_are_for_steps(agent: AgentStore) -> None:
    executions = agent.executions
    agent.executions.once("pay", lambda: 1)
    step = executions.get("step/pay")
    assert step is not None
    other = executions.log(tool_name="x", execution_id="steps")
    for call in (
        lambda: executions.start(role="x", execution_id="step/x"),
        lambda: executions.start(action_type="step", execution_id="step/x"),
        lambda: executions.log(tool_name="x", execution_id="step/x"),
        lambda: executions.add(replace(other, execution_id="step/x")),
        lambda: executions.put(step),
        lambda: executions.put_many(iter([other, step])),
    ):
        with pytest.raises(CodecError, match="the id of a step") as caught:
            call()
        assert (caught.value.namespace, caught.value.field) == ("executions", "execution_id")
    assert executions.scan() == [step, other]


def test_record_for_tasks(tmp_path: Path) -> None:
    async def test() -> None:
        async with AsyncAgentStore(tmp_path / "a") as agent:
            async with agent.executions.record(role="coder") as recording:
                recording.output = 7
            found = await agent.executions.get(recording.execution.execution_id)
            assert (found.status, found.output_data) == ("success", 7)
            began = asyncio.Event()
            ids = []

            async def work() -> None:
                async with agent.executions.record(role="coder") as recording:
                    ids.append(recording.execution.execution_id)
                    began.set()
                    await asyncio.Event().wait()

            task = asyncio.create_task(work())
            await began.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            found = await agent.executions.get(ids[0])
            assert (found.status, found.error_message) == ("cancelled", "CancelledError: ")

    asyncio.run(asyncio.wait_for(test(), 60))


def test_log_notes_a_call_that_is_over(agent: AgentStore) -> None:
    made = agent.executions.log(
        tool_name="ls",
        input_data=["/"],
        output_data=["bin"],
        execution_time_seconds=1.5,
        status="failed",
        error_message="slow",
        role="coder",
        workflow_id="w1",
        task_id="t1",
        metadata={"n": 1},
    )
    assert made == agent.executions.get(made.execution_id)
    assert made.completed_at == agent.executions.now()
    assert made.started_at == made.completed_at - timedelta(seconds=1.5)
    assert (made.action_type, made.execution_time_seconds) == ("tool_call", 1.5)


# -- finding -------------------------------------------------------------------------------------


def many(agent: AgentStore, fs: SimulatedFileSystem, count: int = 120) -> list[Execution]:
    """Executions of all kinds, many begun at one time."""
    rng = random.Random(4)
    for n in range(count):
        fs.clock.advance(rng.choice([0, 0, 1]))
        begun = agent.executions.start(
            role=rng.choice(["planner", "coder"]),
            tool_name=rng.choice([None, "ls", "grep"]),
            workflow_id=rng.choice([None, "w1", "w2"]),
            task_id=rng.choice([None, "t1"]),
            execution_id=f"e{rng.random()}-{n}",
        )
        status: Any = rng.choice(STATUSES)
        if status != "running":
            agent.executions.finish(
                begun.execution_id, status=status, execution_time_seconds=rng.random()
            )
    return agent.executions.scan()


def test_lists_against_a_plain_sort(agent: AgentStore, fs: SimulatedFileSystem) -> None:
    everything = many(agent, fs)
    for role in (None, "planner", "coder", "none"):
        for status in (None, *STATUSES):
            for rest in ({}, {"workflow_id": "w1"}, {"tool_name": "ls"}, {"task_id": "t1"}):
                wanted = {"role": role, "status": status, **rest}
                given: Any = {name: value for name, value in wanted.items() if value is not None}
                expected = [
                    each
                    for each in everything
                    if all(getattr(each, name) == value for name, value in given.items())
                ]
                expected.sort(key=lambda each: (each.started_at, each.execution_id), reverse=True)
                assert agent.executions.list(**given, limit=None) == expected
                assert agent.executions.list(**given, limit=7) == expected[:7]
    assert len(agent.executions.list()) == 100
    assert agent.executions.list(limit=0) == []
    assert agent.executions.list_by_workflow("w1", 5) == agent.executions.list(
        workflow_id="w1", limit=5
    )
    assert agent.executions.list_by_role("coder", limit=5) == agent.executions.list(
        role="coder", limit=5
    )
    assert agent.executions.list_by_role("coder", "failed") == agent.executions.list(
        role="coder", status="failed"
    )
    with pytest.raises(ValueError, match="limit"):
        agent.executions.list(limit=-1)


@pytest.mark.parametrize(
    ("conditions", "index"),
    [
        ({"workflow_id": "w1"}, "workflow_id,started_at"),
        ({"role": "coder", "status": "failed"}, "role,status,started_at"),
        ({"tool_name": "ls"}, "tool_name,started_at"),
        ({"task_id": "t1"}, "task_id,started_at"),
        ({}, "started_at"),
    ],
)
def test_indexes_and_policy(agent: AgentStore, conditions: dict[str, Any], index: str) -> None:
    plan = agent.executions.query(**conditions).order_by("-started_at").explain()
    assert (plan.index, plan.sorted_in_memory, plan.filtered) == (index, False, ())
    assert agent.executions.sync == walkv.WriteBack()


def test_statistics_against_a_plain_computation(agent: AgentStore, fs: SimulatedFileSystem) -> None:
    assert agent.executions.statistics() == {
        "count": 0,
        "by_status": {},
        "success_rate": 0.0,
        "execution_time_seconds": dict.fromkeys(("mean", "min", "max", "p50", "p95"), 0.0),
    }
    everything = many(agent, fs, 600)  # more than a page of a query
    start, end = everything[0].started_at, everything[-1].started_at
    start, end = min(start, end) + timedelta(seconds=20), max(start, end)
    for role in (None, "coder"):
        for tool_name in (None, "ls"):
            for low, high in ((None, None), (start, None), (None, end), (start, end)):
                found = agent.executions.statistics(role, low, high, tool_name=tool_name)
                counted = [
                    each
                    for each in everything
                    if role in (None, each.role)
                    and tool_name in (None, each.tool_name)
                    and (low is None or each.started_at >= low)
                    and (high is None or each.started_at < high)
                ]
                check_statistics(found, counted)


def check_statistics(found: dict[str, Any], counted: list[Execution]) -> None:
    statuses = [each.status for each in counted]
    assert found["count"] == len(counted) > 0
    assert found["by_status"] == {status: statuses.count(status) for status in set(statuses)}
    over = len(statuses) - statuses.count("running")
    assert found["success_rate"] == statuses.count("success") / over
    times = sorted(
        each.execution_time_seconds for each in counted if each.execution_time_seconds is not None
    )
    seconds = found["execution_time_seconds"]
    assert (seconds["min"], seconds["max"]) == (times[0], times[-1])
    assert seconds["mean"] == pytest.approx(sum(times) / len(times))
    for name, share in (("p50", 0.5), ("p95", 0.95)):
        below = sum(1 for each in times if each < seconds[name])
        assert seconds[name] in times
        assert abs(below - share * len(times)) <= 1


@pytest.mark.usefixtures("switching")
def test_lists_and_statistics_are_of_one_moment(tmp_path: Path) -> None:
    """What goes from running to success meanwhile is neither missed nor there twice."""
    with AgentStore(tmp_path / "a", sync=walkv.WriteBack()) as agent:
        for n in range(300):
            agent.executions.start(role="coder", execution_id=f"e{n}")
        stop = threading.Event()

        def turn() -> None:
            while not stop.is_set():
                for status in ("success", "cancelled", "running"):
                    for n in range(0, 300, 40):
                        agent.executions.finish(f"e{n}", status=status)  # type: ignore[arg-type]

        thread = threading.Thread(target=turn)
        thread.start()
        try:
            for _ in range(40):
                found = agent.executions.list_by_role("coder", limit=None)
                assert len({each.execution_id for each in found}) == len(found) == 300
                assert agent.executions.statistics("coder")["count"] == 300
        finally:
            stop.set()
            thread.join()


# -- clean-up ------------------------------------------------------------------------------------


def test_clean_up_spares_steps_and_what_is_young(
    agent: AgentStore, fs: SimulatedFileSystem
) -> None:
    agent.executions.log(tool_name="ls", execution_id="old")
    agent.executions.start(role="coder", execution_id="hangs")
    assert agent.executions.once("pay", lambda: 7) == 7
    fs.clock.advance(20 * DAY)
    agent.executions.log(tool_name="ls", execution_id="young")
    fs.clock.advance(11 * DAY)
    assert agent.executions.cleanup_old() == 2
    assert {each.execution_id for each in agent.executions.scan()} == {"young", "step/pay"}
    assert agent.executions.cleanup_old(retention_days=11.5) == 0
    assert agent.executions.cleanup_old(retention_days=5) == 1
    assert agent.executions.once("pay", lambda: 8) == 7


def test_exact_with_many_threads(tmp_path: Path) -> None:
    with AgentStore(tmp_path / "a") as agent:

        def work(number: int) -> None:
            for n in range(20):
                with agent.executions.record(role=f"r{number % 2}", tool_name="ls") as recording:
                    recording.output = n

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert agent.executions.statistics()["by_status"] == {"success": 160}
        assert agent.executions.statistics("r1")["count"] == 80
        assert agent.verify() == []


def test_times_are_in_utc(agent: AgentStore) -> None:
    begun = agent.executions.start(role="coder")
    offset = begun.started_at.utcoffset()
    assert offset == timedelta(0)
    with pytest.raises(CodecError, match="time zone"):
        agent.executions.statistics(start=datetime(2026, 1, 1))
