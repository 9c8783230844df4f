"""Opening stores for commands, their files, and what errors are called on the command line.

The engine's messages speak of arguments of ``walkv.open``; a person at a prompt has none.
"""

from __future__ import annotations

import errno
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

import click

import walkv
from walkv.cli import text
from walkv.cli.output import note

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Failure(click.ClickException):
    """What was asked for could not be done; exit status 1."""


@contextmanager
def reading(path: str) -> Iterator[walkv.Store]:
    """A store to look into: takes no lock, writes nothing, follows a writer that has it open."""
    with _open(path, read_only=True, create=False) as store:
        yield store


@contextmanager
def writing(path: str, *, create: bool = False, **options: Any) -> Iterator[walkv.Store]:
    """A store to change; says on stderr if it was made or mended.

    Args:
        options: as ``walkv.open`` takes them.
    """
    with _open(path, read_only=False, create=create, **options) as store:
        report = store.recovery_report
        if report.created:
            note(f"created a new store in {text.path_text(path)}")
        elif not report.clean:
            note(text.one_line(str(report)))
        yield store


def freeing(path: str) -> AbstractContextManager[walkv.Store]:
    """A store to delete from. The floor of free space is for what takes space, not for this."""
    return writing(path, min_free_bytes=0)


def _open(path: str, *, read_only: bool, create: bool, **options: Any) -> walkv.Store:
    # Whatever the engine logs as an error it also raises.
    logging.getLogger("walkv").addHandler(logging.NullHandler())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            store = walkv.open(path, read_only=read_only, create=create, **options)
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


def error_text(error: walkv.WalkvError | OSError) -> str:
    """What an error says, with the file where it is known."""
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return f"{where}{error.strerror}"
    return str(error) or type(error).__name__


@contextmanager
def naming(path: str) -> Iterator[None]:
    """For writing a file: an error that says that there is no room for it says which file."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _NO_ROOM:
            error.filename = path
        raise


def directory_bytes(path: str) -> int:
    """Bytes of the files in a directory and those below it."""
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(directory, name)).st_size
            except FileNotFoundError:
                continue  # removed meanwhile
    return total
