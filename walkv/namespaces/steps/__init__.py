"""Steps that run once: an intent before, a result after, and what is known in between.

A step is an execution with the id ``step/<key>``. Its life:

    intent (running) --> success          its result is given back from then on
                     --> failed           StepFailedError, or run again if the caller says so
                     --> taken back       who was stopped before the function was called
                     --> nothing          the process ended: indeterminate

    claims    who of this process works on a step
    naming    the key of a decorated function's call
    commits   intent and result
    once      Executions, with ``once``

Invariants:
    1. The intent is durable before the function is called: whatever the function did, the next
       process knows that it was begun.
    2. A step counts as over only when its result is durable, whoever asks. If the process ends
       before that, the step is indeterminate, also if the function had returned.
    3. Of one process, one caller at a time works on a key; the others wait for it (``Claim``).
    4. A running step of this opening is nobody else's: the store has one writer.
    5. What goes wrong while an error is noted does not take the place of that error.

Source: the intent and result records of write-ahead logs and of durable execution engines. To run
an unfinished step again by default, as most of these do, was rejected: it pays twice.
"""

from walkv.namespaces.steps.claims import Claim
from walkv.namespaces.steps.commits import ASK, RETURNED, RUN_AGAIN, Call, Steps
from walkv.namespaces.steps.naming import check_step, step_key
from walkv.namespaces.steps.once import Executions

__all__ = [
    "ASK",
    "RETURNED",
    "RUN_AGAIN",
    "Call",
    "Claim",
    "Executions",
    "Steps",
    "check_step",
    "step_key",
]
