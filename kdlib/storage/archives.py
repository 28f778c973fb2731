"""Unpacking archives of unknown origin: only files and folders, only within the folder, only up to a size."""

import os
import re
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from kdlib import files

CHUNK = 1 << 18  # bytes read at a time
MAX_HEADER = 1 << 20  # bytes of what a tar says of one file in extended headers, which are read whole
MAX_NAME = 4096  # bytes of a path, as Linux has it
HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


def unpack(archive, folder, *, max_bytes, max_files) -> Path:
    """Unpack a tar (plain or compressed) or zip archive into the new `folder`, which appears whole or not at all; return it.

    At most `max_bytes` bytes in `max_files` files and folders. A folder that is there is left as it is. Modes and owners
    are not kept. Raises ValueError for what is no sound archive and for one that is too large or holds anything but
    plain files and folders within it; FileNotFoundError where there is no archive."""
    archive, folder = Path(archive), Path(folder)
    files.make_folder(folder.parent)
    with files.only_process(folder.with_name(f".{folder.name}.lock")):
        if folder.exists():
            return folder
        temporary = folder.with_name(f".{folder.name}.unpacking")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir()
            _extract(archive, temporary, max_bytes, max_files)
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _extract(archive, folder, max_bytes, max_files):
    """Write the archive's files into `folder`, counting what is written rather than believing what is announced."""
    count, size, target = 0, 0, None
    for name, kind, block in _contents(archive):
        if block is None:
            count += 1
            if count > max_files:
                raise ValueError(f"{archive} holds more than {max_files} files, so it was not unpacked")
            target = folder / _safe(name, kind, archive)
            _create(target, kind, name, archive)
            continue
        size += len(block)
        if size > max_bytes:
            raise ValueError(f"{archive} holds more than {max_bytes} bytes, so it was not unpacked")
        with files.writing(target), target.open("ab") as file:
            file.write(block)
    if not count:
        raise ValueError(f"{archive} holds no files")


def _create(target, kind, name, archive):
    """An empty file, or a folder."""
    if kind == "file" and target.exists():
        raise ValueError(f"{archive} holds {_short(name)} twice, so it was not unpacked")
    with files.writing(target):
        if kind == "folder":
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()


def _safe(name, kind, archive):
    """The member's path within the folder; ValueError for a path that leaves it, and for links and devices."""
    if len(name.encode(errors="surrogatepass")) > MAX_NAME:
        raise ValueError(
            f"{archive} holds {_short(name)}, a name of more than {MAX_NAME} bytes, so it was not unpacked"
        )
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or set(name) & set("\\\0") or re.match("[A-Za-z]:", name):
        raise ValueError(f"{archive} holds {_short(name)}, which is not within its folder, so it was not unpacked")
    if kind not in ("file", "folder"):
        raise ValueError(
            f"{archive} holds {_short(name)}, {kind}, so it was not unpacked: it may hold files and folders only"
        )
    return path


def _short(name) -> str:
    return repr(name if len(name) <= 200 else name[:200] + "…")


def _contents(archive):
    """(name, kind, None) for every member, and (name, kind, block) for every block of a file's bytes."""
    with archive.open("rb") as file:
        magic = file.read(4)
    try:
        yield from _zip_contents(archive) if magic == b"PK\3\4" else _tar_contents(archive)
    except Exception as error:  # a damaged file can make the reader fail in any way
        reason = (str(error) or type(error).__name__).splitlines()[0][:200].rstrip(":")
        raise ValueError(
            f"{archive} is truncated, damaged or no tar or zip archive ({reason}). Remove it and fetch it again"
        ) from error


class _Member(tarfile.TarInfo):
    """A member of a tar whose extended headers, names above all, are only read where they are small."""

    def _proc_member(self, tar):
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise ValueError("it holds a sparse file")  # whose map has no limit
        if self.type in HEADERS:
            tar.header_bytes = getattr(tar, "header_bytes", 0) + self.size
            if not 0 <= self.size <= MAX_HEADER or tar.header_bytes > MAX_HEADER:
                raise ValueError(f"a header in it has more than {MAX_HEADER} bytes")
        return super()._proc_member(tar)

    def _proc_gnusparse_10(self, *_):
        raise ValueError("it holds a sparse file")


def _tar_contents(archive):
    with tarfile.open(archive, tarinfo=_Member) as tar:
        while member := tar.next():
            tar.members.clear()  # with the headers of each
            tar.header_bytes = sum(len(key) + len(value) for key, value in tar.pax_headers.items())
            kind = "file" if member.isfile() else "folder" if member.isdir() else "a link or device"
            yield member.name, kind, None
            if kind == "file":
                yield from _blocks(tar.extractfile(member), member.name)
        # tarfile takes a header that is cut off or damaged for the end; the true end is a block of zeros.
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise ValueError("its end is missing")
        while tar.fileobj.read(CHUNK):  # up to the checksum of the compression
            pass


def _zip_contents(archive):
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            mode = stat.S_IFMT(member.external_attr >> 16)
            plain = mode in (0, stat.S_IFREG, stat.S_IFDIR)
            kind = "a link or device" if not plain else "folder" if member.is_dir() else "file"
            yield member.filename, kind, None
            if kind == "file":
                with file.open(member) as stream:
                    yield from _blocks(stream, member.filename)


def _blocks(stream, name):
    while block := stream.read(CHUNK):
        yield name, "file", block
