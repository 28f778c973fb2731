"""Batched crops and flips: the right pixels, the right distribution, and dependence on nothing but seed, epoch and image."""

import numpy as np
import torch

from kdlib.data.augment import Images, _send_ahead, draw_order, draw_views, number_of_views

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 3, 6, 6), dtype=np.uint8)


def test_every_view_is_the_crop_and_flip_that_its_number_says():
    images = Images(PIXELS, (0.0,) * 3, (1 / 255,) * 3, padding=2, flip=True)
    for view in range(number_of_views(2, True)):
        mirrored, shift = divmod(view, 25)
        row, column = divmod(shift, 5)
        padded = np.pad(PIXELS[3], ((0, 0), (2, 2), (2, 2)))
        expected = padded[:, row : row + 6, column : column + 6].astype(np.float32)
        expected = expected[:, :, ::-1] if mirrored else expected
        actual = images.views(torch.tensor([3, 3]), torch.tensor([view, view]))
        np.testing.assert_allclose(actual[1], expected, rtol=1e-6)


def test_the_middle_view_is_the_image_itself():
    images = Images(PIXELS, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), padding=2)
    assert torch.equal(images.views(torch.arange(5), torch.full((5,), 12)), images.plain(0, 5))


def test_normalisation_is_torchvisions():
    from torchvision.transforms.functional import normalize

    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    expected = normalize(torch.from_numpy(PIXELS) / 255, mean, std)
    torch.testing.assert_close(Images(PIXELS, mean, std).plain(0, 5), expected, rtol=1e-5, atol=1e-6)


def test_offsets_are_drawn_for_each_image_and_uniform():
    views = draw_views(100_000, 162, seed=0, epoch=1)
    counts = torch.bincount(views, minlength=162).double()
    chi_square = ((counts - 100_000 / 162) ** 2 / (100_000 / 162)).sum()
    assert 161 - 5 * (2 * 161) ** 0.5 < chi_square < 161 + 5 * (2 * 161) ** 0.5


def test_crops_and_flips_have_torchvisions_distribution():
    """RandomCrop with padding and RandomHorizontalFlip, as the published codes compose them, on a picture whose every pixel
    tells where it came from."""
    from torchvision.transforms import Compose, RandomCrop, RandomHorizontalFlip

    picture = torch.arange(1, 37, dtype=torch.uint8).view(1, 1, 6, 6).expand(-1, 3, -1, -1)
    count, kinds = 5_000, number_of_views(1, True)
    images = Images(picture.numpy(), (0.0,) * 3, (1 / 255,) * 3, padding=1, flip=True)
    every = images.views(torch.zeros(kinds, dtype=torch.int64), torch.arange(kinds))[:, 0].round().long()
    views = {view.numpy().tobytes(): number for number, view in enumerate(every)}
    assert len(views) == kinds
    torch.manual_seed(0)
    published = Compose([RandomCrop(6, padding=1), RandomHorizontalFlip()])
    theirs = [views[published(picture[0])[0].long().contiguous().numpy().tobytes()] for _ in range(count)]
    ours = draw_views(count, kinds, seed=0, epoch=1)
    counts = [torch.bincount(torch.as_tensor(drawn), minlength=kinds).double() for drawn in (theirs, ours)]
    chi_square = ((counts[0] - counts[1]) ** 2 / (counts[0] + counts[1])).sum()  # two samples of one size
    assert chi_square < 17 + 5 * (2 * 17) ** 0.5


def test_images_outside_the_device_come_in_the_same_batches():
    options = {"padding": 2, "flip": True}
    resident, sent = (Images(PIXELS, (0.4,) * 3, (0.2,) * 3, resident=kind, **options) for kind in (True, False))
    view = torch.tensor([3, 49, 0, 12, 25, 7, 7, 31])
    pieces = [torch.tensor(piece) for piece in ([4, 0], [1, 1, 2], [3], [2, 0])]
    batches = list(sent.batches(pieces, view))
    assert [index.tolist() for index, _ in batches] == [piece.tolist() for piece in pieces]
    shown = view.split([len(piece) for piece in pieces])
    for piece, own, (_, one), (_, other) in zip(pieces, shown, batches, resident.batches(pieces, view), strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, resident.views(piece, own))
    assert torch.equal(sent.plain(1, 4), resident.plain(1, 4))


def test_images_are_sent_no_more_than_a_few_batches_ahead():
    taken = []

    class Watched:
        def __getitem__(self, piece):
            taken.append(piece.tolist())
            return torch.from_numpy(PIXELS)[piece]

    pieces = [torch.tensor([number]) for number in range(5)]
    batches = _send_ahead(Watched(), pieces, torch.device("cpu"), ahead=2)
    next(batches)
    assert len(taken) <= 3
    assert [pixels.shape[0] for pixels in batches] == [1] * 4
    assert taken == [[0], [1], [2], [3], [4]]


def test_views_and_order_depend_on_seed_and_epoch_only():
    assert torch.equal(draw_views(50, 162, seed=1, epoch=2), draw_views(50, 162, seed=1, epoch=2))
    assert not torch.equal(draw_views(50, 162, seed=1, epoch=2), draw_views(50, 162, seed=1, epoch=3))
    assert not torch.equal(draw_order(50, seed=1, epoch=2), draw_order(50, seed=2, epoch=2))
    assert sorted(draw_order(50, seed=1, epoch=2).tolist()) == list(range(50))
