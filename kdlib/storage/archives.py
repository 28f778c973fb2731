"""Unpack archives of unknown origin: plain files and folders only, within one folder, up to a size."""

import os
import re
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from kdlib import files

MAX_HEADER = 1 << 20  # bytes of a tar's extended headers of one file, which are read whole
MAX_NAME = 4096  # bytes of a path, as on Linux
HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


def unpack(archive, folder, *, max_bytes, max_files) -> Path:
    """Unpack a tar (plain or compressed) or zip archive into the new `folder`, which appears whole or not at all.

    A folder that exists is left as it is. Modes and owners are not kept.

    Parameters
    ----------
    archive, folder : path-like
    max_bytes, max_files : int
        Limits on the content; folders count as files.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ValueError
        If the archive is damaged or too large, or holds anything but files and folders within it.
    FileNotFoundError
        If there is no archive.
    """
    archive, folder = Path(archive), Path(folder)
    files.make_folder(folder.parent)
    with files.only_process(folder.with_name(f".{folder.name}.lock")):
        if folder.exists():
            return folder
        temporary = folder.with_name(f".{folder.name}.unpacking")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir()
            _extract(archive, temporary, _Limits(archive, temporary, max_bytes, max_files))
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


class _Refused(ValueError):
    """The archive is sound, but it is not unpacked."""


class _Limits:
    """Checks each member before it is unpacked."""

    def __init__(self, archive, folder, max_bytes, max_files):
        self.archive, self.folder, self.max_bytes, self.max_files = archive, folder, max_bytes, max_files
        self.count = self.size = 0

    def refuse(self, problem):
        raise _Refused(f"{self.archive} holds {problem}, so it was not unpacked")

    def check(self, name, size, is_file, is_folder):
        """Count a member of `size` bytes, and raise ValueError unless it may be unpacked."""
        self.count, self.size = self.count + 1, self.size + size
        short, path = repr(name if len(name) <= 200 else name[:200] + "…"), PurePosixPath(name)
        if self.count > self.max_files:
            self.refuse(f"more than {self.max_files} files")
        if self.size > self.max_bytes:
            self.refuse(f"more than {self.max_bytes} bytes")
        if len(name.encode(errors="surrogatepass")) > MAX_NAME:
            self.refuse(f"{short}, a name of more than {MAX_NAME} bytes")
        if path.is_absolute() or ".." in path.parts or set(name) & set("\\\0") or re.match("[A-Za-z]:", name):
            self.refuse(f"{short}, which is not within its folder")
        if not (is_file or is_folder):
            self.refuse(f"{short}, a link or device")
        if is_file and (self.folder / name).exists():
            self.refuse(f"{short} twice")


def _extract(archive, folder, limits):
    with archive.open("rb") as file:
        is_zip = file.read(4) == b"PK\3\4"
    try:
        (_extract_zip if is_zip else _extract_tar)(archive, folder, limits)
    except _Refused:
        raise
    except Exception as error:  # a damaged archive can make the reader fail in any way
        if isinstance(error, OSError) and error.errno:
            raise OSError(f"cannot write {folder}: {error.strerror or error}") from error
        reason = (str(error) or type(error).__name__).splitlines()[0][:200].rstrip(":")
        raise ValueError(
            f"{archive} is truncated, damaged or not a tar or zip archive ({reason}). Remove it and fetch it again"
        ) from error
    if not limits.count:
        raise ValueError(f"{archive} holds no files")


def _extract_zip(archive, folder, limits):
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            mode = stat.S_IFMT(member.external_attr >> 16)
            plain = mode in (0, stat.S_IFREG, stat.S_IFDIR)
            # zipfile reads no more of a member than the announced size.
            limits.check(member.filename, member.file_size, plain and not member.is_dir(), plain and member.is_dir())
            file.extract(member, folder)


def _extract_tar(archive, folder, limits):
    with tarfile.open(archive, tarinfo=_Member) as tar:
        while member := tar.next():
            tar.members.clear()  # or the headers of all members pile up in memory
            tar.header_bytes = sum(len(key) + len(value) for key, value in tar.pax_headers.items())
            limits.check(member.name, member.size, member.isfile(), member.isdir())
            member.mode = None
            tar.extract(member, folder, filter="data")
        # tarfile takes a damaged header for the end; the true end is a block of zeros.
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise ValueError("its end is missing")
        while tar.fileobj.read(MAX_HEADER):  # up to the checksum of the compression
            pass


class _Member(tarfile.TarInfo):
    """A member of a tar whose extended headers, above all names, are read only if they are small."""

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
