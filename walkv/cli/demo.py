"""The demo command: store real files, kill the process, and show that nothing is lost."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import click

import walkv
from walkv.cli import output
from walkv.cli.folder import MOST_FILES, Listing, in_memory, list_files
from walkv.cli.options import json_option
from walkv.cli.policies import POLICIES
from walkv.cli.stores import Failure
from walkv.cli.text import escaped, for_json, path_text
from walkv.cli.trial import Outcome, try_policy
from walkv.cli.upkeep import recovery_fields

_EARLIEST_SHARE: Final = 0.4
"""The kill comes at a random moment between this share of --seconds and all of it."""

_MOST_SKIPPED_SHOWN: Final = 5


@click.command()
@click.argument("folder", required=False)
@click.option(
    "--directory",
    type=click.Path(file_okay=False),
    help="Where the stores go; a new temporary directory by default. Kept in any case.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.05, 60.0),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Each process is killed at a random moment, at the latest after this time.",
)
@click.option("--seed", type=int, help="Repeat the random moments of another run.")
@json_option
@click.pass_context
def demo(
    ctx: click.Context,
    folder: str | None,
    directory: str | None,
    seconds: float,
    seed: int | None,
    as_json: bool,
) -> None:
    """Kill processes that store files; lose nothing.

    For each sync policy a child process stores every file of the folder again and again, and
    reports each commit that returned. It is killed at a random moment. Then the store is opened
    again, and every commit that was acknowledged is held byte for byte against the files. At last
    the store is compacted and checked once more.

    FOLDER is walkv's own files by default. Links, caches, .git and the like, stores, and files of
    more than 64 MiB are left out; nothing in the folder is changed.

    Exit status 1 if anything that was acknowledged is lost.

    \b
    Examples:
      walkv demo
      walkv demo ~/notes --seconds 10
      walkv demo --seed 7 --directory /var/tmp/demo --json
    """
    root = _own_files() if folder is None else Path(folder)
    if not root.is_dir():
        raise click.BadParameter(f"there is no folder {folder}", param_hint="'FOLDER'")
    place = _place(directory)
    listing = list_files(os.fsencode(root), os.fsencode(place))
    if not listing.stamps:
        raise Failure(f"{root}: there is no file to store in this folder")
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    moments = random.Random(seed)
    if not as_json:
        _print_head(listing, place, seed)
    _note_skipped(listing)
    outcomes = []
    for policy in POLICIES:
        kill_after_seconds = moments.uniform(_EARLIEST_SHARE * seconds, seconds)
        store = os.path.join(place, f"{policy}.walkv")
        with output.steps() as steps:
            outcome = try_policy(
                policy, store, listing, kill_after_seconds, steps.begin, steps.update
            )
        outcomes.append(outcome)
        if not as_json:
            _print_outcome(outcome)
    if as_json:
        output.emit_json(_fields(listing, place, seed, outcomes))
    else:
        _print_tables(outcomes)
        _print_hints(outcomes[-1].store, place if directory is None else None)
    if not all(outcome.ok for outcome in outcomes):
        ctx.exit(1)


def _own_files() -> Path:
    package = Path(walkv.__file__).resolve().parent
    checkout = package.parent
    return checkout if (checkout / "pyproject.toml").is_file() else package


def _place(directory: str | None) -> str:
    """The directory of the stores; it is there, and the stores are not."""
    if directory is None:
        return tempfile.mkdtemp(prefix="walkv-demo-")
    os.makedirs(directory, exist_ok=True)
    for policy in POLICIES:
        store = os.path.join(directory, f"{policy}.walkv")
        if os.path.lexists(store):
            raise Failure(f"{store}: is there already; remove it, or choose another --directory")
    return os.path.abspath(directory)


def _print_head(listing: Listing, place: str, seed: int) -> None:
    count = len(listing.stamps)
    files = f"{count:,} file{'' if count == 1 else 's'}, {output.size(listing.total_bytes)}"
    output.print_facts(
        [
            ("folder", f"{path_text(listing.root)} ({files})"),
            ("stores", f"{path_text(place)} (kept)"),
            ("seed", str(seed)),
        ]
    )
    if in_memory(place):
        output.note(
            "the stores are in memory (tmpfs), where a sync costs nothing: give a --directory on a "
            "disk for real figures"
        )


def _note_skipped(listing: Listing) -> None:
    for path, reason in listing.skipped[:_MOST_SKIPPED_SHOWN]:
        output.note(f"skipped {escaped(path) or '.'}: {reason}")
    more = len(listing.skipped) - _MOST_SKIPPED_SHOWN
    if more > 0:
        output.note(f"skipped {more:,} more")
    if len(listing.stamps) >= MOST_FILES:
        output.note(f"stopped looking for files at {MOST_FILES:,}")


def _print_outcome(outcome: Outcome) -> None:
    run = outcome.run
    lines = []
    if run.acknowledged:
        lines.append(
            f"killed after {run.killed_after_seconds:.2f} s, in round {outcome.round_count}, with "
            f"{output.size(run.stored_bytes)} acknowledged"
        )
    if outcome.recovery is not None:
        first, *rest = str(outcome.recovery).split("; ")
        lines += [f"opened again: {first}", *(f"  {part}" for part in rest)]
        settled = outcome.acknowledged + outcome.tally.unacknowledged - outcome.recovery.frame_count
        if settled > 0:
            lines.append(f"the other {settled:,} commits were in snapshots already")
    if outcome.tally.unacknowledged == 1:
        lines.append("one more commit is there: the kill came before its acknowledgement was sent")
    if outcome.tally.changed:
        lines.append(f"{outcome.tally.changed:,} commits are of files that changed meanwhile")
    for path, reason in run.skipped[:_MOST_SKIPPED_SHOWN]:
        lines.append(f"could not read {escaped(path)}: {reason}")
    if outcome.error:
        lines.append(f"failed: {outcome.error}")
    click.echo(f"\n{click.style(outcome.policy, bold=True)}")
    for line in lines:
        click.echo(f"  {line}")


def _print_tables(outcomes: list[Outcome]) -> None:
    console = output.console()
    click.echo()
    headings = ("policy", "acknowledged", "found", "lost", "commits/s", "p50 ms", "p99 ms")
    rows = [
        (
            outcome.policy,
            f"{outcome.acknowledged:,}",
            f"{outcome.tally.found:,}",
            f"{outcome.tally.lost:,}",
            f"{outcome.commits_per_second:,.0f}",
            f"{outcome.latency_ms(0.5):.3f}",
            f"{outcome.latency_ms(0.99):.3f}",
        )
        for outcome in outcomes
    ]
    console.print(output.table(headings, rows))
    click.echo(
        "One process, one commit at a time: write-through and wal do the same work here, and\n"
        "what differs between them is the disk."
    )
    click.echo()
    sizes = [
        (outcome.policy, output.size(outcome.bytes_before), output.size(outcome.bytes_after))
        for outcome in outcomes
    ]
    console.print(output.table(("policy", "on disk", "compacted"), sizes))
    click.echo()
    lost = sum(outcome.tally.lost for outcome in outcomes)
    acknowledged = sum(outcome.acknowledged for outcome in outcomes)
    if lost:
        click.secho(f"LOST: {lost:,} of {acknowledged:,} acknowledged commits.", bold=True)
    elif all(outcome.ok for outcome in outcomes):
        click.secho(f"Nothing of {acknowledged:,} acknowledged commits was lost.", bold=True)
    else:
        click.secho("The demo failed, see above.", bold=True)


def _print_hints(store: str, temporary: str | None) -> None:
    quoted = shlex.quote(store)
    called = Path(sys.argv[0])
    installed = shutil.which("walkv") or called.name != "walkv"
    program = "walkv" if installed else shlex.quote(str(called))
    click.echo("\nLook inside:")
    click.echo(f"  {program} scan {quoted} --prefix round/0000/ --keys-only --limit 10")
    click.echo(f"  {program} stats {quoted}")
    click.echo(f"  {program} verify {quoted}")
    if temporary is not None:  # a directory that was given may hold more than the demo's stores
        click.echo(f"\nRemove the stores:\n  rm -r {shlex.quote(temporary)}")


def _fields(listing: Listing, place: str, seed: int, outcomes: list[Outcome]) -> dict[str, Any]:
    return {
        "ok": all(outcome.ok for outcome in outcomes),
        "lost": sum(outcome.tally.lost for outcome in outcomes),
        "folder": for_json(listing.root),
        "file_count": len(listing.stamps),
        "total_bytes": listing.total_bytes,
        "skipped": [{"path": for_json(p), "reason": reason} for p, reason in listing.skipped],
        "directory": place,
        "seed": seed,
        "policies": [_outcome_fields(outcome) for outcome in outcomes],
    }


def _outcome_fields(outcome: Outcome) -> dict[str, Any]:
    run = outcome.run
    return {
        "policy": outcome.policy,
        "store": outcome.store,
        "killed_after_seconds": run.killed_after_seconds,
        "round_count": outcome.round_count,
        "acknowledged": outcome.acknowledged,
        "acknowledged_bytes": run.stored_bytes,
        "found": outcome.tally.found,
        "lost": outcome.tally.lost,
        "missing": outcome.tally.missing,
        "wrong": outcome.tally.wrong,
        "unacknowledged": outcome.tally.unacknowledged,
        "changed": outcome.tally.changed,
        "skipped": [{"path": for_json(p), "reason": reason} for p, reason in run.skipped],
        "commits_per_second": outcome.commits_per_second,
        "latency_ms": {"p50": outcome.latency_ms(0.5), "p99": outcome.latency_ms(0.99)},
        "disk_bytes": {"before": outcome.bytes_before, "after": outcome.bytes_after},
        "recovery": None if outcome.recovery is None else recovery_fields(outcome.recovery),
        "error": outcome.error,
    }
