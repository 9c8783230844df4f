"""``python -m walkv.cli`` is ``walkv``."""

from walkv.cli import main

main()
