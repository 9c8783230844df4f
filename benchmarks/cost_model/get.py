"""The steps of ``Store.get``: from the memtable, from a cached block, from a cold one."""

from bisect import bisect_left, bisect_right
from itertools import count
from pathlib import Path
from typing import Any

import msgpack
from xxhash import xxh3_64_digest

import walkv
from benchmarks.cost_model.costs import Costs, Step
from benchmarks.cost_model.put import hollow_store
from benchmarks.cost_model.timing import Statement, medians_ns
from benchmarks.dataset import Dataset
from benchmarks.micro import stores
from walkv.engine.frame import SEED_MASK
from walkv.engine.snapshot import BlockCache, SnapshotReader, blocks, layout

_DIFFERENCE = "difference: all of it less the steps in it"
_READ_CALLS = 20


def get_costs(directory: Path, rounds: int, entries: int) -> list[Costs]:
    """One of each kind; ``entries`` are in the store that is read."""
    data = stores.dataset(entries)
    with walkv.open(directory / "memtable", sync=walkv.WriteBack()) as store:
        stores.fill(store, data, range(min(entries, 1_000)))
        memtable = _memtable_costs(medians_ns(_memtable_statements(store, data), rounds))
    path = directory / "settled"
    stores.settled(path, data)
    with walkv.open(path, read_only=True) as store:
        cached = _cached_costs(medians_ns(_cached_statements(store, data), rounds))
    with walkv.open(path, read_only=True, cache_bytes=stores.COLD_CACHE_BYTES) as store:
        cold = _cold_costs(medians_ns(_cold_statements(store, data), rounds))
    return [memtable, cached, cold]


def _face_names(store: walkv.Store, key: bytes) -> dict[str, Any]:
    get = lambda key: key  # noqa: E731 - named as the method it stands for
    sources = store.engine.catalog.sources
    return {
        "store": store,
        "engine": store.engine,
        "hollow": hollow_store(get=get),
        "get": get,
        "key": key,
        "sources": sources,
        "table": sources.memtable.table,
    }


def _statements(names: dict[str, Any], texts: dict[str, str]) -> dict[str, Statement]:
    face = {
        "face": Statement("hollow.get(key)", names, without="get(key)"),
        "table": Statement("table.get(key)", names),
    }
    return face | {name: Statement(text, names) for name, text in texts.items()}


def _memtable_statements(store: walkv.Store, data: Dataset) -> dict[str, Statement]:
    names = _face_names(store, data.key(7))
    return _statements(names, {"engine": "engine.get(key)", "whole": "store.get(key)"})


def _memtable_costs(found: dict[str, float]) -> Costs:
    steps = (
        _face_step(found),
        Step("Engine.get, its own", found["engine"] - found["table"], _DIFFERENCE),
        Step("memtable look-up", found["table"], "dict.get of a key that is there"),
    )
    return Costs("get from the memtable", steps, found["whole"])


def _cached_statements(store: walkv.Store, data: Dataset) -> dict[str, Statement]:
    key = data.key(7)
    for _ in range(3):
        # Read, used again, and so in the dict of the hot blocks.
        assert store.get(key) == data.value(7)
    names = _face_names(store, key)
    (reader,) = names["sources"].snapshots
    assert key in reader.hot
    names["hot"] = names["sources"].next_hot
    texts = {"engine": "engine.get(key)", "hot": "hot.get(key)", "whole": "store.get(key)"}
    return _statements(names, texts)


def _cached_costs(found: dict[str, float]) -> Costs:
    engine_own = found["engine"] - found["table"] - found["hot"]
    steps = (
        _face_step(found),
        Step("Engine.get, its own", engine_own, _DIFFERENCE),
        Step("memtable look-up", found["table"], "dict.get of a key that is not there"),
        Step("cached block", found["hot"], "dict.get in the items of the hot blocks"),
    )
    return Costs("get from a cached block", steps, found["whole"])


def _cold_statements(store: walkv.Store, data: Dataset) -> dict[str, Statement]:
    index_of_key = data.entries // 2
    key = data.key(index_of_key)
    assert store.get(key) == data.value(index_of_key)
    names = _face_names(store, key)
    (reader,) = names["sources"].snapshots
    names |= _page_names(reader, key)
    names["keys"] = stores.cold_keys(data)
    texts = {
        "hot": "hot.get(key)",
        "pread": "file.read(offset, length)",
        "bisects": (
            "bisect_right(root.first_keys, key); bisect_right(index.first_keys, key); "
            "bisect_left(block.keys, key)"
        ),
        "filter": "index.may_contain(hash_key(key))",
        "load_block": "load_block(offset, length)",
        "decode_page": "decode_page(page, DATA, path=path, salt=salt, offset=offset)",
        "verify": "xxh3_64_digest(memoryview(page)[8:], salt + offset & SEED_MASK)",
        "zstd": "decompressed(packed, raw_length, path, offset)",
        "decode_data": "decode_data(payload, True)",
        "msgpack": "unpackb(payload)",
    }
    whole = Statement("store.get(next(keys))", names, _READ_CALLS, without="next(keys)")
    keep = Statement("cache.add(next(tokens), raw_block)", names, without="next(tokens)")
    return {**_statements(names, texts), "keep": keep, "whole": whole}


def _page_names(reader: SnapshotReader, key: bytes) -> dict[str, Any]:
    """The page that holds a key, and what it is made of."""
    root = reader._root
    number = bisect_right(root.first_keys, key) - 1
    index = reader._index(root, number)
    at = bisect_right(index.first_keys, key) - 1
    offset = root.offsets[number] + index.starts[at]
    length = index.starts[at + 1] - index.starts[at]
    page = reader._file.read(offset, length)
    payload, plain = layout.decode_page(
        page, layout.DATA, path=reader.path, salt=reader.salt, offset=offset
    )
    assert plain, "entries without a deletion or an expiry"
    assert page[9] == layout.ZSTD, "values that compress"
    return {
        "hot": reader.hot,
        "cache": BlockCache(stores.COLD_CACHE_BYTES),
        "tokens": count(),
        "root": root,
        "index": index,
        "block": blocks.decode_data(payload, plain),
        "raw_block": blocks.RawBlock(payload, plain),
        "load_block": reader._load_block,
        "file": reader._file,
        "offset": offset,
        "length": length,
        "page": page,
        "packed": memoryview(page)[layout.PAGE_HEADER_BYTES :],
        "raw_length": len(payload),
        "payload": payload,
        "path": reader.path,
        "salt": reader.salt,
        "DATA": layout.DATA,
        "SEED_MASK": SEED_MASK,
        "bisect_left": bisect_left,
        "bisect_right": bisect_right,
        "hash_key": blocks.hash_key,
        "decode_page": layout.decode_page,
        "decompressed": layout._decompressed,
        "xxh3_64_digest": xxh3_64_digest,
        "decode_data": blocks.decode_data,
        "unpackb": msgpack.unpackb,
    }


def _cold_costs(found: dict[str, float]) -> Costs:
    page_own = found["decode_page"] - found["verify"] - found["zstd"]
    load_own = found["load_block"] - sum(found[n] for n in ("pread", "decode_page", "decode_data"))
    steps = (
        _face_step(found),
        Step("memtable look-up", found["table"], "dict.get of a key that is not there"),
        Step("cached block", found["hot"], "dict.get of a key that is not there"),
        Step("bisections", found["bisects"], "of the partitions, of the blocks, in the block"),
        Step("filter", found["filter"], "hash_key and Index.may_contain of a key that is there"),
        Step("pread", found["pread"], "File.read of a page, from the system's page cache"),
        Step("verify the hash", found["verify"], "xxh3-64 of the page"),
        Step("zstd", found["zstd"], "of the payload"),
        Step("decode_page, its own", page_own, _DIFFERENCE),
        Step("msgpack", found["msgpack"], "unpackb of keys, items and sequences"),
        Step(
            "decode_data, its own",
            found["decode_data"] - found["msgpack"],
            "difference: checks of types and lengths",
        ),
        Step("SnapshotReader._load_block, its own", load_own, _DIFFERENCE),
        Step("keep the block", found["keep"], "BlockCache.add, and the oldest block evicted"),
    )
    return Costs("get from a cold block", steps, found["whole"])


def _face_step(found: dict[str, float]) -> Step:
    return Step("the call of get, its checks", found["face"], "Store.get over a hollow engine")
