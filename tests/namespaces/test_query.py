"""Queries: what a plain filter and sort would give, whichever index is walked, at the cost said."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from walkv import AgentStore, CodecError, Declaration
from walkv.namespaces import query as query_module
from walkv.namespaces.access import ITEMS_AT_ONCE, Access
from walkv.namespaces.base import Namespace
from walkv.namespaces.query import Query
from walkv.testing import SimulatedFileSystem

START = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Item:
    group: str
    number: int
    name: str | None = None
    size: int = 0
    share: float | None = None
    at: datetime | None = None
    done: bool = False
    level: Literal["low", "mid", "top"] = "low"
    anything: Any = None
    tags: list[str] = field(default_factory=list)


INDEXES: dict[str, list[Any]] = {
    "none": [],
    "single": ["name", "size", "share", "at", "done", "level"],
    "pairs": [("name", "size"), ("done", "at"), ("size", "name"), ("level", "share")],
    "triples": [("level", "done", "size"), ("name", "at", "share"), ("size", "share", "at")],
    "sparse": ["name", ("at", "size"), ("share", "name"), "number"],
}


def items(name: str, indexes: Iterable[Any] = (), **options: Any) -> Declaration[Item]:
    return Declaration(name, Item, key=("group", "number"), indexes=list(indexes), **options)


@pytest.fixture
def fs() -> SimulatedFileSystem:
    return SimulatedFileSystem()


@pytest.fixture
def agent(fs: SimulatedFileSystem) -> Iterator[AgentStore]:
    with AgentStore("/s", filesystem=fs) as made:
        yield made


# -- the plain way ---------------------------------------------------------------------------------


def meets(item: Item, name: str, comparison: str, wanted: Any) -> bool:
    value = getattr(item, name)
    match comparison:
        case "eq":
            return bool(value == wanted)
        case "ne":
            return bool(value != wanted)
        case "in":
            return value in wanted
    if value is None or wanted is None:
        return False
    try:
        match comparison:
            case "lt":
                return bool(value < wanted)
            case "lte":
                return bool(value <= wanted)
            case "gt":
                return bool(value > wanted)
            case "gte":
                return bool(value >= wanted)
            case "startswith":
                return isinstance(value, str) and value.startswith(wanted)
            case _:
                return wanted in value
    except TypeError:
        return False


def rank(value: Any) -> tuple[Any, ...]:
    return (0,) if value is None else (1, value)


class Reversed:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reversed) and self.value == other.value

    def __lt__(self, other: Reversed) -> bool:
        return bool(other.value < self.value)


def sort_key(item: Item, orders: tuple[str, ...]) -> list[Any]:
    parts = []
    for order in orders:
        part = rank(getattr(item, order.lstrip("-")))
        parts.append(Reversed(part) if order.startswith("-") else part)
    return parts


# -- strategies ------------------------------------------------------------------------------------

names = st.sampled_from([None, "", "a", "a\0", "ab", "b"])
sizes = st.integers(-1, 2)
shares = st.sampled_from([None, -1.5, 0.0, 0.5, math.inf])
times = st.none() | st.integers(0, 3).map(lambda days: START + timedelta(days=days))
levels = st.sampled_from(["low", "mid", "top"])
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "group": st.sampled_from(["", "g", "g\0", "h"]),
    "number": st.integers(0, 4),
    "name": names,
    "size": sizes,
    "share": shares,
    "at": times,
    "done": st.booleans(),
    "level": levels,
}
some_items = st.builds(
    Item,
    **VALUES,
    anything=st.sampled_from([None, 1, "a", [1]]),
    tags=st.lists(st.sampled_from(["x", "y"]), max_size=2),
)
Condition = tuple[str, str, Any]


@st.composite
def conditions(draw: st.DrawFn) -> Condition:
    name = draw(st.sampled_from(list(VALUES)))
    comparison = draw(st.sampled_from(["eq", "eq", "eq", "ne", "lt", "lte", "gt", "gte", "in"]))
    if comparison == "in":
        return name, comparison, draw(st.lists(VALUES[name], max_size=2))
    return name, comparison, draw(VALUES[name])


other_conditions = st.sampled_from(
    [
        ("name", "startswith", "a"),
        ("name", "contains", "b"),
        ("tags", "contains", "x"),
        ("size", "startswith", "a"),
        ("size", "contains", 1),
        ("anything", "eq", 1),
        ("anything", "gt", 0),
    ]
)
many_conditions = st.lists(st.one_of(conditions(), conditions(), other_conditions), max_size=3)
many_orders = st.lists(
    st.sampled_from([sign + name for name in VALUES for sign in ("", "-")]), max_size=3
).map(tuple)


def asked(
    namespace: Namespace[Item], wanted: list[Condition], orders: tuple[str, ...]
) -> Query[Item]:
    query = namespace.query()
    for name, comparison, value in wanted:
        # A field may be asked about twice, which one call has no way to say.
        query = query.where(**{name if comparison == "eq" else f"{name}__{comparison}": value})
    return query.order_by(*orders)


@pytest.fixture(scope="module")
def spaces() -> Iterator[list[Namespace[Item]]]:
    with AgentStore("/s", filesystem=SimulatedFileSystem()) as agent:
        yield [agent.namespace(items(name, indexes)) for name, indexes in INDEXES.items()]


def fill(spaces: list[Namespace[Item]], records: list[Item]) -> list[Item]:
    for namespace in spaces:
        namespace.query().delete()
        namespace.put_many(records)
    return list({(each.group, each.number): each for each in records}.values())


def key_of(item: Item) -> tuple[str, int]:
    return (item.group, item.number)


@given(
    st.data(),
    st.lists(some_items, max_size=12),
    st.none() | st.integers(0, 5),
    st.integers(0, 3),
)
@settings(max_examples=200, deadline=None, database=None)
def test_a_query_gives_what_a_plain_filter_and_sort_gives(
    spaces: list[Namespace[Item]],
    data: st.DataObject,
    records: list[Item],
    limit: int | None,
    offset: int,
) -> None:
    kept = fill(spaces, records)
    for _ in range(3):
        wanted, orders = data.draw(many_conditions), data.draw(many_orders)
        matching = [item for item in kept if all(meets(item, *each) for each in wanted)]
        in_order = sorted((sort_key(item, orders) for item in matching), key=list)
        for namespace in spaces:
            query = asked(namespace, wanted, orders)
            found = query.all()
            assert sorted(map(key_of, found)) == sorted(map(key_of, matching)), query.explain()
            assert all(item in matching for item in found)
            assert [sort_key(item, orders) for item in found] == in_order, query.explain()
            assert query.count() == query.limit(1).offset(1).count() == len(matching)
            some = query.limit(limit).offset(offset).all()
            assert some == found[offset:][:limit]
            assert query.first() == (found[0] if found else None)
            assert list(query) == found
            assert all(query.matches(item) == (item in matching) for item in kept)
            # Page by page: each record once, in the same order.
            size = data.draw(st.integers(1, 4))
            pages, cursor = [], None
            while True:
                page = query.limit(size).after(cursor).page()
                pages.append(page.items)
                cursor = page.cursor
                if cursor is None:
                    break
                assert len(page.items) == size
                assert len(pages) <= len(found)
            assert [item for page in pages for item in page] == found


@given(
    st.lists(some_items, max_size=10),
    st.lists(st.tuples(names, sizes, shares), min_size=2, max_size=6),
    st.sampled_from(
        [("name", "size"), ("name__gt", "size"), ("share", "name"), ("size", "share__lte")]
    ),
)
@settings(max_examples=40, deadline=None, database=None)
def test_a_plan_that_was_chosen_for_other_values_is_right_for_these(
    spaces: list[Namespace[Item]],
    records: list[Item],
    values: list[tuple[Any, ...]],
    shape: tuple[str, ...],
) -> None:
    kept = fill(spaces, records)
    position = {"name": 0, "size": 1, "share": 2}
    for row in values:
        wanted = []
        for each in shape:
            name, _, comparison = each.partition("__")
            wanted.append((name, comparison or "eq", row[position[name]]))
        matching = [key_of(item) for item in kept if all(meets(item, *each) for each in wanted)]
        for namespace in spaces:
            found = asked(namespace, wanted, ()).all()
            assert sorted(map(key_of, found)) == sorted(matching)


@given(st.data(), st.lists(some_items, max_size=12), st.none() | st.integers(0, 4))
@settings(max_examples=40, deadline=None, database=None)
def test_delete_takes_what_all_gives(
    spaces: list[Namespace[Item]], data: st.DataObject, records: list[Item], limit: int | None
) -> None:
    kept = fill(spaces, records)
    wanted, orders = data.draw(many_conditions), data.draw(many_orders)
    for namespace in spaces:
        query = asked(namespace, wanted, orders).limit(limit)
        found = query.all()
        assert query.delete() == len(found)
        left = [item for item in kept if item not in found]
        assert sorted(namespace.scan(), key=key_of) == sorted(left, key=key_of)
        assert namespace.verify() == []


def test_none_is_found_though_it_is_in_no_index(agent: AgentStore) -> None:
    namespace = agent.namespace(items("things", ["name", ("at", "size")]))
    without, with_it = Item("g", 1), Item("g", 2, "a", at=START)
    namespace.put_many([without, with_it])
    for _ in range(2):
        assert namespace.query(name="a").explain().index == "name"
        assert namespace.query(name="a").all() == [with_it]
        assert namespace.query(name=None).all() == [without]
        assert namespace.query(name=None).explain().index == ""
        assert namespace.query(name__ne="a").all() == [without]
        assert namespace.query(name__in=["a", None]).count() == 2
        assert namespace.query().order_by("name").all() == [without, with_it]
        assert namespace.query().order_by("-at").all() == [with_it, without]
        assert namespace.query(at__lte=START).order_by("at").explain().index == "at,size"
        assert namespace.query(at__lte=START).all() == [with_it]
        assert namespace.count() == namespace.query().count() == 2
        assert namespace.count(at=None) == 1


# -- which index -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "orders", "index", "equal", "bounded", "in_memory", "reverse"),
    [
        ({}, [], "", (), "", False, False),
        ({"group": "g", "number": 1}, [], "", ("group", "number"), "", False, False),
        ({"group": "g"}, ["-number"], "", ("group",), "", False, True),
        ({"group": "g", "number__gte": 3}, [], "", ("group",), "number", False, False),
        ({"size": 1}, [], "size,at", ("size",), "", False, False),
        ({"size": 1}, ["at"], "size,at", ("size",), "", False, False),
        ({"size": 1}, ["-at"], "size,at", ("size",), "", False, True),
        ({"size": 1, "at__gte": START}, ["-at"], "size,at", ("size",), "at", False, True),
        ({"size": 1, "at": START}, [], "size,at", ("size", "at"), "", False, False),
        ({"size": 1}, ["level"], "size,at", ("size",), "", True, False),
        ({"at__lt": START}, [], "at", (), "at", False, False),
        ({}, ["size"], "size,at", (), "", False, False),
        ({}, ["-size", "-at"], "size,at", (), "", False, True),
        ({}, ["size", "-at"], "", (), "", True, False),
        ({}, ["at"], "", (), "", True, False),
        ({"level": "top"}, ["group", "number"], "", (), "", False, False),
        ({"level": "top"}, ["level"], "", (), "", False, False),
        ({"size": 1}, ["-size", "at"], "size,at", ("size",), "", False, False),
        ({"size": 1, "group": "g", "number": 2}, [], "", ("group", "number"), "", False, False),
    ],
)
def test_the_index_that_serves_best_is_walked(
    agent: AgentStore,
    wanted: dict[str, Any],
    orders: list[str],
    index: str,
    equal: tuple[str, ...],
    bounded: str,
    in_memory: bool,
    reverse: bool,
) -> None:
    namespace = agent.namespace(items("things", [("size", "at"), "at"]))
    plan = namespace.query(**wanted).order_by(*orders).explain()
    assert (plan.index, plan.equal, plan.bounded) == (index, equal, bounded)
    assert (plan.sorted_in_memory, plan.reverse) == (in_memory, reverse)
    served = {*equal, *([bounded] if bounded else [])}
    assert set(plan.filtered) == {
        f"{name}__eq" if "__" not in name else name
        for name in wanted
        if name.partition("__")[0] not in served
    }


def test_a_plan_in_words(agent: AgentStore) -> None:
    namespace = agent.namespace(items("things", [("size", "at")]))
    assert str(namespace.query().explain()) == "walks all records, stops at the limit"
    query = namespace.query(size=1, at__gte=START, level="top").order_by("-at")
    assert str(query.explain()) == (
        "walks index (size,at) backward, where size is given, within bounds of at, "
        "checks level__eq on each record, stops at the limit"
    )
    assert (
        str(namespace.query().order_by("share").explain()) == "walks all records, sorts in memory"
    )


def test_the_choices_that_are_remembered_are_bounded(
    agent: AgentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_module, "_MOST_SHAPES", 3)
    namespace = agent.namespace(items("things", ["size", "name"]))
    namespace.put(Item("g", 1, "a", 5))
    for name in VALUES:
        assert len(namespace.query().order_by(name).all()) == 1
    assert len(namespace.table.chosen) <= 3
    assert namespace.query(size=5).explain().index == "size"


# -- what is refused, and what only matches nothing ------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ({"missing": 1}, "no such field"),
        ({"missing__gt": 1}, "no such field"),
        ({"size__like": 1}, "no comparison 'like'"),
        ({"__gt": 1}, "no such field"),
        ({"size": "1"}, r"things\.size: .*int.* str"),
        ({"size": True}, r"things\.size: .*int.* bool"),
        ({"size__gte": None}, r"things\.size: .*int"),
        ({"level": "none"}, "'none' is not one of"),
        ({"at__lt": datetime(2024, 1, 1)}, "time zone"),
        ({"level__in": ["low", "none"]}, "'none' is not one of"),
        ({"level__in": "low"}, "in takes a list of values, not a str"),
        ({"size__in": 5}, "in takes a list of values, not a int"),
    ],
)
def test_a_condition_that_makes_no_sense_is_refused(
    agent: AgentStore, wanted: dict[str, Any], why: str
) -> None:
    namespace = agent.namespace(items("things", ["size"]))
    with pytest.raises(CodecError, match=why) as caught:
        namespace.query(**wanted)
    assert caught.value.namespace == "things"


def test_orders_limits_and_offsets_that_make_no_sense_are_refused(agent: AgentStore) -> None:
    query = agent.namespace(items("things")).query()
    with pytest.raises(CodecError, match="no such field"):
        query.order_by("missing")
    for wrong in (-1, 1.5, "1"):
        with pytest.raises(ValueError, match="0 or more"):
            query.limit(wrong)  # type: ignore[arg-type]  # what is tested
        with pytest.raises(ValueError, match="0 or more"):
            query.offset(wrong)  # type: ignore[arg-type]  # likewise
    with pytest.raises(ValueError, match="0 or more"):
        query.offset(None)  # type: ignore[arg-type]  # likewise


@pytest.mark.parametrize("indexes", [[], ["name", "size", "share", ("done", "name")]])
def test_values_that_no_key_can_have_match_as_they_would_without_an_index(
    agent: AgentStore, indexes: list[Any]
) -> None:
    namespace = agent.namespace(items("things", indexes))
    item = Item("g", 1, "a", 5, 0.5)
    namespace.put(item)
    assert namespace.query(name="x" * 10_000).all() == []
    assert namespace.query(name__lt="x" * 10_000).all() == [item]
    assert namespace.query(done=False, name__gt="x" * 10_000).all() == []
    assert namespace.query(group="x" * 10_000).all() == []
    assert namespace.query(size=2**80).count() == 0
    assert namespace.query(size__lt=2**80).count() == 1
    assert namespace.query(size__gt=-(2**80)).all() == [item]
    for comparison in ("", "__lt", "__gte"):
        assert namespace.query(**{f"share{comparison}": math.nan}).all() == []
    assert namespace.query(name="\ud800").all() == []


def test_what_cannot_be_compared_does_not_match(agent: AgentStore) -> None:
    namespace = agent.namespace(items("things"))
    namespace.put_many([Item("g", n, anything=each) for n, each in enumerate([1, "a", [1], None])])
    assert [item.number for item in namespace.query(anything__gt=0)] == [0]
    assert [item.number for item in namespace.query(anything__startswith="a")] == [1]
    assert [item.number for item in namespace.query(anything__contains=1)] == [2]
    assert namespace.query(size__startswith="a").all() == []
    assert namespace.query(at__contains=1).all() == []


def test_sorting_by_what_no_index_could_hold(agent: AgentStore) -> None:
    namespace = agent.namespace(items("things"))
    many = [Item("g", n, text * 3000) for n, text in enumerate(["bb", "a", "b"])]
    namespace.put_many(many)
    assert [item.number for item in namespace.query().order_by("name")] == [1, 2, 0]
    page = namespace.query().order_by("-name").limit(2).page()
    assert [item.number for item in page.items] == [0, 2]
    rest = namespace.query().order_by("-name").limit(2).after(page.cursor).page()
    assert [item.number for item in rest.items] == [1]
    namespace.put(Item("g", 9, size=2**80))
    for name in ("size", "tags"):
        with pytest.raises(CodecError, match=rf"things\.{name}"):
            namespace.query().order_by(name).all()


def test_ties_are_in_the_order_of_the_key_in_the_direction_that_was_asked_for(
    agent: AgentStore,
) -> None:
    numbers = {}
    for name, indexes in {"with_one": ["size"], "without": []}.items():
        namespace = agent.namespace(items(name, indexes))
        namespace.put_many([Item("g", n, size=n % 2) for n in range(6)])
        query = namespace.query()
        numbers[name] = [
            [item.number for item in query.order_by(order)] for order in ("size", "-size")
        ]
    assert numbers["with_one"] == numbers["without"] == [[0, 2, 4, 1, 3, 5], [5, 3, 1, 4, 2, 0]]


# -- cursors ---------------------------------------------------------------------------------------


def test_a_cursor_belongs_to_its_query(agent: AgentStore) -> None:
    namespace = agent.namespace(items("things", ["size"]))
    other = agent.namespace(items("others", ["size"]))
    for each in (namespace, other):
        each.put_many([Item("g", n, "a", n % 3) for n in range(9)])
    query = namespace.query(name="a").order_by("size").limit(2)
    cursor = query.page().cursor
    assert cursor is not None
    assert query.limit(5).after(cursor).page().items == query.offset(2).limit(5).all()
    for wrong in (
        namespace.query(name="b").order_by("size"),
        namespace.query(name="a"),
        namespace.query(name="a").order_by("-size"),
        namespace.query(name__ne="a").order_by("size"),
        namespace.query(name="a", size=1).order_by("size"),
        other.query(name="a").order_by("size"),
    ):
        with pytest.raises(CodecError, match="belongs to another query"):
            wrong.after(cursor).page()
        with pytest.raises(CodecError, match="belongs to another query"):
            wrong.after(cursor).all()


@pytest.mark.parametrize(
    "cursor", ["", "x", "!!!!", "AAAA", "\u00e9", "a" * 10_000, 5, b"AAAA", [1]]
)
@pytest.mark.parametrize("order", ["size", "share"])
def test_what_is_no_cursor_is_refused(agent: AgentStore, cursor: Any, order: str) -> None:
    namespace = agent.namespace(items("things", ["size"]))
    namespace.put(Item("g", 1))
    with pytest.raises(CodecError, match="cursor") as caught:
        namespace.query().order_by(order).after(cursor).page()
    assert caught.value.namespace == "things"


@given(st.binary(max_size=12), st.sampled_from(["size", "-size", "share"]))
@settings(max_examples=60, deadline=None, database=None)
def test_a_forged_cursor_stays_within_the_query(
    spaces: list[Namespace[Item]], position: bytes, order: str
) -> None:
    fill(spaces, [Item("g", n, "ab"[n % 2], n % 3) for n in range(6)])
    for namespace in spaces:
        query = namespace.query(name="a").order_by(order).limit(1)
        cursor = query.page().cursor
        assert cursor is not None
        mark = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))[:4]
        forged = base64.urlsafe_b64encode(mark + position).decode()
        found = query.limit(None).after(forged).all()
        assert [item for item in query.limit(None).all() if item in found] == found


def test_pages_are_not_shifted_by_what_comes_and_goes(agent: AgentStore) -> None:
    for name, indexes in {"with_one": ["size"], "without": []}.items():
        for order in ("size", "-size"):
            namespace = agent.namespace(items(f"{name}_{order.strip('-')}", indexes))
            namespace.query().delete()
            namespace.put_many([Item("g", n, size=10 * n) for n in range(10)])
            query = namespace.query().order_by(order).limit(3)
            seen: list[int] = []
            page = query.page()
            while True:
                seen += [item.size for item in page.items]
                last, back = seen[-1], order == "-size"
                # Before the position: gone and new; behind it: one new, and the last one is gone.
                namespace.delete(("g", seen[0] // 10))
                namespace.put(Item("h", len(seen), size=last + (1 if back else -1)))
                namespace.put(Item("new", len(seen), size=last + (-1 if back else 1)))
                namespace.delete(("g", last // 10))
                if page.cursor is None:
                    break
                page = query.after(page.cursor).page()
            old = [size for size in seen if size % 10 == 0]
            assert old == sorted(range(0, 100, 10), reverse=order == "-size")
            assert len(seen) == len(set(seen))
            assert any(size % 10 for size in seen)


def test_a_cursor_holds_when_an_index_was_built_anew(fs: SimulatedFileSystem) -> None:
    def opened(indexes: list[Any]) -> tuple[AgentStore, Namespace[Item]]:
        agent = AgentStore("/s", filesystem=fs)
        return agent, agent.namespace(items("things", indexes))

    agent, namespace = opened(["size"])
    with agent:
        namespace.put_many([Item("g", n, size=n) for n in range(6)])
        cursors = {
            order: namespace.query().order_by(order).limit(2).page().cursor
            for order in ("size", "-size")
        }
    opened([])[0].close()
    agent, namespace = opened(["size"])
    with agent:
        rest = {"size": [2, 3, 4, 5], "-size": [3, 2, 1, 0]}
        for order, cursor in cursors.items():
            found = namespace.query().order_by(order).after(cursor).all()
            assert [item.size for item in found] == rest[order]
    agent, namespace = opened([])
    with agent, pytest.raises(CodecError, match="belongs to another query"):
        namespace.query().order_by("size").after(cursors["size"]).all()


def test_the_last_page_has_no_cursor(agent: AgentStore) -> None:
    namespace = agent.namespace(items("things", ["size"]))
    namespace.put_many([Item("g", n, size=n) for n in range(4)])
    for order in ("size", "share"):
        query = namespace.query().order_by(order)
        assert query.page().cursor is None
        assert query.limit(4).page().cursor is None
        assert query.limit(5).page().cursor is None
        assert query.limit(0).page().items == []
        cursor = query.limit(3).page().cursor
        last = query.limit(3).after(cursor).page()
        assert (len(last.items), last.cursor) == (1, None)
    assert namespace.query(size=99).limit(1).page().items == []


# -- cost ------------------------------------------------------------------------------------------


class Counting:
    """A ``KeyValue``, or a reader of it, that counts the keys that are looked at."""

    def __init__(self, inner: Any, counts: list[int]) -> None:
        self._inner = inner
        self._counts = counts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def get(self, key: bytes) -> Any:
        self._counts[0] += 1
        return self._inner.get(key)

    def get_many(self, wanted: list[bytes]) -> Any:
        self._counts[0] += len(wanted)
        return self._inner.get_many(wanted)

    def scan(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        for entry in self._inner.scan(*args, **kwargs):
            self._counts[0] += 1
            yield entry

    def view(self) -> Any:
        self._inner = self._inner.view()
        return self

    def __enter__(self) -> Counting:
        return Counting(self._inner.__enter__(), self._counts)

    def __exit__(self, *error: object) -> None:
        self._inner.__exit__(*error)


def counted(agent: AgentStore, namespace: Namespace[Item]) -> list[int]:
    counts, kv = [0], namespace.access.kv

    class CountingKeyValue(Counting):
        def view(self) -> Any:
            return Counting(kv.view(), counts)

    namespace.access = Access(CountingKeyValue(kv, counts), agent)  # type: ignore[arg-type]  # as is
    return counts


MANY = 3000


@pytest.fixture(scope="module")
def large() -> Iterator[tuple[AgentStore, Namespace[Item], list[int]]]:
    with AgentStore("/s", filesystem=SimulatedFileSystem()) as agent:
        namespace = agent.namespace(items("things", ["size", ("name", "at"), "level"]))
        namespace.put_many(
            Item(
                "g",
                n,
                "ab"[n % 2],
                n // 10,
                at=START + timedelta(minutes=n * 7919 % MANY),
                level="top" if n % 100 == 0 else "low",
            )
            for n in range(MANY)
        )
        yield agent, namespace, counted(agent, namespace)


@pytest.mark.parametrize(
    ("wanted", "order"),
    [
        ({}, ()),
        ({}, ("-group", "-number")),
        ({"name": "a"}, ("at",)),
        ({"name": "a"}, ("-at",)),
        ({"name": "b", "at__gte": START + timedelta(minutes=10)}, ("at",)),
        ({"size__gte": 100}, ("-size",)),
        ({}, ("size",)),
    ],
)
def test_a_page_costs_the_page(
    large: tuple[AgentStore, Namespace[Item], list[int]],
    wanted: dict[str, Any],
    order: tuple[str, ...],
) -> None:
    _, namespace, counts = large
    query = namespace.query(**wanted).order_by(*order).limit(20)
    cursor, turns = None, 0
    for _ in range(20):
        counts[0] = 0
        page = query.after(cursor).page()
        # One entry more, to see whether anything follows; and for each its record.
        assert counts[0] <= 2 * 21
        assert len(page.items) == 20
        cursor = page.cursor
        turns += 1
    assert turns == 20
    counts[0] = 0
    assert query.first() is not None
    assert counts[0] <= 4


def test_other_costs(large: tuple[AgentStore, Namespace[Item], list[int]]) -> None:
    agent, namespace, counts = large

    def cost(call: Any) -> int:
        counts[0] = 0
        call()
        return counts[0]

    # One record by its key; a range of one group; a count goes over index entries alone.
    assert cost(lambda: namespace.query(group="g", number=5).all()) <= 2
    assert cost(lambda: namespace.query(size=7).all()) == 20
    assert cost(lambda: namespace.count(size=7)) == 10
    assert cost(lambda: namespace.count(name="a")) == MANY // 2
    assert cost(lambda: namespace.count(level="top")) == MANY // 100
    # An offset is walked over, a limit bounds what is read.
    assert cost(lambda: namespace.query(name="a").offset(50).limit(10).all()) <= 2 * 61
    # A filter reads what it passes over, in bites.
    assert cost(lambda: namespace.query(name="a", level="top").order_by("at").first()) <= 2 * MANY
    # A sort reads what matches once, also when it is gone through one by one.
    assert cost(lambda: list(namespace.query(name="a").order_by("share"))) == MANY
    assert cost(lambda: namespace.query().order_by("share").limit(5).all()) == MANY
    assert cost(lambda: namespace.exists(("g", 1))) == 1
    with agent.batch():
        assert namespace.query(size=7).count() == 10


def test_going_through_a_query_reads_a_page_at_a_time(
    large: tuple[AgentStore, Namespace[Item], list[int]],
) -> None:
    _, namespace, counts = large
    counts[0] = 0
    walk = iter(namespace.query())
    assert [next(walk).number for _ in range(3)] == [0, 1, 2]
    assert counts[0] <= 300
    assert len(list(walk)) == MANY - 3
    assert counts[0] <= MANY + 20


def test_a_query_sees_one_moment(agent: AgentStore, monkeypatch: pytest.MonkeyPatch) -> None:
    namespace = agent.namespace(items("things", ["size"]))
    namespace.put_many([Item("g", n, "old", size=1) for n in range(400)])
    kv = namespace.access.kv
    plain = type(kv).view

    class Meddling:
        """Changes everything between the first read of a query and the next."""

        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def __enter__(self) -> Meddling:
            self._inner = self._inner.__enter__()
            return self

        def __exit__(self, *error: object) -> None:
            self._inner.__exit__(*error)

        def get_many(self, wanted: Any) -> Any:
            namespace.put_many([Item("g", n, "new", size=2) for n in range(400)])
            namespace.put(Item("h", 0, "new", size=1))
            return self._inner.get_many(wanted)

    monkeypatch.setattr(type(kv), "view", lambda self: Meddling(plain(self)))
    found = namespace.query(size=1).all()
    assert {(item.name, item.size) for item in found} == {("old", 1)}
    assert len(found) == 400
    monkeypatch.undo()
    assert namespace.count(size=1) == 1


def test_a_record_that_no_longer_matches_is_not_deleted(
    agent: AgentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = agent.namespace(items("things", ["size"]))
    namespace.put_many([Item("g", n, size=1) for n in range(3)])
    plain = Query.packed_keys

    def changed_meanwhile(self: Query[Item]) -> list[bytes]:
        found = plain(self)
        namespace.update(("g", 1), size=2)
        namespace.delete(("g", 2))
        return found

    monkeypatch.setattr(Query, "packed_keys", changed_meanwhile)
    assert namespace.query(size=1).delete() == 1
    monkeypatch.undo()
    assert namespace.scan() == [Item("g", 1, size=2)]
    assert namespace.verify() == []


@pytest.mark.parametrize("batch", [False, True])
def test_deleting_very_many_lets_others_in(agent: AgentStore, batch: bool) -> None:
    namespace = agent.namespace(items("things", ["size"]))
    most = 2 * ITEMS_AT_ONCE + 10
    namespace.put_many(Item("g", n, size=1) for n in range(most))
    commits: list[Any] = []
    kv = namespace.access.kv
    plain = kv.transact

    def transact(*args: Any) -> Any:
        found = plain(*args)
        commits.append(found)
        return found

    namespace.access.kv = Committing(kv, transact)  # type: ignore[assignment]  # as good as
    query = namespace.query(size=1).order_by("-number").limit(most - 3)
    if batch:
        with agent.batch():
            assert query.delete() == most - 3
            assert namespace.count() == 3
    else:
        assert query.delete() == most - 3
    assert len(commits) == (0 if batch else 3)
    assert [item.number for item in namespace.scan()] == [0, 1, 2]
    assert namespace.verify() == []


class Committing:
    """A ``KeyValue`` with another way to commit."""

    def __init__(self, inner: Any, transact: Any) -> None:
        self._inner = inner
        self.transact = transact

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_what_expires_is_in_no_result(fs: SimulatedFileSystem, agent: AgentStore) -> None:
    namespace = agent.namespace(items("things", ["size"]))
    for number in range(6):
        namespace.put(Item("g", number, size=1), ttl_seconds=1 + number)
    query = namespace.query(size=1)
    cursor = query.limit(2).page().cursor
    fs.clock.advance(3.5)
    assert [item.number for item in query.all()] == [3, 4, 5]
    assert query.count() == 3
    assert [item.number for item in query.after(cursor).all()] == [3, 4, 5]


def test_within_a_batch_a_query_sees_its_writes(agent: AgentStore) -> None:
    namespace = agent.namespace(items("things", ["size"]))
    namespace.put_many([Item("g", n, size=n % 2) for n in range(6)])
    with agent.batch():
        namespace.update(("g", 0), size=1)
        namespace.put(Item("g", 9, size=1))
        namespace.delete(("g", 1))
        assert [item.number for item in namespace.query(size=1)] == [0, 3, 5, 9]
        assert namespace.query(size=1).order_by("-number").first() == Item("g", 9, size=1)
        assert namespace.query(size=1, number__lt=4).delete() == 2
        assert namespace.count(size=1) == 2
        page = namespace.query().limit(2).page()
        assert [item.number for item in page.items] == [2, 4]
    assert [item.number for item in namespace.query()] == [2, 4, 5, 9]
    assert namespace.verify() == []
