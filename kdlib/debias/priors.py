"""Debiasers that correct logits for what the training split's groups say about its classes: the student's, or the teacher's.

The package's docstring describes what a builder takes and returns."""

import torch

from kdlib.debias.balancing import resample
from kdlib.debias.groups import cell_means, membership
from kdlib.losses import at_least_float32, one_hot
from kdlib.models import Output


def log_prior(cells) -> torch.Tensor:
    """Return log P(g | k), (K, G), from the counts of cells (K, G).

    It is estimated as (N_kg + ½) / (N_k + G/2), so that an empty cell is rare, not impossible."""
    return ((cells + 0.5) / (cells.sum(1, keepdim=True) + cells.shape[1] / 2)).log()


def of_groups(table, batch) -> torch.Tensor:
    """Return the row of table (G, K) of each sample's group, (N, K): 0 where it is unknown, a mean where it has shares.

    In full precision even under autocast: what is added to the student's logits is what is added to the teacher's."""
    with torch.autocast(table.device.type, enabled=False):
        return membership(batch.group, batch.share, len(table)) @ table


def logit_adjustment(setting, lam):
    """Give the cross-entropy z_k + λ · log P(g | k) in place of the student's logits z.

    This is Bias-Balanced learning (Hong & Yang 2021), with the group as the bias. Menon et al. (2021) adjust for the prior of
    the classes, P(k), in the same way. A network fits p(k | x) ∝ p(x | k, g) · P(k) · P(g | k). At λ = 1 the last factor is
    given to it, so z learns what remains, in which the group says nothing about the class; afterwards z alone decides.

    Distillation is left as it is: the teacher's logits are moved by the same amount, so the student is still drawn to the
    teacher's own. `balanced_teacher` differs in this alone. With shares the shift is the mean of log P(g | k); an unknown
    group has none. The factor P(k) stays, so rare classes stay rare. It may debias a teacher too (`teacher_lam`).

    References
    ----------
    Hong, Yang (2021). Unbiased classification through bias-contrastive and bias-balanced learning. NeurIPS.
    Menon et al. (2021). Long-tail learning via logit adjustment. ICLR.
    """
    table = lam * log_prior(setting["cells"])

    def move(output, batch):
        return Output(at_least_float32(output.logits) + of_groups(table.T, batch), output.embedding)

    return dict(select=move, teacher=move)


def balanced_teacher(setting, lam, teacher, *, prior_weight=10.0, resampled=True):
    """Distil from a teacher from whose outputs we subtract what the group says about the class.

    A teacher fitted to skewed data returns z_T,k(x) = log p(x | k, g) + log P(k) + log P(g | k) + const. In the grey images
    of a set whose cats are coloured it takes cats for unlikely, and all of its soft labels say so. In CKD these weigh .9 · T²,
    so correcting the labels' side alone (`logit_adjustment`, `resample`) leaves most of the bias. Distillation has one
    advantage: this mistake can be measured, and taken out of the targets before a student sees them:

        z̃_T(x, y, g) = z_T(x) − λ · D_y(g),   D_y(g) = ā + (n_y · (M_y(g) − M̄_y) + κ · (a(g) − ā)) / (n_y + κ),

    where a_k(g) = log P(g | k), counted on the training split, and ā is its mean over groups; M_y(g) is the teacher's mean
    logits over the training images of class y in group g, and M̄_y their mean over groups; n_y is the size of y's smallest
    cell. With κ = 0 and λ = 1 the group-conditional mean logits agree for every class, up to what Bayes' rule keeps (ā). As
    κ → ∞ the correction is Bayes' rule alone, for a teacher that overstates nothing. κ = 10: where the rare cells hold a few
    images, which the teacher knows by heart, the prior decides; where they hold many, the teacher's own shift does.

    The teacher's embeddings, where the method reads them, lose λ · n_y / (n_y + κ) of their own deviation of group means (KD++
    reads their norm alone: its directions are the class means, which stay). Samples are drawn as in `resample`, so that the
    labels say nothing about the group either. As λ → 0 this is `resample`; at λ = 0 there is no debiaser. With shares, D is
    their mean; where the group is unknown, nothing is subtracted.

    Controls: `balanced_teacher_measured` (κ = 0), `balanced_teacher_prior` (κ = ∞), and `balanced_teacher_unsampled`, which
    draws samples as plain training does.

    Parameters
    ----------
    prior_weight : float
        κ, in images.
    resampled : bool
        Whether samples are drawn as in `resample`.
    """
    labels, cells = setting["labels"].to(setting["device"]), setting["cells"]
    member = membership(setting["group"], setting["share"], setting["num_groups"]).to(setting["device"])
    logits, embedding = (group_deviation(values, labels, member, cells) for values in teacher.outputs())
    smallest = cells.amin(1)[:, None, None]
    trust = (smallest / (smallest + prior_weight)).nan_to_num(1.0)  # κ = 0 with an empty cell
    prior = log_prior(cells).T
    shared = prior.mean(0)
    correction = lam * (shared + trust * logits + (1 - trust) * (prior - shared))
    moved = lam * trust * embedding

    def corrected(output, batch):
        member = membership(batch.group, batch.share, setting["num_groups"])[:, :, None]
        values = output.logits - (member * correction[batch.labels]).sum(1)
        if output.embedding is None:
            return Output(values, output.embedding)
        return Output(values, output.embedding - (member * moved[batch.labels]).sum(1))

    return dict(teacher=corrected) | (resample(setting) if resampled else {})


def group_deviation(values, labels, member, cells) -> torch.Tensor:
    """Return the mean of `values` over each cell, minus its mean over the groups that the class has, (K, G, D).

    It is 0 in an empty cell. Sums are taken in float64, so the order of the images does not matter.

    Parameters
    ----------
    values : float (N, D)
    labels : int64 (N,)
    member : float (N, G)
    cells : float (K, G)
    """
    shape = *cells.shape, values.shape[1]
    total = values.new_zeros(shape, dtype=torch.float64)
    for group, part in enumerate(member.double().unbind(1)):  # one group at a time takes less memory
        total[:, group].index_add_(0, labels, part[:, None] * values)
    filled = (cells > 0)[:, :, None]
    mean = total / torch.where(filled, cells[:, :, None], 1)
    class_mean = mean.sum(1, keepdim=True) / filled.sum(1, keepdim=True).clamp(min=1)
    return torch.where(filled, mean - class_mean, 0).to(values.dtype)


def ltkd(setting, lam, teacher):
    """Recalibrate the teacher's probability mass over two sets of classes in each group (after LTKD, Kim 2025).

    LTKD splits the distillation loss into a part across sets of classes (head, medium, tail) and one within them, and
    rebalances the teacher's mass over the sets. Here the skew is by group, so each group g has its own two sets: the classes
    that are more common in g than in the whole training split, and the others. With M_A(g) the teacher's mean probability
    of set A over the training images of group g, and P(A) the share of A's classes in the whole split,

        z̃_T,k(x, g) = z_T,k(x) − λ · log(M_A(g) / P(A))   for every class k in A.

    At λ = 1 the odds of the two sets are those that a teacher would give if the group said nothing about the class.

    The abstract was checked; how far our calibration equals the paper's was not. The sets by group are ours, and the
    paper's second part, equal weights within the sets, is left out, since it would replace the method's own loss. Embeddings
    stay as they are, so a method that reads these alone (RKD as published) is not changed. With shares the correction is
    their mean; an unknown group has none.

    References
    ----------
    Kim (2025). Distilling balanced knowledge from a biased teacher (first: Biased teacher, balanced student).
    arXiv:2506.18496.
    """
    cells = setting["cells"]
    member = membership(setting["group"], setting["share"], setting["num_groups"]).to(setting["device"])
    probability = teacher.outputs()[0].softmax(1)
    mass = ((member.T.double() @ probability.double()) / member.sum(0).clamp(min=1)[:, None]).float()  # (G, K)
    frequency = cells.sum(1) / cells.sum()  # (K,)
    in_group = (cells / cells.sum(0).clamp(min=1)).T  # (G, K)
    common = in_group > frequency
    expected = frequency.expand_as(mass)

    def of_set(values):
        """Return the sum of values (G, K) over the set of each class, (G, K)."""
        return torch.where(common, (values * common).sum(1, keepdim=True), (values * ~common).sum(1, keepdim=True))

    correction = lam * (of_set(mass).clamp(min=1e-6) / of_set(expected).clamp(min=1e-6)).log()

    def recalibrated(output, batch):
        return Output(output.logits - of_groups(correction, batch), output.embedding)

    return dict(teacher=recalibrated)


def teachers_pet(setting, lam, teacher, *, least=0.01):
    """Soften the teacher towards the label where it is unreliable (after Teacher's pet, Lukasik et al. 2022).

    The paper softens the teacher's influence on subgroups where it is less reliable. Here a subgroup is a cell c. Its
    reliability r_c is the teacher's mean margin there, p_y − max_{k≠y} p_k, on validation images, at least `least`; on its
    training images a teacher is nearly always sure. The student is shown

        p̃ = α_c · p_T + (1 − α_c) · onehot(y),   α_c = r_c^λ,

    as logits. At temperature 1 the distillation loss then is α_c · KD + (1 − α_c) · cross-entropy, up to a constant; at
    another temperature p̃ is softened like any teacher. At λ = 1 the weight is the margin itself; at λ = 0 there is no debiaser.

    The abstract was checked, the paper's text could not be. Cells of class and group, the margin on validation images, and
    the power λ are our reading of its class-wise weights. From the validation split only the K × G means are read. A cell
    that it lacks has the mean of its class, or of all. Embeddings stay as they are, so a method that reads these alone (RKD as
    published) is not changed. With shares α is their mean; where the group is unknown, it is 1.

    Parameters
    ----------
    least : float
        Lower limit of a reliability.

    Raises
    ------
    ValueError
        Where the teacher's outputs on held-out images are not at hand.

    References
    ----------
    Lukasik, Bhojanapalli, Menon, Kumar (2022). Teacher's pet: understanding and mitigating biases in distillation. TMLR.
    """
    if teacher.held_out is None:
        raise ValueError("debiaser 'teachers_pet' needs the teacher's outputs on validation images; there are none")
    classes, groups = setting["num_classes"], setting["num_groups"]
    held_out = teacher.held_out()
    table = reliability(held_out, classes, groups).clamp(least, 1).pow(lam).to(setting["device"])

    def softened(output, batch):
        member = membership(batch.group, batch.share, groups)
        known = member.sum(1) > 0
        weight = torch.where(known, (member * table[batch.labels]).sum(1), 1)[:, None]
        logits = output.logits.log_softmax(1) + weight.log()
        label = torch.logaddexp(logits, torch.log1p(-weight))
        return Output(torch.where(one_hot(batch.labels, classes) > 0, label, logits), output.embedding)

    return dict(teacher=softened)


def reliability(held_out, num_classes, num_groups) -> torch.Tensor:
    """Return a teacher's mean margin p_y − max_{k≠y} p_k in each cell, (K, G).

    An empty cell has the mean of its class, or of all images.

    Parameters
    ----------
    held_out : Batch
        With the teacher's Output.
    num_classes, num_groups : int
    """
    probability = held_out.teacher.logits.float().softmax(1)
    label = one_hot(held_out.labels, num_classes) > 0
    margin = probability[label] - probability.masked_fill(label, -1).amax(1)
    member = membership(held_out.group, held_out.share, num_groups)
    mean, count = cell_means(margin, held_out.labels, member, num_classes)
    class_mean, class_count = cell_means(margin, held_out.labels, torch.ones_like(member[:, :1]), num_classes)
    return torch.where(count > 0, mean, torch.where(class_count > 0, class_mean, margin.mean()))
