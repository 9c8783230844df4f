"""The commands for a whole store: stats, verify, compact."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from walkv import AgentStore, CorruptionError, FormatError, RecoveryReport, VerifyReport
from walkv.cli import output
from walkv.cli.folder import directory_bytes
from walkv.cli.options import json_option, store_argument
from walkv.cli.stores import reading, writing
from walkv.cli.text import one_line


@click.command()
@store_argument
@json_option
def stats(path: str, as_json: bool) -> None:
    """Show a store in numbers.

    Entries count every write that compaction has not yet folded together, so there may be more of
    them than keys. With --json: every field of walkv.Stats, and those of walkv.RecoveryReport under
    "recovery".

    \b
    Examples:
      walkv stats agent.walkv
      walkv stats agent.walkv --json
    """
    with reading(path) as store:
        found = store.stats()
        report = store.recovery_report
    if as_json:
        fields = dataclasses.asdict(found) | {"recovery": recovery_fields(report)}
        output.emit_json(fields)
        return
    state = "closed cleanly" if report.clean else "open in another program, or not closed cleanly"
    output.print_facts(
        [
            ("store", one_line(found.path)),
            ("state", state),
            ("entries", f"{found.memtable_entries + found.snapshot_entries:,}"),
            ("  in the log", f"{found.memtable_entries:,}"),
            ("  in snapshots", f"{found.snapshot_entries:,}"),
            ("  deletions", f"{found.tombstone_count:,}"),
            ("last sequence", f"{found.last_sequence:,}"),
            ("on disk", output.size(found.disk_bytes)),
            ("  log", _files(found.log_bytes, found.segment_count, "segment")),
            ("  snapshots", _files(found.snapshot_bytes, found.snapshot_count, "file")),
            ("opened in", f"{report.elapsed_seconds * 1e3:.1f} ms"),
        ]
    )


def _files(size_bytes: int, count: int, kind: str) -> str:
    return f"{output.size(size_bytes)} in {count:,} {kind}{'' if count == 1 else 's'}"


def recovery_fields(report: RecoveryReport) -> dict[str, Any]:
    """A recovery report for a program."""
    return dataclasses.asdict(report)


@click.command()
@store_argument
@json_option
@click.pass_context
def verify(ctx: click.Context, path: str, as_json: bool) -> None:
    """Look for damage.

    Reads every byte of the store and holds it against its checksums, and holds the indexes of an
    agent's records against the records. Changes nothing. Exit status 1 if there is damage, which is
    listed file by file, or a disagreement. Where the damage keeps the store from opening, only the
    first that opening met is listed, and "complete" is false in the JSON. Namespaces that an
    application has declared itself are left to its own agent.verify().

    \b
    Examples:
      walkv verify agent.walkv
      walkv verify agent.walkv --json
    """
    complete = True
    disagreements: list[str] = []
    try:
        with reading(path) as store, _progress() as progress:
            report = store.verify(progress)
            if report.ok:
                disagreements = AgentStore(store).verify()
    except CorruptionError as error:
        complete, report = False, VerifyReport(0, 0, (error,))
    if as_json:
        output.emit_json(
            {
                "ok": report.ok and not disagreements,
                "complete": complete,
                "file_count": report.file_count,
                "checked_bytes": report.checked_bytes,
                "problems": [_problem_fields(problem) for problem in report.problems],
                "disagreements": disagreements,
            }
        )
    elif disagreements:
        for line in disagreements:
            click.echo(f"disagree: {one_line(line)}")
        output.note("the bytes are as they were written, but records and indexes disagree")
    elif report.ok:
        size = output.size(report.checked_bytes)
        click.echo(f"no damage: {report.file_count:,} files, {size} checked")
    else:
        for problem in report.problems:
            click.echo(f"damaged: {one_line(_problem_text(problem))}")
        count = len(report.problems)
        files = f"{count} damaged file{'' if count == 1 else 's'}"
        if not complete:
            files += ", and the store does not open, so the others could not be checked"
        output.note(
            f"{files}; keep a copy of the directory, then restore the file or the store from a "
            "backup"
        )
    if not report.ok or disagreements:
        ctx.exit(1)


@contextmanager
def _progress() -> Iterator[Any]:
    """A progress callback for ``Store.verify``; shows a bar on a terminal, else nothing."""
    if not output.is_terminal(sys.stderr):
        yield None
        return
    columns = (TextColumn("checking"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=output.console(stderr=True), transient=True) as bar:
        task = bar.add_task("checking", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _problem_text(problem: CorruptionError | FormatError) -> str:
    if isinstance(problem, FormatError):
        return str(problem)
    where = problem.path or "store"
    if problem.offset_bytes is not None:
        where += f" at byte {problem.offset_bytes}"
    detail = ""
    if problem.expected is not None or problem.found is not None:
        detail = f" (expected {problem.expected}, found {problem.found})"
    return f"{where}: {problem.reason}{detail}"


def _problem_fields(problem: CorruptionError | FormatError) -> dict[str, Any]:
    if isinstance(problem, FormatError):
        return {
            "kind": "format",
            "path": problem.path,
            "reason": str(problem),
            "found_version": problem.found_version,
            "supported": problem.supported,
        }
    return {
        "kind": "corruption",
        "path": problem.path,
        "offset_bytes": problem.offset_bytes,
        "reason": problem.reason,
        "expected": None if problem.expected is None else str(problem.expected),
        "found": None if problem.found is None else str(problem.found),
    }


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
    with writing(path) as store, output.steps() as steps:
        steps.update("compacting")
        store.compact()
    after_bytes = directory_bytes(path)
    if as_json:
        output.emit_json({"before_bytes": before_bytes, "after_bytes": after_bytes})
    else:
        click.echo(f"{output.size(before_bytes)} before, {output.size(after_bytes)} after")
