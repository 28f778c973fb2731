"""Folders on S3: those of runs and reports, and WIDER Attribute."""

import http.client
import http.server
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from s3_examples import KEY, NEW, OLD, SECRET, asked, assert_clean, denied, serving, visible

from kdlib import paths, runs, storage
from kdlib.__main__ import main
from kdlib.runs import training
from kdlib.storage import wider

pytest_plugins = ["s3_examples"]

# --- folders of runs, and reports ---


def test_a_run_is_put_and_got_and_holds_no_credential(store, tiny, tmp_path, monkeypatch):
    for name, value in store.settings.items():
        monkeypatch.setenv(name, value)
    settings = runs.Run(student="convnet_4", method="scratch", epochs=1)
    record = runs.run(settings, log=list)
    folder = paths.runs_folder() / record["key"]
    (folder / ".hidden.lock").touch()
    (folder / "deep").mkdir()
    (folder / "deep" / "picture.png").write_bytes(OLD)
    (folder / "zebra.png").write_bytes(NEW)
    storage.put_folder(folder, f"runs/{record['key']}", log=list)
    assert puts(store)[-1] == f"/study/some/prefix/runs/{record['key']}/record.json"
    got = storage.get_folder(f"runs/{record['key']}", tmp_path / "other", log=list)
    assert got[-1] == tmp_path / "other" / "record.json"
    names = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    assert {path.relative_to(tmp_path / "other") for path in got} == names - {
        (folder / ".hidden.lock").relative_to(folder)
    }
    for path in got:
        content = path.read_bytes()
        assert content == (folder / path.relative_to(tmp_path / "other")).read_bytes()
        assert KEY.encode() not in content
        assert SECRET.encode() not in content
    before = len(puts(store))
    storage.put_folder(folder, f"runs/{record['key']}", log=list)
    assert len(puts(store)) == before
    monkeypatch.setenv("KDLIB_RUNS", str(tmp_path / "elsewhere"))
    storage.get_folder(f"runs/{record['key']}", paths.runs_folder() / record["key"], log=list)
    monkeypatch.setattr(training, "train", None)
    assert runs.run(settings, log=list) == record


def test_a_folder_is_never_a_mixture_of_two_versions(store, tmp_path):
    folder, lines = tmp_path / "run", []
    for name in ("a.csv", "b.csv", "record.json"):
        store.place(f"new {name}", f"runs/x/{name}")
    storage.get_folder("runs/x", folder, log=list)
    (folder / "a.csv").write_text("new")  # half-written
    store.faults = [{"status": 403, "code": "AccessDenied"}] * 9
    store.faults[:0] = [{"method": "GET"}, {"method": "HEAD"}, {"method": "HEAD"}, {"method": "HEAD"}]
    with pytest.raises(OSError, match="may not do this"):
        storage.get_folder("runs/x", folder, log=list)
    assert not {"a.csv", "record.json"} & set(visible(folder)), "no record while something is missing"
    store.faults = []
    storage.get_folder("runs/x", folder, log=list)
    assert [(folder / name).read_text() for name in visible(folder)] == ["new a.csv", "new b.csv", "new record.json"]
    (folder / "b.csv").write_text("old b.csv")  # of the same length
    storage.get_folder("runs/x", folder, log=lines.append)
    assert (folder / "b.csv").read_text() == "new b.csv"
    assert sum("fetching it again" in line for line in lines) == 1


def puts(store):
    return [path for command, path in store.paths if command == "PUT"]


def test_folders_that_cannot_be_had(store, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no files"):
        storage.put_folder(tmp_path / "empty", "runs/x")
    (tmp_path / "odd").mkdir()
    for name in ("a", "odd \udcff"):
        (tmp_path / "odd" / name).touch()
    with pytest.raises(ValueError, match=r"odd holds 'odd \\udcff', whose name is not UTF-8"):
        storage.put_folder(tmp_path / "odd", "runs/x")
    assert puts(store) == []
    with pytest.raises(FileNotFoundError, match=r"s3://study/some/prefix/runs/x .* holds no objects"):
        storage.get_folder("runs/x", tmp_path / "down")
    for folder, name in [("x", "a\\..\\..\\b"), ("y", "a/../../b"), ("z", "/b")]:
        store.place(OLD, f"runs/{folder}/fine")
        store.place(OLD, f"runs/{folder}/{name}")
        with pytest.raises(ValueError, match="not within its folder"):
            storage.get_folder(f"runs/{folder}", tmp_path / "down")
    assert not (tmp_path / "down").exists()


# --- fetch wider ---

ANNOTATIONS = {name: json.dumps({"images": [], "is": name}).encode() for name in wider.ANNOTATIONS}
PICTURES = {f"{split}/3--Riot/{i}.jpg": OLD[i : i + 5000] for split in ("train", "val", "test") for i in range(3)}


def images_archive(folder="Image/"):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in PICTURES.items():
            info = tarfile.TarInfo(folder + name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def annotations_zip(names=tuple(ANNOTATIONS)):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name in names:
            file.writestr(f"wider_attribute_annotation/{name}", ANNOTATIONS[name])
    return packed.getvalue()


@pytest.fixture
def wider_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("KDLIB_HEADLESS", "1")  # a plugin of pytest's loads ipykernel, which looks like a notebook
    return tmp_path / "data" / "wider"


def assert_in_place(folder):
    image = folder / "Image"
    assert {path.relative_to(image).as_posix(): path.read_bytes() for path in image.rglob("*.jpg")} == PICTURES
    assert {name: (folder / name).read_bytes() for name in ANNOTATIONS} == ANNOTATIONS
    assert not list(folder.glob(".*unpacked"))


def test_fetch_wider_from_end_to_end(store, wider_folder, capsys):
    store.place(images_archive(), wider.IMAGES)
    for name, content in ANNOTATIONS.items():
        store.place(content, name)
    assert main(["fetch", "wider"]) == 0
    out, err = capsys.readouterr()
    assert_in_place(wider_folder)
    assert [f"{split}: 3 images" in out for split in ("train", "val", "test")] == [True] * 3
    assert all(name in out.splitlines()[-1] for name in ANNOTATIONS)
    assert_clean(out + err)
    for path in wider_folder.rglob("*.json"):
        assert_clean(path.read_text())


@pytest.mark.parametrize("top", ["Image/", "", "wider/"])
def test_fetch_wider_with_an_archive_of_annotations(store, wider_folder, capsys, top):
    store.place(images_archive(top), f"sets/{wider.IMAGES}")
    store.place(annotations_zip(), f"sets/{wider.ARCHIVES[0]}")
    assert main(["fetch", "wider", "--bucket", "study", "--prefix", "some/prefix/sets"]) == 0
    assert_in_place(wider_folder)
    store.requests.clear()
    capsys.readouterr()
    assert main(["fetch", "wider"]) == 0
    assert "is there already" in capsys.readouterr().out
    assert store.requests == []


def test_fetch_wider_with_a_key_that_may_not_list(store, wider_folder, capsys):
    store.place(images_archive(), wider.IMAGES)
    store.faults = [{"method": "HEAD"}, {"method": "GET"}, *denied(3)]
    assert main(["fetch", "wider"]) == 1
    said = capsys.readouterr().err
    assert "may not do this" in said
    assert wider.ANNOTATIONS[0] in said
    assert store.faults == []
    store.place(annotations_zip(), wider.ARCHIVES[0])
    store.faults = denied(1)
    assert main(["fetch", "wider"]) == 0
    assert_in_place(wider_folder)


def test_fetch_wider_goes_on_where_it_was_killed(store, wider_folder, monkeypatch):
    store.place(images_archive(), wider.IMAGES)
    store.place(annotations_zip(), wider.ARCHIVES[0])
    replace = os.replace

    def killed(source, destination):
        if destination == wider_folder / "Image":
            raise KeyboardInterrupt
        replace(source, destination)

    left = wider_folder / f".{wider.IMAGES}.unpacked"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            main(["fetch", "wider"])
    assert not (wider_folder / "Image").exists()
    (left / "of a killed process").mkdir(parents=True)
    assert main(["fetch", "wider"]) == 0
    assert_in_place(wider_folder)
    assert len(asked(store)) == 3  # each archive once, and to be told that there is no annotation file by itself


def test_fetch_wider_without_settings_leaves_no_folder(wider_folder, env, capsys):
    env()
    assert main(["fetch", "wider"]) == 1
    assert "set KDLIB_S3_BUCKET" in capsys.readouterr().err
    assert not wider_folder.exists()


def test_fetch_wider_takes_what_was_put_there_by_hand(wider_folder, env):
    wider_folder.mkdir(parents=True)
    (wider_folder / wider.IMAGES).write_bytes(images_archive())
    (wider_folder / wider.ARCHIVES[0]).write_bytes(annotations_zip())
    env(KDLIB_S3_BUCKET="study", KDLIB_S3_UNSIGNED=1, AWS_ENDPOINT_URL_S3="http://127.0.0.1:9")
    assert main(["fetch", "wider"]) == 0
    assert_in_place(wider_folder)


def test_fetch_wider_in_trouble_says_one_sentence(store, env, wider_folder, capsys):
    def said(*arguments):
        assert main(["fetch", *arguments]) == 1
        text = capsys.readouterr().err
        assert len(text.splitlines()) == 1
        return text

    assert "Did you mean 'wider'" in said("widr")
    assert f"s3://study/some/prefix/{wider.IMAGES} at {store.url}" in said("wider")
    store.place(images_archive().replace(b"", b"")[:-200], wider.IMAGES)
    assert "truncated" in said("wider")
    (wider_folder / wider.IMAGES).unlink()
    store.place(annotations_zip(), wider.IMAGES)
    assert "no folder Image/train" in said("wider")
    (wider_folder / wider.IMAGES).unlink()
    store.place(images_archive(), wider.IMAGES)
    assert "has neither wider_attribute_trainval.json nor" in said("wider")
    store.place(annotations_zip(wider.ANNOTATIONS[:1]), wider.ARCHIVES[1])
    assert f"holds no {wider.ANNOTATIONS[1]}" in said("wider")
    env()
    (wider_folder / wider.ARCHIVES[1]).unlink()
    assert "set KDLIB_S3_BUCKET" in said("wider")


def test_the_command_tells_no_credential_when_the_key_is_wrong(store, wider_folder, capsys, monkeypatch):
    refusal = {"status": 403, "code": "InvalidAccessKeyId", "message": f"{KEY} {SECRET}"}
    store.faults = [refusal | {"method": "HEAD"}, refusal]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert main(["fetch", "wider"]) == 1
    out, err = capsys.readouterr()
    assert "the store refuses the key" in err
    assert len(err.splitlines()) == 1
    assert_clean(out + err)


# --- memory ---


class Files(http.server.BaseHTTPRequestHandler):
    """The files of the folder `server.state.folder` as objects, whatever precedes their names; read in pieces, never whole."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        if path := self.found():
            self.head(200, path.stat().st_size)

    def do_GET(self):
        if not (path := self.found()):
            return
        size = path.stat().st_size
        first, last = (int(number or size - 1) for number in self.headers["Range"].removeprefix("bytes=").split("-"))
        self.head(206, last + 1 - first, f"bytes {first}-{last}/{size}")
        with path.open("rb") as file:
            file.seek(first)
            for start in range(first, last + 1, 1 << 20):
                self.wfile.write(file.read(min(1 << 20, last + 1 - start)))

    def found(self):
        path = self.server.state.folder / self.path.rpartition("/")[2].partition("?")[0]
        if path.exists():
            return path
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def head(self, status, length, span=None):
        self.send_response(status)
        self.send_header("ETag", '"no-digest"')
        self.send_header("Content-Length", str(length))
        if span:
            self.send_header("Content-Range", span)
        self.end_headers()

    def log_message(self, *arguments):
        pass


def memory_of_fetch(size, tmp_path, env):
    """The most memory, in bytes, that a process took for `fetch wider` of an archive of `size` bytes, stored uncompressed."""
    (tmp_path / "objects").mkdir()
    for name, content in ANNOTATIONS.items():
        (tmp_path / "objects" / name).write_bytes(content)
    with tarfile.open(tmp_path / "objects" / wider.IMAGES, "w:gz", compresslevel=0) as tar:
        for number in range(4):
            info = tarfile.TarInfo(f"Image/train/3--Riot/{number}.jpg")
            info.size = size // 4
            with open("/dev/zero", "rb") as zeros:
                tar.addfile(info, zeros)
    code = (  # VmHWM, since ru_maxrss would begin with what the parent process had
        "import re; from kdlib import storage; storage.fetch_wider(log=list);"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])"
    )
    with serving(Files, folder=tmp_path / "objects") as state:
        env(KDLIB_S3_BUCKET="study", KDLIB_S3_UNSIGNED=1, AWS_ENDPOINT_URL_S3=state.url)
        done = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    got = sum(file.stat().st_size for file in (paths.data_folder() / "wider" / "Image").rglob("*.jpg"))
    shutil.rmtree(tmp_path / "objects")
    shutil.rmtree(paths.data_folder())
    assert got == size
    return int(done.stdout) * 1024


@pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="the system does not tell a process's most memory here"
)
def test_memory_does_not_grow_with_the_archive(env, wider_folder, tmp_path):
    """320 MiB come in parts, are checked and unpacked; 4 GiB took 77 MiB, as 64 MiB did."""
    assert memory_of_fetch(320 << 20, tmp_path, env) < 300 << 20
