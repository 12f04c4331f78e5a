"""Finds OpenCV with its contrib module `ximgproc`, or says which wheels are in the way and what cures it."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

from deconvseg.errors import MissingDependencyError

_WANTED = "opencv-contrib-python-headless"


def opencv() -> Any:
    """The `cv2` module, with `cv2.ximgproc` in it.

    Raises:
        MissingDependencyError: if OpenCV is absent, does not load, or lacks ximgproc. The last is what
            happens when two OpenCV wheels are installed: they share one folder `cv2`, and whichever came last
            overwrote the other.
    """
    try:
        cv2 = importlib.import_module("cv2")
    except ImportError as error:
        raise MissingDependencyError(f"OpenCV does not load ({error}); {_cure()}") from error
    if not hasattr(getattr(cv2, "ximgproc", None), "createStructuredEdgeDetection"):
        raise MissingDependencyError(f"OpenCV has no structured edges (cv2.ximgproc); {_cure()}")
    return cv2


def installed_wheels() -> list[str]:
    """Names of the installed OpenCV wheels, sorted; more than one is a clash."""
    names = {(dist.metadata["Name"] or "").lower() for dist in importlib.metadata.distributions()}
    return sorted(name for name in names if name.startswith("opencv-") and "python" in name)


def _cure() -> str:
    wheels = installed_wheels()
    found = f"installed: {', '.join(wheels) or 'no OpenCV wheel'}"
    # A clash leaves files of both wheels in one folder, so all must go before the right one is put back.
    remove = f"pip uninstall -y {' '.join(wheels)} && " if wheels else ""
    return f"{found}; run: {remove}pip install {_WANTED}"
