"""What a put and a get are made of: nanoseconds per step, and their sum against the whole.

Run ``python -m benchmarks.cost_model``.

A step is *isolated* where the function or expression that the engine uses is timed alone. Where a
function cannot be had without what it calls, its own share is a *difference*: the time of the
function less that of the steps in it. What the whole takes beyond the sum is the residual: what no
step accounts for, and what a processor that does only one thing is quicker at.

    timing   medians of statements, interleaved, less the empty loop
    costs    steps, sums and residuals, as Markdown and as plain data
    put      the steps of a put
    get      the steps of a get: from the memtable, from a cached block, from a cold one
"""
