"""Reading photos, writing results."""

PHOTO_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".tif", ".tiff"),
    *(".bmp", ".gif", ".jp2", ".ppm", ".pgm", ".pbm", ".heic", ".heif", ".hif"),
)
"""How the name of a photo may end, in small or capital letters."""
