"""Writes ``docs/cli.md``: what is said by hand, and what the commands say of themselves.

python -m tests.support.cli_docs
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from walkv.cli.app import GROUPS

PATH = Path(__file__).parents[2] / "docs" / "cli.md"
_COLUMNS = 100

HEAD = """\
# The walkv command

<!-- Made by "python -m tests.support.cli_docs": edit that file, or the help of the commands. -->

The `cli` extra installs it: `pip install 'walkv[cli]'`, or `-e '.[cli]'` in a checkout. What is
LangGraph's needs `walkv[cli,langgraph]`.

"""

MIDDLE = r"""
`STORE` is the store's directory. `walkv COMMAND --help` lists the options, with examples.

```sh
walkv put agent.walkv user/1 Ada
walkv put agent.walkv token secret --ttl 3600
walkv get agent.walkv user/1
walkv scan agent.walkv --prefix user/ --limit 10
walkv scan agent.walkv --keys-only --reverse
walkv history agent.walkv user/1
walkv tail agent.walkv --values
walkv log agent.walkv --reverse --limit 20
walkv delete agent.walkv user/1
walkv delete agent.walkv --prefix user/ --yes
walkv show agent.walkv
walkv show messages agent.walkv --session s1 --limit 50
walkv show executions agent.walkv --tool search --status failed
walkv show checkpoints agent.walkv --thread s1 --json
walkv info agent.walkv
walkv stats agent.walkv --json
walkv health agent.walkv
walkv verify agent.walkv
walkv reindex agent.walkv
walkv keep agent.walkv --days 30
walkv sweep agent.walkv
walkv prune agent.walkv --checkpoints-keep 10 --dry-run
walkv compact agent.walkv
walkv import langgraph-sqlite checkpoints.sqlite agent.walkv
```

Keys and values are text, stored as UTF-8; with `--hex` they are hex digits, given and printed. What
is not printable is shown as `\xNN`, a backslash as `\\`. With `--json` every command prints JSON
objects, one a line; keys and values that are not UTF-8 are `{"base64": "..."}` there. Messages and
errors go to stderr.

What only looks takes no lock and changes nothing, so it is safe while a program has the store open.
`put`, `delete`, `compact`, `import`, `prune`, `sweep` and whatever else writes need the writer's
lock, and say which process holds it if they cannot have it.

`put` and `delete` take `--sync wal`, `write-through` or `write-back`. They close the store before
they return, and closing syncs, so the entry is durable under each of them.

"""

RECORDS = """\
## The records of an agent

Without `WHAT`, or with `namespaces`, `show` lists the namespaces of a store, with the number of
their records and the sync policy that they have by default. Else it lists the records of one: of
`sessions`, `messages`, `checkpoints`, `task_contexts`, `contexts`, `workflows`, `executions`,
`configurations`, `settings`, `tasks`, `subtasks`, `users`, `knowledge_sources`, or of a namespace
that your application has declared.

The newest records come first, 20 of them unless `--limit` says otherwise; with `--session`,
messages are the last ones, in the order of the conversation. `--session`, `--thread`, `--workflow`,
`--task`, `--user`, `--role`, `--status` and `--tool` choose records by those fields.

On a terminal the table is cut to the window. With `--json` each record is whole, an object on a
line of its own: times are ISO 8601, bytes are `{"base64": "..."}`, and a checkpoint comes with its
state and its pending writes. API keys, and what an application has declared a secret, are `***`
unless `--secrets` is given.

`tail`, `history` and `log` show records by their namespace and key. A write of a record also writes
index entries, and whatever else its namespace keeps; `tail` counts those, and shows them with
`--all`.

## The demo

`walkv demo` starts an agent in a process of its own. It goes through the files of a folder, walkv's
own by default: for each file it is asked for, a reader finds out what is in it, and for each dozen
of files a writer makes an index page. It keeps a session, messages, workflows, tool calls, steps
and checkpoints in an `AgentStore`. Files and what is found in them are real; there is no model.
Some calls of the tool that reads files time out on purpose, and are made again.

Each step is done through `executions.once`, and writes a line to a log outside the store. The line
stands for what nobody can take back: a payment, a letter.

`--kills` times the agent is killed with `SIGKILL`, each time at a random moment not later than
`--seconds` after its first acknowledged commit, and started again; `--seed` repeats the moments of
another run. It goes on from its last checkpoint. Of a step that had begun and not ended nobody
knows from the store whether it took effect; it looks into the log, and does the step or leaves it.

After the last kill the store is opened and read whole, every acknowledged record is held against
what is found, and every step against the log. At last the same commits are done once more in
SQLite: the same records as JSON text, with the same indexes, each commit synced as it was in walkv.
The rates are of the calls to the store alone, one after the other, in one process.

The store, the log and the database stay in `--directory`, or in a temporary directory that is
named; together they have up to some 100 MB.

## Exit status

| exit status | meaning |
|---:|---|
| 0 | done; of `health`: ok; where Ctrl-C ended `top` or `tail --follow`: it is their end |
| 1 | not done, no such key, damage found; of `health`: degraded or failed; of `doctor`: an error |
| 2 | wrong usage |
| 130 | interrupted |
| 141 | the reader of the output went away |

An error is one line on stderr; with `WALKV_DEBUG=1` there is a traceback as well.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD, _table(), MIDDLE, RECORDS]
    for heading, commands in GROUPS.items():
        parts.append(f"\n## {heading}\n")
        for command in commands:
            parts += _sections(command, "walkv")
    return "".join(parts)


def _table() -> str:
    rows = ["| command | what it does |", "|---|---|"]
    for commands in GROUPS.values():
        for command in commands:
            summary = command.get_short_help_str(200).rstrip(".")
            rows.append(f"| `{_usage(command, 'walkv')}` | {_markdown(summary)} |")
    return "\n".join(rows) + "\n"


def _usage(command: click.Command, before: str) -> str:
    context = click.Context(command)
    arguments = [
        parameter.make_metavar(context)
        for parameter in command.params
        if isinstance(parameter, click.Argument)
    ]
    return " ".join((before, command.name or "", *arguments))


def _sections(command: click.Command, before: str) -> Iterator[str]:
    usage = _usage(command, before)
    heading = f"{before} {command.name}"
    yield f"\n### {heading}\n\n`{usage}`\n\n"
    yield _prose(command.help or "")
    options = [each for each in command.params if isinstance(each, click.Option)]
    if options:
        yield "\n" + "".join(map(_option, options))
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from _sections(inner, heading)


def _prose(text: str) -> str:
    """Help as Markdown: paragraphs, and what click leaves as it is as a block of code."""
    made = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b\n"):
            title, *lines = paragraph.removeprefix("\b\n").splitlines()
            block = "\n".join(f"    {line.strip()}" for line in lines)
            made.append(f"{_markdown(title)}\n\n{block}\n")
        else:
            made.append(_filled(_markdown(paragraph)))
    return "\n".join(made)


def _option(option: click.Option) -> str:
    context = click.Context(click.Command("walkv"))
    names = ", ".join(f"`{name}`" for name in option.opts)
    if isinstance(option.type, click.Choice):
        names += f" {' or '.join(f'`{each}`' for each in option.type.choices)}"
    elif not option.is_flag:
        names += f" `{option.make_metavar(context)}`"
    text = _markdown(option.help or "")
    if option.show_default and option.default is not None:
        text += f" The default is `{option.default}`."
    return _filled(f"- {names}: {text}", indent="  ")


def _filled(text: str, indent: str = "") -> str:
    filled = textwrap.fill(
        " ".join(text.split()),
        _COLUMNS,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return filled + "\n"


def _markdown(text: str) -> str:
    """Plain text as Markdown that shows it."""
    escaped = re.sub(r"([\\*<|`])", r"\\\1", text)
    return re.sub(r"(?<![\w-])(--[a-z][a-z-]*)", r"`\1`", escaped)


def main() -> None:
    """Write the page."""
    PATH.write_text(page())


if __name__ == "__main__":
    main()
