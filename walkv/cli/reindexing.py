"""The command that makes indexes agree with records again: reindex."""

from __future__ import annotations

import click

from walkv import ops
from walkv.cli import output
from walkv.cli.options import json_option, store_argument
from walkv.cli.stores import writing
from walkv.cli.text import one_line


@click.command()
@store_argument
@json_option
@click.pass_context
def reindex(ctx: click.Context, path: str, as_json: bool) -> None:
    """Make indexes, counts and numbers agree with the records again.

    For a store in which walkv verify has found a disagreement. Records are what counts, and stay as
    they are; what is kept beside them is put right, in every namespace, and listed.

    Safe to interrupt: what is left is put right when it is run again. Exit status 1 if something
    cannot be put right, which is listed too.

    \b
    Example:
      walkv reindex agent.walkv
    """
    with writing(path) as store, output.steps() as steps:
        steps.update("putting indexes right")
        mended = ops.rebuild_indexes(store)
        steps.update("checking indexes")
        left = ops.verify_indexes(store)
    if as_json:
        output.emit_json({"ok": not left, "mended": mended, "disagreements": left})
    else:
        for line in mended:
            click.echo(f"mended: {one_line(line)}")
        for line in left:
            click.echo(f"disagree: {one_line(line)}")
        if not left:
            click.echo("indexes agree with the records")
    if left:
        ctx.exit(1)
