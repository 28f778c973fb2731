"""THE training loop: for teachers and students, every method and every debiaser.

It sums named loss terms and knows nothing of any method. Nothing here sees the test split; nothing is selected."""

import time
from itertools import repeat

import torch

from kdlib import files, names
from kdlib.data.augment import draw_order, draw_views, number_of_views
from kdlib.debias import Batch, Debiaser
from kdlib.models import in_precision

OPTIMIZERS = ("sgd", "adam")
SCHEDULES = ("one_cycle", "step", "step_rkd", "step_quarters", "constant")
STEPS = {  # factor, after which epochs, of
    "step": (0.1, (150, 180, 210), 240),
    "step_rkd": (0.2, (60, 120, 160), 200),
    "step_quarters": (0.1, (50, 100, 150), 200),
}


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
) -> list:
    """Train `model` in place and return its history, a dict per epoch: learning rate, mean of each loss term, seconds, what
    the method and debiaser report, and what `validate(epoch)` returns.

    images: augment.Images of the training split; labels, group: int64 (N,), on the images' device; share: float (N,) of group
    1 where the attribute is fractional. method: methods.Method; debiaser: debias.Debiaser or None; bank: teachers.TeacherBank
    where the method needs a teacher; forward: what computes model(inputs), compiled, or None. `checkpoint`: a path; training
    resumes from it where it exists, and writes it after an epoch once `checkpoint_seconds` have passed.

    Raises NotFinite, with the term and step, when a loss is NaN or infinite; the last checkpoint stays. ValueError for labels
    that the model has no logit for."""
    if not (labels.min() >= 0 and labels.max() < model.num_classes):
        raise ValueError(
            f"labels must be in 0 … {model.num_classes - 1}, found {int(labels.min())} … {int(labels.max())}"
        )
    debiaser = debiaser or Debiaser()
    device = images.device
    extra = [method.module, debiaser.module if debiaser.optimizer is None else None]
    trained = torch.nn.ModuleList([model, *(module for module in extra if module is not None)])
    recipe = {"lr": lr, "weight_decay": weight_decay, "fused": True}
    if optimizer == "adam":
        optimizer = torch.optim.Adam(trained.parameters(), betas=(momentum, 0.999), **recipe)
    else:
        optimizer = torch.optim.SGD(trained.parameters(), momentum=momentum, nesterov=nesterov, **recipe)
    reads_embedding = method.needs_embedding or debiaser.needs_embedding
    views = number_of_views(images.padding, images.flip)
    steps = len(batches(torch.arange(len(images)), batch_size))
    scheduler = build_schedule(schedule, optimizer, lr=lr, epochs=epochs, steps=steps)
    history = []
    parts = {"model": model, "method": method.module, "optimizer": optimizer, "scheduler": scheduler}
    parts |= {"debiaser": debiaser.module, "debiaser_optimizer": debiaser.optimizer}
    parts = {name: part for name, part in parts.items() if part is not None}
    if checkpoint is not None and checkpoint.exists():
        history = _resume(checkpoint, parts, log)
    saved, began, done = time.monotonic(), time.monotonic(), len(history)

    for epoch in range(done + 1, epochs + 1):
        started = time.monotonic()
        trained.train()
        view = draw_views(len(images), views, seed=seed, epoch=epoch)
        if debiaser.order is None:
            order = draw_order(len(images), seed=seed, epoch=epoch)
            view = view[order]
        else:  # with replacement, so a view for each place
            order = debiaser.order(seed=seed, epoch=epoch)
        pieces, logged = batches(order, batch_size), []
        taught = bank.batches(pieces, view, embedding=reads_embedding) if method.needs_teacher else repeat(None)
        for (index, inputs), teacher in zip(images.batches(pieces, view), taught, strict=False):
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
            if device.type == "cpu":  # elsewhere this would wait for the device, so it is done once an epoch
                check_finite(logged[-1][None], list(terms), epoch, len(logged))
            optimizer.step()
            rate = scheduler.get_last_lr()[0]  # this step's, which the next line changes
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
        left = (time.monotonic() - began) / (epoch - done) * (epochs - epoch)
        log(epoch_line(row, epochs, left))
        if checkpoint is not None and epoch < epochs and time.monotonic() - saved >= checkpoint_seconds:
            _save(checkpoint, parts, history)
            saved = time.monotonic()
    return history


def batches(order, batch_size):
    """The order cut into batches; the last is kept, and a single left-over sample joins the one before it, since a batch
    norm over one sample is undefined."""
    pieces = list(order.split(batch_size))
    if len(pieces) > 1 and len(pieces[-1]) == 1:
        pieces[-2:] = [torch.cat(pieces[-2:])]
    return pieces


def build_schedule(name, optimizer, *, lr, epochs, steps):
    """A torch scheduler that is stepped after each of the `steps` of an epoch: one_cycle (up to `lr` and down, momentum
    fixed), step (× .1 after 150, 180 and 210 of 240 epochs, or these shares of another number), step_rkd (RKD's author: × .2
    after 60, 120 and 160 of 200), step_quarters (CIFAR-10S: × .1 after each quarter) or constant. ValueError for another
    name."""
    if name == "one_cycle":
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * steps + 1, cycle_momentum=False)
    if name in STEPS:
        factor, after, whole = STEPS[name]
        milestones = [round(epochs * epoch / whole) * steps for epoch in after]
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=factor)
    if name == "constant":
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)
    raise names.unknown_name(name, SCHEDULES, "schedule")


def check_finite(values, names, epoch, first_step):
    """Raise NotFinite, naming epoch, step and term, unless all `values` (steps, terms) are finite."""
    wrong = (~values.isfinite()).nonzero()
    if len(wrong):
        step, term = wrong[0].tolist()
        value = values[step, term].item()
        raise NotFinite(
            f"loss term {names[term]!r} is {value} in epoch {epoch}, step {first_step + step}; training stopped. "
            "Try a lower learning rate or a smaller weight; a checkpoint of an earlier epoch is kept, if there is one."
        )


def check_parameters(module, epoch):
    """Raise NotFinite unless all parameters are finite: a finite loss can have gradients that are not, and no checkpoint or
    result may hold what they left."""
    if not torch.stack([parameter.detach().isfinite().all() for parameter in module.parameters()]).all():
        wrong = [name for name, parameter in module.named_parameters() if not parameter.isfinite().all()]
        raise NotFinite(
            f"parameter {wrong[0]!r} is not finite after epoch {epoch}, though its loss was; training stopped. "
            "Try a lower learning rate; a checkpoint of an earlier epoch is kept, if there is one."
        )


def epoch_line(row, epochs, seconds_left) -> str:
    """One line for a person: the epoch, each figure of its row, the time left."""
    skipped = ("epoch", "lr", "seconds", "test_accuracy")  # the test split is not for watching
    figures = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name not in skipped)
    return f"epoch {row['epoch']:>3}/{epochs}  {figures}  {row['seconds']:.1f} s, {seconds_left:.0f} s left"


def _save(path, parts, history):
    state = {name: part.state_dict() for name, part in parts.items()}
    with files.replacing(path) as temporary:
        torch.save({"parts": state, "history": history, "random": torch.get_rng_state()}, temporary)


def _resume(path, parts, log):
    """Put a checkpoint's state into `parts` and return its history; one that cannot be used is set aside, with a line."""
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        if set(state["parts"]) != set(parts):
            raise ValueError(f"it holds {sorted(state['parts'])}, this run needs {sorted(parts)}")
    except Exception as error:  # torch.load raises many kinds for a damaged file
        aside = path.with_suffix(".damaged")
        path.replace(aside)
        log(f"cannot resume from {path}: {error}. It is kept as {aside.name}; training starts over")
        return []
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    torch.set_rng_state(state["random"])
    log(f"resuming after epoch {len(state['history'])}")
    return state["history"]
