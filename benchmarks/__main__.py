"""The command line: ``python -m benchmarks``."""

import json
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import click
from rich.console import Console
from rich.progress import Progress

from benchmarks import arguments, machine, rendering, report, resources
from benchmarks.engines import DURABLE_POLICIES, ENGINES, Guarantee
from benchmarks.runner import Progress as ProgressCallback
from benchmarks.runner import Runner
from benchmarks.workloads import GROUPS, WORKLOADS
from benchmarks.workloads.base import QUICK, Options, Workload

FULL = Options()
FULL_REPETITIONS = 3
QUICK_REPETITIONS = 1
FULL_WARM_UPS = 1
QUICK_WARM_UPS = 0
Decorator = Callable[[Callable[..., None]], Callable[..., None]]
REPORT_COLUMNS = 200
MEMORY_FILE_SYSTEMS = {"tmpfs", "ramfs"}


def _size(name: str, help_text: str, minimum: int = 1) -> Decorator:
    """An option for one field of `Options`; what it defaults to depends on --quick."""
    return click.option(
        f"--{name.replace('_', '-')}",
        type=click.IntRange(minimum),
        help=f"{help_text}  [default: {getattr(FULL, name):,}]",
    )


OTHER_COMMANDS = """\b
Other commands, each with a --help of its own:
  python -m benchmarks.plots       the pictures of a result of this one
  python -m benchmarks.agent       the work of an agent, against what agents use today
  python -m benchmarks.langgraph   threads of LangGraph, against its own savers
  python -m benchmarks.micro       the hot paths, with pytest-benchmark, to compare two commits
  python -m benchmarks.cost_model  what each step of a put and of a get costs
"""


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=OTHER_COMMANDS,
)
@click.option(
    "--workload",
    "workload_names",
    multiple=True,
    type=click.Choice(list(WORKLOADS)),
    help="Run only this one; repeatable.",
)
@click.option(
    "--group",
    "group_names",
    multiple=True,
    type=click.Choice(list(GROUPS)),
    help="Run only the workloads of this group, and those of --workload; repeatable.",
)
@click.option(
    "--engine",
    "engine_names",
    multiple=True,
    type=click.Choice(list(ENGINES)),
    help="Run only this one; repeatable.",
)
@click.option(
    "--guarantee",
    "guarantees",
    multiple=True,
    type=click.Choice(get_args(Guarantee)),
    help="Run only workloads with rows of this guarantee, and show only these; repeatable.",
)
@click.option(
    "--policy",
    type=click.Choice(DURABLE_POLICIES),
    default=FULL.policy,
    show_default=True,
    help="walkv's sync policy on the durable rows; on those of the process class it is write-back.",
)
@_size("entries", "Entries of the fills, reads and scans.", minimum=2)
@_size("value_bytes", "Size of their values.")
@_size("large_entries", "Entries of the same with large values.", minimum=2)
@_size("large_value_bytes", "Size of the large values.")
@_size("batch_entries", "Entries of a batch.")
@_size("seeks", "Seeks to a random key.")
@_size("durable_operations", "Puts of the durable fill.")
@_size("commits", "Concurrent commits; more where these are over at once.")
@_size("minimum_commit_ms", "Concurrent commits over sooner than this are timed again, with more.")
@_size("most_writers", "Concurrency: rows of more threads or tasks are left out.")
@_size("ycsb_records", "YCSB: records that are loaded.")
@_size("ycsb_operations", "YCSB: operations.")
@_size("ycsb_value_bytes", "YCSB: size of a record.")
@_size("open_entries", "Entries of the store that is opened.")
@_size("memtable_bytes", "Memory workload: walkv's memtable budget.")
@_size("cache_bytes", "Memory workload: walkv's cache budget.")
@_size("memory_ratio", "Memory workload: data, in multiples of both budgets.")
@_size("memory_value_bytes", "Memory workload: size of its values.")
@_size("scale_entries", "Scale workloads: the largest size.", minimum=1_000)
@_size("scale_reads", "Scale workloads: gets that are timed.")
@_size("scale_limit_seconds", "Scale workloads: a size foreseen to take longer is left out.")
@_size("sustained_entries", "Entries of the sustained fill.", minimum=100)
@_size("settling_ms", "Sustained and latency workloads: files unchanged for so long are at rest.")
@_size("latency_rest_operations", "Latency workloads: operations timed at rest.")
@_size("latency_operations", "Latency workloads: operations timed while compacting.")
@_size("latency_memtable_bytes", "Latency workloads: walkv's memtable budget, its default.")
@_size("seed", "Seed of keys, values and orders.", minimum=0)
@click.option(
    "--repetitions",
    type=click.IntRange(1),
    help=f"Measurements per engine and workload, interleaved.  [default: {FULL_REPETITIONS}]",
)
@click.option(
    "--warm-up",
    "warm_ups",
    type=click.IntRange(0),
    help="Rounds of all engines before them that are measured and forgotten, for each workload "
    "that is short and does not open a store made before.  "
    f"[default: {FULL_WARM_UPS}; --quick: {QUICK_WARM_UPS}]",
)
@click.option("--quick", is_flag=True, help="Everything tiny: shows that it runs, not how fast.")
@arguments.directory
@arguments.timeout_seconds
@arguments.json_path
@arguments.markdown_path
def main(
    *,
    workload_names: tuple[str, ...],
    group_names: tuple[str, ...],
    engine_names: tuple[str, ...],
    guarantees: tuple[str, ...],
    policy: str,
    repetitions: int | None,
    warm_ups: int | None,
    quick: bool,
    directory: Path,
    timeout_seconds: float,
    json_path: Path | None,
    markdown_path: Path | None,
    **sizes: int | None,
) -> None:
    """Compare walkv with SQLite, LMDB, LevelDB, RocksDB and diskcache on this machine.

    Engines that are not installed are named and left out. Each measurement has a process of its
    own, and the engines take turns. The tables go to stdout, progress to stderr. The exit status
    is 1 if an engine failed; the others are measured all the same.

    \b
    python -m benchmarks --quick                          does it run? (about a minute)
    python -m benchmarks --group fills --group reads      a part of it
    python -m benchmarks --workload readrandom --engine walkv --engine lmdb
    python -m benchmarks --json out.json --markdown out.md
    """
    # Whoever ends the run, its stores are removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    given = {name: size for name, size in sizes.items() if size is not None}
    options = replace(QUICK if quick else FULL, policy=policy, **given)
    if repetitions is None:
        repetitions = QUICK_REPETITIONS if quick else FULL_REPETITIONS
    if warm_ups is None:
        warm_ups = QUICK_WARM_UPS if quick else FULL_WARM_UPS
    workloads = _selected(workload_names, group_names, guarantees, options)
    facts: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": machine.git_commit(),
        "machine": machine.describe(directory),
        "options": {
            **asdict(options),
            "repetitions": repetitions,
            "warm_up": warm_ups,
            "quick": quick,
        },
        "page_cache_dropped": machine.CAN_DROP_PAGE_CACHE,
    }
    if facts["machine"]["file_system"] in MEMORY_FILE_SYSTEMS:
        click.echo("warning: the stores are in memory, where a sync costs nothing", err=True)

    with (
        tempfile.TemporaryDirectory(prefix=".benchmarks-", dir=directory) as root_name,
        _progress() as progress,
    ):
        # Absolute: the stores are opened by other processes.
        root = Path(root_name).resolve()
        environment, counting = resources.counting_environment(root)
        facts["syncs_not_counted"] = None if environment else f"syncs {counting}"
        outcome = Runner(
            engines=engine_names or tuple(ENGINES),
            workloads=workloads,
            options=options,
            repetitions=repetitions,
            warm_ups=warm_ups,
            root=root,
            environment=environment,
            timeout_seconds=timeout_seconds,
            progress=progress,
        ).run()

    facts |= {
        "engines": report.engine_facts(outcome),
        "unavailable": outcome.unavailable,
        "errors": outcome.errors,
        "left_out": outcome.left_out,
        "inapplicable": outcome.inapplicable,
    }
    rows = report.rows(outcome, workloads, guarantees)
    used = report.resource_rows(outcome)
    console = Console()
    if not console.is_terminal:
        console = Console(width=REPORT_COLUMNS)
    rendering.print_report(console, rows, used, facts)
    if json_path:
        result = {**report.to_json(rows, used, facts), "series": outcome.series}
        json_path.write_text(json.dumps(result, indent=2) + "\n")
    if markdown_path:
        markdown_path.write_text(rendering.to_markdown(rows, used, facts))
    if outcome.errors:
        raise SystemExit(1)


def _selected(
    workload_names: Sequence[str],
    group_names: Sequence[str],
    guarantees: Sequence[str],
    options: Options,
) -> list[Workload]:
    """The workloads to run, in their usual order."""
    names = {*workload_names, *chain.from_iterable(GROUPS[group] for group in group_names)}
    workloads = {
        name: workload
        for name, workload in WORKLOADS.items()
        if (not names or name in names)
        and workload.fits(options)
        and (not guarantees or any(metric.guarantee in guarantees for metric in workload.metrics))
    }
    excluded = ", ".join(name for name in workload_names if name not in workloads)
    if excluded or not workloads:
        raise click.UsageError(
            f"--guarantee, --scale-entries or --most-writers excludes {excluded or 'all workloads'}"
        )
    return list(workloads.values())


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
