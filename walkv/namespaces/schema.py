"""Record types and how they are laid out in bytes.

Layout: a record is one ``codec`` value, an array:

    [layout, value, ...]                 one value for each name of that layout
    [-1 - layout, expiry_ms, value, ...] the same for a record that expires

    layout: a number that stands for (schema version, field names in order). The registry of the
    store holds every layout that was ever written, so records say what they are: fields may be
    reordered, added and dropped in the code without a change to a single record.

Invariants:
    1. A record is checked whole before anything of it is written.
    2. Fields that this code does not know, of layouts of newer code, are kept when it writes the
       record again.
    3. A record of an older schema version goes through every migration between, in order; one of a
       newer version is refused.
    4. No error of a secret field shows its value.

Source: names in every record, as JSON columns and most document stores have them, were rejected:
they make small records up to three times as long. Positions without registered layouts were
rejected because a reordered class would read old records wrongly.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any, Final, Generic, NamedTuple, TypeVar

from walkv import limits
from walkv.errors import CodecError, LimitError
from walkv.namespaces import codec
from walkv.namespaces.columns import Column, column_of

R = TypeVar("R")

Migration = Callable[[dict[str, Any]], dict[str, Any]]
"""From the fields of a record of one schema version to those of the next."""

RESERVED: Final = frozenset(("sync", "expected_version", "ttl_seconds"))
"""Arguments of ``Namespace.update``, so no names of fields."""

_NO_LAYOUT: Final = 1 << 62
"""No record has this number, nor what stands for it in one that expires."""


class Layout(NamedTuple):
    """What the values of a stored record are."""

    version: int
    names: tuple[str, ...]


class Stored(NamedTuple):
    """A record as read.

    Attributes:
        values: in the order of the schema's names.
        unknown: fields of newer code, by name.
        expiry_ms: when it expires, or 0.
        by_default: names of the fields that it has not, so that they have their defaults.
    """

    values: list[Any]
    unknown: dict[str, Any]
    expiry_ms: int
    by_default: frozenset[str] = frozenset()


class Schema(Generic[R]):
    """A record type and its bytes.

    Args:
        namespace: for errors.
        record: a dataclass, best frozen and with slots. Fields are annotated with ``str``, ``int``,
            ``float``, ``bool``, ``bytes``, ``datetime``, ``Literal[...]`` of strings, ``Any``,
            ``dict``, ``list``, ``tuple``, ``set`` (of whatever ``codec`` knows) or one of these
            ``| None``; ``repr=False, metadata={"secret": True}`` marks a secret.
        version: of the schema; raised when a field was renamed or retyped.
        migrations: by version, what makes a record of that version from one of the version before.
    Raises:
        TypeError: this is no such class.
    """

    def __init__(
        self,
        namespace: str,
        record: type[R],
        version: int = 1,
        migrations: Mapping[int, Migration] | None = None,
    ) -> None:
        if not is_dataclass(record):
            raise TypeError(f"{namespace}: a record type is a dataclass, not {record!r}")
        self.namespace = namespace
        self.record_type = record
        self.version = version
        self._migrations = dict(migrations or {})
        missing = set(range(2, version + 1)) - set(self._migrations)
        if missing:
            raise TypeError(f"{namespace}: no migration to schema version {min(missing)}")
        self.columns = _columns(namespace, record)
        self.names = tuple(column.name for column in self.columns)
        self.position = {name: number for number, name in enumerate(self.names)}
        self.secrets = tuple(column.name for column in self.columns if column.secret)
        self.build: Callable[[list[Any]], R] = _builder(record, self.names)
        """The record of values that were checked."""
        self._build_row = _builder(record, self.names, skipped=1)
        self._layouts: list[Layout] = []
        self._current = _NO_LAYOUT

    @property
    def layout(self) -> Layout:
        """What this code writes."""
        return Layout(self.version, self.names)

    def use_layouts(self, layouts: list[Layout]) -> None:
        """Take in the layouts of the store; a record's number is an index of this list."""
        self._layouts = layouts
        self._current = layouts.index(self.layout) if self.layout in layouts else _NO_LAYOUT

    def with_needed(self, layouts: list[Layout]) -> list[Layout]:
        """The layouts of a store, and behind them what this code needs to write there.

        That is its own, and one with its fields and those of each layout of newer code, for records
        that keep these.
        """
        layouts = list(layouts)
        if self.layout not in layouts:
            return [*layouts, self.layout]
        for version, names in layouts[layouts.index(self.layout) + 1 :]:
            wanted = (*self.names, *(name for name in names if name not in self.position))
            if version == self.version and not self._has(layouts, set(wanted)):
                layouts.append(Layout(version, wanted))
        return layouts

    def _has(self, layouts: list[Layout], names: set[str]) -> bool:
        return any(each.version == self.version and set(each.names) == names for each in layouts)

    def knows(self, row: Any) -> bool:
        """Whether the layout of a decoded record is known; so it is of what is no record at all."""
        if type(row) is not list or not row or type(row[0]) is not int:
            return True
        number = row[0]
        return (number if number >= 0 else -1 - number) < len(self._layouts)

    # -- checks ----------------------------------------------------------------------------------

    def values(self, record: R) -> list[Any]:
        """The checked values of a record.

        Raises:
            CodecError: not a record of this type, or a field does not hold what it should.
        """
        if type(record) is not self.record_type:  # fields of a subclass would be lost
            raise CodecError(
                f"{self.namespace}: a record here is a {self.record_type.__name__}, not a "
                f"{type(record).__name__}",
                namespace=self.namespace,
            )
        return self.checked([getattr(record, name) for name in self.names])

    # Hot.
    def checked(self, values: list[Any]) -> list[Any]:
        """The values, each as it is to be stored."""
        for at, column in enumerate(self.columns):
            value = values[at]
            if type(value) is not column[1]:
                values[at] = self.check(column, value)
        return values

    def check(self, column: Column, value: Any) -> Any:
        """One value as it is to be stored."""
        try:
            return column.check(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise self.bad(column.name, str(error)) from None

    def changed(self, values: list[Any], changes: Mapping[str, Any]) -> list[Any]:
        """A copy of the values with checked changes.

        Raises:
            CodecError: there is no such field, or it cannot hold that.
        """
        values = list(values)
        for name, value in changes.items():
            at = self.position.get(name)
            if at is None:
                raise self.bad(name, f"there is no such field; there are {', '.join(self.names)}")
            values[at] = self.check(self.columns[at], value)
        return values

    def bad(self, name: str, why: str) -> CodecError:
        """An error that names namespace and field, and of a secret says no more."""
        if name in self.secrets:
            why = "it does not fit here; it is a secret, so no more is said of it"
        return CodecError(f"{self.namespace}.{name}: {why}", namespace=self.namespace, field=name)

    # -- bytes -----------------------------------------------------------------------------------

    # Hot.
    def encode(
        self, values: list[Any], expiry_ms: int = 0, unknown: Mapping[str, Any] | None = None
    ) -> bytes:
        """The bytes of checked values.

        Raises:
            CodecError: a field holds something that cannot be stored.
            LimitError: the record is too large.
        """
        number, names = self._current, self.names
        if unknown:
            number, values = self._with_unknown(values, unknown)
            names = self._layouts[number].names
        head = [-1 - number, expiry_ms] if expiry_ms else [number]
        try:
            data = codec.encode(head + values)
        except CodecError as error:
            raise self._culprit(names, values, error) from None
        if len(data) > limits.MAX_RECORD_BYTES:
            raise self._too_large(names, values, len(data))
        return data

    def _with_unknown(self, values: list[Any], unknown: Mapping[str, Any]) -> tuple[int, list[Any]]:
        named = {**dict(zip(self.names, values, strict=True)), **unknown}
        for number in reversed(range(len(self._layouts))):
            version, names = self._layouts[number]
            if version == self.version and set(names) == set(named):
                return number, [named[name] for name in names]
        raise CodecError(  # ``with_needed`` has seen to it that there is one
            f"{self.namespace}: no layout has the fields {', '.join(named)}",
            namespace=self.namespace,
        )

    def _culprit(self, names: tuple[str, ...], values: list[Any], error: CodecError) -> CodecError:
        for name, value in zip(names, values, strict=True):
            try:
                codec.encode(value)
            except CodecError as found:
                return self.bad(name, str(found))
        return self.bad("", str(error))

    def _too_large(self, names: tuple[str, ...], values: list[Any], actual: int) -> LimitError:
        sizes = {name: len(codec.encode(v)) for name, v in zip(names, values, strict=True)}
        largest = max(sizes, key=sizes.__getitem__)
        return LimitError(
            f"{self.namespace}.{largest}: a record has at most {limits.MAX_RECORD_BYTES} bytes, "
            f"and this one has {actual}, {sizes[largest]} of them in this field; keep what is "
            "large in a file or in several records",
            name="MAX_RECORD_BYTES",
            limit=limits.MAX_RECORD_BYTES,
            actual=actual,
            namespace=self.namespace,
            field=largest,
        )

    def decode(self, data: bytes) -> Stored:
        """What bytes hold.

        Raises:
            CodecError: they are no record of this namespace, or one of a newer schema version.
        """
        return self.read(codec.decode(data))

    # Hot.
    def read(self, row: Any) -> Stored:
        """As ``decode``, for what ``codec`` has decoded."""
        try:
            number = row[0]
            if number == self._current and len(row) == len(self.names) + 1:
                return Stored(row[1:], {}, 0)
            expiry_ms = 0
            values = row[1:]
            if number < 0:
                number, expiry_ms, values = -1 - number, row[1], row[2:]
            layout = self._layouts[number]
            named = dict(zip(layout.names, values, strict=True))
            newer = number > self._current
        except (TypeError, IndexError, KeyError, ValueError) as error:
            raise CodecError(
                f"{self.namespace}: these bytes are no record of this namespace",
                namespace=self.namespace,
            ) from error
        return self._upgraded(layout.version, named, expiry_ms, newer)

    def _upgraded(self, version: int, named: dict[str, Any], expiry_ms: int, newer: bool) -> Stored:
        if version > self.version:
            raise CodecError(
                f"{self.namespace}: a record of schema version {version} was written by newer "
                f"code; this one reads up to {self.version}",
                namespace=self.namespace,
            )
        for step in range(version + 1, self.version + 1):
            named = self._migrations[step](named)
        values = []
        by_default = frozenset(self.names) - frozenset(named)
        for column in self.columns:
            if column.name in named:
                values.append(named.pop(column.name))
            elif column.default is not None:
                values.append(column.default())
            else:
                raise self.bad(
                    column.name, "a record without it was read, and the field has no default"
                )
        if version < self.version:
            # What a migration made is checked; what it left over has no place in the new layout.
            return Stored(self.checked(values), {}, expiry_ms, by_default)
        return Stored(values, named if newer else {}, expiry_ms, by_default)

    # Hot.
    def build_all(self, rows: list[Any]) -> list[R]:
        """Records of rows that ``codec`` has decoded."""
        current, length, made = self._current, len(self.names) + 1, self._build_row
        try:
            return [
                made(row)
                if row[0] == current and len(row) == length
                else self.build(self.read(row)[0])
                for row in rows
            ]
        except (TypeError, LookupError):  # no row at all, or what the record type raises
            return [self.build(self.read(row)[0]) for row in rows]

    def as_dict(self, record: R, *, secrets: bool = False) -> dict[str, Any]:
        """The fields of a record, secret ones as a mask unless they are asked for."""
        found = {name: getattr(record, name) for name in self.names}
        if not secrets:
            for name in self.secrets:
                if found[name]:
                    found[name] = MASK
        return found


MASK: Final = "***"
"""What is shown in the place of a secret."""


@lru_cache(maxsize=256)
def _columns(namespace: str, record: type[Any]) -> tuple[Column, ...]:
    """The columns of a record type; remembered, as evaluating annotations takes a millisecond."""
    hints = typing.get_type_hints(record)
    columns = tuple(
        column_of(namespace, field, hints[field.name]) for field in fields(record) if field.init
    )
    names = {column.name for column in columns}
    if reserved := RESERVED & names:
        raise TypeError(f"{namespace}: a field cannot be called {min(reserved)}")
    for name, parameter in inspect.signature(record).parameters.items():
        if name not in names and parameter.default is parameter.empty:
            raise TypeError(
                f"{namespace}: {record.__name__} cannot be made of its fields alone, it needs "
                f"{name!r} too"
            )
    return columns


@lru_cache(maxsize=256)
def _builder(record: type[R], names: tuple[str, ...], skipped: int = 0) -> Callable[[list[Any]], R]:
    """What makes a record of a list: of so many things that are not for it, and its values.

    The constructor of a frozen class sets each field through ``object.__setattr__``, which takes
    five times as long as the rest of reading a record. So a record is made as an instance of a twin
    class with the same slots, and then declared to be what it is.
    """
    parameters = getattr(record, "__dataclass_params__")  # noqa: B009  # unknown to type checkers
    plain = tuple(getattr(record, "__slots__", ())) == names and record.__bases__ == (object,)
    if not plain or not parameters.frozen or hasattr(record, "__post_init__"):
        return lambda values: record(**dict(zip(names, values[skipped:], strict=True)))
    twin = type(record.__name__, (), {"__slots__": names})
    namespace = {"twin": twin, "record": record, "new": object.__new__}
    targets = ["_"] * skipped + [f"made.{name}" for name in names]
    source = (
        "def build(values):\n"
        "    made = new(twin)\n"
        f"    {', '.join(targets)}, = values\n"
        "    made.__class__ = record\n"
        "    return made\n"
    )
    exec(source, namespace)
    return namespace["build"]  # type: ignore[return-value]  # defined by the source above
