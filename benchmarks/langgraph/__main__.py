"""The command line: `python -m benchmarks.langgraph`."""

import json
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

import walkv
from benchmarks import machine
from benchmarks.langgraph.crowds import crowds
from benchmarks.langgraph.growth import growth
from benchmarks.langgraph.plot import plot
from benchmarks.langgraph.rows import QUICK, Options, Row, Tell
from benchmarks.langgraph.sides import default_synchronous
from benchmarks.langgraph.thread import reads, turns
from benchmarks.langgraph.upkeep import Size, copies, space

PARTS = ("growth", "turns", "reads", "crowds", "copy", "space")


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
@click.option("--plot", "plot_path", type=click.Path(path_type=Path), help="Draw growth there.")
def main(
    quick: bool,
    parts: tuple[str, ...],
    seed: int,
    directory: Path,
    json_path: Path | None,
    plot_path: Path | None,
) -> None:
    """What a LangGraph agent does to its checkpointer: WalkvSaver, the SQLite savers, memory.

    All in one process, in turn; medians of rounds; the same guarantee on both disks.
    """
    wanted = parts or PARTS
    if plot_path is not None and "growth" not in wanted:
        raise click.UsageError("--plot draws the part growth")
    options = replace(QUICK if quick else Options(), seed=seed)
    with Console(stderr=True).status("") as status:
        result = Result(directory, options, wanted, status.update)
    facts = {**machine.describe(directory), **_versions(directory), "seed": str(seed)}
    click.echo("\n\n".join([*result.tables(), ", ".join(f"{k} {v}" for k, v in facts.items())]))
    if json_path is not None:
        json_path.write_text(json.dumps({"facts": facts, **result.plain()}, indent=1))
    if plot_path is not None:
        plot(result.grown, plot_path)


class Result:
    """What one run finds."""

    def __init__(
        self, directory: Path, options: Options, wanted: Sequence[str], tell: Tell
    ) -> None:
        self.grown = growth(directory, options, tell) if "growth" in wanted else {}
        self.rows = list(self._rows(directory, options, wanted, tell))
        self.sizes: list[Size] = []
        if "copy" in wanted:
            row, sizes = copies(directory, options, tell)
            self.rows.append(row)
            self.sizes += sizes
        if "space" in wanted:
            self.sizes += space(directory, options, tell)

    @staticmethod
    def _rows(
        directory: Path, options: Options, wanted: Sequence[str], tell: Tell
    ) -> Iterator[Row]:
        made = {"turns": turns, "reads": reads, "crowds": crowds}
        return chain.from_iterable(
            part(directory, options, tell) for name, part in made.items() if name in wanted
        )

    def tables(self) -> list[str]:
        """In Markdown."""
        made = []
        if self.rows:
            made.append(_table(ROW_HEADINGS, map(_row_cells, self.rows)))
        if self.grown:
            cells = _size_cells(chain(*self.grown.values()))
            rows = [
                [*each, *_a_turn(*of)] for each, of in zip(cells, self.grown.items(), strict=True)
            ]
            made.append(_table((*SIZE_HEADINGS, "walkv, a turn", "SQLite, a turn"), rows))
        if self.sizes:
            made.append(_table(SIZE_HEADINGS, _size_cells(self.sizes)))
        return made

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "growth": {
                turns: [asdict(size) for size in sizes] for turns, sizes in self.grown.items()
            },
            "sizes": [asdict(size) for size in self.sizes],
        }


ROW_HEADINGS = ("what", "guarantee", "unit", "walkv", "SQLite", "memory", "walkv against SQLite")
SIZE_HEADINGS = ("bytes on disk", "walkv", "compacted", "SQLite", "after VACUUM", "SQLite / walkv")


def _row_cells(row: Row) -> list[str]:
    figures = [row.median(side) for side in ("walkv", "sqlite", "memory")]
    cells = ["-" if each is None else _figure(each) for each in figures]
    factor = row.factor
    verdict = f"{_figure(factor)}x better" if factor >= 1 else f"{_figure(1 / factor)}x worse"
    return [row.name, row.guarantee, row.unit, *cells, verdict]


def _size_cells(sizes: Iterable[Size]) -> Iterator[list[str]]:
    by_what: dict[str, dict[str, Size]] = {}
    for size in sizes:
        by_what.setdefault(size.what, {})[size.side] = size
    for what, found in by_what.items():
        cells = [what]
        for side in ("walkv", "sqlite"):
            figures = found.get(side)
            cells.append(f"{figures.closed_bytes:,}" if figures else "-")
            cells.append(f"{figures.reclaimed_bytes:,}" if figures else "-")
        both = len(found) == 2
        ratio = found["sqlite"].closed_bytes / found["walkv"].closed_bytes if both else None
        yield [*cells, "-" if ratio is None else f"{_figure(ratio)}x"]


def _a_turn(turns: int, sizes: list[Size]) -> list[str]:
    found = {size.side: f"{size.closed_bytes / turns:,.0f}" for size in sizes}
    return [found.get(side, "-") for side in ("walkv", "sqlite")]


def _figure(value: float) -> str:
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{decimals}f}"


def _table(headings: Sequence[str], rows: Iterable[list[str]]) -> str:
    table = Table(box=box.MARKDOWN)
    words = ("what", "guarantee", "unit", "bytes on disk")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in words else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table)
    return captured.get().strip()


def _versions(directory: Path) -> dict[str, str]:
    with tempfile.TemporaryDirectory(dir=directory) as place:
        synchronous = default_synchronous(Path(place))
    packages = ("langgraph", "langgraph-checkpoint", "langgraph-checkpoint-sqlite")
    return {
        **{name: version(name) for name in packages},
        "sqlite": sqlite3.sqlite_version,
        "sqlite_synchronous_by_default": synchronous,
        "walkv": walkv.__version__,
        "commit": machine.git_commit(),
    }


main()
