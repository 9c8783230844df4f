"""The garbage collector of a process that measures: on, as users run, but with a clean start."""

import gc


def freeze() -> None:
    """Keep whatever exists by now out of its way.

    Called when the data of the harness are made and before a side is opened, so that only what the
    side allocates is ever traversed.
    """
    gc.collect()
    gc.freeze()
