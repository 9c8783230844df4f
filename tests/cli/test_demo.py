from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import walkv
from walkv.cli import demo, demo_child, folder, trial
from walkv.cli.folder import Listing, list_files
from walkv.cli.trial import Acknowledgement, Run, check

RunCommand = Callable[..., Result]
Start = Callable[..., subprocess.Popen[bytes]]
Fails = Callable[..., str]

POLICIES = ["write-through", "wal", "write-back"]
FILES = {
    "a.txt": b"Ada",
    "empty": b"",
    "deep/er/b.bin": bytes(range(256)) * 50,
    "[x]\udcff\n": b"!",
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of files, and of things that are to be left out."""
    root = tmp_path / "files"
    for name, content in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for name in (".git/config", "x/__pycache__/y.pyc", ".venv/z", "node_modules/w"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"left out")
    (root / "link").symlink_to(root / "a.txt")
    (root / "link_to_folder").symlink_to(root / "deep")
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(root / "socket"))
    with walkv.open(root / "other.walkv") as store:
        store.put(b"k", b"v")
    return root


def listed(root: Path) -> Listing:
    (root.parent / "elsewhere").mkdir(exist_ok=True)
    return list_files(os.fsencode(root), os.fsencode(root.parent / "elsewhere"))


class TestFolder:
    def test_lists_regular_files_only(self, files: Path) -> None:
        listing = listed(files)
        assert set(listing.stamps) == {os.fsencode(name) for name in FILES}
        assert listing.total_bytes == sum(map(len, FILES.values()))
        assert listing.skipped == [(b"other.walkv", "a walkv store")]

    def test_leaves_out_the_place_of_the_stores(self, files: Path) -> None:
        (files / "place").mkdir()
        (files / "place" / "trace").touch()
        listing = list_files(os.fsencode(files), os.fsencode(files / "place"))
        assert b"place/trace" not in listing.stamps

    def test_large_and_many_files(self, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(folder, "LARGEST_FILE_BYTES", 100)
        listing = listed(files)
        assert (b"deep/er/b.bin", "12,800 bytes, more than 100") in listing.skipped
        with pytest.raises(OSError, match="more than 100"):
            folder.read_file(os.fsencode(files / "deep/er/b.bin"))
        monkeypatch.setattr(folder, "MOST_FILES", 2)
        assert len(listed(files).stamps) == 2

    def test_reports_what_cannot_be_read(
        self, files: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Permissions do not stop the super-user, who may be running the tests.
        monkeypatch.setattr(os, "access", lambda path, mode: not path.endswith(b"a.txt"))
        listing = listed(files)
        assert (b"a.txt", "Permission denied") in listing.skipped
        assert b"a.txt" not in listing.stamps

    @pytest.mark.parametrize("name", ["fifo", "socket", "deep", "link", "none"])
    def test_reads_regular_files_only(self, files: Path, name: str) -> None:
        with pytest.raises(OSError):  # noqa: PT011  # of several kinds
            folder.read_file(os.fsencode(files / name))

    def test_the_stamp_tells_of_a_change(self, files: Path) -> None:
        path = os.fsencode(files / "a.txt")
        stamp = listed(files).stamps[b"a.txt"]
        assert folder.read_file(path) == (b"Ada", stamp)
        (files / "a.txt").write_bytes(b"Eda")
        os.utime(path, ns=(stamp[2], stamp[2]))  # as if nothing had happened
        data, now = folder.read_file(path)
        assert data == b"Eda"
        assert now != stamp

    def test_a_change_while_it_is_read_is_noticed(
        self, files: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, stated = files / "a.txt", []
        fstat = os.fstat

        def fstat_late(descriptor: int) -> os.stat_result:
            if stated:
                path.write_bytes(b"Eda")
            stated.append(descriptor)
            return fstat(descriptor)

        monkeypatch.setattr(folder.os, "fstat", fstat_late)
        assert folder.read_file(os.fsencode(path)) == (b"Ada", None)

    def test_in_memory(self) -> None:
        assert not folder.in_memory("/proc")
        if Path("/dev/shm").is_dir() and b" /dev/shm tmpfs " in Path("/proc/mounts").read_bytes():
            assert folder.in_memory("/dev/shm")


def acknowledged(store: walkv.Store, files: Path, rounds: int = 2) -> list[Acknowledgement]:
    """What a child would have said, the stores being written here."""
    heard = []
    for number in range(rounds):
        for path in listed(files).stamps:
            data = Path(os.fsdecode(os.path.join(os.fsencode(files), path))).read_bytes()
            key = demo_child.round_key(number, path)
            store.put(key, data, sync=walkv.WriteBack())
            heard.append(Acknowledgement(key, len(data), demo_child.digest(data), 1_000, 2_000))
    return heard


class TestCheck:
    @pytest.fixture
    def store(self, tmp_path: Path) -> Any:
        with walkv.open(tmp_path / "checked.walkv") as store:
            yield store

    def test_all_found(self, store: walkv.Store, files: Path) -> None:
        heard = acknowledged(store, files)
        tally = check(store, listed(files), heard)
        assert tally == trial.Tally(found=2 * len(FILES))

    def test_missing(self, store: walkv.Store, files: Path) -> None:
        heard = acknowledged(store, files)
        store.delete(b"round/0001/a.txt")
        tally = check(store, listed(files), heard)
        assert (tally.found, tally.missing, tally.lost) == (2 * len(FILES) - 1, 1, 1)

    def test_wrong(self, store: walkv.Store, files: Path) -> None:
        heard = acknowledged(store, files)
        store.put(b"round/0001/a.txt", b"Adb")
        tally = check(store, listed(files), heard)
        assert (tally.found, tally.wrong, tally.lost) == (2 * len(FILES) - 1, 1, 1)

    def test_a_child_that_read_wrongly_is_caught_by_the_file(
        self, store: walkv.Store, files: Path
    ) -> None:
        heard = acknowledged(store, files)
        store.put(b"round/0000/a.txt", b"Bda")
        heard = [
            entry._replace(digest=demo_child.digest(b"Bda"))
            if entry.key == b"round/0000/a.txt"
            else entry
            for entry in heard
        ]
        assert check(store, listed(files), heard).wrong == 1

    def test_a_file_that_changed_is_held_against_what_was_stored(
        self, store: walkv.Store, files: Path
    ) -> None:
        listing = listed(files)
        heard = acknowledged(store, files)
        (files / "a.txt").write_bytes(b"Bda")
        (files / "empty").unlink()
        tally = check(store, listing, heard)
        assert (tally.found, tally.lost, tally.changed) == (2 * len(FILES), 0, 4)
        store.put(b"round/0001/a.txt", b"Bda")  # what is in the file, and was never stored
        assert check(store, listing, heard).wrong == 1

    def test_one_commit_may_be_there_without_a_message(
        self, store: walkv.Store, files: Path
    ) -> None:
        heard = acknowledged(store, files)
        tally = check(store, listed(files), heard[:-1])
        assert (tally.unacknowledged, tally.error) == (1, "")
        tally = check(store, listed(files), heard[:-2])
        assert tally.error == "2 keys are there that were never acknowledged"

    def test_damage(self, damaged: tuple[Path, Path, int], files: Path) -> None:
        path, file, _ = damaged
        listing = Listing(os.fsencode(files), {b"": (0, 0, 0, 0)})
        with walkv.open(path) as store:
            heard = [Acknowledgement(b"0000", 20, b"", 0, 0)]
            tally = check(store, listing, heard)
        assert tally.wrong == 1
        assert tally.error.startswith(f"{file} at byte ")


class TestDemo:
    def test_loses_nothing(self, run: RunCommand, files: Path, tmp_path: Path) -> None:
        place = tmp_path / "place"
        result = run("demo", files, "--seconds", "0.2", "--seed", "7", "--directory", place)
        lines = result.stdout.splitlines()
        assert lines[0].startswith(f"folder  {files} (4 files, ")
        assert lines[1] == f"stores  {place} (kept)"
        assert lines[2] == "seed    7"
        assert "walkv: skipped other.walkv: a walkv store\n" in result.stderr
        for policy in POLICIES:
            rows = [line.split() for line in lines if line.startswith(policy + " ")]
            assert len(rows) == 2
            _, count, found, lost, *_ = rows[0]
            assert int(count.replace(",", "")) > 0
            assert (found, lost) == (count, "0")
            assert (place / f"{policy}.walkv").is_dir()
        assert result.stdout.count("opened again: the store was not closed cleanly\n") == 3
        assert "acknowledged commits was lost." in result.stdout
        hints = [line.split() for line in lines if line.startswith("  walkv ")]
        assert len(hints) == 3
        assert "rm -r" not in result.stdout
        for _, *words in hints:
            assert run(*words).stdout
        assert "walkv: wal: compacting, and checking again\n" in result.stderr

    def test_json(self, start: Start, files: Path, tmp_path: Path) -> None:
        environment = os.environ | {"TMPDIR": str(tmp_path)}
        with start("demo", files, "--seconds=0.2", "--json", env=environment) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            found = json.loads(process.stdout.read())
            process.stderr.read()
        assert process.returncode == 0
        assert (found["ok"], found["lost"], found["file_count"]) == (True, 0, 4)
        assert isinstance(found["seed"], int)
        assert Path(found["directory"]).parent == tmp_path
        assert [outcome["policy"] for outcome in found["policies"]] == POLICIES
        for outcome in found["policies"]:
            assert outcome["acknowledged"] == outcome["found"] > 0
            assert outcome["unacknowledged"] in (0, 1)
            assert outcome["latency_ms"]["p50"] <= outcome["latency_ms"]["p99"]
            assert outcome["recovery"]["clean"] is False
            assert outcome["error"] == ""
            with walkv.open(outcome["store"], read_only=True) as store:
                assert store.get(b"round/0000/deep/er/b.bin") == FILES["deep/er/b.bin"]
                assert store.get(b"round/0000/[x]\xff\n") == b"!"

    def test_interrupt_kills_the_child(self, start: Start, files: Path, tmp_path: Path) -> None:
        with start("demo", files, "--seconds=60", "--directory", tmp_path / "place") as process:
            assert process.stderr is not None
            store = tmp_path / "place" / "write-through.walkv"
            while not (store / "MANIFEST").exists():
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            last = process.stderr.read().splitlines()[-1]
        assert (last, process.returncode) == (b"walkv: interrupted", 130)
        walkv.open(store).close()  # nobody holds the lock any more

    def fake(self, monkeypatch: pytest.MonkeyPatch, files: Path, spoil: Any) -> None:
        """Let the demo hear of commits that are then tampered with."""

        def store_until_killed(policy: str, path: str, *_: Any) -> Run:
            with walkv.open(path) as store:
                run = Run(acknowledged(store, files))
                spoil(store, run)
            return run

        monkeypatch.setattr(trial, "store_until_killed", store_until_killed)

    def test_a_loss_is_told(
        self,
        run: RunCommand,
        files: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.fake(monkeypatch, files, lambda store, run: store.delete(b"round/0001/a.txt"))
        result = run("demo", files, "--directory", tmp_path / "place", status=1)
        assert "LOST: 3 of 24 acknowledged commits." in result.stdout
        assert "was lost." not in result.stdout
        result = run("demo", files, "--directory", tmp_path / "again", "--json", status=1)
        found = json.loads(result.stdout)
        assert (found["ok"], found["lost"]) == (False, 3)

    def test_a_loss_by_compaction_is_told(
        self,
        run: RunCommand,
        files: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.fake(monkeypatch, files, lambda store, run: None)
        compact = walkv.Store.compact
        monkeypatch.setattr(
            walkv.Store,
            "compact",
            lambda self: (self.delete(b"round/0001/a.txt"), compact(self)),
        )
        result = run("demo", files, "--directory", tmp_path / "place", status=1)
        assert "LOST: 3 of 24 acknowledged commits." in result.stdout

    def test_a_store_that_does_not_open_has_lost_everything(
        self,
        run: RunCommand,
        files: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def store_until_killed(policy: str, path: str, *_: Any) -> Run:
            return Run([Acknowledgement(b"round/0000/a.txt", 3, b"", 1, 2)])

        monkeypatch.setattr(trial, "store_until_killed", store_until_killed)
        result = run("demo", files, "--directory", tmp_path / "place", status=1)
        assert "LOST: 3 of 3 acknowledged commits." in result.stdout
        assert "failed: " in result.stdout

    def test_a_failed_child_is_told(
        self,
        run: RunCommand,
        files: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        command = trial._child_command()
        broken = [*command[:3], "raise SystemExit('no such luck')"]
        monkeypatch.setattr(trial, "_child_command", lambda: broken)
        result = run("demo", files, "--directory", tmp_path / "place", status=1)
        message = "failed: the process ended by itself, with status 1: no such luck"
        assert result.stdout.count(message) == 3
        assert "The demo failed, see above." in result.stdout

    def test_stops_early_rather_than_fill_the_disk(
        self, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(trial, "_MOST_COMMITS", 10)
        path = str(tmp_path / "small.walkv")
        listing = listed(files)
        run = trial.store_until_killed("write-back", path, listing, 3_600, lambda text: None)
        assert len(run.acknowledged) >= 10
        assert run.error == ""

    def test_a_child_that_can_read_nothing(self, files: Path, tmp_path: Path) -> None:
        listing = Listing(os.fsencode(files), {b"none": (0, 0, 0, 0)})
        path = str(tmp_path / "small.walkv")
        run = trial.store_until_killed("wal", path, listing, 3_600, lambda text: None)
        assert run.skipped == [(b"none", "No such file or directory")]
        assert run.error == "the process ended by itself: no file can be read any more"

    def test_a_child_that_cannot_open_its_store(self, files: Path, tmp_path: Path) -> None:
        path = str(tmp_path / "small.walkv")
        with walkv.open(path):
            run = trial.store_until_killed("wal", path, listed(files), 3_600, lambda text: None)
        assert "has this store open for writing" in run.error

    def test_the_working_directory_does_not_matter(
        self, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "random.py").write_text("raise SystemExit('wrong module')")
        (tmp_path / "walkv.py").write_text("raise SystemExit('wrong module')")
        monkeypatch.chdir(tmp_path)
        run = trial.store_until_killed("wal", "here.walkv", listed(files), 0, lambda text: None)
        assert run.error == ""
        assert run.acknowledged

    def test_the_seed_repeats_the_moments(
        self, run: RunCommand, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        moments: list[float] = []

        def store_until_killed(policy: str, path: str, listing: Any, after: float, _: Any) -> Run:
            moments.append(after)
            return Run(error="not now")

        monkeypatch.setattr(trial, "store_until_killed", store_until_killed)
        for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
            run("demo", files, "--directory", tmp_path / name, "--seed", seed, status=1)
        assert moments[:3] == moments[3:6] != moments[6:]
        assert len(set(moments[:3])) == 3
        assert all(0.8 <= moment <= 2 for moment in moments)

    def test_its_own_files_are_the_default(self) -> None:
        root = demo._own_files()
        assert root / "walkv" / "__init__.py" == Path(walkv.__file__)
        assert (root / "pyproject.toml").is_file()

    def test_bad_arguments(self, fails: Fails, files: Path, tmp_path: Path) -> None:
        assert "there is no folder" in fails("demo", tmp_path / "none", status=2)
        assert "there is no folder" in fails("demo", files / "a.txt", status=2)
        (tmp_path / "bare").mkdir()
        message = fails("demo", tmp_path / "bare", "--directory", tmp_path / "place")
        assert message == f"{tmp_path / 'bare'}: there is no file to store in this folder"
        (tmp_path / "place" / "wal.walkv").mkdir()
        message = fails("demo", files, "--directory", tmp_path / "place")
        assert message.startswith(f"{tmp_path / 'place' / 'wal.walkv'}: is there already")
        assert "range" in fails("demo", files, "--seconds", "1e9", status=2)


def test_latencies_and_rate() -> None:
    heard = [
        Acknowledgement(b"round/0002/a", 1, b"", number * 10**6, number * 10**7)
        for number in range(1, 101)
    ]
    outcome = trial.Outcome("wal", "s", Run(heard))
    assert (outcome.latency_ms(0.5), outcome.latency_ms(0.99)) == (51, 100)
    assert outcome.round_count == 3
    assert outcome.commits_per_second == pytest.approx(100 / 0.991)
    nothing = trial.Outcome("wal", "s", Run())
    assert (nothing.latency_ms(0.5), nothing.commits_per_second, nothing.round_count) == (0, 0, 0)
