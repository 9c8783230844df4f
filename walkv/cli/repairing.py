"""The command that saves what can be read of a damaged store into a new one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from walkv import FormatError
from walkv.cli import output
from walkv.cli.options import json_option, not_empty
from walkv.cli.stores import Failure, no_store
from walkv.cli.text import escaped, one_line, path_text
from walkv.ops import Damage, RepairReport
from walkv.ops import repair as repair_store


def _given(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    return not_empty(value)


@click.command()
@click.argument("source", metavar="SOURCE", callback=_given)
@click.argument("target", metavar="TARGET", callback=_given)
@click.option(
    "--report", type=click.Path(dir_okay=False), metavar="FILE", help="Write the report as JSON."
)
@json_option
@click.pass_context
def repair(ctx: click.Context, source: str, target: str, report: str | None, as_json: bool) -> None:
    """Save all that can be read of a damaged store into a new one.

    SOURCE is only read, and stays as it is; no program may have it open for writing. TARGET must
    not exist, or be empty. It appears once it is whole and checked, so it is safe to interrupt.

    Of each key the newest version that can still be read is saved. What is missing is listed, by
    file, place, sequence and keys. Where a deletion was lost, what it had deleted is back.

    Exit status 0 if nothing is known to be missing, 1 if something is, or if nothing was saved.

    \b
    Examples:
      walkv repair agent.walkv repaired.walkv
      walkv repair agent.walkv repaired.walkv --report report.json
      walkv repair agent.walkv repaired.walkv --json
    """
    if report is not None and os.path.lexists(report):
        raise Failure(f"{path_text(report)}: this is here already; choose another file")
    try:
        with output.bar("repairing") as progress:
            found = repair_store(source, target, progress=progress)
    except FileNotFoundError as error:
        if error.filename not in (None, os.path.abspath(source)):
            raise
        raise Failure(no_store(source)) from None
    except FormatError:
        if os.path.isfile(source):
            raise Failure(no_store(source)) from None
        raise
    except ValueError as error:
        raise Failure(str(error)) from None
    if report is not None:
        Path(report).write_text(json.dumps(found.as_dict(), indent=2) + "\n")
    if as_json:
        output.emit_json(found.as_dict())
    else:
        _show(found)
    if not found.complete:
        ctx.exit(1)


def _show(found: RepairReport) -> None:
    used = [each for each in found.files if each.state in ("whole", "damaged")]
    damaged = sum(each.state == "damaged" for each in used)
    missing = sum(each.state == "missing" for each in found.files)
    output.print_facts(
        [
            ("repaired", path_text(found.target)),
            ("entries", f"{found.entry_count:,}"),
            ("batches", f"{found.batch_count:,} from the log"),
            ("files", f"{len(used):,} read, {damaged:,} damaged, {missing:,} missing"),
            ("indexes", f"{len(found.mended):,} entries mended" if found.mended else "agree"),
            ("missing", f"{len(found.losses):,} places" if found.losses else "nothing is known"),
        ]
    )
    if found.losses:
        headings = ("file", "what", "bytes", "sequences", "keys", "reason")
        rows = [_row(damage) for damage in found.losses]
        output.console().print()
        output.console().print(output.table(headings, rows, text_columns=len(headings)))
    for damage in found.damages:
        if not damage.lost:
            output.note(one_line(f"damaged, nothing lost: {damage}"))
    for warning in found.warnings:
        output.note(one_line(f"warning: {warning}"))
    for line in found.disagreements:
        output.note(one_line(f"disagree: {line}"))


def _row(damage: Damage) -> tuple[str, ...]:
    stop = damage.offset_bytes + damage.size_bytes
    place = f"{damage.offset_bytes} to {stop - 1}" if damage.size_bytes else "-"
    first, last = damage.first_sequence, damage.last_sequence
    sequences = "-"
    if first is not None:
        sequences = f"{first} to {'?' if last is None else last}"
    keys = "-"
    if damage.first_key is not None or damage.stop_key is not None:
        begin = "the first" if damage.first_key is None else escaped(damage.first_key)
        end = "the last" if damage.stop_key is None else f"before {escaped(damage.stop_key)}"
        keys = f"{begin} to {end}"
    return damage.path, damage.part, place, sequences, keys, damage.reason
