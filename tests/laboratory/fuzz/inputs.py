"""What is given to the decoders: hostile bytes, and valid structures with something wrong in them.

``hostile`` knows nothing of checksums. ``forged`` puts every checksum right, so that what is behind
it is reached: fields of another type, lengths that are not there, deep nesting, bombs.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import msgpack
import zstandard
from hypothesis import strategies as st

from tests.laboratory.fuzz import targets
from tests.laboratory.fuzz.targets import KEYS, TARGETS
from walkv.engine import frame
from walkv.engine.snapshot import blocks, layout

Bytes = st.SearchStrategy[bytes]

_INTEGERS: Final = st.one_of(
    st.integers(0, 300),
    st.sampled_from([-1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 63, (1 << 64) - 1, -(1 << 63)]),
)
# Not st.text(): the table of all characters takes longer to make than everything else here.
_TEXTS: Final = st.sampled_from(["", "k", "caf\u00e9", "\0"])
_SCALARS: Final = st.one_of(
    st.none(),
    st.booleans(),
    _INTEGERS,
    st.floats(),
    st.binary(max_size=40),
    st.sampled_from([b"", *KEYS]),
    _TEXTS,
    st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=9)),
    st.just(msgpack.Timestamp(1, 2)),
)
VALUES: Final = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.binary(max_size=3), _TEXTS), inner, max_size=3),
    ),
    max_leaves=6,
)
"""Anything msgpack can say."""


@st.composite
def _nested(draw: Any) -> bytes:
    """Deep arrays, and headers that claim what is not there."""
    head = draw(
        st.sampled_from([b"\x91", b"\x92\xc0", b"\xdc\xff\xff", b"\xdd\0\0\x27\x10", b"\x81\xa1k"])
    )
    depth = draw(st.sampled_from([1, 2, 500, 1023, 1025, 4000]))
    end = draw(
        st.sampled_from(
            [
                b"\xc0",
                b"",
                b"\xc6\xff\xff\xff\xff",
                b"\xdf\xff\xff\xff\xff",
                b"\xc9\x7f\xff\xff\xff\xff",
            ]
        )
    )
    return bytes(head * depth + end)


@st.composite
def _changed(draw: Any, valid: Bytes) -> bytes:
    """Valid bytes with a few edits."""
    data = bytearray(draw(valid))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.integers(0, 3))
        if kind == 0 and data:
            data[at] = draw(st.integers(0, 255))
        elif kind == 1:
            data[at:at] = draw(st.binary(max_size=8))
        elif kind == 2:
            del data[at : at + draw(st.integers(1, 8))]
        else:
            number = draw(_INTEGERS) & (1 << 64) - 1
            data[at : at + 8] = number.to_bytes(8, "little")[: draw(st.sampled_from([4, 8]))]
    return bytes(data)


@st.composite
def _with_values(draw: Any, valid: st.SearchStrategy[list[Any]]) -> bytes:
    """A valid msgpack structure with some elements replaced, added or left out."""
    value = draw(valid)
    for _ in range(draw(st.integers(1, 3))):
        holder = value
        while holder and draw(st.booleans()):
            inner = [each for each in holder if type(each) is list and each]
            if not inner:
                break
            holder = draw(st.sampled_from(inner))
        if not holder:
            break
        at = draw(st.integers(0, len(holder) - 1))
        kind = draw(st.integers(0, 4))
        if kind == 0:
            holder.insert(at, draw(VALUES))
        elif kind == 1:
            del holder[at]
        elif kind == 2 and type(holder[at]) is list:
            # The same members under another type: what has a length and can be walked passes far.
            members = [each if type(each) in (bytes, str) else b"" for each in holder[at]]
            holder[at] = dict.fromkeys([*members, b"z", b"y"][: max(len(members), 1)], b"")
        else:
            holder[at] = draw(VALUES)
    try:
        rest: bytes = draw(st.sampled_from([b"", b"", b"", b"\xc0", b"\x91"]))
        return bytes(msgpack.packb(value)) + rest
    except (ValueError, OverflowError):
        return b"\xc1"


def _payload(valid: st.SearchStrategy[list[Any]]) -> Bytes:
    packed = valid.map(lambda value: bytes(msgpack.packb(value)))
    return st.one_of(
        packed,
        _with_values(valid),
        _with_values(valid),
        _changed(packed),
        _nested(),
        VALUES.map(_pack),
    )


def _pack(value: Any) -> bytes:
    return bytes(msgpack.packb(value))


_KEY: Final = st.sampled_from([b"a", b"b", b"key/1", b"m", b"\xff" * 3])
_ITEM: Final = st.one_of(
    st.binary(max_size=20),
    st.none(),
    st.tuples(_INTEGERS.filter(lambda n: n >= 0), st.binary(max_size=9)).map(list),
)
_RANGE: Final = st.tuples(_KEY, st.one_of(_KEY, st.none())).map(list)


def _flat(pairs: list[Any]) -> list[Any]:
    return [each for pair in pairs for each in pair]


_OPERATIONS: Final = st.lists(
    st.one_of(st.tuples(_KEY, _ITEM), st.tuples(_RANGE, st.none())), min_size=1, max_size=4
).map(_flat)

_SUMMARY: Final = st.lists(st.integers(0, 1 << 40), min_size=5, max_size=5)
_MANIFEST: Final = st.builds(
    lambda numbers, segments, snapshots: [targets.STORE_ID, *numbers, segments, snapshots],
    st.lists(st.integers(0, 1 << 40), min_size=4, max_size=4),
    st.lists(st.integers(1, 99), min_size=1, max_size=3, unique=True).map(sorted),
    st.lists(_SUMMARY, max_size=3),
)


@st.composite
def _data_block(draw: Any) -> list[Any]:
    keys = sorted(draw(st.sets(_KEY, min_size=1, max_size=4)))
    items = [draw(_ITEM) for _ in keys]
    base = draw(st.integers(0, 1 << 40))
    spread = draw(st.sampled_from([0, 1, 300, 1 << 20, 1 << 40]))
    return [keys, items, blocks.encode_sequences([base + n * spread for n in range(len(keys))])]


@st.composite
def _index(draw: Any, length: int | None = None) -> list[Any]:
    keys = sorted(draw(st.sets(_KEY, min_size=1, max_size=4)))
    steps = [draw(st.integers(1, 500)) for _ in keys]
    starts = [0]
    for step in steps:
        starts.append(starts[-1] + step)
    if length is not None:
        starts = [min(start, length) for start in starts[:-1]] + [length]
    return [keys, starts, blocks.encode_filter([blocks.hash_key(key) for key in keys])]


@st.composite
def _root(draw: Any) -> list[Any]:
    count = draw(st.integers(0, 3))
    numbers = [[draw(_INTEGERS) for _ in range(count)] for _ in range(5)]
    keys = sorted(draw(st.lists(_KEY, min_size=count, max_size=count)))
    ranges = draw(st.lists(_RANGE, max_size=2))
    if count and draw(st.booleans()):
        # The partition that is there.
        numbers[0], numbers[1], numbers[2] = (
            [64] * count,
            [55] * count,
            [draw(st.integers(40, 90))] * count,
        )
    return [keys, keys, *numbers, [start for start, _ in ranges], [stop for _, stop in ranges]]


@st.composite
def _packed(draw: Any, payloads: Bytes) -> tuple[int, int, bytes]:
    """Codec, claimed length and body of a page; compressed ones honest, lying, or bombs."""
    payload = draw(payloads)
    kind = draw(st.integers(0, 8))
    if kind < 3:
        return layout.STORED, len(payload), payload
    if kind == 3:  # a bomb: within its limit, or not
        payload = bytes(draw(st.sampled_from([1 << 16, targets.MAX_BLOCK_BYTES, 16 << 20])))
    declared = kind != 4
    body = zstandard.ZstdCompressor(level=1, write_content_size=declared).compress(payload)
    claimed = len(payload)
    if kind == 5:
        claimed = draw(_INTEGERS) & 0xFFFFFFFF
    elif kind == 6:  # a header that declares what is not behind it
        claimed = draw(st.sampled_from([0, 1, 1 << 16, targets.MAX_BLOCK_BYTES, (1 << 32) - 1]))
        body = targets._ZSTD_MAGIC + b"\xa0" + struct.pack("<I", claimed) + body[6:]
    elif kind == 7:
        body += draw(st.sampled_from([b"\0", body, b"\x50\x2a\x4d\x18\0\0\0\0"]))
    elif kind == 8:
        body = draw(_changed(st.just(body)))
    return draw(st.sampled_from([layout.ZSTD, layout.ZSTD, layout.ZSTD, 2])), claimed, body


@st.composite
def _page(draw: Any) -> bytes:
    codec, claimed, body = draw(_packed(st.binary(max_size=200)))
    kind = draw(st.sampled_from([layout.DATA, layout.DATA, layout.INDEX, 0, 255]))
    return targets.page(kind, codec, claimed, body, layout.HEADER_BYTES)


@st.composite
def _snapshot(draw: Any) -> bytes:
    pages = draw(st.lists(_packed(_payload(_data_block())), min_size=1, max_size=3))
    if draw(st.booleans()):
        payload = bytes(msgpack.packb(draw(_data_block())))
        pages = [(layout.STORED, len(payload), payload)]
    length = sum(layout.PAGE_HEADER_BYTES + len(body) for _, _, body in pages)
    index = draw(st.one_of(st.none(), _payload(_index(length)), _payload(_index(length))))
    root = draw(st.one_of(st.none(), st.none(), _payload(_root())))
    return targets.snapshot_file(
        pages,
        index,
        root,
        flags=draw(st.sampled_from([0, 0, 1, 65535])),
        compress=draw(st.booleans()),
    )


@st.composite
def _segment(draw: Any) -> bytes:
    frames, sequence = [], 1
    for _ in range(draw(st.integers(0, 4))):
        payload = draw(_payload(_OPERATIONS)) or b"\0"
        kind = draw(st.sampled_from([frame.COMMIT, frame.COMMIT, frame.COMMIT, 2, 3, 4, 9]))
        count = draw(st.sampled_from([0, 1, 1, 2, (1 << 32) - 1])) if kind == frame.COMMIT else 0
        skip = draw(st.sampled_from([0, 0, 0, 0, 1, 1 << 40]))
        synced = draw(st.sampled_from([0, 64, 64, 200, (1 << 64) - 1]))
        frames.append((kind, count, sequence + skip, synced, payload))
        sequence += skip + count
    rest = draw(st.one_of(st.binary(max_size=60), st.just(bytes(50))))
    data = targets.segment_file(frames, rest)
    return draw(_changed(st.just(data))) if draw(st.integers(0, 3)) == 0 else data


_HOLDERS: Final = st.one_of(
    st.fixed_dictionaries({"pid": VALUES, "host": VALUES}),
    st.lists(st.integers()),
    st.none(),
)
_DOCUMENTS: Final = st.sampled_from(
    [b"[" * 5000, b'{"pid":' * 900, b"9" * 5000, b'{"pid": 1e999}', b'"\\ud800"']
)


def _as_json(value: Any) -> bytes:
    return repr(value).replace("'", '"').encode("utf-8", "replace")


_FORGED: Final[dict[str, Bytes]] = {
    "frame": st.binary(max_size=120).map(targets.forge_frame),
    "batch": _payload(_OPERATIONS),
    "segment": _segment(),
    "manifest": _payload(_MANIFEST).map(targets.forge_manifest),
    "lock": st.one_of(
        _HOLDERS.map(_as_json), _DOCUMENTS, _changed(st.just(b'{"pid": 1, "host": "h"}'))
    ),
    "page": _page(),
    "footer": st.lists(_INTEGERS, min_size=6, max_size=6).map(
        lambda numbers: targets.forge_footer(
            struct.pack("<6Q", *(n & (1 << 64) - 1 for n in numbers))
        )
    ),
    "data": _payload(_data_block()),
    "index": _payload(_index()),
    "root": _payload(_root()),
    "snapshot": _snapshot(),
}


def forged(target: str) -> Bytes:
    """Valid but for what is behind the checksums."""
    return st.one_of(_FORGED[target], st.binary(max_size=300).map(TARGETS[target].forge))


def hostile(target: str) -> Bytes:
    """Bytes, and valid bytes with edits; no checksum is put right."""
    return st.one_of(st.binary(max_size=400), _changed(_FORGED[target]))
