"""Whether the files that a side left behind are what was asked for; by Pillow, not by asyncgen's own eyes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from PIL import Image

#: A PNG ends with an IEND chunk, which Pillow's `verify` does not miss where it is gone.
_PNG_END: Final = b"\0\0\0\0IEND\xaeB`\x82"


def picture_faults(folder: Path, *, jobs: int, picture_bytes: int) -> list[str]:
    """What is wrong with the PNG files under `folder`: there must be `jobs`, whole, all different, large enough."""
    paths = sorted(folder.rglob("*.png"))
    faults = [fault for path in paths if (fault := _fault(path, picture_bytes))]
    different = len({hashlib.sha256(path.read_bytes()).digest() for path in paths})
    if len(paths) != jobs:
        faults.append(f"{len(paths)} files for {jobs} jobs")
    if different != len(paths):
        faults.append(f"only {different} of {len(paths)} files are different pictures")
    return faults


def _fault(path: Path, picture_bytes: int) -> str | None:
    data = path.read_bytes()
    if len(data) < picture_bytes:
        return f"{path.name} has {len(data)} bytes, fewer than {picture_bytes}"
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.verify()
    except Exception as error:  # Pillow meets damaged files with many exception types
        return f"{path.name} is no whole PNG: {error}"
    return None if data.endswith(_PNG_END) else f"{path.name} is cut short"
