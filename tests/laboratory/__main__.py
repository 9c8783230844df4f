"""``python -m tests.laboratory``: run the laboratory, or one job of it again."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.laboratory import report, runner
from tests.laboratory.layer import Failure, Figures, Job, Scale
from tests.laboratory.layers import NAMES, run_job

_SHOWN_FAILURES = 10

console = Console(highlight=False)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--layer", "names", multiple=True, type=click.Choice(NAMES), help="Only this layer.")
@click.option("--quick", is_flag=True, help="Seconds instead of minutes; the same code.")
@click.option("--hours", type=float, help="Random work with ever new seeds, for so long.")
@click.option("--seed", type=int, default=1, show_default=True, help="For every random choice.")
@click.option("--job", "job_text", help="One job, as a failure has printed it: 'LAYER: TEXT'.")
@click.option("--workers", type=int, default=os.cpu_count() or 1, help="Processes; one a core.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write all figures.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Write the tables.")
def main(
    names: tuple[str, ...],
    quick: bool,
    hours: float | None,
    seed: int,
    job_text: str | None,
    workers: int,
    json_path: Path | None,
    markdown: Path | None,
) -> None:
    """Prove that walkv loses nothing, and print what was tried.

    Crash states, interleavings, faults and damages in simulation; kills and full disks for real;
    and planted bugs, to see that all of this would notice. About five minutes on two cores.
    docs/reliability.md explains the method.

    Ctrl-C ends it and prints what there is so far. The exit status is 1 if anything failed or a
    full run reached less than it must.
    """
    if job_text is not None:
        sys.exit(_repeat(job_text, seed))
    chosen = names or NAMES
    with _progress() as progress:
        task = progress.add_task("", total=None)

        def tell(job: Job, figures: Figures, done: int, total: int) -> None:
            for failure in figures.failures:
                progress.console.print(f"[red]failed[/red] {failure.what}", soft_wrap=True)
            progress.update(task, completed=done, total=total, description=job.layer)

        if hours is not None:
            results = runner.soak(chosen, hours, seed, workers=workers, tell=tell)
        else:
            scale = Scale.QUICK if quick else Scale.FULL
            results = runner.run(chosen, scale, seed, workers=workers, tell=tell)
    full = hours is None and not quick and not results.interrupted
    command = report.default_command()
    if json_path is not None:
        found = report.as_object(results, seed=seed, command=command)
        json_path.write_text(json.dumps(found, indent=2) + "\n")
    if markdown is not None:
        markdown.write_text(report.as_markdown(results, seed=seed, command=command))
    sys.exit(_show(results, seed, full=full))


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def _repeat(job_text: str, seed: int) -> int:
    name, colon, text = job_text.partition(":")
    if not colon or name.strip() not in NAMES:
        raise click.BadParameter("a job is 'LAYER: TEXT', as a failure prints it", param_hint="job")
    figures = run_job(Job(name.strip(), text.strip(), seed))
    for key, value in sorted(figures.counts.items()):
        console.print(f"{key:<32} {value:>12,}")
    for failure in figures.failures:
        _show_failure(failure)
    return 1 if figures.failures else 0


def _show(results: runner.Results, seed: int, *, full: bool) -> int:
    total = results.total()
    table = Table(title=f"walkv laboratory, seed {seed}", title_justify="left")
    table.add_column("layer")
    table.add_column("figure")
    table.add_column("value", justify="right")
    before = None
    for where, name, value in report.rows(results):
        if before not in (None, where):
            table.add_section()
        table.add_row("" if where == before else where, name, value)
        before = where
    console.print(table)
    for text in total.skipped:
        console.print(f"skipped: {text}", soft_wrap=True)
    if results.interrupted:
        console.print("interrupted: these are the figures so far")
    for failure in total.failures[:_SHOWN_FAILURES]:
        _show_failure(failure)
    missing = report.shortfalls(results, full=full)
    for text in missing:
        console.print(f"[red]not enough[/red] {text}", soft_wrap=True)
    minutes, seconds = divmod(round(results.elapsed_seconds), 60)
    verdict = f"{len(total.failures)} failures" if total.failures or missing else "nothing lost"
    console.print(f"{verdict}, in {minutes} min {seconds} s")
    return 1 if total.failures or missing else 0


def _show_failure(failure: Failure) -> None:
    console.rule()
    console.print(failure.what, style="red", soft_wrap=True, markup=False)
    console.print(failure.detail, soft_wrap=True, markup=False)
    console.print("Do it again:", failure.job.command(), soft_wrap=True, markup=False)


if __name__ == "__main__":
    main()
