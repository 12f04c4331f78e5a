"""Semantic segmentation with a learned deconvolution network over object proposals."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deconvseg.errors import DeconvSegError
    from deconvseg.segmentation import Segmentation
    from deconvseg.segmenter import Segmenter

__version__ = "0.1.0"
__all__ = ["DeconvSegError", "Segmentation", "Segmenter", "__version__"]

# Imported at first use: torch takes seconds, and the command line needs none of it to show its help.
_HOMES = {
    "DeconvSegError": "deconvseg.errors",
    "Segmentation": "deconvseg.segmentation",
    "Segmenter": "deconvseg.segmenter",
}


if not TYPE_CHECKING:  # else type checkers would take any name for one of ours

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
