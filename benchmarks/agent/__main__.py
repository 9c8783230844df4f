"""The command line: `python -m benchmarks.agent`."""

import json
import sqlite3
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table

import walkv
from benchmarks import machine
from benchmarks.agent.growth import growth
from benchmarks.agent.rows import (
    QUICK,
    Options,
    Row,
    checkpoints,
    crowds,
    disk,
    reads,
    small_writes,
)

GROWTH = [1_000, 10_000, 100_000, 1_000_000]
PARTS = ("writes", "crowds", "reads", "checkpoints", "disk", "growth")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Everything tiny: shows that it runs, not how fast.")
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Only this part.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option(
    "--directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=".",
    help="Where the stores go: a real disk.  [default: here]",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write results there.")
def main(
    quick: bool, parts: tuple[str, ...], seed: int, directory: Path, json_path: Path | None
) -> None:
    """What an agent does to its store: walkv against SQLite (WAL, JSON columns, proper indexes).

    Both sides in one process, in turn; medians of rounds; the same guarantee on both.
    """
    options = QUICK if quick else Options(seed=seed)
    wanted = parts or PARTS
    console = Console(stderr=True)
    rows: list[Row] = []
    with console.status("") as status:

        def tell(text: str) -> None:
            status.update(text)

        made = chain(
            small_writes(directory, options) if "writes" in wanted else (),
            crowds(directory, options) if "crowds" in wanted else (),
            reads(directory, options, tell) if "reads" in wanted else (),
            checkpoints(directory, options, tell) if "checkpoints" in wanted else (),
        )
        for row in made:
            rows.append(row)
            tell(row.name)
        tell("disk")
        sizes = disk(directory, options) if "disk" in wanted else {}
        tell("growth")
        grown = []
        if "growth" in wanted:
            grown = growth(directory, GROWTH[: 1 if quick else None], options.calls)
    facts = {**machine.describe(directory), "sqlite": sqlite3.sqlite_version}
    facts |= {"walkv": walkv.__version__, "commit": machine.git_commit(), "seed": str(options.seed)}
    if rows:
        click.echo(_markdown(rows))
    if sizes:
        click.echo(
            f"\n{options.checkpoint_steps} checkpoints of a conversation growing to "
            f"{options.checkpoint_bytes:,} bytes: walkv {sizes['walkv']:,} bytes, SQLite "
            f"{sizes['sqlite']:,}"
        )
    if grown:
        click.echo("\n" + _grown(grown))
    click.echo("\n" + ", ".join(f"{name} {value}" for name, value in facts.items()))
    if json_path is not None:
        result = {"facts": facts, "rows": [asdict(row) for row in rows]}
        json_path.write_text(json.dumps({**result, "disk_bytes": sizes, "growth": grown}, indent=1))


def _markdown(rows: list[Row]) -> str:
    table = Table(box=box.MARKDOWN)
    for heading in ("what, us", "guarantee", "walkv", "SQLite", "SQLite / walkv"):
        table.add_column(
            heading, justify="left" if heading[0] in "wg" and heading != "walkv" else "right"
        )
    for row in rows:
        table.add_row(
            row.name,
            row.guarantee,
            f"{row.median('walkv'):,.1f}",
            f"{row.median('sqlite'):,.1f}",
            f"{row.ratio:.1f}x",
        )
    return _text(table)


def _grown(grown: list[dict[str, float]]) -> str:
    table = Table(box=box.MARKDOWN)
    for heading in grown[0]:
        table.add_column(heading, justify="right")
    for found in grown:
        table.add_row(*(f"{value:,.0f}" for value in found.values()))
    return _text(table)


def _text(table: Table) -> str:
    console = Console(width=160)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip()


main()
