"""FairFace: faces with age, gender and race."""

from kdlib.data import rows, table
from kdlib.data.splits import Dataset

TABLES = "fairface_label_*.csv"
ADVICE = (
    "get the images (padding 0.25 or 1.25) and the two label files from https://github.com/joojs/fairface, and put train/, "
    "val/, fairface_label_train.csv and fairface_label_val.csv there"
)
AGES = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")
# A copy that circulates was saved by a spreadsheet, which took two bands for dates.
DATES = {"03-Sep": "3-9", "3-Sep": "3-9", "09-Mar": "3-9", "9-Mar": "3-9", "Oct-19": "10-19", "19-Oct": "10-19"}


def prepare(
    *, path="fairface", label="age", group="gender", where="", size=64, val_share=0.1, seed=0, flip=True, leave_out=0.01
) -> Dataset:
    """`fairface`: 97,698 faces, balanced by race, with age, gender and race (Kärkkäinen and Joo, WACV 2021); CC BY 4.0.

    The class is one of nine age bands and the group is gender; any of age, gender and race can be either. The published
    validation images are the test split, since the labels of the test images are not public; val is cut from the training
    images, stratified by class and group.

    Parameters
    ----------
    path : str
        The folder with train/, val/ and their two tables, from the data folder on if it is not absolute.
    label, group : str
        age, gender, race, or several crossed, such as "gender+race".
    where : str
        Which rows to keep, such as "service_test == True".
    size, val_share, seed, flip, leave_out
        As in `table.prepare`.

    Raises
    ------
    ValueError
        For options outside their ranges and tables that are not as published.
    FileNotFoundError
        If there are no data; the message says where to get them.
    """
    place, tables = table.official(path, TABLES, ADVICE)
    if len(tables) != 2:
        raise FileNotFoundError(f"{place} has {tables[0].name} alone: {ADVICE}")
    frame = rows.read(tables)
    if "age" in frame:
        frame["age"] = [DATES.get(text, text) for text in rows.texts(frame["age"])]
    ages = " ".join(f"'{age}={age}'" for age in AGES)
    options = table.defaults(
        label=label,
        group=group,
        split="table",
        split_values="fairface_label_train=train fairface_label_val=test",
        label_values=ages if label == "age" else "",
        group_values=ages if group == "age" else "",
        **{"where": where, "size": size, "val_share": val_share, "seed": seed, "flip": flip, "leave_out": leave_out},
    )
    return table.from_rows(place, frame, options, tables[0].with_name(TABLES), "fairface")


def attributes(*, label, **_):
    """What a face is known by, beside the class."""
    return [name for name in ("age", "gender", "race") if name != label]


def stamp(*, path, **_) -> str | None:
    """What changes when the images or the tables do; None if they are missing."""
    return table.official_stamp(path, TABLES)
