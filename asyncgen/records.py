"""The plain values that pass between planner, ledger, store and callers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from asyncgen.documents import canonical_json
from asyncgen.errors import Failure
from asyncgen.lifecycle import State
from asyncgen.loras import Lora
from asyncgen.request import ImageRequest
from asyncgen.url_secrets import recordable

PLATFORM = "runpod"
SANDBOX = "sandbox"
#: What stands in the place of an endpoint where a picture was made elsewhere and adopted; its job's id is its hash.
ADOPTED = "adopted"


@dataclass(frozen=True, slots=True)
class SentPicture:
    """One input picture as it was wanted: `sha256`, bytes and `format` are those of the file that the request names.

    Width and height are pixels as a viewer shows them. `resized` is what it is made of before it is sent
    (`crop:1360x768`, `stretch:…`) and `encoded` how (`webp-lossless`, `jpeg:90`); None for both: sent byte by byte.
    """

    sha256: str
    format: str
    width: int
    height: int
    size_bytes: int
    resized: str | None = None
    encoded: str | None = None

    def to_json(self) -> dict[str, Any]:
        """What is None is left out."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Spec:
    """Everything that decides what one job paints, but for the seed: the request with style and defaults filled in.

    `prompt` is the caller's text, `prompt_sent` the composed one; sizes are pixels. `workflow_digest` is a hash of the
    graph and its bindings, so that an edited workflow can be told from the one an image was made with. `model_urls` are
    without what may be secret in them. `sent_pictures` are the input pictures by their names; old
    ledgers have none. `unused` names the values that the workflow takes nowhere: they decide nothing.
    """

    prompt: str
    prompt_sent: str
    style_id: str | None
    style_title: str | None
    width: int
    height: int
    steps: int
    batch_size: int
    model: str
    sampler_name: str
    scheduler_name: str
    flux_guidance: float
    loras: tuple[Lora, ...]
    workflow: str
    workflow_digest: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    model_urls: tuple[tuple[str, str], ...] = ()
    sent_pictures: Mapping[str, SentPicture] = field(default_factory=dict)
    unused: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Canonical JSON, as the ledger keeps it."""
        values = {name: getattr(self, name) for name in self.__slots__}
        values["loras"] = [{"name": lora.name, "strength": lora.strength} for lora in self.loras]
        if sent := values.pop("sent_pictures"):  # left out, so that images without any keep their fingerprints
            values["sent_pictures"] = {name: picture.to_json() for name, picture in sent.items()}
        if not self.unused:
            del values["unused"]
        return canonical_json(values)

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """The spec that `to_json` wrote."""
        values = json.loads(text)
        values["loras"] = tuple(Lora(**lora) for lora in values["loras"])
        values["model_urls"] = tuple((name, recordable(url)) for name, url in values["model_urls"])
        sent = values.get("sent_pictures", {})
        values["sent_pictures"] = {name: SentPicture(**picture) for name, picture in sent.items()}
        values["unused"] = tuple(values.get("unused", ()))
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Want:
    """One job somebody wants, ready for the ledger. `replica` counts the `images` of one request from 0."""

    request: ImageRequest
    replica: int
    spec: Spec
    content_key: bytes
    fixed_seed: int | None  # None: the ledger keeps the seed it drew the first time
    item_id: int | None = None  # the item it was recorded as, for a want that comes from the ledger itself
    row_key: bytes | None = None  # a hash of its row in a prompt file and of all else that decides what the row wants
    _spec_json: str | None = field(default=None, init=False, compare=False, repr=False)

    @property
    def spec_json(self) -> str:
        """Its spec as the ledger keeps it; written when it is first asked for, which nobody may."""
        if self._spec_json is None:
            object.__setattr__(self, "_spec_json", self.spec.to_json())
        assert self._spec_json is not None
        return self._spec_json

    @property
    def fingerprint(self) -> bytes:
        """A hash of the values it would be made with today; where it differs from the record, the image is changed.

        Without the names of unused values, which older records do not have.
        """
        text = replace(self.spec, unused=()).to_json() if self.spec.unused else self.spec_json
        return hashlib.blake2b(text.encode(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class RecordedWant:
    """One item of a batch as it was wanted: enough to plan it again."""

    item_id: int
    request: ImageRequest
    replica: int
    spec: Spec


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """One picture as recorded. `path` is relative to the output root, or None when it was delivered in memory."""

    number: int
    path: str | None
    sha256: str
    size_bytes: int
    format: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Look:
    """What tells a picture from others: a hash of its encoded pixels (16 bytes), and one of how it looks (16 hex
    digits); None where that was not worked out.
    """

    pixels_hash: bytes | None
    perceptual_hash: str | None = None


@dataclass(frozen=True, slots=True)
class Sibling:
    """A picture that was made of the same prompt, with the same values, by another seed; `number` is as recorded."""

    image_id: int
    request_id: str
    number: int
    path: str | None
    look: Look


@dataclass(frozen=True, slots=True)
class Terms:
    """What one job is sent with: where to, how long it may run and exist, and the price (None: not known)."""

    endpoint: str
    execution_timeout_ms: int
    ttl_ms: int
    usd_per_second: float | None = None


@dataclass(slots=True)
class Item:
    """One wanted job as the ledger has it. Only the ledger changes it, and only after the change is durable.

    `attempts` counts what was or may have been bought, `rerolls` how often another seed was drawn after a picture had
    been rejected. `execution_timeout_ms` was sent with its last job, and
    `submitted_at` is when; None where no job of it is out. `run_id` is the run that works on it. `changed`: it was made
    with other values than today's. `repeats`: the same fixed-seed request came earlier in this input, and this is the
    same image.
    """

    id: int
    request_id: str
    state: State
    state_at: float
    seed: int
    attempts: int
    endpoint: str | None
    job_id: str | None
    accepted_at: float | None
    failure: Failure | None
    pictures: tuple[StoredPicture, ...] = ()
    is_new: bool = False
    changed: bool = False
    repeats: bool = False
    execution_timeout_ms: int | None = None
    submitted_at: float | None = None
    run_id: int | None = None
    rerolls: int = 0

    @property
    def was_delivered(self) -> bool:
        """Whether its pictures were handed over in memory, and exist nowhere since."""
        return self.state is State.STORED and all(picture.path is None for picture in self.pictures)


@dataclass(frozen=True, slots=True)
class Batch:
    """A named set of wanted images. `realm` keeps what the sandbox made apart from what a real endpoint made."""

    id: int
    name: str
    realm: str
    is_new: bool
