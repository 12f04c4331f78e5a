"""From the name of a network or forest to its file."""

from __future__ import annotations

from pathlib import Path

from deconvseg.errors import WeightsError

_NAMES = {"default": "deconvnet-lite.safetensors", "deconvnet-lite": "deconvnet-lite.safetensors"}
_FOREST = "edges.yml.gz"


def weights_folder() -> Path:
    """Where the shipped files are: `weights/` of a checkout, or its copy inside the installed package.

    Raises:
        WeightsError: the installation is incomplete.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "_shipped", package.parent / "weights"):
        if (folder / _FOREST).is_file():
            return folder
    raise WeightsError(f"{package}: the shipped weights are missing; install deconvseg again")


def network_file(weights: str | Path) -> Path:
    """The file of a network, given by name (`default`, `deconvnet-lite`) or as a path.

    Raises:
        WeightsError: neither a known name nor an existing file.
    """
    if isinstance(weights, str) and weights in _NAMES:
        return weights_folder() / _NAMES[weights]
    path = Path(weights)
    if not path.is_file():
        raise WeightsError(
            f"{weights}: no such network file, nor a network's name (known: {', '.join(sorted(_NAMES))})"
        )
    return path


def forest_file(forest: str | Path | None = None) -> Path:
    """The structured edge forest: the shipped one, or a file of your own.

    Raises:
        WeightsError: there is no such file.
    """
    if forest is None:
        return weights_folder() / _FOREST
    path = Path(forest)
    if not path.is_file():
        raise WeightsError(f"{forest}: there is no such edge forest file")
    return path
