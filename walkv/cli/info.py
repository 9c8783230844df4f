"""The command that describes a store: info."""

from __future__ import annotations

import dataclasses
from typing import Any

import click
from rich.table import Table

from walkv import RecoveryReport, Store
from walkv.cli import output, values
from walkv.cli.describing import age, amount, kept, writer
from walkv.cli.options import json_option, store_argument
from walkv.cli.stores import Failure, no_store, reading
from walkv.cli.tables import Column, table
from walkv.cli.text import one_line
from walkv.ops.sizing import Size, sizes
from walkv.ops.storefiles import StoreFiles, examine

_SEGMENTS = (
    Column("segment"),
    Column("state"),
    Column("size", shown=values.size, numeric=True),
    Column("age", numeric=True),
)
_SNAPSHOTS = (
    Column("snapshot", numeric=True),
    Column("size", shown=values.size, numeric=True),
    Column("entries", numeric=True),
    Column("deletions", numeric=True, spare=True),
    Column("up to", numeric=True),
    Column("age", numeric=True),
)
_NAMESPACES = (
    Column("namespace"),
    Column("records", numeric=True),
    Column("size", shown=values.size, numeric=True),
    Column("indexes", shown=values.size, numeric=True),
    Column("other", shown=values.size, numeric=True, spare=True),
)
_MOST_ROWS = 20
"""Of segments and snapshots; --json has them all."""


@click.command()
@store_argument
@click.option("--fast", is_flag=True, help="Leave out the namespaces, for which all is read.")
@json_option
def info(path: str, fast: bool, as_json: bool) -> None:
    """Describe a store: what it is, what is in it, who has it open.

    Shows its format, whether it is encrypted, its sync policy as its writer has it, what is kept of
    its log, what opening it found, the files it is made of, and what each namespace takes. Sizes of
    namespaces are those of keys and values; files have them compressed. To count them the store is
    read once; --fast leaves them out. "other" is what a namespace keeps besides records and
    indexes: old versions, and the parts of states.

    walkv stats has the numbers of a store at work, walkv log the frames of its log.

    \b
    Examples:
      walkv info agent.walkv
      walkv info agent.walkv --fast
      walkv info agent.walkv --json
    """
    with reading(path) as store:
        files = examine(path)
        if files is None:
            raise Failure(no_store(path))  # deleted just now
        found: list[Size] | None = None
        if not fast:
            with output.bar("counting") as tell:
                found = sizes(store, tell)
        if as_json:
            output.emit_json(_fields(store, files, found))
            return
        output.print_facts(_facts(store, files))
        _print_files(files)
        if found is not None:
            _print_namespaces(found)


def _fields(store: Store, files: StoreFiles, found: list[Size] | None) -> dict[str, Any]:
    """All of it for a program."""
    holder = files.holder
    told = None if holder is None else holder.stats
    recovered = None if holder is None else holder.recovery
    stats = store.stats()
    return {
        "path": files.path,
        "format_version": files.format_version,
        "encrypted": files.encrypted,
        "store_id": files.store_id,
        "created": files.created.isoformat(),
        "open": holder is not None,
        "pid": None if holder is None else holder.pid,
        "host": None if holder is None else holder.host,
        "sync_policy": None if told is None else told.sync_policy,
        "last_sequence": store.last_sequence,
        "disk_bytes": stats.disk_bytes,
        "log_bytes": stats.log_bytes,
        "kept_bytes": stats.kept_bytes,
        "snapshot_bytes": stats.snapshot_bytes,
        "free_bytes": stats.free_bytes,
        "keep_log": None if files.keep_log is None else dataclasses.asdict(files.keep_log),
        "recovery": dataclasses.asdict(store.recovery_report),
        "last_recovery": None if recovered is None else dataclasses.asdict(recovered),
        "quarantined": list(files.quarantined),
        "quarantine_bytes": files.quarantine_bytes,
        "segments": [values.plain(each._asdict()) for each in files.segments],
        "snapshots": [values.plain(each._asdict()) for each in files.snapshots],
        "namespaces": None if found is None else [dataclasses.asdict(each) for each in found],
    }


def _facts(store: Store, files: StoreFiles) -> list[tuple[str, str]]:
    holder, stats = files.holder, store.stats()
    encrypted = "encrypted" if files.encrypted else "not encrypted"
    facts = [
        ("store", one_line(files.path)),
        ("format", f"{files.format_version}, {encrypted}"),
        ("made", f"{values.instant(files.created)}, {age(files.created)} ago"),
        ("state", _state(files, store.recovery_report)),
    ]
    if holder is not None and holder.stats is not None:
        facts.append(("sync policy", holder.stats.sync_policy))
    facts += [
        ("last sequence", f"{store.last_sequence:,}"),
        ("on disk", output.size(stats.disk_bytes)),
        ("  log", output.size(stats.log_bytes)),
        ("  kept log", f"{output.size(stats.kept_bytes)}, to keep: {kept(files.keep_log)}"),
        ("  snapshots", output.size(stats.snapshot_bytes)),
    ]
    if stats.free_bytes is not None:
        facts.append(("free", output.size(stats.free_bytes)))
    if files.quarantined:
        quarantine = amount(files.quarantine_bytes, len(files.quarantined), "file")
        facts.append(("quarantine", quarantine))
    report = store.recovery_report
    noun = "commit" if report.frame_count == 1 else "commits"
    took = output.duration(report.elapsed_seconds)
    facts.append(("replay", f"{report.frame_count:,} {noun} of the log in {took}"))
    if holder is not None and holder.recovery is not None:
        facts.append(("last recovery", one_line(str(holder.recovery).removeprefix("the store "))))
    return facts


def _state(files: StoreFiles, report: RecoveryReport) -> str:
    if files.holder is not None:
        return writer(files.holder)
    if report.clean:
        return "closed cleanly"
    return "not closed cleanly; the next writer recovers it"


def _print_files(files: StoreFiles) -> None:
    segments = [
        {
            "segment": str(each.first_sequence),
            "state": each.state,
            "size": each.size_bytes,
            "age": age(each.created),
        }
        for each in files.segments
    ]
    snapshots = [
        {
            "snapshot": each.snapshot_id,
            "size": each.size_bytes,
            "entries": each.entry_count,
            "deletions": each.tombstone_count,
            "up to": each.last_sequence,
            "age": age(each.created),
        }
        for each in files.snapshots
    ]
    _print(table(_SEGMENTS, segments[-_MOST_ROWS:]), len(segments), "segments")
    _print(table(_SNAPSHOTS, snapshots[-_MOST_ROWS:]), len(snapshots), "snapshots")


def _print(made: Table, count: int, noun: str) -> None:
    if count:
        click.echo()
        output.console().print(made)
    if count > _MOST_ROWS:
        output.note(f"the newest {_MOST_ROWS} of {count:,} {noun}; --json has all")


def _print_namespaces(found: list[Size]) -> None:
    rows = [
        {
            "namespace": each.namespace or "(plain keys)",
            "records": each.record_count,
            "size": each.total_bytes,
            "indexes": each.index_bytes,
            "other": each.version_bytes + each.other_bytes,
        }
        for each in found
    ]
    click.echo()
    if rows:
        output.console().print(table(_NAMESPACES, rows))
    else:
        output.note("the store is empty")
