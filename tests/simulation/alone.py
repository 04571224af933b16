"""Sharing for worlds in which nobody else uses the endpoint: its lock files would be real ones."""

from __future__ import annotations

from collections.abc import Callable

from asyncgen.protocol import EndpointAddress
from asyncgen.sharing import Sharing


class Alone(Sharing):
    """One run, and nobody to share with."""

    def join(self, address: EndpointAddress) -> Callable[[], int]:
        return lambda: 1
