"""Waterbirds: birds in front of places that they mostly live at."""

from kdlib.data import rows, table
from kdlib.data.splits import Dataset

METADATA = "metadata.csv"
ADVICE = (
    "unpack https://nlp.stanford.edu/data/dro/waterbird_complete95_forest2water2.tar.gz there, with its metadata.csv"
)


def prepare(*, path="waterbirds", size=64, flip=True, leave_out=0.01) -> Dataset:
    """`waterbirds`: 11,788 birds of CUB in front of places of Places365 (Sagawa et al., ICLR 2020); research only.

    The class is the bird, landbird or waterbird, and the group is the place, land or water. In training, 95 % of the birds
    are at their own place; in the official val and test splits half of each. The three splits are the official ones.

    Parameters
    ----------
    path : str
        The folder with metadata.csv and the images, from the data folder on if it is not absolute.
    size, flip, leave_out
        As in `table.prepare`.

    Raises
    ------
    ValueError
        For options outside their ranges and a table that is not as published.
    FileNotFoundError
        If there are no data; the message says where to get them.
    """
    place, tables = table.official(path, METADATA, ADVICE)
    options = table.defaults(
        file="img_filename", label="y", group="place", split="split", label_values="0=landbird 1=waterbird",
        group_values="0=land 1=water", split_values="0=train 1=val 2=test", size=size, flip=flip, leave_out=leave_out,
    )  # fmt: skip
    return table.from_rows(place, rows.read(tables), options, tables[0], "waterbirds")


def stamp(*, path, **_) -> str | None:
    """What changes when the images or the table do; None if they are missing."""
    return table.official_stamp(path, METADATA)
