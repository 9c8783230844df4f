"""Checkpoints through the saver: what comes back, what it costs, in which order it is written."""

from __future__ import annotations

import asyncio
import errno
import gc
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.base import WRITES_IDX_MAP, BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

import walkv
from tests.integrations.langgraph.handmade import (
    Config,
    Counting,
    chat,
    config,
    ids,
    kept_by,
    parts,
    put,
    recipe,
    state,
    step,
    text,
    values_of,
    writes_of,
    written_bytes,
)
from tests.unit.hooked import HookedFileSystem
from walkv import (
    AgentStore,
    ClosedError,
    CodecError,
    StoreFailedError,
    Wal,
    WriteBack,
    WriteThrough,
)
from walkv.engine.store.exclusive import ExclusiveStore
from walkv.engine.store.view import View
from walkv.errors import FormatError
from walkv.integrations.langgraph import WalkvSaver
from walkv.namespaces import codec
from walkv.namespaces.checkpoints.states import States
from walkv.testing import Fault, FaultyFileSystem, SimulatedFileSystem

BIG = text(0, 20_000)


@pytest.fixture
def fs() -> SimulatedFileSystem:
    return SimulatedFileSystem()


@pytest.fixture
def agent(fs: SimulatedFileSystem) -> Iterator[AgentStore]:
    with AgentStore("/a.walkv", filesystem=fs) as opened:
        yield opened
        assert opened.verify() == []


@pytest.fixture
def saver(agent: AgentStore) -> WalkvSaver:
    return WalkvSaver(agent)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test in a fresh event loop that gives up rather than hang."""

    async def limited() -> None:
        await asyncio.wait_for(test(), 60)

    asyncio.run(limited())


# -- what comes back -------------------------------------------------------------------------------


def test_a_checkpoint_comes_back_with_all_that_belongs_to_it(saver: WalkvSaver) -> None:
    assert saver.get_tuple(config()) is None
    assert saver.get(config()) is None
    assert list(saver.list(config())) == []
    first = put(saver, "1", {"a": [1, "x", None]}, metadata={"step": 0, "source": "input"})
    assert first == config("t", "1")
    arguments = step("2", {"a": {"b": b"\0"}, "c": 1.5}, parent="1", metadata={"step": 1})
    assert saver.put(*arguments) == config("t", "2")
    saver.put_writes(config("t", "2"), [("a", 7)], "task", "path")
    found = saver.get_tuple(config())
    assert found is not None
    assert found.config == config("t", "2")
    assert found.parent_config == config("t", "1")
    assert found.checkpoint == arguments[1]
    assert found.metadata == {"step": 1}
    assert found.pending_writes == [("task", "a", 7)]
    assert saver.get(config("t", "1")) == step("1", {"a": [1, "x", None]})[1]
    assert saver.get_tuple(config("t", "3")) is None
    assert saver.get_tuple(config("u")) is None
    assert saver.get_tuple(config("t", namespace="sub")) is None


def test_the_config_says_where_and_adds_to_the_metadata(saver: WalkvSaver) -> None:
    where, *rest = step("1", {"a": 1}, thread_id=7, metadata={"step": 0})
    where["configurable"] |= {"user": "ada", "__secret": "x", "n": 3}
    where["metadata"] = {"run_id": "r1", "step": 9}
    assert saver.put(where, *rest) == config(7, "1")
    found = saver.get_tuple({"configurable": {"thread_id": 7}})
    assert found is not None
    assert found.config == config(7, "1")
    assert found.metadata == {"step": 0, "user": "ada", "n": 3, "run_id": "r1"}
    assert values_of(saver, config("7")) == {"a": 1}
    assert saver.threads() == ["7"]


def test_the_latest_is_the_last_that_was_put_whatever_the_ids_are(saver: WalkvSaver) -> None:
    for name in ("b", "z", "a", "m"):
        put(saver, name, {"from": name})
        assert values_of(saver) == {"from": name}
    assert ids(saver.list(config())) == ["m", "a", "z", "b"]
    put(saver, "z", {"from": "again"})
    assert values_of(saver) == {"from": "m"}
    assert values_of(saver, config("t", "z")) == {"from": "again"}
    assert ids(saver.list(config())) == ["m", "a", "z", "b"]


def test_an_empty_id_is_no_id(saver: WalkvSaver) -> None:
    put(saver, "1", {"a": 1}, parent="")
    found = saver.get_tuple(config("t", ""))
    assert found is not None
    assert (found.config, found.parent_config) == (config("t", "1"), None)


def test_when_it_was_made_is_what_the_checkpoint_says(
    saver: WalkvSaver, fs: SimulatedFileSystem
) -> None:
    now = datetime.fromtimestamp(fs.clock.wall_ns / 1e9, UTC)
    put(saver, "1", {"a": 1}, ts="2024-05-01T10:00:00+02:00")
    for name, ts in [("2", "yesterday"), ("3", ""), ("4", None)]:
        put(saver, name, {"a": 1}, ts=ts)  # type: ignore[arg-type]
    reader = saver.agent.store
    found = [kept_by(saver).record_at(reader, "t", "", name) for name in "1234"]
    made = [each.created_at for each in found if each is not None]
    assert made == [datetime(2024, 5, 1, 8, tzinfo=UTC), now, now, now]


BAD: dict[str, dict[str, Any]] = {
    "an object": {"values": {"a": object()}},
    "a number": {"values": {"a": 1 << 70}},
    "a channel": {"values": {"\ud800": 1}, "versions": {}},
    "metadata": {"values": {"a": 1}, "metadata": {"x": object()}},
    "a version": {"values": {"a": 1}, "versions": {"a": 1 << 70}},
    "an id": {"values": {"a": 1}, "checkpoint_id": "\ud800"},
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_what_cannot_be_kept_is_refused_and_nothing_is_written(
    saver: WalkvSaver, bad: dict[str, Any]
) -> None:
    put(saver, "1", {"a": 1})
    before = dict(saver.agent.store.scan())
    arguments = step(**{"checkpoint_id": "2", **bad})
    with pytest.raises(CodecError):
        saver.put(*arguments)
    with pytest.raises(CodecError):
        asyncio.run(saver.aput(*arguments))
    with pytest.raises(CodecError):
        saver.put_writes(config("t", "1"), [("a", 1), ("b", object())], "task")
    with pytest.raises(CodecError):
        saver.put_writes(config("t", "1"), [("a", 1)], "\ud800")
    assert dict(saver.agent.store.scan()) == before


# -- sharing by version ----------------------------------------------------------------------------


class Unseen:
    """Nobody can serialize this."""


def test_an_unchanged_channel_is_neither_serialized_nor_read(
    agent: AgentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    serde = Counting()
    saver = WalkvSaver(agent, serde=serde)
    put(saver, "1", {"big": BIG, "n": 1})
    read: list[bytes] = []
    real = States._load

    def load(self: Any, reader: Any, pool: int, recipe: bytes) -> Any:
        read.append(recipe)
        return real(self, reader, pool, recipe)

    monkeypatch.setattr(States, "_load", load)
    fresh = WalkvSaver(agent, serde=serde)  # remembers nothing
    serde.dumped.clear()
    versions = {"big": 1, "n": 2}
    put(fresh, "2", {"big": Unseen(), "n": 2}, parent="1", new=["n"], versions=versions)
    assert recipe(fresh, "big", "2") == recipe(fresh, "big", "1")
    assert recipe(fresh, "big", "1") not in read
    assert len(serde.dumped) == 3  # the checkpoint, its metadata, and the channel that changed
    assert serde.loaded == []
    assert values_of(fresh) == {"big": BIG, "n": 2}
    before = written_bytes(fresh)
    asyncio.run(fresh.aput(*step("3", {"big": Unseen(), "n": 2}, parent="2", new=[])))
    assert written_bytes(fresh) - before < 1000


def test_forks_with_the_same_versions_stay_apart(saver: WalkvSaver) -> None:
    put(saver, "1", {"a": "base", "b": BIG})
    for side in ("left", "right"):
        values = {"a": side, "b": BIG}
        versions = {"a": 2, "b": 1}
        put(saver, f"2{side}", values, parent="1", new=["a"], versions=versions)
    # By now the latest is "2right", and both have "a" at version 2.
    for n in range(3, 6):
        for side in ("left", "right"):
            values = {"a": side, "b": BIG, "n": n}
            versions = {"a": 2, "b": 1, "n": n}
            parent = f"{n - 1}{side}"
            put(saver, f"{n}{side}", values, parent=parent, new=["n"], versions=versions)
            assert recipe(saver, "a", f"{n}{side}") == recipe(saver, "a", f"2{side}")
    for found in saver.list(config()):
        name = found.checkpoint["id"]
        assert found.checkpoint["channel_values"]["a"] == (name[1:] or "base")
        assert found.checkpoint["channel_values"]["b"] == BIG
    assert len({recipe(saver, "b", name) for name in ids(saver.list(config()))}) == 1


@pytest.mark.parametrize(
    ("way", "options"),
    [
        ("the parent does not have it", {"parent": "1", "versions": {"a": 1, "b": 1}}),
        ("the parent has another version", {"parent": "1", "versions": {"a": 2, "b": 1}}),
        ("the parent is gone", {"parent": "0", "versions": {"a": 1, "b": 1}}),
        ("there is no parent", {"parent": None, "versions": {"a": 1, "b": 1}}),
        ("it has no version", {"parent": "1", "versions": {}}),
        ("another thread", {"parent": "1", "versions": {"a": 1, "b": 1}, "thread_id": "u"}),
        ("another namespace", {"parent": "1", "versions": {"a": 1, "b": 1}, "namespace": "s"}),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_the_parent_does_not_have_is_stored(
    saver: WalkvSaver, way: str, options: dict[str, Any]
) -> None:
    put(saver, "0", {"a": "older"})
    put(saver, "1", {"a": "old", "b": "old"} if way != "the parent does not have it" else {})
    if way == "the parent is gone":
        kept_by(saver).delete("t", "0")
    values = {"a": "new", "b": "new"}
    where = put(saver, "2", values, new=[], **options)
    expected = {"a": "new", "b": "old"} if way == "the parent has another version" else values
    assert values_of(saver, where) == expected


def test_values_without_a_version_are_stored_each_time(saver: WalkvSaver) -> None:
    for n in range(4):
        parent = str(n - 1) if n else None
        put(saver, str(n), {"a": n, "b": [n]}, parent=parent, new=[], versions={})
    found = [each.checkpoint["channel_values"] for each in saver.list(config())]
    assert found == [{"a": n, "b": [n]} for n in (3, 2, 1, 0)]


def test_a_channel_without_a_value_has_none(saver: WalkvSaver) -> None:
    put(saver, "1", {"a": 1, "b": None})
    put(saver, "2", {"b": None}, parent="1", new=["a"], versions={"a": 2, "b": 1})
    assert values_of(saver) == {"b": None}
    put(saver, "3", {"a": 3, "b": None}, parent="2", new=["a"], versions={"a": 3, "b": 1})
    assert values_of(saver) == {"a": 3, "b": None}


def test_putting_one_again_replaces_it(saver: WalkvSaver) -> None:
    put(saver, "1", {"a": BIG, "b": 1}, metadata={"step": 0})
    put(saver, "2", {"a": BIG, "b": 2}, parent="1", new=["b"], versions={"a": 1, "b": 2})
    saver.put_writes(config("t", "1"), [("b", 5)], "task")
    put(saver, "1", {"a": "other", "c": 3}, parent="0", metadata={"step": 9})
    found = saver.get_tuple(config("t", "1"))
    assert found is not None
    assert found.checkpoint["channel_values"] == {"a": "other", "c": 3}
    assert (found.metadata, found.parent_config) == ({"step": 9}, config("t", "0"))
    assert found.pending_writes == [("task", "b", 5)]
    assert values_of(saver) == {"a": BIG, "b": 2}
    # Its own parent: what has not changed is as it was.
    put(saver, "2", {"a": Unseen(), "b": 4}, parent="2", new=["b"], versions={"a": 1, "b": 4})
    assert values_of(saver) == {"a": BIG, "b": 4}
    assert saver.usage().checkpoint_count == 2


def test_every_form_of_a_serializer_is_kept(saver: WalkvSaver) -> None:
    forms = [None, b"bytes", bytearray(b"array"), {"a": 1}, None, [HumanMessage("x", id="1")]]
    for n, value in enumerate(forms):
        put(saver, str(n), {"a": value}, parent=str(n - 1) if n else None)
    found = [each.checkpoint["channel_values"]["a"] for each in saver.list(config())]
    assert found == forms[::-1]
    assert type(found[-3]) is bytearray
    assert {state(saver, str(n)).channels["a"].kind for n in range(6)} == {
        *("null", "bytes", "bytearray", "msgpack")
    }


def test_versions_go_on_as_they_began(saver: WalkvSaver) -> None:
    first = saver.get_next_version(None, None)
    assert first.startswith(f"{1:032}.")
    assert first < saver.get_next_version(first, None)
    assert saver.get_next_version(1, None) == 2
    assert saver.get_next_version(1.5, None) == 2.5
    current = InMemorySaver().get_next_version(None, None)
    versions = [current]
    for _ in range(12):
        versions.append(saver.get_next_version(versions[-1], None))
    assert versions == sorted(versions)
    assert [int(version.split(".")[0]) for version in versions] == list(range(1, 14))
    assert len({saver.get_next_version(current, None) for _ in range(20)}) == 20


# -- what it costs ---------------------------------------------------------------------------------


def test_a_large_value_that_changes_a_little_costs_little(saver: WalkvSaver) -> None:
    draft = text(1, 200_000)
    put(saver, "0", {"draft": draft})
    for n in range(1, 60):
        at = n * 3000
        draft = draft[:at] + f"<{n}>" + draft[at:]
        before = written_bytes(saver)
        put(saver, str(n), {"draft": draft}, parent=str(n - 1), versions={"draft": n + 1})
        assert written_bytes(saver) - before < 4000
    assert values_of(saver) == {"draft": draft}
    assert values_of(saver, config("t", "0")) == {"draft": text(1, 200_000)}


def test_a_chat_grows_by_what_is_said(agent: AgentStore, saver: WalkvSaver) -> None:
    sizes = []
    for turns in (75, 150):
        chat(saver, turns, f"chat {turns}")
        agent.store.compact()
        sizes.append(agent.store.stats().disk_bytes - sum(sizes))
    said_bytes = 150 * 400
    assert sizes[1] < 2.5 * sizes[0]
    assert sizes[1] < 4 * said_bytes
    for turns in (75, 150):
        last = state(saver, f"{turns - 1:06}", f"chat {turns}").channels
        assert max(len(each.recipe) for each in last.values()) < 60
        assert len(values_of(saver, config(f"chat {turns}"))["messages"]) == turns
    usage = saver.usage("chat 150")
    assert usage.checkpoint_count == 150
    assert usage.state_bytes > 30 * usage.kept_bytes


def test_channels_that_grow_side_by_side_have_short_recipes(saver: WalkvSaver) -> None:
    names = [f"list {n}" for n in range(6)]
    values: dict[str, list[str]] = {name: [] for name in names}
    for n in range(60):
        values = {name: [*said, text(n * 7 + len(name), 300)] for name, said in values.items()}
        versions = dict.fromkeys(names, n + 1)
        put(saver, f"{n:03}", values, parent=f"{n - 1:03}" if n else None, versions=versions)
    assert max(len(each.recipe) for each in state(saver).channels.values()) < 60
    assert values_of(saver) == values


# -- pending writes --------------------------------------------------------------------------------


def test_writes_are_in_the_order_in_which_they_are_applied(saver: WalkvSaver) -> None:
    memory = InMemorySaver()
    order = [("t1", "~b"), ("t3", "a"), ("t2", ""), ("t0", "~b"), ("t4", "")]
    for each in (saver, memory):
        put(each, "1", {"a": 1})
        for task_id, path in order:
            writes = [("x", f"{task_id}.{n}") for n in range(12)]
            each.put_writes(config("t", "1"), writes, task_id, path)
        each.put_writes(config("t", "1"), [("__error__", "bad"), ("__interrupt__", 1)], "t2")
    found = writes_of(saver)
    assert found == writes_of(memory)
    tasks = list(dict.fromkeys(task_id for task_id, _, _ in found))
    assert tasks == ["t2", "t4", "t3", "t0", "t1"]
    numbers = [f"t1.{n}" for n in range(12)]  # by number, not by text
    assert [value for task_id, _, value in found if task_id == "t1"] == numbers
    assert [channel for _, channel, _ in found[:2]] == ["__interrupt__", "__error__"]


def test_special_writes_replace_and_others_stay(saver: WalkvSaver) -> None:
    where = put(saver, "1", {"a": 1})
    saver.put_writes(where, [("x", 1), ("y", 2)], "task")
    saver.put_writes(where, [("x", 3), ("y", 4), ("z", 5)], "task")
    assert writes_of(saver) == [("task", "x", 1), ("task", "y", 2), ("task", "z", 5)]
    for n, channel in enumerate(WRITES_IDX_MAP):
        saver.put_writes(where, [(channel, n)], "other")
    for channel in WRITES_IDX_MAP:
        saver.put_writes(where, [(channel, channel)], "other")
    special = sorted(WRITES_IDX_MAP, key=lambda channel: WRITES_IDX_MAP[channel])
    assert writes_of(saver)[:4] == [("other", channel, channel) for channel in special]
    # Whatever else is among them.
    saver.put_writes(where, [("x", 0), ("__error__", "late")], "other")
    saver.put_writes(where, [("x", 1), ("__error__", "later")], "other")
    assert writes_of(saver)[:5] == [
        *(("other", channel, channel) for channel in special if channel != "__error__"),
        ("other", "__error__", "later"),
        ("other", "x", 0),
    ]
    saver.put_writes(where, [], "nothing")


def test_writes_may_come_before_the_first_checkpoint(saver: WalkvSaver) -> None:
    where = config("t", "1")
    saver.put_writes(where, [("x", 1), ("big", BIG)], "task")
    asyncio.run(saver.aput_writes(where, [("x", 2), ("big", BIG)], "other", "path"))
    assert saver.get_tuple(where) is None
    assert saver.threads() == []
    put(saver, "0", {"a": 1})
    assert writes_of(saver) == []
    put(saver, "1", {"a": 1}, parent="0")
    expected = [("task", "x", 1), ("task", "big", BIG), ("other", "x", 2), ("other", "big", BIG)]
    assert writes_of(saver) == expected
    saver.copy_thread("t", "u")
    saver.delete_thread("t")
    assert writes_of(saver, config("u")) == expected
    saver.put_writes(config("v", "1"), [("x", 1)], "task")
    saver.delete_thread("v")
    put(saver, "1", {"a": 1}, thread_id="v")
    assert writes_of(saver, config("v")) == []


@pytest.mark.parametrize("size_bytes", [1000, 16_000, 16_384, 40_000, 2_000_000])
def test_writes_of_any_size_come_back(saver: WalkvSaver, size_bytes: int) -> None:
    where = put(saver, "1", {"a": 1})
    value = text(3, size_bytes)
    saver.put_writes(where, [("x", value), ("y", 1)], "1")
    asyncio.run(saver.aput_writes(where, [("x", [value]), ("y", b"x" * size_bytes)], "2"))
    assert writes_of(saver) == [
        ("1", "x", value),
        ("1", "y", 1),
        ("2", "x", [value]),
        ("2", "y", b"x" * size_bytes),
    ]
    assert bool(parts(saver)) == (size_bytes >= 16_384)


# -- listing ---------------------------------------------------------------------------------------


def filled(saver: Any) -> None:
    """Two threads, one of them with two namespaces; ids in the order in which they are put."""
    for n in range(12):
        thread_id = "u" if n % 4 == 3 else "t"
        namespace = "sub:1" if n % 3 == 1 else ""
        metadata = {"step": n, "even": n % 2 == 0, "source": "loop"}
        put(
            saver,
            f"{n:02}",
            {"n": n},
            thread_id=thread_id,
            namespace=namespace,
            metadata=metadata,
        )


async def collected(found: Any) -> list[Any]:
    return [each async for each in found]


def test_lists_of_threads_and_namespaces(saver: WalkvSaver) -> None:
    filled(saver)
    cases: list[tuple[Config | None, dict[str, Any], str]] = [
        (config("t"), {}, "09 08 06 05 02 00"),
        (config("t", namespace="sub:1"), {}, "10 04 01"),
        (config("t", namespace=None), {}, "10 09 08 06 05 04 02 01 00"),
        (config("u"), {}, "11 03"),
        (config("u", namespace=None), {}, "11 07 03"),
        (config("v", namespace=None), {}, ""),
        (None, {}, "11 10 09 08 07 06 05 04 03 02 01 00"),
        (None, {"limit": 3}, "11 10 09"),
        (config("t"), {"limit": 0}, ""),
        (config("t", "06"), {}, "06"),
        (config("t", "06", None), {}, "06"),
        (config("t", "07"), {}, ""),
        (config("t"), {"before": config("t", "06")}, "05 02 00"),
        (config("t"), {"before": config("t", "07")}, "06 05 02 00"),
        (config("t", namespace=None), {"before": config("t", "06")}, "05 04 02 01 00"),
        (None, {"before": config("t", "05")}, "04 03 02 01 00"),
        (config("t"), {"before": config("t", "99")}, "09 08 06 05 02 00"),
        (config("t"), {"before": config("t", "!")}, ""),
        (config("t"), {"before": config("t", "06"), "limit": 1}, "05"),
        (config("t"), {"filter": {"even": True}}, "08 06 02 00"),
        (config("t"), {"filter": {"even": True, "step": 6}}, "06"),
        (config("t"), {"filter": {"even": True, "other": None}}, "08 06 02 00"),
        (config("t"), {"filter": {"other": 1}}, ""),
        (config("t"), {"filter": {}}, "09 08 06 05 02 00"),
        (None, {"filter": {"even": False}, "limit": 2}, "11 09"),
    ]
    for where, options, expected in cases:
        assert ids(saver.list(where, **options)) == expected.split(), (where, options)
        again = asyncio.run(collected(saver.alist(where, **options)))
        assert again == list(saver.list(where, **options))


def test_before_goes_by_the_order_of_puts(saver: WalkvSaver) -> None:
    for name in ("b", "z", "a", "m"):
        put(saver, name, {"from": name})
    assert ids(saver.list(config(), before=config("t", "m"))) == ["a", "z", "b"]
    assert ids(saver.list(config(), before=config("t", "a"))) == ["z", "b"]
    # Of one that is not there nobody knows when it was put: what has a lower id is before it.
    assert ids(saver.list(config(), before=config("t", "n"))) == ["m", "a", "b"]


def test_a_list_has_what_a_get_has(saver: WalkvSaver) -> None:
    chat(saver, 12)
    saver.put_writes(config("t", "000004"), [("x", BIG), ("y", 1)], "task")
    for found in saver.list(config()):
        assert found == saver.get_tuple(found.config)


def plain(found: Any) -> Any:
    """A tuple to be compared."""
    own = found.config["configurable"]
    parent = found.parent_config and found.parent_config["configurable"]["checkpoint_id"]
    names = ("thread_id", "checkpoint_ns", "checkpoint_id")
    where = tuple(own[name] for name in names)
    return where, parent, found.checkpoint, found.metadata, list(found.pending_writes or ())


THREADS = st.sampled_from(["t", "u", "t\0"])
SPACES = st.sampled_from(["", "", "sub", "sub|a:1"])
VALUES = st.one_of(
    st.none(),
    st.integers(-5, 5),
    st.builds(text, st.integers(0, 3), st.sampled_from([5, 300, 3000, 20_000])),
    st.lists(st.builds(text, st.integers(0, 9), st.sampled_from([10, 400])), max_size=4),
)
SPECIAL = st.lists(st.sampled_from(sorted(WRITES_IDX_MAP)), min_size=1, max_size=3, unique=True)


class AgainstMemory(RuleBasedStateMachine):
    """Whatever is done, there is the same as in LangGraph's saver in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        fs = SimulatedFileSystem()
        self.agent = AgentStore("/a", filesystem=fs, sync=WriteBack())
        self.saver = WalkvSaver(self.agent, sync=WriteBack())
        self.memory = InMemorySaver()
        self.count = 0
        self.known: list[tuple[str, str, str, dict[str, Any], dict[str, Any]]] = []

    @initialize(number=st.integers(0, 1))
    def begin(self, number: int) -> None:
        self.asynchronous = bool(number)

    def both(self, name: str, *args: Any) -> None:
        self.asynchronous = not self.asynchronous
        getattr(self.memory, name)(*args)
        if self.asynchronous:
            self.loop.run_until_complete(getattr(self.saver, f"a{name}")(*args))
        else:
            getattr(self.saver, name)(*args)

    @rule(
        thread_id=THREADS,
        namespace=SPACES,
        at=st.integers(0, 30),
        changed=st.dictionaries(st.sampled_from("abcd"), VALUES, max_size=3),
        emptied=st.sampled_from(["", "", "", "a"]),
        again=st.sampled_from([False, False, False, True]),
    )
    def put(
        self,
        thread_id: str,
        namespace: str,
        at: int,
        changed: dict[str, Any],
        emptied: str,
        again: bool,
    ) -> None:
        here = [each for each in self.known if each[:2] == (thread_id, namespace)]
        parent, values, versions = None, {}, {}
        if here and at:  # 0 begins anew
            _, _, parent, values, versions = here[-at % len(here)]
        self.count += 1
        name = f"{self.count:08}"
        if again and here:
            name = here[at % len(here)][2]
            if name == parent:
                parent = None
                values, versions = {}, {}
        values, versions = values | changed, dict(versions)
        if emptied in values:
            del values[emptied]
            changed = changed | {emptied: None}
        for channel in changed:
            versions[channel] = self.memory.get_next_version(versions.get(channel), None)
        arguments = step(
            name,
            values,
            thread_id=thread_id,
            parent=parent,
            namespace=namespace,
            new=changed,
            versions=versions,
            metadata={"step": self.count % 3, "run_id": f"r{at % 4}"},
        )
        self.both("put", *arguments)
        entry = (thread_id, namespace, name, values, versions)
        self.known = [each for each in self.known if each[:3] != entry[:3]] + [entry]

    @rule(
        thread_id=THREADS,
        namespace=SPACES,
        at=st.integers(0, 30),
        task=st.sampled_from(["t1", "t2"]),
        path=st.sampled_from(["", "a", "b"]),
        writes=st.one_of(
            st.lists(st.tuples(st.sampled_from("ab"), VALUES), max_size=3),
            SPECIAL.map(lambda names: [(name, [name]) for name in names]),
        ),
    )
    def put_writes(
        self,
        thread_id: str,
        namespace: str,
        at: int,
        task: str,
        path: str,
        writes: list[tuple[str, Any]],
    ) -> None:
        here = [each for each in self.known if each[:2] == (thread_id, namespace)]
        name = here[at % len(here)][2] if here and at else f"{self.count + 1:08}"
        self.both("put_writes", config(thread_id, name, namespace), writes, task, path)

    @rule(thread_id=THREADS)
    def delete_thread(self, thread_id: str) -> None:
        self.both("delete_thread", thread_id)
        self.known = [each for each in self.known if each[0] != thread_id]

    @rule(forget=st.booleans())
    def open_again(self, forget: bool) -> None:
        if forget:
            self.saver = WalkvSaver(self.agent, sync=WriteBack())
        self.agent.store.compact()

    @rule(thread_id=THREADS, namespace=SPACES, at=st.integers(0, 30))
    def get(self, thread_id: str, namespace: str, at: int) -> None:
        here = [each for each in self.known if each[:2] == (thread_id, namespace)]
        names = [here[at % len(here)][2]] if here and at else [None, f"{self.count + 9:08}"]
        for name in names:
            where = config(thread_id, name, namespace)
            expected = self.memory.get_tuple(where)
            one = self.saver.get_tuple(where)
            other = self.loop.run_until_complete(self.saver.aget_tuple(where))
            for found in (one, other):
                assert (found and plain(found)) == (expected and plain(expected))

    @rule(
        thread_id=st.one_of(st.none(), THREADS),
        namespace=st.one_of(st.none(), SPACES),
        at=st.integers(0, 40),
        before=st.booleans(),
        limit=st.one_of(st.none(), st.integers(0, 5)),
        wanted=st.one_of(st.none(), st.fixed_dictionaries({"step": st.integers(0, 3)})),
    )
    def list(
        self,
        thread_id: str | None,
        namespace: str | None,
        at: int,
        before: bool,
        limit: int | None,
        wanted: dict[str, Any] | None,
    ) -> None:
        where = None if thread_id is None else config(thread_id, None, namespace)
        options: dict[str, Any] = {"filter": wanted}
        if before:
            options["before"] = config("t", f"{at:08}")
        if where is not None and namespace is not None:
            options["limit"] = limit  # of several namespaces LangGraph's saver merges none
        expected = [plain(each) for each in self.memory.list(where, **options)]
        expected.sort(key=lambda each: each[0][2], reverse=True)
        assert [plain(each) for each in self.saver.list(where, **options)] == expected
        found = self.loop.run_until_complete(collected(self.saver.alist(where, **options)))
        assert [plain(each) for each in found] == expected

    def teardown(self) -> None:
        for thread_id in sorted({each[0] for each in self.known}):
            for namespace in {each[1] for each in self.known}:
                self.get(thread_id, namespace, 0)
        assert self.agent.verify() == []
        for thread_id in ("t", "u", "t\0"):
            self.saver.delete_thread(thread_id)
        counter = kept_by(self.saver).table.other + b"n"
        left = self.agent.store.scan(b"\0langgraph_checkpoints\0", keys_only=True)
        assert set(left) <= {counter}
        self.loop.close()
        self.agent.close()


TestAgainstMemory = AgainstMemory.TestCase
TestAgainstMemory.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


# -- a list is of one moment -----------------------------------------------------------------------


@pytest.fixture
def views(monkeypatch: pytest.MonkeyPatch) -> list[View]:
    """The views that are opened from now on."""
    opened: list[View] = []
    real = ExclusiveStore.view

    def view(self: ExclusiveStore) -> View:
        opened.append(real(self))
        return opened[-1]

    monkeypatch.setattr(ExclusiveStore, "view", view)
    return opened


def are_closed(views: list[View]) -> bool:
    return all(view._point is None for view in views)


def test_a_paused_list_sees_its_moment_and_holds_up_nobody(
    saver: WalkvSaver, views: list[View]
) -> None:
    chat(saver, 30)
    expected = list(saver.list(config()))
    found = saver.list(config())
    seen = [next(found) for _ in range(3)]
    chat(saver, 5, "other")
    put(saver, "000031", {"a": 1})
    saver.put_writes(config("t", "000000"), [("x", 1)], "task")
    saver.prune(["t"], keep_last=2)
    saver.delete_thread("other")
    saver.agent.store.compact()
    assert len(list(saver.list(config()))) == 2
    assert [*seen, *found] == expected
    assert are_closed(views)
    # One that is not gone through to its end.
    found = saver.list(config())
    next(found)
    assert not are_closed(views)
    del found
    assert are_closed(views)
    # A list is of the moment in which it is begun, not of that in which it was asked for.
    found = saver.list(config())
    put(saver, "000032", {"a": 1})
    assert ids(found)[0] == "000032"


def test_a_paused_list_of_a_task_sees_its_moment(saver: WalkvSaver, views: list[View]) -> None:
    chat(saver, 30)
    expected = list(saver.list(config()))

    async def test() -> None:
        found = saver.alist(config())
        seen = [await anext(found) for _ in range(10)]
        put(saver, "000031", {"a": 1})
        await saver.aput(*step("000032", {"a": 1}))
        await saver.aput_writes(config("t", "000000"), [("x", 1)], "task")
        await saver.aprune(["t"], keep_last=2)
        assert [*seen, *[each async for each in found]] == expected
        assert are_closed(views)
        assert ids(await collected(saver.alist(config()))) == ["000032", "000031"]

    run(test)


def test_an_abandoned_list_of_a_task_leaves_no_view_open(
    saver: WalkvSaver, views: list[View]
) -> None:
    chat(saver, 30)

    async def test() -> None:
        async for _ in saver.alist(config()):
            break
        gc.collect()
        for _ in range(5):  # the loop closes it in a task of its own
            await asyncio.sleep(0)
        assert len(views) == 1
        assert are_closed(views)
        found = saver.alist(config())
        await anext(found)
        assert not are_closed(views)
        await found.aclose()
        assert are_closed(views)
        never_begun = saver.alist(config())
        await never_begun.aclose()
        with suppress(ZeroDivisionError):
            async for _ in saver.alist(config()):
                1 / 0  # noqa: B018
        gc.collect()
        for _ in range(5):
            await asyncio.sleep(0)
        assert are_closed(views)
        # Left to the end of the loop.
        found = saver.alist(config())
        await anext(found)
        views.append(found)  # type: ignore[arg-type]  # held on to

    run(test)
    found: Any = views.pop()
    assert are_closed(views)
    del found


def test_a_list_of_a_task_that_is_cancelled_leaves_no_view_open(
    saver: WalkvSaver, views: list[View], monkeypatch: pytest.MonkeyPatch
) -> None:
    chat(saver, 30)
    reading, go_on = threading.Event(), threading.Event()
    real = States.read

    def read(self: Any, *args: Any) -> bytes:
        reading.set()
        assert go_on.wait(30)
        return real(self, *args)

    monkeypatch.setattr(States, "read", read)

    async def test() -> None:
        task = asyncio.create_task(collected(saver.alist(config())))
        await asyncio.to_thread(reading.wait, 30)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()  # a generator cannot be closed while it runs
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert are_closed(views)

    run(test)


def test_a_paused_list_does_not_keep_a_store_open(tmp_path: Path) -> None:
    saver = WalkvSaver(tmp_path / "s")
    chat(saver, 30)
    found = saver.list(config())
    next(found)

    async def test() -> None:
        other = saver.alist(config())
        await anext(other)
        await saver.aclose()
        with pytest.raises(ClosedError):
            async for _ in other:
                pass

    run(test)
    with pytest.raises(ClosedError):
        list(found)
    with WalkvSaver(tmp_path / "s") as again:
        assert len(list(again.list(config()))) == 30


# -- the order of writes ---------------------------------------------------------------------------


class Slow:
    """Makes what is large wait in its thread, before it writes, until it is let through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()
        real = States.prepare

        def prepare(states: States, reader: Any, pool: int, data: bytes, *rest: Any) -> Any:
            if len(data) > 1 << 20:
                self.entered.set()
                assert self.open.wait(30)
            return real(states, reader, pool, data, *rest)

        monkeypatch.setattr(States, "prepare", prepare)

    async def reached(self) -> None:
        await asyncio.to_thread(self.entered.wait, 30)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    made = Slow(monkeypatch)
    yield made
    made.open.set()


LARGE = text(9, 1_500_000)


def sequence(saver: WalkvSaver, checkpoint_id: str, task_id: str | None = None) -> int | None:
    """Where the log has a checkpoint, or the writes of a task; None if it has not."""
    checkpoints, store = kept_by(saver), saver.agent.store
    if task_id is None:
        key = checkpoints._find(store, "t", "", checkpoint_id)  # type: ignore[arg-type]
    else:
        prefix = checkpoints._threads.writes_key("t", "", checkpoint_id, task_id)
        key = next(iter(store.scan(prefix, keys_only=True)), None)
    return None if key is None else store.get_versioned(key)[1]


def test_what_is_small_does_not_overtake_what_is_large(saver: WalkvSaver, slow: Slow) -> None:
    put(saver, "1", {"a": 1})

    async def test() -> None:
        tasks = [
            asyncio.create_task(saver.aput(*step("2", {"a": LARGE}, parent="1"))),
            asyncio.create_task(saver.aput_writes(config("t", "2"), [("a", 1)], "w1")),
            asyncio.create_task(saver.aput(*step("3", {"a": 3}, parent="2"))),
            asyncio.create_task(saver.aput_writes(config("t", "3"), [("a", LARGE)], "w2")),
            asyncio.create_task(saver.adelete_thread("none")),
            asyncio.create_task(saver.aput_writes(config("t", "3"), [("a", 1)], "w3")),
        ]
        await slow.reached()
        for _ in range(10):
            await asyncio.sleep(0)
        assert sequence(saver, "2", "w1") is None
        # Who reads waits for nobody.
        assert (await saver.aget_tuple(config())).config == config("t", "1")  # type: ignore[union-attr]
        slow.open.set()
        await asyncio.gather(*tasks)
        places = [("2",), ("2", "w1"), ("3",), ("3", "w2"), ("3", "w3")]
        found = [sequence(saver, *place) for place in places]
        assert None not in found
        assert found == sorted(found)  # type: ignore[type-var]
        # When nobody is in front any more, what is small is written in place.
        slow.open.clear()
        await saver.aput(*step("4", {"a": 4}))

    run(test)


def test_who_is_cancelled_lets_nobody_overtake(saver: WalkvSaver, slow: Slow) -> None:
    put(saver, "1", {"a": 1})

    async def test() -> None:
        tasks = [asyncio.create_task(saver.aput(*step("2", {"a": LARGE}, parent="1")))]
        tasks += [
            asyncio.create_task(saver.aput_writes(config("t", "2"), [("a", 1)], f"w{n}"))  # type: ignore[arg-type]
            for n in range(4)
        ]
        await slow.reached()
        for n in (0, 2):
            tasks[n].cancel()
        await asyncio.sleep(0)
        tasks[0].cancel()  # and once more
        for _ in range(10):
            await asyncio.sleep(0)
        assert not tasks[0].done()
        assert sequence(saver, "2", "w0") is None
        late = asyncio.create_task(saver.aput_writes(config("t", "2"), [("a", 1)], "late"))
        slow.open.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        await late
        assert [isinstance(each, asyncio.CancelledError) for each in done] == [
            *(True, False, True, False, False)
        ]
        places = [("2",), ("2", "w0"), ("2", "w2"), ("2", "w3"), ("2", "late")]
        found = [sequence(saver, *place) for place in places]
        assert None not in found
        assert found == sorted(found)  # type: ignore[type-var]
        assert sequence(saver, "2", "w1") is None
        # All of them cancelled: those who come later do not wait.
        slow.open.clear()
        slow.entered.clear()
        tasks = [
            asyncio.create_task(saver.aput(*step(f"{n}", {"a": LARGE}, parent="2")))
            for n in range(3, 6)
        ]
        await slow.reached()
        for task in tasks:
            task.cancel()
        slow.open.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        await saver.aput(*step("6", {"a": 6}))
        assert ids(saver.list(config())) == ["6", "3", "2", "1"]

    run(test)


def test_a_call_that_fails_lets_the_next_ones_go_on(saver: WalkvSaver, slow: Slow) -> None:
    async def test() -> None:
        bad = step("1", {"a": LARGE}, thread_id="\ud800")
        tasks = [asyncio.create_task(saver.aput(*step("1", {"a": LARGE})))]
        tasks.append(asyncio.create_task(saver.aput(*bad)))
        tasks.append(asyncio.create_task(saver.aput(*step("2", {"a": 2}))))
        await slow.reached()
        slow.open.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(done[1], CodecError)
        assert ids(saver.list(config())) == ["2", "1"]

    run(test)


def test_what_a_graph_changes_after_a_call_is_not_stored(saver: WalkvSaver, slow: Slow) -> None:
    async def test() -> None:
        values = {"a": [LARGE], "b": {"n": 1}}
        message = HumanMessage("before", id="1")
        said = [message]
        tasks = [
            asyncio.create_task(saver.aput(*step("1", {**values, "said": said}))),
            asyncio.create_task(saver.aput_writes(config("t", "1"), [("b", values["b"])], "w")),
        ]
        await slow.reached()
        await asyncio.sleep(0)
        values["b"]["n"] = 2  # type: ignore[call-overload, index]
        values["a"].append("after")  # type: ignore[attr-defined]
        message.content = "after"
        said.append(message)
        slow.open.set()
        await asyncio.gather(*tasks)
        assert values_of(saver) == {
            "a": [LARGE],
            "b": {"n": 1},
            "said": [HumanMessage("before", id="1")],
        }
        assert writes_of(saver) == [("w", "b", {"n": 1})]

    run(test)


# -- many at once ----------------------------------------------------------------------------------


async def story(saver: BaseCheckpointSaver[Any], thread_id: str, count: int) -> None:
    """One thread of a task, some of it large; each step is looked at."""
    said: list[str] = []
    for n in range(count):
        said = [*said, text(n, 300)]
        values = {"said": said, "draft": text(1, 30_000) + str(n)}
        parent = f"{n - 1:03}" if n else None
        versions = {"said": n + 1, "draft": n + 1}
        where = await saver.aput(
            *step(f"{n:03}", values, thread_id=thread_id, parent=parent, versions=versions)
        )
        await saver.aput_writes(where, [("said", text(n, 20_000)), ("n", n)], "task")
        found = await saver.aget_tuple(config(thread_id))
        assert found is not None
        assert found.checkpoint["channel_values"] == values
        assert found.pending_writes == [("task", "said", text(n, 20_000)), ("task", "n", n)]


def test_many_tasks_in_many_loops_and_threads(tmp_path: Path) -> None:
    with WalkvSaver(tmp_path / "s", sync=WriteBack()) as saver:
        errors: list[BaseException] = []

        def loop(number: int) -> None:
            async def test() -> None:
                await asyncio.gather(*(story(saver, f"{number} {n}", 6) for n in range(5)))

            try:
                run(test)
            except BaseException as error:  # noqa: BLE001  # told below
                errors.append(error)

        def plainly() -> None:
            try:
                chat(saver, 40, "plain")
                assert len(list(saver.list(config("plain")))) == 40
            except BaseException as error:  # noqa: BLE001  # told below
                errors.append(error)

        threads = [threading.Thread(target=loop, args=(n,)) for n in range(3)]
        threads.append(threading.Thread(target=plainly))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert len(saver.threads()) == 16
        for thread_id in saver.threads():
            expected = 40 if thread_id == "plain" else 6
            assert len(list(saver.list(config(thread_id)))) == expected
        assert saver.agent.verify() == []


def test_one_loop_after_another(tmp_path: Path) -> None:
    with WalkvSaver(tmp_path / "s") as saver:
        for n in range(4):
            asyncio.run(story(saver, f"t{n}", 2))
            assert len(saver._connection._sides) == 1  # those of loops that ended are let go
        loop = asyncio.new_event_loop()
        loop.run_until_complete(story(saver, "t4", 1))
        asyncio.run(story(saver, "t5", 1))  # while another one rests
        loop.run_until_complete(story(saver, "t6", 1))
        loop.close()
        assert saver.threads() == [f"t{n}" for n in range(7)]
    assert saver._connection._sides == {}


class Gate:
    """A hook under which syncs of the log wait until they are let through."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self, operation: str, path: str) -> None:
        if operation == "sync_data" and path.endswith(".wal"):
            self.entered.set()
            self.open.wait(30)


def test_closing_while_tasks_wait(tmp_path: Path, slow: Slow) -> None:
    fs, gate = HookedFileSystem(), Gate()
    saver = WalkvSaver(tmp_path / "s", filesystem=fs)
    put(saver, "0", {"a": 0})

    async def test() -> None:
        fs.hook = gate
        # These are written, and wait for a sync.
        waiting = [asyncio.create_task(saver.aput(*step(str(n), {"a": n}))) for n in range(1, 4)]
        await asyncio.to_thread(gate.entered.wait, 30)
        # This one is about to be written, and those wait for their turn.
        late = [asyncio.create_task(saver.aput(*step("4", {"a": LARGE})))]
        late += [asyncio.create_task(saver.aput(*step(str(n), {"a": n}))) for n in (5, 6)]
        await slow.reached()
        closing = asyncio.create_task(saver.aclose())
        done, _ = await asyncio.wait(waiting, timeout=30)
        assert len(done) == 3
        for task in waiting:
            with pytest.raises(ClosedError, match="visible"):
                await task
        slow.open.set()
        gate.open.set()
        for task in late:
            with pytest.raises(ClosedError):
                await task
        await closing
        with pytest.raises(ClosedError):
            await saver.aput(*step("7", {"a": 7}))

    run(test)
    with WalkvSaver(tmp_path / "s") as again:
        assert ids(again.list(config())) == ["3", "2", "1", "0"]


# -- a disk that fails -----------------------------------------------------------------------------


def test_a_failed_sync_reaches_whoever_waits_and_nothing_is_done_after_it() -> None:
    fs = FaultyFileSystem(SimulatedFileSystem())
    agent = AgentStore("/a", filesystem=fs)
    saver = WalkvSaver(agent)
    put(saver, "1", {"a": 1})
    fs.fault = Fault(lambda call: call.operation == "sync_data")

    async def test() -> None:
        calls = [saver.aput(*step(str(n), {"a": n})) for n in (2, 3)]
        calls.append(saver.aput(*step("4", {"a": LARGE})))
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(each) for each in found] == [StoreFailedError] * 3
        with pytest.raises(StoreFailedError):
            await saver.aput_writes(config("t", "1"), [("a", 1)], "task")

    run(test)
    with pytest.raises(StoreFailedError):
        put(saver, "5", {"a": 5})
    with pytest.raises(StoreFailedError):
        agent.close()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_disk_reaches_who_wrote_and_the_rest_goes_on(asynchronous: bool) -> None:
    fs = FaultyFileSystem(SimulatedFileSystem())

    def call(saver: WalkvSaver, name: str) -> Any:
        arguments = step(name, {"a": BIG + name, "said": [HumanMessage("x", id="1")] * 5})
        return asyncio.run(saver.aput(*arguments)) if asynchronous else saver.put(*arguments)

    with AgentStore("/a", filesystem=fs) as agent:
        saver = WalkvSaver(agent)
        call(saver, "1")
        fs.fault = Fault(lambda call: call.operation == "write", code=errno.ENOSPC)
        with pytest.raises(OSError, match="No space"):
            call(saver, "2")
        fs.fault = None
        assert ids(saver.list(config())) == ["1"]
        call(saver, "3")
        assert values_of(saver)["a"] == BIG + "3"
        assert ids(saver.list(config())) == ["3", "1"]
        assert agent.verify() == []


# -- sync policies ---------------------------------------------------------------------------------

POLICIES = [Wal(), WriteThrough(), WriteBack(2.0), None]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_every_commit_is_under_the_savers_policy(
    agent: AgentStore, policy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = WalkvSaver(agent, sync=policy)
    seen: list[Any] = []
    real = ExclusiveStore.transact

    def transact(self: Any, function: Any, sync: Any) -> Any:
        seen.append(sync)
        return real(self, function, sync)

    monkeypatch.setattr(ExclusiveStore, "transact", transact)
    where = put(saver, "1", {"a": BIG})
    saver.put_writes(where, [("a", 1), ("b", BIG)], "task")
    saver.copy_thread("t", "u")
    saver.delete_for_runs(["none"])
    saver.prune(["t"], strategy="delete")
    saver.delete_thread("u")
    assert len(seen) == 6

    async def test() -> None:
        where = await saver.aput(*step("1", {"a": BIG}))
        await saver.aput_writes(where, [("a", 1), ("b", BIG)], "task")
        await saver.acopy_thread("t", "u")
        await saver.adelete_for_runs(["none"])
        await saver.aprune(["t"], strategy="delete")
        await saver.adelete_thread("u")

    run(test)
    assert len(seen) == 12
    assert set(seen) == {policy}
    assert kept_by(WalkvSaver(agent)).sync == Wal()


def wal_syncs(fs: HookedFileSystem) -> int:
    return sum(operation == "sync_data" and path.endswith(".wal") for operation, path in fs.calls)


@pytest.mark.parametrize(
    ("policy", "of_the_store", "expected"),
    [
        (Wal(), WriteBack(60), 6),
        (WriteThrough(), WriteBack(60), 6),
        (WriteBack(60), Wal(), 0),
        (None, WriteBack(60), 0),
        (None, Wal(), 6),
    ],
    ids=str,
)
def test_a_policy_reaches_the_disk(
    tmp_path: Path, policy: Any, of_the_store: Any, expected: int
) -> None:
    fs = HookedFileSystem()
    with walkv.open(tmp_path / "s", filesystem=fs, sync=of_the_store) as store:
        saver = WalkvSaver(store, sync=policy)
        store.sync()
        fs.calls.clear()
        for n in range(3):
            put(saver, str(n), {"a": n})
            saver.put_writes(config("t", str(n)), [("a", 1)], "task")
        assert wal_syncs(fs) == expected
        fs.calls.clear()
        asyncio.run(saver.aput(*step("9", {"a": 9})))
        assert wal_syncs(fs) == bool(expected)


@pytest.mark.parametrize("policy", [Wal(), WriteThrough(), WriteBack()], ids=str)
def test_what_is_acknowledged_survives_as_was_said(fs: SimulatedFileSystem, policy: Any) -> None:
    saver = WalkvSaver("/a", filesystem=fs, sync=policy)
    put(saver, "1", {"a": BIG})
    saver.agent.sync()
    asyncio.run(saver.aput(*step("2", {"a": BIG, "b": 2}, parent="1", new=["b"])))
    saver.put_writes(config("t", "2"), [("a", BIG)], "task")
    lost = 0
    for disk in fs.crash_states():
        after = SimulatedFileSystem.after_power_failure(disk)
        with AgentStore("/a", filesystem=after) as agent:
            again = WalkvSaver(agent)
            found = ids(again.list(config()))
            assert found in (["2", "1"], ["1"])
            assert values_of(again, config("t", "1")) == {"a": BIG}
            if found == ["1"]:
                lost += 1
                continue
            # The log has one order: writes are not there without what they are written on.
            assert values_of(again) == {"a": BIG, "b": 2}
            writes = writes_of(again)
            assert writes in ([("task", "a", BIG)], [])
            lost += not writes
    assert bool(lost) == (type(policy) is WriteBack)
    saver.close()


def test_a_checkpoint_of_a_newer_version_is_not_damaged(saver: WalkvSaver) -> None:
    put(saver, "1", {"n": 1})
    ((key, data),) = saver.agent.store.scan(b"\0langgraph_checkpoints\0r")
    row = codec.decode(data)
    at = next(at for at, field in enumerate(row) if type(field) is bytes and field)
    row[at] = msgpack.packb([2, *msgpack.unpackb(row[at])[1:], "more"])
    saver.agent.store.put(key, codec.encode(row))
    with pytest.raises(FormatError) as caught:
        saver.get_tuple(config())
    assert (caught.value.found_version, caught.value.supported) == (2, (1,))


def test_what_is_said_to_be_unchanged_is_not_serialized_in_the_event_loop(
    agent: AgentStore,
) -> None:
    threads = []

    class Noting(JsonPlusSerializer):
        def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
            if obj == "large":
                threads.append(threading.current_thread())
            return super().dumps_typed(obj)

    saver = WalkvSaver(agent, serde=Noting())

    async def main() -> None:
        await saver.aput(*step("1", {"n": "large"}, new=[]))  # and there is no parent

    asyncio.run(main())
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()
    assert values_of(saver) == {"n": "large"}
