"""The examples run, are killed in the middle of their work, and go on when started again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"
AGENT = EXAMPLES / "langgraph_agent.py"
TEXTS = {
    "Ada kettle": "Dear Ada: your kettle: the money is on its way.",
    "Grace radio": "Dear Grace: your radio: the money is on its way.",
    "Ada lamp": "Dear Ada, again: your lamp: the money is on its way.",
}


def command(*words: object) -> list[str]:
    return [sys.executable, "-W", "error", str(AGENT), *map(str, words)]


def run(*words: object) -> list[str]:
    """What it prints when nobody kills it."""
    done = subprocess.run(command(*words), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def run_until(line: str, *words: object) -> list[str]:
    """What it prints until it has printed a line; then it is killed."""
    printed: list[str] = []
    with subprocess.Popen(command(*words), stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None
        while line not in printed:
            text = agent.stdout.readline()
            assert text, printed
            printed.append(text.rstrip("\n"))
        agent.kill()
    return printed


def sent(directory: Path) -> dict[str, str]:
    return {each.stem: each.read_text() for each in (directory / "outbox").iterdir()}


def test_every_example_is_tested() -> None:
    assert sorted(EXAMPLES.glob("*.py")) == [AGENT]
    assert len(AGENT.read_text().splitlines()) <= 153


def test_the_agent_says_how_it_is_used() -> None:
    text = " ".join(run("--help"))
    assert "may be killed at any moment" in text
    assert "directory" in text


def test_the_agent_from_beginning_to_end_and_once_more(tmp_path: Path) -> None:
    first = run(tmp_path, "--pause", 0, "--approve", "y")
    assert [line for line in first if line.startswith("letter")] == [
        "letter 1: new, from Ada",
        "letter 1: answered",
        "letter 2: new, from Grace",
        "letter 2: answered",
        "letter 3: new, from Ada",
        "letter 3: answered",
    ]
    assert sent(tmp_path) == TEXTS
    # Whoever starts it in another directory starts anew; here all is done.
    again = run(tmp_path, "--pause", 0, "--approve", "y")
    assert again[:3] == [f"letter {number}: was answered before" for number in (1, 2, 3)]
    assert len(again) == 4
    assert again[3].startswith("30 checkpoints hold ")
    assert sent(tmp_path) == TEXTS


def test_the_agent_asks_a_person_and_takes_a_no(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path, "--pause", 0),
        input="y\nn\ny\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "pay 80 back to Grace? [y/n]" in done.stdout
    assert sent(tmp_path) == TEXTS | {"Grace radio": "Dear Grace: your radio: we are sorry."}


def test_the_agent_is_killed_in_the_middle_and_goes_on(tmp_path: Path) -> None:
    words = tmp_path, "--pause", 0.02, "--approve", "y"
    asking = "  model: pay_back {'amount': 80}"
    first = run_until(asking, *words)
    assert first[:1] == ["letter 1: new, from Ada"]
    sending = "  model: send {'text': 'Dear Grace: your radio: the money is on its way.'}"
    second = run_until(sending, *words)
    assert second[0] == "letter 1: was answered before"
    assert second[1].startswith("letter 2: RESUMED before ")
    assert "  tool:  80" not in second, "it was looked up before, and that was kept"
    third = run(*words)
    assert third[1].startswith("letter 2: RESUMED before ")
    assert "  pay 80 back to Grace? y" not in third, "it was answered before, and that was kept"
    assert third[-4:-1] == [
        "  model: send {'text': 'Dear Ada, again: your lamp: the money is on its way.'}",
        "  tool:  sent",
        "letter 3: answered",
    ]
    assert sent(tmp_path) == TEXTS
