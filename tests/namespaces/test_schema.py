"""Record types: what may be in a field, records of other code, and secrets that stay secret."""

from __future__ import annotations

import dataclasses
import enum
import traceback
from collections.abc import Callable, Iterator
from dataclasses import InitVar, dataclass, field, make_dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Any, ClassVar, Generic, Literal, Optional, TypeVar, Union
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from walkv import AgentStore, CodecError, Declaration, LimitError, limits
from walkv.errors import FormatError, WalkvError
from walkv.namespaces import codec
from walkv.namespaces.base import Namespace
from walkv.namespaces.schema import MASK, Layout, Schema
from walkv.testing import SimulatedFileSystem

T = TypeVar("T")
NOW = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)


def opened(fs: SimulatedFileSystem, **options: Any) -> AgentStore:
    return AgentStore("/s", filesystem=fs, **options)


@pytest.fixture
def agent() -> Iterator[AgentStore]:
    with opened(SimulatedFileSystem()) as made:
        yield made


def record_type(_name: str = "Thing", /, **fields: Any) -> Any:
    """A frozen record type with slots: ``name=annotation`` or ``name=(annotation, default)``."""
    made = [(name, *(what if type(what) is tuple else (what,))) for name, what in fields.items()]
    return make_dataclass(_name, made, frozen=True, slots=True)


def things(record: type[Any], **options: Any) -> Declaration[Any]:
    return Declaration("things", record, **{"key": "id", **options})


def entries(agent: AgentStore) -> dict[bytes, bytes]:
    return dict(agent.store.scan())


# -- what may be in a field ----------------------------------------------------------------------


class Colour(enum.StrEnum):
    RED = "red"


class Plain(enum.Enum):
    RED = "red"


class Whole(enum.IntEnum):
    TWO = 2


class Text(str):
    pass


EARLY = datetime(2024, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
NAIVE = datetime(2024, 1, 1)
KINDS: list[tuple[Any, list[tuple[Any, Any]], list[Any]]] = [
    (
        str,
        [("a", "a"), ("", ""), (Colour.RED, "red"), (Text("t"), "t")],
        [1, b"a", None, Plain.RED],
    ),
    (int, [(1, 1), (-(2**70), -(2**70)), (Whole.TWO, 2)], [True, 1.0, "1", None]),
    (float, [(1.5, 1.5), (2, 2.0), (Whole.TWO, 2.0)], [True, "1", None, 10**400]),
    (bool, [(True, True)], [1, 0, "yes", None]),
    (bytes, [(b"a", b"a")], ["a", None, bytearray(b"a")]),
    (datetime, [(NOW, NOW), (EARLY, EARLY.astimezone(UTC))], [NAIVE, "2024-01-01", 0, None]),
    (Literal["on", "off"], [("on", "on"), (Text("off"), "off")], ["ON", "", None, 1, ["on"]]),
    (Literal[1, 2], [(1, 1), (Whole.TWO, 2)], ["1", 3, None]),
    (dict, [({1: (2,)}, {1: (2,)})], [[], None, "{}"]),
    (dict[str, int], [({"a": 1}, {"a": 1})], [[("a", 1)]]),
    (list[str], [(["a"], ["a"])], [("a",), "a", None]),
    (tuple[int, ...], [((1, 2), (1, 2))], [[1, 2], None]),
    (set[str], [({"a"}, {"a"})], [["a"], frozenset(), None]),
    (frozenset, [(frozenset({1}), frozenset({1}))], [{1}, None]),
    (
        Any,
        [(None, None), ([1, {"a": NOW}], [1, {"a": NOW}])],
        [object(), NAIVE, {"a": [Plain.RED]}],
    ),
    (str | None, [(None, None), ("a", "a")], [1]),
    (Optional[int], [(None, None), (1, 1)], [True, "1"]),  # noqa: UP045
    (Union[str, int], [("a", "a"), (1, 1)], [1.5, None, True]),  # noqa: UP007
    (int | str | None, [(None, None), (1, 1), ("1", "1")], [1.5]),
    (Literal["on", None], [("on", "on"), (None, None)], ["off"]),
    (Annotated[str, "a note"], [("a", "a")], [1]),
    (datetime | None, [(None, None), (EARLY, EARLY.astimezone(UTC))], [NAIVE]),
]


@pytest.mark.parametrize(("kind", "good", "bad"), KINDS, ids=lambda each: str(each)[:20])
def test_every_kind_of_field(
    agent: AgentStore, kind: Any, good: list[tuple[Any, Any]], bad: list[Any]
) -> None:
    record = record_type(id=str, value=kind)
    namespace = agent.namespace(things(record, indexes=[]))
    for number, (value, expected) in enumerate(good):
        key = str(number)
        namespace.put(record(key, value))
        found = namespace.get(key).value
        assert found == expected
        assert type(found) is type(expected)
        assert namespace.update(key, value=value).value == expected
    before = entries(agent)
    for value in bad:
        for write in (
            lambda value=value: namespace.put(record("new", value)),
            lambda value=value: namespace.add(record("new", value)),
            lambda value=value: namespace.update("0", value=value),
            lambda value=value: namespace.put_many([record("new", good[0][0]), record("x", value)]),
        ):
            with pytest.raises(CodecError) as caught:
                write()
            assert (caught.value.namespace, caught.value.field) == ("things", "value")
            assert str(caught.value).startswith("things.value: ")
    assert entries(agent) == before


def test_a_time_that_utc_has_no_place_for_is_refused(agent: AgentStore) -> None:
    record = record_type(id=str, at=datetime)
    namespace = agent.namespace(things(record))
    first = datetime.min.replace(tzinfo=timezone(timedelta(hours=5)))
    with pytest.raises(CodecError, match=r"things\.at"):
        namespace.put(record("1", first))


def test_changes_of_what_is_not_there_are_refused(agent: AgentStore) -> None:
    record = record_type(id=str, value=(int, 1))
    namespace = agent.namespace(things(record))
    namespace.put(record("1"))
    with pytest.raises(CodecError, match="no such field") as caught:
        namespace.update("1", other=1)
    assert caught.value.field == "other"
    with pytest.raises(CodecError, match="key of a record cannot change"):
        namespace.update("1", id="2")
    assert namespace.update("1", id="1", value=2) == record("1", 2)
    assert namespace.scan() == [record("1", 2)]


def test_a_record_of_another_type_is_refused_a_subclass_too(agent: AgentStore) -> None:
    record = record_type(id=str)

    @dataclass(frozen=True)
    class More(record):  # type: ignore[misc,valid-type]  # made above
        more: str = "would be lost"

    namespace = agent.namespace(things(record))
    for wrong in (More("1"), {"id": "1"}, None, record):
        with pytest.raises(CodecError, match="a record here is a Thing"):
            namespace.put(wrong)
    assert namespace.count() == 0


def test_a_record_that_is_too_large_is_refused_and_the_field_named(agent: AgentStore) -> None:
    record = record_type(id=str, small=str, large=str)
    namespace = agent.namespace(things(record))
    before = entries(agent)
    with patch.object(limits, "MAX_RECORD_BYTES", 500), pytest.raises(LimitError) as caught:
        namespace.put(record("1", "s" * 100, "l" * 400))
    error = caught.value
    assert (error.name, error.limit, error.namespace) == ("MAX_RECORD_BYTES", 500, "things")
    assert (error.field, error.actual) == ("large", 509)
    assert entries(agent) == before


def test_a_value_that_is_deep_for_a_field_comes_back_from_a_record(agent: AgentStore) -> None:
    record = record_type(id=str, value=Any)
    namespace = agent.namespace(things(record))
    value: Any = 1
    written = 0
    for depth in range(1, 1100):
        value = [value]
        if depth < 1015:
            continue
        try:
            namespace.put(record(str(depth), value))
        except CodecError as error:
            assert "nested too deeply" in str(error)  # noqa: PT017  # the first few are kept
            continue
        written += 1
        assert namespace.get(str(depth)) is not None
    assert written > 0
    assert len(namespace.scan()) == len(namespace.query().order_by("id").all()) == written


# -- what may be declared --------------------------------------------------------------------------


@dataclass(frozen=True)
class NeedsMore:
    id: str
    seed: InitVar[int]

    def __post_init__(self, seed: int) -> None: ...


@dataclass
class Shown:
    id: str
    key: str = field(default="", metadata={"secret": True})


class NoDataclass:
    id: str


BAD_TYPES: list[tuple[Any, str]] = [
    (NoDataclass, "a record type is a dataclass"),
    (record_type(id=str, at=complex), r"things\.at: a field cannot be"),
    (record_type(id=str, at=Plain), r"things\.at: a field cannot be"),
    (record_type(id=str, at=str | complex), r"things\.at: a field cannot be"),
    (record_type(id=str, at=type(None)), r"things\.at: a field cannot be"),
    (record_type(id=str, sync=str), "a field cannot be called sync"),
    (record_type(id=str, ttl_seconds=str), "a field cannot be called ttl_seconds"),
    (NeedsMore, "it needs 'seed' too"),
    (Shown, r"things\.key: a secret has repr=False"),
]


@pytest.mark.parametrize(("record", "why"), BAD_TYPES, ids=[why for _, why in BAD_TYPES])
def test_what_is_no_record_type_is_refused_when_it_is_declared(
    agent: AgentStore, record: Any, why: str
) -> None:
    before = entries(agent)
    with pytest.raises(TypeError, match=why):
        agent.namespace(things(record))
    assert entries(agent) == before


Every = record_type(
    "Every",
    id=str,
    at=(datetime, NOW),
    which=(Literal["a", "b"], "a"),
    anything=(Any, None),
    either=(int | str, 1),
    mixed=(Literal["a", 1], 1),
    parts=(list, field(default_factory=list)),
    secret=(str, field(default="", repr=False, metadata={"secret": True})),
)
BAD_DECLARATIONS: list[tuple[dict[str, Any], str]] = [
    ({"key": "missing"}, "there is no field missing"),
    ({"indexes": [("id", "missing")]}, "there is no field missing"),
    ({"key": ()}, "at least one field"),
    ({"indexes": [()]}, "at least one field"),
    ({"key": "secret"}, "secret cannot be in a key"),
    ({"indexes": ["secret"]}, "secret cannot be in a key"),
    ({"key": "anything"}, r"things\.anything: what is in a key"),
    ({"indexes": ["anything"]}, r"things\.anything: what is in a key"),
    ({"indexes": [("id", "either")]}, r"things\.either: what is in a key"),
    ({"indexes": ["mixed"]}, r"things\.mixed: what is in a key"),
    ({"indexes": ["parts"]}, r"things\.parts: what is in a key"),
    ({"version": 3, "migrations": {3: dict}}, "no migration to schema version 2"),
    ({"ttl_seconds": 0}, "ttl_seconds must be above 0"),
    ({"sync": "wal"}, "sync is WriteThrough"),
]


@pytest.mark.parametrize(("options", "why"), BAD_DECLARATIONS, ids=[w for _, w in BAD_DECLARATIONS])
def test_what_cannot_be_served_is_refused_when_it_is_declared(
    agent: AgentStore, options: dict[str, Any], why: str
) -> None:
    before = entries(agent)
    with pytest.raises((TypeError, ValueError), match=why):
        agent.namespace(things(Every, **options))
    assert entries(agent) == before
    assert agent.namespace(things(Every, indexes=["at", "which", ("which", "at")])).count() == 0


@pytest.mark.parametrize("name", ["", "Things", "1a", "a-b", "a\0", "a" * 65, "a\n", "\u00e4"])
def test_names_of_namespaces(agent: AgentStore, name: str) -> None:
    with pytest.raises(TypeError, match="lower-case letters"):
        agent.namespace(Declaration(name, record_type(id=str), key="id"))


# -- secrets ---------------------------------------------------------------------------------------

PASSWORD = "hunter2"


@dataclass(frozen=True, slots=True)
class Account:
    id: str
    name: str = ""
    password: str = field(default="", repr=False, metadata={"secret": True})
    tokens: Any = field(default=None, repr=False, metadata={"secret": True})
    level: Literal["low"] = field(default="low", repr=False, metadata={"secret": True})


class Leaky:
    def __repr__(self) -> str:
        return PASSWORD

    __str__ = __repr__


def failures(namespace: Namespace[Any]) -> list[Callable[[], Any]]:
    """Calls that go wrong on account of a secret."""
    made: list[Callable[[], Any]] = []
    for name, values in {
        "password": [1984, [PASSWORD], PASSWORD.encode(), PASSWORD + "\ud800", Leaky()],
        "tokens": [
            {"k": Leaky()},
            Leaky(),
            datetime(1984, 1, 1),
            {"k": [PASSWORD + "\ud800"]},
            {Leaky(): 1},
        ],
        "level": [PASSWORD, 1984, Leaky()],
    }.items():
        for value in values:
            change = {name: value}
            made += [
                lambda change=change: namespace.put(Account("1", **change)),
                lambda change=change: namespace.update("1", **change),
                lambda change=change: namespace.put_many([Account("2", **change)]),
            ]
    made += [
        lambda: namespace.put(Account("1", password=PASSWORD * 100)),
        lambda: namespace.query(password=[PASSWORD]).all(),
        lambda: namespace.query(level=PASSWORD).all(),
        lambda: namespace.query(level__in=[PASSWORD]).all(),
        lambda: namespace.query(level__in=PASSWORD).all(),
        lambda: namespace.query().order_by("password").all(),
        lambda: namespace.query().order_by("-tokens").limit(1).page(),
        lambda: namespace.add(Account("1", password=PASSWORD)),
        lambda: namespace.update("1", expected_version=5, password=PASSWORD),
        lambda: namespace.update("none", password=PASSWORD),
    ]
    return made


def test_no_error_shows_a_secret(agent: AgentStore) -> None:
    namespace = agent.namespace(Declaration("accounts", Account, key="id", indexes=["name"]))
    namespace.put(Account("1", "ada", PASSWORD, {"k": PASSWORD, 1: NOW}, "low"))
    for call in failures(namespace):
        with (
            patch.object(limits, "MAX_RECORD_BYTES", 300),
            pytest.raises((WalkvError, TypeError)) as caught,
        ):
            call()
        shown = "".join(traceback.format_exception_only(caught.value)) + repr(caught.value)
        # What was caught on the way is not shown either: a traceback prints it, unless suppressed.
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
        assert caught.value.__cause__ is None
        assert PASSWORD not in shown
        assert "1984" not in shown


def test_secrets_are_in_no_listing(agent: AgentStore) -> None:
    namespace = agent.namespace(Declaration("accounts", Account, key="id"))
    account = Account("1", "ada", PASSWORD, {"k": PASSWORD})
    namespace.put(account)
    found = namespace.get("1")
    assert found == account
    assert PASSWORD not in repr(found)
    schema = namespace.table.schema
    assert schema.secrets == ("password", "tokens", "level")
    assert schema.as_dict(account) == {
        "id": "1",
        "name": "ada",
        "password": MASK,
        "tokens": MASK,
        "level": MASK,
    }
    assert schema.as_dict(account, secrets=True)["password"] == PASSWORD
    assert schema.as_dict(Account("2"))["password"] == ""
    page = namespace.query(password=PASSWORD).limit(1).page()
    assert page.items == [account]
    assert PASSWORD not in repr(namespace.query(password=PASSWORD).explain())


# -- records of other code -------------------------------------------------------------------------


def reopened(fs: SimulatedFileSystem, record: Any, **options: Any) -> tuple[AgentStore, Any]:
    agent = opened(fs)
    return agent, agent.namespace(things(record, **options))


First = record_type("First", id=str, a=(int, 1), b=(str, "b"), c=(float, 0.5))
CHANGED = {
    "reordered": record_type(c=float, b=str, a=int, id=str),
    "one more": record_type(
        id=str, a=(int, 1), b=(str, "b"), c=(float, 0.5), d=(list, field(default_factory=list))
    ),
    "one less": record_type(id=str, b=(str, "b"), c=(float, 0.5)),
    "one more, one less": record_type(id=str, c=(float, 0.5), e=(int, 7), b=(str, "b")),
    "all others": record_type(id=str, x=(int, 8), y=(str | None, None)),
}


@pytest.mark.parametrize("change", CHANGED)
@pytest.mark.parametrize("ttl_seconds", [None, 100.0])
@pytest.mark.parametrize("how", ["update", "put", "history"])
def test_records_of_older_code_are_read_and_rewritten(
    change: str, ttl_seconds: float | None, how: str
) -> None:
    fs, second = SimulatedFileSystem(), CHANGED[change]
    agent, namespace = reopened(fs, First, history=2)
    with agent:
        namespace.put(First("1", 2, "two", 2.5), ttl_seconds=ttl_seconds)
        namespace.put(First("2", 3), ttl_seconds=ttl_seconds)
    expected = second(
        **{
            each.name: getattr(First("1", 2, "two", 2.5), each.name)
            for each in dataclasses.fields(second)
            if each.name in First.__slots__
        }
    )
    agent, namespace = reopened(fs, second, history=2)
    with agent:
        assert namespace.get("1") == expected
        assert len(namespace.scan()) == 2
        last = namespace.table.schema.names[-1]
        if how == "update":
            written = namespace.update("1", **{last: getattr(expected, last)})
        else:
            written = expected
            namespace.put(expected, ttl_seconds=ttl_seconds)
        assert namespace.get("1") == written == expected
        if how == "history":
            assert namespace.history("1") == [expected]
        assert namespace.verify() == []
        fs.clock.advance(101)
        assert namespace.count() == (2 if ttl_seconds is None else 0)
        assert namespace.history("1") == ([] if ttl_seconds else [expected])
        assert namespace.verify() == []


def test_fields_of_newer_code_survive_an_update_by_older_code() -> None:
    fs = SimulatedFileSystem()
    newer = record_type(z=list, id=str, a=(int, 1), b=(str, "b"), c=(float, 0.5))
    with reopened(fs, First)[0]:
        pass
    agent, namespace = reopened(fs, newer)
    with agent:
        namespace.put(newer(["kept"], "1", 5))
        namespace.put(newer(["until"], "2", 6), ttl_seconds=100)
    agent, namespace = reopened(fs, First)
    with agent:
        assert namespace.get("1") == First("1", 5)
        namespace.update("1", a=9)
        namespace.put(First("2", 10), ttl_seconds=200)
        namespace.update("2", b="again")
        assert namespace.scan() == [First("1", 9), First("2", 10, "again")]
    agent, namespace = reopened(fs, newer)
    with agent:
        assert namespace.scan() == [newer(["kept"], "1", 9), newer(["until"], "2", 10, "again")]
        fs.clock.advance(150)
        assert namespace.exists("2")


def test_fields_of_newer_code_survive_though_it_has_dropped_some_of_ours() -> None:
    fs = SimulatedFileSystem()
    older = record_type(id=str, ours=(int, 1), both=(int, 2))
    newer = record_type(id=str, both=(int, 2), theirs=(str, "new"))
    with reopened(fs, older)[0]:
        pass
    agent, namespace = reopened(fs, newer)
    with agent:
        namespace.put(newer("1", 20, "kept"))
    for _ in range(2):
        agent, namespace = reopened(fs, older)
        with agent:
            namespace.update("1", ours=30, both=40)
            assert namespace.get("1") == older("1", 30, 40)
            layouts = len(namespace.table.schema._layouts)
        agent, namespace = reopened(fs, newer)
        with agent:
            assert namespace.get("1") == newer("1", 40, "kept")
            assert namespace.update("1", both=41) == newer("1", 41, "kept")
            # Nothing is registered again and again.
            assert len(namespace.table.schema._layouts) == layouts == 3


def test_a_dropped_field_is_forgotten_when_newer_code_writes_the_record() -> None:
    fs = SimulatedFileSystem()
    before = record_type(id=str, gone=(str, "default"), stays=(int, 1))
    after = record_type(id=str, stays=(int, 1))
    agent, namespace = reopened(fs, before)
    with agent:
        namespace.put_many([before("1", "old", 2), before("2", "old", 2)])
    agent, namespace = reopened(fs, after)
    with agent:
        namespace.update("1", stays=3)
    agent, namespace = reopened(fs, before)
    with agent:
        assert namespace.scan() == [before("1", "default", 3), before("2", "old", 2)]


def test_a_new_field_without_a_default_is_an_error_that_says_so() -> None:
    fs = SimulatedFileSystem()
    agent, namespace = reopened(fs, First)
    with agent:
        namespace.put(First("1"))
    agent, namespace = reopened(fs, record_type(id=str, must=int))
    with agent, pytest.raises(CodecError, match=r"things\.must: .* no default"):
        namespace.get("1")


def test_a_default_that_is_made_anew_each_time_is_settled_by_an_index() -> None:
    # Else the index would have one value and the record another one each time that it is read.
    fs, made = SimulatedFileSystem(), iter(range(1000))
    later = record_type(id=str, number=(int, field(default_factory=lambda: next(made))))
    agent, namespace = reopened(fs, record_type(id=str))
    with agent:
        namespace.put(namespace.table.schema.record_type("1"))
        namespace.put(namespace.table.schema.record_type("2"), ttl_seconds=10)
    agent, namespace = reopened(fs, later, indexes=["number", ("id", "number")])
    with agent:
        assert namespace.verify() == []
        first = namespace.get("1")
        assert namespace.get("1") == first
        assert namespace.query(number=first.number).all() == [first]
        namespace.update("1", number=5000)
        assert namespace.query(number=first.number).all() == []
        assert namespace.verify() == []
        fs.clock.advance(11)
        assert namespace.count(number__gte=0) == namespace.count() == 1
        assert namespace.verify() == []


# -- migrations ------------------------------------------------------------------------------------

V1 = record_type("V1", id=str, author=str, count=str)
V2 = record_type("V2", id=str, writer=str, count=int)
V3 = record_type("V3", id=str, writer=str, count=float, tags=(list, field(default_factory=list)))


def to_2(fields: dict[str, Any]) -> dict[str, Any]:
    return {"id": fields["id"], "writer": fields["author"], "count": int(fields["count"])}


def to_3(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "count": fields["count"] / 2, "left_over": 1}


CODE: dict[int, tuple[Any, dict[str, Any]]] = {
    1: (V1, {"indexes": ["author", "count"]}),
    2: (V2, {"indexes": ["writer", "count"], "version": 2, "migrations": {2: to_2}}),
    3: (V3, {"indexes": ["writer", "count"], "version": 3, "migrations": {2: to_2, 3: to_3}}),
}


@pytest.mark.parametrize("steps", [(1, 3), (1, 2, 3), (1, 2, 2, 3, 3)])
def test_renamed_and_retyped_fields(steps: tuple[int, ...]) -> None:
    fs = SimulatedFileSystem()
    agent, namespace = reopened(fs, V1, history=1, **CODE[1][1])
    with agent:
        namespace.put_many([V1("1", "ada", "8"), V1("2", "bob", "10"), V1("3", "ada", "12")])
        namespace.put(V1("2", "bob", "14"), ttl_seconds=50)
        namespace.update("3", count="6")
    for step in steps[1:-1]:
        agent, namespace = reopened(fs, CODE[step][0], history=1, **CODE[step][1])
        with agent:
            found = namespace.query(count={2: 8, 3: 4.0}[step]).all()
            assert [(each.id, each.writer) for each in found] == [("1", "ada")]
            assert namespace.verify() == []
    agent, namespace = reopened(fs, V3, history=1, **CODE[3][1])
    with agent:
        everything = [V3("1", "ada", 4.0), V3("2", "bob", 7.0), V3("3", "ada", 3.0)]
        assert namespace.scan() == everything
        assert namespace.query(writer="ada").order_by("count").all() == [
            everything[2],
            everything[0],
        ]
        assert namespace.query(count__gte=4.0).order_by("-count").all() == [
            everything[1],
            everything[0],
        ]
        assert namespace.verify() == []
        assert namespace.history("3") == [V3("3", "ada", 6.0)]
        namespace.update("1", tags=["new"])
        namespace.delete("3")
        assert namespace.verify() == []
        fs.clock.advance(51)
        assert namespace.query(count__gt=0.0).all() == [V3("1", "ada", 4.0, ["new"])]
        assert namespace.verify() == []


def test_what_a_migration_makes_is_checked() -> None:
    fs = SimulatedFileSystem()
    agent, namespace = reopened(fs, V1)
    with agent:
        namespace.put(V1("1", "ada", "eight"))
    wrong = {2: lambda fields: {"id": fields["id"], "writer": fields["author"], "count": "8"}}
    agent, namespace = reopened(fs, V2, version=2, migrations=wrong)
    with agent, pytest.raises(CodecError, match=r"things\.count: .*int.* str"):
        namespace.get("1")


def test_a_migration_of_the_key_is_refused() -> None:
    fs = SimulatedFileSystem()
    agent, namespace = reopened(fs, V1)
    with agent:
        namespace.put(V1("1", "ada", "8"))
    wrong = {2: lambda fields: {**to_2(fields), "id": "other"}}
    with opened(fs) as agent:
        before = entries(agent)
        with pytest.raises(CodecError, match="a migration cannot change the key"):
            agent.namespace(things(V2, version=2, migrations=wrong, indexes=["writer"]))
        assert entries(agent) == before


def test_code_of_an_older_schema_version_cannot_write_and_reads_what_is_its_own() -> None:
    fs = SimulatedFileSystem()
    agent, namespace = reopened(fs, V1, **CODE[1][1])
    with agent:
        namespace.put_many([V1("1", "ada", "8"), V1("2", "bob", "9")])
    agent, namespace = reopened(fs, V2, **CODE[2][1])
    with agent:
        namespace.update("2", count=10)
    with opened(fs) as agent, pytest.raises(FormatError) as caught:
        agent.namespace(things(V1, **CODE[1][1]))
    assert (caught.value.found_version, caught.value.supported) == (2, (1,))
    with opened(fs, read_only=True) as agent:
        namespace = agent.namespace(things(V1, **CODE[1][1]))
        assert namespace.get("1") == V1("1", "ada", "8")
        for read in (lambda: namespace.get("2"), namespace.scan, lambda: namespace.query().all()):
            with pytest.raises(CodecError, match="schema version 2 was written by newer code"):
                read()


# -- how records are built -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fast:
    id: str
    number: int = 0
    parts: list[Any] = field(default_factory=list)
    shared: ClassVar[str] = "of the class"

    @property
    def double(self) -> int:
        return 2 * self.number


@dataclass(frozen=True, slots=True)
class Checked:
    id: str
    number: int = 0

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError("a number is never below 0")
        object.__setattr__(self, "number", self.number + 100 if self.number < 100 else self.number)


@dataclass
class Mutable:
    id: str
    number: int = 0


@dataclass(frozen=True, slots=True)
class Child(Fast):
    more: str = "m"


@dataclass(frozen=True, kw_only=True)
class Keyword:
    id: str
    number: int = 0


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Weak:
    id: str
    number: int = 0


@dataclass(frozen=True, slots=True)
class Typed(Generic[T]):
    id: str
    number: int = 0


@dataclass(frozen=True, slots=True)
class Computed:
    id: str
    number: int = 0
    twice: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "twice", 2 * self.number)


@dataclass(frozen=True, slots=True)
class Alone:
    id: str


@dataclass(frozen=True, slots=True)
class Clashing:
    """Names that the builder uses itself."""

    id: str
    made: int = 1
    values: int = 2
    record: int = 3
    new: int = 4
    twin: int = 5
    _: int = 6


TYPES = [Fast, Checked, Mutable, Child, Keyword, Weak, Typed, Computed, Alone, Clashing]


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_what_is_read_is_what_the_constructor_makes(agent: AgentStore, kind: Any) -> None:
    namespace = agent.namespace(Declaration("built", kind, key="id"))
    names = {each.name for each in dataclasses.fields(kind) if each.init}
    record = kind(**{"id": "1", **({"number": 7} if "number" in names else {})})
    namespace.put(record)
    for found in (namespace.get("1"), namespace.scan()[0], namespace.query().all()[0]):
        assert type(found) is kind
        assert found == record
        assert repr(found) == repr(record)
    if "number" in names:
        assert namespace.update("1", number=8) == kind(id="1", number=8)
        assert namespace.get("1") == kind(id="1", number=8)


@given(st.text(), st.integers(), st.lists(st.integers(), max_size=3))
@settings(max_examples=50, deadline=None, database=None)
def test_the_fast_way_equals_the_constructor(name: str, number: int, parts: list[int]) -> None:
    record = Fast(name, number, parts)
    schema = Schema("things", Fast)
    schema.use_layouts([schema.layout])
    (found,) = schema.build_all([codec.decode(schema.encode(schema.values(record)))])
    assert found == record
    assert (type(found), found.double, found.shared) == (Fast, 2 * number, "of the class")
    assert dataclasses.replace(found, number=1) == Fast(name, 1, parts)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.number = 1  # type: ignore[misc]  # what is tested
    with pytest.raises((AttributeError, TypeError)):
        found.other = 1  # type: ignore[attr-defined]  # likewise
    assert isinstance(hash(dataclasses.replace(found, parts=())), int)


def test_what_a_record_type_raises_comes_out_as_it_is(agent: AgentStore) -> None:
    """A record that was fine when it was written, and is not to the class of today."""
    loose = record_type("Checked", id=str, number=(int, 0))
    fs = SimulatedFileSystem()
    with opened(fs) as first:
        first.namespace(things(loose)).put_many([loose("1", -5), loose("2", 5)])
    with opened(fs) as second:
        namespace = second.namespace(things(Checked))
        assert namespace.get("2") == Checked("2", 5)
        with pytest.raises(ValueError, match="never below 0"):
            namespace.get("1")
        assert namespace.delete("1")
        assert namespace.verify() == []


# -- bytes that are no records ---------------------------------------------------------------------

GARBAGE = [
    b"",
    b"\xc1",
    codec.encode(5),
    codec.encode(None),
    codec.encode("text"),
    codec.encode({0: "1"}),
    codec.encode([]),
    codec.encode(["0", "1", 1]),
    codec.encode([99, "1", 1]),
    codec.encode([-99, 0, "1", 1]),
    codec.encode([0, "1"]),
    codec.encode([0, "1", 1, 1, 1]),
    codec.encode([None, "1", 1]),
    codec.encode([[], "1", 1]),
    codec.encode([0, "1", 1]) + b"\x00",
]


@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
def test_bytes_that_are_no_record_are_refused(agent: AgentStore, data: bytes) -> None:
    record = record_type(id=str, number=(int, 0))
    namespace = agent.namespace(things(record))
    namespace.put(record("0"))
    agent.store.put(namespace.table.records + namespace.table.packed_key("1"), data)
    for use in (
        lambda: namespace.get("1"),
        lambda: namespace.get_many(["0", "1"]),
        namespace.scan,
        lambda: namespace.query().all(),
        lambda: namespace.query(number__gte=0).count(),
        lambda: namespace.update("1", number=1),
        lambda: namespace.put(record("1")),
        lambda: namespace.delete("1"),
    ):
        with pytest.raises(CodecError):
            use()
    assert len(namespace.verify()) == 1
    assert namespace.get("0") == record("0")


def test_a_record_that_expires_is_no_record_of_an_unknown_layout() -> None:
    """The mark of what expires, -1, is the number of no layout."""
    fs = SimulatedFileSystem()
    two, three = record_type(id=str, a=int), record_type(id=str, a=int, b=(int, 7))
    agent, namespace = reopened(fs, two)
    with agent:
        namespace.put(two("1", 5), ttl_seconds=100)
    with opened(fs, read_only=True) as reader:
        assert reader.namespace(things(three)).get("1") == three("1", 5, 7)


def test_layouts_are_told_apart_by_version_and_order() -> None:
    schema = Schema("things", First)
    assert schema.layout == Layout(1, ("id", "a", "b", "c"))
    assert schema.with_needed([]) == [schema.layout]
    other = Layout(1, ("c", "b", "a", "id"))
    assert schema.with_needed([other]) == [other, schema.layout]
    # The same fields in another order are no newer ones.
    assert schema.with_needed([schema.layout, other]) == [schema.layout, other]
    newer = Layout(1, ("new", "id", "a"))
    union = Layout(1, ("id", "a", "b", "c", "new"))
    assert schema.with_needed([schema.layout, newer]) == [schema.layout, newer, union]
    assert schema.with_needed([schema.layout, newer, union]) == [schema.layout, newer, union]
