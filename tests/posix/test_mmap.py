"""mmap(2): shared and private mappings agree with read(2) and write(2), also over a copy-up."""

import mmap
import os

import pytest
from filesystems import Filesystem
from syscalls import in_child

given = pytest.mark.tree

SIZE = 5 * mmap.PAGESIZE
DATA = bytes(range(256)) * (SIZE // 256)


@given({"file": DATA})
def test_a_mapping_shows_the_file(fs: Filesystem) -> None:
    with open(fs.path / "file", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        assert mapping[:] == DATA


@given({"file": DATA})
def test_a_mapping_outlives_its_descriptor_and_its_name(fs: Filesystem) -> None:
    file = open(fs.path / "file", "r+b")  # noqa: SIM115 - closed before the mapping, that is the point
    mapping = mmap.mmap(file.fileno(), 0)
    file.close()
    os.unlink(fs.path / "file")
    with mapping:
        mapping[10:13] = b"new"
        mapping.flush()
        assert mapping[:] == DATA[:10] + b"new" + DATA[13:]


@given({"file": DATA})
def test_writes_through_a_shared_mapping_reach_readers(fs: Filesystem) -> None:
    with open(fs.path / "file", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[mmap.PAGESIZE - 2 : mmap.PAGESIZE + 2] = b"WXYZ"
        assert os.pread(file.fileno(), 4, mmap.PAGESIZE - 2) == b"WXYZ"
        assert in_child(lambda: (fs.path / "file").read_bytes())[mmap.PAGESIZE - 2 :][:4] == b"WXYZ"
        mapping.flush()
    expected = DATA[: mmap.PAGESIZE - 2] + b"WXYZ" + DATA[mmap.PAGESIZE + 2 :]
    assert (fs.path / "file").read_bytes() == expected


@given({"file": DATA})
def test_writes_reach_a_shared_mapping(fs: Filesystem) -> None:
    with open(fs.path / "file", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        assert mapping[:4] == DATA[:4]
        os.pwrite(file.fileno(), b"NEW!", 0)
        assert mapping[:4] == b"NEW!"


@given({"file": DATA})
def test_a_mapping_made_before_the_copy_up_sees_what_is_written_after(fs: Filesystem) -> None:
    with open(fs.path / "file", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        assert mapping[:4] == DATA[:4]
        with open(fs.path / "file", "r+b") as writer:
            writer.write(b"NEW!")
        assert mapping[:4] == b"NEW!"


@given({"file": DATA})
def test_a_private_mapping_keeps_its_writes_to_itself(fs: Filesystem) -> None:
    with open(fs.path / "file", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapping:
        mapping[:4] = b"MINE"
        assert os.pread(file.fileno(), 4, 0) == DATA[:4]
        assert mapping[:4] == b"MINE"
    assert (fs.path / "file").read_bytes() == DATA


@given({"file": DATA})
def test_two_processes_share_a_mapping(fs: Filesystem) -> None:
    with open(fs.path / "file", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:

        def write() -> None:
            with open(fs.path / "file", "r+b") as again, mmap.mmap(again.fileno(), 0) as other:
                other[100:105] = b"child"

        in_child(write)
        assert mapping[100:105] == b"child"


@given({"file": b"short"})
def test_the_rest_of_the_last_page_is_zero_and_is_not_written_back(fs: Filesystem) -> None:
    with open(fs.path / "file", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[:5] = b"SHORT"
        mapping.flush()
    assert (fs.path / "file").read_bytes() == b"SHORT"
    os.truncate(fs.path / "file", 100)
    assert (fs.path / "file").read_bytes() == b"SHORT" + b"\0" * 95


@given({"file": DATA})
def test_truncating_under_a_mapping_drops_the_data(fs: Filesystem) -> None:
    with open(fs.path / "file", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        assert mapping[:] == DATA
        os.ftruncate(file.fileno(), 100)
        os.ftruncate(file.fileno(), SIZE)
        assert mapping[:] == DATA[:100] + b"\0" * (SIZE - 100)


def test_a_mapping_of_a_new_file(fs: Filesystem) -> None:
    with open(fs.path / "file", "x+b") as file:
        os.ftruncate(file.fileno(), SIZE)
        with mmap.mmap(file.fileno(), SIZE) as mapping:
            mapping[:] = DATA
        assert os.fstat(file.fileno()).st_size == SIZE
    assert (fs.path / "file").read_bytes() == DATA
