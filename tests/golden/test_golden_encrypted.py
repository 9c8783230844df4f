"""Today's code reads what every version encrypted, and encrypts it byte for byte."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import make_encrypted
import pytest
from make_encrypted import ENTRIES, KEY, OTHER, PASSPHRASE, TARGET

import walkv


@pytest.fixture
def path(tmp_path: Path) -> Path:
    shutil.copytree(TARGET, tmp_path / "s")
    return tmp_path / "s"


def files(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


@pytest.mark.parametrize("key", [KEY, PASSPHRASE])
def test_it_is_read_to_the_exact_content(path: Path, key: Any) -> None:
    if key == PASSPHRASE:
        shutil.copy(path / "MANIFEST.passphrase", path / "MANIFEST")
    for read_only in (True, False):
        with walkv.open(path, key=key, read_only=read_only, create=False) as store:
            assert store.recovery_report.clean
            assert dict(store.scan()) == ENTRIES
            assert store.verify().ok
            found = [operation.key for each in store.changes() for operation in each.operations]
            names = list(ENTRIES)
            assert found == [*names[:100], b"gone", *names[100:], b"gone"]
    with walkv.open(path, key=key) as store:
        store.rekey(OTHER)
        assert dict(store.scan()) == ENTRIES


@pytest.mark.parametrize(("key", "reason"), [(None, "missing"), (OTHER, "wrong"), ("x", "wrong")])
def test_no_other_key_opens_it(path: Path, key: Any, reason: str) -> None:
    with pytest.raises(walkv.EncryptionError) as caught:
        walkv.open(path, key=key, create=False)
    assert caught.value.reason == reason


def test_it_is_written_byte_for_byte(tmp_path: Path) -> None:
    make_encrypted.make(tmp_path / "again")
    made, known = files(tmp_path / "again"), files(TARGET)
    assert set(made) == set(known)
    for name, data in known.items():
        # Another release of zstd may compress differently; then sizes in the manifest differ too.
        if name.endswith((".wal", ".kept")):
            assert made[name] == data, name


def test_every_damage_has_a_typed_error_or_does_no_harm(path: Path) -> None:
    chooser = random.Random(1)
    refused = 0
    for name, data in files(path).items():
        if name in ("LOCK", "MANIFEST.passphrase") or name.endswith("KEEP"):
            continue
        for _ in range(60):
            damaged = bytearray(data)
            at = chooser.randrange(len(data))
            damaged[at] ^= 1 << chooser.randrange(8)
            (path / name).write_bytes(damaged)
            try:
                with walkv.open(path, key=KEY, read_only=True) as store:
                    assert dict(store.scan()).items() <= ENTRIES.items()
                    refused += not store.verify().ok
            except (walkv.CorruptionError, walkv.FormatError):
                refused += 1
        (path / name).write_bytes(data)
    assert refused > 100
