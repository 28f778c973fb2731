"""Debiasers that train a second network against the student: critics of its disparity, adversaries that guess the group.

Builders as `debias.py` says; the second network is never part of what is deployed."""

import functools
import itertools

import torch
import torch.nn.functional as F
from torch import nn

from kdlib.debias.groups import balance, batch_disparity, cell_means, membership, of_cells
from kdlib.losses import one_hot, reverse_gradient


def critic(facts, lam, *, threshold=0.05, margin=0.01, hidden=256, lr=1e-3, sharpness=20.0):
    """The earlier study's critic, repaired. It learns, from a batch's logits alone, each class's recall disparity in that
    batch; the student pays its cross-entropy again, λ times, for what the critic sees above threshold − margin.

    Repairs: one target per class, with the classes whose cells are empty masked (an empty cell is not recall 0), and classes
    that training shows in one group alone left out; tanh, since a disparity has a sign; the mean over the batch instead
    of its first sample; a softplus in place of the hinge; and the distillation term stays."""
    classes = _two_groups(facts, "critic")["num_classes"]
    network = nn.Sequential(nn.Linear(classes, hidden), nn.ReLU(), nn.Linear(hidden, classes), nn.Tanh())
    network, optimizer, seen = *_with_optimizer(network, facts, lr), {}
    both = (facts["cells"] > 0).all(1).nonzero().squeeze(1)

    def terms(output, batch, method_terms):
        target, valid = batch_disparity(output.logits.detach(), batch, classes)
        error = (network(output.logits.detach()).mean(0) - target).square()
        error = torch.where(valid, error, 0).sum() / valid.sum().clamp(min=1)
        _descend(optimizer, error)
        seen.setdefault("critic_error", []).append(error.detach())
        excess = network(output.logits).mean(0)[both].abs() - threshold + margin
        return {"critic": lam * (F.softplus(sharpness * excess) / sharpness).mean() * method_terms["ce"]}

    return dict(terms=terms, module=network, optimizer=optimizer, report=lambda: _averages(seen))


def critic_faithful(facts, lam, *, threshold=0.05, margin=0.01, hidden=256, lr=1e-3):
    """The earlier study's critic as it was: from each sample's logits, 256 hidden units and a sigmoid make one number, taught
    by mean squared error to be the batch's mean recall disparity; the student's cross-entropy is multiplied by
    max(1, λ·(|c₁| − threshold + margin) + 1), c₁ being the critic's number for the first sample alone.

    Its mistakes are kept: the target is the signed mean over all classes, in which disparities cancel, and an empty cell
    counts as recall 0; the sigmoid cannot be negative; one sample decides for the batch. What is not kept: the distillation
    term, which was 0 there for CKD and CTKD by mistake (settings kd = 0 has that too); the λ of the teacher, which did
    nothing; one λ's critic and student passed on to the next; for RKD the factor took in the relational terms. The
    factor's excess over 1 is logged as a term of its own. A tie or an unknown group counts by its share or not at all."""
    classes = _two_groups(facts, "critic_faithful")["num_classes"]
    network = nn.Sequential(nn.Linear(classes, hidden), nn.ReLU(), nn.Linear(hidden, 1), nn.Sigmoid())
    network, optimizer, seen = *_with_optimizer(network, facts, lr), {}

    def terms(output, batch, method_terms):
        hit = (output.logits.argmax(1) == batch.labels).float()
        recall, _ = cell_means(hit, batch.labels, membership(batch.group, batch.share, 2), classes)
        error = (network(output.logits.detach()) - (recall[:, 1] - recall[:, 0]).mean()).square().mean()
        _descend(optimizer, error)
        seen.setdefault("critic_error", []).append(error.detach())
        excess = network(output.logits[:1]).squeeze().abs() - threshold + margin
        return {"critic": (lam * excess).clamp(min=0) * method_terms["ce"]}

    return dict(terms=terms, module=network, optimizer=optimizer, report=lambda: _averages(seen))


def adversary(facts, lam, *, reads="logits", conditional=False, hidden=300, lr=1e-3):
    """An adversary guesses the group from the student's logits; the student, through reversed gradients (Ganin & Lempitsky
    2015; Wang et al. 2019), is moved to make it fail, λ times as strongly as its own loss moves it. The adversary is an MLP of
    three layers of 300. It reads the logits' softmax (of an embedding: layer norm), since against raw logits the student's
    cheapest answer is to let them grow without bound, and training diverges.

    Its cross-entropy weighs each group alike, which is in expectation what group-balanced batches are, and leaves the
    student's own loss as it was. `adversary_embedding` reads the embedding. `adversary_conditional` is told the class and
    weighs groups alike within it, so it sees what is left of the group once the class is known: equalized odds, where the
    plain one asks for demographic parity, which a skew of the classes by group makes the opposite of accuracy.

    A share is a soft target; an unknown group counts for nothing."""
    guess, network, optimizer, seen = _adversary(facts, reads, conditional, hidden, lr)

    def terms(output, batch, method_terms):
        return {"adversary": guess(reverse_gradient(getattr(output, reads), lam), batch)}

    def backward(loss, parameters):
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return dict(terms=terms, backward=backward, module=network, optimizer=optimizer, report=lambda: _averages(seen))


adversary_embedding = functools.partial(adversary, reads="embedding")
adversary_conditional = functools.partial(adversary, conditional=True)
adversary_embedding_conditional = functools.partial(adversary, reads="embedding", conditional=True)


def projection(facts, lam, *, hidden=300, lr=1e-3):
    """Adversarial training with projection (Zhang et al. 2018, eq. 1): the student's gradient g becomes g − proj_a g − λ·a, a
    being the gradient of the adversary's loss, so that no step of the student helps the adversary.

    The adversary reads the student's probabilities and the class, as theirs for equality of odds does, with groups weighed
    alike within a class. As in the authors' code each tensor of parameters is projected by itself, with the sum of
    products of all entries as inner product. λ is their α (1 there). As λ → 0 the projection remains; at λ = 0 there is
    no debiaser."""
    guess, network, optimizer, seen = _adversary(facts, "logits", True, hidden, lr)
    state = {}

    def terms(output, batch, method_terms):
        state["loss"] = guess(output.logits, batch)
        seen.setdefault("adversary", []).append(state["loss"].detach())
        return {}

    def backward(loss, parameters):
        own = list(network.parameters())
        against = torch.autograd.grad(state.pop("loss"), [*parameters, *own], retain_graph=True, allow_unused=True)
        loss.backward()
        for parameter, gradient in zip(parameters, against, strict=False):
            if gradient is not None and parameter.grad is not None:
                parameter.grad = project(parameter.grad, gradient, lam)
        for parameter, gradient in zip(own, against[len(parameters) :], strict=True):
            parameter.grad = gradient
        optimizer.step()

    return dict(terms=terms, backward=backward, module=network, optimizer=optimizer, report=lambda: _averages(seen))


def project(gradient, against, strength):
    """gradient − ⟨gradient, a⟩/⟨a, a⟩·a − strength·a, with a = `against` and ⟨·,·⟩ the sum of products of all entries; tensors
    of one shape."""
    square = against.square().sum().clamp(min=torch.finfo(against.dtype).tiny)
    return gradient - ((gradient * against).sum() / square + strength) * against


def _adversary(facts, reads, conditional, hidden, lr):
    """(guess, network, its optimizer, what it has seen since the last report); guess(values (N, d), batch) is its loss."""
    classes, groups = facts["num_classes"], facts["num_groups"]
    width = (classes if reads == "logits" else facts["embedding_dim"]) + classes * conditional
    sizes = (width, hidden, hidden, hidden)
    layers = [layer for pair in itertools.pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    network, optimizer = _with_optimizer(nn.Sequential(*layers, nn.Linear(hidden, groups)), facts, lr)
    cells, seen = facts["cells"], {}
    # alike within a class, or over all classes: the weights of balanced groups
    table = balance(cells if conditional else cells.sum(0, keepdim=True).expand_as(cells))

    def guess(values, batch):
        values = values.softmax(1) if reads == "logits" else F.layer_norm(values, values.shape[1:])
        if conditional:
            values = torch.cat([values, one_hot(batch.labels, classes).to(values.dtype)], dim=1)
        member = membership(batch.group, batch.share, groups)
        weights = of_cells(table, batch.labels, member, unknown=0.0)
        scores = network(values)
        total = weights.sum().clamp(min=1)
        right = (scores.detach().argmax(1) == member.argmax(1)).float()
        seen.setdefault("adversary_accuracy", []).append((weights * right).sum() / total)
        return (weights * F.cross_entropy(scores, member, reduction="none")).sum() / total

    return guess, network, optimizer, seen


def _two_groups(facts, name):
    if facts["num_groups"] != 2:
        raise ValueError(f"debiaser {name!r} regresses a difference, so it needs two groups; got {facts['num_groups']}")
    return facts


def _with_optimizer(network, facts, lr):
    network = network.to(facts["device"])
    return network, torch.optim.Adam(network.parameters(), lr=lr)


def _descend(optimizer, loss):
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def _averages(seen):
    """Means since the last call."""
    means = {name: torch.stack(values).mean().item() for name, values in seen.items()}
    seen.clear()
    return means
