"""The commands that only look: batches, styles with their history, and the effective settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio

from asyncgen import check
from asyncgen.console import new_console, new_table, print_json, text_of, utc, with_exit_code
from asyncgen.display import duration
from asyncgen.exits import Exit
from asyncgen.lifecycle import FAILURES, OUT, State
from asyncgen.records import PLATFORM, SANDBOX
from asyncgen.registry import StylesRegistry
from asyncgen.report import batch_statuses, style_history
from asyncgen.run import LEDGER_NAME, output_root
from asyncgen.settings import Settings, load_settings


@with_exit_code
def show_status(overrides: Mapping[str, Any], *, on_sandbox: bool, as_json: bool) -> Exit:
    """`asyncgen status`."""
    statuses = batch_statuses(_ledger_path(load_settings(**overrides), on_sandbox))
    if as_json:
        for status in statuses:
            print_json({**asdict(status), "wanted": status.wanted})
        return Exit.DONE
    table = new_table(
        "batch", "made by", "begun (UTC)", "wanted", "stored", "out", "failed", "held", "to do", "GPU time"
    )
    for status in statuses:
        counts = status.states
        table.add_row(
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
        )
    new_console().print(table)
    return Exit.DONE


@with_exit_code
def show_styles(overrides: Mapping[str, Any], *, as_json: bool) -> Exit:
    """`asyncgen styles`."""
    registry = StylesRegistry.load(load_settings(**overrides).styles)
    if as_json:
        for style in registry.get_all_styles():
            print_json(asdict(style))
        return Exit.DONE
    table = new_table("id", "title", "LoRA", "weight", "trigger words", "model", "steps", "guidance")
    for style in registry.get_all_styles():
        table.add_row(
            style.id,
            style.title,
            style.lora_to_load or "–",
            text_of(style.lora_weight),
            style.trigger_words or "–",
            style.model or "–",
            text_of(style.steps),
            text_of(style.guidance),
        )
    new_console().print(table)
    return Exit.DONE


@with_exit_code
def show_style(overrides: Mapping[str, Any], style_id: str, *, on_sandbox: bool, as_json: bool) -> Exit:
    """`asyncgen styles show ID`."""
    settings = load_settings(**overrides)
    ledger_path = _ledger_path(settings, on_sandbox)
    registry = StylesRegistry.load(settings.styles, history_reader=lambda style: style_history(ledger_path, style))
    style, uses = registry.get_style_by_id(style_id), registry.history(style_id)
    if as_json:
        print_json({"style": asdict(style), "history": [asdict(use) for use in uses]})
        return Exit.DONE
    console, fields = new_console(), new_table("field", "value")
    for name, value in asdict(style).items():
        fields.add_row(name, text_of(value))
    console.print(fields)
    console.print(f"\nhistory: {len(uses)} images")
    history = new_table("made (UTC)", "prompt", "seed", "GPU time", "file")
    for use in uses:
        gpu_time = "not said" if use.execution_ms is None else duration(use.execution_ms / 1000)
        history.add_row(utc(use.stored_at), use.prompt, str(use.seed), gpu_time, use.path or "(in memory)")
    console.print(history)
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
    console = new_console()
    table = new_table("setting", "value", "from")
    for setting in shown:
        table.add_row(setting.variable, setting.value, setting.source)
    console.print(table)
    for finding in found:
        console.print(f"{finding.level:8}{finding.text}", markup=False)
        if finding.cure:
            console.print(f"{'':8}→ {finding.cure}", markup=False)


def _ledger_path(settings: Settings, on_sandbox: bool) -> Path:
    return settings.ledger or output_root(settings, SANDBOX if on_sandbox else PLATFORM) / LEDGER_NAME
