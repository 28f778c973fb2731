"""Networks for images: the CIFAR families of the published teacher checkpoints, small ones, and torchvision's.

Every network maps float (N, 3, H, W) to `Output(logits, embedding)`. The embedding is the pooled feature that the classifier
head reads. A network has the attributes `num_classes`, `embedding_dim` and `head_name`.

    model = build_model("resnet20", num_classes=10)
    model = load_checkpoint(build_model("resnet56"), "resnet56.pth")
    model = build_model("efficientnet_b0", num_classes=16, weights="DEFAULT")

A new family is one file with a dict `MODELS` of builders, and one line in `FAMILIES`.
"""

import difflib
import operator

from . import convnet, mobilenetv2, resnet, resnet_imagenet, shufflenetv1, shufflenetv2, vgg, wrn
from .checkpoint import load_checkpoint
from .common import Output, fast_layout, get_head, in_precision, set_head
from .compiling import compiled_if_it_works
from .own import TIMM, from_function, from_timm, returned, timm_weights

__all__ = [
    "FAMILIES",
    "Output",
    "build_model",
    "compiled_if_it_works",
    "fast_layout",
    "from_function",
    "get_head",
    "imagenet_file",
    "in_precision",
    "is_own",
    "load_checkpoint",
    "names",
    "returned",
    "set_head",
]  # fmt: skip

FAMILIES = {
    "resnet": resnet.MODELS,
    "wrn": wrn.MODELS,
    "vgg": vgg.MODELS,
    "mobilenetv2": mobilenetv2.MODELS,
    "shufflenetv1": shufflenetv1.MODELS,
    "shufflenetv2": shufflenetv2.MODELS,
    "resnet_imagenet": resnet_imagenet.MODELS,
    "convnet": convnet.MODELS,
}

# Four names are both CIFAR VGGs here and torchvision's networks: this prefix means torchvision's
PREFIX = "torchvision/"


def names():
    """Return every name that `build_model` knows, except other widths of convnet_{w}."""
    here = _builders()
    return [*here, *(PREFIX + name if name in here else name for name in _torchvision().names())]


def build_model(name, num_classes=100, *, weights=None):
    """Return a new network, its weights drawn from torch's global generator.

    Parameters
    ----------
    name : str
        One of `names()`, convnet_{w} for any positive width w, or timm/{name} for a network of timm (the extra `timm`).
    num_classes : int
        Two or more.
    weights : str, optional
        Published weights of a network of torchvision, as "DEFAULT" or "IMAGENET1K_V1", or of timm. The head is new unless
        `num_classes` is the published number.

    Returns
    -------
    nn.Module
        float (N, 3, H, W) -> Output(logits, embedding).

    Raises
    ------
    ValueError
        For an unknown name (with similar ones), fewer than two classes, or weights that do not exist.
    RuntimeError
        Where the weights cannot be downloaded.

    Examples
    --------
    >>> import torch
    >>> output = build_model("resnet20", 10)(torch.zeros(2, 3, 32, 32))
    >>> tuple(output.logits.shape), tuple(output.embedding.shape)
    ((2, 10), (2, 64))
    """
    num_classes = operator.index(num_classes)
    if num_classes < 2:
        raise ValueError(f"a classifier needs at least 2 classes, not {num_classes}")
    name = str(name)
    builder = _builders().get(name) or convnet.builder(name)
    if builder:
        if weights is not None:
            raise ValueError(f"{name} has no weights to download; load a checkpoint with load_checkpoint" + _twin(name))
        return builder(num_classes)
    if name.startswith(TIMM):
        return from_timm(name, num_classes, weights is not None)
    torchvision_name = name.removeprefix(PREFIX)
    if torchvision_name in (*_torchvision().names(), *_torchvision().WITHOUT_LINEAR):
        return _torchvision().TorchvisionModel(torchvision_name, num_classes, weights)
    raise ValueError(_unknown(name))


def is_own(name) -> bool:
    """Return whether `name` is one of this package's networks, not one of torchvision's."""
    return bool(_builders().get(name) or convnet.builder(name))


def imagenet_file(name):
    """Return what names the published weights of a network of torchvision or timm. Raises ValueError for other networks."""
    if is_own(name):
        raise ValueError(
            f"{name} cannot start from ImageNet weights: those are published for torchvision's networks" + _twin(name)
        )
    return timm_weights(name) if name.startswith(TIMM) else _torchvision().weights_file(name.removeprefix(PREFIX))


def _builders():
    return {name: builder for family in FAMILIES.values() for name, builder in family.items()}


def _torchvision():
    # torchvision takes a second to import: only if a name needs it
    from . import torchvision_models

    return torchvision_models


def _twin(name):
    return f" (torchvision's network of that name is {PREFIX}{name})" if name in _torchvision().names() else ""


def _unknown(name):
    """Return the message for an unknown name: similar names, then all of them."""
    by_lower_case = {known.lower(): known for known in reversed(names())}
    similar = difflib.get_close_matches(name.lower().replace("-", "_"), by_lower_case, n=4)
    lines = [f"no model is called {name!r}"]
    if similar:
        lines[0] += f"; did you mean {', '.join(by_lower_case[match] for match in similar)}?"
    lines += [f"  {family}: {', '.join(models)}" for family, models in FAMILIES.items()]
    lines[-1] += ", … for any width"
    lines.append(f"  torchvision: {', '.join(_torchvision().names())}")
    return "\n".join(lines)
