"""`make verify`: every published table, caption and sentence, rebuilt from the committed predictions and compared."""

import contextlib
import difflib
import io
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pandas as pd

from kdlib import paths
from kdlib.report import claims, edge_publish, evidence, gallery, publish

TOLERANCE = 2e-6  # between two figures of six digits


def verify(name="", *, workers=None, log=print) -> list:
    """Return what differs between the published studies and what their predictions give; empty where nothing does.

    Parameters
    ----------
    name : str
        A published study; "" means every one that has predictions.
    workers : int, optional
        Processes; default: one per core.
    log : callable
        Takes a line per study.
    """
    folders = sorted(file.parent for file in publish.published_folder().glob("*/study.json"))
    folders = [folder for folder in folders if name in ("", folder.name)]
    if not folders:
        raise ValueError(f"no published study {name} with predictions in {publish.published_folder()}")
    problems, workers = [], workers or os.cpu_count() or 1
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ProcessPoolExecutor(workers, get_context("spawn"))) if workers > 1 else None
        # a pool begins with the next study's metrics while this process draws the figures of the one before
        begun = [(folder, *_begin(folder, pool.map if pool else map, 8 * workers)) for folder in folders]
        for folder, saved, metrics in begun:
            found = _study(folder, saved, metrics)
            if (folder / "edge.csv").exists():
                found += edge_publish.problems(folder, pool.map if pool else map, 8 * workers)
            runs = saved["key"].nunique()
            log(f"{folder.name}: {runs} runs, {'as published' if not found else 'DIFFERS'}")
            problems += found
    if name == "":
        for (page, mark), inside in claims.marked().items():
            problems += _marked(page, (paths.ROOT / page).read_text(), mark, inside)
    return problems


def _begin(folder, mapped, parts):
    """The saved table, and the parts of the rebuilt one as they come."""
    saved = pd.read_csv(folder / "results.csv")
    unique = saved.drop_duplicates("key")
    chunks = [
        unique.iloc[rows][["key", "teacher_key"]] for rows in np.array_split(np.arange(len(unique)), parts) if len(rows)
    ]
    return saved, mapped(_metrics, [folder] * len(chunks), chunks)


def _study(folder, saved, metrics):
    rebuilt = pd.concat(list(metrics))
    rebuilt = _as_saved(rebuilt.loc[saved["key"]].reset_index(drop=True))
    problems = compare(saved, rebuilt, folder.name)
    table = pd.concat([saved[saved.columns.difference(rebuilt.columns, sort=False)], rebuilt], axis=1)
    proof, provenance = evidence.read(folder)
    page, short = publish.render(folder.name, table, proof, provenance, gallery.of_table(table, proof))
    problems += differences(f"{folder.name}/README.md", (folder / "README.md").read_text(), page)
    results = (paths.ROOT / publish.RESULTS).read_text()
    problems += _marked(publish.RESULTS, results, folder.name, short)
    return problems


def _as_saved(table):
    """Return metrics in the digits, columns and types in which they are published."""
    text = publish.compact(table).to_csv(index=False, float_format=publish.DIGITS)
    return pd.read_csv(io.StringIO(text))


def _metrics(folder, rows):
    proof, _ = evidence.read(folder)
    return pd.DataFrame([proof.metrics(row) for _, row in rows.iterrows()], index=rows["key"])


def compare(saved, rebuilt, name, file="results.csv") -> list:
    """Return a line for each metric of the saved table that its predictions do not give; tables of equal length."""
    problems = []
    for column in rebuilt:
        if column not in saved:
            problems.append(f"{name}/{file} lacks {column}; publish it again")
            continue
        old, new = saved[column].astype(float).to_numpy(), rebuilt[column].astype(float).to_numpy()
        wrong = ~np.isclose(old, new, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
        if wrong.any():
            row = int(wrong.argmax())
            problems.append(
                f"{name}/{file}, {column} of run {saved['key'].iloc[row]}: {old[row]} is saved, {new[row]} follows from "
                f"its predictions ({wrong.sum()} of {len(wrong)} runs differ)"
            )
    return problems


def _marked(name, saved, mark, inside):
    """What differs in the part of a page between its marks; marks that are missing differ."""
    if f"<!-- {mark} -->" not in saved or f"<!-- /{mark} -->" not in saved:
        return [f"{name} has no marks <!-- {mark} --> and <!-- /{mark} -->"]
    return differences(name, saved, publish.between_marks(saved, mark, inside))


def differences(name, saved, rendered) -> list:
    """Return in what a saved text differs from one rendered again, as a list of at most one problem."""
    if saved == rendered:
        return []
    lines = difflib.unified_diff(saved.splitlines(), rendered.splitlines(), "saved", "rebuilt", n=0, lineterm="")
    return [f"{name} differs from what its predictions give:\n" + "\n".join(list(lines)[:20])]
