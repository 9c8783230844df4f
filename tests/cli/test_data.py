from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import walkv
from walkv import limits
from walkv.cli import output
from walkv.engine.vfs import OsFileSystem

Run = Callable[..., Result]
Start = Callable[..., subprocess.Popen[bytes]]
Fails = Callable[..., str]


def keys(path: Path) -> list[bytes]:
    with walkv.open(path, read_only=True) as store:
        return list(store.scan(keys_only=True))


def value(path: Path, key: bytes) -> Any:
    with walkv.open(path, read_only=True) as store:
        return store.get(key)


class TestGet:
    def test_writes_the_bytes_and_nothing_else(self, run: Run, store: Path) -> None:
        assert run("get", store, "user/1").stdout_bytes == b"Ada"
        assert run("get", store, "raw/\udcff\0").stdout_bytes == b"\xfe\\\n"

    def test_json(self, run_json: Any, store: Path) -> None:
        expected = {"key": "user/1", "value": "Ada", "version": 1}
        assert run_json("get", store, "user/1") == expected

    def test_json_of_bytes_that_are_not_utf8(self, run_json: Any, store: Path) -> None:
        expected = {"key": {"base64": "cmF3L/8A"}, "value": {"base64": "/lwK"}, "version": 3}
        assert run_json("get", store, "raw/\udcff\0") == expected

    def test_hex(self, run: Run, run_json: Any, store: Path) -> None:
        assert run("get", store, "--hex", "7261772fff00").stdout == "fe5c0a\n"
        found = run_json("get", store, "--hex", "7261772fff00")
        assert found == {"key": "7261772fff00", "value": "fe5c0a", "version": 3}

    def test_no_such_key(self, fails: Fails, store: Path) -> None:
        assert fails("get", store, "user/9") == "no such key: user/9"
        assert fails("get", store, "user/9", "--json") == "no such key: user/9"
        assert fails("get", store, "a\nb\udcff") == r"no such key: a\nb\xff"
        assert fails("get", store, "--hex", "ff") == "no such key: ff"

    def test_an_empty_value_is_there(self, run: Run, store: Path) -> None:
        run("put", store, "empty", "")
        assert run("get", store, "empty").stdout_bytes == b""

    def test_changes_nothing(self, run: Run, store: Path) -> None:
        def files() -> dict[Path, tuple[int, bytes]]:
            found = [path for path in store.rglob("*") if path.is_file()]
            return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}

        before = files()
        run("get", store, "user/1")
        run("scan", store)
        run("stats", store)
        run("verify", store)
        assert files() == before

    def test_works_while_a_program_writes(self, run: Run, store: Path) -> None:
        with walkv.open(store) as opened:
            opened.put(b"fresh", b"yes")
            assert run("get", store, "fresh").stdout == "yes"

    @pytest.mark.parametrize(
        ("stored", "expected"),
        [("two\nlines\tOK", "two\nlines\tOK\n"), ("C:\\n\n", "C:\\n\n"), ("", "\n")],
    )
    def test_text_on_a_terminal(
        self, run: Run, store: Path, stored: str, expected: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run("put", store, "text", stored)
        monkeypatch.setattr(output, "is_terminal", lambda stream: stream is sys.stdout)
        result = run("get", store, "text")
        assert (result.stdout, result.stderr) == (expected, "")

    @pytest.mark.parametrize(
        ("stored", "expected"), [("\x1b[31m", "\\x1b[31m\n"), ("a\n\udcff", "a\\n\\xff\n")]
    )
    def test_other_bytes_on_a_terminal(
        self, run: Run, store: Path, stored: str, expected: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run("put", store, "bytes", stored)
        monkeypatch.setattr(output, "is_terminal", lambda stream: stream is sys.stdout)
        result = run("get", store, "bytes")
        assert result.stdout == expected
        assert result.stderr.startswith("walkv: not text, so shown escaped")

    def test_a_terminal_is_told_from_a_pipe(self, run: Run, start: Start, store: Path) -> None:
        run("put", store, "bytes", "\udcff")
        shown, complaints = on_terminal(start, "get", store, "bytes")
        assert shown == b"\\xff\r\n"
        assert complaints.startswith(b"walkv: not text")


def on_terminal(start: Start, *arguments: str | Path) -> tuple[bytes, bytes]:
    """What the command shows on a terminal, and its stderr, which is none."""
    terminal, end = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "40"}
    with start(*arguments, stdout=end, env=environment) as process:
        os.close(end)
        shown = b""
        while True:
            try:
                block = os.read(terminal, 4096)
            except OSError:  # Linux says so when the other end is closed
                break
            if not block:
                break
            shown += block
        os.close(terminal)
        assert process.stderr is not None
        complaints = process.stderr.read()
    assert process.returncode == 0, complaints
    return shown, complaints


class TestPut:
    def test_is_silent_and_says_when_it_made_a_store(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "new.walkv"
        first = run("put", path, "k", "v")
        assert (first.stdout, first.stderr) == ("", f"walkv: created a new store in {path}\n")
        second = run("put", path, "k", "w")
        assert (second.stdout, second.stderr) == ("", "")
        assert value(path, b"k") == b"w"

    def test_json(self, run_json: Any, tmp_path: Path) -> None:
        path = tmp_path / "new.walkv"
        found = run_json("put", path, "k", "Zoë")
        assert found == {"key": "k", "version": 1, "value_bytes": 4, "created": True}
        assert run_json("put", path, "k", "w")["created"] is False

    def test_no_create(self, fails: Fails, tmp_path: Path) -> None:
        path = tmp_path / "none.walkv"
        assert (
            fails("put", path, "k", "v", "--no-create") == f"{path}: there is no walkv store here"
        )
        assert not path.exists()

    @pytest.mark.parametrize("data", [b"", b"\xff\x00\n", b"x" * 3_000_000])
    def test_stdin_and_file(self, run: Run, store: Path, tmp_path: Path, data: bytes) -> None:
        file = tmp_path / "value"
        file.write_bytes(data)
        run("put", store, "a", "-", input=data)
        run("put", store, "b", "--file", file)
        run("put", store, "c", "--file", "-", input=data)
        assert [value(store, key) for key in (b"a", b"b", b"c")] == [data] * 3

    def test_hex_goes_out_and_in_again(self, run: Run, store: Path, tmp_path: Path) -> None:
        run("put", store, "--hex", "00ff", "fe5C")
        assert value(store, b"\0\xff") == b"\xfe\\"
        out = run("get", store, "--hex", "00ff").stdout
        run("put", store, "--hex", "01", "-", input=out)
        file = tmp_path / "hex"
        file.write_text(out)
        run("put", store, "--hex", "02", "--file", file)
        assert value(store, b"\1") == value(store, b"\2") == b"\xfe\\"

    def test_bytes_of_the_command_line_stay(self, start: Start, store: Path) -> None:
        with start("put", store, b"k\xff".decode(errors="surrogateescape"), "Zoë") as process:
            assert process.wait() == 0
        assert value(store, b"k\xff") == "Zoë".encode()

    def test_ttl(self, run: Run, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run("put", store, "k", "v", "--ttl", "3600")
        assert run("get", store, "k").stdout == "v"
        later_ns = time.time_ns() + 3_601 * 10**9
        monkeypatch.setattr(OsFileSystem, "wall_time_ns", staticmethod(lambda: later_ns))
        assert run("get", store, "k", status=1).stdout == ""

    @pytest.mark.parametrize("policy", ["write-through", "wal", "write-back"])
    def test_sync(
        self, run: Run, store: Path, policy: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        used = []
        put = walkv.Store.put
        monkeypatch.setattr(
            walkv.Store, "put", lambda *a, sync, **k: used.append(sync) or put(*a, sync=sync, **k)
        )
        run("put", store, "k", "v", "--sync", policy)
        kinds = {"write-through": walkv.WriteThrough, "wal": walkv.Wal}
        assert [type(policy) for policy in used] == [kinds.get(policy, walkv.WriteBack)]
        assert value(store, b"k") == b"v"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["k"], "give either VALUE (or -) or --file (see walkv put --help)"),
            (
                ["k", "v", "--file", "-"],
                "give either VALUE (or -) or --file (see walkv put --help)",
            ),
            (["", "v"], "a key has 1 to 65535 bytes, and this one has 0"),
            (["k" * 65_536, "v"], "a key has 1 to 65535 bytes, and this one has 65536"),
            (["zz", "00", "--hex"], "'KEY': these are not pairs of hex digits: 'zz'"),
            (["00", "zz", "--hex"], "'VALUE': these are not pairs of hex digits: 'zz'"),
            (["k", "v", "--ttl", "0"], "the time is above 0 seconds and finite"),
            (["k", "v", "--ttl", "nan"], "the time is above 0 seconds and finite"),
            (["k", "v", "--ttl", "soon"], "'soon' is not a valid float"),
            (["k", "v", "--sync", "never"], "'never' is not one of"),
            (["k", "--file", "/nowhere"], "'/nowhere': No such file or directory"),
            (["k", "--file", "/"], "'/': Is a directory"),
            (["k", "-v"], 'put "--" before a key or value that begins with "-"'),
        ],
    )
    def test_bad_arguments(
        self, fails: Fails, tmp_path: Path, arguments: list[str], message: str
    ) -> None:
        path = tmp_path / "none.walkv"
        assert message in fails("put", path, *arguments, status=2)
        assert not path.exists()

    def test_values_that_look_like_options(self, run: Run, store: Path) -> None:
        run("put", store, "--", "-k", "-v")
        assert value(store, b"-k") == b"-v"

    def test_a_value_without_end(
        self, fails: Fails, store: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limits, "MAX_VALUE_BYTES", 1_000)
        message = "a value has at most 1,000 bytes, and this one has more"
        assert message in fails("put", store, "k", "--file", "/dev/zero")


class TestDelete:
    def test_key(self, run: Run, run_json: Any, store: Path) -> None:
        result = run("delete", store, "user/1")
        assert (result.stdout, result.stderr) == ("", "")
        assert run_json("delete", store, "user/2") == {"key": "user/2", "version": 5}
        assert keys(store) == [b"raw/\xff\0"]

    def test_hex(self, run: Run, store: Path) -> None:
        run("delete", store, "--hex", "7261772fff00")
        assert keys(store) == [b"user/1", b"user/2"]

    def test_no_such_key(self, fails: Fails, store: Path) -> None:
        assert fails("delete", store, "user") == "no such key: user"
        assert len(keys(store)) == 3

    def test_no_such_store(self, fails: Fails, tmp_path: Path) -> None:
        path = tmp_path / "none"
        message = f"{path}: there is no walkv store here"
        assert fails("delete", path, "k") == message
        assert fails("delete", path, "--prefix", "k") == message
        assert fails("delete", path, "--prefix", "k", "--yes") == message
        assert not path.exists()

    def test_prefix_after_a_yes(self, run: Run, store: Path) -> None:
        result = run("delete", store, "--prefix", "user/", input="y\n")
        # Before 8.4 click lets a blank of the question go to stdout.
        assert result.stdout.endswith("deleted 2 keys beginning with user/\n")
        assert "Delete 2 keys beginning with user/? [y/N]" in result.stderr
        assert keys(store) == [b"raw/\xff\0"]

    @pytest.mark.parametrize(
        ("answer", "message"),
        [("n\n", "nothing was deleted"), ("\n", "nothing was deleted"), ("", "")],
    )
    def test_prefix_without_a_yes(self, run: Run, store: Path, answer: str, message: str) -> None:
        result = run("delete", store, "--prefix", "user/", input=answer, status=1)
        assert "deleted" not in result.stdout
        assert result.stderr.splitlines()[-1].startswith(f"walkv: {message}")
        assert len(keys(store)) == 3

    def test_prefix_without_being_asked(self, run: Run, run_json: Any, store: Path) -> None:
        found = run_json("delete", store, "--hex", "--prefix", "7261", "--yes")
        assert found == {"prefix": "7261", "deleted": 1}
        assert keys(store) == [b"user/1", b"user/2"]
        result = run("delete", store, "--prefix", "", "--yes")
        assert (result.stdout, result.stderr) == ("deleted 2 keys (all there are)\n", "")
        assert keys(store) == []

    def test_a_prefix_may_match_nothing(self, run_json: Any, store: Path) -> None:
        found = run_json("delete", store, "--prefix", "zzz", "--yes")
        assert found == {"prefix": "zzz", "deleted": 0}

    @pytest.mark.parametrize("arguments", [[], ["user/1", "--prefix", "user/"]])
    def test_bad_arguments(self, fails: Fails, store: Path, arguments: list[str]) -> None:
        line = fails("delete", store, *arguments, status=2)
        assert line == "give either KEY or --prefix (see walkv delete --help)"
        assert len(keys(store)) == 3


class TestScan:
    def test_lines(self, run: Run, store: Path) -> None:
        assert run("scan", store).stdout.splitlines() == [
            "raw/\\xff\\x00\t\\xfe\\\\\\n",
            "user/1\tAda",
            "user/2\tZoë\\tLovelace\\n",
        ]

    def test_json(self, run: Run, store: Path) -> None:
        lines = run("scan", store, "--json").stdout.splitlines()
        assert [json.loads(line) for line in lines] == [
            {"key": {"base64": "cmF3L/8A"}, "value": {"base64": "/lwK"}},
            {"key": "user/1", "value": "Ada"},
            {"key": "user/2", "value": "Zoë\tLovelace\n"},
        ]
        lines = run("scan", store, "--json", "--keys-only", "--prefix", "u").stdout.splitlines()
        assert [json.loads(line) for line in lines] == [{"key": "user/1"}, {"key": "user/2"}]

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ([], ["raw/\\xff\\x00", "user/1", "user/2"]),
            (["--prefix", "user/"], ["user/1", "user/2"]),
            (["--prefix", ""], ["raw/\\xff\\x00", "user/1", "user/2"]),
            (["--prefix", "zzz"], []),
            (["--start", "user/1"], ["user/1", "user/2"]),
            (["--stop", "user/2"], ["raw/\\xff\\x00", "user/1"]),
            (["--start", "s", "--stop", "user/2"], ["user/1"]),
            (["--reverse"], ["user/2", "user/1", "raw/\\xff\\x00"]),
            (["--limit", "1"], ["raw/\\xff\\x00"]),
            (["--limit", "0"], []),
            (["--reverse", "--limit", "1"], ["user/2"]),
            (["--hex", "--prefix", "7261"], ["7261772fff00"]),
        ],
    )
    def test_ranges(self, run: Run, store: Path, arguments: list[str], expected: list[str]) -> None:
        result = run("scan", store, "--keys-only", *arguments)
        assert result.stdout.splitlines() == expected
        assert result.stderr == ""

    def test_hex(self, run: Run, store: Path) -> None:
        found = run("scan", store, "--hex", "--prefix", "7261").stdout
        assert found == "7261772fff00\tfe5c0a\n"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--prefix", "a", "--stop", "b"], "give either --prefix or --start and --stop"),
            (["--limit", "-1"], "-1 is not in the range"),
            (["--limit", "x"], "'x' is not a valid integer"),
            (["--hex", "--start", "x"], "'--start': these are not pairs of hex digits: 'x'"),
        ],
    )
    def test_bad_arguments(
        self, fails: Fails, store: Path, arguments: list[str], message: str
    ) -> None:
        assert message in fails("scan", store, *arguments, status=2)

    def test_what_came_before_damage_is_printed(
        self, run: Run, damaged: tuple[Path, Path, int]
    ) -> None:
        path, file, offset_bytes = damaged
        result = run("scan", path, "--reverse", "--keys-only", status=1)
        found = result.stdout.splitlines()
        assert found[0] == "1999"
        assert len(found) > 1_000
        assert f"walkv: {file} at byte {offset_bytes}: " in result.stderr
        assert result.stderr.count("\n") == 1

    def test_on_a_terminal_lines_are_cut_to_the_window(
        self, run: Run, start: Start, tmp_path: Path
    ) -> None:
        path = tmp_path / "wide.walkv"
        run("put", path, "[b]:smile:", "x" * 5_000)
        run("put", path, "short", "日本")
        shown, complaints = on_terminal(start, "scan", path)
        lines = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).split("\r\n")
        assert lines == ["[b]:smile:  " + "x" * 15 + "... (4.9 KiB)", "short  日本", ""]
        assert len(lines[0]) == 40
        assert shown.startswith(b"\x1b[36m[b]:smile:\x1b[0m")
        assert complaints == b""


def test_a_scan_shows_no_secrets(run: Callable[..., Result], tmp_path: Path) -> None:
    path = str(tmp_path / "agent.walkv")
    with walkv.AgentStore(path) as agent:
        agent.users.create("ada", api_keys={"x": "sk-12345"})
        agent.store.put(b"own", b"1")
    found = run("scan", path)
    assert found.stdout == "own\t1\n"
    assert "walkv show lists them" in found.stderr
    assert "sk-12345" not in run("scan", path, "--json").stdout
    assert run("scan", path, "--prefix", "own").stderr == ""
    assert "sk-12345" in run("scan", path, "--all").stdout
    assert len(run("scan", path, "--prefix", "00", "--hex").stdout.splitlines()) > 1
