"""Words for facts about a store that several commands tell."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

from walkv import Histogram, KeepLog, Stats
from walkv.cli import output
from walkv.cli.text import one_line
from walkv.engine.watch import Published


def age(moment: datetime | None) -> str:
    """How long ago a moment is."""
    if moment is None:
        return "?"
    return output.duration(max((datetime.now(UTC) - moment) // timedelta(seconds=1), 0))


def writer(holder: Published) -> str:
    """Who has a store open for writing, and since when."""
    where = "" if holder.host is None else f" on {one_line(holder.host)}"
    who = "a program" if holder.pid is None else f"process {holder.pid}"
    if holder.stats is None:
        return f"{who}{where} has it open"
    return f"{who}{where} has had it open for {age(holder.stats.opened_at)}"


def kept(setting: KeepLog | None) -> str:
    """How much of the settled log a store keeps."""
    if setting is None:
        return "nothing"
    long = "for ever" if setting.seconds > 1e9 else f"for {output.duration(setting.seconds)}"
    return f"{long}, up to {output.size(setting.max_bytes)}"


def amount(size_bytes: int, count: int, noun: str) -> str:
    """``1.2 MiB in 3 files``"""
    return f"{output.size(size_bytes)} in {count:,} {noun}{'' if count == 1 else 's'}"


def share(used_bytes: int, budget_bytes: int) -> str:
    """How much of a budget is used."""
    return f"{output.size(used_bytes)} of {output.size(budget_bytes)}"


def spread(found: Histogram) -> str:
    """How long something took, in seconds."""
    if not found.count:
        return "none"
    half, most = (output.duration(found.percentile(percent)) for percent in (50, 99))
    return f"half within {half}, 99 % within {most}, all within {output.duration(found.largest)}"


def stats_fields(stats: Stats) -> dict[str, Any]:
    """A store in numbers, for a program: every field of ``walkv.Stats``."""
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(stats):
        value = getattr(stats, field.name)
        if isinstance(value, Histogram):
            value = histogram_fields(value)
        elif isinstance(value, datetime):
            value = value.isoformat()
        fields[field.name] = value
    return fields


def histogram_fields(found: Histogram) -> dict[str, Any]:
    """How values are spread, for a program."""
    return {
        "count": found.count,
        "total": found.total,
        "mean": found.mean,
        "p50": found.percentile(50),
        "p90": found.percentile(90),
        "p99": found.percentile(99),
        "p999": found.percentile(99.9),
        "largest": found.largest,
    }
