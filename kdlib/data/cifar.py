"""CIFAR-10 and CIFAR-100, as they are and with a planted colour.

The images come from `cifar10.npz` or `cifar100.npz` in the data folder: train_images (N, 32, 32, 3) uint8, train_labels (N,),
the same for test, and classes, the names in the order of their numbers. Without such a file, torchvision downloads the official
archive into that folder and verifies its checksums."""

import sys
from typing import NamedTuple

import numpy as np

from kdlib import files, paths
from kdlib.data.splits import Dataset, Split, check_skew, mean_std, plant, stratified_cut

SETS = {"cifar10": "cifar10", "cifar100": "cifar100", "cifar10s": "cifar10s", "cifar100s": "cifar100s"}
# images per class of the official splits, mean and std of the published protocols
OFFICIAL = {
    "cifar10": ((5000, 1000), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((500, 100), (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}
GENDER = {"girl": 0, "woman": 0, "boy": 1, "man": 1}
MERGED = {"girl": "boy", "woman": "man"}
# the 20 official coarse classes of CIFAR-100, of five fine ones each
COARSE = {
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}
KEYS = ("train_images", "train_labels", "test_images", "test_labels", "classes")


class Originals(NamedTuple):
    images: np.ndarray  # (N, 32, 32, 3) uint8
    labels: np.ndarray  # (N,) int64
    source: np.ndarray  # (N,) int64, test images numbered after those of training


def cifar10(*, val_share=0.1, seed=0) -> Dataset:
    """`cifar10`: 60,000 photographs of 32×32 pixels in ten classes (Krizhevsky 2009), the official test split whole.

    It has no protected attribute: the group is unknown everywhere, so bias is undefined (NaN) and debiasers have nothing to
    work on. It serves to compare accuracy; `cifar10s` has an attribute.

    Parameters
    ----------
    val_share : float
        Part of each class of the training images that becomes val.
    seed : int
        Of that cut.

    Raises
    ------
    ValueError
        For options outside their ranges and a file that is not as it should be.
    OSError
        If there are no data.
    """
    return _natural("cifar10", val_share, seed)


def cifar100(*, val_share=0.1, seed=0) -> Dataset:
    """`cifar100`: 60,000 photographs of 32×32 pixels in 100 classes (Krizhevsky 2009), the official test split whole.

    It has an attribute of its own, gender: its classes boy and man are male, girl and woman female, and the group is unknown
    elsewhere. Each of these classes has one gender only, so bias is measured after merging: is a child (boy + girl)
    recognised as a child, and an adult (man + woman) as an adult, equally often for both genders? Accuracy is measured on
    the 100 classes. With 100 test images in each of these four classes, only large biases show.

    Parameters
    ----------
    val_share : float
        Part of each class of the training images that becomes val.
    seed : int
        Of that cut.

    Raises
    ------
    ValueError
        For options outside their ranges and a file that is not as it should be.
    OSError
        If there are no data.
    """
    return _natural("cifar100", val_share, seed)


def cifar10s(*, skew=0.95, val_share=0.1, seed=0) -> Dataset:
    """`cifar10s`: CIFAR-10 with a planted protected attribute, as CIFAR-10S (Wang et al., CVPR 2020).

    Domain 0 shows a photograph in grey (luminance), domain 1 in colour. In training, `skew` of the images of automobile, cat,
    dog, horse and truck are coloured and `skew` of those of airplane, bird, deer, frog and ship are grey, as in the published
    code: colour predicts which half of the classes an image is in. The test split shows every test image in both domains.
    Pixels are normalised by the mean and standard deviation of this training split.

    Parameters
    ----------
    skew : float
        Share of a class's training images in its own domain, .5 (no bias) to 1.
    val_share : float
        Part of each class and domain of the training images that becomes val.
    seed : int
        Of the domains and of that cut.

    Raises
    ------
    ValueError
        For options outside their ranges and a file that is not as it should be.
    OSError
        If there are no data.
    """
    return _planted("cifar10s", np.tile([0, 1], 5), skew, val_share, seed)


def cifar100s(*, skew=0.95, val_share=0.1, seed=0, labels="fine") -> Dataset:
    """`cifar100s`: CIFAR-100 with a planted protected attribute, after CIFAR-10S (Wang et al., CVPR 2020).

    Domain 0 shows a photograph in grey (luminance), domain 1 in colour. In training, `skew` of the images of classes 0–49
    (apple to maple_tree) are coloured and `skew` of those of classes 50–99 (motorcycle to worm) are grey: colour predicts
    which half of the classes an image is in. Of the 20 coarse classes the first ten by name are coloured. The test split
    shows every test image in both domains. Pixels are normalised by the mean and standard deviation of this training split.

    Parameters
    ----------
    skew : float
        Share of a class's training images in its own domain, .5 (no bias) to 1.
    val_share : float
        Part of each class and domain of the training images that becomes val.
    seed : int
        Of the domains and of that cut.
    labels : str
        The 100 "fine" or the 20 "coarse" ones.

    Raises
    ------
    ValueError
        For options outside their ranges and a file that is not as it should be.
    OSError
        If there are no data.
    """
    if labels not in ("fine", "coarse"):
        raise ValueError(f"labels are fine (100 classes) or coarse (20), got {labels!r}")
    coarse = labels == "coarse"
    return _planted("cifar100s", np.repeat([1, 0], 10 if coarse else 50), skew, val_share, seed, coarse=coarse)


def _natural(name, val_share, seed):
    _check_share(val_share)
    classes, train, test = _originals(name)
    groups, merged, gender = (), (), np.full(len(classes), -1)
    if name == "cifar100":
        groups, gender = ("female", "male"), np.array([GENDER.get(label, -1) for label in classes])
        kept = [label for label in classes if label not in MERGED]
        merged = tuple(kept.index(MERGED.get(label, label)) for label in classes)
    splits = _splits(train, gender[train.labels], test, gender[test.labels], val_share, seed)
    _, mean, std = OFFICIAL[name]
    return Dataset(name, classes, groups, **splits, mean=mean, std=std, merged=merged)


def _planted(name, domain_of_class, skew, val_share, seed, *, coarse=False):
    """`domain_of_class` (C,): the domain of most of a class's images; `coarse`: whether the classes are CIFAR-100's 20."""
    check_skew(skew)
    _check_share(val_share)
    classes, train, test = _originals(name.removesuffix("s"))
    if coarse:
        coarse_number = {fine: number for number, kind in enumerate(COARSE.values()) for fine in kind}
        if unknown := sorted(set(classes) - set(coarse_number)):
            raise ValueError(
                f"no coarse class is known for {', '.join(unknown[:5])}: coarse labels need the official names"
            )
        merged = np.array([coarse_number[fine] for fine in classes])
        train, test = (part._replace(labels=merged[part.labels]) for part in (train, test))
        classes = tuple(COARSE)
    group = plant(train.labels, domain_of_class[train.labels], skew, np.random.default_rng(seed))
    train.images[group == 0] = grey(train.images[group == 0])
    domain = np.repeat([0, 1], len(test.labels))
    both = Originals(np.concatenate([grey(test.images), test.images]), np.tile(test.labels, 2), np.tile(test.source, 2))
    splits = _splits(train, group, both, domain, val_share, seed + 1)
    mean, std = mean_std(splits["train"].images)
    return Dataset(name, classes, ("grey", "colour"), **splits, mean=mean, std=std)


def grey(images) -> np.ndarray:
    """Return uint8 (N, H, W, 3) images in grey: ITU-R 601-2 luminance in three equal channels, as Pillow's mode L."""
    weights = np.array([19595, 38470, 7471], np.uint32)  # .299, .587, .114 in 1/65536
    luminance = np.full(images.shape[:3], 1 << 15, np.uint32)
    for channel, weight in enumerate(weights):
        luminance += images[..., channel] * weight
    return np.repeat((luminance >> 16).astype(np.uint8)[..., None], 3, axis=3)


def _splits(train, group, test, test_group, val_share, seed):
    rest, cut = stratified_cut(train.labels, group, val_share, seed)
    chosen = {"train": (train, group, rest), "val": (train, group, cut), "test": (test, test_group, slice(None))}
    return {
        name: Split(
            np.ascontiguousarray(originals.images[index].transpose(0, 3, 1, 2)),
            originals.labels[index],
            groups[index].astype(np.int64),
            source=originals.source[index],
        )
        for name, (originals, groups, index) in chosen.items()
    }


def _check_share(val_share):
    if not 0 < val_share < 1:
        raise ValueError(f"val_share is the part of the training images for val, between 0 and 1; got {val_share}")


def _originals(name):
    """(class names, training and test Originals) of cifar10 or cifar100."""
    file = paths.data_folder() / f"{name}.npz"
    arrays = _from_file(name, file) if file.exists() else _from_torchvision(name)
    parts, start = [], 0
    for split, official in zip(("train", "test"), OFFICIAL[name][0], strict=True):
        labels = arrays[f"{split}_labels"].astype(np.int64)
        parts.append(Originals(arrays[f"{split}_images"], labels, start + np.arange(len(labels))))
        start += len(labels)
        if set(np.bincount(labels)) != {official}:
            print(
                f"kdlib: {file} is a part of the data: {len(labels)} {split} images, officially {official} a class. "
                "Once it is complete, remove what was prepared from it.",
                file=sys.stderr,
            )
    return tuple(arrays["classes"].tolist()), *parts


def _from_file(name, file):
    try:
        with np.load(file) as stored:
            arrays = {key: stored[key] for key in KEYS if key in stored}
    except Exception as error:  # a damaged file raises many kinds, of zipfile, zlib and numpy
        problem = f"cannot be read ({error})"
    else:
        problem = _problem(name, arrays)
    if problem:
        raise ValueError(
            f"{file} {problem}. It should be a whole npz file with {', '.join(KEYS)}: write it again, or remove it and "
            "torchvision downloads the official archive."
        )
    return arrays


def _problem(name, arrays) -> str | None:
    """What is wrong with the arrays of a file, or None."""
    count = 10 if name == "cifar10" else 100
    if missing := [key for key in KEYS if key not in arrays]:
        return f"lacks {', '.join(missing)}"
    classes = arrays["classes"].tolist()
    if arrays["classes"].shape != (count,) or arrays["classes"].dtype.kind != "U" or classes != sorted(set(classes)):
        return f"has other classes than the {count} names of {name} in official order, which is the alphabet's"
    if name == "cifar100" and not set(GENDER) <= set(classes):
        return f"lacks the classes {', '.join(sorted(set(GENDER) - set(classes)))}"
    for split in ("train", "test"):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3):
            return f"has {split}_images of {images.dtype} {images.shape}, not uint8 (N, 32, 32, 3)"
        if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
            return f"has {split}_labels of {labels.dtype} {labels.shape}, not integers of shape ({len(images)},)"
        if set(labels.tolist()) != set(range(count)):
            return f"has {split}_labels that are not the numbers 0 … {count - 1}, each at least once"
    return None


def _from_torchvision(name):
    from torchvision import datasets

    source, folder = getattr(datasets, name.upper()), files.make_folder(paths.data_folder())
    try:
        parts = {split: source(folder, train=split == "train", download=True) for split in ("train", "test")}
    except Exception as error:  # of urllib, tarfile, pickle and torchvision
        raise OSError(
            f"cannot get {name}: {error}. Either let torchvision download it, or fetch {source.url} elsewhere and put it "
            f"into {folder} as {source.filename}; or put {name}.npz there, with {', '.join(KEYS)}."
        ) from error
    arrays = {f"{split}_images": part.data for split, part in parts.items()}
    arrays |= {f"{split}_labels": np.array(part.targets) for split, part in parts.items()}
    return arrays | {"classes": np.array(parts["train"].classes)}
