"""The options that the commands share."""

from pathlib import Path

import click

directory = click.option(
    "--directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=".",
    help="Where a temporary directory for the stores is made: a real disk.  [default: here]",
)
timeout_seconds = click.option(
    "--timeout-seconds",
    type=click.FloatRange(1),
    default=1_800.0,
    show_default=True,
    help="Limit for one process.",
)
json_path = click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the results to this file, as JSON.",
)
markdown_path = click.option(
    "--markdown",
    "markdown_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the results to this file, as Markdown.",
)
