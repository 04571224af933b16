"""Failure texts of real workers: whose fault, and words a user can act on."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.diagnosis import MAX_MESSAGE_CHARACTERS, cleaned, diagnose, words_of
from asyncgen.errors import FailureClass, FailureCode

UNET_MISSING = (
    "Workflow validation failed:\n• Node 1 (errors): [{'type': 'value_not_in_list', 'message': 'Value not in list', "
    "'details': \"unet_name: 'missing.safetensors' not in ['flux1-dev-fp8.safetensors']\", 'extra_info': {}}]\n"
    "• Node 1 (dependent_outputs): ['17']\n• Node 1 (class_type): UNETLoader"
)


def validation(details: str, node_class: str = "KSampler", message: str = "Value not in list") -> str:
    error = [{"type": "value_not_in_list", "message": message, "details": details}]
    return f"Workflow validation failed:\n• Node 7 (errors): {error!r}\n• Node 7 (class_type): {node_class}"


@pytest.mark.parametrize(
    ("text", "kind", "code"),
    [
        ("Missing 'workflow' parameter", "item", "invalid_workflow"),
        (
            "Cannot execute because node NoSuchNode does not exist.. Raw response: {'error': 1}",
            "item",
            "invalid_workflow",
        ),
        (UNET_MISSING, "item", "model_not_found"),
        ("Failed to upload one or more input images; Error decoding base64 for x.png: bad", "item", "input_refused"),
        ("'images' must be a list of objects with 'name' and 'image' keys", "item", "input_refused"),
        ("Unexpected input. workflow is not a valid input option.", "item", "input_refused"),
        ("Job processing failed, prompt ID not found in history.", "item", "worker_error"),
        ("ComfyUI server (127.0.0.1:8188) not reachable after multiple retries.", "infrastructure", "worker_not_ready"),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", "infrastructure", "out_of_memory"),
        ("Allocation on device 0 would exceed allowed memory.", "infrastructure", "out_of_memory"),
        ("torch.cuda.OutOfMemoryError", "infrastructure", "out_of_memory"),
        ("job timed out after 3 retries", "infrastructure", "platform_failed"),
        ("worker w1 exited with exit code 137", "infrastructure", "platform_failed"),
        ("worker was evicted", "infrastructure", "platform_failed"),
        ("CUDA error: an illegal memory access was encountered", "infrastructure", "platform_failed"),
        ("job exceeded its execution timeout", "infrastructure", "timed_out"),
        ("", "infrastructure", "platform_failed"),
        ("division by zero", "item", "worker_error"),
    ],
)
def test_the_text_decides_whose_fault_it_is(text: str, kind: str, code: str) -> None:
    failure = diagnose(text)
    assert (failure.kind, failure.code) == (FailureClass(kind), FailureCode(code))


def test_a_missing_model_is_told_with_node_input_and_the_names_the_worker_has() -> None:
    assert diagnose(UNET_MISSING).message == (
        "node 1 (UNETLoader), input unet_name: the worker has no 'missing.safetensors'; it has "
        "flux1-dev-fp8.safetensors: use one of these, or add the file to the worker"
    )


def test_the_nearest_names_come_first_and_the_list_is_bounded() -> None:
    names = [f"other_{number}.safetensors" for number in range(19)] + ["char_bob_v2.safetensors"]
    message = diagnose(validation(f"lora_name: 'char_bob.safetensors' not in {names!r}", "LoraLoader")).message
    assert "it has char_bob_v2.safetensors, " in message
    assert "and 12 more" in message


def test_a_file_missing_from_a_folder_is_told_with_its_node() -> None:
    cause = "Message: Model in folder 'upscale_models' with filename 'missing.pth' not found."
    failure = diagnose(f"Job processing failed; Node Type: UpscaleModelLoader, Node ID: 2, {cause}")
    assert failure.code is FailureCode.MODEL_NOT_FOUND
    start = "node 2 (UpscaleModelLoader): the worker has no 'missing.pth' in models/upscale_models: "
    assert failure.message.startswith(start)


@pytest.mark.parametrize(
    ("details", "code"),
    [
        ("lora_name: 'bob' not in []", FailureCode.MODEL_NOT_FOUND),
        ("ckpt_name: 'x.safetensors' not in (list of length 57)", FailureCode.MODEL_NOT_FOUND),
        (
            "clip_name1: 'it's [v2].safetensors' not in ['a [v1].safetensors', \"b's.ckpt\"]",
            FailureCode.MODEL_NOT_FOUND,
        ),
        ("sampler_name: 'eular' not in ['euler', 'heun']", FailureCode.INVALID_WORKFLOW),
        ("sampler_name: 'eular' not in (list of length 30)", FailureCode.INVALID_WORKFLOW),
    ],
)
def test_only_a_missing_file_is_a_missing_model(details: str, code: FailureCode) -> None:
    failure = diagnose(validation(details))
    assert failure.code is code
    name, _, value = details.partition(" not in ")[0].partition(": ")
    assert failure.message.startswith(f"node 7 (KSampler), input {name}: the worker has no {value[1:-1]!r}")


def test_other_validation_errors_keep_their_own_words() -> None:
    failure = diagnose(validation("clip", "CLIPTextEncode", "Required input is missing"))
    assert failure.message == "node 7 (CLIPTextEncode), Required input is missing: clip"
    assert failure.code is FailureCode.INVALID_WORKFLOW


def test_a_picture_that_the_worker_cannot_load_is_the_inputs_fault() -> None:
    failure = diagnose(
        validation("image - Invalid image file: x.png", "LoadImage", "Custom validation failed for node")
    )
    assert failure.code is FailureCode.INPUT_REFUSED
    assert "x.png" in failure.message


def test_several_faults_are_told_and_counted() -> None:
    nodes = "\n".join(
        f"• Node {number} (errors): [{{'message': 'Bad', 'details': 'input {number}'}}]" for number in range(5)
    )
    message = diagnose(f"Workflow validation failed:\n{nodes}").message
    assert message == "node 0, Bad: input 0; node 1, Bad: input 1; node 2, Bad: input 2; and 2 more faults"


def test_a_missing_node_class_is_named_with_what_to_do() -> None:
    for text in ("Cannot execute because node easy loraStack does not exist.", "Node 'easy loraStack' not found."):
        message = diagnose(text).message
        assert message.startswith("the worker has no node class 'easy loraStack': install its custom node")


def test_tracebacks_are_left_out() -> None:
    text = 'boom\nTraceback (most recent call last):\n  File "/x.py", line 1\nValueError: bad sigma'
    assert diagnose(text).message == "boom ValueError: bad sigma"


def test_an_exception_as_a_json_string_is_told_without_host_and_trace() -> None:
    error = {"error_type": "<class 'ValueError'>", "error_message": "bad", "error_traceback": "T", "hostname": "h1"}
    assert words_of(json.dumps(error)) == "ValueError; bad"


def test_the_end_of_a_long_text_is_read_too() -> None:
    assert diagnose("x" * 1_000_000 + " CUDA out of memory").code is FailureCode.OUT_OF_MEMORY


def test_messages_are_one_printable_line_of_bounded_length() -> None:
    assert cleaned("a\x1b[31m\n\tb\u202e\x00c") == "a [31m b c"
    assert cleaned("x" * 600) == "x" * 600
    assert len(cleaned("x" * 601)) == 600
    assert cleaned("x" * 10**7).endswith(" …")
    assert cleaned("\0" * 10**6 + "x").strip() == "…"


@given(st.text(max_size=400), st.sampled_from(["", UNET_MISSING, "Workflow validation failed", "CUDA out of memory"]))
def test_any_text_becomes_a_failure_with_a_bounded_message(text: str, known: str) -> None:
    for whole in (text + known, known + text, known[: len(text)] + text + known[len(text) :]):
        failure = diagnose(whole)
        assert 0 < len(failure.message) <= MAX_MESSAGE_CHARACTERS
        assert failure.message.isprintable()
