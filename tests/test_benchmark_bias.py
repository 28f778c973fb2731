"""The benchmark of the bias module keeps its promise, with few resamples through fairlearn."""

import importlib.util
import json

from kdlib import paths


def test_the_bootstrap_is_fifty_times_as_fast_as_fairlearns(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("bias_benchmark", paths.ROOT / "benchmarks" / "bias.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    monkeypatch.setattr(benchmark, "FEW", 2)
    benchmark.main()
    found = json.loads((tmp_path / "reports" / "bench" / "bias.json").read_text())
    assert json.loads(capsys.readouterr().out) == found
    assert found["ratio"] >= 50
    assert found["difference_to_fairlearn"] < 1e-9, "the same figure, or the race is not fair"
    assert max(found["peak_bytes"].values()) < 256e6
