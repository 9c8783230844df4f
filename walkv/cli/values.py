"""Values of records as JSON and as cells of a table.

Invariants:
    1. Two different values may look the same in a cell, but not in JSON, up to what JSON has no
       word for: a tuple, a set and a list are all arrays, and times are ISO 8601 text.
    2. A cell is one line, and does nothing to a terminal.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

from walkv.cli import output
from walkv.cli.text import escaped, one_line

LONGEST_CELL: Final = 200
"""Characters of a cell where there is no window to cut it to."""

_PLAIN_YEAR: Final = timedelta(days=300)


def plain(value: Any) -> Any:
    """A value of a record as ``json`` takes it.

    Bytes become ``{"base64": ...}``; times ISO 8601 text; numbers that JSON has not, text. Keys of
    mappings become text; where two would become the same, the mapping becomes an array of pairs.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return _plain_mapping(value)
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(map(plain, value), key=json.dumps)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value)  # a UUID or a Decimal


def _plain_mapping(value: Mapping[Any, Any]) -> Any:
    named = {
        key if isinstance(key, str) else json.dumps(plain(key)): plain(each)
        for key, each in value.items()
    }
    if len(named) == len(value):
        return named
    return [[plain(key), plain(each)] for key, each in value.items()]


def cell(value: Any) -> str:
    """A value on one line, for a person."""
    if value is None:
        return ""
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, datetime):
        return instant(value) if value.tzinfo else f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, bytes):
        return escaped(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{cell(key)}: {_inner(each)}" for key, each in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(map(_inner, value))
    return one_line(str(plain(value)))


def _inner(value: Any) -> str:
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return one_line(json.dumps(plain(value), ensure_ascii=False))
    return cell(value)


def instant(value: datetime) -> str:
    """``2026-11-28 19:30:55.695432Z``: a time in UTC, as ``read_instant`` takes it."""
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}Z"


def read_instant(text: str) -> datetime:
    """A time in UTC, of one with ``Z``, ``UTC`` or an offset at its end, or else of local time.

    Raises:
        ValueError: it is none.
    """
    form = re.sub(r"\s*UTC$", "Z", text.strip(), flags=re.IGNORECASE)
    try:
        return datetime.fromisoformat(form).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise ValueError(
            f"{text!r} is no time; write it as 2026-11-28T14:00, with Z or +01:00 if it is not "
            "local time"
        ) from None


def moment(value: datetime | None) -> str:
    """A time of a column that says UTC, to the second, without its year where that is plain."""
    if value is None:
        return ""
    recent = abs(datetime.now(UTC) - value) < _PLAIN_YEAR
    return f"{value:%m-%d %H:%M:%S}" if recent else f"{value:%Y-%m-%d %H:%M:%S}"


def seconds(value: float | None) -> str:
    """``1.2 ms``"""
    return "" if value is None else output.duration(value)


def size(value: int | None) -> str:
    """``1.2 MiB``"""
    return "" if value is None else output.size(value)
