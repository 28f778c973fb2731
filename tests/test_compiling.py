"""The compiled step: the same gradients, shared by networks of one shape, and no harm where compiling fails."""

import copy

import torch
from torch._dynamo.utils import counters

from kdlib.models import build_model, compiled_if_it_works
from kdlib.models.compiling import compiled

PLAIN = {"backend": "aot_eager", "mode": None}  # traced as any backend does, without a compiler
IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def gradients(forward, model):
    model.zero_grad()
    sum(part.square().sum() for part in forward(IMAGES)).backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def test_networks_of_one_shape_share_a_compiled_step_that_changes_nothing():
    before = counters["stats"]["unique_graphs"]
    for seed in range(2):
        torch.manual_seed(seed)
        model = build_model("convnet_4", 3).train()
        plain = copy.deepcopy(model)
        ours = gradients(compiled(model, **PLAIN), model)
        for one, other in zip(ours, gradients(plain, plain), strict=True):
            torch.testing.assert_close(one, other)
        for name, tensor in model.state_dict().items():  # running statistics among them
            torch.testing.assert_close(tensor, plain.state_dict()[name])
    assert counters["stats"]["unique_graphs"] == before + 1


def test_a_compiler_that_fails_is_named_and_nothing_is_disturbed():
    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    lines, model = [], build_model("convnet_4", 3)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    options = {"precision": "float32", "log": lines.append, "mode": None}
    assert compiled_if_it_works(model, IMAGES, **options, backend=broken) is None
    assert "no compiler here" in lines[0]
    forward = compiled_if_it_works(model, IMAGES, **options, backend="aot_eager")
    assert "compiled in" in lines[1]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert forward(IMAGES).logits.shape == (4, 3)
