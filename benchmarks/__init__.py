"""Compares walkv with its peers, within one run and one guarantee class.

Reading order: `dataset` and `distributions` (what is stored and asked for) -> `engines` (an
adapter each) -> `workloads` (what is timed) -> `worker` (one measurement, one process) ->
`runner` (interleaves engines) -> `report` (medians, ratios and losses) -> `rendering`. `machine`
says what all of it ran on, and `resources` what a step used of it. `plots` draws a run's JSON.

All need the ``bench`` extra, and each explains itself with ``--help``:

    python -m benchmarks             walkv and its peers: speed, memory, bytes, disk, syncs
    python -m benchmarks.plots       the pictures of a result of that
    python -m benchmarks.agent       the work of an agent, against what agents use today
    python -m benchmarks.langgraph   threads of LangGraph, against its own savers
    python -m benchmarks.micro       the hot paths, with pytest-benchmark, to compare two commits
    python -m benchmarks.cost_model  what each step of a put and of a get costs
"""
