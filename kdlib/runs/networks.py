"""Trained networks of the store, and what a process keeps of them for its next run: images, teacher outputs, class means."""

import functools

import torch
from safetensors.torch import load_file

from kdlib import debias, evaluate, files, models, paths, teachers
from kdlib.data.augment import Images, number_of_views
from kdlib.runs import given, machine
from kdlib.runs.settings import as_run, load_data
from kdlib.runs.store import checked_file


def load_model(settings):
    """Return the trained network of a finished run, in eval mode, on the CPU."""
    run = as_run(settings).resolved()
    file, dataset = checked_file(run.key, "model.safetensors"), run.load_data()
    if given.is_arrays(run.student):
        return evaluate.StoredOutputs(load_file(file)).eval()
    with torch.random.fork_rng(
        devices=[]
    ):  # initial weights are drawn and overwritten; the caller's draws stay as they were
        model = build_network(run.student, dataset)
        # a debiaser that needs a teacher has no head of its own
        debiaser = None if debias.needs_teacher(run.debias) else build_debiaser(run, dataset, model)
    if debiaser and debiaser.head:
        models.set_head(model, debiaser.head)
    return models.load_checkpoint(
        model, file, finite=False
    ).eval()  # a refitted head is −∞ for a class that it never saw


def build_network(network, dataset, weights="none"):
    """Return a run's network before training; weights "imagenet": those that were published for it. A given one is complete."""
    classes = len(dataset.classes)
    if given.is_arrays(network):
        return evaluate.StoredOutputs(given.outputs(network, dataset))
    if given.is_function(network):
        size = dataset.train.images.shape[-1]
        return models.from_function(network, classes, size, dataset.mean, dataset.std)
    model = models.build_model(network, classes, weights="DEFAULT" if weights == "imagenet" else None)
    if file := given.weights_file(network, weights):
        models.load_checkpoint(model, *file)
    return model


def class_means(settings) -> torch.Tensor:
    """Return (classes, d): the mean embedding of each class of un-augmented training images under a finished run's network.

    Kept beside the run as `class_means.json`, in the form of KD++'s files, with its SHA-256 in `class_means.sha256`; computed
    again where the two do not match."""
    run = as_run(settings).resolved()
    file, dataset = run.folder / "class_means.json", run.load_data()
    note = file.with_suffix(".sha256")
    with files.only_writer(run.folder):
        if not (file.exists() and note.exists() and note.read_bytes() == files.sha256(file).encode()):
            network = load_model(run).to(run.device)
            embedding = evaluate.predict(network, on_device(run, "train")).embedding
            means = teachers.class_means(embedding, dataset.train.labels, len(dataset.classes))
            teachers.check_means(means, f"run {run.key}")
            teachers.write_means(file, means)
            with files.replacing(note) as temporary:
                temporary.write_text(files.sha256(file))
        return teachers.read_means(file, num_classes=len(dataset.classes), dim=len(files.read_json(file)["0"]))


def on_device(settings, split, *, device=None) -> Images:
    """Return the images of a split of the run's data, on its device, with its augmentation; kept for the next run."""
    run = as_run(settings).resolved()
    return _images((run.data, run.skew, run.data_options), split, device or run.device, paths.data_folder())


def teacher_bank(run) -> teachers.TeacherBank:
    """Return the bank of outputs of the teacher that `run` trained, on its training split; kept for the next run."""
    return _bank(run, paths.runs_folder())


def build_debiaser(run, dataset, model, bank=None):
    """Return the debiaser of a run for this network, or None; `bank`: the teacher's, for a debiaser that needs one."""
    teacher = None
    if bank is not None:
        outputs = functools.partial(_plain_outputs, run.teacher_run(), "train", paths.runs_folder())
        held_out = functools.partial(_held_out, run.teacher_run(), dataset.val, paths.runs_folder())
        head = models.get_head(bank.teacher) if bank.teacher.head_name else None
        teacher = debias.Teacher(bank.teacher.embedding_dim, outputs, head, held_out)
    return debias.build_debiaser(
        run.debias,
        lam=run.lam,
        labels=torch.from_numpy(dataset.train.labels),
        group=torch.from_numpy(dataset.train.group),
        share=group_share(dataset.train, "cpu"),
        num_classes=len(dataset.classes),
        num_groups=len(dataset.groups),
        embedding_dim=model.embedding_dim,
        teacher=teacher,
        epochs=run.epochs,
        device=next(model.parameters()).device,
    )


def group_share(split, device):
    """Return the fractional attribute of a split as a tensor, or None."""
    return None if split.group_share is None else torch.from_numpy(split.group_share).to(device)


@functools.lru_cache(maxsize=8)
def _images(data_settings, split, device, data_folder):
    dataset = load_data(*data_settings)
    options = {"padding": dataset.padding, "flip": dataset.flip} if split == "train" else {}
    return Images(dataset.splits[split].images, dataset.mean, dataset.std, device=device, split=split, **options)


@functools.lru_cache(maxsize=2)
def _bank(teacher, runs_folder):
    images = on_device(teacher, "train")
    model = models.fast_layout(load_model(teacher).to(teacher.device)).requires_grad_(False)
    host = machine.memory() // 8  # two banks are kept in each of a few processes
    memory = {"budget": host, "precision": teacher.precision}
    if teacher.device.startswith("cuda"):
        memory |= {"budget": torch.cuda.mem_get_info(teacher.device)[0] // 8, "spill": host}
        if teacher.precision == "bfloat16":  # eight times finer than the student's own arithmetic
            memory["dtype"] = torch.float16
    return teachers.TeacherBank(model, images, number_of_views(images.padding, images.flip), **memory)


@functools.lru_cache(maxsize=4)
def _plain_outputs(teacher, split, runs_folder):
    """Return a finished teacher's Output on a split, without augmentation."""
    return evaluate.predict(_bank(teacher, runs_folder).teacher, on_device(teacher, split))


def _held_out(teacher, val, runs_folder):
    """Return the validation split as one batch, with a finished teacher's Output."""
    output = _plain_outputs(teacher, "val", runs_folder)
    labels, group = (torch.from_numpy(numbers).to(output.logits.device) for numbers in (val.labels, val.group))
    return debias.Batch(labels, group, group_share(val, output.logits.device), output)
