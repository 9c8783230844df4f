"""The commands that say whether all is well with the place, or the store: doctor, health."""

from __future__ import annotations

import sys
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from walkv import Health, WalkvError
from walkv.cli import output
from walkv.cli.options import json_option, not_empty, store_argument
from walkv.cli.stores import Failure, error_text, no_store
from walkv.cli.text import one_line, path_text
from walkv.ops.diagnosing import Diagnosis
from walkv.ops.diagnosing import doctor as examined
from walkv.ops.faring import health as examined_health

_STYLES = {
    "ok": "green",
    "warning": "yellow",
    "error": "red",
    "degraded": "yellow",
    "failed": "red",
}


@click.command()
@click.argument(
    "path", metavar="[DIRECTORY]", default=".", callback=lambda *given: not_empty(given[-1])
)
@json_option
@click.pass_context
def doctor(ctx: click.Context, path: str, as_json: bool) -> None:
    """Find out whether a directory is a good place for a store.

    DIRECTORY is a store, or where one is to be; without it, the working directory. Looks at the
    system, its libraries and limits, the file system and its mount options, the free space; and
    measures there what a sync takes, which is what a durable commit waits for. What is made for
    that is removed again; nothing is put into a store. If there is a store, looks whether it can be
    opened.

    Exit status 1 if something is an error; warnings leave it at 0.

    \b
    Examples:
      walkv doctor
      walkv doctor agent.walkv
      walkv doctor /var/lib/agent --json
    """
    try:
        report = examined(path)
    except NotADirectoryError as error:
        raise Failure(f"{path_text(path)}: this is a file; give a directory") from error
    except FileNotFoundError as error:
        raise Failure(f"{path_text(path)}: there is no such directory") from error
    if as_json:
        output.emit_json(_report_fields(report))
    else:
        _print_findings(report)
    if not report.ok:
        ctx.exit(1)


def _report_fields(report: Diagnosis) -> dict[str, Any]:
    return {
        "directory": report.directory,
        "level": report.level,
        "findings": [each._asdict() for each in report.findings],
    }


def _print_findings(report: Diagnosis) -> None:
    window = output.is_terminal(sys.stdout)
    made = Table.grid(padding=(0, 2, 0, 0))
    for wraps in (False, False, True):
        made.add_column(no_wrap=not wraps)
    for each in report.findings:
        text = one_line(each.text)
        if window:
            made.add_row(Text(each.level, _STYLES[each.level]), Text(each.check, "bold"), text)
        else:
            click.echo(f"{each.level:<7}  {each.check:<14}  {text}")
    if window:
        output.console().print(made)


@click.command()
@store_argument
@json_option
@click.pass_context
def health(ctx: click.Context, path: str, as_json: bool) -> None:
    """Say in one word whether a store is well: ok, degraded or failed.

    For the health check of a service, from outside of it: reads the store as any reader does, and
    what the program that writes to it says of itself. degraded: it works, but something will have
    to be done; failed: it cannot be read, or takes no more writes. The reasons follow.

    Exit status 0 if it is ok, else 1.

    \b
    Examples:
      walkv health agent.walkv
      walkv health agent.walkv --json
    """
    try:
        found = examined_health(path)
    except (WalkvError, OSError) as error:
        missing = isinstance(error, FileNotFoundError)
        message = no_store(path) if missing else error_text(error)
        if not as_json:
            raise Failure(message) from error
        found = Health("failed", (message,))  # who watches wants an answer, whatever is wrong
    if as_json:
        output.emit_json({"status": found.status, "reasons": list(found.reasons)})
    else:
        console = output.console()
        console.print(Text(found.status, _STYLES[found.status]))
        for reason in found.reasons:
            console.print(Text(f"  {one_line(reason)}"))
    if found.status != "ok":
        ctx.exit(1)
