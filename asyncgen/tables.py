"""The commands that only look: batches, one image's story, styles with their history, and the effective settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import anyio

from asyncgen import check
from asyncgen.console import print_json, print_table, say, utc, with_exit_code
from asyncgen.display import duration
from asyncgen.exits import Exit
from asyncgen.lifecycle import FAILURES, OUT, State
from asyncgen.money import dollars
from asyncgen.registry import StylesRegistry
from asyncgen.report import BatchStatus, batch_statuses, style_history
from asyncgen.settings import load_settings
from asyncgen.story import Bought, Story, stories
from asyncgen.workspace import ledger_path_of

_STATUS_COLUMNS = (
    "batch", "made by", "begun (UTC)", "wanted", "stored", "out", "failed", "held", "to do", "GPU time", "cost",
)  # fmt: skip
_JOB_COLUMNS = ("attempt", "endpoint", "job", "accepted (UTC)", "delay", "execution", "cost", "worker", "outcome")


@with_exit_code
def show_status(overrides: Mapping[str, Any], *, realm: str, as_json: bool) -> Exit:
    """`asyncgen status`."""
    statuses = batch_statuses(ledger_path_of(load_settings(**overrides), realm))
    if as_json:
        for status in statuses:
            print_json({**asdict(status), "wanted": status.wanted})
    else:
        print_table(_STATUS_COLUMNS, map(_status_row, statuses))
    return Exit.DONE


def _status_row(status: BatchStatus) -> tuple[str, ...]:
    counts = status.states
    return (
        status.name,
        status.realm,
        utc(status.created_at),
        str(status.wanted),
        str(counts.get(State.STORED, 0)),
        str(sum(counts.get(state, 0) for state in OUT)),
        str(sum(counts.get(state, 0) for state in FAILURES)),
        str(counts.get(State.UNKNOWN, 0)),
        str(sum(counts.get(state, 0) for state in (State.WANTED, State.CANCELLED))),
        duration(status.gpu_ms / 1000),
        status.cost.bounds,
    )


@with_exit_code
def show_why(overrides: Mapping[str, Any], name: str, *, realm: str, as_json: bool) -> Exit:
    """`asyncgen why`."""
    found = stories(ledger_path_of(load_settings(**overrides), realm), name)
    if as_json:
        print_json({"id": name, "stories": [{**asdict(story), "next_step": story.next_step} for story in found]})
        return Exit.DONE
    for number, story in enumerate(found):
        if number:
            say("")
        _print_story(story)
    return Exit.DONE


def _print_story(story: Story) -> None:
    say(f"{story.request_id}, of the batch {story.batch!r}, made by {story.realm}")
    print_table(("wanted", ""), _wish_rows(story))
    say("\nwhat happened")
    events = ((utc(event.at), _duration(event.elapsed_seconds), event.state, event.words) for event in story.events)
    print_table(("time (UTC)", "after", "state", "why"), events)
    if story.jobs:
        say("\njobs bought")
        rows = _job_rows(story)
        if len({job.seed for job in story.jobs}) > 1:  # else it is the one above
            print_table((*_JOB_COLUMNS, "seed"), [(*row, job.seed) for row, job in zip(rows, story.jobs, strict=True)])
        else:
            print_table(_JOB_COLUMNS, rows)
    if story.pictures:
        say("\npictures")
        pictures = ((p.path or "(in memory)", f"{p.size_bytes:,}", p.sha256, p.state) for p in story.pictures)
        print_table(("file", "bytes", "sha256", "state"), pictures)
    say(f"\nnow {story.state}: {story.next_step}")


def _wish_rows(story: Story) -> list[tuple[str, str | None]]:
    spec = story.made_with
    return [
        ("your id", story.request.get("id")),
        ("prompt", spec["prompt"]),
        ("as it is sent", spec["prompt_sent"]),
        ("seed", f"{story.seed}{f', the last of {story.rerolls + 1}' if story.rerolls else ''}"),
        ("style", spec["style_title"]),
        ("size", f"{spec['width']}x{spec['height']}"),
        ("made with", f"{spec['workflow']}, {spec['model']}, {spec['steps']} steps"),
    ]


def _job_rows(story: Story) -> list[tuple[str | None, ...]]:
    return [
        (
            str(job.attempt),
            job.endpoint,
            _job_words(job, before),
            None if job.accepted_at is None else utc(job.accepted_at),
            _duration_of_ms(job.delay_ms),
            _duration_of_ms(job.execution_ms),
            None if job.cost_usd is None else dollars(job.cost_usd),
            job.worker_id,
            job.outcome,
        )
        for job, before in zip(story.jobs, (None, *story.jobs), strict=False)
    ]


def _job_words(job: Bought, before: Bought | None) -> str | None:
    is_again = before is not None and job.job_id is not None and job.job_id == before.job_id
    return f"{job.job_id} (run again by /retry)" if is_again else job.job_id


@with_exit_code
def show_styles(overrides: Mapping[str, Any], *, as_json: bool) -> Exit:
    """`asyncgen styles`."""
    styles = StylesRegistry.load(load_settings(**overrides).styles).get_all_styles()
    if as_json:
        for style in styles:
            print_json(asdict(style))
        return Exit.DONE
    print_table(
        ("id", "title", "LoRA", "weight", "trigger words", "model", "steps", "guidance"),
        (
            (
                style.id,
                style.title,
                style.lora_to_load or None,
                _text(style.lora_weight),
                style.trigger_words or None,
                style.model or None,
                _text(style.steps),
                _text(style.guidance),
            )
            for style in styles
        ),
    )
    return Exit.DONE


@with_exit_code
def show_style(overrides: Mapping[str, Any], style_id: str, *, realm: str, as_json: bool) -> Exit:
    """`asyncgen styles show ID`."""
    settings = load_settings(**overrides)
    ledger_path = ledger_path_of(settings, realm)
    registry = StylesRegistry.load(settings.styles, history_reader=lambda style: style_history(ledger_path, style))
    style, uses = registry.get_style_by_id(style_id), registry.history(style_id)
    if as_json:
        print_json({"style": asdict(style), "history": [asdict(use) for use in uses]})
        return Exit.DONE
    print_table(("field", "value"), ((name, _text(value)) for name, value in asdict(style).items()))
    say(f"\nhistory: {len(uses)} images")
    print_table(
        ("made (UTC)", "prompt", "seed", "GPU time", "file"),
        (
            (
                utc(use.stored_at),
                use.prompt,
                str(use.seed),
                _duration_of_ms(use.execution_ms) or "not said",
                use.path or "(in memory)",
            )
            for use in uses
        ),
    )
    return Exit.DONE


@with_exit_code
def run_check(overrides: Mapping[str, Any], *, as_json: bool) -> Exit:
    """`asyncgen check`: exit code 0 when nothing stands in the way of a run, else 2."""
    settings = load_settings(**overrides)
    shown = check.shown_settings(settings, overrides)
    found = anyio.run(check.findings, settings)
    if as_json:
        print_json({"settings": [asdict(setting) for setting in shown], "findings": [asdict(f) for f in found]})
    else:
        _print_check(shown, found)
    return Exit.BAD_INPUT if any(finding.level == "problem" for finding in found) else Exit.DONE


def _print_check(shown: Sequence[check.SettingShown], found: Sequence[check.Finding]) -> None:
    print_table(("setting", "value", "from"), ((s.variable, s.value, s.source) for s in shown))
    for finding in found:
        say(f"{finding.level:8}{finding.text}")
        if finding.cure:
            say(f"{'':8}→ {finding.cure}")


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _duration(seconds: float | None) -> str | None:
    return None if seconds is None else duration(seconds)


def _duration_of_ms(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else duration(milliseconds / 1000)
