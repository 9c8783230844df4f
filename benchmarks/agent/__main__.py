"""The command line: `python -m benchmarks.agent`."""

import json
import signal
import tempfile
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks import arguments, machine, resources
from benchmarks.agent import report
from benchmarks.agent.options import QUICK, Options
from benchmarks.agent.parts import PARTS
from benchmarks.agent.runner import Runner
from benchmarks.agent.sides import NAMES


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
    "--side",
    "side_names",
    multiple=True,
    type=click.Choice(NAMES),
    help="Only this one; repeatable.",
)
@click.option(
    "--repetitions",
    type=click.IntRange(1),
    help="Processes per side and part, interleaved.  "
    f"[default: {Options.repetitions}; with --quick {QUICK.repetitions}]",
)
@click.option("--seed", type=click.IntRange(0), default=Options.seed, show_default=True)
@arguments.directory
@arguments.timeout_seconds
@arguments.json_path
@arguments.markdown_path
def main(
    *,
    quick: bool,
    part_names: tuple[str, ...],
    side_names: tuple[str, ...],
    repetitions: int | None,
    seed: int,
    directory: Path,
    timeout_seconds: float,
    json_path: Path | None,
    markdown_path: Path | None,
) -> None:
    """What an agent does to its store, on walkv and on what else it could use.

    From threads: SQLite as a careful program uses it (WAL, JSON columns, an index for every
    look-up). Awaited: the SQLiteSession of the OpenAI Agents SDK, and AgentFS. The guarantee of a
    row is the same on every side. Packages that are not installed are named and left out. The
    tables go to stdout, progress to stderr. The exit status is 1 if a side failed.
    """
    # Whoever ends the run, its stores are removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = replace(QUICK if quick else Options(), seed=seed)
    if repetitions is not None:
        options = replace(options, repetitions=repetitions)
    parts = [PARTS[name] for name in part_names or PARTS]
    taking_part = {side for part in parts for side in part.sides}
    if side_names and not taking_part & set(side_names):
        raise click.UsageError(
            f"none of the sides takes part there; those that do: {', '.join(sorted(taking_part))}"
        )
    facts: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": machine.git_commit(),
        "machine": machine.describe(directory),
        "options": {**asdict(options), "quick": quick},
    }
    console = Console(stderr=True)
    with (
        tempfile.TemporaryDirectory(prefix=".benchmarks-agent-", dir=directory) as root,
        console.status("") as status,
    ):
        # Absolute: the stores are opened by other processes.
        place = Path(root).resolve()
        environment, facts["syncs"] = resources.counting_environment(place)
        outcome = Runner(
            side_names or NAMES, parts, options, place, environment, timeout_seconds, status.update
        ).run()

    facts |= {"sides": outcome.sides, "unavailable": outcome.unavailable}
    facts |= {"errors": outcome.errors}
    text = report.to_markdown(outcome, facts)
    click.echo(text)
    if markdown_path is not None:
        markdown_path.write_text(f"{text}\n")
    if json_path is not None:
        rows = [row.to_json() for row in outcome.rows]
        result = {"facts": facts, "rows": rows, "resources": outcome.resources}
        json_path.write_text(json.dumps(result, indent=1) + "\n")
    if outcome.errors:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
