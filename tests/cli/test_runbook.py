"""The runbook, played: the trouble is made, and what the page says is typed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import walkv
from tests.support.runbook import STORE, make_store

PAGE = Path(__file__).parent.parent.parent / "docs" / "operations.md"


def commands(heading: str) -> list[list[str]]:
    """The shell fences of a section, as lines."""
    (text,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S)
    fences = re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S)
    return [fence.splitlines() for fence in fences]


def typed(line: str, directory: Path) -> int:
    """Its exit status; fails on a traceback."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        line, shell=True, cwd=directory, env=environment, capture_output=True, text=True, timeout=60
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode


def spoil(file: Path) -> None:
    """Change bytes in the middle."""
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 8] = b"\xff" * 8
    file.write_bytes(data)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """The directory with a store whose snapshot is damaged."""
    make_store(tmp_path)
    (snapshot,) = (tmp_path / STORE / "snapshots").iterdir()
    spoil(snapshot)
    return tmp_path


def test_damage_is_looked_at_and_a_backup_restored(damaged: Path) -> None:
    look, restore, _ = commands("It says CorruptionError")
    assert [typed(line, damaged) for line in look] == [0, 1]
    assert [typed(line, damaged) for line in restore] == [0, 0, 0]
    with walkv.AgentStore(damaged / STORE, create=False) as agent:
        assert agent.store[b"user/1"] == b"Ada"
        assert agent.messages.history("s1")[-1].content == "the last one"
        assert agent.verify() == []
    assert (damaged / "agent.damaged" / "MANIFEST").is_file(), "the original is kept"


def test_damage_is_looked_at_and_repaired(damaged: Path) -> None:
    look, _, repair = commands("It says CorruptionError")
    assert [typed(line, damaged) for line in look] == [0, 1]
    statuses = [typed(line, damaged) for line in repair]
    assert statuses[1:] == [0, 0], "what is repaired is whole"
    with walkv.AgentStore(damaged / STORE, create=False) as agent:
        assert agent.messages.history("s1")[-1].content == "the last one", "it was in the log"
        assert agent.verify() == []
    assert (damaged / "agent.damaged" / "MANIFEST").is_file(), "the original is kept"


def test_every_symptom_of_the_first_table_has_its_section() -> None:
    text = PAGE.read_text()
    headings = re.findall(r"^## (.+)$", text, re.M)
    first = text[: text.index("\n## ")]
    linked = re.findall(r"\[([^\]]+)\]\(#[\w-]+\)", first)
    assert linked == headings


def test_every_section_says_what_to_do() -> None:
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.M)[1:]
    symptoms = [text for text in sections if "**What it means.**" in text]
    assert len(symptoms) >= 12
    assert not [text[:40] for text in symptoms if "**What to do.**" not in text]
