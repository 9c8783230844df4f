from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import walkv
from walkv import ops
from walkv.ops import Finding, probing


@pytest.fixture(autouse=True)
def few_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_MOST_SECONDS", 0.0)


def named(report: ops.Diagnosis) -> dict[str, Finding]:
    return {finding.check: finding for finding in report.findings}


def test_a_directory_without_a_store(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").touch()
    report = ops.doctor(tmp_path)
    found = named(report)
    assert report.ok
    assert found["store"].facts == {"exists": False}
    assert found["sync"].facts["sync_count"] >= 10
    assert 0 < found["sync"].facts["median_seconds"] <= found["sync"].facts["p99_seconds"]
    assert found["locks"].facts == {"works": True}
    assert found["python"].facts["version"]
    assert found["free space"].facts["free_bytes"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_store_and_who_has_it_open(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with walkv.open(path) as store:
        store.put(b"k", b"v")
        found = named(ops.doctor(path))
        assert found["lock"].facts["held"] is True
        assert found["opening"].level == "ok"
    before = {each: each.read_bytes() for each in path.rglob("*") if each.is_file()}
    found = named(ops.doctor(path))
    assert found["lock"].facts == {"held": False}
    assert found["opening"].facts == {"clean": True}
    assert found["store"].facts["format_version"] == 1
    assert {each: each.read_bytes() for each in path.rglob("*") if each.is_file()} == before
    assert [each.name for each in tmp_path.iterdir()] == ["s"]


def test_what_is_left_lying(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        store.put(b"k", b"v")
    (tmp_path / "s" / "quarantine" / "x.torn").write_bytes(b"12345")
    (tmp_path / "s" / "MANIFEST.tmp").touch()
    report = ops.doctor(tmp_path / "s")
    found = named(report)
    assert found["quarantine"].level == "warning"
    assert found["quarantine"].facts == {"files": ["x.torn"], "size_bytes": 5}
    assert found["leftovers"].facts == {"files": ["MANIFEST.tmp"]}
    assert report.level == "warning"


def test_a_damaged_store_is_an_error(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        for _ in range(3):
            store.put(b"k", b"v" * 100)
    (file,) = (tmp_path / "s" / "log").iterdir()
    data = bytearray(file.read_bytes())
    data[120] ^= 1
    file.write_bytes(data)
    report = ops.doctor(tmp_path / "s")
    assert not report.ok
    assert named(report)["opening"].facts == {"error": "CorruptionError"}
    (tmp_path / "s" / "MANIFEST").unlink()
    assert named(ops.doctor(tmp_path / "s"))["store"].facts == {"error": "CorruptionError"}


def test_no_such_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ops.doctor(tmp_path / "none")


def test_the_key_is_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WALKV_KEY", "a secret")
    report = ops.doctor(tmp_path)
    assert named(report)["WALKV_KEY"].facts == {"set": True}
    assert "a secret" not in repr(report)


@pytest.fixture
def memory_disk(tmp_path: Path) -> Iterator[Path]:
    point = tmp_path / "disk"
    point.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=1m,sync", "tmpfs", str(point)]
    done = subprocess.run(mounted, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    yield point
    subprocess.run(["umount", "--lazy", str(point)], check=True)


def test_a_disk_in_memory_that_is_too_small(memory_disk: Path) -> None:
    report = ops.doctor(memory_disk)
    found = named(report)
    assert found["file system"].level == "warning"
    assert found["file system"].facts["kind"] == "tmpfs"
    assert found["mount option"].facts == {"option": "sync"}
    assert found["free space"].level == "error"
    assert not report.ok


def test_a_store_with_a_file_system_to_itself_is_not_written_to(memory_disk: Path) -> None:
    with walkv.open(memory_disk, min_free_bytes=0) as store:
        store.put(b"k", b"v")
    found = named(ops.doctor(memory_disk))
    assert found["sync"].text.startswith("not measured")
    assert "directory sync" not in found


def test_the_workplace_goes_away_also_after_an_interrupt(tmp_path: Path) -> None:
    def work() -> None:
        with probing.workplace(str(tmp_path)) as place:
            probing.directory_sync(place)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("seconds", "level"), [(5e-6, "warning"), (2e-4, "ok"), (5e-3, "ok"), (0.2, "warning")]
)
def test_what_a_sync_costs_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, level: str
) -> None:
    cost = probing.SyncCost(10, seconds, seconds, seconds)
    monkeypatch.setattr(probing, "append_sync", lambda place: cost)
    assert named(ops.doctor(tmp_path))["sync"].level == level


def test_an_encrypted_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WALKV_KEY", raising=False)
    path, key = tmp_path / "s", bytes(range(32))
    with walkv.open(path, key=key) as store:
        store.put(b"k", b"v")
    found = named(ops.doctor(path))
    assert found["store"].facts == {"exists": True, "format_version": 2, "encrypted": True}
    assert found["opening"].level == "warning"
    assert "not tried" in found["opening"].text
    assert ops.doctor(path).ok
    assert named(ops.doctor(path, key=key))["opening"].level == "ok"
    wrong = named(ops.doctor(path, key=bytes(32)))["opening"]
    assert (wrong.level, wrong.facts) == ("error", {"error": "EncryptionError"})
