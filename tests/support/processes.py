"""Python programs run as processes of their own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent

_HEAD = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
"""


def program(text: str) -> list[str]:
    """The command that runs a program given as indented text."""
    return [sys.executable, "-W", "error", "-c", _HEAD + textwrap.dedent(text)]


def run(text: str, *, timeout_seconds: float = 120.0) -> str:
    """What a program prints. It must end well."""
    done = subprocess.run(
        program(text), capture_output=True, text=True, timeout=timeout_seconds, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def start(text: str, **options: Any) -> subprocess.Popen[bytes]:
    """A program that runs on, its output in a pipe."""
    return subprocess.Popen(program(text), stdout=subprocess.PIPE, **options)
