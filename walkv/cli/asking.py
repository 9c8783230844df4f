"""Asking before something is gone for good."""

from __future__ import annotations

import sys

import click

from walkv.cli import output
from walkv.cli.stores import Failure


def confirm(question: str) -> None:
    """Ask, and go on only after a yes.

    Raises:
        Failure: it was a no.
        click.Abort: there was no answer.
    """
    try:
        agreed = click.confirm(question, err=True)
    finally:
        if not output.is_terminal(sys.stdin):
            click.echo(err=True)  # nobody has pressed Enter where it would show
    if not agreed:
        raise Failure("nothing was deleted")
