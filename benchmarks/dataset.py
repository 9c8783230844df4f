"""The keys and values every engine is given: made from a seed, the same for all.

*Invariants*

1. `key` and `missing_key` never meet: present keys are even numbers, missing keys the odd
   numbers between them, so that a missing key falls inside the range of every file and page.
2. `value` depends on the seed and the index only, so that any process can check any answer.

*Source*: LevelDB's ``benchmarks/db_bench.cc``: 16-digit keys, values cut from a 1 MiB pool of
pieces whose second half repeats the first. Its ``readmissing`` appends a dot to a present key,
which would make the missing keys longer than the present ones; odd numbers do not.
"""

import random
from collections.abc import Iterator

Item = tuple[bytes, bytes]

PIECE_BYTES = 100
POOL_BYTES = 1 << 20
# A prime larger than any number of entries, hence coprime to it: index * SCATTER % entries
# visits every index once, in an order no engine can guess, without a list in memory.
SCATTER = 2_654_435_761


class Dataset:
    """`entries` keys of 16 bytes with values of `value_bytes`, half compressible."""

    def __init__(self, entries: int, value_bytes: int, seed: int) -> None:
        self.entries = entries
        self.value_bytes = value_bytes
        self.seed = seed
        generator = random.Random(seed)
        piece_count = -(-max(POOL_BYTES, 4 * value_bytes) // PIECE_BYTES)
        self._pool = b"".join(generator.randbytes(PIECE_BYTES // 2) * 2 for _ in range(piece_count))
        self._starts = (len(self._pool) - value_bytes) // PIECE_BYTES

    @staticmethod
    def key(index: int) -> bytes:
        """The key of entry `index`; key order is index order."""
        return b"%016d" % (2 * index)

    @staticmethod
    def missing_key(index: int) -> bytes:
        """A key no entry has, between entry `index` and the next."""
        return b"%016d" % (2 * index + 1)

    def value(self, index: int) -> bytes:
        """The value of entry `index`."""
        # Cut at the start of a piece: anywhere else, the repeated half would be cut off too.
        start = index * SCATTER % self._starts * PIECE_BYTES
        return self._pool[start : start + self.value_bytes]

    def random_order(self, purpose: str) -> list[int]:
        """Every index once, shuffled by the seed and by `purpose`."""
        return random.Random(f"{self.seed}/{purpose}").sample(range(self.entries), self.entries)

    def batches(self, order: list[int], batch_entries: int) -> Iterator[list[Item]]:
        """The entries of `order`, in lists of `batch_entries`."""
        for start in range(0, len(order), batch_entries):
            yield [(self.key(i), self.value(i)) for i in order[start : start + batch_entries]]


def incompressible_items(entries: int, value_bytes: int, seed: int) -> Iterator[Item]:
    """Entries in scattered order with random values, made one at a time.

    Nothing is kept, so that a process whose memory is measured holds only what the engine holds.
    """
    generator = random.Random(seed)
    for index in range(entries):
        yield Dataset.key(index * SCATTER % entries), generator.randbytes(value_bytes)
