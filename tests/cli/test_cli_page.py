"""docs/cli.md is what the commands say."""

from __future__ import annotations

from tests.support import cli_docs


def test_the_page_is_up_to_date() -> None:
    assert cli_docs.PATH.read_text() == cli_docs.page(), "python -m tests.support.cli_docs"
