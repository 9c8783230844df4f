"""Snapshots from the writer through the cache to the reader, and what damage does to them."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hooked import START_NS, HookedFileSystem
from xxhash import xxh3_64_digest

import walkv
from walkv import limits
from walkv.engine.catalog import Sources
from walkv.engine.memtable import Memtable
from walkv.engine.ranges import NO_RANGES, RangeSet
from walkv.engine.snapshot import (
    ABSENT,
    UNREAD,
    BlockCache,
    SnapshotReader,
    SnapshotSummary,
    SnapshotWriter,
    blocks,
    file_name,
    layout,
    parse_file_name,
)
from walkv.engine.snapshot.cache import HotItems
from walkv.engine.vfs import OsFileSystem

FS = OsFileSystem()
STORE = b"0123456789abcdef"
Entry = tuple[bytes, Any, int]


def write(
    directory: Path, entries: list[Entry], *, number: int = 1, ranges: RangeSet = NO_RANGES
) -> SnapshotSummary:
    writer = SnapshotWriter(FS, str(directory), STORE, number, ranges=ranges)
    for begin in range(0, len(entries), 300):
        part = entries[begin : begin + 300]
        items = [item for _, item, _ in part]
        plain = all(type(item) is bytes for item in items)
        writer.add([key for key, _, _ in part], items, [at for _, _, at in part], plain)
    assert writer.entry_count == len(entries)
    return writer.finish()


def reader_of(directory: Path, *, number: int = 1, cache_bytes: int = 1 << 26) -> SnapshotReader:
    path = str(directory / file_name(number))
    return SnapshotReader(FS, path, STORE, number, BlockCache(cache_bytes))


def read_back(reader: SnapshotReader) -> list[Entry]:
    found = []
    for part in reader.partitions():
        count = 0
        for keys, pairs, plain in reader.partition_chunks(part.number):
            assert not plain or all(type(item) is bytes for item, _ in pairs)
            assert plain or not part.plain
            found += [(key, item, at) for key, (item, at) in zip(keys, pairs, strict=True)]
            count += len(keys)
        assert count == part.entry_count
    return found


def all_kinds(count: int, seed: int = 1) -> list[Entry]:
    """Entries of every kind and of many sizes; values that shrink and values that do not."""
    rng = random.Random(seed)
    entries: list[Entry] = []
    for number in range(count):
        key = b"%06d" % number + b"k" * rng.choice((0, 0, 0, 1, 50, 300))
        value = rng.choice(
            (b"", b"v", b"text " * rng.randrange(60), rng.randbytes(rng.randrange(90)))
        )
        item: Any = rng.choice((value, value, value, None, [rng.randrange(1 << 62), value]))
        entries.append((key, item, rng.choice((rng.randrange(1 << 8), rng.randrange(1 << 40)))))
    return entries


SHAPES: dict[str, list[Entry]] = {
    "one": [(b"k", b"v", 1)],
    "one tombstone": [(b"k", None, 1)],
    "one that expires": [(b"k", [5, b"v"], 1)],
    "same sequence": [(b"%d" % n, b"v", 9) for n in range(9)],
    "longest keys": [(bytes([65 + n]) * limits.MAX_KEY_BYTES, b"v", n) for n in range(5)],
    "wide sequences": [(b"%02d" % n, b"v", n << 58) for n in range(20)],
    "plain": [(b"%05d" % n, b"%d" % n, n) for n in range(3000)],
    "all kinds": all_kinds(3000),
    "big values": [(b"%03d" % n, os.urandom(1 << (n % 20)), n) for n in range(60)],
    "many partitions": [(b"%06d" % n, b"x" * 5000, n) for n in range(limits.PARTITION_BLOCKS * 3)],
}


@pytest.mark.parametrize("name", SHAPES)
def test_round_trip(tmp_path: Path, name: str) -> None:
    entries: list[Entry] = SHAPES[name]
    summary = write(tmp_path, entries)
    path = tmp_path / file_name(1)
    assert summary == SnapshotSummary(
        1,
        path.stat().st_size,
        len(entries),
        sum(1 for _, item, _ in entries if item is None),
        max(at for _, _, at in entries),
    )
    for cache_bytes in (0, 20_000, 1 << 26):
        reader = reader_of(tmp_path, cache_bytes=cache_bytes)
        assert reader.summary == summary
        assert read_back(reader) == entries
        for _ in range(2):
            for key, item, at in entries[:: max(1, len(entries) // 500)]:
                assert reader.hot.get(key, ABSENT) in (item, ABSENT)
                assert reader.item(key) == item
                assert reader.find(key) == (item, at)
        seen = 0
        reader.check(lambda size: None)
        for chunk in reader.chunks(b"", None):
            seen += len(chunk.keys)
        assert seen == len(entries)
    assert name != "many partitions" or len(reader.partitions()) >= 3


def test_a_long_file_is_synced_while_it_is_written(tmp_path: Path) -> None:
    fs = HookedFileSystem()
    writer = SnapshotWriter(fs, str(tmp_path), STORE, 1)
    rng = random.Random(4)
    for number in range(40):
        writer.add([b"%02d" % number], [rng.randbytes(500_000)], [number], True)
    assert [operation for operation, _ in fs.calls].count("sync_data") == 4
    writer.finish()
    assert [operation for operation, _ in fs.calls[-2:]] == ["sync", "sync_directory"]


def test_only_ranges(tmp_path: Path) -> None:
    ranges = RangeSet((b"a", b"x"), (b"b", None))
    summary = write(tmp_path, [], ranges=ranges)
    assert (summary.entry_count, summary.last_sequence) == (0, 0)
    reader = reader_of(tmp_path)
    assert list(reader.ranges) == [(b"a", b"b"), (b"x", None)]
    assert list(reader.chunks(b"", None)) == []
    assert list(reader.chunks(b"", None, reverse=True)) == []
    assert reader.item(b"a") is reader.item(b"y") is None
    assert reader.item(b"") is reader.item(b"b") is ABSENT
    reader.check(lambda size: None)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cache_bytes", [0, 1 << 26])
def test_chunks_of_any_range(tmp_path: Path, reverse: bool, cache_bytes: int) -> None:
    entries = [(b"%05d" % (2 * n), b"x" * (n % 400), n) for n in range(4000)]
    write(tmp_path, entries)
    reader = reader_of(tmp_path, cache_bytes=cache_bytes)
    rng = random.Random(3)
    bounds: list[tuple[bytes, bytes | None]] = [(b"", None), (b"9", None), (b"", b"0"), (b"", b"")]
    for _ in range(100):
        low, high = sorted((rng.randrange(8100), rng.randrange(8100)))
        bounds.append((b"%05d" % low, b"%05d" % high))
        bounds.append((b"%05d" % low, b"%05d" % (low + rng.randrange(3))))
    for start, stop in bounds:
        found = []
        last: bytes | None = None
        for keys, items, plain in reader.chunks(start, stop, reverse=reverse):
            assert plain
            assert list(keys) == sorted(keys)
            assert last is None or (keys[-1] < last if reverse else keys[0] > last)
            last = keys[0] if reverse else keys[-1]
            pairs = list(zip(keys, items, strict=True))
            found += pairs[::-1] if reverse else pairs
        wanted = [(k, i) for k, i, _ in entries if start <= k and (stop is None or k < stop)]
        assert found == (wanted[::-1] if reverse else wanted)


def test_the_filter_never_loses_a_key_and_lets_few_others_pass() -> None:
    rng = random.Random(5)
    for count in (1, 2, 7, 8, 9, 15, 16, 17, 100, 5000):
        keys = [rng.randbytes(rng.randrange(1, 40)) for _ in range(count)]
        hashes = [blocks.hash_key(key) for key in keys]
        made = blocks.encode_filter(hashes)
        may_contain = blocks.Index([b""], [0, 1], made, 0).may_contain
        assert all(map(may_contain, hashes))
        assert len(made) <= 16 + count * 1.75
        passed = sum(may_contain(rng.getrandbits(64)) for _ in range(5000))
        # 8 fingerprints of 8 bits in a bucket: 3 %; the smallest filters have up to 15 in one.
        assert passed < 500
    for value in (0, (1 << 64) - 1, 1 << 63):
        made = blocks.encode_filter([value])
        assert blocks.Index([b""], [0, 1], made, 0).may_contain(value)


def test_absent_keys_are_absent_and_cost_few_reads(tmp_path: Path) -> None:
    fs = HookedFileSystem()
    entries = [(b"%05d" % n, b"x" * 200, n) for n in range(3000)]
    write(tmp_path, entries)
    reader = SnapshotReader(fs, str(tmp_path / file_name(1)), STORE, 1, BlockCache(100_000))
    reads = 0

    def count(operation: str, path: str) -> None:
        nonlocal reads
        reads += operation == "read"

    reader.item(b"00000")
    for part in reader.partitions():
        reader.item(part.first_key)
    fs.hook = count
    for number in range(2000):
        assert reader.item(b"%05d+" % number) is ABSENT
        assert reader.find(b"%05d+" % number) is None
    assert reads < 2000 * 2 * 0.1
    for key in (b"", b"0", b"00000\0", b"99999", b"\xff"):
        assert reader.item(key) is ABSENT


def test_cached_only_never_reads(tmp_path: Path) -> None:
    fs = HookedFileSystem()
    write(tmp_path, [(b"%05d" % n, b"x" * 200, n) for n in range(3000)])
    reader = SnapshotReader(fs, str(tmp_path / file_name(1)), STORE, 1, BlockCache(1 << 26))

    def never(operation: str, path: str) -> None:
        raise AssertionError("a read")

    for _ in range(2):
        fs.hook = never
        assert reader.item(b"00500", True) is UNREAD
        fs.hook = None
        reader.item(b"02900")
    reader.item(b"00500")
    fs.hook = never
    assert reader.item(b"00500", True) == b"x" * 200
    assert reader.item(b"00501", True) == b"x" * 200
    assert reader.item(b"00500+", True) is ABSENT


def test_the_cache_keeps_its_budget_and_answers_stay_right(tmp_path: Path) -> None:
    entries = all_kinds(6000)
    write(tmp_path, entries)
    rng = random.Random(8)
    for budget in (0, 1, 30_000, 200_000):
        cache = BlockCache(budget)
        reader = SnapshotReader(FS, str(tmp_path / file_name(1)), STORE, 1, cache)
        for number in range(4000):
            place = rng.randrange(len(entries)) if number % 3 else rng.randrange(60)
            key, item, _ = entries[place]
            found = reader.hot.get(key, ABSENT)
            assert (reader.item(key) if found is ABSENT else found) == item
            assert cache.used_bytes <= budget
        assert cache.used_bytes == sum(page.cost_bytes for page in cache.pages.values())
        hot = [page for page in cache.pages.values() if page.hot and isinstance(page, blocks.Block)]
        assert sorted(reader.hot) == sorted(key for page in hot for key in page.keys)
        assert (cache.evictions > 0) == (budget > 1)
        cache.forget(1)
        assert (cache.used_bytes, len(cache.pages), len(reader.hot)) == (0, 0, 0)


def test_once_all_blocks_are_hot_an_absent_key_needs_no_search(tmp_path: Path) -> None:
    entries: list[Entry] = [(b"%05d" % (2 * n), b"x" * 100, n) for n in range(1000)]
    write(tmp_path, entries)
    cache = BlockCache(1 << 26)
    reader = SnapshotReader(FS, str(tmp_path / file_name(1)), STORE, 1, cache)
    assert reader.item(entries[0][0]) == reader.item(entries[0][0]) == entries[0][1]
    assert 0 < len(reader.hot) < reader.hot.complete_at
    for key, item, _ in entries:
        assert reader.item(key) == item
    assert len(reader.hot) == reader.hot.complete_at == 1000
    # One block is made cold, as for an eviction, and hot again: who missed a key of it in between
    # must not take it for absent.
    token, block = next((t, p) for t, p in cache.pages.items() if isinstance(p, blocks.Block))
    cache._cool(token, block)
    cache.promote(token, block, reader.hot)
    assert len(reader.hot) == 1000
    assert reader.hot.complete_at == -1


def test_a_key_whose_block_becomes_hot_between_two_looks_is_not_taken_for_absent(
    tmp_path: Path,
) -> None:
    entries: list[Entry] = [(b"%05d" % n, b"x" * 100, n) for n in range(1000)]
    write(tmp_path, entries)
    reader = reader_of(tmp_path)
    last_key = entries[-1][0]

    class Interrupted(HotItems):
        """At its first look for the last key other threads use the block that was not yet hot."""

        __slots__ = ("left",)

        def get(self, key: Any, default: Any = None) -> Any:
            found = super().get(key, default)
            if key == last_key and self.left:
                self.left = False
                for _ in range(3):
                    reader.item(last_key)
                assert len(self) == self.complete_at
            return found

    index = reader._index(reader._root, 0)
    hot = reader.hot = Interrupted()
    hot.left, hot.complete_at = True, len(entries)
    for key, item, _ in entries:
        if key < index.first_keys[-1]:
            assert reader.item(key) == reader.item(key) == item
    assert 0 < len(hot) < hot.complete_at
    sources = Sources(Memtable(), (), (reader,))
    assert sources.older_item(last_key) == entries[-1][1]
    assert not hot.left
    assert sources.older_item(b"absent") is None


def test_with_deleted_ranges_no_key_is_known_to_be_absent(tmp_path: Path) -> None:
    write(tmp_path, [(b"b", b"1", 1)], ranges=RangeSet((b"a",), (b"c",)))
    reader = reader_of(tmp_path)
    for _ in range(3):
        assert reader.item(b"b") == b"1"
    assert len(reader.hot) == 1
    assert reader.hot.complete_at == -1
    assert reader.item(b"bb") is None


def test_a_block_is_kept_undecoded_until_it_is_looked_up_again(tmp_path: Path) -> None:
    entries = all_kinds(2000)
    write(tmp_path, entries)
    first_key, first_item, _ = entries[0]

    def scan(reader: SnapshotReader) -> None:
        assert next(reader.chunks(b"", None)).keys[0] == first_key

    def look_up(reader: SnapshotReader) -> None:
        assert reader.item(first_key) == first_item

    raw, decoded = blocks.RawBlock, blocks.Block
    for uses, kept in (
        ((scan, scan, look_up), (raw, decoded, decoded)),
        ((look_up, scan, look_up), (raw, decoded, decoded)),
        ((look_up, look_up, scan), (raw, decoded, decoded)),
    ):
        cache = BlockCache(1 << 26)
        reader = SnapshotReader(FS, str(tmp_path / file_name(1)), STORE, 1, cache)
        for use, kind in zip(uses, kept, strict=True):
            use(reader)
            assert {type(page) for page in cache.pages.values()} == {blocks.Index, kind}
            assert cache.used_bytes == sum(page.cost_bytes for page in cache.pages.values())
        assert read_back(reader) == entries


def test_the_cost_of_cached_pages_is_not_below_their_memory(tmp_path: Path) -> None:
    """The budget bounds memory, so what is counted must not be less than what is allocated."""
    import tracemalloc

    entries = [(b"%06d" % n, b"v%06d" % n * 2, n) for n in range(30_000)]
    write(tmp_path, entries)
    cache = BlockCache(1 << 30)
    reader = SnapshotReader(FS, str(tmp_path / file_name(1)), STORE, 1, cache)
    reader.item(b"0")
    tracemalloc.start()
    try:
        for _ in range(2):
            for key, _, _ in entries[::20]:
                reader.item(key)
        allocated, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert allocated <= cache.used_bytes * 1.1


def test_a_scan_does_not_evict_what_was_cached(tmp_path: Path) -> None:
    entries = [(b"%06d" % n, b"x" * 100, n) for n in range(5000)]
    write(tmp_path, entries)
    cache = BlockCache(100_000)
    reader = SnapshotReader(FS, str(tmp_path / file_name(1)), STORE, 1, cache)
    while cache.evictions == 0:
        for key, _, _ in entries[::40]:
            reader.item(key)
    data_before = {t for t, page in cache.pages.items() if isinstance(page, blocks.Block)}
    assert sum(len(chunk.keys) for chunk in reader.chunks(b"", None)) == 5000
    data_after = {t for t, page in cache.pages.items() if isinstance(page, blocks.Block)}
    assert len(data_before & data_after) >= len(data_before) - 3  # index pages may have come in


def test_copied_partitions_are_read_like_written_ones(tmp_path: Path) -> None:
    size = limits.PARTITION_BLOCKS
    sources = [
        [(b"a%06d" % n, b"x" * 5000, 10 + n) for n in range(size + 20)],
        [(b"c%06d" % n, os.urandom(5000), 5000 + n) for n in range(size + 20)],
    ]
    readers = []
    for number, entries in enumerate(sources, start=1):
        write(tmp_path, entries, number=number)
        readers.append(reader_of(tmp_path, number=number))
    between: list[Entry] = [(b"b%d" % n, [7, b"v"], n) for n in range(9)]
    writer = SnapshotWriter(FS, str(tmp_path), STORE, 3)

    def copy(reader: SnapshotReader) -> None:
        for part in reader.partitions():
            pages, index = reader.raw_partition(part.number)
            writer.copy_partition(
                list(pages),
                index,
                first_key=part.first_key,
                last_key=part.last_key,
                entry_count=part.entry_count,
                last_sequence=reader.summary.last_sequence,
            )

    copy(readers[0])
    writer.add(
        [k for k, _, _ in between], [i for _, i, _ in between], [s for *_, s in between], False
    )
    copy(readers[1])
    summary = writer.finish()
    whole = sources[0] + between + sources[1]
    assert summary.entry_count == len(whole)
    assert summary.last_sequence >= max(at for *_, at in whole)
    merged = reader_of(tmp_path, number=3)
    assert read_back(merged) == whole
    assert all(merged.find(key) == (item, at) for key, item, at in whole)
    assert [part.plain for part in merged.partitions()] == [True, True, False, True, True]
    merged.check(lambda size: None)
    progress: list[int] = []
    merged.check(progress.append)
    assert 0 < sum(progress) <= summary.size_bytes


def test_damage_in_any_page_is_told_and_nothing_is_returned_from_it(tmp_path: Path) -> None:
    entries = all_kinds(400)
    write(tmp_path, entries)
    path = tmp_path / file_name(1)
    original = path.read_bytes()
    model = {key: (item, at) for key, item, at in entries}
    rng = random.Random(4)
    for at in [
        *range(64),
        *range(64, len(original) - 64, 37),
        *range(len(original) - 64, len(original)),
    ]:
        data = bytearray(original)
        data[at] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        told: list[tuple[str, int | None]] = []
        try:
            reader = reader_of(tmp_path)
        except (walkv.CorruptionError, walkv.FormatError) as error:
            told.append((error.path, 0))
            continue
        wrong = 0
        for key, expected in model.items():
            try:
                assert reader.find(key) == expected
            except walkv.CorruptionError as error:
                told.append((error.path, error.offset_bytes))
                wrong += 1
        assert wrong
        assert all(
            where == str(path) and start is not None and start <= at for where, start in told
        )
        with pytest.raises(walkv.CorruptionError):
            reader.check(lambda size: None)
    path.write_bytes(original)
    for length in [*range(130), *range(130, len(original), 61)]:
        path.write_bytes(original[:length])
        with pytest.raises(walkv.CorruptionError):
            reader_of(tmp_path)
    path.write_bytes(original + b"\0")
    with pytest.raises(walkv.CorruptionError):
        reader_of(tmp_path)


def test_pages_that_changed_places_are_damage(tmp_path: Path) -> None:
    write(tmp_path, [(b"%04d" % n, b"same size".ljust(5000), n) for n in range(8)])
    path = tmp_path / file_name(1)
    data = bytearray(path.read_bytes())
    index = reader_of(tmp_path)
    starts = index._index(index._root, 0).starts
    lengths = [stop - start for start, stop in pairwise(starts)]
    one, two = next((a, b) for a in range(8) for b in range(a + 1, 8) if lengths[a] == lengths[b])
    first, second = (slice(64 + starts[n], 64 + starts[n + 1]) for n in (one, two))
    data[first], data[second] = data[second], data[first]
    path.write_bytes(data)
    reader = reader_of(tmp_path)
    with pytest.raises(walkv.CorruptionError, match="checksum"):
        reader.item(b"%04d" % one)


def test_header_layout_against_the_constants() -> None:
    header = layout.SnapshotHeader(STORE, 0x1122334455667788, 9, START_NS)
    data = header.encode()
    assert data[:8] == b"WALKVSNP"
    assert data[8:16] == struct.pack("<II", 1, 0)
    assert data[16:32] == STORE
    assert data[32:56] == struct.pack("<QQQ", 0x1122334455667788, 9, START_NS)
    assert data[56:] == xxh3_64_digest(data[:56])
    assert layout.decode_header(data, "p") == header
    footer = layout.SnapshotFooter(64, 100, 5, 2, 77)
    data = footer.encode(salt=3, offset=164)
    assert data[8:56] == struct.pack("<QQQQQQ", 64, 100, 5, 2, 77, 0)
    assert data[56:] == b"WALKVEND"
    assert data[:8] == xxh3_64_digest(data[8:], 3 + 164)
    assert layout.decode_footer(data, "p", 3, 164) == footer
    for salt, offset in ((4, 164), (3, 165)):
        with pytest.raises(walkv.CorruptionError):
            layout.decode_footer(data, "p", salt, offset)
    for bad in (
        layout.SnapshotFooter(0, 164, 5, 2, 77),
        layout.SnapshotFooter(64, 99, 5, 2, 77),
    ):
        with pytest.raises(walkv.CorruptionError):
            layout.decode_footer(bad.encode(3, 164), "p", 3, 164)


@pytest.mark.parametrize(("at", "value"), [(8, 2), (12, 1)])
def test_a_newer_format_or_unknown_feature_is_a_format_error(
    tmp_path: Path, at: int, value: int
) -> None:
    write(tmp_path, [(b"k", b"v", 1)])
    path = tmp_path / file_name(1)
    data = bytearray(path.read_bytes())
    data[at : at + 4] = value.to_bytes(4, "little")
    data[56:64] = xxh3_64_digest(bytes(data[:56]))
    path.write_bytes(data)
    with pytest.raises(walkv.FormatError) as caught:
        reader_of(tmp_path)
    assert caught.value.path == str(path)
    assert caught.value.found_version == (value if at == 8 else 1)


def test_another_stores_snapshot_or_another_name_is_damage(tmp_path: Path) -> None:
    write(tmp_path, [(b"k", b"v", 1)])
    path = str(tmp_path / file_name(1))
    with pytest.raises(walkv.CorruptionError, match="another"):
        SnapshotReader(FS, path, b"f" * 16, 1, BlockCache(0))
    with pytest.raises(walkv.CorruptionError, match="another"):
        SnapshotReader(FS, path, STORE, 2, BlockCache(0))


def page(body: bytes, salt: int = 7, offset: int = 64) -> bytes:
    return layout.place_page(body, salt, offset)


def decode(data: bytes, kind: int = layout.DATA) -> tuple[bytes, bool]:
    payload, plain = layout.decode_page(data, kind, path="p", salt=7, offset=64)
    return bytes(payload), plain


def test_pages_say_what_they_are_and_shrink_where_it_pays() -> None:
    encoder = layout.PageEncoder()
    for payload, kind, plain in (
        (b"", layout.INDEX, False),
        (b"text " * 500, layout.DATA, True),
        (os.urandom(500), layout.DATA, False),
        (b"x" * 1_000_000, layout.ROOT, False),
    ):
        data = page(encoder.encode(kind, payload, plain=plain))
        assert decode(data, kind) == (payload, plain)
        assert data[8] == kind
        assert len(data) <= len(payload) + layout.PAGE_HEADER_BYTES
        for other in {layout.DATA, layout.INDEX, layout.ROOT} - {kind}:
            with pytest.raises(walkv.CorruptionError):
                decode(data, other)
        with pytest.raises(walkv.CorruptionError):
            layout.decode_page(data, kind, path="p", salt=8, offset=64)
        with pytest.raises(walkv.CorruptionError):
            layout.decode_page(data, kind, path="p", salt=7, offset=65)
    assert len(page(encoder.encode(layout.DATA, b"text " * 500))) < 200


def hostile() -> Iterator[tuple[str, bytes]]:
    packed = zstandard.ZstdCompressor(write_content_size=True).compress(bytes(1000))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1000))
    head = struct.Struct("<BBHI").pack
    yield "the frame declares more", head(1, 1, 0, 999) + packed
    yield "the frame declares less", head(1, 1, 0, 1001) + packed
    yield "the frame declares nothing", head(1, 1, 0, 1000) + unsized
    yield "past the limit", head(1, 1, 0, limits.MAX_BLOCK_BYTES + 1) + packed
    yield "trailing bytes", head(1, 1, 0, 1000) + packed + b"x"
    yield "no frame", head(1, 1, 0, 1000) + b"not zstd"
    yield "cut frame", head(1, 1, 0, 1000) + packed[:-3]
    yield "empty frame", head(1, 1, 0, 0)
    yield "unknown codec", head(1, 2, 0, 4) + b"four"
    yield "unknown kind", head(9, 0, 0, 4) + b"four"
    yield "stored, too long", head(1, 0, 0, 3) + b"four"
    yield "stored, too short", head(1, 0, 0, 5) + b"four"
    yield "no header", b""
    yield "half a header", head(1, 0, 0, 0)[:5]


@pytest.mark.parametrize(("name", "body"), list(hostile()))
def test_hostile_pages_with_the_right_checksum_are_refused(name: str, body: bytes) -> None:
    with pytest.raises(walkv.CorruptionError):
        decode(page(body))


def test_a_zstd_frame_that_lies_about_its_size_allocates_nothing() -> None:
    """32 KB that would become 1 GiB: the library ignores its own cap where a size is declared."""
    import tracemalloc

    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(1 << 27))
    body = struct.pack("<BBHI", 1, 1, 0, 1000) + bomb
    tracemalloc.start()
    try:
        with pytest.raises(walkv.CorruptionError):
            decode(page(body))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x93",
        b"\x90",
        b"\x80",
        b"\x93\x90\x90\xc4\x00",
        b"\x93\x91\xc4\x01a\x90\xc4\x00",
        b"\x93\x91\xc4\x01a\x91\xc4\x01v\xc4\x00",
        b"\x93\x91\xc4\x01a\x91\xc4\x01v\xa0",
        b"\x93\x01\x02\x03",
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 5000 + b"\xc0",
    ],
)
def test_payloads_that_are_no_block_are_value_or_type_errors(payload: bytes) -> None:
    for decoder in (
        lambda raw: blocks.decode_data(raw, False),
        blocks.decode_index,
        blocks.decode_root,
    ):
        with pytest.raises((ValueError, TypeError, IndexError)):
            decoder(payload)


def test_file_names() -> None:
    assert file_name(7) == "0000000007.snap"
    assert parse_file_name("0000000007.snap") == 7
    for name in ("7.snap", "0000000007", "000000000x.snap", "0000000007.snap.bak", "\u0667" * 10):
        assert parse_file_name(name) is None
    assert parse_file_name("\u0667" * 10 + ".snap") is None


def test_finish_syncs_the_file_then_its_directory(tmp_path: Path) -> None:
    fs = HookedFileSystem()
    writer = SnapshotWriter(fs, str(tmp_path), STORE, 1)
    writer.add([b"k"], [b"v" * 1_000_000], [1], True)
    writer.finish()
    operations = [operation for operation, _ in fs.calls]
    assert operations[0] == "create"
    assert operations[-2:] == ["sync", "sync_directory"]
    assert set(operations[1:-2]) == {"write"}
