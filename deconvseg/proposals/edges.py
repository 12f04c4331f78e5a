"""Edge maps of photos by a structured forest, and OpenCV's contrib modules, which compute them."""

from __future__ import annotations

import gzip
import importlib
import importlib.metadata
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvseg.errors import MissingDependencyError, WeightsError, reason

BORDER = 16
"""Pixels of mirrored photo added on each side: OpenCV's windows alone leave the outer 16 with few votes."""
_FIELDS = ("options", "childs", "featureIds", "thresholds", "edgeBoundaries", "edgeBins")


class EdgeDetector:
    """OpenCV's structured edges (Dollar and Zitnick, PAMI 2015) with a forest, for any number of threads."""

    def __init__(self, forest_path: str | Path) -> None:
        """Load a forest, `.yml` or `.yml.gz`, of a source that you trust: OpenCV believes its numbers.

        Raises WeightsError if the file is missing, damaged or something else.
        """
        cv2, path = opencv(), Path(forest_path)
        try:
            text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            # OpenCV divides by what it does not find.
            if not text.startswith(b"%YAML") or not all(f"\n{name}:".encode() in text for name in _FIELDS):
                raise ValueError(f"it is no YAML with the fields {', '.join(_FIELDS)}")
            self._forest: Any = cv2.ximgproc.createStructuredEdgeDetection(str(path))
        except (OSError, EOFError, zlib.error, ValueError, cv2.error) as error:
            cure = "fetch it again, or leave --forest out"
            raise WeightsError(f"{path}: no whole edge forest ({reason(error)}); {cure}") from error

    def detect(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Edge strength at every pixel of a photo: float32 (H, W), 0 to about 1, the share of votes for an
        edge, smoothed, not thinned. It is uint8 (H, W, 3), RGB, not empty."""
        padded = opencv().copyMakeBorder(image, *[BORDER] * 4, opencv().BORDER_REFLECT)
        edges = self._forest.detectEdges(padded.astype(np.float32) / 255)
        return np.ascontiguousarray(edges[BORDER:-BORDER, BORDER:-BORDER])

    def thin(self, edges: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Edges (H, W), 0 beside every ridge; and the direction across them, float32, radians, 0 to pi."""
        orientation = self._forest.computeOrientation(edges)
        # Radius 2, no suppression at the image border (s=0), no bias (m=1): the settings of edgeBoxes.m.
        return self._forest.edgesNms(edges, orientation, None, 2, 0, 1, True), orientation


def opencv() -> Any:
    """The `cv2` module, with `cv2.ximgproc` in it; MissingDependencyError if it does not load, or lacks that,
    as where two OpenCV wheels are installed, which share one folder."""
    fault = "has no structured edges (cv2.ximgproc)"
    try:
        cv2 = importlib.import_module("cv2")
        if hasattr(getattr(cv2, "ximgproc", None), "createStructuredEdgeDetection"):
            return cv2
    except ImportError as error:
        fault = f"does not load ({error})"
    wheels = installed_wheels()
    # A clash leaves files of both wheels in one folder, so all must go before the right one is put back.
    remove = f"pip uninstall -y {' '.join(wheels)} && " if wheels else ""
    raise MissingDependencyError(
        f"OpenCV {fault}; installed: {', '.join(wheels) or 'no OpenCV wheel'}; "
        f"run: {remove}pip install opencv-contrib-python-headless"
    )


def installed_wheels() -> list[str]:
    """Names of the installed OpenCV wheels, sorted; more than one is a clash."""
    names = {(dist.metadata["Name"] or "").lower() for dist in importlib.metadata.distributions()}
    return sorted(name for name in names if name.startswith("opencv-") and "python" in name)
