"""Looks at an installation: libraries, machine, networks, and one photo segmented, each with its cure.

Nothing heavy is imported before it is looked at: what does not load is a finding, not a crash.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from shutil import which
from typing import Literal, NamedTuple

from deconvseg import __version__
from deconvseg.errors import DeconvSegError, reason
from deconvseg.machine import available_memory, cores

State = Literal["ok", "warning", "fault"]
"""All is well; it works, but not as well as it could; something does not work."""
_LIBRARIES = {
    **dict.fromkeys(("torch", "torchvision", "numpy", "scipy", "pillow", "safetensors"), ""),
    **dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), "export"),
    "pillow-heif": "heif",
    "ray": "ray",
}
"""Distribution -> the extra of deconvseg that installs it; empty for those that are always needed."""
_TESTED, _LABEL, _LEAST_SHARE = "deconvnet-lite", "cat", 0.5


class Finding(NamedTuple):
    """One thing that was looked at: its name, its state, what there is, and what to do about it."""

    name: str
    state: State
    found: str
    advice: str = ""


def examine(*checks: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Make these checks, or all, in turn; what stops one of them is a finding more."""
    for check in checks or (_system, _libraries, _opencv, _device, _weights, _photo):
        name = check.__name__.strip("_")
        try:
            yield from check()
        except DeconvSegError as error:
            found, _, advice = str(error).partition("; ")
            yield Finding(name, "fault", found, advice)
        except Exception as error:  # an installation can be broken in any way
            found = f"{type(error).__name__}: {reason(error)}"
            yield Finding(name, "fault", found, "install deconvseg again in a fresh environment")


def _system() -> Iterator[Finding]:
    yield Finding("deconvseg", "ok", f"{__version__}, in {Path(__file__).resolve().parent}")
    name = f"{platform.python_implementation()} {platform.python_version()}"
    yield Finding("Python", "ok", f"{name} on {platform.platform()}")
    threads = os.environ.get("OMP_NUM_THREADS")
    limit = f", OMP_NUM_THREADS={threads}" if threads else ""
    yield Finding("processors", "ok", f"{cores()} of {os.cpu_count()} for this process{limit}")
    if (free := available_memory()) is not None:
        advice = "close other programs; segmenting takes 1.2 GB and more for large photos"
        yield _judged("memory", free >= 2e9, f"{free / 1e9:.1f} GB free", advice)


def _libraries() -> Iterator[Finding]:
    for name, extra in _LIBRARIES.items():
        try:
            if not extra:
                import_module("PIL" if name == "pillow" else name)
            yield Finding(name, "ok", version(name))
        except Exception as error:  # torchvision of another torch raises RuntimeError
            if extra:
                yield Finding(name, "ok", f"not installed; optional (pip install 'deconvseg[{extra}]')")
            else:
                cure = f"pip install --force-reinstall {'torch torchvision' if 'torch' in name else name}"
                yield Finding(name, "fault", f"does not load ({reason(error)})", cure)


def _opencv() -> Iterator[Finding]:
    from deconvseg.proposals.edges import installed_wheels, opencv

    cv2, wheels = opencv(), installed_wheels()
    found = f"{cv2.__version__} with ximgproc ({', '.join(wheels) or 'no wheel'})"
    found += ": they share one folder, and the next update breaks it" * (len(wheels) > 1)
    cure = f"pip uninstall -y {' '.join(wheels)} && pip install opencv-contrib-python-headless"
    yield _judged("opencv", len(wheels) < 2, found, cure)


def _device() -> Iterator[Finding]:
    import torch

    from deconvseg.network.fold import pick_device, pick_precision

    device = pick_device("auto")
    cuda = torch.version.cuda
    found = f"torch is built for CUDA {cuda}, and finds no GPU" if cuda else "torch is built without CUDA"
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory / 1e9
        found = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(device)}, {memory:.0f} GB each"
    unused = device.type != "cuda" and which("nvidia-smi") is not None
    advice = "see what nvidia-smi says; update the driver, or install torch for its version of CUDA"
    precision = pick_precision("auto", device, None)  # of the shipped networks
    yield _judged("device", not unused, f"{device.type}, {precision}: {found}", advice)


def _weights() -> Iterator[Finding]:
    from deconvseg.weights import cure, fault, located, registry

    for name, entry in registry().items():
        path = located(entry)
        if path is None and entry.obtain:
            yield Finding(name, "ok", f"not here; optional ('deconvseg weights pull {name}' tells more)")
        else:
            checked = "sha256 is right" if entry.sha256 else "its sha256 is not known"
            wrong = fault(entry)
            yield _judged(name, not wrong, f"{path or entry.file}: {wrong or checked}", cure(entry), "fault")


def _photo() -> Iterator[Finding]:
    from deconvseg.images import example_photo
    from deconvseg.segmenter import Segmenter

    start = time.perf_counter()
    segmenter = Segmenter(_TESTED)
    segmenter.load()
    inference = segmenter.inference
    where = f"{inference.device}, {inference.precision}, {segmenter.settings.ensemble} ensemble"
    yield Finding("loading", "ok", f"{time.perf_counter() - start:.1f} s ({where})")
    result = segmenter.segment(example_photo())
    share = result.class_shares().get(_LABEL, 0.0)
    steps = ", ".join(f"{step} {seconds:.2f}" for step, seconds in result.seconds.items())
    found = f"{result.width} x {result.height}, seconds: {steps}; {_LABEL} {share:.0%}"
    advice = "the labels are wrong: try precision fp32 and device cpu, and report what this command says"
    yield _judged("photo", share >= _LEAST_SHARE, found, advice, "fault")


def _judged(name: str, good: bool, found: str, advice: str, bad: State = "warning") -> Finding:
    return Finding(name, "ok", found) if good else Finding(name, bad, found, advice)
