"""Every bound of the engine, and the relations between them.

Invariants:
    1. Whatever may be written may be read back: each read bound is at least the write bound.
    2. No length read from a file leads to an allocation before it was held against a bound here
       and against the size of its file.
"""

from __future__ import annotations

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

MAX_KEY_BYTES = 65_535
"""Longest key. Keys are kept whole in indexes, so a key is a name and not a document."""

MAX_VALUE_BYTES = 1 * GIB
"""Longest value."""

MAX_BATCH_BYTES = 1 * GIB + 1 * MIB
"""Most bytes of keys and values in one batch, so that one largest entry fits."""

MAX_PAYLOAD_BYTES = MAX_BATCH_BYTES + 1 * GIB
"""Longest frame payload: a batch and its encoding (at most 16 bytes an operation more)."""

MAX_BATCH_OPERATIONS = 32 * MIB
"""Most operations in one batch."""

MAX_BLOCK_BYTES = MAX_BATCH_BYTES + 1 * MIB
"""Longest decoded block of a snapshot: one largest entry, alone in its block."""

MAX_MANIFEST_BYTES = 64 * MIB
"""Longest manifest."""

MAX_RECORD_BYTES = 256 * MIB
"""Longest encoded record of a namespace."""

MAX_KEY_FIELD_BYTES = 4 * KIB
"""Longest text or bytes in a field that is part of a record's key or of an index."""

DEFAULT_MEMTABLE_BYTES = 128 * MIB
"""Budget of the in-memory index: the active memtable and the ones being written out."""

DEFAULT_CACHE_BYTES = 64 * MIB
"""Budget of the block cache."""

DEFAULT_MIN_FREE_BYTES = 16 * MIB
"""Free space of the disk that puts leave alone: a disk without any is a trouble to all who use it,
and what deletes and compaction need to give space back is then still there."""

MIN_MEMTABLE_BYTES = 64 * KIB
"""Smallest memtable budget: below it a store would do nothing but rotate."""

BLOCK_TARGET_BYTES = 8 * KIB
"""A data block is closed before its keys and values would pass this."""

PARTITION_BLOCKS = 128
"""Most data blocks under one index page of a snapshot."""

PARTITION_BYTES = 1 * MIB
"""A partition ends once its data blocks have this."""

MAX_SNAPSHOTS = 32
"""With this many snapshots a writer whose memtable is full waits for the merges to catch up."""

assert MAX_BATCH_BYTES >= MAX_KEY_BYTES + MAX_VALUE_BYTES
assert MAX_PAYLOAD_BYTES >= MAX_BATCH_BYTES + 16 * MAX_BATCH_OPERATIONS
assert MAX_PAYLOAD_BYTES < 1 << 32, "the frame header has 32 bits for it"
assert MAX_BATCH_OPERATIONS < 1 << 32, "the frame header has 32 bits for it"
assert MAX_BLOCK_BYTES >= MAX_KEY_BYTES + MAX_VALUE_BYTES + 64
assert MAX_BLOCK_BYTES < 1 << 32, "the page header has 32 bits for it"
assert BLOCK_TARGET_BYTES <= MAX_BLOCK_BYTES
assert MAX_RECORD_BYTES <= MAX_VALUE_BYTES
assert 12 * MAX_KEY_FIELD_BYTES < MAX_KEY_BYTES, "an index entry has several of them"
