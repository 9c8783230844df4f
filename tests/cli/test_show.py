from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from click.testing import Result

import walkv
from walkv import AgentStore, Declaration
from walkv.cli import listing, tables, values
from walkv.cli.app import walkv_command
from walkv.namespaces.faces import CLASSES

Run = Callable[..., Result]
Fails = Callable[..., str]

SECRET = "sk-0123456789"  # of nobody
WHEN = datetime(2025, 6, 1, 12, 30, 15, 250_000, UTC)


@dataclass(frozen=True, slots=True)
class Note:
    note_id: str
    author: str
    created_at: datetime
    text: str = ""
    token: str = field(default="", repr=False, metadata={"secret": True})


@dataclass(frozen=True, slots=True)
class Mark:
    page: int
    line: int
    colour: str = "red"


NOTES = Declaration("notes", Note, key="note_id", indexes=["author"])
MARKS = Declaration("marks", Mark, key=("page", "line"), ttl_seconds=3_600)


def fill(agent: AgentStore) -> None:
    """A few records of every kind."""
    agent.users.create("ada", {"theme": "dark"}, {"openai": SECRET})
    agent.users.create("bob")
    for number in (1, 2, 3):
        agent.sessions.create(f"s{number}", "ada" if number < 3 else "bob", {"number": number})
    agent.sessions.end("s1")
    for number in range(30):
        role = "assistant" if number % 2 else "user"
        agent.messages.append("s1", role=role, content=f"message {number}\nmore")
    agent.messages.append("s2", role="user", content=[{"type": "image", "data": b"\x89PNG"}])
    for number in (1, 2):
        state = {"step": number, "raw": b"\x00", "seen": {1: (2, 3)}}
        agent.checkpoints.put("t1", f"c{number}", state, metadata={"step": number})
    agent.checkpoints.put_writes("t1", "c2", "task", [("channel", {"at": WHEN})])
    agent.checkpoints.put("t2", "c1", [1], namespace="inner")
    agent.task_contexts.store("s1", {"goal": "write"})
    agent.contexts.create("w1", "reader", {"facts": ["one"]}, context_id="x1")
    agent.workflows.create("index", ["reader", "writer"], workflow_id="w1", created_by="ada")
    agent.workflows.update_role_status("w1", "reader", "completed")
    with agent.executions.record(role="reader", tool_name="search", workflow_id="w1") as recording:
        recording.output = {"hits": 3}
    with (
        pytest.raises(ZeroDivisionError),
        agent.executions.record(role="writer", tool_name="write", task_id="k1"),
    ):
        raise ZeroDivisionError("by nothing")
    agent.executions.once("pay/1", lambda: 7)
    agent.configurations.create("role_config", "reader", {"depth": 2}, config_id="g1")
    agent.configurations.set("limit", 5, "how much")
    agent.tasks.create("s1", "Write it", [{"description": "read"}], task_id="k1")
    agent.knowledge_sources.add("docs", "/docs", "folder", source_id="d1")
    notes = agent.namespace(NOTES)
    notes.put(Note("n1", "ada", WHEN, "first", SECRET))
    notes.put(Note("n2", "bob", WHEN + timedelta(seconds=1), "second"))
    notes.put(Note("n0", "bob", WHEN - timedelta(seconds=1), "zeroth"))
    marks = agent.namespace(MARKS)
    for page in range(3):
        marks.put(Mark(page, page * 10))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("records") / "agent.walkv"
    with AgentStore(made) as agent:
        fill(agent)
    return made


def lines(result: Result) -> list[Any]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def rows(run: Run) -> Callable[..., list[list[str]]]:
    """Run ``show``, and split its table."""

    def rows(*arguments: str | Path) -> list[list[str]]:
        table = run("show", *arguments).stdout.splitlines()
        return [[cell.strip() for cell in row.split("  ") if cell.strip()] for row in table]

    return rows


class TestNamespaces:
    @pytest.mark.parametrize("words", [[], ["namespaces"]])
    def test_all_are_listed(self, rows: Any, path: Path, words: list[str]) -> None:
        head, *found = rows(*words, path)
        assert head == ["namespace", "records", "policy"]
        assert {row[0] for row in found} == {*CLASSES, "notes", "marks"}
        assert ["messages", "31", "wal"] in found
        assert ["executions", "3", "write-back"] in found
        assert ["users", "2", "write-through"] in found
        assert ["notes", "3"] in found
        assert ["marks", "3"] in found

    def test_json(self, run: Run, path: Path) -> None:
        found = {line["namespace"]: line for line in lines(run("show", path, "--json"))}
        assert found["messages"] == {"namespace": "messages", "records": 31, "policy": "wal"}
        assert found["notes"] == {"namespace": "notes", "records": 3, "policy": None}

    def test_a_store_without_records(self, run: Run, store: Path) -> None:
        result = run("show", store)
        assert result.stdout == ""
        assert result.stderr == (
            f"walkv: {store} has no records of an agent; for its keys: walkv scan\n"
        )
        assert run("show", store, "--json").stdout == ""
        result = run("show", "sessions", store)
        assert (result.stdout, result.stderr) == ("", "walkv: no sessions\n")
        assert run("show", "sessions", store, "--json").stdout == ""

    def test_an_unknown_one(self, fails: Fails, path: Path) -> None:
        message = fails("show", "note\x1b", path)
        assert message.startswith(f"there is no namespace 'note\\x1b' in {path}; there are ")
        listed = message.partition("there are ")[2].split(", ")
        assert set(listed) == {*CLASSES, "notes", "marks"}

    def test_wrong_usage(self, fails: Fails, path: Path) -> None:
        assert fails("show", status=2) == "missing argument 'STORE' (see walkv show --help)"
        assert "its path is empty" in fails("show", "", status=2)
        assert "its path is empty" in fails("show", "users", "", status=2)
        message = fails("show", path, "messages", status=2)
        assert message.startswith(f"the store comes last: walkv show messages {path} (")
        assert "records of one namespace" in fails("show", path, "--role", "x", status=2)
        message = fails("show", "users", path, "--tool", "x", status=2)
        assert message == "users have no --tool; use --user (see walkv show --help)"
        message = fails("show", "settings", path, "--tool", "x", status=2)
        assert message.startswith("settings have no --tool; they are listed as a whole")
        message = fails("show", "marks", path, "--role", "x", status=2)
        assert message.startswith("marks have no --role; ")
        assert fails("show", "users", path, "--limit", "0", status=2)
        message = fails("show", "tasks", path, "--status", "begun")
        assert message.startswith("tasks.status: 'begun' is not one of 'pending', ")

    def test_a_folder_that_is_called_like_a_namespace(
        self, run: Run, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("users").symlink_to(path)
        assert "ada" in run("show", "users", "users").stdout

    def test_no_store(self, fails: Fails, tmp_path: Path) -> None:
        for words in ([], ["users"]):
            message = fails("show", *words, tmp_path / "none")
            assert message == f"{tmp_path / 'none'}: there is no walkv store here"


class TestRecords:
    def test_every_namespace_has_a_listing(self) -> None:
        assert set(listing.LISTINGS) == set(CLASSES)
        for name, cls in CLASSES.items():
            names = cls.declaration.record.__dataclass_fields__
            shown = listing.LISTINGS[name]
            assert shown.order in names
            fields = {column.field for column in shown.columns}
            assert fields - {"call", "details"} <= set(names)
        assert all(name in (walkv_command.commands["show"].help or "") for name in CLASSES)

    @pytest.mark.parametrize(
        ("what", "expected"),
        [
            ("sessions", ["s1", "ada", "completed", "0", "0", "number: 1"]),
            ("messages", ["s1", "30", "assistant", "message 29\\nmore"]),
            ("task_contexts", ["s1", "1", "goal: write"]),
            ("contexts", ["x1", "w1", "reader", "isolated", 'facts: ["one"]']),
            ("workflows", ["w1", "index", "pending", "reader completed, writer pending"]),
            ("configurations", ["role_config", "reader", "1", "yes", "depth: 2"]),
            ("settings", ["limit", "5", "how much"]),
            ("tasks", ["k1", "s1", "in_progress", "Write it"]),
            ("subtasks", ["k1", "0", "pending", "read"]),
            ("users", ["ada", "theme: dark", "***", "task_count: 0, total_tokens: 0"]),
            ("knowledge_sources", ["d1", "docs", "folder", "active", "/docs"]),
        ],
    )
    def test_tables(self, rows: Any, path: Path, what: str, expected: list[str]) -> None:
        head, *found = rows(what, path)
        assert head[0].endswith(" (UTC)")
        assert expected in [row[1:] for row in found]

    def test_executions(self, rows: Any, path: Path) -> None:
        head, *found = rows("executions", path)
        assert head == ["started (UTC)", "role", "call", "status", "took", "details"]
        step, failed, success = (
            [cell for cell in row[1:] if not cell.endswith(" ms")] for row in found
        )
        assert step == ["step", "success", "pay/1"]
        assert failed == ["writer", "write", "failed", "ZeroDivisionError: by nothing"]
        assert success == ["reader", "search", "success", "hits: 3"]

    def test_checkpoints_show_sizes(self, rows: Any, path: Path) -> None:
        head, *found = rows("checkpoints", path)
        assert head[1:] == ["thread", "namespace", "checkpoint", "state", "metadata"]
        assert [row[1:] for row in found] == [
            ["t2", "inner", "c1", "2 bytes"],
            ["t1", "c2", "27 bytes", "step: 2"],
            ["t1", "c1", "27 bytes", "step: 1"],
        ]

    def test_columns_without_content_are_left_out(self, rows: Any, path: Path) -> None:
        head, *_ = rows("checkpoints", path, "--thread", "t1")
        assert head[1:] == ["checkpoint", "state", "metadata"]

    @pytest.mark.parametrize(
        ("arguments", "field", "expected"),
        [
            (["sessions", "--user", "ada"], "session_id", {"s1", "s2"}),
            (["sessions", "--status", "completed"], "session_id", {"s1"}),
            (["messages", "--session", "s2"], "session_id", {"s2"}),
            (["messages", "--role", "user"], "role", {"user"}),
            (["checkpoints", "--thread", "t1"], "checkpoint_id", {"c1", "c2"}),
            (["executions", "--role", "writer"], "tool_name", {"write"}),
            (["executions", "--tool", "search"], "role", {"reader"}),
            (["executions", "--status", "failed"], "role", {"writer"}),
            (["executions", "--workflow", "w1"], "tool_name", {"search"}),
            (["executions", "--task", "k1"], "tool_name", {"write"}),
            (["contexts", "--workflow", "w1", "--role", "reader"], "context_id", {"x1"}),
            (["contexts", "--role", "none"], "context_id", set()),
            (["tasks", "--session", "s1"], "task_id", {"k1"}),
            (["subtasks", "--task", "k1"], "subtask_index", {0}),
            (["users", "--user", "bob"], "user_id", {"bob"}),
        ],
    )
    def test_filters(
        self, run: Run, path: Path, arguments: list[str], field: str, expected: set[Any]
    ) -> None:
        what, *options = arguments
        found = lines(run("show", what, path, *options, "--json"))
        assert {record[field] for record in found} == expected

    def test_newest_first_and_no_more_than_the_limit(self, run: Run, path: Path) -> None:
        result = run("show", "messages", path, "--json")
        found = lines(result)
        assert [record["seq"] for record in found] == [1, *range(30, 11, -1)]
        assert found[0]["session_id"] == "s2"
        assert result.stderr == (
            "walkv: there are more than these 20; --limit sets how many are shown\n"
        )
        for limit in ("31", "100"):
            result = run("show", "messages", path, "--json", "--limit", limit)
            assert len(lines(result)) == 31
            assert result.stderr == ""

    def test_a_conversation_is_in_its_order(self, run: Run, path: Path) -> None:
        options = ("--session", "s1", "--limit", "3")
        found = lines(run("show", "messages", path, *options, "--json"))
        assert [record["seq"] for record in found] == [28, 29, 30]
        table = run("show", "messages", path, *options).stdout
        assert table.index("message 27") < table.index("message 29")

    def test_a_window_cuts_long_text(
        self, path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text = "word " * 300
        made = path.parent / "long.walkv"
        with AgentStore(made) as agent:
            agent.messages.append("s1", role="user", content=text)
        table = run("show", "messages", made).stdout
        assert f"{text[:199]}…" in table
        monkeypatch.setattr(tables.output, "is_terminal", lambda stream: stream is sys.stdout)
        table = run("show", "messages", made, env={"COLUMNS": "60"}).stdout
        assert max(map(len, table.splitlines())) == 60
        assert table.splitlines()[-1].endswith("user  word word word word wor…")

    def test_markup_and_control_characters_are_shown(self, run: Run, tmp_path: Path) -> None:
        with AgentStore(tmp_path / "a.walkv") as agent:
            agent.messages.append("s1", role="user", content="[red]:smile:\x1b[31m\r\n")
        table = run("show", "messages", tmp_path / "a.walkv").stdout
        assert "[red]:smile:\\x1b[31m\\r\\n" in table


class TestJson:
    def test_records_are_whole(self, run: Run, path: Path) -> None:
        (task,) = lines(run("show", "tasks", path, "--json"))
        with AgentStore(path, read_only=True) as agent:
            stored = agent.tasks.get("k1")
        assert stored is not None
        assert list(task) == list(type(stored).__dataclass_fields__)
        assert task["created_at"] == stored.created_at.isoformat()
        assert datetime.fromisoformat(task["created_at"]) == stored.created_at
        assert (task["user_input"], task["results"]) == ("Write it", None)

    def test_bytes(self, run: Run, path: Path) -> None:
        (message,) = lines(run("show", "messages", path, "--session", "s2", "--json"))
        assert message["content"] == [{"type": "image", "data": {"base64": "iVBORw=="}}]

    def test_checkpoints_have_their_state_and_writes(self, run: Run, path: Path) -> None:
        found = lines(run("show", "checkpoints", path, "--thread", "t1", "--json"))
        latest, first = found
        assert latest["data"] == {"step": 2, "raw": {"base64": "AA=="}, "seen": {"1": [2, 3]}}
        assert latest["size_bytes"] == 27
        (write,) = latest["pending_writes"]
        assert (write["task_id"], write["channel"]) == ("task", "channel")
        assert write["value"] == {"at": WHEN.isoformat()}
        assert (first["checkpoint_id"], first["pending_writes"]) == ("c1", [])

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (None, None),
            (True, True),
            (2**70, 2**70),
            (1.5, 1.5),
            (float("nan"), "nan"),
            (float("-inf"), "-inf"),
            ((1, [b"a"]), [1, [{"base64": "YQ=="}]]),
            ({3, 1}, [1, 3]),
            (frozenset(("b", "a")), ["a", "b"]),
            ({"a": {"b": ()}}, {"a": {"b": []}}),
            ({1: "x", (2, 3): "y", None: "z"}, {"1": "x", "[2, 3]": "y", "null": "z"}),
            ({1: "x", "1": "y"}, [[1, "x"], ["1", "y"]]),
            (WHEN, "2025-06-01T12:30:15.250000+00:00"),
            (date(2025, 6, 1), "2025-06-01"),
            (timedelta(minutes=1), 60.0),
            (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
            (Decimal("1.50"), "1.50"),
        ],
    )
    def test_values(self, value: Any, expected: Any) -> None:
        made = values.plain(value)
        assert made == expected
        assert json.loads(json.dumps(made, allow_nan=False)) == expected

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (None, ""),
            (False, "no"),
            (12_345, "12,345"),
            (0.5, "0.5"),
            ("a\tb", "a\\tb"),
            (b"a\xff", "a\\xff"),
            (WHEN, "2025-06-01 12:30:15.250000Z"),
            ({}, ""),
            ({"a": 1, "b": [1, "é"]}, 'a: 1, b: [1, "é"]'),
            ([1, {"a\n": 2}], '1, {"a\\n": 2}'),
            (Decimal("1.50"), "1.50"),
        ],
    )
    def test_cells(self, value: Any, expected: str) -> None:
        assert values.cell(value) == expected

    def test_moments(self) -> None:
        now = datetime.now(UTC)
        assert values.moment(now) == f"{now:%m-%d %H:%M:%S}"
        assert values.moment(now - timedelta(days=400))[:4] == str((now - timedelta(400)).year)
        assert values.moment(None) == ""
        assert [values.seconds(each) for each in (None, 0.0125, 75.0)] == [
            "",
            "12.5 ms",
            "1 min 15 s",
        ]


class TestSecrets:
    @pytest.mark.parametrize("what", ["users", "notes"])
    def test_they_are_masked_unless_asked_for(self, run: Run, path: Path, what: str) -> None:
        for options in ([], ["--json"]):
            masked = run("show", what, path, *options).stdout
            assert SECRET not in masked
            assert "***" in masked
            shown = run("show", what, path, *options, "--secrets").stdout
            assert SECRET in shown
            assert "***" not in shown

    def test_what_is_not_there_is_not_masked(self, run: Run, path: Path) -> None:
        (bob,) = lines(run("show", "users", path, "--user", "bob", "--json"))
        assert bob["api_keys"] == {}

    def test_a_field_that_becomes_a_secret_is_masked(self, run: Run, tmp_path: Path) -> None:
        @dataclass(frozen=True, slots=True)
        class Open:
            name: str
            token: str = ""

        @dataclass(frozen=True, slots=True)
        class Closed:
            name: str
            token: str = field(default="", repr=False, metadata={"secret": True})

        path = tmp_path / "a.walkv"
        with AgentStore(path) as agent:
            agent.namespace(Declaration("keys", Open, key="name")).put(Open("a", SECRET))
        assert SECRET in run("show", "keys", path).stdout
        with AgentStore(path) as agent:
            agent.namespace(Declaration("keys", Closed, key="name"))
        assert SECRET not in run("show", "keys", path, "--json").stdout
        with AgentStore(path) as agent:  # code that does not know of it registers itself
            agent.namespace(Declaration("keys", Open, key="name", indexes=["name"]))
        assert SECRET not in run("show", "keys", path).stdout


class TestOwn:
    def test_newest_first_where_there_is_a_time(self, rows: Any, path: Path) -> None:
        head, *found = rows("notes", path)
        assert head == ["note_id", "author", "created_at", "text", "token"]
        assert [row[0] for row in found] == ["n2", "n1", "n0"]
        assert found[1] == ["n1", "ada", "2025-06-01 12:30:15.250000Z", "first", "***"]

    def test_else_by_key(self, run: Run, path: Path) -> None:
        found = lines(run("show", "marks", path, "--json"))
        assert found == [{"page": n, "line": n * 10, "colour": "red"} for n in range(3)]

    def test_limit(self, run: Run, path: Path) -> None:
        for what, first in (("notes", "n2"), ("marks", 0)):
            result = run("show", what, path, "--limit", "1", "--json")
            (only,) = lines(result)
            assert first in only.values()
            assert result.stderr.startswith("walkv: there are more than these 1")

    def test_every_layout_is_known(self, run: Run, tmp_path: Path) -> None:
        @dataclass(frozen=True, slots=True)
        class Old:
            status: str
            name: str

        @dataclass(frozen=True, slots=True)
        class New:
            name: str
            status: str = ""
            extra: int = 0

        path = tmp_path / "a.walkv"
        with AgentStore(path) as agent:
            agent.namespace(Declaration("things", Old, key="name")).put(Old("done", "b"))
        with AgentStore(path) as agent:
            things = agent.namespace(Declaration("things", New, key="name"))
            things.put(New("a", "open", 5))
        found = lines(run("show", "things", path, "--json"))
        assert found == [
            {"name": "a", "status": "open", "extra": 5},
            {"status": "done", "name": "b"},
        ]
        assert run("show", "things", path).stdout.split()[:3] == ["name", "status", "extra"]
        (only,) = lines(run("show", "things", path, "--status", "done", "--json"))
        assert only["name"] == "b"

    def test_bytes_that_are_no_record(self, fails: Fails, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "a.walkv"
        with AgentStore(path) as agent:
            agent.namespace(MARKS)
            agent.store.put(b"\0marks\0rx", b"\x91\x05")
        assert "cannot be read" in fails("show", "marks", path)
        with AgentStore(path) as agent:
            agent.store.put(b"\0marks\0rx", b"\xc1")
        assert "cannot be decoded" in fails("show", "marks", path)


class TestWhileItIsWritten:
    @pytest.mark.parametrize("what", ["sessions", "messages", "checkpoints", "notes", ""])
    def test_a_writer_in_another_process_is_no_hindrance(
        self, run: Run, tmp_path: Path, what: str
    ) -> None:
        path = tmp_path / "agent.walkv"
        program = (
            "import sys; sys.path[:0] = [sys.argv[2]]\n"
            "from test_show import AgentStore, fill\n"
            "with AgentStore(sys.argv[1]) as agent:\n"
            "    fill(agent)\n"
            "    print('filled', flush=True)\n"
            "    sys.stdin.read()\n"
        )
        arguments = [sys.executable, "-c", program, str(path), os.path.dirname(__file__)]
        with subprocess.Popen(arguments, stdin=-1, stdout=-1) as writer:
            assert writer.stdin is not None
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"filled\n"
            before = sorted(each.name for each in path.rglob("*"))
            result = run("show", *what.split(), path, "--json")
            assert len(lines(result)) >= 3
            assert sorted(each.name for each in path.rglob("*")) == before
            assert writer.poll() is None
        assert writer.returncode == 0

    def test_damage_is_told(self, fails: Fails, path: Path, tmp_path: Path) -> None:
        copy = tmp_path / "copy.walkv"
        with AgentStore(copy) as agent:
            agent.messages.append("s1", role="user", content=os.urandom(200_000))
        with walkv.open(copy) as store:
            store.compact()
        (file,) = (copy / "snapshots").iterdir()
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        assert str(file) in fails("show", "messages", copy)
