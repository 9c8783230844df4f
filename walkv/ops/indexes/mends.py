"""A disagreement, and the one write that ends it."""

from __future__ import annotations

from typing import NamedTuple


class Mend(NamedTuple):
    """What is wrong, and what puts it right.

    Attributes:
        line: for people; begins with the namespace.
        key: of the entry to write; empty where nothing helps.
        value: of it; None to delete it.
        expiry_ms: when it expires, or 0.
    """

    line: str
    key: bytes = b""
    value: bytes | None = None
    expiry_ms: int = 0
