"""FairFace, CelebA and Waterbirds as small trees in exactly the published layout."""

import numpy as np
import pandas as pd
from PIL import Image

AGES = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")


def draw(file, number):
    """Write an image whose pixels are all (number, 0, 0)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (number, 0, 0)).save(file.with_suffix(".png"))
    file.with_suffix(".png").rename(file)


def numbers(split):
    return split.images[:, 0, 0, 0].astype(int)


def fairface_rows(count):
    ages = [AGES[number % 9] for number in range(count)]
    genders = [("Male", "Female")[number // 9 % 2] for number in range(count)]
    races = [("Black", "East Asian", "White")[number // 18 % 3] for number in range(count)]
    return pd.DataFrame({"age": ages, "gender": genders, "race": races, "service_test": np.arange(count) % 2 == 0})


def fairface(folder):
    """Return the place of 108 training and 54 validation images, numbered from 0 and from 120."""
    for part, count, first in (("train", 108, 0), ("val", 54, 120)):
        frame = fairface_rows(count)
        frame.insert(0, "file", [f"{part}/{number + 1}.jpg" for number in range(count)])
        for number, name in enumerate(frame.file):
            draw(folder / "fairface" / name, first + number)
        frame.to_csv(folder / "fairface" / f"fairface_label_{part}.csv", index=False)
    return folder / "fairface"


def celeba(folder, form="official"):
    """Return the official split (0, 1, 2) of each of 48 images, whose number's bits are blond, male and young."""
    place, attributes = folder / "celeba", ("Blond_Hair", "Male", "Young")
    names = [f"{number + 1:06}.jpg" for number in range(48)]
    values = [[1 if number >> bit & 1 else -1 for bit in range(3)] for number in range(48)]
    parts = [(0, 0, 1, 2)[number // 8 % 4] for number in range(48)]
    for number, name in enumerate(names):
        draw(place / "img_align_celeba" / name, number)
    if form == "official":
        (place / "Anno").mkdir()
        rows_of = [f"{name}  {'  '.join(map(str, each))}\n" for name, each in zip(names, values, strict=True)]
        (place / "Anno" / "list_attr_celeba.txt").write_text(f"48\n{' '.join(attributes)} \n" + "".join(rows_of))
        lines = [f"{name} {part}" for name, part in zip(names, parts, strict=True)]
        (place / "list_eval_partition.txt").write_text("\n".join(lines))
    else:
        frame = pd.DataFrame(values, columns=attributes)
        frame.insert(0, "image_id", names)
        frame.to_csv(place / "list_attr_celeba.csv", index=False)
        pd.DataFrame({"image_id": names, "partition": parts}).to_csv(place / "list_eval_partition.csv", index=False)
    return parts


def waterbirds(folder):
    """Return the rows of metadata.csv: number, file, bird, split, place, file of the place."""
    table = []
    for number in range(48):
        name = f"{number % 3:03}.Some_Bird/Some_Bird_{number}.jpg"
        draw(folder / "waterbirds" / name, number)
        y, place, split = number & 1, number >> 1 & 1, (0, 0, 1, 2)[number // 4 % 4]
        table.append((number, name, y, split, place, f"/o/ocean/{number}.jpg"))
    columns = ["img_id", "img_filename", "y", "split", "place", "place_filename"]
    pd.DataFrame(table, columns=columns).to_csv(folder / "waterbirds" / "metadata.csv", index=False)
    return table
