"""What a trained teacher gives its students: class means of its embeddings, and a bank of its outputs."""

import numpy as np
import torch

from kdlib import files
from kdlib.evaluate import StoredOutputs
from kdlib.models import Output, in_precision


def class_means(embeddings, labels, num_classes) -> torch.Tensor:
    """Return the mean embedding of each class.

    Sums are taken in float64, so the order and size of batches do not matter.

    Parameters
    ----------
    embeddings : Tensor, (N, d)
    labels : int64 array or Tensor, (N,)
    num_classes : int

    Returns
    -------
    Tensor, (num_classes, d)

    Raises
    ------
    ValueError
        For labels out of range, lengths that differ, and a class without a sample.

    Examples
    --------
    >>> class_means(torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]]), [0, 0, 1], 2)
    tensor([[2., 0.],
            [0., 5.]])
    """
    labels = torch.as_tensor(labels, device=embeddings.device)
    if embeddings.dim() != 2 or len(embeddings) != len(labels):
        shape = tuple(embeddings.shape)
        raise ValueError(f"embeddings must be (N, d) with N labels, got {shape} and {len(labels)} labels")
    if len(labels) and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(f"labels must be in 0 … {num_classes - 1}, found {int(labels.min())} … {int(labels.max())}")
    counts = torch.bincount(labels, minlength=num_classes)
    if (counts == 0).any():
        raise ValueError(f"no sample of class {', '.join(map(str, (counts == 0).nonzero().flatten().tolist()))}")
    sums = torch.zeros(num_classes, embeddings.shape[1], dtype=torch.float64, device=embeddings.device)
    sums.index_add_(0, labels, embeddings.double())
    return (sums / counts[:, None]).to(embeddings.dtype)


def write_means(path, means):
    """Write class means (K, d) in the form of KD++'s files: JSON {"0": [d floats], …}."""
    files.write_json(path, {str(label): row.tolist() for label, row in enumerate(means)})


def check_means(means, what):
    """Raise ValueError, naming the classes, for means (K, d) that are zero, NaN or infinite: they have no direction."""
    wrong = (~(means.isfinite().all(1) & (means != 0).any(1))).nonzero().flatten().tolist()
    if wrong:
        raise ValueError(
            f"{what}: the mean embedding of class {', '.join(map(str, wrong[:10]))} is zero or not finite, so it has no "
            "direction that KD++ could teach"
        )


def read_means(path, *, num_classes, dim) -> torch.Tensor:
    """Read class means in the form of KD++'s files. Return float32 (num_classes, dim); ValueError for any other content."""
    try:
        rows = files.read_json(path)
        means = torch.tensor([rows[str(label)] for label in range(len(rows))], dtype=torch.float32)
    except (ValueError, KeyError, TypeError, OverflowError, RuntimeError) as error:
        raise ValueError(f'{path} is not a file of class means, {{"0": [floats], "1": …}}: {error}') from error
    if means.shape != (num_classes, dim):
        shape = tuple(means.shape)
        raise ValueError(f"{path} holds class means of shape {shape}; this teacher needs {(num_classes, dim)}")
    check_means(means, path)
    return means


def compare_means(ours, theirs) -> dict:
    """Compare two tensors of class means, (K, d) each. Raises ValueError for shapes that differ.

    Returns
    -------
    dict
        least_cosine and mean_cosine between the two means of a class; norm_ratio, our mean norm over theirs.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"class means of shapes {tuple(ours.shape)} and {tuple(theirs.shape)} cannot be compared")
    cosine = torch.nn.functional.cosine_similarity(ours, theirs, dim=1)
    ratio = ours.norm(dim=1).mean() / theirs.norm(dim=1).mean()
    return {"least_cosine": cosine.min().item(), "mean_cosine": cosine.mean().item(), "norm_ratio": ratio.item()}


class TeacherBank:
    """A frozen teacher's outputs by (image, view), each computed once, when an epoch first shows it.

    All runs of a sweep with this teacher share one bank. An epoch's missing outputs are computed before its first step, so no
    step waits for the device. Every forward pass has the same number of images: on a CPU another number can mean another
    kernel and other last bits. So in float32 an output does not depend on which run needed it first, on the batch size, or
    on whether it was kept.

    Parameters
    ----------
    teacher : nn.Module
        Put into eval mode.
    images : data.augment.Images
        The training split.
    num_views : int
        Views of an image, as `data.augment.number_of_views` counts them.
    budget, spill : int
        Bytes for outputs on the device, and then in host memory. What does not fit is recomputed each time (logged once).
    dtype : torch.dtype
        In which outputs are kept.
    precision : {"float32", "bfloat16"}
        Of the forward passes.
    log : callable
        Takes a line.
    """

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
        self.memory = [[images.device, budget], [torch.device("cpu"), spill]]  # [place, bytes left]
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
        """Return the teacher's outputs for the batches of an epoch.

        Parameters
        ----------
        pieces : list of int64 Tensor, (B,)
            The images of each batch, on the host.
        view : int64 Tensor, (M,)
            The view of each image, one batch after another, on the host.
        embedding : bool
            Whether embeddings are needed; else they are None, and not kept.

        Returns
        -------
        list of Output
            logits (B, K) and embedding (B, d) for each batch, float32, on the images' device.
        """
        entries = torch.cat(pieces) * self.num_views + view
        shelves = {name: shelf for name, shelf in self.shelves.items() if embedding or name == "logits"}
        values, known = {}, torch.ones(len(entries), dtype=torch.bool)
        for name, shelf in shelves.items():
            values[name], kept = shelf.read(entries)
            known &= kept
        missing = (~known).nonzero().squeeze(1)
        if len(missing):
            new, position = _unique(entries[missing])
            output = self._forward(new)
            for name, shelf in shelves.items():
                computed = getattr(output, name)
                self._keep(shelf, new, computed)
                values[name][missing.to(computed.device)] = computed[position.to(computed.device)]
        sizes = [len(piece) for piece in pieces]
        logits = values["logits"].split(sizes)
        embeddings = values["embedding"].split(sizes) if embedding else [None] * len(sizes)
        return [Output(*batch) for batch in zip(logits, embeddings, strict=True)]

    @torch.no_grad()
    def _forward(self, entries) -> Output:
        """The plain teacher's output for `entries` (M,), in forward passes of one size."""
        self.forwards += len(entries)
        if isinstance(self.teacher, StoredOutputs):
            rows = (entries // self.num_views).to(self.images.device)
            return Output(*(values[rows] for values in self.teacher.of("train")))
        size = self.images.at_a_time
        whole = torch.cat([entries, entries[-1:].expand(-len(entries) % size)])  # filled up with the last one
        pieces = list((whole // self.num_views).split(size))
        with in_precision(self.precision, self.images.device):
            outputs = [self.teacher(inputs) for _, inputs in self.images.batches(pieces, whole % self.num_views)]
        return Output(*(torch.cat(part)[: len(entries)].float() for part in zip(*outputs, strict=True)))

    def _keep(self, shelf, entries, values):
        """Keep those `values` (M, width) that a shelf does not hold yet, on the device and then in host memory."""
        new = (shelf.row[entries] < 0).nonzero().squeeze(1)
        entries, values = entries[new], values[new.to(values.device)]
        if (rounded := values.to(self.dtype)).isfinite().all():  # some may be too large for half precision
            values = rounded
        for place in self.memory:
            device, bytes_left = place
            count = min(len(entries), bytes_left // max(1, values.shape[1] * values.itemsize))
            shelf.add(entries[:count], values[:count].to(device))
            place[1] -= values[:count].nbytes
            entries, values = entries[count:], values[count:]
        if len(entries) and not self.full:
            self.full = True
            kept = self.shelves["logits"].used
            self.log(f"teacher bank: {kept} outputs fill its memory; the others are recomputed each time")


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
        """Return float32 (M, width) on the device, undefined where nothing is kept, and bool (M,) on the host: what is kept."""
        row = self.row[entries].long()
        starts = torch.tensor([0, *(len(block) for block in self.blocks)]).cumsum(0)
        block_of = torch.searchsorted(starts, row, right=True) - 1  # −1 where nothing is kept
        values = torch.empty(len(entries), self.width, device=self.device)
        counts = torch.bincount(block_of + 1, minlength=len(self.blocks) + 1).tolist()
        _, *positions = block_of.argsort().split(counts)  # the first ones are not kept
        for number, (block, position) in enumerate(zip(self.blocks, positions, strict=True)):
            if len(position):
                kept = block[(row[position] - starts[number]).to(block.device)]
                values[position.to(self.device)] = kept.to(self.device, torch.float32)
        return values, row >= 0


def _unique(entries):
    """Return the distinct `entries` in the order of their first occurrence, and the position of each entry among them."""
    values, first, inverse = np.unique(entries.numpy(), return_index=True, return_inverse=True)
    order = first.argsort()
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    return torch.from_numpy(values[order]), torch.from_numpy(position[inverse])
