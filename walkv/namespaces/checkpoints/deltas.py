"""How one part differs from another: a shared beginning and end, and zstd for what is between.

Layout: a delta is a msgpack array [base, anchor, depth, prefix_bytes, suffix_bytes, zstd frame];
see ``states``.

Invariants:
    1. A frame is read with the dictionary it was written with, so what makes it is the format.
    2. No length that a delta claims is believed before it was held against what is there.

Source: deltas against a raw dictionary. The common ends are trimmed first, since zstd looks for
them in vain in long dictionaries; skip levels as in Mercurial and Subversion bound the chains.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgpack
import zstandard

from walkv import limits

MAX_STATE_BYTES: Final = limits.MAX_VALUE_BYTES - 1
"""The longest state: it may be one part, which is a value."""

ANCHOR_STEP: Final = 16
MAX_DEPTH: Final = ANCHOR_STEP**2 - 1
MAX_LINKS: Final = 2 * (ANCHOR_STEP - 1)
"""Deltas in the longest chain: from depth 255 to 240, and on by anchors to 0."""

CONTEXT_BYTES: Final = 32 * limits.KIB
MAX_DICTIONARY_BYTES: Final = 8 * limits.MIB
"""Part of the format: a frame is read with the dictionary it was written with. A longer one would
take zstd 100 ms and more."""

MAX_WINDOW_LOG: Final = 27
"""The widest zstd window that every decoder takes; it covers MAX_DICTIONARY_BYTES many times."""

MAX_EXPANSION_LOG: Final = 15
"""What a zstd frame may claim: its own size shifted by this. A block of 128 KiB takes 4 bytes."""

assert MAX_DICTIONARY_BYTES < 1 << MAX_WINDOW_LOG

NUMBERS: Final = 1 << 64
"""Above every number of a part."""

MSGPACK_ERRORS: Final = (ValueError, TypeError, ArithmeticError, msgpack.UnpackException)


class Link(NamedTuple):
    """A decoded delta."""

    base: int
    anchor: int
    depth: int
    prefix_bytes: int
    suffix_bytes: int
    frame: bytes


def decode_link(value: bytes, number: int) -> Link:
    """Decode a delta, part ``number``. Raises ``ValueError``."""
    try:
        link = Link(*msgpack.unpackb(memoryview(value)[1:]))
        if type(link.frame) is not bytes or not are_numbers(*link[:5]):
            raise ValueError("its fields are not what they should be")
    except MSGPACK_ERRORS as error:
        raise ValueError(f"not a delta: {error}") from None
    if not link.anchor <= number or not 0 < link.base < number or not 0 < link.depth <= MAX_DEPTH:
        raise ValueError("a delta of a later part")
    return link


def are_numbers(*values: Any) -> bool:
    """Whether these are unsigned integers of 64 bits."""
    return all(type(value) is int and 0 <= value < NUMBERS for value in values)


def difference(base: bytes, content: bytes) -> tuple[int, int, bytes]:
    """Shared prefix and suffix in bytes, and a frame of what is between them."""
    shortest = min(len(base), len(content))
    prefix_bytes = _common(base, content, shortest, from_end=False)
    suffix_bytes = _common(base, content, shortest - prefix_bytes, from_end=True)
    middle = content[prefix_bytes : len(content) - suffix_bytes]
    dictionary = _dictionary(base, prefix_bytes, suffix_bytes)
    # Unless told so, zstd keeps too few positions of the dictionary to find what is in it.
    window_log = min(max((len(dictionary) + len(middle)).bit_length(), 10), MAX_WINDOW_LOG)
    parameters = zstandard.ZstdCompressionParameters.from_level(
        1, window_log=window_log, hash_log=min(window_log, 24)
    )
    compressor = zstandard.ZstdCompressor(
        compression_params=parameters, dict_data=_raw_dictionary(dictionary)
    )
    return prefix_bytes, suffix_bytes, compressor.compress(middle)


def applied(link: Link, base: bytes) -> bytes:
    """What ``difference`` was made of. Raises ``ValueError`` or ``ZstdError``."""
    _, _, _, prefix_bytes, suffix_bytes, frame = link
    size_bytes = zstandard.frame_content_size(frame)
    if prefix_bytes + suffix_bytes > len(base):
        raise ValueError("a delta of another base")
    if not 0 <= size_bytes <= min(len(frame) << MAX_EXPANSION_LOG, MAX_STATE_BYTES):
        raise ValueError(f"a frame of {size_bytes} bytes")
    dictionary = _dictionary(base, prefix_bytes, suffix_bytes)
    middle = zstandard.ZstdDecompressor(dict_data=_raw_dictionary(dictionary)).decompress(frame)
    return b"".join((base[:prefix_bytes], middle, base[len(base) - suffix_bytes :]))


def _dictionary(base: bytes, prefix_bytes: int, suffix_bytes: int) -> bytes:
    dictionary = base[max(prefix_bytes - CONTEXT_BYTES, 0) : len(base) - suffix_bytes]
    return dictionary if len(dictionary) <= MAX_DICTIONARY_BYTES else b""


def _raw_dictionary(dictionary: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _common(one: bytes, other: bytes, most_bytes: int, *, from_end: bool) -> int:
    """Bytes that two values have in common, ``most_bytes`` or less. Cost: O(most_bytes), in C."""
    low, high = 0, most_bytes
    while low < high:
        middle = (low + high + 1) // 2
        if from_end:
            same = (
                one[len(one) - middle : len(one) - low]
                == other[len(other) - middle : len(other) - low]
            )
        else:
            same = one[low:middle] == other[low:middle]
        low, high = (middle, high) if same else (low, middle - 1)
    return low
