"""Decoded pages in memory, within a budget.

A block that is looked up again while it is cached becomes *hot*: its items go into a dict of its
reader, so that the next look-up of any of its keys is one dict access.

Invariants:
    1. ``used_bytes`` is at most ``budget_bytes`` whenever no insertion is running; a page larger
       than the whole budget is never kept.
    2. A reader's ``entries`` hold the items of exactly its hot blocks. A hot block that comes up
       for eviction is made cold and gets a second chance.
    3. Look-ups take no lock; what changes pages or entries does.

Source: the clock algorithm (second chance). Exact least-recently-used order was rejected: it moves
a list element, and so takes a lock, at every hit. Searching the cached index and block at every hit
was rejected as well: it took twice as long (``benchmarks``, read-random).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, Final

from walkv.engine.snapshot.blocks import Block, Index

READER_SHIFT: Final = 44
"""A page's token is reader << 44 | offset: one int, cheap to hash. Files stay below 16 TiB.

Readers are numbered by the cache and not by their file's name: a store that was replaced on disk
has other files under the same names.
"""


class BlockCache:
    """Pages of all snapshots of one store, by token."""

    __slots__ = (
        "_entries",
        "_lock",
        "_readers",
        "budget_bytes",
        "evictions",
        "pages",
        "used_bytes",
    )

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        # A token names one page of one kind, so the readers know which of the two they get.
        self.pages: OrderedDict[int, Any] = OrderedDict()
        self.used_bytes = 0
        self.evictions = 0
        self._entries: dict[int, dict[bytes, Any]] = {}
        self._readers = 0
        self._lock = threading.Lock()

    def add(self, token: int, page: Block | Index) -> None:
        """Keep a page that was just read, making room for it."""
        cost = page.cost_bytes
        if cost > self.budget_bytes:
            return
        with self._lock:
            try:
                self._put(token, page, cost)
            except BaseException:
                # Ctrl-C in the middle: nobody knows what was counted. The cache begins anew.
                self._clear()
                raise

    def _put(self, token: int, page: Block | Index, cost: int) -> None:
        pages = self.pages
        if token in pages:
            return
        while self.used_bytes + cost > self.budget_bytes:
            old_token, old = pages.popitem(last=False)
            if old.hot:
                self._cool(old_token, old)
                pages[old_token] = old
            else:
                self.used_bytes -= old.cost_bytes
                self.evictions += 1
        pages[token] = page
        self.used_bytes += cost

    def _clear(self) -> None:
        self.pages.clear()
        self.used_bytes = 0
        for entries in self._entries.values():
            entries.clear()

    def promote(self, token: int, block: Block, entries: dict[bytes, Any]) -> None:
        """Make a cached block hot; ``entries`` are its reader's."""
        with self._lock:
            if not block.hot and self.pages.get(token) is block:
                self._entries[token >> READER_SHIFT] = entries
                block.hot = True
                entries.update(zip(block.keys, block.items, strict=True))

    def _cool(self, token: int, page: Block | Index) -> None:
        page.hot = False
        if isinstance(page, Block):
            entries = self._entries[token >> READER_SHIFT]
            for key in page.keys:
                entries.pop(key, None)

    def has_room(self, cost_bytes: int) -> bool:
        """Whether a page fits without evicting another."""
        return self.used_bytes + cost_bytes <= self.budget_bytes

    def next_reader(self) -> int:
        """A number for a reader's tokens that no other reader has."""
        with self._lock:
            self._readers += 1
            return self._readers

    def forget(self, reader: int) -> None:
        """Drop the pages of a snapshot that is no longer part of the store."""
        with self._lock:
            try:
                for token in [t for t in self.pages if t >> READER_SHIFT == reader]:
                    page = self.pages.pop(token)
                    self.used_bytes -= page.cost_bytes
                    if page.hot:
                        self._cool(token, page)
                self._entries.pop(reader, None)
            except BaseException:
                self._clear()
                raise
