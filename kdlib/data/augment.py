"""Random crop and horizontal flip, in batches, on the device, with offsets drawn for each image.

A *view* is one augmented form of an image: with padding p and flip there are (2p + 1)² · 2 of them (162 for CIFAR's p = 4),
and a view's number determines its crop and flip. The view of an image depends only on (seed, epoch, image), and the order of
an epoch only on (seed, epoch): every method sees the same batches. If a debiaser draws the order, an image that occurs twice
in an epoch gets a view each time."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch


def number_of_views(padding, flip) -> int:
    """Return the number of different views: (2·padding + 1)², doubled by the flip."""
    return (2 * padding + 1) ** 2 * (2 if flip else 1)


def draw_views(count, views, *, seed, epoch) -> torch.Tensor:
    """Draw the view of each image (or of each place in the order) in an epoch.

    Returns
    -------
    Tensor of int64, (count,)
        Uniform over range(views).
    """
    generator = np.random.default_rng([seed, epoch, 1])
    return torch.from_numpy(generator.integers(views, size=count))


def draw_order(count, *, seed, epoch) -> torch.Tensor:
    """Draw the order, int64 (count,), in which an epoch visits the images."""
    return torch.from_numpy(np.random.default_rng([seed, epoch, 0]).permutation(count))


class Images:
    """The images of a split as uint8, given out on `device` as normalised float batches.

    Pixels beyond the border are zero (black) before normalisation, as in torchvision's RandomCrop.

    Parameters
    ----------
    images : ndarray of uint8, (N, C, H, W)
    mean, std : sequence of float, (C,)
        Of pixels in [0, 1].
    padding : int
        Pixels by which a crop can be shifted.
    flip : bool
        Whether half of the views are mirrored.
    device : str or torch.device
    resident : bool, optional
        Whether the images stay on the device, where batches are cut without worker processes. By default they do unless they
        would fill more than half of a GPU's free memory; then a thread sends each batch ahead of its step.
    split : str
        Its name; a teacher of whom there are outputs alone has them by split.
    """

    def __init__(self, images, mean, std, *, padding=0, flip=False, device="cpu", resident=None, split=""):
        self.split = split
        self.device = torch.device(device)
        self.resident = _fit(images.nbytes, self.device) if resident is None else resident
        pixels = torch.from_numpy(np.ascontiguousarray(images))
        self.pixels = pixels.to(self.device) if self.resident else pixels
        self.padding, self.flip = padding, flip
        mean, std = (torch.tensor(values, device=self.device).view(1, -1, 1, 1) for values in (mean, std))
        self.scale, self.shift = 1 / (255 * std), -mean / std

    def __len__(self):
        return len(self.pixels)

    @property
    def at_a_time(self) -> int:
        """Number of images that go through a network at a time when no gradient is needed.

        On a CPU 64 of up to 32 × 32 pixels and fewer larger ones, but at least 16: below that a CPU uses other kernels. On a
        GPU eight times as many."""
        pixels = self.pixels.shape[2] * self.pixels.shape[3]
        return (1 if self.device.type == "cpu" else 8) * min(64, max(16, (1 << 16) // pixels))

    def batches(self, pieces, view):
        """Yield the batches of an epoch without ever waiting for the device.

        Parameters
        ----------
        pieces : list of Tensor of int64, (B,)
            Image numbers of each batch, on the host.
        view : Tensor of int64, (M,)
            The view of each image of all batches in order, on the host.

        Yields
        ------
        index : Tensor of int64, (B,)
        inputs : Tensor of float32, (B, C, H, W)
            Both on the device.
        """
        sizes = [len(piece) for piece in pieces]
        indices, views = (numbers.to(self.device).split(sizes) for numbers in (torch.cat(pieces), view))
        if self.resident:
            batches = (self.pixels[index] for index in indices)
        else:
            batches = _send_ahead(self.pixels, pieces, self.device)
        for index, pixels, batch_views in zip(indices, batches, views, strict=True):
            yield index, self._augment(pixels, batch_views)

    def views(self, index, view) -> torch.Tensor:
        """Return the images `index` (B,), each in its `view` (B,), as float32 (B, C, H, W)."""
        return self._augment(self.pixels[index.to(self.pixels.device)].to(self.device), view.to(self.device))

    def plain(self, start, stop) -> torch.Tensor:
        """Return images without augmentation, float32 (stop − start, C, H, W)."""
        return self._normalise(self.pixels[start:stop].to(self.device))

    def _augment(self, pixels, view):
        side = 2 * self.padding + 1
        if self.padding:
            padded = torch.nn.functional.pad(pixels, (self.padding,) * 4)
            # every crop of every image as a view of the padded ones: (B, C, rows, columns, H, W), no copy
            crops = padded.unfold(2, pixels.shape[2], 1).unfold(3, pixels.shape[3], 1)
            shift = view % side**2
            pixels = crops[torch.arange(len(view), device=self.device), :, shift // side, shift % side]
        if self.flip:
            mirrored = (view >= side**2)[:, None, None, None]
            pixels = torch.where(mirrored, pixels.flip(3), pixels)
        return self._normalise(pixels)

    def _normalise(self, pixels):
        return torch.addcmul(self.shift, pixels.float(), self.scale)


def _fit(size, device):
    """Whether `size` bytes of images belong on the device."""
    return device.type != "cuda" or size < torch.cuda.mem_get_info(device)[0] // 2


def _send_ahead(pixels, pieces, device, ahead=2):
    """Yield pixels[piece] on the device for each piece, gathered by a thread `ahead` batches early.

    On CUDA the thread gathers them into pinned memory, and they are copied on a stream of their own."""
    copying, waiting = torch.cuda.Stream(device) if device.type == "cuda" else None, deque()

    def send(piece):
        if copying is None:
            return pixels[piece].to(device), None
        with torch.cuda.stream(copying):
            return pixels[piece].pin_memory().to(device, non_blocking=True), copying.record_event()

    def receive():
        sent, copied = waiting.popleft().result()
        if copied is not None:
            torch.cuda.current_stream(device).wait_event(copied)
            sent.record_stream(torch.cuda.current_stream(device))  # its memory is free only after the step has read it
        return sent

    with ThreadPoolExecutor(1) as thread:
        for piece in pieces:
            waiting.append(thread.submit(send, piece))
            if len(waiting) > ahead:
                yield receive()
        while waiting:
            yield receive()
