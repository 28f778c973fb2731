"""THE training loop: for teachers and students, every method and every debiaser.

It sums named loss terms and knows nothing of any method. It never sees the test split and selects nothing."""

import copy
import io
import time
from itertools import repeat

import torch

from kdlib import files, names
from kdlib.data.augment import draw_order, draw_views, number_of_views
from kdlib.debias import Batch, Debiaser
from kdlib.models import in_precision

OPTIMIZERS = ("sgd", "adam")
SCHEDULES = ("one_cycle", "step", "step_rkd", "step_quarters", "constant")
STEPS = {  # factor, after which epochs, of how many
    "step": (0.1, (150, 180, 210), 240),
    "step_rkd": (0.2, (60, 120, 160), 200),
    "step_quarters": (0.1, (50, 100, 150), 200),
}
KEPT = "a checkpoint of an earlier epoch is kept, if there is one"


class NotFinite(RuntimeError):
    """A loss term became NaN or infinite."""


def train(
    model,
    images,
    labels,
    group,
    method,
    *,
    epochs,
    batch_size,
    lr,
    seed,
    debiaser=None,
    share=None,
    bank=None,
    forward=None,
    momentum=0.9,
    weight_decay=5e-4,
    nesterov=False,
    optimizer="sgd",
    schedule="one_cycle",
    precision="float32",
    validate=lambda epoch: {},
    checkpoint=None,
    checkpoint_seconds=5.0,
    log=print,
    on_epoch=None,
) -> list:
    """Train `model` in place and return its history.

    Parameters
    ----------
    model : nn.Module
        images -> Output(logits, embedding).
    images : data.augment.Images
        The training split.
    labels, group : int64 Tensor, (N,)
        On the images' device; group is −1 where unknown.
    method : methods.Method
    epochs, batch_size, seed : int
        The seed draws order and augmentation; the caller draws the initial weights.
    lr, momentum, weight_decay : float
        lr is the highest of the schedule; momentum is Adam's β₁.
    debiaser : debias.Debiaser, optional
    share : float Tensor, (N,), optional
        Share of group 1, where the attribute is fractional.
    bank : teachers.TeacherBank, optional
        For a method that needs a teacher.
    forward : callable, optional
        Computes model(inputs), compiled.
    nesterov : bool
    optimizer, schedule, precision : str
        One of OPTIMIZERS and of SCHEDULES; float32 or bfloat16.
    validate : callable
        validate(epoch) -> dict of figures for the history.
    checkpoint : Path, optional
        Training resumes from it if it exists, and writes it after an epoch once `checkpoint_seconds` have passed.
    log : callable
        Takes a line per epoch.
    on_epoch : callable, optional
        Takes a copy of each epoch's row of history, once the checkpoint is written. What it raises ends training; the last
        checkpoint stays.

    Returns
    -------
    list of dict
        One per epoch: learning rate of its last step, mean of each loss term, figures of method, debiaser and `validate`,
        seconds.

    Raises
    ------
    NotFinite
        With the term and step, where a loss or parameter becomes NaN or infinite; the last checkpoint stays.
    ValueError
        For labels that the model has no logit for.
    """
    if not (labels.min() >= 0 and labels.max() < model.num_classes):
        raise ValueError(
            f"labels must be in 0 … {model.num_classes - 1}, found {int(labels.min())} … {int(labels.max())}"
        )
    debiaser = debiaser or Debiaser()
    device = images.device
    modules = [model, method.module, debiaser.module if debiaser.optimizer is None else None]
    trained = torch.nn.ModuleList([module for module in modules if module is not None])
    common = {"lr": lr, "weight_decay": weight_decay, "fused": True}
    if optimizer == "adam":
        optimizer = torch.optim.Adam(trained.parameters(), betas=(momentum, 0.999), **common)
    else:
        optimizer = torch.optim.SGD(trained.parameters(), momentum=momentum, nesterov=nesterov, **common)
    reads_embedding = method.needs_embedding or debiaser.needs_embedding
    views = number_of_views(images.padding, images.flip)
    steps = len(batches(torch.arange(len(images)), batch_size))
    scheduler = build_schedule(schedule, optimizer, lr=lr, epochs=epochs, steps=steps)
    history = []
    parts = {"model": model, "method": method.module, "optimizer": optimizer, "scheduler": scheduler}
    parts |= {"debiaser": debiaser.module, "debiaser_optimizer": debiaser.optimizer}
    parts = {name: part for name, part in parts.items() if part is not None}
    if checkpoint is not None and checkpoint.exists():
        history = _resume(checkpoint, parts, epochs, log)
    saved = began = time.monotonic()
    resumed = len(history)

    for epoch in range(resumed + 1, epochs + 1):
        started = time.monotonic()
        trained.train()
        view = draw_views(len(images), views, seed=seed, epoch=epoch)
        if debiaser.order is None:
            order = draw_order(len(images), seed=seed, epoch=epoch)
            view = view[order]
        else:  # with replacement: each place of the order has a view of its own
            order = debiaser.order(seed=seed, epoch=epoch)
        pieces, logged, teacher_outputs = batches(order, batch_size), [], repeat(None)
        if method.needs_teacher:
            teacher_outputs = bank.batches(pieces, view, embedding=reads_embedding)
        for (index, inputs), teacher in zip(images.batches(pieces, view), teacher_outputs, strict=False):
            batch = Batch(labels[index], group[index], None if share is None else share[index], teacher)
            if debiaser.teacher and teacher is not None:
                teacher = debiaser.teacher(teacher, batch)
            optimizer.zero_grad(set_to_none=True)
            with in_precision(precision, device):
                output = (forward or model)(inputs)
                if debiaser.select:
                    output = debiaser.select(output, batch)
                weights = debiaser.weights(output, batch) if debiaser.weights else None
                terms = method.terms(output, teacher, batch.labels, epoch, weights=weights)
                if debiaser.terms:
                    terms |= debiaser.terms(output, batch, terms)
            loss = sum(terms.values())
            if debiaser.backward:
                debiaser.backward(loss, list(trained.parameters()))
            else:
                loss.backward()
            logged.append(torch.stack([term.detach() for term in terms.values()]))
            if device.type == "cpu":  # on a GPU the step would wait for it, so it is done once an epoch
                check_finite(logged[-1][None], list(terms), epoch, len(logged))
            optimizer.step()
            rate = scheduler.get_last_lr()[0]  # of this step; the next line changes it
            scheduler.step()
        values = torch.stack(logged)
        check_finite(values, list(terms), epoch, 1)
        trained.eval()
        check_parameters(trained, epoch)
        row = {"epoch": epoch, "lr": rate}
        row |= dict(zip(terms, values.mean(0).tolist(), strict=True)) | method.report() | debiaser.report()
        row |= validate(epoch)
        row["seconds"] = time.monotonic() - started
        history.append(row)
        left = (time.monotonic() - began) / (epoch - resumed) * (epochs - epoch)
        log(epoch_line(row, epochs, left))
        if checkpoint is not None and epoch < epochs and time.monotonic() - saved >= checkpoint_seconds:
            _save(checkpoint, parts, history, log)
            saved = time.monotonic()
        if on_epoch is not None:
            on_epoch(dict(row))
    return history


def batches(order, batch_size):
    """Cut an order into batches. A single sample left over joins the batch before, since batch norm needs two.

    >>> [len(batch) for batch in batches(torch.arange(33), 16)]
    [16, 17]
    """
    pieces = list(order.split(batch_size))
    if len(pieces) > 1 and len(pieces[-1]) == 1:
        pieces[-2:] = [torch.cat(pieces[-2:])]
    return pieces


def build_schedule(name, optimizer, *, lr, epochs, steps):
    """Return a torch scheduler that is stepped after each of the `steps` of an epoch.

    Parameters
    ----------
    name : str
        one_cycle: up to `lr` and down, momentum fixed. step: × 0.1 after 150, 180 and 210 of 240 epochs, or the same shares
        of another number. step_rkd, of RKD's author: × 0.2 after 60, 120 and 160 of 200. step_quarters, of CIFAR-10S: × 0.1
        after each quarter. constant.

    Raises
    ------
    ValueError
        For another name.
    """
    if name == "one_cycle":
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * steps + 1, cycle_momentum=False)
    if name in STEPS:
        factor, after, whole = STEPS[name]
        milestones = [round(epochs * epoch / whole) * steps for epoch in after]
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=factor)
    if name == "constant":
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)
    raise names.unknown_name(name, SCHEDULES, "schedule")


def check_finite(values, term_names, epoch, first_step):
    """Raise NotFinite, naming epoch, step and term, unless all `values` (steps, terms) are finite."""
    wrong = (~values.isfinite()).nonzero()
    if len(wrong):
        step, term = wrong[0].tolist()
        value = values[step, term].item()
        raise NotFinite(
            f"loss term {term_names[term]!r} is {value} in epoch {epoch}, step {first_step + step}; training stopped. "
            f"Try a lower learning rate or a smaller weight; {KEPT}."
        )


def check_parameters(module, epoch):
    """Raise NotFinite unless all parameters are finite.

    A finite loss can have gradients that are not; no checkpoint or result may hold what they leave."""
    if not torch.stack([parameter.detach().isfinite().all() for parameter in module.parameters()]).all():
        wrong = [name for name, parameter in module.named_parameters() if not parameter.isfinite().all()]
        raise NotFinite(
            f"parameter {wrong[0]!r} is not finite after epoch {epoch}, though its loss was; training stopped. "
            f"Try a lower learning rate; {KEPT}."
        )


def epoch_line(row, epochs, seconds_left) -> str:
    """Return a line for a person: the epoch, each figure of its row, the time left."""
    skipped = ("epoch", "lr", "seconds", "test_accuracy")  # nobody should watch the test split
    figures = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name not in skipped)
    return f"epoch {row['epoch']:>3}/{epochs}  {figures}  {row['seconds']:.1f} s, {seconds_left:.0f} s left"


def _save(path, parts, history, log):
    """Write a checkpoint. Where that fails, the one before is kept and training goes on (logged)."""
    state = {name: part.state_dict() for name, part in parts.items()}
    content = io.BytesIO()  # torch's own writer does not say why it cannot write
    torch.save({"parts": state, "history": history, "random": torch.get_rng_state(), "of": path.parent.name}, content)
    try:
        with files.replacing(path) as temporary:
            temporary.write_bytes(content.getbuffer())
    except OSError as error:
        log(f"no checkpoint after epoch {len(history)}, training goes on: {error}")


def _resume(path, parts, epochs, log):
    """Load a checkpoint into `parts` and return its history. One that cannot be used is set aside (logged)."""
    before = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        if state.get("of", path.parent.name) != path.parent.name:
            raise ValueError(f"it is of the run {state['of']}")
        if set(state["parts"]) != set(parts):
            raise ValueError(f"it holds {sorted(state['parts'])}, this run needs {sorted(parts)}")
        history = state["history"]
        if [row["epoch"] for row in history] != list(range(1, len(history) + 1)) or not 0 < len(history) < epochs:
            raise ValueError(f"its history is not one of fewer than {epochs} epochs, one after another")
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
        torch.set_rng_state(state["random"])
    except Exception as error:  # a damaged file raises many kinds, when it is read and when it is used
        for name, part in parts.items():
            part.load_state_dict(before[name])
        aside = path.with_suffix(".damaged")
        path.replace(aside)
        reason = (str(error) or type(error).__name__).splitlines()[0]
        log(f"cannot resume from {path}: {reason}. It is kept as {aside.name}; training starts over")
        return []
    log(f"resuming after epoch {len(history)}")
    return history
