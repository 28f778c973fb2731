"""How fast the bias module draws, beside the same bootstrap through fairlearn's MetricFrame, measured in one run.

    python benchmarks/bias.py

10,000 images of 16 classes in two groups, some cells small: 2,000 permutations and 2,000 bootstrap resamples of the mean
absolute disparity must take at most 2 s, and the bootstrap be at least 50 times as fast as fairlearn's. Two forms of the
latter are timed, with few resamples each, and the faster counts: MetricFrame's own `n_boot`, and a MetricFrame of each
stratified resample (the same bootstrap as here, to the resample). Writes `bias.json` under the reports folder's `bench/`
and prints it; exits with 1 where a limit is passed."""

import json
import os
import platform
import sys
import time
import tracemalloc

import fairlearn
import numpy as np
from fairlearn.metrics import MetricFrame
from sklearn.metrics import accuracy_score

from kdlib import bias, files, paths
from kdlib.bias import uncertainty

IMAGES, CLASSES, DRAWS = 10_000, 16, 2_000
LIMIT_SECONDS, LIMIT_RATIO, LIMIT_BYTES = 2.0, 50.0, 256e6
FEW = 20  # resamples through fairlearn


def example(seed=0):
    """Labels, predictions with recall .65 and 5 points between the groups, and groups of unequal shares by class."""
    rng = np.random.default_rng(seed)
    y = rng.choice(CLASSES, IMAGES, p=rng.dirichlet(4 * np.ones(CLASSES)))
    group = (rng.random(IMAGES) < rng.uniform(0.2, 0.8, CLASSES)[y]).astype(int)
    right = rng.random(IMAGES) < 0.65 + 0.05 * (group - 0.5)
    return y, np.where(right, y, (y + rng.integers(1, CLASSES, IMAGES)) % CLASSES), group


def seconds(call, repeats=3):
    """(shortest time, result)."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - began)
    return min(times), result


def by_fairlearn(y, p, group):
    """MAD: recall by group within each class, the classes being a control feature."""
    frame = MetricFrame(metrics=accuracy_score, y_true=y, y_pred=p, sensitive_features=group, control_features=y)
    return frame.difference().mean()


def resampled_frames(y, p, group, n):
    rng = np.random.default_rng(0)
    draws = (uncertainty.resampled_images(y, group, rng)[0] for _ in range(n))
    return np.array([by_fairlearn(y[i], p[i], group[i]) for i in draws])


def peak(call):
    tracemalloc.start()
    call()
    size = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return size


def main():
    y, p, group = example()
    mad = bias.mean_absolute_disparity
    floor_seconds, floor = seconds(lambda: bias.noise_floor(mad, y, p, group, n=DRAWS))
    ours, interval = seconds(lambda: bias.bootstrap(mad, y, p, group, n=DRAWS))
    difference = abs(by_fairlearn(y, p, group) - interval.value)
    frames, replicates = seconds(lambda: resampled_frames(y, p, group, FEW), repeats=1)
    own, _ = seconds(
        lambda: MetricFrame(
            metrics=accuracy_score, y_true=y, y_pred=p, sensitive_features=group, control_features=y, n_boot=FEW,
            ci_quantiles=[0.025, 0.975], random_state=0,
        ),
        repeats=1,
    )  # fmt: skip
    theirs = min(frames, own) / FEW
    memory = {n: peak(lambda n=n: bias.bootstrap(mad, y, p, group, n=n)) for n in (DRAWS, 10 * DRAWS)}
    result = {
        "images": IMAGES, "classes": CLASSES, "permutations": DRAWS, "resamples": DRAWS,
        "noise_floor_s": floor_seconds, "bootstrap_s": ours, "both_s": floor_seconds + ours, "limit_s": LIMIT_SECONDS,
        "ours_ms_per_resample": 1000 * ours / DRAWS, "fairlearn_ms_per_resample": 1000 * theirs,
        "fairlearn_frames_ms_per_resample": 1000 * frames / FEW, "fairlearn_n_boot_ms_per_resample": 1000 * own / FEW,
        "fairlearn_resamples": FEW, "ratio": theirs * DRAWS / ours, "limit_ratio": LIMIT_RATIO,
        "value": interval.value, "difference_to_fairlearn": difference,
        "low": interval.low, "high": interval.high, "floor": floor.mean, "p_value": floor.p_value,
        "spread_of_resamples": float(np.std(uncertainty.replicates_of(
            mad, y, p, group, DRAWS, 0, {}, permute=False
        ))), "spread_of_fairlearn_resamples": float(replicates.std(ddof=1)),
        "peak_bytes": {str(n): size for n, size in memory.items()}, "limit_bytes": LIMIT_BYTES,
        "device": f"cpu, {platform.machine()}, {os.cpu_count()} cores", "fairlearn": fairlearn.__version__,
        "numpy": np.__version__, "python": platform.python_version(),
    }  # fmt: skip
    files.write_json(files.make_folder(paths.reports_folder() / "bench") / "bias.json", result)
    print(json.dumps(result, indent=1))
    kept = result["both_s"] <= LIMIT_SECONDS and result["ratio"] >= LIMIT_RATIO and max(memory.values()) <= LIMIT_BYTES
    return 0 if kept and difference < 1e-9 else 1


if __name__ == "__main__":
    sys.exit(main())
