"""A store's numbers as observable instruments: read when a reader collects, and not in between.

The API has no observable histogram. So a histogram of walkv becomes three instruments: ``.sum`` and
``.count``, which give the mean of any stretch of time, and ``.quantile``, a gauge with the
attribute ``quantile``, which tells of all values since the store was opened.

Invariants:
    1. The instruments of one meter provider are made once and tell of every store that is
       instrumented with it: the API cannot take an instrument back, nor make it twice.
    2. A collection takes the numbers of a store once, all of one moment.
    3. A store that is closed is let go of by the next collection.

Source: putting the values of each bucket into a synchronous histogram at each collection was
rejected: what it would record are not the values, and there are as many of them as commits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider, Observation

from walkv.engine.store import Store
from walkv.engine.watch import Stats
from walkv.integrations.measures import HEALTH, MEASURES, Kind, Measure, stats_of, status_of

SCOPE: Final = "walkv"
"""Name of the instrumentation scope."""

_UNITS: Final = {"seconds": "s", "bytes": "By", "": "1"}
_QUANTILES: Final = (0.5, 0.9, 0.99, 1.0)
_DURATIONS: Final = (
    *(0.00001, 0.00005, 0.0001, 0.0005),
    *(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10),
)
"""Bounds that the conventions advise, and finer ones before: these calls take microseconds."""

Attributes = dict[str, str]


class Watched:
    """A store whose numbers are told, with the attributes that name it."""

    def __init__(self, store: Store, attributes: Attributes) -> None:
        self.store = store
        self.attributes = attributes
        self._lock = threading.Lock()
        self._given: set[str] = set()
        self._stats: Stats | None = None

    def stats(self, asking: str) -> Stats | None:
        """The numbers, taken anew when an instrument asks for the second time.

        Args:
            asking: the name of the instrument.
        """
        with self._lock:
            if not self._given or asking in self._given:
                self._stats = stats_of(self.store)
                self._given.clear()
            self._given.add(asking)
            return self._stats


class Board:
    """The instruments of one meter provider.

    Attributes:
        durations: of the operations of namespaces; recorded one by one.
    """

    def __init__(self, provider: MeterProvider) -> None:
        self._lock = threading.Lock()
        self._watched: tuple[Watched, ...] = ()
        meter = provider.get_meter(SCOPE)
        make: dict[Kind, Callable[..., Any]] = {
            Kind.COUNTER: meter.create_observable_counter,
            Kind.GAUGE: meter.create_observable_gauge,
        }
        for measure in MEASURES:
            if measure.kind is Kind.HISTOGRAM:
                self._make_spread(make, measure)
                continue
            make[measure.kind](
                f"walkv.{measure.name}",
                [partial(self._observe, measure.name, measure.read)],
                unit=_UNITS.get(measure.unit, f"{{{measure.unit}}}"),
                description=measure.text,
            )
        meter.create_observable_gauge(
            "walkv.health", [self._observe_health], description="1 for the status of the store"
        )
        self.durations: Histogram = meter.create_histogram(
            "db.client.operation.duration",
            unit="s",
            description="Duration of database client operations.",
            explicit_bucket_boundaries_advisory=_DURATIONS,
        )

    def _make_spread(self, make: dict[Kind, Callable[..., Any]], measure: Measure) -> None:
        unit = _UNITS.get(measure.unit, f"{{{measure.unit}}}")
        total, count, quantile = (f"{measure.name}.{part}" for part in ("sum", "count", "quantile"))
        make[Kind.COUNTER](
            f"walkv.{total}",
            [partial(self._observe, total, lambda stats: measure.read(stats).total)],
            unit=unit,
            description=f"{measure.text}: all values added up",
        )
        make[Kind.COUNTER](
            f"walkv.{count}",
            [partial(self._observe, count, lambda stats: measure.read(stats).count)],
            description=f"{measure.text}: how many values",
        )
        make[Kind.GAUGE](
            f"walkv.{quantile}",
            [partial(self._observe_quantiles, quantile, measure)],
            unit=unit,
            description=f"{measure.text}: quantiles since the store was opened",
        )

    def add(self, watched: Watched) -> None:
        """Tell of a store from now on."""
        with self._lock:
            self._watched = (*self._watched, watched)

    def remove(self, watched: Watched) -> None:
        """Tell no more of a store."""
        with self._lock:
            self._watched = tuple(each for each in self._watched if each is not watched)

    def _open(self) -> Iterator[Watched]:
        for watched in self._watched:
            if watched.store.closed:
                self.remove(watched)
            else:
                yield watched

    def _observe(
        self, name: str, read: Callable[[Stats], Any], _: CallbackOptions
    ) -> Iterable[Observation]:
        for watched in self._open():
            stats = watched.stats(name)
            value = None if stats is None else read(stats)
            if value is not None:
                yield Observation(value, watched.attributes)

    def _observe_quantiles(
        self, name: str, measure: Measure, _: CallbackOptions
    ) -> Iterable[Observation]:
        for watched in self._open():
            stats = watched.stats(name)
            if stats is None or not measure.read(stats).count:
                continue
            for quantile in _QUANTILES:
                value = measure.read(stats).percentile(100 * quantile)
                yield Observation(value, {**watched.attributes, "quantile": quantile})

    def _observe_health(self, _: CallbackOptions) -> Iterable[Observation]:
        for watched in self._open():
            found = status_of(watched.store)
            for status in HEALTH if found is not None else ():
                yield Observation(int(status == found), {**watched.attributes, "status": status})


_boards: Final[WeakKeyDictionary[MeterProvider, Board]] = WeakKeyDictionary()
_making: Final = threading.Lock()


def board_of(provider: MeterProvider) -> Board:
    """The board of a provider, made the first time."""
    with _making:
        found = _boards.get(provider)
        if found is None:
            found = _boards[provider] = Board(provider)
        return found
