from __future__ import annotations

from pathlib import Path

import pytest

import walkv
from walkv.ops import frames

KINDS = {"commit": 1, "marker": 2, "seal": 3, "close": 4}
"""As ``docs/format.md`` numbers them."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with two kept segments and a tail, and operations 1 to 6 in commits of two."""
    with walkv.open(tmp_path / "s", keep_log=walkv.KeepLog()) as store:
        for number in range(3):
            with store.batch() as batch:
                batch.put(b"a%d" % number, b"x")
                batch.delete(b"b%d" % number)
            if number < 2:
                store.compact()
    return tmp_path / "s"


def test_every_frame_with_its_place(path: Path) -> None:
    found = list(frames(str(path)))
    commits = [each for each in found if each.kind == "commit"]
    assert [each.operation_count for each in commits] == [2, 2, 2]
    assert [Path(each.segment).suffix for each in commits] == [".kept", ".kept", ".wal"]
    assert [each.last_sequence - each.first_sequence for each in commits] == [1, 1, 1]
    assert [each.kind for each in found].count("seal") == 2
    assert found[-1].kind == "close"
    for each in found:
        data = (path / "log" / each.segment).read_bytes()
        assert data[each.offset_bytes + 11] == KINDS[each.kind]
        assert each.offset_bytes + each.size_bytes <= len(data)


def test_backwards_is_the_same_the_other_way_round(path: Path) -> None:
    assert list(frames(str(path), reverse=True)) == list(frames(str(path)))[::-1]


def test_bounds(path: Path) -> None:
    commits = [each for each in frames(str(path)) if each.kind == "commit"]
    for number, commit in enumerate(commits):
        after = frames(str(path), since=commit.last_sequence)
        assert [each for each in after if each.kind == "commit"] == commits[number + 1 :]
        within = frames(str(path), since=commit.first_sequence)
        assert [each for each in within if each.kind == "commit"] == commits[number:]
        until = frames(str(path), until=commit.last_sequence)
        assert [each for each in until if each.kind == "commit"] == commits[: number + 1]


def test_a_torn_tail_ends_it(path: Path) -> None:
    (tail,) = (path / "log").glob("*.wal")
    whole = list(frames(str(path)))
    data = tail.read_bytes()
    tail.write_bytes(data[: whole[-1].offset_bytes + 5])
    assert list(frames(str(path))) == whole[:-1]


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(frames(str(tmp_path)))


def test_an_encrypted_log_needs_no_key(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s", key=bytes(32), keep_log=walkv.KeepLog()) as store:
        store.put(b"a", b"1")
        store.compact()
        store.put(b"b", b"2")
    found = list(frames(str(tmp_path / "s")))
    assert [each.first_sequence for each in found if each.kind == "commit"] == [1, 2]
    assert [each.kind for each in found].count("seal") == 1
