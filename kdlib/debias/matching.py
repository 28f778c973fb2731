"""Debiasers that ask groups to agree: of a class's mean probability, of its embeddings.

Builders as `debias.py` says."""

import torch
import torch.nn.functional as F
from torch import nn

from kdlib.debias.groups import cell_counts, cell_means, membership
from kdlib.losses import group_mmd_loss


class RunningMeans(nn.Module):
    """Exponential means (K, G) of each cell, and which cells were ever seen."""

    def __init__(self, num_classes, num_groups, momentum=0.9):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(num_classes, num_groups))
        self.register_buffer("seen", torch.zeros(num_classes, num_groups, dtype=torch.bool))

    @torch.no_grad()
    def update(self, batch_mean, there):
        moved = torch.where(self.seen, self.mean + (1 - self.momentum) * (batch_mean - self.mean), batch_mean)
        self.mean.copy_(torch.where(there, moved, self.mean))
        self.seen |= there


def gap_penalty(facts, lam):
    """λ · Σ_k (E[p_k | k, 1] − E[p_k | k, 0])², p_k being the student's probability of class k: what the critic is to learn,
    as a formula. Over more groups, summed over pairs.

    A batch rarely holds every cell, and its means are noisy, which squares would count as gaps. So the gap is that of
    running means (momentum .9, this batch included), and the gradient of each cell's mean is the batch's, where it has the
    cell, divided by the chance that a batch has it: in expectation the gradient over the whole split (with shares, about
    that), in which the rare cell is raised as much as the common one is lowered. A class with a cell that was never seen
    waits. Shares weigh, unknown groups are left out."""
    classes, groups = facts["num_classes"], facts["num_groups"]
    running = RunningMeans(classes, groups).to(facts["device"])
    first, second = torch.triu_indices(groups, groups, offset=1)
    held = membership(facts["group"], facts["share"], groups) > 0  # a share, however small, fills a cell
    part = (cell_counts(facts["labels"], held.float(), classes) / len(held)).to(facts["device"])

    def terms(output, batch, method_terms):
        probability = F.softmax(output.logits, dim=1).gather(1, batch.labels[:, None]).squeeze(1)
        member = membership(batch.group, batch.share, groups)
        mean, count = cell_means(probability, batch.labels, member, classes)
        running.update(mean.detach(), count > 0)
        chance = (1 - (1 - part) ** len(batch.labels)).clamp(min=1e-3)
        value = running.mean + (mean - mean.detach()) / chance
        known = running.seen[:, first] & running.seen[:, second]
        gap = torch.where(known, value[:, first] - value[:, second], 0)
        return {"gap": lam * gap.square().sum()}

    return dict(terms=terms, module=running)


def mfd(facts, lam, teacher):
    """MMD-based fair distillation (Jung et al., CVPR 2021): λ · `losses.group_mmd_loss`, which draws the student's embeddings
    of a class in each group to the teacher's of that class, whatever their group. There λ_f is 3 or 7, next to the
    cross-entropy alone (here: kd = 0); any method may take its place.

    Where the networks' widths differ (there they are one architecture), a linear map, trained with the student, brings its
    embedding to the teacher's width. Shares weigh, unknown groups are left out."""
    widths = facts["embedding_dim"], teacher.embedding_dim
    widen = nn.Identity() if widths[0] == widths[1] else nn.Linear(*widths).to(facts["device"])

    def terms(output, batch, method_terms):
        member = membership(batch.group, batch.share, facts["num_groups"])
        target = batch.teacher.embedding
        return {
            "mmd": lam * group_mmd_loss(widen(output.embedding), target, batch.labels, member, facts["num_classes"])
        }

    return dict(terms=terms, module=widen, needs_embedding=True)
