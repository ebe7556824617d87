"""The headers of tar files of anyone, read one at a time in bounded memory; nothing is ever extracted."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BLOCK = 512
"""The number of bytes of a header; contents are padded to a multiple of it."""

MAX_MEMBER = 2**28
"""The largest number of bytes of a member, 256 MiB."""

_MAX_EXTENSION = 2**16  # bytes of a long name or a pax header
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}
_KINDS = {
    tarfile.LNKTYPE: "a hard link", tarfile.SYMTYPE: "a symbolic link", tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device", tarfile.FIFOTYPE: "a FIFO", tarfile.GNUTYPE_SPARSE: "a sparse file",
}  # fmt: skip


class Member(NamedTuple):
    """A regular file in a tar file.

    Attributes:
        name: The name of the member, with folders.
        offset: The position of its first byte in the tar file.
        size: The number of its bytes.
    """

    name: str
    offset: int
    size: int


def read_members(path: Path) -> Iterator[Member]:
    """Yield the regular files of a tar file in their order, reading only the headers.

    Args:
        path: Path of the tar file.

    Raises:
        ValueError: If the file is not an uncompressed tar file, is damaged or cut off, or holds a link, a device, a
            member of more than 256 MiB, or a name that is absolute or leads out of a folder; the message is one line
            that names file and member.
    """
    with path.open("rb") as file:
        descriptor, end = file.fileno(), os.fstat(file.fileno()).st_size
        kind = _COMPRESSED.get(os.pread(descriptor, 2, 0))
        if kind is not None:
            raise ValueError(f"{path}: must be a tar file without compression, got {kind}: decompress it first")
        position, last, name, size = 0, "", None, None
        while True:
            block = os.pread(descriptor, BLOCK, position)
            if len(block) < BLOCK:
                raise ValueError(f"{path}: must be a whole tar file, got one that is cut off{_after(last)}")
            if not any(block):
                return
            info = _parse(path, block, last)
            start, extent = position + BLOCK, info.size if size is None else size
            current = info.name if name is None else name
            if extent < 0 or start + extent > end:
                raise ValueError(
                    f"{path}: member {current!r} must end within the file of {end:,} bytes, got {extent:,} bytes at "
                    f"{start:,}: the file is cut off or damaged"
                )
            position = start + -(-extent // BLOCK) * BLOCK
            if info.type in {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME}:
                if extent > _MAX_EXTENSION:
                    raise ValueError(
                        f"{path}: the name of a member{_after(last)} must be short, got {extent:,} bytes of headers"
                    )
                content = os.pread(descriptor, extent, start)
                if info.type == tarfile.GNUTYPE_LONGNAME:
                    name = content.rstrip(b"\0").decode("utf-8", "replace")
                else:
                    name, size = _read_pax(path, content, name)
                continue
            if info.type in {tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK}:
                continue
            _check(path, current, info.type, extent)
            if info.type in _REGULAR:
                yield Member(current, start, extent)
            last, name, size = current, None, None


def read_member(descriptor: int, offset: int, size: int) -> bytes:
    """Return the content of a member, after a check of its header.

    Args:
        descriptor: File descriptor of the tar file.
        offset: The position of its first byte.
        size: The number of its bytes.

    Raises:
        ValueError: If no regular file of this size begins there, or it is cut off; the message is a part of a line.
    """
    if size > MAX_MEMBER or offset < BLOCK or size < 0:
        raise ValueError(f"must be a file of at most {MAX_MEMBER:,} bytes, got {size:,} at {offset:,}")
    content = os.pread(descriptor, BLOCK + size, offset - BLOCK)
    if len(content) < BLOCK + size:
        raise ValueError("is cut off")
    try:
        # The size of members of 8 GiB and more, which are not allowed, would not be in octal digits.
        stated = int(content[124:136].strip(b" \0") or b"0", 8)
    except ValueError:
        stated = -1
    if content[156:157] not in _REGULAR or stated != size:
        raise ValueError("must be a member of the tar file, got other bytes: the file was changed or is damaged")
    return content[BLOCK:]


def _after(last: str) -> str:
    return f" after member {last!r}" if last else ""


def _parse(path: Path, block: bytes, last: str) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "replace")
    except tarfile.HeaderError as error:
        raise ValueError(f"{path}: must be a tar file, got a damaged header{_after(last)}: {error}") from None


def _read_pax(path: Path, content: bytes, name: str | None) -> tuple[str | None, int | None]:
    """Return the name and the size that a pax header gives to the next member."""
    size = None
    while content.strip(b"\0"):
        digits, space, rest = content.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 7 else 0
        key, equals, value = rest[: length - len(digits) - 1].partition(b"=")
        if not space or not equals or length > len(content) or length <= len(digits) + 2:
            raise ValueError(f"{path}: must be a tar file, got a damaged pax header")
        value = value.removesuffix(b"\n")
        if key == b"path":
            name = value.decode("utf-8", "replace")
        elif key == b"size":
            size = int(value) if value.isdigit() and len(value) < 20 else -1
        elif key.startswith(b"GNU.sparse"):
            raise ValueError(f"{path}: members must be plain files, got a sparse file")
        content = content[length:]
    return name, size


def _check(path: Path, name: str, kind: bytes, size: int) -> None:
    """Check the name, the type and the size of a member."""
    parts = name.split("/")
    if name.startswith(("/", "\\")) or ".." in parts or "\\" in name or not name.isprintable():
        raise ValueError(
            f"{path}: member {name!r} must have a relative name of printable characters without '..' and backslashes"
        )
    if kind not in {*_REGULAR, tarfile.DIRTYPE}:
        raise ValueError(f"{path}: member {name!r} must be a plain file, got {_KINDS.get(kind, 'another kind')}")
    if size > MAX_MEMBER:
        raise ValueError(f"{path}: member {name!r} must have at most {MAX_MEMBER:,} bytes, got {size:,}")
