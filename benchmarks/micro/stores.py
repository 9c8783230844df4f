"""The stores that are read: the same entries, settled in files or still in memory.

*Invariants*

1. Keys and values are those of ``benchmarks.dataset``: 16 and 100 bytes, half compressible.
2. ``cold_keys`` are in blocks of their own, and there are more of them than ``COLD_CACHE_BYTES``
   holds, so that every look-up reads and decodes one. They jump from partition to partition, so
   that the index pages are used too often to leave the cache.
"""

import random
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import walkv
from benchmarks.dataset import Dataset

VALUE_BYTES = 100
BATCH_ENTRIES = 1_000
BLOCK_ENTRIES = 100
"""More than a block has of these entries."""
COLD_CACHE_BYTES = 512 << 10
SEED = 1


def dataset(entries: int) -> Dataset:
    return Dataset(entries, VALUE_BYTES, SEED)


def fill(store: walkv.Store, data: Dataset, indexes: range) -> None:
    """Put entries, in batches, in the order of their keys."""
    for batch_of in data.batches(list(indexes), BATCH_ENTRIES):
        with store.batch() as batch:
            for key, value in batch_of:
                batch.put(key, value)


def settled(path: Path, data: Dataset, indexes: range | None = None) -> None:
    """A closed store with its entries in one snapshot."""
    with walkv.open(path, sync=walkv.WriteBack()) as store:
        fill(store, data, range(data.entries) if indexes is None else indexes)
        store.compact()


def cold_keys(data: Dataset) -> Iterator[bytes]:
    """Keys of which none is in a block that is still cached; see invariant 2."""
    indexes = list(range(0, data.entries, BLOCK_ENTRIES))
    random.Random(SEED).shuffle(indexes)
    return cycle([data.key(index) for index in indexes])
