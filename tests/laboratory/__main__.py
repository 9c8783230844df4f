"""``python -m tests.laboratory``: run the laboratory, or one job of it again."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

try:
    import click
    import hypothesis  # noqa: F401  # a layer needs it
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.table import Table
except ModuleNotFoundError as missing:
    sys.exit(f"the laboratory needs the test extra ({missing}): pip install -e '.[test]'")

from tests.laboratory import report, runner
from tests.laboratory.job import Failure, Figures, Job, Scale
from tests.laboratory.registry import NAMES, find

_SHOWN_FAILURES = 10
_INTERRUPTED = 130

console = Console(highlight=False)
_FILE = click.Path(path_type=Path, dir_okay=False, writable=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--layer", "names", multiple=True, type=click.Choice(NAMES), help="Only this; may be repeated."
)
@click.option("--quick", is_flag=True, help="Half a minute instead of five; the same code.")
@click.option(
    "--hours",
    type=click.FloatRange(min=0, min_open=True),
    help="Random work with ever new seeds until the time is over or something fails.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="For every random choice.")
@click.option("--job", "job_text", help="One job, as a failure has printed it: 'LAYER: TEXT'.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=os.cpu_count() or 1,
    show_default=True,
    help="Processes; one a core.",
)
@click.option("--json", "json_path", type=_FILE, help="Write all figures to this file.")
@click.option("--markdown", type=_FILE, help="Write the tables of a report to this file.")
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
    run of everything reached less than it must, and 130 after Ctrl-C.
    """
    for path in (json_path, markdown):
        if path is not None and not path.parent.is_dir():
            raise click.UsageError(f"there is no directory {path.parent} to write {path.name} to")
    if job_text is not None:
        if names or quick or hours is not None or json_path or markdown:
            raise click.UsageError("--job goes with --seed, and with nothing else")
        sys.exit(_repeat(job_text, seed))
    if quick and hours is not None:
        raise click.UsageError("--quick and --hours exclude each other")
    chosen = [name for name in NAMES if name in names] or NAMES
    with _progress() as progress:
        task = progress.add_task("", total=None)

        def tell(job: Job, figures: Figures, done: int, total: int) -> None:
            for failure in figures.failures:
                progress.console.print("failed:", failure.what, markup=False, soft_wrap=True)
            progress.update(task, completed=done, total=total, description=job.layer)

        def stopping() -> None:
            progress.console.print("stopping: waiting for the jobs under way", markup=False)

        if hours is not None:
            results = runner.soak(chosen, hours, seed, workers=workers, tell=tell, stop=stopping)
        else:
            scale = Scale.QUICK if quick else Scale.FULL
            results = runner.run(chosen, scale, seed, workers=workers, tell=tell, stop=stopping)
    status = _show(results, seed, full=hours is None and not quick)
    command = report.default_command()
    if json_path is not None:
        found = report.as_object(results, seed=seed, command=command)
        json_path.write_text(json.dumps(found, indent=2) + "\n")
    if markdown is not None:
        markdown.write_text(report.as_markdown(results, seed=seed, command=command))
    sys.exit(status)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def _repeat(job_text: str, seed: int) -> int:
    name, _, text = (part.strip() for part in job_text.partition(":"))
    if name not in NAMES:
        raise click.UsageError(f"a job is 'LAYER: TEXT', and a layer one of {', '.join(NAMES)}")
    job = Job(name, text, seed)
    try:
        figures = find(name).run(job)
    except (KeyError, StopIteration, ValueError) as error:
        # A layer reports its failures; what comes out of it is a text that it cannot read.
        examples = [f"  {example.text}" for example in find(name).jobs(Scale.QUICK, seed)[:5]]
        raise click.UsageError(
            "\n".join([f"{text!r} is no job of {name} ({error}). Jobs look like this:", *examples])
        ) from None
    for key, value in sorted(figures.counts.items()):
        console.print(f"{key:<44} {value:>12,}")
    for failure in figures.failures:
        _show_failure(failure)
    console.print(f"{len(figures.failures)} failures" if figures.failures else "nothing lost")
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
        console.print("skipped:", text, markup=False, soft_wrap=True)
    for failure, count in report.grouped(total.failures)[:_SHOWN_FAILURES]:
        _show_failure(failure, count)
    missing = report.shortfalls(results, full=full)
    for text in missing:
        console.print("not right:", text, markup=False, soft_wrap=True)
    minutes, seconds = divmod(round(results.elapsed_seconds), 60)
    verdict = "nothing lost"
    if total.failures:
        verdict = f"{len(total.failures)} failures"
    elif missing:
        verdict = f"{len(missing)} figures are not right"
    if results.interrupted:
        verdict = f"interrupted after {results.job_count} jobs; {verdict} so far"
    console.print(f"{verdict}, in {minutes} min {seconds} s")
    if total.failures or missing:
        return 1
    return _INTERRUPTED if results.interrupted else 0


def _show_failure(failure: Failure, count: int = 1) -> None:
    console.rule()
    if count > 1:
        console.print(f"{count} like this:")
    console.print(failure.what, style="red", soft_wrap=True, markup=False)
    console.print(failure.detail, soft_wrap=True, markup=False)
    console.print("Do it again:", failure.job.command(), soft_wrap=True, markup=False)


if __name__ == "__main__":
    main()
