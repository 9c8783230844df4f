"""Which source a file is, and opening it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from walkv.errors import ImportSourceError
from walkv.ops.moving.framing import FileReader
from walkv.ops.moving.sources import diskcache, google_adk, openai_agents
from walkv.ops.moving.sources.base import Source
from walkv.ops.moving.sources.diskcache import DiskCache
from walkv.ops.moving.sources.exported import Exported
from walkv.ops.moving.sources.google_adk import GoogleADK
from walkv.ops.moving.sources.openai_agents import OpenAIAgents
from walkv.ops.moving.sources.sqlite import opened, tables
from walkv.ops.moving.sources.table import SQLiteTable

WALKV: Final = Exported.kind
TABLE: Final = SQLiteTable.kind
LANGGRAPH: Final = "langgraph-sqlite"
KINDS: Final = (WALKV, OpenAIAgents.kind, GoogleADK.kind, DiskCache.kind, TABLE)
_SQLITE: Final = b"SQLite format 3\0"


@dataclass(frozen=True)
class Options:
    """What some sources need to be told; see ``import_``."""

    table: str | None = None
    key: Sequence[str] = ()
    value: str | None = None
    namespace: str | None = None
    prefix: bytes = b""
    allow_pickle: bool = False
    without_masked: bool = False


def detect(path: str | os.PathLike[str]) -> str:
    """The kind of a source, told by what is in it.

    Returns:
        One of ``KINDS`` but for a plain table, or ``"langgraph-sqlite"``.
    Raises:
        FileNotFoundError: there is no such file.
        ImportSourceError: it is none of them, with what was found.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        if diskcache.databases(path):
            return DiskCache.kind
        raise ImportSourceError("this is a directory, and no cache of diskcache", path=path)
    with open(path, "rb") as file:
        head = file.read(len(_SQLITE))
        if head != _SQLITE:
            if not head:
                raise ImportSourceError("this file is empty", path=path)
            file.seek(0)
            FileReader(file, path)
            return WALKV
    with opened(path) as connection:
        if openai_agents.find(connection):
            return OpenAIAgents.kind
        if google_adk.find(connection):
            return GoogleADK.kind
        if diskcache.find(connection):
            return DiskCache.kind
        there = tables(connection)
        if {"checkpoints", "store"} & there.keys():
            return LANGGRAPH
    names = ", ".join(sorted(there)) or "none"
    raise ImportSourceError(
        f"this SQLite file is of no kind that is known; to take a table of it, say which and what "
        f"its key is; its tables: {names}",
        path=path,
    )


@contextmanager
def opened_source(path: str, kind: str, options: Options) -> Iterator[Source]:
    """A source of a kind.

    Raises:
        ImportSourceError: it is none, is damaged, locked or empty; also in the block.
        ValueError: something that is needed was not given.
    """
    with ExitStack() as stack:
        yield _source(stack, path, kind, options)


def _source(stack: ExitStack, path: str, kind: str, options: Options) -> Source:
    if kind == WALKV:
        file = stack.enter_context(open(path, "rb"))  # noqa: SIM115  # the stack closes it
        return Exported(file, path, without_masked=options.without_masked)
    if kind == DiskCache.kind:
        os.stat(path)
        return DiskCache(stack, path, prefix=options.prefix, allow_pickle=options.allow_pickle)
    if kind not in KINDS:
        raise ValueError(f"a source is one of {', '.join(KINDS)}, not {kind!r}")
    connection = stack.enter_context(opened(path))
    if kind == OpenAIAgents.kind:
        return OpenAIAgents(connection, path)
    if kind == GoogleADK.kind:
        return GoogleADK(connection, path)
    if options.table is None:
        raise ValueError("a table needs its name, and that of its key column")
    return SQLiteTable(
        connection,
        path,
        table=options.table,
        key=options.key,
        value=options.value,
        prefix=options.prefix,
        namespace=options.namespace,
    )
