"""Damage in backups that is set aside, and in kept segments that nothing depends on."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest

import walkv
from tests.ops.backup_help import contents, files, fill, flip, no_syncs, objects
from walkv import KeepLog
from walkv.engine.vfs import OsFileSystem
from walkv.errors import BackupError
from walkv.ops import backup, backups, prune_backups, restore, verify_backups
from walkv.ops.backing import listings
from walkv.ops.backing.places import open_target

__all__ = ["no_syncs"]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "backups"


class TestSetAside:
    @pytest.fixture
    def made(self, tmp_path: Path, target: Path) -> Path:
        """Two snapshots, of which the store has one, and a log in pieces."""
        with walkv.open(tmp_path / "s", keep_log=KeepLog()) as store:
            for number in range(2):
                fill(store, 10, begin=10 * number)
                store.compact()
                backup(store, target)
            for number in range(3):
                fill(store, 3, begin=30 + 10 * number)
                backup(store, target)
        backup(tmp_path / "s", target)
        return target

    @pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
    def test_the_next_backup_copies_it_anew_for_all(
        self, made: Path, tmp_path: Path, harm: str
    ) -> None:
        """All but the first snapshot, which the store has no more."""
        gone = min(objects(made), key=lambda path: (path.name[0] == "l", path.name))
        before = {path: path.read_bytes() for path in objects(made) if path != gone}
        for path, data in before.items():
            harmed = data[:30] + bytes([data[30] ^ 1]) + data[31:] if harm == "flip" else data[:-1]
            path.unlink() if harm == "remove" else path.write_bytes(harmed)
        report = verify_backups(made, set_aside=True)
        assert len(report.problems) == len(before)
        moved = () if harm == "remove" else tuple(sorted(path.name for path in before))
        assert tuple(sorted(report.set_aside)) == moved
        assert sorted(files(made / "damaged")) == list(moved)
        assert list(objects(made)) == [gone]
        assert backup(tmp_path / "s", made).copied_objects == len(before)
        assert {path: path.read_bytes() for path in objects(made) if path != gone} == before
        assert verify_backups(made).ok
        for name in [each.name for each in backups(made)]:
            restore(made, tmp_path / name, backup=name)
        assert contents(tmp_path / backups(made)[0].name) == contents(tmp_path / "s")

    def test_what_the_store_has_no_more(self, made: Path, tmp_path: Path) -> None:
        gone = min(objects(made), key=lambda path: (path.name[0] == "l", path.name))
        flip(gone, 70)
        report = verify_backups(made, set_aside=True)
        assert report.set_aside == (gone.name,)
        assert backup(tmp_path / "s", made).copied_objects == 0
        again = verify_backups(made, set_aside=True)
        assert again.damaged == report.damaged
        assert again.set_aside == ()
        assert (made / "damaged" / gone.name).exists()
        restore(made, tmp_path / "r")
        prune_backups(made, keep=1)
        assert verify_backups(made).ok

    def test_what_is_whole_stays_where_a_listing_is_wrong(self, made: Path) -> None:
        listing = min((made / "backups").iterdir())
        flip(listing, 300)
        before = list(objects(made))
        report = verify_backups(made, set_aside=True)
        assert not report.ok
        assert report.set_aside == ()
        assert list(objects(made)) == before

    def test_what_is_whole_stays_where_a_listing_says_more_of_it(self, made: Path) -> None:
        place = open_target(made)
        name = backups(made)[0].name
        listing = listings.read(place, name)
        part = listing.segments[-1]
        piece = dataclasses.replace(part.last, next_sequence=part.last.next_sequence + 1)
        wrong = dataclasses.replace(part, pieces=(*part.pieces[:-1], piece))
        segments = (*listing.segments[:-1], wrong)
        (made / "backups" / f"{name}.json").write_bytes(
            listings.encode(dataclasses.replace(listing, segments=segments))
        )
        report = verify_backups(made, set_aside=True)
        paths = [each.error.path for each in report.problems]
        assert paths == [str(made / "objects" / piece.object)]
        assert report.set_aside == ()

    def test_an_object_with_a_name_of_its_own_gets_that_back(
        self, tmp_path: Path, target: Path
    ) -> None:
        """In object stores a name may have been taken."""
        with walkv.open(tmp_path / "s") as store:
            fill(store, 10)
            store.compact()
            name = backup(store, target).name
            listing = listings.read(open_target(target), name)
            (part,) = listing.snapshots
            other = dataclasses.replace(part, object=f"{part.object}~0a1b2c3d")
            (target / "backups" / f"{name}.json").write_bytes(
                listings.encode(dataclasses.replace(listing, snapshots=(other,)))
            )
            (target / "objects" / part.object).unlink()
            assert backup(store, target).copied_objects == 1
        assert (target / "objects" / other.object).exists()
        assert verify_backups(target).ok

    def test_nothing_is_moved_unless_asked_for(self, made: Path) -> None:
        flip(next(objects(made)), 70)
        before = files(made)
        assert verify_backups(made).set_aside == ()
        assert files(made) == before

    def test_a_source_that_is_damaged_where_a_piece_is_missing(
        self, made: Path, tmp_path: Path
    ) -> None:
        log = max((tmp_path / "s" / "log").glob("*.wal"))
        (piece,) = [
            path
            for path in objects(made)
            if f"-{log.stem}-" in path.name and path.name.split("-")[3] == "64"
        ]
        piece.unlink()
        flip(log, 100)
        with pytest.raises(walkv.CorruptionError, match="what was backed up of it") as caught:
            backup(tmp_path / "s", made)
        assert caught.value.path == str(log)
        assert not piece.exists()


class TestKeptSegments:
    @pytest.fixture
    def store(self, tmp_path: Path) -> Path:
        with walkv.open(tmp_path / "s", keep_log=KeepLog()) as store:
            for number in range(4):
                fill(store, 10, begin=10 * number)
                store.compact()
            fill(store, 10, begin=50)
        return tmp_path / "s"

    @pytest.mark.parametrize("offset_bytes", [10, 100])
    def test_damage_leaves_a_gap_and_a_warning(
        self,
        store: Path,
        target: Path,
        tmp_path: Path,
        offset_bytes: int,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """In the header, and behind it."""
        kept = sorted((store / "log").glob("*.kept"))
        flip(kept[1], offset_bytes)
        with caplog.at_level(logging.WARNING, "walkv"):
            report = backup(store, target)
        (warning,) = report.warnings
        assert warning.startswith(str(kept[1]))
        assert str(kept[1]) in caplog.text
        assert verify_backups(target).ok
        restore(target, tmp_path / "r")
        assert contents(tmp_path / "r") == contents(store)
        with pytest.raises(BackupError) as caught:
            restore(target, tmp_path / "q", sequence=10)
        assert caught.value.sequences == ((80, 100),)

    def test_one_that_was_backed_up_before_is_not_looked_at(
        self, store: Path, target: Path, tmp_path: Path
    ) -> None:
        backup(store, target)
        for kept in (store / "log").glob("*.kept"):
            flip(kept, 100)
        assert backup(store, target).warnings == ()
        restore(target, tmp_path / "r", sequence=10)
        assert contents(tmp_path / "r")[b"number"] == b"4"

    def test_a_target_that_fails_is_no_gap(
        self, store: Path, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever does not read back there is an error, also if it is of a kept segment."""
        from walkv.ops.backing.directories import DirectoryTarget

        real = DirectoryTarget.put

        def put(self: DirectoryTarget, into: str, name: str, *rest: object) -> None:
            real(self, into, name, *rest)  # type: ignore[arg-type]
            if name.startswith(f"log-{1:020d}"):
                flip(Path(self.path, into, name), 50)

        monkeypatch.setattr(DirectoryTarget, "put", put)
        with pytest.raises(walkv.CorruptionError, match="does not read back"):
            backup(store, target)

    def test_one_gets_its_name_while_it_is_looked_for(
        self, store: Path, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A flush renames a segment between the look for one name and for the other."""
        kept = sorted((store / "log").glob("*.kept"))
        for path in kept:
            path.rename(path.with_suffix(".wal"))
        real = OsFileSystem.open

        def rename_then_open(self: OsFileSystem, path: str, **options: bool) -> object:
            try:
                return real(self, path, **options)
            except FileNotFoundError:
                Path(path).with_suffix(".wal").rename(path)
                raise

        monkeypatch.setattr(OsFileSystem, "open", rename_then_open)
        backup(store, target)
        (made,) = backups(target)
        assert made.object_count == 1 + len(kept) + 1
