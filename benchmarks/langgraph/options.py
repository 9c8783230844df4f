"""How much is done, what a row is, and the parts of a run.

Nothing here needs LangGraph: the command line can say what is missing.
"""

from dataclasses import dataclass, field

Measured = tuple[str, str, str, float]
"""The row, what its writes survive (``read`` where there are none), the unit, and the figure."""

NAMES = ("walkv", "sqlite", "memory")
CEILING = "memory"
"""This side keeps nothing: what a saver could reach at best, and no peer."""


@dataclass(frozen=True)
class Options:
    """The sizes of a run. All of them are reported with its results.

    Attributes:
        calls: timed calls of a read in each process; their median is its figure.
        old_bytes: checkpoints with at least so much state count as old ones.
        growth_turns: by side, the lengths of a thread whose size on disk is taken.
        earlier_messages: of conversations that have gone on for a while.
    """

    seed: int = 1
    repetitions: int = 5
    calls: int = 20
    message_bytes: int = 1024
    turns: int = 200
    last_turns: int = 50
    old_bytes: int = 350 * 1024
    growth_turns: dict[str, tuple[int, ...]] = field(
        default_factory=lambda: {
            "walkv": (50, 100, 200, 500, 1000, 2000),
            "sqlite": (50, 100, 200, 500),
        }
    )
    conversations: int = 64
    conversation_messages: int = 20
    earlier_messages: int = 200
    copied_checkpoints: int = 1000
    copied_message_bytes: int = 400
    threads: int = 8
    thread_turns: int = 50


QUICK = Options(
    repetitions=1,
    calls=2,
    turns=6,
    last_turns=3,
    old_bytes=10 * 1024,
    growth_turns={"walkv": (2, 4), "sqlite": (2,)},
    conversations=3,
    conversation_messages=3,
    earlier_messages=5,
    copied_checkpoints=10,
    threads=2,
    thread_turns=2,
)


@dataclass(frozen=True)
class Part:
    """Some rows, and who takes part in them.

    Attributes:
        once: whether it is measured in one repetition only: it takes sizes, which do not vary.
    """

    name: str
    sides: tuple[str, ...] = NAMES
    once: bool = False


_ON_DISK = tuple(side for side in NAMES if side != CEILING)
PARTS = {
    part.name: part
    for part in (
        Part("turns"),
        Part("reads"),
        Part("crowds"),
        Part("copy", _ON_DISK),
        Part("space", _ON_DISK, once=True),
        Part("growth", _ON_DISK, once=True),
    )
}


def size_names(what: str) -> tuple[str, str]:
    """The rows of a store's size: closed, and once what is left in it was rewritten."""
    return f"{what}, on disk", f"{what}, on disk when rewritten"


def of_turns(turns: int) -> str:
    """What a thread of so many turns is called."""
    return f"a thread of {turns:,} turns"
