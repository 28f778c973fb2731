"""Every test has its own empty data, runs and reports folders; data prepared once is shared within a session."""

import dataclasses
import os
import socket

import numpy as np
import pytest
import torch
from browser_examples import chromium  # noqa: F401, a fixture

from kdlib import data, paths
from kdlib.runs import networks, settings

torch.set_num_threads(1)  # the tests fill the cores with processes
pytest.register_assert_rewrite("s3_examples")
REAL_DATA = os.environ.get("KDLIB_DATA")  # a folder with downloaded sets, for the tests that want them


@pytest.fixture(autouse=True, scope="session")
def loopback_alone():
    """A connection to another machine fails the test that makes it."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = str(address[0])
            assert host in ("localhost", "::1") or host.startswith("127."), f"a test connects to {host}"
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.fixture(scope="session")
def shared_data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch, shared_data):
    monkeypatch.setenv("KDLIB_DATA", str(shared_data))
    monkeypatch.setenv("KDLIB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("KDLIB_REPORTS", str(tmp_path / "reports"))
    monkeypatch.delenv("KDLIB_SMOKE", raising=False)
    for cache in (
        settings._key,
        settings.fingerprint,
        networks._images,
        networks._bank,
    ):  # they outlive a test's folders
        cache.cache_clear()
    return tmp_path


@pytest.fixture(scope="session")
def digits(shared_data):
    before = os.environ.get("KDLIB_DATA")
    os.environ["KDLIB_DATA"] = str(shared_data)
    try:
        return data.load("digits_s")
    finally:
        os.environ.pop("KDLIB_DATA") if before is None else os.environ.update(KDLIB_DATA=before)


@pytest.fixture
def tiny(monkeypatch, digits):
    """A data set `digits_s` of 120 training pictures, so that a run takes a fraction of a second."""

    def part(split, count):
        chosen = np.linspace(0, len(split) - 1, count).astype(int)
        names = [field.name for field in dataclasses.fields(split) if getattr(split, field.name) is not None]
        return dataclasses.replace(split, **{name: getattr(split, name)[chosen] for name in names})

    small = dataclasses.replace(
        digits, train=part(digits.train, 120), val=part(digits.val, 60), test=part(digits.test, 100), fingerprint="tiny"
    )
    monkeypatch.setattr(data, "load", lambda name, **options: small)
    assert paths.data_folder().exists()
    return small


def damage_file(kind, file, manifest):
    """Damage a cached file or its manifest in one of the ways that tests have in common."""
    content = bytearray(file.read_bytes())
    if kind == "truncated":
        file.write_bytes(content[:-1000])
    elif kind == "flipped byte":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif kind == "no manifest":
        manifest.unlink()
    elif kind == "bad manifest":
        manifest.write_text("{")
    else:
        raise ValueError(kind)
