"""What every network here shares: its output, access to its classifier head, and a check of its input."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Output(NamedTuple):
    """What a network returns: `logits` (N × classes) and `embedding` (N × D), the pooled feature its head reads."""

    logits: Tensor
    embedding: Tensor


def get_head(model: nn.Module) -> nn.Module:
    """The classifier head, so that `get_head(model)(embedding)` gives the logits. Its place is `model.head_name`."""
    return model.get_submodule(model.head_name)


def set_head(model: nn.Module, head: nn.Module) -> nn.Module:
    """Put another module in the place of the classifier head, and return the model.

    The module maps an N × `model.embedding_dim` embedding to the logits. It takes the old head's place,
    `model.head_name`, so where one Linear follows another the keys of the state dict stay as they are.
    `model.num_classes` follows a Linear's `out_features`; with any other module it stays.

    Raises ValueError for a Linear that reads another number of features than the model has.
    """
    if isinstance(head, nn.Linear):
        if head.in_features != model.embedding_dim:
            raise ValueError(f"the head reads {head.in_features} features, the embedding has {model.embedding_dim}")
        model.num_classes = head.out_features
    model.set_submodule(model.head_name, head)
    return model


def in_precision(precision, device):
    """A context in which networks compute in `precision`, float32 or bfloat16 (autocast: losses keep to float32)."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bfloat16")


def fast_layout(model: nn.Module) -> nn.Module:
    """The model with its convolutions in channels_last, a third faster on CPUs and GPUs, where that is safe.

    On a CPU without AVX-512 the weight gradient of a 1 × 1, stride-2 convolution of 2 to 7 channels writes past its
    buffer in channels_last (oneDNN issue 6035), so a model with such a layer stays as it is.
    """
    unsafe = any(
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.stride == (2, 2)
        and module.in_channels < 8
        for module in model.modules()
    )
    return model if unsafe else model.to(memory_format=torch.channels_last)


def check_images(images: Tensor, least: int = 1) -> None:
    """Raise where `images` are not floats of N × 3 × H × W, with H and W of at least `least` pixels.

    ValueError for the shape, TypeError for the type: torch's own messages name an inner layer, not the cause.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must have the shape N × 3 × H × W, these have {tuple(images.shape)}")
    if not images.is_floating_point():
        raise TypeError(f"images must be floats, these are {images.dtype}: scale and normalise them first")
    if min(images.shape[2:]) < least:
        height, width = images.shape[2:]
        raise ValueError(f"images of {height} × {width} are too small: this network needs at least {least} × {least}")


def pool(features: Tensor) -> Tensor:
    """Global average pooling, N × C × H × W -> N × C.

    The published code pools with a fixed window that covers the whole map of a 32 × 32 image; this is the same there,
    and serves every other size.
    """
    return F.adaptive_avg_pool2d(features, 1).flatten(1)


def channel_shuffle(features: Tensor, groups: int) -> Tensor:
    """Interleave the channels of `groups` groups (ShuffleNet), N × C × H × W -> the same shape."""
    return features.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def init_convs(model: nn.Module) -> None:
    """He initialisation of every convolution: normal with variance 2 / (out_channels · kernel area), bias 0.

    He et al., "Delving Deep into Rectifiers", ICCV 2015, in the fan-out form that the published CIFAR code uses.
    BatchNorm needs nothing: torch starts it at weight 1, bias 0.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
