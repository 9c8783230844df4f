"""Arguments and options that several commands have, and what they turn into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from walkv import limits
from walkv.cli import text
from walkv.cli.policies import POLICIES

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def not_empty(path: str) -> str:
    """The path of a store, as it was given.

    Raises:
        click.BadParameter: it is empty, which means the working directory to the operating system,
            and to nobody else.
    """
    if not path:
        raise click.BadParameter(
            "a store is a directory, and its path is empty", param_hint="'STORE'"
        )
    return path


def store_argument(function: Decorated) -> Decorated:
    return click.argument("path", metavar="STORE", callback=lambda *given: not_empty(given[-1]))(
        function
    )


def json_option(function: Decorated) -> Decorated:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(
        function
    )


def hex_option(function: Decorated) -> Decorated:
    return click.option(
        "--hex", "as_hex", is_flag=True, help="Keys and values are hex digits, given and printed."
    )(function)


def sync_option(function: Decorated) -> Decorated:
    return click.option(
        "--sync",
        type=click.Choice(tuple(POLICIES)),
        default="wal",
        show_default=True,
        help="When the commit counts as done. Closing the store syncs in any case.",
    )(function)


def key_bytes(argument: str, as_hex: bool) -> bytes:
    """A KEY argument.

    Raises:
        click.BadParameter: not hex digits, empty, or too long.
    """
    key = range_bytes("KEY", argument, as_hex)
    if not 0 < len(key) <= limits.MAX_KEY_BYTES:
        raise click.BadParameter(
            f"a key has 1 to {limits.MAX_KEY_BYTES} bytes, and this one has {len(key)}",
            param_hint="'KEY'",
        )
    return key


def range_bytes(name: str, argument: str, as_hex: bool) -> bytes:
    """An argument that may be empty: a prefix, a bound or a value.

    Raises:
        click.BadParameter: not hex digits.
    """
    try:
        return text.to_bytes(argument, as_hex)
    except ValueError:
        raise click.BadParameter(
            f"these are not pairs of hex digits: {argument[:40]!r}", param_hint=f"'{name}'"
        ) from None
