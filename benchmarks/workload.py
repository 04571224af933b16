"""What a side is to do, as it is handed to another process."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

_GRID_PIXELS = 8  # sizes are multiples of it, as those of latents are


def picture_size(size_bytes: int) -> tuple[int, int]:
    """Width and height in pixels of a picture of noise that takes about so many bytes, and no fewer."""
    pixels = size_bytes / 3
    width = max(2, int(pixels**0.5) // _GRID_PIXELS) * _GRID_PIXELS
    return width, max(2, math.ceil(pixels / width / _GRID_PIXELS)) * _GRID_PIXELS


@dataclass(frozen=True, slots=True)
class Workload:
    """`jobs` pictures from an endpoint, `concurrency` of them out at once, into `folder` or nowhere.

    `base_url` is without the endpoint's id. `polling_interval_seconds` is for the sides that have no documented default
    of their own. `prompts_file` has one prompt a line; None: made up. The server's pictures take `picture_bytes`.
    """

    base_url: str
    endpoint: str
    api_key: str
    jobs: int
    folder: Path
    concurrency: int
    polling_interval_seconds: float
    picture_bytes: int
    keeps_files: bool = True
    prompts_file: Path | None = None

    def prompts(self) -> list[str]:
        """One prompt per job, all different."""
        return [f"a lighthouse on a rock in heavy seas, study {number}" for number in range(self.jobs)]

    def to_json(self) -> str:
        """For `from_json` in another process."""
        return json.dumps(asdict(self), default=str)

    @staticmethod
    def from_json(text: str) -> Workload:
        """What `to_json` wrote."""
        values = json.loads(text)
        prompts_file = values["prompts_file"]
        return Workload(
            **values
            | {"folder": Path(values["folder"]), "prompts_file": None if prompts_file is None else Path(prompts_file)}
        )
