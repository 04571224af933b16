"""A batch that is continued: what is there is counted as kept without being planned, and nothing else is."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import FAILURE, LEDGER, TERMS, record, rows
from support import SMALL

from asyncgen import intake, source
from asyncgen.api import ImageGenerator
from asyncgen.assets import data_path
from asyncgen.display import PlainDisplay
from asyncgen.intake import TakeKept
from asyncgen.lifecycle import State
from asyncgen.prompts import PromptFile, RawRow
from asyncgen.protocol import Timing
from asyncgen.records import PLATFORM, Item
from asyncgen.source import Source, SourceOptions
from asyncgen.template import DEFAULT_WORKFLOW
from asyncgen.workspace import Workspace, shared_workspace

BATCH = "set"


class Continued:
    """One batch in one output root, run over file after file without a platform."""

    def __init__(self, root: Path, **fields: Any) -> None:
        self.root, self.fields = root, {**SMALL, **fields}
        self.file = root / "rows.jsonl"
        self.generator = ImageGenerator(output_root=root / "out")
        self.claimed: dict[int, bytes] = {}  # by the last run: content keys by index

    def write(self, lines: Sequence[str]) -> None:
        self.file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def source(self) -> Source:
        return Source(SourceOptions(str(self.file), None, None, True, self.fields))

    def run(self, *, looked_up: bool, states: Sequence[State] = ()) -> Counter[str]:
        """What becomes of the file's wants, the items of each in turn coming to these states."""
        return asyncio.run(self._run(looked_up, states))

    async def _run(self, looked_up: bool, states: Sequence[State]) -> Counter[str]:
        source = self.source()
        counts: Counter[str] = Counter()
        total = source.validate(self.generator, PlainDisplay(quiet=True), BATCH if looked_up else "no such batch")
        counts["skipped"] = source.skipped
        if total is None:
            return +counts
        async with shared_workspace(self.root / "out") as workspace:
            self.generator._workspace = workspace
            ledger = workspace.ledger
            batch = await ledger.open_batch(BATCH, PLATFORM)
            run_id = await ledger.begin_run(batch)

            async def take_kept(keys: Sequence[bytes]) -> dict[bytes, int]:
                kept = await ledger.take_kept(batch, run_id, keys)
                counts["kept"] += sum(kept.values())
                return kept

            self.claimed = {}
            await self._claim(workspace, source, take_kept if looked_up else None, run_id, counts, states)
            assert total == counts["kept"] + len(self.claimed) - counts["claimed and kept"]
            del counts["claimed and kept"]
            await ledger.end_run(run_id, "ended")
        return +counts

    async def _claim(
        self,
        workspace: Workspace,
        source: Source,
        take_kept: TakeKept | None,
        run_id: int,
        counts: Counter[str],
        states: Sequence[State],
    ) -> None:
        batch = await workspace.ledger.open_batch(BATCH, PLATFORM)
        async for chunk in source.chunks(self.generator, take_kept):
            items = await workspace.ledger.claim(batch, run_id, [wanted.want for wanted in chunk])
            self.claimed |= {wanted.index: wanted.want.content_key for wanted in chunk}
            for item in items:
                counts[became(item)] += 1
                counts["changed"] += item.state is State.STORED and not item.repeats and item.changed
                counts["claimed and kept"] += became(item) == "kept"
            for item, state in zip(items, states, strict=False):
                if not item.repeats:
                    await bring(workspace, item, state)


def became(item: Item) -> str:
    if item.repeats:
        return "repeated"
    if item.is_new:
        return "new"
    return "kept" if item.state is State.STORED else item.state


async def bring(workspace: Workspace, item: Item, state: State) -> None:
    ledger = workspace.ledger
    if state is State.WANTED or item.state is not State.WANTED:
        return
    await ledger.record_intent(item, TERMS)
    if state is State.UNKNOWN:
        await ledger.record_unknown(item, FAILURE)
        return
    await ledger.record_accepted(item, f"job-{item.id}")
    if state is State.FAILED:
        await ledger.record_ended(item, State.FAILED, FAILURE, Timing())
    if state is State.STORED:
        await ledger.record_storing(item, [record(path=f"{item.request_id}.png")], Timing())
        await ledger.record_stored(item)


def items_of(root: Path) -> list[tuple[Any, ...]]:
    """What a ledger has, but for what was drawn and when."""
    query = "SELECT content_key, occurrence, replica, said, state FROM item ORDER BY content_key, occurrence"
    return rows(root / "out", query)


def row(prompt: str, **fields: Any) -> str:
    return json.dumps({"prompt": prompt, **fields})


ROWS = st.one_of(
    st.builds(row, st.sampled_from("abcd")),
    st.builds(json.dumps, st.sampled_from("abcd")),
    st.builds(row, st.sampled_from("ab"), seed=st.integers(-1, 2)),
    st.builds(row, st.sampled_from("ab"), images=st.integers(1, 3)),
    st.builds(row, st.sampled_from("ab"), id=st.sampled_from(("one", "two", "three"))),
    st.builds(row, st.sampled_from("ab"), workflow=st.just("v4")),
    st.sampled_from(("", row("a", width=9), "{broken", row("a", save_to_style=False), row("a", lora_name="b"))),
)
STATES = st.lists(
    st.sampled_from((State.STORED, State.STORED, State.STORED, State.FAILED, State.WANTED, State.UNKNOWN))
)


@pytest.fixture(scope="module")
def small_blocks() -> Iterator[None]:
    """Files of a test's size come in several blocks and chunks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake, "BLOCK", 3)
        patch.setattr(source, "BLOCK", 3)
        patch.setattr(intake, "_CHUNK", 2)
        yield


@pytest.mark.usefixtures("small_blocks")
@settings(max_examples=80)
@given(first=st.lists(ROWS, max_size=12), second=st.lists(ROWS, max_size=12), same=st.booleans(), data=st.data())
def test_a_batch_is_continued_alike_whether_its_rows_are_looked_up_or_all_planned(
    first: list[str], second: list[str], same: bool, data: st.DataObject
) -> None:
    """Rows repeated, dropped, added, changed, written otherwise, bad, with an id that comes twice."""
    states = data.draw(st.one_of(STATES, st.just([State.STORED] * 40)))
    second = data.draw(st.permutations(first)) + second[:3] if same else second
    steps = data.draw(st.sampled_from((20, 20, 21)))
    with tempfile.TemporaryDirectory() as folder:
        quick, slow = Path(folder) / "quick", Path(folder) / "slow"
        quick.mkdir()
        before = Continued(quick, steps=20)
        before.write([row("there is one row at least"), *first])
        before.run(looked_up=True, states=states)
        shutil.copytree(quick, slow)
        for again in range(2):
            looking, planning = Continued(quick, steps=steps), Continued(slow, steps=steps)
            for continued in (looking, planning):
                continued.write(second)
            ran = looking.run(looked_up=True)
            assert ran == planning.run(looked_up=False), f"run {again + 1} after the first"
            assert looking.claimed.items() <= planning.claimed.items()
            assert items_of(quick) == items_of(slow)


@pytest.fixture
def finished(tmp_path: Path) -> Continued:
    """Three rows, four images, all there."""
    continued = Continued(tmp_path)
    continued.write([row("a"), row("b", images=2), row("c", id="one")])
    assert continued.run(looked_up=True, states=[State.STORED] * 4) == {"new": 4}
    return continued


def planned(continued: Continued, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The contents of rows that are parsed from now on."""
    parsed: list[str] = []
    parse = PromptFile.parse

    def noted(self: PromptFile, raw: Any) -> Any:
        parsed.append(str(raw.content) if isinstance(raw, RawRow) else "")
        return parse(self, raw)

    monkeypatch.setattr(PromptFile, "parse", noted)
    return parsed


def test_no_row_of_a_finished_batch_is_parsed_again(finished: Continued, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = planned(finished, monkeypatch)
    assert finished.run(looked_up=True) == {"kept": 4}
    assert parsed == []


def test_only_what_is_new_or_not_there_is_parsed(finished: Continued, monkeypatch: pytest.MonkeyPatch) -> None:
    lose = (  # one of two
        "UPDATE item SET state = 'lost', failure_class = ?, failure_code = ?, failure_message = ? WHERE replica = 1"
    )
    with closing(sqlite3.connect(finished.root / "out" / LEDGER)) as connection:
        connection.execute(lose, (FAILURE.kind, FAILURE.code, FAILURE.message))
        connection.commit()
    finished.write([row("d"), row("a"), row("b", images=2), row("c", id="one")])
    parsed = planned(finished, monkeypatch)
    assert finished.run(looked_up=True) == {"new": 1, "kept": 3, "lost": 1}
    assert parsed == [row("d"), row("b", images=2)] * 2, "once to look at them, once to run"
    assert list(finished.claimed) == [0, 2, 3]


ONE, OTHER = row("a", id="one"), row("b", id="one")


@pytest.mark.parametrize("lines", [[ONE, OTHER], [OTHER, ONE], [ONE, ONE], [ONE, row("x"), row("y"), row("z"), OTHER]])
@pytest.mark.usefixtures("small_blocks")
def test_an_id_that_comes_twice_is_found_though_its_image_is_there(
    tmp_path: Path, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told of the later row, which is left out of the run too."""
    continued = Continued(tmp_path)
    continued.write([ONE, row("x")])
    continued.run(looked_up=True, states=[State.STORED] * 2)
    continued.write(lines)
    ran = continued.run(looked_up=True)
    assert (ran["skipped"], ran["kept"] + ran["new"]) == (1, len(lines) - 1)
    assert f"rows.jsonl:{len(lines)}:id: this id is used twice" in capsys.readouterr().err


@pytest.mark.parametrize("between", [0, 5])
@pytest.mark.usefixtures("small_blocks")
def test_a_row_that_is_repeated_is_another_image_though_the_first_is_there(tmp_path: Path, between: int) -> None:
    others = [row(f"other {number}") for number in range(between)]
    continued = Continued(tmp_path)
    continued.write([row("a"), *others])
    continued.run(looked_up=True, states=[State.STORED] * 2)
    continued.write([row("a"), *others, row("a"), json.dumps("a"), row("a", seed=3), row("a", seed=3)])
    ran = continued.run(looked_up=True)
    assert (ran["new"], ran["repeated"]) == (3, 1)
    assert [occurrence for occurrence, said in occurrences(tmp_path) if "seed" not in said] == [0, 1, 2]


def occurrences(root: Path) -> list[tuple[int, str]]:
    query = "SELECT occurrence, said FROM item WHERE json_extract(said, '$.prompt') = 'a' ORDER BY occurrence"
    return [(int(occurrence), said) for occurrence, said in rows(root / "out", query)]


def test_a_row_that_names_a_workflow_of_its_own_is_planned_with_what_the_file_says_today(tmp_path: Path) -> None:
    graph = tmp_path / "own.json"
    for suffix in (".json", ".bindings.json"):
        shutil.copy(data_path("workflows", f"{DEFAULT_WORKFLOW}{suffix}"), graph.with_suffix(suffix))
    continued = Continued(tmp_path)
    continued.write([row("a", workflow=str(graph)), row("b")])
    continued.run(looked_up=True, states=[State.STORED] * 2)
    graph.write_text(graph.read_text(encoding="utf-8").replace('"VAEDecode"', '"VAEDecodeTiled"'), encoding="utf-8")
    again = Continued(tmp_path)
    assert again.run(looked_up=True) == {"kept": 2, "changed": 1}
    assert len(again.claimed) == 1


@pytest.mark.parametrize("change", ["style", "field", "workflow", "limit"])
def test_whatever_decides_what_a_row_wants_is_part_of_its_key(
    finished: Continued, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, fields = finished.generator, dict(finished.fields)
    before = generator.digest(fields)
    match change:
        case "style":
            generator.styles.update_style("1", steps=9)
        case "field":
            fields["steps"] = 9
        case "workflow":
            monkeypatch.setitem(generator.planner.template().graph["38"], "class_type", "other")
            generator = ImageGenerator(output_root=tmp_path, workflow="v4")
        case "limit":
            generator = ImageGenerator(output_root=tmp_path, result_limit_bytes=5000)
    assert generator.digest(fields) != before
