"""Which images of a batch a command is about. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from asyncgen.records import Item, Want


@dataclass(frozen=True, slots=True)
class Selection:
    """All images, or those that are named and lie in these lanes; what is empty or None excludes nothing.

    `ids` are request ids, callers' own ids, or ids of jobs; `lora` is a LoRA's name.
    """

    ids: frozenset[str] = frozenset()
    style: str | None = None
    lora: str | None = None
    workflow: str | None = None

    def matches(self, want: Want, item: Item) -> bool:
        """Whether an image is meant."""
        return self._names(want, item) and self._is_lane_of(want)

    def matches_unrecorded(self, want: Want) -> bool:
        """Whether an image is meant that no ledger has yet: it has no ids but its owner's."""
        return (not self.ids or want.request.id in self.ids) and self._is_lane_of(want)

    def _names(self, want: Want, item: Item) -> bool:
        return not self.ids or not self.ids.isdisjoint({item.request_id, want.request.id, item.job_id})

    def _is_lane_of(self, want: Want) -> bool:
        spec = want.spec
        return (
            self.style in (None, spec.style_id)
            and self.workflow in (None, spec.workflow)
            and (self.lora is None or any(self.lora in (lora.name, _stem(lora.name)) for lora in spec.loras))
        )


def _stem(file_name: str) -> str:
    return file_name.removesuffix(".safetensors")
