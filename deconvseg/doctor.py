"""Looks at an installation: libraries, machine, networks, and one photo segmented, each with its cure.

Nothing heavy is imported before it is looked at: what does not load is a finding, not a crash.
"""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shutil import which
from typing import Literal

from deconvseg import __version__
from deconvseg.errors import DeconvSegError
from deconvseg.machine import available_memory, cores

State = Literal["ok", "warning", "fault"]

_NEEDED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "scipy": "scipy",
    "pillow": "PIL",
    "safetensors": "safetensors",
}
"""Distribution -> the module it brings."""
_OPTIONAL = {
    "pillow-heif": "heif",
    "ray": "ray",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "export",
}
"""Distribution -> the extra of deconvseg that installs it."""
_TESTED, _LABEL, _LEAST_SHARE = "deconvnet-lite", "cat", 0.5


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what it is.
        state: `ok`; `warning`: it works, but not as well as it could; `fault`: something does not work.
        found: what there is.
        advice: what to do about it; empty where there is nothing to do.
    """

    name: str
    state: State
    found: str
    advice: str = ""


def examine(*, self_test: bool = True) -> Iterator[Finding]:
    """Look at everything in turn; the home folder is written `~`.

    Args:
        self_test: segment the photo that comes along.
    """
    checks = [_system, _processors, _libraries, _opencv, _device, _folder, _weights]
    for check in [*checks, _self_test] if self_test else checks:
        for finding in _survived(check):
            yield replace(finding, found=_shortened(finding.found), advice=_shortened(finding.advice))


def summary(findings: list[Finding]) -> State:
    """The worst state of all."""
    order: tuple[State, ...] = ("ok", "warning", "fault")
    return max((finding.state for finding in findings), key=order.index, default="ok")


def _survived(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a check; whatever stops it is one more."""
    try:
        yield from check()
    except DeconvSegError as error:
        found, _, advice = str(error).rpartition("; ")
        yield Finding(_title(check), "fault", found or advice, advice if found else "")
    except Exception as error:  # an installation can be broken in any way
        yield Finding(
            _title(check), "fault", _reason(error), "install deconvseg again in a fresh environment"
        )


def _title(check: Callable[[], object]) -> str:
    return check.__name__.strip("_").replace("_", " ")


def _system() -> Iterator[Finding]:
    yield Finding("deconvseg", "ok", f"{__version__}, in {Path(__file__).resolve().parent}")
    name = f"{platform.python_implementation()} {platform.python_version()}"
    yield Finding("Python", "ok", f"{name} on {platform.platform()}")


def _processors() -> Iterator[Finding]:
    threads = os.environ.get("OMP_NUM_THREADS")
    limit = f", OMP_NUM_THREADS={threads}" if threads else ""
    yield Finding("processors", "ok", f"{cores()} of {os.cpu_count()} for this process{limit}")
    free = available_memory()
    if free is not None:
        small = free < 2e9
        advice = "close other programs; segmenting takes 1.2 GB and more for large photos" if small else ""
        yield Finding("memory", "warning" if small else "ok", f"{free / 1e9:.1f} GB free", advice)


def _libraries() -> Iterator[Finding]:
    for name, module in _NEEDED.items():
        try:
            import_module(module)
            yield Finding(name, "ok", version(name))
        except Exception as error:  # torchvision of another torch raises RuntimeError
            pair = "torch torchvision" if name in ("torch", "torchvision") else name
            yield Finding(
                name, "fault", f"does not load ({_reason(error)})", f"pip install --force-reinstall {pair}"
            )
    for name, extra in _OPTIONAL.items():
        try:
            yield Finding(name, "ok", version(name))
        except PackageNotFoundError:
            yield Finding(name, "ok", f"not installed; optional (pip install 'deconvseg[{extra}]')")


def _opencv() -> Iterator[Finding]:
    from deconvseg.proposals.edges import installed_wheels, opencv

    cv2, wheels = opencv(), installed_wheels()
    found = f"{cv2.__version__} with ximgproc ({', '.join(wheels) or 'no wheel'})"
    if len(wheels) > 1:
        keep = "opencv-contrib-python-headless"
        yield Finding(
            "opencv",
            "warning",
            f"{found}: they share one folder, and the next update breaks it",
            f"pip uninstall -y {' '.join(wheels)} && pip install {keep}",
        )
    else:
        yield Finding("opencv", "ok", found)


def _device() -> Iterator[Finding]:
    import torch

    from deconvseg.network.fold import pick_device, pick_precision

    device = pick_device("auto")
    precision = pick_precision("auto", device)
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
        cards = torch.cuda.device_count()
        yield Finding(
            "device",
            "ok",
            f"cuda: {cards} x {torch.cuda.get_device_name(device)}, {memory / 1e9:.0f} GB each",
        )
    else:
        yield _processor_finding(torch.version.cuda, mps=torch.backends.mps.is_available())
    reasons = {
        ("cpu", "bf16"): "this processor multiplies it natively",
        ("cpu", "fp32"): "this processor does not multiply bf16 natively",
        ("cuda", "bf16"): "this GPU multiplies it natively",
        ("cuda", "fp16"): "this GPU does not multiply bf16 natively",
    }
    yield Finding("precision", "ok", f"{precision}: {reasons[device.type, precision]}")


def _processor_finding(cuda: str | None, *, mps: bool) -> Finding:
    """Why no GPU is used, and whether that is as it should be."""
    built = f"torch is built for CUDA {cuda}, and finds no GPU" if cuda else "torch is built without CUDA"
    if which("nvidia-smi"):
        advice = "look at what nvidia-smi says; update the driver, or install torch for its version of CUDA"
        if cuda is None:
            advice = "install torch with CUDA (pytorch.org/get-started)"
        return Finding("device", "warning", f"cpu, though there is an NVIDIA driver: {built}", advice)
    apple = "; Apple's GPU is used if asked for (--device mps)" if mps else ""
    return Finding("device", "ok", f"cpu: {built}{apple}")


def _folder() -> Iterator[Finding]:
    from deconvseg.weights import cache_folder

    folder = cache_folder()
    if folder is None:
        advice = "let DECONVSEG_HOME name a folder; only fetched networks need it"
        yield Finding("cache", "warning", "there is no home directory", advice)
        return
    own = " (DECONVSEG_HOME)" if os.environ.get("DECONVSEG_HOME") else ""
    above = next(path for path in (folder, *folder.parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        yield Finding(
            "cache",
            "warning",
            f"{folder}{own} cannot be written",
            "let DECONVSEG_HOME name another folder; only fetched networks need it",
        )
        return
    made = "" if folder.exists() else ", not made yet"
    yield Finding("cache", "ok", f"{folder}{own}{made}")


def _weights() -> Iterator[Finding]:
    from deconvseg.weights import cure, fault, is_shipped, located, registry

    for name, entry in registry().items():
        path = located(entry)
        if path is None and is_shipped(entry):
            yield Finding(name, "fault", "was shipped and is missing", "install deconvseg again")
        elif path is None:
            yield Finding(name, "ok", f"not here; optional ('deconvseg weights pull {name}' tells more)")
        elif wrong := fault(entry, path):
            yield Finding(name, "fault", f"{path} {wrong}", cure(entry, path))
        else:
            checked = "sha256 is right" if entry.sha256 else "its sha256 is not known"
            yield Finding(name, "ok", f"{path}, {path.stat().st_size / 1e6:.1f} MB, {checked}")


def _self_test() -> Iterator[Finding]:
    from deconvseg.images import example_photo
    from deconvseg.segmenter import Segmenter

    start = time.perf_counter()
    segmenter = Segmenter(_TESTED)
    segmenter.load()
    where = f"{segmenter.device}, {segmenter.precision}, {segmenter.ensemble} ensemble"
    yield Finding("loading", "ok", f"{time.perf_counter() - start:.1f} s ({where})")
    start = time.perf_counter()
    result = segmenter.segment(example_photo())
    total = time.perf_counter() - start
    share = result.class_shares().get(_LABEL, 0.0)
    steps = ", ".join(f"{step} {seconds:.2f}" for step, seconds in result.seconds.items())
    found = f"{result.width} x {result.height} in {total:.1f} s ({steps}): {_LABEL} {share:.0%}"
    if share < _LEAST_SHARE:
        advice = (
            "the labels are wrong: try --precision fp32 and --device cpu, and report what this command says"
        )
        yield Finding("photo", "fault", found, advice)
    else:
        yield Finding("photo", "ok", found)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _shortened(text: str) -> str:
    home = os.path.expanduser("~")  # noqa: PTH111 (without a home directory it stays "~")
    return re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text) if len(home) > 1 else text
