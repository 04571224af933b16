"""The store on real files: whole pictures under final names or nothing, and never over another file."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import Desk, desk, files_of, picture

from asyncgen.disk import RealDisk
from asyncgen.errors import StoreError
from asyncgen.images import Picture
from asyncgen.ports import Disk, Ports
from asyncgen.records import StoredPicture
from asyncgen.store import temporary_path

FOX, CAT = picture(b"fox" * 1000), picture(b"cat" * 1000)
WRITES = ("make_directory", "write_new", "fsync", "link", "unlink", "fsync_directory")


class CutError(Exception):
    """The process died here."""


@dataclass
class Told(RealDisk):
    """A real disk that tells what was asked of it, and stops the world at one call."""

    calls: list[tuple[str, Path]] = field(default_factory=list)
    fail_at: int | None = None
    failure: BaseException = field(default_factory=CutError)
    dead: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    def __getattribute__(self, name: str) -> Any:
        method = super().__getattribute__(name)
        return self._telling(name, method) if name in WRITES else method

    def _telling(self, name: str, method: Any) -> Any:
        def told(path: Path, *rest: Any) -> Any:
            if self.dead or self.fail_at == len(self.calls):
                self.dead = isinstance(self.failure, CutError)
                self.fail_at = None
                raise self.failure
            self.calls.append((name, path))
            return method(path, *rest)

        return told


def with_disk(disk: Disk) -> Any:
    def change(ports: Ports) -> Ports:
        return replace(ports, disk=disk)

    return change


async def keep(
    at: Desk, name: str = "a/fox", pictures: Iterable[Picture] = (FOX,), hex8: str = "0123abcd"
) -> list[str]:
    """Prepare and write as a job does; the paths."""
    pictures = tuple(pictures)
    names = [name] if len(pictures) == 1 else [f"{name}_{n + 1}" for n in range(len(pictures))]
    prepared = await at.store.prepare(pictures, names, hex8)
    assert await at.store.write(prepared, pictures)
    at.store.release(prepared)
    return [p.path for p in prepared if p.path is not None]


# -- in place, whole, and nothing else


@pytest.mark.anyio
async def test_a_picture_is_in_place_whole_with_its_record(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        (prepared,) = await at.store.prepare([FOX], ["a/b/fox"], "0123abcd")
        assert files_of(tmp_path) == set(), "preparing writes nothing"
        assert await at.store.write([prepared], [FOX])
    assert prepared == StoredPicture(0, "a/b/fox.png", hashlib.sha256(FOX.data).hexdigest(), 3000, "png", 8, 8)
    assert files_of(tmp_path) == {"a/b/fox.png"}
    assert (tmp_path / "a/b/fox.png").read_bytes() == FOX.data


@pytest.mark.anyio
async def test_a_picture_keeps_the_suffix_of_its_format(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        assert await keep(at, "fox", [replace(FOX, suffix=".webp", format="webp")]) == ["fox.webp"]


@pytest.mark.anyio
async def test_data_reaches_the_disk_before_the_name_and_the_name_before_the_answer(tmp_path: Path) -> None:
    disk = Told()
    async with desk(tmp_path, change=with_disk(disk)) as at:
        await keep(at, "fox")
    final, temporary = tmp_path / "fox.png", tmp_path / ".fox.png.part"
    assert disk.calls == [
        ("make_directory", tmp_path),
        ("unlink", temporary),
        ("write_new", temporary),
        ("fsync", temporary),
        ("link", temporary),
        ("unlink", temporary),
        ("fsync_directory", tmp_path),
    ]
    assert final.exists()


@pytest.mark.anyio
async def test_a_large_picture_is_written_in_pieces(tmp_path: Path) -> None:
    sizes: list[int] = []

    class Measuring(RealDisk):
        def write_new(self, path: Path, pieces: Iterable[bytes]) -> None:
            super().write_new(path, (sizes.append(len(piece)) or piece for piece in pieces))  # type: ignore[func-returns-value]  # in passing

    large = picture(os.urandom(2_500_000))
    async with desk(tmp_path, change=with_disk(Measuring())) as at:
        await keep(at, "large", [large])
    assert sizes == [2**20, 2**20, 2_500_000 - 2**21]
    assert (tmp_path / "large.png").read_bytes() == large.data


@pytest.mark.anyio
async def test_a_picture_without_a_name_gets_no_file_but_a_record(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        (prepared,) = await at.store.prepare([FOX], [None], "0123abcd")
        assert prepared.path is None
        assert prepared.sha256 == hashlib.sha256(FOX.data).hexdigest()
        assert await at.store.write([prepared], [FOX])
        assert not await at.store.are_in_place([prepared]), "after a crash its bytes are gone: it is fetched again"
    assert files_of(tmp_path) == set()


# -- never over another file


@pytest.mark.anyio
async def test_a_file_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "fox.png").write_bytes(b"somebody's")
    (tmp_path / "fox_0123abcd.png").symlink_to(tmp_path / "nowhere")
    async with desk(tmp_path) as at:
        assert await keep(at, "fox") == ["fox_0123abcd_2.png"]
        assert await keep(at, "fox") == ["fox_0123abcd_3.png"]
    assert (tmp_path / "fox.png").read_bytes() == b"somebody's"
    assert (tmp_path / "fox_0123abcd.png").is_symlink()


@pytest.mark.anyio
async def test_pictures_racing_for_one_name_get_one_each(tmp_path: Path) -> None:
    pictures = [picture(b"%d" % number * 100) for number in range(40)]
    paths: dict[int, str] = {}

    async def race(at: Desk, number: int) -> None:
        (paths[number],) = await keep(at, "hero", [pictures[number]], f"{number:08x}")

    async with desk(tmp_path) as at, anyio.create_task_group() as tasks:
        for number in range(40):
            tasks.start_soon(race, at, number)
    assert len(set(paths.values())) == 40
    assert files_of(tmp_path) == set(paths.values())
    assert all((tmp_path / paths[number]).read_bytes() == pictures[number].data for number in range(40))


@pytest.mark.anyio
async def test_a_file_that_appears_between_preparing_and_writing_is_left_alone(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        prepared = await at.store.prepare([FOX], ["fox"], "0123abcd")
        (tmp_path / "fox.png").write_bytes(b"somebody's")
        assert not await at.store.write(prepared, [FOX])
    assert files_of(tmp_path) == {"fox.png"}
    assert (tmp_path / "fox.png").read_bytes() == b"somebody's"


@pytest.mark.anyio
async def test_the_pictures_of_a_job_are_in_place_together_or_not_at_all(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        prepared = await at.store.prepare([FOX, CAT], ["fox_1", "fox_2"], "0123abcd")
        (tmp_path / "fox_2.png").write_bytes(b"somebody's")
        assert not await at.store.write(prepared, [FOX, CAT])
    assert files_of(tmp_path) == {"fox_2.png"}


@pytest.mark.anyio
async def test_a_released_name_is_free_again_where_no_file_took_it(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        first = await at.store.prepare([FOX], ["fox"], "0123abcd")
        (second,) = await at.store.prepare([CAT], ["fox"], "11111111")
        assert second.path == "fox_11111111.png"
        at.store.release(first)
        (third,) = await at.store.prepare([CAT], ["fox"], "22222222")
        assert third.path == "fox.png"


# -- what the file system refuses


@pytest.mark.anyio
@pytest.mark.parametrize("step", range(7))
@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "make the output folder writable"),
        (errno.EIO, "check the disk"),
    ],
)
async def test_a_refusal_of_the_file_system_is_told_with_its_cure_and_leaves_nothing(
    tmp_path: Path, step: int, number: int, cure: str
) -> None:
    disk = Told(fail_at=step, failure=OSError(number, os.strerror(number), str(tmp_path / "fox.png")))
    async with desk(tmp_path, change=with_disk(disk)) as at:
        with pytest.raises(StoreError, match=cure) as caught:
            await keep(at, "fox")
        assert "fox.png" in str(caught.value)
        leftovers = {name for name in files_of(tmp_path) if name.endswith(".part")}
        assert leftovers == ({".fox.png.part"} if step == 5 else set()), "only what could not be removed is left"
        assert (await keep(at, "fox"))[0] in files_of(tmp_path), "once the fault is gone it goes on"


@pytest.mark.anyio
async def test_a_second_picture_that_cannot_be_written_takes_the_first_one_back(tmp_path: Path) -> None:
    disk = Told(fail_at=9, failure=OSError(errno.ENOSPC, "No space left on device"))
    async with desk(tmp_path, change=with_disk(disk)) as at:
        with pytest.raises(StoreError, match="disk is full"):
            await keep(at, "fox", [FOX, CAT])
    assert files_of(tmp_path) == set()


@pytest.mark.anyio
async def test_a_file_where_a_folder_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    async with desk(tmp_path) as at:
        with pytest.raises(StoreError, match="cannot write"):
            await keep(at, "a/fox")


@pytest.mark.anyio
async def test_a_path_too_long_for_the_file_system_is_told(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        with pytest.raises(StoreError, match="cannot write"):
            await keep(at, "/".join(["x" * 100] * 60))


@pytest.mark.anyio
async def test_an_output_folder_that_was_removed_is_made_again(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await keep(at, "a/fox")
        (tmp_path / "a/fox.png").unlink()
        (tmp_path / "a").rmdir()
        assert await keep(at, "a/fox") == ["a/fox.png"]


# -- after a death


@settings(max_examples=40)
@given(st.integers(0, 15), st.integers(1, 2))
def test_wherever_the_process_dies_no_half_picture_has_a_final_name_and_the_next_one_tidies_up(
    tmp_path_factory: pytest.TempPathFactory, step: int, count: int
) -> None:
    pictures = [FOX, CAT][:count]

    async def check() -> None:
        root = tmp_path_factory.mktemp("cut")
        disk = Told(fail_at=step)
        async with desk(root, change=with_disk(disk)) as at:
            prepared = await at.store.prepare(pictures, ["a/one", "a/two"][:count], "0123abcd")
            try:
                written = await at.store.write(prepared, pictures)
            except CutError:
                written = False
        for record, data in zip(prepared, pictures, strict=True):
            path = root / str(record.path)
            assert not path.exists() or path.read_bytes() == data.data
        async with desk(root) as at:
            there = await at.store.are_in_place(prepared)
        assert there or not written, "what was answered for is there"
        assert files_of(root) == ({str(p.path) for p in prepared} if there else set())

    anyio.run(check)


@pytest.mark.anyio
async def test_a_half_written_leftover_is_no_hindrance(tmp_path: Path) -> None:
    temporary_path(tmp_path / "fox.png").write_bytes(FOX.data[:100])
    async with desk(tmp_path) as at:
        assert await keep(at, "fox") == ["fox.png"]
    assert files_of(tmp_path) == {"fox.png"}


@pytest.mark.anyio
async def test_a_file_that_is_not_the_recorded_one_is_not_taken_for_it_and_left_alone(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        prepared = await at.store.prepare([FOX], ["fox"], "0123abcd")
        for others in (b"", FOX.data[:-1], b"somebody's"):
            (tmp_path / "fox.png").write_bytes(others)
            assert not await at.store.are_in_place(prepared)
            assert (tmp_path / "fox.png").read_bytes() == others
        (tmp_path / "fox.png").write_bytes(FOX.data)
        assert await at.store.are_in_place(prepared)
