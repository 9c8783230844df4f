"""What the tests of the command share: running it, and stores to run it on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import walkv
from walkv.cli.app import walkv_command

Run = Callable[..., Result]

ENTRIES = {
    b"user/1": b"Ada",
    b"user/2": "Zoë\tLovelace\n".encode(),
    b"raw/\xff\x00": b"\xfe\\\n",
}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "FORCE_COLOR",
        "NO_COLOR",
        "TTY_COMPATIBLE",
        "COLUMNS",
        "WALKV_DEBUG",
        "PYTHONUNBUFFERED",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def no_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    # Durability is for the engine's tests; here syncs in this process only wait for a busy disk.
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda descriptor: None)


@pytest.fixture
def run() -> Run:
    """Run the command in this process."""
    # click before 8.2 mixes stderr into stdout unless told not to.
    apart = {"mix_stderr"} & signature(CliRunner).parameters.keys()
    runner = CliRunner(**dict.fromkeys(apart, False))

    def run(*arguments: str | Path, status: int = 0, **extra: Any) -> Result:
        result = runner.invoke(walkv_command, [str(a) for a in arguments], **extra)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == status, result.output
        return result

    return run


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores to be copied: syncing each anew would be most of the time the tests take."""
    path = tmp_path_factory.mktemp("stores")
    with walkv.open(path / "some.walkv") as opened:
        for key, value in ENTRIES.items():
            opened.put(key, value)
    with walkv.open(path / "damaged.walkv") as opened:
        with opened.batch() as batch:
            for number in range(2_000):
                batch.put(b"%04d" % number, os.urandom(20))
        opened.compact()
    (file,) = (path / "damaged.walkv" / "snapshots").iterdir()
    data = bytearray(file.read_bytes())
    data[70] ^= 1
    file.write_bytes(data)
    return path


@pytest.fixture
def store(stores: Path, tmp_path: Path) -> Path:
    """A closed store with a few entries."""
    return Path(shutil.copytree(stores / "some.walkv", tmp_path / "some.walkv"))


@pytest.fixture
def damaged(stores: Path, tmp_path: Path) -> tuple[Path, Path, int]:
    """A store with a flipped byte in a snapshot; its path, the file, and the damaged block."""
    path = Path(shutil.copytree(stores / "damaged.walkv", tmp_path / "damaged.walkv"))
    (file,) = (path / "snapshots").iterdir()
    return path, file, 64


def start(*arguments: str | Path, **extra: Any) -> subprocess.Popen[bytes]:
    """Run the command in a process of its own."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | extra
    command = [sys.executable, "-m", "walkv.cli", *map(str, arguments)]
    return subprocess.Popen(command, **pipes)


@pytest.fixture(name="start")
def start_fixture() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    # A shell's background jobs ignore SIGINT, and so would the processes started here.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield start
    signal.signal(signal.SIGINT, before)


def only_line(text: str) -> str:
    """The one line of a text."""
    assert text.endswith("\n")
    assert text.count("\n") == 1, text
    return text[:-1]


@pytest.fixture
def fails(run: Run) -> Callable[..., str]:
    """Run the command, which must fail with one line on stderr and nothing on stdout."""

    def fails(*arguments: str | Path, status: int = 1, **extra: Any) -> str:
        result = run(*arguments, status=status, **extra)
        assert result.stdout == ""
        line = only_line(result.stderr)
        assert line.startswith("walkv: ")
        return line.removeprefix("walkv: ")

    return fails


@pytest.fixture
def run_json(run: Run) -> Callable[..., Any]:
    """Run the command with --json, and decode its one line."""

    def run_json(*arguments: str | Path, **extra: Any) -> Any:
        return json.loads(only_line(run(*arguments, "--json", **extra).stdout))

    return run_json
