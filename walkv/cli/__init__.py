"""The ``walkv`` command: look into a store, change it, check it, and see an agent survive ``kill``.

    text, policies                       bytes and policies as a person names them
    streams, output                      stdout and stderr, and what goes to which
    options, stores                      arguments, and opening what they name
    asking, screen                       a question first; a screen that is drawn again
    values, tables                       cells, times and JSON; columns that fit the window
    listing, own                         what show shows: its columns, your namespaces
    describing, operations               words for facts, and for what was written
    data, show                           commands for keys and values, and for records
    info, upkeep, top                    for a store as a whole: described, in numbers, at work
    following, history, diff             for what happened: the log, a key, a state
    doctoring, verifying                 for bad days: what is wrong
    reindexing, repairing                and putting it right
    backups, exporting, importing        for what goes elsewhere, and comes from there
    pruning, keeping, keys, demo         for upkeep; the demo is a package of its own
    app                                  the group; every error becomes one line and a status

Needs the extra ``walkv[cli]``; nothing else of walkv imports this package.
"""

from __future__ import annotations

import sys

from walkv.cli import streams

_EXTRA = frozenset(("click", "rich"))


def main() -> None:
    """Run the command with the arguments of this process, then exit."""
    try:
        from walkv.cli import app
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        sys.stderr.write(
            f'walkv: the command line needs {missing}; install it with: pip install "walkv[cli]"\n'
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("walkv: interrupted\n")
        sys.exit(130)
    streams.prepare()
    app.walkv_command.main(prog_name="walkv")
