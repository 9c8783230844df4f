"""The demo command."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path
from typing import Final

import click

import walkv
from walkv import AgentStore
from walkv.cli import output
from walkv.cli.demo import audit as auditing
from walkv.cli.demo import effects as log
from walkv.cli.demo import report, trial, twin
from walkv.cli.demo.folder import list_files
from walkv.cli.demo.report import Outcome
from walkv.cli.options import json_option
from walkv.cli.stores import Failure, directory_bytes

_EARLIEST_SHARE: Final = 0.3
"""The kill comes at a random moment between this share of --seconds and all of it."""

_NAMES: Final = ("agent.walkv", "effects.log", "same.sqlite")


@click.command()
@click.argument("folder", required=False)
@click.option(
    "--directory",
    type=click.Path(file_okay=False),
    help="Where the store goes; a new temporary directory by default. Kept in any case.",
)
@click.option(
    "--kills",
    type=click.IntRange(1, 100),
    default=5,
    show_default=True,
    metavar="COUNT",
    help="So often the agent is killed.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.05, 60.0),
    default=1.2,
    show_default=True,
    metavar="SECONDS",
    help="Each time at a random moment, at the latest after this time.",
)
@click.option("--seed", type=int, help="Repeat the random moments of another run.")
@json_option
@click.pass_context
def demo(
    ctx: click.Context,
    folder: str | None,
    directory: str | None,
    kills: int,
    seconds: float,
    seed: int | None,
    as_json: bool,
) -> None:
    """Kill an agent at its work; lose nothing, repeat nothing.

    A process of its own is the agent. It goes through the files of the folder: a user asks for
    each, a reader finds out what is in it, calling tools that time out now and then, and a writer
    makes index pages. It keeps a session, messages, workflows, tool calls, steps and checkpoints,
    and says of each call that it has returned. Each step writes a line to a log outside the store,
    which nobody can take back.

    It is killed with SIGKILL in the middle of its work, and started again, and goes on from its
    last checkpoint. After the last kill every record that was acknowledged is held against what is
    in the store, and every step against the log. The same calls are then done in SQLite, for the
    size.

    FOLDER is walkv's own files by default. Links, caches, .git and the like, stores, and files of
    more than 64 MiB are left out; nothing in the folder is changed.

    Exit status 1 if anything that was acknowledged is lost, or a step was done twice.

    \b
    Examples:
      walkv demo
      walkv demo ~/notes --kills 10 --seconds 5
      walkv demo --seed 7 --directory /var/tmp/demo --json
    """
    root = _own_files() if folder is None else Path(folder)
    if not root.is_dir():
        raise click.BadParameter(f"there is no folder {folder}", param_hint="'FOLDER'")
    place = _place(directory)
    listing = list_files(os.fsencode(root), os.fsencode(place))
    if not listing.stamps:
        raise Failure(f"{root}: there is no file to read in this folder")
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    moments = random.Random(seed)
    if not as_json:
        report.print_head(listing, place, seed)
    report.note_skipped(listing)
    store, effects, database = (os.path.join(place, name) for name in _NAMES)
    heard = trial.Heard()
    for number in range(1, kills + 1):
        kill_after_seconds = moments.uniform(_EARLIEST_SHARE * seconds, seconds)
        with output.steps() as steps:
            steps.begin(f"run {number}: the agent works until it is killed")
            run = trial.run_until_killed(
                store, effects, listing, heard, kill_after_seconds, steps.update
            )
        if not as_json:
            report.print_run(number, run)
        if run.error:
            break
    with output.steps() as steps:
        outcome = Outcome(listing, place, store, effects, seed, heard, auditing.Audit())
        _check(outcome, database, steps)
    if as_json:
        output.emit_json(report.fields(outcome))
    else:
        report.print_end(outcome)
        report.print_hints(outcome, temporary=directory is None)
    if not outcome.ok:
        ctx.exit(1)


def _own_files() -> Path:
    package = Path(walkv.__file__).resolve().parent
    checkout = package.parent
    return checkout if (checkout / "pyproject.toml").is_file() else package


def _place(directory: str | None) -> str:
    """The directory of the store; it is there, and the store is not."""
    if directory is None:
        return tempfile.mkdtemp(prefix="walkv-demo-")
    os.makedirs(directory, exist_ok=True)
    for name in _NAMES:
        path = os.path.join(directory, name)
        if os.path.lexists(path):
            raise Failure(f"{path}: is there already; remove it, or choose another --directory")
    return os.path.abspath(directory)


def _check(outcome: Outcome, database: str, steps: output.Steps) -> None:
    """What is left after the last kill, and the same in SQLite."""
    heard = outcome.heard
    steps.begin("killed; opening the store and checking every acknowledged record")
    try:
        with AgentStore(outcome.store, create=False) as agent:
            outcome.audit = auditing.audit(agent, heard, log.read(outcome.effects))
            steps.begin("doing the same calls in SQLite")
            total = len(heard.calls)

            def progress(count: int) -> None:
                steps.update(f"doing the same calls in SQLite: {count:,} of {total:,}")

            if outcome.audit.ok:
                outcome.twin = twin.write(database, agent, heard.calls, progress)
    except (walkv.WalkvError, OSError) as error:
        if not outcome.audit.rows:
            outcome.audit = auditing.lost_all(heard, str(error))
        outcome.audit.problems.append(str(error))
    outcome.store_bytes = directory_bytes(outcome.store)
