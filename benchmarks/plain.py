"""The reference training loop of the published codes, to measure ours against.

Images are cropped, flipped and normalised one by one with PIL in two worker processes. Everything is float32, NCHW and eager.
The teacher runs at every step, KD++'s term is a loop over samples, and loss and accuracy are read after each step."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision import transforms

from kdlib.methods import CurriculumTemperature, curriculum_weight

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


class TransformedImages(torch.utils.data.Dataset):
    """(image, label, index) of uint8 (N, C, H, W) images, each transformed on its own."""

    def __init__(self, images, labels, padding):
        self.images, self.labels = np.ascontiguousarray(images.transpose(0, 2, 3, 1)), labels.tolist()
        crop = [transforms.RandomCrop(images.shape[2], padding=padding)] if padding else []
        to_tensor = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        self.transform = transforms.Compose([*crop, transforms.RandomHorizontalFlip(), *to_tensor])

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.images[index])), self.labels[index], index


def endless(images, labels, *, padding, batch_size, workers=2):
    """Return an iterator over endless batches, so that no worker process starts while time is taken."""
    dataset = TransformedImages(images, labels, padding)
    sampler = torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=10**8)
    loader = torch.utils.data.DataLoader(dataset, batch_size, sampler=sampler, num_workers=workers, pin_memory=False)
    return iter(loader)


class PlainLoop:
    """`step()` trains on one batch. `mark(name)` is called after each part: data, teacher, student, optimiser, reading."""

    def __init__(self, student, teacher, method, batches, *, num_classes, lr, device, mark=lambda name: None):
        self.student, self.teacher = student.to(device).train(), teacher.to(device).eval()
        self.method, self.batches, self.device, self.mark = method, batches, device, mark
        self.temperature = CurriculumTemperature().to(device)
        generator = torch.Generator().manual_seed(0)
        means = torch.randn(num_classes, teacher.embedding_dim, generator=generator)
        self.means = {str(label): row.tolist() for label, row in enumerate(means)}
        self.project = torch.nn.Identity()
        if student.embedding_dim != teacher.embedding_dim:
            widths = student.embedding_dim, teacher.embedding_dim
            layers = torch.nn.BatchNorm1d(widths[0]), torch.nn.Dropout(0.5), torch.nn.Linear(*widths)
            self.project = torch.nn.Sequential(*layers).to(device)
        trained = [*student.parameters(), *self.temperature.parameters(), *self.project.parameters()]
        self.optimizer = torch.optim.SGD(trained, lr=lr, momentum=0.9, weight_decay=5e-4)
        self.read = {}

    def step(self):
        images, labels, _ = next(self.batches)
        images, labels = (part.to(self.device, non_blocking=True) for part in (images, labels))
        self.mark("data")
        with torch.no_grad():
            teacher = self.teacher(images)
        self.mark("teacher")
        self.optimizer.zero_grad()
        student = self.student(images)
        loss = self._loss(student, teacher, labels)
        loss.backward()
        self.mark("student")
        self.optimizer.step()
        self.mark("optimiser")
        top = student.logits.topk(5, 1).indices.eq(labels[:, None])
        self.read = {
            "loss": loss.item(),
            "top1": top[:, 0].float().mean().item(),
            "top5": top.float().sum(1).mean().item(),
        }
        self.mark("reading")

    def _loss(self, student, teacher, labels):
        entropy = F.cross_entropy(student.logits, labels)
        if self.method == "rkd":
            return entropy + rkd(student.embedding, teacher.embedding)
        if self.method == "ctkd":
            temperature = self.temperature(curriculum_weight(5))
            return 0.1 * entropy + 0.9 * soften(student.logits, teacher.logits, temperature)
        divergence = soften(student.logits, teacher.logits, 4.0)
        if self.method == "kdpp":
            return (
                entropy + divergence + 2 * self._direction(self.project(student.embedding), teacher.embedding, labels)
            )
        return 0.1 * entropy + 0.9 * divergence

    def _direction(self, student, teacher, labels):
        loss = 0.0
        for student_row, teacher_row, label in zip(student, teacher, labels, strict=True):
            centre = torch.tensor(self.means[str(label.item())]).to(self.device)
            unit = centre / centre.norm(p=2)
            loss += 1 - torch.dot(student_row, unit) / max(student_row.norm(p=2), teacher_row.norm(p=2))
        return loss / len(labels)


def soften(student, teacher, temperature):
    """T² · KL between softened probabilities."""
    log_student = F.log_softmax(student / temperature, dim=1)
    divergence = F.kl_div(log_student, F.softmax(teacher / temperature, dim=1), reduction="none").sum(1).mean()
    return divergence * temperature**2


def rkd(student, teacher):
    """25 · distance + 50 · angle, as the benchmarks compute them."""

    def distances(embedding):
        squares = embedding.square().sum(1)
        matrix = (squares[:, None] + squares[None] - 2 * embedding @ embedding.t()).clamp(min=1e-12).sqrt()
        matrix = matrix * (1 - torch.eye(len(matrix), device=matrix.device))
        return matrix / matrix[matrix > 0].mean()

    def angles(embedding):
        unit = F.normalize(embedding[None] - embedding[:, None], dim=2)
        return torch.bmm(unit, unit.transpose(1, 2)).flatten()

    with torch.no_grad():
        target = distances(teacher), angles(teacher)
    return 25 * F.smooth_l1_loss(distances(student), target[0]) + 50 * F.smooth_l1_loss(angles(student), target[1])
