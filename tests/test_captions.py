"""A folder of caption files is a prompt file."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncgen.captions import CaptionFolder
from asyncgen.errors import InputError
from asyncgen.prompts import BadRow, RawRow, Row


def read(folder: Path) -> list[Row | BadRow]:
    captions = CaptionFolder(folder, "pets")
    return list(map(captions.parse, captions.rows()))


def write(folder: Path, **texts: str | bytes) -> None:
    for name, text in texts.items():
        path = folder / f"{name.replace('__', '/')}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())


def test_each_file_is_a_prompt_in_the_order_of_paths_and_its_path_is_the_id(tmp_path: Path) -> None:
    write(tmp_path, b="a heron", a__c="\ufeffan owl,\r\nat night\n", a__b__x="a fox")
    (tmp_path / "a" / "c.png").write_bytes(b"")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.txt").write_text("no")
    (tmp_path / ".x.txt").write_text("no")
    rows = read(tmp_path)
    assert [(row.request.id, row.request.prompt) for row in rows if isinstance(row, Row)] == [
        ("a/b/x", "a fox"), ("a/c", "an owl, at night"), ("b", "a heron"),
    ]  # fmt: skip


def test_a_key_changes_with_the_text_and_with_nothing_else(tmp_path: Path) -> None:
    def keys() -> dict[str, bytes]:
        rows = CaptionFolder(tmp_path, "pets").rows()
        return {row.content[0]: row.key for row in rows if isinstance(row, RawRow)}

    write(tmp_path, a="a fox", b="an owl")
    before = keys()
    write(tmp_path, A="first", b="an owl at night")
    after = keys()
    assert (after["a.txt"] == before["a.txt"], after["b.txt"] == before["b.txt"]) == (True, False)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "pets/a/x.txt:prompt: the prompt is empty"),
        (b"a \xff fox", "pets/a/x.txt:prompt: is not UTF-8"),
        ("a \0 fox", "pets/a/x.txt:prompt: contains the control character U+0000"),
        ("x" * 70_000, "pets/a/x.txt: is longer than 64 KiB"),
    ],
)
def test_what_is_wrong_is_told_by_the_file_s_path(tmp_path: Path, text: str | bytes, told: str) -> None:
    write(tmp_path, a__x=text)
    (row,) = read(tmp_path)
    assert isinstance(row, BadRow)
    assert str(row.error).startswith(told)


def test_a_link_to_nothing_is_a_bad_row_and_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").symlink_to("nowhere")
    (row,) = read(tmp_path)
    assert isinstance(row, BadRow)
    assert "pets/x.txt: cannot be read" in str(row.error)
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "gone")
