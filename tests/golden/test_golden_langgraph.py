"""Today's adapters read what those of every version wrote, and write it byte for byte."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import make_langgraph
import make_records
import pytest
from make import START_NS
from make_langgraph import INDEX, LONG, TS

import walkv
from walkv.integrations.langgraph import WalkvCache, WalkvSaver, WalkvStore

V1 = Path(__file__).parent / "langgraph-v1"
START = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=START_NS // 1000)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[walkv.AgentStore]:
    shutil.copytree(V1, tmp_path / "store")
    with walkv.AgentStore(tmp_path / "store") as opened:
        yield opened


def test_entries_are_written_byte_for_byte(tmp_path: Path) -> None:
    shutil.copytree(V1, tmp_path / "store")
    with walkv.open(tmp_path / "store", read_only=True) as store:
        assert make_langgraph.make(tmp_path / "new") == make_records.entries(store)


def config(thread_id: str, checkpoint_id: str, namespace: str = "") -> Any:
    named = {"thread_id": thread_id, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}
    return {"configurable": named}


@pytest.mark.parametrize("thread_id", ["t1", "t2"])
def test_checkpoints_are_read(agent: walkv.AgentStore, thread_id: str) -> None:
    saver = WalkvSaver(agent)
    for number, state in enumerate(make_langgraph.states()):
        found = saver.get_tuple(config(thread_id, f"c{number}"))
        assert found is not None
        checkpoint: Any = found.checkpoint
        assert checkpoint["channel_values"] == state
        assert (checkpoint["ts"], checkpoint["id"]) == (TS, f"c{number}")
        assert checkpoint["versions_seen"] == {"node": {"step": number}}
        assert found.metadata["step"] == number
        parent = config(thread_id, f"c{number - 1}") if number else None
        assert found.parent_config == parent
        writes = [(f"task{number}", "step", number + 1), (f"task{number}", "log", "text")]
        if number == 7:
            writes = [("large", "draft", LONG * 2), ("task7", "__interrupt__", ["stop"]), *writes]
        assert found.pending_writes == writes
    child = saver.get_tuple(config(thread_id, "s0", "child:1"))
    assert child is not None
    assert child.checkpoint["channel_values"] == {"text": "in a subgraph"}
    assert child.checkpoint["channel_versions"] == {"text": f"{1:032}.{0.25:016}"}
    kept = saver.prune([thread_id])
    assert (kept.checkpoint_count, len(list(saver.list(config(thread_id, "c0"))))) == (0, 1)
    assert saver.delete_for_runs(["r1"]) is None
    assert [each.checkpoint["id"] for each in saver.list(None)] == ["s0", "s0"]


def test_items_are_read(agent: walkv.AgentStore) -> None:
    store = WalkvStore(agent, index=INDEX)
    found = store.get(("users", "ada"), "profile")
    assert found is not None
    assert found.value == {"text": "likes tea", "notes": ["a", "bc"], "n": [1.5]}
    assert found.created_at == found.updated_at == START
    assert store.list_namespaces() == [("users",), ("users", "ada"), ("users", "grace")]
    (best,) = store.search(("users",), query="xy", limit=1)
    assert (best.key, best.score) == ("profile", pytest.approx(1.0))
    assert agent.verify() == []


def test_what_is_cached_is_read(agent: walkv.AgentStore) -> None:
    cache: WalkvCache[Any] = WalkvCache(agent)
    keys = [(("a", "b,c"), "k"), ((), "k"), (("a", "b", "c"), "k")]
    assert cache.get(keys) == {keys[0]: {"result": [1, None]}, keys[1]: "r"}
