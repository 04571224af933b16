"""What the engine is asked for in one seed: the wished images, and the options of each of its lives."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from functools import cache
from typing import Any

from asyncgen.endpoint import Pace
from asyncgen.intake import IndexedWant, Intake
from asyncgen.plan import Planner
from asyncgen.records import Want
from asyncgen.registry import StylesRegistry

from .choices import Choices
from .platform import MAX_BODY_BYTES
from .points import CRASH_POINTS

#: What a row can be, the more usual ones more than once.
KINDS = (
    "plain", "plain", "plain", "fixed seed", "named", "named", "two pictures", "two pictures", "two images",
    "in memory", "twice", "with an id", "with an id", "again", "forbidden", "forbidden twice", "edited workflow",
)  # fmt: skip
_OVERSIZE_EVERY = 250  # so often one row is over what a body may have: such worlds are slow
_LEARNING_JOBS = 8  # after so many a run with a budget knows how long jobs take
MANY = 1000
USD_PER_SECOND = 1.0
FREE_RATE = 100  # requests per 10 s from which a limit never binds here
ENDPOINTS = ("alpha", "beta")


@dataclass(frozen=True)
class Wish:
    """One row of the input. `kind` says what is special about it; only one with an id may change and stay itself."""

    label: int
    kind: str
    steps: int = 20
    lora: str | None = None

    @property
    def images(self) -> int:
        """How many it asks for: equal rows without a seed are as many images, with one they are the same."""
        return 2 if self.kind in ("two images", "again") else 1

    @property
    def prompt(self) -> str:
        """Each row has a prompt of its own, so that the books can tell them apart."""
        if self.kind == "oversize":
            return f"prompt {self.label} " + "x" * MAX_BODY_BYTES
        return f"{'forbidden' if self.kind.startswith('forbidden') else 'prompt'} {self.label}"


@dataclass(frozen=True)
class Options:
    """How one life runs. `given` are the rows of its input, `chunk` how many of them are read at a time; `known` are
    also those that may be added to them.

    `concurrency` None: as many jobs out as the workers need.
    """

    given: tuple[Wish, ...]
    known: tuple[Wish, ...]
    endpoint: str
    concurrency: int | None
    max_attempts: int
    rerolls: int
    pace: Pace
    chunk: int = 32
    slow_input_seconds: float = 0.0
    keep_order: bool = False
    execution_timeout_seconds: float = 600.0
    ttl_seconds: float = 86_400.0
    lane_faults: int = MANY
    budget_usd: float | None = None
    crash_point: str | None = None
    resubmit: bool = False
    cancel_on_stop: bool = False
    stop_percent: float = 0.0
    retry_failed: bool = False
    rebuy_changed: bool = False


#: What a life seldom reaches more than once.
MET_ONCE = ("retry request on its way", "disk append", "disk replace")
#: Where a life is cut off on purpose; what is seldom reached is tried more often.
_CRASH_POINTS = (*CRASH_POINTS, *[point for point in CRASH_POINTS if " request" in point] * 2,
                 *(*MET_ONCE, "disk replace") * 5,
                 *("disk create", "disk link", "disk fsync_directory") * 4)  # fmt: skip


class Plan:
    """One seed's wishes, and the options of life after life."""

    def __init__(self, seed: int, pick: Choices) -> None:
        self._pick = pick
        self._budget_jobs = pick.of((1, 1, 2, 3, _LEARNING_JOBS), "budget of") if pick.chance(20, "budget") else 0
        self.wishes = self._wishes(seed)
        self.lives = pick(4, "lives") + bool(self._budget_jobs)  # what one life has spent the next must count
        if self.wishes[0].kind == "oversize":
            self.lives = 0  # its 10 MiB make every step slow
        self._max_attempts = (3, 2, 1, 4)[pick(4, "max attempts")]
        self._rerolls = pick(3, "rerolls")
        self._rate = 0 if self.has_lora_sets else pick.of((0, 0, 2, 8), "small rates")
        self._ttl = pick.of((86_400.0, 60.0), "ttl")
        self._timeout = pick.of((600.0, 60.0, 25.0, 600.0), "execution timeout")
        self._budget_usd = None
        if self._budget_jobs:  # enough for so many jobs that run into their limit, as many do
            self._timeout = 25.0
            self._budget_usd = self._budget_jobs * self._timeout * USD_PER_SECOND

    def _wishes(self, seed: int) -> tuple[Wish, ...]:
        pick = self._pick
        if seed % _OVERSIZE_EVERY == _OVERSIZE_EVERY - 1:
            return (Wish(0, "oversize"),)
        if pick.chance(8, "LoRA sets"):  # two rows of each, one after the other
            return tuple(Wish(number, "plain", lora=f"set {number // 2}") for number in range(8))
        rows = 1 + pick(6, "jobs") if self._budget_jobs < _LEARNING_JOBS else 2 * _LEARNING_JOBS
        return tuple(Wish(number, pick.of(KINDS, "kind", number)) for number in range(rows))

    @property
    def has_lora_sets(self) -> bool:
        """Whether each row belongs to a LoRA set, and they are bought one at a time."""
        return self.wishes[0].lora is not None

    def options(self, *, calm: bool = False) -> Options:
        """Those of the next life; a calm one is given every row."""
        pick = self._pick
        point = pick.of(_CRASH_POINTS, "crash point") if pick.chance(40, "crash at a point") else None
        known, rows = self.wishes, len(self.wishes)
        if not calm and pick.chance(25, "fewer rows"):
            rows = pick(rows, "rows")
        if pick.chance(25, "changed rows"):
            steps = 21 + pick(3, "steps")
            known = tuple(
                dataclasses.replace(wish, steps=steps) if wish.kind == "with an id" else wish for wish in known
            )
        return Options(
            given=known[:rows],
            known=known,
            endpoint=pick.of(ENDPOINTS, "endpoint") if pick.chance(30, "moved") else ENDPOINTS[0],
            concurrency=1 if self.has_lora_sets else None if pick.chance(20, "auto") else 1 + pick(4, "concurrency"),
            max_attempts=self._max_attempts,
            rerolls=self._rerolls,
            pace=self._pace(),
            chunk=1 + pick(4, "chunk"),
            slow_input_seconds=pick.of((0.0, 0.0, 3.0, 40.0), "slow input"),
            keep_order=pick(2, "keep order") == 1,
            execution_timeout_seconds=self._timeout,
            ttl_seconds=self._ttl,
            lane_faults=MANY if calm else 2 if self.has_lora_sets else pick.of((MANY, 2), "lane faults"),
            budget_usd=None if calm else self._budget_usd,
            crash_point=None if calm else point,
            resubmit=pick(3, "resubmit") == 2,
            cancel_on_stop="cancel" in (point or "") or pick.chance(75 if self._budget_jobs else 50, "cancel on stop"),
            stop_percent=70 if self._budget_jobs else 40,  # what was taken back has its price
            retry_failed=pick(4, "retry failed") == 3,
            rebuy_changed=pick(4, "rebuy changed") == 3,
        )

    def _pace(self) -> Pace:
        """In half of the worlds the limits are so small that they bind."""
        if not self._rate:
            return Pace(unreachable_seconds=120.0)
        rates = {"run_rate": self._rate, "status_rate": 3 * self._rate, "cancel_rate": self._rate}
        return Pace(unreachable_seconds=120.0, downloads_at_once=1 + self._rate // 4, **rates)


@cache
def planner() -> Planner:
    """Planning is pure: one planner serves all worlds."""
    logging.getLogger("asyncgen").setLevel(logging.CRITICAL + 1)
    shared = Planner(StylesRegistry.load(), "normal_image_v4_workflow")
    shared.template()
    return shared


def indexed(wishes: tuple[Wish, ...]) -> list[IndexedWant]:
    """The rows as the intake hands them over, in order; what is named twice is named again at the end."""
    wants = [want for wish in wishes for want in _wants(wish)]
    wants += [want for wish in wishes if wish.kind in ("twice", "forbidden twice", "again") for want in _wants(wish)]
    return [IndexedWant(index, want) for index, want in enumerate(wants)]


def request_of(wish: Wish) -> dict[str, Any] | None:
    """What adds a row to a run that goes on; None: it cannot be added."""
    if wish.kind in ("in memory", "oversize", "edited workflow", "again"):  # which is two images by being named twice
        return None
    request = {"prompt": wish.prompt, "width": 16, "height": 16, "steps": wish.steps, **_fields(wish)}
    return request if wish.lora is None else {**request, "lora_name": wish.lora}


def _fields(wish: Wish) -> dict[str, Any]:
    return {
        "fixed seed": {"seed": 2**64 - 1 - wish.label},
        "named": {"filename": "the same name.png"},
        "two pictures": {"batch_size": 2},
        "two images": {"images": 2},
        "in memory": {"save_to_style": False},
        "twice": {"seed": 7},
        "forbidden twice": {"seed": 7},
        "with an id": {"id": f"row {wish.label}"},
    }.get(wish.kind, {})


@cache
def _wants(wish: Wish) -> tuple[Want, ...]:
    intake = Intake(planner(), {"width": 16, "height": 16, "steps": wish.steps, "lora_name": wish.lora})
    wants = [each.want for each in intake.plan({"prompt": wish.prompt, **_fields(wish)})]
    if wish.kind == "edited workflow":  # the file was edited after the row had been planned
        wants = [
            dataclasses.replace(want, spec=dataclasses.replace(want.spec, workflow_digest="old")) for want in wants
        ]
    return tuple(wants)
