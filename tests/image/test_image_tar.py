"""The tar reader: every dialect that layers use, and nothing that fails in silence."""

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from archives import END, directory, entry, header, layer, numeric, padded, pax, record, with_checksum
from hypothesis import given, settings
from hypothesis import strategies as st

from pyunionfs.image.errors import ImageError
from pyunionfs.image.limits import DEFAULT_LIMITS, Limits
from pyunionfs.image.tar import Entry, TarReader, number


def read(data: bytes, limits: Limits = DEFAULT_LIMITS) -> list[tuple[Entry, bytes]]:
    """All entries with their contents, holes filled with zeros."""
    reader = TarReader(io.BufferedReader(io.BytesIO(data)), where="x.tar", limits=limits)  # type: ignore[type-var]
    found = []
    for item in reader:
        content = bytearray(item.size if item.type == b"0" else 0)
        if item.type == b"0":
            for offset, chunk in reader.data():
                content[offset : offset + len(chunk)] = chunk
        found.append((item, bytes(content)))
    return found


def only(data: bytes) -> Entry:
    ((item, _),) = read(data)
    return item


# -- agreement with other programs


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_what_the_standard_library_writes(format: int) -> None:
    buffer = io.BytesIO()
    names = ["short", "d/" * 20 + "medium", "n" * 99, "d" * 80 + "/" + "e" * 90]
    if format != tarfile.USTAR_FORMAT:
        names += ["x" * 200 + "/" + "y" * 200, "fünf"]
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for number_, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.uid, info.gid, info.mtime = number_ * 300, 0o4711, 3, 4, 99
            tar.addfile(info, io.BytesIO(b"z" * info.size))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/" + "t" * 90
        tar.addfile(link)
    found = read(buffer.getvalue())
    assert [item.name for item, _ in found] == [*(name.encode() for name in names), b"link"]
    assert [len(content) for _, content in found] == [*(n * 300 for n in range(len(names))), 0]
    assert (found[0][0].mode, found[0][0].uid, found[0][0].gid, found[0][0].mtime) == (0o4711, 3, 4, 99 * 10**9)
    assert found[-1][0].linkname == link.linkname.encode()


SPARSE = ["--format=gnu"] + [f"--format=posix --sparse-version={v}" for v in ("0.0", "0.1", "1.0")]


@pytest.mark.parametrize("options", SPARSE)
@pytest.mark.parametrize("pieces", [0, 1, 3, 60])
def test_reads_gnu_tars_sparse_files(tmp_path: Path, options: str, pieces: int) -> None:
    if shutil.which("tar") is None:
        pytest.skip("no tar program")
    file = tmp_path / "holes"
    with file.open("wb") as stream:
        for piece in range(pieces):
            stream.seek(piece * 65536)
            stream.write(os.urandom(5000))
        stream.truncate(pieces * 65536 + 100_000)
    subprocess.run(["tar", "-S", *options.split(), "-C", tmp_path, "-cf", tmp_path / "x.tar", "holes"], check=True)
    ((item, content),) = read((tmp_path / "x.tar").read_bytes())
    assert item.name == b"holes"
    assert content == file.read_bytes()
    assert item.pieces is not None
    assert sum(piece.size for piece in item.pieces) <= pieces * 8192  # holes were not read as zeros


def test_sparse_maps_that_lie_are_refused() -> None:
    def sparse(map_: str, size: int, data: bytes = b"x" * 10) -> bytes:
        return layer(entry("f", data, records={"GNU.sparse.map": map_, "GNU.sparse.size": str(size)}))

    assert read(sparse("5,10", 20))[0][1] == bytes(5) + b"x" * 10 + bytes(5)
    for map_, size in [("0,11", 20), ("0,9", 20), ("15,10", 20), ("5,5,0,5", 20), ("5", 20), ("0,10,x,1", 20)]:
        with pytest.raises(ImageError, match=r"x\.tar: 'f'"):
            read(sparse(map_, size))
    with pytest.raises(ImageError, match="in one file"):
        read(sparse("0,10", 1 << 62))
    head = b"99999999999999999999\n"
    with pytest.raises(ImageError, match="pieces"):
        read(layer(entry("f", padded(head), records={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})))
    with pytest.raises(ImageError, match="sparse map"):
        read(layer(entry("f", b"2\n0\n1\n" + bytes(506), records={"GNU.sparse.major": "1"})))


# -- names, numbers, times


def test_names_stay_bytes() -> None:
    name = b"d\xff\xfe/n\n\x80"
    assert only(layer(entry(name))).name == name
    assert only(layer(entry("x", records={"path": name}))).name == name
    assert only(layer(header("x", 400, type=b"L") + padded(b"l" * 399 + b"\0") + entry("y"))).name == b"l" * 399


def test_prefix_counts_in_ustar_only() -> None:
    assert only(layer(header("b", prefix=b"a"))).name == b"a/b"
    assert only(layer(header("b", prefix=b"a", magic=b"ustar  \0"))).name == b"b"


def test_types_in_the_mode_are_masked_and_stray_linknames_dropped() -> None:
    item = only(layer(entry(".wh.x", mode=0o100644, link="stray")))
    assert (item.mode, item.linkname) == (0o644, b"")


@pytest.mark.parametrize(
    ("value", "nanoseconds"),
    [
        ("0", 0),
        ("1.5", 1_500_000_000),
        ("1700000000.123456789", 1_700_000_000_123_456_789),
        ("1.1234567899", 1_123_456_789),
        ("-86400.5", -86_400_500_000_000),
        ("6000000000", 6_000_000_000 * 10**9),
        ("3.", 3 * 10**9),
    ],
)
def test_times_keep_their_nanoseconds(value: str, nanoseconds: int) -> None:
    assert only(layer(entry("f", records={"mtime": value}))).mtime == nanoseconds


@pytest.mark.parametrize(
    "records", [{"mtime": "soon"}, {"mtime": "1e9"}, {"uid": "-1"}, {"size": "x"}, {"mtime": "9" * 20}]
)
def test_bad_numbers_are_refused(records: dict[str, str]) -> None:
    with pytest.raises(ImageError, match=r"x\.tar: 'f'"):
        read(layer(entry("f", records=records)))


@given(st.integers(-(1 << 55), 1 << 55))
def test_base_256_round_trip(value: int) -> None:
    assert number(numeric(value, 12), where="") == value


def test_binary_xattrs() -> None:
    value = b"\0=\n\xff" * 10
    item = only(layer(entry("f", records={"SCHILY.xattr.user.a=b": b"", "SCHILY.xattr.user.bin": value})))
    # A key ends at the first equals sign.
    assert item.xattrs == {b"user.a": b"b=", b"user.bin": value}


def test_global_headers_say_nothing_of_entries() -> None:
    item = only(layer(pax({"path": "evil", "comment": "by git"}, type=b"g"), entry("f")))
    assert item.name == b"f"


def test_an_extended_header_speaks_of_one_entry() -> None:
    names = [item.name for item, _ in read(layer(entry("x", records={"path": "long"}), entry("y")))]
    assert names == [b"long", b"y"]


def test_links_and_directories_have_no_data() -> None:
    found = read(layer(header("d", 512, type=b"5"), header("l", 99, type=b"1", link="f"), entry("f", b"data")))
    assert [item.name for item, _ in found] == [b"d", b"l", b"f"]


# -- ends and damage


@pytest.mark.parametrize("end", [b"", bytes(512), END, bytes(10_240), END + b"trailing"])
def test_accepted_ends(end: bytes) -> None:
    assert len(read(layer(entry("f", b"x"), end=end))) == 1


def test_empty_layers() -> None:
    assert read(b"") == read(END) == []


def test_nothing_may_follow_a_lone_zero_block() -> None:
    with pytest.raises(ImageError, match="zero block"):
        read(layer(entry("a"), bytes(512), entry("b")))


def test_every_cut_is_noticed() -> None:
    parts = [entry("a", b"x" * 700), entry("b", records={"path": "long"}), directory("c")]
    data = b"".join(parts)
    boundaries = [sum(map(len, parts[:n])) for n in range(len(parts) + 1)]
    for cut in range(len(data)):
        if cut in boundaries:
            assert len(read(data[:cut])) == boundaries.index(cut)
        else:
            with pytest.raises(ImageError, match=r"^x\.tar: .*(cut short|damaged)"):
                read(data[:cut])


def test_the_message_names_the_entry() -> None:
    with pytest.raises(ImageError, match=r"x\.tar: cut short in the middle of 'b'"):
        read(entry("a", b"1") + entry("b", b"x" * 900)[:-600])


@given(st.integers(0, 511), st.integers(1, 255))
def test_a_damaged_header_is_never_taken_for_the_end(at: int, delta: int) -> None:
    block = bytearray(header("b"))
    block[at] = (block[at] + delta) % 256
    data = layer(entry("a"), bytes(block), entry("c"))
    try:
        found = [item.name for item, _ in read(data)]
    except ImageError:
        return
    # Some bytes of the checksum field are mere padding.
    assert 148 <= at < 156
    assert found == [b"a", b"b", b"c"]


def test_unknown_types_are_refused() -> None:
    with pytest.raises(ImageError, match="unknown entry type"):
        read(layer(entry("x", type=b"Z")))


@pytest.mark.parametrize("block", [b"", b"5 a=b\n", b"7 a=b\nx", b"99 a=b\n", b"6 ab\n\n", b"-6 a=b\n", b"6 a=bc"])
def test_damaged_records(block: bytes) -> None:
    data = layer(pax(block), entry("f"))
    if block == b"":
        assert len(read(data)) == 1
    else:
        with pytest.raises(ImageError, match="extended header"):
            read(data)


def test_a_checksum_of_signed_bytes_is_accepted() -> None:
    block = header(b"\xff\xfe")
    total = sum(b - 256 if b > 127 else b for b in block[:148] + b" " * 8 + block[156:])
    assert only(block[:148] + b"%06o\0 " % total + block[156:]).name == b"\xff\xfe"


# -- bounds


def test_bounds() -> None:
    many = layer(*(entry(str(n)) for n in range(11)))
    assert len(read(many, Limits(max_entries=11))) == 11
    with pytest.raises(ImageError, match="10 entries"):
        read(many, Limits(max_entries=10))
    with pytest.raises(ImageError, match="name of more than 50 bytes"):
        read(layer(entry("x" * 51)), Limits(max_name=50))
    with pytest.raises(ImageError, match="in one file"):
        read(layer(entry("x", b"12345")), Limits(max_file_bytes=4))


def test_huge_extended_headers_are_not_read() -> None:
    for kind in (b"x", b"g", b"L", b"K"):
        with pytest.raises(ImageError, match="extended header of more than"):
            read(header("h", 1 << 40, type=kind))
    with pytest.raises(ImageError, match="extended header of more than"):
        read(pax({"comment": "x" * 1000}) * 3000, Limits(max_header=1 << 20))


@settings(max_examples=300)
@given(st.data())
def test_noise_raises_nothing_else(data: st.DataObject) -> None:
    parts = []
    for _ in range(data.draw(st.integers(1, 3))):
        block = bytearray(
            header(
                "name",
                data.draw(st.integers(0, 600)),
                type=data.draw(st.sampled_from(list(b"0125xgLKSVDM"))).to_bytes(1, "big"),
            )
        )
        for _ in range(data.draw(st.integers(0, 4))):
            block[data.draw(st.integers(0, 511))] = data.draw(st.integers(0, 255))
        parts.append(with_checksum(bytes(block)) + data.draw(st.binary(max_size=1200)))
    try:
        read(b"".join(parts), Limits(max_file_bytes=1 << 20))
    except ImageError:
        pass


def test_records_keep_their_order() -> None:
    first = record("GNU.sparse.numblocks", "2") + record("GNU.sparse.size", "100")
    pieces = b"".join(
        record(f"GNU.sparse.{k}", v)
        for k, v in [("offset", "0"), ("numbytes", "2"), ("offset", "50"), ("numbytes", "3")]
    )
    ((item, content),) = read(layer(pax(first + pieces), entry("f", b"abcde")))
    assert content == b"ab" + bytes(48) + b"cde" + bytes(47)
    assert item.size == 100
