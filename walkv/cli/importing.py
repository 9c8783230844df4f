"""The command that moves what other stores have kept into a walkv store."""

from __future__ import annotations

import os
from typing import Any, Final

import click

from walkv import AgentStore, WalkvError
from walkv.cli import output
from walkv.cli.options import json_option, not_empty, range_bytes
from walkv.cli.stores import Failure, directory_bytes, writing
from walkv.cli.tables import Column, table
from walkv.cli.text import one_line, path_text
from walkv.ops.moving import ImportReport, detect
from walkv.ops.moving.importing import move
from walkv.ops.moving.sources import opening

AUTO: Final = "auto"
LANGGRAPH: Final = opening.LANGGRAPH
KINDS: Final = (AUTO, *opening.KINDS, LANGGRAPH)
_NEEDS_LANGGRAPH: Final = "this needs LangGraph: pip install 'walkv[cli,langgraph]'"
_SHOWN_LINES: Final = 10
_COLUMNS: Final = (
    Column("namespace"),
    Column("source", "in FILE", numeric=True),
    Column("written", numeric=True),
    Column("present", "there before", numeric=True),
    Column("differing", "other", numeric=True),
    Column("expired", numeric=True),
    Column("compared", whole=True),
)


@click.command("import")
@click.argument("kind", metavar="KIND", type=click.Choice(KINDS))
@click.argument("file", metavar="FILE", type=click.Path(exists=True))
@click.argument(
    "path", metavar="[STORE]", default="agent.walkv", callback=lambda *given: not_empty(given[-1])
)
@click.option("--namespace", "names", multiple=True, help="Only this one; may be repeated.")
@click.option("--replace", is_flag=True, help="Write over items that differ.")
@click.option("--without-masked", is_flag=True, help="Take records without their masked secrets.")
@click.option("--table", "table_name", metavar="NAME", help="sqlite-table: the table.")
@click.option("--key", metavar="COLUMN", multiple=True, help="sqlite-table: its key column.")
@click.option("--value", metavar="COLUMN", help="sqlite-table: the column with the values.")
@click.option("--as", "name", metavar="NAMESPACE", help="sqlite-table: where the rows go.")
@click.option("--prefix", metavar="KEY", default="", help="Put before the keys of entries.")
@click.option("--allow-pickle", is_flag=True, help="diskcache: read pickles, which runs them.")
@json_option
@click.pass_context
def import_command(
    ctx: click.Context,
    kind: str,
    file: str,
    path: str,
    names: tuple[str, ...],
    replace: bool,
    without_masked: bool,
    table_name: str | None,
    key: tuple[str, ...],
    value: str | None,
    name: str | None,
    prefix: str,
    allow_pickle: bool,
    as_json: bool,
) -> None:
    """Move what another store has kept into a walkv store.

    STORE is made if there is none; without it, it is agent.walkv. FILE is read only, as of one
    moment, and stays as it is. What is in STORE already is left as it is, so an import that was
    stopped goes on when it is run again. At the end both are read again and compared by count and
    checksum; where they differ, that is named, and the exit status is 1.

    KIND auto: whichever of these FILE turns out to be.

    KIND walkv: a file that walkv export has written. Nothing is written unless all of it is whole.

    KIND openai-agents: a file of SQLiteSession of the OpenAI Agents SDK.

    KIND google-adk: a file of SqliteSessionService or DatabaseSessionService of Google's ADK.

    KIND diskcache: the directory of a cache. Entries that expire go on expiring. What is pickled is
    refused unless --allow-pickle is given, since reading a pickle runs what is in it.

    KIND sqlite-table: a table of any SQLite file, whose rows become records of a namespace of its
    own, or with --value keys and values.

    KIND langgraph-sqlite: FILE was written by LangGraph's SqliteSaver, AsyncSqliteSaver,
    SqliteStore or AsyncSqliteStore, or by several of them. Checkpoints read back as they did,
    whatever classes are in them: their values are moved, not decoded. A thread that has gone on in
    STORE since is left alone, and named. What cannot be moved ends the import of its thread and is
    named, and the exit status is 1 then; encrypted checkpoints need their key, and so the function
    walkv.integrations.langgraph.import_sqlite.

    \b
    Examples:
      walkv import walkv exported.jsonl copy.walkv
      walkv import openai-agents conversations.db
      walkv import diskcache cache/ --prefix cache/
      walkv import sqlite-table data.db --table notes --key id
      walkv import langgraph-sqlite checkpoints.sqlite
      walkv import langgraph-sqlite checkpoints.sqlite agent.walkv --json
    """
    if os.path.isfile(os.path.join(file, "MANIFEST")):
        raise Failure(f"{path_text(file)}: this is a store: export it first, or back it up")
    if kind == AUTO:
        kind = opening.TABLE if table_name is not None else detect(file)
    if kind == LANGGRAPH:
        _refuse(names, replace, without_masked, table_name, key, value, name, prefix, allow_pickle)
        _langgraph(ctx, file, path, as_json)
        return
    options = opening.Options(
        table_name,
        key,
        value,
        name,
        range_bytes("--prefix", prefix, False),
        allow_pickle,
        without_masked,
    )
    try:
        with output.bar("importing") as progress:
            report = move(
                lambda: writing(path, create=True),
                file,
                kind,
                options,
                names or None,
                replace,
                progress,
            )
    except KeyboardInterrupt:
        output.note("what was moved stays; run the same command again, and it goes on")
        raise
    except ValueError as error:
        if isinstance(error, WalkvError):
            raise
        raise click.UsageError(str(error)) from error
    if as_json:
        output.emit_json(_report_fields(report))
    else:
        _print_report(report)
    if not report.ok:
        ctx.exit(1)


def _refuse(*options: Any) -> None:
    if any(options):
        raise click.UsageError("langgraph-sqlite takes none of these options")


def _langgraph(ctx: click.Context, file: str, path: str, as_json: bool) -> None:
    try:
        from walkv.integrations.langgraph import importing, sqlite
    except ImportError as error:
        raise Failure(_NEEDS_LANGGRAPH) from error
    if os.path.isdir(file):
        raise click.BadParameter(f"File '{file}' is a directory.", param_hint="'FILE'")
    with sqlite.opened(file) as source:
        counts = importing.count(source)
        if not counts:
            raise Failure(f"{file}: there is nothing of LangGraph in this SQLite file")
        with writing(path, create=True) as store, output.bar("importing") as progress:
            moved = 0

            def tell(more: int) -> None:
                nonlocal moved
                moved += more
                if progress is not None:
                    progress(moved, counts)

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


def _report_fields(report: ImportReport) -> dict[str, Any]:
    counts = {
        name: {
            "source_count": moved.source_count,
            "written_count": moved.written_count,
            "present_count": moved.present_count,
            "differing_count": moved.differing_count,
            "expired_count": moved.expired_count,
            "source": moved.source.as_dict(),
            "store": moved.store.as_dict(),
        }
        for name, moved in report.namespaces.items()
    }
    return {
        "ok": report.ok,
        "kind": report.kind,
        "path": report.path,
        "namespaces": counts,
        "problem_count": report.problem_count,
        "problems": report.problems,
        "difference_count": report.difference_count,
        "differences": report.differences,
    }


def _print_report(report: ImportReport) -> None:
    rows = [
        {
            "namespace": name or "(keys and values)",
            "source": moved.source_count,
            "written": moved.written_count,
            "present": moved.present_count,
            "differing": moved.differing_count,
            "expired": moved.expired_count,
            "compared": "same" if moved.same else "not the same",
        }
        for name, moved in report.namespaces.items()
    ]
    output.console().print(table(_COLUMNS, rows))
    _note_lines("not moved", report.problems, report.problem_count)
    _note_lines("differs", report.differences, report.difference_count)


def _note_lines(what: str, lines: tuple[str, ...], count: int) -> None:
    for line in lines[:_SHOWN_LINES]:
        output.note(one_line(f"{what}: {line}"))
    if count > _SHOWN_LINES:
        output.note(f"{what}: {count - _SHOWN_LINES:,} more")


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
