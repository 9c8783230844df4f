"""LangGraph's store: items, their order and expiry, and what happens when things go wrong."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, TypedDict

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.embeddings import Embeddings
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.base import (
    BaseStore,
    GetOp,
    InvalidNamespaceError,
    Item,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchOp,
)
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore

import walkv
from walkv import (
    AgentStore,
    ClosedError,
    CodecError,
    CorruptionError,
    FormatError,
    LimitError,
    ReadOnlyError,
    WriteBack,
)
from walkv.integrations.langgraph import items
from walkv.integrations.langgraph.items import Items
from walkv.integrations.langgraph.saver import WalkvSaver
from walkv.integrations.langgraph.store import WalkvStore
from walkv.namespaces import codec, keys
from walkv.testing import ManualClock, SimulatedFileSystem

NS = ("a", "b")


def items_of(store: WalkvStore) -> Items:
    return store._faces.threads


def names(found: list[Any]) -> list[str]:
    return [item.key for item in found]


def now(clock: ManualClock) -> datetime:
    return datetime.fromtimestamp(clock.wall_ns / 1e9, UTC)


# -- items -----------------------------------------------------------------------------------------


def test_an_item_comes_back_and_goes(store: WalkvStore, clock: ManualClock) -> None:
    created = now(clock)
    store.put(NS, "k", {"text": "one", "n": 1})
    assert store.get(NS, "k") == Item(
        value={"text": "one", "n": 1},
        key="k",
        namespace=NS,
        created_at=created,
        updated_at=created,
    )
    clock.advance(60)
    store.put(NS, "k", {"text": "two"})
    item = store.get(NS, "k")
    assert item is not None
    assert item.value == {"text": "two"}
    assert (item.created_at, item.updated_at) == (created, created + timedelta(minutes=1))
    assert item.created_at.tzinfo is item.updated_at.tzinfo is UTC
    store.delete(NS, "k")
    store.delete(NS, "k")
    assert store.get(NS, "k") is None
    assert store.search(()) == store.list_namespaces() == []
    clock.advance(60)
    store.put(NS, "k", {})
    item = store.get(NS, "k")
    assert item is not None
    assert item.created_at == now(clock)
    assert store.agent.verify() == []


VALUES: list[dict[str, Any]] = [
    {},
    {"": "", "a.b": 1, "$x": [], "ключ": "значение", "nul\0": "\0"},
    {"deep": {"list": [1, 2.5, None, True, {"x": []}]}},
    {"tuple": (1, (2, 3)), "set": {1, 2}, "bytes": b"\0\xff"},
    {"time": datetime(2026, 1, 1, tzinfo=UTC), "day": date(2026, 1, 1), "exact": Decimal("1.10")},
    {"large": 10**40, "small": -(2**63), "inf": float("inf")},
    {"long": "x" * 300_000},
    {"keys": {1: "int", None: "none"}},
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(list(value)))
def test_values_come_back_as_they_were_and_made_anew(
    store: WalkvStore, value: dict[str, Any]
) -> None:
    given_value = dict(value)
    store.put(NS, "k", given_value)
    given_value["added"] = 1

    def check(item: Item | None) -> None:
        assert item is not None
        assert item.value == value
        assert [type(each) for each in item.value.values()] == [
            type(each) for each in value.values()
        ]
        item.value["changed"] = 1
        for each in item.value.values():
            if isinstance(each, dict | list | set):
                each.clear()

    for _ in range(2):
        check(store.get(NS, "k"))
        check(store.search(NS)[0])
        check(store.search(NS, filter={"changed": None})[0])
        check(asyncio.run(store.aget(NS, "k")))


class Odd(Mapping[str, int]):
    """A mapping that is no dictionary."""

    def __getitem__(self, key: str) -> int:
        return {"one": 1}[key]

    def __iter__(self) -> Iterator[str]:
        return iter(["one"])

    def __len__(self) -> int:
        return 1


def test_any_mapping_is_a_value(store: WalkvStore) -> None:
    store.put(NS, "k", Odd())
    item = store.get(NS, "k")
    assert item is not None
    assert item.value == {"one": 1}


@pytest.mark.parametrize(
    "value",
    [
        {"x": print},
        {"x": datetime(2026, 1, 1)},
        {"x": "\ud800"},
        {1: "x"},
        [("a", 1)],
        "text",
        7,
    ],
    ids=repr,
)
def test_what_cannot_be_stored_is_refused_and_nothing_is_written(
    store: WalkvStore, value: Any
) -> None:
    store.put(NS, "k", {"n": 1})
    ops = [PutOp(NS, "before", {"n": 2}), PutOp(NS, "k", value), PutOp(NS, "after", {"n": 2})]
    with pytest.raises(CodecError, match=r"langgraph_items\.value: that of 'k'") as caught:
        store.batch(ops)
    assert (caught.value.namespace, caught.value.field) == ("langgraph_items", "value")
    with pytest.raises(CodecError):
        asyncio.run(store.abatch(ops))
    assert [(item.key, item.value) for item in store.search(())] == [("k", {"n": 1})]


@pytest.mark.parametrize("labels", [("a" * 4096,), ("a" * 2000, "b" * 2000, "c" * 200)])
def test_labels_and_keys_have_a_limit(store: WalkvStore, labels: tuple[str, ...]) -> None:
    for namespace, key in ((labels, "k"), (NS, "k" * 4096)):
        with pytest.raises(LimitError) as caught:
            store.put(namespace, key, {})
        assert caught.value.name == "MAX_KEY_FIELD_BYTES"
    store.put(("a" * 4000,), "k" * 4000, {"n": 1})
    assert store.list_namespaces() == [("a" * 4000,)]
    assert names(store.search(("a" * 4000,))) == ["k" * 4000]
    assert store.search(labels) == []


@pytest.mark.parametrize("label", ["", "a.b", "a\0b"])
def test_labels_are_checked_for_every_operation(store: WalkvStore, label: str) -> None:
    bad = ("a", label)
    for op in (
        GetOp(bad, "k"),
        PutOp(bad, "k", {}),
        PutOp(bad, "k", None),
        SearchOp(bad),
        ListNamespacesOp((MatchCondition("prefix", bad),)),
    ):
        with pytest.raises(InvalidNamespaceError):
            store.batch([PutOp(NS, "k", {}), op])
        with pytest.raises(InvalidNamespaceError):
            asyncio.run(store.abatch([op]))
    assert store.search(()) == []


def test_text_that_is_none_and_other_odd_names(store: WalkvStore) -> None:
    for namespace, key in ((("\ud800",), "k"), (NS, "\ud800"), ("ab", "k"), (NS, 5)):
        with pytest.raises(CodecError):
            store.batch([PutOp(namespace, key, {})])  # type: ignore[arg-type]
    for key in ("", "nul\0", "\0\xff", ".", "é", "e\u0301", "😀"):
        store.put(NS, key, {"key": key})
    for item in store.search(NS, limit=100):
        assert item.value == {"key": item.key}
        assert store.get(NS, item.key) is not None
    assert len(store.search(NS, limit=100)) == 7


def test_unknown_operations_are_refused(store: WalkvStore) -> None:
    for op in ("get", None, NS):
        with pytest.raises(ValueError, match="there is no operation"):
            store.batch([PutOp(NS, "k", {}), op])  # type: ignore[list-item]
    with pytest.raises(ValueError, match='a match is a "prefix" or "suffix", not \'infix\''):
        store.batch([ListNamespacesOp((MatchCondition("infix", ("a",)),))])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"no operator '\$like'"):
        store.search(NS, filter={"x": {"$like": 1}})
    for arguments in ({"limit": -1}, {"offset": -1}):
        with pytest.raises(ValueError, match="is 0 or more, not -1"):
            store.search(NS, **arguments)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="is 0 or more, not -1"):
            store.list_namespaces(**arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_depth is 0 or more, not -1"):
        store.list_namespaces(max_depth=-1)
    assert store.search(()) == []
    assert store.batch([]) == asyncio.run(store.abatch([])) == []


# -- batches ---------------------------------------------------------------------------------------


def test_what_a_batch_reads_is_from_before_its_puts(store: WalkvStore) -> None:
    store.put(NS, "k", {"n": 1})
    ops = [
        PutOp(NS, "k", {"n": 2}),
        GetOp(NS, "k"),
        PutOp(("new",), "k", {"n": 3}),
        SearchOp(()),
        ListNamespacesOp(),
        PutOp(NS, "k", {"n": 4}),
        GetOp(("new",), "k"),
        PutOp(("new",), "k", None),
    ]
    for run in (store.batch, lambda ops: asyncio.run(store.abatch(ops))):
        store.put(NS, "k", {"n": 1})
        results: list[Any] = run(iter(ops))
        assert results[1].value == {"n": 1}
        assert [item.value for item in results[3]] == [{"n": 1}]
        assert results[4] == [NS]
        assert [results[at] for at in (0, 2, 5, 6, 7)] == [None] * 5
        # The last put of a key has won.
        assert [(item.namespace, item.value) for item in store.search(())] == [(NS, {"n": 4})]


def test_a_batch_is_one_commit(tmp_path: Any) -> None:
    def frames_after(ops: list[PutOp]) -> int:
        path = tmp_path / f"{len(ops)}.walkv"
        index: Any = {"dims": 1, "embed": lambda texts: [[1.0] for _ in texts]}
        with WalkvStore(path, index=index) as store:
            if ops:
                store.put(NS, "gone", {"n": 0})
                store.batch(ops)
        with walkv.open(path) as raw:
            return raw.recovery_report.frame_count

    several = [PutOp(("n", str(number)), "k", {"n": number}, ttl=1) for number in range(20)]
    assert frames_after([*several, PutOp(NS, "gone", None)]) == frames_after([]) + 2


def test_a_batch_of_the_agent_takes_in_what_is_put(store: WalkvStore) -> None:
    saver = WalkvSaver(store.agent)
    with pytest.raises(KeyError), store.agent.batch():  # noqa: PT012
        store.put(NS, "k", {"n": 1})
        store.agent.sessions.create("s", user_id="u")
        assert names(store.search(NS)) == ["k"]
        raise KeyError
    assert store.search(()) == []
    with store.agent.batch():
        store.put(NS, "k", {"n": 1})
        store.agent.sessions.create("s", user_id="u")
    assert names(store.search(NS)) == ["k"]
    assert saver.agent.sessions.get("s") is not None


# -- search ----------------------------------------------------------------------------------------


def test_a_prefix_of_labels_is_not_a_prefix_of_text(store: WalkvStore) -> None:
    every = [("a",), ("a", "b"), ("a", "b", "c"), ("a", "bc"), ("ab",), ("ab", "c"), ("b",)]
    for namespace in every:
        store.put(namespace, "k", {})
    for prefix in [(), *every, ("a", "b", "c", "d"), ("c",)]:
        found = {item.namespace for item in store.search(prefix, limit=100)}
        assert found == {each for each in every if each[: len(prefix)] == prefix}


def test_the_last_updated_comes_first(store: WalkvStore, clock: ManualClock) -> None:
    order = [(("a",), "1"), (("a", "b"), "2"), (("a",), "3"), (("a", "c"), "1"), (("a",), "2")]
    for namespace, key in order:
        clock.advance(1)
        store.put(namespace, key, {})
    clock.advance(1)
    store.put(("a",), "1", {"again": True})
    order = [*order[1:], order[0]]
    for prefix in ((), ("a",)):
        found = [(item.namespace, item.key) for item in store.search(prefix)]
        assert found == order[::-1]
        for offset in range(6):
            page = store.search(prefix, limit=2, offset=offset)
            assert [(item.namespace, item.key) for item in page] == found[offset : offset + 2]
    assert names(store.search(("a", "b"))) == ["2"]
    assert store.search(("a",), limit=0) == []
    assert all(item.score is None for item in store.search(()))


def test_a_filter_goes_through_all_and_pages_through_what_it_leaves(
    store: WalkvStore, clock: ManualClock
) -> None:
    for number in range(300):
        clock.advance(1)
        store.put(("n", str(number % 2)), str(number), {"n": number, "odd": number % 2 == 1})
    for prefix in ((), ("n", "1")):
        wanted = [str(number) for number in reversed(range(300)) if number % 2 and number >= 100]
        asked: dict[str, Any] = {"odd": True, "n": {"$gte": 100}}
        assert names(store.search(prefix, filter=asked, limit=1000)) == wanted
        assert names(store.search(prefix, filter=asked, limit=7, offset=90)) == wanted[90:97]
    assert store.search((), filter={"n": -1}) == []


@pytest.mark.parametrize("space_count", [1, 2, 16, 17, 100])
def test_the_order_is_the_same_however_many_namespaces_there_are(
    store: WalkvStore, clock: ManualClock, space_count: int
) -> None:
    chance = random.Random(space_count)
    order: list[tuple[tuple[str, ...], str]] = []
    for number in range(150):
        clock.advance(1)
        space = number if number < space_count else chance.randrange(space_count)
        place = (("n", str(space))[: 1 + space % 3], str(chance.randrange(100)))
        order = [place, *(each for each in order if each != place)]
        store.put(*place, {})
    for offset, limit in ((0, 10), (60, 30), (0, 1000)):
        found = [(i.namespace, i.key) for i in store.search(("n",), limit=limit, offset=offset)]
        assert found == order[offset : offset + limit]


def test_a_page_of_a_large_namespace_costs_the_page(
    store: WalkvStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1000):
        clock.advance(1)
        store.put(("n", str(number % 3)), str(number), {})
    taken = []
    times = items._times

    def noted(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for each in times(*args, **kwargs):
            taken.append(each)
            yield each

    monkeypatch.setattr(items, "_times", noted)
    for prefix in (("n",), ("n", "1"), ()):
        taken.clear()
        assert len(store.search(prefix)) == 10
        assert len(taken) < 100


def test_only_values_that_are_looked_at_are_decoded(
    store: WalkvStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(100):
        clock.advance(1)
        store.put(("n", str(number % 2)), str(number), {"n": number})
    decoded = []
    value_of = Items.value_of

    def noted(items: Items, item: Any) -> dict[str, Any]:
        decoded.append(item.key)
        return value_of(items, item)

    monkeypatch.setattr(Items, "value_of", noted)
    for prefix in ((), ("n", "1")):
        decoded.clear()
        assert len(store.search(prefix, limit=5, offset=10)) == 5
        assert len(decoded) == 5
    fetched = []
    checked = Items._checked
    monkeypatch.setattr(
        Items, "_checked", lambda items, data: fetched.append(len(data)) or checked(items, data)
    )
    store.search((), limit=5, offset=10)
    assert fetched == [5]


# -- namespaces ------------------------------------------------------------------------------------


SPACES = [
    ("a",),
    ("a", "b"),
    ("a", "b", "c"),
    ("a", "b", "d", "e"),
    ("a", "b", "d", "i"),
    ("a", "c", "b"),
    ("ab",),
    ("b", "b"),
    ("é", "b"),
    ("😀",),
    ("\uffff",),
]
MATCHES: list[dict[str, Any]] = [
    {},
    {"prefix": ("a",)},
    {"prefix": ("a", "b")},
    {"prefix": ("a", "*", "d")},
    {"prefix": ("*", "b")},
    {"prefix": ("*",)},
    {"prefix": ("x",)},
    {"prefix": ("a", "b", "c", "d", "e")},
    {"suffix": ("b",)},
    {"suffix": ("*", "b")},
    {"suffix": ("d", "*")},
    {"suffix": ("a", "b")},
    {"prefix": ("a",), "suffix": ("b",)},
    {"prefix": ("a", "*"), "suffix": ("*", "e")},
]


@pytest.mark.parametrize("depth", [None, 1, 2, 3, 9])
@pytest.mark.parametrize("match", MATCHES, ids=repr)
def test_namespaces_are_listed_as_other_stores_list_them(
    match: dict[str, Any], depth: int | None
) -> None:
    with ExitStack() as stack:
        sqlite = stack.enter_context(SqliteStore.from_conn_string(":memory:"))
        agent = AgentStore("/a.walkv", filesystem=SimulatedFileSystem())
        store = WalkvStore(stack.enter_context(agent))
        memory = InMemoryStore()
        for each in (store, memory, sqlite):
            each.batch([PutOp(space, key, {}) for space in SPACES for key in ("1", "2")])
        for page in ({}, {"limit": 3}, {"limit": 2, "offset": 1}, {"offset": 50}, {"limit": 0}):
            found = store.list_namespaces(**match, max_depth=depth, **page)
            assert found == memory.list_namespaces(**match, max_depth=depth, **page)
            if depth is None:
                assert set(sqlite.list_namespaces(**match)) == set(store.list_namespaces(**match))


def test_listing_costs_the_namespaces_and_not_the_items(
    store: WalkvStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.batch([PutOp(("n", str(number % 5)), str(number), {}) for number in range(500)])
    store.batch([PutOp(("m", "x", str(number)), "k", {}) for number in range(100)])
    seen = []
    labels_of = Items.labels_of
    monkeypatch.setattr(
        Items, "labels_of", lambda items, packed: seen.append(packed) or labels_of(items, packed)
    )
    assert len(store.list_namespaces(limit=1000)) == len(seen) == 105
    for depth, count in ((1, 2), (2, 6)):
        seen.clear()
        assert len(store.list_namespaces(max_depth=depth)) == count
        assert len(seen) <= count
    seen.clear()
    assert len(store.list_namespaces(prefix=("n",), limit=2)) == 2
    assert len(seen) == 2


# -- the same as others ----------------------------------------------------------------------------

LABELS = st.sampled_from(["a", "b", "ab", "ä"])
NAMESPACES = st.lists(LABELS, min_size=1, max_size=3).map(tuple)
ITEM_KEYS = st.sampled_from(["1", "2", "k"])
JSON_VALUES = st.fixed_dictionaries(
    {"n": st.integers(-5, 5)},  # always: the store in memory fails to compare None
    optional={
        "text": st.sampled_from(["x", "y", ""]),
        "deep": st.fixed_dictionaries({"n": st.integers(0, 2)}),
        "many": st.lists(st.integers(0, 2), max_size=2),
    },
)
FILTERS = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "n": st.integers(-5, 5) | st.fixed_dictionaries({"$gte": st.integers(-5, 5)}),
        "text": st.sampled_from(["x", {"$ne": "y"}, {"$eq": ""}]),
        "deep": st.fixed_dictionaries({"n": st.integers(0, 2)}),
    },
)
OPS = st.one_of(
    st.builds(lambda *args: GetOp(*args), NAMESPACES, ITEM_KEYS),
    st.builds(lambda *args: PutOp(*args), NAMESPACES, ITEM_KEYS, st.none() | JSON_VALUES),
    st.builds(lambda *args: PutOp(*args), NAMESPACES, ITEM_KEYS, JSON_VALUES),
    st.builds(lambda *args: SearchOp(*args, 100), st.just(()) | NAMESPACES, FILTERS),
    st.builds(lambda depth: ListNamespacesOp(None, depth), st.none() | st.integers(1, 3)),
)


def in_terms(result: Any) -> Any:
    """A result without times, and without an order where there is none."""
    if isinstance(result, Item):
        return (result.namespace, result.key, result.value)
    if isinstance(result, list):
        return sorted(map(in_terms, result), key=repr)
    return result


def agree(
    store: BaseStore, ops: list[Any], results: list[Any], without: Callable[[Any], bool]
) -> None:
    """Whether another store has the same results, but for some operations that it does its way."""
    for op, found, wanted in zip(ops, results, store.batch(ops), strict=True):
        if not without(op):
            assert in_terms(found) == in_terms(wanted), op


def is_listing(op: Any) -> bool:
    """The store in memory does not forget a namespace with its last item, or that it was read."""
    return isinstance(op, ListNamespacesOp)


def is_filtered(op: Any) -> bool:
    """That of SQLite knows no nested filters."""
    return isinstance(op, SearchOp) and bool(op.filter)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(OPS, max_size=4), max_size=12), st.booleans())
def test_batches_do_what_they_do_in_other_stores(batches: list[list[Any]], inside: bool) -> None:
    with (
        SqliteStore.from_conn_string(":memory:") as sqlite,
        AgentStore("/a.walkv", filesystem=SimulatedFileSystem()) as agent,
        WalkvStore(agent) as store,
    ):
        memory = InMemoryStore()

        async def run() -> list[list[Any]]:
            return [await store.abatch(ops) for ops in batches]

        results = asyncio.run(run()) if inside else [store.batch(ops) for ops in batches]
        for ops, found in zip(batches, results, strict=True):
            agree(memory, ops, found, is_listing)
            simple = [op for op in ops if not is_filtered(op)]
            kept = [each for op, each in zip(ops, found, strict=True) if not is_filtered(op)]
            agree(sqlite, simple, kept, lambda op: False)
        assert agent.verify() == []


# -- opening and closing ---------------------------------------------------------------------------


def test_items_are_there_when_the_store_is_opened_again(tmp_path: Any) -> None:
    path = tmp_path / "s.walkv"
    with WalkvStore.from_conn_string(path, ttl={"default_ttl": 10}) as store:
        store.put(NS, "k", {"n": 1})
        first = store.get(NS, "k", refresh_ttl=False)
    with pytest.raises(ClosedError, match="construct it without a block"):
        store.get(NS, "k")

    async def again() -> None:
        async with WalkvStore.from_conn_string(str(path)) as store:
            assert await store.aget(NS, "k") == first
            await store.aput(NS, "k2", {"n": 2})
        with pytest.raises(ClosedError):
            await store.aget(NS, "k")
        async with WalkvStore(path) as store:
            assert len(await store.asearch(())) == 2

    asyncio.run(again())
    store = WalkvStore(path, sync=WriteBack())
    assert (store.get(NS, "k"), repr(store)) == (first, f"<walkv.WalkvStore '{path}' open>")
    store.close()
    store.close()
    assert store.closed


def test_adapters_at_one_path_share_it(tmp_path: Any) -> None:
    path = tmp_path / "s.walkv"
    saver, store, other = WalkvSaver(path), WalkvStore(path), WalkvStore(path)
    assert saver.agent is store.agent is other.agent
    store.put(NS, "k", {"n": 1})
    store.close()
    assert other.get(NS, "k") is not None
    saver.close()
    assert not other.agent.closed
    other.close()
    assert other.agent.closed


def test_a_reader_reads_and_writes_nothing(tmp_path: Any) -> None:
    path = tmp_path / "s.walkv"
    with WalkvStore(path) as store, AgentStore(path, read_only=True) as agent:
        reader = WalkvStore(agent, ttl={"default_ttl": 1})
        assert reader.get(NS, "k") is None
        assert reader.search(()) == reader.list_namespaces() == []
        store.put(NS, "k", {"n": 1}, ttl=1e-9)
        agent.store.refresh()
        for _ in range(2):
            assert (
                reader.get(NS, "k") == reader.search(NS)[0] == store.get(NS, "k", refresh_ttl=False)
            )
        assert asyncio.run(reader.asearch((), filter={"n": 1}))[0].value == {"n": 1}
        assert reader.list_namespaces() == [NS]
        for op in (PutOp(NS, "k", {}), PutOp(NS, "new", {}), PutOp(NS, "k", None)):
            with pytest.raises(ReadOnlyError):
                reader.batch([op])
            with pytest.raises(ReadOnlyError):
                asyncio.run(reader.abatch([op]))
        with pytest.raises(ReadOnlyError):
            reader.sweep_ttl()
        assert reader.get(NS, "k") is not None


def test_a_reader_may_come_before_the_first_item(tmp_path: Any) -> None:
    path = tmp_path / "s.walkv"
    embed: Any = {"dims": 1, "embed": lambda texts: [[1.0] for _ in texts]}
    with AgentStore(path) as writer, AgentStore(path, read_only=True) as agent:
        reader = WalkvStore(agent, index=embed)
        assert reader.search(()) == reader.search((), query="x") == reader.list_namespaces() == []
        store = WalkvStore(writer, index=embed)
        store.put(NS, "k", {"n": 1})
        agent.store.refresh()
        for found in (reader.search(NS), reader.search(NS, query="x"), [reader.get(NS, "k")]):
            assert [item and item.value for item in found] == [{"n": 1}]


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({"embed": list}, "dims of its vectors, 1 or more, not None"),
        ({"dims": 0, "embed": list}, "not 0"),
        ({"dims": 2}, "embed must be provided"),
        ({"dims": 2, "embed": list, "distance_type": "l1"}, "one of cosine, l2, inner_product"),
    ],
)
def test_a_bad_configuration_is_refused_and_opens_nothing(
    tmp_path: Any, index: Any, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        WalkvStore(tmp_path / "s.walkv", index=index)
    assert not (tmp_path / "s.walkv").exists()


@dataclass(frozen=True, slots=True)
class Other:
    id: str


def test_a_store_that_cannot_be_made_holds_nothing(tmp_path: Any) -> None:
    saver = WalkvSaver(tmp_path / "s.walkv")
    saver.agent.namespace(walkv.Declaration("langgraph_items", Other, key="id"))
    with pytest.raises((TypeError, FormatError)):
        WalkvStore(tmp_path / "s.walkv")
    saver.close()
    assert saver.agent.closed


# -- embeddings ------------------------------------------------------------------------------------


class Counting(Embeddings):
    """One number for a text; notes what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str]]] = []

    def _embed(self, how: str, texts: list[str]) -> list[list[float]]:
        self.calls.append((how, texts))
        return [[float(len(text)), 1.0] for text in texts]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._embed("documents", texts)

    def embed_query(self, text: str) -> list[float]:
        return self._embed("query", [text])[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        await asyncio.sleep(0)
        return self._embed("adocuments", texts)

    async def aembed_query(self, text: str) -> list[float]:
        await asyncio.sleep(0)
        return self._embed("aquery", [text])[0]


@pytest.mark.parametrize("prefix", ["", "a"], ids=["threads", "tasks"])
def test_a_batch_embeds_once_and_each_text_once(agent: AgentStore, prefix: str) -> None:
    embed = Counting()
    store = WalkvStore(agent, index={"dims": 2, "embed": embed, "fields": ["t", "m[*].t"]})

    def run(ops: list[Any]) -> list[Any]:
        return asyncio.run(store.abatch(ops)) if prefix else store.batch(ops)

    run(
        [
            PutOp(NS, "lost", {"t": "lost"}),
            PutOp(NS, "lost", {"t": "one"}),
            PutOp(NS, "two", {"t": "two", "m": [{"t": "one"}, {"t": "three"}]}),
            PutOp(NS, "off", {"t": "off"}, index=False),
            PutOp(NS, "other", {"t": "x", "u": {"w": "four"}}, index=["u.w"]),
            PutOp(NS, "none", {"n": 1}),
            PutOp(NS, "gone", None),
            PutOp(NS, "whole", {"n": 1}, index=["$"]),
        ]
    )
    assert embed.calls == [(f"{prefix}documents", ["one", "two", "three", "four", '{"n": 1}'])]
    embed.calls.clear()
    run(
        [SearchOp(NS, query="q"), SearchOp(("a",), query="q"), SearchOp(NS), SearchOp(NS, query="")]
    )
    assert embed.calls == [(f"{prefix}query", ["q"])]
    embed.calls.clear()
    run([PutOp(NS, "none", {"n": 2}), GetOp(NS, "none")])
    assert embed.calls == []


def test_what_has_no_text_is_refused(agent: AgentStore) -> None:
    store = WalkvStore(agent, index={"dims": 2, "embed": Counting()})
    with pytest.raises(CodecError, match="the text to embed cannot be made"):
        store.put(NS, "k", {"day": date(2026, 1, 1)})
    store.put(NS, "k", {"day": date(2026, 1, 1)}, index=False)
    assert names(store.search(NS, query="x")) == ["k"]


@pytest.mark.parametrize("broken", ["put", "search"])
def test_nothing_is_written_when_embedding_fails(agent: AgentStore, broken: str) -> None:
    def fail(texts: list[str]) -> list[list[float]]:
        raise ConnectionError("no embeddings today")

    store = WalkvStore(agent, index={"dims": 2, "embed": fail, "fields": ["t"]})
    ops: list[Any] = [PutOp(NS, "k", {"n": 1})]
    ops.append(PutOp(NS, "k2", {"t": "x"}) if broken == "put" else SearchOp(NS, query="x"))
    with pytest.raises(ConnectionError):
        store.batch(ops)
    with pytest.raises(ConnectionError):
        asyncio.run(store.abatch(ops))
    assert store.search(NS) == []


def test_embeddings_may_be_an_array(agent: AgentStore) -> None:
    def embed(texts: Any) -> Any:
        return numpy.array([[len(text), 1] for text in texts])

    with WalkvStore(agent, index={"dims": 2, "embed": embed, "fields": ["t"]}) as store:
        store.batch([PutOp(NS, "long", {"t": "x" * 9}), PutOp(NS, "short", {"t": ""})])
        assert names(store.search(NS, query="xxxxx")) == ["long", "short"]

        async def use() -> list[str]:
            await store.abatch([PutOp(NS, "long", {"t": ""}), PutOp(NS, "short", {"t": "x" * 9})])
            return names(await store.asearch(NS, query="xxxxx"))

        assert asyncio.run(use()) == ["short", "long"]


def test_an_asynchronous_function_embeds_for_tasks(agent: AgentStore) -> None:
    async def embed(texts: Any) -> list[list[float]]:
        await asyncio.sleep(0)
        return [[float(len(text)), 1.0] for text in texts]

    store = WalkvStore(agent, index={"dims": 2, "embed": embed, "fields": ["t"]})

    async def use() -> list[str]:
        await store.aput(NS, "long", {"t": "x" * 9})
        await store.aput(NS, "short", {"t": ""})
        return names(await store.asearch(NS, query="xxxxx"))

    assert asyncio.run(use()) == ["long", "short"]
    with pytest.raises(ValueError, match="async"):
        store.put(NS, "k", {"t": "x"})


def test_others_go_on_while_one_embeds(agent: AgentStore) -> None:
    """Nothing is locked meanwhile, nor is the event loop blocked."""

    async def use() -> None:
        embedding, go_on = asyncio.Event(), asyncio.Event()

        async def embed(texts: Any) -> list[list[float]]:
            embedding.set()
            await go_on.wait()
            return [[1.0] for _ in texts]

        slow = WalkvStore(agent, index={"dims": 1, "embed": embed, "fields": ["t"]})
        put = asyncio.create_task(slow.aput(NS, "slow", {"t": "x"}))
        await embedding.wait()
        await slow.aput(NS, "quick", {"n": 1})
        assert names(await slow.asearch(NS)) == ["quick"]
        go_on.set()
        await put
        assert names(await slow.asearch(NS)) == ["slow", "quick"]

    asyncio.run(use())


# -- threads and tasks -----------------------------------------------------------------------------


def test_the_event_loop_runs_while_the_store_is_busy(store: WalkvStore) -> None:
    engine = store.agent.store.engine
    store.put(NS, "k", {"n": 1}, ttl=10)

    async def use() -> None:
        calls = [
            store.aput(NS, "new", {"n": 2}),
            store.aput(NS, "large", {"text": "x" * 1_000_000}),
            store.aget(NS, "k"),
            store.asearch(NS),
            store.alist_namespaces(),
            store.asweep_ttl(),
        ]
        with engine.commit_lock:
            tasks = [asyncio.create_task(call) for call in calls]
            for _ in range(50):
                await asyncio.sleep(0)
            assert not any(task.done() for task in tasks)
        await asyncio.gather(*tasks)
        assert {item.key for item in await store.asearch(NS)} == {"k", "new", "large"}

    asyncio.run(use())


def test_puts_of_tasks_commit_in_the_order_of_the_calls(store: WalkvStore) -> None:
    engine = store.agent.store.engine

    async def use() -> None:
        with engine.commit_lock:  # so that some of them are refused, and made in a thread
            tasks = []
            for number in range(40):
                value = {"n": number, "text": "x" * (2_000_000 if number % 20 == 3 else 10)}
                tasks.append(asyncio.create_task(store.aput(NS, "k", value)))
                await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        item = await store.aget(NS, "k")
        assert item is not None
        assert item.value["n"] == 39

    for _ in range(5):
        asyncio.run(use())


def test_one_object_serves_threads_and_loops(store: WalkvStore) -> None:
    def work(worker: int) -> None:
        async def use() -> None:
            await asyncio.gather(
                *(store.aput(("w", str(worker)), f"a{n}", {"n": n}) for n in range(20))
            )
            assert len(await store.asearch(("w", str(worker)), limit=100)) == 20

        asyncio.run(use())
        for number in range(20):
            store.put(("w", str(worker)), f"s{number}", {"n": number})
        assert len(store.search(("w", str(worker)), limit=100)) == 40

    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(work, worker) for worker in range(4)]:
            each.result()
    assert len(store.list_namespaces(prefix=("w",))) == 4
    assert len(store.search((), limit=1000)) == 160
    assert store.agent.verify() == []


class State(TypedDict):
    name: str
    greeting: str


def test_the_nodes_of_a_graph_get_it(store: WalkvStore) -> None:
    def greet(state: State, runtime: Runtime[Any]) -> dict[str, str]:
        assert runtime.store is not None
        known = runtime.store.get(("people",), state["name"])
        runtime.store.put(("people",), state["name"], {"seen": True})
        return {"greeting": "again" if known else "hello"}

    async def agreet(state: State, *, store: BaseStore) -> dict[str, str]:
        known = await store.aget(("people",), state["name"])
        await store.aput(("people",), state["name"], {"seen": True})
        return {"greeting": "again" if known else "hello"}

    def graph(node: Any) -> Any:
        builder = StateGraph(State)
        builder.add_node("greet", node)
        builder.add_edge(START, "greet")
        builder.add_edge("greet", END)
        return builder.compile(store=store)

    for name, run in (
        ("ada", lambda given: graph(greet).invoke(given)),
        ("bob", lambda given: asyncio.run(graph(agreet).ainvoke(given))),
    ):
        answers = [run({"name": name, "greeting": ""})["greeting"] for _ in range(2)]
        assert answers == ["hello", "again"]


# -- damage ----------------------------------------------------------------------------------------


DAMAGED = (CodecError, CorruptionError)


def reads(store: WalkvStore) -> list[Callable[[], Any]]:
    omitting = WalkvStore(store.agent, ttl={"omit_expired": True})
    return [
        lambda: store.get(NS, "k"),
        lambda: store.search(NS),
        lambda: store.search(()),
        lambda: store.search(NS, filter={"n": {"$gt": 0}}),
        lambda: store.search(NS, query="x"),
        lambda: store.list_namespaces(),
        lambda: omitting.get(NS, "k"),
        lambda: omitting.list_namespaces(),
        lambda: asyncio.run(store.aget(NS, "k")),
        lambda: store.put(NS, "k", {"n": 2}),
        lambda: store.sweep_ttl(),
        lambda: store.agent.verify(),
        lambda: store.delete(NS, "k"),
    ]


@pytest.mark.parametrize("seed", range(4))
def test_damaged_entries_end_in_an_error_of_their_own(fs: SimulatedFileSystem, seed: int) -> None:
    chance = random.Random(seed)
    index: Any = {"dims": 1, "embed": lambda texts: [[1.0] for _ in texts]}
    with (
        AgentStore("/d.walkv", filesystem=fs) as agent,
        WalkvStore(agent, index=index) as store,
    ):
        raw = agent.store
        others = [PutOp((*NS, str(n % 3)), str(n), {"n": 1}, index=False) for n in range(70)]

        def entries() -> list[tuple[bytes, bytes]]:
            return list(raw.scan(items_of(store).table.base))

        for _ in range(60):
            raw.delete_range(items_of(store).table.base)
            store.batch([*others, PutOp(NS, "k", {"n": 1, "text": "x"}, ttl=5)])
            every = entries()
            # Most of them are of the others.
            key, data = chance.choice([each for each in every if b"k" in each[0][-4:]] * 9 + every)
            kind = chance.randrange(4)
            if kind == 0:
                data = data[: chance.randrange(len(data))]
            elif kind == 1:
                at = chance.randrange(len(data))
                data = data[:at] + bytes((chance.randrange(256),)) + data[at + 1 :]
            elif kind == 2:
                data = chance.randbytes(chance.randrange(30))
            else:
                raw.delete(key)
                at = chance.randrange(len(items_of(store).table.base) + 1, len(key))
                key = key[:at] + bytes((chance.randrange(256),)) + key[at + 1 :]
            raw.put(key, data)
            for read in reads(store):
                with suppress(*DAMAGED):
                    read()


ROW_FIELDS = 8


@pytest.mark.parametrize("position", range(ROW_FIELDS))
@pytest.mark.parametrize("wrong", [None, -1, 7, "text", b"bytes", [], {"a": 1}, (1,)], ids=repr)
def test_a_field_of_another_type_ends_in_no_other_error(
    store: WalkvStore, position: int, wrong: Any
) -> None:
    items = items_of(store)
    store.put(NS, "k", {"n": 1}, ttl=5)
    key = items.table.records + items.item_key(NS, "k")
    row = codec.decode(store.agent.store[key])
    assert len(row) == ROW_FIELDS + 1
    store.agent.store.put(key, codec.encode([*row[: position + 1], wrong, *row[position + 2 :]]))
    for read in reads(store):
        with suppress(*DAMAGED):
            read()


def test_a_damaged_index_is_noticed(store: WalkvStore) -> None:
    table = items_of(store).table
    store.batch([PutOp((*NS, str(n % 3)), str(n), {}) for n in range(100)])
    start = table.index_of("labels", "updated_at").prefix + items_of(store).prefix(NS)
    store.agent.store.put(start + b"\x50text without an end", b"\0\1")
    with pytest.raises(CodecError, match=r"langgraph_items\.labels: an index is damaged"):
        store.search(NS)


def test_a_value_that_is_no_dictionary_is_noticed(store: WalkvStore) -> None:
    items = items_of(store)
    store.put(NS, "k", {"n": 1})
    key = items.table.records + items.item_key(NS, "k")
    row = codec.decode(store.agent.store[key])
    for at, bad, said in (
        (3, codec.encode([1]), r"langgraph_items\.value: that of 'k' is damaged"),
        (3, b"\xc1", r"langgraph_items\.value: that of 'k' is damaged.*cannot be decoded"),
        (1, b"\x50a", r"langgraph_items\.labels: these are damaged"),
        (1, keys.pack(1), r"langgraph_items\.labels: these are damaged"),
    ):
        store.agent.store.put(key, codec.encode([*row[:at], bad, *row[at + 1 :]]))
        with pytest.raises(CodecError, match=said):
            store.get(NS, "k")
