"""The command that saves what can be read of a damaged store into a new one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from walkv import Declaration, FormatError
from walkv.cli import output
from walkv.cli.options import json_option, not_empty
from walkv.cli.stores import Failure, naming, no_store
from walkv.cli.text import escaped, one_line, path_text
from walkv.engine.keep import SUFFIX as KEPT_SUFFIX
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
@click.option(
    "--manifest",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="A copy of the MANIFEST of an encrypted store that has lost it.",
)
@json_option
@click.pass_context
def repair(
    ctx: click.Context,
    source: str,
    target: str,
    report: str | None,
    manifest: str | None,
    as_json: bool,
) -> None:
    """Save all that can be read of a damaged store into a new one.

    SOURCE is only read, and stays as it is; no program may have it open for writing. TARGET must
    not exist, or be empty. It appears once it is whole and checked, so it is safe to interrupt.

    Of each key the newest version that can still be read is saved. What is missing is listed, by
    file, place, sequence and keys. Where a deletion was lost, what it had deleted is back.

    An encrypted store takes its key in WALKV_KEY, and TARGET has the same; the report names keys of
    entries. Its data keys are in MANIFEST only: where that is lost, give that of a restored backup,
    or of another copy of the same store, with --manifest.

    Where what the store knows of its namespaces is lost, those of walkv and of LangGraph are told
    from their records, if all of these fit; this is said.

    Exit status 0 if nothing is known to be missing, 1 if something is, or if nothing was saved.

    \b
    Examples:
      walkv repair agent.walkv repaired.walkv
      walkv repair agent.walkv repaired.walkv --report report.json
      walkv repair agent.walkv repaired.walkv --manifest restored.walkv/MANIFEST
      walkv repair agent.walkv repaired.walkv --json
    """
    if report is not None and os.path.lexists(report):
        raise Failure(f"{path_text(report)}: this is here already; choose another file")
    try:
        with output.bar("repairing") as progress:
            found = repair_store(
                source,
                target,
                manifest=manifest,
                declarations=_declarations(),
                progress=progress,
            )
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
        with naming(report):
            Path(report).write_text(json.dumps(found.as_dict(), indent=2) + "\n")
    if as_json:
        output.emit_json(found.as_dict())
    else:
        _show(found)
    if not found.complete:
        ctx.exit(1)


def _declarations() -> list[Declaration[Any]]:
    """Of the namespaces that walkv has beyond an agent's own, where what they need is installed."""
    try:
        from walkv.integrations.langgraph.cache import CacheEntries
        from walkv.integrations.langgraph.checkpoints import GraphCheckpoints
        from walkv.integrations.langgraph.items import Items
    except ImportError:
        return []
    return [GraphCheckpoints.declaration, Items.declaration, CacheEntries.declaration]


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
            ("indexes", _indexes(found)),
            ("missing", _places(len(found.losses)) if found.losses else "nothing is known"),
        ]
    )
    for damage in found.losses:
        click.echo()
        _show_loss(damage)
    for damage in found.damages:
        if not damage.lost:
            output.note(one_line(f"damaged, nothing lost: {damage}"))
    for warning in found.warnings:
        output.note(one_line(f"warning: {warning}"))
    for line in found.disagreements:
        output.note(one_line(f"disagree: {line}"))
    if any(each.path.endswith(KEPT_SUFFIX) for each in found.files):
        output.note(
            "the log that SOURCE has kept is not in TARGET: its history begins anew, and so do "
            "moments that a backup can be restored to"
        )


def _indexes(found: RepairReport) -> str:
    mended, left = len(found.mended), len(found.disagreements)
    words = [f"{mended:,} {'entry' if mended == 1 else 'entries'} mended"] if mended else []
    if left:
        words.append(f"{left:,} {'disagreement' if left == 1 else 'disagreements'} left")
    return ", ".join(words) or "agree"


def _places(count: int) -> str:
    return f"{count:,} place{'' if count == 1 else 's'}"


def _show_loss(damage: Damage) -> None:
    """What one damage has cost, whole in a window of any width."""
    facts = [("lost in", damage.path), ("what", damage.part)]
    if damage.size_bytes:
        stop = damage.offset_bytes + damage.size_bytes
        facts.append(("bytes", f"{damage.offset_bytes} to {stop - 1}"))
    first, last = damage.first_sequence, damage.last_sequence
    if first is not None:
        facts.append(("sequences", f"{first} to {'?' if last is None else last}"))
    if damage.first_key is not None or damage.stop_key is not None:
        begin = "the first" if damage.first_key is None else escaped(damage.first_key)
        end = "the last" if damage.stop_key is None else f"before {escaped(damage.stop_key)}"
        facts.append(("keys", f"{begin} to {end}"))
    facts.append(("reason", damage.reason))
    output.print_facts([(name, one_line(text)) for name, text in facts])
