"""Last layers that debiasers put in the place of a network's own, and how they are fitted."""

import torch
import torch.nn.functional as F
from torch import nn

from kdlib.debias.groups import membership


class GroupHeads(nn.Module):
    """One linear classifier per group on a shared embedding.

    `forward` returns the mean of the heads' logits, (N, K), which needs no group at inference; `of_group` returns each
    sample's logits from the head of its own group."""

    def __init__(self, embedding_dim, num_classes, num_groups):
        super().__init__()
        self.num_groups = num_groups
        self.heads = nn.Linear(embedding_dim, num_groups * num_classes)

    def forward(self, embedding):
        return self._logits(embedding).mean(1)

    def of_group(self, embedding, group, share=None):
        """Return the logits of each sample's group, (N, K).

        Where a sample has a share, the heads are weighted by 1 − share and share; where its group is unknown, they are
        averaged."""
        logits = self._logits(embedding)
        if share is not None:
            member = membership(group, share, self.num_groups).to(logits.dtype)
            mixed = (logits * member[:, :, None]).sum(1)
            return torch.where(member.sum(1, keepdim=True) > 0, mixed, logits.mean(1))
        group_logits = logits[torch.arange(len(logits), device=logits.device), group.clamp(min=0)]
        return torch.where((group >= 0)[:, None], group_logits, logits.mean(1))

    def _logits(self, embedding):
        return self.heads(embedding).view(len(embedding), self.num_groups, -1)


class TransplantedHead(nn.Module):
    """A teacher's last layer, frozen, on a student's embedding that a trained linear map brings to the teacher's width."""

    def __init__(self, embedding_dim, last_layer):
        super().__init__()
        same_width = embedding_dim == last_layer.in_features
        self.adapt = nn.Identity() if same_width else nn.Linear(embedding_dim, last_layer.in_features)
        self.last_layer = last_layer.requires_grad_(False)

    def forward(self, embedding):
        return self.last_layer(self.adapt(embedding))


def fitted_head(embedding, labels, weights, num_classes, strength) -> nn.Linear:
    """Return the logistic regression of labels on embeddings, as a linear layer.

    It minimises Σ w·CE / Σ w + ‖W‖² / (2 · strength · N) by L-BFGS in float64; W are the slopes on standardised embeddings.

    Parameters
    ----------
    embedding : float (N, d)
    labels : int64 (N,)
    weights : float (N,)
    num_classes : int
    strength : float
        Inverse of the penalty.
    """
    values, weights = embedding.detach().double(), weights.double() / weights.sum()
    mean, spread = values.mean(0), values.std(0).clamp(min=1e-6)
    standard = (values - mean) / spread
    slope = standard.new_zeros(num_classes, standard.shape[1], requires_grad=True)
    offset = standard.new_zeros(num_classes, requires_grad=True)

    def loss():
        error = F.cross_entropy(F.linear(standard, slope, offset), labels, reduction="none")
        return (weights * error).sum() + slope.square().sum() / (2 * strength * len(labels))

    minimise(loss, [slope, offset])
    slope, offset = slope.detach(), offset.detach()
    return linear_layer(slope / spread, offset - (slope / spread) @ mean)


def minimise(loss, parameters):
    """Move `parameters` to the minimum of `loss()`, in place, by L-BFGS."""
    optimizer = torch.optim.LBFGS(parameters, max_iter=500, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def value():
        optimizer.zero_grad()
        total = loss()
        total.backward()
        return total

    optimizer.step(value)


def linear_layer(weight, bias) -> nn.Linear:
    """Return a float32 linear layer with this weight (K, d) and bias (K,)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer


@torch.no_grad()
def as_linear(head, width, debiaser) -> nn.Linear:
    """Return the one linear layer that computes the same as `head`, a module from embeddings (N, width) to logits.

    Raises
    ------
    ValueError
        Where `head` is not linear; the message names the debiaser that needs it to be.
    """
    parameter = next(head.parameters())
    unit = torch.eye(width, dtype=parameter.dtype, device=parameter.device)
    bias = head(unit.new_zeros(1, width))[0]
    layer = linear_layer((head(unit) - bias).T, bias)
    probe = 3 * unit.roll(1, 0) - 2 * unit
    if not torch.allclose(layer(probe), head(probe), rtol=1e-3, atol=1e-3):
        raise ValueError(f"debiaser {debiaser!r} needs a last layer that is linear; got {type(head).__name__}")
    return layer
