from __future__ import annotations

import dataclasses
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import walkv
from tests.ops.backup_help import contents, files, fill, flip, no_syncs, objects
from tests.support.processes import start
from walkv.engine import segment
from walkv.engine.vfs import OsFile, OsFileSystem
from walkv.errors import BackupError
from walkv.ops import backup, backups, prune_backups, restore, verify_backups
from walkv.ops.backing import listings, making
from walkv.ops.backing.directories import DirectoryTarget

__all__ = ["no_syncs"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[walkv.Store]:
    with walkv.open(tmp_path / "store.walkv") as opened:
        yield opened


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "backups"


def restored(target: Path, path: Path, **wanted: object) -> dict[bytes, bytes]:
    restore(target, path, **wanted)  # type: ignore[arg-type]
    found = contents(path)
    shutil.rmtree(path)
    return found


class TestMaking:
    def test_a_store_in_use(self, store: walkv.Store, target: Path, tmp_path: Path) -> None:
        fill(store, 30)
        store.compact()
        fill(store, 10, begin=30)
        report = backup(store, target)
        assert report.sequence == 80
        assert (report.copied_objects, report.skipped_objects) == (2, 0)
        fill(store, 1, begin=99)
        found = restored(target, tmp_path / "r")
        assert found[b"number"] == b"39"
        assert len(found) == 21

    def test_by_path_face_and_agent(self, target: Path, tmp_path: Path) -> None:
        with walkv.AgentStore(tmp_path / "a") as agent:
            agent.sessions.create("s1", user_id="ada")
            first = backup(agent, target)
            second = backup(agent.store, target)
        third = backup(str(tmp_path / "a"), str(target))
        assert [each.name for each in backups(target)] == [third.name, second.name, first.name]
        restore(target, tmp_path / "r")
        with walkv.AgentStore(tmp_path / "r") as agent:
            assert agent.sessions.get("s1").user_id == "ada"

    def test_the_source_is_not_touched(self, tmp_path: Path, target: Path) -> None:
        with walkv.open(tmp_path / "s") as store:
            fill(store, 5)
        (tmp_path / "s" / "LOCK").unlink()
        before = files(tmp_path / "s")
        backup(tmp_path / "s", target)
        assert files(tmp_path / "s") == before
        assert not (tmp_path / "s" / "LOCK").exists()

    def test_only_what_is_new_is_copied(self, store: walkv.Store, target: Path) -> None:
        fill(store, 30)
        store.compact()
        fill(store, 10, begin=30)
        backup(store, target)
        assert backup(store, target).copied_bytes == 0
        log = next(Path(store.path, "log").glob("*.wal"))
        before = _frame_bytes(log)
        fill(store, 3, begin=40)
        report = backup(store, target)
        assert report.copied_bytes == _frame_bytes(log) - before
        assert (report.copied_objects, report.skipped_objects) == (1, 2)

    def test_zeros_written_ahead_are_not_copied(self, tmp_path: Path, target: Path) -> None:
        with walkv.open(tmp_path / "s") as store:
            fill(store, 2)
        log = next((tmp_path / "s" / "log").iterdir())
        size_bytes = log.stat().st_size
        with log.open("ab") as tail:
            tail.write(bytes(10_000))
        assert backup(tmp_path / "s", target).copied_bytes == size_bytes
        with log.open("ab") as tail:
            tail.write(b"torn")
        assert backup(tmp_path / "s", target).copied_bytes == 0

    def test_a_tail_in_many_pieces_becomes_one(
        self, store: walkv.Store, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(making, "MOST_PIECES", 4)
        moments = {}
        counts = []
        for number in range(11):
            moments |= fill(store, 1, begin=number)
            backup(store, target)
            counts.append(backups(target)[0].object_count)
        assert counts == [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3]
        for sequence, expected in moments.items():
            assert restored(target, tmp_path / "r", sequence=sequence) == expected
        assert verify_backups(target).ok

    def test_while_another_process_writes(self, target: Path, tmp_path: Path) -> None:
        """Each backup is a prefix of what was committed, across flushes and merges."""
        path = tmp_path / "s"
        writer = start(
            f"""
            import os, walkv
            with walkv.open({str(path)!r}, memtable_bytes=1 << 16, sync=walkv.WriteBack()) as store:
                print("open", flush=True)
                for number in range(100_000):
                    with store.batch() as batch:
                        batch.put(b"a", b"%d" % number)
                        batch.put(b"k%d" % (number % 50), os.urandom(200))
                        batch.put(b"z", b"%d" % number)
            """
        )
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"open\n"
            reached = []
            for _ in range(12):
                report = backup(path, target)
                found = restored(target, tmp_path / "r")
                if report.sequence:
                    assert found[b"a"] == found[b"z"] == b"%d" % (report.sequence // 3 - 1)
                reached.append(report.sequence)
            assert reached == sorted(reached)
            assert reached[-1] > reached[0]
            assert verify_backups(target).ok
        finally:
            writer.kill()
            writer.communicate()

    def test_two_at_once_into_one_target(self, store: walkv.Store, target: Path) -> None:
        fill(store, 30)
        done = []
        threads = [
            threading.Thread(target=lambda: done.append(backup(store, target))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({report.name for report in done}) == 4
        assert sum(report.copied_objects for report in done) == 1
        assert verify_backups(target).ok

    def test_progress_ends_where_it_said_and_gives_up(
        self, store: walkv.Store, target: Path
    ) -> None:
        fill(store, 30)
        store.compact()
        seen: list[tuple[int, int]] = []
        report = backup(store, target, progress=lambda done, total: seen.append((done, total)))
        assert seen[-1] == (report.copied_bytes, report.copied_bytes)
        assert seen == sorted(seen)
        fill(store, 30)

        def give_up(done: int, total: int) -> None:
            if done:
                raise KeyboardInterrupt

        before = files(target)
        with pytest.raises(KeyboardInterrupt):
            backup(store, target, progress=give_up)
        assert files(target) == before

    def test_the_rate_is_kept(
        self, store: walkv.Store, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(store, 30)
        slept = []
        now = [0.0]

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            now[0] += seconds

        monkeypatch.setattr(time, "sleep", sleep)
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        report = backup(store, target, max_bytes_per_second=1000)
        # Surveyed, copied and read back.
        assert sum(slept) == pytest.approx(3 * report.copied_bytes / 1000, rel=0.05)


def _frame_bytes(path: Path) -> int:
    """Where the frames of a segment end."""
    file = OsFileSystem().open(str(path))
    header = file.read(0, 64)
    scanner = segment.Scanner(file, segment.read_header(file, header[16:32]))
    assert list(scanner.frames())
    file.close()
    return scanner.offset


def test_everything_is_durable_in_order(
    store: walkv.Store, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File, then name, then directory; the listing last. And of a restore, all before its name."""
    fill(store, 5)
    store.compact()
    events: list[tuple[str, str]] = []

    def watch(owner: type, name: str) -> None:
        real = getattr(owner, name)

        def watched(self: object, *paths: str) -> object:
            events.append((name, paths[-1] if paths else self.path))  # type: ignore[attr-defined]
            return real(self, *paths)

        monkeypatch.setattr(owner, name, watched)

    watch(OsFile, "sync")
    watch(OsFileSystem, "rename")
    watch(OsFileSystem, "sync_directory")
    backup(store, target)
    steps = [(what, Path(path)) for what, path in events]
    put = [at for at, (what, _) in enumerate(steps) if what == "rename"]
    assert [steps[at][1].parent.name for at in put] == ["objects", "objects", "backups"]
    for at in put:
        folder = steps[at][1].parent
        assert steps[at - 1][0] == "sync"
        assert steps[at - 1][1].parent == folder
        assert steps[at + 1] == ("sync_directory", folder)
    events.clear()
    renamed = os.rename
    monkeypatch.setattr(
        os, "rename", lambda old, new: (events.append(("rename", new)), renamed(old, new))
    )
    restore(target, tmp_path / "r")
    at = events.index(("rename", str(tmp_path / "r")))
    assert events[at + 1 :] == [("sync_directory", str(tmp_path))]
    built = tmp_path / ".r.restoring" / "store"
    synced = {path for _, path in events[:at]}
    for path in [*files(tmp_path / "r"), "log", "snapshots"]:
        assert str(built / path) in synced


@pytest.mark.parametrize("folder", ["objects", "backups"])
def test_what_does_not_read_back_as_it_was_written(
    store: walkv.Store, target: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    fill(store, 5)
    backup(store, target)
    before = files(target)
    fill(store, 5)
    real = DirectoryTarget.put

    def put(self: DirectoryTarget, into: str, name: str, *rest: Any) -> None:
        real(self, into, name, *rest)
        if into == folder:
            flip(Path(self.path, into, name), 50)

    monkeypatch.setattr(DirectoryTarget, "put", put)
    with pytest.raises(walkv.CorruptionError, match="does not read back"):
        backup(store, target)
    found = files(target)
    assert before.items() <= found.items()
    assert not [name for name in found.keys() - before.keys() if name.startswith(folder)]
    monkeypatch.undo()
    assert backup(store, target).copied_objects == (folder == "objects")
    assert verify_backups(target).ok


class TestRefusals:
    def test_no_store(self, tmp_path: Path, target: Path) -> None:
        (tmp_path / "empty").mkdir()
        for path in (tmp_path / "none", tmp_path / "empty"):
            with pytest.raises(FileNotFoundError, match="no walkv store"):
                backup(path, target)
        assert not target.exists()

    def test_a_place_that_is_something_else(
        self, store: walkv.Store, target: Path, tmp_path: Path
    ) -> None:
        store.put(b"k", b"v")
        with walkv.open(tmp_path / "other"):
            pass
        with pytest.raises(BackupError, match="something else"):
            backup(store, tmp_path / "other")
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "letter.txt").write_text("dear")
        with pytest.raises(BackupError, match=r"letter\.txt"):
            backup(store, tmp_path / "full")
        (tmp_path / "file").write_text("x")
        with pytest.raises(BackupError, match="this is a file"):
            backup(store, tmp_path / "file")
        with pytest.raises(BackupError, match="inside the store"):
            backup(store, Path(store.path) / "backups")
        with pytest.raises(ValueError, match="empty"):
            backup(store, "")
        with pytest.raises(BackupError, match="gopher"):
            backup(store, "gopher://x/y")
        (tmp_path / "mount" / "lost+found").mkdir(parents=True)
        assert backup(store, tmp_path / "mount").sequence == 1

    def test_another_store(self, store: walkv.Store, target: Path, tmp_path: Path) -> None:
        store.put(b"k", b"v")
        backup(store, target)
        before = files(target)
        with walkv.open(tmp_path / "other") as other, pytest.raises(BackupError, match="another"):
            backup(other, target)
        assert files(target) == before

    def test_arguments(self, store: walkv.Store, target: Path) -> None:
        for wrong in ({"keep": 0}, {"keep": True}, {"keep_days": 0}, {"max_bytes_per_second": 0}):
            with pytest.raises(ValueError, match=next(iter(wrong))):
                backup(store, target, **wrong)  # type: ignore[arg-type]
        assert not target.exists()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_no_permission(self, store: walkv.Store, target: Path) -> None:
        target.mkdir(mode=0o500)
        with pytest.raises(PermissionError):
            backup(store, target)


class TestDamageInTheSource:
    def test_of_a_snapshot(self, tmp_path: Path, target: Path) -> None:
        with walkv.open(tmp_path / "s") as store:
            fill(store, 30)
            backup(store, target)
            before = files(target)
            store.compact()
        (snapshot,) = (tmp_path / "s" / "snapshots").iterdir()
        size_bytes = snapshot.stat().st_size
        for offset_bytes in range(3, size_bytes, size_bytes // 25):
            flip(snapshot, offset_bytes)
            with pytest.raises(walkv.CorruptionError):
                backup(tmp_path / "s", target)
            assert files(target) == before
            flip(snapshot, offset_bytes)
        assert backup(tmp_path / "s", target).copied_objects == 2
        assert verify_backups(target).ok

    def test_of_the_log(self, tmp_path: Path, target: Path) -> None:
        with walkv.open(tmp_path / "s") as store:
            fill(store, 30)
        (log,) = (tmp_path / "s" / "log").iterdir()
        flip(log, 1000)
        with pytest.raises(walkv.CorruptionError, match="durable"):
            backup(tmp_path / "s", target)
        assert list(objects(target)) == []

    def test_a_missing_file(self, tmp_path: Path, target: Path) -> None:
        with walkv.open(tmp_path / "s") as store:
            fill(store, 30)
            store.compact()
        (snapshot,) = (tmp_path / "s" / "snapshots").iterdir()
        snapshot.unlink()
        with pytest.raises(walkv.CorruptionError, match="missing"):
            backup(tmp_path / "s", target)


class TestVerify:
    @pytest.fixture
    def made(self, tmp_path: Path, target: Path) -> Path:
        with walkv.open(tmp_path / "s") as store:
            fill(store, 30)
            backup(store, target)
            store.compact()
            fill(store, 30)
            backup(store, target)
            fill(store, 5)
            backup(store, target)
        return target

    def test_all_is_well(self, made: Path) -> None:
        seen: list[tuple[int, int]] = []
        report = verify_backups(made, progress=lambda done, total: seen.append((done, total)))
        assert report.ok
        assert (report.backup_count, report.object_count, report.damaged) == (3, 4, ())
        assert seen[-1] == (report.checked_bytes, report.checked_bytes)
        assert report.checked_bytes == sum(each.stat().st_size for each in objects(made))

    @pytest.mark.parametrize("harm", ["flip", "cut", "grow", "remove", "swap"])
    def test_every_object(self, made: Path, harm: str, tmp_path: Path) -> None:
        """Each kind of damage to each object is found, and keeps what needs it from a restore."""
        needs = {name: listings.read(_target(made), name).objects() for name in _names(made)}
        whole = {path: path.read_bytes() for path in objects(made)}
        for path, data in whole.items():
            harmed = {
                "flip": data[:70] + bytes([data[70] ^ 1]) + data[71:],
                "cut": data[:-1],
                "grow": data + b"\0",
                "swap": next(other for other in whole.values() if other != data),
            }
            path.unlink() if harm == "remove" else path.write_bytes(harmed[harm])
            report = verify_backups(made)
            expected = {name for name, objects in needs.items() if path.name in objects}
            assert set(report.damaged) == expected
            assert len(report.problems) == 1
            assert path.name in report.problems[0].error.path
            for name in needs:
                if name in expected:
                    with pytest.raises(walkv.CorruptionError, match=path.name):
                        restore(made, tmp_path / "r", backup=name)
                    assert not (tmp_path / "r").exists()
                    assert not list(tmp_path.glob(".*"))
            path.write_bytes(data)
        assert verify_backups(made).ok

    def test_a_listing(self, made: Path, tmp_path: Path) -> None:
        for path in sorted((made / "backups").iterdir()):
            data = path.read_bytes()
            for offset_bytes in range(0, len(data), 37):
                flip(path, offset_bytes)
                report = verify_backups(made)
                if not report.ok:  # a blank may turn into another blank
                    assert report.damaged == (path.stem,)
                    with pytest.raises((walkv.CorruptionError, walkv.FormatError)):
                        restore(made, tmp_path / "r", backup=path.stem)
                    assert [each.problem is None for each in backups(made)].count(False) == 1
                path.write_bytes(data)

    def test_a_listing_whose_parts_make_no_store(self, made: Path) -> None:
        """Its own checksum is right, and it was put together wrongly."""
        name = _names(made)[0]
        path = made / "backups" / f"{name}.json"
        whole = path.read_bytes()
        listing = listings.read(_target(made), name)
        (part,) = listing.segments
        assert len(part.pieces) == 2
        for wrong in (
            {"snapshots": ()},
            {"first_unsettled": listing.first_unsettled + 1},
            {"store_id": "00" * 16},
            {"segments": (dataclasses.replace(part, pieces=part.pieces[1:]),)},
            {"segments": (dataclasses.replace(part, pieces=part.pieces[::-1]),)},
        ):
            path.write_bytes(listings.encode(dataclasses.replace(listing, **wrong)))
            report = verify_backups(made)
            assert report.damaged == (name,)
            assert "do not make a store" in str(report.problems[0].error)
        # Numbers that the frames do not bear out.
        piece = dataclasses.replace(part.last, next_sequence=part.last.next_sequence + 1)
        wrong_part = dataclasses.replace(part, pieces=(part.pieces[0], piece))
        path.write_bytes(listings.encode(dataclasses.replace(listing, segments=(wrong_part,))))
        assert "not the ones that the listing names" in str(verify_backups(made).problems[0].error)
        path.write_bytes(whole)
        assert verify_backups(made).ok

    def test_a_damaged_newest_backup_is_not_passed_over(self, made: Path, tmp_path: Path) -> None:
        newest = _names(made)[0]
        flip(made / "backups" / f"{newest}.json", 100)
        with pytest.raises(walkv.CorruptionError, match=newest):
            restore(made, tmp_path / "r")
        # The next backup does without it, and pruning leaves what it may need.
        report = backup(tmp_path / "s", made)
        assert report.copied_bytes > 0
        count = len(list(objects(made)))
        with pytest.raises(walkv.CorruptionError, match="nothing that backups name was removed"):
            prune_backups(made)
        assert len(list(objects(made))) == count

    def test_a_newer_format(self, made: Path) -> None:
        path = made / "backups" / f"{_names(made)[0]}.json"
        path.write_text(path.read_text().replace("walkv backup 1", "walkv backup 2"))
        with pytest.raises(walkv.FormatError, match="newer"):
            restore(made, "nowhere")
        with pytest.raises(walkv.FormatError, match="newer"):
            backup(made.parent / "s", made)

    def test_what_was_removed_is_copied_anew(self, made: Path, tmp_path: Path) -> None:
        for path in objects(made):
            path.unlink()
        assert backup(tmp_path / "s", made).skipped_objects == 0
        newest = _names(made)[0]
        assert newest not in verify_backups(made).damaged
        assert restored(made, tmp_path / "r") == contents(tmp_path / "s")


def _target(path: Path) -> object:
    from walkv.ops.backing.places import open_target

    return open_target(path)


def _names(path: Path) -> list[str]:
    return [each.name for each in backups(path)]


class TestRetention:
    def test_keep(self, store: walkv.Store, target: Path, tmp_path: Path) -> None:
        made = []
        for number in range(6):
            fill(store, 10, begin=number)
            if number % 2:
                store.compact()
            made.append(backup(store, target, keep=3))
        assert _names(target) == [report.name for report in reversed(made[-3:])]
        assert made[-1].removed == (made[-4].name,)
        needed = {name for each in made[-3:] for name in _objects(target, each.name)}
        assert {path.name for path in objects(target)} == needed
        assert verify_backups(target).ok
        report = prune_backups(target, keep=1)
        assert report.removed == (made[-2].name, made[-3].name)
        assert report.removed_objects == len(needed) - len(list(objects(target)))
        assert restored(target, tmp_path / "r") == dict(store.scan())

    def test_keep_days_and_both(self, store: walkv.Store, target: Path) -> None:
        store.put(b"k", b"v")
        for _ in range(5):
            backup(store, target)
        names = _names(target)
        # As if the older ones were made days ago.
        for number, name in enumerate(names):
            _age(target, name, days=number * 10)
        names = _names(target)
        assert len(names) == 5
        assert prune_backups(target).removed == ()
        assert prune_backups(target, keep=2, keep_days=25).removed == tuple(names[3:])
        assert prune_backups(target, keep=2, keep_days=5).removed == (names[2],)
        assert prune_backups(target, keep_days=5).removed == (names[1],)
        _age(target, names[0], days=100)
        assert prune_backups(target, keep_days=5).removed == ()
        assert verify_backups(target).ok

    def test_the_clock_was_set_back(
        self, store: walkv.Store, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.put(b"k", b"v")
        backup(store, target)
        _age(target, _names(target)[0], days=-400)
        store.put(b"k", b"w")
        second = backup(store, target, keep=1)
        assert _names(target) == [second.name]

    def test_nothing_there(self, tmp_path: Path) -> None:
        for action in (backups, prune_backups, verify_backups):
            with pytest.raises(FileNotFoundError, match="no backups"):
                action(tmp_path / "none")
        with pytest.raises(FileNotFoundError, match="no backups"):
            restore(tmp_path / "none", tmp_path / "r")
        assert list(tmp_path.iterdir()) == []


def _objects(target: Path, name: str) -> set[str]:
    return set(listings.read(_target(target), name).objects())  # type: ignore[arg-type]


def _age(target: Path, name: str, *, days: float) -> None:
    """Give a backup the name and time of one that was made days ago."""
    listing = listings.read(_target(target), name)  # type: ignore[arg-type]
    time = datetime.now(UTC) - timedelta(days=days)
    time_ns = listings.nanoseconds(time)
    aged = dataclasses.replace(
        listing, name=listings.new_name(time_ns, None, "0000"), time_ns=time_ns
    )
    (target / "backups" / f"{name}.json").unlink()
    (target / "backups" / f"{aged.name}.json").write_bytes(listings.encode(aged))


class TestKilled:
    def test_at_random_moments(self, tmp_path: Path, target: Path) -> None:
        """The backups before stay whole, and the next one uses what was copied."""
        with walkv.open(tmp_path / "s") as store:
            fill(store, 100, size_bytes=20_000)
            store.compact()
            first = backup(store, target)
            fill(store, 100, size_bytes=20_000)
            store.compact()
            fill(store, 100, begin=50, size_bytes=20_000)
            expected = dict(store.scan())
        total_bytes = backup(tmp_path / "s", tmp_path / "elsewhere").copied_bytes
        before = files(target)
        random.seed(os.getpid())
        reused = 0
        for number in range(8):
            allowed = (number * total_bytes + random.randrange(total_bytes)) // 8
            child = start(
                f"""
                import os, signal
                from walkv.ops import backup

                def progress(done, total):
                    if done > {allowed}:
                        os.kill(os.getpid(), signal.SIGKILL)

                backup({str(tmp_path / "s")!r}, {str(target)!r}, progress=progress)
                """
            )
            child.communicate()
            assert child.returncode in (0, -signal.SIGKILL)
            assert before.items() <= files(target).items()
            assert verify_backups(target).ok
            report = backup(tmp_path / "s", target)
            reused += child.returncode != 0 and report.skipped_objects > 0
            assert restored(target, tmp_path / "r") == expected
            assert not list((target / "objects").glob(".*"))
            # Once more from the start.
            for path in (target / "backups").iterdir():
                if path.stem != first.name:
                    path.unlink()
            prune_backups(target)
            assert files(target) == before
        assert reused
        assert restored(target, tmp_path / "r", backup=first.name) != expected

    def test_a_leftover_is_used_only_if_it_is_right(
        self, store: walkv.Store, target: Path, tmp_path: Path
    ) -> None:
        fill(store, 30)
        store.compact()
        report = backup(store, target)
        (listing,) = (target / "backups").iterdir()
        listing.unlink()
        again = backup(store, target)
        assert (again.copied_objects, again.skipped_objects) == (0, report.copied_objects)
        (target / "backups" / f"{again.name}.json").unlink()
        flip(next(objects(target)), 30)
        third = backup(store, target)
        assert (third.copied_objects, third.skipped_objects) == (1, report.copied_objects - 1)
        assert verify_backups(target).ok


class TestFullDisk:
    @pytest.fixture
    def small(self, tmp_path: Path) -> Iterator[Path]:
        point = tmp_path / "disk"
        point.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(point)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        yield point
        subprocess.run(["umount", "--lazy", str(point)], check=True)

    def test_of_the_target_and_of_a_restore(
        self, store: walkv.Store, target: Path, small: Path, tmp_path: Path
    ) -> None:
        fill(store, 20)
        backup(store, small / "b")
        expected = dict(store.scan())
        before = files(small / "b")
        fill(store, 100, size_bytes=20_000)
        with pytest.raises(OSError, match="No space left"):
            backup(store, small / "b")
        assert files(small / "b") == before
        assert restored(small / "b", tmp_path / "r") == expected
        backup(store, target)
        with pytest.raises(OSError, match="No space left"):
            restore(target, small / "r")
        assert {path.name for path in small.iterdir()} == {"b"}
