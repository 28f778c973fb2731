"""Random crop and horizontal flip, in batches, on the device, with offsets drawn for each image.

A *view* is one augmented form of an image: with padding p and flip there are (2p + 1)² · 2 of them (162 for CIFAR's
p = 4), numbered so that a view's number says all about it. Which view an image shows depends only on (seed, epoch,
image), and the order of an epoch only on (seed, epoch): every method sees the same batches."""

import numpy as np
import torch


def number_of_views(padding, flip) -> int:
    """How many different views there are: (2·padding + 1)², doubled by the flip."""
    return (2 * padding + 1) ** 2 * (2 if flip else 1)


def draw_views(count, views, *, seed, epoch) -> torch.Tensor:
    """int64 (count,): the view that each image shows in this epoch, uniform over range(views)."""
    generator = np.random.default_rng([seed, epoch, 1])
    return torch.from_numpy(generator.integers(views, size=count))


def draw_order(count, *, seed, epoch) -> torch.Tensor:
    """int64 (count,): the order in which this epoch visits the images."""
    return torch.from_numpy(np.random.default_rng([seed, epoch, 0]).permutation(count))


class Images:
    """The images of a split, on the device as uint8, handed out as normalised float batches.

    images: uint8 (N, C, H, W), numpy; mean, std: per channel, of pixels in [0, 1]. Pixels beyond the border are zero
    (black) before normalisation, as in torchvision's RandomCrop."""

    def __init__(self, images, mean, std, *, padding=0, flip=False, device="cpu"):
        self.pixels = torch.from_numpy(np.ascontiguousarray(images)).to(device)
        self.height, self.width = images.shape[2:]
        self.padding, self.flip = padding, flip
        padded = torch.nn.functional.pad(self.pixels, (padding,) * 4) if padding else self.pixels
        # every crop of every image as a view of the padded ones: (N, C, rows, columns, H, W), no copy
        self.crops = padded.unfold(2, self.height, 1).unfold(3, self.width, 1)
        mean, std = (torch.tensor(figures, device=device).view(1, -1, 1, 1) for figures in (mean, std))
        self.scale, self.shift = 1 / (255 * std), -mean / std

    def __len__(self):
        return len(self.pixels)

    def views(self, index, view) -> torch.Tensor:
        """float32 (B, C, H, W): the images `index` (B,), each under its own `view` (B,) in range(number_of_views)."""
        side = 2 * self.padding + 1
        shift = view % side**2
        pixels = self.crops[index, :, shift // side, shift % side]
        if self.flip:
            mirrored = (view >= side**2)[:, None, None, None]
            pixels = torch.where(mirrored, pixels.flip(3), pixels)
        return self._normalise(pixels)

    def plain(self, start, stop) -> torch.Tensor:
        """float32 (stop − start, C, H, W): images as they are, without augmentation."""
        return self._normalise(self.pixels[start:stop])

    def _normalise(self, pixels):
        return torch.addcmul(self.shift, pixels.float(), self.scale)
