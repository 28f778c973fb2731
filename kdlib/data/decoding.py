"""One image file to pixels: which formats and sizes are accepted, and how cameras held it."""

import contextlib
import io
import os

import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 50_000_000  # of one image: more is taken for a decompression bomb, unless KDLIB_MAX_PIXELS is larger
MAX_SIDE = 65_500  # of one image, where its pixels are fewer: what a JPEG can have
FORMATS = (
    "JPEG",
    "PNG",
    "BMP",
    "GIF",
    "PPM",
    "TIFF",
    "WEBP",
)  # Pillow hands others, such as EPS, to programs of the system


def one(source, size) -> np.ndarray:
    """Decode one image, a path or bytes, to uint8 (3, size, size); raise whatever is wrong with it."""
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
        if image.width * image.height > (most := most_pixels()) or max(image.size) > MAX_SIDE:
            raise ValueError(
                f"{image.width} × {image.height} pixels, more than {most} or {MAX_SIDE} a side: a decompression bomb? "
                "KDLIB_MAX_PIXELS sets how many pixels are accepted"
            )
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"more than 8 bits a channel (Pillow's mode {image.mode}), which would be cut off")
        ImageOps.exif_transpose(image, in_place=True)  # cameras note how they were held
        if image.mode != "RGB":
            image = image.convert("RGB")
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(image).transpose(2, 0, 1)


def most_pixels() -> int:
    """Return how many pixels an image may have: `MAX_PIXELS`, or what KDLIB_MAX_PIXELS says."""
    text = os.environ.get("KDLIB_MAX_PIXELS", "").replace("_", "") or str(MAX_PIXELS)
    if not (text.isdecimal() and int(text)):
        raise ValueError(f"KDLIB_MAX_PIXELS is a number of pixels, as {2 * MAX_PIXELS}; got {text!r}")
    return int(text)


@contextlib.contextmanager
def own_limit():
    """Have Pillow open images of any size: `one` has a limit of its own."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
