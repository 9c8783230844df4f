"""Contexts of roles and of sessions, and what they were before."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import walkv
from walkv import AgentStore, CodecError, RecordExistsError, RecordNotFoundError
from walkv.testing import SimulatedFileSystem

HOUR = 3600.0


@pytest.fixture
def fs() -> SimulatedFileSystem:
    return SimulatedFileSystem()


@pytest.fixture
def agent(fs: SimulatedFileSystem) -> Iterator[AgentStore]:
    with AgentStore("/a.walkv", filesystem=fs) as opened:
        yield opened
        assert opened.verify() == []


# -- contexts of roles ---------------------------------------------------------------------------


def test_create_update_and_compress(agent: AgentStore, fs: SimulatedFileSystem) -> None:
    made = agent.contexts.create("w1", "planner", {"goal": "ship"}, metadata={"n": 1})
    assert made == agent.contexts.get(made.context_id)
    assert (made.context_type, made.created_at) == ("isolated", made.last_updated)
    fs.clock.advance(5)
    changed = agent.contexts.update(made.context_id, sections={"goal": "wait"})
    assert changed.last_updated - made.last_updated == timedelta(seconds=5)
    assert changed.created_at == made.created_at
    small = agent.contexts.save_compressed(made.context_id, "in short", 0.25)
    assert (small.compressed_content, small.compression_ratio) == ("in short", 0.25)
    assert (small.context_type, small.sections) == ("compressed", {"goal": "wait"})
    assert agent.contexts.get(made.context_id) == small
    assert agent.contexts.history(made.context_id) == [changed, made]


def test_what_cannot_be_done(agent: AgentStore) -> None:
    made = agent.contexts.create("w1", "planner", context_id="c1", context_type="handoff")
    with pytest.raises(RecordExistsError):
        agent.contexts.create("w1", "planner", context_id="c1")
    with pytest.raises(RecordNotFoundError):
        agent.contexts.save_compressed("c2", "text", 0.5)
    with pytest.raises(CodecError, match=r"contexts\.context_type"):
        agent.contexts.update("c1", context_type="lost")
    with pytest.raises(CodecError, match=r"contexts\.compression_ratio"):
        agent.contexts.save_compressed("c1", "text", "half")  # type: ignore[arg-type]
    assert agent.contexts.get("c1") == made
    assert agent.contexts.history("c1") == []


def test_ten_old_versions_are_kept_newest_first(agent: AgentStore) -> None:
    for name in ("c1", "c1\0x", "c1\0"):
        agent.contexts.create("w1", "planner", {"n": 0}, context_id=name)
        for n in range(1, 15):
            agent.contexts.update(name, sections={"n": n})
    assert [c.sections["n"] for c in agent.contexts.history("c1")] == list(range(13, 3, -1))
    assert [c.sections["n"] for c in agent.contexts.history("c1", limit=3)] == [13, 12, 11]
    assert agent.contexts.history("c1", limit=0) == []
    assert agent.contexts.history("c9") == []
    # What is deleted is gone with its history, and takes no other's along.
    agent.contexts.delete("c1")
    assert agent.contexts.history("c1") == []
    for name in ("c1\0x", "c1\0"):
        found = agent.contexts.history(name)
        assert [c.sections["n"] for c in found] == list(range(13, 3, -1))
        assert {c.context_id for c in found} == {name}
    agent.contexts.create("w1", "planner", {"n": 99}, context_id="c1")
    assert agent.contexts.history("c1") == []


def test_lists_by_workflow_and_role(agent: AgentStore, fs: SimulatedFileSystem) -> None:
    for n in range(6):
        fs.clock.advance(1)
        agent.contexts.create(f"w{n % 2}", f"r{n % 3}", context_id=f"c{n}")
    fs.clock.advance(1)
    agent.contexts.update("c0", metadata={"seen": True})
    found = agent.contexts.list_by_workflow("w0")
    assert {c.context_id for c in found} == {"c0", "c2", "c4"}
    assert len(agent.contexts.list_by_workflow("w0", limit=2)) == 2
    assert [c.context_id for c in agent.contexts.list_by_role("r0")] == ["c0", "c3"]
    assert [c.context_id for c in agent.contexts.list_by_role("r0", limit=1)] == ["c0"]
    assert agent.contexts.list_by_role("r9") == []


def test_clean_up_goes_by_the_last_change(agent: AgentStore, fs: SimulatedFileSystem) -> None:
    agent.contexts.create("w1", "r", context_id="old")
    agent.contexts.create("w1", "r", context_id="changed")
    fs.clock.advance(20 * HOUR)
    agent.contexts.update("changed", sections={"n": 1})
    agent.contexts.create("w1", "r", context_id="new")
    fs.clock.advance(5 * HOUR)
    assert agent.contexts.cleanup_expired() == 1
    assert [c.context_id for c in agent.contexts.scan()] == ["changed", "new"]
    assert agent.contexts.cleanup_expired(expiry_hours=5.5) == 0
    assert agent.contexts.cleanup_expired(expiry_hours=4) == 2
    assert agent.contexts.cleanup_expired() == 0


@pytest.mark.parametrize(
    ("conditions", "index", "bounded"),
    [
        ({"workflow_id": "w1"}, "workflow_id", ""),
        ({"role": "r"}, "role,last_updated", ""),
        ({"last_updated__lt": datetime(2030, 1, 1, tzinfo=UTC)}, "last_updated", "last_updated"),
    ],
)
def test_indexes_and_policies(
    agent: AgentStore, conditions: dict[str, Any], index: str, bounded: str
) -> None:
    plan = agent.contexts.query().where(**conditions).order_by("-last_updated").explain()
    assert (plan.index, plan.bounded, plan.filtered) == (index, bounded, ())
    assert agent.contexts.sync == agent.task_contexts.sync == walkv.Wal()


# -- contexts of sessions ------------------------------------------------------------------------


def test_store_counts_versions_and_keeps_old_ones(
    agent: AgentStore, fs: SimulatedFileSystem
) -> None:
    assert agent.task_contexts.get("s1") is None
    for n in range(1, 14):
        fs.clock.advance(1)
        made = agent.task_contexts.store("s1", {"step": n, "files": ("a", n)})
        assert made.version == n
        assert made == agent.task_contexts.get("s1")
    history = agent.task_contexts.history("s1")
    assert [c.version for c in history] == list(range(12, 2, -1))
    assert history[0].context == {"step": 12, "files": ("a", 12)}
    assert agent.task_contexts.history("s1", 2) == history[:2]
    with pytest.raises(CodecError, match=r"task_contexts\.context"):
        agent.task_contexts.store("s1", object())
    assert agent.task_contexts.store("s1", None).version == 14


def test_versions_are_exact_with_many_threads(tmp_path: Path) -> None:
    with AgentStore(tmp_path / "a", sync=walkv.WriteBack()) as agent:
        versions: list[int] = []

        def work() -> None:
            for n in range(20):
                versions.append(agent.task_contexts.store("s1", n).version)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(versions) == list(range(1, 161))
        history = agent.task_contexts.history("s1")
        assert [c.version for c in history] == list(range(159, 149, -1))
