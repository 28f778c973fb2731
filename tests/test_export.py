"""Files for a device: what is exported says what torch says, nothing else gets a name, and the card tells what the file is."""

import dataclasses
import json
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from kdlib import data, files, models, paths, runs
from kdlib import export as exporting
from kdlib.__main__ import main
from kdlib.export import card, export, graphs, quantise

onnx = pytest.importorskip("onnx")
DEMO = paths.ROOT / "examples" / "edge_demo.py"
SETTINGS = {"student": "convnet_4", "method": "scratch", "epochs": 3, "device": "cpu", "batch_size": 16}


@pytest.fixture
def tiny(monkeypatch, digits):
    """`digits_s` with all its training pictures, since calibration needs every cell of class and group."""

    def part(split, count):
        chosen = np.linspace(0, len(split) - 1, count).astype(int)
        kept = {field: getattr(split, field)[chosen] for field in ("images", "labels", "group", "source")}
        return dataclasses.replace(split, **kept)

    test = part(digits.test, 200)
    small = dataclasses.replace(digits, val=part(digits.val, 60), test=test, fingerprint="small")
    monkeypatch.setattr(data, "load", lambda name, **options: small)
    return small


@pytest.fixture
def finished(tiny):
    """A finished run of a debiaser with a head of its own."""
    settings = SETTINGS | {"debias": "domain_independent"}
    runs.run(settings, log=lambda line: None)
    return settings


def opened(file):
    return onnx.load(file)


@pytest.mark.parametrize("pixels", ["uint8", "float"])
def test_float_says_what_torch_says(finished, tiny, tmp_path, pixels):
    result = export(finished, tmp_path / "out", int8=False, pixels=pixels)
    file = tmp_path / "out" / "student.onnx"
    found = graphs.logits(file, tiny.test.images)
    np.testing.assert_allclose(found, runs.predictions(finished)["test_logits"], atol=1e-4)
    assert result["files"]["student.onnx"]["sha256"] == files.sha256(file)
    assert result["files"]["student.onnx"]["largest_difference"] <= 1e-4
    assert sorted(path.name for path in file.parent.iterdir()) == ["student.json", "student.md", "student.onnx"]
    kind = onnx.TensorProto.UINT8 if pixels == "uint8" else onnx.TensorProto.FLOAT
    assert opened(file).graph.input[0].type.tensor_type.elem_type == kind


def test_another_run_of_the_same_architecture_has_its_own_weights(finished, tiny, tmp_path):
    other = SETTINGS | {"seed": 1}
    runs.run(other, log=lambda line: None)
    for number, settings in enumerate((finished, other)):
        export(settings, tmp_path / str(number), int8=False)
        found = graphs.logits(tmp_path / str(number) / "student.onnx", tiny.test.images)
        np.testing.assert_allclose(found, runs.predictions(settings)["test_logits"], atol=1e-4)


def test_file_is_whole_bare_and_holds_no_path(finished, tmp_path):
    export(finished, tmp_path / "out", int8="both", degenerate=True)
    for file in (tmp_path / "out").glob("*.onnx"):
        model, content = opened(file), file.read_bytes()
        for part in (str(paths.ROOT), "site-packages", ".py", "/usr", "/home", "torch/"):
            assert part.encode() not in content, (file.name, part)
        assert not model.metadata_props
        for node in model.graph.node:
            assert not node.metadata_props
            assert not node.doc_string
        assert model.opset_import[0].version == graphs.OPSET
        assert not any(tensor.external_data for tensor in model.graph.initializer)
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param  # a free batch
        gemms = [node for node in model.graph.node if node.op_type == "Gemm"]
        assert len(gemms) == 1, "the heads are one linear layer"


def test_batches_of_any_size_agree(finished, tiny, tmp_path):
    export(finished, tmp_path, int8=False)
    images = tiny.test.images[:7]
    one, all_of_them = (graphs.logits(tmp_path / "student.onnx", images, batch_size=size) for size in (1, 7))
    np.testing.assert_allclose(one, all_of_them, atol=1e-5)


def test_wrong_float_gets_no_name(finished, tmp_path, monkeypatch):
    right = graphs.graph

    def wrong(run, **options):
        model = right(run, **options)
        for tensor in model.graph.initializer:
            if tensor.name.endswith("fc.bias"):
                values = onnx.numpy_helper.to_array(tensor) + np.float32(0.001)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return model

    monkeypatch.setattr(graphs, "graph", wrong)
    with pytest.raises(ValueError, match=r"student\.onnx of convnet_4 is not written: .*0\.001"):
        export(finished, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_decisions_that_differ_are_no_export():
    labels = np.array([0, 1])
    reference = np.array([[1.0, 0.0], [0.0, 1e-5]], np.float32)
    nearly = reference + np.array([[0, 0], [2e-5, 0]], np.float32)  # the second is a tie in torch, too
    assert exporting.same(reference, nearly, labels, 0)["problem"] == ""
    assert exporting.same(reference, nearly, labels, 0)["decisions_changed"] == 1
    assert "1 of 2 decisions" in exporting.same(reference, reference[[1, 1]], labels, 0)["problem"]
    assert exporting.same(reference, reference * np.nan, labels, 0)["problem"]


def constant(model, images, **options):
    """In place of quantisation: a network that always decides alike."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.initializer:
        if tensor.name.endswith("fc.weight"):
            values = 0 * onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return result


def test_degenerate_int8_is_refused_unless_wanted(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(quantise, "quantised", constant)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in finished.items()]
    assert main(["export", "--out", str(tmp_path / "out"), "--most-lost", "1", *flags]) == 1
    assert "student_int8.onnx of convnet_4 is not written: degenerate" in capsys.readouterr().err
    assert not (tmp_path / "out" / "student_int8.onnx").exists()
    assert main(["export", "--out", str(tmp_path / "out"), "--degenerate", *flags]) == 0
    capsys.readouterr()
    assert "degenerate" in (tmp_path / "out" / "student_int8.md").read_text()


def test_int8_that_loses_too_much_is_degenerate(tiny):
    reference = np.eye(10, dtype=np.float32)[tiny.val.labels]
    changed = reference.copy()
    changed[:3] = np.roll(changed[:3], 1, axis=1)
    assert exporting.useful(reference, changed, tiny, 0.051)["problem"] == ""
    found = exporting.useful(reference, changed, tiny, 0.04)
    assert "degenerate: its validation accuracy is 0.950, float has 1.000" in found["problem"]
    assert found["decisions_changed"] == 3


def test_an_earlier_export_is_replaced(finished, tmp_path):
    export(finished, tmp_path, int8="both", degenerate=True)
    export(finished, tmp_path, int8=False)
    assert {path.name for path in tmp_path.glob("student*")} == {"student.json", "student.md", "student.onnx"}


def test_int8_is_int8(finished, tiny, tmp_path):
    export(finished, tmp_path, int8="both", degenerate=True)
    scales = {}
    for form in ("channel", "tensor"):
        model = opened(tmp_path / exporting.FILES[form])
        kinds = [tensor.data_type for tensor in model.graph.initializer if tensor.name.endswith("weight_quantized")]
        assert kinds
        assert set(kinds) == {onnx.TensorProto.INT8}
        scales[form] = [len(t.dims) for t in model.graph.initializer if t.name.endswith("conv1.weight_scale")]
        zeros = {t.data_type for t in model.graph.initializer if t.name.startswith("relu") and "zero_point" in t.name}
        assert zeros == {onnx.TensorProto.UINT8}
    assert scales == {"channel": [1], "tensor": [0]}


def test_calibration_is_balanced_over_class_and_group(tiny):
    train = tiny.train
    rows = quantise.calibration_rows(tiny, "balanced", count=100)
    cells = np.bincount(2 * train.labels[rows] + train.group[rows], minlength=20)
    assert cells.tolist() == [5] * 20
    rows = quantise.calibration_rows(tiny, "colour", count=100)
    assert set(train.group[rows]) == {1}
    assert np.bincount(train.labels[rows]).tolist() == [10] * 10
    assert len(set(quantise.calibration_rows(tiny, "training", count=100))) == 100


def test_a_cell_without_pictures_is_named(tiny):
    kept = np.flatnonzero((tiny.train.labels != 3) | (tiny.train.group != 1))
    train = types.SimpleNamespace(labels=tiny.train.labels[kept], group=tiny.train.group[kept])
    lacking = types.SimpleNamespace(name="digits_s", train=train, classes=tiny.classes, groups=tiny.groups)
    with pytest.raises(ValueError, match="no training picture of class '3' in group 'colour' to calibrate with"):
        quantise.calibration_rows(lacking)
    with pytest.raises(ValueError, match="Did you mean 'colour'"):
        quantise.calibration_rows(tiny, "color")


class Gated(nn.Module):
    """A convolution and a squeeze-and-excitation block, as in EfficientNet."""

    def __init__(self, kernel=3):
        super().__init__()
        self.conv, self.gate, self.fc = nn.Conv2d(3, 8, kernel), nn.Conv2d(8, 8, 1), nn.Linear(8, 10)

    def forward(self, images):
        features = self.conv(images)
        features = features * self.gate(features.mean((2, 3), keepdim=True)).sigmoid()
        return models.Output(self.fc(features.mean((2, 3))), features.mean((2, 3)))


def exported(network, size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)):
    dataset = types.SimpleNamespace(mean=mean, std=std)
    bare = graphs._Bare(network, dataset, 255.0).eval()
    return graphs.stripped(graphs._exported(bare, (3, size, size), "uint8", "network")), bare


def test_one_outlier_sets_the_range_of_min_and_max_but_not_the_default():
    model, _ = exported(Gated(kernel=1))
    images = np.random.default_rng(0).integers(0, 5, (4096, 3, 8, 8)).astype(np.uint8)
    images[0, :, 4, 4] = 255
    steps = {}
    for options in ({"observer": "minmax"}, {}):
        graph = quantise.quantised(model, images, **options).graph
        first = next(node for node in graph.node if node.op_type == "QuantizeLinear")
        scale = next(tensor for tensor in graph.initializer if tensor.name == first.input[1])
        steps[options.get("observer")] = float(onnx.numpy_helper.to_array(scale))
    assert steps["minmax"] == pytest.approx(1 / 255)
    assert steps[None] < steps["minmax"] / 20


def test_gates_of_squeeze_and_excitation_stay_in_float():
    model, _ = exported(Gated())
    images = np.random.default_rng(0).integers(0, 256, (64, 3, 8, 8)).astype(np.uint8)
    graph = quantise.quantised(model, images).graph
    by_output = {output: node for node in graph.node for output in node.output}
    gates = [node for node in graph.node if node.op_type == "Mul" and "Sigmoid" in
             {by_output[name].op_type for name in node.input if name in by_output}]  # fmt: skip
    assert gates
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) > 2


NETWORKS = ["resnet8x4", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2", "ResNet18", "convnet_8"]


@pytest.mark.parametrize("network", NETWORKS)
def test_every_family_exports(network):
    torch.manual_seed(0)
    model, bare = exported(models.build_model(network, 5), 32, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32)).astype(np.uint8)
    with torch.no_grad():
        right = bare(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(graphs.logits(model.SerializeToString(), images), right, atol=1e-4)


class Refused(Gated):
    def forward(self, images):
        output = super().forward(images)
        return output._replace(logits=torch.special.bessel_j0(output.logits))


def test_a_refusal_names_the_operator_in_a_line():
    with pytest.raises(ValueError, match=r"torch cannot export network to ONNX \(operator \w+\.\w*bessel_j0\)") as said:
        exported(Refused())
    assert len(str(said.value)) < 400
    assert "\n" not in str(said.value)


def test_the_card_is_read_back(finished, tiny, tmp_path):
    export(finished, tmp_path, degenerate=True)
    record = runs.stored(finished)
    for name in ("student.onnx", "student_int8.onnx"):
        file = tmp_path / name
        metadata = card.read(file)
        assert file.with_suffix(".md").read_text() == card.render(metadata)
        assert metadata["run"] == record["key"]
        assert metadata["classes"] == list(tiny.classes)
        assert metadata["trained"]["mad"] == record["metrics"]["test"]["mad"]
        found = graphs.logits(file, tiny.test.images).argmax(1)
        assert metadata["metrics"]["accuracy"]["value"] == pytest.approx((found == tiny.test.labels).mean())
        for number, group in enumerate(tiny.groups):
            inside = tiny.test.group == number
            part = metadata["metrics"]["by_group"][group]
            assert part["value"] == pytest.approx((found == tiny.test.labels)[inside].mean())
            assert part["low"] < part["value"] < part["high"]
    float_, int8 = (card.read(tmp_path / name) for name in ("student.onnx", "student_int8.onnx"))
    assert float_["metrics"]["mad"]["value"] == pytest.approx(record["metrics"]["test"]["mad"])
    assert int8["calibration"]["composition"] == "balanced"
    (tmp_path / "student.onnx").write_bytes(b"another")
    with pytest.raises(ValueError, match="SHA-256"):
        card.read(tmp_path / "student.onnx")


def test_the_card_has_hugging_faces_fields_and_code_that_runs(finished, tiny, tmp_path, monkeypatch, capsys):
    import yaml
    from PIL import Image

    export(finished, tmp_path, degenerate=True)
    text = (tmp_path / "student_int8.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert {"license", "library_name", "pipeline_tag", "tags", "datasets", "metrics", "model-index"} <= set(front)
    for heading in ("Data and attribute", "Training and debiasing", "Intended use", "Limits", "How to run it"):
        assert f"\n## {heading}\n" in text
    code = text.split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) == 5
    Image.fromarray(tiny.test.images[0].transpose(1, 2, 0)).save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    expected = graphs.logits(tmp_path / "student_int8.onnx", tiny.test.images[:1]).argmax()
    assert capsys.readouterr().out.strip() == tiny.classes[expected]


def test_bad_input_is_a_sentence(finished, tmp_path, capsys, monkeypatch):
    def said(*arguments):
        assert main(["export", *arguments]) == 1
        text = capsys.readouterr().err.splitlines()[-1]
        assert text.startswith("kdlib: ")
        return text

    out = ("--out", str(tmp_path / "out"))
    assert "is not in the store" in said(*out, "--seed", "77")
    assert "has no run with" in said(*out, "--profile", "quick", "--method", "ckd", "--seed", "77")
    assert "give --seed" in said(
        *out, "--profile", "quick", "--method", "ckd", "--teacher-debias", "none", "--lr", ".2"
    )
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in finished.items()]
    (tmp_path / "taken").write_text("")
    assert "cannot write in" in said("--out", str(tmp_path / "taken"), *flags)
    assert "0 to 1" in said(*out, "--most-lost", "nan", *flags)
    assert "composition of calibration pictures" in said(*out, "--calibration", "grye", *flags)
    monkeypatch.setattr(graphs.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else True)
    assert said(*out, *flags) == 'kdlib: export needs onnxruntime, of the extra edge: pip install -e ".[edge]"'
    assert not (tmp_path / "out" / "student.onnx").exists()


def test_the_command_takes_a_run_of_a_profile(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KDLIB_SMOKE", "1")
    settings = exporting.run_of_profile("quick", {"method": "scratch", "student": "convnet_8", "seed": 0, "lr": 0.2})
    runs.run(settings, log=lambda line: None)
    flags = ["--profile", "quick", "--method", "scratch", "--student", "convnet_8", "--seed", "0", "--lr", "0.2"]
    assert main(["export", *flags, "--out", str(tmp_path), "--int8", "no"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["key"] == runs.as_run(settings).key
    assert set(said["files"]) == {"student.onnx"}


def demo(*arguments, blocked=()):
    """Run the demo in a process that cannot import torch, kdlib or what else is blocked."""
    block = f"import sys; sys.modules.update(dict.fromkeys({['torch', 'kdlib', *blocked]!r}))"
    run = f"import runpy; runpy.run_path({str(DEMO)!r}, run_name='__main__')"
    code = f"{block}; sys.argv[1:] = {list(map(str, arguments))!r}; {run}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("pixels", ["uint8", "float"])
def test_the_demo_classifies_a_folder_without_torch(finished, tiny, tmp_path, pixels):
    from PIL import Image

    export(finished, tmp_path / "out", pixels=pixels, degenerate=True)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(3):
        Image.fromarray(tiny.test.images[number].transpose(1, 2, 0)).save(pictures / f"{number}.png")
    (pictures / "3.png").write_text("no picture")
    (pictures / "notes.txt").write_text("no picture either")
    file = tmp_path / "out" / "student_int8.onnx"
    done = demo(file, pictures)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    expected = graphs.logits(file, tiny.test.images[:3]).argmax(1)
    assert [line.split(" (")[0] for line in said[:3]] == [f"{n}.png: {tiny.classes[k]}" for n, k in enumerate(expected)]
    assert "3.png: cannot be read" in done.stderr
    assert [f"- {limit}" for limit in card.read(file)["limits"]] == said[5:]


def test_the_demo_says_what_is_wrong(finished, tmp_path):
    export(finished, tmp_path, int8=False)
    file, empty = tmp_path / "student.onnx", tmp_path / "empty"
    empty.mkdir()
    done = demo(file, empty, blocked=["onnxruntime"])
    assert done.stderr == "edge_demo: needs numpy, onnxruntime and Pillow; onnxruntime is not installed\n"
    for arguments, words in (
        ((file, empty), "no pictures in"),
        ((file, tmp_path / "none"), "there is no folder"),
        ((tmp_path / "none.onnx", empty), "there is no file"),
    ):
        done = demo(*arguments)
        assert done.returncode == 1
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    file.write_bytes(b"another")
    assert "its SHA-256 differs" in demo(file, empty).stderr
    file.with_suffix(".json").unlink()
    assert "the model card" in demo(file, empty).stderr
