"""What a source has, into a store; then both are read again and held against each other.

Invariants:
    1. Nothing is written before the source was found whole, as far as that can be told.
    2. Whoever was stopped begins again: what is there already is found so, and is not written
       twice. So an import that was killed, and run again, has done what one run would have.
    3. ``ok`` is true only if every item of the source was found in the store afterwards, saying the
       same, or had expired.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Final

from walkv.engine.inspect import Progress
from walkv.engine.store import Store, open
from walkv.errors import CodecError, ImportSourceError, LimitError
from walkv.ops.moving import shelves
from walkv.ops.moving.items import Item, Problems, Tally, digest, is_counted
from walkv.ops.moving.shelves import Shelves
from walkv.ops.moving.sources.base import Source
from walkv.ops.moving.sources.opening import LANGGRAPH, Options, detect, opened_source

_BATCH_ITEMS: Final = 256
_BATCH_BYTES: Final = 4 << 20


@dataclass(slots=True)
class Moved:
    """What became of the items of a namespace.

    Attributes:
        source_count: items that the source has, those that have expired aside.
        written_count: were written now.
        present_count: were there already.
        differing_count: are there, and are others; they were left as they are.
        expired_count: have expired, and were not written.
        source, store: counts and checksums of what the source has, and of what the store has in
            its place, read again at the end.
    """

    written_count: int = 0
    present_count: int = 0
    differing_count: int = 0
    expired_count: int = 0
    source: Tally = field(default_factory=Tally)
    store: Tally = field(default_factory=Tally)

    @property
    def source_count(self) -> int:
        """Items that are to be in the store."""
        return self.source.count

    @property
    def same(self) -> bool:
        """Whether the store has what the source has."""
        return self.source == self.store


@dataclass(frozen=True)
class ImportReport:
    """What an import has done.

    Attributes:
        namespaces: by name; under "" the entries that are of none.
        problems: what could not be moved, a line each, a hundred at most.
        problem_count: how much could not be moved.
        differences: what is otherwise in the store than in the source, a line each, likewise.
    """

    kind: str
    path: str
    namespaces: dict[str, Moved]
    problems: tuple[str, ...]
    problem_count: int
    differences: tuple[str, ...]
    difference_count: int

    @property
    def ok(self) -> bool:
        """Whether the store has all that the source has."""
        same = all(each.same for each in self.namespaces.values())
        return same and not self.problem_count and not self.difference_count


def import_(
    store: Store | str | os.PathLike[str],
    source: str | os.PathLike[str],
    *,
    kind: str | None = None,
    namespaces: Sequence[str] | None = None,
    replace: bool = False,
    without_masked: bool = False,
    table: str | None = None,
    key: str | Sequence[str] = (),
    value: str | None = None,
    namespace: str | None = None,
    prefix: bytes = b"",
    allow_pickle: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Move what a file has into a store. Nothing in the file changes.

    Args:
        store: an open store, which an ``AgentStore`` should not be open on meanwhile; or the path
            of one, which is made if there is none.
        source: a file that ``export`` has written, a SQLite file, or the directory of a cache.
        kind: one of ``walkv``, ``openai-agents``, ``google-adk``, ``diskcache``, ``sqlite-table``;
            found out if it is not given.
        namespaces: only these; "" stands for the entries that are of none.
        replace: what is in the store, and is another in the source, is written over; else it stays
            and is counted as differing.
        without_masked: of an export with masked secrets take the records without these fields.
        table, key, value, namespace: of a plain table: its name, its key column or columns, and
            either the column of the values, which makes entries, or else the namespace of the
            records that its rows become.
        prefix: put before the keys of entries from a cache or a table.
        allow_pickle: read pickles of a cache, which runs what is in them.
        progress: called with how many items were gone through, and about how many there are to go
            through: each once or twice to write it, and once to compare.
    Returns:
        Counts and checksums of both sides, and what differs.
    Raises:
        ImportSourceError: the source is not of this kind, is damaged, cut, locked or empty, or has
            masked fields; of an export, nothing was written.
        FormatError: a namespace does not fit with what is in the store.
        ReadOnlyError, LockedError, OSError and others: of the store.
    Cost: reads the source twice, an export three times.
    Durability: all of it is durable on return. If it is stopped, a part of it is there, and the
        next import goes on.
    """
    options = Options(
        table,
        (key,) if isinstance(key, str) else tuple(key),
        value,
        namespace,
        prefix,
        allow_pickle,
        without_masked,
    )

    def opening() -> AbstractContextManager[Store]:
        return nullcontext(store) if isinstance(store, Store) else open(os.fspath(store))

    return move(opening, source, kind, options, namespaces, replace, progress)


def move(
    opening: Callable[[], AbstractContextManager[Store]],
    source: str | os.PathLike[str],
    kind: str | None,
    options: Options,
    namespaces: Sequence[str] | None = None,
    replace: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """As ``import_``, into a store that is opened once the source was found whole.

    Args:
        opening: opens it.
    """
    path = os.fspath(source)
    found = kind or detect(path)
    if found == LANGGRAPH:
        raise ImportSourceError(
            "LangGraph has written this: use walkv.integrations.langgraph.import_sqlite, or "
            "walkv import langgraph-sqlite",
            path=path,
        )
    with opened_source(path, found, options) as opened:
        work = _Import(opened, namespaces, progress)
        work.check(options.without_masked)
        with opening() as target:
            return work.run(target, replace)


class _Import:
    def __init__(
        self, source: Source, namespaces: Sequence[str] | None, progress: Progress | None
    ) -> None:
        self._source = source
        self._wanted = None if namespaces is None else set(namespaces)
        self._progress = progress
        self._done = 0
        self._moved: dict[str, Moved] = {}
        self._problems = Problems()
        self._differences = Problems()

    # -- before anything is written ----------------------------------------------------------------

    def check(self, without_masked: bool) -> None:
        """See whether the source is whole, and can be taken as it is."""
        source = self._source
        source.check()
        if self._wanted is not None:
            there = source.namespaces.keys() | {""}
            if source.raw or self._wanted - there:
                names = ", ".join(sorted(source.namespaces)) or "none"
                raise ImportSourceError(
                    "entries are taken as they are, all of them"
                    if source.raw
                    else f"not all of these namespaces are in it; there are {names}",
                    path=source.path,
                )
        hidden = [
            f"{name}.{each}"
            for name, fields in source.masked.items()
            for each in fields
            if self._is_wanted(name) and not without_masked
        ]
        if hidden:
            raise ImportSourceError(
                f"{', '.join(hidden)} are masked in it; export with secrets, or take the records "
                "without these fields",
                path=source.path,
            )

    def _is_wanted(self, name: str) -> bool:
        return self._wanted is None or name in self._wanted

    # -- writing, and reading again ----------------------------------------------------------------

    def run(self, store: Store, replace: bool) -> ImportReport:
        """Write, sync, compare."""
        source = self._source
        wanted = {n: entry for n, entry in source.namespaces.items() if self._is_wanted(n)}
        target = Shelves(store.engine, wanted, raw=source.raw, replace=replace)
        if source.raw:
            self._refuse_conflicts(target)
            target.take_registry()
        for batch in self._batches(self._problems):
            for item, outcome in target.write(batch, self._problems):
                if is_counted(item):
                    moved = self._moved.setdefault(item.namespace, Moved())
                    name = f"{outcome}_count"
                    setattr(moved, name, getattr(moved, name) + 1)
            self._advance(len(batch))
        store.sync()
        for batch in self._batches(Problems()):
            for item in batch:
                self._compare(target, item)
            self._advance(len(batch))
        return ImportReport(
            source.kind,
            source.path,
            dict(sorted(self._moved.items())),
            tuple(self._problems.lines),
            self._problems.count,
            tuple(self._differences.lines),
            self._differences.count,
        )

    def _refuse_conflicts(self, target: Shelves) -> None:
        for batch in self._batches(Problems()):
            for item in batch:
                if target.conflict(item):
                    raise ImportSourceError(
                        f"the store has another entry under {item.fields['key']!r:.80}, which is "
                        "of a namespace, so that the two cannot be joined; import into a new "
                        "store, or export records; nothing was written",
                        path=self._source.path,
                    )
            self._advance(len(batch))

    def _advance(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            total = self._source.item_count * (3 if self._source.raw else 2)
            self._progress(self._done, max(total, self._done))

    def _batches(self, problems: Problems) -> Iterator[list[Item]]:
        batch: list[Item] = []
        size_bytes = 0
        for item in self._source.items(problems):
            if not self._is_wanted(item.namespace):
                continue
            batch.append(item)
            size_bytes += item.size_bytes
            if len(batch) >= _BATCH_ITEMS or size_bytes >= _BATCH_BYTES:
                yield batch
                batch, size_bytes = [], 0
        if batch:
            yield batch

    def _compare(self, target: Shelves, item: Item) -> None:
        try:
            found, wanted = target.stored(item), digest(item)
        except (CodecError, LimitError, TypeError, ValueError, OverflowError):
            # It has no place in any store, and is a problem already.
            self._moved.setdefault(item.namespace, Moved()).source.count += 1
            return
        if found is None and target.has_expired(item):
            return
        if is_counted(item):
            moved = self._moved.setdefault(item.namespace, Moved())
            moved.source.add(item)
            if found is not None:
                moved.store.add(found)
        if found is None or digest(found) != wanted:
            what = "missing" if found is None else "another one"
            self._differences.append(f"{shelves.named(item)} is {what} in the store")
