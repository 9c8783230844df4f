"""The command that copies a store into a new one."""

from __future__ import annotations

import dataclasses
import os

import click

from walkv import ops
from walkv.cli import output, values
from walkv.cli.keys import new_key, new_key_option
from walkv.cli.options import json_option, not_empty, store_argument
from walkv.cli.stores import Failure, no_store
from walkv.cli.text import path_text


@click.command("copy")
@store_argument
@click.argument("target", metavar="TARGET", callback=lambda *given: not_empty(given[-1]))
@new_key_option
@click.option("--plain", is_flag=True, help="The copy is not encrypted.")
@json_option
def copy_command(
    path: str, target: str, new_key_file: str | None, plain: bool, as_json: bool
) -> None:
    """Copy what is in a store into a new one, under another key or without one.

    It is how a store is encrypted, decrypted, or written without what was deleted. WALKV_KEY opens
    an encrypted STORE. The copy has the key in WALKV_NEW_KEY or in FILE, if there is one, else that
    of STORE; with --plain, none.

    Programs may write to STORE meanwhile; the copy is of one moment. It has the same entries, which
    expire when those do, and counts its sequences anew. TARGET must not be there yet. It appears
    once it is complete and checked, so this is safe to interrupt.

    \b
    Examples:
      walkv copy agent.walkv smaller.walkv
      WALKV_NEW_KEY=$(cat agent.key) walkv copy agent.walkv encrypted.walkv
      WALKV_KEY=$(cat agent.key) walkv copy encrypted.walkv plain.walkv --plain
    """
    if plain and new_key_file is not None:
        raise click.UsageError("give --new-key-file or --plain, not both")
    key = None if plain else new_key(new_key_file)
    try:
        with output.bar("copying") as progress:
            report = ops.copy(path, target, new_key=key, plain=plain, progress=progress)
    except FileNotFoundError as error:
        if error.filename not in (None, os.path.abspath(path)):
            raise
        raise Failure(no_store(path)) from None
    if as_json:
        output.emit_json(values.plain(dataclasses.asdict(report)))
        return
    output.print_facts(
        [
            ("copied to", path_text(report.path)),
            ("entries", f"{report.entry_count:,}"),
            ("up to sequence", f"{report.sequence:,} of the source"),
            ("encrypted", "yes" if report.encrypted else "no"),
            ("size", output.size(report.size_bytes)),
            ("took", values.seconds(report.elapsed_seconds)),
        ]
    )
