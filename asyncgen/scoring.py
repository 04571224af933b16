"""The scorer: a function of yours that says of each picture whether it counts."""

from __future__ import annotations

import inspect
import logging
import math
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import anyio

from asyncgen.errors import InputError
from asyncgen.images import Picture
from asyncgen.ports import Blocking
from asyncgen.request import ImageRequest

log = logging.getLogger(__name__)
#: A plain number is a share of certainty, as True is 1.0 and False is 0.0.
_LEAST: Final = 0.5


@dataclass(frozen=True, slots=True)
class Score:
    """What a scorer can say: whether the picture counts, why not, and a number of its own, which is shown with it."""

    keep: bool
    reason: str = ""
    value: float | None = None


Verdict = bool | float | Score | None
#: Called with the picture (`data` are its bytes), the request, and the seed; a plain function runs in a thread, one
#: call at a time. None and True keep the picture, False and a number below 0.5 reject it.
Scorer = Callable[[Picture, ImageRequest, int], Verdict | Awaitable[Verdict]]


class Scoring:
    """Asks a scorer, one picture at a time: models are seldom made to be called from two threads at once."""

    def __init__(self, scorer: Scorer, threads: Blocking) -> None:
        self._scorer, self._threads, self._turn = scorer, threads, anyio.Lock()
        own_call = getattr(scorer, "__call__", None)  # noqa: B004 - of an object, to see whether it is async
        self._is_async = inspect.iscoroutinefunction(scorer) or inspect.iscoroutinefunction(own_call)

    async def rejection(self, picture: Picture, request: ImageRequest, seed: int) -> str | None:
        """Why the picture does not count; None where it does.

        An exception of the scorer's is its owner's bug, and so is an exit: the picture is paid for and whole, so it
        counts, and the error is logged.
        """
        try:
            return _reason(await self._verdict(picture, request, seed))
        except (Exception, SystemExit):
            log.exception("the scorer has failed, and the picture counts without it")
            return None

    async def _verdict(self, picture: Picture, request: ImageRequest, seed: int) -> Verdict:
        if self._is_async:
            said = self._scorer(picture, request, seed)
        else:
            async with self._turn:
                said = await self._threads.run(self._called, picture, request, seed)
        return await said if isinstance(said, Awaitable) else said

    def _called(self, picture: Picture, request: ImageRequest, seed: int) -> Verdict | Awaitable[Verdict]:
        """In a thread, where an exit or an interrupt can only be the scorer's own, and would end the run."""
        try:
            return self._scorer(picture, request, seed)
        except Exception:
            raise
        except BaseException as error:
            raise RuntimeError(f"the scorer has raised {type(error).__name__}") from error


def _reason(verdict: Verdict) -> str | None:
    """Raises `TypeError` or `ValueError` for what is no verdict."""
    if verdict is None or verdict is True:
        return None
    if isinstance(verdict, Score):
        value = "" if verdict.value is None else f" (score {verdict.value:g})"
        return None if verdict.keep else f"the scorer rejects it{value}: {verdict.reason or 'it gives no reason'}"
    if verdict is False:
        return "the scorer rejects it"
    score = float(verdict)
    if math.isnan(score):
        raise ValueError("the scorer returned NaN")
    return f"the scorer rejects it: its score is {score:g}, below {_LEAST:g}" if score < _LEAST else None


def load_scorer(name: str) -> Scorer:
    """The function that `module:function` names; the current folder is looked into too. Raises `InputError`."""
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise InputError(f"must be MODULE:FUNCTION, not {name!r}", field="scorer")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{name!r} cannot be found ({error})", field="scorer") from error
    except (Exception, SystemExit) as error:
        what = f"{type(error).__name__}: {error}"
        raise InputError(
            f"{module_name} cannot be imported ({what}): guard what is a script in it", field="scorer"
        ) from error
    if not callable(found):
        raise InputError(f"{name!r} is no function", field="scorer")
    scorer: Scorer = found
    return scorer
