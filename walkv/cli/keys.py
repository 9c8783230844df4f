"""The commands for encryption keys: keygen, rekey."""

from __future__ import annotations

import base64
import secrets
from typing import Final

import click

from walkv.cli import output
from walkv.cli.options import json_option

_PREFIX: Final = "walkv-key-1:"
_KEY_BYTES: Final = 32


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
    key = _PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(_KEY_BYTES)).decode("ascii")
    if as_json:
        output.emit_json({"key": key})
    else:
        click.echo(key)
