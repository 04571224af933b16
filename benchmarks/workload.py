"""What a side is to do, as it is handed to another process."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Workload:
    """`jobs` pictures from an endpoint, `concurrency` of them out at once, into `folder` or nowhere.

    `base_url` is without the endpoint's id. `polling_interval_seconds` is for the sides that have no documented default
    of their own. `prompts_file` has one prompt a line; None: made up.
    """

    base_url: str
    endpoint: str
    api_key: str
    jobs: int
    folder: Path
    concurrency: int
    polling_interval_seconds: float
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
