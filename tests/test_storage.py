"""Downloads from a server with faults, archives with traps, and `fetch` from end to end."""

import contextlib
import hashlib
import http.server
import io
import os
import random
import resource
import socket
import stat
import tarfile
import threading
import time
import traceback
import tracemalloc
import types
import zipfile

import pytest
import torch

from kdlib import files, storage
from kdlib.__main__ import main
from kdlib.models import build_model, load_checkpoint, published

OLD, NEW = (random.Random(seed).randbytes(700_000) for seed in (1, 2))


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.served.content`. Each request takes the next of `faults`, a dict of: what changes in `served` from now
    on; `status`: answer with that alone; `cut`: send that many bytes and hang up; `stall`: wait that many seconds."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        served = self.server.served
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/file")
            self.end_headers()
            return
        served.requests.append(self.headers)
        fault = dict(served.faults.pop(0)) if served.faults else {}
        status, cut, stall = (fault.pop(name, None) for name in ("status", "cut", "stall"))
        vars(served).update(fault)
        time.sleep(stall or 0)
        if status:
            self.send_error(status)
            return
        asked, condition = self.headers.get("Range"), self.headers.get("If-Range")
        start = 0
        if asked and served.ranges and (condition == served.etag or served.ignores_condition):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(served.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        body = served.content[start:]
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(served.content) - 1}/{len(served.content)}")
        if served.etag:
            self.send_header("ETag", served.etag)
        if served.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body[:cut])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def served(monkeypatch):
    """What the server serves and the faults to come; afterwards the requests it got."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.served = types.SimpleNamespace(
        content=OLD, etag='"old"', ranges=True, ignores_condition=False, chunked=False, faults=[], requests=[]
    )
    server.served.url = f"http://127.0.0.1:{server.server_port}/file"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server.served
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "down" / "file.tar"


def download(served, target, **options):
    lines = []
    options = {"backoff": 0.001, "attempts": 3, "timeout": 20, "log": lines.append} | options
    assert storage.download(served.url, target, **options) == target
    return lines


def asked(served):
    return [request.get("Range") for request in served.requests]


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


# --- downloads ---


def test_a_plain_download_is_whole_and_happens_once(served, target):
    download(served, target)
    assert target.read_bytes() == OLD
    assert sorted(path.name for path in target.parent.iterdir()) == [".file.tar.lock", "file.tar"]
    assert "is there already" in download(served, target)[0]
    assert asked(served) == [None]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_cut_connection_resumes_where_it_broke(served, target, chunked):
    served.chunked = chunked
    served.faults = [{"cut": 400_000}]
    lines = download(served, target)
    assert target.read_bytes() == OLD
    first, second = served.requests
    start = int(second["Range"].removeprefix("bytes=").removesuffix("-"))
    assert 200_000 < start <= 400_000
    assert (first["Range"], second["If-Range"]) == (None, '"old"')
    assert len(lines) == 1
    assert "trying again" in lines[0]


def test_a_later_call_resumes_and_follows_a_redirect(served, target):
    served.url = served.url.replace("/file", "/moved")
    served.faults = [{"cut": 300_000}]
    with pytest.raises(OSError, match="got 300000 of 700000 bytes"):
        download(served, target, attempts=1)
    assert visible(target.parent) == ["file.tar.part"]
    download(served, target)
    assert target.read_bytes() == OLD
    assert asked(served) == [None, "bytes=300000-"]


def test_what_another_address_left_is_not_continued(served, target):
    served.faults = [{"cut": 300_000}]
    with pytest.raises(OSError, match="got 300000"):
        download(served, target, attempts=1)
    served.content, served.url = NEW, served.url + "?other"
    download(served, target)
    assert target.read_bytes() == NEW
    assert asked(served) == [None, None]


def test_a_complete_part_needs_no_request(served, target, monkeypatch):
    replace = os.replace

    def killed(source, destination):
        if destination == target:
            raise KeyboardInterrupt
        replace(source, destination)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            download(served, target)
    assert visible(target.parent) == ["file.tar.part"]
    download(served, target)
    assert target.read_bytes() == OLD
    assert asked(served) == [None]


def test_trouble_of_the_server_passes(served, target):
    served.faults = [{"status": 503}, {"status": 500}]
    lines = download(served, target)
    assert target.read_bytes() == OLD
    assert ["503" in lines[0], "500" in lines[1], len(lines)] == [True, True, 2]


def test_a_server_that_stalls_is_asked_again(served, target):
    served.faults = [{"stall": 1.5}]
    download(served, target, timeout=0.3)
    assert target.read_bytes() == OLD
    assert len(served.requests) == 2


def test_progress_renews_the_attempts(served, target):
    served.faults = [{"cut": 100_000} for _ in range(5)]
    download(served, target, attempts=2)
    assert target.read_bytes() == OLD
    assert asked(served)[-1] == "bytes=500000-"


def test_a_server_without_ranges_starts_over(served, target):
    served.ranges = False
    served.faults = [{"cut": 400_000}]
    download(served, target)
    assert target.read_bytes() == OLD
    assert asked(served) == [None, "bytes=400000-"]


@pytest.mark.parametrize("ignores_condition", [False, True])
@pytest.mark.parametrize("content", [NEW, NEW[:500_000], NEW[:300_000]])
def test_a_changed_file_is_never_mixed_with_the_old_one(served, target, content, ignores_condition):
    served.ignores_condition = ignores_condition
    served.faults = [{"cut": 400_000}, {"content": content, "etag": '"new"'}]
    download(served, target)
    assert target.read_bytes() == content


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_tag_nothing_is_resumed(served, target, etag):
    served.etag = etag
    served.faults = [{"cut": 400_000}, {"content": NEW}]
    download(served, target)
    assert target.read_bytes() == NEW
    assert asked(served) == [None, None]


def test_a_file_that_stays_truncated_is_an_error_and_no_file(served, target):
    served.ranges = False
    served.faults = [{"cut": 400_000} for _ in range(9)]
    with pytest.raises(OSError, match="got 400000 of 700000 bytes") as caught:
        download(served, target)
    assert served.url in str(caught.value)
    assert str(target) in str(caught.value)
    assert not target.exists()
    assert len(served.requests) == 3


def test_the_checksum_decides(served, target):
    with pytest.raises(ValueError, match=f"{hashlib.sha256(OLD).hexdigest()}, not {hashlib.sha256(NEW).hexdigest()}"):
        download(served, target, sha256=hashlib.sha256(NEW).hexdigest())
    assert visible(target.parent) == []
    download(served, target, sha256=hashlib.sha256(OLD).hexdigest().upper())
    assert target.read_bytes() == OLD
    with pytest.raises(ValueError, match="already there"):
        download(served, target, sha256=hashlib.sha256(NEW).hexdigest())
    assert target.read_bytes() == OLD


@pytest.mark.parametrize("status", [404, 403])
def test_a_missing_or_forbidden_file_is_one_sentence_after_one_request(served, target, status):
    served.faults = [{"status": status}]
    with pytest.raises(OSError, match=str(status)) as caught:
        download(served, target)
    assert served.url in str(caught.value)
    assert f"put it at {target}" in str(caught.value)
    assert len(served.requests) == 1
    assert not target.exists()


def test_no_network_is_one_sentence(target):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/file"
        with pytest.raises(OSError, match="no connection") as caught:
            storage.download(url, target, backoff=0.001, attempts=2, log=lambda line: None)
    assert url in str(caught.value)
    assert str(target) in str(caught.value)


def test_only_web_addresses(target):
    with pytest.raises(ValueError, match="http"):
        storage.download("file:///etc/hostname", target)
    assert not target.exists()


def test_a_signed_query_is_neither_told_nor_noted_and_a_user_is_refused(served, target):
    address, served.url = served.url, served.url + "?signature=s3cret"
    served.faults = [{"cut": 300_000}, {"status": 404}]
    lines = []
    with pytest.raises(OSError, match="answered 404 Not Found") as caught:
        download(served, target, log=lines.append)
    assert address in str(caught.value)
    notes = "".join(path.read_text() for path in target.parent.glob(".*.json"))
    told = "".join(traceback.format_exception(caught.value)) + "".join(lines) + notes
    assert "got 300000" in told
    assert address in notes
    assert "s3cret" not in told
    download(served, target)
    assert asked(served)[-1] == "bytes=300000-", "the same query resumes"
    for url in ("http://me:s3cret@127.0.0.1/x", "http://me:s3/cret@127.0.0.1/x", "ftp://me:s3cret@127.0.0.1/"):
        with pytest.raises(ValueError, match="cannot download this") as caught:
            storage.download(url, target.with_name("other"))
        assert "s3" not in "".join(traceback.format_exception(caught.value))
    url = "http://127.0.0.1/x?é s3cret"
    with pytest.raises(OSError, match=r"http://127\.0\.0\.1/x: the address is not valid") as caught:
        storage.download(url, target.with_name("other"), log=list)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_a_disk_without_room_is_named_and_not_tried_again(served, target):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write .*file\.tar\.part: File too large"):
            download(served, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(served.requests) == 1
    download(served, target)
    assert target.read_bytes() == OLD


def test_progress_is_told_in_lines(served, target, monkeypatch):
    monkeypatch.setattr(storage.transfers, "LINE_SECONDS", 0)
    lines = download(served, target)
    assert lines[0] == "file.tar: 0.3 of 0.7 MB"
    assert lines[-1] == "file.tar: 0.7 of 0.7 MB"


def test_two_at_once_download_once(served, target):
    served.faults = [{"stall": 0.3}]
    threads = [threading.Thread(target=download, args=(served, target)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == OLD
    assert len(served.requests) == 1


# --- archives ---

GOOD = {"a/one.bin": OLD[:3000], "a/b/two.bin": b"2" * 5000, "three": b""}


def member(name, content=b"", **attributes):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, io.BytesIO(content)


def make_tar(path, *members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for info, content in members:
            tar.addfile(info, content)
    return path


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def good(path):
    if path.suffix == ".zip":
        return make_zip(path, GOOD)
    members = [member("a", type=tarfile.DIRTYPE, mode=0o755), *(member(*item) for item in GOOD.items())]
    return make_tar(path, *members, mode="w:gz" if path.suffix == ".gz" else "w")


def unpack(archive, folder, max_bytes=1_000_000, max_files=10):
    return storage.unpack(archive, folder, max_bytes=max_bytes, max_files=max_files)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "deep" / "er" / "out"
    folder.parent.mkdir(parents=True)
    return folder


def assert_nothing_came(out, tmp_path, *archives):
    """Neither the folder, nor what was on its way into it, nor anything beside it."""
    left = {path for path in tmp_path.rglob("*") if path.is_symlink() or path.is_file()} - set(archives)
    assert {path.name for path in left} <= {".out.lock"}
    assert [path.name for path in out.parent.iterdir()] in ([], [".out.lock"])


@pytest.mark.parametrize("name", ["good.tar", "good.tar.gz", "good.zip"])
def test_a_good_archive_comes_out_whole(tmp_path, out, name):
    archive = good(tmp_path / name)
    (out.parent / ".out.unpacking").mkdir()
    (out.parent / ".out.unpacking" / "of a killed process").touch()
    assert unpack(archive, out) == out
    assert contents(out) == GOOD
    assert visible(out.parent) == ["out"]
    assert not (out.parent / ".out.unpacking").exists()
    (out / "three").write_bytes(b"mine")
    archive.unlink()
    assert unpack(archive, out) == out
    assert (out / "three").read_bytes() == b"mine"


def test_modes_are_not_kept(tmp_path, out):
    archive = make_tar(tmp_path / "x.tar", member("tool", b"x", mode=0o6777), member("d", type=tarfile.DIRTYPE, mode=0))
    unpack(archive, out)
    assert (out / "tool").stat().st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IXUSR | stat.S_IWOTH) == 0
    assert (out / "d").stat().st_mode & stat.S_IRWXU == stat.S_IRWXU


@pytest.mark.parametrize(
    ("trap", "words"),
    [
        (member("../x", b"x"), "not within"),
        (member("a/../../x", b"x"), "not within"),
        (member("a\\..\\..\\x", b"x"), "not within"),
        (member("C:x", b"x"), "not within"),
        (member("..", type=tarfile.DIRTYPE), "not within"),
        (member("{outside}/x", b"x"), "not within"),
        (member("link", type=tarfile.SYMTYPE, linkname="{outside}"), "link"),
        (member("link", type=tarfile.SYMTYPE, linkname="a"), "link"),
        (member("link", type=tarfile.LNKTYPE, linkname="ok"), "link"),
        (member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3), "device"),
        (member("disk", type=tarfile.BLKTYPE, devmajor=7), "device"),
        (member("pipe", type=tarfile.FIFOTYPE), "device"),
        (member("ok", b"again"), "twice"),
    ],
)
@pytest.mark.parametrize("compression", ["", "gz"])
def test_traps_in_a_tar_are_refused(tmp_path, out, trap, words, compression):
    info, content = trap
    content.seek(0)
    info = info.replace(
        name=info.name.format(outside=tmp_path), linkname=info.linkname.format(outside=tmp_path), deep=True
    )
    archive = make_tar(tmp_path / "x.tar", member("ok", b"fine"), (info, content), mode=f"w:{compression}")
    with pytest.raises(ValueError, match=words) as caught:
        unpack(archive, out)
    assert repr(info.name) in str(caught.value)
    assert_nothing_came(out, tmp_path, archive)


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("../x", stat.S_IFREG, "not within"),
        ("/tmp/x", stat.S_IFREG, "not within"),
        ("link", stat.S_IFLNK, "link"),
        ("device", stat.S_IFCHR, "device"),
        ("ok", stat.S_IFREG, "twice"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_traps_in_a_zip_are_refused(tmp_path, out, name, kind, words):
    info = zipfile.ZipInfo(name)
    info.external_attr = (kind | 0o644) << 16
    archive = make_zip(tmp_path / "x.zip", {"ok": b"fine", info: b"/etc"})
    with pytest.raises(ValueError, match=words):
        unpack(archive, out)
    assert_nothing_came(out, tmp_path, archive)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_long_name_is_never_read_into_memory(tmp_path, out, form):
    archive = tmp_path / "x.tgz"
    with tarfile.open(archive, "w:gz", format=form) as tar:
        tar.addfile(tarfile.TarInfo("d/" + "n" * 50_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="more than 1048576 bytes") as caught:
            unpack(archive, out)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 1000
    assert_nothing_came(out, tmp_path, archive)


def test_headers_add_up_until_a_file_comes(tmp_path, out):
    archive, header = tmp_path / "x.tar", tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 600_000
    with archive.open("wb") as file:
        for _ in range(2):
            file.write(header.tobuf(tarfile.GNU_FORMAT) + b"n" * 600_000 + bytes(64))
    with pytest.raises(ValueError, match="more than 1048576 bytes"):
        unpack(archive, out)


@pytest.mark.parametrize("name", ["x.tar", "x.zip"])
def test_names_have_a_length(tmp_path, out, name):
    long, fits = "d/" + "n" * 5000, "/".join(["d" * 200] * 4)
    for each, words in ((long, "a name of more than 4096 bytes"), ("../" + "n" * 3000, "not within")):
        archive = tmp_path / name
        make_zip(archive, {each: b"x"}) if name == "x.zip" else make_tar(archive, member(each, b"x"))
        with pytest.raises(ValueError, match=words) as caught:
            unpack(archive, out)
        assert len(str(caught.value)) < 1000
    make_zip(archive, {fits: b"x"}) if name == "x.zip" else make_tar(archive, member(fits, b"x"))
    assert contents(unpack(archive, out)) == {fits: b"x"}


def test_a_sparse_file_is_refused(tmp_path, out):
    for form, member_type in (("1.0", tarfile.REGTYPE), (None, tarfile.GNUTYPE_SPARSE)):
        info, content = member("file", b"1\n0\n1\n".ljust(1024), type=member_type)
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"} if form else {}
        with pytest.raises(ValueError, match="sparse"):
            unpack(make_tar(tmp_path / "x.tar", (info, content)), out)


@pytest.mark.parametrize("name", ["good.tar", "good.tar.gz", "good.zip"])
def test_limits_hold_to_the_byte_and_the_file(tmp_path, out, name):
    archive, size = good(tmp_path / name), sum(map(len, GOOD.values()))
    count = len(GOOD) + (name != "good.zip")
    with pytest.raises(ValueError, match=f"more than {size - 1} bytes"):
        unpack(archive, out, max_bytes=size - 1)
    with pytest.raises(ValueError, match=f"more than {count - 1} files"):
        unpack(archive, out, max_files=count - 1)
    assert_nothing_came(out, tmp_path, archive)
    unpack(archive, out, max_bytes=size, max_files=count)
    assert contents(out) == GOOD


def test_a_bomb_is_stopped_while_it_unpacks(tmp_path, out, monkeypatch):
    archive = make_zip(tmp_path / "bomb.zip", {"zeros": bytes(50_000_000)})
    written = []
    monkeypatch.setattr(files, "writing", lambda path, real=files.writing: written.append(path) or real(path))
    with pytest.raises(ValueError, match="more than 1000000 bytes"):
        unpack(archive, out)
    assert len(written) < 6
    assert_nothing_came(out, tmp_path, archive)


@pytest.mark.parametrize("name", ["good.tar", "good.tar.gz", "good.zip"])
def test_a_truncated_archive_is_refused_wherever_it_was_cut(tmp_path, out, name):
    whole = good(tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    archive = tmp_path / ("cut" + name)
    # A tar ends with its first block of zeros; what follows is padding.
    end = tarfile.BLOCKSIZE * (4 + 6 + 10 + 1) if name == "good.tar" else len(whole)
    for length in {0, 3, 100, 512, 1024, 1536, 2000, end // 2, end - 512, end - 1}:
        archive.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"truncated.*fetch it again"):
            unpack(archive, out)
    assert_nothing_came(out, tmp_path, archive)


def test_damage_is_refused(tmp_path, out):
    for name in ("good.tar", "good.tar.gz", "good.zip"):
        archive = good(tmp_path / name)
        content = bytearray(archive.read_bytes())
        # in the header of a tar's second member, in the bytes of a compressed one
        position = 512 + 100 if name == "good.tar" else 1000
        content[position] ^= 0xFF
        archive.write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            unpack(archive, out)
        archive.unlink()
    assert_nothing_came(out, tmp_path)


def test_what_is_no_archive_is_refused(tmp_path, out):
    archive = tmp_path / "page.tar"
    for content in (b"", b"<html>Sign in</html>" * 500, OLD):
        archive.write_bytes(content)
        with pytest.raises(ValueError, match="tar or zip"):
            unpack(archive, out)
    with pytest.raises(ValueError, match="no files"):
        unpack(make_tar(archive), out)
    assert_nothing_came(out, tmp_path, archive)
    with pytest.raises(FileNotFoundError, match=r"absent\.tar"):
        unpack(tmp_path / "absent.tar", out)


# --- fetch ---


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def checkpoint(model):
    content = io.BytesIO()
    torch.save({"epoch": 240, "model": model.state_dict()}, content)
    return content.getvalue()


def archive_of(tmp_path, checkpoints):
    members = [member(f"cifar_teachers/{name}", content) for name, content in checkpoints.items()]
    return make_tar(tmp_path / "served.tar", *members).read_bytes()


def test_fetch_says_what_it_found(served, data, tmp_path, capsys):
    model = build_model("resnet8", 100)
    weights = checkpoint(model)
    served.content = archive_of(
        tmp_path,
        {
            "resnet8_vanilla/ckpt_epoch_240.pth": weights,
            "resnet8_vanilla/ckpt_epoch_30.pth": checkpoint(build_model("resnet8", 100)),
            "resnet8_vanilla/._ckpt_epoch_240.pth": b"of another system",
            "resnet14_vanilla/ckpt_epoch_240.pth": weights[:-3000],
            "resnet20_vanilla/ckpt_epoch_240.pth": weights,
            "resnet99_vanilla/ckpt_epoch_240.pth": weights,
            "resnet32x4_vanilla/ckpt_epoch_240.pth": weights,
        },
    )
    assert main(["fetch", "cifar_teachers", "--url", served.url]) == 0
    out = capsys.readouterr().out
    lines = {line.split("/")[1]: line for line in out.splitlines() if "epoch_240.pth" in line}
    assert len(lines) == 5
    checksum = hashlib.sha256(weights).hexdigest()[:12]
    parameters = f"{sum(p.numel() for p in model.parameters()):,}"
    assert lines["resnet8_vanilla"].endswith(f"240.pth  resnet8  loads, {parameters} parameters  SHA-256 {checksum}")
    assert "resnet14  does not load (is truncated" in lines["resnet14_vanilla"]
    assert "resnet20  does not load (does not fit the model; missing keys" in lines["resnet20_vanilla"]
    assert "no model is called 'resnet99'" in lines["resnet99_vanilla"]
    assert f"{checksum}, another file than the recorded 22aa12e2b632" in lines["resnet32x4_vanilla"]
    assert out.splitlines()[-1] == f"2 of 6 checkpoints load, in {data / 'cifar_teachers'}"

    path = published.published_teacher("resnet8")
    assert path.name == "ckpt_epoch_240.pth"
    loaded = load_checkpoint(build_model("resnet8", 100), path)
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert published.published_teacher("resnet56") is None


def test_fetch_fails_where_nothing_loads(served, data, tmp_path, capsys):
    served.content = archive_of(tmp_path, {"resnet8_vanilla/ckpt_epoch_240.pth": b"not weights"})
    assert main(["fetch", "cifar_teachers", "--url", served.url]) == 1
    out, err = capsys.readouterr()
    assert "resnet8  does not load" in out
    assert "none of 1 checkpoints" in err


def test_fetch_again_neither_downloads_nor_unpacks(served, data, tmp_path):
    content = checkpoint(build_model("resnet8", 100))
    served.content = archive_of(tmp_path, {"resnet8_vanilla/ckpt_epoch_240.pth": content})
    arguments = ["fetch", "cifar_teachers", "--url", served.url]
    assert [main(arguments), main(arguments)] == [0, 0]
    (data / "cifar_teachers.tar").unlink()
    assert main(arguments) == 0
    assert len(served.requests) == 1


def test_fetch_takes_an_archive_put_there_by_hand(data, tmp_path, capsys):
    content = checkpoint(build_model("resnet8", 100))
    data.mkdir()
    (data / "cifar_teachers.tar").write_bytes(
        archive_of(tmp_path, {"resnet8_vanilla/ckpt_epoch_240.pth": content}),
    )
    assert main(["fetch", "cifar_teachers"]) == 0
    assert "1 of 1 checkpoints load" in capsys.readouterr().out


def test_fetch_in_trouble_says_one_sentence(served, data, capsys):
    assert main(["fetch", "cifar_teacher"]) == 1
    assert "Did you mean 'cifar_teachers'?" in capsys.readouterr().err
    served.faults = [{"status": 404}]
    assert main(["fetch", "cifar_teachers", "--url", served.url]) == 1
    said = capsys.readouterr().err
    assert served.url in said
    assert f"put it at {data / 'cifar_teachers.tar'}" in said
    assert len(said.splitlines()) == 1
    assert published.published_teacher("resnet8") is None
