"""Ordered put and delete operations <-> one frame payload.

Layout: a payload is one msgpack array of 2n elements for n operations, a *subject* and an *item*
in turn:

    operation        subject          item
    ---------------  ---------------  --------------------------------------
    put              bin key          bin value
    put that expires bin key          [uint expiry_ms, bin value]
    delete           bin key          nil
    delete range     [start, stop]    nil         stop nil: to the last key

    expiry_ms is the wall-clock time, in ms since 1970, from which on the entry is absent.

Invariants:
    1. An item has the same form in a payload, in a memtable's scan and in a snapshot block.
    2. Decoding either gives operations within ``limits`` or raises ``ValueError``: a payload whose
       checksum is right may still be hostile.
    3. Keys of one payload may repeat; the last operation on a key wins.

Source: one flat array, so that one call of C code encodes or decodes a batch of any size. A struct
per operation was rejected: it costs a batch of 1,000 five times as much in Python.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

from walkv import limits

Item = Any
"""``bytes``, ``[expiry_ms, bytes]`` or None; see the layout."""


SMALL_BYTES: Final = 256
KEY_HEADS: Final = tuple(b"\x92\xc4" + bytes((size,)) for size in range(SMALL_BYTES))
VALUE_HEADS: Final = tuple(b"\xc4" + bytes((size,)) for size in range(SMALL_BYTES))
DELETION: Final = b"\xc0"
"""The payload of one put of a small key and value is KEY_HEADS[len(key)] + key +
VALUE_HEADS[len(value)] + value: what the packer gives, at a third of its cost. That of a deletion
ends in DELETION instead."""


def make_packer() -> Any:
    """A function that encodes a list of subjects and items. Not to be shared between threads."""
    return msgpack.Packer(use_bin_type=True, autoreset=True).pack


def encode(operations: list[Any]) -> bytes:
    """The payload for subjects and items in turn."""
    return bytes(msgpack.packb(operations, use_bin_type=True))


def decode(payload: bytes) -> list[Any]:
    """Subjects and items in turn, checked.

    Raises:
        ValueError: not a payload, or one outside ``limits``.
    Cost: one C call, and one pass in Python over the types.
    """
    try:
        operations = msgpack.unpackb(payload)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise ValueError(f"not msgpack: {error}") from None
    if type(operations) is not list or len(operations) % 2 or not operations:
        raise ValueError("not an array of subjects and items")
    if len(operations) == 2 and type(operations[0]) is type(operations[1]) is bytes:
        # One put, the commonest commit.
        if not 0 < len(operations[0]) <= limits.MAX_KEY_BYTES:
            raise ValueError(f"key of {len(operations[0])} bytes")
        return operations
    for key in operations[::2]:
        if type(key) is bytes:
            if not 0 < len(key) <= limits.MAX_KEY_BYTES:
                raise ValueError(f"key of {len(key)} bytes")
        elif not _is_range(key):
            raise ValueError("neither a key nor a range")
    for index, item in enumerate(operations[1::2]):
        if type(item) is not bytes and item is not None and not is_expiring(item):
            raise ValueError("neither a value nor a deletion")
        if item is not None and type(operations[2 * index]) is not bytes:
            raise ValueError("a range with a value")
    return operations


def _is_range(subject: Any) -> bool:
    if type(subject) is not list or len(subject) != 2 or type(subject[0]) is not bytes:
        return False
    start, stop = subject
    if stop is None:
        return len(start) <= limits.MAX_KEY_BYTES
    if type(stop) is not bytes or max(len(start), len(stop)) > limits.MAX_KEY_BYTES:
        return False
    return bool(start < stop)


def is_expiring(item: Any) -> bool:
    """Whether an item is a value with an expiry, well formed."""
    return (
        type(item) is list
        and len(item) == 2
        and type(item[0]) is int
        and 0 <= item[0] < 1 << 63
        and type(item[1]) is bytes
    )


_WITH_DELETION_BYTES: Final = 4 * limits.KIB
"""A batch that deletes something and is no longer than this makes room, and takes none."""


def takes_space(operations: list[Any]) -> bool:
    """Whether a batch puts something, and not only what goes with a deletion: a new count, say."""
    if None in operations[1::2]:
        return len(encode(operations)) > _WITH_DELETION_BYTES
    return True
