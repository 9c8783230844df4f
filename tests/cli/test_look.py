"""The commands that look inside: info, stats, tail, log, history, diff, top, doctor, health."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import walkv
from tests.support.terminal import Terminal
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
        assert facts["kept log"].endswith("to keep: for 7 d, up to 1 GiB")
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

    def test_who_has_it_open(self, run: Run, run_json: Any, path: Path) -> None:
        assert run_json("info", path)["open"] is False
        with walkv.open(path, sync=walkv.WriteThrough()) as store:
            assert isinstance(store.engine, Engine)
            watch.publish(store.engine)
            found = run_json("info", path)
            text = run("info", path).stdout
        assert (found["open"], found["pid"]) == (True, os.getpid())
        assert found["sync_policy"] == "WriteThrough()"
        assert found["last_recovery"]["clean"] is True
        assert re.search(r"^last recovery +was closed cleanly; replayed ", text, re.MULTILINE)
        assert re.search(r"^replay +\d+ commit", text, re.MULTILINE)


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
        none = run("tail", path, "--limit", "0")
        assert (none.stdout, none.stderr) == ("", "")

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
        assert (
            text[1].split()[-1] == f"{found[-1]['segment'].lstrip('0')}:{found[-1]['offset_bytes']}"
        )
        assert len(lines(run("log", path, "--json", "--limit", "3"))) == 3

    def test_a_window_of_80_columns(self, path: Path) -> None:
        with Terminal("log", str(path)) as terminal:
            assert terminal.wait() == 0
        text = re.sub(r"\x1b\[[0-9;]*m", "", terminal.seen).splitlines()
        assert max(map(len, text)) <= 80
        assert sum(bool(re.search(r"\d{4}-\d\d-\d\d$", line.strip())) for line in text) == 1
        assert re.search(r"\d\d:\d\d:\d\d\.\d{6}Z  commit .* \d+\.kept:64$", text[3].rstrip())

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

    def test_whoever_watches_is_always_answered(
        self, run_json: Any, fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with walkv.open(tmp_path / "sealed", key="one"):
            pass
        monkeypatch.setenv("WALKV_KEY", "another")
        (tmp_path / "letter").touch()
        for name, reason in (("none", "no walkv store"), ("sealed", "key"), ("letter", "a file")):
            found = run_json("health", tmp_path / name, status=1)
            assert found["status"] == "failed"
            assert reason in found["reasons"][0]
            assert reason in fails("health", tmp_path / name)

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

    def test_prune_asks_before_all_is_gone(self, run: Run, fails: Fails, path: Path) -> None:
        given = ("prune", path, "--messages-keep", "0")
        result = run(*given, input="n\n", status=1)
        assert result.stderr.startswith("Delete all there are: 2 of messages? [y/N]: ")
        assert result.stderr.endswith("walkv: nothing was deleted\n")
        assert run("prune", path, "--messages-keep", "0", "--dry-run").exit_code == 0
        assert (
            "2 of messages" in run(*given, "--checkpoints-keep", "1", input="n\n", status=1).stderr
        )
        with walkv.AgentStore(path) as agent:
            assert len(agent.messages.history("s1")) == 2
        run(*given, input="y\n")
        with walkv.AgentStore(path) as agent:
            assert agent.messages.history("s1") == []
        run(*given, input="")  # there is nothing to ask about
        run("prune", path, "--checkpoints-keep", "0", "--yes")
        with walkv.AgentStore(path) as agent:
            assert agent.checkpoints.list("t1") == []

    def test_prune_registers_nothing(self, run: Run, run_json: Any, store: Path) -> None:
        before = run_json("stats", store)["last_sequence"]
        for options in (["--dry-run"], []):
            result = run("prune", store, "--checkpoints-keep", "1", *options)
            assert (result.stdout, "nothing to prune" in result.stderr) == ("", True)
        assert run_json("prune", store, "--messages-keep", "1")["pruned"] == []
        assert run_json("stats", store)["last_sequence"] == before

    def test_keep(self, run: Run, run_json: Any, fails: Fails, store: Path) -> None:
        def kept(*options: str) -> Any:
            return run_json("keep", store, *options)["keep_log"]

        assert kept() is None
        assert kept("--days", "30") == {"seconds": 30 * 86_400.0, "max_bytes": 1 << 30}
        assert kept("--max", "1.5 MiB") == {"seconds": 30 * 86_400.0, "max_bytes": 3 << 19}
        text = run("keep", store).stdout
        assert text == "to keep  for 30 d, up to 1.5 MiB\nkept     0 bytes in 0 segments\n"
        run("compact", store)
        assert run_json("keep", store)["kept_segment_count"] == 1
        assert [each["value"] for each in lines(run("history", store, "user/1", "--json"))] == [
            "Ada"
        ]
        assert run_json("keep", store, "--off") == {
            "keep_log": None,
            "kept_segment_count": 0,
            "kept_bytes": 0,
        }
        for bad in ("0", "much", "5 XB", "1e3", "-1MiB"):
            assert "is no size" in fails("keep", store, "--max", bad, status=2)
        fails("keep", store, "--days", "0", status=2)
        fails("keep", store, "--days", "1", "--off", status=2)
        with walkv.open(store):
            assert "has this store open" in fails("keep", store, "--days", "1")

    def test_keygen(self, run: Run, run_json: Any) -> None:
        key = run("keygen").stdout.strip()
        prefix, _, data = key.rpartition(":")
        assert prefix == "walkv-key-1"
        assert len(base64.urlsafe_b64decode(data)) == 32
        assert run_json("keygen")["key"] != key


def test_the_log_of_an_encrypted_store_needs_no_key(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "s")
    with walkv.open(path, key="a passphrase") as store:
        store.put(b"topsecret", b"1")
    found = run("log", path)
    assert found.exit_code == 0
    assert "commit" in found.stdout
    assert "topsecret" not in found.stdout
    monkeypatch.setenv("WALKV_KEY", "another one")
    run("log", path, status=1)
