"""Reading photos, writing results."""

from pathlib import Path

PHOTO_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".tif", ".tiff"),
    *(".bmp", ".gif", ".jp2", ".ppm", ".pgm", ".pbm", ".heic", ".heif", ".hif"),
)
"""How the name of a photo may end, in small or capital letters."""


def example_photo() -> Path:
    """`cat.jpg` of `examples/` in a checkout, or its copy inside the installed package; 451 x 300 pixels."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_examples/cat.jpg"
    return installed if installed.is_file() else package.parent / "examples/cat.jpg"
