"""Writes one snapshot file, front to back.

Invariants:
    1. Entries come in ascending key order, each key once.
    2. Nothing refers to the file before ``finish`` returned: then its bytes and its name are
       durable. A writer that was abandoned leaves a file that no manifest knows, and recovery
       removes it.
"""

from __future__ import annotations

import operator
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

from walkv import limits
from walkv.engine.keyring import NO_KEYS, Keyring
from walkv.engine.ranges import NO_RANGES, RangeSet
from walkv.engine.snapshot import blocks, layout
from walkv.engine.vfs import FileSystem, ensure_synced

_WRITE_BYTES: Final = 256 * limits.KIB

_SYNC_BYTES: Final = 4 * limits.MIB
"""A file is synced each time so much was written: one sync of all of it at the end would keep the
disk busy for long, and with it the syncs of the log."""


@dataclass(frozen=True, slots=True)
class SnapshotSummary:
    """What the manifest keeps of a snapshot."""

    snapshot_id: int
    size_bytes: int
    entry_count: int
    tombstone_count: int
    last_sequence: int


class SnapshotWriter:
    """Writes ``snapshots/<id>.snap``.

    Args:
        store_id: 16 bytes, the same in every file of the store.
        ranges: deleted ranges that hide entries of older snapshots.
        keyring: the store's keys; the file is under the newest.
    """

    def __init__(
        self,
        fs: FileSystem,
        directory: str,
        store_id: bytes,
        snapshot_id: int,
        *,
        ranges: RangeSet = NO_RANGES,
        keyring: Keyring = NO_KEYS,
    ) -> None:
        self._fs = fs
        self._directory = directory
        self._header = layout.SnapshotHeader(
            store_id,
            int.from_bytes(fs.random_bytes(8), "little"),
            snapshot_id,
            fs.wall_time_ns(),
            keyring.newest,
        )
        self.path = fs.join(directory, layout.file_name(snapshot_id))
        self._sealer = keyring.for_file(self._header, self.path)
        self._file = fs.create(self.path)
        self._pending: list[bytes] = [self._header.encode()]
        self._pending_bytes = layout.HEADER_BYTES
        self._written_bytes = 0
        self._synced_bytes = 0
        self._offset = layout.HEADER_BYTES
        self._encoder = layout.PageEncoder()
        self._root = blocks.Root()
        self._root.ranges = ranges
        self._entry_count = 0
        self._tombstone_count = 0
        self._last_sequence = 0
        self._keys: list[bytes] = []
        self._items: list[Any] = []
        self._sequences: list[int] = []
        self._plain = True
        self._begin_partition()

    def _begin_partition(self) -> None:
        self._partition_offset = self._offset
        self._first_keys: list[bytes] = []
        self._last_key = b""
        self._starts: list[int] = [0]
        self._hashes: list[int] = []
        self._partition_plain = True

    def add(
        self,
        keys: Sequence[bytes],
        items: Sequence[Any],
        sequences: Sequence[int],
        plain: bool,
    ) -> None:
        """Append entries.

        Args:
            keys: ascending, all after the keys added before.
            items: as in ``batch``.
            plain: every item is ``bytes``.
        """
        self._keys += keys
        self._items += items
        self._sequences += sequences
        self._plain = self._plain and plain
        item_bytes = len if self._plain else _item_bytes
        sizes = map(operator.add, map(len, self._keys), map(item_bytes, self._items))
        ends = list(accumulate(sizes))
        begin = filled = 0
        while ends[-1] - filled > limits.BLOCK_TARGET_BYTES:
            # An entry that is larger than a block has one to itself.
            end = max(bisect_right(ends, filled + limits.BLOCK_TARGET_BYTES, begin), begin + 1)
            if end == len(ends):
                break
            self._put_block(begin, end)
            begin, filled = end, ends[end - 1]
        self._keys, self._items = self._keys[begin:], self._items[begin:]
        self._sequences = self._sequences[begin:]
        self._plain = self._plain or _is_plain(self._items)

    def _put_block(self, begin: int, end: int) -> None:
        keys, items = self._keys[begin:end], self._items[begin:end]
        sequences = self._sequences[begin:end]
        plain = self._plain or _is_plain(items)
        if not plain:
            self._tombstone_count += items.count(None)
            self._partition_plain = False
        payload = blocks.encode_data(keys, items, sequences)
        self._append(self._encoder.encode(layout.DATA, payload, plain=plain))
        self._entry_count += len(keys)
        self._last_sequence = max(self._last_sequence, max(sequences))
        self._first_keys.append(keys[0])
        self._last_key = keys[-1]
        self._starts.append(self._offset - self._partition_offset)
        self._hashes += map(blocks.hash_key, keys)
        full = self._starts[-1] >= limits.PARTITION_BYTES
        if full or len(self._first_keys) >= limits.PARTITION_BLOCKS:
            self._end_partition()

    def _end_partition(self) -> None:
        if not self._first_keys:
            return
        index = blocks.encode_index(self._first_keys, self._starts, self._hashes)
        length = self._append(self._encoder.encode(layout.INDEX, index))
        root = self._root
        root.first_keys.append(self._first_keys[0])
        root.last_keys.append(self._last_key)
        root.offsets.append(self._partition_offset)
        root.data_lengths.append(self._starts[-1])
        root.index_lengths.append(length)
        root.entry_counts.append(len(self._hashes))
        root.flags.append(layout.FLAG_PLAIN if self._partition_plain else 0)
        self._begin_partition()

    def copy_partition(
        self,
        pages: Iterable[bytes],
        index_page: bytes,
        *,
        first_key: bytes,
        last_key: bytes,
        entry_count: int,
        last_sequence: int,
    ) -> None:
        """Append a whole partition of another snapshot as it is; all its items must be plain.

        Args:
            pages: its data pages, whose checksums were verified, without their checksums.
            index_page: its index page, likewise. Its offsets are relative and stay right.
            last_sequence: an upper bound of the sequences in it.
        """
        self._end_block_and_partition()
        for page in pages:
            self._append(page)
        data_length = self._offset - self._partition_offset
        root = self._root
        root.first_keys.append(first_key)
        root.last_keys.append(last_key)
        root.offsets.append(self._partition_offset)
        root.data_lengths.append(data_length)
        root.index_lengths.append(self._append(index_page))
        root.entry_counts.append(entry_count)
        root.flags.append(layout.FLAG_PLAIN)
        self._entry_count += entry_count
        self._last_sequence = max(self._last_sequence, last_sequence)
        self._begin_partition()

    def _end_block_and_partition(self) -> None:
        """Close the open block and partition, so that the next entry begins new ones."""
        if self._keys:
            self._put_block(0, len(self._keys))
            self._keys, self._items, self._sequences, self._plain = [], [], [], True
        self._end_partition()

    def _append(self, body: bytes) -> int:
        page = layout.place_page(body, self._header.salt, self._offset, self._sealer)
        self._offset += len(page)
        self._pending.append(page)
        self._pending_bytes += len(page)
        if self._pending_bytes >= _WRITE_BYTES:
            self._write_pending()
        return len(page)

    def _write_pending(self) -> None:
        self._file.write(b"".join(self._pending), self._written_bytes)
        self._written_bytes += self._pending_bytes
        self._pending, self._pending_bytes = [], 0
        if self._written_bytes - self._synced_bytes >= _SYNC_BYTES:
            ensure_synced(self._file.sync_data)
            self._synced_bytes = self._written_bytes

    @property
    def entry_count(self) -> int:
        """Entries added so far."""
        return self._entry_count + len(self._keys)

    def finish(self) -> SnapshotSummary:
        """Write index, root and footer; make the file and its name durable.

        Raises:
            OSError: a write failed.
            SyncError: the file or its name could not be made durable.
        Cost: two syncs, of the last 4 MiB at most: what came before was synced as it was written.
        """
        self._end_block_and_partition()
        root_offset = self._offset
        root_length = self._append(self._encoder.encode(layout.ROOT, self._root.encode()))
        footer = layout.SnapshotFooter(
            root_offset,
            root_length,
            self._entry_count,
            self._tombstone_count,
            self._last_sequence,
        )
        self._pending.append(footer.encode(self._header.salt, self._offset))
        self._pending_bytes += layout.FOOTER_BYTES
        self._offset += layout.FOOTER_BYTES
        self._write_pending()
        ensure_synced(self._file.sync)
        self._file.close()
        ensure_synced(lambda: self._fs.sync_directory(self._directory))
        return SnapshotSummary(
            self._header.snapshot_id,
            self._offset,
            self._entry_count,
            self._tombstone_count,
            self._last_sequence,
        )

    def close(self) -> None:
        """Leave the file unfinished."""
        self._file.close()


def _is_plain(items: list[Any]) -> bool:
    return all(type(item) is bytes for item in items)


def _item_bytes(item: Any) -> int:
    if item is None:
        return 1
    return len(item) if type(item) is bytes else len(item[1]) + 9
