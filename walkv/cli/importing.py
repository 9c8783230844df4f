"""The command that moves what other stores have kept into a walkv store."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from walkv import AgentStore
from walkv.cli import output
from walkv.cli.folder import directory_bytes
from walkv.cli.options import json_option, not_empty
from walkv.cli.stores import Failure, writing
from walkv.cli.text import one_line

KINDS: Final = ("langgraph-sqlite",)
_NEEDS_LANGGRAPH: Final = "this needs LangGraph: pip install 'walkv[cli,langgraph]'"


@click.command("import")
@click.argument("kind", metavar="KIND", type=click.Choice(KINDS))
@click.argument("file", metavar="FILE", type=click.Path(exists=True, dir_okay=False))
@click.argument(
    "path", metavar="[STORE]", default="agent.walkv", callback=lambda *given: not_empty(given[-1])
)
@json_option
@click.pass_context
def import_command(ctx: click.Context, kind: str, file: str, path: str, as_json: bool) -> None:
    """Move what another store has kept into a walkv store.

    STORE is made if there is none; without it, it is agent.walkv. FILE is read only, as of one
    moment, and stays as it is. What is in STORE already is left as it is, so an import that was
    stopped goes on when it is run again.

    KIND langgraph-sqlite: FILE was written by LangGraph's SqliteSaver, AsyncSqliteSaver,
    SqliteStore or AsyncSqliteStore, or by several of them. Checkpoints read back as they did,
    whatever classes are in them: their values are moved, not decoded. A thread that has gone on in
    STORE since is left alone, and named. What cannot be moved ends the import of its thread and is
    named, and the exit status is 1 then; encrypted checkpoints need their key, and so the function
    walkv.integrations.langgraph.import_sqlite.

    \b
    Examples:
      walkv import langgraph-sqlite checkpoints.sqlite
      walkv import langgraph-sqlite checkpoints.sqlite agent.walkv --json
    """
    try:
        from walkv.integrations.langgraph import importing, sqlite
    except ImportError as error:
        raise Failure(_NEEDS_LANGGRAPH) from error
    with sqlite.opened(file) as source:
        counts = importing.count(source)
        if not counts:
            raise Failure(f"{file}: there is nothing of LangGraph in this SQLite file")
        with writing(path, create=True) as store, _progress(counts) as tell:
            done = importing.run(source, AgentStore(store), tell)
    facts = done._asdict() | {
        "source_bytes": sum(map(_size_bytes, (file, f"{file}-wal"))),
        "store_bytes": directory_bytes(path),
    }
    if as_json:
        output.emit_json(facts)
    else:
        _print(facts)
    if facts["errors"]:
        ctx.exit(1)


def _print(facts: dict[str, Any]) -> None:
    source, stored = output.size(facts["source_bytes"]), output.size(facts["store_bytes"])
    rows = [
        ("checkpoints", f"{facts['checkpoint_count']:,} of {facts['thread_count']:,} threads"),
        ("writes", f"{facts['write_count']:,}"),
        ("items", f"{facts['item_count']:,}"),
        ("there before", f"{facts['present_count']:,}"),
        ("on disk", f"{source} before, {stored} now"),
    ]
    output.print_facts(rows)
    if threads := facts["skipped_threads"]:
        named = ", ".join(one_line(thread) for thread in threads[:10])
        more = f" and {len(threads) - 10:,} more" if len(threads) > 10 else ""
        output.note(f"left alone, because they have gone on in the store: {named}{more}")
    for error in facts["errors"]:
        output.note(one_line(f"not moved: {error}"))


def _size_bytes(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0


@contextmanager
def _progress(count: int) -> Iterator[Callable[[int], None]]:
    """A callback for how much more is done; shows a bar on a terminal, else nothing."""
    if not output.is_terminal(sys.stderr):
        yield lambda _: None
        return
    columns = (TextColumn("importing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=output.console(stderr=True), transient=True) as bar:
        task = bar.add_task("importing", total=count)
        yield lambda more: bar.advance(task, more)
