"""Keys and values of other stores as bytes.

bytes          as they are
text           as UTF-8
a number       its decimal text, as ``repr`` writes it: 7, -1.5
"""

from __future__ import annotations

from typing import Any

from walkv import limits
from walkv.ops.moving.items import ENTRY, Item


def as_bytes(value: Any) -> bytes:
    """A key or a value as bytes.

    Raises:
        ValueError: it is none of those above.
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise ValueError("text with lone surrogates") from None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value).encode()
    raise ValueError(f"{'NULL' if value is None else type(value).__name__} has no bytes")


def entry(prefix: bytes, key: Any, value: bytes, expiry_ms: int = 0) -> Item:
    """An entry under a prefix.

    Raises:
        ValueError: its key cannot be one.
    """
    full_key = prefix + as_bytes(key)
    if not 0 < len(full_key) <= limits.MAX_KEY_BYTES:
        raise ValueError(f"a key has 1 to {limits.MAX_KEY_BYTES} bytes, this one {len(full_key)}")
    if full_key.startswith(b"\0"):
        raise ValueError("a key that begins with a zero byte, as those of records do; use a prefix")
    fields = {"key": full_key, "value": value}
    size_bytes = len(full_key) + len(value)
    return Item("", ENTRY, fields, expiry_ms=expiry_ms, size_bytes=size_bytes)
