"""Reads one snapshot file: look-ups through the cache, ordered chunks, and a full check.

Invariants:
    1. Opening reads the header and the footer; the root is read at the first use.
    2. Nothing is returned from a page whose checksum was not verified.
    3. A reader is immutable and thread-safe. Its descriptor closes with the last reference to it,
       so a view may read a file that compaction has already unlinked.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Final, NamedTuple, TypeVar

from walkv import limits
from walkv.engine.batch import Item
from walkv.engine.keyring import NO_KEYS, Keyring
from walkv.engine.merge import Chunk
from walkv.engine.ranges import RangeSet
from walkv.engine.snapshot import blocks, layout
from walkv.engine.snapshot.blocks import Block, Index, RawBlock, Root, hash_key
from walkv.engine.snapshot.cache import READER_SHIFT, BlockCache, HotItems
from walkv.engine.snapshot.writer import SnapshotSummary
from walkv.engine.vfs import File, FileSystem
from walkv.errors import CorruptionError, WouldBlockError

T = TypeVar("T")


_AHEAD_BYTES: Final = 64 * limits.KIB
"""How much a scan reads at once."""

_RAW_WORTH: Final = 1.25
"""A block is cached decoded if that takes less than so many times the memory."""

_MERGE_BYTES: Final = 64 * limits.KIB
"""Decoded blocks that make one chunk of a merge."""


class _Answer:
    """The type of the two answers that are no item."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


ABSENT: Final = _Answer("ABSENT")
"""This snapshot says nothing about the key."""

UNREAD: Final = _Answer("UNREAD")
"""The answer would take a read, and only the cache was to be asked."""


class Partition(NamedTuple):
    """A stretch of a snapshot with its own index page, for merges that copy it whole."""

    number: int
    first_key: bytes
    last_key: bytes
    entry_count: int
    plain: bool


class SnapshotReader:
    """An open snapshot.

    Attributes:
        summary: what the manifest keeps of it.
        path: the file.
        salt: random; no two snapshot files have the same.
        key_number: of the data key that the file is under; 0 where it is not encrypted.
        hot: items of the cached blocks that are in use, by key; kept by the cache.
        replaced_share: which share of its entries replace older ones, once somebody has found out.
    """

    def __init__(
        self,
        fs: FileSystem,
        path: str,
        store_id: bytes,
        snapshot_id: int,
        cache: BlockCache,
        keyring: Keyring = NO_KEYS,
    ) -> None:
        """Open and check header and footer.

        Raises:
            FileNotFoundError: there is no such file.
            FormatError: a format this version does not read.
            CorruptionError: damaged, or another store's, or another's name.
            TamperedError: it is encrypted and the store is not, or the reverse.
        Cost: two reads.
        """
        self.path = path
        self._file: File = fs.open(path)
        header = layout.decode_header(self._file.read(0, layout.HEADER_BYTES), path)
        if header.store_id != store_id or header.snapshot_id != snapshot_id:
            raise CorruptionError(
                "this snapshot belongs to another store or has another's name",
                path=path,
                offset_bytes=16,
                expected=f"{store_id.hex()} {snapshot_id}",
                found=f"{header.store_id.hex()} {header.snapshot_id}",
            )
        self.salt = header.salt
        self.key_number = header.key_number
        self._sealer = keyring.for_file(header, path)
        size = self._file.size()
        offset = max(size - layout.FOOTER_BYTES, layout.HEADER_BYTES)
        footer = layout.decode_footer(
            self._file.read(offset, layout.FOOTER_BYTES), path, self.salt, offset
        )
        self._footer = footer
        self.summary = SnapshotSummary(
            snapshot_id, size, footer.entry_count, footer.tombstone_count, footer.last_sequence
        )
        self._cache = cache
        self._pages = cache.pages
        self._number = cache.next_reader()
        self._token_base = self._number << READER_SHIFT
        self._root_lock = threading.Lock()
        self._loaded_root: Root | None = None
        self.hot = HotItems()
        self.replaced_share: float | None = None

    @property
    def _root(self) -> Root:
        root = self._loaded_root
        if root is not None:
            return root
        with self._root_lock:
            if self._loaded_root is None:
                payload, _ = self._read_page(
                    layout.ROOT, self._footer.root_offset, self._footer.root_length
                )
                root = self._decode(blocks.decode_root, payload, self._footer.root_offset)
                self._check_bounds(root)
                if not root.ranges:
                    self.hot.complete_at = self.summary.entry_count
                self._loaded_root = root
            return self._loaded_root

    def _check_bounds(self, root: Root) -> None:
        """Hold what the root says of lengths against the file, before anything is read by it."""
        end = layout.HEADER_BYTES
        columns = zip(root.offsets, root.data_lengths, root.index_lengths, strict=True)
        for offset, data_length, index_length in columns:
            if offset < end or min(data_length, index_length) <= 0:
                end = self._footer.root_offset + 1
                break
            end = offset + data_length + index_length
        if end > self._footer.root_offset:
            raise self._undecodable(ValueError("partitions outside the file"), end)

    @property
    def loaded(self) -> bool:
        """Whether the root is in memory, and so ``ranges`` takes no read."""
        return self._loaded_root is not None

    @property
    def ranges(self) -> RangeSet:
        """Deleted ranges that hide entries of older snapshots."""
        return self._root.ranges

    def _read_page(self, kind: int, offset: int, length: int) -> tuple[bytes, bool]:
        return self._verified(kind, self._file.read(offset, length), offset)

    def _decode(self, decode: Callable[[bytes], T], payload: bytes, offset: int) -> T:
        try:
            return decode(payload)
        except (ValueError, TypeError, IndexError) as error:
            raise self._undecodable(error, offset) from None

    def _index(self, root: Root, number: int, cached_only: bool = False) -> Index:
        offset = root.offsets[number] + root.data_lengths[number]
        page: Index | None = self._pages.get(self._token_base + offset)
        if page is not None:
            page.hot = True
            return page
        if cached_only:
            raise WouldBlockError
        payload, _ = self._read_page(layout.INDEX, offset, root.index_lengths[number])
        index = self._decode(blocks.decode_index, payload, offset)
        if index.starts[0] != 0 or index.starts[-1] != root.data_lengths[number]:
            raise self._undecodable(ValueError("blocks outside the partition"), offset)
        if index.first_keys[0] != root.first_keys[number]:
            raise self._undecodable(ValueError("another partition's keys"), offset)
        self._cache.add(self._token_base + offset, index)
        return index

    # Hot.
    def _load_block(self, offset: int, length: int) -> tuple[RawBlock | Block, Block]:
        return self._decode_block(self._file.read(offset, length), offset)

    # Hot.
    def _decode_block(
        self, data: bytes | memoryview, offset: int
    ) -> tuple[RawBlock | Block, Block]:
        """A block as the cache takes it, and as whoever looks something up in it now needs it."""
        payload, plain = self._verified(layout.DATA, data, offset)
        try:
            block = blocks.decode_data(payload, plain)
        except (ValueError, TypeError, IndexError) as error:
            raise self._undecodable(error, offset) from None
        raw = RawBlock(payload, plain)
        # Large values take no more memory decoded.
        return block if block.cost_bytes < raw.cost_bytes * _RAW_WORTH else raw, block

    # Hot.
    def _verified(self, kind: int, data: bytes | memoryview, offset: int) -> tuple[bytes, bool]:
        return layout.decode_page(
            data, kind, path=self.path, salt=self.salt, offset=offset, sealer=self._sealer
        )

    def _undecodable(self, error: Exception, offset: int) -> CorruptionError:
        return CorruptionError(
            f"page does not decode: {error}", path=self.path, offset_bytes=offset
        )

    # Hot.
    def item(self, key: bytes, cached_only: bool = False) -> Item:
        """The item of a key; None for a tombstone, or under a deleted range; or ``ABSENT``.

        ``UNREAD`` if ``cached_only`` and the answer takes a read. Look in ``hot`` first: where the
        key is there, or all keys are, this is not needed.

        Cost: O(log n); no read where the pages are cached, at most two elsewhere.
        """
        root = self._loaded_root
        if root is None:
            if cached_only:
                return UNREAD
            root = self._root
        number = bisect_right(root.first_keys, key) - 1
        if number < 0:
            return self._absent(root, key)
        offset = root.offsets[number]
        pages = self._pages
        index = pages.get(self._token_base + offset + root.data_lengths[number])
        if index is None:
            if cached_only:
                return UNREAD
            index = self._index(root, number)
        index.hot = True
        if not index.may_contain(hash_key(key)):
            return self._absent(root, key)
        at = bisect_right(index.first_keys, key) - 1
        offset += index.starts[at]
        block = pages.get(self._token_base + offset)
        if block is None:
            if cached_only:
                return UNREAD
            self._cache.misses += 1
            kept, block = self._load_block(offset, index.starts[at + 1] - index.starts[at])
            self._cache.add(self._token_base + offset, kept)
        else:
            self._cache.hits += 1
            if not block.hot:
                block = self._used_again(self._token_base + offset, block)
        keys = block.keys
        position = bisect_left(keys, key)
        if position < len(keys) and keys[position] == key:
            return block.items[position]
        return self._absent(root, key)

    def _absent(self, root: Root, key: bytes) -> Item:
        return None if root.ranges.starts and root.ranges.covers(key) else ABSENT

    def _used_again(self, token: int, page: Block | RawBlock) -> Block:
        """Used again since the cache last looked: from now on a look-up is one dict access."""
        if isinstance(page, RawBlock):
            block = blocks.decode_data(page.payload, page.plain, checked=True)
            self._cache.add(token, block, instead_of=page)
        else:
            block = page
        self._cache.promote(token, block, self.hot)
        return block

    def find(self, key: bytes) -> tuple[Item, int] | None:
        """Item and sequence of a key, or None if it is not here. Cost as of ``item``."""
        root = self._root
        number = bisect_right(root.first_keys, key) - 1
        if number < 0:
            return None
        index = self._index(root, number)
        if not index.may_contain(hash_key(key)):
            return None
        at = bisect_right(index.first_keys, key) - 1
        block = next(self._blocks(number, index, at, at, reverse=False, keep=True))
        position = bisect_left(block.keys, key)
        if position < len(block.keys) and block.keys[position] == key:
            return block.items[position], block.sequence_at(position)
        return None

    def covered_count(self, ranges: RangeSet) -> int:
        """At least how many entries here lie in the ranges: those of whole partitions."""
        root = self._root
        columns = zip(root.first_keys, root.last_keys, root.entry_counts, strict=True)
        return sum(count for first, last, count in columns if ranges.encloses(first, last))

    def sample(self, count: int) -> list[bytes]:
        """Up to ``count`` keys, spread over the snapshot. Cost: up to four index pages."""
        root = self._root
        step = -(-len(root.first_keys) // 4)
        first_keys: list[bytes] = root.first_keys
        if len(first_keys) < count:
            numbers = range(0, len(first_keys), step) if first_keys else range(0)
            first_keys = [key for number in numbers for key in self._index(root, number).first_keys]
        return first_keys[:: -(-len(first_keys) // count)] if first_keys else []

    def partitions(self) -> list[Partition]:
        root = self._root
        return [
            Partition(
                number,
                root.first_keys[number],
                root.last_keys[number],
                root.entry_counts[number],
                bool(root.flags[number] & layout.FLAG_PLAIN),
            )
            for number in range(len(root.first_keys))
        ]

    def _blocks(
        self,
        number: int,
        index: Index,
        first: int,
        last: int,
        reverse: bool,
        keep: bool,
        cached_only: bool = False,
    ) -> Iterator[Block]:
        """Blocks ``first`` to ``last`` of a partition. Adds to the cache only where there is room:
        one scan must not empty it."""
        base = self._root.offsets[number]
        starts, pages, cache = index.starts, self._pages, self._cache
        order = range(last, first - 1, -1) if reverse else range(first, last + 1)
        ahead = memoryview(b"")
        ahead_start = 0
        for at in order:
            start, stop = starts[at], starts[at + 1]
            token = self._token_base + base + start
            page = pages.get(token)
            if page is not None:
                if type(page) is RawBlock:
                    raw = page
                    page = blocks.decode_data(raw.payload, raw.plain, checked=True)
                    if keep and at == order[0]:
                        # Where a scan begins a look-up was meant, and it may come again.
                        cache.add(token, page, instead_of=raw)
                yield page
                continue
            if cached_only:
                raise WouldBlockError
            if start < ahead_start or stop > ahead_start + len(ahead):
                # Neighbours will be wanted next: one read for several blocks.
                if reverse:
                    ahead_start = max(min(start, stop - _AHEAD_BYTES), starts[first])
                    ahead_stop = stop
                else:
                    ahead_start = start
                    ahead_stop = max(stop, min(start + _AHEAD_BYTES, starts[last + 1]))
                size = ahead_stop - ahead_start
                ahead = memoryview(self._file.read(base + ahead_start, size))
            data = ahead[start - ahead_start : stop - ahead_start]
            kept, block = self._decode_block(data, base + start)
            if keep and cache.has_room(kept.cost_bytes):
                cache.add(token, kept)
            yield block

    def chunks(
        self,
        start: bytes,
        stop: bytes | None,
        *,
        reverse: bool = False,
        cached_only: bool = False,
    ) -> Iterator[Chunk]:
        """Entries with ``start <= key < stop``, a block at a time.

        Raises:
            WouldBlockError: ``cached_only``, and the next ones are not in the cache.
        """
        root = self._root
        low = max(bisect_right(root.first_keys, start) - 1, 0)
        high = len(root.first_keys) if stop is None else bisect_left(root.first_keys, stop)
        numbers = range(high - 1, low - 1, -1) if reverse else range(low, high)
        for number in numbers:
            if root.last_keys[number] < start:
                continue
            index = self._index(root, number, cached_only)
            first = max(bisect_right(index.first_keys, start) - 1, 0)
            last = len(index.first_keys) - 1
            if stop is not None:
                last = bisect_left(index.first_keys, stop) - 1
            for block in self._blocks(number, index, first, last, reverse, True, cached_only):
                keys, items = block.keys, block.items
                if keys[0] < start or (stop is not None and keys[-1] >= stop):
                    begin = bisect_left(keys, start)
                    end = len(keys) if stop is None else bisect_left(keys, stop)
                    keys, items = keys[begin:end], items[begin:end]
                if keys:
                    yield Chunk(keys, items, block.plain)

    def partition_chunks(self, number: int) -> Iterator[Chunk]:
        """One partition's entries with (item, sequence) as items, past the cache; for merges.

        Several blocks a chunk: merging many runs costs a step per chunk and run.
        """
        index = self._index(self._root, number)
        last = len(index.first_keys) - 1
        found = self._blocks(number, index, 0, last, reverse=False, keep=False)
        keys: list[bytes] = []
        pairs: list[tuple[Item, int]] = []
        plain, taken_bytes = True, 0
        for block in found:
            keys += block.keys
            pairs += zip(block.items, block.sequences(), strict=True)
            plain = plain and block.plain
            taken_bytes += block.cost_bytes
            if taken_bytes >= _MERGE_BYTES:
                yield Chunk(keys, pairs, plain)
                keys, pairs, plain, taken_bytes = [], [], True, 0
        if keys:
            yield Chunk(keys, pairs, plain)

    def raw_partition(self, number: int) -> tuple[Iterator[bytes], bytes]:
        """Data pages and index page of a partition, verified, without their checksums and seals."""
        root = self._root
        base, length = root.offsets[number], root.data_lengths[number]
        starts = self._index(root, number).starts

        def pages() -> Iterator[bytes]:
            for at, stop in pairwise(starts):
                yield self._verified_page(layout.DATA, base + at, stop - at)

        return pages(), self._verified_page(layout.INDEX, base + length, root.index_lengths[number])

    def _verified_page(self, kind: int, offset: int, length: int) -> bytes:
        data = self._file.read(offset, length)
        self._verified(kind, data, offset)
        return layout.opened_body(data, offset, self._sealer)

    def check(self, progress: Callable[[int], None]) -> None:
        """Read every page past the cache and hold it against its checksum and its neighbours.

        Args:
            progress: called with the number of bytes checked since the last call.
        Raises:
            CorruptionError: the first damage found.
        """
        payload, _ = self._read_page(
            layout.ROOT, self._footer.root_offset, self._footer.root_length
        )
        root = self._decode(blocks.decode_root, payload, self._footer.root_offset)
        previous = b""
        entries = 0
        for number in range(len(root.first_keys)):
            base, length = root.offsets[number], root.data_lengths[number]
            payload, _ = self._read_page(layout.INDEX, base + length, root.index_lengths[number])
            index = self._decode(blocks.decode_index, payload, base + length)
            for at, start in enumerate(index.starts[:-1]):
                _, block = self._load_block(base + start, index.starts[at + 1] - start)
                keys = block.keys
                ordered = all(a < b for a, b in zip([previous, *keys], keys, strict=False))
                filtered = all(map(index.may_contain, map(hash_key, keys)))
                if not ordered or keys[0] != index.first_keys[at] or not filtered:
                    raise CorruptionError(
                        "keys do not agree with their order, index or filter",
                        path=self.path,
                        offset_bytes=base + start,
                    )
                previous = keys[-1]
                entries += len(keys)
                progress(index.starts[at + 1] - start)
        if entries != self._footer.entry_count:
            raise CorruptionError(
                "the number of entries is not the one in the footer",
                path=self.path,
                offset_bytes=self._footer.root_offset,
                expected=self._footer.entry_count,
                found=entries,
            )

    def forget(self) -> None:
        """Drop what the cache has of this snapshot, once it is no longer part of the store."""
        self._cache.forget(self._number)

    def close(self) -> None:
        self._file.close()
