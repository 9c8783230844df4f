"""The commands that delete what is old: prune, sweep."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final, cast

import click

from walkv import AgentStore, Store
from walkv.cli import output, values
from walkv.cli.asking import confirm
from walkv.cli.options import Decorated, json_option, store_argument
from walkv.cli.stores import freeing, reading
from walkv.cli.tables import Column, table
from walkv.namespaces import registry
from walkv.namespaces.base import Namespace
from walkv.namespaces.keyvalue import Reader
from walkv.ops.pruning import Pruned, Rules, prune
from walkv.ops.sweeping import sweep

_GRAPHS: Final = "langgraph_checkpoints"
_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_LONGEST_SECONDS: Final = 36_500 * 86_400.0
_COLUMNS: Final = (
    Column("namespace"),
    Column("records", numeric=True),
    Column("freed", shown=values.size, numeric=True),
)


def _seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """The seconds of a time span such as ``30d``."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", value)
    seconds = float(found[1]) * _SECONDS[found[2]] if found else None
    if seconds is None or seconds > _LONGEST_SECONDS:
        raise click.BadParameter(
            f"{value!r} is no time span; give one such as 90s, 15m, 12h, 30d or 4w", ctx, param
        )
    return seconds


def _age_option(name: str, text: str) -> Callable[[Decorated], Decorated]:
    return click.option(name, callback=_seconds, metavar="AGE", help=text)


def _count_option(name: str, text: str) -> Callable[[Decorated], Decorated]:
    return click.option(name, type=click.IntRange(min=0), metavar="COUNT", help=text)


_dry_run_option = click.option("--dry-run", is_flag=True, help="Only count; change nothing.")


def _opened(path: str, dry_run: bool) -> AbstractContextManager[Store]:
    return reading(path) if dry_run else freeing(path)


@click.command("prune")
@store_argument
@_count_option("--checkpoints-keep", "Of each thread the newest so many checkpoints stay.")
@_age_option(
    "--checkpoints-older-than",
    "Checkpoints put longer ago go, but for the newest of each thread; with --checkpoints-keep "
    "only those that meet both.",
)
@_age_option("--sessions-idle", "Sessions in which nothing has happened for so long go.")
@_count_option("--messages-keep", "Of each session the newest so many messages stay.")
@_age_option("--contexts-older-than", "Contexts that have not changed for so long go.")
@_age_option("--executions-older-than", "Executions begun longer ago go, but for steps of once().")
@_dry_run_option
@click.option("--yes", is_flag=True, help="Do not ask before deleting all there are.")
@json_option
def prune_command(
    path: str,
    checkpoints_keep: int | None,
    checkpoints_older_than: float | None,
    sessions_idle: float | None,
    messages_keep: int | None,
    contexts_older_than: float | None,
    executions_older_than: float | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Delete what an agent has kept long enough.

    Each option names a rule; at least one is needed, and nothing else is deleted. An AGE is a
    number and s, m, h, d or w: 12h, 30d. A session goes with its messages and contexts, a
    checkpoint with the parts of its state that nothing else needs. Checkpoints that LangGraph keeps
    are pruned as well, if walkv[langgraph] is installed. Where --messages-keep or
    --checkpoints-keep is 0 it asks first, unless --yes is given.

    With --dry-run nothing is changed, and no lock is needed. Safe to interrupt: what is left goes
    when it is run again. The disk space comes back in the background, or by walkv compact.

    \b
    Examples:
      walkv prune agent.walkv --checkpoints-keep 10 --dry-run
      walkv prune agent.walkv --checkpoints-keep 10 --sessions-idle 90d
      walkv prune agent.walkv --messages-keep 1000 --executions-older-than 30d --json
    """
    rules = Rules(
        checkpoints_keep,
        checkpoints_older_than,
        sessions_idle,
        messages_keep,
        contexts_older_than,
        executions_older_than,
    )
    if all(rule is None for rule in rules):
        raise click.UsageError("say what is old, for example --checkpoints-keep 10")
    if not dry_run and not yes:
        _confirm(path, rules)
    with _opened(path, dry_run) as store, output.steps() as steps:
        done = []
        for each in _pruned(store, rules, dry_run):
            steps.update(f"pruning: {each.namespace}")
            done.append(each)
    if as_json:
        output.emit_json({"dry_run": dry_run, "pruned": [each._asdict() for each in done]})
        return
    if not done:
        output.note("the store has no records of an agent, so there is nothing to prune")
        return
    output.console().print(table(_COLUMNS, [_row(each) for each in done]))
    if dry_run:
        output.note("a dry run: nothing was deleted")


def _confirm(path: str, rules: Rules) -> None:
    """Ask before a rule that leaves nothing is followed."""
    no_messages = rules.messages_keep == 0
    no_checkpoints = rules.checkpoints_keep == 0 and rules.checkpoints_seconds is None
    if not no_messages and not no_checkpoints:
        return
    radical = Rules(
        messages_keep=0 if no_messages else None, checkpoints_keep=0 if no_checkpoints else None
    )
    # Counted without the lock, so that nobody is kept waiting for an answer.
    with reading(path) as store:
        found = [each for each in _pruned(store, radical, dry_run=True) if each.record_count]
    if found:
        counts = " and ".join(f"{each.record_count:,} of {each.namespace}" for each in found)
        confirm(f"Delete all there are: {counts}?")


def _pruned(store: Store, rules: Rules, dry_run: bool) -> Iterator[Pruned]:
    known = registry.read(cast(Reader, store))
    if not known:
        return  # an AgentStore would register its namespaces, in a store that is not an agent's
    with AgentStore(store) as agent:
        namespaces: dict[str, Namespace[Any]] = dict(agent.by_name)
        wanted = rules.checkpoints_keep is not None or rules.checkpoints_seconds is not None
        if wanted and _GRAPHS in known:
            try:
                from walkv.integrations.langgraph.checkpoints import GraphCheckpoints
            except ImportError:
                output.note(f"{_GRAPHS} are left alone: pip install 'walkv[cli,langgraph]'")
            else:
                declaration = GraphCheckpoints.declaration
                namespaces[_GRAPHS] = agent.namespace(declaration, cls=GraphCheckpoints)
        yield from prune(namespaces, rules, dry_run=dry_run)


def _row(done: Pruned) -> dict[str, Any]:
    return {
        "namespace": done.namespace,
        "records": done.record_count,
        "freed": done.freed_bytes,
    }


@click.command("sweep")
@store_argument
@_dry_run_option
@json_option
def sweep_command(path: str, dry_run: bool, as_json: bool) -> None:
    """Delete what has expired.

    An entry that has expired is absent for every reader, but takes its space until the file it is
    in is rewritten. After a sweep the store knows how much that is, and rewrites files in the
    background where it is worth it; walkv compact does it at once. Index entries of records expire
    with them, and are counted.

    With --dry-run nothing is changed, and no lock is needed. Safe to interrupt.

    \b
    Examples:
      walkv sweep agent.walkv --dry-run
      walkv sweep agent.walkv
    """
    with _opened(path, dry_run) as store, output.bar("sweeping") as tell:
        done = sweep(store, dry_run=dry_run, progress=tell)
    if as_json:
        output.emit_json({"dry_run": dry_run} | done._asdict())
        return
    noun = "entry" if done.entry_count == 1 else "entries"
    verb = "would delete" if dry_run else "deleted"
    click.echo(f"{verb} {done.entry_count:,} expired {noun}, {output.size(done.size_bytes)}")
