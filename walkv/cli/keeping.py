"""The command for how much of its log a store keeps: keep."""

from __future__ import annotations

import dataclasses
import re
from typing import Final

import click

from walkv import KeepLog, Stats, limits
from walkv.cli import output
from walkv.cli.describing import amount, kept
from walkv.cli.options import json_option, store_argument
from walkv.cli.stores import reading, writing
from walkv.ops.storefiles import examine

_DAY_SECONDS: Final = 86_400.0
_LONGEST_DAYS: Final = 100_000
_UNITS: Final = {"": 1, "KIB": limits.KIB, "MIB": limits.MIB, "GIB": limits.GIB}


def _bytes(ctx: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """The bytes of a size such as ``500MiB``."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,3})?) ?(|[kmg]ib)", value, re.IGNORECASE)
    size_bytes = int(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
    if not size_bytes:
        raise click.BadParameter(
            f"{value!r} is no size; give bytes, or one such as 500MiB or 2GiB", ctx, parameter
        )
    return size_bytes


@click.command()
@store_argument
@click.option(
    "--days",
    type=click.FloatRange(0, _LONGEST_DAYS, min_open=True),
    metavar="N",
    help="Keep what was committed in the last N days.",
)
@click.option("--max", "max_bytes", callback=_bytes, metavar="SIZE", help="At most so much of it.")
@click.option("--off", is_flag=True, help="Keep nothing; what was kept is removed.")
@json_option
def keep(path: str, days: float | None, max_bytes: int | None, off: bool, as_json: bool) -> None:
    """Set how much of its log a store keeps; without options, show it.

    Segments of the log that are settled into snapshots are removed, unless they are kept. With them
    walkv history, log and tail go back further, and a backup can be restored to any moment of them.
    What --days and --max both allow is kept; one that is not given stays as it is, or is 7 days, or
    1 GiB. A SIZE is a number of bytes, or one with KiB, MiB or GiB. The setting is the store's, and
    holds for every program that opens it.

    \b
    Examples:
      walkv keep agent.walkv
      walkv keep agent.walkv --days 30 --max 5GiB
      walkv keep agent.walkv --off
    """
    changed = days is not None or max_bytes is not None
    if off and changed:
        raise click.UsageError("give --off, or what is to be kept")
    if off:
        with writing(path, keep_log=KeepLog(0, 0)):
            pass
    elif changed:
        with reading(path) as store:
            before = _setting(store.path) or KeepLog()
        wanted = KeepLog(
            before.seconds if days is None else days * _DAY_SECONDS,
            before.max_bytes if max_bytes is None else max_bytes,
        )
        with writing(path, keep_log=wanted):
            pass
    with reading(path) as store:
        _show(_setting(store.path), store.stats(), as_json)


def _setting(path: str) -> KeepLog | None:
    files = examine(path)
    return None if files is None else files.keep_log


def _show(setting: KeepLog | None, stats: Stats, as_json: bool) -> None:
    if as_json:
        output.emit_json(
            {
                "keep_log": None if setting is None else dataclasses.asdict(setting),
                "kept_segment_count": stats.kept_segment_count,
                "kept_bytes": stats.kept_bytes,
            }
        )
        return
    there = amount(stats.kept_bytes, stats.kept_segment_count, "segment")
    output.print_facts([("to keep", kept(setting)), ("kept", there)])
