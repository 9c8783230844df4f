"""A store's numbers for Prometheus: ``pip install 'walkv[prometheus]'``.

    from prometheus_client import REGISTRY, start_http_server
    from walkv.integrations.prometheus import WalkvCollector

    REGISTRY.register(WalkvCollector(store))
    start_http_server(9000)

Everything is read when Prometheus asks; nothing is counted in between. ``measures`` has the names.

Invariants:
    1. Whatever a store does meanwhile, closes or fails, a scrape gives what there is and never
       raises for it.
    2. Each family comes once in an answer, with the samples of all stores. That is what the
       exposition format asks for, and why one collector takes many stores.
    3. The bounds of a histogram are the same in every answer.
"""

from __future__ import annotations

import errno
import os
import re
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from walkv.engine import manifest, watch
from walkv.engine.meter import Histogram
from walkv.engine.vfs import OsFileSystem
from walkv.engine.watch import Stats
from walkv.integrations.measures import (
    HEALTH,
    MEASURES,
    Kind,
    Measure,
    Source,
    stats_of,
    status_of,
    store_of,
)

try:
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        InfoMetricFamily,
    )
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError(
        "walkv.integrations.prometheus needs prometheus-client: pip install 'walkv[prometheus]' "
        f"({error})"
    ) from error

_LABEL: Final = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
_OWN_LABELS: Final = frozenset(("le", "status", "read_only", "sync_policy"))

_BOUNDS: Final = {
    "seconds": tuple(2.0**exponent for exponent in range(-17, 6)),
    "commits": tuple(2.0**exponent for exponent in range(13)),
}
"""From 8 microseconds to 32 seconds, from 1 to 4,096 commits. A histogram of walkv has eight times
as many buckets, and only those that hold something; every power of two is a bound of one."""


class _Reading(NamedTuple):
    """A store at the moment of a scrape.

    Attributes:
        labels: their values; the names are the same for all readings of a scrape.
        stats: None if there are none any more.
        status: one of ``HEALTH``; None if it was closed, or is seen from outside.
    """

    labels: tuple[str, ...]
    stats: Stats | None
    status: str | None


class WalkvCollector(Collector):
    """Tells Prometheus of stores. Register it once.

    Args:
        stores: open stores or agents; the label ``store`` has their path.
        labels: further labels, the same for all; a ``store`` among them stands in place of the
            path.
    Raises:
        TypeError: something else than a store or an agent.
        ValueError: a label that Prometheus does not take, or that two stores have in common.
    Cost: a scrape costs one ``stats()`` of each store.
    """

    def __init__(self, *stores: Source, labels: Mapping[str, str] | None = None) -> None:
        self._stores = [store_of(store) for store in stores]
        self._labels = _checked(labels)
        self._names = tuple({"store": ""} | self._labels)
        marks = [self._values(store.path) for store in self._stores]
        if len(set(marks)) != len(marks):
            raise ValueError(
                "two stores have the same labels; give each store once, and no label 'store' for "
                "several"
            )

    def _values(self, path: str) -> tuple[str, ...]:
        return tuple(({"store": _shown(path)} | self._labels).values())

    def describe(self) -> Iterable[Metric]:
        """What a registry asks for when this is registered, to refuse a second one."""
        return _families(self._names, [])

    def collect(self) -> Iterable[Metric]:
        """Every family, with what is so now."""
        readings = [
            _Reading(self._values(store.path), stats_of(store), status_of(store))
            for store in self._stores
        ]
        return _families(self._names, readings)


def text(*stores: Source, labels: Mapping[str, str] | None = None) -> bytes:
    """Stores in the exposition format, for a service that answers ``/metrics`` by itself.

    Args and raises: as ``WalkvCollector``.
    """
    return _exposition(WalkvCollector(*stores, labels=labels))


def published_text(
    path: str | os.PathLike[str], *, labels: Mapping[str, str] | None = None
) -> bytes:
    """A store that another process has open, in the exposition format; see the page on watching.

    Takes no lock and does not open the store: it reads what the writer publishes about once a
    second while there are commits. If nobody has it open for writing, ``walkv_open`` is 0 and
    nothing else is there; if a walkv of another version has, it is 1 and nothing else is there.

    Args:
        path: the store's directory.
        labels: as for ``WalkvCollector``.
    Raises:
        FileNotFoundError: there is no store.
    """
    directory = os.path.abspath(os.fsdecode(path))
    if not os.path.lexists(os.path.join(directory, manifest.NAME)):
        raise FileNotFoundError(errno.ENOENT, "there is no walkv store here", directory)
    return _exposition(_Outside(directory, _checked(labels)))


class _Outside(Collector):
    """A store as its directory shows it."""

    def __init__(self, path: str, labels: dict[str, str]) -> None:
        self._path = path
        self._labels = {"store": _shown(path)} | labels

    def collect(self) -> Iterable[Metric]:
        names, values = tuple(self._labels), tuple(self._labels.values())
        found = watch.published(OsFileSystem(), self._path)
        opened = GaugeMetricFamily(
            "walkv_open", "1 if a process has the store open for writing.", labels=names
        )
        opened.add_metric(values, float(found is not None))
        yield opened
        if found is None or found.stats is None or found.time is None:
            return
        age = GaugeMetricFamily(
            "walkv_published_age", "How old the numbers are.", labels=names, unit="seconds"
        )
        age.add_metric(values, max((datetime.now(UTC) - found.time).total_seconds(), 0.0))
        yield age
        yield from _families(names, [_Reading(values, found.stats, None)])


def _exposition(collector: Collector) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)


def _shown(path: str) -> str:
    """A path as text, whatever bytes are in its name: labels are UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _checked(labels: Mapping[str, str] | None) -> dict[str, str]:
    for name in labels or {}:
        if not _LABEL.fullmatch(name) or name in _OWN_LABELS:
            raise ValueError(
                f"{name!r} cannot be a label here: Prometheus or walkv has it reserved"
            )
    return {name: str(value) for name, value in (labels or {}).items()}


def _families(names: tuple[str, ...], readings: list[_Reading]) -> Iterable[Metric]:
    """Every family with the samples of all readings."""
    known = [(reading.labels, reading.stats) for reading in readings if reading.stats is not None]
    for measure in MEASURES:
        yield _family(measure, names, [(labels, measure.read(stats)) for labels, stats in known])
    info = InfoMetricFamily("walkv_store", "How the store was opened.", labels=names)
    for labels, stats in known:
        info.add_metric(
            labels,
            {
                "read_only": str(stats.read_only).lower(),
                "sync_policy": stats.sync_policy,
            },
        )
    yield info
    health = GaugeMetricFamily(
        "walkv_health", "1 for the status that the store has.", labels=(*names, "status")
    )
    for reading in readings:
        for status in HEALTH if reading.status is not None else ():
            health.add_metric((*reading.labels, status), float(status == reading.status))
    yield health


def _family(
    measure: Measure, names: tuple[str, ...], samples: list[tuple[tuple[str, ...], Any]]
) -> Metric:
    name = "walkv_" + measure.name.replace(".", "_")
    unit = measure.unit if measure.unit in ("seconds", "bytes") else ""
    kinds = {
        Kind.COUNTER: CounterMetricFamily,
        Kind.GAUGE: GaugeMetricFamily,
        Kind.HISTOGRAM: HistogramMetricFamily,
    }
    family: Any = kinds[measure.kind](name, f"{measure.text}.", labels=names, unit=unit)
    for labels, value in samples:
        if isinstance(value, Histogram):
            family.add_metric(labels, _buckets(value, _BOUNDS[measure.unit]), value.total)
        elif value is not None:
            family.add_metric(labels, value)
    return family  # type: ignore[no-any-return]  # made above


def _buckets(histogram: Histogram, bounds: tuple[float, ...]) -> list[tuple[str, float]]:
    """How many values are not above each of some bounds, which are bounds of its buckets too."""
    found, below, left = [], 0, deque(histogram.buckets)
    for bound in bounds:
        while left and left[0][0] <= bound:
            below += left.popleft()[1]
        found.append((repr(bound), float(below)))
    return [*found, ("+Inf", float(histogram.count))]
