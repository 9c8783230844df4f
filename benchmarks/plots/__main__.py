"""The command line: ``python -m benchmarks.plots``."""

from pathlib import Path

import click

from benchmarks.plots.catalog import draw_all
from benchmarks.plots.results import ResultsError, load


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("result", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--into",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Where the pictures go, such as docs; made if missing.",
)
@click.option(
    "--format",
    "extension",
    type=click.Choice(["svg", "png"]),
    default="svg",
    show_default=True,
    help="Their format: SVG for pages, PNG to look at.",
)
def main(result: Path, directory: Path, extension: str) -> None:
    """Draw the pictures of RESULT, the file that `python -m benchmarks --json RESULT` wrote.

    Each is a file benchmarks-*.svg, and is replaced if it is there. What the run did not measure is
    named and not drawn. The same result gives the same files, byte for byte.
    """
    try:
        import matplotlib  # noqa: F401  # only to know whether it is there
    except ImportError as error:
        raise click.ClickException(
            "the pictures need matplotlib: pip install -e '.[bench]'"
        ) from error
    try:
        results = load(result)
    except ResultsError as error:
        raise click.ClickException(str(error)) from error
    directory.mkdir(parents=True, exist_ok=True)
    for path, drawn in draw_all(results, directory, extension):
        click.echo(str(path) if drawn else f"{path}: not drawn, the result has no such rows")


if __name__ == "__main__":
    main()
