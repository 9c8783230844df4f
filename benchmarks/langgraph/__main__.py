"""The command line: `python -m benchmarks.langgraph`."""

import json
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
from rich.console import Console

import walkv
from benchmarks import arguments, machine, resources
from benchmarks.comparison import LEGEND, Row, bullets, losses, resources_table, table
from benchmarks.engines import SUBJECT
from benchmarks.langgraph.options import CEILING, NAMES, PARTS, QUICK, Options
from benchmarks.langgraph.runner import Outcome, run

PACKAGES = ("langgraph", "langgraph-checkpoint", "langgraph-checkpoint-sqlite")
PLOTTED = "growth"

Draw = Callable[[Sequence[Row], Options, Path], None]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--quick", is_flag=True, help="Everything tiny: shows that it runs, not how fast.")
@click.option(
    "--part",
    "part_names",
    multiple=True,
    type=click.Choice(list(PARTS)),
    help="Only this part; repeatable.",
)
@click.option(
    "--repetitions",
    type=click.IntRange(1),
    help="Processes per side and part, interleaved; sizes are taken once.  "
    f"[default: {Options.repetitions}; with --quick {QUICK.repetitions}]",
)
@click.option("--seed", type=click.IntRange(0), default=Options.seed, show_default=True)
@arguments.directory
@arguments.timeout_seconds
@arguments.json_path
@arguments.markdown_path
@click.option(
    "--plot",
    "plot_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"Draw the part {PLOTTED} into this file; its ending says the format.",
)
def main(
    *,
    quick: bool,
    part_names: tuple[str, ...],
    repetitions: int | None,
    seed: int,
    directory: Path,
    timeout_seconds: float,
    json_path: Path | None,
    markdown_path: Path | None,
    plot_path: Path | None,
) -> None:
    """What a LangGraph agent does to its checkpointer: WalkvSaver, the SQLite savers, memory.

    The guarantee of a row is the same on both disks; memory keeps nothing and is the ceiling. The
    tables go to stdout, progress to stderr. The exit status is 1 if a side failed.
    """
    # Whoever ends the run, its stores are removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parts = [PARTS[name] for name in part_names or PARTS]
    versions = _versions()
    draw = None if plot_path is None else _plotting(plot_path)
    if draw and PARTS[PLOTTED] not in parts:
        raise click.UsageError(f"--plot draws the part {PLOTTED}: add --part {PLOTTED}")
    options = replace(QUICK if quick else Options(), seed=seed)
    if repetitions is not None:
        options = replace(options, repetitions=repetitions)
    facts: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": machine.git_commit(),
        "machine": machine.describe(directory),
        "options": {**asdict(options), "quick": quick},
    }
    with (
        tempfile.TemporaryDirectory(prefix=".benchmarks-langgraph-", dir=directory) as root,
        Console(stderr=True).status("") as status,
    ):
        # Absolute: the stores are opened by other processes.
        place = Path(root).resolve()
        facts["versions"] = {**versions, **_sqlite(place)}
        environment, facts["syncs"] = resources.counting_environment(place)
        outcome = run(parts, options, place, environment, timeout_seconds, status.update)
    text = _markdown(outcome, facts)
    click.echo(text)
    if markdown_path is not None:
        markdown_path.write_text(f"{text}\n")
    if json_path is not None:
        rows = [row.to_json() for row in outcome.rows]
        result = {"facts": facts, "rows": rows, "resources": outcome.resources}
        json_path.write_text(json.dumps({**result, "errors": outcome.errors}, indent=1) + "\n")
    if outcome.errors:
        raise SystemExit(1)
    if draw and plot_path is not None:
        draw(outcome.rows, options, plot_path)


def _versions() -> dict[str, str]:
    try:
        found = {name: version(name) for name in PACKAGES}
    except PackageNotFoundError as error:
        raise click.ClickException(
            f"{error.name} is not installed; pip install {' '.join(PACKAGES)}"
        ) from error
    return {"walkv": walkv.__version__, **found}


def _plotting(path: Path) -> Draw:
    """What draws into `path`: that it cannot is said before anything is measured."""
    try:
        from benchmarks.langgraph import plot
    except ImportError as error:
        raise click.ClickException(f"--plot: pip install matplotlib ({error})") from error
    if path.suffix.removeprefix(".") not in plot.formats():
        raise click.UsageError(f"--plot: the name ends in none of {', '.join(plot.formats())}")
    return plot.plot


def _sqlite(directory: Path) -> dict[str, str]:
    import sqlite3

    from benchmarks.langgraph.sides import default_synchronous

    return {
        "SQLite": sqlite3.sqlite_version,
        "synchronous of SqliteSaver by default": default_synchronous(directory),
    }


def _markdown(outcome: Outcome, facts: Mapping[str, Any]) -> str:
    peers = [side for side in NAMES if side not in (SUBJECT, CEILING)]
    notes = [
        f"error in {part} of {side}: {error}"
        for part, errors in outcome.errors.items()
        for side, error in errors.items()
    ]
    for title in ("versions", "machine", "options"):
        shown = (f"{name.replace('_', ' ')} {value}" for name, value in facts[title].items())
        notes.append(f"{title}: {', '.join(shown)}")
    notes.append(f"syncs {facts['syncs']}")
    notes.append(f"commit {facts['commit']}, {facts['date']}")
    sections = (
        f"{LEGEND} Memory keeps nothing: it is the ceiling, and no loss to it is marked.",
        table(outcome.rows, NAMES, ceilings=[CEILING]),
        f"## Where {SUBJECT} loses",
        bullets(losses(outcome.rows, peers)),
        "## What the process of a part used",
        resources_table(outcome.resources),
        "## How it was run",
        bullets(notes),
    )
    return "\n\n".join(sections)


if __name__ == "__main__":
    main()
