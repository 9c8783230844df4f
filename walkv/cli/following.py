"""The commands for the log: log, tail."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from itertools import islice

import click
from rich.text import Text

from walkv import Change, EncryptionError, Store
from walkv.cli import operations, output, values
from walkv.cli.operations import Knowledge
from walkv.cli.options import json_option, store_argument
from walkv.cli.stores import reading
from walkv.cli.tables import Column, table
from walkv.ops.logged import LoggedFrame, frames

since_option = click.option(
    "--since",
    type=click.IntRange(min=0),
    metavar="SEQUENCE",
    help="Only what comes after this sequence.",
)

_COLUMNS = (
    Column("sequence", numeric=True),
    Column("time", shown=str, whole=True),
    Column("kind", whole=True),
    Column("operations", "ops", numeric=True),
    Column("size", shown=values.size, numeric=True, spare=True),
    Column("place", "segment:offset", whole=True),
)


@click.command()
@store_argument
@since_option
@click.option(
    "--until",
    type=click.IntRange(min=0),
    metavar="SEQUENCE",
    help="Only up to this sequence.",
)
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="COUNT", help="At most so many frames."
)
@click.option("--reverse", is_flag=True, help="The newest first.")
@json_option
def log(
    path: str,
    since: int | None,
    until: int | None,
    limit: int | None,
    reverse: bool,
    as_json: bool,
) -> None:
    """List the frames of the log: when what was committed, and where it lies.

    A frame is a commit, or a marker of how far the log was known to be durable, a seal at the end
    of a segment, or a close. It lies in a segment, a file of the log, whose name is shown without
    its zeros, from an offset in bytes on. What was settled into snapshots is gone from the log,
    unless the store keeps its log (walkv keep); then it goes back as far as that says.

    What the commits have written is told by walkv tail. No key is needed for an encrypted store.
    Bytes that are no frame end a segment without an error; walkv verify says whether that is so
    after a crash, or damage.

    \b
    Examples:
      walkv log agent.walkv
      walkv log agent.walkv --reverse --limit 20
      walkv log agent.walkv --since 1000 --until 2000 --json
    """
    try:
        with reading(path):
            pass  # it says what is wrong, if it is no store
    except EncryptionError as error:
        if error.reason != "missing":
            raise
    chosen = islice(frames(path, since or 0, until, reverse=reverse), limit)
    if as_json:
        output.emit_lines(output.json_bytes(_frame_fields(each)) for each in chosen)
    else:
        _print_frames(chosen)


def _frame_fields(found: LoggedFrame) -> dict[str, object]:
    return found._asdict() | {
        "time": found.time.isoformat(),
        "last_sequence": found.last_sequence,
    }


_AT_ONCE = 10_000
"""Rows of one table: a log may be longer than memory."""


def _print_frames(found: Iterator[LoggedFrame]) -> None:
    some = False
    for page in iter(lambda: list(islice(found, _AT_ONCE)), []):
        some = True
        times = [values.instant(each.time) for each in page]
        if output.is_terminal(sys.stdout):
            times = _under_dates(times)
        output.console().print(table(_COLUMNS, list(map(_row, page, times))))
    if not some:
        output.note("no frames")


def _under_dates(times: list[str]) -> list[str]:
    """Times with their date above the first of a day only: a window has no room for more."""
    days = [""] + [time.partition(" ")[0] for time in times]
    return [
        time.removeprefix(f"{day} ") if day == before else time.replace(" ", "\n")
        for before, day, time in zip(days, days[1:], times, strict=False)
    ]


def _row(found: LoggedFrame, time: str) -> dict[str, object]:
    sequence = f"{found.first_sequence}"
    if found.last_sequence > found.first_sequence:
        sequence += f"-{found.last_sequence}"
    return {
        "sequence": sequence,
        "time": time,
        "kind": found.kind,
        "operations": found.operation_count or None,
        "size": found.size_bytes,
        "place": f"{found.segment.lstrip('0')}:{found.offset_bytes}",
    }


@click.command()
@store_argument
@click.option("--follow", "-f", is_flag=True, help="Go on with what is committed, until Ctrl-C.")
@since_option
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    metavar="COUNT",
    help="The last so many commits, unless --since is given.",
)
@click.option("--values", "full", is_flag=True, help="Show values, too.")
@click.option("--all", "everything", is_flag=True, help="Show index entries and the like, too.")
@click.option("--secrets", is_flag=True, help="Show API keys and other secrets, too.")
@json_option
def tail(
    path: str,
    follow: bool,
    since: int | None,
    limit: int,
    full: bool,
    everything: bool,
    secrets: bool,
    as_json: bool,
) -> None:
    """Show the last commits, and with --follow each new one as it lands.

    A commit is a line with its time and sequences, then a line for each operation. Records of an
    agent are shown by their namespace and key; index entries and the like, which follow from them,
    are only counted unless --all is given. With --values there are the values of plain keys, and
    the fields of records with secrets masked. With --json a commit is one line, with all of its
    operations.

    Commits of a program that writes at this moment are shown when they are in the log, which may be
    a moment before they are durable. With --follow, Ctrl-C ends it with exit status 0.

    \b
    Examples:
      walkv tail agent.walkv
      walkv tail agent.walkv --follow
      walkv tail agent.walkv --since 5 --values
      walkv tail agent.walkv --limit 3 --json
    """
    with reading(path) as store:
        knowledge = Knowledge(store, secrets=secrets)
        count = 0
        try:
            for change in _changes(store, since, limit, follow):
                knowledge.learn(change)
                count += 1
                if as_json:
                    output.emit_json(operations.fields_of(change, knowledge, full=full))
                else:
                    _print_change(change, knowledge, everything, full)
        except KeyboardInterrupt:
            if not follow:
                raise
        if limit and not count and not follow and not as_json:
            output.note("no commits in the log; what was settled is in the snapshots")


def _changes(store: Store, since: int | None, limit: int, follow: bool) -> Iterator[Change]:
    last = since
    if since is None:
        last = store.last_sequence
        found = deque(store.changes(), maxlen=limit)
        if found:
            yield from found
            last = found[-1].last_sequence
    if since is not None or follow:
        yield from store.changes(since=last, follow=follow)


def _print_change(change: Change, knowledge: Knowledge, everything: bool, full: bool) -> None:
    sequences = f"{change.first_sequence}"
    if change.last_sequence > change.first_sequence:
        sequences += f"-{change.last_sequence}"
    count = len(change.operations)
    noun = "operation" if count == 1 else "operations"
    head = Text.assemble(
        (values.instant(change.time), "dim"),
        ("  #" + sequences, "bold"),
        f"  {count:,} {noun}, {output.size(change.size_bytes)}",
    )
    console = output.console()
    console.print(head)
    for line in operations.lines(change, knowledge, everything=everything, full=full):
        text = operations.styled(line)
        if output.is_terminal(sys.stdout):
            text.truncate(console.width, overflow="ellipsis")
        console.print(text)
