"""What goes wrong in one round of `tests.faults.kill`, drawn from its seed: the fate of each image, and the weather.

A *fate* belongs to a prompt and is known beforehand, so that the ending of its image can be called right or wrong. The
*weather* are faults of requests: they may hit anything, and may change no ending but to `unknown`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from asyncgen.sandbox import FaultRule
from tests.support import fault


@dataclass(frozen=True)
class Fate:
    """What the platform makes of a prompt's jobs, and the failure that its image must end with (None: it is stored).

    `times` bounds how often that happens (None: to every job). `platform` says that it is the platform's fault: the
    image may then be bought again.
    """

    fault: str = ""
    code: str | None = None
    times: int | None = None
    platform: bool = False
    operation: str = "job"

    def rules(self, prompt: str) -> list[FaultRule]:
        """The sandbox's rules that bring it about."""
        limit = {} if self.times is None else {"count": self.times}
        rule = {"operation": self.operation, "prompt_contains": prompt, **limit}
        return [fault(self.fault, **rule)] if self.fault else []


WHOLE = Fate()
FATES = (
    Fate("failed:exception", "worker_error"),
    Fate("failed:details", "worker_error"),
    Fate("failed:missing_model", "model_not_found"),
    Fate("no_images", "no_image"),
    Fate("no_output", "no_output"),
    Fate("cut_image", "corrupt_image"),
    Fate("not_an_image", "not_an_image"),
    Fate("failed:out_of_memory", "out_of_memory", platform=True),
    Fate("failed:out_of_memory", times=1, platform=True),
    Fate("failed:worker_not_ready", times=1, platform=True),
    Fate("failed:platform", times=1, platform=True),
    Fate("timed_out", times=1, platform=True),
    Fate("lost_job", times=1, platform=True),
    Fate("not_found_at_first"),
    Fate("wrong_base64", times=2, operation="result"),
)
_SHARE_OF_FATES = 0.12
_SHARE_OF_WEATHER = 0.7

# Each with the largest share of requests that it hits.
_WEATHER: tuple[tuple[float, str, Mapping[str, Any]], ...] = (
    (0.08, "429", {"operation": "run"}),
    (0.05, "503", {"operation": "run"}),
    (0.02, "500", {"operation": "run"}),
    (0.02, "502", {"operation": "run"}),
    (0.02, "524", {"operation": "run"}),
    (0.02, "reset_before_accept", {"operation": "run"}),
    (0.03, "reset_after_accept", {"operation": "run"}),
    (0.02, "cut_body", {"operation": "run"}),
    (0.10, "slow_body", {"operation": "run", "seconds": 0.4}),
    (0.01, "no_credit", {"operation": "run", "count": 1}),
    (0.05, "500_html", {"operation": "status"}),
    (0.05, "504", {"operation": "status"}),
    (0.05, "429", {"operation": "status"}),
    (0.02, "not_found", {"operation": "status"}),
    (0.05, "reset_before_accept", {"operation": "status"}),
    (0.05, "reset_after_accept", {"operation": "status"}),
    (0.01, "unauthorized", {"operation": "status", "count": 1}),
    (0.15, "cut_body", {"operation": "result"}),
    (0.10, "slow_body", {"operation": "result", "seconds": 0.3}),
)


def draw_fates(chance: Random, prompts: Sequence[str]) -> dict[str, Fate]:
    """A fate for each prompt; most are whole."""
    return {prompt: chance.choice(FATES) if chance.random() < _SHARE_OF_FATES else WHOLE for prompt in prompts}


def draw_weather(chance: Random) -> list[FaultRule]:
    """Faults of requests, some of each round's own choice."""
    return [
        fault(name, probability=round(chance.uniform(0.2, 1) * share, 4), **rule)
        for share, name, rule in _WEATHER
        if chance.random() < _SHARE_OF_WEATHER
    ]
