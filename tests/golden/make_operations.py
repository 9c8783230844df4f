"""Builds golden backups and exports: ``python tests/golden/make_operations.py``.

They pin what ``walkv.ops`` writes outside of a store. As with ``make.py``, this refuses to
overwrite.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from make import HERE
from make_records import command

import walkv
from walkv import ops

TARGET = HERE / "operations-v1"
KEY = bytes(range(32))
BATCHES = 12
"""Each sets a key of its own, and one that all of them set; settled after the 4th and the 8th."""

EXPORTS = ("records.jsonl", "records.msgpack", "entries.jsonl", "entries.msgpack")


def after(count: int) -> dict[bytes, bytes]:
    """What the backed-up store holds after so many batches, of two operations each."""
    held = {b"key/%02d" % number: b"value %02d " % number * 40 for number in range(count)}
    return held | ({b"last": b"%d" % (count - 1)} if count else {})


def fill(store: walkv.Store, target: Path) -> None:
    for number in range(BATCHES):
        with store.batch() as batch:
            batch.put(b"key/%02d" % number, b"value %02d " % number * 40)
            batch.put(b"last", b"%d" % number)
        if number in (3, 7):
            store.compact()
        if number in (5, 11):
            ops.backup(store, target)


def talk(agent: walkv.AgentStore) -> None:
    agent.sessions.create("s1", user_id="ada")
    agent.messages.append("s1", role="user", content="hello")
    agent.messages.append("s1", role="assistant", content={"text": "hello", "data": b"\0\xff"})
    agent.checkpoints.put("thread", "c1", {"step": 1, "seen": {1, 2}})
    agent.checkpoints.put("thread", "c2", {"step": 2, "seen": {1, 2, 3}})
    agent.users.create("ada", api_keys={"service": "sk-12345"})
    agent.store.put(b"plain", b"\0\xff")


def make(target: Path) -> None:
    target.mkdir()
    keep_log = walkv.KeepLog(8e8, 1 << 30)
    with tempfile.TemporaryDirectory() as directory:
        for name, key in (("backups", None), ("encrypted-backups", KEY)):
            with walkv.open(Path(directory, name), keep_log=keep_log, key=key) as store:
                fill(store, target / name)
            (target / name / "LOCK").write_bytes(b"")  # it names a process
        with walkv.AgentStore(Path(directory, "agent")) as agent:
            talk(agent)
            for name in EXPORTS:
                kind, _, form = name.partition(".")
                ops.export(agent.store, target / name, kind=kind, format=form, secrets=True)


if __name__ == "__main__":
    sys.exit(command(TARGET, make, __doc__))
