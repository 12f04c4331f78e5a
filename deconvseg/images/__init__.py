"""Reading photos, writing results."""

from pathlib import Path

from deconvseg.errors import InputError

PHOTO_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".tif", ".tiff"),
    *(".bmp", ".gif", ".jp2", ".ppm", ".pgm", ".pbm", ".heic", ".heif", ".hif"),
)
"""How the name of a photo may end, in small or capital letters."""


def example_photo() -> Path:
    """`cat.jpg` of `examples/` in a checkout, or its copy inside the installed package; 451 x 300 pixels."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_examples", package.parent / "examples"):
        if (folder / "cat.jpg").is_file():
            return folder / "cat.jpg"
    raise InputError(f"{package}: the example photo is missing; install deconvseg again, or name a photo")
