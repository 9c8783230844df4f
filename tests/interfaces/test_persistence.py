"""The persistence interface over a real store: as an application written to it would use it."""

from __future__ import annotations

import asyncio
import inspect
import random
import statistics
import time
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import walkv
from walkv.agent import AgentStore, AsyncAgentStore
from walkv.engine.policies import SyncPolicy, Wal, WriteBack, WriteThrough
from walkv.errors import (
    ClosedError,
    CodecError,
    ConflictError,
    LimitError,
    LockedError,
    StoreFailedError,
    WalkvError,
)
from walkv.interfaces import persistence as package
from walkv.interfaces.persistence import (
    BasePersistenceProvider,
    ConfigurationPersistence,
    ConfigurationRecord,
    ContextPersistence,
    ContextRecord,
    ExecutionPersistence,
    ExecutionRecord,
    PerformanceMonitor,
    TransactionError,
    TransactionManager,
    WalkvPersistence,
    WorkflowPersistence,
    WorkflowRecord,
)
from walkv.interfaces.persistence.transactions import OPERATIONS
from walkv.testing import Disk, Fault, FaultyFileSystem, SimulatedFileSystem

PROTOCOLS: dict[type[object], int] = {
    WorkflowPersistence: 9,
    ContextPersistence: 9,
    ExecutionPersistence: 7,
    ConfigurationPersistence: 6,
    BasePersistenceProvider: 5,
}
START = datetime(2025, 3, 1, 12, tzinfo=UTC)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test in a fresh event loop that gives up rather than hang."""

    async def limited() -> None:
        await asyncio.wait_for(test(), 60)

    asyncio.run(limited())


def methods(protocol: type[object]) -> list[str]:
    return [name for name in vars(protocol) if not name.startswith("_")]


def workflow(number: int = 1, **fields: Any) -> WorkflowRecord:
    made: dict[str, Any] = {
        "workflow_id": f"w{number}",
        "execution_id": f"run-{number}",
        "name": "research",
        "description": "reads and writes",
        "status": "pending",
        "current_role_index": 0,
        "roles": ["planner", "coder", "reviewer"],
        "role_statuses": {},
        "role_results": {},
        "created_at": START + timedelta(minutes=number),
    }
    return WorkflowRecord(**{**made, **fields})


def context(number: int = 1, **fields: Any) -> ContextRecord:
    made: dict[str, Any] = {
        "context_id": f"c{number}",
        "workflow_id": "w1",
        "role": "planner",
        "context_type": "isolated",
        "sections": {"goal": f"number {number}"},
        "created_at": START,
        "last_updated": START + timedelta(minutes=number),
    }
    return ContextRecord(**{**made, **fields})


def execution(number: int = 1, **fields: Any) -> ExecutionRecord:
    made: dict[str, Any] = {
        "execution_id": f"e{number:04d}",
        "workflow_id": "w1",
        "role": "coder",
        "tool_name": "search",
        "action_type": "tool_call",
        "input_data": {"query": "wal"},
        "output_data": {"hits": number},
        "status": "success",
        "started_at": START + timedelta(seconds=number),
    }
    return ExecutionRecord(**{**made, **fields})


def configuration(number: int = 1, **fields: Any) -> ConfigurationRecord:
    made: dict[str, Any] = {
        "config_id": f"k{number}",
        "config_type": "role_config",
        "name": "planner",
        "content": {"temperature": number / 10},
        "version": f"1.{number}",
        "created_at": START + timedelta(minutes=number),
        "updated_at": START + timedelta(minutes=number),
        "created_by": "ada",
    }
    return ConfigurationRecord(**{**made, **fields})


# -- the interface as a whole --------------------------------------------------------------------


def test_an_application_written_to_the_interface(tmp_path: Path) -> None:
    """A workflow of three roles from begin to end; only the constructor names walkv."""

    async def application(provider: Any) -> None:
        assert await provider.connect()
        assert await provider.health_check()
        assert await provider.save_workflow(workflow())
        assert await provider.update_workflow_status("w1", "running")
        for number, role in enumerate(["planner", "coder", "reviewer"]):
            assert await provider.save_context(context(number, role=role))
            begun = execution(number, role=role, status="running", output_data={})
            assert await provider.save_execution(begun)
            assert await provider.update_role_status("w1", role, "running")
            ended = {"status": "success", "execution_time": 0.5, "output_data": {"ok": True}}
            assert await provider.update_execution(begun.execution_id, ended)
            assert await provider.update_role_status("w1", role, "completed", {"by": role})
        assert await provider.update_workflow_status("w1", "completed")

        found = await provider.get_workflow("w1")
        assert found.status == "completed"
        assert found.current_role_index == 3
        assert set(found.role_statuses.values()) == {"completed"}
        assert found.role_results["coder"] == {"by": "coder"}
        assert found.started_at is not None
        assert found.completed_at >= found.started_at
        assert len(await provider.list_contexts_by_workflow("w1")) == 3
        assert [e.role for e in await provider.list_executions_by_workflow("w1")] == [
            "reviewer",
            "coder",
            "planner",
        ]
        assert await provider.get_active_workflows() == []
        assert (await provider.get_execution_statistics())["success_rate"] == 1.0
        assert await provider.disconnect()

    async def test() -> None:
        await application(WalkvPersistence({"path": tmp_path / "s"}))

    run(test)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_protocols(protocol: type[object], tmp_path: Path) -> None:
    provider = WalkvPersistence({"path": tmp_path / "s"})
    assert isinstance(provider, protocol)
    names = methods(protocol)
    assert len(names) == PROTOCOLS[protocol]
    for name in names:
        own = inspect.signature(getattr(WalkvPersistence, name)).parameters
        asked = inspect.signature(getattr(protocol, name)).parameters
        assert getattr(WalkvPersistence, name) is not getattr(protocol, name), name
        assert [(p.name, p.default) for p in own.values()] == [
            (p.name, p.default) for p in asked.values()
        ]
    # Any class with the methods will do, and none without.
    other = type("Other", (), dict.fromkeys(names, lambda self: None))
    assert isinstance(other(), protocol)
    assert not isinstance(type("Less", (), dict.fromkeys(names[1:], lambda self: None))(), protocol)
    assert not isinstance(object(), protocol)


def test_everything_is_exported() -> None:
    for name in package.__all__:
        assert getattr(package, name).__doc__


# -- records -------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [workflow(), context(), execution(), configuration()])
def test_no_metadata_is_an_empty_dictionary_of_its_own(made: Any) -> None:
    assert made.metadata == {}
    twin = type(made)(**{**vars(made), "metadata": None})
    assert twin == made
    twin.metadata["a"] = 1
    assert made.metadata == {}


@pytest.mark.parametrize(
    "made",
    [
        workflow(
            role_statuses={"planner": "my own word"},
            role_results={"planner": [1, {"a": None}]},
            started_at=START,
            completed_at=START,
            created_by="ada",
            metadata={"deep": {"er": [1]}},
            error_info="none",
        ),
        context(compressed_content="short", compression_ratio=0.25, metadata={"a": 1}),
        execution(completed_at=START, execution_time=1.5, error_message="no", metadata={"a": 1}),
        execution(tool_name=None, action_type="handoff", status="cancelled"),
        configuration(is_active=False, metadata={"a": 1}),
    ],
)
def test_records_to_the_namespace_and_back(made: Any) -> None:
    stored = made.to_stored()
    assert type(made).from_stored(stored) == made
    for name in vars(made):
        in_namespace = "execution_time_seconds" if name == "execution_time" else name
        assert getattr(stored, in_namespace) == getattr(made, name)


@pytest.fixture
def far_away(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("far_away")
def test_a_time_without_a_zone_is_local_time(tmp_path: Path) -> None:
    async def test() -> None:
        async with WalkvPersistence({"path": tmp_path / "s"}) as provider:
            noon = datetime(2025, 3, 1, 12)
            in_utc = datetime(2025, 3, 1, 17, tzinfo=UTC)
            await provider.save_workflow(workflow(created_at=noon))
            found = await provider.get_workflow("w1")
            assert found is not None
            assert found.created_at == in_utc
            assert found.created_at.tzinfo is UTC
            await provider.update_workflow("w1", {"started_at": noon})
            assert [w.started_at for w in await provider.list_workflows()] == [in_utc]
            minute = timedelta(minutes=1)
            for start, end, count in [
                (noon, noon + minute, 1),
                (noon + minute, None, 0),
                (None, noon, 0),
            ]:
                assert (await provider.get_workflow_statistics(start, end))["count"] == count
            await provider.save_execution(execution(started_at=noon))
            assert (await provider.get_execution_statistics(None, noon, None))["count"] == 1
            assert (await provider.get_execution_statistics(None, None, noon))["count"] == 0
            with pytest.raises(CodecError, match="out of range") as caught:
                await provider.save_context(context(last_updated=datetime.max))
            assert (caught.value.namespace, caught.value.field) == ("contexts", "last_updated")

    run(test)


# -- workflows -----------------------------------------------------------------------------------


def test_workflows(tmp_path: Path) -> None:
    async def test() -> None:
        async with WalkvPersistence({"path": tmp_path / "s"}) as provider:
            assert await provider.get_workflow("w1") is None
            assert await provider.list_workflows() == []
            assert await provider.save_workflow(workflow()) is True
            assert await provider.get_workflow("w1") == workflow()
            # Saved again, all of it is replaced.
            assert await provider.save_workflow(workflow(name="other", created_by="eve")) is True
            assert await provider.get_workflow("w1") == workflow(name="other", created_by="eve")

            assert await provider.update_workflow("w1", {"name": "third", "metadata": None}) is True
            found = await provider.get_workflow("w1")
            assert found == workflow(name="third", created_by="eve")
            assert await provider.update_workflow("w1", {}) is True
            assert await provider.update_workflow("none", {"name": "x"}) is False

            assert await provider.update_workflow_status("w1", "running") is True
            assert await provider.update_workflow_status("w1", "failed", "no money") is True
            assert await provider.update_workflow_status("none", "running") is False
            found = await provider.get_workflow("w1")
            assert found is not None
            assert (found.status, found.error_info) == ("failed", "no money")
            assert found.started_at is not None
            assert found.completed_at is not None

            assert await provider.update_role_status("w1", "planner", "completed", [1]) is True
            assert await provider.update_role_status("w1", "reviewer", "waits") is True
            assert await provider.update_role_status("none", "planner", "x") is False
            found = await provider.get_workflow("w1")
            assert found is not None
            assert found.role_statuses == {"planner": "completed", "reviewer": "waits"}
            assert found.role_results == {"planner": [1]}
            assert found.current_role_index == 1

            assert await provider.delete_workflow("w1") is True
            assert await provider.delete_workflow("w1") is False
            assert await provider.get_workflow("w1") is None

    run(test)


def test_lists_of_workflows_are_newest_first(tmp_path: Path) -> None:
    async def test() -> None:
        async with WalkvPersistence({"path": tmp_path / "s"}) as provider:
            states = ["pending", "running", "paused", "completed", "failed", "cancelled"]
            for number in random.Random(1).sample(range(120), 120):
                status = states[number % 6]
                owner = "ada" if number % 2 else "eve"
                await provider.save_workflow(workflow(number, status=status, created_by=owner))

            async def numbers(**asked: Any) -> list[int]:
                return [int(w.workflow_id[1:]) for w in await provider.list_workflows(**asked)]

            downward = list(range(119, -1, -1))
            assert await numbers() == downward[:100]
            assert await numbers(limit=7) == downward[:7]
            assert await numbers(limit=7, offset=5) == downward[5:12]
            assert await numbers(limit=50, offset=100) == downward[100:]
            assert await numbers(status="paused") == [n for n in downward if n % 6 == 2]
            assert await numbers(created_by="ada", limit=20) == [n for n in downward if n % 2][:20]
            assert await numbers(status="failed", created_by="eve") == [
                n for n in downward if n % 6 == 4
            ]
            assert await numbers(status="failed", created_by="ada") == []
            active = await provider.get_active_workflows()
            assert [w.workflow_id for w in active] == [f"w{n}" for n in downward if n % 6 < 3]

    run(test)


def test_32_tasks_update_different_roles_of_one_workflow(tmp_path: Path) -> None:
    async def test() -> None:
        async with WalkvPersistence({"path": tmp_path / "s"}) as provider:
            roles = [f"role {number}" for number in range(32)]
            await provider.save_workflow(workflow(roles=roles))

            async def work(role: str) -> None:
                for count in range(5):
                    await provider.update_role_status("w1", role, f"at {count}")
                await provider.update_role_status("w1", role, "completed", {"by": role})

            await asyncio.gather(*map(work, roles))
            found = await provider.get_workflow("w1")
            assert found is not None
            assert found.role_statuses == dict.fromkeys(roles, "completed")
            assert found.role_results == {role: {"by": role} for role in roles}
            assert found.current_role_index == 32

    run(test)


def plain_spread(values: list[float]) -> dict[str, Any]:
    """By the definitions; percentiles are values that are there."""
    ordered = sorted(values)
    return {
        "mean": pytest.approx(statistics.fmean(values)),
        "min": min(values),
        "max": max(values),
        "p50": ordered[(len(values) * 50 + 99) // 100 - 1],
        "p95": ordered[(len(values) * 95 + 99) // 100 - 1],
    }


NOTHING = dict.fromkeys(("mean", "min", "max", "p50", "p95"), 0.0)


def test_statistics_of_workflows(tmp_path: Path) -> None:
    async def test() -> None:
        async with WalkvPersistence({"path": tmp_path / "s"}) as provider:
            assert await provider.get_workflow_statistics() == {
                "count": 0,
                "by_status": {},
                "success_rate": 0.0,
                "duration_seconds": NOTHING,
            }
            chance = random.Random(2)
            made = []
            for number in range(300):
                status = chance.choice(["pending", "running", "completed", "failed", "cancelled"])
                started = START + timedelta(hours=1) if status != "pending" else None
                ended = None
                if started and status != "running":
                    ended = started + timedelta(seconds=chance.randrange(1, 1000))
                made.append(workflow(number, status=status, started_at=started, completed_at=ended))
                await provider.save_workflow(made[-1])
            for low, high in [(0, 300), (50, 200), (299, 300)]:
                counted = made[low:high]
                start = None if low == 0 else made[low].created_at
                end = None if high == 300 else made[high].created_at
                found = await provider.get_workflow_statistics(start, end)
                words = [each.status for each in counted]
                over = [w for w in words if w in ("completed", "failed", "cancelled")]
                times = [
                    (each.completed_at - each.started_at).total_seconds()
                    for each in counted
                    if each.started_at and each.completed_at
                ]
                assert found["count"] == len(counted)
                assert found["by_status"] == {word: words.count(word) for word in set(words)}
                rate = over.count("completed") / len(over) if over else 0.0
                assert found["success_rate"] == pytest.approx(rate)
                assert found["duration_seconds"] == (plain_spread(times) if times else NOTHING)

    run(test)


# -- contexts ------------------------------------------------------------------------------------


def test_contexts(tmp_path: Path) -> None:
    async def test() -> None:
        async with WalkvPersistence({"path": tmp_path / "s"}) as provider:
            assert await provider.get_context("c1") is None
            assert await provider.save_context(context()) is True
            assert await provider.get_context("c1") == context()
            before = datetime.now(UTC)
            assert await provider.update_context("c1", {"sections": {"goal": "new"}}) is True
            found = await provider.get_context("c1")
            assert found is not None
            assert found.sections == {"goal": "new"}
            assert found.created_at == START
            assert found.last_updated >= before
            assert await provider.update_context("none", {"role": "x"}) is False

            assert await provider.save_compressed_context("c1", "short", 0.25) is True
            assert await provider.save_compressed_context("none", "short", 0.25) is False
            found = await provider.get_context("c1")
            assert found is not None
            assert found.context_type == "compressed"
            assert (found.compressed_content, found.compression_ratio) == ("short", 0.25)

            for number in (3, 2, 5, 4):
                await provider.save_context(context(number, role="coder" if number > 3 else "p"))
            await provider.save_context(context(9, workflow_id="w2", role="coder"))

            def ids(found: list[ContextRecord]) -> list[str]:
                return [each.context_id for each in found]

            assert ids(await provider.list_contexts_by_workflow("w1")) == [
                "c1",
                "c5",
                "c4",
                "c3",
                "c2",
            ]
            assert await provider.list_contexts_by_workflow("none") == []
            assert ids(await provider.list_contexts_by_role("coder")) == ["c9", "c5", "c4"]
            assert ids(await provider.list_contexts_by_role("coder", limit=2)) == ["c9", "c5"]
            assert await provider.delete_context("c1") is True
            assert await provider.delete_context("c1") is False
            assert await provider.get_context_history("c1") == []

    run(test)


def test_history_of_a_context(tmp_path: Path) -> None:
    async def test() -> None:
        async with WalkvPersistence({"path": tmp_path / "s"}) as provider:
            assert await provider.get_context_history("c1") == []
            versions = [context(n, context_id="c1", metadata={"n": n}) for n in range(13)]
            for version in versions:
                await provider.save_context(version)
            old = [vars(version) for version in reversed(versions[:-1])]
            assert await provider.get_context_history("c1") == old[:10]
            assert await provider.get_context_history("c1", 3) == old[:3]
            assert await provider.get_context_history("c1", limit=99) == old[:10]

    run(test)


def test_cleanup_of_contexts(tmp_path: Path) -> None:
    async def test() -> None:
        async with WalkvPersistence({"path": tmp_path / "s"}) as provider:
            now = datetime.now(UTC)
            for hours in range(1, 49):
                updated = now - timedelta(hours=hours, minutes=-30)
                await provider.save_context(context(hours, last_updated=updated))
            assert await provider.cleanup_expired_contexts(100) == 0
            assert await provider.cleanup_expired_contexts() == 24
            assert len(await provider.list_contexts_by_workflow("w1")) == 24
            assert await provider.get_context("c24") is not None
            assert await provider.get_context("c25") is None
            assert await provider.cleanup_expired_contexts(expiry_hours=1) == 23
            assert await provider.cleanup_expired_contexts(expiry_hours=1) == 0

    run(test)


# -- executions ----------------------------------------------------------------------------------


def test_executions(tmp_path: Path) -> None:
    async def test() -> None:
        async with WalkvPersistence({"path": tmp_path / "s"}) as provider:
            assert await provider.get_execution("e0001") is None
            assert await provider.save_execution(execution()) is True
            assert await provider.get_execution("e0001") == execution()
            assert await provider.save_execution(execution(output_data={"hits": 0})) is True
            assert await provider.get_execution("e0001") == execution(output_data={"hits": 0})
            changes = {"status": "failed", "execution_time": 2, "error_message": "x"}
            assert await provider.update_execution("e0001", changes) is True
            found = await provider.get_execution("e0001")
            assert found == execution(
                output_data={"hits": 0}, status="failed", execution_time=2.0, error_message="x"
            )
            assert await provider.update_execution("none", changes) is False

            for number in (4, 2, 3):
                role = "planner" if number == 3 else "coder"
                await provider.save_execution(execution(number, workflow_id="w2", role=role))

            def ids(found: list[ExecutionRecord]) -> list[str]:
                return [each.execution_id for each in found]

            assert ids(await provider.list_executions_by_workflow("w2")) == [
                "e0004",
                "e0003",
                "e0002",
            ]
            assert ids(await provider.list_executions_by_workflow("w2", 1)) == ["e0004"]
            assert await provider.list_executions_by_workflow("none") == []
            assert ids(await provider.list_executions_by_role("coder")) == [
                "e0004",
                "e0002",
                "e0001",
            ]
            assert ids(await provider.list_executions_by_role("coder", limit=1)) == ["e0004"]
            assert ids(await provider.list_executions_by_role("coder", "failed")) == ["e0001"]

    run(test)


def test_saving_an_execution_keeps_what_the_interface_does_not_know(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            AsyncAgentStore(tmp_path / "s") as agent,
            WalkvPersistence(agent) as provider,
        ):
            executions = agent.executions
            await executions.start(execution_id="e0001", task_id="t1", role="coder")
            record = await provider.get_execution("e0001")
            assert record is not None
            record.status = "success"
            record.metadata = None
            assert await provider.save_execution(record) is True
            stored = await executions.get("e0001")
            assert stored is not None
            assert (stored.task_id, stored.status, stored.workflow_id) == ("t1", "success", None)
            assert stored.metadata == {}

    run(test)


def test_executions_saved_by_many_tasks_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with WalkvPersistence({"path": tmp_path / "s"}) as provider:

            async def work(number: int) -> None:
                for _ in range(4):
                    await provider.save_execution(execution(number % 4, metadata={"n": number}))

            await asyncio.gather(*map(work, range(32)))
            found = await provider.list_executions_by_workflow("w1")
            assert [each.execution_id for each in found] == ["e0003", "e0002", "e0001", "e0000"]
            for number, each in enumerate(reversed(found)):
                assert each.metadata is not None
                assert each.metadata["n"] % 4 == number

    run(test)


def test_statistics_of_executions(tmp_path: Path) -> None:
    async def test() -> None:
        async with WalkvPersistence({"path": tmp_path / "s"}) as provider:
            empty = await provider.get_execution_statistics()
            assert (empty["count"], empty["execution_time_seconds"]) == (0, NOTHING)
            chance = random.Random(3)
            made = []
            for number in range(400):
                status = chance.choice(["running", "success", "success", "failed", "cancelled"])
                took = None if status == "running" else chance.random()
                chosen = chance.choice(["planner", "coder"])
                made.append(execution(number, status=status, execution_time=took, role=chosen))
                await provider.save_execution(made[-1])
            for role in (None, "planner", "coder"):
                for low, high in [(0, 400), (100, 300)]:
                    start = None if low == 0 else made[low].started_at
                    end = None if high == 400 else made[high].started_at
                    found = await provider.get_execution_statistics(role, start, end)
                    counted = [each for each in made[low:high] if role in (None, each.role)]
                    words = [each.status for each in counted]
                    times = [e.execution_time for e in counted if e.execution_time is not None]
                    assert found["count"] == len(counted)
                    assert found["by_status"] == {word: words.count(word) for word in set(words)}
                    over = len(words) - words.count("running")
                    assert found["success_rate"] == pytest.approx(words.count("success") / over)
                    assert found["execution_time_seconds"] == plain_spread(times)
            assert (await provider.get_execution_statistics("nobody"))["count"] == 0

    run(test)


def test_cleanup_of_executions(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            AsyncAgentStore(tmp_path / "s") as agent,
            WalkvPersistence(agent) as provider,
        ):
            now = datetime.now(UTC)
            for days in range(1, 61):
                started = now - timedelta(days=days, hours=-1)
                await provider.save_execution(execution(days, started_at=started))
            # What a step has done is not forgotten, however old it is.
            await agent.executions.once("pay", lambda: "paid")
            old = {"started_at": now - timedelta(days=99)}
            assert await provider.update_execution("step/pay", old) is True
            assert await provider.cleanup_old_executions() == 30
            assert await provider.get_execution("e0030") is not None
            assert await provider.get_execution("e0031") is None
            assert await provider.cleanup_old_executions(retention_days=1) == 29
            assert await provider.cleanup_old_executions(retention_days=1) == 0
            assert await agent.executions.once("pay", lambda: "again") == "paid"

    run(test)


# -- configurations ------------------------------------------------------------------------------


def test_configurations(tmp_path: Path) -> None:
    async def test() -> None:
        async with WalkvPersistence({"path": tmp_path / "s"}) as provider:
            assert await provider.get_configuration("k1") is None
            assert await provider.get_active_configuration("role_config", "planner") is None
            assert await provider.save_configuration(configuration()) is True
            assert await provider.get_configuration("k1") == configuration()
            assert await provider.get_active_configuration("role_config", "planner") == (
                configuration()
            )
            # A new version takes the place of the old one.
            assert await provider.save_configuration(configuration(2)) is True
            old = await provider.get_configuration("k1")
            assert old is not None
            assert old.is_active is False
            await provider.save_configuration(configuration(3, is_active=False))
            await provider.save_configuration(configuration(4, name="coder"))
            await provider.save_configuration(configuration(5, config_type="system_config"))

            async def ids(**asked: Any) -> list[str]:
                return [each.config_id for each in await provider.list_configurations(**asked)]

            assert await ids() == ["k5", "k4", "k2"]
            assert await ids(config_type="role_config") == ["k4", "k2"]
            assert await ids(config_type="role_config", is_active=False) == ["k3", "k1"]
            assert await ids(is_active=None) == ["k5", "k4", "k3", "k2", "k1"]

            before = datetime.now(UTC)
            assert await provider.update_configuration("k1", {"is_active": True}) is True
            assert await provider.update_configuration("none", {"is_active": True}) is False
            active = await provider.get_active_configuration("role_config", "planner")
            assert active is not None
            assert active.config_id == "k1"
            assert active.updated_at >= before
            assert await ids(config_type="role_config") == ["k4", "k1"]

            assert await provider.delete_configuration("k1") is True
            assert await provider.delete_configuration("k1") is False
            assert await provider.get_active_configuration("role_config", "planner") is None

    run(test)


def test_one_configuration_is_active_whoever_switches(tmp_path: Path) -> None:
    async def test() -> None:
        async with WalkvPersistence({"path": tmp_path / "s"}) as provider:
            for number in range(8):
                await provider.save_configuration(configuration(number))
            done = asyncio.Event()
            counts = set()

            async def look() -> None:
                while not done.is_set():
                    counts.add(len(await provider.list_configurations("role_config")))
                    await asyncio.sleep(0)

            async def switch(number: int) -> None:
                for turn in range(4):
                    chosen = {"is_active": True}
                    await provider.update_configuration(f"k{(number + turn) % 8}", chosen)

            looking = asyncio.create_task(look())
            await asyncio.gather(*map(switch, range(8)))
            done.set()
            await looking
            assert counts == {1}

    run(test)


# -- transactions --------------------------------------------------------------------------------


async def counts(provider: WalkvPersistence) -> list[int]:
    names = ("workflows", "contexts", "executions", "configurations")
    return [await provider.query(name).count() for name in names]


def test_a_transaction_commits_on_leaving(tmp_path: Path) -> None:
    async def test() -> None:
        async with WalkvPersistence({"path": tmp_path / "s"}) as provider:
            manager = TransactionManager(provider)
            async with manager.transaction("mine") as name:
                assert name == "mine"
                assert list(manager.active_transactions) == ["mine"]
                assert manager.active_transactions["mine"]["started_at"] <= datetime.now(UTC)
                await provider.save_workflow(workflow())
                await provider.save_context(context())
                await provider.save_execution(execution())
                await provider.save_execution(execution(status="failed"))
                await provider.save_configuration(configuration())
                await provider.save_configuration(configuration(2))
                # Inside, what was written is there; outside, nothing is.
                assert await provider.get_workflow("w1") == workflow()
                assert len(await provider.list_executions_by_role("coder")) == 1
                assert await provider.update_role_status("w1", "planner", "completed") is True
                assert await provider.update_role_status("none", "planner", "x") is False
                assert await asyncio.create_task(counts(provider)) == [0, 0, 0, 0]
            assert manager.active_transactions == {}
            assert await counts(provider) == [1, 1, 1, 2]
            found = await provider.get_workflow("w1")
            assert found is not None
            assert found.role_statuses == {"planner": "completed"}
            active = await provider.get_active_configuration("role_config", "planner")
            assert active is not None
            assert active.config_id == "k2"

    run(test)


@pytest.mark.parametrize("failure", [ValueError, asyncio.CancelledError])
def test_a_transaction_that_raises_writes_nothing(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    async def test() -> None:
        async with WalkvPersistence({"path": tmp_path / "s"}) as provider:
            await provider.save_workflow(workflow())
            await provider.save_configuration(configuration())
            manager = provider.transaction_manager

            async def fails() -> None:
                async with manager.transaction():
                    await provider.save_workflow(workflow(2))
                    await provider.delete_workflow("w1")
                    await provider.save_context(context())
                    await provider.save_configuration(configuration(2))
                    raise failure

            with pytest.raises(failure):
                await fails()
            assert manager.active_transactions == {}
            assert await counts(provider) == [1, 0, 0, 1]
            assert await provider.get_workflow("w1") == workflow()
            assert await provider.get_active_configuration("role_config", "planner") == (
                configuration()
            )
            # The manager goes on working.
            async with manager.transaction():
                await provider.save_context(context())
            assert await counts(provider) == [1, 1, 0, 1]

    run(test)


def test_two_transactions_that_conflict(tmp_path: Path) -> None:
    async def test() -> None:
        async with WalkvPersistence({"path": tmp_path / "s"}) as provider:
            await provider.save_workflow(workflow())
            manager = provider.transaction_manager
            both_have_read = asyncio.Barrier(2)

            async def work(role: str) -> None:
                async with manager.transaction():
                    found = await provider.get_workflow("w1")
                    assert found is not None
                    await both_have_read.wait()
                    found.role_statuses[role] = "done"
                    await provider.save_workflow(found)
                    await provider.save_context(context(1, context_id=role))

            results = await asyncio.gather(work("planner"), work("coder"), return_exceptions=True)
            errors = [each for each in results if each is not None]
            assert [type(each) for each in errors] == [ConflictError]
            winner = "planner" if results[0] is None else "coder"
            found = await provider.get_workflow("w1")
            assert found is not None
            assert found.role_statuses == {winner: "done"}
            assert [c.context_id for c in await provider.list_contexts_by_workflow("w1")] == [
                winner
            ]
            assert manager.active_transactions == {}

    run(test)


def test_names_of_transactions(tmp_path: Path) -> None:
    async def test() -> None:
        async with WalkvPersistence({"path": tmp_path / "s"}) as provider:
            manager = provider.transaction_manager
            names = []
            for _ in range(2):
                async with manager.transaction() as name:
                    names.append(name)
            assert len(set(names)) == 2
            assert all(name.startswith("txn_") for name in names)
            async with manager.transaction("one"):
                await provider.save_workflow(workflow())
                with pytest.raises(TransactionError, match="'one' is open"):
                    async with manager.transaction("one"):
                        pass
                # One inside another is a part of it.
                async with manager.transaction("two"):
                    assert list(manager.active_transactions) == ["one", "two"]
                    await provider.save_workflow(workflow(2))
                assert await asyncio.create_task(provider.list_workflows()) == []
            assert len(await provider.list_workflows()) == 2
            async with manager.transaction("one"):
                pass

    run(test)


def operation(name: str, **arguments: Any) -> dict[str, Any]:
    return {"operation": name, "arguments": arguments}


def test_a_list_of_operations(tmp_path: Path) -> None:
    async def test() -> None:
        async with WalkvPersistence({"path": tmp_path / "s"}) as provider:
            await provider.save_workflow(workflow(9))
            await provider.save_context(context(9))
            await provider.save_configuration(configuration(9))
            everything = [
                operation("save_workflow", workflow=workflow()),
                operation("update_workflow", workflow_id="w1", updates={"name": "n"}),
                operation("update_workflow_status", workflow_id="w1", status="running"),
                operation("update_role_status", workflow_id="w1", role="coder", status="done"),
                operation("delete_workflow", workflow_id="w9"),
                operation("save_context", context=context()),
                operation("save_context", context=context(2)),
                operation("update_context", context_id="c1", updates={"role": "coder"}),
                operation(
                    "save_compressed_context",
                    context_id="c1",
                    compressed_content="x",
                    compression_ratio=0.5,
                ),
                operation("delete_context", context_id="c2"),
                operation("cleanup_expired_contexts"),
                operation("save_execution", execution=execution()),
                operation("update_execution", execution_id="e0001", updates={"role": "r"}),
                operation("cleanup_old_executions", retention_days=100_000),
                operation("save_configuration", config=configuration()),
                operation("update_configuration", config_id="k1", updates={"version": "2"}),
                operation("delete_configuration", config_id="k9"),
            ]
            assert {each["operation"] for each in everything} == set(OPERATIONS)
            assert await provider.execute_transaction(everything) is True
            assert await counts(provider) == [1, 1, 1, 1]
            found = await provider.get_workflow("w1")
            assert found is not None
            assert (found.name, found.status, found.role_statuses) == (
                "n",
                "running",
                {"coder": "done"},
            )
            assert await provider.get_context("c9") is None
            assert await provider.execute_transaction([]) is True

    run(test)


def test_operations_are_done_all_or_none(tmp_path: Path) -> None:
    async def test() -> None:
        async with WalkvPersistence({"path": tmp_path / "s"}) as provider:
            first = operation("save_workflow", workflow=workflow())
            wrong: list[tuple[Any, int]] = [
                ([first, operation("drop_tables")], 1),
                ([first, operation("get_workflow", workflow_id="w1")], 1),
                ([first, first, operation("delete_workflow")], 2),
                ([first, operation("delete_workflow", workflow_id="w1", cascade=True)], 1),
                ([first, {"arguments": {}}], 1),
                ([first, {"operation": "delete_workflow", "arguments": ["w1"]}], 1),
                ([first, {"sql": "DELETE FROM workflows"}], 1),
                (["save_workflow"], 0),
            ]
            for operations, position in wrong:
                with pytest.raises(TransactionError) as caught:
                    await provider.execute_transaction(operations)
                assert caught.value.position == position
                assert isinstance(caught.value, WalkvError)
            # What is found wrong only when it is done takes the rest back.
            bad = operation("save_context", context=context(context_type="unheard of"))
            with pytest.raises(CodecError):
                await provider.execute_transaction([first, bad])
            with pytest.raises(CodecError):
                await provider.execute_transaction([first, operation("save_context", context={})])
            # No such record: not done, and so is nothing else.
            for missing in (
                operation("update_context", context_id="c1", updates={"role": "x"}),
                operation("delete_configuration", config_id="k1"),
            ):
                assert await provider.execute_transaction([first, missing]) is False
            assert await counts(provider) == [0, 0, 0, 0]

    run(test)


def test_lists_of_operations_at_once(tmp_path: Path) -> None:
    """They are run again until they do not conflict."""

    async def test() -> None:
        async with WalkvPersistence({"path": tmp_path / "s"}) as provider:
            roles = [f"role {number}" for number in range(8)]
            await provider.save_workflow(workflow(roles=roles))

            async def work(number: int) -> bool:
                role = roles[number]
                return await provider.execute_transaction(
                    [
                        operation(
                            "update_role_status", workflow_id="w1", role=role, status="completed"
                        ),
                        operation("save_execution", execution=execution(number)),
                    ]
                )

            assert all(await asyncio.gather(*map(work, range(8))))
            found = await provider.get_workflow("w1")
            assert found is not None
            assert found.role_statuses == dict.fromkeys(roles, "completed")
            assert len(await provider.list_executions_by_workflow("w1")) == 8

    run(test)


def test_operations_inside_a_transaction(tmp_path: Path) -> None:
    async def test() -> None:
        async with WalkvPersistence({"path": tmp_path / "s"}) as provider:
            manager = provider.transaction_manager
            save = operation("save_workflow", workflow=workflow())
            missing = operation("delete_context", context_id="none")

            async def fails() -> None:
                async with manager.transaction():
                    assert await provider.execute_transaction([save]) is True
                    raise RuntimeError

            async def fails_half_way() -> None:
                async with manager.transaction():
                    await provider.save_configuration(configuration())
                    assert await provider.execute_transaction([save, missing]) is False

            with pytest.raises(RuntimeError):
                await fails()
            assert await counts(provider) == [0, 0, 0, 0]
            # Half of a list cannot be taken back alone.
            with pytest.raises(WalkvError, match="half way"):
                await fails_half_way()
            assert await counts(provider) == [0, 0, 0, 0]
            async with manager.transaction():
                await provider.save_configuration(configuration())
                assert await provider.execute_transaction([missing, save]) is False
            assert await counts(provider) == [0, 0, 0, 1]

    run(test)


def test_the_power_fails_during_a_transaction() -> None:
    """What a power failure at any of its operations leaves: all of it, or nothing."""
    disks: list[tuple[bool, Disk]] = []
    acknowledged = False

    async def test() -> None:
        nonlocal acknowledged
        fs = SimulatedFileSystem()
        async with WalkvPersistence({"path": "/s", "filesystem": fs}) as provider:
            await provider.save_workflow(workflow())
            await provider.save_configuration(configuration())
            chooser = random.Random(4)

            def look(operation: str, path: str) -> None:
                disks.extend((acknowledged, disk) for disk in fs.crash_states(chooser))

            fs.on_operation = look
            async with provider.transaction_manager.transaction():
                await provider.update_workflow_status("w1", "running")
                await provider.save_context(context())
                await provider.save_execution(execution())
                await provider.save_configuration(configuration(2))
            acknowledged = True
            look("", "")
            fs.on_operation = None

    run(test)
    before, after = ["pending", 0, 0, ["k1"]], ["running", 1, 1, ["k2"]]
    seen = []
    for done, disk in random.Random(5).sample(disks, min(60, len(disks))) + disks[-1:]:
        fs = SimulatedFileSystem.after_power_failure(disk)
        with AgentStore("/s", filesystem=fs) as agent:
            found = agent.workflows.get("w1")
            assert found is not None
            active = [each.config_id for each in agent.configurations.list()]
            state = [found.status, agent.contexts.count(), agent.executions.count(), active]
            assert agent.verify() == []
        assert state == after if done else state in (before, after)
        seen.append(state)
    assert before in seen
    assert after in seen


# -- connections ---------------------------------------------------------------------------------


def test_reopened_everything_is_there(tmp_path: Path) -> None:
    async def test() -> None:
        provider = WalkvPersistence({"path": tmp_path / "s"})
        assert "not connected" in repr(provider)
        for _ in range(2):
            assert await provider.connect() is True
        assert provider.is_connected
        assert await provider.initialize_schema() is True
        await provider.save_workflow(workflow())
        await provider.save_context(context())
        await provider.save_context(context(last_updated=START))
        await provider.save_execution(execution())
        await provider.save_configuration(configuration())
        for _ in range(2):
            assert await provider.disconnect() is True
        assert not provider.is_connected
        for again in (provider, WalkvPersistence({"path": tmp_path / "s", "sync": WriteThrough()})):
            async with again:
                assert again.is_connected
                assert await again.get_workflow("w1") == workflow()
                assert await again.get_context("c1") == context(last_updated=START)
                assert await again.get_context_history("c1") == [vars(context())]
                assert await again.get_execution("e0001") == execution()
                assert await again.get_configuration("k1") == configuration()

    run(test)


def test_many_connect_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        provider = WalkvPersistence({"path": tmp_path / "s"})
        assert await asyncio.gather(*(provider.connect() for _ in range(8))) == [True] * 8
        await provider.disconnect()

    run(test)


def test_every_kind_of_open_store(tmp_path: Path) -> None:
    async def test() -> None:
        async def use(given: Any, number: int) -> None:
            provider = WalkvPersistence(given)
            for _ in range(2):
                await provider.connect()
                await provider.save_workflow(workflow(number))
                assert len(await provider.list_workflows()) == number
                await provider.disconnect()
            with pytest.raises(ClosedError, match="connect"):
                await provider.list_workflows()
            assert not given.closed

        with walkv.open(tmp_path / "s") as store:
            await use(store, 1)
        async with await walkv.aopen(tmp_path / "s") as async_store:
            await use(async_store, 2)
        with AgentStore(tmp_path / "s") as agent:
            await use(agent, 3)
            assert agent.workflows.count() == 3
        async with AsyncAgentStore(tmp_path / "s") as async_agent:
            await use(async_agent, 4)
            # What its owner writes in a batch of its own is one with what the provider writes.
            provider = WalkvPersistence(async_agent)
            await provider.connect()

            async def fails() -> None:
                async with async_agent.batch():
                    await provider.save_workflow(workflow(5))
                    raise RuntimeError

            with pytest.raises(RuntimeError):
                await fails()
            assert await provider.get_workflow("w5") is None
        with pytest.raises(ClosedError):
            await WalkvPersistence(async_agent).connect()
        with pytest.raises(ClosedError, match="first"):
            await WalkvPersistence(AsyncAgentStore(tmp_path / "s")).connect()
        with pytest.raises(ClosedError):
            await WalkvPersistence(store).connect()

    run(test)


def test_the_policies_of_an_agent_are_kept(tmp_path: Path) -> None:
    async def test() -> None:
        policies: dict[str, SyncPolicy] = {
            "executions": WriteThrough(),
            "workflows": WriteBack(interval_seconds=3600),
        }
        with AgentStore(tmp_path / "s", policies=policies) as agent:
            async with WalkvPersistence(agent) as provider:
                await provider.save_workflow(workflow())
                assert agent.store.stats().unsynced_bytes > 0
                await provider.save_execution(execution())
                assert agent.store.stats().unsynced_bytes == 0

    run(test)


def test_wrong_connections(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no path"):
        WalkvPersistence({})
    with pytest.raises(ValueError, match="no option 'host'"):
        WalkvPersistence({"path": tmp_path / "s", "host": "localhost"})
    no_connection: Any = str(tmp_path / "s")
    with pytest.raises(TypeError, match="not a str"):
        WalkvPersistence(no_connection)

    async def test() -> None:
        async with WalkvPersistence({"path": tmp_path / "s"}):
            with pytest.raises(LockedError):
                await WalkvPersistence({"path": tmp_path / "s"}).connect()
        provider = WalkvPersistence({"path": tmp_path / "none", "create": False})
        with pytest.raises((WalkvError, OSError)):
            await provider.connect()
        assert not provider.is_connected
        assert await provider.health_check() is False
        with pytest.raises(ClosedError, match="connect"):
            await provider.execute_transaction([])
        with pytest.raises(ClosedError, match="connect"):
            provider.query("workflows")
        with pytest.raises(ClosedError, match="connect"):
            async with provider.transaction_manager.transaction("a"):
                pass
        assert provider.transaction_manager.active_transactions == {}

    run(test)


def test_health(tmp_path: Path) -> None:
    async def test() -> None:
        fs = FaultyFileSystem(SimulatedFileSystem())
        provider = WalkvPersistence({"path": "/s", "filesystem": fs})
        assert await provider.health_check() is False
        await provider.connect()
        assert await provider.health_check() is True
        fs.fault = Fault(lambda call: call.operation == "sync_data")
        with pytest.raises(StoreFailedError):
            await provider.save_workflow(workflow())
        assert await provider.health_check() is False
        with pytest.raises(StoreFailedError):
            await provider.save_workflow(workflow())
        with pytest.raises(StoreFailedError):
            await provider.disconnect()
        assert await provider.health_check() is False

    run(test)


# -- queries, errors, the monitor ----------------------------------------------------------------


def test_queries(tmp_path: Path) -> None:
    async def test() -> None:
        async with WalkvPersistence({"path": tmp_path / "s"}) as provider:
            for number in range(30):
                await provider.save_execution(execution(number))
            query = provider.query("executions", workflow_id="w1").order_by("-started_at")
            assert query.explain().index == "workflow_id,started_at"
            page = await query.limit(4).page()
            assert [each.execution_id for each in page.items] == [
                "e0029",
                "e0028",
                "e0027",
                "e0026",
            ]
            assert page.cursor is not None
            assert await provider.query("executions").where(started_at__gte=START).count() == 30
            assert await provider.query("checkpoints", namespace="n").all() == []
            with pytest.raises(CodecError, match="no such namespace"):
                provider.query("tables")
            with pytest.raises(CodecError, match="no such field"):
                provider.query("executions", colour="red")

    run(test)


def test_errors_name_namespace_and_field(tmp_path: Path) -> None:
    async def test() -> None:
        async with WalkvPersistence({"path": tmp_path / "s"}) as any_provider:
            provider: Any = any_provider
            await provider.save_workflow(workflow())
            await provider.save_execution(execution())
            await provider.save_context(context())
            await provider.save_configuration(configuration())
            calls: list[tuple[Callable[[], Any], str, str]] = [
                (lambda: provider.save_workflow(workflow(status="odd")), "workflows", "status"),
                (lambda: provider.update_workflow("w1", {"status": 1}), "workflows", "status"),
                (lambda: provider.update_workflow_status("w1", "odd"), "workflows", "status"),
                (lambda: provider.list_workflows(status="odd"), "workflows", "status"),
                (lambda: provider.update_workflow("w1", {"colour": 1}), "workflows", "colour"),
                (lambda: provider.update_workflow("w1", {"sync": Wal()}), "workflows", "sync"),
                (
                    lambda: provider.update_workflow("w1", {"workflow_id": "w2"}),
                    "workflows",
                    "workflow_id",
                ),
                (lambda: provider.save_workflow(workflow(roles="all")), "workflows", "roles"),
                (
                    lambda: provider.save_workflow(workflow(role_results={"a": object()})),
                    "workflows",
                    "role_results",
                ),
                (lambda: provider.save_workflow(execution()), "workflows", ""),
                (lambda: provider.save_workflow(None), "workflows", ""),
                (
                    lambda: provider.save_context(context(context_type="odd")),
                    "contexts",
                    "context_type",
                ),
                (
                    lambda: provider.save_compressed_context("c1", "x", "half"),
                    "contexts",
                    "compression_ratio",
                ),
                (lambda: provider.update_context("c1", {"sections": 1}), "contexts", "sections"),
                (
                    lambda: provider.save_execution(execution(action_type="odd")),
                    "executions",
                    "action_type",
                ),
                (
                    lambda: provider.update_execution("e0001", {"task_id": "t"}),
                    "executions",
                    "task_id",
                ),
                (
                    lambda: provider.update_execution("e0001", {"execution_time": "long"}),
                    "executions",
                    "execution_time_seconds",
                ),
                (
                    lambda: provider.list_executions_by_role("coder", "odd"),
                    "executions",
                    "status",
                ),
                (
                    lambda: provider.save_configuration(configuration(config_type="odd")),
                    "configurations",
                    "config_type",
                ),
                (lambda: provider.list_configurations("odd"), "configurations", "config_type"),
                (
                    lambda: provider.get_active_configuration("odd", "planner"),
                    "configurations",
                    "config_type",
                ),
            ]
            for number, (call, namespace, field) in enumerate(calls):
                with pytest.raises(CodecError) as caught:
                    await call()
                assert (caught.value.namespace, caught.value.field) == (namespace, field), number
            with pytest.raises(LimitError) as limit:
                await provider.save_workflow(workflow(created_by="x" * 100_000))
            assert (limit.value.namespace, limit.value.field) == ("workflows", "created_by")
            with pytest.raises(ValueError, match="limit"):
                await provider.list_workflows(limit=-1)
            # Nothing of it was written.
            assert await provider.list_workflows() == [workflow()]
            assert await provider.list_executions_by_workflow("w1") == [execution()]
            assert await provider.list_contexts_by_workflow("w1") == [context()]
            assert await provider.list_configurations(is_active=None) == [configuration()]

    run(test)


def test_the_monitor_is_told_of_every_call(tmp_path: Path) -> None:
    async def test() -> None:
        monitor = PerformanceMonitor(slow_query_threshold=0.0)
        async with WalkvPersistence({"path": tmp_path / "s"}, monitor=monitor) as provider:
            await provider.save_workflow(workflow())
            await provider.save_workflow(workflow(2))
            assert await provider.get_workflow("none") is None
            assert len(await provider.list_workflows()) == 2
            assert await provider.delete_workflow("none") is False
            await provider.cleanup_expired_contexts()
            with pytest.raises(CodecError):
                await provider.save_workflow(workflow(status="odd"))
            await provider.get_workflow_statistics()
            saved = operation("save_execution", execution=execution())
            await provider.execute_transaction([saved])
            noted = [
                (each["query"], each["result_count"]) for each in monitor.metrics["slow_queries"]
            ]
            assert noted == [
                ("save_workflow", 1),
                ("save_workflow", 1),
                ("get_workflow", 0),
                ("list_workflows", 2),
                ("delete_workflow", 0),
                ("cleanup_expired_contexts", 0),
                ("save_workflow", 0),
                ("get_workflow_statistics", 1),
                ("save_execution", 1),
                ("execute_transaction", 1),
            ]
            report = monitor.get_performance_report()
            assert report["total_queries"] == report["slow_query_count"] == 10
            total = sum(each["execution_time"] for each in monitor.metrics["slow_queries"])
            assert report["average_query_time"] == pytest.approx(total / 10)
            assert report["average_query_time"] > 0
            assert report["slow_queries"] == monitor.metrics["slow_queries"]
            assert "cache_hit_rate" not in report

            monitor.slow_query_threshold = 3600.0
            await provider.get_workflow("w1")
            report = monitor.get_performance_report()
            assert (report["total_queries"], report["slow_query_count"]) == (11, 10)

            # Every method of the interfaces that touches records is one that is recorded.
            recorded = {
                name
                for name, method in inspect.getmembers(WalkvPersistence)
                if hasattr(method, "__wrapped__")
            }
            asked = {name for protocol in PROTOCOLS for name in methods(protocol)}
            assert asked - recorded == {"connect", "disconnect", "initialize_schema"}

    run(test)


def test_slow_operations() -> None:
    async def test() -> None:
        monitor = PerformanceMonitor()
        assert monitor.get_performance_report() == {
            "total_queries": 0,
            "average_query_time": 0.0,
            "slow_query_count": 0,
            "slow_queries": [],
        }
        assert monitor.slow_query_threshold == 1.0
        await monitor.record_query_execution("at the threshold", 1.0, 1)
        for number in range(130):
            await monitor.record_query_execution(f"{number} ".ljust(230, "x"), 2.0, number)
        report = monitor.get_performance_report()
        assert report["total_queries"] == 131
        assert report["slow_query_count"] == 130
        assert report["average_query_time"] == pytest.approx(261 / 131)
        slow = report["slow_queries"]
        assert [each["result_count"] for each in slow] == list(range(30, 130))
        assert slow[0]["query"] == "30 ".ljust(200, "x") + "..."
        assert slow[0]["execution_time"] == 2.0
        assert slow[0]["timestamp"].tzinfo is UTC

    run(test)
