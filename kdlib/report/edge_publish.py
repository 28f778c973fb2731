"""What a study ships, kept in the repository: `edge.csv`, the classes behind it in `edge.npz`, figures, and `edge.md` in words.

`verify` computes all of it again from the classes, apart from what a machine measured (bytes, time, memory)."""

import numpy as np
import pandas as pd

from kdlib import profiles
from kdlib.files import replacing
from kdlib.report import edge, edge_figures, edge_words, evidence, pages, publish


def publish_edge(profile):
    """Write what `edge.csv` of a study's report says into its published folder, and return the path of `edge.md`.

    Raises
    ------
    ValueError
        Where the study is not published, or `edge.csv` has networks that it does not have.
    """
    from kdlib.export import measure

    folder = publish.published_folder(profiles.profile_name(profile))
    source = pages.folder(profile) / "edge.csv"
    if not (folder / "predictions.npz").exists():
        raise ValueError(f"{folder.name} has no published predictions: publish the study first")
    if not source.exists():
        raise ValueError(f"{source} is missing: run notebook 10_edge of {folder.name} first")
    rows = read(pages.folder(profile))
    unknown = set(rows["key"]) - set(pd.read_csv(folder / "results.csv")["key"])
    if unknown:
        raise ValueError(f"{len(unknown)} networks of {source} are not in the published results: publish both again")
    keys = list(dict.fromkeys(rows["key"]))
    classes = np.stack([measure.classes_of(key) for key in keys])
    with replacing(folder / "edge.npz", ".npz") as temporary:
        np.savez_compressed(temporary, keys=np.array(keys), predicted=classes)
    with replacing(folder / "edge.csv") as temporary:
        rows.to_csv(temporary, index=False, float_format=publish.DIGITS)
    rows = read(folder)
    for name, drawing in drawn(rows).items():
        with replacing(folder / f"{name}.png") as temporary:
            drawing.savefig(temporary, format="png")
    with replacing(folder / "edge.md") as temporary:
        temporary.write_text(render(folder.name, rows))
    return folder / "edge.md"


def read(folder) -> pd.DataFrame:
    """Return the published table of a folder."""
    rows = pd.read_csv(folder / "edge.csv", dtype={"calibration": str})
    return rows.assign(calibration=rows["calibration"].fillna(""))


def drawn(rows) -> dict:
    """Return {name: figure} of a table."""
    seeds = rows["seed"].nunique()
    shipped = edge.composition(edge.first_calibration(rows))
    return {
        "bias_on_device": edge_figures.bias_on_device(
            rows,
            note=f"Points: mean over {seeds} seeds; int8 calibrated on {shipped}. Time: median of a batch of one after a "
            "warm-up, one thread, of one network of each architecture.",
        ),
        "calibration_pictures": edge_figures.calibrations(
            rows,
            note=f"A point per network, {seeds} seeds. Test split, int8 per channel against the same network in torch.",
        ),
    }


def render(name, rows) -> str:
    """Return the page of what a study ships, in Markdown."""
    parts = [
        f"# What {name} ships",
        "Written by `python -m kdlib publish --edge` from `edge.csv`, a row per network and form (notebook `10_edge`). Bytes, "
        "milliseconds and memory were measured on the machine of the study; all else follows from the classes in `edge.npz`.",
        edge_words.in_words(rows),
        "![bias against accuracy, bytes and milliseconds](bias_on_device.png)",
        "## On which pictures int8 is calibrated",
        publish.markdown(edge.calibrations(rows)),
        "![change of MAD and of decisions by calibration pictures](calibration_pictures.png)",
        "## Does debiasing survive?\n\nThe fall of MAD by each debiaser, against the same method without it, paired by seed.",
        publish.markdown(edge.survival_in_names(rows)),
        "## Every form\n\nMean over seeds ± half-width of Student's 95 % interval; churn and negative flips against torch, "
        "with Wilson's intervals over test images, mean over seeds.",
        publish.markdown(edge.readable(rows)),
    ]
    return "\n\n".join(parts) + "\n"


def figures_again(folder, keys) -> pd.DataFrame:
    """Return the figures of these networks, computed again from the published classes, form by form."""
    from kdlib.export import measure

    dataset = evidence.read(folder)[0].dataset
    with np.load(folder / "edge.npz") as arrays:
        place = {key: number for number, key in enumerate(arrays["keys"].tolist())}
        predicted = arrays["predicted"]
    rows = []
    for key in keys:
        forms = predicted[place[key]]
        rows += [{"key": key, **measure.figures(classes, forms[0], dataset)} for classes in forms]
    return pd.DataFrame(rows)


def problems(folder, mapped, parts) -> list:
    """Return what differs between the published page and table and what the classes give; empty where nothing does.

    mapped: `map`, or that of a pool; parts: into how many pieces the networks are cut."""
    from kdlib.report import verify

    rows = read(folder)
    keys = list(dict.fromkeys(rows["key"]))
    if unknown := set(keys) - set(pd.read_csv(folder / "results.csv")["key"]):
        return [f"{folder.name}/edge.csv has {len(unknown)} networks that results.csv lacks: publish it again (--edge)"]
    pieces = [list(piece) for piece in np.array_split(keys, min(parts, len(keys)))]
    again = pd.concat(mapped(figures_again, [folder] * len(pieces), pieces), ignore_index=True)
    if again["key"].tolist() != rows["key"].tolist():
        return [f"{folder.name}/edge.csv has other rows than edge.npz"]
    found = verify.compare(rows, again.drop(columns="key"), folder.name, "edge.csv")
    page = render(folder.name, rows)
    return found + verify.differences(f"{folder.name}/edge.md", (folder / "edge.md").read_text(), page)
