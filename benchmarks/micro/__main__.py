"""The command line: ``python -m benchmarks.micro``."""

import os
import signal
import tempfile
from pathlib import Path

import click
import pytest

from benchmarks import arguments

HERE = Path(__file__).parent


@click.command(
    context_settings={
        "help_option_names": ["-h", "--help"],
        "ignore_unknown_options": True,
        "max_content_width": 100,
    }
)
@click.option("--quick", is_flag=True, help="Tiny stores, each benchmark once: shows that it runs.")
@arguments.directory
@click.argument("pytest_options", nargs=-1, type=click.UNPROCESSED)
def main(*, quick: bool, directory: Path, pytest_options: tuple[str, ...]) -> None:
    """Time the hot paths of walkv with pytest-benchmark.

    All other options are pytest's and pytest-benchmark's:

    \b
      -k put                    only benchmarks whose names match
      --benchmark-save=before   keep the run, below .benchmarks
      --benchmark-compare       show it beside the last run that was kept
      --benchmark-json=FILE     every sample

    Two runs that were kept are compared by pytest-benchmark itself: pytest-benchmark compare
    """
    # Whoever ends the run, its stores are removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    quick_options = ["--quick", "--benchmark-disable"] if quick else []
    with tempfile.TemporaryDirectory(prefix=".benchmarks-micro-", dir=directory) as root:
        # pytest empties its base directory before it begins, so it gets one of its own.
        base = os.path.join(os.path.abspath(root), "stores")
        status = pytest.main([str(HERE), f"--basetemp={base}", *quick_options, *pytest_options])
    raise SystemExit(status)


if __name__ == "__main__":
    main()
