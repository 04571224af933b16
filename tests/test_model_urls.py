"""LoRA files by URL: for LoRAs that a graph uses, and no secret in anything that is kept, logged or shown."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from support import SMALL, bought, files, open_sandbox, received, run_cli, settings_for, true_output

from asyncgen import ImageGenerator, RunPausedError
from asyncgen.errors import InputError
from asyncgen.loras import Lora
from asyncgen.model_urls import ModelUrls
from asyncgen.ports import HttpReply
from asyncgen.protocol import Failed
from asyncgen.registry import StylesRegistry
from asyncgen.replies import decipher_status
from asyncgen.url_secrets import recordable, redacted

SECRET = "5e1ec7ed5e1ec7ed"
PLAIN = "https://files.example/loras/ink.safetensors"
SIGNED = f"{PLAIN}?X-Amz-Expires=900&X-Amz-Signature={SECRET}"
INK: dict[str, Any] = {"prompt": "a fox", "lora_name": "ink", **SMALL}


def registry(folder: Path, s3_url: str | None) -> StylesRegistry:
    content = {
        "styles": [{"id": "7", "title": "Ink", "lora_file": "ink.safetensors"}],
        "loras": [{"lora_name": "ink", "lora_file": "ink.safetensors", "s3_url": s3_url}],
    }
    (folder / "styles.json").write_text(json.dumps(content), encoding="utf-8")
    return StylesRegistry.load(folder / "styles.json")


def assert_told_nowhere(folder: Path, *texts: str) -> None:
    assert not [path for path in files(folder) if SECRET.encode() in path.read_bytes()]
    assert not [text for text in texts if SECRET in text]


@pytest.mark.anyio
async def test_a_signed_url_reaches_the_worker_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_sandbox() as sandbox:
        inputs = received(sandbox)
        settings = settings_for(sandbox, tmp_path / "out")
        async with ImageGenerator(settings, model_urls={"ink": SIGNED}) as generator:
            (first,) = await generator.generate_many([INK], batch="set")
        async with ImageGenerator(settings, model_urls={"ink": f"{SIGNED}0"}) as generator:
            (kept,) = await generator.generate_many([INK], batch="set")
    assert (kept.kept, kept.changed, kept.request_id) == (True, False, first.request_id)
    (job_input,) = inputs
    assert job_input["model_urls"] == [{"id": "ink.safetensors", "url": SIGNED}]
    (line,) = true_output(tmp_path / "out")
    assert line["model_urls"] == [["ink.safetensors", f"{PLAIN}?[hidden]"]]
    assert_told_nowhere(tmp_path, caplog.text, repr(first))


@pytest.mark.anyio
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_presigner_is_asked_when_a_job_is_sent_for_loras_that_the_graph_uses(
    tmp_path: Path, is_async: bool
) -> None:
    asked: list[tuple[str, str]] = []

    def sign(name: str, url: str) -> str:
        asked.append((name, url))
        return f"{PLAIN}?X-Amz-Signature={SECRET}{len(asked)}"

    async def sign_later(name: str, url: str) -> str:
        await asyncio.sleep(0)
        return sign(name, url)

    styles = registry(tmp_path, "s3://bucket/ink.safetensors")
    async with open_sandbox() as sandbox:
        inputs = received(sandbox)
        settings = settings_for(sandbox, tmp_path / "out")
        presign = sign_later if is_async else sign
        async with ImageGenerator(settings, styles=styles, presign=presign) as generator:
            results = await generator.generate_many(
                [{"prompt": "a fox", "style_id": "7", **SMALL}, {"prompt": "a hen", **SMALL}],
                batch="set",
                concurrency=1,
            )
            await generator.generate_many([{"prompt": "a fox", "style_id": "7"}], batch="set", **SMALL)
    assert all(result.ok for result in results)
    assert asked == [("ink.safetensors", "s3://bucket/ink.safetensors")]
    sent = [entry.get("model_urls") for entry in inputs]
    assert sorted(sent, key=bool) == [None, [{"id": "ink.safetensors", "url": f"{PLAIN}?X-Amz-Signature={SECRET}1"}]]
    assert_told_nowhere(tmp_path)


@pytest.mark.anyio
async def test_a_presigner_that_fails_leaves_everything_pending_and_its_words_untold(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(name: str, url: str) -> str:
        raise ConnectionError(f"cannot sign {SIGNED}")

    async with open_sandbox() as sandbox:
        settings = settings_for(sandbox, tmp_path / "out")
        async with ImageGenerator(settings, model_urls={"ink": PLAIN}, presign=fails) as generator:
            with pytest.raises(RunPausedError, match=r"the presigner raised ConnectionError for ink.safetensors"):
                await generator.generate_many([INK], batch="set")
        assert bought(sandbox) == []
        async with ImageGenerator(settings, model_urls={"ink": PLAIN}) as generator:
            (made,) = await generator.generate_many([INK], batch="set")
        assert made.ok
    assert_told_nowhere(tmp_path, caplog.text)


@pytest.mark.parametrize("error", [f"Error downloading {SIGNED}: 403", json.dumps({"error_message": f"no {SIGNED}"})])
def test_what_a_worker_says_of_a_url_is_understood_without_its_secret(error: str) -> None:
    record = {"id": "job-1", "status": "FAILED", "error": error, "output": {"details": [f"GET {SIGNED}"]}}
    ending = decipher_status(HttpReply(200, {}, json.dumps(record).encode()))
    assert isinstance(ending, Failed)
    assert f"{PLAIN}?[hidden]" in ending.failure.message
    assert SECRET not in str(ending)


@pytest.mark.anyio
async def test_a_later_process_needs_the_secret_again(tmp_path: Path) -> None:
    lora = [Lora("ink.safetensors", 1.0)]
    recorded = tuple(ModelUrls(StylesRegistry.load(), {"ink": SIGNED}).recorded(lora))

    class AtOnce:
        async def run(self, function: Any, *args: Any) -> Any:
            return function(*args)

    with pytest.raises(InputError, match=r"secret part, which is kept nowhere: give it again with --model-url ink"):
        await ModelUrls(StylesRegistry.load()).to_send(recorded, AtOnce())
    again = await ModelUrls(StylesRegistry.load(), {"ink": f"{SIGNED}0"}).to_send(recorded, AtOnce())
    assert again == {"ink.safetensors": f"{SIGNED}0"}
    plain = tuple(ModelUrls(StylesRegistry.load(), {"ink": PLAIN}).recorded(lora))
    assert await ModelUrls(StylesRegistry.load()).to_send(plain, AtOnce()) == {"ink.safetensors": PLAIN}


def test_the_command_line_keeps_a_secret_and_tells_of_names_that_nothing_uses(
    tmp_path: Path,
) -> None:
    (tmp_path / "rows.csv").write_text("prompt,lora_name\na fox,ink\n", encoding="utf-8")
    size = ["--width", "64", "--height", "64", "--sandbox", "--out", "o", "--log-file", "log.txt", "-vv", "--json"]
    urls = ["--model-url", f"ink={SIGNED}", "--model-url", f"inc={SIGNED}"]
    done = run_cli("batch", "rows.csv", *size, *urls, cwd=tmp_path)
    assert done.code == 0, done.err
    log = (tmp_path / "log.txt").read_text("utf-8")
    assert "a URL is given for inc.safetensors, which no image needs" in log
    assert "for ink" not in log
    assert_told_nowhere(tmp_path, done.out, done.err)
    wrong = run_cli("generate", "a fox", *size, "--model-url", SIGNED, cwd=tmp_path)
    assert wrong.code == 2
    assert "--model-url: number 1 is not NAME=URL" in wrong.err
    assert_told_nowhere(tmp_path, wrong.out, wrong.err)


def test_an_s3_url_is_warned_of_where_nothing_signs_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    styles = registry(tmp_path, "s3://bucket/ink.safetensors")
    list(ModelUrls(styles, presign=lambda name, url: url).recorded([Lora("ink.safetensors", 1.0)]))
    assert caplog.text == ""
    urls = ModelUrls(styles)
    for _ in range(2):
        assert list(urls.recorded([Lora("ink.safetensors", 1.0)])) == [
            ("ink.safetensors", "s3://bucket/ink.safetensors")
        ]
    assert caplog.text.count("only a worker with credentials of its own can open") == 1


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (PLAIN, PLAIN),
        (SIGNED, f"{PLAIN}?[hidden]"),
        (f"https://me:{SECRET}@files.example/a", "https://files.example/a?[hidden]"),
        (f"{PLAIN}?[hidden]", f"{PLAIN}?[hidden]"),
        (f"https://[broken?{SECRET}", "[hidden]?[hidden]"),
    ],
)
def test_what_may_be_secret_in_a_url_is_left_out(url: str, shown: str) -> None:
    assert recordable(url) == shown
    assert SECRET not in redacted(f"cannot open '{url}', nor \"{url}\": gone")
    assert redacted("what? nothing. 3 < 4") == "what? nothing. 3 < 4"
