"""Names: whatever text comes in, what comes out is one harmless path component, and paths stay under the root."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from parts import want

from asyncgen.errors import SettingsError
from asyncgen.naming import (
    NO_STYLE,
    PATH_FIELDS,
    check_path_template,
    path_fields,
    render_path,
    safe_name,
    style_folder,
)
from asyncgen.settings import DEFAULT_PATH_TEMPLATE
from asyncgen.store import temporary_path

WALL = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC
DEVICES = ["con", "PRN", "aux", "nul", "COM1", "com9", "lpt1", "LPT9", "com²", "CONIN$", "nul.png", "aux .tar.gz"]
#: Any text, and texts out of the pieces that make trouble.
TEXTS = st.text(st.characters(codec=None), max_size=300) | st.lists(
    st.sampled_from(["..", ".", "/", "\\", " ", "\t", "\n", "\0", ":", "~", "con", "nul", "a", "é", "e\u0301", "画",
                     "\U0001f600", "\u202e", "\u200b", "\u2028", "\ud800", "\uff0f", "{style}", "%2e%2e", "x" * 130]),
    max_size=12,
).map("".join)  # fmt: skip
FIELDS_IN_BRACES = [f"{{{name}}}" for name in PATH_FIELDS]
SPEC = want("a fox", style_id="1").spec


def harmless(name: str) -> bool:
    """What a name must be to be safe on Linux, macOS and Windows, encrypted folders included."""
    stem = name.partition(".")[0].strip().lower()
    return (
        bool(name)
        and ".." not in name
        and not set(name) & set('/\\<>:"|?*')
        and not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name)
        and not name.startswith((".", " "))
        and not name.endswith((".", " "))
        and stem not in {device.lower().partition(".")[0].strip() for device in DEVICES}
        and len(name.encode("utf-8")) <= 113
        and not PureWindowsPath(name).is_reserved()
    )


@given(TEXTS)
@example("")
@example("..")
@example(". .. .")
@example(".\u3000..a")
@example("a" * 119 + ".b")
@example("画" * 200)
def test_any_text_becomes_a_harmless_name(text: str) -> None:
    assert harmless(safe_name(text))


@given(TEXTS)
def test_a_safe_name_stays_as_it_is(text: str) -> None:
    assert safe_name(safe_name(text)) == safe_name(text)


@given(st.text("abcdefghijklmnopqrstuvwxyzäöü画ABC0123456789_- ", min_size=1, max_size=20).map(str.strip).filter(bool))
def test_an_ordinary_name_is_left_alone(text: str) -> None:
    assert safe_name(text) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("name", DEVICES)
def test_a_device_name_is_never_given(name: str) -> None:
    assert safe_name(name).startswith("_")


@pytest.mark.parametrize("mark", ["\u0378", "\uffff", "\U0001fffe", "\U000e0fff"])
def test_a_code_point_that_is_no_character_is_replaced_because_apfs_refuses_it(mark: str) -> None:
    assert safe_name(f"a{mark}b") == "a_b"


def test_two_spellings_of_one_letter_give_one_name() -> None:
    assert safe_name("cafe\u0301") == safe_name("caf\u00e9") == "caf\u00e9"


@given(TEXTS, TEXTS)
def test_a_style_folder_is_one_harmless_name(style_id: str, title: str) -> None:
    assert harmless(style_folder(style_id, title))


def test_a_style_folder_is_id_and_title_in_lower_case_with_underscores() -> None:
    assert style_folder("1", "Ink Intensity") == "1_ink_intensity"
    assert style_folder("16", "  Dynamic\tSimplicity ") == "16_dynamic_simplicity"
    assert style_folder("7", None) == "7"


def test_no_style_has_a_folder_of_its_own() -> None:
    assert style_folder(None, None) == NO_STYLE


# -- paths


def fields(
    style_id: str | None = "1", title: str | None = "Ink Intensity", caller_id: str | None = None, **more: str
) -> dict[str, str]:
    spec = replace(SPEC, style_id=style_id, style_title=title)
    given = {"request_id": "img_0123abcd", "batch": "set", **more}
    return path_fields(spec, caller_id=caller_id, seed=2**64 - 1, wall_seconds=WALL, **given)


def rendered(
    template: str = DEFAULT_PATH_TEMPLATE,
    filename: str | None = None,
    number: int = 0,
    count: int = 1,
    **of: str | None,
) -> str:
    return render_path(template, fields(**of), filename=filename, number=number, count=count)  # type: ignore[arg-type]  # as above


def test_the_default_path_is_the_one_of_the_old_system() -> None:
    assert rendered() == "resources/style_images/1_ink_intensity/generated_20231114_221320_0123abcd"


@given(
    title=TEXTS, style_id=TEXTS, caller_id=TEXTS, batch=TEXTS, filename=st.none() | TEXTS,
    template=st.lists(st.sampled_from([*FIELDS_IN_BRACES, "x", "-", "/"]), min_size=1).map("".join),
)  # fmt: skip
def test_whatever_the_names_a_path_stays_under_the_root_and_every_part_is_harmless(
    title: str, style_id: str, caller_id: str, batch: str, filename: str | None, template: str
) -> None:
    template = "/".join(part for part in template.split("/") if part) or "x"
    check_path_template(template)
    path = rendered(template, filename, style_id=style_id, title=title, caller_id=caller_id, batch=batch)
    assert all(harmless(part) for part in path.split("/"))
    assert len(path.split("/")) == len(template.split("/"))
    assert Path("/root", path).resolve().is_relative_to("/root")


@given(st.text(st.characters(codec=None), max_size=40))
def test_a_template_is_refused_or_renders_to_a_path_under_the_root(template: str) -> None:
    try:
        check_path_template(template)
    except SettingsError as error:
        assert error.field == "ASYNCGEN_PATH_TEMPLATE"
    else:
        assert all(harmless(part) for part in rendered(template).split("/"))


@pytest.mark.parametrize("template", ["", "/x", "x/", "a//b", "../x", "a/../b", "./x", "a/ .. /b", "a\\b", "C:\\x"])
def test_a_template_that_is_no_relative_path_is_refused(template: str) -> None:
    with pytest.raises(SettingsError, match=r"ASYNCGEN_PATH_TEMPLATE: .*relative path"):
        check_path_template(template)


@pytest.mark.parametrize("template", ["{nothing}", "{}", "{ hex8 }", "{style.__class__}", "{seed:>9}", "a/{Style}"])
def test_an_unknown_field_is_refused_with_the_known_ones(template: str) -> None:
    with pytest.raises(SettingsError, match=r"no field .*\{hex8\}"):
        check_path_template(template)


@pytest.mark.parametrize("template", ["{hex8", "hex8}", "{{hex8}}", "a/}{/b"])
def test_a_brace_without_its_partner_is_refused(template: str) -> None:
    with pytest.raises(SettingsError, match="brace"):
        check_path_template(template)


def test_every_documented_field_has_a_value() -> None:
    assert set(fields()) == set(PATH_FIELDS)
    everything = "/".join(FIELDS_IN_BRACES)
    check_path_template(everything)
    assert rendered(everything) == (
        "1_ink_intensity/1/Ink Intensity/20231114_221320/20231114/0123abcd/01/0123abcd/"
        "18446744073709551615/set/1360/768"
    )


def test_the_field_id_is_the_callers_own_where_there_is_one() -> None:
    assert rendered("{id}", caller_id="cat/7") == "cat_7"
    assert rendered("{id}") == "0123abcd"


def test_without_a_style_nothing_is_called_none() -> None:
    assert rendered(style_id=None, title=None).split("/")[-2] == NO_STYLE
    assert rendered("{style_id}-{style_title}", style_id=None, title=None) == f"{NO_STYLE}-{NO_STYLE}"


def test_a_value_that_looks_like_a_field_is_not_expanded() -> None:
    assert rendered("{id}", caller_id="{seed}") == "{seed}"


@pytest.mark.parametrize(
    ("filename", "name"),
    [("hero", "hero"), ("hero.png", "hero"), ("hero.JPEG", "hero"), ("v1.2", "v1.2"),
     ("../../etc/passwd", "___etc_passwd"),
     (".png", "png"), ("", "unnamed"), ("a/b.webp", "a_b")],
)  # fmt: skip
def test_a_filename_replaces_the_last_part_without_its_suffix(filename: str, name: str) -> None:
    assert rendered(filename=filename) == f"resources/style_images/1_ink_intensity/{name}"


@given(TEXTS)
def test_the_pictures_of_one_job_never_share_a_name(filename: str) -> None:
    names = [rendered(filename=filename, number=number, count=12) for number in range(12)]
    assert len(set(names)) == 12
    longest = temporary_path(Path(f"{names[-1]}_0123abcd_99.webp"))
    assert len(longest.name.encode()) <= 143, "as much as encrypted home folders take"
