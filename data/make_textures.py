"""Make the folder of texture images that this repository ships, or check it.

    python data/make_textures.py [--out FOLDER] [--check]

Writes brick, grass and gravel in the layout of MVTec AD: ``train/good``, ``test/good``,
``test/<defect>``, ``ground_truth/<defect>/<name>_mask.png``. With ``--check`` nothing is changed:
the images are made again elsewhere and compared byte for byte, and the exit code is 1 if a file
differs, is missing or is not one of them.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from htdg.datasets.samples import TEXTURES, texture_set

SHIPPED = Path(__file__).resolve().parent / "textures"


def write_textures(folder: Path) -> None:
    """Write all images below ``folder``, replacing what is there."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    for texture in TEXTURES:
        sample, place = texture_set(texture), temporary / texture
        for name, image in zip(sample.train_names, sample.train, strict=True):
            _write(place / f"{name}.png", image)
        for name, image, mask in zip(sample.names, sample.test, sample.masks, strict=True):
            _write(place / f"{name}.png", image)
            if mask is not None:
                mask_name = name.replace("test/", "ground_truth/", 1)
                _write(place / f"{mask_name}_mask.png", mask.astype(np.uint8) * 255)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def differences(folder: Path) -> list[str]:
    """What is wrong with the folder, a line for each file; empty if nothing is."""
    with tempfile.TemporaryDirectory() as elsewhere:
        made = Path(elsewhere) / "textures"
        write_textures(made)
        wanted = {p.relative_to(made) for p in made.rglob("*.png")}
        there = {p.relative_to(folder) for p in folder.rglob("*") if p.is_file()}
        found = [f"{folder / name} is missing" for name in sorted(wanted - there)]
        found += [f"{folder / name} is not one of them" for name in sorted(there - wanted)]
        for name in sorted(wanted & there):
            if not filecmp.cmp(made / name, folder / name, shallow=False):
                found.append(f"{folder / name} differs from what this script makes")
        return found


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Grey images of one size compress no better with level 9, and level 6 is every version's.
    Image.fromarray(image).save(path, compress_level=6)


def main(arguments: list[str] | None = None) -> int:
    """Write or check the folder; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make or check the shipped texture images.")
    parser.add_argument("--out", type=Path, default=SHIPPED, help="folder (default: data/textures)")
    parser.add_argument("--check", action="store_true", help="compare, change nothing")
    options = parser.parse_args(arguments)
    if not options.check:
        write_textures(options.out)
        return 0
    found = differences(options.out)
    print("\n".join(found) or f"{options.out} is as this script makes it")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
