"""What a second of a worker costs: as the user says, by a table of GPUs, or as the management API tells.

The management API (REST v2) is asked for its GPU catalogue, which has the prices, for the endpoint's workers and for
the endpoint's configuration. Not every key may ask, and nothing that goes wrong there stops a run: the price then stays
unknown.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import anyio

from asyncgen import assets
from asyncgen.diagnosis import cleaned, json_object
from asyncgen.errors import InputError
from asyncgen.money import Price
from asyncgen.ports import HttpRequest, Transport, TransportError

log = logging.getLogger(__name__)

TABLE_FILE: Final = "gpu_prices.json"
_MAX_REPLY_BYTES: Final = 1 << 20
_SECONDS_PER_HOUR: Final = 3600
# A figure outside is no price of one GPU in USD per hour: nothing is rented for less than a cent, so it would be in
# another unit, and a budget must not be spent by it.
_LEAST_USD_PER_HOUR, _MOST_USD_PER_HOUR = 0.01, 1000.0
_MOST_GPUS: Final = 64
_MAX_NAME_CHARACTERS: Final = 80
_NOISE: Final = re.compile(r"nvidia|geforce|rtx|[\W_]+")


async def find_price(
    transport: Transport,
    *,
    usd_per_second: float | None,
    gpu: str | None,
    management_url: str,
    endpoint_id: str,
    api_key: str | None,
    on_platform: bool,
) -> Price | None:
    """The price that the user gives, else that of the GPU the user names, else the management API's; None: unknown.

    `usd_per_second` is above 0. `on_platform` says that the endpoint is RunPod's own: the key of any other is not shown
    to the management API. Raises `InputError` for two prices at once, and for a GPU that is not in the table.
    """
    named = price_named(usd_per_second, gpu)
    if named is None and on_platform and api_key:
        return await price_from_management(transport, management_url, endpoint_id, api_key)
    return named


def price_named(usd_per_second: float | None, gpu: str | None) -> Price | None:
    """The price that the user gives, or that of the GPU the user names; None: neither. Raises `InputError`."""
    if usd_per_second is not None and gpu is not None:
        raise InputError(
            "a price and a GPU are both given: keep one of --usd-per-second (ASYNCGEN_USD_PER_SECOND) and --gpu "
            "(ASYNCGEN_GPU)",
            field="gpu",
        )
    if usd_per_second is not None:
        return Price(usd_per_second, "--usd-per-second")
    return None if gpu is None else price_of_gpu(gpu)


# -- the table -----------------------------------------------------------------------------------------------------


def price_of_gpu(name: str) -> Price:
    """The table's price of a worker with one GPU of this name: "4090", "rtx 4090", "NVIDIA GeForce RTX 4090".

    Raises `InputError` naming the close ones, or all, for a name that is not in the table or fits several GPUs.
    """
    table, wanted = assets.read_json("resources", TABLE_FILE), _key(name)
    for gpu in table["gpus"]:
        if wanted in _spellings(gpu):
            return Price(gpu["usd_per_second"], f"{gpu['name']}, table of {table['date']}")
    raise _not_in_table(name, table)


def _key(name: str) -> str:
    """What is left of a GPU's name when all is dropped that people and platforms write in several ways."""
    return _NOISE.sub("", name.casefold())


def _spellings(gpu: Mapping[str, Any]) -> Iterator[str]:
    for name in (gpu["name"], *gpu["aliases"]):
        yield _key(name)
        yield f"{_key(name)}{gpu['vram_gb']}gb"


def _not_in_table(name: str, table: Mapping[str, Any]) -> InputError:
    names = {spelling: gpu["name"] for gpu in table["gpus"] for spelling in _spellings(gpu)}
    wanted = _key(name)[:_MAX_NAME_CHARACTERS]
    close = [spelling for spelling in names if wanted in spelling] if len(wanted) > 1 else []
    close = close or difflib.get_close_matches(wanted, names)
    listed = ", ".join(dict.fromkeys(names[spelling] for spelling in close or names))
    hint = f"did you mean {listed}?" if close else f"it has {listed}."
    return InputError(
        f"{name[:_MAX_NAME_CHARACTERS]!r} is no GPU of the price table of {table['date']}; {hint} Any other price is "
        "given with --usd-per-second",
        field="gpu",
    )


# -- the management API --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Card:
    """A GPU type of the catalogue that serverless workers can have. `pool` is what endpoints are configured with."""

    type_id: str
    name: str
    pool: str
    usd_per_hour: float


async def price_from_management(
    transport: Transport, base_url: str, endpoint_id: str, api_key: str, timeout_seconds: float = 5.0
) -> Price | None:
    """The highest price of the GPUs that the endpoint's workers have or may get, by the management API's list prices.

    What they may get is in its configuration; without that the workers that are up must do, if all their prices are
    known. None when the key may not ask, nothing answers within `timeout_seconds` in all, or a reply makes no sense.
    `base_url` has no slash at its end; `api_key` is as `Settings.require_api_key` gives it.
    """
    endpoint = f"serverless/{quote(endpoint_id, safe='')}"
    paths = ("catalog/gpus", f"{endpoint}/workers", endpoint)
    answers: dict[str, dict[str, Any] | None] = {}

    async def ask(path: str) -> None:
        answers[path] = await _answer(transport, base_url, path, api_key, timeout_seconds)

    async with anyio.create_task_group() as asking:  # all at once, so that each one's time is the time of all
        for path in paths:
            asking.start_soon(ask, path)
    catalogue, workers, configuration = (answers.get(path) for path in paths)
    return _highest_price(_cards(catalogue), workers, configuration)


async def _answer(
    transport: Transport, base_url: str, path: str, api_key: str, timeout_seconds: float
) -> dict[str, Any] | None:
    """The JSON object that the API answers with, None for any other answer, and for none."""
    request = HttpRequest(
        "GET",
        f"{base_url}/{path}",
        headers={"Authorization": f"Bearer {api_key}", "Accept": "application/json"},
        timeout_seconds=timeout_seconds,
        max_reply_bytes=_MAX_REPLY_BYTES,
    )
    try:
        reply = await transport.send(request)
    except TransportError as error:
        log.debug("management API, %s: no answer (%s)", path, type(error).__name__)
        return None
    body = reply.body.replace(api_key.encode(), b"[key]")  # a server may echo it, and names go to the screen
    answer = json_object(body) if reply.status == 200 else None
    if answer is None:
        log.debug("management API, %s: HTTP %d without a usable answer", path, reply.status)
    return answer


def _cards(catalogue: object) -> list[_Card]:
    """The cards that have a serverless price, the dearest last."""
    cards = [card for entry in _listed(catalogue, "gpus") if (card := _card(entry)) is not None]
    return sorted(cards, key=lambda card: card.usd_per_hour)


def _card(entry: object) -> _Card | None:
    type_id, price = _text(_member(entry, "id")), _member(_member(entry, "price"), "serverless")
    usd_per_hour = _number(price, _LEAST_USD_PER_HOUR, _MOST_USD_PER_HOUR)
    if not type_id or usd_per_hour is None:
        return None
    return _Card(type_id, _text(_member(entry, "name")), _text(_member(entry, "pool")), usd_per_hour)


def _highest_price(cards: list[_Card], workers: object, endpoint: object) -> Price | None:
    by_type = {key: card for card in cards for key in (_key(card.name), _key(card.type_id)) if key}
    prices = [_price_of_worker(by_type, worker) for worker in _listed(workers, "workers")]
    configured = _configured_prices(cards, endpoint)
    if not configured and (not prices or None in prices):
        return None
    known = [price for price in (*prices, *configured) if price is not None]
    return max(known, key=lambda price: price.usd_per_second)


def _price_of_worker(by_type: Mapping[str, _Card], worker: object) -> Price | None:
    """None for a worker that has no GPU yet, or one without a price."""
    return _price(by_type.get(_key(_text(_member(worker, "gpuTypeId")))), _member(worker, "gpuCount"))


def _configured_prices(cards: list[_Card], endpoint: object) -> list[Price]:
    """The highest price of each of the endpoint's pools; empty unless all are known."""
    gpu = _member(endpoint, "gpu")
    excluded = {_key(_text(type_id)) for type_id in _listed(gpu, "excludedTypes")}
    dearest = {card.pool: card for card in cards if card.pool and _key(card.type_id) not in excluded}
    prices = [_price(dearest.get(_text(pool)), _member(gpu, "count")) for pool in _listed(gpu, "pools")]
    known = [price for price in prices if price is not None]
    return known if len(known) == len(prices) else []


def _price(card: _Card | None, gpu_count: object) -> Price | None:
    """The price of a worker with so many of the card; an absent count means one."""
    count = _number(1 if gpu_count is None else gpu_count, 1, _MOST_GPUS)
    if card is None or count is None:
        return None
    gpus = cleaned(card.type_id, _MAX_NAME_CHARACTERS)
    label = gpus if count == 1 else f"{count:g} × {gpus}"
    return Price(card.usd_per_hour * count / _SECONDS_PER_HOUR, f"management API, {label}")


# Readers of JSON that may be anything.


def _member(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None


def _listed(value: object, name: str) -> list[object]:
    found = _member(value, name)
    return found if isinstance(found, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object, least: float, most: float) -> float | None:
    """The number that `value` is, or writes as text; None outside the range."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if least <= number <= most else None
