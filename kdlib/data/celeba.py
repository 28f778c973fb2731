"""CelebA: faces of celebrities with 40 binary attributes."""

from kdlib.data import rows, table
from kdlib.data.splits import Dataset
from kdlib.names import unknown_name

ATTRIBUTES, PARTITION = "list_attr_celeba.*", "list_eval_partition.*"
ADVICE = (
    "get img_align_celeba.zip, list_attr_celeba.txt and list_eval_partition.txt from "
    "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, and unpack them there"
)


def prepare(*, path="celeba", label="Blond_Hair", group="Male", size=64, flip=True, leave_out=0.01) -> Dataset:
    """`celeba`: 202,599 faces of celebrities with 40 attributes (Liu et al., ICCV 2015); non-commercial research only.

    The class is whether the hair is blond, and the group is gender, as in Sagawa et al. (ICLR 2020); any attribute can be
    either. The three splits are the official ones.

    Parameters
    ----------
    path : str
        The folder with the aligned images and the two lists (also as CSV), from the data folder on if it is not absolute.
    label, group : str
        Attributes, such as "Smiling"; several crossed, such as "Male+Young".
    size, flip, leave_out
        As in `table.prepare`.

    Raises
    ------
    ValueError
        For an unknown attribute, options outside their ranges and lists that are not as published.
    FileNotFoundError
        If there are no data; the message says where to get them.
    """
    place, attributes = table.official(path, ATTRIBUTES, ADVICE)
    _, partition = table.official(path, PARTITION, ADVICE)
    frame = rows.read(attributes[:1])
    frame = frame.rename(columns={frame.columns[0]: "file"})
    split = rows.read(partition[:1], header=("file", "split") if partition[0].suffix == ".txt" else None)
    split = dict(zip(rows.texts(split.iloc[:, 0]), rows.texts(split.iloc[:, 1]), strict=True))
    frame["split"] = [split.get(name, "") for name in rows.texts(frame["file"])]
    orders = {}
    for role, columns in (("label_values", label), ("group_values", group)):
        for column in columns.split("+"):
            if column not in frame:
                raise unknown_name(column, frame.columns[1:-1], "attribute of celeba:")
            no, yes = ("female", "male") if column == "Male" else (f"not {column}", column)
            frame[column] = [no if text in ("-1", "0", no) else yes for text in rows.texts(frame[column])]
            orders[role] = f"'{no}={no}' '{yes}={yes}'"
    options = table.defaults(
        label=label, group=group, split="split", split_values="0=train 1=val 2=test", **orders, size=size, flip=flip,
        leave_out=leave_out,
    )  # fmt: skip
    return table.from_rows(place, frame, options, attributes[0], "celeba")


def attributes(**_):
    """The attributes that are no matter of the photograph; any of the 40 can be given."""
    return ("Male", "Young")


def stamp(*, path, **_) -> str | None:
    """What changes when the images or the lists do; None if they are missing."""
    return table.official_stamp(path, ATTRIBUTES, PARTITION)
