"""The commands for backups: make one, restore one, and see to those that there are."""

from __future__ import annotations

import dataclasses
import logging
from datetime import datetime
from typing import Any

import click

from walkv.cli import output, values
from walkv.cli.options import json_option, not_empty, store_argument
from walkv.cli.tables import Column, table
from walkv.cli.text import one_line, path_text
from walkv.errors import CorruptionError, FormatError
from walkv.ops import backing
from walkv.ops.backing import BackupInfo, BackupProblem

_COLUMNS = (
    Column("name", "backup", whole=True),
    Column("time", whole=True),
    Column("sequence", numeric=True),
    Column("size", shown=values.size, numeric=True),
    Column("objects", numeric=True, spare=True),
)
_KEEP = "Remove older backups, all but the newest N."
_KEEP_DAYS = "Remove older backups, but none of the last D days."


def _target_argument(function: Any) -> Any:
    def checked(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
        if not value:
            raise click.BadParameter("a target is a directory or a URL, and this one is empty")
        _quiet()
        return value

    return click.argument("target", metavar="TARGET", callback=checked)(function)


def _quiet() -> None:
    # What goes wrong is raised as well, and then it is one line.
    logging.getLogger("walkv").addHandler(logging.NullHandler())


def _retention_options(function: Any) -> Any:
    keep = click.option("--keep", type=click.IntRange(min=1), metavar="N", help=_KEEP)
    days = click.option(
        "--keep-days",
        type=click.FloatRange(min=0, min_open=True, max=1e6, max_open=True),
        metavar="D",
        help=_KEEP_DAYS,
    )
    return keep(days(function))


def _rate_option(function: Any) -> Any:
    return click.option(
        "--limit-rate",
        type=click.FloatRange(min=0, min_open=True),
        metavar="MB",
        help="Read and write at most so many megabytes a second.",
    )(function)


def _rate(megabytes: float | None) -> float | None:
    return None if megabytes is None else megabytes * 1e6


def _moment(ctx: click.Context, parameter: click.Parameter, value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        return values.read_instant(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@store_argument
@_target_argument
@_retention_options
@_rate_option
@json_option
def backup(
    path: str,
    target: str,
    keep: int | None,
    keep_days: float | None,
    limit_rate: float | None,
    as_json: bool,
) -> None:
    """Back up a store to TARGET, while programs write to it.

    TARGET is a directory, or the URL of an object store (which needs walkv[objects]). Only what is
    new since the last backup is copied; it is checked, and read back. With --keep and --keep-days
    older backups go afterwards, those that neither of them keeps.

    An encrypted store is backed up as it is, encrypted. That takes no key; with WALKV_KEY more is
    checked.

    Safe to interrupt, also with kill -9: the backups before stay as they were, and the next one
    uses what was copied.

    \b
    Examples:
      walkv backup agent.walkv /mnt/backups/agent
      walkv backup agent.walkv s3://bucket/agent --keep 24 --keep-days 30
    """
    with output.bar("backing up") as progress:
        report = backing.backup(
            path,
            target,
            keep=keep,
            keep_days=keep_days,
            progress=progress,
            max_bytes_per_second=_rate(limit_rate),
        )
    for warning in report.warnings:
        output.note(one_line(f"warning: left out of the backup: {warning}"))
    if as_json:
        output.emit_json(values.plain(dataclasses.asdict(report)))
        return
    output.print_facts(
        [
            ("backup", report.name),
            ("up to sequence", f"{report.sequence:,}"),
            ("copied", _amount(report.copied_bytes, report.copied_objects)),
            ("there already", _amount(report.skipped_bytes, report.skipped_objects)),
            ("removed", _backups(len(report.removed))),
            ("checked", report.checked),
            ("took", values.seconds(report.elapsed_seconds)),
        ]
    )


@click.command()
@_target_argument
@click.argument("path", metavar="STORE", callback=lambda *given: not_empty(given[-1]))
@click.option("--backup", "name", metavar="NAME", help="Restore from this backup alone.")
@click.option(
    "--sequence", type=click.IntRange(min=0), metavar="N", help="Up to this operation, no further."
)
@click.option(
    "--time",
    callback=_moment,
    metavar="TIME",
    help="As the store was then; local time, unless it ends in Z, UTC or an offset.",
)
@json_option
def restore(
    target: str,
    path: str,
    name: str | None,
    sequence: int | None,
    time: datetime | None,
    as_json: bool,
) -> None:
    """Make a store at STORE from the backups in TARGET.

    Without options, as the newest backup has it. With --sequence or --time, as it was at any moment
    that the backups lead to; if it cannot be reached, the message says which can. Times are given
    as walkv log, tail, history and backups list print them, among other forms. Replaces nothing:
    STORE must not be there yet. It appears there once it is complete and checked.

    A backup of an encrypted store has the key that the store had then. Without it, a backup can be
    restored as it is; --sequence and --time need it in WALKV_KEY.

    \b
    Examples:
      walkv restore /mnt/backups/agent restored.walkv
      walkv restore s3://bucket/agent yesterday.walkv --time "2026-11-27 14:00"
    """
    if sequence is not None and time is not None:
        raise click.UsageError("give --sequence or --time, not both")
    with output.bar("restoring") as progress:
        report = backing.restore(
            target, path, backup=name, sequence=sequence, time=time, progress=progress
        )
    if as_json:
        output.emit_json(values.plain(dataclasses.asdict(report)))
        return
    facts = [
        ("restored", path_text(report.path)),
        ("up to sequence", f"{report.sequence:,}"),
    ]
    if report.time is not None:
        facts.append(("last commit", values.instant(report.time)))
    facts += [
        ("from", ", ".join(report.backups)),
        ("checked", report.checked),
        ("size", output.size(report.size_bytes)),
        ("took", values.seconds(report.elapsed_seconds)),
    ]
    output.print_facts(facts)


@click.group()
def backups() -> None:
    """See to the backups in a target: list, verify, prune."""


@backups.command("list")
@_target_argument
@json_option
def list_command(target: str, as_json: bool) -> None:
    """List the backups, newest first.

    Much of what one names is named by others too, so the sizes do not add up. Exit status 1 if one
    of them cannot be read.

    \b
    Example:
      walkv backups list /mnt/backups/agent
    """
    found = backing.backups(target)
    if as_json:
        for each in found:
            output.emit_json(_info_fields(each))
    else:
        rows = [
            {
                "name": each.name,
                "time": each.time,
                "sequence": "unreadable" if each.problem else f"{each.sequence:,}",
                "size": each.size_bytes,
                "objects": each.object_count,
            }
            for each in found
        ]
        output.console().print(table(_COLUMNS, rows))
    if any(each.problem for each in found):
        click.get_current_context().exit(1)


def _info_fields(info: BackupInfo) -> dict[str, Any]:
    fields = {field.name: getattr(info, field.name) for field in dataclasses.fields(info)}
    fields["problem"] = None if info.problem is None else one_line(_reason(info.problem))
    plain: dict[str, Any] = values.plain(fields)
    return plain


@backups.command("verify")
@_target_argument
@click.option(
    "--set-aside", is_flag=True, help="Move damaged objects away, to be copied by the next backup."
)
@_rate_option
@json_option
def verify_command(target: str, set_aside: bool, limit_rate: float | None, as_json: bool) -> None:
    """Read every backup, and check that it can be restored.

    Changes nothing. With --set-aside, damaged objects are moved to damaged/ in TARGET, and the next
    backup copies them again, if the store still has what was in them. Exit status 1 if there is
    damage, which is listed.

    Backups of an encrypted store are read with the key in WALKV_KEY. Without, or where they are
    under an older one, they are held against checksums alone.

    \b
    Examples:
      walkv backups verify /mnt/backups/agent --limit-rate 20
      walkv backups verify /mnt/backups/agent --set-aside
    """
    with output.bar("checking") as progress:
        report = backing.verify_backups(
            target,
            set_aside=set_aside,
            progress=progress,
            max_bytes_per_second=_rate(limit_rate),
        )
    if as_json:
        output.emit_json(
            {
                "ok": report.ok,
                "backup_count": report.backup_count,
                "object_count": report.object_count,
                "checked_bytes": report.checked_bytes,
                "damaged": report.damaged,
                "problems": [_problem_fields(problem) for problem in report.problems],
                "sealed": report.sealed,
                "set_aside": report.set_aside,
            }
        )
    elif report.ok:
        size = output.size(report.checked_bytes)
        click.echo(f"no damage: {_backups(report.backup_count)}, {size} checked")
    else:
        for problem in report.problems:
            users = _backups(len(problem.backups))
            click.echo(f"damaged: {one_line(_reason(problem.error))}; {users} cannot be restored")
        output.note(
            f"{len(report.damaged):,} of {_backups(report.backup_count)} cannot be restored; "
            + _advice(len(report.set_aside))
        )
    if report.sealed and not as_json:
        output.note(
            f"{_backups(len(report.sealed))} checked by checksums alone: encrypted, and not with "
            "the key in WALKV_KEY"
        )
    if not report.ok:
        click.get_current_context().exit(1)


def _advice(set_aside_count: int) -> str:
    if not set_aside_count:
        return "with --set-aside, the next backup copies what is damaged again, if the store has it"
    objects = f"{set_aside_count:,} object{'' if set_aside_count == 1 else 's'}"
    return f"{objects} moved to damaged/; make a backup, and verify again"


def _reason(error: CorruptionError | FormatError) -> str:
    return f"{error.path}: {error.reason}" if isinstance(error, CorruptionError) else str(error)


def _problem_fields(problem: BackupProblem) -> dict[str, Any]:
    return {
        "path": problem.error.path,
        "reason": one_line(_reason(problem.error)),
        "backups": problem.backups,
    }


@backups.command("prune")
@_target_argument
@_retention_options
@json_option
def prune_command(target: str, keep: int | None, keep_days: float | None, as_json: bool) -> None:
    """Remove old backups, and what killed ones have left.

    The newest one always stays. In an object store the space comes back a day later, with the next
    backup or prune.

    \b
    Example:
      walkv backups prune /mnt/backups/agent --keep 7
    """
    with output.steps() as steps:
        steps.update("pruning")
        report = backing.prune_backups(target, keep=keep, keep_days=keep_days)
    if as_json:
        output.emit_json(dataclasses.asdict(report))
        return
    amount = _amount(report.removed_bytes, report.removed_objects)
    click.echo(f"removed {_backups(len(report.removed))}: {amount}")


def _amount(size_bytes: int, count: int) -> str:
    return f"{output.size(size_bytes)} in {count:,} object{'' if count == 1 else 's'}"


def _backups(count: int) -> str:
    return f"{count:,} backup{'' if count == 1 else 's'}"
