"""The stub of the asyncio faces says what the namespaces say."""

from __future__ import annotations

from tests.support import stubs


def test_the_stub_is_up_to_date() -> None:
    assert stubs.PATH.read_text() == stubs.make(), "run: python -m tests.support.stubs"
