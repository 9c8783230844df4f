"""Steps, their sum, and the whole they are held against."""

from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Step:
    """One step; ``how`` says what was timed."""

    name: str
    elapsed_ns: float
    how: str


@dataclass(frozen=True)
class Costs:
    """An operation: its steps in order, and the time of all of it, measured as a whole."""

    name: str
    steps: tuple[Step, ...]
    whole_ns: float

    @property
    def sum_ns(self) -> float:
        return sum(step.elapsed_ns for step in self.steps)

    @property
    def residual_ns(self) -> float:
        """What no step accounts for; below zero where the steps are quicker together."""
        return self.whole_ns - self.sum_ns

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "sum_ns": self.sum_ns, "residual_ns": self.residual_ns}

    def to_markdown(self) -> str:
        table = Table(box=box.MARKDOWN)
        table.add_column("step")
        table.add_column("ns", justify="right")
        table.add_column("of the whole", justify="right")
        table.add_column("what was timed")
        for step in self.steps:
            table.add_row(step.name, *self._shown(step.elapsed_ns), step.how)
        table.add_row("**sum**", *self._shown(self.sum_ns), "")
        table.add_row("**whole**", *self._shown(self.whole_ns), "measured as a whole")
        table.add_row("**residual**", *self._shown(self.residual_ns), "whole less sum")
        console = Console(width=200)
        with console.capture() as captured:
            console.print(table)
        text = "\n".join(line.rstrip() for line in captured.get().splitlines()).strip("\n")
        return f"## {self.name}\n\n{text}"

    def _shown(self, elapsed_ns: float) -> tuple[str, str]:
        return f"{elapsed_ns:,.0f}", f"{elapsed_ns / self.whole_ns:.0%}"
