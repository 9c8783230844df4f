"""Every command on every bad input: one clear line, the right status, nothing lost.

Commands are found in the group, so that a new one is tested without being named here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, cast

import click
import pytest
from click.testing import Result
from xxhash import xxh3_64_digest

import walkv
from tests.support.forked import NOBODY, Done, Forks, is_root
from walkv.cli.app import walkv_command
from walkv.namespaces import registry
from walkv.namespaces.keyvalue import Reader, Writer

Run = Callable[..., Result]
Start = Callable[..., subprocess.Popen[bytes]]

KEYS = 3_000
"""Enough that the store has a snapshot, and no page of it has all."""

ARGUMENTS = {
    "KEY": "00001",
    "KEY...": "00001",
    "[KEY]": "00001",
    "[VALUE]": "new",
    "KIND": "walkv",
    "FILE": "entries.jsonl",
    "[OUT]": "out.jsonl",
    "[WHAT]": "namespaces",
}
"""By metavar. STORE and SOURCE stand for the store; what is not here is left out, if it may be."""

TARGETS = {"repair": "repaired", "copy": "copied"}
"""Of commands that make what they are given as TARGET."""

OPTIONS = {
    "top": ["--count", "1"],
    "diff": ["--thread", "t1"],
    "prune": ["--checkpoints-keep", "1"],
    "rekey": ["--new-key-file", "new.key"],
}
"""What a command does not run without, or not end."""

NO_STORE = {"demo", "keygen", "backups list", "backups verify", "backups prune"}
"""Commands that are given no store."""

RUNS_WITHOUT_ARGUMENTS = {"demo", "doctor", "keygen"}

MAKES_A_STORE = {"put", "import", "restore"}
"""So that it is no error if there is none."""

REPORTS_ON_A_DIRECTORY = {"doctor"}
WRITES = {"put", "delete", "compact", "prune", "sweep", "reindex", "import", "rekey"}
"""Commands that need the writer's lock."""

DOES_NOT_MEET = {
    "log": {"top"},
    "snapshots": {"put", "stats", "top", "log", "keep", "doctor", "health"},
}
"""Commands that do not read what is damaged: by the directory that it is in."""

ENCRYPTED = {"rekey"}
"""Commands for encrypted stores, of which this one is none."""


def found() -> Iterator[tuple[str, click.Command]]:
    for name, command in walkv_command.commands.items():
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", each) for inner, each in command.commands.items())
        else:
            yield name, command


ALL = dict(found())
COMMANDS = [name for name in ALL if name not in NO_STORE]
every_command = pytest.mark.parametrize("name", COMMANDS)


def arguments(name: str, store: Path) -> list[str]:
    """What to run a command with on a store."""
    command = ALL[name]
    context = click.Context(command)
    given = name.split()
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            metavar = parameter.make_metavar(context)
            if metavar in ("STORE", "[STORE]", "SOURCE", "[DIRECTORY]"):
                given.append(str(store))
            elif metavar == "TARGET":
                given.append(TARGETS.get(name, "backups"))
            elif metavar in ARGUMENTS:
                given.append(ARGUMENTS[metavar])
            else:
                assert not parameter.required, f"{name}: what is {metavar}?"
    return given + OPTIONS.get(name, [])


class Place(NamedTuple):
    """A directory with a store, a backup of it and an export, and what runs commands in it."""

    directory: Path
    forks: Forks

    @property
    def store(self) -> Path:
        return self.directory / "agent.walkv"

    def run(self, name: str, store: Path | None = None, *, user: int | None = None) -> Done:
        return self.forks.run(self.directory, arguments(name, store or self.store), user=user)

    def contents(self) -> dict[str, bytes]:
        """All files of the store. What the lock file says of its last holder is of no account."""
        files = [path for path in self.store.rglob("*") if path.is_file()]
        return {str(path): path.read_bytes() for path in files if path.name != "LOCK"}

    def refused(self, name: str, *, user: int | None = None) -> Done:
        """Run a command that must not be done, and must lose nothing."""
        before = self.contents()
        done = self.run(name, user=user)
        check(done)
        assert done.status == 1
        assert self.contents() == before
        return done


def check(done: Done) -> None:
    """What holds of every run, whatever came of it."""
    assert done.status in (0, 1), done
    assert "Traceback" not in done.stderr
    assert "walkv: No space left on device" not in done.stderr, "on which, or of what?"
    lines = done.stderr.splitlines()
    assert all(line.startswith("walkv: ") for line in lines), done.stderr
    if done.status and not done.stdout:
        assert len(lines) == 1, done.stderr


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as made:
        yield made


@pytest.fixture(scope="module")
def whole(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("whole")
    place = Place(directory, forks)
    with walkv.AgentStore(place.store) as agent:
        with agent.store.batch() as batch:
            for number in range(KEYS):
                batch.put(b"%05d" % number, os.urandom(30))
        agent.sessions.create("s1", user_id="ada")
        for number in range(3):
            agent.checkpoints.put("t1", f"c{number}", {"n": number})
        agent.store.compact()
        agent.messages.append("s1", role="user", content="hello")
    for name in ("backup", "export"):
        assert place.run(name).status == 0
    (directory / "out.jsonl").rename(directory / "entries.jsonl")
    (directory / "new.key").write_text("a passphrase\n")
    return directory


@pytest.fixture
def place(whole: Path, forks: Forks, tmp_path: Path) -> Place:
    return Place(Path(shutil.copytree(whole, tmp_path / "place")), forks)


def test_what_is_given_no_store_is_known() -> None:
    assert set(ALL) >= NO_STORE | MAKES_A_STORE | WRITES | REPORTS_ON_A_DIRECTORY


@every_command
def test_nothing_is_wrong(place: Place, name: str) -> None:
    """Else the tests below would show nothing."""
    if name == "restore":
        shutil.rmtree(place.store)
    done = place.run(name)
    check(done)
    assert done.status == (1 if name in ENCRYPTED else 0), done


@every_command
def test_no_such_store(place: Place, name: str) -> None:
    shutil.rmtree(place.store)
    done = place.run(name)
    check(done)
    assert done.status == (0 if name in MAKES_A_STORE else 1), done
    assert place.store.exists() == (name in MAKES_A_STORE)


@every_command
def test_an_empty_directory(place: Place, name: str) -> None:
    shutil.rmtree(place.store)
    place.store.mkdir()
    done = place.run(name)
    check(done)
    assert done.status == (0 if name in MAKES_A_STORE | REPORTS_ON_A_DIRECTORY else 1), done
    assert (name in MAKES_A_STORE) or not any(place.store.iterdir())


@every_command
def test_a_file(place: Place, name: str) -> None:
    shutil.rmtree(place.store)
    place.store.write_text("a letter")
    check(done := place.run(name))
    assert done.status == 1, done
    assert place.store.read_text() == "a letter"


@every_command
def test_a_newer_format(place: Place, name: str) -> None:
    path = place.store / "MANIFEST"
    data = path.read_bytes()
    head = data[:8] + (99).to_bytes(4, "little") + data[12:16]
    path.write_bytes(head + xxh3_64_digest(head + data[24:]) + data[24:])
    done = place.refused(name)
    if name != "restore":
        assert "99" in done.stdout + done.stderr


OPTION = "--no-such-option"


@pytest.mark.parametrize("name", ["", "backups", *ALL])
@pytest.mark.parametrize("given", [[], [OPTION]])
def test_used_wrongly(run: Run, tmp_path: Path, name: str, given: list[str]) -> None:
    """One line that says how it is used, or all of the help."""
    if not given and name in RUNS_WITHOUT_ARGUMENTS:
        return
    result = run(*name.split(), *given, status=2)
    assert result.stdout == ""
    assert "\\n" not in result.stderr
    usage = result.stderr.startswith("Usage: walkv")
    assert usage or result.stderr.count("\n") == 1
    assert usage or f"walkv {name} --help".replace("  ", " ") in result.stderr
    assert OPTION in result.stderr or not given


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("name", ["scan", "log", "show", "export", "info"])
def test_an_output_that_takes_nothing(
    start: Start, whole: Path, name: str, unbuffered: str
) -> None:
    command = [name, "agent.walkv"]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "wb") as nowhere:
        process = start(*command, cwd=whole, stdout=nowhere, env=environment)
        _, complaints = process.communicate()
    assert complaints == b"walkv: <stdout>: No space left on device\n"
    assert process.returncode == 1


def test_a_terminal_that_knows_few_letters(start: Start, tmp_path: Path) -> None:
    with walkv.AgentStore(tmp_path / "s") as agent:
        agent.messages.append("s1", role="user", content="Zo\u00eb \u2713")
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    process = start("show", "messages", "s", cwd=tmp_path, env=environment)
    out, complaints = process.communicate()
    assert (process.returncode, complaints) == (0, b"")
    assert b"Zo\\xeb \\u2713" in out


def flip(path: Path, offset_bytes: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset_bytes] ^= 1
    path.write_bytes(data)


@every_command
def test_a_damaged_manifest(place: Place, name: str) -> None:
    flip(place.store / "MANIFEST", -1)
    if name == "repair":
        check(place.run(name))
    else:
        place.refused(name)


@pytest.mark.parametrize("part", ["log", "snapshots"])
@every_command
def test_damage(place: Place, name: str, part: str) -> None:
    """What does not come across it may be done, and nothing else."""
    for path in (place.store / part).iterdir():
        flip(path, 100)
    if name == "backup":
        shutil.rmtree(place.directory / "backups")  # what is there is not read in the store again
    before = place.contents()
    done = place.run(name)
    check(done)
    if name not in WRITES or part == "log":
        assert place.contents() == before
    else:  # it opened the store, which adds to the log, and may have settled what was in that
        after = place.contents()
        for path, data in before.items():
            assert "/snapshots/" not in path or after[path] == data
    assert done.status == (0 if name in DOES_NOT_MEET[part] else 1), done


@every_command
def test_a_store_that_is_being_written(place: Place, name: str) -> None:
    with walkv.open(place.store):
        before = place.contents()
        done = place.run(name)
        check(done)
        assert place.contents() == before
    if name in WRITES:
        assert done.status == 1
        assert f"process {os.getpid()} on " in done.stderr


@pytest.mark.skipif(not is_root(), reason="another user has to be there, and become this one")
@every_command
def test_no_permission(place: Place, name: str) -> None:
    for path in [place.directory, *place.directory.parents]:
        if path.stat().st_uid == os.getuid() and path != Path("/tmp"):
            path.chmod(path.stat().st_mode | 0o755)
    place.store.chmod(0o700)
    place.refused(name, user=NOBODY)


@pytest.fixture
def small(place: Place) -> Iterator[Place]:
    """A store on a disk that has less room than puts leave alone."""
    disk = place.directory / "disk"
    disk.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    done = subprocess.run(mounted, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    try:
        for path in list(place.directory.iterdir()):
            if path != disk:
                shutil.move(path, disk / path.name)
        yield Place(disk, place.forks)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture
def full(small: Place) -> Place:
    """The same, without any room left."""
    ballast = small.directory / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return small


@pytest.mark.parametrize("name", ["delete", "compact", "prune", "sweep"])
def test_what_gives_space_back_needs_no_room_to_spare(small: Place, name: str) -> None:
    refused = small.run("put")
    assert refused.status == 1
    assert "the disk has" in refused.stderr
    assert small.run("health").stdout.startswith("degraded\n")
    with walkv.open(small.store, min_free_bytes=0) as store:
        # As an older walkv has left it: this one registers what has come since.
        known = registry.read(cast(Reader, store))
        del known["settings"]
        store.transact(lambda tx: registry.write(cast(Writer, tx), known))
    done = small.run(name)
    check(done)
    assert done.status == 0, done


@every_command
def test_a_full_disk(full: Place, name: str) -> None:
    before = full.contents()
    done = full.run(name)
    check(done)
    if name not in WRITES:
        assert full.contents() == before
    if name in ("put", "backup", "export", "repair", "doctor"):
        assert done.status == 1, done
    with walkv.open(full.store, read_only=True) as store:
        assert store.count(b"0") == KEYS - (name == "delete" and done.status == 0)
        assert store.verify().ok
