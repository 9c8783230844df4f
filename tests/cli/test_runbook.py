"""The runbook, played: the trouble is made, and what the page says is typed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
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


@pytest.fixture(scope="module", autouse=True)
def this_walkv(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """``walkv`` is what is tested here, whichever is installed beside this Python, or none."""
    directory = tmp_path_factory.mktemp("bin")
    command = directory / "walkv"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m walkv.cli "$@"\n')
    command.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
        patch.setenv("PYTHONPATH", str(PAGE.parent.parent))
        yield


def typed(line: str, directory: Path) -> int:
    """Its exit status; fails on a traceback."""
    done = subprocess.run(
        line, shell=True, cwd=directory, capture_output=True, text=True, timeout=60
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
    look, restore, _, _ = commands("It says CorruptionError")
    assert [typed(line, damaged) for line in look] == [0, 1]
    assert [typed(line, damaged) for line in restore] == [0, 0, 0]
    with walkv.AgentStore(damaged / STORE, create=False) as agent:
        assert agent.store[b"user/1"] == b"Ada"
        assert agent.messages.history("s1")[-1].content == "the last one"
        assert agent.verify() == []
    assert (damaged / "agent.damaged" / "MANIFEST").is_file(), "the original is kept"


def test_damage_is_looked_at_and_repaired(damaged: Path) -> None:
    look, _, repair, _ = commands("It says CorruptionError")
    assert [typed(line, damaged) for line in look] == [0, 1]
    statuses = [typed(line, damaged) for line in repair]
    assert statuses[1:] == [0, 0], "what is repaired is whole"
    with walkv.AgentStore(damaged / STORE, create=False) as agent:
        assert agent.messages.history("s1")[-1].content == "the last one", "it was in the log"
        assert agent.verify() == []
    assert (damaged / "agent.damaged" / "MANIFEST").is_file(), "the original is kept"


def test_indexes_that_disagree_are_mended(tmp_path: Path) -> None:
    make_store(tmp_path)
    with walkv.AgentStore(tmp_path / STORE) as agent:
        agent.store.delete_range(prefix=agent.sessions.table.index_of("user_id").prefix)
    *_, mend = commands("It says CorruptionError")
    assert typed(mend[-1], tmp_path) == 1, "else it would show nothing"
    assert [typed(line, tmp_path) for line in mend] == [0, 0]


def test_a_store_is_encrypted_and_gets_another_key(tmp_path: Path) -> None:
    make_store(tmp_path)
    encrypt, rekey = commands("Encryption and keys")
    assert [typed(line, tmp_path) for line in (*encrypt, *rekey)] == [0] * 6
    key = (tmp_path / "new.key").read_text().strip()
    with walkv.AgentStore(tmp_path / "sealed.walkv", create=False, key=key) as agent:
        assert agent.store[b"user/1"] == b"Ada"
        assert agent.verify() == []


def test_every_symptom_of_the_first_table_has_its_section() -> None:
    text = PAGE.read_text()
    headings = re.findall(r"^## (.+)$", text, re.M)
    first = text[: text.index("\n## ")]
    linked = dict.fromkeys(re.findall(r"\]\(#([\w-]+)\)", first))
    assert list(linked) == [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings]


def test_every_section_says_what_to_do() -> None:
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.M)[1:]
    symptoms = [text for text in sections if "**What it means.**" in text]
    assert len(symptoms) >= 12
    assert not [text[:40] for text in symptoms if "**What to do.**" not in text]
