from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

import walkv
from walkv import limits, ops
from walkv.engine import watch
from walkv.engine.core import Engine
from walkv.testing import Fault, FaultyFileSystem


def test_a_store_that_is_well(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        store.put(b"k", b"v")
        assert ops.health(tmp_path / "s") == walkv.Health("ok")
    assert ops.health(tmp_path / "s") == walkv.Health("ok")


def test_what_the_writer_says_counts(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with walkv.open(path, min_free_bytes=1 << 60) as store:
        assert store.health().status == "degraded"
        assert isinstance(store.engine, Engine)
        watch.publish(store.engine)
        found = ops.health(path)
        assert found.status == "degraded"
        assert "puts are refused" in found.reasons[0]
        told = json.loads((path / "LOCK").read_text())
        told["stats"] |= {"background_error": "the disk hums", "min_free_bytes": 0}
        told["stats"]["snapshot_count"] = 99
        (path / "LOCK").write_text(json.dumps(told))
        reasons = ops.health(path).reasons
        assert ["the disk hums" in reasons[0], "merges are behind" in reasons[1]] == [True, True]
    assert ops.health(path).status == "ok"


def test_the_floor_where_nobody_has_said_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    with walkv.open(path) as store:
        store.put(b"k", b"v")
    monkeypatch.setattr(limits, "DEFAULT_MIN_FREE_BYTES", 1 << 60)
    found = ops.health(path)
    assert found.status == "degraded"
    assert "puts are refused" in found.reasons[0]
    with walkv.open(path, min_free_bytes=0) as store:
        assert isinstance(store.engine, Engine)
        watch.publish(store.engine)
        assert ops.health(path).status == "ok"


def test_a_writer_that_has_failed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    fs = FaultyFileSystem()
    store = walkv.open(path, filesystem=fs)
    fs.fault = Fault(lambda call: call.operation == "sync_data")
    with pytest.raises(walkv.StoreFailedError):
        store.put(b"a", b"1")
    found = ops.health(path)
    assert found.status == "failed"
    assert "its writer has failed" in found.reasons[0]
    with pytest.raises(walkv.StoreFailedError):
        store.close()
    assert ops.health(path).status == "ok"


def test_damage_is_a_failure(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        store.put(b"k", b"v")
    (tmp_path / "s" / "MANIFEST").write_bytes(b"WALKVMAN\1\0\0\0 and so on")
    found = ops.health(tmp_path / "s")
    assert found.status == "failed"
    assert "MANIFEST" in found.reasons[0]


def test_no_store(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError):
            ops.health(path)
    (tmp_path / "letter.txt").touch()
    with pytest.raises(walkv.FormatError):
        ops.health(tmp_path)


def test_rates_are_differences(tmp_path: Path) -> None:
    from walkv.ops.rates import rates

    with walkv.open(tmp_path / "s") as store:
        store.put(b"k", b"v")
        before = store.stats()
        for _ in range(6):
            store.put(b"k", b"v" * 100)
        after = store.stats()
        found = rates(before, after, 2.0)
    assert (found.commits, found.operations) == (3.0, 3.0)
    assert found.written_bytes == (after.written_bytes - before.written_bytes) / 2 > 300
    assert found.sync_seconds.count == after.sync_count - before.sync_count
    assert found.cache_hit_ratio is None
    looked = dataclasses.replace(after, cache_hits=after.cache_hits + 3, cache_misses=1)
    assert rates(after, looked, 1.0).cache_hit_ratio == 0.75
