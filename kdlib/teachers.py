"""What a trained teacher gives its students: class means of its embeddings, and a bank of its outputs."""

import json
from pathlib import Path

import numpy as np
import torch

from kdlib import files
from kdlib.models import Output, in_precision


def class_means(embeddings, labels, num_classes) -> torch.Tensor:
    """(num_classes, d): the mean embedding of each class. embeddings (N, d) tensor; labels (N,) int64.

    Summed in float64, so the order and size of batches change nothing. Raises ValueError for labels out of range, lengths
    that differ, and a class without a sample."""
    labels = torch.as_tensor(labels, device=embeddings.device)
    if embeddings.dim() != 2 or len(embeddings) != len(labels):
        raise ValueError(
            f"embeddings must be (N, d) with N labels, got {tuple(embeddings.shape)} and {len(labels)} labels"
        )
    if len(labels) and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(f"labels must be in 0 … {num_classes - 1}, found {int(labels.min())} … {int(labels.max())}")
    counts = torch.bincount(labels, minlength=num_classes)
    if (counts == 0).any():
        raise ValueError(f"no sample of class {', '.join(map(str, (counts == 0).nonzero().flatten().tolist()))}")
    sums = torch.zeros(num_classes, embeddings.shape[1], dtype=torch.float64, device=embeddings.device)
    sums.index_add_(0, labels, embeddings.double())
    return (sums / counts[:, None]).to(embeddings.dtype)


def write_means(path, means):
    """Class means as KD++'s files have them: JSON {"0": [d floats], …}."""
    files.write_json(path, {str(label): row.tolist() for label, row in enumerate(means)})


def read_means(path, *, num_classes, dim) -> torch.Tensor:
    """float32 (num_classes, dim) from a file as KD++ has them. Raises ValueError where classes or width differ."""
    try:
        rows = json.loads(Path(path).read_text())
        means = torch.tensor([rows[str(label)] for label in range(len(rows))], dtype=torch.float32)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{path} is not a file of class means, {{"0": [floats], "1": …}}: {error}') from error
    if means.shape != (num_classes, dim):
        raise ValueError(
            f"{path} holds class means of shape {tuple(means.shape)}; this teacher needs {(num_classes, dim)}"
        )
    return means


def compare_means(ours, theirs) -> dict:
    """Two tensors of class means (K, d): least and mean cosine between the two means of a class, and the ratio of their mean
    norms, ours to theirs. Raises ValueError for other shapes."""
    if ours.shape != theirs.shape:
        raise ValueError(f"class means of shapes {tuple(ours.shape)} and {tuple(theirs.shape)} cannot be compared")
    cosine = torch.nn.functional.cosine_similarity(ours, theirs, dim=1)
    ratio = ours.norm(dim=1).mean() / theirs.norm(dim=1).mean()
    return {"least_cosine": cosine.min().item(), "mean_cosine": cosine.mean().item(), "norm_ratio": ratio.item()}


class TeacherBank:
    """A frozen teacher's outputs by (image, view), each computed once, when an epoch first shows it, and kept: in blocks of
    `dtype` on the device while `budget` bytes last, then in `spill` bytes of host memory. What does not fit is computed
    again each time, which a line says once.

    Every run of a sweep that uses this teacher shares one bank. An epoch's outputs are looked up, and those that are missing
    computed, before its first step: no step waits for the device. Each forward pass is of the same number of images, since
    on a CPU another number can mean another kernel and other last bits: in float32 an output does not depend on which run
    asked first, on its batch size, or on whether it was kept. `precision`: of the forward passes, as of the student's."""

    def __init__(
        self,
        teacher,
        images,
        num_views,
        *,
        budget=6 << 30,
        spill=0,
        dtype=torch.float32,
        precision="float32",
        log=print,
    ):
        self.teacher, self.images, self.num_views = teacher.eval(), images, num_views
        self.dtype, self.precision, self.log = dtype, precision, log
        self.room = [[images.device, budget], [torch.device("cpu"), spill]]  # bytes that are left
        entries = len(images) * num_views
        self.shelves = {
            "logits": _Shelf(entries, teacher.num_classes, images.device),
            "embedding": _Shelf(entries, teacher.embedding_dim, images.device),
        }
        self.forwards = 0  # images that went through the teacher
        self.full = False

    @property
    def bytes(self) -> int:
        """Memory that the outputs kept so far take."""
        return sum(block.nbytes for shelf in self.shelves.values() for block in shelf.blocks)

    def batches(self, pieces, view, *, embedding=True) -> list:
        """The teacher's Output for each of `pieces`, lists of images as int64 (B,), under `view` (M,) as in `Images.batches`,
        all on the host: logits (B, K) and embedding (B, D) on the device, in float32. `embedding`: whether it is needed; else
        it is None, and not kept."""
        entries = torch.cat(pieces) * self.num_views + view
        shelves = {name: shelf for name, shelf in self.shelves.items() if embedding or name == "logits"}
        found = {name: shelf.read(entries) for name, shelf in shelves.items()}
        missing = (~torch.stack([known for _, known in found.values()]).all(0)).nonzero().squeeze(1)
        if len(missing):
            new, where = _unique(entries[missing])
            computed = self._forward(new)
            for name, shelf in shelves.items():
                part = getattr(computed, name)
                self._keep(shelf, new, part)
                found[name][0][missing.to(part.device)] = part[where.to(part.device)]
        sizes = [len(piece) for piece in pieces]
        parts = [found[name][0].split(sizes) if name in found else [None] * len(sizes) for name in Output._fields]
        return [Output(*part) for part in zip(*parts, strict=True)]

    @torch.no_grad()
    def _forward(self, entries) -> Output:
        """The plain teacher's Output for `entries` (M,), in forward passes of one size."""
        self.forwards += len(entries)
        size = self.images.at_a_time
        whole = torch.cat([entries, entries[-1:].expand(-len(entries) % size)])  # filled up with the last one
        pieces = list((whole // self.num_views).split(size))
        with in_precision(self.precision, self.images.device):
            outputs = [self.teacher(inputs) for _, inputs in self.images.batches(pieces, whole % self.num_views)]
        return Output(*(torch.cat(part)[: len(entries)].float() for part in zip(*outputs, strict=True)))

    def _keep(self, shelf, entries, values):
        new = (shelf.row[entries] < 0).nonzero().squeeze(1)
        entries, values = entries[new], values[new.to(values.device)]
        if (rounded := values.to(self.dtype)).isfinite().all():  # some may be too large for half precision
            values = rounded
        for place in self.room:
            fits = min(len(entries), place[1] // (values.shape[1] * values.itemsize))
            shelf.add(entries[:fits], values[:fits].to(place[0]))
            place[1] -= values[:fits].nbytes
            entries, values = entries[fits:], values[fits:]
        if len(entries) and not self.full:
            self.full = True
            kept = self.shelves["logits"].used
            self.log(f"teacher bank: {kept} outputs fill its memory; the others are computed each time")


class _Shelf:
    """One kind of output, (entries, width), in blocks as they were added, each on the device or in host memory."""

    def __init__(self, entries, width, device):
        self.width, self.device = width, device
        self.row = torch.full((entries,), -1, dtype=torch.int32)  # of each (image, view), over all blocks; −1: not kept
        self.blocks = []

    def add(self, entries, block):
        if len(block):
            self.row[entries] = torch.arange(self.used, self.used + len(block), dtype=torch.int32)
            self.blocks.append(block)

    @property
    def used(self):
        return sum(map(len, self.blocks))

    def read(self, entries):
        """float32 (M, width) on the device, undefined where nothing is kept, and bool (M,) on the host: where something is."""
        row = self.row[entries].long()
        starts = torch.tensor([0, *(len(block) for block in self.blocks)]).cumsum(0)
        which = torch.searchsorted(starts, row, right=True) - 1  # block; −1 where not kept
        values = torch.empty(len(entries), self.width, device=self.device)
        counts = torch.bincount(which + 1, minlength=len(self.blocks) + 1).tolist()
        for number, here in enumerate(which.argsort().split(counts), start=-1):
            if number >= 0 and len(here):
                block = self.blocks[number]
                kept = block[(row[here] - starts[number]).to(block.device)]
                values[here.to(self.device)] = kept.to(self.device, torch.float32)
        return values, row >= 0


def _unique(entries):
    """The different ones of `entries` (M,), in the order of their first occurrence, and (M,): where each stands among them."""
    values, first, inverse = np.unique(entries.numpy(), return_index=True, return_inverse=True)
    order = first.argsort()
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return torch.from_numpy(values[order]), torch.from_numpy(place[inverse])
