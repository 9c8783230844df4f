"""Sessions: counters that nobody loses, and a clean-up that takes all that is theirs along."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import walkv
from walkv import AgentStore, AsyncAgentStore, CodecError, RecordExistsError, RecordNotFoundError
from walkv.engine.memtable import Memtable
from walkv.testing import SimulatedFileSystem

HOUR = 3600.0


@pytest.fixture
def fs() -> SimulatedFileSystem:
    return SimulatedFileSystem()


@pytest.fixture
def agent(fs: SimulatedFileSystem) -> Iterator[AgentStore]:
    with AgentStore("/a.walkv", filesystem=fs) as opened:
        yield opened
        assert opened.verify() == []


def test_a_session_from_begin_to_end(agent: AgentStore, fs: SimulatedFileSystem) -> None:
    began = datetime.fromtimestamp(fs.clock.wall_ns / 1e9, UTC)
    created = agent.sessions.create("s1", user_id="ada", metadata={"channel": "web"})
    assert created == agent.sessions.get("s1")
    assert (created.status, created.created_at, created.updated_at) == ("active", began, began)
    assert (created.request_count, created.error_count) == (0, 0)
    fs.clock.advance(10)
    updated = agent.sessions.update(
        "s1",
        {"metadata": {"channel": "app"}},
        increment_requests=True,
        add_processing_time=0.5,
        mark_error=True,
        user_id="bob",
    )
    assert updated == agent.sessions.get("s1")
    assert updated.updated_at == began + timedelta(seconds=10)
    assert (updated.request_count, updated.error_count) == (1, 1)
    assert updated.total_processing_time_seconds == 0.5
    assert (updated.user_id, updated.metadata) == ("bob", {"channel": "app"})
    fs.clock.advance(10)
    ended = agent.sessions.end("s1", status="failed")
    assert (ended.status, ended.ended_at) == ("failed", began + timedelta(seconds=20))
    assert agent.sessions.end("s1").status == "completed"


def test_what_cannot_be_done_says_why_and_changes_nothing(agent: AgentStore) -> None:
    before = agent.sessions.create("s1", "ada")
    with pytest.raises(RecordExistsError, match="'s1'"):
        agent.sessions.create("s1", "eve")
    for call in (agent.sessions.update, agent.sessions.end):
        with pytest.raises(RecordNotFoundError, match="'s2'"):
            call("s2")
    with pytest.raises(CodecError, match=r"sessions\.status: 'asleep' is not one of") as caught:
        agent.sessions.update("s1", status="asleep", increment_requests=True)
    assert (caught.value.namespace, caught.value.field) == ("sessions", "status")
    with pytest.raises(CodecError, match=r"sessions\.mood"):
        agent.sessions.update("s1", {"mood": "bad"}, mark_error=True)
    with pytest.raises(CodecError, match=r"sessions\.user_id"):
        agent.sessions.create("s2", 7)  # type: ignore[arg-type]
    assert agent.sessions.get("s1") == before
    assert agent.sessions.get("s2") is None


def test_the_time_of_the_last_change_never_goes_back(
    agent: AgentStore, fs: SimulatedFileSystem
) -> None:
    created = agent.sessions.create("s1", "ada")
    fs.clock.advance(-100)
    assert agent.sessions.update("s1", mark_error=True).updated_at == created.updated_at


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ({"user_id": "ada"}, "user_id"),
        ({"status": "active"}, "status"),
        ({"updated_at__lt": datetime(2030, 1, 1, tzinfo=UTC)}, "updated_at"),
    ],
)
def test_the_indexes_that_there_are(agent: AgentStore, query: dict[str, Any], index: str) -> None:
    plan = agent.sessions.query().where(**query).explain()
    assert (plan.index, plan.filtered) == (index, ())


def test_the_policy_is_wal(agent: AgentStore) -> None:
    assert agent.sessions.sync == walkv.Wal()


# -- many at once --------------------------------------------------------------------------------


def test_counters_are_exact_with_many_threads(tmp_path: Path) -> None:
    threads, rounds = 32, 20
    with AgentStore(tmp_path / "a", policies={"sessions": walkv.WriteBack()}) as agent:
        agent.sessions.create("s1", "ada")
        barrier = threading.Barrier(threads)

        def work(number: int) -> None:
            barrier.wait()
            for turn in range(rounds):
                agent.sessions.update(
                    "s1",
                    increment_requests=True,
                    add_processing_time=0.25,
                    mark_error=turn % 2 == 0,
                    metadata={"last": number},
                )

        workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        found = agent.sessions.get("s1")
        assert found is not None
        assert found.request_count == threads * rounds
        assert found.error_count == threads * rounds // 2
        assert found.total_processing_time_seconds == 0.25 * threads * rounds
        assert agent.verify() == []


def test_counters_are_exact_with_many_tasks(tmp_path: Path) -> None:
    async def test() -> None:
        async with AsyncAgentStore(tmp_path / "a") as agent:
            await agent.sessions.create("s1", "ada")

            async def work() -> None:
                for _ in range(3):
                    await agent.sessions.update(
                        "s1", increment_requests=True, add_processing_time=0.5, mark_error=True
                    )

            await asyncio.wait_for(asyncio.gather(*(work() for _ in range(200))), 60)
            found = await agent.sessions.get("s1")
            assert (found.request_count, found.error_count) == (600, 600)
            assert found.total_processing_time_seconds == 300.0

    asyncio.run(test())


# -- clean-up ------------------------------------------------------------------------------------


def test_clean_up_takes_along_what_is_theirs_and_spares_who_talks(
    agent: AgentStore, fs: SimulatedFileSystem
) -> None:
    for session_id in ("silent", "empty", "talks", "works", "updated", "silent\0x"):
        agent.sessions.create(session_id, "ada")
        if session_id != "empty":
            agent.messages.append(session_id, role="user", content="hello")
            agent.task_contexts.store(session_id, {"step": 1})
            agent.task_contexts.store(session_id, {"step": 2})
    fs.clock.advance(23 * HOUR)
    agent.messages.append("talks", role="user", content="still here")
    agent.task_contexts.store("works", {"step": 3})
    agent.sessions.update("updated", increment_requests=True)
    agent.messages.append("silent\0x", role="user", content="still here")
    fs.clock.advance(2 * HOUR)

    assert agent.sessions.cleanup_expired() == 2
    spared = ["silent\0x", "talks", "updated", "works"]
    assert [session.session_id for session in agent.sessions.scan()] == spared
    for session_id in ("silent", "empty"):
        assert agent.messages.history(session_id) == []
        assert agent.messages.count(session_id) == 0
        assert agent.task_contexts.get(session_id) is None
        assert agent.task_contexts.history(session_id) == []
    for session_id in spared:
        assert agent.messages.count(session_id) == len(agent.messages.history(session_id)) >= 1
        assert agent.task_contexts.get(session_id) is not None
        assert len(agent.task_contexts.history(session_id)) >= 1
    assert agent.sessions.cleanup_expired() == 0
    # What came last in each is 2 or 25 hours ago.
    assert agent.sessions.cleanup_expired(max_idle_hours=1.5) == 4
    assert agent.messages.query().count() == agent.task_contexts.query().count() == 0


def test_an_expired_session_without_messages_is_cleaned_up(
    agent: AgentStore, fs: SimulatedFileSystem
) -> None:
    agent.sessions.create("s1", "ada")
    fs.clock.advance(25 * HOUR)
    assert agent.sessions.cleanup_expired() == 1
    assert agent.sessions.get("s1") is None


def test_a_deleted_session_is_gone_with_all_that_is_its(agent: AgentStore) -> None:
    for session_id in ("s1", "s2", "s3"):
        agent.sessions.create(session_id, "ada" if session_id < "s3" else "bob")
        agent.messages.append(session_id, role="user", content="hello")
        agent.task_contexts.store(session_id, 1)
    assert agent.sessions.delete("s1")
    assert not agent.sessions.delete("s1")
    assert agent.sessions.query(user_id="ada").delete() == 1
    assert [m.session_id for m in agent.messages.query()] == ["s3"]
    assert [c.session_id for c in agent.task_contexts.query()] == ["s3"]
    # Numbers go on: who remembers a message by its number never gets another one.
    agent.sessions.create("s1", "ada")
    assert agent.messages.append("s1", role="user", content="again").seq == 2


def test_clean_up_is_one_commit(agent: AgentStore, fs: SimulatedFileSystem) -> None:
    for number in range(5):
        agent.sessions.create(f"s{number}", "ada")
        agent.messages.append(f"s{number}", role="user", content="hello")
    fs.clock.advance(48 * HOUR)
    before = fs.operation_count
    assert agent.sessions.cleanup_expired() == 5
    assert fs.operation_count - before == 2  # a write and a sync
    for disk in fs.crash_states():
        with AgentStore("/a.walkv", filesystem=fs.after_power_failure(disk)) as found:
            assert found.sessions.count() == found.messages.query().count() == 0


def test_clean_up_costs_what_it_deletes(
    agent: AgentStore, fs: SimulatedFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(60):
        agent.sessions.create(f"s{number}", "ada")
        for _ in range(5):
            agent.messages.append(f"s{number}", role="user", content="hello")
    fs.clock.advance(48 * HOUR)
    prepared_counts: list[int] = []
    prepare = Memtable.prepare

    def counted(self: Memtable, operations: list[Any], first_sequence: int) -> Any:
        prepared_counts.append(len(operations) // 2)
        return prepare(self, operations, first_sequence)

    monkeypatch.setattr(Memtable, "prepare", counted)
    assert agent.sessions.cleanup_expired() == 60
    # Once to see them while they are collected, and once to commit them.
    assert sum(prepared_counts) <= 2 * prepared_counts[-1]


def test_clean_up_while_others_talk_loses_no_message(tmp_path: Path) -> None:
    """A session is either gone with its messages, or there with them."""
    with AgentStore(tmp_path / "a", sync=walkv.WriteBack()) as agent:
        stop = threading.Event()

        def clean() -> None:
            while not stop.is_set():
                agent.sessions.cleanup_expired(max_idle_hours=0)

        cleaner = threading.Thread(target=clean)
        cleaner.start()

        def talk(session_id: str) -> None:
            if not agent.sessions.exists(session_id):
                agent.sessions.create(session_id, "ada")
                assert agent.messages.count(session_id) == 0
            agent.messages.append(session_id, role="user", content="hello")

        try:
            for number in range(60):
                agent.transact(functools.partial(talk, f"s{number % 3}"), retries=1000)
        finally:
            stop.set()
            cleaner.join()
        for session in agent.sessions.scan():
            assert agent.messages.count(session.session_id) > 0
        for message in agent.messages.query():
            assert agent.sessions.exists(message.session_id)
        assert agent.verify() == []


def test_metrics_are_what_one_would_count(agent: AgentStore) -> None:
    assert agent.sessions.metrics() == {
        "session_count": 0,
        "by_status": {},
        "active_sessions": 0,
        "request_count": 0,
        "error_count": 0,
        "total_processing_time_seconds": 0.0,
        "mean_processing_time_seconds": 0.0,
    }
    for number in range(300):  # more than a page of a query
        agent.sessions.create(f"s{number}", "ada")
    for number in range(10):
        agent.sessions.update(
            f"s{number}", increment_requests=True, add_processing_time=0.5, mark_error=number == 3
        )
    agent.sessions.end("s1")
    agent.sessions.end("s2", "failed")
    assert agent.sessions.metrics() == {
        "session_count": 300,
        "by_status": {"active": 298, "completed": 1, "failed": 1},
        "active_sessions": 298,
        "request_count": 10,
        "error_count": 1,
        "total_processing_time_seconds": 5.0,
        "mean_processing_time_seconds": 0.5,
    }
