"""Debiasers that train a second network against the student: critics of its disparity, adversaries that guess the group.

The package's docstring describes what a builder takes and returns. The second network is never deployed."""

import functools
import itertools

import torch
import torch.nn.functional as F
from torch import nn

from kdlib.debias.groups import balance, batch_disparity, cell_means, membership, of_cells
from kdlib.losses import one_hot, reverse_gradient


def critic(setting, lam, *, threshold=0.05, margin=0.01, hidden=256, lr=1e-3, sharpness=20.0):
    """Make the student pay for the recall disparities that a critic sees (the earlier study's critic, repaired).

    The critic learns, from a batch's logits alone, each class's recall disparity in that batch. The student pays its
    cross-entropy again, λ times, for what the critic sees above threshold − margin.

    Repairs: one target per class; classes with an empty cell in the batch are masked (an empty cell is not recall 0), and
    classes that the training split shows in one group alone are left out; tanh, since a disparity has a sign; the mean over
    the batch in place of its first sample; a softplus in place of the hinge; the distillation term stays.

    Parameters
    ----------
    threshold, margin : float
        Disparities below threshold − margin cost little.
    hidden : int
        Hidden units of the critic.
    lr : float
        Of the critic's Adam.
    sharpness : float
        Of the softplus.
    """
    classes = _two_groups(setting, "critic")["num_classes"]
    network = nn.Sequential(nn.Linear(classes, hidden), nn.ReLU(), nn.Linear(hidden, classes), nn.Tanh())
    network, optimizer = _with_optimizer(network, setting, lr)
    both_groups = (setting["cells"] > 0).all(1).nonzero().squeeze(1)
    logged = {}

    def terms(output, batch, method_terms):
        target, valid = batch_disparity(output.logits.detach(), batch, classes)
        error = (network(output.logits.detach()).mean(0) - target).square()
        error = torch.where(valid, error, 0).sum() / valid.sum().clamp(min=1)
        _descend(optimizer, error)
        logged.setdefault("critic_error", []).append(error.detach())
        excess = network(output.logits).mean(0)[both_groups].abs() - threshold + margin
        return {"critic": lam * (F.softplus(sharpness * excess) / sharpness).mean() * method_terms["ce"]}

    return dict(terms=terms, module=network, optimizer=optimizer, report=lambda: _averages(logged))


def critic_faithful(setting, lam, *, threshold=0.05, margin=0.01, hidden=256, lr=1e-3):
    """Train against the earlier study's critic as it was, with its mistakes.

    From each sample's logits, 256 hidden units and a sigmoid make one number, taught by mean squared error to be the batch's
    mean recall disparity. The student's cross-entropy is multiplied by max(1, λ · (|c₁| − threshold + margin) + 1), where c₁
    is the critic's number for the first sample.

    Mistakes that are kept: the target is the signed mean over all classes, in which disparities cancel, and an empty cell
    counts as recall 0; the sigmoid cannot be negative; one sample decides for the batch. Mistakes that are not: a
    distillation term of 0 for CKD and CTKD (the option kd = 0 has that too); a λ of the teacher that did nothing; critic and
    student passed on from one λ to the next; a factor that for RKD included the relational terms. The factor's excess over 1
    is logged as a term of its own. A fractional group counts by its share, an unknown one not at all.

    The parameters are those of `critic`."""
    classes = _two_groups(setting, "critic_faithful")["num_classes"]
    network = nn.Sequential(nn.Linear(classes, hidden), nn.ReLU(), nn.Linear(hidden, 1), nn.Sigmoid())
    network, optimizer = _with_optimizer(network, setting, lr)
    logged = {}

    def terms(output, batch, method_terms):
        hit = (output.logits.argmax(1) == batch.labels).float()
        recall, _ = cell_means(hit, batch.labels, membership(batch.group, batch.share, 2), classes)
        error = (network(output.logits.detach()) - (recall[:, 1] - recall[:, 0]).mean()).square().mean()
        _descend(optimizer, error)
        logged.setdefault("critic_error", []).append(error.detach())
        excess = network(output.logits[:1]).squeeze().abs() - threshold + margin
        return {"critic": (lam * excess).clamp(min=0) * method_terms["ce"]}

    return dict(terms=terms, module=network, optimizer=optimizer, report=lambda: _averages(logged))


def adversary(setting, lam, *, reads="logits", conditional=False, hidden=300, lr=1e-3):
    """Train against an adversary that guesses the group from the student's logits, through reversed gradients.

    The student is moved to make the adversary fail (Ganin & Lempitsky 2015; Wang et al. 2019), λ times as strongly as its own
    loss moves it. The adversary is an MLP with three hidden layers of 300. It reads the softmax of the logits (of an
    embedding: its layer norm). Against raw logits the student's cheapest answer is to let them grow without bound, and
    training diverges.

    Its cross-entropy weighs each group equally, which in expectation equals group-balanced batches and leaves the student's
    own loss as it was. `adversary_embedding` reads the embedding. `adversary_conditional` is told the class and weighs groups
    equally within it, so it sees what is left of the group once the class is known: equalized odds. The plain one asks for
    demographic parity, which conflicts with accuracy where classes differ by group.

    A share is a soft target; an unknown group counts for nothing.

    Parameters
    ----------
    reads : {"logits", "embedding"}
    conditional : bool
        Whether the adversary is told the class.
    hidden : int
        Width of its hidden layers.
    lr : float
        Of its Adam.

    References
    ----------
    Ganin, Lempitsky (2015). Unsupervised domain adaptation by backpropagation. ICML.
    Wang et al. (2019). Balanced datasets are not enough: estimating and mitigating gender bias in deep image
    representations. ICCV.
    """
    guess_loss, network, optimizer, logged = _adversary(setting, reads, conditional, hidden, lr)

    def terms(output, batch, method_terms):
        return {"adversary": guess_loss(reverse_gradient(getattr(output, reads), lam), batch)}

    def backward(loss, parameters):
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return dict(terms=terms, backward=backward, module=network, optimizer=optimizer, report=lambda: _averages(logged))


adversary_embedding = functools.partial(adversary, reads="embedding")
adversary_conditional = functools.partial(adversary, conditional=True)
adversary_embedding_conditional = functools.partial(adversary, reads="embedding", conditional=True)


def projection(setting, lam, *, hidden=300, lr=1e-3):
    """Train against an adversary with projected gradients (Zhang et al. 2018, eq. 1).

    The student's gradient g becomes g − proj_a g − λ · a, where a is the gradient of the adversary's loss, so that no step of
    the student helps the adversary. The adversary reads the student's probabilities and the class, as in the paper's
    equality of odds, with groups weighed equally within a class. As in the authors' code, each tensor of parameters is
    projected by itself; the inner product is the sum of products of all entries. λ is the paper's α (1 there). As λ → 0 the
    projection remains; at λ = 0 there is no debiaser.

    Parameters
    ----------
    hidden : int
        Width of the adversary's hidden layers.
    lr : float
        Of its Adam.

    References
    ----------
    Zhang, Lemoine, Mitchell (2018). Mitigating unwanted biases with adversarial learning. AIES.
    """
    guess_loss, network, optimizer, logged = _adversary(setting, "logits", True, hidden, lr)
    current = {}

    def terms(output, batch, method_terms):
        current["loss"] = guess_loss(output.logits, batch)
        logged.setdefault("adversary", []).append(current["loss"].detach())
        return {}

    def backward(loss, parameters):
        adversary_parameters = list(network.parameters())
        gradients = torch.autograd.grad(
            current.pop("loss"), [*parameters, *adversary_parameters], retain_graph=True, allow_unused=True
        )
        loss.backward()
        for parameter, against in zip(parameters, gradients, strict=False):
            if against is not None and parameter.grad is not None:
                parameter.grad = project(parameter.grad, against, lam)
        for parameter, gradient in zip(adversary_parameters, gradients[len(parameters) :], strict=True):
            parameter.grad = gradient
        optimizer.step()

    return dict(terms=terms, backward=backward, module=network, optimizer=optimizer, report=lambda: _averages(logged))


def project(gradient, against, strength):
    """Return gradient − ⟨gradient, a⟩ / ⟨a, a⟩ · a − strength · a, where a is `against` and ⟨·,·⟩ sums products of all entries.

    Examples
    --------
    >>> project(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0]), 0.5).tolist()
    [1.0, -0.5]
    """
    square = against.square().sum().clamp(min=torch.finfo(against.dtype).tiny)
    return gradient - ((gradient * against).sum() / square + strength) * against


def _adversary(setting, reads, conditional, hidden, lr):
    """Return the adversary's loss as a function of (values (N, d), batch), its network, its optimizer, and what it logged."""
    classes, groups = setting["num_classes"], setting["num_groups"]
    width = (classes if reads == "logits" else setting["embedding_dim"]) + classes * conditional
    sizes = (width, hidden, hidden, hidden)
    layers = [layer for pair in itertools.pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    network, optimizer = _with_optimizer(nn.Sequential(*layers, nn.Linear(hidden, groups)), setting, lr)
    cells, logged = setting["cells"], {}
    # groups are balanced within each class, or over all classes
    table = balance(cells if conditional else cells.sum(0, keepdim=True).expand_as(cells))

    def guess_loss(values, batch):
        values = values.softmax(1) if reads == "logits" else F.layer_norm(values, values.shape[1:])
        if conditional:
            values = torch.cat([values, one_hot(batch.labels, classes).to(values.dtype)], dim=1)
        member = membership(batch.group, batch.share, groups)
        weights = of_cells(table, batch.labels, member, unknown=0.0)
        scores = network(values)
        total = weights.sum().clamp(min=1)
        right = (scores.detach().argmax(1) == member.argmax(1)).float()
        logged.setdefault("adversary_accuracy", []).append((weights * right).sum() / total)
        return (weights * F.cross_entropy(scores, member, reduction="none")).sum() / total

    return guess_loss, network, optimizer, logged


def _two_groups(setting, name):
    """Return the setting. Raises ValueError unless it has two groups."""
    groups = setting["num_groups"]
    if groups != 2:
        raise ValueError(f"debiaser {name!r} regresses a difference, so it needs two groups; got {groups}")
    return setting


def _with_optimizer(network, setting, lr):
    network = network.to(setting["device"])
    return network, torch.optim.Adam(network.parameters(), lr=lr)


def _descend(optimizer, loss):
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def _averages(logged):
    """Return the means of what was logged since the last call, and forget it."""
    means = {name: torch.stack(values).mean().item() for name, values in logged.items()}
    logged.clear()
    return means
