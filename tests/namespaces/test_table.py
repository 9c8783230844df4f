"""Entries of a namespace: indexes agree with records, whatever is done, and after every crash."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import walkv
from walkv import (
    AgentStore,
    CodecError,
    Declaration,
    LimitError,
    RecordExistsError,
    RecordNotFoundError,
    Wal,
    WriteBack,
    limits,
)
from walkv.engine.store.exclusive import Exclusive
from walkv.namespaces import codec, keys, registry
from walkv.namespaces.base import Namespace
from walkv.testing import SimulatedFileSystem

START = datetime(2024, 1, 1, tzinfo=UTC)
INDEXES = ["author", ("author", "score"), "at", ("flag", "at", "score")]


@dataclass(frozen=True, slots=True)
class Note:
    space: str
    number: int
    author: str | None = None
    score: int = 0
    at: datetime | None = None
    flag: bool = False
    text: str = ""


def notes(**options: Any) -> Declaration[Note]:
    return Declaration("notes", Note, **{"key": ("space", "number"), "indexes": INDEXES, **options})


@pytest.fixture
def fs() -> SimulatedFileSystem:
    return SimulatedFileSystem()


def opened(fs: SimulatedFileSystem, **options: Any) -> AgentStore:
    return AgentStore("/s", filesystem=fs, **options)


@pytest.fixture
def agent(fs: SimulatedFileSystem) -> Iterator[AgentStore]:
    with opened(fs) as made:
        yield made


# -- a model of a namespace ------------------------------------------------------------------------


class Kept(NamedTuple):
    record: Note
    expiry: float | None
    history: list[tuple[Note, float | None]]


class Model:
    """What a namespace is to hold: a dict, with a clock."""

    def __init__(self, ttl_seconds: float | None, history: int) -> None:
        self.kept: dict[tuple[str, int], Kept] = {}
        self.ttl_seconds = ttl_seconds
        self.history = history
        self.now = 0.0

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.kept = {k: v for k, v in self.kept.items() if v.expiry is None or v.expiry > self.now}

    def put(self, note: Note, ttl_seconds: float | None, *, keep: bool = False) -> None:
        key = (note.space, note.number)
        old = self.kept.get(key)
        lifetime = self.ttl_seconds if ttl_seconds is None else ttl_seconds
        expiry = None if lifetime is None else self.now + lifetime
        if keep and expiry is None and old:
            expiry = old.expiry
        past = [(old.record, expiry), *old.history][: self.history] if old else []
        self.kept[key] = Kept(note, expiry, past)

    def past(self, key: tuple[str, int]) -> list[Note]:
        if key not in self.kept:
            return []
        found = self.kept[key].history
        return [note for note, expiry in found if expiry is None or expiry > self.now]

    def records(self) -> list[Note]:
        return [self.kept[key].record for key in sorted(self.kept)]


# Few keys, so that what is done meets what was done before.
spaces = st.sampled_from(["a", "a", "a\0", "b"])
numbers = st.integers(0, 1)
authors = st.sampled_from([None, "", "ada", "ada\0"])
some_notes = st.builds(
    Note,
    spaces,
    numbers,
    authors,
    st.integers(0, 1),
    st.none() | st.integers(0, 1).map(lambda days: START + timedelta(days=days)),
    st.booleans(),
)
ttls = st.sampled_from([None, None, None, 1.0, 5.0])
changes = st.fixed_dictionaries(
    {},
    optional={
        "author": authors,
        "score": st.integers(0, 1),
        "flag": st.booleans(),
        "at": st.none() | st.just(START),
        "text": st.just("new"),
    },
)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("put"), some_notes, ttls),
        st.tuples(st.just("add"), some_notes, ttls),
        st.tuples(st.just("update"), spaces, numbers, changes),
        st.tuples(st.just("delete"), spaces, numbers),
        st.tuples(st.just("put_many"), st.lists(some_notes, max_size=4), ttls),
        st.tuples(st.just("query.delete"), authors, st.none() | st.integers(0, 3)),
        st.tuples(st.just("wait"), st.sampled_from([0.5, 1.0, 4.0])),
        st.tuples(st.just("batch")),
        st.tuples(st.just("reopen"), st.sampled_from(["", "without an index", "compact"])),
    ),
    max_size=14,
)


class World:
    """A namespace and its model, side by side."""

    def __init__(self, ttl_seconds: float | None, history: int) -> None:
        self.fs = SimulatedFileSystem()
        self.declared = notes(ttl_seconds=ttl_seconds, history=history)
        self.model = Model(ttl_seconds, history)
        self.open()

    def open(self) -> None:
        self.agent = opened(self.fs)
        self.notes = self.agent.namespace(self.declared)

    def do(self, operation: tuple[Any, ...]) -> None:
        name, *rest = operation
        getattr(self, "do_" + name.replace(".", "_"))(*rest)

    def do_put(self, note: Note, ttl_seconds: float | None) -> None:
        self.notes.put(note, ttl_seconds=ttl_seconds)
        self.model.put(note, ttl_seconds)

    def do_add(self, note: Note, ttl_seconds: float | None) -> None:
        if (note.space, note.number) in self.model.kept:
            with pytest.raises(RecordExistsError):
                self.notes.add(note, ttl_seconds=ttl_seconds)
        else:
            assert self.notes.add(note, ttl_seconds=ttl_seconds) == note
            self.model.put(note, ttl_seconds)

    def do_update(self, space: str, number: int, change: dict[str, Any]) -> None:
        key = (space, number)
        if key not in self.model.kept:
            with pytest.raises(RecordNotFoundError):
                self.notes.update(key, **change)
            return
        before = self.model.kept[key].record
        fields = {name: getattr(before, name) for name in Note.__slots__}
        expected = Note(**{**fields, **change})
        assert self.notes.update(key, **change) == expected
        if change:
            self.model.put(expected, None, keep=True)

    def do_delete(self, space: str, number: int) -> None:
        there = self.model.kept.pop((space, number), None) is not None
        assert self.notes.delete((space, number)) == there

    def do_put_many(self, many: list[Note], ttl_seconds: float | None) -> None:
        self.notes.put_many(many, ttl_seconds=ttl_seconds)
        for note in many:
            self.model.put(note, ttl_seconds)

    def do_query_delete(self, author: str | None, limit: int | None) -> None:
        query = self.notes.query(author=author).order_by("space", "number").limit(limit)
        matching = [note for note in self.model.records() if note.author == author][:limit]
        assert query.delete() == len(matching)
        for note in matching:
            del self.model.kept[note.space, note.number]

    def do_wait(self, seconds: float) -> None:
        self.fs.clock.advance(seconds)
        self.model.advance(seconds)

    def do_batch(self) -> None:
        with self.agent.batch():
            for note in (Note("a", 0, "ada"), Note("a", 0, None, 1), Note("b", 0, "bob")):
                self.do_put(note, None)
            self.do_update("b", 0, {"author": "ada"})
            self.do_delete("a", 0)
            self.do_put(Note("a", 0, "bob", 2), 5.0)
            self.compare()

    def do_reopen(self, how: str) -> None:
        if how == "compact":
            self.agent.store.compact()
        self.agent.close()
        if how == "without an index":
            with opened(self.fs) as other:
                fewer = notes(history=self.declared.history, indexes=INDEXES[1:2])
                assert other.namespace(fewer).verify() == []
        self.open()

    def compare(self) -> None:
        model, found = self.model, self.notes
        assert found.scan() == model.records()
        assert found.count() == len(model.kept)
        for author in ("ada", "", None):
            expected = [note for note in model.records() if note.author == author]
            assert found.count(author=author) == len(expected)
        for key in [("a", 0), ("a\0", 0), ("b", 0)]:
            assert found.history(key) == model.past(key)


@given(operations, st.sampled_from([None, 3.0]), st.sampled_from([0, 2]))
@settings(max_examples=60, deadline=None, database=None)
def test_indexes_agree_with_records_whatever_is_done(
    steps: list[tuple[Any, ...]], ttl_seconds: float | None, history: int
) -> None:
    world = World(ttl_seconds, history)
    for step in steps:
        world.do(step)
        assert world.notes.verify() == []
        world.compare()
    # When everything has gone nothing is left, of indexes and old versions either.
    for note in world.model.records():
        world.notes.delete((note.space, note.number))
    world.do_wait(10.0)
    left = list(world.agent.store.scan(world.notes.table.base, keys_only=True))
    assert left == []


# -- expiry ----------------------------------------------------------------------------------------


def test_a_record_and_its_index_entries_expire_in_the_same_millisecond(
    fs: SimulatedFileSystem, agent: AgentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = agent.namespace(notes(history=1))
    # A clock that moves between any two looks at it.
    monkeypatch.setattr(
        fs, "wall_time_ns", lambda: (fs.clock.advance(0.0007), fs.clock.wall_ns)[1], raising=True
    )
    namespace.put(Note("a", 1, "ada"), ttl_seconds=2.0)
    namespace.update(("a", 1), score=1)
    with agent.batch():
        namespace.put(Note("a", 2, "ada"), ttl_seconds=2.0)
        namespace.update(("a", 2), score=1)
    monkeypatch.undo()
    for _ in range(3000):
        fs.clock.advance(0.001)
        there = sum(namespace.exists(("a", number)) for number in (1, 2))
        assert namespace.count(author="ada") == there
        assert len(namespace.history(("a", 1))) == namespace.exists(("a", 1))
        if not there:
            break
    assert not there


@pytest.mark.parametrize(("before", "after"), [(5.0, None), (None, 5.0), (5.0, 50.0), (50.0, 5.0)])
def test_index_entries_take_on_the_new_expiry_of_a_record(
    fs: SimulatedFileSystem, agent: AgentStore, before: float | None, after: float | None
) -> None:
    namespace = agent.namespace(notes())
    note = Note("a", 1, "ada")
    namespace.put(note, ttl_seconds=before)
    namespace.put(note, ttl_seconds=after)
    fs.clock.advance(6)
    assert namespace.query(author="ada").all() == namespace.scan() == ([] if after == 5 else [note])
    assert namespace.verify() == []


def test_verify_is_not_misled_by_what_expires_meanwhile(
    fs: SimulatedFileSystem, agent: AgentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = agent.namespace(notes())
    for number in range(50):
        namespace.put(Note("a", number, "ada"), ttl_seconds=1 + number / 100)
    fs.clock.advance(1.0)
    monkeypatch.setattr(
        fs, "wall_time_ns", lambda: (fs.clock.advance(0.003), fs.clock.wall_ns)[1], raising=True
    )
    for _ in range(100):
        assert namespace.verify() == []
    assert namespace.count() == 0


def test_an_index_that_is_built_expires_with_its_records(fs: SimulatedFileSystem) -> None:
    with opened(fs) as agent:
        namespace = agent.namespace(notes(indexes=[]))
        namespace.put(Note("a", 1, "ada"), ttl_seconds=10)
        namespace.put(Note("a", 2, "ada"))
    fs.clock.advance(6)
    with opened(fs) as agent:
        namespace = agent.namespace(notes())
        assert namespace.count(author="ada") == 2
        fs.clock.advance(5)
        assert namespace.count(author="ada") == 1
        assert namespace.verify() == []


# -- what verify sees ------------------------------------------------------------------------------


def planted(agent: AgentStore, namespace: Namespace[Note]) -> dict[str, Callable[[], Any]]:
    """Damage, by what it is."""
    store, table = agent.store, namespace.table
    record = table.records + table.packed_key(("a", 1))
    (entry, *_), (other, *_) = (
        [key for key, _ in store.scan(index.prefix)] for index in table.indexes[:2]
    )
    good = store[record]
    elsewhere = table.records + table.packed_key(("z", 9))
    return {
        "an index entry is gone": lambda: store.delete(entry),
        "the record is gone": lambda: store.delete(record),
        "an index entry of no record": lambda: store.put(entry[:-1] + b"\x07", b"\0\x05"),
        "an index entry of another length": lambda: store.put(other, b"\0\x03"),
        "an index entry without a length": lambda: store.put(other, b""),
        "an entry of an index that is not there": lambda: store.put(
            table.base + b"i\xffx", b"\0\1"
        ),
        "a record under another key": lambda: store.put(elsewhere, good),
        "bytes that are no record": lambda: store.put(record, b"\xc1"),
        "a record of an unknown layout": lambda: store.put(record, codec.encode([77, "a", 1])),
        "another author in the record": lambda: store.put(record, good.replace(b"ada", b"bob")),
        "a time without a zone in the record": lambda: store.put(
            record, codec.encode([0, "a", 1, "ada", 0, "no time", False, ""])[:-1] + b"\xc1"
        ),
        "a list in an index": lambda: store.put(
            record, codec.encode([0, "a", 1, ["ada"], 0, START, False, ""])
        ),
    }


@pytest.mark.parametrize("number", range(12))
def test_verify_notices_planted_damage(agent: AgentStore, number: int) -> None:
    namespace = agent.namespace(notes())
    namespace.put_many([Note("a", 1, "ada", 5, START), Note("a", 2), Note("b", 1, "ada")])
    assert namespace.verify() == agent.verify() == []
    what, damage = list(planted(agent, namespace).items())[number]
    damage()
    found = namespace.verify()
    assert found, what
    assert all(line.startswith("notes: ") for line in found)
    assert agent.verify() == found
    assert any(
        line.endswith(("has no record", "is missing")) or "record under" in line for line in found
    )


def test_there_is_a_case_for_every_damage(agent: AgentStore) -> None:
    namespace = agent.namespace(notes())
    namespace.put(Note("a", 1, "ada", 5, START))
    assert len(planted(agent, namespace)) == 12


# -- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["space", "author"])
def test_a_field_that_is_too_long_for_a_key_is_refused(agent: AgentStore, field: str) -> None:
    namespace = agent.namespace(notes())
    before = dict(agent.store.scan())
    # Two bytes are the code and the end; a zero byte takes two.
    most = limits.MAX_KEY_FIELD_BYTES - 2
    for text in ("x" * (most + 1), "\0" * (most // 2 + 1), "\u00e9" * (most // 2 + 1)):
        note = Note(**{"space": "a", "number": 1, field: text})
        for write in (
            lambda note=note: namespace.put(note),
            lambda note=note: namespace.put_many([Note("b", 1, "b"), note]),
        ):
            with pytest.raises(LimitError) as caught:
                write()
            assert caught.value.name == "MAX_KEY_FIELD_BYTES"
            assert (caught.value.namespace, caught.value.field) == ("notes", field)
            assert caught.value.actual > caught.value.limit == limits.MAX_KEY_FIELD_BYTES
    assert dict(agent.store.scan()) == before
    longest = Note(**{"space": "a", "number": 1, field: "x" * most})
    namespace.put(longest)
    assert namespace.query(**{field: "x" * most}).all() == [longest]
    assert namespace.verify() == []


def test_an_integer_that_is_too_large_for_an_index_is_refused(agent: AgentStore) -> None:
    namespace = agent.namespace(notes())
    namespace.put(Note("a", 1, "ada"))
    for number in (2**64, -(2**64)):
        with pytest.raises(CodecError, match=r"notes\.score: an integer in a key has at most 64"):
            namespace.update(("a", 1), score=number)
    assert namespace.update(("a", 1), score=2**64 - 1).score == 2**64 - 1
    assert namespace.verify() == []


# -- the registry ----------------------------------------------------------------------------------


def filled(fs: SimulatedFileSystem, count: int = 20, **options: Any) -> None:
    with opened(fs) as agent:
        namespace = agent.namespace(notes(**options))
        many = [
            Note("a", n, (None, "ada", "bob")[n % 3], n % 5, flag=n % 2 == 0) for n in range(count)
        ]
        namespace.put_many(many)


def index_entries(agent: AgentStore, namespace: Namespace[Any]) -> int:
    return sum(1 for _ in agent.store.scan(namespace.table.base + b"i", keys_only=True))


def test_an_index_that_is_added_is_built_and_one_that_is_left_out_is_removed(
    fs: SimulatedFileSystem,
) -> None:
    filled(fs, indexes=["author"])
    numbers = []
    for indexes in (["author", ("flag", "score")], ["author"], [("flag", "score"), "author"], []):
        with opened(fs) as agent:
            namespace = agent.namespace(notes(indexes=indexes))
            assert namespace.verify() == []
            found = {index.name for index in namespace.table.indexes}
            assert found == {",".join([each] if type(each) is str else each) for each in indexes}
            assert namespace.count(author="ada") == 7
            expected = sorted(n for n in range(20) if n % 2 == 0 and n % 5 == 4)
            query = namespace.query(flag=True, score=4)
            assert sorted(note.number for note in query.all()) == expected
            assert query.explain().index == ("flag,score" if ("flag", "score") in indexes else "")
            assert index_entries(agent, namespace) == sum(
                {"author": 13}.get(name, 20) for name in found
            )
            numbers.append(registry.read(agent.store)["notes"].indexes.get("flag,score"))
            # What is written meanwhile keeps to the indexes that there are.
            namespace.update(("a", 4), score=4)
            assert namespace.verify() == []
    # A number is never given out twice.
    assert numbers == [2, None, 3, None]


def test_an_index_is_built_a_few_records_at_a_time(
    fs: SimulatedFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(fs, count=200, indexes=[])
    most = 0
    real = Exclusive.scan

    def scan(self: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        nonlocal most
        for count, entry in enumerate(real(self, *args, **kwargs), 1):
            most = max(most, count)
            yield entry

    monkeypatch.setattr(Exclusive, "scan", scan)
    with opened(fs) as agent:
        namespace = agent.namespace(notes())
        assert 0 < most < 100
        assert namespace.count() == 200
        assert namespace.verify() == []


def test_what_expired_and_was_written_anew_is_not_found_when_the_clock_is_set_back() -> None:
    class Shifted(SimulatedFileSystem):
        shift_ns = 0

        def wall_time_ns(self) -> int:
            return super().wall_time_ns() + self.shift_ns

    fs = Shifted()
    with opened(fs) as agent:
        namespace = agent.namespace(notes())
        namespace.put(Note("a", 1, "ada", 1, START), ttl_seconds=100)
        namespace.put(Note("b", 1, "ada", 2, START))
        fs.shift_ns = 200 * 10**9
        namespace.put(Note("a", 1, "bob", 5))
        fs.shift_ns = 0
        assert namespace.query(author="ada").all() == [Note("b", 1, "ada", 2, START)]
        assert namespace.query(author="ada", score__lt=9).all() == [Note("b", 1, "ada", 2, START)]
        assert namespace.query(at__gte=START).order_by("at").all() == [
            Note("b", 1, "ada", 2, START)
        ]
        assert namespace.query(author="bob").all() == [Note("a", 1, "bob", 5)]


def test_opening_again_with_the_same_code_writes_nothing(fs: SimulatedFileSystem) -> None:
    filled(fs)
    with opened(fs) as agent:
        before = agent.store.stats()
        agent.namespace(notes())
    with opened(fs) as agent:
        agent.namespace(notes(indexes=[*reversed(INDEXES)]))
        assert agent.store.stats().last_sequence == before.last_sequence


def test_a_crash_while_an_index_is_built_leaves_all_of_it_or_nothing() -> None:
    fs = SimulatedFileSystem()
    filled(fs, indexes=["author"])
    left: list[Any] = []

    def look(operation: str, path: str) -> None:
        left.extend(fs.crash_states(Random(len(left))))

    with opened(fs) as agent:
        fs.on_operation = look
        agent.namespace(notes(indexes=["score"]))
        fs.on_operation = None
    seen = set()
    for disk in left:
        with opened(SimulatedFileSystem.after_power_failure(disk), read_only=True) as agent:
            known = registry.read(agent.store)["notes"]
            namespace = agent.namespace(notes(indexes=["author", "score"]))
            assert namespace.verify() == []
            assert namespace.count() == 20
            seen.add(tuple(known.indexes))
    assert seen == {("author",), ("score",)}


def test_a_read_only_store_reads_with_whatever_is_registered(fs: SimulatedFileSystem) -> None:
    filled(fs, indexes=["score"])
    with opened(fs, read_only=True) as agent:
        files = fs.visible()
        namespace = agent.namespace(notes())
        assert namespace.count(author="ada") == 7
        assert namespace.query(author="ada").explain().index == ""
        assert namespace.query(score=1).explain().index == "score"
        assert [note.number for note in namespace.query(score=1).all()] == [1, 6, 11, 16]
        assert namespace.verify() == []
        other = agent.namespace(Declaration("others", Note, key="number", indexes=["author"]))
        assert other.scan() == other.query(author="ada").all() == []
        assert other.get(1) is None
        assert fs.visible() == files


def test_a_follower_does_not_walk_an_index_that_the_writer_has_removed(
    fs: SimulatedFileSystem,
) -> None:
    filled(fs, indexes=["author"])
    with opened(fs, read_only=True) as reader:
        namespace = reader.namespace(notes())
        query = namespace.query(author="ada")
        assert (query.count(), query.explain().index) == (7, "author")
        with opened(fs) as writer:
            writer.namespace(notes(indexes=["score"])).put(Note("b", 1, "ada"))
        reader.store.refresh()
        assert len(query.all()) == query.count() == len(query.limit(100).page().items) == 8
        assert len(list(query)) == 8
        assert query.explain().index == ""
        assert namespace.query(score=1).explain().index == "score"
        with opened(fs) as writer:
            writer.namespace(notes(indexes=["author"])).put(Note("b", 2, "ada"))
        reader.store.refresh()
        assert (query.count(), query.explain().index) == (9, "author")


def test_two_namespaces_do_not_meet(agent: AgentStore) -> None:
    # Names that begin alike, and records of the same keys.
    names = ["notes", "notes_", "notes_2", "n"]
    spaces = [
        agent.namespace(Declaration(name, Note, key="number", indexes=["author"])) for name in names
    ]
    for number, namespace in enumerate(spaces):
        namespace.put_many([Note(str(number), n, "ada") for n in range(number + 1)])
    for number, namespace in enumerate(spaces):
        assert [note.space for note in namespace.query(author="ada").all()] == [str(number)] * (
            number + 1
        )
        assert namespace.verify() == []
    assert spaces[0].query().delete() == 1
    assert [namespace.count() for namespace in spaces] == [0, 2, 3, 4]
    assert agent.verify() == []


def test_there_are_at_most_255_indexes(fs: SimulatedFileSystem) -> None:
    fields = ["author", "score", "at", "flag", "text", "space", "number"]
    pairs = [(a, b) for a in fields for b in fields if a != b]
    triples = [(a, b, c) for a, b in pairs for c in fields if c not in (a, b)]
    every = [*fields, *pairs, *triples][:256]
    with opened(fs) as agent:
        with pytest.raises(TypeError, match="at most 255 indexes"):
            agent.namespace(notes(indexes=every))
        namespace = agent.namespace(notes(indexes=every[:255]))
        namespace.put(Note("a", 1, "ada", 1, START))
        assert index_entries(agent, namespace) == 255
        assert namespace.verify() == []
        assert namespace.table.indexes[-1].prefix[-1] == 255
        last = namespace.table.indexes[-1]
        assert [key for key, _ in agent.store.scan(last.prefix)] != []
    with opened(fs) as agent, pytest.raises(TypeError, match="changed too often"):
        agent.namespace(notes(indexes=every[1:256]))
    with opened(fs) as agent:
        # The last one can be removed, though nothing is above its number.
        namespace = agent.namespace(notes(indexes=every[:254]))
        assert namespace.verify() == []
        assert index_entries(agent, namespace) == 254


def test_a_registry_that_is_none_is_refused(fs: SimulatedFileSystem) -> None:
    filled(fs)
    for data in (
        b"\xc1",
        codec.encode(5),
        codec.encode([1, {"notes": {}}]),
        codec.encode([1, [1]]),
    ):
        with walkv.open("/s", filesystem=fs) as store:
            store.put(registry.KEY, data)
        with pytest.raises(CodecError):
            opened(fs)


def test_keys_of_the_store_that_are_its_users_own_are_left_alone(agent: AgentStore) -> None:
    mine = {b"a": b"1", b"\x01": b"2", b"notes": b"3", b"\xff": b"4"}
    for key, value in mine.items():
        agent.store.put(key, value)
    namespace = agent.namespace(notes())
    namespace.put(Note("a", 1, "ada"))
    namespace.query().delete()
    assert {key: value for key, value in agent.store.scan() if key[:1] != b"\0"} == mine
    assert all(key[:1] == b"\0" for key, _ in agent.store.scan() if key not in mine)


# -- old versions ----------------------------------------------------------------------------------


def test_old_versions_are_bounded_and_go_with_their_record(agent: AgentStore) -> None:
    namespace = agent.namespace(notes(history=3))
    for score in range(6):
        namespace.put(Note("a", 1, score=score))
        namespace.put(Note("a\0", 1, score=10 + score))
    assert [note.score for note in namespace.history(("a", 1))] == [4, 3, 2]
    assert [note.score for note in namespace.history(("a", 1), limit=2)] == [4, 3]
    assert namespace.history(("a", 1), limit=0) == namespace.history(("b", 1)) == []
    assert namespace.delete(("a", 1))
    assert namespace.history(("a", 1)) == []
    assert [note.score for note in namespace.history(("a\0", 1))] == [14, 13, 12]
    namespace.put(Note("a", 1, score=99))
    assert namespace.history(("a", 1)) == []


def test_old_versions_of_keys_that_begin_alike_do_not_mix(agent: AgentStore) -> None:
    # As the last part of a key, a text is followed by what ends the key, and so is its zero byte.
    namespace = agent.namespace(notes(key=("number", "space"), history=2))
    texts = ["", "\0", "\0\0", "a", "a\0", "a\0\0", "a\0b", "a\xff"]
    for score in range(4):
        for text in texts:
            namespace.put(Note(text, 1, text=f"{text} {score}"))
    for text in texts:
        assert [note.text for note in namespace.history((1, text))] == [f"{text} 2", f"{text} 1"]
    for gone, text in enumerate(texts, 1):
        namespace.delete((1, text))
        left = [each for each in texts if namespace.history((1, each))]
        assert left == texts[gone:]
    assert list(agent.store.scan(namespace.table.versions)) == []


def test_with_less_history_than_before_the_oldest_versions_go(fs: SimulatedFileSystem) -> None:
    def scores(namespace: Namespace[Note], space: str) -> list[int]:
        return [note.score for note in namespace.history((space, 1))]

    with opened(fs) as agent:
        namespace = agent.namespace(notes(history=6))
        for score in range(90):
            namespace.put(Note("a", 1, score=score))
            namespace.put(Note("b" if score % 2 else "b\0", 1, score=score))
    with opened(fs) as agent:
        namespace = agent.namespace(notes(history=2))
        assert scores(namespace, "a") == [88, 87]
        assert scores(namespace, "b") == [87, 85]
        assert scores(namespace, "b\0") == [86, 84]
        namespace.put(Note("a", 1, score=90))
        assert scores(namespace, "a") == [89, 88]
    with opened(fs) as agent:
        namespace = agent.namespace(notes(history=6))
        assert scores(namespace, "a") == [89, 88]
    with opened(fs) as agent:
        namespace = agent.namespace(notes())
        assert list(agent.store.scan(namespace.table.versions)) == []
        namespace.put(Note("a", 1, score=91))
        namespace.delete(("b", 1))
    with opened(fs) as agent:
        namespace = agent.namespace(notes(history=2))
        namespace.put(Note("b", 1))
        assert scores(namespace, "a") == scores(namespace, "b") == []
        namespace.put(Note("a", 1, score=92))
        assert scores(namespace, "a") == [91]


@pytest.mark.parametrize("read", ["history", "scan"])
def test_a_limit_is_a_number_of_records(agent: AgentStore, read: str) -> None:
    namespace = agent.namespace(notes(history=3))
    namespace.put(Note("a", 1))
    argument = ("a", 1) if read == "history" else ("a",)
    for limit in (-1, 1.5, "1"):
        with pytest.raises(ValueError, match="limit is a number"):
            getattr(namespace, read)(argument, limit=limit)
        with agent.batch(), pytest.raises(ValueError, match="limit is a number"):
            getattr(namespace, read)(argument, limit=limit)


@pytest.mark.parametrize("fewer", [0, 1, 2])
def test_with_fewer_old_versions_the_oldest_go(fs: SimulatedFileSystem, fewer: int) -> None:
    texts = ["a", "a\0", "b"]
    with opened(fs) as agent:
        namespace = agent.namespace(notes(key="space", history=5))
        for score in range(8):
            namespace.put_many([Note(text, 1, score=score) for text in texts])
        namespace.put(Note("single", 1))
    with opened(fs) as agent:
        namespace = agent.namespace(notes(key="space", history=fewer))
        for text in texts:
            assert [note.score for note in namespace.history(text)] == [6, 5, 4, 3, 2][:fewer]
        assert namespace.history("single") == []
        left = sum(1 for _ in agent.store.scan(namespace.table.versions))
        assert left == 3 * fewer
        namespace.put(Note("a", 1, score=8))
        assert [note.score for note in namespace.history("a")] == [7, 6, 5][:fewer]
    with opened(fs) as agent:
        namespace = agent.namespace(notes(key="space", history=5))
        assert [note.score for note in namespace.history("a")] == [7, 6, 5][:fewer]
        assert namespace.verify() == []


def test_old_versions_of_a_record_that_expired_are_gone_too(fs: SimulatedFileSystem) -> None:
    with opened(fs) as agent:
        namespace = agent.namespace(notes(history=5, ttl_seconds=10))
        for score in range(4):
            namespace.put(Note("a", 1, score=score, text="private"))
        assert len(namespace.history(("a", 1))) == 3
        fs.clock.advance(11)
        assert namespace.get(("a", 1)) is None
        assert namespace.history(("a", 1)) == []
        assert list(agent.store.scan(namespace.table.base)) == []
        agent.store.compact()
        agent.store.sync()
    assert not any(b"private" in data for data in fs.visible().files.values())


# -- crashes ---------------------------------------------------------------------------------------


def crash_script(agent: AgentStore, namespace: Namespace[Note]) -> Iterator[None]:
    """Writes of every kind; a step a commit."""
    namespace.put(Note("a", 1, "ada", 1, START))
    yield
    namespace.put_many([Note("b", n, "bob", n) for n in range(3)])
    yield
    namespace.update(("a", 1), author="bob", score=5)
    yield
    namespace.put(Note("a", 2, "ada"), ttl_seconds=1000)
    yield
    with agent.batch():
        namespace.delete(("b", 0))
        namespace.update(("a", 2), score=9)
        agent.sessions.create("s1", user_id="ada")
        agent.messages.append("s1", role="user", content="hello")
    yield
    namespace.query(author="bob").delete()
    yield
    agent.sessions.delete("s1")
    yield
    namespace.update(("a", 2), author=None, text="x" * 3000)
    yield


def state_of(agent: AgentStore, namespace: Namespace[Note]) -> Any:
    sessions = [session.session_id for session in agent.sessions.query()]
    messages = [message.content for message in agent.messages.scan()]
    past = [namespace.history(("a", number)) for number in (1, 2)]
    return (namespace.scan(), past, sessions, messages)


@pytest.mark.parametrize("policy", [Wal(), WriteBack()], ids=["Wal", "WriteBack"])
def test_after_a_power_failure_at_any_point_every_namespace_is_whole(
    policy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A memtable of a few entries, so that files of every kind are written on the way.
    monkeypatch.setattr(limits, "MIN_MEMTABLE_BYTES", 1)
    options = {"memtable_bytes": 12_000, "cache_bytes": 100_000, "sync": policy}
    policies = dict.fromkeys(("sessions", "messages"), policy)
    fs = SimulatedFileSystem()
    disks: dict[bytes, tuple[Any, int]] = {}
    done = 0
    chooser = Random(1)

    def look(operation: str, path: str) -> None:
        for disk in fs.crash_states(chooser):
            disks.setdefault(disk.digest(), (disk, done))

    agent = opened(fs, policies=policies, **options)
    namespace = agent.namespace(notes(history=2), sync=policy)
    states = [state_of(agent, namespace)]
    agent.sync()
    fs.on_operation = look
    for _ in crash_script(agent, namespace):
        look("", "")
        done += 1
        states.append(state_of(agent, namespace))
    fs.on_operation = None
    assert len(disks) > 60
    met = set()
    sample = Random(2).sample(sorted(disks), min(len(disks), 150))
    for digest in sample:
        disk, acknowledged = disks[digest]
        after = SimulatedFileSystem.after_power_failure(disk)
        with opened(after, **options) as again:
            found = again.namespace(notes(history=2), sync=policy)
            assert again.verify() == []
            state = state_of(again, found)
        assert state in states
        number = states.index(state)
        met.add(number)
        if isinstance(policy, Wal):
            assert acknowledged <= number <= acknowledged + 1
    assert len(met) >= 6


def test_keys_of_records_unpack_to_their_fields(agent: AgentStore) -> None:
    namespace = agent.namespace(notes())
    namespace.put(Note("a\0b", -7))
    (key,) = agent.store.scan(namespace.table.records, keys_only=True)
    assert keys.unpack(key[len(namespace.table.records) :]) == ("a\0b", -7)
