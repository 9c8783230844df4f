"""The demo: an agent that is killed in the middle of its work, and loses and repeats nothing.

    facts       what the agent finds out about a file, and the index pages that it writes
    effects     the log, outside the store, of what its steps did
    telling     what it says over the pipe: what begins, and what has returned
    child       the agent itself, which is the process that is killed
    trial       starts it, listens to it, and kills it
    audit       holds what it said against what is there
    twin        the same calls once more, into SQLite
    report      what a person and a program see of all that
    command     ``walkv demo``

The first four need neither click nor rich.
"""
