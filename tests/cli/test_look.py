"""The commands that look inside: info, stats, tail, log, history, diff, top, doctor, health."""

from __future__ import annotations

import base64
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import walkv
from walkv.engine import watch
from walkv.engine.core import Engine

Run = Callable[..., Result]
Fails = Callable[..., str]
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An agent with a bit of everything, in a store that keeps its log."""
    found = tmp_path / "agent.walkv"
    with walkv.open(found, keep_log=walkv.KeepLog()) as store, walkv.AgentStore(store) as agent:
        agent.sessions.create("s1", user_id="ada")
        agent.messages.append("s1", role="user", content="hello you")
        agent.messages.append("s1", role="assistant", content="hi")
        agent.sessions.update("s1", status="paused")
        for number in range(3):
            state = {"step": number, "messages": ["hello"] * number}
            agent.checkpoints.put("t1", f"c{number}", state)
        store.put(b"user/1", b"Ada")
        store.compact()
        store.put(b"user/1", b"Ada Lovelace", ttl_seconds=1e6)
        store.delete_range(prefix=b"none/")
    return found


def lines(result: Result) -> list[Any]:
    return [json.loads(line) for line in result.stdout.splitlines()]


class TestInfo:
    def test_a_description(self, run: Run, path: Path) -> None:
        text = run("info", path).stdout
        facts = dict(re.findall(r"^ *(\w[\w ]*?)  +(\S.*)$", text, re.MULTILINE))
        assert facts["store"] == str(path)
        assert facts["format"] == "1, not encrypted"
        assert facts["state"] == "closed cleanly"
        assert facts["kept log"].endswith("to keep: for 7 d, up to 1.1 GB")
        assert re.search(r"^\d+ +kept ", text, re.MULTILINE)
        assert re.search(r"^\d+ +tail ", text, re.MULTILINE)
        assert re.search(r"^messages +2 ", text, re.MULTILINE)
        assert re.search(r"^\(plain keys\) +1 ", text, re.MULTILINE)

    def test_json(self, run_json: Any, path: Path) -> None:
        found = run_json("info", path)
        assert found["path"] == str(path)
        assert found["keep_log"] == {"seconds": 7 * 86_400.0, "max_bytes": 1 << 30}
        assert [each["state"] for each in found["segments"]] == ["kept", "tail"]
        files = [*(path / "log").glob("*.wal"), *(path / "log").glob("*.kept")]
        sizes = {int(file.stem): file.stat().st_size for file in files}
        assert {s["first_sequence"]: s["size_bytes"] for s in found["segments"]} == sizes
        counts = {each["namespace"]: each["record_count"] for each in found["namespaces"]}
        assert counts == {"": 1, "sessions": 1, "messages": 2, "checkpoints": 3}
        assert run_json("info", path, "--fast")["namespaces"] is None

    def test_who_has_it_open(self, run_json: Any, path: Path) -> None:
        assert run_json("info", path)["open"] is False
        with walkv.open(path, sync=walkv.WriteThrough()) as store:
            assert isinstance(store.engine, Engine)
            watch.publish(store.engine)
            found = run_json("info", path)
        assert (found["open"], found["pid"]) == (True, os.getpid())
        assert found["sync_policy"] == "WriteThrough()"


def test_stats_are_the_writers_if_there_is_one(run: Run, run_json: Any, path: Path) -> None:
    with walkv.open(path) as store:
        for _ in range(5):
            store.put(b"k", b"v")
        assert isinstance(store.engine, Engine)
        watch.publish(store.engine)
        found = run_json("stats", path)
        text = run("stats", path).stdout
    assert found["source"] == "writer"
    assert found["commit_count"] == found["sync_seconds"]["count"] == 5
    assert found["sync_seconds"]["p99"] >= found["sync_seconds"]["p50"] > 0
    assert re.search(r"^commits +5, ", text, re.MULTILINE)
    assert f"process {os.getpid()} on " in text
    assert run_json("stats", path)["source"] == "reader"


class TestTail:
    def test_records_by_their_names(self, run: Run, path: Path) -> None:
        text = run("tail", path, "--limit", "100").stdout
        assert re.search(r"^  put +messages s1 1  ", text, re.MULTILINE)
        assert re.search(r'^  put +checkpoints t1 "" 3  ', text, re.MULTILINE)
        assert re.search(r"^  put +user/1  3 bytes$", text, re.MULTILINE)
        assert re.search(r"^  put +user/1  12 bytes  until 20", text, re.MULTILINE)
        assert re.search(r"^  delete range +none/ up to none0$", text, re.MULTILINE)
        assert "entries of indexes and bookkeeping" in text
        assert "index" not in text.replace("of indexes and", "")
        assert "hello you" not in text
        assert "\x1b" not in text

    def test_values_and_everything(self, run: Run, path: Path) -> None:
        text = run("tail", path, "--limit", "100", "--values", "--all").stdout
        assert "content: hello you" in text
        assert "sessions index user_id: s1" in text
        assert "registry of the namespaces" in text
        assert "and 1 entr" not in text

    def test_limit_and_since(self, run: Run, path: Path) -> None:
        every = lines(run("tail", path, "--limit", "1000", "--json"))
        assert lines(run("tail", path, "--limit", "2", "--json")) == every[-2:]
        since = every[3]["last_sequence"]
        assert lines(run("tail", path, "--since", str(since), "--json")) == every[4:]
        assert lines(run("tail", path, "--limit", "0", "--json")) == []

    def test_json_has_every_operation(self, run: Run, path: Path) -> None:
        put, deleted = lines(run("tail", path, "--limit", "2", "--values", "--json"))
        (operation,) = put["operations"]
        assert operation["key"] == "user/1"
        assert operation["value"] == "Ada Lovelace"
        assert operation["expires_at"] is not None
        assert deleted["operations"] == [
            {"operation": "delete range", "start": "none/", "stop": "none0"}
        ]

    def test_secrets_are_masked(self, run: Run, tmp_path: Path) -> None:
        with walkv.AgentStore(tmp_path / "s") as agent:
            agent.users.create("ada", api_keys={"openai": "sk-secret"})
        key = ("--namespace", "users", "ada")
        for command in (("tail", "--values"), ("tail", "--values", "--all"), ("history", *key)):
            for more in ((), ("--json",)):
                result = run(command[0], tmp_path / "s", *command[1:], *more)
                assert "sk-secret" not in result.stdout
                assert "***" in result.stdout
                assert (
                    "sk-secret"
                    in run(command[0], tmp_path / "s", *command[1:], *more, "--secrets").stdout
                )

    def test_follow(self, start: Start, path: Path) -> None:
        with walkv.open(path) as store:
            with start("tail", path, "--follow", "--json", "--limit", "1") as process:
                assert process.stdout is not None
                assert process.stderr is not None
                assert b"none/" in process.stdout.readline()
                for number in range(3):
                    store.put(b"new/%d" % number, b"v")
                    found = json.loads(process.stdout.readline())
                    assert found["operations"][0]["key"] == f"new/{number}"
                process.send_signal(signal.SIGINT)
                assert process.stderr.read() == b""
            assert process.returncode == 0

    def test_history_that_is_gone(self, fails: Fails, tmp_path: Path) -> None:
        with walkv.open(tmp_path / "s") as store:
            store.put(b"k", b"v")
            store.compact()
            store.put(b"k", b"v")
        assert "no longer reaches back" in fails("tail", tmp_path / "s", "--since", "0")


class TestLog:
    def test_frames(self, run: Run, path: Path) -> None:
        found = lines(run("log", path, "--json"))
        assert [each["kind"] for each in found[-3:]] == ["commit", "commit", "close"]
        text = run("log", path, "--reverse", "--limit", "2").stdout.splitlines()
        assert text[0].split()[0] == "sequence"
        assert [line.split()[3] for line in text[1:]] == ["close", "commit"]
        assert len(lines(run("log", path, "--json", "--limit", "3"))) == 3

    def test_nothing(self, run: Run, path: Path) -> None:
        result = run("log", path, "--since", "100000")
        assert (result.stdout, result.stderr) == ("", "walkv: no frames\n")


class TestHistory:
    def test_a_plain_key(self, run: Run, path: Path) -> None:
        text = run("history", path, "user/1").stdout.splitlines()
        assert [line.split()[-1] for line in text[1:]] == ["Lovelace", "Ada"]
        found = lines(run("history", path, "user/1", "--json"))
        assert [each["value"] for each in found] == ["Ada Lovelace", "Ada"]
        assert found[0]["expires_at"] is not None
        assert len(lines(run("history", path, "user/1", "--json", "--limit", "1"))) == 1

    def test_a_record(self, run: Run, path: Path) -> None:
        found = lines(run("history", path, "--namespace", "sessions", "s1", "--json"))
        assert [each["record"]["status"] for each in found] == ["paused", "active"]
        (only,) = lines(run("history", path, "-n", "messages", "s1", "2", "--json"))
        assert only["record"]["content"] == "hi"

    def test_hex(self, run: Run, path: Path) -> None:
        assert b"Ada".hex() in run("history", path, b"user/1".hex(), "--hex").stdout

    def test_what_cannot_be(self, fails: Fails, path: Path) -> None:
        assert "nothing is known of none" in fails("history", path, "none")
        assert "there is no namespace 'x'" in fails("history", path, "-n", "x", "k")
        message = fails("history", path, "-n", "messages", "s1", status=2)
        assert "SESSION_ID SEQ" in message
        message = fails("history", path, "-n", "messages", "s1", "two", status=2)
        assert "seq is like" in message
        assert "give one KEY" in fails("history", path, "a", "b", status=2)


class TestDiff:
    def test_the_latest_step(self, run: Run, path: Path) -> None:
        text = run("diff", path, "--thread", "t1").stdout
        assert text.splitlines() == [
            "c1 -> c2",
            "~ step  1 -> 2",
            '+ messages[1]  "hello"',
        ]

    def test_two_that_are_named(self, run_json: Any, run: Run, path: Path) -> None:
        found = run_json("diff", path, "c2", "c0", "--thread", "t1")
        assert (found["before"], found["after"]) == ("c2", "c0")
        assert found["differences"] == [
            {"path": ["step"], "kind": "changed", "before": 2, "after": 0},
            {"path": ["messages", 0], "kind": "removed", "before": "hello"},
            {"path": ["messages", 1], "kind": "removed", "before": "hello"},
        ]
        assert run("diff", path, "c1", "c1", "--thread", "t1").stderr == "walkv: no differences\n"

    def test_what_cannot_be(self, fails: Fails, path: Path) -> None:
        assert "has no checkpoint 'x'" in fails("diff", path, "x", "--thread", "t1")
        assert "has no checkpoints" in fails("diff", path, "--thread", "t2")
        message = fails("diff", path, "--thread", "t1", "--namespace", "sub")
        assert "in its namespace 'sub'" in message

    def test_checkpoints_of_graphs(self, run: Run, tmp_path: Path) -> None:
        from walkv.integrations.langgraph import WalkvSaver

        with WalkvSaver(tmp_path / "s") as saver:
            config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
            for number in range(2):
                versions = {"n": number + 1}
                checkpoint: Any = {
                    "v": 4,
                    "id": f"c{number}",
                    "ts": "",
                    "channel_values": {"n": number},
                    "channel_versions": versions,
                    "versions_seen": {},
                }
                config = saver.put(config, checkpoint, {}, versions)
        assert run("diff", tmp_path / "s", "--thread", "t").stdout.splitlines() == [
            "c0 -> c1",
            "~ n  0 -> 1",
        ]


class TestTop:
    def test_nobody_has_it_open(self, run_json: Any, path: Path) -> None:
        found = run_json("top", path, "--count", "1")
        assert (found["open"], found["stats"], found["rates"]) == (False, None, None)
        assert found["log_bytes"] > 0
        assert found["kept_bytes"] > 0

    def test_a_line_each_time(self, run: Run, path: Path) -> None:
        with walkv.open(path) as store:
            assert isinstance(store.engine, Engine)
            watch.publish(store.engine)
            first, second = lines(run("top", path, "--count", "2", "--interval", "0.1"))
            assert (first["pid"], second["pid"]) == (os.getpid(), os.getpid())
            assert first["rates"] is None
            assert first["stats"]["pid"] == os.getpid()
            assert first["resident_bytes"] > 1_000_000

    def test_rates(self, path: Path) -> None:
        from walkv.cli.top import _Watcher

        watcher = _Watcher(str(path))
        with walkv.open(path) as store:
            assert isinstance(store.engine, Engine)
            watch.publish(store.engine)
            assert watcher.look().rates is None
            for _ in range(4):
                store.put(b"k", b"v")
            watch.publish(store.engine)
            found = watcher.look()
            assert found.rates is not None
            assert round(found.rates.commits * found.rates.interval_seconds) == 4
            assert found.rates.sync_seconds.count == 4
        assert watcher.look().rates is None

    @pytest.mark.parametrize("end", [b"q", b"\x03"])
    def test_on_a_terminal(self, path: Path, end: bytes) -> None:
        with Terminal("top", str(path), "--interval", "0.2") as terminal:
            terminal.until("nobody")
            terminal.until("snapshots")
            terminal.write(end)
            assert terminal.wait() == 0


class Terminal:
    """The command in a terminal of 80 columns."""

    def __init__(self, *arguments: str) -> None:
        self._mine, theirs = pty.openpty()
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "walkv.cli", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            preexec_fn=_become_its_own,
        )
        os.close(theirs)
        self.seen = ""

    def until(self, text: str) -> None:
        """Read until a text has come."""
        while text not in self.seen:
            ready, _, _ = select.select([self._mine], [], [], 30)
            assert ready, self.seen
            self.seen += os.read(self._mine, 4096).decode(errors="replace")

    def write(self, data: bytes) -> None:
        os.write(self._mine, data)

    def wait(self) -> int:
        """The exit status, once it has ended."""
        while self._process.poll() is None:
            try:
                self.seen += os.read(self._mine, 4096).decode(errors="replace")
            except OSError:  # the other end was closed
                break
        return self._process.wait()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._mine)


def _become_its_own() -> None:
    """The terminal is that of a session of its own, so that Ctrl-C reaches it."""
    import fcntl
    import termios

    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class TestDoctor:
    def test_findings(self, run: Run, run_json: Any, path: Path, fails: Fails) -> None:
        text = run("doctor", path).stdout
        assert re.search(r"^ok +opening +opens$", text, re.MULTILINE)
        found = run_json("doctor", path)
        assert found["level"] in ("ok", "warning")
        assert {each["check"] for each in found["findings"]} >= {"system", "python", "sync"}
        assert fails("doctor", path / "none").endswith("there is no such directory")
        assert "this is a file" in fails("doctor", path / "MANIFEST")

    def test_an_error(self, run: Run, path: Path) -> None:
        (path / "MANIFEST").write_bytes((path / "MANIFEST").read_bytes()[:-1])
        result = run("doctor", path, status=1)
        assert re.search(r"^error +store +", result.stdout, re.MULTILINE)


class TestHealth:
    def test_ok(self, run: Run, run_json: Any, path: Path) -> None:
        assert run("health", path).stdout == "ok\n"
        assert run_json("health", path) == {"status": "ok", "reasons": []}

    def test_failed(self, run: Run, run_json: Any, path: Path) -> None:
        data = bytearray((path / "MANIFEST").read_bytes())
        data[-1] ^= 1
        (path / "MANIFEST").write_bytes(data)
        status, reason = run("health", path, status=1).stdout.splitlines()
        assert status == "failed"
        assert "checksum does not match" in reason
        assert run_json("health", path, status=1)["status"] == "failed"


class TestUpkeep:
    def test_prune(self, run: Run, run_json: Any, fails: Fails, path: Path) -> None:
        given = ("prune", path, "--checkpoints-keep", "1", "--messages-keep", "1")
        found = run_json(*given, "--dry-run")
        expected = {"messages": 1, "checkpoints": 2}
        assert {each["namespace"]: each["record_count"] for each in found["pruned"]} == expected
        assert "nothing was deleted" in run(*given, "--dry-run").stderr
        text = run(*given).stdout
        assert re.search(r"^checkpoints +2 ", text, re.MULTILINE)
        assert "say what is old" in fails("prune", path, status=2)
        message = fails("prune", path, "--sessions-idle", "soon", status=2)
        assert "90s, 15m, 12h, 30d or 4w" in message

    def test_prune_graphs(self, run_json: Any, tmp_path: Path) -> None:
        from walkv.integrations.langgraph import WalkvSaver

        with WalkvSaver(tmp_path / "s") as saver:
            config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
            for number in range(3):
                checkpoint: Any = {
                    "id": f"c{number}",
                    "channel_values": {},
                    "channel_versions": {},
                }
                saver.put(config, checkpoint, {}, {})
        found = run_json("prune", tmp_path / "s", "--checkpoints-keep", "1")
        counts = {each["namespace"]: each["record_count"] for each in found["pruned"]}
        assert counts == {"checkpoints": 0, "langgraph_checkpoints": 2}

    def test_sweep(self, run: Run, run_json: Any, tmp_path: Path) -> None:
        with walkv.open(tmp_path / "s") as store:
            store.put(b"k", b"12345", ttl_seconds=0.001)
            while store.get(b"k") is not None:
                time.sleep(0.001)
        found = {"entry_count": 1, "size_bytes": 6}
        assert run_json("sweep", tmp_path / "s", "--dry-run") == {"dry_run": True, **found}
        text = run("sweep", tmp_path / "s").stdout
        assert text == "deleted 1 expired entry, 6 bytes\n"
        assert run_json("sweep", tmp_path / "s")["entry_count"] == 0

    def test_keygen(self, run: Run, run_json: Any) -> None:
        key = run("keygen").stdout.strip()
        prefix, _, data = key.rpartition(":")
        assert prefix == "walkv-key-1"
        assert len(base64.urlsafe_b64decode(data)) == 32
        assert run_json("keygen")["key"] != key
