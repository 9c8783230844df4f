"""Today's code restores the backups and imports the exports of every version."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from make_operations import BATCHES, EXPORTS, KEY, TARGET, after

import walkv
from walkv import ops


@pytest.mark.parametrize(
    ("name", "key"), [("backups", None), ("encrypted-backups", KEY)], ids=["plain", "encrypted"]
)
def test_every_moment_is_restored(tmp_path: Path, name: str, key: bytes | None) -> None:
    target = tmp_path / "target"
    shutil.copytree(TARGET / name, target)
    assert ops.verify_backups(target, key=key).problems == ()
    reached = []
    newest, older = ops.backups(target)
    assert older.sequence < newest.sequence
    for number, backup in ((BATCHES, newest), (6, older)):
        path = tmp_path / backup.name
        ops.restore(target, path, backup=backup.name, key=key)
        with walkv.open(path, read_only=True, key=key) as store:
            assert dict(store.scan()) == after(number)
    for sequence in range(1, newest.sequence + 1):
        path = tmp_path / f"to-{sequence}"
        report = ops.restore(target, path, sequence=sequence, key=key)
        with walkv.open(path, read_only=True, key=key) as store:
            held = dict(store.scan())
        assert held == after(len(held) - 1 if held else 0)
        assert report.sequence <= sequence
        reached.append(len(held))
    assert reached == sorted(reached)
    assert set(reached) == {0, *range(2, BATCHES + 2)}


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_is_imported_whole(tmp_path: Path, name: str) -> None:
    report = ops.import_(tmp_path / "agent", TARGET / name)
    assert report.ok
    with walkv.AgentStore(tmp_path / "agent") as agent:
        assert agent.verify() == []
        said = [message.content for message in agent.messages.history("s1")]
        assert said == ["hello", {"text": "hello", "data": b"\0\xff"}]
        states = [agent.checkpoints.get("thread", each) for each in ("c1", "c2")]
        assert [each.data for each in states if each is not None] == [
            {"step": 1, "seen": {1, 2}},
            {"step": 2, "seen": {1, 2, 3}},
        ]
        user = agent.users.get("ada")
        assert user is not None
        assert user.api_keys == {"service": "sk-12345"}
        assert agent.store[b"plain"] == b"\0\xff"
