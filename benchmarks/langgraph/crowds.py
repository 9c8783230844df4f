"""Many conversations at once, in asyncio, on one saver."""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from benchmarks.langgraph import data
from benchmarks.langgraph.rows import Options, Row, Tell, in_turn
from benchmarks.langgraph.sides import SIDES, Saver

Crowd = Callable[[Saver, Options], Awaitable[float]]


def crowds(directory: Path, options: Options, tell: Tell) -> Iterator[Row]:
    """Steps a second of all conversations together."""
    count = options.conversations
    crowd: dict[str, Crowd] = {
        f"{count} conversations, put_writes and put": _steps(0),
        f"{count} of {options.earlier_messages} messages, put_writes and put": _steps(
            options.earlier_messages
        ),
        f'{count} conversations, ainvoke, durability="async"': _turns("async"),
        f'{count} conversations, ainvoke, durability="sync"': _turns("sync"),
    }
    for name, run in crowd.items():
        for guarantee in ("durable", "process"):

            def rate(side: str, run: Crowd = run, guarantee: str = guarantee) -> float:
                tell(f"crowds, {guarantee}: {side}")
                with tempfile.TemporaryDirectory(dir=directory) as place:
                    return asyncio.run(_rate(side, Path(place), guarantee, run, options))

            yield Row(name, guarantee, "steps/s", in_turn(list(SIDES), options.rounds, rate))


async def _rate(
    side: str, directory: Path, guarantee: str, crowd: Crowd, options: Options
) -> float:
    async with SIDES[side].asaver(directory, guarantee) as saver:
        seconds = await crowd(saver, options)
    return options.conversations * options.conversation_messages / seconds


def _steps(earlier_messages: int) -> Crowd:
    async def steps(saver: Saver, options: Options) -> float:
        """Seconds of all steps, each a write and a checkpoint with a message more."""
        said = data.messages(options.seed, options.message_bytes)
        talks = [data.Steps(saver, f"t{number}") for number in range(options.conversations)]
        for talk in talks:
            await talk.abegin(next(said), [next(said) for _ in range(earlier_messages)])

        async def go_on(talk: data.Steps) -> None:
            for _ in range(options.conversation_messages):
                await talk.astep(next(said))

        begin = time.perf_counter()
        await asyncio.gather(*map(go_on, talks))
        return time.perf_counter() - begin

    return steps


def _turns(durability: str) -> Crowd:
    async def turns(saver: Saver, options: Options) -> float:
        """Seconds of all turns of a graph, each a message and its answer."""
        said = data.messages(options.seed, options.message_bytes)
        graph = data.Talk(saver, said, tasks=True)

        async def go_on(number: int) -> None:
            for _ in range(options.conversation_messages):
                await graph.aturn(f"t{number}", durability)

        begin = time.perf_counter()
        await asyncio.gather(*map(go_on, range(options.conversations)))
        return time.perf_counter() - begin

    return turns
