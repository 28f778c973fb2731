"""Our training loop against the plain one, by turns: `make bench`, or `python -m benchmarks.speed --help`.

Writes reports/bench/cpu.json or cuda.json, and a figure. Each loop has its own process and trains a segment of some steps in
its turn. A time is the median over segments, after one that is not counted. Several of our loops also train at once, as in a
sweep, with one thread each on a CPU; their time is per step and run, so its ratio compares the work done in the same time. The
plain loop's workers fill their queue before its time is taken, and rest during ours."""

import argparse
import contextlib
import os
import platform
import statistics
import time
from datetime import datetime

import torch

from benchmarks import plot, sweeps
from benchmarks.setting import METHODS, PAIRS
from benchmarks.sides import Ours, Plain, Side
from kdlib import files, paths
from kdlib.runs import store

TEST_IMAGES, TRAINING_IMAGES = 10_000, 50_000  # for the cost of evaluation, as in CIFAR


def measure(plain, ours, several, pair, method, segments) -> dict:
    """Return one row of the table, measured by turns: the plain loop, ours with a filled and an empty bank, `several` of ours
    at once, and the bare student."""
    for side in (plain, ours, *several):
        side.ask("prepare", method)
    kinds = {"plain_ms": plain, "ours_ms": ours, "first_epoch_ms": ours, "limit_ms": ours}
    if ours.ask("compiled"):
        kinds["eager_ms"] = ours
    rounds = []
    for _ in range(segments + 1):
        taken = {}
        for name, side in kinds.items():
            taken[name] = side.ask(name)
            if side is plain:
                time.sleep(0.3)  # its workers refill their queue
        taken["at_once_ms"] = statistics.mean(Side.ask_all(several, "ours_ms")) / len(several)
        rounds.append(taken)
    del rounds[0]
    row = {"pair": pair, "method": method} | ours.ask("conditions")
    row |= {name: statistics.median(taken[name] for taken in rounds) for name in rounds[0]}
    row["ratio"] = row["plain_ms"] / row["ours_ms"]
    row["ratio_of_each_segment"] = [taken["plain_ms"] / taken["ours_ms"] for taken in rounds]
    row["at_once"], row["at_once_ratio"] = len(several), row["plain_ms"] / row["at_once_ms"]
    row["first_epoch_ratio"] = row["plain_ms"] / row["first_epoch_ms"]
    row["over_limit"] = row["ours_ms"] / row["limit_ms"]
    for name in ("plain", "ours"):
        row[f"{name}_images_per_second"] = 1000 * row["batch_size"] / row[f"{name}_ms"]
    an_image = row["ours_ms"] / row["batch_size"]
    row["evaluation_share"] = ours.ask("evaluation_ms") * TEST_IMAGES / (an_image * TRAINING_IMAGES)
    row |= {"plain_parts_ms": plain.ask("parts"), "ours_parts_ms": ours.ask("parts", row["ours_ms"])}
    for name, side in (("plain", plain), ("ours", ours)):
        row |= {f"{name}_{kind}": value for kind, value in side.ask("memory").items()}
    return row


def line(row) -> str:
    """Return a row as one line of text."""
    return (
        f"{row['pair']} {row['method']}: plain {row['plain_ms']:.0f} ms, ours {row['ours_ms']:.0f} ms, ratio "
        f"{row['ratio']:.2f}; {row['at_once']} at once {row['at_once_ratio']:.2f}; first epoch "
        f"{row['first_epoch_ratio']:.2f}; {row['over_limit']:.2f} of the bare student; evaluation "
        f"{row['evaluation_share']:.3f} of an epoch"
    )


def conditions(device, threads) -> dict:
    """Return the machine and versions of a measurement."""
    return {
        "device": device,
        "name": store.device_name(device),
        "cores": os.cpu_count(),
        "threads": threads,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "commit": store.commit(),
        "date": f"{datetime.now():%Y-%m-%d %H:%M}",
        "load_before": os.getloadavg()[0],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), choices=PAIRS)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--steps", type=int, default=6, help="of a segment")
    parser.add_argument("--segments", type=int, default=5, help="that are counted")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each loop on a CPU")
    parser.add_argument("--short", action="store_true", help="only CKD and KD++ of the first pair: two minutes")
    chosen = parser.parse_args()
    if chosen.short:
        chosen.pairs, chosen.methods = chosen.pairs[:1], ["ckd", "kdpp"]
    torch.set_num_threads(chosen.threads)
    results = conditions(chosen.device, chosen.threads) | {
        "steps": chosen.steps,
        "segments": chosen.segments,
        "rows": [],
    }
    target = paths.reports_folder() / "bench" / f"{chosen.device}.json"
    at_once = 8 if chosen.device == "cuda" else os.cpu_count()
    for pair in chosen.pairs:
        common = pair, chosen.device, chosen.steps
        with contextlib.ExitStack() as stack:
            plain, ours = (stack.enter_context(Side(kind, *common, chosen.threads)) for kind in (Plain, Ours))
            several = [stack.enter_context(Side(Ours, *common, 1)) for _ in range(at_once)]
            for method in chosen.methods:
                row = measure(plain, ours, several, pair, method, chosen.segments)
                results["rows"].append(row)
                files.write_json(target, results)
                print(line(row), flush=True)
    results["scaling"] = sweeps.scaling(chosen.pairs[0], chosen.device, chosen.steps)
    files.write_json(target, results)
    plot.save(results, target.with_suffix(""))
    print(f"-> {target}")


if __name__ == "__main__":
    main()
