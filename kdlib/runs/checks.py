"""What would fail in the middle of a study, or show nothing, is said before it starts: of data, networks and groups."""

import functools
import sys

import numpy as np

from kdlib import data, paths
from kdlib.bias import resolution
from kdlib.runs.settings import Run, as_run, defaults, load_data

LEVEL, HOPELESS = 0.05, 0.5  # p-values of the largest bias: above them little, or nothing, can be shown


def checked(settings) -> list[Run]:
    """Return the runs that have these settings, dicts of `Run`'s fields, if they can do what they are for.

    The data come first, before torch is loaded.

    Raises
    ------
    ValueError
        For settings that no run can have, data that are not as they should be, networks that cannot take the images or have
        another number of classes, debiasers that lack groups, and groups in which no bias can be seen.
    OSError
        If there are no data.
    """
    settings = list(settings)
    sets = [look(given) for given in settings]
    runs = [as_run(given) for given in settings]
    given: dict = {}
    for run, dataset in zip(runs, sets, strict=True):
        check_run(run, dataset, given)
    return runs


def look(settings):
    """Return the data set of a run's settings, checked as `checked` says; images are blank unless decoded before."""
    return _look(*(settings.get(field, defaults()[field]) for field in ("data", "skew", "data_options")))


@functools.lru_cache(maxsize=1)
def _look(name, skew, options):
    dataset = load_data(name, skew, options, look=True)
    check_groups(dataset)
    return dataset


def check_groups(dataset):
    """Raise ValueError for a data set in whose groups no bias can be seen, however large; without groups all is well."""
    if len(dataset.groups) < 2:
        print(
            f"kdlib: {dataset.name} has no groups: accuracy and cost are measured, and no bias (MAD and the like are missing); "
            "in your own data, group names the column",
            file=sys.stderr,
        )
        return
    cells = {part: data.class_by_group(split, dataset, merged=True) for part, split in dataset.splits.items()}
    whole = np.sum(list(cells.values()), axis=0)
    classes = (whole > 0).sum(0)
    if (classes > 1).sum() < 2:
        group = int(classes.argmin())
        only = data.bias_classes(dataset)[int(whole[:, group].argmax())]
        raise ValueError(
            f"{dataset.name}: group {dataset.groups[group]!r} is in one class only, {only!r}, so bias by group cannot be told "
            "from what is to be learned; add images, or train without groups (in your own data: group=none)"
        )
    test = resolution.counted(cells["test"])
    p_value = resolution.least_p_value(test)
    if p_value < LEVEL:
        return
    problem = (
        f"{dataset.name}: too little data for {'any' if p_value > HOPELESS else 'much'} bias to be seen: the test split has "
        f"{test.sum()} images in {(test > 0).sum()} cells of class and group, where even always failing one group could be "
        f"chance (p = {p_value:.2f}); add images, test on more of them (test_share), or train without groups (group=none)"
    )
    if p_value > HOPELESS and not paths.smoke():
        raise ValueError(problem)
    print(f"kdlib: {problem}", file=sys.stderr)


def check_run(run, dataset, given=None):
    """Raise ValueError if networks or debiasers of a run, or of its teacher, do not fit the data set.

    given: {run of a given network: width of its embedding}, those that were checked already; new ones are added."""
    from kdlib.runs.networks import build_network

    teacher, given = run.teacher_run(), {} if given is None else given
    for each in (run,) if teacher is None else (teacher, run):
        check_debiaser(each.debias, dataset)
        if not each.is_given:
            check_images(each.student, dataset.train.images.shape[-1])
        elif each not in given:
            given[each] = build_network(each.student, dataset, each.weights).embedding_dim
    if teacher in given:
        _check_teacher(run, given[teacher])


def _check_teacher(run, embedding_dim):
    """Raise ValueError where a run reads embeddings, and its teacher has none."""
    from kdlib import debias, methods

    readers = [f"method {run.method}"] if methods.needs_embedding(run.method) else []
    readers += [f"debiaser {run.debias}"] if run.debias in debias.READ_EMBEDDING else []
    if readers and not embedding_dim:
        raise ValueError(
            f"{readers[0]} reads the teacher's embedding, and {run.teacher} has none: take a method that reads logits alone "
            "(ckd, ctkd, dkd), or give its embedding (docs/data.md, your own teacher)"
        )


def check_given(run, accuracy, labels):
    """Raise ValueError for a given network that is right no more often than the most frequent label is."""
    constant = np.bincount(labels).max() / len(labels)
    if accuracy <= constant and run.weights != "published" and not paths.smoke():
        raise ValueError(
            f"{run.student} is right for {accuracy:.1%} of the validation images, a constant answer for {constant:.1%}: does "
            "it expect pixels that are normalised otherwise, or other classes, or another order of them?"
        )


def check_debiaser(name, dataset):
    """Raise ValueError unless the debiaser can work with the groups of the training split."""
    import torch

    from kdlib import debias

    train = dataset.train
    if debias.needs_teacher(name):
        return debias.check_groups(name, train.group, data.class_by_group(train, dataset))
    share = None if train.group_share is None else torch.from_numpy(train.group_share)
    with torch.random.fork_rng(devices=[]):
        debias.build_debiaser(
            name, lam=float(debias.has_strength(name)), labels=torch.from_numpy(train.labels),
            group=torch.from_numpy(train.group), share=share, num_classes=len(dataset.classes),
            num_groups=len(dataset.groups), embedding_dim=2, epochs=2,
        )  # fmt: skip


@functools.cache
def check_images(network, size):
    """Raise ValueError unless the network can take images of `size` × `size` pixels."""
    import torch

    from kdlib import models

    for device in ("meta", "cpu"):  # shapes alone, without memory; then in earnest, in case a network needs values
        try:
            with torch.random.fork_rng(devices=[]), torch.device(device), torch.no_grad():
                model = models.build_model(network, 2).eval()
                model(torch.zeros(2, 3, size, size))
            return
        except Exception as error:
            reason = str(error).splitlines()[0]
    raise ValueError(
        f"{network} cannot take images of {size} × {size} pixels ({reason}); give the data another size, or take another "
        "network"
    )
