"""SQLite files of others: read as of one moment, and never written to.

Invariants:
    1. A file is opened with ``mode=ro`` and read in one transaction, so a program may have it open
       and write to it meanwhile. ``immutable`` is never used: it reads past a log that is alive.
    2. What SQLite says against a file becomes an ``ImportSourceError`` with its words.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from walkv.errors import ImportSourceError

_WAIT_SECONDS: Final = 5.0
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@contextmanager
def opened(path: str) -> Iterator[sqlite3.Connection]:
    """A SQLite file as of one moment.

    Raises:
        FileNotFoundError: there is none.
        ImportSourceError: it is no SQLite file, is damaged, or locked; also in the block.
    """
    path = os.path.abspath(path)
    os.stat(path)
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    try:
        uri = f"file:{quoted}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=_WAIT_SECONDS)) as connection:
            connection.isolation_level = None
            # Text that is no UTF-8 is told of by row, not by the file.
            connection.text_factory = _text
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            yield connection
    except sqlite3.Error as error:
        hint = ""
        if "locked" in str(error):
            hint = "; another program is writing to it: try again"
        elif "unable to open" in str(error):
            hint = "; a file in WAL mode needs its directory to be writable, or copy it first"
        raise ImportSourceError(
            f"this cannot be read with SQLite: {error}{hint}", path=path
        ) from error


def _text(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


_HIDDEN: Final = 1
"""What ``table_xinfo`` says of the inner columns of a virtual table."""


def quoted(name: str) -> str:
    """A name of a table or column for a statement."""
    return '"' + name.replace('"', '""') + '"'


def tables(connection: sqlite3.Connection) -> dict[str, set[str]]:
    """The columns of each table, by name."""
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return {name: set(columns(connection, name)) for (name,) in names}


def columns(connection: sqlite3.Connection, table: str) -> list[str]:
    """The columns of a table, in order, those that are generated among them."""
    found = connection.execute(f"PRAGMA table_xinfo({quoted(table)})")
    return [row[1] for row in found if row[6] != _HIDDEN]


def count(connection: sqlite3.Connection, *names: str) -> int:
    """How many rows tables have together."""
    found = [connection.execute(f"SELECT count(*) FROM {quoted(name)}") for name in names]
    return sum(each.fetchone()[0] for each in found)


def moment(value: Any) -> datetime:
    """A time as programs put it into SQLite: seconds since 1970, or text, in UTC if it is silent.

    Raises:
        ValueError: it is none.
    """
    try:
        if isinstance(value, int | float):
            return _EPOCH + timedelta(seconds=value)
        found = datetime.fromisoformat(value)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"this is no time: {value!r}") from error


def text(value: Any) -> str:
    """What has to be text.

    Raises:
        ValueError: it is none.
    """
    if type(value) is not str:
        raise ValueError(f"text is wanted, and this is {type(value).__name__}")
    return value


def parsed(value: Any) -> Any:
    """What JSON says.

    Raises:
        ValueError: it is none.
    """
    try:
        return json.loads(text(value))
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
