"""Coverage-guided fuzzing of the decoders; needs ``pip install atheris``.

    python -m tests.fuzz.atheris_decoders TARGET -runs=100000 [any option of libFuzzer]

TARGET is one of ``tests.laboratory.fuzz.targets``, or ``all``. Each input is tried as it is, and
with its checksums put right. An input that fails is left where ``-artifact_prefix`` says.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

atheris: Any = importlib.import_module("atheris")

with atheris.instrument_imports(include=["walkv.engine"]):
    from tests.laboratory.fuzz.targets import TARGETS, lowered_limits, split_all, try_target


def main(arguments: list[str]) -> None:
    name = arguments[1] if len(arguments) > 1 else ""
    if name != "all" and name not in TARGETS:
        raise SystemExit(f"TARGET is all, or one of {', '.join(TARGETS)}")

    def one_input(data: bytes) -> None:
        chosen, rest = split_all(data) if name == "all" else (name, data)
        target = TARGETS[chosen]
        try_target(target, rest, measured=False)
        try_target(target, target.forge(rest), measured=False)

    with lowered_limits():
        atheris.Setup([arguments[0], *arguments[2:]], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
