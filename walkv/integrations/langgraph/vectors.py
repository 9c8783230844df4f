"""Vectors of items: their bytes, and the copies in memory that a search goes through.

Layout: all vectors of one item are one entry:

    offset  size      field
    ------  --------  ------------------------------------------------------
    0       4         dimensions, unsigned, big endian, above 0
    4       4 each    the vectors one after the other: float32, little endian

    valid if and only if: a whole number of vectors, at least one, follows the dimensions.

An ``Area`` is a copy of the vectors of one number of dimensions under one prefix of keys. Whoever
writes vectors marks their key in the areas that have it, before the commit; whoever searches takes
the marks, opens a view, and reads the marked keys again.

Invariants:
    1. An area that was caught up with a view has exactly what the view has. A mark is made before
       its commit can be seen, and stays until its writer is gone: so what a view shows was marked
       before, and what it does not show yet is looked at again next time. A writer lives at least
       until its commit can be seen, or is given up.
    2. A writer never waits for a search: what it takes is held for a few instructions.
    3. The areas of an opened store have at most ``MEMORY_BYTES`` together, and the ones not used
       for longest go first. One that is larger alone is read anew for each search.

Source: a log of changes next to the vectors was rejected, since all writers would write to its end,
and batches conflict there; so was an index of neighbours, which is not exact, and is rarely needed
for what an agent remembers.
"""

from __future__ import annotations

import math
import sys
import threading
import weakref
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from operator import mul
from typing import Any, Final, Literal, NamedTuple, Protocol, get_args

from walkv import limits
from walkv.errors import CodecError
from walkv.namespaces import keys
from walkv.namespaces.keyvalue import KeyValue, Reader, Writer

Distance = Literal["cosine", "l2", "inner_product"]
"""What makes vectors alike: the cosine of their angle, their distance, or their product."""

DISTANCES: Final[tuple[str, ...]] = get_args(Distance)

MEMORY_BYTES: Final = 1 * limits.GIB
"""Most bytes of the areas of one opened store."""

_HEAD_BYTES: Final = 4
_FLOAT_BYTES: Final = 4
_KEY_BYTES: Final = 256
"""What a vector's key is taken for, with what finds its row."""

_MOST_MARKS: Final = 10_000
"""With more keys to be read again an area is let go of: reading all of it costs no more."""

_MANY_UNSETTLED: Final = 64
_TRIES: Final = 3
_ROWS_AT_ONCE: Final = 256
_BLOCK_ROWS: Final = 4096


# -- bytes -----------------------------------------------------------------------------------------


def pack(vector: Iterable[float], dims: int) -> bytes:
    """A vector as float32.

    Raises:
        CodecError: it has not ``dims`` numbers, or they are not finite as float32.
    """
    try:
        numbers = array("f", vector)
    except (TypeError, ValueError, OverflowError) as error:
        raise bad(f"an embedding is a list of numbers, and this is none: {error}") from error
    if len(numbers) != dims:
        raise bad(
            f"an embedding has {len(numbers)} numbers, and the index is for {dims}; use the "
            "embeddings that it was made for, or change dims"
        )
    if not all(map(math.isfinite, numbers)):
        raise bad("an embedding holds NaN, or a number that is infinite as float32")
    return _little(numbers).tobytes()


def _little(numbers: array[float]) -> array[float]:
    """To little endian, or from it, in place."""
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def encode(packed: Iterable[bytes], dims: int) -> bytes:
    """The entry of an item with these vectors."""
    return dims.to_bytes(_HEAD_BYTES, "big") + b"".join(packed)


def decode(data: bytes) -> tuple[int, list[bytes]]:
    """Dimensions and vectors of an entry.

    Raises:
        CodecError: it is damaged.
    """
    dims = int.from_bytes(data[:_HEAD_BYTES], "big")
    size = dims * _FLOAT_BYTES
    if not size or len(data) <= _HEAD_BYTES or (len(data) - _HEAD_BYTES) % size:
        raise bad(f"{len(data)} bytes that begin with {data[:8]!r} are no vectors")
    return dims, [data[at : at + size] for at in range(_HEAD_BYTES, len(data), size)]


def bad(why: str) -> CodecError:
    """The error of a vector, or of what is to become one."""
    return CodecError(f"langgraph_items: {why}", namespace="langgraph_items", field="vector")


# -- rows ------------------------------------------------------------------------------------------


class Query(NamedTuple):
    """What is looked for.

    Attributes:
        vector: packed.
    """

    vector: bytes
    distance: Distance

    @property
    def dims(self) -> int:
        """Its dimensions."""
        return len(self.vector) // _FLOAT_BYTES


class _Rows(Protocol):
    """Vectors by number, 0 and up without a gap."""

    def append(self, packed: bytes) -> None: ...

    def pop(self, row: int) -> None:
        """Remove one; the last one takes its place."""

    def best(self, query: Query) -> Iterator[tuple[int, float]]:
        """All rows and their scores, best first, whatever happens to them meanwhile."""

    @property
    def size_bytes(self) -> int: ...


class PlainRows:
    """Rows without numpy."""

    def __init__(self, dims: int) -> None:
        self._dims = dims
        self._vectors: list[array[float]] = []

    @property
    def size_bytes(self) -> int:
        return len(self._vectors) * self._dims * _FLOAT_BYTES

    def append(self, packed: bytes) -> None:
        self._vectors.append(_little(array("f", packed)))

    def pop(self, row: int) -> None:
        last = self._vectors.pop()
        if row < len(self._vectors):
            self._vectors[row] = last

    def best(self, query: Query) -> Iterator[tuple[int, float]]:
        wanted = _little(array("f", query.vector))
        scores = [_score(each, wanted, query.distance) for each in self._vectors]
        order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
        return ((row, scores[row]) for row in order)


def _score(one: array[float], other: array[float], distance: Distance) -> float:
    if distance == "l2":
        return -math.dist(one, other)
    product: float = sum(map(mul, one, other))
    if distance == "inner_product":
        return product
    lengths: float = math.hypot(*one) * math.hypot(*other)
    return product / lengths if lengths else 0.0


class NumpyRows:
    """Rows of a numpy matrix."""

    def __init__(self, dims: int) -> None:
        import numpy

        self._numpy: Any = numpy
        self._dims = dims
        self._count = 0
        self._make(8)

    def _make(self, size: int) -> None:
        self._matrix: Any = self._numpy.empty((size, self._dims), self._numpy.float32)
        self._lengths: Any = self._numpy.empty(size)

    @property
    def size_bytes(self) -> int:
        return int(self._matrix.nbytes + self._lengths.nbytes)

    def append(self, packed: bytes) -> None:
        if self._count == len(self._matrix):
            self._grow()
        vector = self._numpy.frombuffer(packed, "<f4")
        self._matrix[self._count] = vector
        self._lengths[self._count] = math.sqrt(float(vector.astype(float) @ vector))
        self._count += 1

    def _grow(self) -> None:
        count = self._count
        matrix, lengths = self._matrix, self._lengths
        self._make(count * 3 // 2)
        self._matrix[:count], self._lengths[:count] = matrix, lengths

    def pop(self, row: int) -> None:
        self._count -= 1
        self._matrix[row] = self._matrix[self._count]
        self._lengths[row] = self._lengths[self._count]

    def best(self, query: Query) -> Iterator[tuple[int, float]]:
        numpy = self._numpy
        wanted = numpy.frombuffer(query.vector, "<f4")
        with numpy.errstate(all="ignore"):  # products of numbers near the end of float32
            scores = numpy.nan_to_num(self._scores(wanted, query.distance))
        order = numpy.argsort(-scores)
        return self._pairs(order, scores)

    def _pairs(self, order: Any, scores: Any) -> Iterator[tuple[int, float]]:
        for at in range(0, len(order), _ROWS_AT_ONCE):
            rows = order[at : at + _ROWS_AT_ONCE]
            yield from zip(rows.tolist(), scores[rows].tolist(), strict=True)

    def _scores(self, wanted: Any, distance: Distance) -> Any:
        numpy, count = self._numpy, self._count
        matrix = self._matrix[:count]
        if distance == "l2":
            # By blocks: the differences are as large as what they are made of.
            blocks = [matrix[at : at + _BLOCK_ROWS] - wanted for at in range(0, count, _BLOCK_ROWS)]
            return -numpy.concatenate(
                [numpy.linalg.norm(each, axis=1) for each in blocks] or [numpy.empty(0)]
            )
        products = matrix @ wanted
        if distance == "inner_product":
            return products
        lengths = self._lengths[:count] * math.hypot(*wanted.tolist())
        return numpy.divide(products, lengths, out=numpy.zeros_like(products), where=lengths != 0)


def make_rows(dims: int) -> _Rows:
    """Rows of numpy where it is installed."""
    return PlainRows(dims) if find_spec("numpy") is None else NumpyRows(dims)


# -- areas -----------------------------------------------------------------------------------------


class Ranking(NamedTuple):
    """Items by their likeness, of the moment in which it was made.

    Attributes:
        rows: the key of each row.
        best: rows and scores, best first.
    """

    rows: list[bytes]
    best: Iterator[tuple[int, float]]

    def items(self) -> Iterator[tuple[bytes, float]]:
        """Keys and scores, best first; each with the best score of its vectors."""
        seen = set()
        for row, score in self.best:
            key = self.rows[row]
            if key not in seen:
                seen.add(key)
                yield key, score


class Scope(NamedTuple):
    """What a search looks through.

    Attributes:
        entries: what the keys of all entries begin with.
        prefix: and those of the items that are looked through, behind it.
        dims: only vectors of so many dimensions.
    """

    entries: bytes
    prefix: bytes
    dims: int


class Area:
    """A copy of the vectors of a scope.

    Attributes:
        lock: held by who catches it up, and ranks.
        marks: keys that are to be read again, each with the writers that may not have committed.
        loaded: whether it has anything to catch up from.
        counted_bytes: what it was last taken for.
    """

    def __init__(self, scope: Scope) -> None:
        self.lock = threading.Lock()
        self.marks: dict[bytes, list[weakref.ref[Writer]]] = {}
        self.loaded = False
        self.counted_bytes = 0
        self._scope = scope
        self._rows = make_rows(scope.dims)
        self._keys: list[bytes] = []
        self._rows_of: dict[bytes, list[int]] = {}

    @property
    def size_bytes(self) -> int:
        """What it has in memory."""
        return self._rows.size_bytes + _KEY_BYTES * len(self._keys)

    def load(self, reader: Reader) -> None:
        """Read all of it. Cost: reads the vectors under the prefix, of whatever dimensions."""
        start = self._scope.entries + self._scope.prefix
        behind = len(self._scope.entries)
        for key, data in reader.scan(start=start, stop=start + keys.END):
            self.put(key[behind:], data)
        self.loaded = True

    def reload(self, reader: Reader, marked: Iterable[bytes]) -> None:
        """Read some keys again."""
        for key in marked:
            self.put(key, reader.get(self._scope.entries + key))

    def put(self, key: bytes, data: bytes | None) -> None:
        """Take in the entry of an item, or that it has none."""
        dims, vectors = (0, []) if data is None else decode(data)
        for row in sorted(self._rows_of.pop(key, ()), reverse=True):
            self._remove(row)
        if dims == self._scope.dims:
            self._rows_of[key] = list(range(len(self._keys), len(self._keys) + len(vectors)))
            for vector in vectors:
                self._rows.append(vector)
                self._keys.append(key)

    def _remove(self, row: int) -> None:
        self._rows.pop(row)
        moved = self._keys.pop()
        last = len(self._keys)
        if row < last:
            self._keys[row] = moved
            rows = self._rows_of[moved]
            rows[rows.index(last)] = row

    def ranked(self, query: Query) -> Ranking:
        """Its items by their likeness. Cost: goes through all vectors."""
        return Ranking(list(self._keys), self._rows.best(query))


def read_ranked(reader: Reader, scope: Scope, query: Query) -> Ranking:
    """As ``VectorIndex.ranked``, read from disk as a whole."""
    area = Area(scope)
    area.load(reader)
    return area.ranked(query)


# -- the index -------------------------------------------------------------------------------------


class VectorIndex:
    """The areas of one opened store; see the module. Thread-safe."""

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self._memory_bytes = memory_bytes
        self._mutex = threading.Lock()
        self._areas: OrderedDict[Scope, Area] = OrderedDict()
        self._dims: set[int] = set()
        self._size_bytes = 0
        self._unsettled: list[tuple[bytes, weakref.ref[Writer]]] = []
        self._many_unsettled = _MANY_UNSETTLED

    # -- writers ---------------------------------------------------------------------------------

    # Hot.
    def mark(self, writer: Writer, entries: bytes, key: bytes) -> None:
        """Note that the vectors of an item are about to change. Cost: its number of labels."""
        reference = weakref.ref(writer)
        with self._mutex:
            self._unsettled.append((key, reference))
            if len(self._unsettled) > self._many_unsettled:
                self._unsettled = [each for each in self._unsettled if each[1]() is not None]
                self._many_unsettled = max(_MANY_UNSETTLED, 2 * len(self._unsettled))
            for dims in self._dims:
                for prefix in _prefixes(key):
                    self._mark(Scope(entries, prefix, dims), key, reference)

    def _mark(self, scope: Scope, key: bytes, reference: weakref.ref[Writer]) -> None:
        area = self._areas.get(scope)
        if area is None:
            return
        area.marks[key] = [*_living(area.marks.get(key, ())), reference]
        if len(area.marks) > _MOST_MARKS:
            self._forget(scope, area)

    # -- searches --------------------------------------------------------------------------------

    def ranked(
        self, stack: ExitStack, kv: KeyValue, scope: Scope, query: Query
    ) -> tuple[Reader, Ranking]:
        """The items of a scope by their likeness, and the view that they are of.

        Args:
            stack: closes the view.
        Cost: reads what has changed since the last search of this scope; the first time, all
            vectors of it.
        """
        for _ in range(_TRIES):
            area = self._area(scope)
            with area.lock:
                try:
                    marked = self._take_marks(area)
                    view = stack.enter_context(kv.view())
                    if self._catch_up(scope, area, marked, view):
                        return view, area.ranked(query)
                except BaseException:
                    # It may have taken marks without doing what they are for.
                    with self._mutex:
                        self._forget(scope, area)
                    raise
        view = stack.enter_context(kv.view())
        return view, read_ranked(view, scope, query)

    def _area(self, scope: Scope) -> Area:
        with self._mutex:
            area = self._areas.get(scope)
            if area is None:
                area = self._areas[scope] = Area(scope)
                self._dims.add(scope.dims)
                for key, reference in self._unsettled:
                    if key.startswith(scope.prefix):
                        area.marks.setdefault(key, []).append(reference)
            self._areas.move_to_end(scope)
            return area

    def _take_marks(self, area: Area) -> set[bytes]:
        """What is to be read again; what of it has not settled yet stays marked."""
        with self._mutex:
            marked = set(area.marks)
            living = {key: _living(writers) for key, writers in area.marks.items()}
            area.marks = {key: writers for key, writers in living.items() if writers}
            return marked

    def _catch_up(self, scope: Scope, area: Area, marked: set[bytes], view: Reader) -> bool:
        """Make an area what the view is; False if it was let go of, so that marks are missing."""
        with self._mutex:
            if self._areas.get(scope) is not area:
                return False
            marked = marked.union(area.marks)
        if area.loaded:
            area.reload(view, marked)
        else:
            area.load(view)
        with self._mutex:
            if self._areas.get(scope) is area:
                self._count(area)
        return True

    def _count(self, area: Area) -> None:
        self._size_bytes += area.size_bytes - area.counted_bytes
        area.counted_bytes = area.size_bytes
        while self._size_bytes > self._memory_bytes:
            self._forget(*next(iter(self._areas.items())))

    def _forget(self, scope: Scope, area: Area) -> None:
        if self._areas.get(scope) is area:
            del self._areas[scope]
            self._size_bytes -= area.counted_bytes


def _living(writers: Iterable[weakref.ref[Writer]]) -> list[weakref.ref[Writer]]:
    return [each for each in writers if each() is not None]


def _prefixes(key: bytes) -> Iterator[bytes]:
    """What the key of an item begins with that a scope may have: the labels, up to each of them."""
    at = 1
    yield key[:at]
    while (at := key.find(b"\0\xff", at)) >= 0:
        at += 2
        yield key[:at]
