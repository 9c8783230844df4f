from __future__ import annotations

import inspect
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result
from langgraph.checkpoint.sqlite import SqliteSaver

import walkv
from tests.support.sources import make_sources
from walkv.cli.app import GROUPS, walkv_command

Run = Callable[..., Result]
Start = Callable[..., subprocess.Popen[bytes]]
Fails = Callable[..., str]

COMMANDS = {
    "get": ["k"],
    "put": ["k", "v"],
    "delete": ["k"],
    "scan": [],
    "show": [],
    "info": [],
    "stats": [],
    "top": ["--count", "1"],
    "tail": [],
    "log": [],
    "history": ["k"],
    "diff": ["--thread", "t1"],
    "health": [],
    "verify": [],
    "compact": [],
    "prune": ["--checkpoints-keep", "1"],
    "sweep": [],
    "keep": [],
    "reindex": [],
}
OTHERS = (
    "backup",
    "backups",
    "copy",
    "demo",
    "doctor",
    "export",
    "import",
    "keygen",
    "rekey",
    "repair",
    "restore",
)
"""Have tests of their own for what the others have in common."""
READERS = {
    **{name: [] for name in ("scan", "show", "info", "stats", "tail", "log", "health", "verify")},
    "get": ["user/1"],
    "history": ["user/1"],
    "top": ["--count", "1"],
    "prune": ["--checkpoints-keep", "1", "--dry-run"],
    "sweep": ["--dry-run"],
    "keep": [],
}
WRITERS = ("put", "delete", "compact", "prune", "sweep", "reindex")
REPORTS = ("verify", "health")
"""Commands for which damage is a result."""
ENDLESS = ("walkv top agent.walkv", "walkv top agent.walkv --interval 5", "--follow")


def examples(name: str) -> list[str]:
    text = walkv_command.commands[name].help if name else walkv_command.help
    assert text is not None
    lines = inspect.cleandoc(text).splitlines()
    return [line.strip() for line in lines if "walkv " in line and line[:2] == "  "]


def every_name() -> Iterator[str]:
    """Names of all commands, those of a group with its name before."""
    for name, command in walkv_command.commands.items():
        if isinstance(command, click.Group):
            yield from (f"{name} {inner}" for inner in command.commands)
        else:
            yield name


def test_every_command_is_known() -> None:
    assert set(walkv_command.commands) == {*COMMANDS, *OTHERS}


def test_version(run: Run) -> None:
    assert run("--version").stdout == f"walkv {walkv.__version__}\n"


@pytest.mark.parametrize("name", ["", *every_name()])
def test_help_teaches_with_an_example(run: Run, name: str) -> None:
    text = run(*name.split(), "--help").stdout
    assert "Example" in text
    assert f"\n    walkv {name}" in text
    assert "\b" not in text
    assert "\\b" not in text
    assert run(*name.split(), "-h").stdout == text


def test_every_command_has_json() -> None:
    for name in every_name():
        first, _, inner = name.partition(" ")
        command = walkv_command.commands[first]
        if isinstance(command, click.Group):
            command = command.commands[inner]
        assert "--json" in [name for parameter in command.params for name in parameter.opts]


@pytest.mark.parametrize(
    "line",
    [
        line
        for name in ["", *COMMANDS, "export", "import", "keygen"]
        for line in examples(name)
        if not line.endswith(ENDLESS)
    ],
)
def test_examples_work(
    run: Run, start: Start, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with walkv.open("agent.walkv") as store:
        store.put(b"user/1", b"Ada")
        store.put(b"picture.png", b"\x89PNG")
    Path("picture.png").write_bytes(b"\x89PNG")
    with SqliteSaver.from_conn_string("checkpoints.sqlite") as saver:
        checkpoint: Any = {"id": "1", "channel_values": {}, "channel_versions": {}}
        config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
        saver.put(config, checkpoint, {}, {})
    with walkv.AgentStore("agent.walkv") as agent:
        agent.sessions.create("s1", user_id="ada")
        for number in range(7):
            agent.messages.append("s1", role="user", content=str(number))
        for number in (1, 2):
            agent.checkpoints.put("t1", f"c{number}", {"n": number})
    words = shlex.split(line, comments=True)
    if words[1] in ("export", "import"):
        make_sources(tmp_path)
    if words[1] == "demo":
        return  # see test_demo
    if {"|", ">"} & set(words):
        shell = f'walkv() {{ {shlex.quote(sys.executable)} -m walkv.cli "$@"; }}\n{line}'
        subprocess.run(["bash", "-euo", "pipefail", "-c", shell], check=True, timeout=60)
    else:
        run(*words[1:])


@pytest.mark.parametrize(
    "line", [line for name in ("demo", "doctor", "top", "tail") for line in examples(name)]
)
def test_examples_of_what_takes_long_parse(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    walkv_command.commands[name].make_context(name, arguments).close()


def test_every_command_has_one_heading(run: Run) -> None:
    listed = [command.name for commands in GROUPS.values() for command in commands]
    assert sorted(listed) == sorted(walkv_command.commands)
    text = run("--help").stdout
    for heading, commands in GROUPS.items():
        _, _, rest = text.partition(f"\n{heading}:\n")
        section = rest.partition("\n\n")[0]
        for command in commands:
            assert re.search(rf"^  {command.name} +\S", section, re.MULTILINE)


def test_without_a_command(run: Run) -> None:
    result = run(status=2)
    assert result.stdout == ""
    assert result.stderr.startswith("Usage: walkv ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fetch"], "no such command 'fetch'"),
        (["--nonsense"], "no such option"),
        (["get"], "missing argument 'STORE' (see walkv get --help)"),
        (["get", "s"], "missing argument 'KEY' (see walkv get --help)"),
        (["get", "s", "k", "more"], "unexpected extra argument (more) (see walkv get --help)"),
        (["get", "", "k"], "a store is a directory, and its path is empty"),
    ],
)
def test_wrong_usage(fails: Fails, arguments: list[str], message: str) -> None:
    line = fails(*arguments, status=2)
    assert message in line
    assert "--help)" in line


class TestNoStore:
    @pytest.mark.parametrize("name", [name for name in COMMANDS if name != "put"])
    def test_nothing_there(self, fails: Fails, tmp_path: Path, name: str) -> None:
        path = tmp_path / "none.walkv"
        message = fails(name, path, *COMMANDS[name])
        assert message == f"{path}: there is no walkv store here"
        assert not path.exists()

    @pytest.mark.parametrize("name", [name for name in COMMANDS if name != "put"])
    def test_an_empty_directory(self, fails: Fails, tmp_path: Path, name: str) -> None:
        message = fails(name, tmp_path, *COMMANDS[name])
        assert message == f"{tmp_path}: there is no walkv store here"
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("name", COMMANDS)
    def test_another_directory(self, fails: Fails, tmp_path: Path, name: str) -> None:
        (tmp_path / "letter.txt").touch()
        message = fails(name, tmp_path, *COMMANDS[name])
        assert message.startswith(f"{tmp_path}: this directory is not a walkv store")
        assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]

    @pytest.mark.parametrize("name", COMMANDS)
    def test_a_file(self, fails: Fails, tmp_path: Path, name: str) -> None:
        path = tmp_path / "letter.txt"
        path.touch()
        message = fails(name, path, *COMMANDS[name])
        assert message.startswith(f"{path}: this is a file, and a walkv store is a directory")

    def test_a_place_that_cannot_be(self, fails: Fails) -> None:
        assert fails("put", "/dev/null/x", "k", "v").startswith("/dev/null/x: ")
        assert fails("put", "/proc/none", "k", "v") == "/proc/none: No such file or directory"

    def test_an_odd_path_stays_on_its_line(self, fails: Fails) -> None:
        assert fails("get", "a\nb\udcff\x1b", "k") == (
            "a\\nb\\udcff\\x1b: there is no walkv store here"
        )


@pytest.mark.parametrize("name", WRITERS)
def test_a_locked_store(fails: Fails, store: Path, name: str) -> None:
    with walkv.open(store):
        message = fails(name, store, *COMMANDS[name])
    assert message.startswith(f"{store}: process {os.getpid()} on ")
    assert "has this store open for writing" in message


@pytest.mark.parametrize("name", READERS)
def test_a_locked_store_can_be_read(run: Run, store: Path, name: str) -> None:
    with walkv.open(store):
        run(name, store, *READERS[name])


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in REPORTS])
def test_a_damaged_store(fails: Fails, store: Path, name: str) -> None:
    path = store / "MANIFEST"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    message = fails(name, store, *COMMANDS[name])
    assert message.startswith(f"{path} at byte 0: manifest checksum does not match")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device", "/s"), "/s: No space left on device"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("odd"), "odd"),
        (walkv.StoreFailedError("the store\nstopped"), "the store\\nstopped"),
        (walkv.ClosedError(), "ClosedError"),
    ],
)
def test_errors_of_the_engine(
    fails: Fails,
    store: Path,
    error: Exception,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(walkv.Store, "put", fail)
    assert fails("put", store, "k", "v") == message


def test_success_is_told_only_after_closing(
    fails: Fails, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = walkv.Store.close

    def fail(self: walkv.Store) -> None:
        close(self)
        raise walkv.StoreFailedError("the last sync failed")

    monkeypatch.setattr(walkv.Store, "close", fail)
    for arguments in (
        ["put", "k", "v"],
        ["delete", "user/1"],
        ["delete", "--prefix", "u", "--yes"],
    ):
        assert fails(arguments[0], store, *arguments[1:], "--json") == "the last sync failed"


def test_a_bug_is_not_hidden(run: Run, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walkv.Store, "stats", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("stats", store)


def test_debug_shows_the_traceback(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WALKV_DEBUG", "1")
    result = run("get", tmp_path, "k", status=1)
    assert result.stderr.startswith("Traceback (most recent call last):\n")
    assert result.stderr.endswith(f"\nwalkv: {tmp_path}: there is no walkv store here\n")


def test_a_warning_is_a_line(run: Run, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = walkv.open

    def warn(*arguments: Any, **options: Any) -> walkv.Store:
        warnings.warn("this is a network\nfile system", stacklevel=1)
        return opened(*arguments, **options)

    monkeypatch.setattr(walkv, "open", warn)
    result = run("get", store, "user/1")
    assert result.stdout == "Ada"
    assert result.stderr == "walkv: warning: this is a network\\nfile system\n"


def wait_until_asleep(process: subprocess.Popen[bytes]) -> None:
    """Return once a process waits in the kernel; before that a signal might come a moment early,
    between Python's last look for signals and the system call that it should interrupt."""
    state = Path(f"/proc/{process.pid}/stat")
    asleep = 0
    while asleep < 3:
        time.sleep(0.02 if state.exists() else 1)
        fields = state.read_text().rpartition(")")[2].split() if state.exists() else ["S"]
        asleep = asleep + 1 if fields[0] == "S" else 0


class TestProcesses:
    """What only a process of its own can show."""

    @pytest.fixture
    def long(self, tmp_path: Path) -> Path:
        """A store whose scan fills any pipe."""
        path = tmp_path / "long.walkv"
        with walkv.open(path) as store:
            for number in range(100):
                store.put(b"%03d" % number, b"x" * 20_000, sync=walkv.WriteBack())
        return path

    def test_a_reader_that_goes_away(self, start: Start, long: Path) -> None:
        with start("scan", long) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.read(1)
            process.stdout.close()
            assert process.stderr.read() == b""
        assert process.returncode == 141

    @pytest.mark.parametrize("arguments", [["stats"], ["get", "000"]])
    def test_a_reader_that_was_never_there(
        self, start: Start, long: Path, arguments: list[str]
    ) -> None:
        read_end, write_end = os.pipe()
        os.close(read_end)
        with start(arguments[0], long, *arguments[1:], stdout=write_end) as process:
            os.close(write_end)
            assert process.stderr is not None
            assert process.stderr.read() == b""
        assert process.returncode == 141

    def test_interrupt(self, start: Start, long: Path) -> None:
        with start("scan", long) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.read(1)
            wait_until_asleep(process)  # writing into a full pipe
            process.send_signal(signal.SIGINT)
            assert process.stderr.read() == b"walkv: interrupted\n"
        assert process.returncode == 130

    @pytest.mark.usefixtures("start")
    def test_interrupt_does_not_wait_for_the_reader(self, long: Path) -> None:
        # What is left in the buffer could not be written before the reader has read.
        program = (
            "import os, sys; os.set_blocking(1, False)\n"
            "try:\n"
            "    while True: os.write(1, bytes(4096))\n"
            "except BlockingIOError: os.set_blocking(1, True)\n"
            f"sys.argv = ['walkv', 'scan', {str(long)!r}, '--keys-only']\n"
            "from walkv.cli import main; main()"
        )
        command = [sys.executable, "-c", program]
        with subprocess.Popen(command, stdout=-1, stderr=-1) as process:
            wait_until_asleep(process)
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            assert process.stderr.read() == b"walkv: interrupted\n"
        assert process.returncode == 130

    def test_interrupt_at_a_question(self, start: Start, store: Path) -> None:
        with start("delete", store, "--prefix", "user/") as process:
            assert process.stderr is not None
            assert process.stderr.read(6) == b"Delete"
            wait_until_asleep(process)  # waiting for the answer
            process.send_signal(signal.SIGINT)
            assert process.stderr.read().endswith(b"\nwalkv: interrupted\n")
        assert process.returncode == 130
        with walkv.open(store) as opened:
            assert b"user/1" in opened

    @pytest.mark.parametrize("missing", ["click", "rich"])
    def test_without_the_extra(self, missing: str) -> None:
        program = (
            f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['walkv', '--version']; "
            "from walkv.cli import main; main()"
        )
        result = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
        )
        assert result.returncode == 2
        assert result.stdout == ""
        assert result.stderr == (
            f'walkv: the command line needs {missing}; install it with: pip install "walkv[cli]"\n'
        )

    def test_a_module_of_its_own_that_is_missing_is_a_bug(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "walkv.cli.app", None)
        monkeypatch.delattr(walkv.cli, "app")
        with pytest.raises(ModuleNotFoundError, match=r"walkv\.cli\.app"):
            walkv.cli.main()

    def test_importing_walkv_needs_no_extra(self) -> None:
        program = (
            "import sys; import walkv, walkv.cli, walkv.cli.demo.child; "
            "sys.exit(bool({'click', 'rich'} & set(sys.modules)))"
        )
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
