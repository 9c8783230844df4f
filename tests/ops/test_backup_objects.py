"""Backups in an object store: a real S3 server, over HTTP, with signatures, on this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import walkv
from tests.ops.backup_help import contents, fill, flip, no_syncs
from walkv.errors import BackupError
from walkv.ops import backup, backups, prune_backups, restore, verify_backups
from walkv.ops.backing import pool, retention
from walkv.ops.backing.places import open_target
from walkv.ops.backing.targets import OBJECTS, REMOVED

__all__ = ["no_syncs"]

KEY, SECRET = "walkv-test-key", "walkv-test-secret-of-some-length"


class Server(NamedTuple):
    url: str
    buckets: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("obstore", reason="the extra walkv[objects] is not installed")
    pytest.importorskip("nanio", reason="nanio, an S3 server, is not installed")
    folder = tmp_path_factory.mktemp("s3")
    buckets = folder / "data"
    (buckets / "bucket").mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "from nanio.cli import main; main()", "serve"]
    command += ["--data-dir", str(buckets), "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "NANIO_ACCESS_KEY": KEY, "NANIO_SECRET_KEY": SECRET}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, cwd=folder, start_new_session=True
        )
    try:
        for _ in range(600):
            assert process.poll() is None, (folder / "log").read_text()
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield Server(f"http://127.0.0.1:{port}", buckets)
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def folder(server: Server, monkeypatch: pytest.MonkeyPatch, request: Any) -> Path:
    """Where the server keeps what is under the target, a file for each object."""
    for name, value in {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    return server.buckets / "bucket" / "of" / str(request.node.name)


@pytest.fixture
def target(folder: Path) -> str:
    return f"s3://bucket/of/{folder.name}"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[walkv.Store]:
    with walkv.open(tmp_path / "store.walkv") as opened:
        yield opened


def test_there_and_back(store: walkv.Store, target: str, folder: Path, tmp_path: Path) -> None:
    moments = fill(store, 30)
    store.compact()
    fill(store, 5)
    first = backup(store, target)
    assert backup(store, target).copied_bytes == 0
    moments |= fill(store, 10, begin=50)
    third = backup(store, target)
    assert (third.copied_objects, third.skipped_objects) == (1, 2)
    stored = {path.name: path.stat().st_size for path in (folder / "objects").iterdir()}
    assert sum(stored.values()) == first.copied_bytes + third.copied_bytes
    assert [each.name for each in backups(target)][::2] == [third.name, first.name]
    assert verify_backups(target).ok
    restore(target, tmp_path / "r")
    assert contents(tmp_path / "r") == dict(store.scan())
    restore(target, tmp_path / "q", sequence=82)
    assert contents(tmp_path / "q") == moments[82]


def test_longer_than_one_part(store: walkv.Store, target: str, tmp_path: Path) -> None:
    for number in range(3):
        store.put(b"%d" % number, os.urandom(9 << 20))
    report = backup(store, target)
    assert report.copied_bytes > 27 << 20
    assert verify_backups(target).ok
    restore(target, tmp_path / "r")
    assert contents(tmp_path / "r") == dict(store.scan())


def test_given_up_half_way(store: walkv.Store, target: str, folder: Path, tmp_path: Path) -> None:
    fill(store, 5)
    backup(store, target)
    before = sorted(path.name for path in (folder / "objects").iterdir())
    for number in range(4):
        store.put(b"%d" % number, os.urandom(9 << 20))

    def give_up(done: int, total: int) -> None:
        if done > 20 << 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backup(store, target, progress=give_up)
    assert sorted(path.name for path in (folder / "objects").iterdir()) == before
    assert verify_backups(target).backup_count == 1
    assert backup(store, target).copied_objects == 1
    assert verify_backups(target).ok


@pytest.mark.parametrize("harm", ["flip", "remove"])
def test_damage(store: walkv.Store, target: str, folder: Path, tmp_path: Path, harm: str) -> None:
    fill(store, 5)
    name = backup(store, target).name
    (path,) = (folder / "objects").iterdir()
    flip(path, 100) if harm == "flip" else path.unlink()
    report = verify_backups(target)
    assert report.damaged == (name,)
    with pytest.raises(walkv.CorruptionError, match=path.name):
        restore(target, tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_leftover_is_used(
    store: walkv.Store, target: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 5)
    backup(store, target)
    (listing,) = (folder / "backups").iterdir()
    listing.unlink()
    assert backup(store, target).copied_objects == 0
    (listing,) = (folder / "backups").iterdir()
    listing.unlink()
    # So old that a prune may be removing it: then the same bytes get a name of their own.
    (old,) = (folder / "objects").iterdir()
    monkeypatch.setattr(pool, "GRACE_SECONDS", -1.0)
    report = backup(store, target)
    assert report.copied_objects == 1
    assert {path.name.partition("~")[0] for path in (folder / "objects").iterdir()} == {old.name}
    assert verify_backups(target).ok
    assert prune_backups(target).removed_objects == 0
    monkeypatch.setattr(retention, "GRACE_SECONDS", -1.0)
    assert prune_backups(target).removed_objects == 1
    assert not old.exists()
    assert verify_backups(target).ok
    assert backup(store, target).copied_objects == 0


def test_what_is_removed_stays_for_a_while(
    store: walkv.Store, target: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        fill(store, 5, begin=number)
        store.compact()
        last = backup(store, target)
    place = open_target(target)
    objects = place.entries(OBJECTS)
    report = prune_backups(target, keep=1)
    assert len(report.removed) == 2
    assert report.removed_objects == 0
    assert [each.name for each in backups(target)] == [last.name]
    assert place.entries(OBJECTS) == objects
    assert len(place.entries(REMOVED)) == 2
    # A day later.
    monkeypatch.setattr(retention, "GRACE_SECONDS", -1.0)
    report = prune_backups(target)
    assert report.removed_objects == len(objects) - len(place.entries(OBJECTS)) > 0
    assert place.entries(REMOVED) == {}
    assert verify_backups(target).ok


def test_removed_by_somebody_while_it_is_made(
    store: walkv.Store, target: str, folder: Path
) -> None:
    """What a backup relies on is looked for again before the listing is put."""
    fill(store, 30)
    store.compact()
    backup(store, target)
    fill(store, 5)

    def remove(done: int, total: int) -> None:
        if done:
            for path in (folder / "objects").glob("snapshot-*"):
                path.unlink()

    with pytest.raises(walkv.CorruptionError, match="make it again"):
        backup(store, target, progress=remove)
    assert len(backups(target)) == 1
    assert backup(store, target).copied_objects > 0


def test_clear_errors(
    store: walkv.Store, target: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 1)
    with pytest.raises(BackupError, match="NoSuchBucket") as caught:
        backup(store, "s3://nowhere/x")
    assert "\n" not in str(caught.value)
    assert caught.value.target == "s3://nowhere/x"
    with pytest.raises(FileNotFoundError, match="no backups here"):
        backups(target)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong" * 8)
    with pytest.raises(BackupError, match="SignatureDoesNotMatch"):
        backup(store, target)


def test_a_place_that_is_something_else(store: walkv.Store, target: str, folder: Path) -> None:
    fill(store, 1)
    (folder / "photos").mkdir(parents=True)
    (folder / "photos" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(BackupError, match="photos"):
        backup(store, target)
    shutil.rmtree(folder)
    assert backup(store, target).copied_objects == 1


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "obstore.exceptions", None)
    with pytest.raises(BackupError, match=r'pip install "walkv\[objects\]"'):
        backups("s3://bucket/x")


def test_damage_is_set_aside(store: walkv.Store, target: str, folder: Path, tmp_path: Path) -> None:
    fill(store, 30)
    backup(store, target)
    (name,) = (path.name for path in (folder / "objects").iterdir())
    place = open_target(target)
    data = bytearray(b"".join(place.read(OBJECTS, name)))
    data[70] ^= 1
    place.put(OBJECTS, name, [bytes(data)], len(data))
    assert verify_backups(target, set_aside=True).set_aside == (name,)
    assert [path.name for path in (folder / "damaged").iterdir()] == [name]
    assert backup(store, target).copied_objects == 1
    assert verify_backups(target).ok
    restore(target, tmp_path / "r")
    assert contents(tmp_path / "r") == dict(store.scan())
