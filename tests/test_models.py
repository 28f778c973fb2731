"""Networks against the published architectures' parameters and outputs; checkpoints in every form, good and bad."""

import argparse
import copy
import json
import math
import os
import pickle
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdlib.models import FAMILIES, Output, build_model, get_head, load_checkpoint, names, set_head, torchvision_models

ORACLES = Path(__file__).parent / "oracles"
SHAPES = json.loads((ORACLES / "models.json").read_text())
OUTPUTS = np.load(ORACLES / "models.npz")
CIFAR_NAMES = [name for family in FAMILIES.values() for name in family]

# Parameters with 100 classes, and millions of multiply-adds for one 32 × 32 image, as published.
PUBLISHED = {
    "resnet20": (278_324, 40.8),
    "resnet32": (472_756, 69.1),
    "resnet56": (861_620, 125.8),
    "resnet110": (1_736_564, 253),
    "resnet8x4": (1_233_540, 177),
    "resnet32x4": (7_433_860, 1083),
    "wrn_16_2": (703_284, 101),
    "wrn_40_1": (569_780, 83.3),
    "wrn_40_2": (2_255_156, 328),
    "vgg8": (3_965_028, 96.2),
    "vgg13": (9_462_180, 285),
    "MobileNetV2": (812_836, 6.5),
    "ShuffleV1": (949_258, 38.7),
    "ShuffleV2": (1_355_528, 44.5),
    "ResNet18": (11_220_132, 556),
    "ResNet50": (23_705_252, 1298),
}


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def on_meta(name, classes=100):
    """The network without storage, in eval mode: shapes and counts for nothing."""
    with torch.device("meta"):
        return build_model(name, classes).eval()


def fixed_weights(state_dict):
    """Weights from a formula, so that the expected outputs need no weight file."""
    fixed = {}
    for position, key in enumerate(sorted(state_dict)):
        value = state_dict[key]
        steps = torch.arange(value.numel(), dtype=torch.float64)
        u = ((steps * 7919 + (position + 1) * 104729) % 1000 / 1000 - 0.5).reshape(value.shape)
        if key.endswith("num_batches_tracked"):
            fixed[key] = torch.zeros_like(value)
        elif value.ndim > 1:
            fixed[key] = u * math.sqrt(12 / value[0].numel())
        elif key.endswith("running_var"):
            fixed[key] = 1 + u
        elif key.endswith(("running_mean", "bias")):
            fixed[key] = 0.2 * u
        else:
            fixed[key] = 1 + 0.2 * u
    return fixed


# --- architectures ---


@pytest.mark.parametrize("name", SHAPES)
def test_published_architecture(name):
    model = build_model(name).double().eval()
    state = model.state_dict()
    assert parameters(model) == SHAPES[name]["parameters"]
    assert {key: list(value.shape) for key, value in state.items()} == SHAPES[name]["state_dict"]
    assert list(state) == list(SHAPES[name]["state_dict"])
    model.load_state_dict(fixed_weights(state))
    images = torch.sin(torch.arange(2 * 3 * 32 * 32, dtype=torch.float64) * 0.05).reshape(2, 3, 32, 32)
    with torch.no_grad():
        output = model(images)
    for field in Output._fields:
        expected = OUTPUTS[f"{name}.{field}"]
        scale = np.abs(expected).max()
        np.testing.assert_allclose(getattr(output, field).numpy(), expected, rtol=1e-9, atol=1e-9 * scale)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_size_and_arithmetic(name):
    model = on_meta(name)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 32, 32, device="meta"))
    expected_parameters, expected_mmacs = PUBLISHED[name]
    assert parameters(model) == expected_parameters
    assert counter.get_total_flops() / 2e6 == pytest.approx(expected_mmacs, rel=5e-3)


@pytest.mark.parametrize("name", [*CIFAR_NAMES, "convnet_1", "convnet_5"])
def test_every_name_builds_and_runs(name):
    model = build_model(name, 10).eval()
    assert model.num_classes == 10
    for size in (16, 8):
        with torch.no_grad():
            output = model(torch.randn(2, 3, size, size))
            assert isinstance(output, Output)
            assert output.logits.shape == (2, 10)
            assert output.embedding.shape == (2, model.embedding_dim)
            torch.testing.assert_close(get_head(model)(output.embedding), output.logits, rtol=0, atol=0)
    assert get_head(model).in_features == model.embedding_dim


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "MobileNetV2", "ShuffleV1", "ShuffleV2", "convnet_4"])
def test_any_image_size(name):
    model = build_model(name, 10).eval()
    for shape in ((1, 1), (7, 5), (48, 64)):
        with torch.no_grad():
            assert model(torch.zeros(2, 3, *shape)).embedding.shape == (2, model.embedding_dim)


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2", "convnet_4"])
def test_both_outputs_train_every_parameter_they_pass(name):
    model = build_model(name, 10)
    output = model(torch.randn(4, 3, 16, 16))
    output.embedding.square().sum().backward()
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert without == [f"{model.head_name}.weight", f"{model.head_name}.bias"]
    model(torch.randn(4, 3, 16, 16)).logits.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_vgg_pools_once_more_from_64_pixels_on():
    model, shapes = on_meta("vgg8"), []
    model.block4.register_forward_pre_hook(lambda module, inputs: shapes.append(tuple(inputs[0].shape[2:])))
    for size in (32, 48, 64):
        model(torch.zeros(1, 3, size, size, device="meta"))
    assert shapes == [(4, 4), (6, 6), (4, 4)]


def test_convnet_is_what_it_says():
    model = build_model("convnet_4", 10)
    assert parameters(model) == 9 * (3 * 4 + 4 * 8 + 8 * 16) + 2 * (4 + 8 + 16) + 16 * 10 + 10
    assert [tuple(model.state_dict()[f"conv{i}.weight"].shape) for i in (1, 2, 3)] == [
        (4, 3, 3, 3),
        (8, 4, 3, 3),
        (16, 8, 3, 3),
    ]


def test_weights_come_from_the_global_generator_alone():
    first, second, other = (build_model("resnet8", 10) for _ in range(3) if torch.manual_seed(min(_, 1)))
    assert not torch.equal(first.conv1.weight, second.conv1.weight)
    assert all(torch.equal(a, b) for a, b in zip(second.parameters(), other.parameters(), strict=True))


def test_initial_weights():
    torch.manual_seed(0)
    for name in ("resnet20", "wrn_16_2", "vgg8", "MobileNetV2"):
        model = build_model(name)
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
                fan_out = module.out_channels * math.prod(module.kernel_size)
                assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)
            if isinstance(module, nn.BatchNorm2d):
                assert (module.weight == 1).all()
                assert (module.bias == 0).all()
    for name in ("vgg8", "MobileNetV2"):
        head = get_head(build_model(name))
        assert head.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert (head.bias == 0).all()


# --- names and input ---


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("resnet_56", "resnet56"),
        ("WRN-40-2", "wrn_40_2"),
        ("shufflev1", "ShuffleV1"),
        ("efficientnet-b0", "efficientnet_b0"),
        ("convnet_0", "convnet_4"),
    ],
)
def test_unknown_name_lists_what_was_meant_and_all_there_is(wrong, near):
    with pytest.raises(ValueError, match="did you mean") as error:
        build_model(wrong)
    assert near in str(error.value).splitlines()[0]
    for family in FAMILIES:
        assert f"{family}: " in str(error.value)
    assert "torchvision: alexnet" in str(error.value)


def test_unlike_any_name():
    with pytest.raises(ValueError, match="no model is called 'xyzzy'"):
        build_model("xyzzy")


@pytest.mark.parametrize("classes", [1, 0, -3])
def test_too_few_classes(classes):
    for name in ("resnet8", "resnet18"):
        with pytest.raises(ValueError, match="at least 2 classes"):
            build_model(name, classes)


def test_number_of_classes_is_a_whole_number():
    assert build_model("convnet_4", np.int64(3)).num_classes == 3
    with pytest.raises(TypeError):
        build_model("convnet_4", 2.5)


def test_cifar_networks_have_no_weights_to_download():
    with pytest.raises(ValueError, match="load_checkpoint"):
        build_model("resnet20", weights="DEFAULT")
    with pytest.raises(ValueError, match="torchvision/vgg16"):
        build_model("vgg16", weights="DEFAULT")


def test_bad_images():
    model = on_meta("vgg8")
    with pytest.raises(ValueError, match="at least 8 × 8"):
        model(torch.zeros(1, 3, 32, 7, device="meta"))
    with pytest.raises(ValueError, match="N × 3 × H × W"):
        model(torch.zeros(1, 1, 32, 32, device="meta"))
    with pytest.raises(ValueError, match="N × 3 × H × W"):
        model(torch.zeros(3, 32, 32, device="meta"))
    with pytest.raises(TypeError, match="uint8"):
        model(torch.zeros(1, 3, 32, 32, dtype=torch.uint8, device="meta"))


# --- heads ---


@pytest.mark.parametrize("name", ["resnet8", "MobileNetV2", "ShuffleV1", "vgg8", "mobilenet_v3_small"])
def test_head_can_be_replaced(name):
    model = build_model(name, 10).eval()
    keys = list(model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert set_head(model, nn.Linear(model.embedding_dim, 6)) is model
    assert model.num_classes == 6
    assert list(model.state_dict()) == keys
    assert model(images).logits.shape == (2, 6)
    head = nn.Sequential(nn.Linear(model.embedding_dim, 4), nn.Tanh())
    set_head(model, head)
    assert get_head(model) is head
    assert model.num_classes == 6
    output = model(images)
    assert torch.equal(output.logits, head(output.embedding))
    with pytest.raises(ValueError, match="reads 3 features"):
        set_head(model, nn.Linear(3, 6))
    assert get_head(model) is head


# --- torchvision ---


@pytest.mark.parametrize(("name", "expected"), [("efficientnet_b0", 4_028_044), ("efficientnet_b3", 10_720_824)])
def test_torchvision_size(name, expected):
    assert parameters(on_meta(name, 16)) == expected


@pytest.mark.parametrize(
    ("name", "place"),
    [("resnet18", "fc"), ("mobilenet_v3_small", "classifier.3")],
)
def test_torchvision_output_is_torchvisions(tmp_path, name, place):
    plain = torchvision.models.get_model(name, num_classes=7).eval()
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    model = load_checkpoint(build_model(name, 7), tmp_path / "plain.pth").eval()
    read = []
    plain.get_submodule(place).register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        output, logits = model(images), plain(images)
    assert torch.equal(output.logits, logits)
    assert torch.equal(output.embedding, read[0])
    assert torch.equal(get_head(model)(output.embedding), output.logits)
    assert (model.num_classes, model.embedding_dim) == (7, output.embedding.shape[1])


def test_torchvision_trains_through_the_embedding_and_copies():
    model = build_model("shufflenet_v2_x0_5", 5)
    twin = copy.deepcopy(model)
    twin(torch.randn(2, 3, 32, 32)).embedding.sum().backward()
    assert twin.backbone.conv1[0].weight.grad.abs().sum() > 0
    assert model.backbone.conv1[0].weight.grad is None


def test_torchvision_auxiliary_classifiers_are_off():
    output = build_model("googlenet", 5).train()(torch.randn(2, 3, 32, 32))
    assert output.logits.shape == (2, 5)
    assert output.embedding.shape == (2, 1024)


def test_torchvision_without_a_linear():
    with pytest.raises(ValueError, match="squeezenet1_0 classifies with a convolution"):
        build_model("squeezenet1_0", 5)
    assert "squeezenet1_0" not in names()


def test_torchvision_least_size():
    with pytest.raises(ValueError, match="at least 63 × 63"):
        on_meta("alexnet")(torch.zeros(1, 3, 32, 32, device="meta"))


def test_torchvision_prefix():
    assert "torchvision/vgg16" in names()
    assert "vgg16" in names()
    assert len(set(names())) == len(names())
    assert on_meta("torchvision/vgg16").embedding_dim == 4096
    assert on_meta("vgg16").embedding_dim == 512
    assert parameters(on_meta("torchvision/resnet18")) == parameters(on_meta("resnet18"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty hub folder on a machine without a network."""

    def no_network(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_weights_that_cannot_be_downloaded_and_then_are_put_in_place(hub):
    weights = torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT
    file = os.path.basename(weights.url)
    with pytest.raises(RuntimeError, match="could not be loaded") as error:
        build_model("shufflenet_v2_x0_5", 5, weights="DEFAULT")
    for part in (weights.url, f"put the file {file} into {hub}", "no network"):
        assert part in str(error.value)

    published = torchvision.models.shufflenet_v2_x0_5().state_dict()
    torch.save(published, hub / file)
    model = build_model("shufflenet_v2_x0_5", 5, weights="DEFAULT")
    assert torch.equal(model.backbone.conv5[0].weight, published["conv5.0.weight"])
    assert model.head.weight.shape == (5, 1024)
    for form in ("DEFAULT", "IMAGENET1K_V1", "ShuffleNet_V2_X0_5_Weights.DEFAULT", weights):
        assert torchvision_models._find_weights("shufflenet_v2_x0_5", form) is weights
    # With as many classes as the published head has, that head stays.
    assert torch.equal(build_model("shufflenet_v2_x0_5", 1000, weights="DEFAULT").head.bias, published["fc.bias"])


def test_unknown_weights():
    with pytest.raises(ValueError, match=r"no weights 'V9'; it has .*DEFAULT|no weights 'V9'; it has IMAGENET1K_V1"):
        build_model("resnet18", 5, weights="V9")


# --- checkpoints ---


@pytest.fixture(scope="module")
def trained():
    """A network whose every value, buffers included, differs from a new one's."""
    torch.manual_seed(7)
    model = build_model("resnet8", 10)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.add_(0.01 * torch.rand_like(value) + 0.01)
        else:
            value.add_(5)
    return model


def assert_same(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


FORMS = {
    "plain": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 240, "optimizer": {"state": {}}},
    "model_state_dict": lambda state: {"model_state_dict": state},
    "state_dict": lambda state: {"state_dict": state, "arch": "resnet8"},
    "net": lambda state: {"net": state, "acc": 70.1},
    "data parallel": lambda state: prefixed(state, "module."),
    "data parallel within": lambda state: {"state_dict": prefixed(state, "module.")},
    "compiled": lambda state: {"model": prefixed(state, "_orig_mod.module.")},
    "name beside weights": lambda state: {"model": "resnet8", "state_dict": state},
    "script arguments": lambda state: {"model": state, "opt": argparse.Namespace(lr=0.05)},
    "numpy accuracy": lambda state: {"model": state, "best": np.float64(72.3), "counts": np.int64(3)},
    "half precision": lambda state: {k: v.double() if v.is_floating_point() else v for k, v in state.items()},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_forms_of_checkpoint(tmp_path, trained, form, zipped):
    path = tmp_path / "checkpoint.pth"
    torch.save(FORMS[form](trained.state_dict()), path, _use_new_zipfile_serialization=zipped)
    model = build_model("resnet8", 10)
    assert load_checkpoint(model, str(path)) is model
    assert_same(model, trained)


def test_safetensors(tmp_path, trained):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(trained.state_dict(), path)
    assert_same(load_checkpoint(build_model("resnet8", 10), path), trained)


def test_checkpoint_without_batch_counters(tmp_path, trained):
    path = tmp_path / "old.pth"
    torch.save({k: v for k, v in trained.state_dict().items() if not k.endswith("num_batches_tracked")}, path)
    model = load_checkpoint(build_model("resnet8", 10), path)
    assert model.bn1.num_batches_tracked == 0
    assert torch.equal(model.bn1.running_var, trained.bn1.running_var)


def test_torchvision_round_trip(tmp_path):
    # mnasnet asks for the version mark that torch keeps on a state dict, and that a safetensors file cannot hold.
    model = build_model("mnasnet0_5", 5)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    assert_same(load_checkpoint(build_model("mnasnet0_5", 5), tmp_path / "model.safetensors"), model)


class Code:
    """A pickle that would create a file when it is read."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def write_pickled_code(path, trained):
    torch.save({"model": trained.state_dict(), "extra": Code(path.parent / "marker")}, path)


def write_bare_pickled_code(path, trained):
    path.write_bytes(pickle.dumps(Code(path.parent / "marker")))


def write_whole_model(path, trained):
    torch.save(trained, path)


def write_truncated(path, trained):
    torch.save(trained.state_dict(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_truncated_legacy(path, trained):
    torch.save(trained.state_dict(), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-1000])


def write_truncated_safetensors(path, trained):
    safetensors.torch.save_file(trained.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-1000])


def write_other_classes(path, trained):
    torch.save(build_model("resnet8", 4).state_dict(), path)


def write_other_depth(path, trained):
    torch.save(build_model("resnet14", 10).state_dict(), path)


def write_incomplete(path, trained):
    torch.save({k: v for k, v in trained.state_dict().items() if not k.startswith("layer3")}, path)


def write_other_width(path, trained):
    torch.save(build_model("resnet8x4", 10).state_dict(), path)


BAD = [
    (write_pickled_code, "a.pth", "could run code"),
    (write_bare_pickled_code, "a.pth", "could run code"),
    (write_whole_model, "a.pth", "could run code"),
    (write_truncated, "a.pth", "truncated"),
    (write_truncated_legacy, "a.pth", "truncated"),
    (write_truncated_safetensors, "a.safetensors", "truncated"),
    (lambda path, _: path.write_bytes(b""), "a.pth", "truncated"),
    (lambda path, _: path.write_bytes(b""), "a.safetensors", "truncated"),
    (lambda path, _: path.write_bytes(b"<html>not found</html>" * 50), "a.pth", "not a checkpoint"),
    (lambda path, _: path.write_bytes(np.random.default_rng(0).bytes(5000)), "a.pth", "not a checkpoint"),
    (lambda path, _: torch.save({"epoch": 3, "best": 0.7}, path), "a.pth", "no checkpoint.*epoch, best"),
    (lambda path, _: torch.save(torch.zeros(3), path), "a.pth", "no checkpoint.*a Tensor"),
    (lambda path, _: torch.save({}, path), "a.pth", "no checkpoint"),
    (
        write_other_classes,
        "a.pth",
        r"fc.weight \(4, 64\) in the file, \(10, 64\).*other number of classes \(4 in .* 10",
    ),
    (write_other_depth, "a.pth", r"unexpected keys: layer1.1.conv1.weight.* more"),
    (write_incomplete, "a.pth", "missing keys: layer3.0.conv1.weight"),
    (write_other_width, "a.pth", "unexpected keys: layer1.0.downsample.*differing shapes: conv1.weight"),
]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(("write", "name", "message"), BAD)
def test_bad_checkpoint_says_why_and_changes_nothing(tmp_path, trained, write, name, message):
    path = tmp_path / name
    write(path, trained)
    model = copy.deepcopy(trained)
    with pytest.raises(ValueError, match=message) as error:
        load_checkpoint(model, path)
    assert str(path) in str(error.value)
    assert "weights_only" not in str(error.value)
    assert not (tmp_path / "marker").exists()
    assert_same(model, trained)


def test_the_marker_would_have_been_written(tmp_path):
    path = tmp_path / "a.pkl"
    write_bare_pickled_code(path, None)
    pickle.loads(path.read_bytes()).close()
    assert (tmp_path / "marker").exists()


def test_missing_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*nowhere\.pth"):
        load_checkpoint(build_model("convnet_4"), tmp_path / "nowhere.pth")
