"""Decoded pages in memory, within a budget.

Invariants:
    1. ``used_bytes`` is at most ``budget_bytes`` whenever no insertion is running, except that one
       page larger than the whole budget is never kept at all.
    2. A hit takes no lock: a page is found in a dict and marked as hot.

Source: the clock algorithm (second chance). Exact least-recently-used order was rejected: it moves
a list element, and so takes a lock, at every hit.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, Final

from walkv.engine.snapshot.blocks import Block, Index

SNAPSHOT_SHIFT: Final = 44
"""A page's token is snapshot_id << 44 | offset: one int, cheap to hash. Files stay below 16 TiB."""


class BlockCache:
    """Pages of all snapshots of one store, by token."""

    __slots__ = ("_lock", "budget_bytes", "evictions", "misses", "pages", "used_bytes")

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        # A token names one page of one kind, so the readers know which of the two they get.
        self.pages: OrderedDict[int, Any] = OrderedDict()
        self.used_bytes = 0
        self.misses = 0
        self.evictions = 0
        self._lock = threading.Lock()

    def add(self, token: int, page: Block | Index) -> None:
        """Keep a page that was just read, making room for it."""
        cost = page.cost_bytes
        if cost > self.budget_bytes:
            return
        with self._lock:
            self.misses += 1
            if token in self.pages:
                return
            pages = self.pages
            while self.used_bytes + cost > self.budget_bytes:
                old_token, old = pages.popitem(last=False)
                if old.hot:
                    old.hot = False
                    pages[old_token] = old
                else:
                    self.used_bytes -= old.cost_bytes
                    self.evictions += 1
            pages[token] = page
            self.used_bytes += cost

    def has_room(self, cost_bytes: int) -> bool:
        """Whether a page fits without evicting another."""
        return self.used_bytes + cost_bytes <= self.budget_bytes

    def forget(self, snapshot_id: int) -> None:
        """Drop the pages of a snapshot that is no longer part of the store."""
        with self._lock:
            for token in [t for t in self.pages if t >> SNAPSHOT_SHIFT == snapshot_id]:
                self.used_bytes -= self.pages.pop(token).cost_bytes
