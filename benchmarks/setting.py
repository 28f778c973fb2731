"""What is measured: pairs of networks on images, and our training loop on them."""

import time

import numpy as np
import torch

from benchmarks.plain import MEAN, STD
from kdlib import data, methods, models, paths, teachers
from kdlib.data.augment import Images, number_of_views
from kdlib.runs.machine import choose_precision
from kdlib.train import train

METHODS = ("ckd", "rkd", "ctkd", "kdpp")
# pair: pixels, padding, classes, batch on a CPU and on a GPU, the data set whose precision it has
PAIRS = {
    "resnet56->resnet20": (32, 4, 100, 64, 64, "cifar100"),
    "resnet32x4->resnet8x4": (32, 4, 100, 64, 64, "cifar100"),
    "efficientnet_b3->efficientnet_b0": (226, 0, 16, 8, 64, "wider"),
}
LR = 1e-3  # small: nothing can be learned from random images, and the loss must stay finite


class Setup:
    """One pair on one device: images, networks, and what both loops need."""

    def __init__(self, pair, device, steps, classes=None):
        self.pixels, self.padding, self.classes, *sizes, name = PAIRS[pair]
        self.classes = classes or self.classes
        self.batch_size, self.device, self.steps = sizes[device != "cpu"], device, steps
        self.precision, self.precision_reason = choose_precision(device, name)
        self.teacher_name, self.student_name = pair.split("->")
        self.arrays, self.source = load_images(self.pixels, 50 * self.batch_size)
        self.labels = torch.from_numpy(np.random.default_rng(0).integers(0, self.classes, len(self.arrays)))
        self.images = self.part(steps * self.batch_size)

    def part(self, count):
        """Return the first `count` images."""
        return Images(self.arrays[:count], MEAN, STD, padding=self.padding, flip=True, device=self.device)

    def network(self, name):
        torch.manual_seed(0)
        return models.build_model(name, self.classes).to(self.device)

    def bank(self, images=None):
        images = images or self.images
        teacher = models.fast_layout(self.network(self.teacher_name)).requires_grad_(False)
        views = number_of_views(self.padding, True)
        return teachers.TeacherBank(teacher, images, views, precision=self.precision)

    def student(self):
        return models.fast_layout(self.network(self.student_name))

    def method(self, name, student, bank):
        means = torch.randn(self.classes, bank.teacher.embedding_dim, device=self.device)
        widths = {"student_dim": student.embedding_dim, "teacher_dim": bank.teacher.embedding_dim}
        method = methods.build_method(name, **widths, class_means=means, num_classes=self.classes)
        if method.module is not None:
            method.module.to(self.device)
        return method

    def ours(self, student, method, bank, images=None, forward=None, seed=0):
        """Return the milliseconds per step of one epoch of the training loop."""
        images = images or self.images
        labels = self.labels[: len(images)].to(self.device)
        history = train(
            student, images, labels, torch.zeros_like(labels), method, bank=bank, forward=forward, epochs=1, lr=LR, seed=seed,
            batch_size=self.batch_size, schedule="constant", precision=self.precision, log=lambda line: None,
        )  # fmt: skip
        return 1000 * history[0]["seconds"] / -(-len(images) // self.batch_size)


def load_images(pixels, count):
    """Return uint8 (count, 3, pixels, pixels) and their name: CIFAR-100 if the data folder has it, else random."""
    if pixels == 32 and any(
        (paths.data_folder() / name).exists() for name in ("cifar100-prepared.npz", "cifar100.npz")
    ):
        images = data.load("cifar100").train.images
        return images[np.arange(count) % len(images)], "CIFAR-100"
    return np.random.default_rng(0).integers(0, 256, (count, 3, pixels, pixels), dtype=np.uint8), "random"


def clock(work, device, count=1):
    """Return the milliseconds that `count` calls of `work()` take."""
    wait(device)
    began = time.perf_counter()
    for _ in range(count):
        work()
    wait(device)
    return 1000 * (time.perf_counter() - began) / count


def wait(device):
    if device != "cpu":
        torch.cuda.synchronize()
