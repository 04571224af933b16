"""Prices: the table of GPUs, and the management API over real HTTP on loopback, whatever it answers."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from aiohttp import web
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.assets import read_json
from asyncgen.errors import InputError
from asyncgen.money import Price
from asyncgen.prices import TABLE_FILE, find_price, price_from_management, price_of_gpu
from asyncgen.transport import aiohttp_transport
from tests.support import ENDPOINT, KEY

CATALOGUE, WORKERS, CONFIGURATION = "catalog/gpus", f"serverless/{ENDPOINT}/workers", f"serverless/{ENDPOINT}"
L4, RTX_4090, A100 = "NVIDIA L4", "NVIDIA GeForce RTX 4090", "NVIDIA A100 80GB PCIe"
SILENCE = object()  # an answer that never comes
USD_PER_HOUR: Mapping[str, float] = {L4: 0.684, RTX_4090: 1.116, A100: 2.736}


def card(type_id: str, pool: str | None, **price: Any) -> dict[str, Any]:
    """An entry of the catalogue, in the words of the API's own OpenAPI document."""
    return {"id": type_id, "name": type_id.removeprefix("NVIDIA "), "pool": pool, "manufacturer": "NVIDIA",
            "memory": 24, "secure": True, "community": True, "maxCount": {"secure": 8, "community": 4},
            "price": {"secure": 50.0, "community": 40.0, **price}}  # fmt: skip


def catalogue(**prices: Any) -> dict[str, Any]:
    """L4 and 4090 in one pool and the A100 in another; a 3070 that no serverless worker has."""
    return {"gpus": [card(L4, "ADA_24", serverless=prices.get("l4", USD_PER_HOUR[L4])),
                     card(RTX_4090, "ADA_24", serverless=USD_PER_HOUR[RTX_4090]),
                     card(A100, "AMPERE_80", serverless=USD_PER_HOUR[A100]),
                     card("NVIDIA GeForce RTX 3070", None)]}  # fmt: skip


def workers(*gpu_types: str | None, gpus: Any = 1) -> dict[str, Any]:
    listed = [
        {"id": f"w{number}", "status": "RUNNING", "isStale": False, "gpuCount": gpus, "gpuTypeId": gpu_type}
        for number, gpu_type in enumerate(gpu_types)
    ]
    return {"workers": listed, "summary": {"running": len(listed), "total": len(listed)}, "endpointVersion": 4}


def configured(*pools: Any, **gpu: Any) -> dict[str, Any]:
    return {"id": ENDPOINT, "type": "QUEUE", "workers": {"min": 0, "max": 5}, "gpu": {"pools": list(pools), **gpu}}


@dataclass
class Api:
    """A management API that gives these answers: JSON, bytes as they are, or an HTTP status."""

    answers: dict[str, Any]
    asked: list[web.Request] = field(default_factory=list)
    base_url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        answer = self.answers.get(request.match_info["path"], 404)
        if answer is SILENCE:
            await asyncio.Event().wait()
        if isinstance(answer, int):
            return web.json_response({"title": "No", "status": answer, "detail": f"not with {KEY}"}, status=answer)
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        return web.Response(body=body, content_type="application/json")


@asynccontextmanager
async def serving(**answers: Any) -> AsyncIterator[Api]:
    """The API, where nothing else is said with a plain catalogue, no worker, and the 24 GB pool configured."""
    plain = {CATALOGUE: catalogue(), WORKERS: workers(), CONFIGURATION: configured("ADA_24")}
    names = {"gpus": CATALOGUE, "workers": WORKERS, "configuration": CONFIGURATION}
    api = Api(plain | {names[name]: answer for name, answer in answers.items()})
    application = web.Application()
    application.router.add_get("/v2/{path:.*}", api.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.05)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        api.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v2"
        yield api
    finally:
        await runner.cleanup()


async def ask(base_url: str, timeout_seconds: float = 5.0) -> Price | None:
    async with aiohttp_transport() as transport:
        return await price_from_management(transport, base_url, ENDPOINT, KEY, timeout_seconds)


async def told(**answers: Any) -> Price | None:
    """The price, after such answers."""
    async with serving(**answers) as api:
        return await ask(api.base_url)


def is_price_of(price: Price | None, gpu_type: str, gpus: int = 1) -> bool:
    """Whether it is what the API says of a worker with so many of these."""
    assert price is not None
    assert price.usd_per_second == pytest.approx(USD_PER_HOUR[gpu_type] * gpus / 3600)
    return price.source == f"management API, {gpu_type if gpus == 1 else f'{gpus} × {gpu_type}'}"


# -- the table


@pytest.mark.parametrize(
    ("spelling", "name", "usd_per_second"),
    [
        ("4090", "NVIDIA GeForce RTX 4090", 0.00031),
        ("rtx 4090", "NVIDIA GeForce RTX 4090", 0.00031),
        ("RTX4090", "NVIDIA GeForce RTX 4090", 0.00031),
        ("  NVIDIA  GeForce RTX™ 4090 24 GB", "NVIDIA GeForce RTX 4090", 0.00031),
        ("L4", "NVIDIA L4", 0.00019),
        ("a5000", "NVIDIA RTX A5000", 0.00019),
        ("RTX_3090", "NVIDIA GeForce RTX 3090", 0.00019),
        ("a4000", "NVIDIA RTX A4000", 0.00016),
        ("A6000", "NVIDIA RTX A6000", 0.00034),
        ("a40", "NVIDIA A40", 0.00034),
        ("6000 ada", "NVIDIA RTX 6000 Ada Generation", 0.00053),
        ("L40S", "NVIDIA L40S", 0.00053),
        ("a100", "NVIDIA A100", 0.00076),
        ("a100 80gb", "NVIDIA A100", 0.00076),
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100", 0.00076),
        ("rtx pro 6000", "NVIDIA RTX PRO 6000", 0.00111),
        ("H100", "NVIDIA H100", 0.00116),
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100", 0.00116),
        ("h200", "NVIDIA H200", 0.00155),
        ("b200", "NVIDIA B200", 0.0024),
    ],
)
def test_a_gpu_is_found_however_it_is_written(spelling: str, name: str, usd_per_second: float) -> None:
    assert price_of_gpu(spelling) == Price(usd_per_second, f"{name}, table of 2026-06")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("6000", "did you mean NVIDIA RTX A6000, NVIDIA RTX 6000 Ada Generation, NVIDIA RTX PRO 6000?"),
        ("A10", "did you mean NVIDIA A100?"),
        ("a100 40gb", "did you mean NVIDIA A100"),
        ("4090 Ti", "did you mean NVIDIA GeForce RTX 4090"),
        ("π4090", "did you mean NVIDIA GeForce RTX 4090"),
        ("RTX PRO 6000 MIG 24GB", "did you mean NVIDIA RTX PRO 6000"),
        ("", "it has NVIDIA RTX A4000, "),
        ("nvidia", "it has NVIDIA RTX A4000, "),
        ("Voodoo 2", "it has NVIDIA RTX A4000, "),
    ],
)
def test_an_unknown_or_ambiguous_gpu_is_refused_with_those_that_could_be_meant(name: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        price_of_gpu(name)
    assert caught.value.field == "gpu"
    assert hint in caught.value.message
    assert "2026-06" in caught.value.message
    assert "--usd-per-second" in caught.value.message


@given(st.text() | st.integers(1, 10**6).map("x".__mul__))
def test_any_other_name_is_refused_in_a_short_message(name: str) -> None:
    try:
        price_of_gpu(name)
    except InputError as error:
        assert len(error.message) < 1500


def test_every_entry_of_the_table_is_found_by_its_name_and_its_aliases() -> None:
    table = read_json("resources", TABLE_FILE)
    assert (table["date"], table["currency"]) == ("2026-06", "USD")
    assert table["source"]
    for gpu in table["gpus"]:
        assert gpu["vram_gb"] >= 16
        for name in (gpu["name"], *gpu["aliases"], f"{gpu['name']} {gpu['vram_gb']} GB"):
            assert price_of_gpu(name) == Price(gpu["usd_per_second"], f"{gpu['name']}, table of 2026-06")
            assert 0.0001 < gpu["usd_per_second"] < 0.01


# -- the management API


@pytest.mark.anyio
async def test_the_dearest_gpu_that_a_worker_has_or_may_get_counts() -> None:
    """A budget must hold for the worker that starts next, too."""
    mixed = workers(L4, RTX_4090, L4)
    assert is_price_of(await told(workers=mixed), RTX_4090)
    assert is_price_of(await told(workers=mixed, configuration=configured("AMPERE_80")), A100)
    assert is_price_of(await told(workers=workers(A100), configuration=configured("ADA_24")), A100)


@pytest.mark.anyio
async def test_a_worker_with_several_gpus_costs_their_sum() -> None:
    assert is_price_of(await told(workers=workers(RTX_4090, gpus=2)), RTX_4090, gpus=2)
    assert is_price_of(await told(configuration=configured("ADA_24", count=4)), RTX_4090, gpus=4)


@pytest.mark.anyio
async def test_without_workers_the_dearest_gpu_of_the_configured_pools_counts() -> None:
    assert is_price_of(await told(configuration=configured("ADA_24")), RTX_4090)
    assert is_price_of(await told(configuration=configured("AMPERE_80", "ADA_24")), A100)


@pytest.mark.anyio
async def test_a_gpu_type_that_is_excluded_from_its_pool_does_not_count() -> None:
    without = configured("ADA_24", excludedTypes=["NVIDIA  geforce RTX 4090"])
    assert is_price_of(await told(configuration=without), L4)


@pytest.mark.anyio
@pytest.mark.parametrize("gpu_type", [None, "NVIDIA Voodoo 2", "NVIDIA GeForce RTX 3070"])
async def test_a_worker_of_unknown_price_brings_in_what_is_configured(gpu_type: str | None) -> None:
    """It waits for a GPU, or has one that the catalogue does not sell."""
    some = workers(L4, gpu_type)
    assert is_price_of(await told(workers=some, configuration=configured("AMPERE_80")), A100)
    assert await told(workers=some, configuration=configured("GONE_16")) is None


@pytest.mark.anyio
@pytest.mark.parametrize("gpu_type", ["NVIDIA RTX 4090", "nvidia geforce  rtx 4090 ", "GeForce RTX 4090"])
async def test_a_gpu_type_is_found_in_the_catalogue_however_it_is_written(gpu_type: str) -> None:
    assert is_price_of(await told(workers=workers(gpu_type)), RTX_4090)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "configuration",
    [
        configured(),
        configured("ADA_24", "GONE_16"),
        configured("ADA_24", None),
        configured("ADA_24", ["ADA_24"]),
        configured(""),
        configured("ADA_24", excludedTypes=[L4, RTX_4090]),
        configured("ADA_24", count=0),
        configured("ADA_24", count="many"),
        {"gpu": None, "cpu": {"count": 4}},
        {"gpu": ["ADA_24"]},
        {},
    ],
)
async def test_a_configuration_that_is_not_wholly_understood_has_no_price(configuration: dict[str, Any]) -> None:
    assert await told(configuration=configuration) is None


@pytest.mark.anyio
@pytest.mark.parametrize("pool", ["", None])
async def test_no_pool_is_not_a_pool(pool: str | None) -> None:
    unpooled = {"gpus": [card(L4, pool, serverless=1)]}
    assert await told(gpus=unpooled, configuration=configured(pool)) is None


@pytest.mark.anyio
@pytest.mark.parametrize(
    "usd_per_hour",
    [0, -1, 0.00031, 1001, 10**400, True, None, [], {}, "", "nan", "inf", "free"],
)
async def test_what_cannot_be_a_price_in_usd_per_hour_is_none(usd_per_hour: object) -> None:
    """0.00031 would be per second: read as per hour it would let a budget be spent 3600 times."""
    assert await told(gpus=catalogue(l4=usd_per_hour), workers=workers(L4), configuration={}) is None


@pytest.mark.anyio
async def test_a_price_that_is_written_as_text_is_read() -> None:
    price = await told(gpus=catalogue(l4="0.69"), workers=workers(L4), configuration={})
    assert price == Price(0.69 / 3600, f"management API, {L4}")


@pytest.mark.anyio
async def test_the_key_is_sent_and_nothing_but_get() -> None:
    async with serving() as api:
        await ask(api.base_url)
    assert {request.path for request in api.asked} == {f"/v2/{path}" for path in (CATALOGUE, WORKERS, CONFIGURATION)}
    assert {(request.method, request.headers["Authorization"]) for request in api.asked} == {("GET", f"Bearer {KEY}")}


@pytest.mark.anyio
@pytest.mark.parametrize("status", [301, 401, 403, 404, 429, 500, 503])
async def test_a_key_that_may_not_ask_leaves_the_price_unknown(status: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    assert await told(gpus=status, workers=status, configuration=status) is None
    assert f"management API, {CATALOGUE}: HTTP {status}" in caplog.text
    assert {record.levelname for record in caplog.records if record.name == "asyncgen.prices"} == {"DEBUG"}
    assert KEY not in caplog.text


@pytest.mark.anyio
async def test_a_key_that_may_not_see_the_workers_gets_the_price_of_what_is_configured() -> None:
    assert is_price_of(await told(workers=403), RTX_4090)
    assert await told(gpus=403, workers=workers(L4)) is None
    assert is_price_of(await told(workers=workers(L4), configuration=403), L4)


@pytest.mark.anyio
@pytest.mark.parametrize("base_url", ["http://127.0.0.1:1/v2", "http://no-such-host.invalid/v2", "no url at all", ""])
async def test_where_nothing_answers_the_price_is_unknown(base_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    assert await ask(base_url) is None
    assert f"management API, {CATALOGUE}: no answer" in caplog.text
    assert KEY not in caplog.text


@pytest.mark.anyio
async def test_an_answer_that_does_not_come_in_time_is_not_waited_for() -> None:
    """The price is found from the others where they suffice."""
    with anyio.fail_after(10):
        async with serving(configuration=SILENCE, workers=workers(L4)) as api:
            assert is_price_of(await ask(api.base_url, timeout_seconds=0.5), L4)
        async with serving(gpus=SILENCE, workers=SILENCE, configuration=SILENCE) as api:
            assert await ask(api.base_url, timeout_seconds=0.05) is None


@pytest.mark.anyio
async def test_a_catalogue_without_end_is_not_read() -> None:
    endless = catalogue() | {"more": "x" * (1 << 20)}
    assert await told(gpus=endless, workers=workers(L4)) is None


@pytest.mark.anyio
async def test_what_the_catalogue_says_reaches_a_terminal_as_one_short_line_without_the_key() -> None:
    hostile = f"\x1b[2J{KEY}\n{'L4 ' * 1000}"
    gpus = {"gpus": [card(hostile, "ADA_24", serverless=1)]}
    price = await told(gpus=gpus)
    assert price is not None
    assert price.source.isprintable()
    assert len(price.source) < 120
    assert KEY not in price.source


@dataclass
class Standing:
    """An API and a transport that stay for many questions, in an event loop of their own."""

    portal: BlockingPortal
    api: Api

    def asked(self, answers: Mapping[str, Any]) -> Price | None:
        self.api.answers, self.api.asked = dict(answers), []
        return self.portal.call(ask, self.api.base_url)


@pytest.fixture(scope="module")
def standing() -> Iterator[Standing]:
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(serving()) as api:
        yield Standing(portal, api)


_NAMES = st.sampled_from([L4, RTX_4090, "ADA_24", "AMPERE_80", "", "\x00", "NVIDIA"])
_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | _NAMES
_MEMBERS = st.sampled_from(
    ["gpus", "id", "name", "pool", "price", "serverless", "workers", "gpuTypeId", "gpuCount", "gpu", "pools",
     "excludedTypes", "count"]
)  # fmt: skip
_JSON = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_MEMBERS, inner, max_size=3),
    max_leaves=12,
)


def _bent(value: Any, how: Any) -> Any:
    """The same answer with one value somewhere in it replaced by another."""
    place, odd = how
    if not place or not isinstance(value, dict | list) or not value:
        return odd
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = keys[place[0] % len(keys)]
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    copy[key] = _bent(value[key], (place[1:], odd))
    return copy


_BENDS = st.tuples(st.lists(st.integers(0, 20), max_size=4), _JSON)
_BODIES = st.binary(max_size=50) | _JSON | st.just(b"[" * 100_000) | st.just(b'{"gpus": ' * 10_000)


@given(st.tuples(_BODIES, _BODIES, _BODIES))
def test_no_answer_makes_it_raise(standing: Standing, bodies: tuple[Any, Any, Any]) -> None:
    _holds(standing.asked(dict(zip((CATALOGUE, WORKERS, CONFIGURATION), map(_sent, bodies), strict=True))))


@given(st.tuples(_BENDS, _BENDS, _BENDS))
def test_no_answer_that_is_nearly_right_makes_it_raise(standing: Standing, bends: tuple[Any, Any, Any]) -> None:
    right = (catalogue(), workers(L4, RTX_4090), configured("ADA_24", "AMPERE_80", excludedTypes=[L4], count=1))
    bent = [_sent(_bent(answer, how)) for answer, how in zip(right, bends, strict=True)]
    _holds(standing.asked(dict(zip((CATALOGUE, WORKERS, CONFIGURATION), bent, strict=True))))


def _sent(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def _holds(price: Price | None) -> None:
    assert price is None or (0.01 / 3600 <= price.usd_per_second <= 64_000 / 3600 and price.source.isprintable())


# -- which of them


async def found(base_url: str = "http://127.0.0.1:1/v2", **given_by_user: Any) -> Price | None:
    wanted = {"usd_per_second": None, "gpu": None, "api_key": KEY, "on_platform": True, **given_by_user}
    async with aiohttp_transport() as transport:
        return await find_price(transport, management_url=base_url, endpoint_id=ENDPOINT, **wanted)


@pytest.mark.anyio
async def test_what_the_user_says_comes_first_and_asks_nobody() -> None:
    async with serving() as api:
        assert await found(api.base_url, usd_per_second=0.0007) == Price(0.0007, "--usd-per-second")
        assert await found(api.base_url, gpu="l4") == Price(0.00019, "NVIDIA L4, table of 2026-06")
    assert not api.asked


@pytest.mark.anyio
async def test_where_the_user_says_nothing_the_management_api_is_asked() -> None:
    async with serving() as api:
        assert is_price_of(await found(api.base_url), RTX_4090)


@pytest.mark.anyio
@pytest.mark.parametrize("missing", [{"on_platform": False}, {"api_key": None}, {"api_key": ""}])
async def test_the_management_api_is_not_asked_without_a_key_or_for_another_platform(missing: dict[str, Any]) -> None:
    async with serving() as api:
        assert await found(api.base_url, **missing) is None
    assert not api.asked


@pytest.mark.anyio
async def test_two_prices_at_once_are_refused() -> None:
    with pytest.raises(InputError, match=r"--usd-per-second .*--gpu") as caught:
        await found(usd_per_second=0.0007, gpu="l4")
    assert caught.value.field == "gpu"


@pytest.mark.anyio
async def test_a_gpu_that_is_not_in_the_table_is_refused_though_the_api_might_know_better() -> None:
    with pytest.raises(InputError, match="Voodoo"):
        await found(gpu="Voodoo 2")
