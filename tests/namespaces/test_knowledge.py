"""Knowledge sources: deleted softly, and purged for good."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

import walkv
from walkv import AgentStore, CodecError, RecordExistsError, RecordNotFoundError
from walkv.namespaces.knowledge import KnowledgeSource
from walkv.testing import SimulatedFileSystem


@pytest.fixture
def fs() -> SimulatedFileSystem:
    return SimulatedFileSystem()


@pytest.fixture
def agent(fs: SimulatedFileSystem) -> Iterator[AgentStore]:
    with AgentStore("/a.walkv", filesystem=fs) as opened:
        yield opened
        assert opened.verify() == []


def test_add_by_parts_or_as_a_record(agent: AgentStore) -> None:
    made = agent.knowledge_sources.add("docs", "/docs", "folder", {"lang": "en"}, source_id="k1")
    assert made == agent.knowledge_sources.get("k1")
    assert (made.name, made.path, made.source_type) == ("docs", "/docs", "folder")
    assert (made.status, made.metadata) == ("active", {"lang": "en"})
    now = agent.knowledge_sources.now()
    record = KnowledgeSource("k2", "web", "https://x", "url", "deleted", now, now)
    assert agent.knowledge_sources.add(record) == record == agent.knowledge_sources.get("k2")
    for again in ("k1", "k2"):
        with pytest.raises(RecordExistsError, match=again):
            agent.knowledge_sources.add("docs", source_id=again)
    with pytest.raises(CodecError):
        agent.knowledge_sources.add("docs", 7)  # type: ignore[arg-type]


def test_a_soft_deletion_can_be_taken_back(agent: AgentStore, fs: SimulatedFileSystem) -> None:
    made = agent.knowledge_sources.add("docs", "/docs", "folder", source_id="k1")
    fs.clock.advance(1)
    assert agent.knowledge_sources.delete("k1")
    assert not agent.knowledge_sources.delete("k1")
    assert not agent.knowledge_sources.delete("k2")
    gone = agent.knowledge_sources.get("k1")
    assert gone is not None
    assert (gone.status, gone.updated_at) == ("deleted", made.updated_at + timedelta(seconds=1))
    assert agent.knowledge_sources.list() == []
    assert agent.knowledge_sources.list("deleted") == [gone]
    fs.clock.advance(1)
    back = agent.knowledge_sources.update("k1", status="active", name="manual")
    assert back.updated_at == made.updated_at + timedelta(seconds=2)
    assert agent.knowledge_sources.list() == [back]
    with pytest.raises(RecordNotFoundError):
        agent.knowledge_sources.update("k2", name="x")


def test_a_query_deletes_softly_too(agent: AgentStore) -> None:
    for n in range(4):
        agent.knowledge_sources.add("docs", source_id=f"k{n}", source_type=["a", "b"][n % 2])
    agent.knowledge_sources.delete("k1")
    assert agent.knowledge_sources.query(source_type="b").delete() == 1
    assert [k.source_id for k in agent.knowledge_sources.list("deleted")] == ["k1", "k3"][::-1]
    assert agent.knowledge_sources.query().delete() == 2
    assert agent.knowledge_sources.list() == []
    assert agent.knowledge_sources.count() == 4


def test_purge_is_for_good(agent: AgentStore) -> None:
    for name in ("k1", "k2"):
        agent.knowledge_sources.add("docs", source_id=name)
    agent.knowledge_sources.delete("k1")
    assert agent.knowledge_sources.purge("k1")
    assert agent.knowledge_sources.purge("k2")
    assert not agent.knowledge_sources.purge("k1")
    assert agent.knowledge_sources.list(None) == []
    assert agent.knowledge_sources.count() == 0
    agent.knowledge_sources.add("docs", source_id="k1")


def test_lists_are_newest_first(agent: AgentStore, fs: SimulatedFileSystem) -> None:
    for n in range(5):
        fs.clock.advance(1)
        agent.knowledge_sources.add(f"n{n}", source_id=f"k{n}", source_type=["a", "b"][n % 2])
    agent.knowledge_sources.delete("k3")
    assert [k.source_id for k in agent.knowledge_sources.list()] == ["k4", "k2", "k1", "k0"]
    assert [k.source_id for k in agent.knowledge_sources.list(limit=2)] == ["k4", "k2"]
    every = agent.knowledge_sources.list(None)
    assert [k.source_id for k in every] == ["k4", "k3", "k2", "k1", "k0"]
    assert agent.knowledge_sources.count(source_type="b", status="active") == 1


def test_indexes_and_policy(agent: AgentStore) -> None:
    query = agent.knowledge_sources.query
    plan = query(status="active").order_by("-created_at").explain()
    assert (plan.index, plan.sorted_in_memory) == ("status,created_at", False)
    assert query(source_type="url").explain().index == "source_type"
    assert agent.knowledge_sources.sync == walkv.Wal()
