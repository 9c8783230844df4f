"""Opening stores for commands, and what their errors are called on the command line.

The engine's messages speak of arguments of ``walkv.open``; a person at a prompt has none.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import click

import walkv
from walkv.cli import text
from walkv.cli.output import note


class Failure(click.ClickException):
    """What was asked for could not be done; exit status 1."""


@contextmanager
def reading(path: str) -> Iterator[walkv.Store]:
    """A store to look into: takes no lock, writes nothing, follows a writer that has it open."""
    with _open(path, read_only=True, create=False) as store:
        yield store


@contextmanager
def writing(path: str, *, create: bool = False) -> Iterator[walkv.Store]:
    """A store to change; says on stderr if it was made or mended."""
    with _open(path, read_only=False, create=create) as store:
        report = store.recovery_report
        if report.created:
            note(f"created a new store in {text.path_text(path)}")
        elif not report.clean:
            note(text.one_line(str(report)))
        yield store


def _open(path: str, *, read_only: bool, create: bool) -> walkv.Store:
    # Whatever the engine logs as an error it also raises.
    logging.getLogger("walkv").addHandler(logging.NullHandler())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            store = walkv.open(path, read_only=read_only, create=create)
        except FileNotFoundError:
            if create:
                raise  # then it is not the store that is missing
            raise Failure(no_store(path)) from None
        except walkv.LockedError as error:
            raise Failure(_locked(path, error)) from error
    for warning in caught:
        note(text.one_line(f"warning: {warning.message}"))
    return store


def no_store(path: str) -> str:
    """What there is instead of a store, for a person."""
    if os.path.isfile(path):
        return f"{path}: this is a file, and a walkv store is a directory"
    return f"{path}: there is no walkv store here"


def _locked(path: str, error: walkv.LockedError) -> str:
    who = "another program" if error.pid is None else f"process {error.pid} on {error.host}"
    return (
        f"{path}: {who} has this store open for writing, and only one may; wait until it is done "
        "(reading is possible meanwhile)"
    )
