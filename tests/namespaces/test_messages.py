"""Messages: against a plain list, many at once, and the cost of a page."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import walkv
from walkv import AgentStore, AsyncAgentStore, CodecError, RecordExistsError
from walkv.namespaces.messages import Message
from walkv.testing import SimulatedFileSystem


@pytest.fixture
def fs() -> SimulatedFileSystem:
    return SimulatedFileSystem()


@pytest.fixture
def agent(fs: SimulatedFileSystem) -> Iterator[AgentStore]:
    with AgentStore("/a.walkv", filesystem=fs) as opened:
        yield opened
        assert opened.verify() == []


def said(messages: list[Message]) -> list[Any]:
    return [message.content for message in messages]


def numbers(messages: list[Message]) -> list[int]:
    return [message.seq for message in messages]


def fill(agent: AgentStore, count: int, session_id: str = "s1") -> list[Message]:
    return agent.messages.append_many(
        session_id, [{"role": "user", "content": n, "message_id": f"m{n}"} for n in range(count)]
    )


# -- appending -----------------------------------------------------------------------------------


def test_append_gives_the_message_as_it_is_kept(agent: AgentStore, fs: SimulatedFileSystem) -> None:
    first = agent.messages.append("s1", role="user", content="hello", metadata={"lang": "en"})
    assert first.created_at == datetime.fromtimestamp(fs.clock.wall_ns / 1e9, UTC)
    assert (first.session_id, first.seq, first.role) == ("s1", 1, "user")
    second = agent.messages.append("s1", role="assistant", content="hi", message_id="m2")
    assert (second.seq, second.message_id, second.metadata) == (2, "m2", {})
    assert agent.messages.history("s1") == [first, second]
    assert agent.messages.get(("s1", 2)) == second
    assert len(first.message_id) == 28
    assert first.message_id != agent.messages.append("s1", role="user", content="x").message_id


STRUCTURED = [
    {"type": "text", "text": "Look:"},
    {"type": "image", "data": b"\x89PNG\0", "size": (640, 480)},
    {"type": "tool", "input": {"at": datetime(2026, 1, 1, tzinfo=UTC), "day": date(2026, 1, 1)}},
    {"id": UUID(int=7), "price": Decimal("1.10"), "big": 1 << 80, "tags": {"b", "a"}, 5: None},
]


@pytest.mark.parametrize("content", ["", "text", None, [], {}, STRUCTURED, 0.5, b"\0", (1, 2)])
def test_content_is_what_was_said_to_the_type(agent: AgentStore, content: Any) -> None:
    made = agent.messages.append("s1", role="user", content=content)
    (found,) = agent.messages.history("s1")
    assert found == made
    assert found.content == content
    assert type(found.content) is type(content)


def test_append_many_is_all_or_nothing(agent: AgentStore) -> None:
    fill(agent, 2)
    for bad, error in [
        ({"role": 7, "content": "x"}, CodecError),
        ({"role": "user"}, CodecError),
        ({"content": "x"}, CodecError),
        ({"role": "user", "content": "x", "text": "y"}, CodecError),
        ("hello", CodecError),
        ({"role": "user", "content": object()}, CodecError),
        ({"role": "user", "content": "x", "metadata": 7}, CodecError),
        ({"role": "user", "content": "x", "message_id": "m1"}, RecordExistsError),
        ({"role": "user", "content": "x", "message_id": "new"}, RecordExistsError),
        ({"role": "user", "content": "x", "created_at": datetime(2026, 1, 1)}, CodecError),
    ]:
        new = {"role": "user", "content": "y", "message_id": "new"}
        with pytest.raises(error, match="messages"):
            agent.messages.append_many("s1", [new, bad])
        assert said(agent.messages.history("s1")) == [0, 1]
        assert agent.messages.count("s1") == 2
    assert agent.messages.append_many("s1", []) == []
    (made,) = agent.messages.append_many("s1", iter([new]))
    assert made.seq == 3


def test_append_many_is_one_commit(agent: AgentStore, fs: SimulatedFileSystem) -> None:
    for disk in [*fs.crash_states()]:
        assert disk.files  # nothing is uncertain before
    seen = set()

    def look(operation: str, path: str) -> None:
        for disk in fs.crash_states():
            with AgentStore("/a.walkv", filesystem=fs.after_power_failure(disk)) as found:
                seen.add((found.messages.count("s1"), len(found.messages.history("s1"))))
                assert found.verify() == []

    fs.on_operation = look
    fill(agent, 20)
    fs.on_operation = None
    assert seen == {(0, 0), (20, 20)}


def test_an_id_is_given_once_in_a_session(agent: AgentStore) -> None:
    agent.messages.append("s1", role="user", content=1, message_id="m1")
    with pytest.raises(RecordExistsError, match="session 's1' has a message 'm1' already"):
        agent.messages.append("s1", role="user", content=2, message_id="m1")
    # Elsewhere it may be, also where names begin alike.
    for other in ("s2", "s", "s1\0", "s1\0x"):
        agent.messages.append(other, role="user", content=3, message_id="m1")
    agent.messages.append("s2\0x", role="user", content=3, message_id="m2")
    agent.messages.append("s2", role="user", content=3, message_id="m2")
    found = agent.messages.query(message_id="m1").order_by("session_id").all()
    assert [message.session_id for message in found] == ["s", "s1", "s1\0", "s1\0x", "s2"]
    agent.messages.delete(("s1", 1))
    agent.messages.append("s1", role="user", content=4, message_id="m1")


def test_the_oldest_go_when_there_are_too_many(agent: AgentStore) -> None:
    for n in range(10):
        agent.messages.append("s1", role="user", content=n, max_messages=3)
        assert said(agent.messages.history("s1")) == list(range(max(0, n - 2), n + 1))
        assert agent.messages.count("s1") == min(n + 1, 3)
    many: list[Any] = [{"role": "user", "content": f"{n}"} for n in range(5)]
    made = agent.messages.append_many("s1", many, max_messages=2)
    assert numbers(made) == [11, 12, 13, 14, 15]
    assert said(agent.messages.history("s1")) == ["3", "4"]
    with pytest.raises(ValueError, match="at least 1"):
        agent.messages.append("s1", role="user", content="x", max_messages=0)


def test_a_bound_is_kept_at_the_price_of_what_goes(agent: AgentStore) -> None:
    """Whatever numbers are missing: they are stepped over, not through."""
    far = replace(agent.messages.append("s1", role="user", content="first"), seq=1 << 50)
    agent.messages.put(far)
    agent.messages.delete(("s1", 1))
    agent.messages.put(replace(far, seq=2))
    agent.messages.put(replace(far, seq=1 << 40))
    assert agent.messages.count("s1") == 3
    agent.messages.append("s1", role="user", content="last", max_messages=2)
    assert numbers(agent.messages.history("s1")) == [1 << 50, (1 << 50) + 1]


# -- reading -------------------------------------------------------------------------------------


def test_history_pages_from_the_newest_to_the_beginning(agent: AgentStore) -> None:
    everything = fill(agent, 125)
    assert agent.messages.history("s1") == everything[-50:]
    assert agent.messages.history("s1", limit=None) == everything
    assert agent.messages.history("s1", limit=0) == []
    pages: list[list[Message]] = []
    before = None
    while page := agent.messages.history("s1", limit=10, before=before):
        pages.insert(0, page)
        before = page[0].seq
    assert [message for page in pages for message in page] == everything
    assert [len(page) for page in pages] == [5, *[10] * 12]
    assert agent.messages.history("s1", before=1) == []
    assert agent.messages.history("s1", limit=2, before=10_000) == everything[-2:]
    assert agent.messages.history("s0") == []
    with pytest.raises(ValueError, match="limit"):
        agent.messages.history("s1", limit=-1)
    with pytest.raises(CodecError, match=r"messages\.seq"):
        agent.messages.history("s1", before="9")  # type: ignore[arg-type]


def test_a_session_does_not_see_another(agent: AgentStore) -> None:
    for session_id in ("s", "s1", "s1\0", "s1\0x", "s1\xff", "s10", "", "\0"):
        agent.messages.append(session_id, role="user", content=session_id)
    for session_id in ("s", "s1", "s1\0", "s1\0x", "s1\xff", "s10", "", "\0"):
        assert said(agent.messages.history(session_id)) == [session_id]
        assert agent.messages.count(session_id) == 1
    agent.messages.clear("s1")
    assert agent.messages.query().count() == 7
    assert agent.messages.pop("s1") is None
    assert agent.messages.pop("s1\0") is not None


def test_a_page_costs_the_page(agent: AgentStore, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(agent, 500)
    fill(agent, 500, "s2")
    read_counts: list[int] = []
    real = agent.messages._records

    def counted(values: list[bytes]) -> list[Message]:
        read_counts.append(len(values))
        return real(values)

    monkeypatch.setattr(agent.messages, "_records", counted)
    agent.messages.history("s1", limit=5, before=250)
    assert read_counts == [5]
    assert agent.messages.count("s1") == 500
    assert read_counts == [5]


def test_count_with_and_without_conditions(agent: AgentStore) -> None:
    fill(agent, 5)
    agent.messages.append("s1", role="assistant", content="x")
    fill(agent, 2, "s2")
    assert agent.messages.count("s1") == 6
    assert agent.messages.count("s3") == 0
    assert agent.messages.count() == 8
    assert agent.messages.count(role="user") == 7
    assert agent.messages.count("s1", role="user") == 5


def test_the_key_and_the_index(agent: AgentStore) -> None:
    assert agent.messages.sync == walkv.Wal()
    plan = agent.messages.query(session_id="s1").where(seq__gte=3).order_by("-seq").explain()
    assert (plan.index, plan.equal, plan.bounded) == ("", ("session_id",), "seq")
    assert (plan.filtered, plan.sorted_in_memory) == ((), False)
    assert agent.messages.query(message_id="m1").explain().index == "message_id"


# -- taking away ---------------------------------------------------------------------------------


def test_pop_takes_the_last_and_its_number_stays_gone(agent: AgentStore) -> None:
    made = fill(agent, 3)
    assert agent.messages.pop("s1") == made[2]
    assert agent.messages.pop("s1") == made[1]
    assert agent.messages.count("s1") == 1
    assert agent.messages.append("s1", role="user", content="x").seq == 4
    assert agent.messages.pop("s2") is None


def test_clear_goes_on_with_the_numbers(agent: AgentStore) -> None:
    fill(agent, 3)
    assert agent.messages.clear("s1") == 3
    assert agent.messages.clear("s1") == 0
    assert agent.messages.clear("s2") == 0
    assert agent.messages.query(message_id="m1").all() == []
    assert agent.messages.append("s1", role="user", content="x", message_id="m1").seq == 4


def test_splice_puts_messages_in_the_place_of_others(agent: AgentStore) -> None:
    fill(agent, 6)
    (made,) = agent.messages.splice("s1", 2, 5, [{"role": "system", "content": "summary"}])
    assert made.seq == 2
    assert [(m.seq, m.content) for m in agent.messages.history("s1")] == [
        (1, 0),
        (2, "summary"),
        (5, 4),
        (6, 5),
    ]
    new: list[Any] = [{"role": "user", "content": n} for n in "abc"]
    assert numbers(agent.messages.splice("s1", 5, 6, new)) == [5, 6, 7]
    assert [(m.seq, m.content) for m in agent.messages.history("s1")] == [
        (1, 0),
        (2, "summary"),
        (5, "a"),
        (6, "b"),
        (7, "c"),
        (8, 5),
    ]
    assert agent.messages.count("s1") == 6
    assert agent.messages.append("s1", role="user", content="x").seq == 9
    assert agent.messages.splice("s1", 1, 100) == []
    assert agent.messages.history("s1") == []
    assert agent.messages.append("s1", role="user", content="x").seq == 10


def test_splice_may_keep_the_id_of_what_it_replaces_and_no_other(agent: AgentStore) -> None:
    fill(agent, 4)
    edited = {"role": "user", "content": "edited", "message_id": "m1"}
    agent.messages.splice("s1", 2, 3, [edited])
    assert said(agent.messages.history("s1")) == [0, "edited", 2, 3]
    for taken in ("m0", "m3"):
        with pytest.raises(RecordExistsError, match=taken):
            agent.messages.splice("s1", 2, 3, [edited | {"message_id": taken}])
    with pytest.raises(RecordExistsError, match="m9"):
        agent.messages.splice("s1", 2, 3, [edited | {"message_id": "m9"}] * 2)
    assert said(agent.messages.history("s1")) == [0, "edited", 2, 3]


def test_whatever_way_messages_come_and_go_the_count_is_right(agent: AgentStore) -> None:
    made = fill(agent, 10)
    agent.messages.delete(("s1", 3))
    agent.messages.query(session_id="s1").where(seq__gte=9).delete()
    agent.messages.put(made[2])
    agent.messages.put(replace(made[2], content="changed"))
    agent.messages.add(replace(made[0], seq=20))
    agent.messages.update(("s1", 1), content="changed")
    agent.messages.put_many([replace(made[0], seq=30), replace(made[0], session_id="s2")])
    assert agent.messages.count("s1") == len(agent.messages.history("s1")) == 10
    assert agent.messages.count("s2") == 1
    assert agent.messages.append("s1", role="user", content="x").seq == 31
    with pytest.raises(CodecError, match="key"):
        agent.messages.update(("s1", 1), seq=5)
    with pytest.raises(ValueError, match="do not expire"):
        agent.messages.put(made[0], ttl_seconds=5)


# -- against a list ------------------------------------------------------------------------------

SESSION = st.sampled_from(["a", "a\0b", "b"])
ID = st.one_of(st.none(), st.sampled_from(["x", "y", "z"]))
NEW = st.lists(st.tuples(st.integers(0, 9), ID), max_size=4)


class AgainstAList(RuleBasedStateMachine):
    """Every operation, against a list of (seq, message id, content) for each session."""

    def __init__(self) -> None:
        super().__init__()
        self.agent = AgentStore("/a", filesystem=SimulatedFileSystem(), sync=walkv.WriteBack())
        self.model: dict[str, list[tuple[int, str, int]]] = {"a": [], "a\0b": [], "b": []}
        self.highest = dict.fromkeys(self.model, 0)

    def note(self, session: str, kept: list[tuple[int, str, int]]) -> None:
        self.model[session] = kept
        self.highest[session] = max([self.highest[session], *(seq for seq, _, _ in kept)])

    def clash(self, session: str, new: list[Any], staying: list[tuple[int, str, int]]) -> bool:
        named = [message_id for _, message_id in new if message_id]
        return len(named) > len(set(named)) or bool({m for _, m, _ in staying} & set(named))

    def mappings(self, new: list[Any]) -> list[dict[str, Any]]:
        return [{"role": "user", "content": c, "message_id": m} for c, m in new]

    @rule(session=SESSION, new=NEW, most=st.one_of(st.none(), st.integers(1, 6)))
    def append_many(self, session: str, new: list[Any], most: int | None) -> None:
        before = self.model[session]
        clash = self.clash(session, new, before)
        add = self.agent.messages.append_many
        if clash:
            with pytest.raises(RecordExistsError):
                add(session, self.mappings(new), max_messages=most)
            return
        made = add(session, self.mappings(new), max_messages=most)
        first = made[0].seq if made else 0
        assert numbers(made) == list(range(first, first + len(new)))
        assert not made or first > self.highest[session]
        after = [*before, *((m.seq, m.message_id, m.content) for m in made)]
        self.note(session, after)
        if most is not None and new:
            self.model[session] = after[-most:]

    @rule(session=SESSION)
    def pop(self, session: str) -> None:
        found = self.agent.messages.pop(session)
        kept = self.model[session]
        assert (found is None) == (not kept)
        if found is not None:
            assert (found.seq, found.message_id, found.content) == kept.pop()

    @rule(session=SESSION)
    def clear(self, session: str) -> None:
        assert self.agent.messages.clear(session) == len(self.model[session])
        self.model[session] = []

    @rule(session=SESSION, at=st.integers(0, 30))
    def delete(self, session: str, at: int) -> None:
        kept = [entry for entry in self.model[session] if entry[0] != at]
        there = len(kept) < len(self.model[session])
        assert self.agent.messages.delete((session, at)) == there
        self.model[session] = kept

    @rule(session=SESSION, start=st.integers(-1, 20), length=st.integers(-1, 6), new=NEW)
    def splice(self, session: str, start: int, length: int, new: list[Any]) -> None:
        begin = max(start, 1)
        end = max(start + length, begin)
        left = [entry for entry in self.model[session] if entry[0] < begin]
        right = [entry for entry in self.model[session] if entry[0] >= end]
        splice = self.agent.messages.splice
        if self.clash(session, new, [*left, *right]):
            with pytest.raises(RecordExistsError):
                splice(session, start, start + length, self.mappings(new))
            return
        made = splice(session, start, start + length, self.mappings(new))
        assert numbers(made) == list(range(begin, begin + len(new)))
        shift = max(0, begin + len(new) - end)
        moved = [(seq + shift, *rest) for seq, *rest in right]
        middle = [(m.seq, m.message_id, m.content) for m in made]
        self.note(session, [*left, *middle, *moved])

    @rule(session=SESSION, limit=st.integers(0, 8), before=st.integers(-1, 30))
    def page(self, session: str, limit: int, before: int) -> None:
        expected = [entry for entry in self.model[session] if entry[0] < before]
        found = self.agent.messages.history(session, limit, before)
        assert numbers(found) == [seq for seq, _, _ in expected][max(len(expected) - limit, 0) :]

    @rule()
    def reopen(self) -> None:
        fs = self.agent.store.engine.fs
        self.agent.close()
        self.agent = AgentStore("/a", filesystem=fs, sync=walkv.WriteBack())

    @invariant()
    def same(self) -> None:
        for session, kept in self.model.items():
            found = self.agent.messages.history(session, limit=None)
            assert [(m.seq, m.message_id, m.content) for m in found] == kept
            assert self.agent.messages.count(session) == len(kept)

    def teardown(self) -> None:
        assert self.agent.verify() == []
        self.agent.close()


TestAgainstAList = AgainstAList.TestCase
TestAgainstAList.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)


# -- many at once --------------------------------------------------------------------------------


def test_many_threads_get_numbers_without_gaps(tmp_path: Path) -> None:
    threads, rounds = 16, 25
    with AgentStore(tmp_path / "a", sync=walkv.WriteBack()) as agent:
        barrier = threading.Barrier(threads)
        got: list[int] = []

        def work(number: int) -> None:
            barrier.wait()
            mine = []
            for turn in range(rounds):
                if turn % 5:
                    made = [agent.messages.append("s1", role="user", content=number)]
                else:
                    both: list[Any] = [{"role": "user", "content": number}] * 2
                    made = agent.messages.append_many("s1", both)
                    assert made[1].seq == made[0].seq + 1
                mine += numbers(made)
            assert mine == sorted(mine)
            got.extend(mine)

        workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        total = threads * (rounds + rounds // 5)
        assert sorted(got) == list(range(1, total + 1))
        assert numbers(agent.messages.history("s1", limit=None)) == sorted(got)
        assert agent.messages.count("s1") == total
        assert agent.verify() == []


def test_many_tasks_get_numbers_without_gaps(tmp_path: Path) -> None:
    async def test() -> None:
        async with AsyncAgentStore(tmp_path / "a") as agent:

            async def work(number: int) -> list[int]:
                one = await agent.messages.append("s1", role="user", content=number)
                two = await agent.messages.append(
                    "s1", role="user", content="x", message_id=f"{number}", max_messages=1000
                )
                assert one.seq < two.seq
                return [one.seq, two.seq]

            got = await asyncio.wait_for(asyncio.gather(*map(work, range(100))), 60)
            assert sorted(seq for both in got for seq in both) == list(range(1, 201))
            assert numbers(await agent.messages.history("s1", None)) == list(range(1, 201))
            assert await agent.messages.count("s1") == 200
            popped = await asyncio.gather(*(agent.messages.pop("s1") for _ in range(10)))
            assert {message.seq for message in popped} == set(range(191, 201))
            assert await agent.verify() == []

    asyncio.run(test())


@pytest.mark.parametrize(
    "take", [lambda m: m.pop("s1"), lambda m: m.clear("s1"), lambda m: m.splice("s1", 1, 3)]
)
def test_a_batch_that_fails_leaves_all_as_it_was(
    agent: AgentStore, take: Callable[[Any], object]
) -> None:
    made = fill(agent, 5)

    def work() -> None:
        take(agent.messages)
        agent.messages.append("s1", role="user", content="x")
        assert agent.messages.count("s1") == len(agent.messages.history("s1"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        agent.transact(work)
    assert agent.messages.history("s1") == made
    assert agent.messages.count("s1") == 5
