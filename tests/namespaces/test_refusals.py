"""What would be lost, or could not be read again, is refused before anything is written."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgpack
import pytest

import walkv
from walkv import CodecError, WriteBack, WriteThrough
from walkv.namespaces import codec
from walkv.testing import SimulatedFileSystem

WEST, EAST = timezone(timedelta(hours=-5)), timezone(timedelta(hours=5))


@pytest.fixture
def agent() -> Iterator[walkv.AgentStore]:
    with walkv.AgentStore("/s", filesystem=SimulatedFileSystem()) as opened:
        yield opened


def contents(agent: walkv.AgentStore) -> dict[bytes, bytes]:
    return dict(agent.store.scan())


@pytest.mark.parametrize(
    "moment", [datetime.max.replace(tzinfo=WEST), datetime.min.replace(tzinfo=EAST)]
)
def test_a_time_that_is_none_in_utc_is_refused(agent: walkv.AgentStore, moment: datetime) -> None:
    before = contents(agent)
    with pytest.raises(CodecError, match="out of the range"):
        agent.messages.append("s", role="user", content={"never": [moment]})
    with pytest.raises(CodecError):
        agent.checkpoints.put("t", "c", {"never": moment})
    assert contents(agent) == before


@pytest.mark.parametrize(
    "moment",
    [
        datetime.max.replace(tzinfo=UTC),
        datetime.min.replace(tzinfo=UTC),
        datetime(1960, 1, 1, tzinfo=EAST),
        datetime(3000, 1, 1, tzinfo=WEST),
    ],
)
def test_far_times_that_exist_are_kept(moment: datetime) -> None:
    assert codec.decode(codec.encode([moment])) == [moment]


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"role": "assistant", "content": None, "tool_calls": [1]}, "tool_calls"),
        ({"role": "tool"}, "content"),
        ({"content": "x"}, "role"),
        ("hello", "content"),
    ],
)
def test_messages_lose_nothing_in_silence(
    agent: walkv.AgentStore, message: Any, field: str
) -> None:
    before = contents(agent)
    with pytest.raises(CodecError) as caught:
        agent.messages.append_many("s", [{"role": "user", "content": "x"}, message])
    assert (caught.value.namespace, caught.value.field) == ("messages", field)
    with pytest.raises(CodecError):
        agent.messages.splice("s", 1, 2, [message])
    assert contents(agent) == before


@pytest.mark.parametrize("subtask", [{"desc": "look"}, "look", {}, {"description": "x", "y": 1}])
def test_subtasks_lose_nothing_in_silence(agent: walkv.AgentStore, subtask: Any) -> None:
    before = contents(agent)
    with pytest.raises(CodecError) as caught:
        agent.tasks.create("s", "do it", [{"description": "fine"}, subtask])
    assert caught.value.namespace == "subtasks"
    assert contents(agent) == before


@pytest.mark.parametrize("writes", [[(7, "v")], {"messages": 1}, [("a",)], ["ab"]])
def test_pending_writes_are_pairs_of_a_channel_and_a_value(
    agent: walkv.AgentStore, writes: Any
) -> None:
    with pytest.raises(CodecError):
        agent.checkpoints.put_writes("t", "c", "task", writes)
    with pytest.raises(CodecError):
        agent.checkpoints.put_writes("t", "c", "task", [("a", 1)], task_path=7)  # type: ignore[arg-type]
    assert agent.checkpoints.get_writes("t", "c") == []


def test_pages_and_prunes_take_only_what_they_can_compare(agent: walkv.AgentStore) -> None:
    agent.messages.append("s", role="user", content="x")
    with pytest.raises(CodecError):
        agent.messages.history("s", before="m1")  # type: ignore[arg-type]
    agent.checkpoints.put("t", "c", 1)
    with pytest.raises(CodecError, match="time zone"):
        agent.checkpoints.prune(older_than=datetime(2020, 1, 1))


def test_usage_counts_whole_numbers(agent: walkv.AgentStore) -> None:
    agent.users.create("ada")
    for bad in (1.5, "7", True):
        with pytest.raises(CodecError):
            agent.users.add_usage("ada", tokens=bad)  # type: ignore[arg-type]
    assert agent.users.add_usage("ada", tokens=7)["total_tokens"] == 7


def test_a_query_by_a_secret_does_not_show_it(agent: walkv.AgentStore) -> None:
    query = agent.users.query().where(api_keys={"openai": "sk-secret"})
    assert "sk-secret" not in repr(query)
    assert "sk-secret" not in str(query.explain())


def test_soft_deletion_holds_for_queries_too(agent: walkv.AgentStore) -> None:
    source = agent.knowledge_sources.add("manual", "/doc", "folder")
    assert agent.knowledge_sources.query(name="manual").delete() == 1
    assert agent.knowledge_sources.query(name="manual").delete() == 0
    found = agent.knowledge_sources.get(source.source_id)
    assert found is not None
    assert found.status == "deleted"


# -- what would quietly not be what it was asked to be ---------------------------------------------


def test_a_batch_inside_a_batch_keeps_its_policy() -> None:
    fs = SimulatedFileSystem()
    with walkv.AgentStore("/s", filesystem=fs, sync=WriteBack()) as agent:
        for outer in (None, WriteBack()):
            with agent.batch(sync=outer), agent.batch(sync=WriteThrough()):
                agent.executions.log(tool_name="pay")
            write_log = agent.store.engine.write_log  # type: ignore[union-attr]
            assert write_log.durable == write_log.position


@dataclass(frozen=True, slots=True)
class Note:
    note_id: str
    author: str = ""


def test_an_open_store_has_one_declaration_of_a_namespace(agent: walkv.AgentStore) -> None:
    old = walkv.Declaration("notes", Note, key="note_id")
    new = walkv.Declaration("notes", Note, key="note_id", indexes=["author"])
    agent.namespace(old).put(Note("n1", "ada"))
    agent.namespace(old)
    with pytest.raises(TypeError, match="declared otherwise"):
        agent.namespace(new)
    with pytest.raises(TypeError, match="declared otherwise"):
        walkv.AgentStore(agent.store).namespace(new)


@pytest.mark.parametrize("options", [{"read_only": True}, {"create": False}, {"nothing": 1}])
def test_options_of_opening_are_not_for_an_open_store(
    agent: walkv.AgentStore, options: dict[str, Any]
) -> None:
    with pytest.raises(TypeError):
        walkv.AgentStore(agent.store, **options)
    for source in (agent, agent.store):
        with pytest.raises(TypeError):
            walkv.AsyncAgentStore(source, **options)


def test_an_agent_that_is_not_open_says_how_to_open_it(tmp_path: Path) -> None:
    async def main() -> None:
        agent = walkv.AsyncAgentStore(tmp_path / "s")
        with pytest.raises(walkv.ClosedError, match="async with"):
            await agent.sessions.get("s")
        with pytest.raises(AttributeError, match="sesions"):
            await agent.sesions.get("s")
        async with agent:
            assert await agent.sessions.get("s") is None
        with pytest.raises(walkv.ClosedError):
            async with agent:
                pass

    asyncio.run(main())


def test_steps_are_decorated_as_they_are_meant(agent: walkv.AgentStore) -> None:
    with pytest.raises(TypeError, match=r"@agent\.step\(key='k'\)"):
        agent.step("k")  # type: ignore[call-overload]

    @agent.step(key="x/{wrong}")
    def work(right: int) -> int:
        return right

    with pytest.raises(TypeError, match="may name right"):
        work(1)
    with pytest.raises(TypeError, match="calls the function itself"):
        agent.executions.once("k", None)  # type: ignore[arg-type]
    assert agent.executions.once("k", lambda: 5) == 5


@pytest.mark.parametrize("code", [0, 5, 42, 64, 127])
def test_extension_types_of_msgpack_come_back(agent: walkv.AgentStore, code: int) -> None:
    value = {"x": [msgpack.ExtType(code, b"not a date"), datetime(2020, 1, 1, tzinfo=UTC)]}
    agent.messages.append("s", role="user", content=value)
    assert agent.messages.history("s")[0].content == value
    assert agent.messages.clear("s") == 1
