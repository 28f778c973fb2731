"""Debiasers that need no group labels in training: they find the samples that a first model gets wrong.

The package's docstring describes what a builder takes and returns."""

import torch
import torch.nn.functional as F
from torch import nn

from kdlib.data.augment import draw_order
from kdlib.debias.balancing import draw, half_of_validation
from kdlib.debias.heads import as_linear, linear_layer, minimise


class Errors(nn.Module):
    """Which samples of the training split a network got wrong, bool (N,); kept in checkpoints."""

    def __init__(self, count):
        super().__init__()
        self.register_buffer("wrong", torch.zeros(count, dtype=torch.bool))


def jtt(setting, lam, *, first_part=0.5):
    """Draw the errors of a first stage of training 1 + λ times as often (Just Train Twice, Liu et al. 2021).

    The paper trains T epochs without a debiaser, then trains anew with the errors of that model weighted by λ_up = 1 + λ. It
    chooses T and λ_up by the worst group's validation accuracy; for Waterbirds T was 60 of 300 epochs and λ_up 100.

    What differs here: T is half of the epochs, at least 1. (It was chosen on one seed of `digits_s`: after a fifth of 15
    epochs a small network still got 62 % of the training images wrong, after half 15 %.) The errors are those met while
    training epoch T, on augmented images, by the network as it then is. Training goes on from there, where the paper starts
    anew: a run costs no more than any other, but its first half is without debiasing. From then on an epoch has as many
    samples as before, drawn with replacement, where the authors' code repeats the errors. A distilled student's first stage
    is distillation. Groups are never read. A run of one epoch ends before its second stage.

    Parameters
    ----------
    first_part : float
        Length of the first stage, as a part of all epochs.

    References
    ----------
    Liu et al. (2021). Just Train Twice: improving group robustness without training group information. ICML.
    """
    count, device = len(setting["labels"]), setting["device"]
    first_stage = max(1, round((setting["epochs"] or 1) * first_part))
    errors = Errors(count).to(device)
    current = {"recorded": False}

    def order(seed, epoch):
        if epoch <= first_stage:
            indices = draw_order(count, seed=seed, epoch=epoch)
        else:
            indices = draw(1 + lam * errors.wrong.double(), seed=seed, epoch=epoch)
        current.update(indices=indices.to(device), position=0, recorded=epoch == first_stage)
        return indices

    def terms(output, batch, method_terms):
        if current["recorded"]:
            start, current["position"] = current["position"], current["position"] + len(batch.labels)
            errors.wrong[current["indices"][start : current["position"]]] = output.logits.argmax(1) != batch.labels
        return {}

    return dict(order=order, terms=terms, module=errors, report=lambda: {"errors": errors.wrong.float().mean().item()})


def afr(setting, lam, *, penalty=0.2):
    """Refit the last layer on held-out images, weighted by exp(−λ · p_y) (automatic feature reweighting, Qiu et al. 2023).

    p_y is the trained network's probability of the label. As in the authors' code, the weight is also divided by the size of
    the class, and the new layer W is kept near the old one, W₀: it minimises Σ w · CE / Σ w + penalty · ‖W − W₀‖². λ is their
    γ (14 for Waterbirds, 1.8 for CelebA).

    What differs here: the held-out images are half of the validation split, cut by class, in place of a fifth of the training
    split (compare `dfr`, which also takes half, but reads groups); the minimum is found by L-BFGS, where the authors take
    500 steps. The other half remains as validation. Groups are never read.

    Parameters
    ----------
    penalty : float
        Strength of the pull to the old layer (.2 for Waterbirds).

    References
    ----------
    Qiu, Potapczynski, Izmailov, Wilson (2023). Simple and fast group robustness by automatic feature reweighting. ICML.
    """

    def finish(head, embedding, labels, group, share):
        rows = half_of_validation(labels, torch.zeros_like(labels))
        values, targets = embedding[rows].detach().double(), labels[rows]
        layer = as_linear(head, embedding.shape[1], "afr").double().requires_grad_(False)
        certainty = layer(values).softmax(1).gather(1, targets[:, None]).squeeze(1)
        weights = torch.exp(-lam * certainty) / targets.bincount()[targets]
        weights = weights / weights.sum()
        slope, offset = (start.clone().requires_grad_() for start in (layer.weight, layer.bias))

        def loss():
            error = F.cross_entropy(F.linear(values, slope, offset), targets, reduction="none")
            moved = (slope - layer.weight).square().sum() + (offset - layer.bias).square().sum()
            return (weights * error).sum() + penalty * moved

        minimise(loss, [slope, offset])
        return linear_layer(slope.detach(), offset.detach()), rows

    return dict(finish=finish)
