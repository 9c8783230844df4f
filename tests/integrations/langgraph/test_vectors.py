"""Vectors on disk and in memory: their bytes, their ranks, and that no search sees an old one."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from operator import mul
from typing import Any, TypeVar

import pytest
from langgraph.store.base import PutOp, SearchItem
from langgraph.store.memory import InMemoryStore

from walkv import AgentStore, CodecError
from walkv.integrations.langgraph import vectors
from walkv.integrations.langgraph.items import Items
from walkv.integrations.langgraph.store import WalkvStore
from walkv.integrations.langgraph.vectors import (
    Area,
    NumpyRows,
    PlainRows,
    Query,
    Scope,
    VectorIndex,
)
from walkv.testing import ManualClock, SimulatedFileSystem

T = TypeVar("T")

ROWS = [NumpyRows, PlainRows]
NS = ("a", "b")


def embed(texts: list[str]) -> list[list[float]]:
    """A text is the numbers in it."""
    return [[float(part) for part in text.split()] for text in texts]


def config(dims: int = 2, **more: Any) -> Any:
    return {"dims": dims, "embed": embed, "fields": ["v"], **more}


@pytest.fixture(params=ROWS, ids=["numpy", "plain"])
def rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """With numpy and without."""
    monkeypatch.setattr(vectors, "make_rows", request.param)
    return request.param


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def agent(clock: ManualClock) -> Iterator[AgentStore]:
    with AgentStore("/a.walkv", filesystem=SimulatedFileSystem(clock=clock)) as made:
        yield made


@pytest.fixture
def store(agent: AgentStore, rows: Any) -> WalkvStore:
    return WalkvStore(agent, index=config())


def names(found: list[SearchItem]) -> list[str]:
    return [item.key for item in found]


def scores(found: list[SearchItem]) -> dict[str, float | None]:
    return {item.key: item.score for item in found}


def items_of(store: WalkvStore) -> Items:
    return store._faces.threads


def index_of(store: WalkvStore) -> VectorIndex:
    index = items_of(store)._index
    assert index is not None
    return index


# -- bytes -----------------------------------------------------------------------------------------


def test_the_bytes_of_an_entry_are_those_of_the_layout() -> None:
    data = vectors.encode([vectors.pack([1.0, -2.5], 2), vectors.pack([0.0, 3.0], 2)], 2)
    assert data == bytes.fromhex("00000002 0000803f 000020c0 00000000 00004040")
    assert vectors.decode(data) == (2, [data[4:12], data[12:20]])
    assert vectors.pack(range(2), 2) == vectors.pack([0.0, 1.0], 2)


@pytest.mark.parametrize(
    "data",
    [b"", b"\0\0\0\2", b"\0\0\0\2" + bytes(7), b"\0\0\0\0" + bytes(8), b"\0\0\0\3" + bytes(8)],
    ids=repr,
)
def test_damaged_entries_are_refused(data: bytes) -> None:
    with pytest.raises(CodecError, match="are no vectors"):
        vectors.decode(data)


@pytest.mark.parametrize(
    ("vector", "said"),
    [
        ([1.0], "has 1 numbers, and the index is for 2"),
        ([1.0, 2.0, 3.0], "has 3 numbers, and the index is for 2"),
        ([1.0, math.nan], "holds NaN"),
        ([1.0, 1e300], "infinite"),
        (["1", "2"], "list of numbers"),
        ("12", "list of numbers"),
        (None, "list of numbers"),
    ],
)
def test_what_is_no_vector_is_refused(store: WalkvStore, vector: Any, said: str) -> None:
    store.put(NS, "k", {"v": "1 0"})
    bad = WalkvStore(store.agent, index=config(embed=lambda texts: [vector for _ in texts]))
    with pytest.raises(CodecError, match=said) as caught:
        bad.batch([PutOp(NS, "k", {"v": "x"}), PutOp(NS, "other", {"n": 1})])
    assert (caught.value.namespace, caught.value.field) == ("langgraph_items", "vector")
    with pytest.raises(CodecError, match=said):
        bad.search(NS, query="x")
    assert [(item.key, item.value) for item in store.search(NS)] == [("k", {"v": "1 0"})]
    assert scores(store.search(NS, query="1 0")) == {"k": pytest.approx(1.0)}


def test_as_many_vectors_as_texts(agent: AgentStore) -> None:
    store = WalkvStore(agent, index=config(embed=lambda texts: [[1.0, 0.0]]))
    with pytest.raises(CodecError, match="2 texts were to be embedded, and 1 came back"):
        store.batch([PutOp(NS, "a", {"v": "x"}), PutOp(NS, "b", {"v": "y"})])
    assert store.search(()) == []


# -- ranks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("distance", "expected"),
    [
        ("cosine", {"same": 1.0, "far": 1.0, "near": 0.6, "back": -1.0, "zero": 0.0}),
        ("l2", {"same": 0.0, "zero": -1.0, "back": -2.0, "far": -9.0, "near": -math.sqrt(0.8)}),
        ("inner_product", {"far": 10.0, "same": 1.0, "near": 0.6, "zero": 0.0, "back": -1.0}),
    ],
)
def test_scores_are_greater_the_more_alike(
    agent: AgentStore, rows: Any, distance: str, expected: dict[str, float]
) -> None:
    store = WalkvStore(agent, index=config(distance_type=distance))
    every = {"same": "1 0", "far": "10 0", "near": "0.6 0.8", "back": "-1 0", "zero": "0 0"}
    store.batch([PutOp(NS, name, {"v": text}) for name, text in every.items()])
    found = store.search(NS, query="1 0")
    assert scores(found) == {name: pytest.approx(score) for name, score in expected.items()}
    assert [item.score for item in found] == sorted([item.score for item in found], reverse=True)
    assert scores(store.search(NS, query="0 0"))["far"] == pytest.approx(
        {"cosine": 0.0, "l2": -10.0, "inner_product": 0.0}[distance]
    )


@pytest.mark.parametrize("distance", vectors.DISTANCES)
def test_numpy_and_plain_python_rank_alike(distance: Any) -> None:
    chance = random.Random(1)

    def vector() -> bytes:
        return vectors.pack([chance.uniform(-1, 1) for _ in range(5)], 5)

    one, other = NumpyRows(5), PlainRows(5)
    count = 0
    for _ in range(500):
        if count and chance.random() < 0.4:
            row = chance.randrange(count)
            one.pop(row)
            other.pop(row)
            count -= 1
        else:
            packed = vector()
            one.append(packed)
            other.append(packed)
            count += 1
    query = Query(vector(), distance)
    first, second = list(one.best(query)), list(other.best(query))
    assert [row for row, _ in first] == [row for row, _ in second]
    assert [score for _, score in first] == pytest.approx([score for _, score in second], abs=1e-5)
    assert len(first) == count
    assert list(NumpyRows(5).best(query)) == list(PlainRows(5).best(query)) == []


def test_numbers_at_the_end_of_float32(agent: AgentStore, rows: Any) -> None:
    store = WalkvStore(agent, index=config())
    store.put(NS, "large", {"v": "3e38 3e38"})
    store.put(NS, "small", {"v": "1e-45 0"})
    assert set(scores(store.search(NS, query="3e38 0"))) == {"large", "small"}


def test_an_item_has_the_best_score_of_its_vectors(agent: AgentStore, rows: Any) -> None:
    store = WalkvStore(agent, index=config(fields=["v", "many[*].v"]))
    store.put(NS, "one", {"v": "0 1", "many": [{"v": "1 0"}, {"v": "-1 0"}]})
    store.put(NS, "two", {"v": "0.6 0.8"})
    assert scores(store.search(NS, query="1 0")) == {
        "one": pytest.approx(1.0),
        "two": pytest.approx(0.6),
    }
    assert names(store.search(NS, query="1 0", limit=1, offset=1)) == ["two"]


@pytest.mark.parametrize("seed", range(5))
def test_a_search_finds_what_the_store_in_memory_finds(
    agent: AgentStore, rows: Any, seed: int
) -> None:
    chance = random.Random(seed)
    places = [("a",), ("a", "b"), ("a", "b", "c"), ("ab",), ("b",)]
    store, other = WalkvStore(agent, index=config(3)), InMemoryStore(index=config(3))
    texts: set[str] = set()
    for _ in range(60):
        namespace, key = chance.choice(places), f"k{chance.randrange(20)}"
        if chance.random() < 0.2:
            store.delete(namespace, key)
            other.delete(namespace, key)
            continue
        text = " ".join(f"{chance.uniform(-1, 1):.3f}" for _ in range(3))
        texts.add(text)
        value = {"v": text, "n": chance.randrange(3)}
        store.put(namespace, key, value)
        other.put(namespace, key, value)
        if chance.random() < 0.3:
            prefix = chance.choice([(), *places])
            asked: dict[str, Any] = {"query": text, "limit": chance.choice([1, 5, 100])}
            if chance.random() < 0.5:
                asked["filter"] = {"n": {"$gte": 1}}
            found, wanted = store.search(prefix, **asked), other.search(prefix, **asked)
            assert [(i.namespace, i.key, i.value) for i in found] == [
                (i.namespace, i.key, i.value) for i in wanted
            ], f"seed {seed}"
            assert [i.score for i in found] == pytest.approx([i.score for i in wanted], abs=1e-5)


def test_what_has_no_vector_fills_the_page_newest_first(
    store: WalkvStore, clock: ManualClock
) -> None:
    store.put(NS, "old", {"n": 1})
    clock.advance(1)
    store.put(NS, "near", {"v": "1 0"})
    store.put(NS, "new", {"v": "1 0"}, index=False)
    store.put(NS, "far", {"v": "0 1"})
    found = store.search(NS, query="1 0")
    assert names(found) == ["near", "far", "new", "old"]
    assert [item.score for item in found] == [pytest.approx(1.0), 0.0, None, None]
    pages = [names(store.search(NS, query="1 0", limit=1, offset=at)) for at in range(5)]
    assert pages == [["near"], ["far"], ["new"], ["old"], []]


# -- what an item's vectors are --------------------------------------------------------------------


def test_vectors_are_those_of_the_value(store: WalkvStore) -> None:
    def score() -> float | None:
        return scores(store.search(NS, query="1 0"))["k"]

    store.put(NS, "k", {"v": "1 0"})
    assert score() == pytest.approx(1.0)
    store.put(NS, "k", {"v": "0 1"})
    assert score() == pytest.approx(0.0)
    store.put(NS, "k", {"v": "1 0"}, index=False)
    assert score() is None
    store.put(NS, "k", {"v": "1 0", "w": "-1 0"}, index=["w"])
    assert score() == pytest.approx(-1.0)
    store.put(NS, "k", {"n": 1})
    assert score() is None
    store.put(NS, "k", {"v": "1 0"})
    store.delete(NS, "k")
    assert store.search(NS, query="1 0") == []
    assert items_of(store).verify() == []
    assert list(store.agent.store.scan(items_of(store)._entries)) == []


def test_a_store_without_an_index_leaves_no_vectors_of_old_values(store: WalkvStore) -> None:
    store.put(NS, "changed", {"v": "1 0"})
    store.put(NS, "deleted", {"v": "1 0"})
    assert len(store.search(NS, query="1 0")) == 2
    bare = WalkvStore(store.agent)
    bare.put(NS, "changed", {"v": "0 1"})
    bare.delete(NS, "deleted")
    assert scores(store.search(NS, query="1 0")) == {"changed": None}
    assert bare.search(NS, query="1 0")[0].score is None
    assert items_of(store).verify() == []


def test_vectors_of_other_dimensions_are_not_looked_at(store: WalkvStore) -> None:
    three = WalkvStore(store.agent, index=config(3))
    store.put(NS, "two", {"v": "1 0"})
    three.put(NS, "three", {"v": "1 0 0"})
    for _ in range(2):
        assert scores(store.search(NS, query="1 0")) == {"two": pytest.approx(1.0), "three": None}
        assert scores(three.search(NS, query="1 0 0")) == {
            "two": None,
            "three": pytest.approx(1.0),
        }
    three.put(NS, "two", {"v": "0 1 0"})
    assert scores(store.search(NS, query="1 0")) == {"two": None, "three": None}


def test_verify_tells_of_vectors_that_do_not_fit(store: WalkvStore) -> None:
    items = items_of(store)
    store.put(NS, "k", {"v": "1 0"})
    store.put(NS, "bad", {"v": "1 0"})
    key, bad = items.item_key(NS, "k"), items.item_key(NS, "bad")
    raw = store.agent.store
    raw.put(items._entries + key, vectors.encode([bytes(8), bytes(8)], 2))
    raw.put(items._entries + bad, b"bad")
    raw.put(items._entries + b"lost", vectors.encode([bytes(8)], 2))
    said = "\n".join(store.agent.verify())
    assert f"the item under {key!r} is to have 1 vectors" in said
    assert f"the vectors under {bad!r} cannot be read" in said
    assert "the vectors under b'lost' have no item" in said


# -- the copies in memory --------------------------------------------------------------------------


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Scope]:
    """The scopes of areas that were read from disk as a whole."""
    found: list[Scope] = []
    load = Area.load

    def noted(area: Area, reader: Any) -> None:
        found.append(area._scope)
        load(area, reader)

    monkeypatch.setattr(Area, "load", noted)
    return found


def test_vectors_are_read_once_and_then_kept_up(store: WalkvStore, loads: list[Scope]) -> None:
    other = WalkvStore(store.agent, index=config())
    for number in range(20):
        store.put(NS, f"k{number}", {"v": f"{number} 1"})
        assert names(other.search(NS, query="1000 1"))[0] == f"k{number}"
        assert len(store.search(("a",), query="1000 1", limit=100)) == number + 1
    assert len(loads) == len(set(loads)) == 2


def test_changes_between_searches_are_all_seen(store: WalkvStore, loads: list[Scope]) -> None:
    store.put(NS, "k", {"v": "1 0"})
    store.search(NS, query="1 0")
    store.put(NS, "k", {"v": "0 1"})
    store.put(NS, "new", {"v": "1 0"})
    store.put(NS, "gone", {"v": "1 0"})
    store.delete(NS, "gone")
    assert scores(store.search(NS, query="1 0")) == {"new": pytest.approx(1.0), "k": 0.0}
    store.delete(NS, "new")
    assert scores(store.search(NS, query="1 0")) == {"k": 0.0}
    assert len(loads) == 1


def test_what_was_put_is_found_after_the_store_was_opened_again(tmp_path: Any, rows: Any) -> None:
    with WalkvStore(tmp_path / "s", index=config()) as store:
        store.put(NS, "near", {"v": "1 0"})
        store.put(NS, "far", {"v": "0 1"})
    with WalkvStore(tmp_path / "s", index=config()) as store:
        assert names(store.search(NS, query="1 0")) == ["near", "far"]
        store.put(NS, "far", {"v": "2 0"})
        assert scores(store.search(NS, query="1 0")) == dict.fromkeys(
            ("near", "far"), pytest.approx(1.0)
        )


def test_a_reader_sees_what_another_opener_has_written(tmp_path: Any, rows: Any) -> None:
    path = tmp_path / "s"
    with WalkvStore(path, index=config()) as store, AgentStore(path, read_only=True) as agent:
        reader = WalkvStore(agent, index=config())
        assert reader.search(NS, query="1 0") == reader.search(NS) == []
        store.put(NS, "k", {"v": "1 0"})
        agent.store.refresh()
        assert scores(reader.search(NS, query="1 0")) == {"k": pytest.approx(1.0)}
        store.put(NS, "k", {"v": "0 1"})
        store.put(NS, "new", {"v": "1 0"})
        assert scores(reader.search(NS, query="1 0")) == {"k": pytest.approx(1.0)}
        agent.store.refresh()
        assert names(reader.search(NS, query="1 0")) == ["new", "k"]


def in_another_thread(function: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def test_a_batch_is_seen_inside_and_by_others_once_it_is_committed(store: WalkvStore) -> None:
    def outside(labels: tuple[str, ...] = NS) -> dict[str, float | None]:
        return in_another_thread(lambda: scores(store.search(labels, query="1 0")))

    store.put(NS, "k", {"v": "1 0"})
    store.put(NS, "gone", {"v": "1 0"})
    before = outside()
    with store.agent.batch():
        store.put(NS, "k", {"v": "0 1"})
        store.put(NS, "new", {"v": "1 0"})
        store.delete(NS, "gone")
        inside = scores(store.search(NS, query="1 0"))
        assert inside == {"new": pytest.approx(1.0), "k": 0.0}
        # Searches in the middle: the second time, and of what nobody has searched before.
        assert outside() == outside() == outside(("a",)) == before
    assert outside() == outside(("a",)) == inside


def test_a_batch_that_is_given_up_changes_nothing(store: WalkvStore) -> None:
    store.put(NS, "k", {"v": "1 0"})
    before = scores(store.search(NS, query="1 0"))

    def begin_and_fail() -> None:
        with store.agent.batch():
            store.put(NS, "k", {"v": "0 1"})
            store.put(NS, "new", {"v": "0 1"})
            raise KeyError

    with pytest.raises(KeyError):
        begin_and_fail()
    assert scores(store.search(NS, query="1 0")) == before


def test_a_put_between_the_marks_and_the_view_is_seen(
    store: WalkvStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = index_of(store)
    take = index._take_marks
    store.put(NS, "k", {"v": "1 0"})
    store.search(NS, query="1 0")

    def and_then_put(area: Area) -> set[bytes]:
        marked = take(area)
        store.put(NS, "k", {"v": "0 1"})
        return marked

    monkeypatch.setattr(index, "_take_marks", and_then_put)
    assert scores(store.search(NS, query="1 0")) == {"k": 0.0}


def test_a_put_after_the_view_is_seen_next_time(
    store: WalkvStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = index_of(store)
    catch_up = index._catch_up
    store.put(NS, "k", {"v": "1 0"})
    store.search(NS, query="1 0")

    def put_first(*arguments: Any) -> bool:
        store.put(NS, "k", {"v": "0 1"})
        store.put(NS, "new", {"v": "1 0"})
        return catch_up(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(index, "_catch_up", put_first)
        assert scores(store.search(NS, query="1 0")) == {"k": pytest.approx(1.0)}
    assert scores(store.search(NS, query="1 0")) == {"new": pytest.approx(1.0), "k": 0.0}


def test_a_search_that_fails_half_way_leaves_nothing_wrong(
    store: WalkvStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(NS, "k", {"v": "1 0"})
    store.search(NS, query="1 0")
    store.put(NS, "k", {"v": "0 1"})

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Area, "reload", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.search(NS, query="1 0")
    assert scores(store.search(NS, query="1 0")) == {"k": 0.0}


def test_an_area_with_too_many_marks_is_read_again(
    store: WalkvStore, loads: list[Scope], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "_MOST_MARKS", 10)
    store.search(NS, query="1 0")
    store.batch([PutOp(NS, f"k{number}", {"v": f"{number} 1"}) for number in range(30)])
    assert index_of(store)._areas == {}
    assert len(store.search(NS, query="1 0", limit=100)) == 30
    assert len(loads) == 2


@pytest.mark.parametrize("times", [1, vectors._TRIES])
def test_an_area_that_is_let_go_of_during_a_search(
    store: WalkvStore, monkeypatch: pytest.MonkeyPatch, loads: list[Scope], times: int
) -> None:
    index = index_of(store)
    take = index._take_marks
    store.put(NS, "k", {"v": "1 0"})
    store.search(NS, query="1 0")
    left = [times]

    def and_then_forget(area: Area) -> set[bytes]:
        marked = take(area)
        if left[0]:
            left[0] -= 1
            index._forget(area._scope, area)
            # No area has a mark of this.
            store.put(NS, "k", {"v": f"0 {left[0] + 1}"})
        return marked

    monkeypatch.setattr(index, "_take_marks", and_then_forget)
    assert scores(store.search(NS, query="1 0")) == {"k": 0.0}
    assert len(loads) == 2


def test_areas_have_a_bound_and_the_oldest_go_first(
    agent: AgentStore, rows: Any, loads: list[Scope]
) -> None:
    store = WalkvStore(agent, index=config())
    items = items_of(store)
    for user in range(4):
        for number in range(40):
            store.put(("u", str(user)), f"k{number}", {"v": f"{number} 1"})
    size = 40 * (16 + 256) * 2
    for face in (items, store._faces._threaded):
        face._index = VectorIndex(size)
    index = items._index
    assert index is not None

    def search(*labels: str) -> None:
        assert len(store.search(labels, query="1 0", limit=1000)) == (
            160 if len(labels) < 2 else 40
        )
        assert index._size_bytes <= size
        assert index._size_bytes == sum(area.counted_bytes for area in index._areas.values())

    for user, load_count in ((0, 1), (0, 1), (1, 2), (0, 2), (2, 3), (0, 3), (1, 4), (2, 5)):
        search("u", str(user))
        assert len(loads) == load_count
    search("u")  # larger than the bound, alone
    assert index._areas == {}
    search("u")
    assert len(loads) == 7


def test_writers_that_are_gone_are_forgotten(store: WalkvStore) -> None:
    store.search(NS, query="1 0")
    for number in range(1000):
        store.put(NS, f"k{number % 7}", {"v": f"{number} 1"})
    index = index_of(store)
    assert len(index._unsettled) <= vectors._MANY_UNSETTLED + 1
    (area,) = index._areas.values()
    assert len(area.marks) == 7
    assert max(map(len, area.marks.values())) <= 2
    store.search(NS, query="1 0")
    assert area.marks == {}


# -- races -----------------------------------------------------------------------------------------


@pytest.fixture
def _often() -> Iterator[None]:
    """Threads take turns at nearly every instruction."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def cosine(text: str, query: str) -> float:
    one, other = embed([text, query])
    return sum(map(mul, one, other)) / math.hypot(*one) / math.hypot(*other)


@pytest.mark.usefixtures("_often")
def test_searches_among_writers_give_each_value_its_own_score(store: WalkvStore) -> None:
    """A score that is of another vector than that of the value next to it would be an old one."""
    query = "0.5 0.7"

    def write(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(100):
            ops = []
            for _ in range(chance.choice([1, 1, 3])):
                value = {"v": f"{chance.uniform(-1, 1):.3f} {chance.uniform(-1, 1):.3f}"}
                key = f"k{chance.randrange(6)}"
                ops.append(PutOp(NS, key, None if chance.random() < 0.2 else value))
            if chance.random() < 0.3:
                store.agent.transact(partial(store.batch, ops), retries=1000)
            else:
                store.batch(ops)

    def check() -> None:
        found = store.search(NS, query=query, limit=100)
        for item in found:
            assert item.score == pytest.approx(cosine(item.value["v"], query), abs=1e-4), item
        given = [item.score or 0.0 for item in found]
        assert given == sorted(given, reverse=True)

    with ThreadPoolExecutor(5) as pool:
        writing = [pool.submit(write, seed) for seed in range(3)]

        def search() -> None:
            while not all(each.done() for each in writing):
                check()

        searching = [pool.submit(search) for _ in range(2)]
        for each in writing + searching:
            each.result()
    check()
    items = items_of(store)
    with ExitStack() as stack:
        scope = Scope(items._entries, items.prefix(NS), 2)
        wanted = Query(vectors.pack([0.5, 0.7], 2), "cosine")
        view, ranking = index_of(store).ranked(stack, items.access.kv, scope, wanted)
        again = vectors.read_ranked(view, scope, wanted)
        assert dict(ranking.items()) == pytest.approx(dict(again.items()))
