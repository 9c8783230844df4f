"""Today's namespaces read the records of every version, and write the current one byte for byte."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import make_records
import pytest
from make import START_NS
from make_records import ANYTHING, AT, SAMPLES, Sample

import walkv

V1 = Path(__file__).parent / "records-v1"
START = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=START_NS // 1000)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[walkv.AgentStore]:
    shutil.copytree(V1, tmp_path / "store")
    with walkv.AgentStore(tmp_path / "store") as opened:
        yield opened


def test_entries_are_written_byte_for_byte(tmp_path: Path) -> None:
    shutil.copytree(V1, tmp_path / "store")
    with walkv.open(tmp_path / "store", read_only=True) as store:
        assert make_records.make(tmp_path / "new") == make_records.entries(store)


def test_everything_is_read(agent: walkv.AgentStore) -> None:
    assert agent.verify() == []
    assert agent.namespace(SAMPLES).verify() == []
    session = agent.sessions.get("s1")
    assert session is not None
    assert (session.request_count, session.total_processing_time_seconds) == (1, 1.25)
    assert session.metadata == {"plan": "pro"}
    assert session.created_at == session.updated_at == START
    messages = agent.messages.history("s1")
    assert [(m.seq, m.message_id, m.content) for m in messages] == [
        (1, "m1", "hello"),
        (2, "m2", [{"type": "text"}]),
    ]
    for thread in ("t1", "t2"):
        for number, state in enumerate(make_records.states()):
            found = agent.checkpoints.get(thread, f"c{number}")
            assert found is not None
            assert (found.data, found.metadata, found.run_id) == (state, {"n": number}, "r1")
        writes = agent.checkpoints.get_writes(thread, "c7")
        assert [(w.task_id, w.idx, w.channel, w.value, w.task_path) for w in writes] == [
            ("task", -1, "__error__", "no", ""),
            ("task", 0, "x", 1, "p"),
            ("task", 1, "y", {"z": 2}, "p"),
        ]
    context = agent.task_contexts.get("s1")
    assert context is not None
    assert (context.context, context.version) == ({"goal": 2}, 2)
    assert [old.context for old in agent.task_contexts.history("s1")] == [{"goal": 1}]
    compressed = agent.contexts.get("x1")
    assert compressed is not None
    assert (compressed.compressed_content, compressed.compression_ratio) == ("short", 0.5)
    workflow = agent.workflows.get("w1")
    assert workflow is not None
    assert workflow.role_results == {"reader": {"files": 3}}
    assert [e.tool_name for e in agent.executions.list(role="planner")] == ["search"]
    active = agent.configurations.get_active("role_config", "planner")
    assert active is not None
    assert (active.config_id, active.content) == ("f2", {"t": 2})
    assert agent.configurations.setting("log_level") == "INFO"
    details = agent.tasks.details("k1")
    assert details is not None
    assert [step.subtask_id for step in details.subtasks] == ["b1", "b2"]
    user = agent.users.info("ada", secrets=True)
    assert user is not None
    assert user["api_keys"] == {"openai": "sk-1"}
    assert user["usage_stats"] == {"task_count": 1, "total_tokens": 100}
    assert [source.name for source in agent.knowledge_sources.list()] == ["manual"]


def test_every_kind_of_value_is_read(agent: walkv.AgentStore) -> None:
    samples = agent.namespace(SAMPLES)
    numbers = [-(2**40), -1, 0, 255, 2**63]
    expected = [Sample("b\0c", n, n / 2, True, b"\0\1", AT, ANYTHING, ["x"], "t") for n in numbers]
    assert samples.query(name="b\0c").all() == expected
    assert samples.query(share=-0.5).all() == [expected[1]]
    assert [old.share for old in samples.history(("a", 1))] == [0.0, None]
