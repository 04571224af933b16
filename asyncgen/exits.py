"""The exit codes of the command line, and which one an ending deserves."""

from __future__ import annotations

from enum import IntEnum

from asyncgen.errors import AsyncgenError, BudgetReachedError, FailureClass, InputError, RunPausedError
from asyncgen.tally import Statistics


class Exit(IntEnum):
    """What `asyncgen` tells its caller."""

    DONE = 0  # every wanted image is there
    SOME_FAILED = 1  # the run went through, some images failed
    BAD_INPUT = 2  # options, settings or prompts are wrong; of a file nothing was sent, a stream keeps what it has made
    STOPPED = 3  # asked to stop, or standard output failed under a run; work is pending
    ACCOUNT = 4  # the key, the credit or the endpoint refuses work; everything unfinished is pending
    HELD = 5  # submissions are held whose outcome was never learned
    UNUSABLE = 6  # the ledger, the output folder, the network, or a reading command's standard output cannot be used
    BUDGET = 7  # the budget is used up; what it held back is pending
    PILOT = 8  # the pilot is done, the rest awaits a yes
    BUG = 70  # EX_SOFTWARE: a bug of ours


def of_error(error: AsyncgenError) -> Exit:
    """The exit code of a run that an error ended."""
    match error:
        case RunPausedError() if error.failure.kind is FailureClass.ACCOUNT:
            return Exit.ACCOUNT
        case BudgetReachedError():
            return Exit.BUDGET
        case InputError():
            return Exit.BAD_INPUT
        case _:
            return Exit.UNUSABLE


def of_run(statistics: Statistics, *, stopped: bool) -> Exit:
    """The exit code of a run that came to its end."""
    if stopped and (statistics.pending or statistics.cancelled or not statistics.input_ended):
        return Exit.STOPPED
    if statistics.held:
        return Exit.HELD
    if statistics.failed:
        return Exit.SOME_FAILED
    return Exit.STOPPED if statistics.pending or statistics.cancelled else Exit.DONE
