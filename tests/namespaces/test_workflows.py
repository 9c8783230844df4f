"""Workflows: statuses of roles that report at once, and what is not over."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import walkv
from walkv import AgentStore, CodecError, RecordExistsError, RecordNotFoundError
from walkv.namespaces.workflows import WorkflowStatus
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


def test_a_workflow_from_begin_to_end(agent: AgentStore, fs: SimulatedFileSystem) -> None:
    made = agent.workflows.create("release", ["plan", "build", "test"], created_by="ada")
    assert made == agent.workflows.get(made.workflow_id)
    assert (made.status, made.current_role_index) == ("pending", 0)
    assert made.role_statuses == {"plan": "pending", "build": "pending", "test": "pending"}
    assert made.workflow_id != made.execution_id
    fs.clock.advance(1)
    update = agent.workflows.update_role_status
    running = agent.workflows.update_status(made.workflow_id, "running")
    assert running.started_at == made.created_at + timedelta(seconds=1)
    assert update(made.workflow_id, "build", "completed").current_role_index == 0
    assert update(made.workflow_id, "plan", "success", {"steps": 3}).current_role_index == 2
    done = update(made.workflow_id, "test", "skipped")
    assert (done.current_role_index, done.role_results) == (3, {"plan": {"steps": 3}})
    assert update(made.workflow_id, "plan", "running").current_role_index == 0
    fs.clock.advance(1)
    over = agent.workflows.update_status(made.workflow_id, "failed", "disk full")
    assert over.completed_at == made.created_at + timedelta(seconds=2)
    assert (over.started_at, over.error_info) == (running.started_at, "disk full")


def test_one_that_goes_on_is_no_longer_over(agent: AgentStore, fs: SimulatedFileSystem) -> None:
    made = agent.workflows.create("w", ["r"], workflow_id="w1")
    began = agent.workflows.update_status("w1", "running").started_at
    agent.workflows.update_status("w1", "failed", "boom")
    fs.clock.advance(1)
    again = agent.workflows.update_status("w1", "running")
    assert (again.started_at, again.completed_at, again.error_info) == (began, None, None)
    paused = agent.workflows.update_status("w1", "paused", "waits for a human")
    assert paused.error_info == "waits for a human"
    assert agent.workflows.update_status("w1", "running").error_info == "waits for a human"
    done = agent.workflows.update_status("w1", "completed")
    assert done.completed_at == made.created_at + timedelta(seconds=1)


def test_what_cannot_be_done(agent: AgentStore) -> None:
    made = agent.workflows.create("w", ["r"], workflow_id="w1")
    with pytest.raises(RecordExistsError):
        agent.workflows.create("w", ["r"], workflow_id="w1")
    with pytest.raises(RecordNotFoundError):
        agent.workflows.update_status("w2", "running")
    with pytest.raises(RecordNotFoundError):
        agent.workflows.update_role_status("w2", "r", "running")
    with pytest.raises(CodecError, match=r"workflows\.status"):
        agent.workflows.update_status("w1", "dead")  # type: ignore[arg-type]
    with pytest.raises(CodecError, match=r"workflows\.role_results"):
        agent.workflows.update_role_status("w1", "r", "completed", object())
    assert agent.workflows.get("w1") == made


def test_roles_that_report_at_once_lose_nothing(tmp_path: Path) -> None:
    roles = [f"r{n}" for n in range(24)]
    with AgentStore(tmp_path / "a") as agent:
        agent.workflows.create("w", roles, workflow_id="w1")
        barrier = threading.Barrier(len(roles))

        def work(role: str) -> None:
            barrier.wait()
            agent.workflows.update_role_status("w1", role, "running")
            agent.workflows.update_role_status("w1", role, "completed", {"by": role})

        threads = [threading.Thread(target=work, args=(role,)) for role in roles]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = agent.workflows.get("w1")
        assert found is not None
        assert found.role_statuses == dict.fromkeys(roles, "completed")
        assert found.role_results == {role: {"by": role} for role in roles}
        assert found.current_role_index == 24


def test_active_is_what_is_not_over_newest_first(
    agent: AgentStore, fs: SimulatedFileSystem
) -> None:
    statuses: list[WorkflowStatus] = [
        "pending", "running", "paused", "completed", "failed", "cancelled",
    ]  # fmt: skip
    for n in range(12):
        if n % 4 == 0:
            fs.clock.advance(1)  # four of them have one time
        agent.workflows.create("w", ["r"], workflow_id=f"w{n:02}")
        agent.workflows.update_status(f"w{n:02}", statuses[n % 6])
    found = [w.workflow_id for w in agent.workflows.active()]
    assert found == ["w08", "w07", "w06", "w02", "w01", "w00"]


@pytest.mark.usefixtures("switching")
def test_active_is_of_one_moment(tmp_path: Path) -> None:
    """What goes from one status to another meanwhile is neither missed nor there twice."""
    with AgentStore(tmp_path / "a", sync=walkv.WriteBack()) as agent:
        for n in range(3):
            agent.workflows.create("w", ["r"], workflow_id=f"w{n}")
        stop = threading.Event()

        def turn() -> None:
            while not stop.is_set():
                for status in ("running", "paused", "pending"):
                    for n in range(3):
                        agent.workflows.update_status(f"w{n}", status)  # type: ignore[arg-type]

        thread = threading.Thread(target=turn)
        thread.start()
        try:
            for _ in range(150):
                assert sorted(w.workflow_id for w in agent.workflows.active()) == ["w0", "w1", "w2"]
        finally:
            stop.set()
            thread.join()


def test_list_pages_newest_first(agent: AgentStore, fs: SimulatedFileSystem) -> None:
    for n in range(9):
        fs.clock.advance(1)
        agent.workflows.create("w", [], workflow_id=f"w{n}", created_by=["ada", "bob"][n % 2])
    agent.workflows.update_status("w4", "running")

    def listed(**options: Any) -> list[str]:
        return [w.workflow_id for w in agent.workflows.list(**options)]

    assert listed() == [f"w{n}" for n in reversed(range(9))]
    assert listed(limit=2, offset=3) == ["w5", "w4"]
    assert listed(created_by="bob", limit=2) == ["w7", "w5"]
    assert listed(status="running") == ["w4"]
    assert listed(status="pending", created_by="ada", offset=1) == ["w6", "w2", "w0"]
    assert listed(status="failed") == []


@pytest.mark.parametrize(
    ("conditions", "index"),
    [
        ({}, "created_at"),
        ({"status": "running"}, "status,created_at"),
        ({"created_by": "ada"}, "created_by,created_at"),
    ],
)
def test_indexes_and_policy(agent: AgentStore, conditions: dict[str, Any], index: str) -> None:
    plan = agent.workflows.query(**conditions).order_by("-created_at").explain()
    assert (plan.index, plan.sorted_in_memory, plan.filtered) == (index, False, ())
    assert agent.workflows.sync == walkv.Wal()


def test_statistics(agent: AgentStore, fs: SimulatedFileSystem) -> None:
    empty = agent.workflows.statistics()
    assert (empty["count"], empty["success_rate"]) == (0, 0.0)
    begin = agent.workflows.now()
    ends: list[WorkflowStatus] = ["completed", "completed", "completed", "failed", "running"]
    for n, status in enumerate(ends):
        agent.workflows.create("w", [], workflow_id=f"w{n}")
        agent.workflows.update_status(f"w{n}", "running")
        fs.clock.advance(n + 1)
        agent.workflows.update_status(f"w{n}", status)
    found = agent.workflows.statistics()
    assert found["count"] == 5
    assert found["by_status"] == {"completed": 3, "failed": 1, "running": 1}
    assert found["success_rate"] == 0.75
    assert (found["duration_seconds"]["mean"], found["duration_seconds"]["max"]) == (2.5, 4.0)
    # From ``start`` on, up to ``end``: created at 0, 1, 3, 6 and 10 seconds.
    third, fourth = begin + timedelta(seconds=3), begin + timedelta(seconds=6)
    assert agent.workflows.statistics(start=third)["count"] == 3
    assert agent.workflows.statistics(end=third)["count"] == 2
    assert agent.workflows.statistics(third, fourth)["by_status"] == {"completed": 1}
