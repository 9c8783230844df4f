"""The commands for a whole store: stats, compact."""

from __future__ import annotations

import dataclasses
import os

import click

from walkv import Histogram, Stats
from walkv.cli import output
from walkv.cli.describing import amount, share, spread, stats_fields, writer
from walkv.cli.options import json_option, store_argument
from walkv.cli.stores import directory_bytes, freeing, reading
from walkv.cli.text import one_line
from walkv.engine.vfs import OsFileSystem
from walkv.engine.watch import published


@click.command()
@store_argument
@json_option
def stats(path: str, as_json: bool) -> None:
    """Show a store in numbers.

    The numbers are those of the program that has the store open for writing, as it told them last;
    it does so about once a second while there are commits. If nobody has it open, they are those of
    a reader, which does not know what only a writer does. Entries count every write that compaction
    has not yet folded together, so there may be more of them than keys. Counters begin anew with
    every opening.

    With --json: every field of walkv.Stats, histograms by their percentiles; "source", which is
    "writer" or "reader"; and the fields of walkv.RecoveryReport, of reading it now, under
    "recovery".

    \b
    Examples:
      walkv stats agent.walkv
      walkv stats agent.walkv --json
    """
    with reading(path) as store:
        holder = published(OsFileSystem(), store.path)
        told = None if holder is None else holder.stats
        found = told or store.stats()
        report = store.recovery_report
    if as_json:
        fields = stats_fields(found) | {
            "source": "reader" if told is None else "writer",
            "recovery": dataclasses.asdict(report),
        }
        output.emit_json(fields)
        return
    state = "closed cleanly" if report.clean else "not closed cleanly"
    if holder is not None:
        state = writer(holder)
    facts = [
        ("store", one_line(found.path)),
        ("state", state),
        ("entries", f"{found.memtable_entries + found.snapshot_entries:,}"),
        ("  in the log", f"{found.memtable_entries:,}"),
        ("  in snapshots", f"{found.snapshot_entries:,}"),
        ("  deletions", f"{found.tombstone_count:,}"),
        ("last sequence", f"{found.last_sequence:,}"),
        ("on disk", output.size(found.disk_bytes)),
        ("  log", amount(found.log_bytes, found.segment_count, "segment")),
        ("  kept log", amount(found.kept_bytes, found.kept_segment_count, "segment")),
        ("  snapshots", amount(found.snapshot_bytes, found.snapshot_count, "file")),
    ]
    output.print_facts(facts + ([] if told is None else _work(told)))


def _work(told: Stats) -> list[tuple[str, str]]:
    """What a writer has done since it opened the store."""
    lookups = told.cache_hits + told.cache_misses
    return [
        ("commits", f"{told.commit_count:,}, {output.size(told.written_bytes)} of log"),
        ("syncs", f"{told.sync_count:,}"),
        ("  took", spread(told.sync_seconds)),
        ("  covered", f"{told.group_sizes.mean:,.1f} commits each, on average"),
        ("stalls", spread(told.stall_seconds)),
        ("flushes", _done(told.flush_count, told.flushed_bytes, told.flush_seconds)),
        ("merges", _done(told.merge_count, told.merged_bytes, told.merge_seconds)),
        ("memtable", share(told.memtable_bytes, told.memtable_budget_bytes)),
        ("cache", share(told.cache_bytes, told.cache_budget_bytes)),
        ("  hits", f"{told.cache_hits / lookups:.1%}" if lookups else "no look-ups"),
        ("last error", one_line(told.background_error) or "none"),
    ]


def _done(count: int, size_bytes: int, seconds: Histogram) -> str:
    if not count:
        return "none"
    return f"{count:,}, {output.size(size_bytes)}, {output.duration(seconds.mean)} on average"


@click.command()
@store_argument
@json_option
def compact(path: str, as_json: bool) -> None:
    """Give back the space of what was deleted.

    Rewrites the whole store into one file, without what was deleted, replaced or has expired.

    Safe to interrupt: the store then stays as it was.

    \b
    Example:
      walkv compact agent.walkv
    """
    before_bytes = directory_bytes(path) if os.path.isdir(path) else 0
    with freeing(path) as store, output.steps() as steps:
        steps.update("compacting")
        store.compact()
    after_bytes = directory_bytes(path)
    if as_json:
        output.emit_json({"before_bytes": before_bytes, "after_bytes": after_bytes})
    else:
        click.echo(f"{output.size(before_bytes)} before, {output.size(after_bytes)} after")
