from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import walkv
from tests.ops.backup_help import Contents, contents, files, fill, no_syncs
from walkv import KeepLog
from walkv.errors import BackupError
from walkv.ops import RestoreReport, backup, backups, prune_backups, restore, verify_backups

__all__ = ["no_syncs"]

SMALL = 1 << 16
"""A memtable that is flushed after some fifty batches."""

Restore = Callable[..., tuple[RestoreReport, Contents]]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "backups"


@pytest.fixture
def restored(target: Path, tmp_path: Path) -> Restore:
    """Restore to a path that is free again afterwards; the report and what the store held."""

    def restored(**wanted: object) -> tuple[RestoreReport, Contents]:
        path = tmp_path / "restored"
        report = restore(target, path, **wanted)  # type: ignore[arg-type]
        found = contents(path)
        shutil.rmtree(path)
        return report, found

    return restored


class TestSequences:
    def test_every_one_of_an_unsettled_log(
        self, target: Path, tmp_path: Path, restored: Restore
    ) -> None:
        with walkv.open(tmp_path / "s") as store:
            moments = {0: {}, **fill(store, 10)}
            backup(store, target)
            moments |= fill(store, 10, begin=10)
            backup(store, target)
        for sequence in range(41):
            report, found = restored(sequence=sequence)
            # Inside a batch: before it.
            assert report.sequence == sequence - sequence % 2
            assert found == moments[report.sequence]
            assert (report.time is None) == (sequence < 2)

    def test_across_flushes_and_merges_of_a_kept_log(
        self, target: Path, tmp_path: Path, restored: Restore
    ) -> None:
        """Backups here and there; every moment in between can be reached."""
        moments: dict[int, Contents] = {0: {}}
        with walkv.open(tmp_path / "s", memtable_bytes=SMALL, keep_log=KeepLog()) as store:
            for number in range(6):
                moments |= fill(store, 40, begin=40 * number, size_bytes=400)
                if number % 2:
                    store.compact()
                if number != 3:
                    backup(store, target)
            assert store.stats().flush_count > 4
        settled = {each.settled_sequence for each in backups(target)}
        assert len(settled) > 3
        for sequence in [*range(0, 481, 7), 480]:
            report, found = restored(sequence=sequence)
            assert report.sequence == sequence - sequence % 2
            assert found == moments[report.sequence]
        assert verify_backups(target).ok
        # From later bases and the kept log alone, too.
        prune_backups(target, keep=2)
        for sequence in range(1, 481, 31):
            assert restored(sequence=sequence)[1] == moments[sequence - sequence % 2]

    def test_from_a_base_through_the_log_of_a_later_backup(
        self, target: Path, tmp_path: Path, restored: Restore
    ) -> None:
        """The log is kept for a while only: the first base and a later backup's segments meet."""
        with walkv.open(tmp_path / "s", memtable_bytes=SMALL, keep_log=KeepLog(1e9, 130_000)) as s:
            moments = fill(s, 200, size_bytes=400)
            backup(s, target)
            fill(s, 1, begin=300, size_bytes=400)
            moments |= fill(s, 200, begin=400, size_bytes=400)
            backup(s, target)
            newest, oldest = backups(target)
        assert newest.settled_sequence > oldest.sequence + 100
        for sequence in range(oldest.sequence + 2, newest.sequence + 1, 18):
            report, found = restored(sequence=sequence)
            assert (report.sequence, found) == (sequence, moments.get(sequence, found))
            if sequence < newest.settled_sequence:
                assert report.backups == (newest.name, oldest.name)
        with pytest.raises(BackupError):
            restored(sequence=oldest.sequence + 2, backup=newest.name)

    def test_what_cannot_be_reached(self, target: Path, tmp_path: Path, restored: Restore) -> None:
        with walkv.open(tmp_path / "s") as store:
            fill(store, 10)
            store.compact()
            fill(store, 5)
            backup(store, target)
            fill(store, 5)
            store.compact()
            fill(store, 5)
            backup(store, target)
        for sequence in (0, 19, 31, 39, 51):
            with pytest.raises(BackupError, match="20 to 30, 40 to 50") as caught:
                restored(sequence=sequence)
            assert caught.value.sequences == ((20, 30), (40, 50))
            assert caught.value.target == str(target)
        assert not (tmp_path / "restored").exists()
        for sequence in (20, 21, 30, 40, 50):
            assert restored(sequence=sequence)[0].sequence == sequence - sequence % 2

    def test_a_backup_by_name(self, target: Path, tmp_path: Path, restored: Restore) -> None:
        with walkv.open(tmp_path / "s") as store:
            moments = fill(store, 5)
            name = backup(store, target).name
            fill(store, 5)
            backup(store, target)
        assert restored(backup=name)[1] == moments[10]
        assert restored(backup=name, sequence=4)[1] == moments[4]
        with pytest.raises(BackupError):
            restored(backup=name, sequence=12)
        with pytest.raises(FileNotFoundError, match="no backup of this name"):
            restored(backup="20200101T000000.000000Z-0000")


class TestTimes:
    def test_every_commit(
        self, target: Path, tmp_path: Path, restored: Restore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = Clock(monkeypatch)
        with walkv.open(tmp_path / "s", memtable_bytes=SMALL, keep_log=KeepLog()) as store:
            moments: list[tuple[datetime, Contents]] = []
            for number in range(150):
                clock.forward(60)
                fill(store, 1, begin=number, size_bytes=400)
                moments.append((clock.now, dict(store.scan())))
                if number % 40 == 20:
                    clock.forward(5)
                    backup(store, target)
            clock.forward(5)
            backup(store, target)
        for number in range(0, 150, 9):
            time, expected = moments[number]
            report, found = restored(time=time)
            assert (found, report.time) == (expected, time)
            # Just before the next one, and just before this one.
            assert restored(time=time + timedelta(seconds=59))[1] == expected
            earlier = moments[number - 1][1] if number else {}
            assert restored(time=time - timedelta(microseconds=1))[1] == earlier
        newest = backups(target)[0]
        assert restored(time=newest.time)[1] == moments[-1][1]
        for outside in (newest.time + timedelta(seconds=1), moments[0][0] - timedelta(days=1)):
            with pytest.raises(BackupError) as caught:
                restored(time=outside)
            ((first, last),) = caught.value.times
            assert last == newest.time
            assert first < moments[0][0]

    def test_a_clock_that_was_set_back(
        self, target: Path, tmp_path: Path, restored: Restore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The longest run of commits of which none is later."""
        clock = Clock(monkeypatch)
        begin = clock.now
        with walkv.open(tmp_path / "s") as store:
            expected = {}
            for number, seconds in enumerate((10, 20, 5, 30)):
                clock.now = begin + timedelta(seconds=seconds)
                store.put(b"n", b"%d" % number)
                expected[seconds] = number
            backup(store, target)
        for seconds, number in ((15, 0), (20, 2), (25, 2), (30, 3)):
            found = restored(time=begin + timedelta(seconds=seconds))[1]
            assert found == {b"n": b"%d" % number}

    def test_a_time_between_two_backups_without_a_log(
        self, target: Path, tmp_path: Path, restored: Restore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = Clock(monkeypatch)
        with walkv.open(tmp_path / "s") as store:
            for _ in range(2):
                clock.forward(60)
                fill(store, 5)
                store.compact()
                clock.forward(60)
                backup(store, target)
                clock.forward(600)
        newest, oldest = backups(target)
        assert restored(time=oldest.time)[0].sequence == 10
        with pytest.raises(BackupError) as caught:
            restored(time=oldest.time + timedelta(seconds=300))
        assert [last for _, last in caught.value.times] == [oldest.time, newest.time]

    def test_arguments(self, target: Path, tmp_path: Path) -> None:
        with walkv.open(tmp_path / "s") as store:
            fill(store, 1)
            backup(store, target)
        with pytest.raises(ValueError, match="time zone"):
            restore(target, tmp_path / "r", time=datetime(2026, 1, 1))
        with pytest.raises(ValueError, match="not both"):
            restore(target, tmp_path / "r", time=datetime.now(UTC), sequence=1)


class Clock:
    """The wall clock of stores and backups, set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        monkeypatch.setattr(
            "walkv.engine.vfs.OsFileSystem.wall_time_ns",
            staticmethod(lambda: (self.now - epoch) // timedelta(microseconds=1) * 1000),
        )

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class TestHistoriesThatFork:
    def test_sequences_that_exist_twice(
        self, target: Path, tmp_path: Path, restored: Restore
    ) -> None:
        """Back to sequence 20, on from there, and into the same target."""
        first, second = tmp_path / "s", tmp_path / "t"
        with walkv.open(first) as store:
            one = fill(store, 10)
            backup(store, target)
            one |= fill(store, 10, begin=100)
            name = backup(store, target).name
        restore(target, second, sequence=21)
        with walkv.open(second) as store:
            assert store.stats().last_sequence == 20
            assert dict(store.scan()) == one[20]
            two = {sequence: one[sequence] for sequence in one if sequence <= 20}
            two |= fill(store, 3, begin=200)
            report = backup(store, target)
        assert report.sequence == 26
        assert report.skipped_bytes > 0, "what was there before the fork is the same"
        for sequence in range(2, 27, 2):
            found_report, found = restored(sequence=sequence)
            assert (found, found_report.sequence) == (two[sequence], sequence)
        # Only the first history has these.
        for sequence in (28, 40):
            assert restored(sequence=sequence)[1] == one[sequence]
        for sequence in (20, 22, 26, 40):
            assert restored(sequence=sequence, backup=name)[1] == one[sequence]
        assert restored()[1] == two[26]
        assert verify_backups(target).ok

    def test_both_go_on(self, target: Path, tmp_path: Path, restored: Restore) -> None:
        """The first store goes on after the restore, and both are backed up, turn by turn."""
        first, second = tmp_path / "s", tmp_path / "t"
        with walkv.open(first, memtable_bytes=SMALL, keep_log=KeepLog()) as store:
            one = fill(store, 60, size_bytes=400)
            backup(store, target)
        restore(target, second)
        assert (second / "log" / "KEEP").read_bytes() == (first / "log" / "KEEP").read_bytes()
        two = dict(one)
        names: dict[Path, list[str]] = {first: [], second: []}
        for turn in range(4):
            for path, moments in ((first, one), (second, two)):
                with walkv.open(path, memtable_bytes=SMALL) as store:
                    moments |= fill(store, 40, begin=1000 * turn, size_bytes=400)
                    names[path].append(backup(store, target).name)
        # The first store has kept its whole log, so each backup of it leads everywhere.
        for name in names[first]:
            newest = next(each.sequence for each in backups(target) if each.name == name)
            # Those that there are: an opener that finds much to settle leaves one out.
            for sequence in [each for each in sorted(one) if 120 < each <= newest][::17]:
                report, found = restored(sequence=sequence, backup=name)
                assert (report.sequence, found) == (sequence, one[sequence])
        # The newest backup is of the second store.
        for sequence in [each for each in sorted(two) if each > 120][::10]:
            assert restored(sequence=sequence)[1] == two[sequence]
        assert verify_backups(target).ok

    def test_times_are_of_the_history_that_lived_then(
        self, target: Path, tmp_path: Path, restored: Restore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = Clock(monkeypatch)
        begin = clock.now

        def at(minutes: float) -> datetime:
            return begin + timedelta(minutes=minutes)

        with walkv.open(tmp_path / "s") as store:
            for minute in range(10):
                clock.now = at(minute)
                store.put(b"n", b"one %d" % minute)
            clock.now = at(9.5)
            backup(store, target)
        clock.now = at(20)
        assert restore(target, tmp_path / "t", time=at(4)).sequence == 5
        with walkv.open(tmp_path / "t") as store:
            for minute in range(20, 30):
                clock.now = at(minute)
                store.put(b"n", b"two %d" % minute)
            clock.now = at(29.5)
            backup(store, target)
        for minutes, expected in ((3, "one 3"), (7, "one 7"), (20, "two 20"), (29.5, "two 29")):
            assert restored(time=at(minutes))[1] == {b"n": expected.encode()}
        # Nobody looked at the first one after that.
        assert restored(time=at(15))[1] == {b"n": b"one 4"}

    def test_a_store_that_was_closed_goes_on_in_a_new_segment(
        self, target: Path, tmp_path: Path
    ) -> None:
        with walkv.open(tmp_path / "s") as store:
            fill(store, 3)
        backup(tmp_path / "s", target)
        restore(target, tmp_path / "r")
        with walkv.open(tmp_path / "r") as store:
            assert not store.recovery_report.clean
            fill(store, 1)
        assert sorted(path.name for path in (tmp_path / "r" / "log").glob("*.wal")) == [
            f"{1:020d}.wal",
            f"{7:020d}.wal",
        ]

    def test_a_fork_within_a_segment_that_is_settled_later(
        self, target: Path, tmp_path: Path, restored: Restore
    ) -> None:
        """An old base leads to both histories, though both have another end of its tail."""
        first, second = tmp_path / "s", tmp_path / "t"
        with walkv.open(first) as store:
            fill(store, 5)
            store.compact()
        with walkv.open(first, keep_log=KeepLog()) as store:
            one = {10: dict(store.scan()), **fill(store, 5)}
            base = backup(store, target).name
            one |= fill(store, 5)
            store.compact()
            name = backup(store, target).name
        restore(target, second, sequence=16)
        with walkv.open(second) as store:
            two = {sequence: one[sequence] for sequence in one if sequence <= 16}
            two |= fill(store, 10)
            store.compact()
            newest = backup(store, target).name
        for sequence in range(10, 37, 2):
            report, found = restored(sequence=sequence)
            assert (report.sequence, found) == (sequence, two[sequence])
            assert report.backups == ((newest, base) if sequence < 36 else (newest,))
        for sequence in (18, 20):
            assert restored(sequence=sequence, backup=base)[1] == one[sequence]
        assert restored(backup=name)[1] == one[30]

    def test_segments_that_begin_at_the_same_sequence(
        self, target: Path, tmp_path: Path, restored: Restore
    ) -> None:
        """Two histories that were different before it, and one that keeps no log."""
        first, second = tmp_path / "s", tmp_path / "t"
        with walkv.open(first, keep_log=KeepLog()) as store:
            one = fill(store, 15)
            store.compact()
            one |= fill(store, 5)
            name = backup(store, target).name
        restore(target, second, sequence=16)
        with walkv.open(second, keep_log=KeepLog(0, 0)) as store:
            fill(store, 7, begin=100)
            store.compact()
            two = fill(store, 5, begin=200)
            newest = backup(store, target).name
        for sequence in (18, 24, 28):
            report, found = restored(sequence=sequence)
            assert (report.sequence, report.backups, found) == (sequence, (name,), one[sequence])
        for sequence in (32, 40):
            report, found = restored(sequence=sequence)
            assert (report.sequence, report.backups, found) == (sequence, (newest,), two[sequence])


class TestThePath:
    @pytest.fixture
    def made(self, target: Path, tmp_path: Path) -> Path:
        with walkv.open(tmp_path / "s") as store:
            fill(store, 3)
            backup(store, target)
        return target

    def test_never_over_something(self, made: Path, tmp_path: Path) -> None:
        before = files(tmp_path / "s")
        (tmp_path / "file").write_text("x")
        for path in (tmp_path / "s", tmp_path / "file", made):
            with pytest.raises(FileExistsError, match="something here already"):
                restore(made, path)
        assert files(tmp_path / "s") == before
        assert not list(tmp_path.glob(".*"))

    def test_an_empty_directory_and_a_deep_path(self, made: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        for path in (tmp_path / "empty", tmp_path / "a" / "b" / "c"):
            restore(made, path)
            assert contents(path) == contents(tmp_path / "s")

    def test_given_up(self, made: Path, tmp_path: Path) -> None:
        def give_up(done: int, total: int) -> None:
            if done:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            restore(made, tmp_path / "r", progress=give_up)
        assert not list(tmp_path.glob(".*"))
        seen: list[tuple[int, int]] = []
        report = restore(
            made, tmp_path / "r", progress=lambda done, total: seen.append((done, total))
        )
        assert seen[-1][1] <= report.size_bytes

    def test_what_a_killed_restore_left_is_built_over(self, made: Path, tmp_path: Path) -> None:
        left = tmp_path / ".r.restoring"
        (left / "store" / "log").mkdir(parents=True)
        (left / "LOCK").touch()
        (left / "store" / "log" / f"{1:020d}.wal").write_text("half")
        (left / "store" / "MANIFEST").write_text("half")
        restore(made, tmp_path / "r")
        assert contents(tmp_path / "r") == contents(tmp_path / "s")
        assert not left.exists()

    def test_two_at_once(self, made: Path, tmp_path: Path) -> None:
        def again(done: int, total: int) -> None:
            if done:
                with pytest.raises(walkv.LockedError, match="restoring to the same path"):
                    restore(made, tmp_path / "r")

        restore(made, tmp_path / "r", progress=again)
        assert contents(tmp_path / "r") == contents(tmp_path / "s")


def test_expiry_and_deletions_come_along(target: Path, tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        store.put(b"a", b"1", ttl_seconds=1000)
        store.put(b"b", b"2")
        store.compact()
        store.delete(b"b")
        store.put(b"c", b"3")
        store.delete_range(prefix=b"c")
        backup(store, target)
    restore(target, tmp_path / "r")
    assert contents(tmp_path / "r") == {b"a": b"1"}
    restore(target, tmp_path / "q", sequence=2)
    assert contents(tmp_path / "q") == {b"a": b"1", b"b": b"2"}
