"""The command that writes what is in a store to a file of its own."""

from __future__ import annotations

import dataclasses
import sys
from contextlib import AbstractContextManager, nullcontext

import click

from walkv.cli import output
from walkv.cli.options import json_option, range_bytes, store_argument
from walkv.cli.stores import Failure, naming, reading
from walkv.cli.tables import Column, table
from walkv.cli.text import path_text
from walkv.ops.moving import ExportReport, export
from walkv.ops.moving.collecting import ENTRIES, RECORDS
from walkv.ops.moving.framing import FORMATS, MSGPACK

_STDOUT = "-"


@click.command("export")
@store_argument
@click.argument("out", metavar="[OUT]", default=_STDOUT)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default=FORMATS[0],
    show_default=True,
    help="Lines of JSON, or msgpack.",
)
@click.option("--namespace", "names", multiple=True, help="Only this one; may be repeated.")
@click.option("--prefix", metavar="KEY", help="Only keys that begin with it and are no records.")
@click.option("--entries", is_flag=True, help="Keys and values as they are, instead of records.")
@click.option("--resume", is_flag=True, help="Go on where an export to OUT was interrupted.")
@click.option("--secrets", is_flag=True, help="Export API keys and other secrets, too.")
@json_option
def export_command(
    path: str,
    out: str,
    form: str,
    names: tuple[str, ...],
    prefix: str | None,
    entries: bool,
    resume: bool,
    secrets: bool,
    as_json: bool,
) -> None:
    """Write what is in a store to OUT, as of one moment; without OUT, or with -, to stdout.

    The file says itself how it is to be read: the fields of each namespace, how many records there
    are, and at its end their checksums. Records are exported with their fields, checkpoints with
    their states, and everything else as keys and values. With --entries it holds keys and values
    as they are, from which walkv import makes a store that is the same.

    Safe to interrupt: what was written is in OUT.part, and --resume goes on there. Secrets are
    masked unless --secrets is given. With --json, what was done is printed as one JSON object,
    on stderr if the export itself is on stdout.

    \b
    Examples:
      walkv export agent.walkv agent.jsonl
      walkv export agent.walkv --namespace messages | head
      walkv export agent.walkv agent.msgpack --format msgpack --secrets
      walkv export agent.walkv copy.jsonl --entries --secrets
    """
    to_stdout = out == _STDOUT
    if to_stdout and resume:
        raise click.UsageError("only an export to a file can go on")
    if to_stdout and form == MSGPACK and output.is_terminal(sys.stdout):
        raise click.UsageError("msgpack is not for a terminal: give OUT, or pipe it")
    written: AbstractContextManager[None]
    written = nullcontext() if to_stdout else naming(f"{out}.part")
    with reading(path) as store, output.bar("exporting") as progress, written:
        try:
            report = export(
                store,
                sys.stdout.buffer if to_stdout else out,
                format=form,
                kind=ENTRIES if entries else RECORDS,
                namespaces=names or None,
                prefix=None if prefix is None else range_bytes("--prefix", prefix, False),
                secrets=secrets,
                resume=resume,
                progress=progress,
            )
        except KeyboardInterrupt:
            if not to_stdout:
                output.note(f"what was written is in {path_text(out)}.part; go on with --resume")
            raise
        except (LookupError, ValueError) as error:
            raise Failure(str(error)) from error
    if to_stdout:
        sys.stdout.buffer.flush()
    _show(report, as_json, stderr=to_stdout)


def _show(report: ExportReport, as_json: bool, stderr: bool) -> None:
    if as_json:
        click.echo(output.json_bytes(dataclasses.asdict(report)), err=stderr)
        return
    if not stderr:
        rows = [
            {"namespace": name or "(keys and values)", "items": count}
            for name, count in report.counts.items()
        ]
        columns = (Column("namespace"), Column("items", numeric=True))
        output.console().print(table(columns, rows))
        output.print_facts([("on disk", output.size(report.size_bytes))])
    if len(set(report.sequences)) > 1:
        output.note("the store has changed since the export was begun: the file is of two moments")
    for name, fields in report.masked.items():
        if report.counts.get(name):
            output.note(f"masked in {name}: {', '.join(fields)}; --secrets shows them")
    for name, why in report.left_out.items():
        output.note(f"left out: {name}: {why}; use --entries")
