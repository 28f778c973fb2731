"""What a trained teacher gives its students: class means of its embeddings, and a bank of its outputs."""

import json
from pathlib import Path

import torch

from kdlib import paths
from kdlib.models import Output


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
    paths.write_json(path, {str(label): row.tolist() for label, row in enumerate(means)})


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
    """A frozen teacher's outputs by (image, view), each computed once, when first asked for, and kept on the device.

    Every run of a sweep that uses this teacher shares one bank. It keeps what `budget` bytes hold, in the order in which it
    is asked; the rest are plain forward passes, which a line says once."""

    def __init__(self, teacher, images, num_views, *, budget=6 << 30, log=print):
        self.teacher, self.num_views, self.log = teacher.eval(), num_views, log
        device, entries = images.pixels.device, len(images) * num_views
        row = (teacher.num_classes + teacher.embedding_dim) * 4
        self.capacity, self.used = min(entries, budget // row), 0
        self.forwards = 0  # images that went through the teacher
        self.place = torch.full((entries,), -1, dtype=torch.int32, device=device)  # row of each (image, view), or −1
        # a CPU's memory is taken only as rows are written
        self.logits = torch.empty(self.capacity, teacher.num_classes, device=device)
        self.embedding = torch.empty(self.capacity, teacher.embedding_dim, device=device)

    @torch.no_grad()
    def output(self, index, view, images) -> Output:
        """The teacher's Output for `images` (B, C, H, W), which are the images `index` (B,) under `view` (B,)."""
        entry = index * self.num_views + view
        place = self.place[entry].long()
        missing = (place < 0).nonzero().squeeze(1)
        if not len(missing):
            return Output(self.logits[place], self.embedding[place])
        self.forwards += len(missing)
        # a batch of one takes another kernel, whose rounding differs; two do not
        asked = missing if len(missing) > 1 else missing.expand(2)
        output = Output(*(part[: len(missing)].float() for part in self.teacher(images[asked])))
        if self.used + len(missing) <= self.capacity:
            rows = torch.arange(self.used, self.used + len(missing), device=place.device)
            self.used += len(missing)
            self.logits[rows], self.embedding[rows] = output
            self.place[entry[missing]] = rows.int()
        elif self.used <= self.capacity:
            self.log(f"teacher bank: {self.used} outputs fill its memory; the others are computed each time")
            self.used = self.capacity + 1
        if len(missing) == len(index):
            return output
        known = place.clamp(min=0)
        parts = zip((self.logits, self.embedding), output, strict=True)
        return Output(*(kept[known].index_copy(0, missing, new) for kept, new in parts))
