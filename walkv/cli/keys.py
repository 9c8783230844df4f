"""The commands for encryption keys: keygen, rekey; and how a new key is given to a command."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

import walkv
from walkv.cli import output
from walkv.cli.options import json_option, store_argument
from walkv.cli.stores import Failure, writing
from walkv.cli.text import path_text
from walkv.engine.cipher import KEY_BYTES
from walkv.engine.keyring import Secret, as_text

NEW_VARIABLE: Final = "WALKV_NEW_KEY"
"""The variable of the environment that a new key is taken from."""

_LONGEST_KEY: Final = 4096

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def new_key_option(function: Decorated) -> Decorated:
    return click.option(
        "--new-key-file",
        metavar="FILE",
        help=f"The new key is the text in FILE, instead of that in {NEW_VARIABLE}.",
    )(function)


def new_key(path: str | None) -> str | None:
    """The key in a file, without the end of its line; or in the environment; or None.

    Raises:
        OSError, Failure: the file cannot be read, or is no key.
    """
    if path is None:
        return os.environ.get(NEW_VARIABLE) or None
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        key = file.read(_LONGEST_KEY + 1).removesuffix("\n").removesuffix("\r")
    if not key or len(key) > _LONGEST_KEY or "\n" in key:
        raise Failure(f"{path_text(path)}: a key is one line of text, and this is something else")
    return key


@click.command()
@json_option
def keygen(as_json: bool) -> None:
    """Print a new key for an encrypted store.

    The key is made of 32 random bytes. Keep it where the store is not, and keep it: without its key
    an encrypted store cannot be read by anybody. It is given to a program by the environment
    variable WALKV_KEY, or by walkv.open(key=...).

    \b
    Examples:
      walkv keygen
      walkv keygen > agent.key
    """
    key = as_text(secrets.token_bytes(KEY_BYTES))
    if as_json:
        output.emit_json({"key": key})
    else:
        click.echo(key)


@click.command()
@store_argument
@new_key_option
@click.option("--no-rotate", is_flag=True, help="Change the user's key alone, in milliseconds.")
@json_option
def rekey(path: str, new_key_file: str | None, no_rotate: bool, as_json: bool) -> None:
    """Change the key of an encrypted store.

    The key that it has is taken from WALKV_KEY, the new one from WALKV_NEW_KEY or from a file. From
    the first step on, which is atomic, only the new key opens the store. Then everything is written
    anew under another data key, so that who had the old one can read nothing that is written from
    now on; --no-rotate leaves that out.

    If it is interrupted after the first step, the store is whole: set WALKV_KEY to the new key, and
    run it again. In a program that has the store open, call store.rekey(new_key).

    A store that is not encrypted becomes so by walkv copy. Backups stay under the key that the
    store had when they were made: keep it as long as these.

    \b
    Examples:
      walkv rekey agent.walkv --new-key-file new.key
      WALKV_KEY=$(cat agent.key) walkv rekey agent.walkv --new-key-file new.key --no-rotate
    """
    key = new_key(new_key_file)
    if key is None:
        raise click.UsageError(f"give the new key in {NEW_VARIABLE}, or by --new-key-file")
    secret = Secret(key)
    try:
        with writing(path) as store, output.steps() as steps:
            steps.update("writing the store anew")
            try:
                store.rekey(secret, rotate=not no_rotate)
            except KeyboardInterrupt:
                if store.engine.catalog.keyring.secret is secret:
                    output.note("the new key opens the store now; run this again with it")
                raise
            written_bytes = store.stats().disk_bytes
    except Failure as failure:
        if isinstance(failure.__cause__, walkv.LockedError):
            raise Failure(f"{failure.message}; or call store.rekey(new_key) there") from failure
        raise
    if as_json:
        output.emit_json({"rotated": not no_rotate, "disk_bytes": written_bytes})
        return
    what = "" if no_rotate else f", and {output.size(written_bytes)} are under a new data key"
    click.echo(f"the new key opens the store{what}; the old one does not any more")
