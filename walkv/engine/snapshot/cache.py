"""Decoded pages in memory, within a budget.

A block that is looked up again while it is cached becomes *hot*: its items go into a dict of its
reader, so that the next look-up of any of its keys is one dict access. Once all of a reader's
blocks are hot, so is the look-up of a key that it does not have.

Invariants:
    1. ``used_bytes`` is at most ``budget_bytes`` whenever no insertion is running; a page larger
       than the whole budget is never kept.
    2. A reader's ``HotItems`` hold the items of exactly its hot blocks. A hot block that comes up
       for eviction is made cold and gets a second chance.
    3. Look-ups take no lock; what changes pages or hot items does.

Source: the clock algorithm (second chance). Exact least-recently-used order was rejected: it moves
a list element, and so takes a lock, at every hit. Searching the cached index and block at every hit
was rejected as well: it took twice as long (``benchmarks``, read-random).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, Final

from walkv.engine.snapshot.blocks import Block, Index, RawBlock

Page = Block | RawBlock | Index

_NEVER: Final = -1

READER_SHIFT: Final = 44
"""A page's token is reader << 44 | offset: one int, cheap to hash. Files stay below 16 TiB.

Readers are numbered by the cache and not by their file's name: a store that was replaced on disk
has other files under the same names.
"""


class HotItems(dict[bytes, Any]):
    """The items of a reader's hot blocks, by key.

    Attributes:
        complete_at: with so many items it holds every one of the snapshot, and a key that is not
            here is not in the snapshot. Never again once anything was taken out: who looks up a
            key just then must not think it absent.
    """

    __slots__ = ("complete_at",)

    def __init__(self) -> None:
        super().__init__()
        self.complete_at = _NEVER


class BlockCache:
    """Pages of all snapshots of one store, by token.

    Attributes:
        hits, misses: of look-ups that needed a data page; those among hot items need none. Counted
            without a lock, so a few may be missing.
    """

    __slots__ = (
        "_hot",
        "_lock",
        "_readers",
        "budget_bytes",
        "evictions",
        "hits",
        "misses",
        "pages",
        "used_bytes",
    )

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        # A token names one page of one kind, so the readers know which of the two they get.
        self.pages: OrderedDict[int, Any] = OrderedDict()
        self.used_bytes = 0
        self.evictions = 0
        self.hits = 0
        self.misses = 0
        self._hot: dict[int, HotItems] = {}
        self._readers = 0
        self._lock = threading.Lock()

    def add(self, token: int, page: Page, instead_of: RawBlock | None = None) -> None:
        """Keep a page that was just read or decoded, making room for it."""
        cost = page.cost_bytes
        if cost > self.budget_bytes:
            return
        with self._lock:
            try:
                if instead_of and self.pages.get(token) is instead_of:
                    self.used_bytes -= self.pages.pop(token).cost_bytes
                self._put(token, page, cost)
            except BaseException:
                # Ctrl-C in the middle: nobody knows what was counted. The cache begins anew.
                self._clear()
                raise

    def _put(self, token: int, page: Page, cost: int) -> None:
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
        for hot in self._hot.values():
            hot.complete_at = _NEVER
            hot.clear()

    def promote(self, token: int, block: Block, hot: HotItems) -> None:
        """Make a cached block hot; ``hot`` is its reader's."""
        with self._lock:
            if not block.hot and self.pages.get(token) is block:
                self._hot[token >> READER_SHIFT] = hot
                block.hot = True
                hot.update(zip(block.keys, block.items, strict=True))

    def _cool(self, token: int, page: Block | Index) -> None:
        page.hot = False
        if isinstance(page, Block):
            hot = self._hot[token >> READER_SHIFT]
            hot.complete_at = _NEVER
            for key in page.keys:
                hot.pop(key, None)

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
                self._hot.pop(reader, None)
            except BaseException:
                self._clear()
                raise
