"""The command line: ``python -m benchmarks.cost_model``."""

import json
import signal
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import click

from benchmarks import arguments, machine
from benchmarks.cost_model.get import get_costs
from benchmarks.cost_model.put import put_costs

ROUNDS, QUICK_ROUNDS = 101, 3
ENTRIES, QUICK_ENTRIES = 50_000, 10_000


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--rounds",
    type=click.IntRange(1),
    help=f"Rounds to take the medians of.  [default: {ROUNDS}; with --quick {QUICK_ROUNDS}]",
)
@click.option("--quick", is_flag=True, help="Few rounds: shows that it runs, not how fast.")
@arguments.directory
@arguments.json_path
def main(*, rounds: int | None, quick: bool, directory: Path, json_path: Path | None) -> None:
    """Show, as Markdown, what the steps of a put and of a get cost in nanoseconds.

    Keys of 16 bytes, values of 100. The sum of the steps is held against the whole operation.
    """
    # Whoever ends the run, its stores are removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rounds = rounds or (QUICK_ROUNDS if quick else ROUNDS)
    about = machine.describe(directory)
    facts = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": machine.git_commit(),
        "machine": about,
        "rounds": rounds,
    }
    with tempfile.TemporaryDirectory(prefix=".benchmarks-costs-", dir=directory) as root:
        entries = QUICK_ENTRIES if quick else ENTRIES
        found = [*put_costs(Path(root), rounds), *get_costs(Path(root), rounds, entries)]
    for costs in found:
        click.echo(f"{costs.to_markdown()}\n")
    shown = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in about.items())
    click.echo(f"Medians of {rounds} rounds; {shown}; commit {facts['commit']}, {facts['date']}")
    if json_path is not None:
        result = {"facts": facts, "operations": [costs.to_json() for costs in found]}
        json_path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
