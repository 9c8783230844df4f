"""What a person with ill intent, or plain bad luck, leaves where operations look."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import xxhash

import walkv
from tests.ops.backup_help import contents, no_syncs  # noqa: F401  # a fixture
from walkv import ops
from walkv.engine.keyring import Ring
from walkv.errors import BackupError, ImportSourceError
from walkv.ops import placing
from walkv.ops.backing import listings, places
from walkv.ops.backing.listings import Listing


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with walkv.open(tmp_path / "s") as opened:
        opened.put(b"a", b"1")
    return tmp_path / "s"


@pytest.fixture
def target(store: Path, tmp_path: Path) -> Path:
    ops.backup(store, tmp_path / "t")
    return tmp_path / "t"


@pytest.mark.parametrize("url", ["memory:///x", "ftp://a/b", "x://y"])
def test_a_place_that_keeps_nothing(store: Path, url: str) -> None:
    with pytest.raises(BackupError, match="backups go to a directory, or to one of s3://"):
        ops.backup(store, url)


def test_a_directory_may_be_a_url(store: Path, tmp_path: Path) -> None:
    ops.backup(store, f"file://{tmp_path}/with%20blank")
    assert len(ops.backups(tmp_path / "with blank")) == 1


class TestPrune:
    def test_a_damaged_listing_costs_no_good_one(self, store: Path, target: Path) -> None:
        with walkv.open(store) as opened:
            opened.put(b"b", b"2")
        newest = ops.backup(store, target)
        listing = target / "backups" / f"{newest.name}.json"
        listing.write_bytes(listing.read_bytes()[:100])
        with pytest.raises(walkv.CorruptionError, match="nothing that backups name was removed"):
            ops.prune_backups(target, keep=1)
        assert len(list((target / "backups").glob("*.json"))) == 2
        older = min(path.stem for path in (target / "backups").glob("*.json"))
        ops.restore(target, store.parent / "r", backup=older)
        assert contents(store.parent / "r") == {b"a": b"1"}

    def test_a_very_long_time(self, store: Path, target: Path) -> None:
        ops.backup(store, target, keep_days=999_999)
        assert ops.prune_backups(target, keep_days=999_999).removed == ()
        with pytest.raises(ValueError, match="keep_days"):
            ops.prune_backups(target, keep_days=1e9)


class TestRestore:
    def test_a_link_in_its_place_is_not_followed(self, target: Path, tmp_path: Path) -> None:
        precious = tmp_path / "precious"
        precious.mkdir()
        (precious / "file").write_text("x")
        (tmp_path / ".r.restoring").symlink_to(precious)
        with pytest.raises(FileExistsError, match="is in the way"):
            ops.restore(target, tmp_path / "r")
        assert (precious / "file").read_text() == "x"

    def test_a_directory_of_somebody_else(self, target: Path, tmp_path: Path) -> None:
        (tmp_path / ".r.restoring").mkdir()
        (tmp_path / ".r.restoring" / "file").write_text("x")
        with pytest.raises(FileExistsError, match="is in the way"):
            ops.restore(target, tmp_path / "r")
        assert (tmp_path / ".r.restoring" / "file").read_text() == "x"

    def test_a_time_that_a_former_restore_has_made_unknown(self, store: Path, target: Path) -> None:
        with walkv.open(store) as opened:
            opened.put(b"b", b"this morning")
            time.sleep(0.01)
            morning = datetime.now(UTC)
            time.sleep(0.01)
            opened.put(b"c", b"noon")
            opened.compact()
        ops.backup(store, target)
        with pytest.raises(BackupError):
            ops.restore(target, store.parent / "x", time=morning)
        first = ops.backups(target)[-1].name
        ops.restore(target, store.parent / "s2", backup=first)
        with walkv.open(store.parent / "s2") as opened:
            opened.put(b"d", b"x")
        ops.backup(store.parent / "s2", target)
        with pytest.raises(BackupError, match="had been restored"):
            ops.restore(target, store.parent / "x", time=morning)
        assert not (store.parent / "x").exists()


def hostile(listing: Listing) -> Iterator[Listing]:
    """Listings with a right checksum that no walkv has written."""
    new = dataclasses.replace
    (segment,) = listing.segments
    (piece,) = segment.pieces
    for name in ("../../../evil", "/evil", "a/b", "..", "", "x" * 300, "\0"):
        bad = new(segment, pieces=(new(piece, object=name),))
        yield new(listing, segments=(bad,))
    for changes in (
        {"segments": ()},
        {"segments": (new(segment, pieces=()),)},
        {"segments": (new(segment, first_sequence="../x"),)},
        {"segments": (new(segment, salt=1 << 70),)},
        {"segments": (new(segment, pieces=(new(piece, start="a"),)),)},
        {"time_ns": 10**30},
        {"time_ns": "x"},
        {"store_id": "zz"},
        {"sequence": "q"},
        {"sequence": -1},
        {"snapshots": (listings.SnapshotPart("x", "../../y", 5, "z"),)},  # type: ignore[arg-type]
    ):
        yield new(listing, **changes)  # type: ignore[arg-type]  # that is the point


def test_a_listing_may_say_anything(store: Path, target: Path) -> None:
    place = places.open_target(str(target))
    (path,) = (target / "backups").glob("*.json")
    good = listings.read(place, path.stem)
    before = sorted(store.parent.rglob("*"))
    for bad in hostile(good):
        path.write_bytes(listings.encode(bad))
        report = ops.verify_backups(target)
        assert report.problems
        for options in ({}, {"sequence": 1}, {"time": datetime.now(UTC)}):
            with pytest.raises((walkv.WalkvError, OSError)):
                ops.restore(target, store.parent / "r", **options)  # type: ignore[arg-type]
    assert {p for p in store.parent.rglob("*") if "evil" in p.name} == set()
    path.write_bytes(listings.encode(good))
    assert ops.verify_backups(target).problems == ()
    assert set(before) <= set(store.parent.rglob("*"))


def test_a_snapshot_that_only_the_manifest_named(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with walkv.open(path) as store:
        for number in range(100):
            store.put(b"%d" % number, b"x" * 100)
        store.compact()
        store.put(b"z", b"1")
    for snapshot in (path / "snapshots").iterdir():
        snapshot.unlink()
    (path / "MANIFEST").write_bytes(b"garbage" * 10)
    report = ops.repair(path, tmp_path / "r")
    assert not report.complete
    (loss,) = report.losses
    assert (loss.first_sequence, loss.last_sequence) == (1, 100)
    assert contents(tmp_path / "r") == {b"z": b"1"}


def test_a_schedule_that_nobody_waits_for_ends_with_the_store(tmp_path: Path) -> None:
    async def run() -> None:
        async with walkv.AsyncAgentStore(tmp_path / "s") as agent:
            for delay in range(20):
                beginning = asyncio.ensure_future(
                    agent.schedule_backups(tmp_path / "t", every_seconds=3600)
                )
                await asyncio.sleep(delay * 1e-4)
                beginning.cancel()
                await asyncio.gather(beginning, return_exceptions=True)
            await asyncio.sleep(0.2)

    asyncio.run(run())
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        left = [t for t in threading.enumerate() if t.name == "walkv-backups"]
        if not left:
            break
        time.sleep(0.05)
    assert not left


@pytest.mark.parametrize(
    "head",
    [
        {"namespace": ["messages"]},
        {"head": {"session_id": "s", "first": 0, "next": 1 << 70, "count": 1}},
        {"head": {"session_id": "s", "first": -1, "next": 1, "count": 1}},
        {"head": {"session_id": "s", "first": 0, "next": None, "count": 1}},
    ],
)
def test_an_export_may_say_anything(tmp_path: Path, head: dict[str, Any]) -> None:
    with walkv.AgentStore(tmp_path / "s") as agent:
        agent.messages.append("s", role="user", content="x")
        ops.export(agent.store, tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out").read_bytes().splitlines()]
    (place,) = [n for n, line in enumerate(lines) if "head" in line]
    names = list(lines[place]["head"])
    if "head" in head:
        values = list(head["head"].values())
        lines[place]["head"] = dict(zip(names, values, strict=False))
    else:
        lines[place] |= head
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines[:-1])
    lines[-1]["end"]["xxh3_128"] = xxhash.xxh3_128_hexdigest(body)
    (tmp_path / "bad").write_bytes(body + json.dumps(lines[-1]).encode() + b"\n")
    with pytest.raises(ImportSourceError):
        ops.import_(tmp_path / "new", tmp_path / "bad")


def test_an_export_with_secrets_is_for_its_owner_alone(tmp_path: Path) -> None:
    with walkv.AgentStore(tmp_path / "s") as agent:
        agent.users.create("ada", api_keys={"x": "sk-12345"})
        ops.export(agent.store, tmp_path / "masked")
        ops.export(agent.store, tmp_path / "whole", secrets=True)
    assert (tmp_path / "whole").stat().st_mode & 0o077 == 0
    assert b"sk-12345" not in (tmp_path / "masked").read_bytes()


def test_columns_that_are_computed_come_along(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "t.sqlite")
    database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT AS (a || '!'))")
    database.execute("INSERT INTO t (id, a) VALUES (1, 'x')")
    database.commit()
    database.close()
    report = ops.import_(
        tmp_path / "s", tmp_path / "t.sqlite", kind="sqlite-table", table="t", key="id"
    )
    assert report.ok
    with walkv.open(tmp_path / "s", read_only=True) as store:
        ops.export(store, tmp_path / "out")
    assert b'"x!"' in (tmp_path / "out").read_bytes()


@pytest.mark.parametrize(
    ("numbers", "refused"),
    [((1 << 16, 8, 2), False), ((1 << 20, 8, 4), False), ((1 << 20, 8, 5), True)],
)
def test_a_ring_does_not_ask_for_hours_of_work(numbers: tuple[int, ...], refused: bool) -> None:
    fields = [[b"salt", *numbers], bytes(16), [[1, bytes(60)]]]
    if refused:
        with pytest.raises(ValueError, match="scrypt"):
            Ring.of(fields)
    else:
        assert Ring.of(fields).newest == 1


def test_files_of_others_in_a_target_stay(store: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "objects").mkdir(parents=True)
    (project / "objects" / "teapot.obj").write_text("mine")
    ops.backup(store, project)
    with walkv.open(store) as opened:
        opened.put(b"a", b"2")
    ops.backup(store, project, keep=1)
    assert (project / "objects" / "teapot.obj").read_text() == "mine"
    (project / "README").write_text("x")
    ops.backup(store, project, keep=1)  # it has backups, so it is a target
    other = tmp_path / "other"
    (other / "objects").mkdir(parents=True)
    (other / "README").write_text("x")
    with pytest.raises(BackupError):
        ops.backup(store, other)


def test_one_that_gives_up_leaves_the_next_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both build at the same place; the first has just removed its lock's name."""
    unlink = os.unlink
    unlinked, built = threading.Event(), threading.Event()

    def slowly(path: Any, *args: Any, **options: Any) -> None:
        unlink(path, *args, **options)
        if threading.current_thread().name == "first" and str(path).endswith("LOCK"):
            unlinked.set()
            built.wait(30)

    monkeypatch.setattr(os, "unlink", slowly)
    path = str(tmp_path / "x")

    def first() -> None:
        with suppress(RuntimeError), placing.building(path, "restoring"):
            raise RuntimeError("no space")

    thread = threading.Thread(target=first, name="first")
    thread.start()
    assert unlinked.wait(30)
    with placing.building(path, "restoring") as made:
        Path(made, "MANIFEST").write_text("whole")
        built.set()
        thread.join()
    assert Path(path, "MANIFEST").read_text() == "whole"
