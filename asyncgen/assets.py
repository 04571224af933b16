"""Where the data files are: workflows, styles, SQL.

In a checkout the folders `workflows/` and `resources/` stand beside the package; in an installed wheel they are inside
it. This is the only module that knows the difference.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

_PACKAGE: Final = Path(__file__).resolve().parent
_FOLDERS: Final = ("workflows", "resources")


def data_path(*parts: str) -> Path:
    """The file or folder `parts` names, such as `("workflows", "object_info.json")`.

    Raises `ValueError` when the first part is not a data folder, and `FileNotFoundError` naming both places looked at
    when nothing is there: the installation is then incomplete.
    """
    if not parts or parts[0] not in _FOLDERS:
        raise ValueError(f"data files live in {' and '.join(_FOLDERS)}, not in {'/'.join(parts) or 'nothing'!r}")
    places = [root.joinpath(*parts) for root in (_PACKAGE, _PACKAGE.parent)]
    for place in places:
        if place.exists():
            return place
    looked = " and ".join(str(place) for place in places)
    raise FileNotFoundError(f"the data file {'/'.join(parts)} is missing (looked at {looked}): install asyncgen again")


def read_json(*parts: str) -> Any:
    """The content of the JSON data file `parts` names. Raises what `data_path` raises."""
    return json.loads(data_path(*parts).read_text(encoding="utf-8"))
