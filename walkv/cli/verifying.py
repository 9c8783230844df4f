"""The command that looks for damage, and for records and indexes that disagree."""

from __future__ import annotations

from typing import Any

import click

from walkv import CodecError, CorruptionError, FormatError, Store, TamperedError, VerifyReport
from walkv.cli import output
from walkv.cli.options import json_option, store_argument
from walkv.cli.stores import reading
from walkv.cli.text import one_line
from walkv.ops import verify_indexes


@click.command()
@store_argument
@click.option(
    "--limit-rate",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MB",
    help="Read at most so many megabytes a second.",
)
@json_option
@click.pass_context
def verify(ctx: click.Context, path: str, limit_rate: float | None, as_json: bool) -> None:
    """Look for damage.

    Reads every byte of the store, kept segments too, and holds it against its checksums. Then holds
    the indexes, counts and numbers of records against the records, in every namespace of the store.
    Changes nothing. Exit status 1 if there is damage, which is listed file by file, or a
    disagreement. Where the damage keeps the store from opening, only the first that opening met is
    listed, and "complete" is false in the JSON; walkv repair lists all. walkv reindex ends
    disagreements. An encrypted store is
    opened with the key in WALKV_KEY, and it is seen whether anybody has changed it.

    \b
    Examples:
      walkv verify agent.walkv
      walkv verify agent.walkv --limit-rate 50
      walkv verify agent.walkv --json
    """
    complete = True
    disagreements: list[str] = []
    rate = None if limit_rate is None else limit_rate * 1e6
    try:
        with reading(path) as store:
            with output.bar("checking") as progress:
                report = store.verify(progress, max_bytes_per_second=rate)
            if report.ok:
                disagreements = _disagreements(store)
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
        output.note(
            "the bytes are as they were written, but records and indexes disagree; walkv reindex "
            "puts that right"
        )
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
            "backup, or save what can be read with walkv repair"
        )
    if not report.ok or disagreements:
        ctx.exit(1)


def _disagreements(store: Store) -> list[str]:
    with output.steps() as steps:
        steps.update("checking indexes")
        try:
            return verify_indexes(store)
        except (CodecError, FormatError) as error:
            return [str(error)]


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
        "kind": "tampered" if isinstance(problem, TamperedError) else "corruption",
        "path": problem.path,
        "offset_bytes": problem.offset_bytes,
        "reason": problem.reason,
        "expected": None if problem.expected is None else str(problem.expected),
        "found": None if problem.found is None else str(problem.found),
    }
