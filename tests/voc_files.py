"""Writes small sets of PASCAL VOC's layout."""

import numpy as np
from PIL import Image

TINY = {
    "train": {
        "a": (40, 30, [("zebra", 5, 6, 20, 25, 0), ("ant", 1, 1, 40, 30, 1)]),
        "b": (30, 60, [("ant", 11, 21, 20, 40, 0)]),
        "c": (50, 50, []),
    },
    "val": {"d": (40, 40, [("zebra", 1, 1, 10, 10, 0)])},
    "test": {"e": (64, 32, [("mole", 33, 1, 64, 16, 0)]), "f": (32, 64, [("ant", 2, 3, 30, 31, 0)])},
}  # of each list: the width and height of each image, and its objects as (class, xmin, ymin, xmax, ymax, difficult)


def xml(width, height, objects):
    things = "".join(
        f"<object><name>{name}</name><pose>Left</pose><difficult>{difficult}</difficult>"
        f"<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox>"
        f"<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"
        for name, xmin, ymin, xmax, ymax, difficult in objects
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>it.jpg</filename>{size}{things}</annotation>\n"


def write(folder, lists=TINY, seed=0):
    """The images, all of random pixels but for the objects, which are red, with their annotations and lists, in ``folder``."""
    random = np.random.default_rng(seed)
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, images in lists.items():
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{image}\n" for image in images))
        for image, (width, height, objects) in images.items():
            (folder / "Annotations" / f"{image}.xml").write_text(xml(width, height, objects))
            pixels = random.integers(0, 100, (height, width, 3)).astype(np.uint8)
            for _, xmin, ymin, xmax, ymax, _ in objects:
                pixels[ymin - 1 : ymax, xmin - 1 : xmax] = (255, 0, 0)
            Image.fromarray(pixels).save(folder / "JPEGImages" / f"{image}.jpg", quality=95)
    return folder
