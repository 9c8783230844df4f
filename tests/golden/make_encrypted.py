"""Builds the golden encrypted store: ``python tests/golden/make_encrypted.py``.

It pins what an encrypted store looks like. As with ``make.py``, this refuses to overwrite. The key
is ``KEY``, and ``PASSPHRASE`` opens the same store in the manifest beside it.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any

from make import HERE, GoldenFileSystem
from make_records import command

import walkv
from walkv import limits

VERSION = 1
TARGET = HERE / f"encrypted-v{VERSION}"
KEY = bytes(range(32))
OTHER = bytes(range(100, 132))
PASSPHRASE = "correct horse battery staple"
ENTRIES = {
    **{b"user/%03d" % n: b"about user %03d " % n * 12 for n in range(200)},
    b"large": bytes(range(256)) * 64,
    b"tail": b"1",
}


class RandomFileSystem(GoldenFileSystem):
    """As that, with as many random bytes as were asked for."""

    def random_bytes(self, size_bytes: int) -> bytes:
        self._drawn += 1
        return hashlib.shake_256(b"golden %d" % self._drawn).digest(size_bytes)


def make(target: Path) -> None:
    """A kept segment under data key 1; a snapshot and the tail under data key 2."""
    fs = RandomFileSystem()
    options: dict[str, Any] = {"filesystem": fs, "memtable_bytes": limits.MIN_MEMTABLE_BYTES * 8}
    with walkv.open(target, key=OTHER, keep_log=walkv.KeepLog(8e8, 1 << 30), **options) as store:
        for key in list(ENTRIES)[:100]:
            store.put(key, ENTRIES[key])
        store.put(b"gone", b"deleted below")
        store.rekey(KEY)
        for key in list(ENTRIES)[100:]:
            store.put(key, ENTRIES[key])
        store.delete(b"gone")
    shutil.copy(target / "MANIFEST", target / "MANIFEST.key")
    with walkv.open(target, key=KEY, **options) as store:
        store.rekey(PASSPHRASE, rotate=False)
    shutil.copy(target / "MANIFEST", target / "MANIFEST.passphrase")
    shutil.move(target / "MANIFEST.key", target / "MANIFEST")
    (target / "LOCK").write_bytes(b"")


if __name__ == "__main__":
    sys.exit(command(TARGET, make, __doc__))
