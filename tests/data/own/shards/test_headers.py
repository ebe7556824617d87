"""Headers of tar files of anyone: what is refused, and that files are read without extracting them."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from pyro_mmvae.data.own.shards.headers import read_member, read_members


def write_tar(path: Path, members: dict[str, bytes], *, layout: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=layout) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("layout", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_read_members_of_each_layout_yields_names_and_contents(tmp_path: Path, layout: int) -> None:
    long = "folder/" + "n" * 90 + ".txt" if layout == tarfile.USTAR_FORMAT else "n" * 150 + ".größe.txt"
    content = {"a.txt": b"one", "b.txt": b"", long: b"x" * 600}
    path = write_tar(tmp_path / "a.tar", content, layout=layout)
    members = list(read_members(path))
    assert [member.name for member in members] == list(content)
    with path.open("rb") as file:
        found = [read_member(file.fileno(), member.offset, member.size) for member in members]
    assert found == list(content.values())


@pytest.mark.parametrize("name", ["/etc/passwd", "../up.txt", "a/../../up.txt", "a\\b.txt", "line\nbreak.txt"])
def test_read_members_with_unsafe_name_raises(tmp_path: Path, name: str) -> None:
    path = write_tar(tmp_path / "a.tar", {"good.txt": b"1", name: b"2"})
    with pytest.raises(ValueError, match="must have a relative name of printable characters") as error:
        list(read_members(path))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "words"),
    [(tarfile.SYMTYPE, "a symbolic link"), (tarfile.LNKTYPE, "a hard link"), (tarfile.FIFOTYPE, "a FIFO"),
     (tarfile.CHRTYPE, "a device"), (tarfile.GNUTYPE_SPARSE, "a sparse file")],
)  # fmt: skip
def test_read_members_with_special_file_raises(tmp_path: Path, kind: bytes, words: str) -> None:
    path = tmp_path / "a.tar"
    info = tarfile.TarInfo("a.txt")
    info.type, info.linkname = kind, "/etc/passwd"
    with tarfile.open(path, "w") as tar:
        tar.addfile(info)
    with pytest.raises(ValueError, match=f"member 'a.txt' must be a plain file, got {words}"):
        list(read_members(path))


def test_read_members_with_huge_member_raises(tmp_path: Path) -> None:
    info = tarfile.TarInfo("bomb.npy")
    info.size = 2**33
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(2**33 + 2048)  # a sparse file, which takes no space
    with pytest.raises(ValueError, match="'bomb.npy' must have at most 268,435,456 bytes, got 8,589,934,592"):
        list(read_members(path))


def test_read_members_with_huge_header_raises(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"n" * 100_000: b"1"})
    with pytest.raises(ValueError, match="the name of a member must be short, got 100,001 bytes"):
        list(read_members(path))


@pytest.mark.parametrize("cut", [300, 700, 1024, 1600])
def test_read_members_of_truncated_file_raises(tmp_path: Path, cut: int) -> None:
    path = write_tar(tmp_path / "a.tar", {"a.txt": b"x" * 10, "b.txt": b"y" * 700})
    os.truncate(path, cut)
    with pytest.raises(ValueError, match="cut off") as error:
        list(read_members(path))
    assert str(path) in str(error.value)


def test_read_members_of_other_files_raises(tmp_path: Path) -> None:
    packed = tmp_path / "a.tar"
    packed.write_bytes(gzip.compress(b"x" * 5000))
    with pytest.raises(ValueError, match="must be a tar file without compression, got gzip"):
        list(read_members(packed))
    packed.write_bytes(b"x" * 5000)
    with pytest.raises(ValueError, match="must be a tar file, got a damaged header"):
        list(read_members(packed))


def test_read_member_at_other_place_raises(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a.txt": b"x" * 700})
    (member,) = read_members(path)
    with path.open("rb") as file:
        for offset, size in ((member.offset + 512, 100), (member.offset, 600), (100, 10), (member.offset, 2**40)):
            with pytest.raises(ValueError, match="must be"):
                read_member(file.fileno(), offset, size)
        with pytest.raises(ValueError, match="is cut off"):
            read_member(file.fileno(), member.offset, 20_000)
