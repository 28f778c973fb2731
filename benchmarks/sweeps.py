"""The cost of a sweep, by its number of runs, the size of the data, and the number of classes."""

import itertools
import statistics

from benchmarks.setting import Setup


def scaling(pair, device, steps):
    """Return times by number of runs, of images and of classes, as lists of rows."""
    setup = Setup(pair, device, steps)
    results = {"pair": pair, "steps": steps, "runs": [], "images": [], "classes": []}
    for count in (1, 4, 16):
        bank, spent, forwards = setup.bank(), [], []
        for name in itertools.islice(itertools.cycle(("rkd", "kdpp", "ckd", "ctkd")), count):
            student = setup.student()
            spent.append(setup.ours(student, setup.method(name, student, bank), bank))
            forwards.append(bank.forwards)
        last = forwards[-1] - (forwards[-2] if count > 1 else 0)
        figures = {
            "runs": count,
            "ms_a_step_and_run": statistics.mean(spent),
            "first_ms": spent[0],
            "last_ms": spent[-1],
        }
        results["runs"].append(figures | {"teacher_forwards": forwards[-1], "of_the_last_run": last})
    for factor in (1, 2, 4):
        images = setup.part(factor * len(setup.images))
        results["images"].append({"images": len(images)} | _one_run(setup, images))
    for classes in (10, 100, 1000):
        results["classes"].append({"classes": classes} | _one_run(Setup(pair, device, steps, classes)))
    return results


def _one_run(setup, images=None):
    images = images or setup.images
    bank, student = setup.bank(images), setup.student()
    method = setup.method("ckd", student, bank)
    first = setup.ours(student, method, bank, images)
    later = statistics.median(setup.ours(student, method, bank, images) for _ in range(3))
    return {
        "first_epoch_ms": first,
        "ours_ms": later,
        "seconds_an_epoch": later * len(images) / setup.batch_size / 1000,
    }
