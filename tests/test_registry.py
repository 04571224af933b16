"""The styles registry: what survives a save, what is refused, and where files go."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.assets import data_path
from asyncgen.errors import InputError, StyleNotFoundError
from asyncgen.registry import StylesRegistry, StyleUse
from asyncgen.styles import LoraFile, Style

OLD = {
    "version": "2.1",
    "zz_unknown": {"b": [1, 2.50, None], "a": "ä"},
    "last_synced": "2025-11-02T10:00:00Z",
    "styles": [
        {"title": "Ink", "id": "1", "lora_name": "ink", "lora_file": "ink_v1.safetensors", "x-own": [3], "steps": "24"},
        {"id": "16", "title": "Dynamic Simplicity", "lora_name": "", "training_data": ["a", "b"]},
    ],
    "loras": [
        {
            "lora_name": "ink",
            "lora_file": "ink_v1.safetensors",
            "s3_url": "https://s3.test/1",
            "local_path": "/l",
            "k": 1,
        },
        {"lora_name": "FILM-V3-FLUX", "version": 3},
    ],
}
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    path = tmp_path / "styles.json"
    path.write_text(json.dumps(OLD), encoding="utf-8")
    return path


def in_order(path: Path) -> str:
    """The content of a JSON file, with the order of its keys."""
    return json.dumps(json.loads(path.read_text(encoding="utf-8")))


def written(path: Path, document: Any) -> Path:
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


def test_the_starter_set_has_ten_styles_and_more() -> None:
    styles = {style.id: style for style in StylesRegistry.load().get_all_styles()}
    assert (styles["1"].title, styles["16"].title) == ("Ink Intensity", "Dynamic Simplicity")
    assert styles["1"].monochrome
    assert len(styles) >= 10
    assert any(style.lora_to_load is None for style in styles.values())


def test_every_lora_of_the_starter_set_is_listed_and_none_is_the_end_of_another() -> None:
    registry = StylesRegistry.load()
    files = [style.lora_to_load for style in registry.get_all_styles() if style.lora_to_load] + [
        "FILM-V3-FLUX.safetensors"
    ]
    assert all(registry.get_lora_info(file) for file in files)
    assert not [(a, b) for a in files for b in files if a != b and a.endswith(b)]


def test_unknown_keys_survive_a_load_and_save_in_order(old_file: Path, tmp_path: Path) -> None:
    saved = StylesRegistry.load(old_file).save(tmp_path / "copy.json")
    assert in_order(saved) == json.dumps(OLD)


@given(st.dictionaries(st.text(), JSON_VALUES, max_size=4), st.dictionaries(st.text(), JSON_VALUES, max_size=4))
def test_any_unknown_content_survives(
    tmp_path_factory: pytest.TempPathFactory, top: dict[str, Any], own: dict[str, Any]
) -> None:
    document = top | {"styles": [{f"x-{key}": value for key, value in own.items()} | {"id": "1", "title": "Ink"}]}
    document.pop("loras", None)
    path = written(tmp_path_factory.mktemp("any") / "r.json", document)
    StylesRegistry.load(path).save()
    assert in_order(path) == json.dumps(document)


def test_half_a_surrogate_pair_survives(tmp_path: Path) -> None:
    path = written(tmp_path / "r.json", '{"note": "\\ud83d", "styles": []}')
    StylesRegistry.load(path).save()
    assert json.loads(path.read_text(encoding="utf-8"))["note"] == "\ud83d"


def test_a_change_touches_only_its_field(old_file: Path) -> None:
    registry = StylesRegistry.load(old_file)
    registry.update_style("1", title="Ink Intensity", lora_weight=0.9)
    registry.save()
    after = json.loads(old_file.read_text(encoding="utf-8"))
    assert after["styles"][0] == OLD["styles"][0] | {"title": "Ink Intensity", "lora_weight": 0.9}  # type: ignore[index]
    assert after["styles"][1] == OLD["styles"][1]  # type: ignore[index]
    assert StylesRegistry.load(old_file).get_style_by_id("1").lora_weight == 0.9


def test_the_users_own_registry_comes_before_the_shipped_one(old_file: Path) -> None:
    folder = Path(os.environ["ASYNCGEN_USER_FOLDER"])
    assert StylesRegistry.load().source == data_path("resources", "styles_registry.json")
    (folder / "styles_registry.json").write_bytes(old_file.read_bytes())
    assert StylesRegistry.load().get_style_by_id("1").title == "Ink"


def test_saving_the_shipped_registry_writes_to_the_user_folder_only() -> None:
    shipped = data_path("resources", "styles_registry.json")
    before = shipped.read_bytes()
    registry = StylesRegistry.load()
    registry.update_style("1", title="My Ink")
    assert registry.save() == Path(os.environ["ASYNCGEN_USER_FOLDER"]) / "styles_registry.json"
    assert shipped.read_bytes() == before
    assert StylesRegistry.load().get_style_by_id("1").title == "My Ink"
    with pytest.raises(InputError, match="belongs to asyncgen"):
        registry.save(shipped)


def test_a_save_leaves_one_file_with_the_permissions_it_had(old_file: Path) -> None:
    old_file.chmod(0o640)
    StylesRegistry.load(old_file).save()
    assert old_file.stat().st_mode & 0o777 == 0o640
    assert [file.name for file in old_file.parent.iterdir()] == ["styles.json"]


def test_a_save_that_fails_keeps_the_old_file_and_leaves_nothing_else(
    old_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    registry = StylesRegistry.load(old_file)
    registry.update_style("1", title="New")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        registry.save()
    assert json.loads(old_file.read_text(encoding="utf-8")) == OLD
    assert [file.name for file in old_file.parent.iterdir()] == ["styles.json"]


def test_a_save_through_a_link_keeps_the_link(old_file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(old_file)
    registry = StylesRegistry.load(link)
    registry.update_style("1", title="New")
    registry.save()
    assert link.is_symlink()
    assert StylesRegistry.load(old_file).get_style_by_id("1").title == "New"


@pytest.mark.parametrize(("wanted", "close"), [("11", "1 (Ink)"), ("dynamic simplicty", "16 (Dynamic Simplicity)")])
def test_an_unknown_style_is_refused_with_the_close_ones(old_file: Path, wanted: str, close: str) -> None:
    with pytest.raises(StyleNotFoundError) as caught:
        StylesRegistry.load(old_file).get_style_by_id(wanted)
    assert close in str(caught.value)


def test_an_unknown_style_with_no_close_one_is_refused_with_all(old_file: Path) -> None:
    with pytest.raises(StyleNotFoundError, match=r"there are: 1 \(Ink\), 16 \(Dynamic Simplicity\)"):
        StylesRegistry.load(old_file).get_style_by_id("zzz")


@pytest.mark.parametrize("name", ["ink", "ink.safetensors", "ink_v1", "ink_v1.safetensors"])
def test_styles_and_loras_are_found_by_name_or_file_with_or_without_suffix(old_file: Path, name: str) -> None:
    registry = StylesRegistry.load(old_file)
    style, lora = registry.get_style_by_lora_name(name), registry.get_lora_info(name)
    assert style is not None
    assert style.id == "1"
    assert lora == LoraFile("ink", "ink_v1.safetensors", s3_url="https://s3.test/1", local_path="/l")


def test_what_is_not_listed_is_none(old_file: Path) -> None:
    registry = StylesRegistry.load(old_file)
    assert registry.get_style_by_lora_name("") is None
    assert registry.get_lora_info("nobody") is None


def test_a_style_is_added_and_saved(old_file: Path) -> None:
    registry = StylesRegistry.load(old_file)
    assert registry.add_style({"id": "20", "title": "New", "mood": "calm"}) == Style("20", "New")
    registry.save()
    assert StylesRegistry.load(old_file).get_style_by_id("20").title == "New"
    assert json.loads(old_file.read_text(encoding="utf-8"))["styles"][2]["mood"] == "calm"


def test_a_taken_id_is_refused(old_file: Path) -> None:
    registry = StylesRegistry.load(old_file)
    with pytest.raises(InputError, match="is taken by 'Ink'"):
        registry.add_style({"id": "1", "title": "Other"})
    registry.save()
    assert len(json.loads(old_file.read_text(encoding="utf-8"))["styles"]) == 2


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"id": "3"}, "id"), ({"lora_wieght": 1}, "lora_wieght"), ({"title": ""}, "title"), ({"steps": "many"}, "steps")],
)
def test_a_wrong_change_is_refused_and_changes_nothing(old_file: Path, changes: dict[str, Any], field: str) -> None:
    registry = StylesRegistry.load(old_file)
    with pytest.raises(InputError) as caught:
        registry.update_style("1", **changes)
    assert caught.value.field == field
    registry.save()
    assert in_order(old_file) == json.dumps(OLD)


def test_an_unknown_field_that_a_style_has_may_be_changed(old_file: Path) -> None:
    registry = StylesRegistry.load(old_file)
    registry.update_style("1", **{"x-own": [4]})
    registry.save()
    assert json.loads(old_file.read_text(encoding="utf-8"))["styles"][0]["x-own"] == [4]


def test_a_new_lora_file_goes_to_the_style_and_the_list_and_its_old_places_go(old_file: Path) -> None:
    registry = StylesRegistry.load(old_file)
    style = registry.update_lora_file("1", "ink_v2.safetensors", version="2")
    assert (style.lora_to_load, style.lora_version) == ("ink_v2.safetensors", "2")
    assert registry.get_lora_info("ink") == LoraFile("ink", "ink_v2.safetensors", version="2")


def test_a_trained_lora_becomes_the_styles_and_is_listed(old_file: Path) -> None:
    registry = StylesRegistry.load(old_file)
    registry.mark_trained(
        "1", "ink2", "ink2.safetensors", version="2", trigger_words="i2", s3_url="https://s3.test/2", trained_at="2026"
    )
    registry.save()
    registry = StylesRegistry.load(old_file)
    style = registry.get_style_by_id("1")
    assert (style.lora_name, style.lora_to_load, style.trigger_words) == ("ink2", "ink2.safetensors", "i2")
    assert registry.get_lora_info("ink2") == LoraFile("ink2", "ink2.safetensors", "i2", "2", "https://s3.test/2")
    assert registry.get_lora_info("ink") is not None
    entry = json.loads(old_file.read_text(encoding="utf-8"))["styles"][0]
    trained = {"lora_name": "ink2", "lora_file": "ink2.safetensors", "version": "2", "trained_at": "2026"}
    assert entry["training_data"] == trained
    assert entry["metadata"]["previous_loras"] == [{"lora_name": "ink", "lora_file": "ink_v1.safetensors"}]
    assert entry["x-own"] == [3]


def test_training_keeps_notes_it_does_not_understand(tmp_path: Path) -> None:
    path = written(tmp_path / "r.json", {"styles": OLD["styles"], "loras": None})
    registry = StylesRegistry.load(path)
    registry.mark_trained("16", "dyn", "dyn.safetensors")
    registry.save()
    entry = json.loads(path.read_text(encoding="utf-8"))["styles"][1]
    assert entry["training_data"] == ["a", "b"]
    assert registry.get_lora_info("dyn") == LoraFile("dyn", "dyn.safetensors")


def test_a_trained_lora_without_a_file_is_refused(old_file: Path) -> None:
    registry = StylesRegistry.load(old_file)
    with pytest.raises(InputError, match="a name and a file"):
        registry.mark_trained("1", "ink2", "")
    registry.save()
    assert in_order(old_file) == json.dumps(OLD)


def test_history_comes_from_the_reader_that_was_given(old_file: Path) -> None:
    use = StyleUse("img_00000001", "a cat", 7, 1.0, "a.png", 5, 9, "b")
    registry = StylesRegistry.load(old_file, history_reader=lambda style_id: [use] if style_id == "16" else [])
    assert registry.history("16") == [use]
    with pytest.raises(StyleNotFoundError):
        registry.history("17")


def test_history_without_a_ledger_says_so(old_file: Path) -> None:
    with pytest.raises(InputError, match="without a ledger"):
        StylesRegistry.load(old_file).history("1")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{", "JSON"),
        ("", "JSON"),
        ("[]", "is an object"),
        ('{"styles": [{"id": "1", "title": "a", "steps": NaN}]}', "NaN"),
        ('{"styles": [], "x": 1e999}', "1e999"),
        ('{"styles": [{"id": "1", "id": "2", "title": "a"}]}', "'id' stands twice"),
        ("[" * 100_000, "JSON"),
        ({"styles": {}, "loras": 3}, "loras"),
        ({"styles": "no"}, "styles"),
        ({"styles": [{"id": "1", "title": "a"}, 5]}, "styles: entry 2"),
        ({"styles": [{"id": "1", "title": "a"}, {"id": "1", "title": "b"}]}, "style 2:id"),
        (
            {"styles": [{"id": "1", "title": "a"}, {"id": "2", "title": "b", "steps": "x"}]},
            r"style 2 \(style 2\):steps",
        ),
        ({"styles": [{"title": "a"}]}, "style 1:id"),
        ({"styles": [], "loras": [{"version": "1"}]}, "LoRA 1:lora_name"),
    ],
)
def test_a_malformed_file_is_refused_naming_file_entry_and_field(tmp_path: Path, document: Any, words: str) -> None:
    path = written(tmp_path / "broken.json", document)
    with pytest.raises(InputError, match=r"broken\.json.*" + words):
        StylesRegistry.load(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, Path("x")])
def test_a_change_that_no_file_can_carry_is_refused_on_saving_and_leaves_the_file(old_file: Path, value: Any) -> None:
    before = old_file.read_bytes()
    registry = StylesRegistry.load(old_file)
    registry.update_style(registry.get_all_styles()[0].id, metadata={"value": value})
    with pytest.raises(InputError, match="cannot carry"):
        registry.save()
    assert old_file.read_bytes() == before


def test_a_file_that_is_missing_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        StylesRegistry.load(tmp_path / "none.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(InputError, match=r"bytes\.json.*JSON"):
        StylesRegistry.load(tmp_path / "bytes.json")
