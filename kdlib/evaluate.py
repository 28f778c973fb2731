"""Predictions, performance, and the cost of a network."""

import statistics
import time

import numpy as np
import torch
from torch import nn

from kdlib.models import Output, in_precision


@torch.no_grad()
def predict(model, images, *, batch_size=None, precision="float32") -> Output:
    """Return the network's output for all images of a split, without augmentation.

    Every forward pass has the same number of images; the last is filled up. On a CPU another number can mean another kernel,
    and other last bits.

    Parameters
    ----------
    model : nn.Module
        Put into eval mode. `StoredOutputs` give those of the split that the images are of.
    images : data.augment.Images
    batch_size : int, optional
        Default: `images.at_a_time`.
    precision : {"float32", "bfloat16"}
        Of the forward pass.

    Returns
    -------
    Output
        logits (N, K) and embedding (N, d), float32, on the images' device.
    """
    if isinstance(model, StoredOutputs):
        return model.of(images.split)
    model.eval()
    outputs, size = [], batch_size or images.at_a_time
    for start in range(0, len(images), size):
        batch = images.plain(start, start + size)
        filled = torch.cat([batch, batch[-1:].expand(size - len(batch), -1, -1, -1)])
        with in_precision(precision, images.device):
            outputs.append(model(filled))
    return Output(*(torch.cat(part)[: len(images)].float() for part in zip(*outputs, strict=True)))


class StoredOutputs(nn.Module):
    """A teacher of whom there are outputs alone: those of each split's images, whatever the view.

    Parameters
    ----------
    tensors : dict
        {"train_logits": Tensor (N, K), "train_embedding": Tensor (N, d), …} of train, val and test; d may be 0.
    """

    head_name = None

    def __init__(self, tensors):
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        self.num_classes, self.embedding_dim = self.train_logits.shape[1], self.train_embedding.shape[1]

    def of(self, split) -> Output:
        """Return the outputs of a split."""
        return Output(getattr(self, f"{split}_logits"), getattr(self, f"{split}_embedding"))


def accuracy(logits, labels) -> float:
    """Return the share of rows of logits (N, K) in which the label's logit is the largest."""
    return (logits.argmax(1) == labels).float().mean().item()


def performance(labels, predicted, num_classes) -> dict:
    """Return accuracy, and precision, recall and F1 averaged over classes (0 for a class that is never predicted).

    Parameters
    ----------
    labels, predicted : int array, (N,)
    num_classes : int

    Examples
    --------
    >>> performance([0, 0, 1, 1], [0, 0, 1, 0], 2)["recall"]
    0.75
    """
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
    """Return what a network costs for one image of `image_shape` (C, H, W).

    Returns
    -------
    dict
        parameters; macs, the multiply-accumulates; bytes of the weights; latency_ms, the median time of `repeats` + 5 forward
        passes on the model's device.
    Nothing but the number of parameters, 0, is known of `StoredOutputs`.
    """
    if isinstance(model, StoredOutputs):
        return {"parameters": 0, "macs": float("nan"), "bytes": 0, "latency_ms": float("nan")}
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
