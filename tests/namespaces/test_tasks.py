"""Tasks and their subtasks: together, or not at all."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

import walkv
from walkv import AgentStore, CodecError, RecordExistsError, RecordNotFoundError
from walkv.testing import SimulatedFileSystem


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


def steps(count: int, prefix: str = "") -> list[dict[str, Any]]:
    return [
        {
            "subtask_id": f"{prefix}st{n}",
            "description": f"do {n}",
            "expected_output": f"{n} done",
            "context": {"n": n},
        }
        for n in range(count)
    ]


def test_a_task_from_begin_to_end(agent: AgentStore, fs: SimulatedFileSystem) -> None:
    made = agent.tasks.create("s1", "build it", steps(12), task_id="t1", metadata={"n": 1})
    assert made == agent.tasks.get("t1")
    assert (made.status, made.results) == ("in_progress", None)
    fs.clock.advance(1)
    step = agent.tasks.update_subtask_status("st3", "completed", "3 done", validation_report=[1])
    assert (step.status, step.actual_output, step.validation_report) == ("completed", "3 done", [1])
    assert step.context == {"n": 3}
    assert step.updated_at == made.created_at + timedelta(seconds=1)
    assert agent.tasks.update_subtask_status("st3", "failed", context="new").context == "new"
    call = agent.executions.start(tool_name="grep", task_id="t1", execution_id="e1")
    fs.clock.advance(1)
    other = agent.executions.log(tool_name="ls", task_id="t1", execution_id="e0")
    agent.executions.log(tool_name="ls", task_id="t2")
    done = agent.tasks.update_status("t1", "completed", {"ok": True})
    assert (done.status, done.results) == ("completed", {"ok": True})
    assert agent.tasks.update_status("t1", "failed").results == {"ok": True}
    details = agent.tasks.details("t1")
    assert details is not None
    assert details.task.status == "failed"
    assert [each.subtask_index for each in details.subtasks] == list(range(12))
    assert [each.description for each in details.subtasks] == [f"do {n}" for n in range(12)]
    assert [each.status for each in details.subtasks[2:5]] == ["pending", "failed", "pending"]
    assert details.tool_calls == [call, other]
    assert agent.tasks.details("t2") is None


def test_ids_that_are_taken_are_refused_and_nothing_is_written(agent: AgentStore) -> None:
    agent.tasks.create("s1", "first", steps(3), task_id="t1")
    before = dict(agent.store.scan())
    for bad in (
        {"task_id": "t1", "subtasks": []},
        {"task_id": "t2", "subtasks": steps(3)},
        {"task_id": "t2", "subtasks": [*steps(2, "new-"), *steps(1)]},
        {"task_id": "t2", "subtasks": [*steps(1, "new-"), *steps(1, "new-")]},
    ):
        with pytest.raises(RecordExistsError):
            agent.tasks.create("s1", "second", **bad)  # type: ignore[arg-type]
        assert dict(agent.store.scan()) == before
    details = agent.tasks.details("t1")
    assert details is not None
    assert len(details.subtasks) == 3


def test_what_cannot_be_kept_is_refused_whole(agent: AgentStore) -> None:
    before = dict(agent.store.scan())
    for bad in (
        [{"description": 7}],
        [{}],
        [{"description": "x", "text": "y"}],
        ["x"],
        [{"description": "x"}, {"description": "x", "status": "lost"}],
        [{"description": "x", "context": object()}],
        [{"description": "x", "subtask_id": 5}],
    ):
        with pytest.raises(CodecError, match=r"subtasks\."):
            agent.tasks.create("s1", "x", bad)
        assert dict(agent.store.scan()) == before
    with pytest.raises(CodecError, match=r"tasks\.status"):
        agent.tasks.create("s1", "x", status="lost")  # type: ignore[arg-type]
    for call in (agent.tasks.update_status, agent.tasks.update_subtask_status):
        with pytest.raises(RecordNotFoundError):
            call("none", "completed")
    assert dict(agent.store.scan()) == before


def test_a_crash_leaves_no_half_of_a_task(fs: SimulatedFileSystem) -> None:
    agent = AgentStore("/a.walkv", filesystem=fs)
    agent.tasks.create("s1", "before", steps(2, "b"), task_id="t0")
    seen: set[tuple[int, ...]] = set()

    def crash(operation: str, path: str) -> None:
        for disk in fs.crash_states(Random(fs.operation_count)):
            after = SimulatedFileSystem.after_power_failure(disk)
            with AgentStore("/a.walkv", filesystem=after) as found:
                counts = []
                for task_id in ("t0", "t1"):
                    details = found.tasks.details(task_id)
                    counts.append(-1 if details is None else len(details.subtasks))
                assert found.verify() == []
                assert sum(max(count, 0) for count in counts) == sum(
                    1 for _ in found.by_name["subtasks"].scan()
                )
                seen.add(tuple(counts))

    fs.on_operation = crash
    agent.tasks.create("s1", "build it", steps(20), task_id="t1")
    agent.tasks.delete("t0")
    fs.on_operation = None
    agent.close()
    assert seen == {(2, -1), (2, 20), (-1, 20)}


def test_a_deleted_task_takes_its_subtasks_along(agent: AgentStore) -> None:
    for task_id in ("t1", "t1\0x", "t2"):
        agent.tasks.create("s1", "x", steps(3, task_id), task_id=task_id)
    agent.executions.log(tool_name="ls", task_id="t1")
    assert agent.tasks.delete("t1")
    assert not agent.tasks.delete("t1")
    subtasks = agent.by_name["subtasks"]
    assert subtasks.count() == 6
    assert subtasks.query(task_id="t1").all() == []
    assert agent.executions.count(task_id="t1") == 1
    assert agent.tasks.query(session_id="s1").delete() == 2
    assert subtasks.count() == 0


@pytest.mark.usefixtures("switching")
def test_details_are_of_one_moment(tmp_path: Path) -> None:
    with AgentStore(tmp_path / "a", sync=walkv.WriteBack()) as agent:
        stop = threading.Event()

        def turn() -> None:
            while not stop.is_set():
                agent.tasks.create("s1", "x", steps(4), task_id="t1")
                agent.tasks.delete("t1")

        thread = threading.Thread(target=turn)
        thread.start()
        try:
            found = 0
            while found < 100:
                details = agent.tasks.details("t1")
                if details is not None:
                    found += 1
                    assert len(details.subtasks) == 4
        finally:
            stop.set()
            thread.join()


def test_lists_are_newest_first(agent: AgentStore, fs: SimulatedFileSystem) -> None:
    for n in range(8):
        fs.clock.advance(1)
        agent.tasks.create(f"s{n % 2}", "x", task_id=f"t{n}")
    agent.tasks.update_status("t3", "completed")

    def listed(**options: Any) -> list[str]:
        return [task.task_id for task in agent.tasks.list(**options)]

    assert listed() == [f"t{n}" for n in reversed(range(8))]
    assert listed(session_id="s1", limit=2) == ["t7", "t5"]
    assert listed(status="completed") == ["t3"]
    assert listed(session_id="s1", status="in_progress") == ["t7", "t5", "t1"]
    assert listed(session_id="s1", status="pending") == []
    agent.tasks.create("many", "x")
    for n in range(60):
        agent.tasks.create("many", "x", task_id=f"m{n}", sync=walkv.WriteBack())
    assert len(agent.tasks.list("many")) == 50
    assert len(agent.tasks.list("many", limit=None)) == 61


@pytest.mark.parametrize(
    ("namespace", "conditions", "order", "index"),
    [
        ("tasks", {"session_id": "s1"}, "-created_at", "session_id,created_at"),
        ("tasks", {"status": "failed"}, "-created_at", "status,created_at"),
        ("tasks", {}, "-created_at", "created_at"),
        ("subtasks", {"task_id": "t1"}, "subtask_index", "task_id,subtask_index"),
        ("subtasks", {"status": "failed"}, "subtask_id", "status"),
    ],
)
def test_indexes_and_policy(
    agent: AgentStore, namespace: str, conditions: dict[str, Any], order: str, index: str
) -> None:
    plan = agent.by_name[namespace].query(**conditions).order_by(order).explain()
    assert (plan.index, plan.sorted_in_memory, plan.filtered) == (index, False, ())
    assert agent.by_name[namespace].sync == walkv.Wal()
