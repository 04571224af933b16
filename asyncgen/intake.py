"""Prompts in: any iterable, async iterable or prompt file, read lazily, planned in small chunks.

Of a prompt file large blocks are first looked up by their keys: what is kept is neither parsed nor planned again.

A chunk is at most 32 jobs and is cut short when its source is slow, so that the first image does not wait for the
thirty-second prompt and planning never holds the event loop for long.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import PurePath
from typing import Any, Final

from asyncgen.errors import InputError
from asyncgen.plan import Planner
from asyncgen.ports import Ports
from asyncgen.prompts import BadRow, RawRow, Row
from asyncgen.records import RecordedWant, Want
from asyncgen.request import FIELD_NAMES, INPUT_PICTURES, ImageRequest, parse_request

Prompt = str | Mapping[str, Any] | ImageRequest
Prompts = Iterable[Prompt] | AsyncIterable[Prompt]
#: Of these keys of rows, those that need no planning, and how many images each stands for. A key is taken once.
TakeKept = Callable[[Sequence[bytes]], Awaitable[dict[bytes, int]]]

#: Rows that are looked up at once.
BLOCK: Final = 4096
_CHUNK: Final = 32
_PICTURE: Final = str | bytes | PurePath
_SLOW_SOURCE_SECONDS: Final = 0.003


@dataclass(frozen=True, slots=True)
class IndexedWant:
    """One job of the input: its place in input order, and what is wanted."""

    index: int
    want: Want


class Intake:
    """Turns prompts into wants, chunk by chunk.

    `shared` are fields for every request that does not say otherwise; `name` is the prompt file's, for errors.

    With `skip_bad` a request that is wrong is reported to `on_bad` instead of raised.
    """

    def __init__(
        self,
        planner: Planner,
        shared: Mapping[str, Any] | None = None,
        *,
        name: str = "prompts",
        skip_bad: bool = False,
        on_bad: Callable[[InputError], None] | None = None,
    ) -> None:
        self._planner = planner
        said = (shared or {}).items()
        # What is said for all under an alias must give way to what one request says under the field's own name.
        self._shared = {FIELD_NAMES.get(name, name): value for name, value in said if value is not None}
        self._shared_pictures = _pictures_named(self._shared)
        self._skip_bad, self._on_bad = skip_bad, on_bad
        self._name, self._next_index, self._read = name, 0, 0

    def plan(self, prompt: Prompt | Row | BadRow) -> list[IndexedWant]:
        """The jobs of one prompt. Raises `InputError` naming the row, unless bad ones are skipped."""
        return list(self._planned([prompt]))

    def plan_recorded(self, recorded: RecordedWant, *, todays_values: bool) -> IndexedWant:
        """A job that the ledger has already; see `Planner.recorded`."""
        return self._indexed(self._planner.recorded(recorded, todays_values=todays_values))

    def _planned(self, prompts: Iterable[Prompt | Row | BadRow]) -> Iterator[IndexedWant]:
        """Lazily, because one request may stand for 10,000 jobs."""
        for prompt in prompts:
            self._read += 1
            try:
                request = self._request(prompt)
                # A workflow or a picture that a row names is a file of its own, which may change under an equal key.
                has_files = request.workflow is not None or bool(request.input_pictures)
                key = prompt.key if isinstance(prompt, Row) and not has_files else None
                wants = self._planner.wants(request, key)
            except InputError as error:
                self._refuse(prompt, error)
            else:
                yield from map(self._indexed, wants)

    def _indexed(self, want: Want) -> IndexedWant:
        index, self._next_index = self._next_index, self._next_index + 1
        return IndexedWant(index, want)

    def _refuse(self, prompt: Prompt | Row | BadRow, error: InputError) -> None:
        located = error if error.where else error.at(self._place(prompt))
        if not self._skip_bad or (isinstance(prompt, BadRow) and prompt.is_header):
            raise located from None
        if self._on_bad is not None:
            self._on_bad(located)

    async def of_rows(
        self,
        rows: Iterator[RawRow | BadRow],
        parse: Callable[[RawRow | BadRow], Row | BadRow],
        ports: Ports,
        take_kept: TakeKept | None = None,
    ) -> AsyncGenerator[list[IndexedWant], None]:
        """The chunks of a prompt file, read and parsed off the event loop; what is kept only takes its places."""
        while block := await ports.file_threads.run(lambda: list(islice(rows, BLOCK))):
            kept = {} if take_kept is None else await take_kept([row.key for row in block if isinstance(row, RawRow)])
            fresh, kept_last = _without(block, kept)
            for begin in range(0, len(fresh), _CHUNK):
                chunk = fresh[begin : begin + _CHUNK]
                parsed = await ports.file_threads.run(lambda chunk=chunk: [parse(row) for _, row in chunk])
                await self._look_at_pictures(parsed, ports)
                for wants in _chunked(self._planned_between(parsed, [places for places, _ in chunk])):
                    yield wants
            self._next_index += kept_last

    def _planned_between(self, rows: Iterable[Row | BadRow], kept: Iterable[int]) -> Iterator[IndexedWant]:
        """The jobs of rows before each of which so many images are kept."""
        for row, places in zip(rows, kept, strict=True):
            self._next_index += places
            yield from self._planned([row])

    async def of_prompts(
        self, prompts: Prompts | AsyncIterable[Row | BadRow], ports: Ports
    ) -> AsyncGenerator[list[IndexedWant], None]:
        """The chunks of an iterable. A plain one is read on the event loop: give an async one if it is slow."""
        if isinstance(prompts, str | bytes | Mapping | ImageRequest):  # each can be iterated, and none of them is meant
            raise InputError(
                f"give a list of prompts, not a single {type(prompts).__name__} (generate_image makes one image)",
                field="prompts",
            )
        if isinstance(prompts, AsyncIterable):
            async for prompt in prompts:
                await self._look_at_pictures([prompt], ports)
                for wants in _chunked(self._planned([prompt])):
                    yield wants
            return
        unread = iter(prompts)
        while read := list(_until_slow(islice(unread, _CHUNK), ports.clock.now)):
            await self._look_at_pictures(read, ports)
            planned = self._planned(read)
            while wants := list(_until_slow(islice(planned, _CHUNK), ports.clock.now)):
                yield wants
                await ports.clock.sleep(0)

    async def _look_at_pictures(self, prompts: Iterable[Prompt | Row | BadRow], ports: Ports) -> None:
        """Off the event loop, where there is anything to look at."""
        if named := self.pictures_of(prompts):
            await ports.file_threads.run(self._look, named)

    def look_at_pictures(self, prompts: Iterable[Prompt | Row | BadRow]) -> None:
        """Read and download what these prompts name, so that planning finds it known. Blocks, and raises nothing."""
        if named := self.pictures_of(prompts):
            self._look(named)

    def _look(self, named: Iterable[str | bytes | PurePath]) -> None:
        if self._planner.pictures is not None:
            self._planner.pictures.look(named)

    def pictures_of(self, prompts: Iterable[Prompt | Row | BadRow]) -> list[str | bytes | PurePath]:
        """The input pictures that these prompts name, by themselves or with all others."""
        named = [_pictures_named(prompt) for prompt in prompts]
        if not any(named) and not self._shared_pictures:
            return []
        return [picture for own in named for picture in {**self._shared_pictures, **own}.values()]

    def _place(self, prompt: Prompt | Row | BadRow) -> str:
        return prompt.where or f"{self._name}:{prompt.line}" if isinstance(prompt, Row) else f"prompt {self._read}"

    def _request(self, prompt: Prompt | Row | BadRow) -> ImageRequest:
        if isinstance(prompt, BadRow):
            raise prompt.error
        request = prompt.request if isinstance(prompt, Row) else prompt
        if not self._shared:
            return parse_request(request)
        if isinstance(request, str):
            return parse_request({**self._shared, "prompt": request})
        own = parse_request(request)
        if (shared := self._checked) is None:
            return parse_request({**self._shared, **_fields(own)})
        return own.model_copy(update={name: shared[name] for name in shared.keys() - own.model_fields_set})

    @cached_property
    def _checked(self) -> Mapping[str, Any] | None:
        """The shared fields, checked by themselves: each request need not check them again. None: they are wrong."""
        try:
            checked = parse_request({"prompt": "any", **self._shared})
        except InputError:
            return None  # whoever checks them with a request says so with its place
        return {name: getattr(checked, name) for name in self._shared}


def _fields(request: ImageRequest) -> Mapping[str, Any]:
    return {name: getattr(request, name) for name in request.model_fields_set}


def _pictures_named(prompt: Prompt | Row | BadRow) -> Mapping[str, Any]:
    """Without checking anything: what is wrong is told when the prompt is planned."""
    if isinstance(prompt, Mapping):
        return {name: prompt[name] for name in INPUT_PICTURES if isinstance(prompt.get(name), _PICTURE)}
    request = prompt.request if isinstance(prompt, Row) else prompt
    return request.input_pictures if isinstance(request, ImageRequest) else {}


def _without(block: Iterable[RawRow | BadRow], kept: dict[bytes, int]) -> tuple[list[tuple[int, RawRow | BadRow]], int]:
    """The rows that are not kept, each with the number of kept images before it, and that number after the last."""
    others: list[tuple[int, RawRow | BadRow]] = []
    places = 0
    for row in block:
        if isinstance(row, RawRow) and (images := kept.pop(row.key, 0)):
            places += images
        else:
            others.append((places, row))
            places = 0
    return others, places


def _chunked(wants: Iterator[IndexedWant]) -> Iterator[list[IndexedWant]]:
    while chunk := list(islice(wants, _CHUNK)):
        yield chunk


def _until_slow(items: Iterable[Any], now: Callable[[], float]) -> Iterator[Any]:
    began = now()
    for item in items:
        yield item
        if now() - began > _SLOW_SOURCE_SECONDS:
            return
