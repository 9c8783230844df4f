"""The ``walkv`` command: look into a store, change it, check it, and see an agent survive ``kill``.

    text, policies                       bytes and policies as a person names them
    folder                               the files of a folder, read without being fooled
    output, options, stores              what the commands share
    values, listing, own                 what show shows: cells and JSON, columns, your namespaces
    data, show, upkeep, demo             the commands; the demo is a package of its own
    app                                  the group; every error becomes one line and a status

Needs the extra ``walkv[cli]``; nothing else of walkv imports this package.
"""

from __future__ import annotations

import sys

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
    app.walkv_command.main(prog_name="walkv")
