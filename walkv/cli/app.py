"""The group of commands, and the one place where errors become a line and an exit status.

Invariants:
    1. Exit status: 0 done, 1 not done (or damage, or no such key), 2 used wrongly, 130 interrupted,
       141 the reader of the output went away.
    2. An error is one line on stderr. A traceback means a bug, or that ``WALKV_DEBUG=1`` asked for
       it.
"""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from typing import Any, Final

import click

import walkv
from walkv.cli import text
from walkv.cli.backups import backup, backups, restore
from walkv.cli.copying import copy_command
from walkv.cli.data import delete, get, put, scan
from walkv.cli.demo.command import demo
from walkv.cli.diff import diff
from walkv.cli.doctoring import doctor, health
from walkv.cli.exporting import export_command
from walkv.cli.following import log, tail
from walkv.cli.history import history_command
from walkv.cli.importing import import_command
from walkv.cli.info import info
from walkv.cli.keeping import keep
from walkv.cli.keys import keygen, rekey
from walkv.cli.output import is_terminal
from walkv.cli.pruning import prune_command, sweep_command
from walkv.cli.reindexing import reindex
from walkv.cli.repairing import repair
from walkv.cli.show import show
from walkv.cli.stores import error_text
from walkv.cli.top import top
from walkv.cli.upkeep import compact, stats
from walkv.cli.verifying import verify

_FAILED: Final = 1
_INTERRUPTED: Final = 130
_PIPE_CLOSED: Final = 141
_SUMMARY_COLUMNS: Final = 80


class _InterruptedError(Exception):
    """Ctrl-C, under a name that click does not act on."""


class _PipeClosedError(Exception):
    """EPIPE, likewise."""


class _Commands(click.Group):
    def main(self, *args: Any, **extra: Any) -> Any:
        """As click's ``main``, with the errors of walkv; never returns."""
        extra["standalone_mode"] = False
        try:
            result = super().main(*args, **extra)
            status = result if isinstance(result, int) else 0
        except _PipeClosedError:
            _discard_output()
            status = _PIPE_CLOSED
        except _InterruptedError as error:
            _discard_output()
            # A terminal has just shown "^C"; the message gets a line of its own.
            _report("interrupted", error, newline=is_terminal(sys.stderr))
            status = _INTERRUPTED
        except click.Abort as error:
            interrupted = isinstance(error.__context__, KeyboardInterrupt)
            _report("interrupted" if interrupted else "aborted, nothing was changed", error)
            status = _INTERRUPTED if interrupted else _FAILED
        except click.ClickException as error:
            _report(_click_message(error), error)
            status = error.exit_code
        except (walkv.WalkvError, OSError) as error:
            _report(error_text(error), error)
            _discard_unwritable()
            status = _FAILED
        sys.exit(status)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands under headings; in the order in which they are needed."""
        widest = max(map(len, self.commands))
        for heading, commands in GROUPS.items():
            rows = [
                ((command.name or "").ljust(widest), command.get_short_help_str(_SUMMARY_COLUMNS))
                for command in commands
            ]
            with formatter.section(heading):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        # click's ``main`` has answers of its own to these two.
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _InterruptedError from error
        except BrokenPipeError as error:
            raise _PipeClosedError from error


def _report(message: str, error: BaseException, newline: bool = False) -> None:
    if os.environ.get("WALKV_DEBUG", "") not in ("", "0"):
        click.echo("".join(traceback.format_exception(error)), nl=False, err=True)
    click.echo(("\n" if newline else "") + f"walkv: {text.one_line(message)}", err=True)


def _click_message(error: click.ClickException) -> str:
    if not isinstance(error, click.UsageError):
        return error.format_message()
    # click lists choices a line each.
    message = " ".join(error.format_message().split()).rstrip(".")
    message = message[:1].lower() + message[1:]
    command = "walkv" if error.ctx is None else error.ctx.command_path
    hint = f"see {command} --help"
    if isinstance(error, click.NoSuchOption):
        hint = f'put "--" before a key or value that begins with "-"; {hint}'
    return f"{message} ({hint})"


def _discard_output() -> None:
    # The interpreter flushes at its end: that would fail again, or wait for a reader that waits.
    with suppress(OSError, ValueError):
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, sys.stdout.fileno())
        os.close(descriptor)


def _discard_unwritable() -> None:
    # What a full disk has not taken would fail again at the end, and change the exit status.
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        _discard_output()


@click.group(
    "walkv",
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(walkv.__version__, prog_name="walkv", message="%(prog)s %(version)s")
@click.pass_context
def walkv_command(ctx: click.Context) -> None:
    """Look into a walkv store, change it, check it, and see an agent survive kill -9.

    STORE is the store's directory. KEY and VALUE are text, stored as UTF-8; with --hex they are hex
    digits. Bytes that are not printable are shown as \\xNN, and a backslash as \\\\.

    With --json every command prints JSON objects, one a line: scan one for each entry, show one for
    each record, log, tail, history and top one for each of what they list, others one. Keys and
    values in them are strings, or {"base64": "..."} where they are not UTF-8, or hex strings with
    --hex. Messages and errors go to stderr.

    Reading takes no lock and changes nothing, so it is safe while a program has the store open.

    Exit status: 0 done; 1 not done, no such key, or damage found; 2 wrong usage; 130 interrupted.

    \b
    Examples:
      walkv put agent.walkv user/1 Ada
      walkv get agent.walkv user/1
      walkv scan agent.walkv --prefix user/
      walkv show messages agent.walkv
      walkv info agent.walkv
      walkv tail agent.walkv --values
      walkv export agent.walkv agent.jsonl
      walkv import langgraph-sqlite checkpoints.sqlite
      walkv demo
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


GROUPS: Final[dict[str, tuple[click.Command, ...]]] = {
    "Data": (get, put, delete, scan, show),
    "Look inside": (info, stats, top, tail, log, history_command, diff),
    "Back up": (backup, restore, backups, keep),
    "Check": (doctor, health, verify, reindex, repair),
    "Move": (export_command, import_command, copy_command),
    "Upkeep": (compact, prune_command, sweep_command, keygen, rekey),
    "See it work": (demo,),
}
"""Every command, by the heading that it has in the help."""

for _commands in GROUPS.values():
    for _command in _commands:
        if isinstance(_command, click.Group):
            _command.no_args_is_help = False  # a usage error is one line, of whichever click
        walkv_command.add_command(_command)
