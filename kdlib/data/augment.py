"""Random crop and horizontal flip, in batches, on the device, with offsets drawn for each image.

A *view* is one augmented form of an image: with padding p and flip there are (2p + 1)² · 2 of them (162 for CIFAR's
p = 4), numbered so that a view's number says all about it. Which view an image shows depends only on (seed, epoch,
image), and the order of an epoch only on (seed, epoch): every method sees the same batches. Where a debiaser draws the
order, an image that comes twice in an epoch comes under a view of its own each time."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch


def number_of_views(padding, flip) -> int:
    """How many different views there are: (2·padding + 1)², doubled by the flip."""
    return (2 * padding + 1) ** 2 * (2 if flip else 1)


def draw_views(count, views, *, seed, epoch) -> torch.Tensor:
    """int64 (count,): the view that each image shows in this epoch, or each place of its order, uniform over range(views)."""
    generator = np.random.default_rng([seed, epoch, 1])
    return torch.from_numpy(generator.integers(views, size=count))


def draw_order(count, *, seed, epoch) -> torch.Tensor:
    """int64 (count,): the order in which this epoch visits the images."""
    return torch.from_numpy(np.random.default_rng([seed, epoch, 0]).permutation(count))


class Images:
    """The images of a split as uint8, handed out on `device` as normalised float batches.

    images: uint8 (N, C, H, W), numpy; mean, std: per channel, of pixels in [0, 1]. Pixels beyond the border are zero
    (black) before normalisation, as in torchvision's RandomCrop.

    They are `resident` on the device, where batches are cut without worker processes. Images that would fill more than
    half of a GPU's free memory stay in the host's, and a thread sends each batch ahead of its step."""

    def __init__(self, images, mean, std, *, padding=0, flip=False, device="cpu", resident=None):
        self.device = torch.device(device)
        self.resident = _fit(images.nbytes, self.device) if resident is None else resident
        pixels = torch.from_numpy(np.ascontiguousarray(images))
        self.pixels = pixels.to(self.device) if self.resident else pixels
        self.padding, self.flip = padding, flip
        mean, std = (torch.tensor(figures, device=self.device).view(1, -1, 1, 1) for figures in (mean, std))
        self.scale, self.shift = 1 / (255 * std), -mean / std

    def __len__(self):
        return len(self.pixels)

    @property
    def at_a_time(self) -> int:
        """How many images go through a network at a time where no gradient is needed: on a CPU 64 of up to 32 × 32 pixels,
        fewer of larger ones, but never under 16, which a CPU multiplies with other kernels; on a GPU eight times as many."""
        pixels = self.pixels.shape[2] * self.pixels.shape[3]
        return (1 if self.device.type == "cpu" else 8) * min(64, max(16, (1 << 16) // pixels))

    def batches(self, pieces, view):
        """Yield (index, inputs) for each of `pieces`, lists of images as int64 (B,) on the host: the index on the device, and
        float32 (B, C, H, W). `view` (M,), on the host too, has the view of each image of the pieces, one piece after another.
        The device is never waited for."""
        sizes = [len(piece) for piece in pieces]
        on_device, views = (part.to(self.device).split(sizes) for part in (torch.cat(pieces), view))
        sent = (
            (self.pixels[index] for index in on_device)
            if self.resident
            else _send_ahead(self.pixels, pieces, self.device)
        )
        for index, pixels, shown in zip(on_device, sent, views, strict=True):
            yield index, self._augment(pixels, shown)

    def views(self, index, view) -> torch.Tensor:
        """float32 (B, C, H, W): the images `index` (B,), each under its own `view` (B,) in range(number_of_views)."""
        return self._augment(self.pixels[index.to(self.pixels.device)].to(self.device), view.to(self.device))

    def plain(self, start, stop) -> torch.Tensor:
        """float32 (stop − start, C, H, W): images as they are, without augmentation."""
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
    """Yield pixels[piece] on the device for each piece. A thread gathers them, on CUDA into pinned memory from which they are
    copied on a stream of their own, `ahead` batches before they are asked for."""
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
