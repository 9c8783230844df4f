"""What several namespaces use, and know nothing of any."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable
from typing import Final

INTERNAL: Final = frozenset(
    (
        "attach",
        "delete_found",
        "delete_in",
        "forget_session",
        "last_activity",
        "modify_in",
        "not_found",
        "now",
        "read_at_once",
        "register",
        "remove_in",
        "write_in",
    )
)
"""Methods of namespaces that other parts of walkv call, and users do not."""


class Unset:
    """The type of ``UNSET``."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset()
"""No expectation about a record's version."""


def checked_ttl(seconds: float | None) -> float | None:
    """The seconds that a record lasts, as given.

    Raises:
        ValueError: they make no sense.
    """
    if seconds is not None and not 0 < seconds < 1e12:
        raise ValueError(f"ttl_seconds must be above 0 and finite, not {seconds!r}")
    return seconds


def new_id() -> str:
    """28 hexadecimal digits: milliseconds since 1970, then random ones. Later ones sort later."""
    return f"{time.time_ns() // 1_000_000:012x}{random.getrandbits(64):016x}"


def spread(values: Iterable[float]) -> dict[str, float]:
    """``mean``, ``min``, ``max``, ``p50`` and ``p95`` of values, by the nearest rank.

    0.0 where there are no values.
    """
    found = sorted(values)
    if not found:
        return dict.fromkeys(("mean", "min", "max", "p50", "p95"), 0.0)
    return {
        "mean": sum(found) / len(found),
        "min": found[0],
        "max": found[-1],
        "p50": found[math.ceil(0.5 * len(found)) - 1],
        "p95": found[math.ceil(0.95 * len(found)) - 1],
    }
