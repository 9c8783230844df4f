"""The managers: the design's own flows, what they leave open, and backups that can be relied on."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import walkv
from tests.support import processes
from walkv import AgentStore, CodecError, LockedError, RecordExistsError, RecordNotFoundError
from walkv.engine.vfs import OsFileSystem
from walkv.errors import ClosedError, CorruptionError, FormatError, ReadOnlyError
from walkv.interfaces.managers import (
    BackupError,
    BackupManager,
    BackupNotFoundError,
    ConfigManager,
    DatabaseManager,
    KnowledgeSourceManager,
    NoSqlError,
    RestoreError,
    SubTask,
    TaskHistory,
    TaskHistoryManager,
    ToolLogManager,
    UserManager,
    copying,
)
from walkv.ops.copying import copy_store
from walkv.testing import SimulatedFileSystem

SECRET = "sk-very-secret"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "flow.walkv"


@pytest.fixture
def database(path: Path) -> Iterator[DatabaseManager]:
    with DatabaseManager(path) as manager:
        yield manager


def together(count: int, function: Callable[[int], Any]) -> list[Any]:
    """What a function returns for each number, called in as many threads at once."""
    barrier = threading.Barrier(count)

    def run(number: int) -> Any:
        barrier.wait()
        return function(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


# -- the store -----------------------------------------------------------------------------------


def test_a_connection_is_the_agents_store(database: DatabaseManager, path: Path) -> None:
    with database.get_connection() as agent:
        assert isinstance(agent, AgentStore)
        agent.sessions.create("s", "ada")
    with database.get_connection() as again:
        assert again is agent
        assert again.sessions.exists("s")
    assert database.db_path == str(path)
    assert repr(database) == f"<walkv.DatabaseManager {str(path)!r} open>"


def test_there_is_no_sql_and_the_error_says_what_there_is(database: DatabaseManager) -> None:
    for function in (database.execute_query, database.execute_update, database.execute_insert):
        with pytest.raises(NoSqlError, match="get_connection") as caught:
            function("SELECT * FROM task_history WHERE task_id = ?", (1,))
        assert isinstance(caught.value, NotImplementedError)
        assert isinstance(caught.value, walkv.WalkvError)


def test_a_store_or_an_agent_that_is_given_stays_open(path: Path) -> None:
    with walkv.open(path) as store:
        with DatabaseManager(store) as manager:
            task_id = TaskHistoryManager(manager).create_task("s", "x", [])
        assert not store.closed
        with pytest.raises(TypeError, match="open already"):
            DatabaseManager(store, cache_bytes=0)
    with AgentStore(path, policies={"users": walkv.WriteBack()}) as agent:
        with DatabaseManager(agent) as manager:
            assert manager.agent is agent
            assert TaskHistoryManager(manager).create_task("s", "y", []) == task_id + 1
            manager.close()
            manager.open()
            assert len(TaskHistoryManager(manager).get_task_history()) == 2
        assert not agent.closed


def test_a_closed_manager_says_so_and_opens_again(database: DatabaseManager) -> None:
    history, configuration = TaskHistoryManager(database), ConfigManager(database)
    history.create_task("s", "x", [])
    database.close()
    database.close()
    assert "closed" in repr(database)
    with pytest.raises(ClosedError):
        history.get_task_history()
    with pytest.raises(ClosedError):
        history.create_task("s", "x", [])
    with pytest.raises(ClosedError), database.get_connection():
        pass
    database.open()
    database.open()
    assert len(history.get_task_history()) == 1
    assert configuration.get_config("log_level") == "INFO"


def test_only_one_may_write_and_others_may_read(database: DatabaseManager, path: Path) -> None:
    TaskHistoryManager(database).create_task("s", "x", [])
    with pytest.raises(LockedError):
        DatabaseManager(path)
    with DatabaseManager(path, read_only=True) as reader:
        assert len(TaskHistoryManager(reader).get_task_history()) == 1
        with pytest.raises(ReadOnlyError):
            TaskHistoryManager(reader).create_task("s", "x", [])
    with pytest.raises(FileNotFoundError):
        DatabaseManager(path.with_name("other.walkv"), create=False)


# -- tasks ---------------------------------------------------------------------------------------


def test_the_flow_of_a_task(database: DatabaseManager) -> None:
    """The design's sequence: create, work on the subtasks, log tool calls, complete."""
    history, tools = TaskHistoryManager(database), ToolLogManager(database)
    wanted: list[dict[str, Any]] = [
        {"description": "Read the mail", "expected_output": "a list", "extra": [1]},
        {"description": "Sort it"},
    ]
    task_id = history.create_task("session-1", "Sort my mail", wanted)
    assert task_id == 1
    for subtask in history.get_task_details(task_id)["subtasks"]:
        assert subtask["status"] == "pending"
        history.update_subtask_status(subtask["subtask_id"], "in_progress")
        log_id = tools.log_tool_call(task_id, "mail", {"folder": "in"}, {"count": 12}, 0.25)
        assert type(log_id) is int
        history.update_subtask_status(
            subtask["subtask_id"],
            "completed",
            actual_output="done",
            context={"seen": 12},
            validation_report={"ok": True},
        )
    history.update_task_status(task_id, "completed", {"sorted": 12})

    details = history.get_task_details(task_id)
    assert set(details) == {"task", "subtasks", "tool_logs"}
    task = details["task"]
    assert set(task) == {
        "task_id",
        "session_id",
        "user_input",
        "subtasks",
        "results",
        "status",
        "created_at",
        "updated_at",
    }
    assert task["task_id"] == task_id
    assert task["subtasks"] == wanted
    assert (task["status"], task["results"]) == ("completed", {"sorted": 12})
    assert task["updated_at"] > task["created_at"]
    assert task["created_at"].tzinfo is UTC
    assert [each["subtask_index"] for each in details["subtasks"]] == [0, 1]
    first = details["subtasks"][0]
    assert {name: first[name] for name in first if not name.endswith("_at")} == {
        "subtask_id": 1,
        "task_id": task_id,
        "subtask_index": 0,
        "description": "Read the mail",
        "expected_output": "a list",
        "actual_output": "done",
        "status": "completed",
        "context": {"seen": 12},
        "validation_report": {"ok": True},
    }
    assert history.get_subtask_by_id(1) == first
    assert [each["log_id"] for each in details["tool_logs"]] == [1, 2]
    assert {each["task_id"] for each in details["tool_logs"]} == {task_id}
    # What the design calls data models can be made of rows.
    assert TaskHistory(**task).results == {"sorted": 12}
    assert SubTask(**first).actual_output == "done"


def test_tasks_are_listed_newest_first(database: DatabaseManager) -> None:
    history = TaskHistoryManager(database)
    ids = [history.create_task(f"s{number % 2}", str(number), []) for number in range(60)]
    assert ids == list(range(1, 61))
    assert [row["task_id"] for row in history.get_task_history()] == ids[:9:-1]
    assert [row["task_id"] for row in history.get_task_history(limit=2)] == [60, 59]
    found = history.get_task_history("s1", limit=3)
    assert [row["user_input"] for row in found] == ["59", "57", "55"]
    assert len(history.get_task_history("")) == 50
    assert history.get_task_history("nobody") == []
    history.update_task_status(7, "failed")
    history.update_task_status(9, "failed")
    assert [row["task_id"] for row in history.get_tasks_by_status("failed")] == [9, 7]
    assert len(history.get_tasks_by_status("in_progress", limit=4)) == 4
    assert history.get_tasks_by_status("completed") == []


def test_what_is_not_there_is_empty_and_what_is_wrong_raises(database: DatabaseManager) -> None:
    history = TaskHistoryManager(database)
    assert history.get_task_details(1) == {}
    assert history.get_subtask_by_id(1) == {}
    with pytest.raises(RecordNotFoundError):
        history.update_task_status(1, "completed")
    with pytest.raises(RecordNotFoundError):
        history.update_subtask_status(1, "completed")
    task_id = history.create_task("s", "x", [{}])
    with pytest.raises(CodecError, match=r"tasks\.status"):
        history.update_task_status(task_id, "somehow")
    with pytest.raises(CodecError, match="user_input"):
        history.create_task("s", None, [])  # type: ignore[arg-type]
    with pytest.raises(CodecError, match=r"subtasks\.description"):
        history.create_task("s", "x", [{"description": 7}])
    assert [row["task_id"] for row in history.get_task_history()] == [task_id]
    assert history.get_task_history()[0]["status"] == "in_progress"


def test_tasks_that_others_have_made_have_the_ids_they_were_given(
    database: DatabaseManager,
) -> None:
    history = TaskHistoryManager(database)
    with database.get_connection() as agent:
        made = agent.tasks.create("s", "x", [{"description": "y"}])
        agent.tasks.create("s", "z", task_id="007")
        agent.executions.start(role="planner", task_id=made.task_id)
    rows = history.get_task_history()
    assert [row["task_id"] for row in rows] == ["007", made.task_id]
    assert rows[1]["subtasks"] == []
    details = history.get_task_details(made.task_id)  # type: ignore[arg-type]
    assert [each["description"] for each in details["subtasks"]] == ["y"]
    # What is no tool call is not in the log of tool calls.
    assert details["tool_logs"] == []


def test_numbers_are_given_once_whoever_asks_and_whenever(path: Path) -> None:
    with DatabaseManager(path) as database:
        history = TaskHistoryManager(database)

        def create(number: int) -> list[int]:
            steps: list[dict[str, Any]] = [{}, {}]
            return [history.create_task(f"{number}", "x", steps) for _ in range(10)]

        given = [number for numbers in together(32, create) for number in numbers]
        assert sorted(given) == list(range(1, 321))
        for task_id in given:
            details = history.get_task_details(task_id)
            assert len(details["subtasks"]) == 2
        subtask_ids = {
            each["subtask_id"]
            for task_id in given
            for each in history.get_task_details(task_id)["subtasks"]
        }
        assert subtask_ids == set(range(1, 641))
        # And never again, also if the last one is gone.
        database.agent.tasks.delete("320")
    with DatabaseManager(path) as database:
        assert TaskHistoryManager(database).create_task("s", "x", []) == 321


def test_a_power_failure_never_leaves_a_task_whose_number_is_given_again() -> None:
    fs = SimulatedFileSystem()
    disks: dict[bytes, Any] = {}

    def collect(_operation: str, _path: str) -> None:
        for disk in fs.crash_states():
            disks.setdefault(disk.digest(), disk)

    store = walkv.open("/flow", filesystem=fs)
    database = DatabaseManager(store)
    fs.on_operation = collect
    for number in range(3):
        TaskHistoryManager(database).create_task("s", str(number), [{}])
        ToolLogManager(database).log_tool_call(1, "t", {}, {}, 0.0)
    fs.on_operation = None
    store.close()
    seen = set()
    for disk in disks.values():
        after = SimulatedFileSystem.after_power_failure(disk)
        with walkv.open("/flow", filesystem=after) as again:
            database = DatabaseManager(again)
            rows = TaskHistoryManager(database).get_task_history()
            logs = ToolLogManager(database).get_tool_logs()
            seen.add((len(rows), len(logs)))
            assert TaskHistoryManager(database).create_task("s", "new", [{}]) > len(rows)
            assert ToolLogManager(database).log_tool_call(1, "t", {}, {}, 0.0) > len(logs)
            assert database.agent.verify() == []
    assert {0, 1, 2, 3} == {tasks for tasks, _ in seen}


# -- settings ------------------------------------------------------------------------------------


def test_settings(database: DatabaseManager) -> None:
    configuration = ConfigManager(database)
    assert configuration.get_all_config() == ConfigManager.DEFAULTS
    assert configuration.get_config("llm_model") == "openai/gpt-4o"
    configuration.set_config("llm_model", "local/small", "What we run")
    configuration.set_config("mine", "7")
    assert configuration.get_config("llm_model") == "local/small"
    assert configuration.get_all_config() == {
        **ConfigManager.DEFAULTS,
        "llm_model": "local/small",
        "mine": "7",
    }
    configuration.delete_config("mine")
    configuration.delete_config("mine")
    assert configuration.get_config("mine") is None
    assert configuration.get_config("mine", "none") == "none"
    with pytest.raises(CodecError, match="text, not a int"):
        configuration.set_config("mine", 7)  # type: ignore[arg-type]
    settings = database.agent.configurations.settings
    described = settings.get("llm_model")
    assert described is not None
    assert described.description == "What we run"
    configuration.set_config("llm_model", "local/large")
    described = settings.get("llm_model")
    assert described is not None
    assert described.description == "What we run"


def test_a_restart_keeps_what_was_configured(path: Path) -> None:
    with DatabaseManager(path) as database:
        ConfigManager(database).set_config("llm_model", "local/small")
        ConfigManager(database).delete_config("log_level")
    with DatabaseManager(path) as database:
        configuration = ConfigManager(database)
        assert configuration.get_config("llm_model") == "local/small"
        assert configuration.get_config("log_level") == "INFO"
        # With nothing missing, nothing is written.
        before = database.agent.store.stats().last_sequence
        ConfigManager(database)
        assert database.agent.store.stats().last_sequence == before


def test_many_may_set_the_defaults_at_once(database: DatabaseManager) -> None:
    def configure(number: int) -> None:
        configuration = ConfigManager(database)
        configuration.set_config(f"own_{number}", str(number))

    together(16, configure)
    found = ConfigManager(database).get_all_config()
    assert len(found) == len(ConfigManager.DEFAULTS) + 16


# -- users ---------------------------------------------------------------------------------------


def test_users(database: DatabaseManager) -> None:
    users = UserManager(database)
    users.create_user("ada", {"theme": "dark"}, {"openai": SECRET})
    users.create_user("bob")
    with pytest.raises(RecordExistsError):
        users.create_user("ada")
    assert users.get_user_preferences("ada") == {"theme": "dark"}
    assert users.update_user_preferences("ada", {"theme": "light"}) is True
    assert users.get_user_preferences("ada") == {"theme": "light"}
    assert users.update_user_api_keys("ada", {"openai": SECRET, "local": "k"}) is True
    assert users.get_user_api_keys("ada") == {"openai": SECRET, "local": "k"}
    assert users.get_user_stats("bob") == {"task_count": 0, "total_tokens": 0}
    assert users.update_usage_stats("bob", task_count=1, tokens=250) is True
    assert users.update_usage_stats("bob", tokens=50) is True
    assert users.get_user_stats("bob") == {"task_count": 1, "total_tokens": 300}

    info = users.get_user_info("ada")
    assert set(info) == {
        "user_id",
        "preferences",
        "api_keys",
        "usage_stats",
        "created_at",
        "updated_at",
    }
    assert info["preferences"] == {"theme": "light"}
    assert info["updated_at"] > info["created_at"]

    for function in (
        users.get_user_preferences,
        users.get_user_api_keys,
        users.get_user_stats,
        users.get_user_info,
    ):
        assert function("nobody") == {}
    assert users.update_user_preferences("nobody", {}) is False
    assert users.update_user_api_keys("nobody", {}) is False
    assert users.update_usage_stats("nobody", 1, 1) is False
    with pytest.raises(CodecError, match="preferences"):
        users.update_user_preferences("ada", "dark")  # type: ignore[arg-type]


def test_secrets_are_shown_to_who_asks_for_them(
    database: DatabaseManager, caplog: pytest.LogCaptureFixture
) -> None:
    users = UserManager(database)
    users.create_user("ada", {}, {"openai": SECRET})
    info = users.get_user_info("ada")
    assert info["api_keys"] == {"openai": "***"}
    assert users.get_user_info("ada", secrets=True)["api_keys"] == {"openai": SECRET}
    assert users.get_user_api_keys("ada") == {"openai": SECRET}
    shown = [repr(users), repr(database), str(info), repr(database.agent.users.get("ada"))]
    shown += [repr(each) for each in database.agent.users.query().all()]
    with pytest.raises(CodecError) as caught:
        users.update_user_api_keys("ada", [SECRET])  # type: ignore[arg-type]
    shown += [str(caught.value), repr(caught.value), caplog.text]
    assert not [text for text in shown if SECRET in text]


def test_usage_is_exact_when_32_threads_add_to_it(database: DatabaseManager) -> None:
    users = UserManager(database)
    users.create_user("ada")

    def work(number: int) -> None:
        for _ in range(25):
            assert users.update_usage_stats("ada", task_count=1, tokens=number)

    together(32, work)
    assert users.get_user_stats("ada") == {
        "task_count": 32 * 25,
        "total_tokens": 25 * sum(range(32)),
    }


# -- knowledge sources ---------------------------------------------------------------------------


def test_knowledge_sources(database: DatabaseManager) -> None:
    sources = KnowledgeSourceManager(database)
    one = sources.add_knowledge_source("Manual", "/docs/manual.pdf", "pdf", {"pages": 12})
    two = sources.add_knowledge_source("Wiki", "https://wiki", "web")
    assert (one, two) == (1, 2)
    found = sources.get_knowledge_source(one)
    assert {name: found[name] for name in found if not name.endswith("_at")} == {
        "source_id": 1,
        "source_name": "Manual",
        "source_path": "/docs/manual.pdf",
        "source_type": "pdf",
        "metadata": {"pages": 12},
        "status": "active",
    }
    assert [each["source_id"] for each in sources.get_all_knowledge_sources()] == [two, one]
    assert sources.update_knowledge_source(one, source_name="Guide", metadata={"pages": 13}) == 1
    changed = sources.get_knowledge_source(one)
    assert (changed["source_name"], changed["metadata"]) == ("Guide", {"pages": 13})
    assert changed["updated_at"] > found["updated_at"]
    assert sources.delete_knowledge_source(two) == 1
    assert sources.delete_knowledge_source(two) == 1
    assert [each["source_id"] for each in sources.get_all_knowledge_sources()] == [one]
    assert [each["source_id"] for each in sources.get_all_knowledge_sources("deleted")] == [two]
    assert sources.get_knowledge_source(two)["status"] == "deleted"
    assert sources.update_knowledge_source(two, status="active") == 1
    assert sources.get_knowledge_source(7) == {}
    assert sources.update_knowledge_source(7, source_name="x") == 0
    assert sources.delete_knowledge_source(7) == 0
    assert sources.update_knowledge_source(one) == 0
    with pytest.raises(CodecError, match="no such field") as caught:
        sources.update_knowledge_source(one, source_name="x", owner="ada")
    assert caught.value.field == "owner"
    assert sources.get_knowledge_source(one)["source_name"] == "Guide"


# -- tool logs -----------------------------------------------------------------------------------


def test_tool_logs(database: DatabaseManager) -> None:
    tools = ToolLogManager(database)
    ids = [
        tools.log_tool_call(1, "search", {"q": "a"}, {"hits": 1}, 0.5),
        tools.log_tool_call(1, "fetch", {"url": "b"}, {}, 1.5, "failed", "timed out"),
        tools.log_tool_call(2, "search", {"q": "c"}, {"hits": 2}, 1.0),
    ]
    assert ids == [1, 2, 3]
    with database.get_connection() as agent:
        agent.executions.start(role="planner", task_id="1")
        agent.executions.start(tool_name="search", task_id="1")
        agent.executions.once("paid", lambda: 1)
    (failed,) = tools.get_tool_logs(tool_name="fetch")
    moment = failed.pop("created_at")
    assert moment <= datetime.now(UTC)
    assert failed == {
        "log_id": 2,
        "task_id": 1,
        "tool_name": "fetch",
        "tool_args": {"url": "b"},
        "tool_result": {},
        "execution_time": 1.5,
        "status": "failed",
        "error_message": "timed out",
    }
    every = tools.get_tool_logs()
    assert {1, 2, 3} <= {each["log_id"] for each in every}
    assert all(one["created_at"] >= two["created_at"] for one, two in pairwise(every))
    assert [each["log_id"] for each in tools.get_tool_logs(task_id=2)] == [3]
    assert len(tools.get_tool_logs(limit=2)) == 2
    assert [each["log_id"] for each in tools.get_tool_logs(2, "search")] == [3]
    assert tools.get_tool_logs(9) == []
    # What is still running counts when it is over.
    assert tools.get_tool_stats() == {
        "total_calls": 3,
        "success_calls": 2,
        "failure_calls": 1,
        "success_rate": 2 / 3,
        "avg_execution_time": 1.0,
    }
    assert tools.get_tool_stats("search")["avg_execution_time"] == 0.75
    assert tools.get_tool_stats("nothing") == {
        "total_calls": 0,
        "success_calls": 0,
        "failure_calls": 0,
        "success_rate": 0,
        "avg_execution_time": 0,
    }
    with pytest.raises(CodecError, match=r"executions\.status"):
        tools.log_tool_call(1, "search", {}, {}, 0.0, "broken")


def test_everything_is_there_after_a_restart(path: Path) -> None:
    with DatabaseManager(path) as database:
        task_id = TaskHistoryManager(database).create_task("s", "x", [{"description": "y"}])
        UserManager(database).create_user("ada", {"a": 1}, {"k": SECRET})
        KnowledgeSourceManager(database).add_knowledge_source("n", "p", "t")
        ToolLogManager(database).log_tool_call(task_id, "t", {"a": 1}, {"b": 2}, 0.1)
        ConfigManager(database).set_config("mine", "7")
        before = everything(database)
    with DatabaseManager(path) as database:
        assert everything(database) == before
        assert database.agent.verify() == []


def everything(database: DatabaseManager) -> list[Any]:
    return [
        TaskHistoryManager(database).get_task_details(1),
        UserManager(database).get_user_info("ada", secrets=True),
        KnowledgeSourceManager(database).get_all_knowledge_sources(),
        ToolLogManager(database).get_tool_logs(),
        ConfigManager(database).get_all_config(),
    ]


# -- backups -------------------------------------------------------------------------------------


@pytest.fixture
def backups(database: DatabaseManager, tmp_path: Path) -> BackupManager:
    return BackupManager(database, tmp_path / "backups")


def store_of(backup_path: str) -> Path:
    return Path(backup_path) / "store.walkv"


def names(backups: BackupManager) -> list[str]:
    return [info["backup_name"] for info in backups.list_backups()]


def test_a_backup_is_a_store_with_the_same_entries(
    database: DatabaseManager, backups: BackupManager, path: Path
) -> None:
    UserManager(database).create_user("ada", {"a": 1}, {"k": SECRET})
    database.agent.store.put(b"plain", b"value")
    database.agent.store.put(b"gone", b"value")
    database.agent.store.compact()
    database.agent.store.delete(b"gone")
    database.agent.store.delete_range(b"nothing")
    made = backups.create_backup("first")
    assert made == str(Path(backups.backup_dir) / "first")
    (info,) = backups.list_backups()
    assert info["backup_name"] == "first"
    assert info["backup_path"] == made
    assert info["db_path"] == str(path)
    assert info["chroma_path"] is None
    assert datetime.fromisoformat(info["created_at"]).tzinfo is not None
    with walkv.open(store_of(made), read_only=True) as copy:
        assert dict(copy.scan()) == dict(database.agent.store.scan())
        assert copy.verify().ok
        assert info["entry_count"] == copy.count()
    with DatabaseManager(store_of(made)) as other:
        assert UserManager(other).get_user_api_keys("ada") == {"k": SECRET}
        assert other.agent.verify() == []
    assert sorted(os.listdir(made)) == ["backup_info.json", "store.walkv"]


def test_backups_have_names(backups: BackupManager) -> None:
    begin = datetime.now(UTC).replace(microsecond=0)
    one, two = backups.create_backup(), backups.create_backup()
    assert one != two
    stamp = datetime.strptime(Path(one).name, "backup_%Y%m%d_%H%M%S").replace(tzinfo=UTC)
    assert begin <= stamp <= datetime.now(UTC)
    assert names(backups) == [Path(two).name, Path(one).name]
    with pytest.raises(BackupError, match="already"):
        backups.create_backup(Path(one).name)
    for bad in ("", ".", "..", "../out", "a/b", ".hidden", "a\0b", "x" * 201):
        with pytest.raises(BackupError, match="no name"):
            backups.create_backup(bad)
        with pytest.raises(BackupError, match="no name"):
            backups.delete_backup(bad)
    assert len(names(backups)) == 2
    assert sorted(os.listdir(Path(backups.backup_dir).parent)) == ["backups", "flow.walkv"]


def test_a_backup_keeps_when_entries_expire(
    database: DatabaseManager, backups: BackupManager, path: Path
) -> None:
    store = database.agent.store
    store.put(b"settled", b"2", ttl_seconds=1000)
    store.compact()
    store.put(b"unsettled", b"3", ttl_seconds=2000)
    store.put(b"brief", b"1", ttl_seconds=0.001)
    while b"brief" in store:
        pass
    made = backups.create_backup()
    assert backups.list_backups()[0]["entry_count"] == store.count()

    def expiries(opened: walkv.Store) -> dict[bytes, int]:
        engine = opened.engine
        found = {key: engine.entry(key) for key in (b"settled", b"unsettled")}
        return {key: entry[2] for key, entry in found.items() if entry is not None}

    with walkv.open(store_of(made)) as copy:
        assert len(expiries(copy)) == 2
        assert expiries(copy) == expiries(store)
        assert copy.get(b"settled") == b"2"
        assert b"brief" not in copy


def test_an_entry_may_expire_while_it_is_copied(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        for number in range(3000):
            value = random.Random(number).randbytes(300)
            store.put(b"k%04d" % number, value, sync=walkv.WriteBack())
        store.compact()
        store.put(b"brief", b"1", ttl_seconds=0.5)
        chunks = 0

        def progress(done: int, total: int) -> None:
            nonlocal chunks
            chunks += 1
            while chunks == 2 and b"brief" in store:
                pass

        copied = copy_store(store.engine, str(tmp_path / "copy"), None, progress)
        assert chunks > 2
        assert copied.entry_count in (3000, 3001)
    with walkv.open(tmp_path / "copy", read_only=True) as copy:
        assert copy.count() == 3000


def test_a_backup_taken_while_others_write_is_a_prefix_of_their_commits(
    path: Path, tmp_path: Path
) -> None:
    # A small memtable, so that flushes and merges go on meanwhile.
    with DatabaseManager(path, memtable_bytes=1 << 18) as database:
        backups = BackupManager(database, tmp_path / "backups", max_backups=100)
        store, stop = database.agent.store, threading.Event()
        written = threading.Semaphore(0)

        def write(number: int) -> None:
            count = 0
            while not stop.is_set():

                def commit(transaction: Any, count: int = count) -> None:
                    last = int(transaction.get(b"a", b"0")) + 1
                    # The first key that a copy comes to, and the last one.
                    transaction.put(b"a", b"%d" % last)
                    transaction.put(b"z", b"%d" % last)
                    transaction.put(b"commit/%08d" % last, b"%d/%d" % (number, count) + b"x" * 500)
                    transaction.put(b"writer/%d" % number, b"%d" % count)

                store.transact(commit, retries=10_000, sync=walkv.WriteBack())
                count += 1
                written.release()

        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(6):
                for _ in range(150):
                    assert written.acquire(timeout=60)
                backups.create_backup()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        final = dict(store.scan(prefix=b"commit/"))
        lasts = []
        for info in reversed(backups.list_backups()):
            with walkv.open(store_of(info["backup_path"])) as copy:
                assert copy.recovery_report.clean
                assert copy.verify().ok
                last = int(copy[b"a"])
                assert copy[b"z"] == copy[b"a"]
                found = dict(copy.scan(prefix=b"commit/"))
                assert found == dict(sorted(final.items())[:last])
                newest: dict[bytes, bytes] = {}
                for value in found.values():
                    writer, _, count = value.rstrip(b"x").partition(b"/")
                    newest[b"writer/" + writer] = count
                assert dict(copy.scan(prefix=b"writer/")) == newest
            with AgentStore(store_of(info["backup_path"])) as agent:
                assert agent.verify() == []
            lasts.append(last)
        assert lasts == sorted(lasts)
        assert lasts[0] >= 150
        assert lasts[-1] < len(final) + 1


def test_a_backup_of_records_agrees_with_itself(
    database: DatabaseManager, backups: BackupManager
) -> None:
    history, stop = TaskHistoryManager(database), threading.Event()
    written = threading.Semaphore(0)

    def work() -> None:
        while not stop.is_set():
            task_id = history.create_task("s", "x", [{"description": "a"}, {"description": "b"}])
            history.update_task_status(task_id, "completed", {"n": task_id})
            written.release()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            assert written.acquire(timeout=60)
        made = backups.create_backup()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    with DatabaseManager(store_of(made)) as copy:
        assert copy.agent.verify() == []
        rows = TaskHistoryManager(copy).get_task_history(limit=10_000)
        assert len(rows) >= 20
        for row in rows:
            assert len(TaskHistoryManager(copy).get_task_details(row["task_id"])["subtasks"]) == 2
        given = {row["task_id"] for row in rows}
        assert TaskHistoryManager(copy).create_task("s", "new", [{}]) not in given


def test_only_so_many_backups_are_kept(database: DatabaseManager, tmp_path: Path) -> None:
    backups = BackupManager(database, tmp_path / "backups", max_backups=3)
    with DatabaseManager(tmp_path / "other.walkv") as other:
        BackupManager(other, tmp_path / "backups", max_backups=1).create_backup("of_another")
    for number in range(6):
        database.agent.store.put(b"n", b"%d" % number)
        backups.create_backup(f"b{number}")
    assert names(backups) == ["b5", "b4", "b3", "of_another"]
    assert sorted(os.listdir(backups.backup_dir)) == [".lock", "b3", "b4", "b5", "of_another"]
    for number in (3, 4, 5):
        with walkv.open(store_of(f"{backups.backup_dir}/b{number}"), read_only=True) as copy:
            assert copy[b"n"] == b"%d" % number


def test_a_backup_from_before_the_clock_was_set_back_does_not_cost_the_new_one(
    database: DatabaseManager, tmp_path: Path
) -> None:
    backups = BackupManager(database, tmp_path / "backups", max_backups=1)
    made = Path(backups.create_backup("future"))
    info = json.loads((made / "backup_info.json").read_text())
    info["created_at"] = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    (made / "backup_info.json").write_text(json.dumps(info))
    backups.create_backup("now")
    assert names(backups) == ["now"]


def test_a_backup_is_deleted_by_name(backups: BackupManager) -> None:
    backups.create_backup("one")
    backups.create_backup("two")
    backups.delete_backup("one")
    assert names(backups) == ["two"]
    with pytest.raises(BackupNotFoundError) as caught:
        backups.delete_backup("one")
    assert isinstance(caught.value, FileNotFoundError)
    assert isinstance(caught.value, BackupError)
    assert sorted(os.listdir(backups.backup_dir)) == [".lock", "two"]


def test_what_is_no_backup_is_not_listed(backups: BackupManager) -> None:
    directory = Path(backups.backup_dir)
    backups.create_backup("one")
    (directory / "notes.txt").write_text("not a backup")
    (directory / "empty").mkdir()
    assert names(backups) == ["one"]
    with pytest.raises(BackupNotFoundError):
        backups.delete_backup("empty")
    assert (directory / "empty").is_dir()


@pytest.mark.parametrize(
    "damaged",
    ["{", "[]", "{}", "\xff", '{"backup_name": "one", "created_at": "x", "db_path": "y"}', None],
)
def test_what_a_backup_says_of_itself_may_be_unreadable(
    database: DatabaseManager,
    tmp_path: Path,
    damaged: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    backups = BackupManager(database, tmp_path / "backups", max_backups=2)
    database.agent.store.put(b"k", b"v")
    info = Path(backups.create_backup("one")) / "backup_info.json"
    info.unlink()
    if damaged is None:
        info.mkdir()
    else:
        info.write_bytes(damaged.encode("latin-1"))
    assert names(backups) == []
    assert str(info.parent) in caplog.text
    # It is in the way of nothing, and goes when it is told to.
    for number in range(3):
        assert os.path.isdir(backups.create_backup(f"n{number}"))
    assert names(backups) == ["n2", "n1"]
    assert backups._first_wait_seconds() > 0
    assert sorted(os.listdir(backups.backup_dir)) == [".lock", "n1", "n2", "one"]
    database.close()
    backups.restore_backup("one")
    database.open()
    assert database.agent.store[b"k"] == b"v"
    backups.delete_backup("one")
    assert sorted(os.listdir(backups.backup_dir)) == [".lock", "n1", "n2"]


def test_old_backups_that_cannot_be_deleted_do_not_cost_the_new_one(
    database: DatabaseManager,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    backups = BackupManager(database, tmp_path / "backups", max_backups=1)
    backups.create_backup("one")

    def refuse(name: str) -> None:
        raise PermissionError(13, "not yours", name)

    with monkeypatch.context() as patch:
        patch.setattr(backups, "_delete", refuse)
        assert os.path.isdir(backups.create_backup("two"))
    assert "not yours" in caplog.text
    assert names(backups) == ["two", "one"]
    backups.create_backup("three")
    assert names(backups) == ["three"]


def test_a_backup_that_was_moved_is_known_by_where_it_is(backups: BackupManager) -> None:
    made = Path(backups.create_backup("one"))
    made.rename(made.with_name("renamed"))
    (info,) = backups.list_backups()
    assert (info["backup_name"], info["backup_path"]) == ("renamed", str(made.with_name("renamed")))
    backups.delete_backup("renamed")
    assert names(backups) == []


def test_a_backup_that_cannot_be_made_leaves_nothing(
    database: DatabaseManager, backups: BackupManager
) -> None:
    backups.create_backup("whole")
    before = sorted(os.listdir(backups.backup_dir))
    database.close()
    with pytest.raises(ClosedError):
        backups.create_backup("none")
    assert sorted(os.listdir(backups.backup_dir)) == before
    database.open()
    backups.create_backup("none")
    assert names(backups) == ["none", "whole"]


def test_a_damaged_store_is_not_backed_up(path: Path, tmp_path: Path) -> None:
    with DatabaseManager(path) as database:
        for number in range(500):
            value = random.Random(number).randbytes(100)
            database.agent.store.put(b"%04d" % number, value, sync=walkv.WriteBack())
        database.agent.store.compact()
    (snapshot,) = (path / "snapshots").iterdir()
    data = bytearray(snapshot.read_bytes())
    data[len(data) // 2] ^= 1
    snapshot.write_bytes(data)
    with DatabaseManager(path) as database:
        backups = BackupManager(database, tmp_path / "backups")
        with pytest.raises(CorruptionError):
            backups.create_backup()
        assert names(backups) == []
        assert os.listdir(backups.backup_dir) == [".lock"]


def test_two_managers_of_one_directory_take_turns(
    database: DatabaseManager, tmp_path: Path
) -> None:
    managers = [BackupManager(database, tmp_path / "backups") for _ in range(2)]
    lock = OsFileSystem().lock(f"{managers[0].backup_dir}/.lock")
    try:
        for act in (
            managers[0].create_backup,
            lambda: managers[1].delete_backup("x"),
            lambda: managers[1].restore_backup("x"),
        ):
            with pytest.raises(BackupError, match="at work"):
                act()
    finally:
        lock.release()
    together(4, lambda number: managers[0].create_backup(f"b{number}"))
    assert sorted(names(managers[1])) == ["b0", "b1", "b2", "b3"]


@pytest.mark.parametrize(
    "options",
    [
        {"max_backups": 0},
        {"max_backups": 1.5},
        {"interval_seconds": 0},
        {"interval_seconds": float("nan")},
        {"interval_seconds": float("inf")},
    ],
)
def test_bad_options_are_refused(
    database: DatabaseManager, tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        BackupManager(database, tmp_path / "backups", **options)
    assert not (tmp_path / "backups").exists()


def test_backups_inside_the_store_are_refused(database: DatabaseManager, path: Path) -> None:
    for inside in (path, path / "backups"):
        with pytest.raises(ValueError, match="inside the store"):
            BackupManager(database, inside)
    assert not (path / "backups").exists()


# -- backups, interrupted ------------------------------------------------------------------------

KILL_AT = """
        import os, signal, sys
        from walkv.interfaces.managers import BackupManager, DatabaseManager

        EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")
        begun, changes = False, []

        def hook(event, arguments):
            # Whatever is done to the file system below the test's directory, in order.
            if begun and event in EVENTS and {root!r} in str(arguments[0]):
                changes.append(event + " " + str(arguments[0]).replace({root!r}, ""))
                if len(changes) == {moment}:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        database = DatabaseManager({root!r} + "/flow.walkv")
        backups = BackupManager(database, {root!r} + "/backups", max_backups=2)
        """


def killed_at(moment: int, root: Path, text: str) -> list[str] | None:
    """Run a program that kills itself when it begins its n-th change of the file system.

    Returns:
        None if it was killed; else the changes that it made.
    """
    head = KILL_AT.format(root=str(root), moment=moment)
    with processes.start(head + text) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        if process.wait(120) == -signal.SIGKILL:
            return None
        assert process.returncode == 0
        return said.decode().splitlines()


def moments(changes: list[str], own: str) -> list[int]:
    """The moments before and after each rename of what a test is about, and some others."""
    some = {1 + number * (len(changes) - 1) // 5 for number in range(6)}
    renames = [n for n, c in enumerate(changes, 1) if c.startswith(f"os.rename {own}")]
    return sorted(some | {*renames, *(n + 1 for n in renames if n < len(changes))})


def test_a_backup_that_is_killed_leaves_the_others_whole_and_is_not_listed(
    path: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "backups"
    text = """
        begun = True
        backups.create_backup("third")
        begun = False
        database.close()
        print(*changes, sep="\\n")
        """

    def begin() -> None:
        shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(directory, ignore_errors=True)
        with DatabaseManager(path) as database:
            backups = BackupManager(database, directory, max_backups=2)
            for name in ("first", "second"):
                database.agent.store.put(b"k", name.encode())
                backups.create_backup(name)
            database.agent.store.put(b"k", b"third")

    begin()
    changes = killed_at(0, tmp_path, text)
    assert changes is not None
    assert "os.rename /backups/.making-third" in changes
    assert "os.rename /backups/first" in changes
    found = set()
    for moment in moments(changes, "/backups"):
        begin()
        assert killed_at(moment, tmp_path, text) is None
        with DatabaseManager(path) as database:
            assert database.agent.store[b"k"] == b"third"
            backups = BackupManager(database, directory, max_backups=2)
            found.add(tuple(names(backups)))
            for info in backups.list_backups():
                with walkv.open(store_of(info["backup_path"]), read_only=True) as copy:
                    assert copy.verify().ok
                    assert copy[b"k"] == info["backup_name"].encode()
            # And the next one can be made, and sees to what is left over.
            backups.create_backup("fourth")
            assert names(backups)[0] == "fourth"
            assert set(os.listdir(directory)) == {".lock", *names(backups)}
            assert len(names(backups)) == 2
    # Killed before it had a name, between that and the end of the oldest one, and after that.
    assert found == {("second", "first"), ("third", "second", "first"), ("third", "second")}


def test_a_restore_that_is_killed_leaves_one_store_whole(path: Path, tmp_path: Path) -> None:
    text = """
        database.close()
        begun = True
        backups.restore_backup("kept")
        begun = False
        print(*changes, sep="\\n")
        """

    def begin() -> None:
        for each in tmp_path.iterdir():
            shutil.rmtree(each)
        with DatabaseManager(path) as database:
            database.agent.store.put(b"k", b"kept")
            BackupManager(database, tmp_path / "backups").create_backup("kept")
            database.agent.store.put(b"k", b"newer")

    begin()
    changes = killed_at(0, tmp_path, text)
    assert changes is not None
    assert not [each for each in changes if each.startswith("os.rename /flow.walkv ")]
    whole = f"os.rename /flow.walkv/{copying._PART}"
    every = {*moments(changes, "/flow.walkv"), *range(changes.index(whole) + 1, len(changes) + 1)}
    found = set()
    for moment in sorted(every):
        begin()
        assert killed_at(moment, tmp_path, text) is None
        # Who knows nothing of restoring finds a whole store, or is told whom to ask.
        before = None
        try:
            with AgentStore(path) as agent:
                before = agent.store[b"k"]
                assert agent.store.verify().ok
        except FormatError as error:
            assert "open-it-once-with-DatabaseManager" in str(error)  # noqa: PT017  # or nothing
        with DatabaseManager(path) as database:
            assert database.agent.store.verify().ok
            after = database.agent.store[b"k"]
            assert after == (b"kept" if before is None else before)
            assert names(BackupManager(database, tmp_path / "backups")) == ["kept"]
        found.add((before, after))
        assert sorted(os.listdir(tmp_path)) == ["backups", "flow.walkv"]
        assert set(os.listdir(path)) == {"LOCK", "MANIFEST", "log", "quarantine", "snapshots"}
    assert found == {(b"newer", b"newer"), (None, b"kept"), (b"kept", b"kept")}


# -- restoring -----------------------------------------------------------------------------------


def test_a_restored_store_is_as_it_was(
    database: DatabaseManager, backups: BackupManager, path: Path
) -> None:
    history = TaskHistoryManager(database)
    history.create_task("s", "before", [{"description": "a"}])
    UserManager(database).create_user("ada")
    before = everything(database)
    made = backups.create_backup()
    history.create_task("s", "after", [])
    UserManager(database).update_usage_stats("ada", 5, 5)

    with pytest.raises(LockedError, match="close it first") as caught:
        backups.restore_backup(made)
    assert caught.value.pid == os.getpid()
    assert len(history.get_task_history()) == 2
    database.close()
    backups.restore_backup(made)
    database.open()
    assert everything(database) == before
    assert database.agent.verify() == []
    # Numbers go on from where they were.
    assert history.create_task("s", "other", []) == 2
    assert sorted(os.listdir(path.parent)) == ["backups", "flow.walkv"]
    # By name, and again.
    database.close()
    backups.restore_backup(Path(made).name)
    database.open()
    assert everything(database) == before


def test_a_backup_that_is_not_there_is_not_restored(
    database: DatabaseManager, backups: BackupManager, tmp_path: Path
) -> None:
    made = Path(backups.create_backup("one"))
    database.close()
    for missing in ("two", str(tmp_path / "nowhere"), str(tmp_path)):
        with pytest.raises(BackupNotFoundError):
            backups.restore_backup(missing)
    shutil.rmtree(made / "store.walkv")
    with pytest.raises(BackupNotFoundError):
        backups.restore_backup(made)
    database.open()


def test_a_damaged_backup_is_not_restored(
    database: DatabaseManager, backups: BackupManager, path: Path
) -> None:
    for number in range(500):
        database.agent.store.put(b"%04d" % number, b"v" * 100, sync=walkv.WriteBack())
    made = Path(backups.create_backup("one"))
    segment = max((made / "store.walkv").rglob("*.*"), key=lambda each: each.stat().st_size)
    data = bytearray(segment.read_bytes())
    data[len(data) // 4] ^= 1
    segment.write_bytes(data)
    database.close()
    with pytest.raises(RestoreError, match="damaged") as caught:
        backups.restore_backup(made)
    assert isinstance(caught.value.__cause__, CorruptionError)
    database.open()
    assert database.agent.store[b"0499"] == b"v" * 100
    assert sorted(os.listdir(path.parent)) == ["backups", "flow.walkv"]


def test_a_store_that_is_gone_or_damaged_is_restored(
    database: DatabaseManager, backups: BackupManager, path: Path
) -> None:
    UserManager(database).create_user("ada")
    made = backups.create_backup()
    database.close()
    shutil.rmtree(path)
    backups.restore_backup(made)
    (path / "MANIFEST").write_bytes(b"nothing")
    backups.restore_backup(made)
    (path / "MANIFEST").unlink()
    with pytest.raises(CorruptionError):
        walkv.open(path)
    backups.restore_backup(made)
    database.open()
    assert UserManager(database).get_user_info("ada")


def test_what_is_no_store_is_not_replaced(
    database: DatabaseManager, backups: BackupManager, path: Path
) -> None:
    made = backups.create_backup()
    database.close()
    shutil.rmtree(path)
    path.mkdir()
    (path / "thesis.txt").write_text("years of work")
    with pytest.raises(FormatError, match=r"thesis\.txt"):
        backups.restore_backup(made)
    assert [each.name for each in path.iterdir()] == ["thesis.txt"]
    shutil.rmtree(path)


def test_a_failed_restore_to_an_empty_place_leaves_it_empty(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "bad.walkv") as store:
        store.put(b"k", b"v" * 10_000)
    (segment,) = (tmp_path / "bad.walkv" / "log").iterdir()
    data = bytearray(segment.read_bytes())
    data[500] ^= 1
    segment.write_bytes(data)
    with pytest.raises(CorruptionError):
        copying.replace_store(str(tmp_path / "bad.walkv"), str(tmp_path / "new.walkv"))
    assert os.listdir(tmp_path) == ["bad.walkv"]


def a_store(path: Path, value: bytes) -> None:
    with walkv.open(path) as store:
        store.put(b"k", value)


def test_a_copy_that_was_not_complete_is_removed(path: Path) -> None:
    a_store(path, b"old")
    (path / copying._PART).mkdir()
    with AgentStore(path) as agent:  # leaves it alone
        assert agent.store[b"k"] == b"old"
    with DatabaseManager(path) as database:
        assert database.agent.store[b"k"] == b"old"
    assert not (path / copying._PART).exists()


def test_a_complete_copy_counts_from_when_the_old_manifest_is_gone(path: Path) -> None:
    a_store(path, b"old")
    a_store(path / copying._WHOLE, b"new")
    with DatabaseManager(path) as database:
        assert database.agent.store[b"k"] == b"old"
    assert not (path / copying._WHOLE).exists()
    a_store(path / copying._WHOLE, b"new")
    (path / "MANIFEST").unlink()
    (path / "notes.txt").write_text("of somebody else")
    for read_only in (False, True):
        with pytest.raises(FormatError, match="open-it-once-with-DatabaseManager"):
            walkv.open(path, read_only=read_only)
    with pytest.raises(FormatError):
        DatabaseManager(path, read_only=True)
    with DatabaseManager(path) as database:
        assert database.agent.store[b"k"] == b"new"
    assert not (path / copying._WHOLE).exists()
    assert (path / "notes.txt").read_text() == "of somebody else"


def test_what_was_interrupted_may_be_restored_again(
    database: DatabaseManager, backups: BackupManager, path: Path
) -> None:
    database.agent.store.put(b"k", b"kept")
    backups.create_backup("kept")
    database.close()
    a_store(path / copying._WHOLE, b"new")
    (path / "MANIFEST").unlink()
    backups.restore_backup("kept")
    database.open()
    assert database.agent.store[b"k"] == b"kept"


def test_a_store_is_not_opened_while_it_is_being_restored(path: Path) -> None:
    a_store(path, b"old")
    a_store(path / copying._WHOLE, b"new")
    (path / "MANIFEST").unlink()
    lock = OsFileSystem().lock(str(path / "LOCK"))
    try:
        with pytest.raises(LockedError, match="being restored"):
            DatabaseManager(path)
    finally:
        lock.release()
    with DatabaseManager(path) as database:
        assert database.agent.store[b"k"] == b"new"


# -- every so often ------------------------------------------------------------------------------


class Counted(BackupManager):
    """Tells when its thread has made a backup, or has failed to."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.made = threading.Semaphore(0)

    def _create(self, *arguments: Any) -> str:
        try:
            return super()._create(*arguments)
        finally:
            self.made.release()

    def wait_for(self, count: int) -> None:
        for _ in range(count):
            assert self.made.acquire(timeout=60)


def test_backups_are_made_every_so_often(database: DatabaseManager, tmp_path: Path) -> None:
    with Counted(database, tmp_path / "backups", 3, interval_seconds=0.001) as backups:
        assert not backups.running
        backups.start()
        backups.start()
        backups.wait_for(5)
        assert backups.running
        backups.stop()
        backups.stop()
        assert not backups.running
        assert len(names(backups)) == 3
        assert backups.last_error is None
        backups.start()
        backups.wait_for(1)
    assert not backups.running
    assert not [each for each in threading.enumerate() if each.name == "walkv-backup"]


def test_the_first_backup_is_due_when_the_newest_is_old_enough(
    database: DatabaseManager, tmp_path: Path
) -> None:
    backups = Counted(database, tmp_path / "backups", interval_seconds=3600)
    assert backups._first_wait_seconds() == 0.0
    made = Path(backups.create_backup())
    assert 3500 < backups._first_wait_seconds() <= 3600

    def aged(**age: float) -> float:
        info = json.loads((made / "backup_info.json").read_text())
        info["created_at"] = (datetime.now(UTC) - timedelta(**age)).isoformat()
        (made / "backup_info.json").write_text(json.dumps(info))
        return backups._first_wait_seconds()

    assert 1700 < aged(minutes=30) <= 1800
    assert aged(days=3) == 0.0
    assert aged(days=-3) == 3600
    backups.wait_for(1)
    aged(days=3)
    backups.start()
    backups.wait_for(1)
    backups.stop()
    assert len(names(backups)) == 2


def test_a_backup_that_fails_is_tried_again_and_the_reason_kept(
    database: DatabaseManager, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backups = Counted(database, tmp_path / "backups", interval_seconds=0.001)
    shutil.rmtree(backups.backup_dir)
    backups.start()
    backups.wait_for(2)
    assert isinstance(backups.last_error, FileNotFoundError)
    assert "no backup was made" in caplog.text
    os.mkdir(backups.backup_dir)
    backups.wait_for(3)
    backups.stop()
    assert backups.last_error is None
    assert names(backups)


def test_closing_the_store_stops_its_backups(path: Path, tmp_path: Path) -> None:
    database = DatabaseManager(path)
    backups = Counted(database, tmp_path / "backups", interval_seconds=0.001)
    backups.start()
    backups.wait_for(1)
    database.close()
    assert not backups.running
    assert backups.last_error is None
    for info in backups.list_backups():
        with walkv.open(store_of(info["backup_path"]), read_only=True) as copy:
            assert copy.verify().ok
    assert not [each for each in os.listdir(backups.backup_dir) if each.startswith(".making")]


def test_a_backup_under_way_is_given_up_when_it_is_stopped(
    database: DatabaseManager, tmp_path: Path
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Counted):
        def _create(self, name: str | None, proceed: Callable[[], None]) -> str:
            def wait() -> None:
                begun.set()
                assert go_on.wait(60)
                proceed()

            return super()._create(name, wait)

    backups = Slow(database, tmp_path / "backups", interval_seconds=3600)
    backups.start()
    assert begun.wait(60)
    backups._stopping.set()
    go_on.set()
    backups.stop()
    assert names(backups) == []
    assert os.listdir(backups.backup_dir) == [".lock"]
    assert backups.last_error is None
