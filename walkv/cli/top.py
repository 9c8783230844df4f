"""The command that watches a store at work: top."""

from __future__ import annotations

import socket
import sys
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import click
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from walkv import Histogram, Stats
from walkv.cli import output, screen
from walkv.cli.describing import (
    amount,
    histogram_fields,
    kept,
    share,
    spread,
    stats_fields,
    writer,
)
from walkv.cli.options import json_option, store_argument
from walkv.cli.stores import Failure, no_store
from walkv.cli.text import one_line
from walkv.engine.vfs import OsFileSystem
from walkv.ops.machine import resident_bytes
from walkv.ops.rates import Rates, rates
from walkv.ops.storefiles import StoreFiles, examine

_QUIET: Final = timedelta(seconds=3)
"""A writer speaks about once a second while there are commits; from then on it has none."""


class _Look(NamedTuple):
    """A store as it was found.

    Attributes:
        stats: what its writer has said; None if nobody has it open.
        rates: since it spoke before; None if it has spoken but once.
        resident_bytes: memory of the writer, if it is on this machine.
    """

    files: StoreFiles
    free_bytes: int | None
    stats: Stats | None = None
    rates: Rates | None = None
    resident_bytes: int | None = None


@click.command()
@store_argument
@click.option(
    "--interval",
    "interval_seconds",
    type=click.FloatRange(min=0.1, max=3600.0),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Look again after this time.",
)
@click.option(
    "--count", type=click.IntRange(min=1), metavar="COUNT", help="End after so many looks."
)
@json_option
def top(path: str, interval_seconds: float, count: int | None, as_json: bool) -> None:
    """Watch a store at work.

    Shows what the program that has the store open for writing says of it, about once a second:
    commits, operations and bytes a second, what syncs of the log take, how many commits share one,
    memory, cache hits, flushes and merges, the log and the disk. Rates and latencies are those of
    the last interval. If nobody has it open there are only its files to look at, and it says so.

    q or Ctrl-C ends it, with exit status 0. On anything but a terminal, and with --json, each look
    is a line of JSON.

    \b
    Examples:
      walkv top agent.walkv
      walkv top agent.walkv --interval 5
      walkv top agent.walkv --json --count 1
    """
    watcher = _Watcher(path)
    try:
        if as_json or not output.is_terminal(sys.stdout):
            screen.repeat(
                lambda: output.emit_json(_fields(watcher.look())), interval_seconds, count
            )
        else:
            screen.redraw(lambda: _drawn(watcher.look()), interval_seconds, count)
    except KeyboardInterrupt:
        return


class _Watcher:
    """Looks at a store, and remembers what its writer had said the time before."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._before: tuple[datetime, Stats] | None = None
        self._rates: Rates | None = None

    def look(self) -> _Look:
        """The store now.

        Raises:
            Failure: there is none.
        """
        files = examine(self._path)
        if files is None:
            raise Failure(no_store(self._path))
        free_bytes = OsFileSystem().free_bytes(files.path)
        holder = files.holder
        if holder is None or holder.stats is None or holder.time is None:
            self._before = self._rates = None
            return _Look(files, free_bytes)
        self._learn(holder.time, holder.stats)
        here = holder.host == socket.gethostname() and holder.pid is not None
        resident = resident_bytes(holder.stats.pid) if here else None
        return _Look(files, free_bytes, holder.stats, self._rates, resident)

    def _learn(self, time: datetime, stats: Stats) -> None:
        if self._before is None or self._before[1].opened_at != stats.opened_at:
            self._rates = None
        elif time > self._before[0]:
            passed = (time - self._before[0]) / timedelta(seconds=1)
            self._rates = rates(self._before[1], stats, passed)
        elif datetime.now(UTC) - time > _QUIET:
            self._rates = rates(stats, stats, _QUIET / timedelta(seconds=1))
        self._before = time, stats


def _fields(look: _Look) -> dict[str, Any]:
    """A look for a program."""
    holder = look.files.holder
    return {
        "path": look.files.path,
        "time": datetime.now(UTC).isoformat(),
        "open": holder is not None,
        "pid": None if holder is None else holder.pid,
        "host": None if holder is None else holder.host,
        "rates": None if look.rates is None else _rates_fields(look.rates),
        "stats": None if look.stats is None else stats_fields(look.stats),
        "resident_bytes": look.resident_bytes,
        "free_bytes": look.free_bytes,
    } | {name: sum(sizes) for name, sizes in _sizes(look.files).items()}


def _rates_fields(found: Rates) -> dict[str, Any]:
    return {
        name: histogram_fields(value) if isinstance(value, Histogram) else value
        for name, value in found._asdict().items()
    }


# -- the screen ------------------------------------------------------------------------------------


def _drawn(look: _Look) -> RenderableType:
    holder = look.files.holder
    if holder is None:
        state = Text("nobody has it open for writing: these are its files", "yellow")
    else:
        state = Text(writer(holder), "green")
    rows = [*_work_rows(look), *_file_rows(look)]
    made = Table.grid(padding=(0, 3, 0, 0))
    made.add_column(style="bold", no_wrap=True)
    made.add_column()
    for name, text in rows:
        made.add_row(name, text)
    foot = Text(f"{datetime.now(UTC):%H:%M:%S} UTC   q ends", "dim")
    return Group(Text(one_line(look.files.path), "bold"), state, "", made, "", foot)


def _work_rows(look: _Look) -> list[tuple[str, str]]:
    stats, rate = look.stats, look.rates
    if stats is None:
        holder = look.files.holder
        return [] if holder is None else [("", "it has not told its numbers yet")]
    rows = []
    if rate is None:
        rows.append(("work", "waiting for its next numbers"))
    else:
        rows += [
            ("commits", f"{rate.commits:,.0f}/s, {rate.operations:,.0f} operations/s"),
            ("written", f"{output.size(round(rate.written_bytes))}/s"),
            ("syncs", f"{rate.syncs:,.0f}/s   {spread(rate.sync_seconds)}"),
            ("commits a sync", _group(rate.group_sizes)),
            ("stalls", _stalls(rate.stall_seconds)),
            ("cache hits", _share(rate.cache_hit_ratio)),
            ("flushes", _work(rate.flushes, rate.flushed_bytes, rate.interval_seconds)),
            ("merges", _work(rate.merges, rate.merged_bytes, rate.interval_seconds)),
        ]
    memory = [
        f"memtable {share(stats.memtable_bytes, stats.memtable_budget_bytes)}",
        f"cache {share(stats.cache_bytes, stats.cache_budget_bytes)}",
    ]
    if look.resident_bytes is not None:
        memory.append(f"process {output.size(look.resident_bytes)}")
    rows += [("memory", ", ".join(memory)), ("policy", stats.sync_policy)]
    if stats.background_error:
        rows.append(("error", one_line(stats.background_error)))
    return rows


def _file_rows(look: _Look) -> list[tuple[str, str]]:
    files = look.files
    sizes = _sizes(files)
    old = f"{_files(sizes['kept_bytes'], 'segment')}; to keep: {kept(files.keep_log)}"
    rows = [
        ("log", _files(sizes["log_bytes"], "segment")),
        ("kept log", old),
        ("snapshots", _files(sizes["snapshot_bytes"], "file")),
    ]
    if look.free_bytes is not None:
        free = f"{output.size(look.free_bytes)} free"
        if look.stats is not None:
            free += f", puts stop below {output.size(look.stats.min_free_bytes)}"
        rows.append(("disk", free))
    return rows


def _sizes(files: StoreFiles) -> dict[str, list[int]]:
    """Bytes of each file, by what they are."""
    return {
        "log_bytes": [each.size_bytes for each in files.segments if each.state != "kept"],
        "kept_bytes": [each.size_bytes for each in files.segments if each.state == "kept"],
        "snapshot_bytes": [each.size_bytes for each in files.snapshots],
    }


def _files(sizes: list[int], noun: str) -> str:
    return amount(sum(sizes), len(sizes), noun)


def _group(found: Histogram) -> str:
    if not found.count:
        return "none"
    return f"{found.mean:,.1f} on average, up to {found.largest:,.0f}"


def _stalls(found: Histogram) -> str:
    if not found.count:
        return "none"
    return f"{found.count:,} commits waited for room, up to {output.duration(found.largest)}"


def _share(ratio: float | None) -> str:
    return "none" if ratio is None else f"{ratio:.1%}"


def _work(count: float, size_bytes: float, seconds: float) -> str:
    done = round(count * seconds)
    return f"{done:,}, {output.size(round(size_bytes))}/s" if done else "none"
