"""What every network here shares: its output, access to its classifier head, and a check of its input."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Output(NamedTuple):
    """What a network returns: `logits` (N, K) and `embedding` (N, d), the pooled feature that its head reads."""

    logits: Tensor
    embedding: Tensor


def get_head(model: nn.Module) -> nn.Module:
    """Return the classifier head: `get_head(model)(embedding)` gives the logits. Its place is `model.head_name`."""
    return model.get_submodule(model.head_name)


def set_head(model: nn.Module, head: nn.Module) -> nn.Module:
    """Replace the classifier head and return the model.

    A Linear for a Linear leaves the keys of the state dict as they are and sets `model.num_classes`; any other module leaves
    that number.

    Parameters
    ----------
    model : nn.Module
    head : nn.Module
        Maps an embedding (N, model.embedding_dim) to logits.

    Raises
    ------
    ValueError
        For a Linear that reads another number of features.
    """
    if isinstance(head, nn.Linear):
        if head.in_features != model.embedding_dim:
            raise ValueError(f"the head reads {head.in_features} features, the embedding has {model.embedding_dim}")
        model.num_classes = head.out_features
    model.set_submodule(model.head_name, head)
    return model


def in_precision(precision, device):
    """Return a context in which networks compute in `precision`: float32, or bfloat16 by autocast (not the losses)."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bfloat16")


def fast_layout(model: nn.Module) -> nn.Module:
    """Return the model with its convolutions in channels_last if that is safe: a third faster on CPUs and GPUs.

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
    """Raise ValueError for another shape than (N, 3, H, W) with `least` pixels or more, TypeError for what is not float.

    torch's own messages name an inner layer, not the cause.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must have the shape N × 3 × H × W, these have {tuple(images.shape)}")
    if not images.is_floating_point():
        raise TypeError(f"images must be floats, these are {images.dtype}: scale and normalise them first")
    if min(images.shape[2:]) < least:
        height, width = images.shape[2:]
        raise ValueError(f"images of {height} × {width} are too small: this network needs at least {least} × {least}")


def pool(features: Tensor) -> Tensor:
    """Global average pooling, (N, C, H, W) -> (N, C).

    The published code pools with a fixed window: the same for 32 × 32 images, and wrong for other sizes.
    """
    return F.adaptive_avg_pool2d(features, 1).flatten(1)


def channel_shuffle(features: Tensor, groups: int) -> Tensor:
    """Interleave the channels of `groups` groups (ShuffleNet); the shape (N, C, H, W) stays."""
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
