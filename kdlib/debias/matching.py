"""Debiasers that match statistics or features: mean probabilities of the groups, embeddings of student and teacher.

The package's docstring describes what a builder takes and returns."""

import torch
import torch.nn.functional as F
from torch import nn

from kdlib.debias.groups import balance, cell_counts, cell_means, membership, of_cells
from kdlib.debias.heads import TransplantedHead, as_linear
from kdlib.losses import group_mmd_loss


class RunningMeans(nn.Module):
    """Exponential means of each cell, (K, G), and which cells were ever seen."""

    def __init__(self, num_classes, num_groups, momentum=0.9):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(num_classes, num_groups))
        self.register_buffer("seen", torch.zeros(num_classes, num_groups, dtype=torch.bool))

    @torch.no_grad()
    def update(self, batch_mean, in_batch):
        """Take in the means of a batch, (K, G), for the cells that it has, bool (K, G)."""
        moved = torch.where(self.seen, self.mean + (1 - self.momentum) * (batch_mean - self.mean), batch_mean)
        self.mean.copy_(torch.where(in_batch, moved, self.mean))
        self.seen |= in_batch


def gap_penalty(setting, lam):
    """Penalise λ · Σ_k (E[p_k | k, 1] − E[p_k | k, 0])², where p_k is the student's probability of class k.

    This is the quantity that the critic has to learn, written as a formula. More than two groups are summed over pairs.

    A batch rarely holds every cell, and its means are noisy; squares would count that noise as gaps. The gap is therefore
    that of running means (momentum .9, this batch included). The gradient of each cell's mean is the batch's, divided by the
    chance that a batch has the cell. In expectation this is the gradient over the whole split (approximately so with
    shares): a rare cell is raised as much as a common one is lowered. A class with a cell that was never seen is left out
    until it is seen. Shares are weights; unknown groups are left out."""
    classes, groups = setting["num_classes"], setting["num_groups"]
    running = RunningMeans(classes, groups).to(setting["device"])
    first, second = torch.triu_indices(groups, groups, offset=1)
    fills_cell = membership(setting["group"], setting["share"], groups) > 0  # a share, however small, fills a cell
    frequency = cell_counts(setting["labels"], fills_cell.float(), classes) / len(fills_cell)
    frequency = frequency.to(setting["device"])

    def terms(output, batch, method_terms):
        probability = F.softmax(output.logits, dim=1).gather(1, batch.labels[:, None]).squeeze(1)
        member = membership(batch.group, batch.share, groups)
        mean, count = cell_means(probability, batch.labels, member, classes)
        running.update(mean.detach(), count > 0)
        chance = (1 - (1 - frequency) ** len(batch.labels)).clamp(min=1e-3)
        value = running.mean + (mean - mean.detach()) / chance
        known = running.seen[:, first] & running.seen[:, second]
        gap = torch.where(known, value[:, first] - value[:, second], 0)
        return {"gap": lam * gap.square().sum()}

    return dict(terms=terms, module=running)


def mfd(setting, lam, teacher):
    """Add MMD-based fair distillation (Jung et al. 2021), λ times `losses.group_mmd_loss`.

    It draws the student's embeddings of a class in each group to the teacher's embeddings of that class in all groups. The
    paper uses λ = 3 or 7 beside the cross-entropy alone (here: kd = 0); any method may take its place.

    Where the embeddings differ in width (in the paper the two networks share an architecture), a linear map trained with the
    student brings its embedding to the teacher's width. Shares are weights; unknown groups are left out.

    References
    ----------
    Jung, Lee, Park, Moon (2021). Fair feature distillation for visual recognition. CVPR.
    """
    widths = setting["embedding_dim"], teacher.embedding_dim
    widen = nn.Identity() if widths[0] == widths[1] else nn.Linear(*widths).to(setting["device"])

    def terms(output, batch, method_terms):
        student, target = widen(output.embedding), batch.teacher.embedding
        member = membership(batch.group, batch.share, setting["num_groups"])
        return {"mmd": lam * group_mmd_loss(student, target, batch.labels, member, setting["num_classes"])}

    return dict(terms=terms, module=widen, needs_embedding=True)


def dett(setting, lam, teacher, *, largest=20.0):
    """Transplant the teacher's last layer, and match reweighted features (DeTT, Lee & Lee 2023).

    The student keeps the teacher's last layer, frozen, and λ · mean(w · ‖s − t‖² / d) is added to the method's terms: s is the
    student's embedding (through a linear map where its width differs from the teacher's d), t the teacher's, w the weight
    of `reweight`. After training the two linear maps are merged into one layer, so the student is deployed as it was built.

    The abstract was checked, the paper's text could not be. It transplants the last layer of a *debiased* teacher (here: a
    run's `teacher_debias`; with a plain teacher its biased layer is transplanted), matches the features of reweighted
    samples, and needs few annotations of the bias. Our reading: the squared error of the pooled embedding, weights from the
    known groups in place of estimated ones, and the method's own loss beside it, where the paper trains on features alone.
    A large λ comes close to that.

    Parameters
    ----------
    largest : float
        Upper limit of a weight.

    Raises
    ------
    ValueError
        Where the teacher's last layer is not at hand, or is not linear.

    References
    ----------
    Lee, Lee (2023). Debiased distillation by transplanting the last layer. arXiv:2302.11187.
    """
    if teacher.head is None:
        raise ValueError("debiaser 'dett' needs the teacher's last layer; this teacher is known by its outputs alone")
    width, device = setting["embedding_dim"], setting["device"]
    head = TransplantedHead(width, as_linear(teacher.head, teacher.embedding_dim, "dett")).to(device)
    table = balance(setting["cells"], largest)

    def terms(output, batch, method_terms):
        member = membership(batch.group, batch.share, setting["num_groups"])
        error = head.adapt(output.embedding) - batch.teacher.embedding
        return {"features": lam * (of_cells(table, batch.labels, member) * error.square().mean(1)).mean()}

    def finish(trained_head, embedding, labels, group, share):
        return as_linear(trained_head, width, "dett"), torch.zeros(len(labels), dtype=torch.bool, device=labels.device)

    return dict(head=head, terms=terms, finish=finish, needs_embedding=True)
