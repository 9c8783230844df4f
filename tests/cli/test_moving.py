"""The commands that move data: export, and import of everything but LangGraph's files."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from agents import SQLiteSession

import walkv
from tests.support.terminal import Terminal
from walkv import AgentStore

Run = Callable[..., Any]


def only_line(text: str) -> str:
    assert text.count("\n") == 1, text
    return text.rstrip("\n")


@pytest.fixture
def agent_store(tmp_path: Path) -> Path:
    path = tmp_path / "agent.walkv"
    with AgentStore(path) as agent:
        agent.messages.append("s1", role="user", content="hello")
        agent.users.create("ada", api_keys={"openai": "sk-secret"})
        agent.store.put(b"user/1", b"Ada")
    return path


@pytest.fixture
def conversations(tmp_path: Path) -> Path:
    path = tmp_path / "conversations.db"
    items: list[Any] = [{"role": "user", "content": "hi"}]
    session = SQLiteSession("ada", path)
    asyncio.run(session.add_items(items))
    session.close()
    return path


# -- export ----------------------------------------------------------------------------------------


def test_export_to_stdout_is_lines_of_json(run: Run, store: Path) -> None:
    result = run("export", store)
    header, *items, end = map(json.loads, result.stdout.splitlines())
    assert header["walkv_export"] == 1
    assert len(items) == end["end"]["counts"][""]["count"] == 3
    assert result.stderr == ""
    assert run("export", store, "-").stdout.splitlines()[1:-1] == result.stdout.splitlines()[1:-1]


def test_export_to_a_file_and_back(
    run: Run, run_json: Callable[..., Any], agent_store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.msgpack"
    options = ("--format", "msgpack", "--secrets")
    facts = run_json("export", agent_store, out, *options)
    assert facts["counts"] == {"": 1, "messages": 1, "users": 1}
    assert facts["size_bytes"] == out.stat().st_size
    other = tmp_path / "other.walkv"
    facts = run_json("import", "walkv", out, other)
    assert facts["ok"]
    assert facts["namespaces"]["messages"]["written_count"] == 1
    assert facts["namespaces"]["messages"]["source"] == facts["namespaces"]["messages"]["store"]
    with AgentStore(other) as agent:
        user = agent.users.get("ada")
        assert user is not None
        assert user.api_keys == {"openai": "sk-secret"}
    shown = run("import", "auto", out, other).stdout
    assert [line.split()[-1] for line in shown.splitlines()[1:]] == ["same"] * 3


def test_a_note_stands_on_a_line_of_its_own_above_the_bar(
    run: Run, agent_store: Path, tmp_path: Path
) -> None:
    run("export", agent_store, tmp_path / "out", "--entries", "--secrets")
    with Terminal("import", "walkv", str(tmp_path / "out"), str(tmp_path / "b")) as terminal:
        assert terminal.wait() == 0
    before, note, _ = terminal.seen.partition("walkv: created a new store")
    assert note
    assert "importing" in before, "the bar was there"
    assert before.endswith(("\n", "\r", "\x1b[2K")), repr(before)


def test_a_store_is_no_file_to_import(
    fails: Callable[..., str], agent_store: Path, tmp_path: Path
) -> None:
    for kind in ("walkv", "auto", "diskcache", "langgraph-sqlite"):
        line = fails("import", kind, agent_store, tmp_path / "b.walkv")
        assert line == f"{agent_store}: this is a store: export it first, or back it up"
    assert not (tmp_path / "b.walkv").exists()


def test_export_says_what_is_masked_and_what_was_written(
    run: Run, fails: Callable[..., str], agent_store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    result = run("export", agent_store, out)
    assert only_line(result.stderr) == "walkv: masked in users: api_keys; --secrets shows them"
    assert "messages" in result.stdout
    assert "on disk" in result.stdout
    assert "sk-secret" not in out.read_text()
    assert "users.api_keys are masked" in fails("import", "walkv", out, tmp_path / "b.walkv")
    assert not (tmp_path / "b.walkv").exists()
    run("import", "walkv", out, tmp_path / "b.walkv", "--without-masked")
    assert "which are secret" in fails("export", agent_store, tmp_path / "raw", "--entries")
    run("export", agent_store, tmp_path / "raw", "--entries", "--secrets")


def test_export_of_a_part(run: Run, agent_store: Path) -> None:
    def names(*options: str) -> list[str]:
        lines = run("export", agent_store, *options).stdout.splitlines()[1:-1]
        return [json.loads(line).get("namespace", "") for line in lines]

    assert names("--namespace", "users") == ["users"]
    assert names("--namespace", "users", "--namespace", "messages") == ["messages"] * 2 + ["users"]
    assert names("--prefix", "user/") == [""]


def test_export_on_bad_input(
    fails: Callable[..., str], run: Run, agent_store: Path, tmp_path: Path, damaged: Any
) -> None:
    assert "there is no walkv store here" in fails("export", tmp_path / "nothing")
    line = fails("export", agent_store, "--namespace", "nothing")
    assert line.startswith("there is no namespace 'nothing'; there are checkpoints")
    (tmp_path / "taken").write_text("mine")
    assert fails("export", agent_store, tmp_path / "taken").endswith(
        "there is such a file; delete it, or take another name"
    )
    assert (tmp_path / "taken").read_text() == "mine"
    assert "No such file" in fails("export", agent_store, tmp_path / "no" / "out")
    assert "No such file" in fails("export", agent_store, tmp_path / "out", "--resume")
    fails("export", agent_store, "-", "--resume", status=2)
    fails("export", agent_store, "out", "--format", "xml", status=2)
    path, file, _ = damaged
    result = run("export", path, tmp_path / "out", status=1)
    assert str(file) in only_line(result.stderr)
    assert not (tmp_path / "out").exists()


def test_export_to_a_full_disk(start: Callable[..., Any], agent_store: Path) -> None:
    with open("/dev/full", "wb") as full:
        process = start("export", agent_store, stdout=full)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "No space left" in only_line(stderr.decode())


def test_export_into_a_pipe_that_closes(start: Callable[..., Any], agent_store: Path) -> None:
    with start("export", agent_store) as process:
        process.stdout.close()
        assert process.wait(timeout=60) == 141
        assert process.stderr.read() == b""


def test_an_interrupted_export_says_how_to_go_on(
    start: Callable[..., Any], run: Run, run_json: Callable[..., Any], tmp_path: Path
) -> None:
    path, out = tmp_path / "large.walkv", tmp_path / "out"
    with walkv.open(path) as store, store.batch() as batch:
        for number in range(150_000):
            batch.put(b"%07d" % number, b"value")
    process: subprocess.Popen[bytes] = start("export", path, out)
    part = tmp_path / "out.part"
    while process.poll() is None and not (part.exists() and part.stat().st_size > 100_000):
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.decode().splitlines() == [
        f"walkv: what was written is in {out}.part; go on with --resume",
        "walkv: interrupted",
    ]
    assert not out.exists()
    facts = run_json("export", path, out, "--resume")
    assert 0 < facts["resumed_count"] < facts["counts"][""] == 150_000
    assert os.listdir(tmp_path).count("out.part") == 0


# -- import ----------------------------------------------------------------------------------------


def test_import_of_a_conversation(run: Run, conversations: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.walkv"
    result = run("import", "auto", conversations, path)
    assert only_line(result.stderr) == f"walkv: created a new store in {path}"
    assert [line.split() for line in result.stdout.splitlines()[1:]] == [
        ["messages", "1", "1", "0", "0", "0", "same"],
        ["sessions", "1", "1", "0", "0", "0", "same"],
    ]
    assert run("import", "openai-agents", conversations, path).stderr == ""


def test_import_tells_what_differs_and_what_could_not_be_moved(
    run: Run, run_json: Callable[..., Any], conversations: Path, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(conversations)) as file, file:
        for _ in range(12):
            row = ("ada", "no JSON")
            file.execute("INSERT INTO agent_messages (session_id, message_data) VALUES (?, ?)", row)
    file.close()
    path = tmp_path / "a.walkv"
    with AgentStore(path) as agent:
        agent.messages.append("ada", role="user", content="mine")
    result = run("import", "openai-agents", conversations, path, status=1)
    lines = result.stderr.splitlines()
    assert len(lines) == 12
    assert lines[0].startswith("walkv: not moved: message 2 of session 'ada': ")
    assert lines[10] == "walkv: not moved: 2 more"
    assert lines[11].startswith("walkv: differs: record of messages ('ada', 1)")
    facts = run_json("import", "openai-agents", conversations, path, status=1)
    assert (facts["ok"], facts["problem_count"], facts["difference_count"]) == (False, 12, 1)
    run("import", "openai-agents", conversations, path, "--replace", status=1)
    with AgentStore(path) as agent:
        assert agent.messages.history("ada")[0].content == {"role": "user", "content": "hi"}


def test_import_of_a_table(run: Run, fails: Callable[..., str], tmp_path: Path) -> None:
    source, path = tmp_path / "data.db", tmp_path / "a.walkv"
    with closing(sqlite3.connect(source)) as file, file:
        file.execute("CREATE TABLE notes (id, body)")
        file.execute("INSERT INTO notes VALUES (1, 'hello'), (2, 'there')")
    file.close()
    assert "its tables: notes" in fails("import", "auto", source, path)
    fails("import", "sqlite-table", source, path, status=2)
    fails("import", "sqlite-table", source, path, "--table", "notes", status=2)
    assert "has no column" in fails(
        "import", "sqlite-table", source, path, "--table", "notes", "--key", "x"
    )
    assert not path.exists()
    table = ("--table", "notes", "--key", "id")
    run("import", "auto", source, path, *table, "--as", "mine")
    run("import", "sqlite-table", source, path, *table, "--value", "body", "--prefix", "n/")
    assert run("get", path, "n/2").stdout == "there"
    shown = run("show", "mine", path, "--json").stdout.splitlines()
    assert [json.loads(line) for line in shown] == [
        {"id": 1, "body": "hello"},
        {"id": 2, "body": "there"},
    ]


def test_import_on_bad_input(
    fails: Callable[..., str], agent_store: Path, conversations: Path, tmp_path: Path
) -> None:
    fails("import", "walkv", tmp_path / "nothing", status=2)
    fails("import", "mysql", conversations, status=2)
    fails("import", "langgraph-sqlite", conversations, "--replace", status=2)
    fails("import", "langgraph-sqlite", tmp_path, status=2)
    line = fails("import", "walkv", conversations, tmp_path / "a.walkv")
    assert line == f"{conversations} at byte 0: it does not begin as an export of walkv does"
    assert "no tables of an SQLiteSession" not in fails("import", "google-adk", conversations)
    with walkv.open(agent_store):
        assert "open for writing" in fails("import", "auto", conversations, agent_store)
    assert not (tmp_path / "a.walkv").exists()
    read_only = tmp_path / "file"
    read_only.write_text("x")
    assert "this is a file" in fails("import", "auto", conversations, read_only)
