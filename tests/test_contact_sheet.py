"""Contact sheets: whole, labelled, replaced as one."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from support import files, size_of

from asyncgen import contact_sheet
from asyncgen.contact_sheet import Tile, write_contact_sheet
from asyncgen.errors import StoreError


def pictures(folder: Path, count: int) -> list[Tile]:
    tiles = []
    for number in range(count):
        path = folder / f"{number}.png"
        Image.new("RGB", (400, 200), (200, 0, 0)).save(path)
        tiles.append(Tile(path, ("a style with a name that is far too long for one thumbnail", f"seed {number}")))
    return tiles


def test_each_picture_has_a_place_of_its_own_and_nothing_else_is_left(tmp_path: Path) -> None:
    sheet = tmp_path / "pilots" / "set.jpg"
    write_contact_sheet(sheet, pictures(tmp_path, 7))
    with Image.open(sheet) as drawn:
        assert drawn.format == "JPEG"
        columns = [drawn.getpixel((12 + 120 + column * 252, 12 + 60)) for column in range(5)]
    assert all(red > 150 and green < 60 for red, green, _ in columns)
    assert files(sheet.parent) == [sheet]
    write_contact_sheet(sheet, pictures(tmp_path, 1))
    assert size_of(sheet.read_bytes())[0] < 300


def test_a_picture_that_is_gone_or_damaged_leaves_an_empty_place(tmp_path: Path) -> None:
    (first, second) = pictures(tmp_path, 2)
    first.path.unlink()
    second.path.write_bytes(b"no picture")
    write_contact_sheet(tmp_path / "set.jpg", [first, second])
    assert size_of((tmp_path / "set.jpg").read_bytes())[0] > 240


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "pilots").write_text("a file")
    with pytest.raises(StoreError, match="pilots"):
        write_contact_sheet(tmp_path / "pilots" / "set.jpg", [])


def drawn(tmp_path: Path, line: str) -> bytes:
    """The pixels of a sheet whose one label is this line."""
    (tile,) = pictures(tmp_path, 1)
    write_contact_sheet(tmp_path / "set.jpg", [Tile(tile.path, (line,))])
    with Image.open(tmp_path / "set.jpg") as sheet:
        return sheet.tobytes()


def test_a_letter_that_no_font_has_is_shown_without_its_accent_or_as_a_question_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact_sheet, "_WIDER_FONTS", ())  # a machine without fonts of its own
    assert drawn(tmp_path, "Pâtisserie, Straße, Łódź\tcafe\u0301") == drawn(tmp_path, "Patisserie, Strasse, Lodz cafe")
    assert drawn(tmp_path, "日本 by night") == drawn(tmp_path, "?? by night") != drawn(tmp_path, " by night")


def test_a_system_font_draws_the_accents_where_there_is_one(tmp_path: Path) -> None:
    if len(contact_sheet._fonts()) == 1:
        pytest.skip("this machine has no font that the sheet looks for")
    assert drawn(tmp_path, "Pâtisserie") != drawn(tmp_path, "Patisserie")
