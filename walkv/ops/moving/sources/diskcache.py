"""Directories of diskcache: ``Cache``, ``FanoutCache``, and what is built on them.

    Cache (key, raw, expire_time, mode, filename, value, ...)     entries

    key      as bytes, see ``plain``, behind the prefix
    value    mode 1: what is in the table, as bytes; 2: a file, as it is; 3: a file of text;
             4: a pickle, in the table or in a file
    expires  expire_time, to the millisecond; what has expired is left there

A pickle runs what is in it when it is read, so keys and values that are pickled are refused unless
they are asked for; a value is then stored as ``codec`` writes it, which is msgpack. Tags and times
of access are not moved. Read from the code of diskcache 5.6.
"""

from __future__ import annotations

import os
import pickle
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Final

from walkv import limits
from walkv.errors import CodecError, ImportSourceError
from walkv.namespaces import codec
from walkv.namespaces.registry import Entry
from walkv.ops.moving.items import Item, Problems
from walkv.ops.moving.sources import plain
from walkv.ops.moving.sources.base import empty
from walkv.ops.moving.sources.sqlite import count, opened, tables

_COLUMNS: Final = {"key", "raw", "expire_time", "mode", "filename", "value"}
_DATABASE: Final = "cache.db"
_SHARD: Final = re.compile(r"\d{3,}")
_RAW, _BINARY, _TEXT, _PICKLE = 1, 2, 3, 4


def find(connection: sqlite3.Connection) -> bool:
    """Whether diskcache has made this file."""
    return tables(connection).get("Cache", set()) >= _COLUMNS


def databases(path: str) -> list[str]:
    """The database of a cache, or those of its shards; none if there are none."""
    if not os.path.isdir(path):
        return [path]
    whole = os.path.join(path, _DATABASE)
    if os.path.isfile(whole):
        return [whole]
    shards = sorted(name for name in os.listdir(path) if _SHARD.fullmatch(name))
    found = [os.path.join(path, name, _DATABASE) for name in shards]
    return [each for each in found if os.path.isfile(each)]


class DiskCache:
    """The entries of a cache.

    Args:
        stack: closes its files.
        prefix: put before each key.
        allow_pickle: read pickles, which runs what is in them.
    """

    kind = "diskcache"
    raw = False
    masked: Final[dict[str, tuple[str, ...]]] = {}

    def __init__(
        self, stack: ExitStack, path: str, *, prefix: bytes = b"", allow_pickle: bool = False
    ) -> None:
        self.path = path
        self.namespaces: dict[str, Entry] = {}
        self._prefix = prefix
        self._allow_pickle = allow_pickle
        found = databases(path)
        self._shards: Sequence[tuple[str, sqlite3.Connection]] = [
            (os.path.dirname(os.path.abspath(each)), stack.enter_context(opened(each)))
            for each in found
        ]
        if not found or not all(find(connection) for _, connection in self._shards):
            raise ImportSourceError("there is no cache of diskcache in it", path=path)
        self.item_count = sum(count(connection, "Cache") for _, connection in self._shards)
        if not self.item_count:
            raise empty(path, "the cache has no entry")

    def check(self) -> None:
        """SQLite has no checksums; what is wrong with a page is told where it is read."""

    def items(self, problems: Problems) -> Iterator[Item]:
        """The entries, those too that have expired."""
        for directory, connection in self._shards:
            rows = connection.execute(
                "SELECT key, raw, expire_time, mode, filename, value FROM Cache ORDER BY rowid"
            )
            for key, raw, expire_time, mode, filename, value in rows:
                try:
                    full_key = key if raw else self._unpickled(key)
                    data = self._value(directory, mode, filename, value)
                    expiry_ms = _expiry_ms(expire_time)
                    yield plain.entry(self._prefix, full_key, data, expiry_ms)
                except (ValueError, OSError) as error:
                    problems.append(f"entry {key!r:.80}: {error}")

    def _value(self, directory: str, mode: Any, filename: Any, value: Any) -> bytes:
        if mode == _RAW:
            return plain.as_bytes(value)
        if mode in (_BINARY, _TEXT):
            return _file(directory, filename)
        if mode == _PICKLE:
            data = value if value is not None else _file(directory, filename)
            try:
                return codec.encode(self._unpickled(data))
            except CodecError as error:
                raise ValueError(f"its value: {error}") from error
        raise ValueError(f"its value is of mode {mode!r}, which diskcache has not")

    def _unpickled(self, data: Any) -> Any:
        if not self._allow_pickle:
            raise ValueError("it is pickled, and reading a pickle runs what is in it; allow it")
        try:
            return pickle.loads(data)
        except Exception as error:  # a pickle raises whatever it likes
            raise ValueError(f"its pickle cannot be read: {type(error).__name__}") from error


def _expiry_ms(expire_time: Any) -> int:
    if expire_time is None:
        return 0
    if not isinstance(expire_time, int | float) or not abs(expire_time) < 1e12:
        raise ValueError(f"it expires at {expire_time!r}, which is no time")
    return max(1, round(expire_time * 1000))


def _file(directory: str, filename: Any) -> bytes:
    """A file of the cache, and none beside it whatever the database says."""
    if type(filename) is not str or not filename:
        raise ValueError("the name of its file is missing")
    root = os.path.realpath(directory)
    path = os.path.realpath(os.path.join(root, filename))
    if os.path.commonpath((root, path)) != root:
        raise ValueError(f"its file would be outside the cache: {filename!r}")
    if os.path.getsize(path) > limits.MAX_VALUE_BYTES:
        raise ValueError(f"its value has more than {limits.MAX_VALUE_BYTES} bytes")
    with open(path, "rb") as file:
        return file.read()
