"""States of agents, each kept as its difference: parts that states share, and deltas of large ones.

A state is any bytes, most often one msgpack document that differs a little from the state before.
Its bytes are cut into segments along the document's structure. Tiny segments are literals; all
others are *parts*, kept once in their *pool*, a family of states that share parts. What puts a
state together again is its *recipe*, which the caller keeps.

Layout:

    key                                      value
    ---------------------------------------  -------------------------------------------------
    prefix, pool u64 be, "n"                 u64 be: number of the next part of lane 0
    prefix, pool u64 be, "n", lane u32 be    the same for another lane
    prefix, pool u64 be, "p", number u64 be  part: 00, content
                                             part: 01, delta

    delta    msgpack [base, anchor, depth, prefix_bytes, suffix_bytes, zstd frame]
             content = the base's first prefix_bytes, frame's content, the base's last suffix_bytes
             dictionary of the frame (raw content): the base without the suffix and without all of
             the prefix but CONTEXT_BYTES; none if that is longer than MAX_DICTIONARY_BYTES
             depth: deltas between here and a whole part, counted without the short cuts below
             anchor: number of the part at the last depth below this one that divides by ANCHOR_STEP
    recipe   msgpack [1, xxh3_64 of the state, length_bytes, piece...]
             piece: bin literal, or uint first and uint count: parts first .. first + count - 1

Invariants:
    1. The pieces of a recipe, one after another, are the state. How it was cut is kept nowhere, so
       the cutter may change and its only duty is to give the same borders for the same bytes.
    2. A part is never changed and its number never used again. Numbers go by *lanes*, of
       2**LANE_BITS each: states that grow side by side in one pool, each in a lane of its own, have
       recipes of a few long runs, where numbers in turn would give each a run for every step.
    3. A delta's number is larger than its base's: there are no cycles, and one pass from the last
       part to the first finds all that is needed. Its base is the part one depth above; at depths
       that divide by ANCHOR_STEP it is the anchor. So no chain is longer than MAX_LINKS.
    4. The bases of a live part are live. ``prepare`` builds on parts and bases of ``previous``
       only; as long as the record that holds ``previous`` is there, so is all it builds on.
    5. What is cached under (pool, recipe) is true even if the transaction that wrote the recipe was
       abandoned and its numbers were given out again: a recipe holds the digest of its state, so
       equal recipes are the same state, cut alike, with the same number at each place.
    6. Any bytes may come as a state, a recipe or a part. As a state they are kept; as the others
       they are read or raise ``CorruptionError``, and no length is believed before it was held
       against something that is there.

Source: content-defined chunking (LBFS, restic) along borders that msgpack gives for nothing; skip
levels of Mercurial's and Subversion's deltas. Rejected: a chain of deltas of whole states, which
costs each put and read the whole state; a rolling hash, which is too slow in Python; compressing
whole parts, which a snapshot does anyway, by the block.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import msgpack
import xxhash
import zstandard

from walkv import limits
from walkv.errors import CorruptionError, LimitError
from walkv.namespaces.checkpoints.cutting import Mark, cut
from walkv.namespaces.checkpoints.deltas import (
    ANCHOR_STEP,
    MAX_DEPTH,
    MAX_LINKS,
    MAX_STATE_BYTES,
    NUMBERS,
    Link,
    applied,
    decode_link,
    difference,
)
from walkv.namespaces.checkpoints.recipes import Piece, damaged, decoded, encoded, merged
from walkv.namespaces.keyvalue import Reader, Writer

MIN_DELTA_BYTES: Final = 2048
"""A smaller part is kept whole: reading its base would cost more than it saves."""

SCAN_COUNT: Final = 8
"""A run of more parts is read by one scan."""

DEFAULT_CACHE_BYTES: Final = 16 * limits.MIB
PART_COST_BYTES: Final = 180
"""Memory that one part of a cached state takes: a digest, a number, a size and their places."""

LANE_BITS: Final = 40
MAX_LANE: Final = (1 << 64 - LANE_BITS) - 1

_WHOLE: Final = b"\0"
_DELTA: Final = b"\1"
_NEW: Final = NUMBERS
"""Until ``write`` knows the pool's counter, new parts are numbered from here."""

_SEED: Final = secrets.randbits(64)
"""Nobody who writes states can look for two segments that are taken for one."""


class _Known(NamedTuple):
    """The parts of one state, in its order.

    Attributes:
        mark: how far it is cut for good, whatever is appended to it.
        pieces: from behind its header up to the mark ...
        part_count: ... and so many parts.
    """

    digests: list[bytes]
    numbers: list[int]
    sizes: list[int]
    mark: Mark | None = None
    pieces: tuple[Piece, ...] = ()
    part_count: int = 0

    def head(self) -> _Known:
        """What it has up to its mark."""
        count = self.part_count
        return _Known(self.digests[:count], self.numbers[:count], self.sizes[:count])


class Prepared(NamedTuple):
    """A state that is ready to be written, any number of times. Opaque to callers."""

    digest: int
    length_bytes: int
    pieces: list[Piece]
    values: list[bytes]
    parts: _Known


class States:
    """The states below one key prefix. Thread-safe.

    Args:
        prefix: begins every key of these states.
        cache_bytes: memory for what ``prepare`` would otherwise read of previous states.
    """

    def __init__(self, prefix: bytes, *, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self._prefix = prefix
        self._cache_bytes = cache_bytes
        self._cache: OrderedDict[tuple[int, bytes], _Known] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()

    def prepare(
        self, reader: Reader, pool: int, state: bytes, previous: bytes | None = None
    ) -> Prepared:
        """Find out what of a state is new. Reads only, and needs no lock.

        Args:
            previous: the recipe of the state, of the same pool, that this one probably resembles.
                If it cannot be read, nothing is shared with it: damage to the past does not keep
                anyone from writing.
        Raises:
            LimitError: the state is longer than MAX_STATE_BYTES.
        Cost: O(len(state)) at the speed of C and about 0.6 us per segment; if ``previous`` is not
            cached, one read of it; for each large part that changed, a read of its old content and
            a zstd call.
        """
        if len(state) > MAX_STATE_BYTES:
            raise LimitError(
                f"a state has at most {MAX_STATE_BYTES} bytes, and this one has {len(state)}",
                name="MAX_STATE_BYTES",
                limit=MAX_STATE_BYTES,
                actual=len(state),
            )
        known = self._known(reader, pool, previous)
        numbers_by_digest = dict(zip(known.digests, known.numbers, strict=True))
        segments, resumed, mark = cut(state, known.mark)
        parts = known.head() if resumed else _Known([], [], [])
        pieces: list[Piece] = []
        fresh: list[bytes] = []
        at_mark = (len(known.pieces) + 1, known.part_count) if resumed else (1, 0)
        for start, end, literal in segments:
            segment = state[start:end]
            if literal:
                pieces.append(segment)
                if resumed and not start:
                    pieces += known.pieces
                elif mark is not None and end == mark.end:
                    at_mark = (len(pieces), len(parts.numbers))
                continue
            digest = xxhash.xxh3_128_digest(segment, _SEED)
            number = numbers_by_digest.get(digest)
            if number is None:
                number = numbers_by_digest[digest] = _NEW + len(fresh)
                fresh.append(segment)
            pieces.append((number, 1))
            parts.digests.append(digest)
            parts.numbers.append(number)
            parts.sizes.append(end - start)
            if mark is not None and end == mark.end:
                at_mark = (len(pieces), len(parts.numbers))
        values = [_WHOLE + content for content in fresh]
        if known.numbers and any(len(content) >= MIN_DELTA_BYTES for content in fresh):
            for number, old in _counterparts(known, parts):
                delta = self._delta(reader, pool, fresh[number - _NEW], old)
                if delta is not None:
                    values[number - _NEW] = delta
        digest_64 = xxhash.xxh3_64_intdigest(state)
        if mark is not None:
            parts = parts._replace(
                mark=mark, pieces=tuple(merged(pieces[1 : at_mark[0]])), part_count=at_mark[1]
            )
        return Prepared(digest_64, len(state), merged(pieces), values, parts)

    def write(self, writer: Writer, pool: int, prepared: Prepared, lane: int = 0) -> bytes:
        """Put the new parts of a prepared state and give its recipe, to be kept by the caller.

        Args:
            lane: where its new parts are numbered, 0 to MAX_LANE; not below the one of the state
                that was given to ``prepare`` as previous.

        The caller has made sure, in the same transaction, that the record with the recipe that was
        given to ``prepare`` is still there.

        Cost: one get, and one put per new part.
        """
        digest, length_bytes, pieces, values, parts = prepared
        if values:
            counter = self._counter(pool, lane)
            first = self._next_number(writer, pool, counter, lane)
            for number, value in enumerate(values, first):
                writer.put(self._key(pool, number), value)
            writer.put(counter, (first + len(values)).to_bytes(8, "big"))
            shift = first - _NEW
            pieces = _shifted(pieces, shift)
            numbers = [n + shift if n >= _NEW else n for n in parts.numbers]
            parts = parts._replace(numbers=numbers, pieces=tuple(_shifted(parts.pieces, shift)))
        recipe = encoded(digest, length_bytes, pieces)
        self._remember(pool, recipe, parts)
        return recipe

    def read(self, reader: Reader, pool: int, recipe: bytes) -> bytes:
        """The state of a recipe.

        Args:
            reader: of one moment, as a view is; else a state that is collected meanwhile looks
                damaged.
        Raises:
            CorruptionError: the recipe or a part of it is missing or damaged.
        Cost: O(len(state)); a scan for each long run of parts, a get for each other part and for
            each link of a delta's chain.
        """
        return self._load(reader, pool, recipe)[2]

    def size_bytes(self, reader: Reader, pool: int, recipes: Iterable[bytes]) -> int:
        """Bytes kept for some states of a pool, parts that they share counted once.

        Raises:
            CorruptionError: a recipe or a delta is damaged.
        Cost: a scan of the pool.
        """
        recipes = list(recipes)
        survey = self._survey(reader, pool, recipes)
        return sum(map(len, recipes)) + sum(size for _, size, needed in survey if needed)

    def collect(self, writer: Writer, pool: int, live: Iterable[bytes]) -> int:
        """Delete the parts of a pool that no live recipe needs. Idempotent.

        Returns:
            How many bytes of parts were deleted.
        Raises:
            CorruptionError: a recipe or a delta is damaged, so that nobody knows what is needed;
                nothing was deleted.
        Cost: a scan of the pool, and a delete per part.
        """
        unneeded = [
            (key, size) for key, size, needed in self._survey(writer, pool, live) if not needed
        ]
        for key, _ in unneeded:
            writer.delete(key)
        return sum(size for _, size in unneeded)

    def drop(self, writer: Writer, pool: int) -> None:
        """Delete all of a pool. The number of the pool must not be used again."""
        writer.delete_range(self._pool(pool))

    # -- keys ------------------------------------------------------------------------------------

    def _pool(self, pool: int) -> bytes:
        return self._prefix + pool.to_bytes(8, "big")

    def _key(self, pool: int, number: int) -> bytes:
        return self._prefix + pool.to_bytes(8, "big") + b"p" + number.to_bytes(8, "big")

    def _counter(self, pool: int, lane: int) -> bytes:
        return self._pool(pool) + b"n" + (lane.to_bytes(4, "big") if lane else b"")

    def _next_number(self, reader: Reader, pool: int, counter: bytes, lane: int) -> int:
        data = reader.get(counter)
        if data is None:
            return (lane << LANE_BITS) + 1
        number = int.from_bytes(data, "big")
        if len(data) != 8 or (number - 1) >> LANE_BITS != lane:
            raise damaged(pool, "its counter of parts is damaged")
        return number

    # -- previous states -------------------------------------------------------------------------

    def _known(self, reader: Reader, pool: int, recipe: bytes | None) -> _Known:
        if recipe is None:
            return _Known([], [], [])
        with self._lock:
            known = self._cache.get((pool, recipe))
            if known is not None:
                self._cache.move_to_end((pool, recipe))
                return known
        try:
            numbers, contents, _ = self._load(reader, pool, recipe)
        except CorruptionError:
            return _Known([], [], [])
        parts = [
            (xxhash.xxh3_128_digest(content, _SEED), number, len(content))
            for number, content in zip(numbers, contents, strict=True)
            if number
        ]
        digests, numbers, sizes = map(list, zip(*parts, strict=True)) if parts else ([], [], [])
        return _Known(digests, numbers, sizes)

    def _remember(self, pool: int, recipe: bytes, parts: _Known) -> None:
        cost = _cost_bytes(recipe, parts)
        if cost > self._cache_bytes:
            return
        with self._lock:
            old = self._cache.pop((pool, recipe), None)
            if old is not None:
                self._cached_bytes -= _cost_bytes(recipe, old)
            self._cache[pool, recipe] = parts
            self._cached_bytes += cost
            while self._cached_bytes > self._cache_bytes:
                (_, old_recipe), old = self._cache.popitem(last=False)
                self._cached_bytes -= _cost_bytes(old_recipe, old)

    def _delta(self, reader: Reader, pool: int, content: bytes, old: int) -> bytes | None:
        """A part that says how ``content`` differs from part ``old``, if that is worth it."""
        try:
            value = self._value(reader, pool, old)
            anchor, depth = old, 1
            if value[:1] == _DELTA:
                link = decode_link(value, old)
                depth = link.depth + 1
                anchor = link.anchor if link.depth % ANCHOR_STEP else old
            if depth > MAX_DEPTH:
                return None
            if depth % ANCHOR_STEP == 0:
                old, value = anchor, self._value(reader, pool, anchor)
            base = self._content(reader, pool, old, value)
        except (CorruptionError, ValueError):
            return None
        prefix_bytes, suffix_bytes, frame = difference(base, content)
        fields = [old, anchor, depth, prefix_bytes, suffix_bytes, frame]
        delta: bytes = _DELTA + msgpack.packb(fields)
        # A text that is new throughout saves half as well, by compression alone; as a delta it
        # would keep its base alive for nothing.
        alone = len(content)
        if len(delta) * 16 > alone:
            alone = len(zstandard.ZstdCompressor(level=1).compress(content))
        return delta if len(delta) * 2 <= alone else None

    # -- reading ---------------------------------------------------------------------------------

    # Hot.
    def _load(
        self, reader: Reader, pool: int, recipe: bytes
    ) -> tuple[list[int], list[bytes], bytes]:
        """Numbers (0 for a literal) and contents of a recipe's pieces, and the state they are."""
        digest, length_bytes, pieces = decoded(pool, recipe)
        numbers: list[int] = []
        contents: list[bytes] = []
        left_bytes = length_bytes
        for piece in pieces:
            if type(piece) is bytes:
                numbers.append(0)
                contents.append(piece)
                left_bytes -= len(piece)
            elif piece[1] > left_bytes:
                left_bytes = -1
            else:
                first, count = piece
                values = self._run(reader, pool, first, count)
                run = [
                    value[1:] if value[:1] == _WHOLE else self._content(reader, pool, number, value)
                    for number, value in enumerate(values, first)
                ]
                numbers.extend(range(first, first + count))
                contents += run
                left_bytes -= sum(map(len, run))
        state = b"".join(contents)
        if left_bytes or xxhash.xxh3_64_intdigest(state) != digest:
            raise damaged(pool, "a recipe and its parts do not give the state that was put")
        return numbers, contents, state

    def _run(self, reader: Reader, pool: int, first: int, count: int) -> list[bytes]:
        """Values of the parts from ``first`` on."""
        if count <= SCAN_COUNT:
            return [self._value(reader, pool, n) for n in range(first, first + count)]
        start, stop = self._key(pool, first), self._key(pool, first + count)
        values = [value for _, value in reader.scan(start=start, stop=stop)]
        if len(values) != count:
            raise damaged(pool, f"of parts {first} to {first + count - 1} some are missing")
        return values

    def _value(self, reader: Reader, pool: int, number: int) -> bytes:
        value = reader.get(self._key(pool, number))
        if value is None:
            raise damaged(pool, f"part {number} is missing")
        return value

    def _content(self, reader: Reader, pool: int, number: int, value: bytes) -> bytes:
        """The content of a part, by way of its bases."""
        links: list[Link] = []
        try:
            while value[:1] == _DELTA and len(links) < MAX_LINKS:
                link = decode_link(value, number)
                links.append(link)
                number = link.base
                value = self._value(reader, pool, number)
            if value[:1] != _WHOLE:
                raise ValueError("neither whole nor a delta in a chain that ends")
            content = value[1:]
            while links:
                content = applied(links.pop(), content)
        except (ValueError, zstandard.ZstdError) as error:
            raise damaged(pool, f"part {number} is damaged: {error}") from None
        return content

    def _survey(
        self, reader: Reader, pool: int, live: Iterable[bytes]
    ) -> Iterator[tuple[bytes, int, bool]]:
        """Key, size and whether it is needed of each part of a pool, the last one first."""
        runs: list[tuple[int, int]] = []
        pieces = {piece for recipe in live for piece in decoded(pool, recipe)[2]}
        for first, count in sorted(piece for piece in pieces if type(piece) is tuple):
            if runs and first <= runs[-1][1]:
                runs[-1] = (runs[-1][0], max(runs[-1][1], first + count))
            else:
                runs.append((first, first + count))
        bases: set[int] = set()
        for key, value in reader.scan(self._pool(pool) + b"p", reverse=True):
            number = int.from_bytes(key[-8:], "big")
            while runs and number < runs[-1][0]:
                runs.pop()
            needed = number in bases or bool(runs and number < runs[-1][1])
            if needed and value[:1] == _DELTA:
                try:
                    bases.add(decode_link(value, number).base)
                except ValueError as error:
                    raise damaged(pool, f"part {number} is damaged: {error}") from None
            yield key, len(value), needed


def _counterparts(known: _Known, parts: _Known) -> Iterator[tuple[int, int]]:
    """Pairs of a new large part and the old one whose place it seems to have taken.

    Between two parts that both states have, the last new one takes the place of the last old one,
    and so on backwards: what is inserted is mostly the end of a list, before what changes.
    """
    kept = set(parts.numbers)
    places = {number: place for place, number in enumerate(known.numbers)}
    gap: list[int] = []
    end = (0, MIN_DELTA_BYTES)
    for number, size_bytes in (*zip(parts.numbers, parts.sizes, strict=True), end):
        if number >= _NEW:
            if size_bytes >= MIN_DELTA_BYTES:
                gap.append(number)
            continue
        place = places.get(number, len(known.numbers))
        while gap and place > 0 and known.numbers[place - 1] not in kept:
            place -= 1
            if known.sizes[place] >= MIN_DELTA_BYTES:
                yield gap.pop(), known.numbers[place]
        gap.clear()


def _shifted(pieces: Iterable[Piece], shift: int) -> list[Piece]:
    """Pieces with the numbers that new parts have got."""
    return merged(
        (piece[0] + shift, piece[1]) if type(piece) is tuple and piece[0] >= _NEW else piece
        for piece in pieces
    )


def _cost_bytes(recipe: bytes, parts: _Known) -> int:
    return len(recipe) + PART_COST_BYTES * (len(parts.numbers) + 2)
