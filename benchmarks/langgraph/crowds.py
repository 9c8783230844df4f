"""Many conversations at once, in asyncio, on one saver."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

from langchain_core.messages import BaseMessage

from benchmarks.collector import freeze
from benchmarks.langgraph import data
from benchmarks.langgraph.options import Measured, Options
from benchmarks.langgraph.sides import GUARANTEES, SIDES, Saver

Said = Sequence[BaseMessage]
Crowd = Callable[[Saver, Said, Options], Awaitable[float]]


def crowds(side: str, directory: Path, options: Options) -> Iterator[Measured]:
    """Steps a second of all conversations together."""
    count = options.conversations
    crowd_by_name: dict[str, Crowd] = {
        f"{count} conversations, put_writes and put": _steps(0),
        f"{count} of {options.earlier_messages} messages, put_writes and put": _steps(
            options.earlier_messages
        ),
        f'{count} conversations, ainvoke, durability="async"': _turns("async"),
        f'{count} conversations, ainvoke, durability="sync"': _turns("sync"),
    }
    # As many as the talkative need: a question and an answer each time, or what was said earlier, a
    # first message, and the others.
    each = options.conversation_messages
    each = max(2 * each, options.earlier_messages + 1 + each)
    said = data.messages(options.seed, options.message_bytes, count * each)
    for number, (name, crowd) in enumerate(crowd_by_name.items()):
        for guarantee in GUARANTEES:
            where = directory / f"{number}-{guarantee}"
            where.mkdir()
            freeze()
            elapsed_seconds = asyncio.run(_seconds(side, where, guarantee, crowd, said, options))
            rate = count * options.conversation_messages / elapsed_seconds
            yield name, guarantee, "steps/s", rate


async def _seconds(
    side: str, directory: Path, guarantee: str, crowd: Crowd, said: Said, options: Options
) -> float:
    async with SIDES[side].asaver(directory, guarantee) as saver:
        return await crowd(saver, said, options)


def _steps(earlier_messages: int) -> Crowd:
    async def steps(saver: Saver, said: Said, options: Options) -> float:
        """Seconds of all steps, each a write and a checkpoint with a message more."""
        following = iter(said)
        talks = [data.Steps(saver, f"t{number}") for number in range(options.conversations)]
        for talk in talks:
            earlier = [next(following) for _ in range(earlier_messages)]
            await talk.abegin(next(following), earlier)

        async def go_on(talk: data.Steps) -> None:
            for _ in range(options.conversation_messages):
                await talk.astep(next(following))

        return await _together(map(go_on, talks))

    return steps


def _turns(durability: str) -> Crowd:
    async def turns(saver: Saver, said: Said, options: Options) -> float:
        """Seconds of all turns of a graph, each a message and its answer."""
        graph = data.Talk(saver, iter(said), tasks=True)

        async def go_on(number: int) -> None:
            for _ in range(options.conversation_messages):
                await graph.aturn(f"t{number}", durability)

        return await _together(map(go_on, range(options.conversations)))

    return turns


async def _together(conversations: Iterator[Awaitable[None]]) -> float:
    """Seconds that they take, all at once."""
    gc.collect()
    begin = time.perf_counter()
    await asyncio.gather(*conversations)
    return time.perf_counter() - begin
