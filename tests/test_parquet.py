"""Prompts in a Parquet file: columns are fields, and what is wrong is told by row and field."""

from __future__ import annotations

import sys
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from asyncgen.errors import InputError
from asyncgen.parquet import ParquetRows
from asyncgen.prompts import BadRow, RawRow, Row


def read(path: Path, **said: Any) -> list[Row | BadRow]:
    with ParquetRows(path, "p.parquet", **said) as file:
        return list(map(file.parse, file.rows()))


def write(folder: Path, columns: dict[str, Any]) -> Path:
    path = folder / "p.parquet"
    pyarrow.parquet.write_table(pa.table(columns), path, row_group_size=2)
    return path


def test_columns_are_fields_and_nulls_are_left_out(tmp_path: Path) -> None:
    columns = {
        "prompt": ["a fox", "an owl", "a heron"],
        "id": [1, 2, 3],
        "style": ["1", None, ""],
        "guidance": [3.5, None, float("nan")],
        "steps": [20.0, None, 9.0],
        "character_loras": [["A", "B:0.5"], [], None],
        "parameters": [{"denoise": 0.5}, None, {"denoise": None}],
        "raw_prompt": [True, False, None],
    }
    rows = read(write(tmp_path, columns))
    assert [row.request.said() for row in rows if isinstance(row, Row)] == [
        {"prompt": "a fox", "id": "1", "style_id": "1", "flux_guidance": 3.5, "steps": 20,
         "character_loras": ["A", "B:0.5"], "parameters": {"denoise": 0.5}, "raw_prompt": True},
        {"prompt": "an owl", "id": "2"},
        {"prompt": "a heron", "id": "3", "steps": 9},
    ]  # fmt: skip


def test_parameters_may_be_json_or_a_map(tmp_path: Path) -> None:
    rows = read(write(tmp_path, {"prompt": ["x"], "parameters": ['{"a": 1}']}))
    assert isinstance(rows[0], Row)
    assert rows[0].request.parameters == {"a": 1}
    column = pa.array([[("a", 1.5)]], pa.map_(pa.string(), pa.float64()))
    rows = read(write(tmp_path, {"prompt": ["x"], "parameters": column}))
    assert isinstance(rows[0], Row)
    assert rows[0].request.parameters == {"a": 1.5}


def test_variables_and_a_template(tmp_path: Path) -> None:
    path = write(tmp_path, {"{color}": ["red", "blue"], "{n}": [1, 2]})
    rows = read(path, template="{n} {color} foxes")
    assert [row.request.prompt for row in rows if isinstance(row, Row)] == ["1 red foxes", "2 blue foxes"]
    (row, *_) = read(path)
    assert isinstance(row, BadRow)
    assert (row.is_header, "must name a column 'prompt'" in str(row.error)) == (True, True)


def test_a_row_s_key_is_of_its_values(tmp_path: Path) -> None:
    def keys(columns: dict[str, Any]) -> list[bytes]:
        with ParquetRows(write(tmp_path, columns), "p", b"digest") as file:
            return [row.key for row in file.rows() if isinstance(row, RawRow)]

    first = keys({"prompt": ["a", "b", "c"], "steps": [1, 2, None]})
    moved = keys({"steps": pa.array([None, 1, 3], pa.int64()), "prompt": ["c", "a", "b"]})
    assert moved[:2] == [first[2], first[0]]
    assert moved[2] not in first


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"promt": ["x"]}, "p.parquet:header: the header names a column 'promt'"),
        ({"prompt": ["x"], "steps": [0.5]}, "p.parquet:1:steps: "),
        ({"prompt": ["x", None]}, "p.parquet:2:prompt: "),
        ({"prompt": ["x"], "id": [b"x"]}, "p.parquet:1:id: is a bytes"),
        ({"prompt": ["x"], "id": [date(2026, 1, 1)]}, "p.parquet:1:id: is a date"),
        ({"prompt": ["x"], "parameters": ["{"]}, "p.parquet:1:parameters: is not valid JSON"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_by_row_and_field(tmp_path: Path, columns: dict[str, Any], told: str) -> None:
    (bad,) = (row for row in read(write(tmp_path, columns)) if isinstance(row, BadRow))
    assert str(bad.error).startswith(told)


def test_what_is_no_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_text("prompt\na fox\n")
    for name in ("p.parquet", "gone.parquet"):
        with pytest.raises(InputError, match=r"^p\.parquet: "):
            read(tmp_path / name)


def test_a_damaged_file_is_told_and_no_bug(tmp_path: Path) -> None:
    path = write(tmp_path, {"prompt": [f"a lighthouse, study {number}" for number in range(500)]})
    data = bytearray(path.read_bytes())
    data[4:2000] = b"\xff" * 1996
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"^p\.parquet: is damaged"):
        read(path)


def test_without_the_extra_it_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"pip install 'asyncgen\[parquet\]'"):
        read(tmp_path / "p.parquet")
