"""Errors say what, where and what to do; limits fit each other."""

from __future__ import annotations

import pickle

import pytest

import walkv
from walkv import errors, limits
from walkv.engine import frame


def test_attributes_and_messages() -> None:
    corrupt = walkv.CorruptionError(
        "page checksum does not match", path="/s/x.snap", offset_bytes=64, expected="aa", found="bb"
    )
    text = str(corrupt)
    for part in ("/s/x.snap", "byte 64", "page checksum does not match", "aa", "bb", "backup"):
        assert part in text
    assert (corrupt.path, corrupt.offset_bytes, corrupt.reason) == (
        "/s/x.snap",
        64,
        "page checksum does not match",
    )
    assert (corrupt.expected, corrupt.found) == ("aa", "bb")
    assert str(walkv.CorruptionError("gone")).startswith("store: gone. Nothing was changed")
    locked = walkv.LockedError("m", path="p", pid=3, host="h")
    assert (locked.path, locked.pid, locked.host) == ("p", 3, "h")
    limit = walkv.LimitError("m", name="MAX_KEY_BYTES", limit=1, actual=2)
    assert (limit.name, limit.limit, limit.actual) == ("MAX_KEY_BYTES", 1, 2)
    format_error = walkv.FormatError("m", path="p", found_version=2, supported=(1,))
    assert (format_error.found_version, format_error.supported) == (2, (1,))
    conflict = walkv.ConflictError("m", key=b"k", expected_version=1, actual_version=None)
    assert (conflict.key, conflict.expected_version, conflict.actual_version) == (b"k", 1, None)


def test_classes_that_callers_may_catch() -> None:
    assert issubclass(walkv.LimitError, ValueError)
    assert issubclass(errors.CodecError, ValueError)
    assert issubclass(errors.RecordNotFoundError, KeyError)
    assert str(errors.RecordNotFoundError("no such session")) == "no such session"
    assert not issubclass(walkv.ClosedError, walkv.StoreFailedError)
    assert not issubclass(walkv.StoreFailedError, walkv.ClosedError)


@pytest.mark.parametrize(
    "error",
    [
        walkv.ClosedError("m"),
        walkv.CorruptionError("m", path="p", offset_bytes=1, expected=2, found=3),
        walkv.LockedError("m", path="p", pid=3, host="h"),
        walkv.LimitError("m", name="n", limit=1, actual=2),
        walkv.FormatError("m", path="p", found_version=2, supported=(1,)),
        walkv.ConflictError("m", key=b"k", expected_version=1),
    ],
)
def test_errors_cross_a_process_pool(error: walkv.WalkvError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_what_may_be_written_may_be_read() -> None:
    assert limits.MAX_KEY_BYTES == 65_535
    assert limits.MAX_VALUE_BYTES == 1 << 30
    assert limits.MAX_BATCH_BYTES >= limits.MAX_KEY_BYTES + limits.MAX_VALUE_BYTES
    # msgpack: at most 5 bytes before a key and 5 before a value, 9 for an expiry, 2 for its array.
    worst = limits.MAX_BATCH_BYTES + limits.MAX_BATCH_OPERATIONS * 16 + 5
    assert worst <= limits.MAX_PAYLOAD_BYTES < 1 << 32
    assert limits.MAX_BLOCK_BYTES >= limits.MAX_KEY_BYTES + limits.MAX_VALUE_BYTES + 64
    assert limits.MAX_BLOCK_BYTES < 1 << 32
    assert frame.HEADER_BYTES == 44
    assert limits.MIN_MEMTABLE_BYTES <= limits.DEFAULT_MEMTABLE_BYTES
