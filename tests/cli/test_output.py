from __future__ import annotations

from collections.abc import Iterator

import pytest

from walkv.cli import output


def test_an_interrupt_writes_nothing_more(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    def lines() -> Iterator[bytes]:
        yield b"waiting"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        output.emit_lines(lines())
    assert capsysbinary.readouterr().out == b""


def test_many_lines_go_out_in_few_pieces(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = []
    echo = output.click.echo
    monkeypatch.setattr(output.click, "echo", lambda data: pieces.append(len(data)) or echo(data))
    expected = [b"%d" % number * 10 for number in range(5_000)]
    output.emit_lines(iter(expected))
    assert capsysbinary.readouterr().out.splitlines() == expected
    assert 1 < len(pieces) < 10
    assert max(pieces) < 70_000


def test_no_lines(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    output.emit_lines(iter(()))
    assert capsysbinary.readouterr().out == b""
