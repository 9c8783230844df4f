"""The command line: ``python -m benchmarks``."""

import json
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

from benchmarks import machine, report
from benchmarks.engines import ENGINES
from benchmarks.runner import Progress as ProgressCallback
from benchmarks.runner import Runner
from benchmarks.workloads import QUICK, WORKLOADS, Options

FULL = Options()
FULL_REPETITIONS = 5
QUICK_REPETITIONS = 1
Decorator = Callable[[Callable[..., None]], Callable[..., None]]
REPORT_COLUMNS = 120
MEMORY_FILE_SYSTEMS = {"tmpfs", "ramfs"}


def _size(name: str, help_text: str, minimum: int = 1) -> Decorator:
    """An option for one field of `Options`; what it defaults to depends on --quick."""
    return click.option(
        f"--{name.replace('_', '-')}",
        type=click.IntRange(minimum),
        help=f"{help_text}  [default: {getattr(FULL, name):,}]",
    )


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--workload",
    "workload_names",
    multiple=True,
    type=click.Choice(list(WORKLOADS)),
    help="Run only this one; repeatable.",
)
@click.option(
    "--engine",
    "engine_names",
    multiple=True,
    type=click.Choice(list(ENGINES)),
    help="Run only this one; repeatable.",
)
@_size("entries", "Entries of the fills, reads and scans.")
@_size("value_bytes", "Size of their values.")
@_size("batch_entries", "Entries of a batch.")
@_size("durable_operations", "Puts of the durable fill.")
@_size("writers", "Threads, or tasks, that commit at once.")
@_size("commits", "Commits of all of them; more where these are over at once.")
@_size("open_entries", "Entries of the store that is opened.")
@_size("memtable_bytes", "Memory workload: walkv's memtable budget.")
@_size("cache_bytes", "Memory workload: walkv's cache budget.")
@_size("memory_ratio", "Memory workload: data, in multiples of both budgets.")
@_size("memory_value_bytes", "Memory workload: size of its values.")
@_size("seed", "Seed of keys, values and orders.", minimum=0)
@click.option(
    "--repetitions",
    type=click.IntRange(1),
    help=f"Measurements per engine and workload, interleaved.  [default: {FULL_REPETITIONS}]",
)
@click.option("--quick", is_flag=True, help="Everything tiny: shows that it runs, not how fast.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=".",
    help="Where a temporary directory for the stores is made: a real disk.  [default: here]",
)
@click.option(
    "--timeout-seconds",
    type=click.FloatRange(1),
    default=1_800.0,
    show_default=True,
    help="Limit for one step of one engine.",
)
@click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the results to this file, as JSON.",
)
@click.option(
    "--markdown",
    "markdown_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the results to this file, as Markdown.",
)
def main(
    *,
    workload_names: tuple[str, ...],
    engine_names: tuple[str, ...],
    repetitions: int | None,
    quick: bool,
    directory: Path,
    timeout_seconds: float,
    json_path: Path | None,
    markdown_path: Path | None,
    **sizes: int | None,
) -> None:
    """Compare walkv with SQLite, LMDB, LevelDB and RocksDB on this machine.

    Engines that are not installed are named and left out. The table goes to stdout, progress to
    stderr. The exit status is 1 if an engine failed; the others are measured all the same.
    """
    # Whoever ends the run, its stores are removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    given = {name: size for name, size in sizes.items() if size is not None}
    options = replace(QUICK if quick else FULL, **given)
    repetitions = repetitions or (QUICK_REPETITIONS if quick else FULL_REPETITIONS)
    workloads = [WORKLOADS[name] for name in workload_names or WORKLOADS]
    facts: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": machine.git_commit(),
        "machine": machine.describe(directory),
        "options": {**asdict(options), "repetitions": repetitions, "quick": quick},
    }
    if facts["machine"]["file_system"] in MEMORY_FILE_SYSTEMS:
        click.echo("warning: the stores are in memory, where a sync costs nothing", err=True)

    with (
        tempfile.TemporaryDirectory(prefix=".benchmarks-", dir=directory) as root,
        _progress() as progress,
    ):
        outcome = Runner(
            engine_names or tuple(ENGINES),
            workloads,
            options,
            repetitions,
            # Absolute: the stores are opened by other processes.
            Path(root).resolve(),
            timeout_seconds,
            progress,
        ).run()

    facts["engines"] = report.engine_facts(outcome)
    facts["unavailable"] = outcome.unavailable
    facts["errors"] = outcome.errors
    rows = report.rows(outcome, workloads)
    console = Console()
    if not console.is_terminal:
        console = Console(width=REPORT_COLUMNS)
    report.print_table(console, rows, facts)
    if json_path:
        json_path.write_text(json.dumps(report.to_json(rows, facts), indent=2) + "\n")
    if markdown_path:
        markdown_path.write_text(report.to_markdown(rows, facts))
    if outcome.errors:
        raise SystemExit(1)


@contextmanager
def _progress() -> Iterator[ProgressCallback]:
    """A bar on stderr where that is a terminal, a line per measurement where it is not."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda label, done, total: click.echo(f"[{done + 1}/{total}] {label}", err=True)
        return
    with Progress(*Progress.get_default_columns(), console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda label, done, total: bar.update(
            task, description=label, completed=done, total=total
        )


if __name__ == "__main__":
    main()
