"""Queries: what is asked for, which index serves it, and the walk over it.

    agent.executions.query(role="planner").where(started_at__gte=yesterday)
                    .order_by("-started_at").limit(20)

A plan walks one index, or the records themselves, in the order of its keys: equal fields give the
prefix of the walk, a range on the next field bounds it, and what the walk does not ensure is
checked on each record. If the walk has the order that was asked for, it stops at the limit, and a
page costs the page; if not, everything that matches is read and sorted.

Invariants:
    1. Plan and filter together are the query: which index is taken changes the cost, never the
       result.
    2. A query sees the store at one moment: index and records are read through one view.
    3. A cursor is a position in the order, not an offset: records that come and go elsewhere do not
       shift the pages.

Source: the left-most prefix rule of every B-tree's planner. Several indexes for one query, and
statistics, were rejected: with a handful of declared indexes the longest prefix is the best one.
"""

from __future__ import annotations

import base64
import heapq
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, compress, islice
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

import xxhash

from walkv.engine.policies import SyncPolicy
from walkv.errors import CodecError
from walkv.namespaces import codec, keys
from walkv.namespaces.access import Access
from walkv.namespaces.conditions import (
    Condition,
    all_meet,
    bounds_of,
    condition_of,
    meets,
    packed_of,
)
from walkv.namespaces.keyvalue import Reader
from walkv.namespaces.table import Index, Table

R = TypeVar("R")
T = TypeVar("T")

_FIRST_CHUNK: Final = 64
_CHUNK: Final = 256
"""Records that are fetched and decoded at a time."""

_NAN: Final = keys.pack_one(math.inf) + keys.END
"""Where NaN is sorted, which no key has."""

_UPSIDE_DOWN: Final = bytes(range(255, -1, -1))

_MOST_SHAPES: Final = 1000
"""So many choices are remembered for a namespace."""


class Order(NamedTuple):
    """A field to sort by."""

    field: str
    descending: bool

    def __str__(self) -> str:
        return f"-{self.field}" if self.descending else self.field


@dataclass(frozen=True, slots=True)
class Plan:
    """How a query is answered.

    Attributes:
        index: the fields of the index that is walked; "" for the records in the order of their key.
        equal: the fields whose value is the same all along the walk.
        bounded: the field whose range bounds the walk, or "".
        filtered: conditions that are checked on each record.
        sorted_in_memory: whether everything that matches is read and sorted.
        reverse: whether the walk is backward.
    """

    index: str
    equal: tuple[str, ...]
    bounded: str
    filtered: tuple[str, ...]
    sorted_in_memory: bool
    reverse: bool

    def __str__(self) -> str:
        walk = f"index ({self.index})" if self.index else "all records"
        parts = [f"walks {walk}{' backward' if self.reverse else ''}"]
        if self.equal:
            parts.append(f"where {', '.join(self.equal)} is given")
        if self.bounded:
            parts.append(f"within bounds of {self.bounded}")
        if self.filtered:
            parts.append(f"checks {', '.join(self.filtered)} on each record")
        parts.append("sorts in memory" if self.sorted_in_memory else "stops at the limit")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Page(Generic[R]):
    """Some records, and where the next page begins.

    Attributes:
        items: the records.
        cursor: for ``Query.after``; None if there is nothing behind this page.
    """

    items: list[R]
    cursor: str | None


class _Walk(NamedTuple):
    plan: Plan
    prefix: bytes
    start: bytes
    stop: bytes
    filters: tuple[Condition, ...]
    ensured: tuple[Condition, ...]


class Source(Protocol[R]):
    """What a query needs of its namespace."""

    access: Access

    @property
    def table(self) -> Table[R]: ...

    def read_at_once(self, function: Callable[[Reader], T]) -> T:
        """Call a function with the store at one moment."""

    def delete_found(self, query: Query[R], sync: SyncPolicy | None) -> int:
        """Delete what a query finds; see ``Query.delete``."""


@dataclass(frozen=True, slots=True)
class Query(Generic[R]):
    """Records that meet conditions. Every method gives a new query; reading happens at the end.

    Iterating reads a page at a time; ``all()``, ``first()``, ``page()``, ``count()`` and
    ``delete()`` do the rest, and ``explain()`` tells how.
    """

    source: Source[R]
    conditions: tuple[Condition, ...] = ()
    orders: tuple[Order, ...] = ()
    most: int | None = None
    skipped: int = 0
    cursor: str | None = field(default=None)

    # -- building --------------------------------------------------------------------------------

    def where(self, **conditions: Any) -> Query[R]:
        """Only records that meet these, too.

        Args:
            conditions: ``field=value``, or ``field__comparison=value`` with ``ne``, ``lt``,
                ``lte``, ``gt``, ``gte``, ``in`` (a list of values), ``contains`` or ``startswith``.
        Raises:
            CodecError: there is no such field or comparison, or the value is not of its type.
        """
        schema = self.source.table.schema
        made = [condition_of(schema, name, wanted) for name, wanted in conditions.items()]
        return replace(self, conditions=(*self.conditions, *made))

    def order_by(self, *names: str) -> Query[R]:
        """In the order of these fields; ``"-field"`` for descending. Else in the walk's order.

        Records that are alike in these are in the walk's order, too, or else in that of the key.
        NaN comes behind all other numbers.
        """
        schema = self.source.table.schema
        orders = tuple(Order(name.lstrip("-"), name.startswith("-")) for name in names)
        for order in orders:
            if order.field not in schema.position:
                raise schema.bad(order.field, f"there is no such field; {', '.join(schema.names)}")
            if order.field in schema.secrets:
                raise schema.bad(order.field, "nothing is sorted by a secret")
        return replace(self, orders=orders)

    def limit(self, count: int | None) -> Query[R]:
        """At most so many records."""
        if count is not None and (not isinstance(count, int) or count < 0):
            raise ValueError(f"limit is a number of records, 0 or more, not {count!r}")
        return replace(self, most=count)

    def offset(self, count: int) -> Query[R]:
        """Without the first so many. Cost: O(count); ``after`` costs nothing."""
        if not isinstance(count, int) or count < 0:
            raise ValueError(f"offset is a number of records, 0 or more, not {count!r}")
        return replace(self, skipped=count)

    def after(self, cursor: str | None) -> Query[R]:
        """From where a page of this query ended; None for the beginning."""
        return replace(self, cursor=cursor)

    # -- reading ---------------------------------------------------------------------------------

    def explain(self) -> Plan:
        """How this query is answered."""
        return self._plan().plan

    def all(self) -> list[R]:
        """All records, up to the limit."""
        return self.source.read_at_once(self.read)

    def read(self, reader: Reader) -> list[R]:
        """As ``all``, of a moment that the caller has."""
        return list(self.walk(reader))

    def packed_keys(self) -> list[bytes]:
        """The packed keys of all records, up to the limit."""
        key_of = self.source.table.key_of_record
        return self.source.read_at_once(lambda reader: list(map(key_of, self.walk(reader))))

    def walk(self, reader: Reader) -> Iterator[R]:
        """As ``read``, one after the other."""
        return (record for _, record in islice(self._found(reader), self.most))

    def first(self) -> R | None:
        """The first one, or None."""
        return next(iter(self.limit(1).all()), None)

    def __iter__(self) -> Iterator[R]:
        if self.most is not None or self.explain().sorted_in_memory:
            return iter(self.all())
        return self._pages()

    def _pages(self) -> Iterator[R]:
        page: Page[R] = self.limit(_CHUNK).page()
        yield from page.items
        while page.cursor is not None:
            page = replace(self, skipped=0, most=_CHUNK, cursor=page.cursor).page()
            yield from page.items

    def page(self) -> Page[R]:
        """Up to the limit, with a cursor for what follows. Cost: that of the page, if the order is
        that of an index."""
        most = self.most

        def read(reader: Reader) -> Page[R]:
            found = list(islice(self._found(reader), None if most is None else most + 1))
            more = most is not None and len(found) > most
            found = found[:most]
            cursor = self._cursor(found[-1]) if more and found else None
            return Page([record for _, record in found], cursor)

        return self.source.read_at_once(read)

    def count(self) -> int:
        """How many records match, whatever the limit.

        If the clock is set back, a record that had expired and was written anew may count twice
        where the keys of an index tell all.
        """
        bare = replace(self, orders=(), most=None, skipped=0, cursor=None)

        def read(reader: Reader) -> int:
            walk = bare._plan()
            if walk.filters:
                return sum(1 for _ in bare._walked(reader, walk))
            scan = reader.scan(start=walk.start, stop=walk.stop, keys_only=True)
            return sum(1 for _ in scan)

        return self.source.read_at_once(read)

    def delete(self, *, sync: SyncPolicy | None = None) -> int:
        """Delete the records, up to the limit; returns how many.

        One commit for each 1000 records, all or nothing each, so that others write in between:
        whoever is interrupted calls again, and what is left goes. In a batch, a part of it. A
        record that changed since it was found is deleted only if it still matches.

        Cost: memory for the keys of what is found.
        """
        return self.source.delete_found(self, sync)

    def matches(self, record: R) -> bool:
        """Whether a record meets all conditions."""
        return all(meets(record, condition) for condition in self.conditions)

    # -- the walk --------------------------------------------------------------------------------

    def _plan(self) -> _Walk:
        table = self.source.table
        shape = (
            tuple([(c.field, c.comparison, c.wanted is None) for c in self.conditions]),
            self.orders,
        )
        chosen = table.chosen
        try:
            index = chosen[shape]
        except KeyError:
            index = self._choose()
            if len(chosen) < _MOST_SHAPES:
                chosen[shape] = index
        return self._along(index)[0]

    def _choose(self) -> Index | None:
        """The index that serves this query best; None for the records themselves."""
        best, best_score = None, self._along(None)[1]
        for index in self.source.table.indexes:
            walk, score = self._along(index)
            if score > best_score and self._has_all(index.fields[0], walk.plan):
                best, best_score = index, score
        return best

    def _has_all(self, first: str, plan: Plan) -> bool:
        """Whether an index has all that is wanted: it leaves out what has no first field."""
        schema = self.source.table.schema
        if not schema.columns[schema.position[first]].nullable or plan.bounded == first:
            return True
        given = (c.wanted for c in self.conditions if c.field == first and c.comparison == "eq")
        return bool(plan.equal) and None not in given

    def _along(self, index: Index | None) -> tuple[_Walk, tuple[int, ...]]:
        """The walk along one index, or the records, and how good it is."""
        table = self.source.table
        fields, prefix, name = table.key_fields, table.records, ""
        if index is not None:
            fields, prefix, name = index.fields, index.prefix, index.name
        left = list(self.conditions)
        equal: list[str] = []
        for each in fields:
            given = next((c for c in left if c.field == each and c.comparison == "eq"), None)
            packed = None if given is None else packed_of(table, given)
            if given is None or packed is None:
                break
            prefix += packed
            equal.append(each)
            left.remove(given)
        start, stop = prefix, prefix + keys.END
        bounded = ""
        rest = fields[len(equal) :]
        if rest:
            for condition in [c for c in left if c.field == rest[0]]:
                bounds = bounds_of(table, prefix, condition)
                if bounds is not None:
                    start, stop = max(start, bounds[0]), min(stop, bounds[1])
                    bounded = rest[0]
                    left.remove(condition)
        follows, reverse = self._order_of(rest)
        plan = Plan(
            name, tuple(equal), bounded, tuple(map(str, left)), not follows, follows and reverse
        )
        ensured = tuple(condition for condition in self.conditions if condition not in left)
        walk = _Walk(plan, prefix, start, stop, tuple(left), ensured if name else ())
        # The one record of a key; more given fields; bounds; no sort; no look-ups of records.
        whole = len(equal) == len(fields) and not name
        score = (whole, len(equal), bool(bounded), follows, not name, -len(rest))
        return walk, tuple(map(int, score))

    def _effective(self) -> tuple[Order, ...]:
        """The orders that make a difference: a field of which one value is wanted makes none."""
        if not self.orders:
            return ()
        given = {c.field for c in self.conditions if c.comparison == "eq"}
        return tuple(order for order in self.orders if order.field not in given)

    def _order_of(self, rest: tuple[str, ...]) -> tuple[bool, bool]:
        """Whether a walk along ``rest`` has the order that is wanted, and if it must go back."""
        wanted = self._effective()
        if not wanted:
            return True, False
        along = (*rest, *(f for f in self.source.table.key_fields if f not in rest))
        names = tuple(order.field for order in wanted)
        directions = {order.descending for order in wanted}
        return along[: len(names)] == names and len(directions) == 1, wanted[0].descending

    def _found(self, reader: Reader) -> Iterator[tuple[bytes, R]]:
        """Positions in the order, and records; from the cursor or offset on, without a limit."""
        walk = self._plan()
        if walk.plan.sorted_in_memory:
            found = self._sorted(reader, walk)
        else:
            walk = self._from_cursor(walk)
            found = self._walked(reader, walk)
        return islice(found, self.skipped, None)

    def _walked(self, reader: Reader, walk: _Walk) -> Iterator[tuple[bytes, R]]:
        return chain.from_iterable(self._chunks(reader, walk))

    # Hot.
    def _chunks(self, reader: Reader, walk: _Walk) -> Iterator[list[tuple[bytes, R]]]:
        schema, prefix = self.source.table.schema, self.source.table.records
        # What is asked for, and one to see if more follows; where some may be filtered away it is
        # not known how many these are.
        left = 0 if self.most is None or walk.filters else self.most + self.skipped + 1
        chunk = min(left, _CHUNK) or _FIRST_CHUNK
        reverse = walk.plan.reverse
        scan = reader.scan(start=walk.start, stop=walk.stop, reverse=reverse)
        while found := list(islice(scan, chunk)):
            left = max(left - len(found), 0)
            chunk = min(left, _CHUNK) or _CHUNK
            if walk.plan.index:
                wanted = [prefix + key[-int.from_bytes(size, "big") :] for key, size in found]
                data: list[Any] = reader.get_many(wanted)
            else:
                data = [value for _, value in found]
            if None in data:  # it has just expired
                there = [value is not None for value in data]
                found, data = list(compress(found, there)), list(compress(data, there))
            records = schema.build_all(codec.decode_many(data))
            pairs = zip([position for position, _ in found], records, strict=True)
            filters = walk.filters
            if not all_meet(records, walk.ensured):
                # The clock was set back: entries that had expired before their record was written
                # anew are there again.
                filters += walk.ensured
            if filters:
                yield [p for p in pairs if all(meets(p[1], each) for each in filters)]
            else:
                yield list(pairs)

    def _sorted(self, reader: Reader, walk: _Walk) -> Iterator[tuple[bytes, R]]:
        # A packed key sorts as the fields do; a field that descends is packed upside down.
        table, orders = self.source.table, self._effective()
        back = orders[-1].descending
        orders += tuple(Order(name, back) for name in table.key_fields)

        def position(record: R) -> bytes:
            parts = []
            for name, descending in orders:
                value = getattr(record, name)
                part = _NAN if value != value else table.packed(name, value)
                parts.append(part.translate(_UPSIDE_DOWN) if descending else part)
            return b"".join(parts)

        found = ((position(record), record) for _, record in self._walked(reader, walk))
        begin = self._cursor_bytes(walk)
        if begin is not None:
            found = ((at, record) for at, record in found if at > begin)
        if self.most is not None:
            # One more than the limit, so that ``page`` sees whether anything follows.
            count = self.most + self.skipped + 1
            return iter(heapq.nsmallest(count, found, key=operator.itemgetter(0)))
        return iter(sorted(found, key=operator.itemgetter(0)))

    # -- cursors ---------------------------------------------------------------------------------

    def _shape(self, walk: _Walk) -> bytes:
        """What a cursor belongs to: conditions and order, not the limit."""
        asked = [[c.field, c.comparison, c.wanted] for c in self.conditions]
        orders = [str(order) for order in self.orders]
        shape = codec.encode([self.source.table.name, asked, orders, walk.plan.index])
        return xxhash.xxh3_64_digest(shape)[:4]

    def _cursor(self, found: tuple[bytes, R]) -> str:
        walk, position = self._plan(), found[0]
        if not walk.plan.sorted_in_memory:
            position = position[len(walk.prefix) :]
        return base64.urlsafe_b64encode(self._shape(walk) + position).decode().rstrip("=")

    def _cursor_bytes(self, walk: _Walk) -> bytes | None:
        if self.cursor is None:
            return None
        try:
            data = base64.urlsafe_b64decode(self.cursor + "=" * (-len(self.cursor) % 4))
        except (ValueError, TypeError) as error:
            raise CodecError(
                f"{self.source.table.name}: this is no cursor: {self.cursor!r}",
                namespace=self.source.table.name,
            ) from error
        if data[:4] != self._shape(walk):
            raise CodecError(
                f"{self.source.table.name}: this cursor belongs to another query; go on with the "
                "same conditions and order",
                namespace=self.source.table.name,
            )
        return data[4:]

    def _from_cursor(self, walk: _Walk) -> _Walk:
        position = self._cursor_bytes(walk)
        if position is None:
            return walk
        position = walk.prefix + position
        if walk.plan.reverse:
            return walk._replace(stop=min(walk.stop, position))
        return walk._replace(start=max(walk.start, position + b"\0"))
