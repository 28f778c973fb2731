"""Predictions, performance, and what a network costs."""

import statistics
import time

import numpy as np
import torch

from kdlib.models import Output, in_precision


@torch.no_grad()
def predict(model, images, *, batch_size=None, precision="float32") -> Output:
    """Output of float32 tensors for all N images of an augment.Images, without augmentation, on its device. precision: that
    of the forward pass, float32 or bfloat16.

    Every forward pass is of `batch_size` images (default: `images.at_a_time`), the last one filled up: on a CPU another
    number can mean another kernel, and other last bits."""
    model.eval()
    outputs, size = [], batch_size or images.at_a_time
    for start in range(0, len(images), size):
        batch = images.plain(start, start + size)
        filled = torch.cat([batch, batch[-1:].expand(size - len(batch), -1, -1, -1)])
        with in_precision(precision, images.device):
            outputs.append(model(filled))
    return Output(*(torch.cat(part)[: len(images)].float() for part in zip(*outputs, strict=True)))


def accuracy(logits, labels) -> float:
    """Share of rows of logits (N, K) whose largest is the label's."""
    return (logits.argmax(1) == labels).float().mean().item()


def performance(labels, predicted, num_classes) -> dict:
    """accuracy; precision, recall and F1 averaged over classes (0 for a class never predicted). Integer arrays (N,)."""
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support  # over a second of import

    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predicted, labels=np.arange(num_classes), average="macro", zero_division=0
    )
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
    }


@torch.no_grad()
def cost(model, image_shape, *, repeats=30) -> dict:
    """parameters; macs, multiply-accumulates for one image; bytes of the weights; latency_ms, the median time of a forward
    pass of one image (C, H, W) on the model's device, after warming up."""
    from torch.utils.flop_counter import FlopCounterMode  # a second of import

    model.eval()
    device = next(model.parameters()).device
    image = torch.zeros(1, *image_shape, device=device)
    with FlopCounterMode(display=False) as counter:
        model(image)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "macs": counter.get_total_flops() // 2,
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()),
        "latency_ms": statistics.median(1000 * _seconds(model, image) for _ in range(repeats + 5)),
    }


def _seconds(model, image):
    _wait(image.device)
    started = time.perf_counter()
    model(image)
    _wait(image.device)
    return time.perf_counter() - started


def _wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
