"""Classify a folder of pictures with an exported student, and print what its model card says it is not good for.

    python -m kdlib export --profile quick --method ckd --seed 0 --out student/
    python examples/edge_demo.py student/student_int8.onnx pictures/

It needs numpy, onnxruntime and Pillow, and nothing else of this project: copy it with the .onnx file and the .json beside it.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"}


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="the .onnx file, with its card (.json) beside it")
    parser.add_argument("folder", type=Path, help="of pictures")
    chosen = parser.parse_args(arguments)
    try:
        classify(chosen.model, chosen.folder)
    except ModuleNotFoundError as error:
        print(f"edge_demo: needs numpy, onnxruntime and Pillow; {error.name} is not installed", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"edge_demo: {error}", file=sys.stderr)
        return 1
    return 0


def read_card(model) -> dict:
    """Return the card beside a file. Raises ValueError where the file is not the one that the card describes."""
    if not model.is_file():
        raise ValueError(f"there is no file {model}")
    file = model.with_suffix(".json")
    if not file.is_file():
        raise ValueError(f"the model card {file} is missing: it has the classes, so copy it with {model.name}")
    card = json.loads(file.read_text())
    if hashlib.sha256(model.read_bytes()).hexdigest() != card["sha256"]:
        raise ValueError(f"{model} is not the file that {file.name} describes: its SHA-256 differs")
    return card


def classify(model, folder):
    """Print the class of each picture in `folder`, with its probability, and the limits of the model."""
    import numpy as np
    import onnxruntime
    from PIL import Image, ImageOps

    card = read_card(model)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"no pictures in {folder}; these endings are read: {', '.join(sorted(SUFFIXES))}")
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    height, width = card["input"]["shape"][2:]
    for file in files:
        try:
            picture = ImageOps.exif_transpose(Image.open(file)).convert("RGB").resize((width, height))
        except OSError as error:  # what Pillow raises for a damaged file, too
            print(f"{file.name}: cannot be read ({error})", file=sys.stderr)
            continue
        pixels = np.asarray(picture).transpose(2, 0, 1)[None]
        if card["input"]["type"] == "float":
            pixels = pixels / np.float32(255)
        logits = session.run(None, {card["input"]["name"]: np.ascontiguousarray(pixels)})[0][0].astype(float)
        shares = np.exp(logits - logits.max())
        best = int(logits.argmax())
        print(f"{file.name}: {card['classes'][best]} ({shares[best] / shares.sum():.0%})")
    print(f"\n{card['file']}: {card['student']}, {card['format']}. Its limits:")
    for limit in card["limits"]:
        print(f"- {limit}")


if __name__ == "__main__":
    sys.exit(main())
