"""The storage interfaces over real stores: as an application written to them would use them."""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import walkv
from walkv.agent import AgentStore, AsyncAgentStore
from walkv.engine.policies import SyncPolicy, WriteBack, WriteThrough
from walkv.errors import ClosedError, CodecError, LimitError, StoreFailedError, WalkvError
from walkv.interfaces import storage_backend as package
from walkv.interfaces.storage_backend import (
    IBatchSessionStorage,
    ICheckpointerBackend,
    ICheckpointStorage,
    IConversationStorage,
    IListableStorage,
    ISessionStorage,
    IStorageBackend,
    ITaskContextStorage,
    MemoryStorageBackend,
    SessionNotFoundError,
    StorageAdapter,
    StorageConnectionError,
    StorageError,
    StorageFactory,
    StorageHealthChecker,
    StorageLogger,
    StorageMigrator,
    StorageMonitor,
    StorageType,
    WalkvStorageBackend,
)
from walkv.testing import Fault, FaultyFileSystem
from walkv.testing.medium import SimulatedFile

PROTOCOLS: dict[type[object], int] = {
    ISessionStorage: 4,
    IConversationStorage: 2,
    ICheckpointStorage: 3,
    ITaskContextStorage: 2,
    IStorageBackend: 16,
    ICheckpointerBackend: 5,
    IBatchSessionStorage: 2,
    IListableStorage: 4,
}
SESSION_KEYS = [
    "session_id",
    "user_id",
    "created_at",
    "updated_at",
    "status",
    "metadata",
    "request_count",
    "total_processing_time",
    "error_count",
]


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test in a fresh event loop that gives up rather than hang."""

    async def limited() -> None:
        await asyncio.wait_for(test(), 120)

    asyncio.run(limited())


def is_utc_text(text: str) -> bool:
    return datetime.fromisoformat(text).utcoffset() == timedelta(0)


class PlainStorage(IStorageBackend, ICheckpointerBackend, IListableStorage):
    """A backend over dictionaries, in the manner of the design's Redis backend.

    Attributes:
        refusals: by operation, or for "*", what it raises.
        newest_first: a history begins with the newest message.
        keeps_counters: ``update_session`` takes counters and status from ``updates``.
    """

    def __init__(self, *, newest_first: bool = True, keeps_counters: bool = True) -> None:
        self.refusals: dict[str, Exception] = {}
        self.newest_first = newest_first
        self.keeps_counters = keeps_counters
        self.calls: list[str] = []
        self.held: asyncio.Event | None = None
        self.sessions: dict[str, dict[str, Any]] = {}
        self.histories: dict[str, list[dict[str, Any]]] = {}
        self.threads: dict[str, dict[str, dict[str, Any]]] = {}
        self.writes: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
        self.contexts: dict[str, Any] = {}
        self._random = random.Random(5)
        self._seconds = 0

    def now(self) -> str:
        """Naive, as the design has it."""
        self._seconds += 1
        return (datetime(2025, 1, 1) + timedelta(seconds=self._seconds)).isoformat()

    async def _enter(self, operation: str) -> None:
        if self.held is not None:
            await self.held.wait()
        for _ in range(self._random.randrange(4)):
            await asyncio.sleep(0)
        self.calls.append(operation)
        refusal = self.refusals.get(operation) or self.refusals.get("*")
        if refusal is not None:
            raise refusal

    async def initialize(self) -> bool:
        await self._enter("initialize")
        return True

    async def close(self) -> None:
        await self._enter("close")

    async def health_check(self) -> dict[str, Any]:
        await self._enter("health_check")
        return {}

    async def get_metrics(self) -> dict[str, Any]:
        await self._enter("get_metrics")
        return {"total_sessions": len(self.sessions)}

    async def cleanup_expired_sessions(self, max_idle_hours: int = 24) -> int:
        await self._enter("cleanup_expired_sessions")
        return 0

    async def create_session(
        self, session_id: str, user_id: str, metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        await self._enter("create_session")
        self.sessions[session_id] = {
            "session_id": session_id,
            "user_id": user_id,
            "created_at": self.now(),
            "updated_at": self.now(),
            "status": "active",
            "metadata": metadata or {},
            "request_count": 0,
            "total_processing_time": 0.0,
            "error_count": 0,
        }
        return dict(self.sessions[session_id])

    async def get_session(self, session_id: str) -> dict[str, Any] | None:
        await self._enter("get_session")
        found = self.sessions.get(session_id)
        return None if found is None else dict(found)

    async def update_session(
        self,
        session_id: str,
        updates: dict[str, Any] | None = None,
        increment_requests: bool = False,
        add_processing_time: float = 0.0,
        mark_error: bool = False,
    ) -> bool:
        await self._enter("update_session")
        found = self.sessions.get(session_id)
        if found is None:
            return False
        if self.keeps_counters:
            found.update(updates or {})
        found["request_count"] += increment_requests
        found["total_processing_time"] += add_processing_time
        found["error_count"] += mark_error
        found["updated_at"] = self.now()
        return True

    async def end_session(self, session_id: str, status: str = "completed") -> bool:
        return await self.update_session(session_id, {"status": status})

    async def add_conversation_message(
        self, session_id: str, role: str, content: str, metadata: dict[str, Any] | None = None
    ) -> bool:
        await self._enter("add_conversation_message")
        message = {
            "role": role,
            "content": content,
            "timestamp": self.now(),
            "metadata": metadata or {},
        }
        self.histories.setdefault(session_id, []).append(message)
        return True

    async def get_conversation_history(
        self, session_id: str, limit: int = 50
    ) -> list[dict[str, Any]]:
        await self._enter("get_conversation_history")
        found = self.histories.get(session_id, [])[-limit:]
        return found[::-1] if self.newest_first else found

    async def store_checkpoint(
        self,
        thread_id: str,
        checkpoint_id: str,
        checkpoint_data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
    ) -> bool:
        await self._enter("store_checkpoint")
        self.threads.setdefault(thread_id, {})[checkpoint_id] = {
            "checkpoint_id": checkpoint_id,
            "data": checkpoint_data,
            "metadata": metadata,
            "created_at": self.now(),
        }
        return True

    async def put_checkpoint(self, *args: Any, **kwargs: Any) -> bool:
        return await self.store_checkpoint(*args, **kwargs)

    async def get_checkpoint(
        self, thread_id: str, checkpoint_id: str | None = None
    ) -> dict[str, Any] | None:
        await self._enter("get_checkpoint")
        found = self.threads.get(thread_id, {})
        if checkpoint_id is None:
            return next(reversed(list(found.values())), None)
        return found.get(checkpoint_id)

    async def list_checkpoints(self, thread_id: str, limit: int = 10) -> list[dict[str, Any]]:
        await self._enter("list_checkpoints")
        return list(reversed(self.threads.get(thread_id, {}).values()))[:limit]

    async def put_writes(
        self, thread_id: str, checkpoint_id: str, task_id: str, writes_data: list[tuple[Any, ...]]
    ) -> bool:
        await self._enter("put_writes")
        made = [(task_id, channel, value) for channel, value in writes_data]
        self.writes.setdefault((thread_id, checkpoint_id), []).extend(made)
        return True

    async def get_writes(self, thread_id: str, checkpoint_id: str) -> list[tuple[Any, ...]]:
        await self._enter("get_writes")
        return list(self.writes.get((thread_id, checkpoint_id), []))

    async def get_task_context(self, session_id: str) -> Any | None:
        await self._enter("get_task_context")
        return self.contexts.get(session_id)

    async def store_task_context(self, session_id: str, context: Any) -> bool:
        await self._enter("store_task_context")
        self.contexts[session_id] = context
        return True

    async def list_session_ids(self, after: str | None = None, limit: int = 1000) -> list[str]:
        return _listed(self.sessions, after, limit)

    async def list_conversation_ids(self, after: str | None = None, limit: int = 1000) -> list[str]:
        return _listed(self.histories, after, limit)

    async def list_thread_ids(self, after: str | None = None, limit: int = 1000) -> list[str]:
        return _listed(self.threads, after, limit)

    async def list_task_context_ids(self, after: str | None = None, limit: int = 1000) -> list[str]:
        return _listed(self.contexts, after, limit)


def _listed(records: dict[str, Any], after: str | None, limit: int) -> list[str]:
    return sorted(each for each in records if after is None or each > after)[:limit]


# -- the examples of the design ------------------------------------------------------------------


def test_example_basic_implementation(tmp_path: Path) -> None:
    async def test() -> None:
        storage = WalkvStorageBackend(tmp_path / "agent.walkv")
        assert await storage.initialize() is True
        session = await storage.create_session("session_1", "user_1", {"channel": "web"})
        assert list(session) == SESSION_KEYS
        assert session == {
            "session_id": "session_1",
            "user_id": "user_1",
            "created_at": session["created_at"],
            "updated_at": session["created_at"],
            "status": "active",
            "metadata": {"channel": "web"},
            "request_count": 0,
            "total_processing_time": 0.0,
            "error_count": 0,
        }
        assert is_utc_text(session["created_at"])
        assert await storage.add_conversation_message("session_1", "user", "hello") is True
        assert await storage.add_conversation_message("session_1", "assistant", "hi", {"n": 1})
        history = await storage.get_conversation_history("session_1", limit=50)
        assert [each["content"] for each in history] == ["hello", "hi"]
        assert list(history[1]) == ["role", "content", "timestamp", "metadata"]
        assert history[1]["metadata"] == {"n": 1}
        assert is_utc_text(history[0]["timestamp"])
        await storage.close()

    run(test)


def test_example_storage_factory(tmp_path: Path) -> None:
    async def test() -> None:
        config = {"path": tmp_path / "agent.walkv"}
        walkv_storage = StorageFactory.create_storage_backend(StorageType.WALKV, config)
        memory_storage = StorageFactory.create_storage_backend(StorageType.MEMORY, config)
        for storage in (walkv_storage, memory_storage):
            await storage.initialize()
            await storage.create_session("s", "u")
            assert await storage.get_session("s") is not None
            await storage.close()
        assert [path.name for path in tmp_path.iterdir()] == ["agent.walkv"]

    run(test)


def test_example_storage_adapter(tmp_path: Path) -> None:
    async def test() -> None:
        primary = PlainStorage()
        fallback = WalkvStorageBackend(tmp_path / "s")
        adapter = StorageAdapter(primary, fallback)
        await adapter.initialize()
        await adapter.create_session("s", "u", {"k": 1})
        primary.refusals["*"] = ConnectionError("Connection refused")
        found = await adapter.get_session("s")
        assert found is not None
        assert found["metadata"] == {"k": 1}
        assert adapter.failover_count == 1
        primary.refusals.clear()
        await adapter.close()

    run(test)


async def diagnose_connection_issue(storage_backend: IStorageBackend) -> list[str]:
    said = []
    try:
        said.append(f"initialized: {await storage_backend.initialize()}")
        health = await storage_backend.health_check()
        said.append(f"health: {health['status']}")
        metrics = await storage_backend.get_metrics()
        said.append(f"sessions: {metrics['total_sessions']}")
    except StorageConnectionError as error:
        said.append(f"failed: {type(error.__cause__).__name__}")
    return said


async def diagnose_data_consistency(storage_backend: IStorageBackend) -> bool:
    session = await storage_backend.create_session("test_consistency", "test_user")
    retrieved_session = await storage_backend.get_session("test_consistency")
    ended = await storage_backend.end_session("test_consistency")
    return session == retrieved_session and ended


def test_example_diagnoses(tmp_path: Path) -> None:
    async def test() -> None:
        async with WalkvStorageBackend(tmp_path / "s") as storage:
            assert await diagnose_connection_issue(storage) == [
                "initialized: True",
                "health: healthy",
                "sessions: 0",
            ]
            assert await diagnose_data_consistency(storage)
            second = WalkvStorageBackend(tmp_path / "s")
            assert await diagnose_connection_issue(second) == ["failed: LockedError"]

    run(test)


def test_example_health_checker(tmp_path: Path) -> None:
    async def test() -> None:
        storage = WalkvStorageBackend(tmp_path / "s")
        health = await StorageHealthChecker(storage).check_health()
        assert list(health) == ["status", "timestamp", "checks"]
        assert health["status"] == "healthy"
        assert is_utc_text(health["timestamp"])
        assert health["checks"]["connection"] == "ok"
        assert health["checks"]["performance"].startswith("ok (0.")
        await storage.close()
        health = await StorageHealthChecker(storage).check_health()
        assert health["status"] == "unhealthy"
        assert health["checks"]["connection"].startswith("error: ")
        assert health["checks"]["performance"].startswith("error: ")
        broken = PlainStorage()
        broken.refusals["get_metrics"] = ValueError("no")
        health = await StorageHealthChecker(broken).check_health()
        assert health["status"] == "unhealthy"
        assert health["checks"] == {"connection": "ok", "performance": "error: no"}

    run(test)


def test_example_migrator() -> None:
    async def test() -> None:
        source, target = PlainStorage(), MemoryStorageBackend()
        for number in range(250):
            await source.create_session(f"s{number:03}", "u", {"n": number})
        migrator = StorageMigrator(source, target)
        assert await migrator.migrate_sessions(batch_size=100) == 250
        assert await migrator.migrate_sessions() == 0
        found = await target.batch_get_sessions(list(source.sessions))
        assert [each and each["metadata"]["n"] for each in found] == list(range(250))
        await target.close()

    run(test)


def test_example_batches_and_a_cache(tmp_path: Path) -> None:
    class CachedStorageBackend:
        def __init__(self, underlying_storage: IStorageBackend) -> None:
            self.storage = underlying_storage
            self._cache: dict[str, dict[str, Any]] = {}

        async def get_session(self, session_id: str) -> dict[str, Any] | None:
            if session_id in self._cache:
                return self._cache[session_id]
            session = await self.storage.get_session(session_id)
            if session:
                self._cache[session_id] = session
            return session

    async def test() -> None:
        async with WalkvStorageBackend(tmp_path / "s") as storage:
            wanted = [{"session_id": f"s{n}", "user_id": "u"} for n in range(100)]
            assert await storage.batch_create_sessions(wanted) == [True] * 100
            found = await storage.batch_get_sessions(["s7", "none", "s3"])
            assert [each and each["session_id"] for each in found] == ["s7", None, "s3"]
            cached = CachedStorageBackend(storage)
            assert await cached.get_session("s7") is await cached.get_session("s7")
            assert await cached.get_session("s7") == found[0]

    run(test)


def test_example_monitor() -> None:
    async def test() -> None:
        monitor = StorageMonitor(MemoryStorageBackend(), kept_latencies=100)
        for number in range(1, 1001):
            await monitor.record_operation("get_session", number / 1000, number % 4 != 0)
        await monitor.record_operation("create_session", 0.5, True)
        report = monitor.get_performance_report()
        assert report["get_session"] == {
            "total_operations": 1000,
            "error_count": 250,
            "error_rate": 0.25,
            "avg_latency": pytest.approx(0.5005),
            "min_latency": 0.001,
            "max_latency": 1.0,
            "p95_latency": 0.995,  # of the last hundred
        }
        assert report["create_session"]["p95_latency"] == 0.5
        with pytest.raises(ValueError, match="kept_latencies"):
            StorageMonitor(None, kept_latencies=0)

    run(test)


def test_example_logger(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        logger = StorageLogger(MemoryStorageBackend())
        with caplog.at_level(logging.INFO, "walkv"):
            await logger.log_operation("get_session", "s", True, 0.1)
            await logger.log_operation("get_session", "s", False, 0.1, "refused")
            await logger.log_health_check({"status": "healthy"})
            await logger.log_health_check({"status": "unhealthy"})
        levels = [record.levelname for record in caplog.records]
        assert levels == ["INFO", "ERROR", "INFO", "INFO", "WARNING"]
        assert "'error': 'refused'" in caplog.records[1].getMessage()

    run(test)


# -- protocols -----------------------------------------------------------------------------------


def methods_of(protocol: type[Any]) -> list[str]:
    return [name for name in dir(protocol) if not name.startswith("_")]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_everything_conforms(protocol: type[Any]) -> None:
    async def test() -> None:
        names = methods_of(protocol)
        assert len(names) == PROTOCOLS[protocol]
        backends: list[Any] = [WalkvStorageBackend("nowhere"), MemoryStorageBackend()]
        if protocol is not IListableStorage:
            backends.append(StorageAdapter(*backends))
        for backend in [*backends, StorageMonitor(backends[1]).wrap()]:
            assert isinstance(backend, protocol)
            for name in names:
                expected = inspect.signature(getattr(protocol, name)).parameters
                actual = inspect.signature(getattr(type(backend), name)).parameters
                assert [(p.name, p.default) for p in list(actual.values())[1:]] == [
                    (p.name, p.default) for p in list(expected.values())[1:]
                ]
                assert inspect.iscoroutinefunction(getattr(backend, name))
        assert not isinstance(object(), protocol)

    run(test)


def test_who_inherits_an_interface_has_to_implement_it() -> None:
    class Half(ISessionStorage):
        async def get_session(self, session_id: str) -> dict[str, Any] | None:
            return None

    with pytest.raises(TypeError, match="abstract"):
        Half()  # type: ignore[abstract]


def test_the_package_shows_what_it_says() -> None:
    assert package.__all__ == sorted(package.__all__, key=lambda name: name)
    for name in package.__all__:
        assert inspect.getdoc(getattr(package, name)), name


# -- the backend ---------------------------------------------------------------------------------


def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    async def fill(storage: WalkvStorageBackend) -> None:
        await storage.create_session("s", "u", {"k": [1, {"deep": True}]})
        assert await storage.update_session("s", {"metadata": {"k": 2}}, True, 1.25, True)
        await storage.add_conversation_message("s", "user", "hello")
        await storage.put_checkpoint("t", "c1", {"step": 1}, {"source": "loop"})
        await storage.store_checkpoint("t", "c2", {"step": 2})
        await storage.put_writes("t", "c2", "task", [("a", 1), ("b", {"x": None})])
        await storage.store_task_context(
            "s", {"goal": "rest", "when": datetime(2025, 1, 1, tzinfo=UTC)}
        )

    async def everything(storage: WalkvStorageBackend) -> list[Any]:
        return [
            await storage.get_session("s"),
            await storage.get_conversation_history("s"),
            await storage.get_checkpoint("t"),
            await storage.list_checkpoints("t"),
            await storage.get_writes("t", "c2"),
            await storage.get_task_context("s"),
        ]

    async def test() -> None:
        for storage in (WalkvStorageBackend(tmp_path / "s"), MemoryStorageBackend()):
            await fill(storage)
            before = await everything(storage)
            await storage.close()
            await storage.initialize()
            assert await everything(storage) == before
            await storage.close()
        async with WalkvStorageBackend(tmp_path / "s", read_only=True) as reader:
            found = await everything(reader)
            assert found[0]["metadata"] == {"k": 2}
            assert found[0]["request_count"] == found[0]["error_count"] == 1
            assert found[0]["total_processing_time"] == 1.25
            assert [each["checkpoint_id"] for each in found[3]] == ["c2", "c1"]
            assert found[4] == [("task", "a", 1), ("task", "b", {"x": None})]
            assert found[5] == {"goal": "rest", "when": datetime(2025, 1, 1, tzinfo=UTC)}
            health = await reader.health_check()
            assert (health["status"], health["read_only"]) == ("healthy", True)
            with pytest.raises(walkv.ReadOnlyError):
                await reader.end_session("s")

    run(test)


def test_a_session_that_is_there_is_taken_over() -> None:
    async def test() -> None:
        async with MemoryStorageBackend() as storage:
            first = await storage.create_session("s", "ada", {"a": 1})
            await storage.update_session("s", {"status": "paused"}, increment_requests=True)
            again = await storage.create_session("s", "bob", {"b": 2})
            assert again == await storage.get_session("s")
            assert again == {
                **first,
                "user_id": "bob",
                "metadata": {"b": 2},
                "status": "paused",
                "request_count": 1,
                "updated_at": again["updated_at"],
            }
            assert again["updated_at"] >= first["updated_at"]
            assert (await storage.create_session("s", "bob"))["metadata"] == {}

    run(test)


def test_a_session_that_goes_while_it_is_taken_over_is_made_anew() -> None:
    async def test() -> None:
        async with MemoryStorageBackend() as storage:
            await storage.create_session("s", "ada")
            await storage.update_session("s", increment_requests=True)
            agent = await storage.agent()
            update = agent.sessions.update

            async def delete_first(*args: Any, **kwargs: Any) -> Any:
                await agent.sessions.delete("s")
                return await update(*args, **kwargs)

            agent.sessions.update = delete_first  # type: ignore[method-assign]
            made = await storage.create_session("s", "bob")
            assert (made["user_id"], made["request_count"]) == ("bob", 0)

    run(test)


def test_memory_holds_every_byte_once() -> None:
    async def test() -> None:
        storage = MemoryStorageBackend(memtable_bytes=walkv.limits.MIN_MEMTABLE_BYTES)
        await storage.create_session("s", "u")
        for number in range(300):
            await storage.add_conversation_message("s", "user", f"{number} " * 200)
        files = [
            node
            for directory in storage._options["filesystem"]._directories.values()
            for node in directory.entries.values()
            if isinstance(node, SimulatedFile)
        ]
        assert sum(len(each.data) for each in files) > 10_000
        assert [each for each in files if each.pending or each.base] == []
        await storage.close()

    run(test)


def test_what_is_not_there() -> None:
    async def test() -> None:
        async with MemoryStorageBackend() as storage:
            assert await storage.get_session("none") is None
            assert await storage.update_session("none", increment_requests=True) is False
            assert await storage.end_session("none") is False
            assert await storage.get_conversation_history("none") == []
            assert await storage.get_checkpoint("none") is None
            assert await storage.list_checkpoints("none") == []
            assert await storage.get_writes("none", "none") == []
            assert await storage.get_task_context("none") is None
            assert await storage.batch_get_sessions([]) == []
            assert await storage.batch_create_sessions([]) == []
            assert await storage.cleanup_expired_sessions() == 0
            assert await storage.list_session_ids() == []
            await storage.create_session("s", "u")
            await storage.put_checkpoint("t", "c", {})
            assert await storage.get_checkpoint("t", "none") is None

    run(test)


def test_updates_by_the_names_of_the_interface() -> None:
    async def test() -> None:
        async with MemoryStorageBackend() as storage:
            session = await storage.create_session("s", "u")
            wanted = {
                **session,
                "user_id": "v",
                "created_at": "2025-01-01T00:00:00.000001+00:00",
                "updated_at": "2025-01-02T01:00:00+00:00",
                "status": "failed",
                "metadata": {"m": 1},
                "request_count": 7,
                "total_processing_time": 2.5,
                "error_count": 3,
            }
            assert await storage.update_session("s", wanted)
            assert await storage.get_session("s") == wanted
            await storage.update_session("s", {"created_at": "2025-01-01T02:00:00+02:00"})
            await storage.update_session("s", {"updated_at": "2025-01-03T00:00:00"})
            changed = await storage.get_session("s")
            assert changed is not None
            assert changed["created_at"] == "2025-01-01T00:00:00+00:00"
            assert changed["updated_at"] == "2025-01-03T00:00:00+00:00"

    run(test)


def test_history_is_the_newest_messages_oldest_first() -> None:
    async def test() -> None:
        async with MemoryStorageBackend(max_messages=80) as storage:
            await storage.create_session("s", "u")
            for number in range(100):
                await storage.add_conversation_message("s", "user", str(number))
            history = await storage.get_conversation_history("s")
            assert [each["content"] for each in history] == [str(n) for n in range(50, 100)]
            history = await storage.get_conversation_history("s", limit=3)
            assert [each["content"] for each in history] == ["97", "98", "99"]
            assert len(await storage.get_conversation_history("s", limit=1000)) == 80

    run(test)


def test_checkpoints_are_listed_newest_first_and_replaced_in_place() -> None:
    async def test() -> None:
        async with MemoryStorageBackend() as storage:
            for number in range(15):
                assert await storage.store_checkpoint("t", f"c{number}", {"n": number}, {"m": 1})
            assert await storage.put_checkpoint("t", "c3", {"n": "new"}) is True
            latest = await storage.get_checkpoint("t")
            assert latest == {
                "thread_id": "t",
                "checkpoint_id": "c14",
                "checkpoint_data": {"n": 14},
                "data": {"n": 14},
                "metadata": {"m": 1},
                "created_at": latest and latest["created_at"],
            }
            assert latest is not None
            assert is_utc_text(latest["created_at"])
            listed = await storage.list_checkpoints("t")
            assert [each["data"]["n"] for each in listed] == list(range(14, 4, -1))
            listed = await storage.list_checkpoints("t", limit=20)
            assert listed[11]["data"] == {"n": "new"}
            assert len(listed) == 15

    run(test)


def test_writes_of_a_checkpoint() -> None:
    async def test() -> None:
        async with MemoryStorageBackend() as storage:
            await storage.put_checkpoint("t", "c", {})
            assert await storage.put_writes("t", "c", "b", [("x", 1), ("y", 2)]) is True
            await storage.put_writes("t", "c", "a", [("z", {"deep": [1]})])
            # A task that is run again writes the same once.
            await storage.put_writes("t", "c", "b", [("x", 1), ("y", 2), ("more", 3)])
            assert await storage.get_writes("t", "c") == [
                ("a", "z", {"deep": [1]}),
                ("b", "x", 1),
                ("b", "y", 2),
                ("b", "more", 3),
            ]
            for bad in ([("x",)], [("x", 1, 2)], ["xy"]):
                with pytest.raises(CodecError, match="writes_data"):
                    await storage.put_writes("t", "c", "c", bad)  # type: ignore[arg-type]

    run(test)


def test_sessions_with_nothing_new_expire_with_what_is_theirs() -> None:
    async def test() -> None:
        async with MemoryStorageBackend() as storage:
            for name in ("idle", "talking", "new"):
                await storage.create_session(name, "u")
                await storage.store_task_context(name, {})
            # The context was stored now; without it only the message keeps a session.
            agent = await storage.agent()
            await agent.task_contexts.delete("idle")
            await agent.task_contexts.delete("talking")
            await storage.add_conversation_message("talking", "user", "hello")
            old = (datetime.now(UTC) - timedelta(hours=30)).isoformat()
            for name in ("idle", "talking"):
                await storage.update_session(name, {"updated_at": old})
            assert await storage.cleanup_expired_sessions(max_idle_hours=48) == 0
            assert await storage.cleanup_expired_sessions() == 1
            assert await storage.list_session_ids() == ["new", "talking"]

    run(test)


def test_metrics_count_everything() -> None:
    async def test() -> None:
        async with MemoryStorageBackend() as storage:
            for number in range(4):
                await storage.create_session(f"s{number}", "u")
                await storage.update_session(f"s{number}", None, True, 0.5, number == 0)
            await storage.end_session("s0", "failed")
            await storage.add_conversation_message("s1", "user", "hello")
            await storage.put_checkpoint("t", "c", {})
            await storage.store_task_context("s1", [])
            metrics = await storage.get_metrics()
            assert metrics == {
                "timestamp": metrics["timestamp"],
                "total_sessions": 4,
                "active_sessions": 3,
                "sessions_by_status": {"active": 3, "failed": 1},
                "total_requests": 4,
                "total_errors": 1,
                "total_processing_time": 2.0,
                "average_processing_time": 0.5,
                "total_messages": 1,
                "total_checkpoints": 1,
                "total_task_contexts": 1,
                "disk_bytes": metrics["disk_bytes"],
            }

    run(test)


def test_lists_of_ids_go_page_by_page() -> None:
    async def test() -> None:
        async with MemoryStorageBackend() as storage:
            names = [f"n{number:02}" for number in range(25)]
            for name in reversed(names):
                await storage.create_session(name, "u")
                await storage.add_conversation_message(name, "user", "a")
                await storage.add_conversation_message(name, "user", "b")
                await storage.put_checkpoint(name, "c", {})
                await storage.store_task_context(name, 1)
            for kind in ("session", "conversation", "thread", "task_context"):
                method = getattr(storage, f"list_{kind}_ids")
                assert await method() == names
                assert await method(limit=10) == names[:10]
                assert await method("n09", 10) == names[10:20]
                assert await method("n24") == []

    run(test)


def test_batches_are_all_or_nothing() -> None:
    async def test() -> None:
        async with MemoryStorageBackend() as storage:
            await storage.create_session("there", "u")
            await storage.update_session("there", increment_requests=True)
            for bad in (
                {"session_id": "x"},
                {"user_id": "u"},
                {"session_id": "x", "user_id": "u", "status": "active"},
                {"session_id": "x", "user_id": 5},
                {"session_id": "x", "user_id": "u", "metadata": {"o": object()}},
            ):
                with pytest.raises(CodecError, match="sessions"):
                    await storage.batch_create_sessions(
                        [{"session_id": "new", "user_id": "u"}, bad]
                    )
            assert await storage.list_session_ids() == ["there"]
            made = await storage.batch_create_sessions(
                [
                    {"session_id": "there", "user_id": "v", "metadata": {"k": 1}},
                    {"session_id": "new", "user_id": "a"},
                    {"session_id": "new", "user_id": "b"},
                ]
            )
            assert made == [True, True, True]
            there, new = await storage.batch_get_sessions(["there", "new"])
            assert there is not None
            assert new is not None
            assert (there["user_id"], there["request_count"]) == ("v", 1)
            assert there["metadata"] == {"k": 1}
            assert new["user_id"] == "b"

    run(test)


# -- many tasks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [False, True])
def test_200_tasks_count_exactly(tmp_path: Path, memory: bool) -> None:
    async def test() -> None:
        storage = MemoryStorageBackend() if memory else WalkvStorageBackend(tmp_path / "s")
        async with storage:
            await storage.create_session("s", "u")
            done = await asyncio.gather(
                *(storage.update_session("s", None, True, 0.25, n % 4 == 0) for n in range(200))
            )
            assert done == [True] * 200
            found = await storage.get_session("s")
            assert found is not None
            assert found["request_count"] == 200
            assert found["total_processing_time"] == 50.0
            assert found["error_count"] == 50

    run(test)


def test_tasks_that_begin_at_once_open_one_store(tmp_path: Path) -> None:
    async def test() -> None:
        storage = WalkvStorageBackend(tmp_path / "s")
        made = await asyncio.gather(*(storage.create_session("s", str(n)) for n in range(50)))
        assert len({each["created_at"] for each in made}) == 1
        counts = await asyncio.gather(
            *(storage.add_conversation_message("s", "user", str(n)) for n in range(100))
        )
        assert counts == [True] * 100
        history = await storage.get_conversation_history("s", 1000)
        assert [each["content"] for each in history] == [str(n) for n in range(100)]
        await storage.close()

    run(test)


def test_a_message_does_not_outlive_a_session_that_goes_meanwhile(tmp_path: Path) -> None:
    async def test() -> None:
        async with WalkvStorageBackend(tmp_path / "s") as storage:
            agent = await storage.agent()
            await storage.create_session("s", "u")
            append = agent.messages.append

            async def delete_first(*args: Any, **kwargs: Any) -> Any:
                await agent.sessions.delete("s")
                return await append(*args, **kwargs)

            agent.messages.append = delete_first  # type: ignore[method-assign]
            with pytest.raises(SessionNotFoundError):
                await storage.add_conversation_message("s", "user", "hello")
            assert await agent.messages.count() == 0

    run(test)


# -- life and errors -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["store", "async store", "agent", "async agent"])
def test_what_is_given_open_stays_open(tmp_path: Path, kind: str) -> None:
    async def test() -> None:
        with walkv.open(tmp_path / "s") as store:
            makers: dict[str, Callable[[], Any]] = {
                "store": lambda: store,
                "async store": lambda: walkv.AsyncStore.of(store),
                "agent": lambda: AgentStore(store),
                "async agent": lambda: AsyncAgentStore(store),
            }
            source = makers[kind]()
            if isinstance(source, AsyncAgentStore):
                await source.__aenter__()
            async with WalkvStorageBackend(source) as storage:
                await storage.create_session("s", "u")
            assert not store.closed
            with AgentStore(store) as agent:
                assert agent.sessions.get("s") is not None
            with pytest.raises(ClosedError, match=r"initialize\(\)"):
                await storage.get_session("s")
            await storage.initialize()
            assert await storage.get_session("s") is not None

    run(test)


def test_an_agent_that_was_not_open_is_opened_and_closed(tmp_path: Path) -> None:
    async def test() -> None:
        agent = AsyncAgentStore(tmp_path / "s")
        async with WalkvStorageBackend(agent) as storage:
            await storage.create_session("s", "u")
            assert await storage.agent() is agent
        assert agent.closed
        with pytest.raises(ClosedError, match="was closed"):
            await storage.initialize()

    run(test)


def test_policies_of_an_agent_are_kept(tmp_path: Path) -> None:
    async def test() -> None:
        policies: dict[str, SyncPolicy] = {"sessions": WriteThrough(), "messages": WriteBack()}
        with AgentStore(tmp_path / "s", policies=policies) as agent:
            async with WalkvStorageBackend(agent) as storage:
                await storage.create_session("s", "u")
                before = agent.store.stats().sync_count
                await storage.add_conversation_message("s", "user", "hello")
                assert agent.store.stats().sync_count == before
                await storage.end_session("s")
                assert agent.store.stats().sync_count > before

    run(test)


def test_options_that_cannot_be_meant(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="no option 'pool_size'; cache_bytes, create"):
        WalkvStorageBackend(tmp_path, pool_size=3)
    with walkv.open(tmp_path / "s") as store:
        with pytest.raises(TypeError, match="cache_bytes is for a path"):
            WalkvStorageBackend(store, cache_bytes=3)
        with pytest.raises(TypeError, match="policies already"):
            WalkvStorageBackend(AgentStore(store), policies={"messages": WriteBack()})
        WalkvStorageBackend(store, policies={"messages": WriteBack()})


def test_factory_says_what_there_is(tmp_path: Path) -> None:
    made = StorageFactory.create_storage_backend("walkv", {"path": tmp_path, "max_messages": 5})
    assert type(made) is WalkvStorageBackend
    assert type(StorageFactory.create_storage_backend(StorageType.MEMORY)) is MemoryStorageBackend
    with pytest.raises(ValueError, match="no storage type 'redis'; 'walkv', 'memory'"):
        StorageFactory.create_storage_backend("redis", {"redis_url": "redis://localhost"})
    with pytest.raises(ValueError, match="needs a path"):
        StorageFactory.create_storage_backend(StorageType.WALKV, {})
    with pytest.raises(TypeError, match="no option 'redis_url'"):
        StorageFactory.create_storage_backend(StorageType.MEMORY, {"redis_url": ""})


def test_errors_are_typed(tmp_path: Path) -> None:
    async def test() -> None:
        assert issubclass(StorageError, WalkvError)
        assert issubclass(SessionNotFoundError, StorageError | KeyError)
        async with WalkvStorageBackend(tmp_path / "s") as storage:
            with pytest.raises(SessionNotFoundError, match="no session 'none'") as caught:
                await storage.add_conversation_message("none", "user", "hello")
            assert caught.value.session_id == "none"
            await storage.create_session("s", "u")
            with pytest.raises(CodecError, match=r"sessions\.status: 'gone' is not one of"):
                await storage.end_session("s", "gone")
            with pytest.raises(CodecError, match=r"sessions\.nonsense"):
                await storage.update_session("s", {"nonsense": 1})
            with pytest.raises(CodecError, match=r"sessions\.created_at: this is no time"):
                await storage.update_session("s", {"created_at": "soon"})
            with pytest.raises(CodecError, match=r"task_contexts\.context"):
                await storage.store_task_context("s", object())
            with pytest.raises(CodecError):
                await storage.put_checkpoint("t", "c", {"o": object()})
            with pytest.raises(LimitError, match="session_id"):
                await storage.create_session("x" * 5000, "u")
        async with WalkvStorageBackend(tmp_path / "s", require_session=False) as storage:
            assert await storage.add_conversation_message("none", "user", "hello")

    run(test)


def test_what_cannot_be_opened_is_a_connection_error(tmp_path: Path) -> None:
    async def test() -> None:
        (tmp_path / "file").write_text("no store")
        for storage in (
            WalkvStorageBackend(tmp_path / "none", create=False),
            WalkvStorageBackend(tmp_path / "none", read_only=True),
            WalkvStorageBackend(tmp_path / "file"),
        ):
            with pytest.raises(StorageConnectionError, match="cannot be opened") as caught:
                await storage.get_session("s")
            assert isinstance(caught.value.__cause__, OSError | WalkvError)
        # It is tried again.
        storage = WalkvStorageBackend(tmp_path / "locked")
        with walkv.open(tmp_path / "locked"), pytest.raises(StorageConnectionError):
            await storage.initialize()
        assert await storage.initialize()
        await storage.close()
        await storage.close()

    run(test)


def test_a_disk_that_fails_is_a_connection_error(tmp_path: Path) -> None:
    async def test() -> None:
        fs = FaultyFileSystem()
        storage = WalkvStorageBackend(tmp_path / "s", filesystem=fs)
        await storage.create_session("s", "u")
        fs.fault = Fault(lambda call: call.operation == "sync_data", forever=True)
        with pytest.raises(StorageConnectionError, match="does not work") as caught:
            await storage.create_session("t", "u")
        assert isinstance(caught.value.__cause__, StoreFailedError)
        health = await StorageHealthChecker(storage).check_health()
        assert health["status"] == "unhealthy"
        assert "does not work" in health["checks"]["connection"]
        with pytest.raises(StorageConnectionError):
            await storage.close()
        fs.heal()
        assert await storage.initialize()
        assert await storage.get_session("s") is not None
        await storage.close()

    run(test)


# -- the adapter ---------------------------------------------------------------------------------


def test_reads_fall_back_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        primary, fallback = PlainStorage(), MemoryStorageBackend()
        adapter = StorageAdapter(primary, fallback)
        await adapter.create_session("s", "u")
        await adapter.add_conversation_message("s", "user", "hello")
        await adapter.put_checkpoint("t", "c", {"n": 1})
        await adapter.put_writes("t", "c", "task", [("x", 1)])
        await adapter.store_task_context("s", {"k": 1})
        primary.refusals["*"] = ConnectionError("gone")
        with caplog.at_level(logging.WARNING, "walkv"):
            assert (await adapter.get_session("s") or {})["user_id"] == "u"
            assert len(await adapter.get_conversation_history("s")) == 1
            assert (await adapter.get_checkpoint("t") or {})["data"] == {"n": 1}
            assert len(await adapter.list_checkpoints("t")) == 1
            assert await adapter.get_writes("t", "c") == [("task", "x", 1)]
            assert await adapter.get_task_context("s") == {"k": 1}
            assert len(await adapter.batch_get_sessions(["s"])) == 1
            assert (await adapter.get_metrics())["adapter"]["failover_count"] == 8
        assert adapter.failover_count == len(caplog.records) == 8
        assert adapter.divergence_count == 0
        # "There is none" is an answer.
        primary.refusals.clear()
        primary.sessions.clear()
        assert await adapter.get_session("s") is None
        await fallback.close()

    run(test)


def test_when_both_sides_fail_the_primary_is_told_of() -> None:
    async def test() -> None:
        primary, fallback = PlainStorage(), PlainStorage()
        primary.refusals["*"] = ConnectionError("one")
        fallback.refusals["*"] = OSError("two")
        adapter = StorageAdapter(primary, fallback)
        for call in (
            adapter.get_session("s"),
            adapter.create_session("s", "u"),
            adapter.initialize(),
            adapter.health_check(),
            adapter.close(),
        ):
            with pytest.raises(ConnectionError, match="one"):
                await call
        with pytest.raises(ConnectionError) as caught:
            await adapter.end_session("s")
        assert caught.value.__notes__[-1:] == ["the fallback failed as well: OSError('two')"]
        assert adapter.divergence_count == 0
        assert fallback.calls.count("close") == 1

    run(test)


def test_what_one_side_refuses_is_a_divergence(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        primary, fallback = PlainStorage(), PlainStorage()
        adapter = StorageAdapter(primary, fallback, max_divergences=3)
        fallback.refusals["create_session"] = ConnectionError("gone")
        made = await adapter.create_session("s", "u")
        assert made["session_id"] == "s"
        (found,) = adapter.divergences
        assert (found.operation, found.subject, found.refused_by) == (
            "create_session",
            "s",
            "fallback",
        )
        assert found.reason == "ConnectionError('gone')"
        assert found.at.utcoffset() == timedelta(0)
        # Now only one side has the session.
        assert await adapter.update_session("s", increment_requests=True) is True
        assert "False" in adapter.divergences[-1].reason
        primary.refusals["add_conversation_message"] = ConnectionError("gone")
        assert await adapter.add_conversation_message("s", "user", "hello") is True
        assert adapter.divergences[-1].refused_by == "primary"
        assert len(fallback.histories["s"]) == 1
        health = await adapter.health_check()
        assert health["status"] == "degraded"
        assert health["divergence_count"] == 3
        checked = await StorageHealthChecker(adapter).check_health()
        assert checked["status"] == "degraded"
        for _ in range(4):
            await adapter.add_conversation_message("s", "user", "hello")
        assert len(adapter.divergences) == 3
        assert adapter.divergence_count == 7
        errors = [record for record in caplog.records if record.levelname == "ERROR"]
        assert len(errors) == 7
        assert "did not take create_session(s)" in errors[0].getMessage()
        adapter.clear_divergences()
        assert (adapter.divergences, adapter.divergence_count) == ([], 0)

    run(test)


def test_a_side_without_a_method_refuses_it() -> None:
    class Sessions:
        async def end_session(self, session_id: str, status: str = "completed") -> bool:
            return True

    async def test() -> None:
        adapter = StorageAdapter(PlainStorage(), Sessions())
        await adapter.put_writes("t", "c", "task", [("x", 1)])
        assert "put_writes" in adapter.divergences[0].reason
        adapter = StorageAdapter(Sessions(), PlainStorage())
        assert await adapter.put_writes("t", "c", "task", [("x", 1)])
        assert adapter.divergences[0].refused_by == "primary"

    run(test)


def test_both_sides_see_one_order() -> None:
    async def test() -> None:
        primary, fallback = PlainStorage(newest_first=False), PlainStorage(newest_first=False)
        fallback._random.seed(99)
        adapter = StorageAdapter(primary, fallback)
        await asyncio.gather(
            *(adapter.add_conversation_message(f"s{n % 3}", "user", str(n)) for n in range(300))
        )
        for name in ("s0", "s1", "s2"):
            contents = [each["content"] for each in primary.histories[name]]
            assert [each["content"] for each in fallback.histories[name]] == contents
            assert len(contents) == 100

    run(test)


def test_a_caller_that_gives_up_leaves_both_sides_alike() -> None:
    async def test() -> None:
        primary, fallback = PlainStorage(), PlainStorage()
        adapter = StorageAdapter(primary, fallback)
        fallback.held = asyncio.Event()
        task = asyncio.create_task(adapter.create_session("s", "u"))
        while "create_session" not in primary.calls:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert "s" not in fallback.sessions
        closing = asyncio.create_task(adapter.close())
        for _ in range(20):
            await asyncio.sleep(0)
        assert "close" not in primary.calls
        fallback.held.set()
        await closing
        assert fallback.calls == ["create_session", "close"]
        assert "s" in primary.sessions
        assert "s" in fallback.sessions

    run(test)


def test_an_adapter_with_one_side_ready_or_only_one() -> None:
    async def test() -> None:
        primary, fallback = PlainStorage(), PlainStorage()
        primary.refusals["initialize"] = ConnectionError("gone")
        adapter = StorageAdapter(primary, fallback)
        assert await adapter.initialize() is True
        assert adapter.divergences[0].operation == "initialize"
        alone = StorageAdapter(fallback)
        assert await alone.initialize() is True
        await alone.create_session("s", "u")
        assert await alone.get_session("s") is not None
        assert (await alone.health_check())["status"] == "healthy"
        fallback.refusals["*"] = ConnectionError("gone")
        for call in (alone.get_session("s"), alone.create_session("s", "u")):
            with pytest.raises(ConnectionError):
                await call
        assert alone.divergences == []

    run(test)


def test_every_method_goes_to_both_sides_with_its_arguments(tmp_path: Path) -> None:
    async def test() -> None:
        primary, fallback = MemoryStorageBackend(), WalkvStorageBackend(tmp_path / "s")
        adapter = StorageAdapter(primary, fallback)
        await adapter.initialize()
        await adapter.batch_create_sessions([{"session_id": "b", "user_id": "u"}])
        await adapter.create_session("s", "u", metadata={"k": 1})
        await adapter.update_session("s", {"status": "paused"}, True, 1.5, True)
        await adapter.end_session("s", "failed")
        await adapter.add_conversation_message("s", "user", "hello", {"m": 1})
        await adapter.store_task_context("s", {"c": 1})
        await adapter.store_checkpoint("t", "c1", {"n": 1}, {"m": 1})
        await adapter.put_checkpoint("t", "c2", {"n": 2}, metadata={"m": 2})
        await adapter.put_writes("t", "c2", "task", [("x", 1)])
        assert await adapter.cleanup_expired_sessions(24) == 0
        assert adapter.divergences == []

        def timeless(record: Any) -> Any:
            if isinstance(record, list):
                return [timeless(each) for each in record]
            if not isinstance(record, dict):
                return record
            times = ("created_at", "updated_at", "timestamp")
            return {name: value for name, value in record.items() if name not in times}

        for name, arguments in (
            ("get_session", ("s",)),
            ("batch_get_sessions", (["s", "b"],)),
            ("get_conversation_history", ("s", 5)),
            ("get_task_context", ("s",)),
            ("get_checkpoint", ("t", "c1")),
            ("list_checkpoints", ("t", 5)),
            ("get_writes", ("t", "c2")),
        ):
            found = [
                timeless(await getattr(side, name)(*arguments))
                for side in (adapter, primary, fallback)
            ]
            assert found[0]
            assert found[0] == found[1] == found[2]
        assert (await adapter.get_session("s") or {})["status"] == "failed"
        await adapter.close()

    run(test)


# -- monitor -------------------------------------------------------------------------------------


def test_a_wrapped_backend_is_recorded() -> None:
    async def test() -> None:
        backend = MemoryStorageBackend()
        monitor = StorageMonitor(backend)
        storage = monitor.wrap()
        await storage.create_session("s", "u")
        for _ in range(3):
            assert await storage.get_session("s") is not None
        with pytest.raises(CodecError):
            await storage.end_session("s", status="gone")
        with pytest.raises(SessionNotFoundError):
            await storage.add_conversation_message("none", "user", "hello")
        assert await storage.agent() is await backend.agent()
        report = monitor.get_performance_report()
        counts = {
            name: (each["total_operations"], each["error_count"]) for name, each in report.items()
        }
        assert counts == {
            "create_session": (1, 0),
            "get_session": (3, 0),
            "end_session": (1, 1),
            "add_conversation_message": (1, 1),
        }
        assert report["end_session"]["error_rate"] == 1.0
        for each in report.values():
            assert 0 < each["min_latency"] <= each["avg_latency"] <= each["max_latency"]
            assert each["min_latency"] <= each["p95_latency"] <= each["max_latency"]
        assert storage.agent.__name__ == "agent"
        await storage.close()

    run(test)


def test_what_is_cancelled_is_not_recorded() -> None:
    async def test() -> None:
        backend = PlainStorage()
        backend.held = asyncio.Event()
        monitor = StorageMonitor(backend)
        task = asyncio.create_task(monitor.wrap().get_session("s"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert monitor.get_performance_report() == {}

    run(test)


# -- migration -----------------------------------------------------------------------------------


class _StopError(Exception):
    """The process ends here, as far as a test is concerned."""


async def fill(storage: WalkvStorageBackend) -> None:
    """Records of every kind, with what makes them hard to copy."""
    for number in range(23):
        session_id = f"s{number:02}"
        await storage.create_session(session_id, f"u{number % 3}", {"n": number})
        await storage.update_session(session_id, None, True, 0.1 * number, number % 2 == 0)
        if number % 5 == 0:
            await storage.end_session(session_id, "failed")
    await storage.update_session("s01", {"created_at": "2024-02-29T12:00:00.000001+00:00"})
    agent = await storage.agent()
    for session_id, count in (("s00", 17), ("s01", 1), ("s02", 40)):
        for number in range(count):
            metadata = {"n": number}
            await storage.add_conversation_message(session_id, "user", f"text {number}", metadata)
    await agent.messages.append(
        "s03", role="user", content=[{"type": "text", "text": "parts"}], message_id="known"
    )
    await agent.messages.delete(("s02", 1))
    await agent.messages.delete(("s02", 20))
    await agent.messages.append("without a session", role="user", content="alone")
    for thread in ("t1", "t2"):
        state: dict[str, Any] = {"messages": []}
        for number in range(12):
            state["messages"].append(f"{thread} {number} " * 50)
            await agent.checkpoints.put(
                thread,
                f"c{number}",
                state,
                parent_id=f"c{number - 1}" if number else None,
                metadata={"step": number},
                run_id=f"run {number % 2}",
            )
            await storage.put_writes(thread, f"c{number}", "task", [("a", number), ("b", [1])])
    await agent.checkpoints.put("t1", "inner", {"sub": 1}, namespace="graph")
    await agent.checkpoints.put_writes("t1", "inner", "task", [("x", 1)], namespace="graph")
    await agent.checkpoints.put_writes(
        "t1", "c5", "mixed", [("__error__", "e"), ("x", 1), ("__interrupt__", "i"), ("y", 2)]
    )
    await agent.checkpoints.put_writes("t1", "c6", "special", [("__resume__", 1)], task_path="p")
    await agent.checkpoints.put_writes("t1", "c6", "special", [("__error__", 2)], task_path="p")
    for number in range(13):
        await storage.store_task_context("s00", {"version": number})
    await storage.store_task_context("s01", "once")


async def everything(storage: WalkvStorageBackend) -> dict[str, Any]:
    """All that is in a store, by the namespaces themselves."""

    def read(agent: AgentStore) -> dict[str, Any]:
        checkpoints = agent.checkpoints
        found = [
            (checkpoints.list(thread, None, namespace=namespace), thread, namespace)
            for thread in checkpoints.threads()
            for namespace in checkpoints.namespaces(thread)
        ]
        assert agent.verify() == []
        return {
            "sessions": agent.sessions.scan(),
            "messages": agent.messages.scan(),
            "message times": [each.created_at for each in agent.messages.scan()],
            "message counts": [agent.messages.count(s) for s in ("s00", "s01", "s02", "s03")],
            "checkpoints": [each for each, _, _ in found],
            "checkpoint times": [each.created_at for listed, _, _ in found for each in listed],
            "writes": [
                checkpoints.get_writes(thread, each.checkpoint_id, namespace=namespace)
                for listed, thread, namespace in found
                for each in listed
            ],
            "contexts": agent.task_contexts.scan(),
            "old contexts": [agent.task_contexts.history(each) for each in ("s00", "s01")],
        }

    return await storage.in_thread(read)


def test_everything_migrates_as_it_is(tmp_path: Path) -> None:
    async def test() -> None:
        seen: list[tuple[str, int, int]] = []
        async with (
            WalkvStorageBackend(tmp_path / "a") as source,
            WalkvStorageBackend(tmp_path / "b") as target,
        ):
            await fill(source)
            migrator = StorageMigrator(source, target)
            report = await migrator.migrate_all(
                batch_size=7, progress=lambda *step: seen.append(step)
            )
            assert (await (await target.agent()).store.stats()).unsynced_bytes == 0
            assert report.complete
            assert report.failures == []
            counts = {
                kind: (each.copied, each.source_count, each.target_count)
                for kind, each in report.kinds.items()
            }
            assert counts == {
                "sessions": (23, 23, 23),
                "messages": (58, 58, 58),
                "checkpoints": (25, 25, 25),
                "writes": (55, 55, 55),
                "task_contexts": (2, 2, 2),
            }
            before = await everything(source)
            assert await everything(target) == before
            assert len(before["old contexts"][0]) == 10
            assert seen[:3] == [("sessions", 0, 23), ("sessions", 7, 23), ("sessions", 14, 23)]
            assert [step for step in seen if step[1] == step[2]] == [
                ("sessions", 23, 23),
                ("messages", 5, 5),
                ("checkpoints", 2, 2),
                ("task_contexts", 2, 2),
            ]
            again = await migrator.migrate_all()
            assert (again.copied, again.complete) == (0, True)
            assert await everything(target) == before
        async with WalkvStorageBackend(tmp_path / "b") as target:
            assert await everything(target) == before

    run(test)


def test_interrupted_anywhere_and_resumed() -> None:
    async def test() -> None:
        async with MemoryStorageBackend() as source:
            await fill(source)
            wanted = await everything(source)
            steps = 0
            for stop in range(1, 200):
                async with MemoryStorageBackend() as target:
                    migrator = StorageMigrator(source, target)
                    steps = 0

                    def show(kind: str, done: int, total: int, stop: int = stop) -> None:
                        nonlocal steps
                        steps += 1
                        if steps == stop:
                            raise _StopError

                    try:
                        await migrator.migrate_all(batch_size=10, progress=show)
                    except _StopError:
                        report = await StorageMigrator(source, target).migrate_all()
                        assert report.complete
                        assert await everything(target) == wanted
                    else:
                        break
            assert stop == steps + 1 > 10

    run(test)


def test_interrupted_within_a_conversation_and_a_thread(tmp_path: Path) -> None:
    """The disk fails at some write; every commit before it is there, and the next run goes on."""

    async def test() -> None:
        async with MemoryStorageBackend() as source:
            await fill(source)
            wanted = await everything(source)
            for at in (5, 12, 20, 40):
                fs = FaultyFileSystem()
                target = WalkvStorageBackend(tmp_path / str(at), filesystem=fs)
                await target.initialize()
                seen = 0

                def fails(call: Any, at: int = at) -> bool:
                    nonlocal seen
                    seen += call.operation == "write"
                    return bool(seen > at)

                fs.fault = Fault(fails, forever=True)
                with pytest.raises(StorageConnectionError):
                    await StorageMigrator(source, target).migrate_all(batch_size=3)
                fs.heal()
                with suppress(StorageConnectionError):
                    await target.close()
                await target.initialize()
                part = await everything(target)
                assert part != wanted
                assert (await StorageMigrator(source, target).migrate_all()).complete
                assert await everything(target) == wanted
                await target.close()

    run(test)


_KILLED = """
import asyncio, os, signal, sys
from walkv.interfaces.storage_backend import StorageMigrator, WalkvStorageBackend

steps = 0

def show(kind, done, total):
    global steps
    steps += 1
    if steps == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    async with WalkvStorageBackend(sys.argv[1]) as a, WalkvStorageBackend(sys.argv[2]) as b:
        await StorageMigrator(a, b).migrate_all(batch_size=5, progress=show)

asyncio.run(main())
"""


@pytest.mark.parametrize("step", [3, 9, 14])
def test_killed_half_way_and_resumed(tmp_path: Path, step: int) -> None:
    a, b = tmp_path / "a", tmp_path / "b"

    async def begin() -> None:
        async with WalkvStorageBackend(a) as source:
            await fill(source)

    async def resume() -> None:
        async with WalkvStorageBackend(a) as source, WalkvStorageBackend(b) as target:
            wanted = await everything(source)
            assert await everything(target) != wanted
            report = await StorageMigrator(source, target).migrate_all()
            assert report.complete
            assert report.copied > 0
            assert await everything(target) == wanted
            assert (await StorageMigrator(source, target).migrate_all()).copied == 0

    run(begin)
    killed = subprocess.run([sys.executable, "-c", _KILLED, a, b, str(step)], check=False)
    assert killed.returncode == -signal.SIGKILL
    run(resume)


def test_what_the_target_has_stays_as_it_is() -> None:
    async def test() -> None:
        async with MemoryStorageBackend() as source, MemoryStorageBackend() as target:
            await fill(source)
            await target.create_session("s00", "mine")
            await target.add_conversation_message("s00", "user", "mine")
            await target.store_task_context("s00", "mine")
            await target.put_checkpoint("t1", "c0", {"mine": True})
            await target.put_writes("t1", "c0", "task", [("a", "mine")])
            await target.put_writes("t1", "c6", "special", [("__error__", "mine")])
            await target.create_session("more", "mine")
            report = await StorageMigrator(source, target).migrate_all()
            assert report.complete
            assert report.kinds["sessions"].copied == 22
            assert (await target.get_session("s00") or {})["user_id"] == "mine"
            history = await target.get_conversation_history("s00")
            assert [each["content"] for each in history[:2]] == ["mine", "text 1"]
            assert await target.get_task_context("s00") == "mine"
            assert (await target.get_checkpoint("t1", "c0") or {})["data"] == {"mine": True}
            assert await target.get_writes("t1", "c6") == [
                ("special", "__error__", "mine"),
                ("task", "a", 6),
                ("task", "b", [1]),
                ("special", "__resume__", 1),  # of a task with a path: these come last
            ]
            assert await target.get_writes("t1", "c0") == [
                ("task", "a", "mine"),
                ("task", "b", [1]),
            ]

    run(test)


@pytest.mark.parametrize("newest_first", [True, False])
def test_from_and_to_another_backend(newest_first: bool) -> None:
    async def test() -> None:
        source = PlainStorage(newest_first=newest_first)
        middle = MemoryStorageBackend()
        target = PlainStorage(newest_first=newest_first)
        for number in range(5):
            await source.create_session(f"s{number}", "u", {"n": number})
            await source.update_session(f"s{number}", {"status": "failed"}, True, 0.5, number > 2)
        await source.create_session("untouched", "u")
        for number in range(30):
            await source.add_conversation_message("s1", "user", str(number), {"n": number})
            await source.put_checkpoint("t", f"c{number}", {"n": number}, {"m": 1})
        await source.put_writes("t", "c3", "task", [("a", 1), ("b", 2)])
        await source.store_task_context("s2", {"k": 1})
        assert (await StorageMigrator(source, middle).migrate_all(batch_size=4)).complete
        session = await middle.get_session("s1")
        assert session is not None
        plain = source.sessions["s1"]
        times = ("created_at", "updated_at")
        assert session == {**plain, **{name: plain[name] + "+00:00" for name in times}}
        history = await middle.get_conversation_history("s1", 100)
        assert [each["content"] for each in history] == [str(n) for n in range(30)]
        assert history[3]["timestamp"] == source.histories["s1"][3]["timestamp"] + "+00:00"
        listed = await middle.list_checkpoints("t", 100)
        assert [each["data"]["n"] for each in listed] == list(range(29, -1, -1))
        again = await StorageMigrator(source, middle).migrate_all()
        assert (again.copied, again.complete) == (0, True)

        assert (await StorageMigrator(middle, target).migrate_all(batch_size=4)).complete
        kept = ("user_id", "status", "metadata", "request_count", "total_processing_time")
        for session_id, record in source.sessions.items():
            copied = target.sessions[session_id]
            assert [copied[name] for name in kept] == [record[name] for name in kept]
        contents = [each["content"] for each in target.histories["s1"]]
        assert contents == [str(n) for n in range(30)]
        assert list(target.threads["t"]) == [f"c{n}" for n in range(30)]
        assert target.writes == {("t", "c3"): [("task", "a", 1), ("task", "b", 2)]}
        assert target.contexts == {"s2": {"k": 1}}
        again = await StorageMigrator(middle, target).migrate_all()
        assert (again.copied, again.complete) == (0, True)
        assert len(target.histories["s1"]) == 30
        await middle.close()

    run(test)


@pytest.mark.parametrize("operation", ["create_session", "update_session", "put_writes"])
@pytest.mark.parametrize("kind", [_StopError, StorageConnectionError, SessionNotFoundError])
def test_another_backend_that_stops_is_gone_on_with(operation: str, kind: type[Exception]) -> None:
    async def test() -> None:
        source, target = MemoryStorageBackend(), PlainStorage()
        await source.create_session("s", "u")
        await source.update_session("s", increment_requests=True)
        await source.put_checkpoint("t", "c", {})
        await source.put_writes("t", "c", "task", [("a", 1)])
        target.refusals[operation] = kind("no")
        migrator = StorageMigrator(source, target)
        if kind is not SessionNotFoundError:
            with pytest.raises(kind, match="no"):
                await migrator.migrate_all()
            assert target.calls.count(operation) == 1
        else:
            report = await migrator.migrate_all()
            assert not report.complete
            assert report.failure_count == 1
            assert report.failures[0].id in ("s", "t")
        target.refusals.clear()
        assert (await migrator.migrate_all()).complete
        assert target.sessions["s"]["request_count"] == 1
        assert target.writes == {("t", "c"): [("task", "a", 1)]}
        await source.close()

    run(test)


def test_a_record_that_cannot_be_migrated_does_not_stop_the_others() -> None:
    async def test() -> None:
        source, target = PlainStorage(), MemoryStorageBackend()
        for number in range(10):
            await source.create_session(f"s{number}", "u")
            await source.add_conversation_message(f"s{number}", "user", "hello")
        source.sessions["s4"]["status"] = "unheard of"
        source.sessions["s7"]["created_at"] = "some day"
        del source.histories["s5"][0]["content"]
        migrator = StorageMigrator(source, target)
        report = await migrator.migrate_all()
        assert not report.complete
        assert report.failure_count == 3
        assert [(each.kind, each.id) for each in report.failures] == [
            ("sessions", "s4"),
            ("sessions", "s7"),
            ("messages", "s5"),
        ]
        assert "'unheard of' is not one of" in report.failures[0].reason
        assert "no time" in report.failures[1].reason
        assert "content: it is missing" in report.failures[2].reason
        kinds = report.kinds
        assert (kinds["sessions"].copied, kinds["messages"].copied) == (8, 9)
        with pytest.raises(
            StorageError, match="0 sessions were migrated, and 2 could not be: 's4'"
        ):
            await migrator.migrate_sessions()
        await target.close()

    run(test)


def test_what_another_backend_does_not_take_is_said() -> None:
    async def test() -> None:
        source, target = MemoryStorageBackend(), PlainStorage(keeps_counters=False)
        await source.create_session("s", "u")
        await source.update_session("s", increment_requests=True)
        agent = await source.agent()
        await agent.checkpoints.put("t", "c", {}, namespace="graph")
        report = await StorageMigrator(source, target).migrate_all()
        assert not report.complete
        reasons = [each.reason for each in report.failures]
        assert "update_session() of the target does not take request_count" in reasons[0]
        assert "no place for the checkpoint namespace 'graph'" in reasons[1]
        await source.close()

    run(test)


def test_what_does_not_arrive_shows_in_the_counts() -> None:
    class Forgetful(PlainStorage):
        async def store_task_context(self, session_id: str, context: Any) -> bool:
            return True

    async def test() -> None:
        source = MemoryStorageBackend()
        await source.store_task_context("s", 1)
        report = await StorageMigrator(source, Forgetful()).migrate_all()
        assert report.failures == []
        assert not report.complete
        assert report.kinds["task_contexts"].source_count == 1
        assert report.kinds["task_contexts"].target_count == 0
        await source.close()

    run(test)


def test_rows_as_databases_give_them() -> None:
    async def test() -> None:
        source, target = PlainStorage(), MemoryStorageBackend()
        source.sessions["row"] = {
            "session_id": "row",
            "user_id": "u",
            "created_at": datetime(2025, 1, 1, 12),
            "updated_at": datetime(2025, 1, 1, 15, tzinfo=UTC),
            "status": "active",
            "metadata": '{"k": 1}',
            "metrics": {"request_count": "3", "error_count": 1, "total_processing_time": "1.5"},
        }
        assert await StorageMigrator(source, target).migrate_sessions() == 1
        assert await target.get_session("row") == {
            "session_id": "row",
            "user_id": "u",
            "created_at": "2025-01-01T12:00:00+00:00",
            "updated_at": "2025-01-01T15:00:00+00:00",
            "status": "active",
            "metadata": {"k": 1},
            "request_count": 3,
            "total_processing_time": 1.5,
            "error_count": 1,
        }
        await target.close()

    run(test)


def test_migrations_that_cannot_be_meant() -> None:
    class NoLists(PlainStorage):
        list_thread_ids = None  # type: ignore[assignment]

    class SamePage(PlainStorage):
        async def list_session_ids(self, after: str | None = None, limit: int = 1000) -> list[str]:
            return ["s"]

    async def test() -> None:
        target = MemoryStorageBackend()
        with pytest.raises(ValueError, match="the same"):
            StorageMigrator(target, target)
        with pytest.raises(StorageError, match="has list_thread_ids"):
            await StorageMigrator(NoLists(), target).migrate_all()
        with pytest.raises(StorageError, match="go on behind that id"):
            await StorageMigrator(SamePage(), target).migrate_sessions()
        with pytest.raises(ValueError, match="no kind 'users'; sessions, messages"):
            await StorageMigrator(PlainStorage(), target).migrate_all(kinds=["users"])
        with pytest.raises(ValueError, match="batch_size"):
            await StorageMigrator(PlainStorage(), target).migrate_all(batch_size=0)
        some = await StorageMigrator(NoLists(), target).migrate_all(kinds=["sessions"])
        assert list(some.kinds) == ["sessions"]
        await target.close()

    run(test)


def test_progress_can_be_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with MemoryStorageBackend() as source, MemoryStorageBackend() as target:
            await fill(source)
            assert (await StorageMigrator(source, target).migrate_all(progress=True)).complete
            shown = capsys.readouterr()
            assert shown.out == ""
            for word in ("sessions", "messages", "checkpoints", "task contexts"):
                assert word in shown.err
            monkeypatch.setitem(sys.modules, "rich.console", None)
            with pytest.raises(ImportError, match="progress=True draws with rich"):
                await StorageMigrator(source, target).migrate_all(progress=True)

    run(test)


def test_interfaces_load_no_face() -> None:
    code = (
        "import sys, walkv.interfaces.storage_backend; "
        "print([m for m in sys.modules if m.partition('.')[0] in ('click', 'rich')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
