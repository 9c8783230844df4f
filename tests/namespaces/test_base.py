"""What every namespace does: writes that are checked, versions, expiry, policies, and threads."""

from __future__ import annotations

import errno
import math
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import walkv
from tests.unit.hooked import HookedFileSystem, fail
from walkv import (
    AgentStore,
    ClosedError,
    CodecError,
    ConflictError,
    Declaration,
    ReadOnlyError,
    RecordExistsError,
    RecordNotFoundError,
    StoreFailedError,
    Wal,
    WriteBack,
    WriteThrough,
    limits,
)
from walkv.namespaces import access
from walkv.namespaces.base import Namespace
from walkv.namespaces.common import new_id
from walkv.testing import ManualClock, SimulatedFileSystem

THREADS = 32


@dataclass(frozen=True, slots=True)
class Card:
    deck: str
    number: int
    text: str = ""
    count: int = 0
    parts: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Measured:
    number: int
    value: float


def cards(**options: Any) -> Declaration[Card]:
    return Declaration(
        "cards", Card, **{"key": ("deck", "number"), "indexes": ["text", "count"], **options}
    )


@pytest.fixture
def fs() -> SimulatedFileSystem:
    return SimulatedFileSystem(clock=ManualClock())


def opened(fs: Any, path: str = "/s", **options: Any) -> AgentStore:
    return AgentStore(path, filesystem=fs, **options)


@pytest.fixture
def agent(fs: SimulatedFileSystem) -> Iterator[AgentStore]:
    with opened(fs) as made:
        yield made


@pytest.fixture
def namespace(agent: AgentStore) -> Namespace[Card]:
    return agent.namespace(cards())


def entries(agent: AgentStore) -> dict[bytes, bytes]:
    return dict(agent.store.scan())


# -- single records --------------------------------------------------------------------------------


def test_a_record_comes_and_goes(namespace: Namespace[Card]) -> None:
    card = Card("d", 1, "one")
    assert namespace.get(("d", 1)) is None
    assert not namespace.exists(("d", 1))
    namespace.put(card)
    assert namespace.get(("d", 1)) == card
    assert namespace.exists(("d", 1))
    assert namespace.add(Card("d", 2)) == Card("d", 2)
    assert namespace.update(("d", 1), text="two", count=2) == Card("d", 1, "two", 2)
    assert namespace.update(("d", 1)) == Card("d", 1, "two", 2)
    assert namespace.get_many([("d", 2), ("x", 1), ("d", 1)]) == [
        Card("d", 2),
        None,
        Card("d", 1, "two", 2),
    ]
    assert namespace.get_many([]) == []
    assert namespace.count() == 2
    assert namespace.count(text="two") == 1
    assert namespace.delete(("d", 1)) is True
    assert namespace.delete(("d", 1)) is False
    assert namespace.scan() == [Card("d", 2)]
    assert repr(namespace) == "<walkv Namespace 'cards'>"
    assert namespace.name == "cards"


def test_what_was_given_is_not_what_is_kept(namespace: Namespace[Card]) -> None:
    parts = ["a"]
    namespace.put(Card("d", 1, parts=parts))
    parts.append("b")
    found = namespace.get(("d", 1))
    assert found is not None
    assert found.parts == ["a"]
    found.parts.append("c")
    again = namespace.get(("d", 1))
    assert again is not None
    assert again.parts == ["a"]


@pytest.mark.parametrize(
    "key", ["d", ("d",), ("d", 1, 2), (), ("d", "1"), (1, "d"), ("d", None), ("d", True), None, 5]
)
def test_a_key_of_the_wrong_form_is_refused(namespace: Namespace[Card], key: Any) -> None:
    for use in (
        namespace.get,
        namespace.get_versioned,
        namespace.exists,
        namespace.delete,
        namespace.history,
        lambda key: namespace.get_many([("d", 1), key]),
        lambda key: namespace.update(key, count=1),
    ):
        with pytest.raises(CodecError) as caught:
            use(key)
        assert caught.value.namespace == "cards"


def test_scans_by_a_part_of_the_key(namespace: Namespace[Card]) -> None:
    many = [
        Card(deck, number) for deck in ("", "d", "d\0", "e") for number in (-300, -1, 0, 70_000)
    ]
    namespace.put_many(reversed(many))
    assert namespace.scan() == many
    assert namespace.scan("d") == namespace.scan(("d",)) == many[4:8]
    assert namespace.scan(("d", -1)) == [Card("d", -1)]
    assert namespace.scan("nothing") == []
    assert namespace.scan(reverse=True, limit=3) == many[:-4:-1]
    assert namespace.scan("d", reverse=True, limit=2) == [Card("d", 70_000), Card("d", 0)]
    assert namespace.scan(limit=0) == []
    for wrong in (("d", 1, 2), 5, ("d", "x")):
        with pytest.raises(CodecError):
            namespace.scan(wrong)


def test_add_refuses_what_is_there(agent: AgentStore, namespace: Namespace[Card]) -> None:
    namespace.add(Card("d", 1, "first"))
    before = entries(agent)
    with pytest.raises(RecordExistsError, match=r"cards: there is a record with the key 'd', 1"):
        namespace.add(Card("d", 1, "second"))
    assert entries(agent) == before


def test_update_of_what_is_not_there(agent: AgentStore, namespace: Namespace[Card]) -> None:
    before = entries(agent)
    with pytest.raises(RecordNotFoundError, match=r"no record with the key 'd', 1") as caught:
        namespace.update(("d", 1), count=1)
    assert isinstance(caught.value, KeyError)
    # Not as KeyError would have it, in quotes.
    assert str(caught.value).startswith("cards: there is no record with the key 'd', 1")
    with pytest.raises(RecordNotFoundError):
        namespace.update(("d", 1), expected_version=None, count=1)
    assert entries(agent) == before


def test_the_key_of_a_record_cannot_change(agent: AgentStore, namespace: Namespace[Card]) -> None:
    namespace.put_many([Card("d", 1), Card("d", 2)])
    before = entries(agent)
    for change in ({"number": 2}, {"deck": "e"}, {"deck": "e", "count": 1}):
        with pytest.raises(CodecError, match="key of a record cannot change") as caught:
            namespace.update(("d", 1), **change)
        assert (caught.value.namespace, caught.value.field) == ("cards", "deck")
    assert entries(agent) == before


def test_versions(agent: AgentStore, namespace: Namespace[Card]) -> None:
    assert namespace.get_versioned(("d", 1)) == (None, None)
    namespace.put(Card("d", 1))
    record, version = namespace.get_versioned(("d", 1))
    assert record == Card("d", 1)
    assert isinstance(version, int)
    namespace.update(("d", 1), expected_version=version, count=1)
    before = entries(agent)
    for stale in (version, None, 0, -1):
        with pytest.raises(ConflictError, match="has changed") as caught:
            namespace.update(("d", 1), expected_version=stale, count=2)
        _, now = namespace.get_versioned(("d", 1))
        assert (caught.value.expected_version, caught.value.actual_version) == (stale, now)
        assert caught.value.key.startswith(b"\0cards\0r")
    assert entries(agent) == before
    namespace.delete(("d", 1))
    with pytest.raises(ConflictError) as caught:
        namespace.update(("d", 1), expected_version=version, count=2)
    assert caught.value.actual_version is None
    # Another one under its key is another version.
    namespace.put(Card("d", 1))
    with pytest.raises(ConflictError):
        namespace.update(("d", 1), expected_version=version, count=2)


# -- many records ----------------------------------------------------------------------------------


def test_put_many_writes_all_or_nothing(agent: AgentStore, namespace: Namespace[Card]) -> None:
    before = entries(agent)
    sequence = agent.store.stats().last_sequence

    def failing() -> Iterator[Card]:
        yield Card("d", 1)
        raise LookupError("no more of them")

    with pytest.raises(LookupError):
        namespace.put_many(failing())
    with pytest.raises(CodecError):
        namespace.put_many([Card("d", 1), Card("d", 2, count="many")])  # type: ignore[arg-type]
    with pytest.raises(CodecError):
        namespace.put_many([Card("d", 1), Card("d", 2, parts=[object()])])
    assert entries(agent) == before
    namespace.put_many([])
    assert agent.store.stats().last_sequence == sequence
    namespace.put_many(Card("d", number % 3, count=number) for number in range(7))
    assert [card.count for card in namespace.scan()] == [6, 4, 5]
    assert namespace.verify() == []


# -- expiry ----------------------------------------------------------------------------------------


def test_a_record_expires(fs: SimulatedFileSystem, namespace: Namespace[Card]) -> None:
    namespace.put(Card("d", 1, "a"), ttl_seconds=10)
    namespace.add(Card("d", 2, "a"), ttl_seconds=20)
    namespace.put_many([Card("d", 3, "a"), Card("d", 4, "a")], ttl_seconds=0.5)
    fs.clock.advance(0.499)
    assert namespace.count(text="a") == 4
    fs.clock.advance(0.001)
    assert namespace.count(text="a") == 2
    fs.clock.advance(9.499)
    assert namespace.exists(("d", 1))
    fs.clock.advance(0.001)
    assert namespace.get(("d", 1)) is None
    assert namespace.get_versioned(("d", 1)) == (None, None)
    assert namespace.get_many([("d", 1), ("d", 2)]) == [None, Card("d", 2, "a")]
    assert namespace.delete(("d", 1)) is False
    assert namespace.add(Card("d", 1)) == Card("d", 1)
    with pytest.raises(RecordNotFoundError):
        namespace.update(("d", 3), count=1)
    fs.clock.advance(100)
    assert namespace.scan() == [Card("d", 1)]
    assert namespace.verify() == []


def test_an_update_keeps_the_expiry_of_a_record(
    fs: SimulatedFileSystem, agent: AgentStore, namespace: Namespace[Card]
) -> None:
    namespace.put(Card("d", 1, "a"), ttl_seconds=10)
    fs.clock.advance(9)
    namespace.update(("d", 1), text="b", count=3)
    with agent.batch():
        namespace.update(("d", 1), count=4)
    assert namespace.query(text="b", count=4).count() == 1
    fs.clock.advance(1)
    assert namespace.query(count=4).count() == namespace.count() == 0
    # A put without one makes it last.
    namespace.put(Card("d", 2), ttl_seconds=10)
    namespace.put(Card("d", 2, "a"))
    fs.clock.advance(100)
    assert namespace.query(text="a").all() == [Card("d", 2, "a")]
    assert namespace.verify() == []


def test_a_namespace_whose_records_expire_after_their_last_write(
    fs: SimulatedFileSystem, agent: AgentStore
) -> None:
    namespace = agent.namespace(cards(ttl_seconds=10))
    namespace.put(Card("d", 1))
    namespace.put(Card("d", 2), ttl_seconds=100)
    fs.clock.advance(6)
    namespace.update(("d", 1), count=1)
    fs.clock.advance(6)
    assert namespace.count() == 2
    assert namespace.update(("d", 1)) == Card("d", 1, count=1)  # no change, no write
    fs.clock.advance(4)
    assert namespace.scan() == [Card("d", 2)]
    assert namespace.verify() == []


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan"), 1e13, -float("inf")])
def test_an_expiry_that_makes_no_sense_is_refused(
    agent: AgentStore, namespace: Namespace[Card], seconds: float
) -> None:
    namespace.put(Card("d", 1))
    before = entries(agent)
    for write in (
        lambda: namespace.put(Card("d", 1, "a"), ttl_seconds=seconds),
        lambda: namespace.add(Card("d", 2), ttl_seconds=seconds),
        lambda: namespace.put_many([Card("d", 2)], ttl_seconds=seconds),
    ):
        with pytest.raises(ValueError, match="ttl_seconds must be above 0 and finite"):
            write()
        with agent.batch(), pytest.raises(ValueError, match="ttl_seconds"):
            write()
    assert entries(agent) == before


def test_a_very_short_expiry_is_a_millisecond(
    fs: SimulatedFileSystem, namespace: Namespace[Card]
) -> None:
    namespace.put(Card("d", 1), ttl_seconds=1e-9)
    assert namespace.exists(("d", 1))
    fs.clock.advance(0.001)
    assert not namespace.exists(("d", 1))


def test_what_expired_stays_away_when_the_store_is_opened_again(fs: SimulatedFileSystem) -> None:
    with opened(fs) as agent:
        namespace = agent.namespace(cards())
        namespace.put(Card("d", 1, "a"), ttl_seconds=10)
        namespace.put(Card("d", 2, "a"), ttl_seconds=30)
        agent.store.compact()
    fs.clock.advance(20)
    with opened(fs) as agent:
        namespace = agent.namespace(cards())
        assert namespace.query(text="a").all() == [Card("d", 2, "a")]
        assert namespace.verify() == []
        namespace.update(("d", 2), count=1)
        fs.clock.advance(11)
        assert namespace.count() == 0


# -- sync policies ---------------------------------------------------------------------------------

POLICIES = {"through": WriteThrough(), "wal": Wal(), "back": WriteBack(interval_seconds=1000.0)}
SYNCS = {"through": 1, "wal": 1, "back": 0}


def syncs(agent: AgentStore, write: Callable[[], Any]) -> int:
    before = agent.store.stats().sync_count
    write()
    return agent.store.stats().sync_count - before


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("where", ["store", "declaration", "namespace", "call", "batch"])
def test_the_sync_policy_is_really_used(fs: SimulatedFileSystem, name: str, where: str) -> None:
    policy = POLICIES[name]
    weakest, strongest = WriteBack(interval_seconds=1000.0), WriteThrough()
    other = strongest if name == "back" else weakest
    options: dict[str, Any] = {"sync": policy} if where == "call" else {}
    with opened(fs, sync=policy if where == "store" else other) as agent:
        namespace = agent.namespace(
            cards(sync={"declaration": policy, "namespace": other}.get(where)),
            sync=policy if where == "namespace" else None,
        )
        agent.sync()
        number = iter(range(100))

        def new() -> Card:
            return Card("d", next(number))

        writes: list[Callable[[], Any]] = [
            lambda: namespace.put(new(), **options),
            lambda: namespace.add(new(), **options),
            lambda: namespace.put_many([new(), new()], **options),
            lambda: namespace.update(("d", 0), count=1, **options),
            lambda: namespace.delete(("d", 0), **options),
            lambda: namespace.query(number=1).delete(**options),
        ]
        for write in writes:
            if where == "batch":

                def run(write: Callable[[], Any] = write) -> None:
                    with agent.batch(sync=policy):
                        write()
                        write()

                assert syncs(agent, run) == SYNCS[name]
            else:
                assert syncs(agent, write) == SYNCS[name]
            if name == "back":
                assert any(count == 0 for count in survivors(fs))
            else:
                assert set(survivors(fs)) == {namespace.count()}


def survivors(fs: SimulatedFileSystem) -> Iterator[int]:
    """How many cards there are after each power failure that may happen now."""
    for disk in fs.crash_states():
        with opened(SimulatedFileSystem.after_power_failure(disk), read_only=True) as agent:
            yield agent.namespace(cards()).count()


def test_the_policies_of_an_agent(fs: SimulatedFileSystem) -> None:
    back = WriteBack(interval_seconds=1000.0)
    policies = {"users": back, "sessions": back, "tasks": WriteThrough()}
    with opened(fs, policies=policies) as agent:
        agent.sync()
        assert syncs(agent, lambda: agent.users.create("ada")) == 0
        assert syncs(agent, lambda: agent.sessions.create("s", user_id="ada")) == 0
        assert syncs(agent, lambda: agent.sessions.update("s", mark_error=True, sync=Wal())) == 1
        assert syncs(agent, lambda: agent.configurations.create("role_config", "n", {})) == 1
        assert agent.tasks.subtasks.sync == WriteThrough()
        assert agent.tasks.sync == WriteThrough()
        assert agent.contexts.sync == Wal()
    with pytest.raises(ValueError, match="there is no namespace 'session'"):
        opened(fs, policies={"session": back})
    with pytest.raises(TypeError, match="sync is WriteThrough"):
        opened(fs, policies={"sessions": "wal"})


@pytest.mark.parametrize("policy", ["wal", Wal, 5])
def test_what_is_no_policy_is_refused(
    agent: AgentStore, namespace: Namespace[Card], policy: Any
) -> None:
    namespace.put(Card("d", 1))
    before = entries(agent)
    writes: list[Callable[[], Any]] = [
        lambda: namespace.put(Card("d", 2), sync=policy),
        lambda: namespace.update(("d", 1), count=1, sync=policy),
        lambda: namespace.delete(("d", 1), sync=policy),
    ]
    for write in writes:
        with pytest.raises(TypeError, match="sync is WriteThrough"):
            write()
        with agent.batch(), pytest.raises(TypeError, match="sync is WriteThrough"):
            write()
    with pytest.raises(TypeError, match="sync is WriteThrough"), agent.batch(sync=policy):
        namespace.put(Card("d", 2))
    with pytest.raises(TypeError, match="sync is WriteThrough"):
        agent.namespace(Declaration("others", Card, key="deck"), sync=policy)
    assert entries(agent) == before


# -- stores that do not write ----------------------------------------------------------------------


def uses(agent: AgentStore, namespace: Namespace[Card]) -> dict[str, Callable[[], Any]]:
    def batch() -> None:
        with agent.batch():
            namespace.put(Card("d", 9))

    return {
        "put": lambda: namespace.put(Card("d", 9)),
        "add": lambda: namespace.add(Card("d", 9)),
        "put_many": lambda: namespace.put_many([Card("d", 9)]),
        "update": lambda: namespace.update(("d", 1), count=1),
        "delete": lambda: namespace.delete(("d", 1)),
        "query.delete": lambda: namespace.query().delete(),
        "batch": batch,
        "transact": lambda: agent.transact(lambda: namespace.put(Card("d", 9))),
        "get": lambda: namespace.get(("d", 1)),
        "get_versioned": lambda: namespace.get_versioned(("d", 1)),
        "get_many": lambda: namespace.get_many([("d", 1)]),
        "exists": lambda: namespace.exists(("d", 1)),
        "scan": namespace.scan,
        "count": namespace.count,
        "query": lambda: namespace.query(text="").all(),
        "page": lambda: namespace.query().limit(1).page(),
        "history": lambda: namespace.history(("d", 1)),
        "verify": namespace.verify,
    }


WRITES = ["put", "add", "put_many", "update", "delete", "query.delete", "batch", "transact"]


def test_a_read_only_store_refuses_writes_only(fs: SimulatedFileSystem) -> None:
    with opened(fs) as agent:
        agent.namespace(cards()).put(Card("d", 1))
    with opened(fs, read_only=True) as agent:
        namespace = agent.namespace(cards())
        for name, use in uses(agent, namespace).items():
            if name in WRITES:
                with pytest.raises(ReadOnlyError):
                    use()
            else:
                use()
        assert namespace.scan() == [Card("d", 1)]
        assert agent.verify() == []


def test_a_closed_store_refuses_everything(fs: SimulatedFileSystem) -> None:
    agent = opened(fs)
    namespace = agent.namespace(cards())
    namespace.put(Card("d", 1))
    agent.close()
    agent.close()
    assert agent.closed
    for use in uses(agent, namespace).values():
        with pytest.raises(ClosedError):
            use()
    with pytest.raises(ClosedError):
        agent.namespace(Declaration("others", Card, key="deck"))


def test_a_store_that_was_given_open_stays_open(fs: SimulatedFileSystem) -> None:
    with walkv.open("/s", filesystem=fs) as store:
        for number in range(2):
            with AgentStore(store) as agent:
                agent.namespace(cards()).put(Card("d", number))
            assert not store.closed
            assert "open" in repr(agent)
        assert agent.namespace(cards()).count() == 2
    with pytest.raises(ClosedError):
        AgentStore(store)


def test_a_forked_child_refuses_everything(tmp_path: Path) -> None:
    fs = HookedFileSystem(threads=False)
    with opened(fs, str(tmp_path / "s")) as agent:
        namespace = agent.namespace(cards())
        namespace.put(Card("d", 1))
        child = os.fork()
        if child == 0:
            # No exception may leave the child: it would run the rest of the tests as well.
            refused = 0
            try:
                for use in uses(agent, namespace).values():
                    try:
                        use()
                    except StoreFailedError:
                        refused += 1
            finally:
                os._exit(refused)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == len(uses(agent, namespace))
        namespace.put(Card("d", 2))
        assert namespace.count() == 2
    with opened(fs, str(tmp_path / "s")) as agent:
        assert agent.namespace(cards()).count() == 2


def test_a_full_disk_leaves_nothing_of_a_write_and_the_store_goes_on(tmp_path: Path) -> None:
    fs = HookedFileSystem(threads=False)
    with opened(fs, str(tmp_path / "s")) as agent:
        namespace = agent.namespace(cards())
        namespace.put(Card("d", 1))
        for write in (
            lambda: namespace.update(("d", 1), count=5, text="x" * 1000),
            lambda: namespace.put_many([Card("d", n, "x" * 1000) for n in range(5)]),
            lambda: agent.transact(lambda: namespace.put(Card("d", 3, "x" * 1000))),
        ):
            before = entries(agent)
            fs.hook = fail("write", ".wal", errno.ENOSPC)
            with pytest.raises(OSError, match="not written") as caught:
                write()
            assert caught.value.errno == errno.ENOSPC
            fs.hook = None
            assert entries(agent) == before
            assert namespace.verify() == []
        assert namespace.update(("d", 1), count=5).count == 5


def test_after_a_failed_sync_the_store_stops(tmp_path: Path) -> None:
    fs = HookedFileSystem(threads=False)
    agent = opened(fs, str(tmp_path / "s"))
    namespace = agent.namespace(cards(sync=WriteThrough()))
    namespace.put(Card("d", 1))
    fs.hook = fail("sync_data", ".wal", errno.EIO)
    with pytest.raises(StoreFailedError):
        namespace.update(("d", 1), count=1)
    fs.hook = None
    for name in WRITES:
        with pytest.raises(StoreFailedError):
            uses(agent, namespace)[name]()
    with pytest.raises(StoreFailedError):
        agent.close()
    with opened(fs, str(tmp_path / "s")) as again:
        assert again.namespace(cards()).get(("d", 1)) in (Card("d", 1), Card("d", 1, count=1))
        assert again.verify() == []


# -- the agent -------------------------------------------------------------------------------------


def test_names_that_are_taken(agent: AgentStore) -> None:
    for name in agent.by_name:
        with pytest.raises(TypeError, match="already"):
            agent.namespace(Declaration(name, Card, key="deck"))
    first = agent.namespace(cards())
    again = agent.namespace(cards())
    first.put(Card("d", 1))
    assert again.get(("d", 1)) == Card("d", 1)
    assert again.verify() == first.verify() == []


def test_a_namespace_with_operations_of_its_own(agent: AgentStore) -> None:
    class Cards(Namespace[Card]):
        def turn(self, key: Any) -> Card:
            return self._modify(key, lambda card: {"text": card.text[::-1]}, None)

    namespace = agent.namespace(cards(), cls=Cards)
    assert isinstance(namespace, Cards)
    namespace.put(Card("d", 1, "abc"))
    assert namespace.turn(("d", 1)) == Card("d", 1, "cba")
    assert namespace.query(text="cba").count() == 1


# -- many at a time --------------------------------------------------------------------------------


def test_what_a_query_finds_is_deleted_in_parts(
    agent: AgentStore, namespace: Namespace[Card], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "ITEMS_AT_ONCE", 10)
    monkeypatch.setattr(limits, "MAX_BATCH_BYTES", 5000)
    for deck in ("a", "b", "c"):
        for number in range(0, 100, 20):
            namespace.put_many([Card(deck, n) for n in range(number, number + 20)])
    commits: list[int] = []
    real = type(agent.store.engine).append

    def append(self: Any, operations: Any, *args: Any) -> Any:
        commits.append(len(operations))
        if len(commits) == 8:
            raise KeyboardInterrupt
        return real(self, operations, *args)

    monkeypatch.setattr(type(agent.store.engine), "append", append)
    assert namespace.query(deck="a").limit(35).delete() == 35
    assert len(commits) == 4
    assert namespace.count(deck="a") == 65
    with pytest.raises(KeyboardInterrupt):
        namespace.query(deck="b").delete()
    assert namespace.count(deck="b") == 70
    assert namespace.query(deck="b").delete() == 70
    assert namespace.verify() == []
    commits.clear()
    monkeypatch.setattr(limits, "MAX_BATCH_BYTES", 1 << 20)
    with agent.batch():
        assert namespace.query(deck="c").delete() == 100
        assert commits == []
    assert len(commits) == 1
    assert namespace.count() == 65


def test_nan_is_behind_all_other_numbers(agent: AgentStore) -> None:
    values = [2.0, math.nan, -math.inf, math.inf, -1.0]
    namespace = agent.namespace(Declaration("measured", Measured, key="number"))
    namespace.put_many([Measured(number, value) for number, value in enumerate(values)])
    upward = namespace.query().order_by("value")
    assert [each.number for each in upward] == [2, 4, 0, 3, 1]
    assert [each.number for each in namespace.query().order_by("-value")] == [1, 3, 0, 4, 2]
    page = upward.limit(4).page()
    assert [each.number for each in upward.after(page.cursor)] == [1]


def test_later_ids_sort_later() -> None:
    made = [new_id() for _ in range(2000)]
    assert len(set(made)) == 2000
    assert {len(each) for each in made} == {28}
    assert [each[:12] for each in made] == sorted(each[:12] for each in made)


# -- threads ---------------------------------------------------------------------------------------


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Call a function in many threads at once; what each returned or raised."""
    begin, found = threading.Barrier(count), [None] * count

    def run(number: int) -> None:
        begin.wait()
        try:
            found[number] = work(number)
        except Exception as error:  # noqa: BLE001  # whoever called looks at it
            found[number] = error  # type: ignore[call-overload]  # any object

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.fixture
def real(tmp_path: Path) -> Iterator[AgentStore]:
    with AgentStore(tmp_path / "s", policies={"sessions": WriteBack()}) as made:
        yield made


@pytest.mark.parametrize("policy", [WriteBack(), Wal()], ids=["WriteBack", "Wal"])
def test_many_threads_update_one_record_exactly(real: AgentStore, policy: Any) -> None:
    class Cards(Namespace[Card]):
        def more(self, key: Any) -> Card:
            def change(card: Card) -> dict[str, Any]:
                return {"count": card.count + 1, "text": str(card.count + 1)}

            return self._modify(key, change, policy)

    namespace = real.namespace(cards(history=3), cls=Cards)
    assert isinstance(namespace, Cards)
    namespace.put(Card("d", 1))
    turns = 25
    results = together(THREADS, lambda _: [namespace.more(("d", 1)).count for _ in range(turns)])
    assert not [each for each in results if isinstance(each, Exception)]
    # Each got a number of its own, and what each saw only grew.
    assert sorted(n for each in results for n in each) == list(range(1, THREADS * turns + 1))
    assert all(each == sorted(each) for each in results)
    assert namespace.get(("d", 1)) == Card("d", 1, str(THREADS * turns), THREADS * turns)
    assert [card.count for card in namespace.history(("d", 1))] == [799, 798, 797]
    assert namespace.verify() == []


def test_many_threads_count_in_a_session(real: AgentStore) -> None:
    real.sessions.create("s", user_id="ada")
    results = together(
        THREADS,
        lambda n: [
            real.sessions.update("s", increment_requests=True, mark_error=n % 2 == 0)
            for _ in range(10)
        ],
    )
    assert not [each for each in results if isinstance(each, Exception)]
    session = real.sessions.get("s")
    assert session is not None
    assert (session.request_count, session.error_count) == (THREADS * 10, THREADS * 5)


def test_of_many_threads_one_adds(real: AgentStore) -> None:
    namespace = real.namespace(cards(sync=WriteBack()))
    for number in range(10):
        results = together(8, lambda n, number=number: namespace.add(Card("d", number, str(n))))
        (added,) = [each for each in results if isinstance(each, Card)]
        assert sum(isinstance(each, RecordExistsError) for each in results) == 7
        assert namespace.get(("d", number)) == added
    assert namespace.verify() == []


def test_many_threads_compare_and_set(real: AgentStore) -> None:
    namespace = real.namespace(cards(sync=WriteBack()))
    namespace.put(Card("d", 1))

    def work(_: int) -> int:
        done = conflicts = 0
        while done < 5:
            card, version = namespace.get_versioned(("d", 1))
            assert card is not None
            try:
                namespace.update(("d", 1), expected_version=version, count=card.count + 1)
                done += 1
            except ConflictError:
                conflicts += 1
        return conflicts

    results = together(8, work)
    assert all(isinstance(each, int) for each in results)
    assert namespace.get(("d", 1)) == Card("d", 1, count=40)


def test_readers_see_whole_records_and_indexes_while_others_write(real: AgentStore) -> None:
    namespace = real.namespace(cards(sync=WriteBack()))
    namespace.put_many([Card("d", number, "0", 0) for number in range(50)])
    over = threading.Event()
    wrong: list[Any] = []

    def write() -> None:
        for turn in range(1, 40):
            namespace.put_many([Card("d", number, str(turn), turn) for number in range(50)])
        over.set()

    def read() -> None:
        while not over.is_set():
            everything = namespace.query().all()
            if len(everything) != 50 or len({card.count for card in everything}) != 1:
                wrong.append(everything)
            turn = everything[0].count
            found = namespace.query(count__gte=turn).all()
            if len(found) != 50 or any(card.text != str(card.count) for card in found):
                wrong.append(found)
            if any(card is None for card in namespace.get_many([("d", n) for n in range(50)])):
                wrong.append("get_many")

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    writer = threading.Thread(target=write)
    writer.start()
    for thread in (writer, *readers):
        thread.join()
    assert wrong == []
    assert namespace.verify() == []


def test_records_are_replaced_as_a_whole(real: AgentStore) -> None:
    namespace = real.namespace(cards(sync=WriteBack()))
    card = Card("d", 1)
    namespace.put(card)
    together(4, lambda n: [namespace.put(replace(card, text=str(n), count=n)) for _ in range(50)])
    found = namespace.get(("d", 1))
    assert found is not None
    assert found.text == str(found.count)
    assert namespace.verify() == []
