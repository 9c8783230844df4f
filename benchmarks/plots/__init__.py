"""Pictures of a run, from the JSON that `python -m benchmarks --json` writes.

Reading order: `results` (what is in the file) -> `style` (how an engine looks) -> `bars`,
`concurrency`, `latency`, `memory`, `scale`, `sustained` (one kind of picture each) -> `catalog`
(all of them).

Run ``python -m benchmarks.plots --help``; needs the ``bench`` extra, for matplotlib.
"""
