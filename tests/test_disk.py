"""The real file system behind the port."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from asyncgen.disk import RealDisk

DISK = RealDisk()


def test_folders_are_made_with_their_parents_and_each_is_flushed_in_its_own(tmp_path: Path) -> None:
    flushed: list[Path] = []

    class Telling(RealDisk):
        def fsync_directory(self, path: Path) -> None:
            super().fsync_directory(path)
            flushed.append(path)

    disk = Telling()
    disk.make_directory(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()
    assert flushed == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    disk.make_directory(tmp_path / "a" / "b")
    assert len(flushed) == 3, "what is there costs nothing"


def test_a_new_file_is_new(tmp_path: Path) -> None:
    DISK.write_new(tmp_path / "f", [b"ab", b"", b"c"])
    assert (tmp_path / "f").read_bytes() == b"abc"
    with pytest.raises(FileExistsError):
        DISK.write_new(tmp_path / "f", [b"other"])
    assert (tmp_path / "f").read_bytes() == b"abc"


def test_a_second_name_never_replaces_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    DISK.link(tmp_path / "a", tmp_path / "c")
    with pytest.raises(FileExistsError):
        DISK.link(tmp_path / "a", tmp_path / "b")
    assert [(tmp_path / name).read_bytes() for name in "abc"] == [b"a", b"b", b"a"]


def test_without_hard_links_a_name_is_given_by_renaming_and_still_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    with pytest.raises(FileExistsError):
        DISK.link(tmp_path / "a", tmp_path / "b")
    DISK.link(tmp_path / "a", tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c"]
    assert (tmp_path / "b").read_bytes() == b"b"


def test_a_name_is_taken_even_by_a_link_to_nowhere(tmp_path: Path) -> None:
    (tmp_path / "l").symlink_to(tmp_path / "nowhere")
    assert DISK.exists(tmp_path / "l")
    assert not DISK.exists(tmp_path / "nowhere")


def test_a_missing_file_is_no_error_where_the_port_says_so(tmp_path: Path) -> None:
    DISK.unlink(tmp_path / "nothing")
    assert DISK.size_bytes(tmp_path / "nothing") is None


def test_appending_and_replacing(tmp_path: Path) -> None:
    DISK.append(tmp_path / "f", b"one\n")
    DISK.append(tmp_path / "f", b"two\n")
    assert DISK.size_bytes(tmp_path / "f") == 8
    DISK.write_new(tmp_path / "g", [b"new"])
    DISK.fsync(tmp_path / "g")
    DISK.replace(tmp_path / "g", tmp_path / "f")
    DISK.fsync_directory(tmp_path)
    assert DISK.read(tmp_path / "f") == b"new"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_device_is_an_error_and_no_silence() -> None:
    with pytest.raises(OSError, match="No space left"):
        DISK.append(Path("/dev/full"), b"x")
