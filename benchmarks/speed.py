"""How fast deconvseg is, against plain PyTorch, ONNX Runtime, pydensecrf and the machine's own limit.

    python benchmarks/speed.py [--threads N] [--photos DIR] [--only network,crf] [--json speed.json]

Every ratio but the folder's compares two things that ran in turn in one process; the figure is the median of
the rounds. The parts:

- network: crops a second of the prepared network (folded, channels last, bf16 where the processor has it)
  against the same network as it was trained (float32, BatchNorm, contiguous), and against our own export in
  ONNX Runtime where the extra `export` is installed; its convolutions against a matrix product of 3072 x 3072
  at the same precision;
- crf: against pydensecrf2, where it is installed, with all classes and with those that ours works on;
- proposals: each step;
- photo: one photo, step by step; how much memory a process that does nothing else takes for it (Linux);
- precision: one photo in bf16 and int8, against fp32;
- avx2: the same in a process that is held to AVX2, as on most laptops;
- peer: one photo against another tool's network, `--peer FILE` (.onnx or .tflite), on random numbers;
- folder: the photos again and again up to 50, against single runs of the command;
- start: of the command, and to the first mask.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from deconvseg.export import onnx_model
from deconvseg.images.read import read_image
from deconvseg.machine import reuse_freed_memory
from deconvseg.network import int8
from deconvseg.network.base import SegmentationNetwork
from deconvseg.network.checkpoint import load_network
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.network.fold import Precision, pick_precision, prepare
from deconvseg.proposals.boxes import edge_boxes, propose
from deconvseg.proposals.edges import EdgeDetector
from deconvseg.segmenter import Segmenter
from deconvseg.settings import Settings
from deconvseg.weights import forest_file, network_file

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 5
CROPS = 8
FOLDER = 50
PRODUCT = 3072
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
PEAK = """
import re, sys
from deconvseg.machine import reuse_freed_memory
from deconvseg.segmenter import Segmenter
from deconvseg.settings import Settings
reuse_freed_memory()
Segmenter().segment(sys.argv[1])
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""
"""In a process of its own; getrusage would count the memory of the one that started it as well."""


@dataclass(frozen=True)
class Row:
    """One line of the table: `ours` and `other`, in the same unit."""

    part: str
    what: str
    ours: float
    unit: str
    other: float | None = None
    against: str = ""
    higher_is_better: bool = False

    @property
    def ratio(self) -> float | None:
        """Above 1 where ours is better."""
        if not self.other or not self.ours:
            return None
        return self.ours / self.other if self.higher_is_better else self.other / self.ours


def in_turn(*calls: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """Median seconds of each, run one after the other in every round; a first round is not counted."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds + 1):
        for call, times in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    return [statistics.median(times[1:]) for times in seconds]


def network_rows(photos: Sequence[Path]) -> Iterator[Row]:
    """Crops a second, and arithmetic against the machine's limit."""
    precision = pick_precision("auto", torch.device("cpu"))
    shipped, _ = load_network(network_file("default"))
    crops = torch.rand(CROPS, 3, shipped.side, shipped.side)
    yield from _one_network(
        "deconvnet-lite", lambda: load_network(network_file("default"))[0], crops, precision
    )
    torch.manual_seed(0)
    crops = torch.rand(CROPS, 3, 224, 224)
    yield from _one_network("the paper's network", lambda: DeconvNet().eval(), crops, precision)


def _one_network(
    name: str, make: Callable[[], SegmentationNetwork], crops: Tensor, precision: Precision
) -> Iterator[Row]:
    plain = make().eval()
    ours = prepare(make(), torch.device("cpu"), precision)
    dtype = next(ours.parameters()).dtype
    inputs = crops.to(dtype, memory_format=torch.channels_last)
    others: dict[str, Callable[[], object]] = {"plain PyTorch, float32": partial(plain, crops)}
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx"):
        others["ONNX Runtime, float32"] = _onnx(make(), crops)
    for against, other in others.items():
        with torch.inference_mode():
            fast, slow = (len(crops) / seconds for seconds in in_turn(partial(ours, inputs), other))
        yield Row("network", f"{name}, {precision}", fast, "crops/s", slow, against, True)
    yield _against_product(name, ours, inputs)


def _against_product(name: str, network: nn.Module, inputs: Tensor) -> Row:
    """The convolutions' GFLOP a second, beside that of a matrix product."""
    flops = _convolution_flops(network, inputs)
    spent = 0.0

    def begin(*_: object) -> None:
        nonlocal spent
        spent -= time.perf_counter()

    def end(*_: object) -> None:
        nonlocal spent
        spent += time.perf_counter()

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_pre_hook(begin)
            module.register_forward_hook(end)
    a, b = torch.rand(2, PRODUCT, PRODUCT).to(inputs.dtype)
    rates, products = [], []
    with torch.inference_mode():
        for _ in range(ROUNDS + 1):
            spent = 0.0
            network(inputs)
            rates.append(flops / spent / 1e9)
            start = time.perf_counter()
            torch.mm(a, b)
            products.append(2 * PRODUCT**3 / (time.perf_counter() - start) / 1e9)
    ours, other = statistics.median(rates[1:]), statistics.median(products[1:])
    return Row(
        "network", f"{name}, its convolutions", ours, "GFLOP/s", other, f"a matrix product of {PRODUCT}", True
    )


def _convolution_flops(network: nn.Module, inputs: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(inputs)
    counts = counter.get_flop_counts()["Global"]
    return sum(count for operation, count in counts.items() if "conv" in str(operation))


def _onnx(network: SegmentationNetwork, crops: Tensor) -> Callable[[], object]:
    import onnxruntime

    _, header = load_network(network_file("default"))
    model = onnx_model(prepare(network, torch.device("cpu"), "fp32"), header)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return partial(session.run, None, {"crops": crops.numpy()})


def crf_rows(photos: Sequence[Path]) -> Iterator[Row]:
    """Our mean field against pydensecrf2's, on the network's own answers; labels in common."""
    from deconvseg.postprocess.crf import dense_crf

    segmenter = Segmenter()
    parameters = segmenter.crf_parameters
    for photo in photos[:3]:
        image = read_image(photo)
        prepared = segmenter.prepare(image)
        ((prepared, fused),) = segmenter.fuse([prepared])
        ours = partial(dense_crf, prepared.image, fused, parameters)
        if importlib.util.find_spec("pydensecrf") is None:
            yield Row("crf", photo.name, in_turn(ours)[0], "s")
            continue
        every = np.ones(len(fused), bool)
        for classes, kept in (("all classes", every), ("the same classes", ours().any((1, 2)))):
            other = partial(_pydensecrf, prepared.image, fused[kept], parameters)
            fast, slow = in_turn(ours, other, rounds=3)
            same = np.mean(ours().argmax(0) == np.flatnonzero(kept)[other().argmax(0)])
            what, against = f"{photo.name}, same labels {same:.2%}", f"pydensecrf2, {classes} ({kept.sum()})"
            yield Row("crf", what, fast, "s", slow, against)


def _pydensecrf(
    image: NDArray[np.uint8], probabilities: NDArray[np.float32], parameters: object
) -> NDArray[np.float32]:
    from pydensecrf import densecrf

    values = asdict(parameters)  # type: ignore[call-overload]
    classes, height, width = probabilities.shape
    norm = densecrf.NORMALIZE_SYMMETRIC if values["normalise"] else densecrf.NO_NORMALIZATION
    crf = densecrf.DenseCRF2D(width, height, classes)
    energy = -np.log(np.clip(probabilities, 1e-5, 1)).reshape(classes, -1)
    crf.setUnaryEnergy(np.ascontiguousarray(energy, np.float32))
    crf.addPairwiseGaussian(sxy=values["smooth_sigma"], compat=values["smooth_weight"], normalization=norm)
    crf.addPairwiseBilateral(
        sxy=values["colour_sigma_xy"],
        srgb=values["colour_sigma_rgb"],
        rgbim=np.ascontiguousarray(image),
        compat=values["colour_weight"],
        normalization=norm,
    )
    refined = np.array(crf.inference(int(values["iterations"])), np.float32)
    return refined.reshape(classes, height, width)


def proposal_rows(photos: Sequence[Path]) -> Iterator[Row]:
    """Seconds of each step of EdgeBoxes."""
    detector = EdgeDetector(forest_file(None))
    image = read_image(photos[0])
    size = f"{image.shape[1]}x{image.shape[0]}"
    edges = detector.detect(image)
    thin, orientation = detector.thin(edges)
    steps: dict[str, Callable[[], object]] = {
        "edge forest": partial(detector.detect, image),
        "thinning": partial(detector.thin, edges),
        "EdgeBoxes": partial(edge_boxes, thin, orientation),
        "all": partial(propose, image, detector, Settings()),
    }
    for step, seconds in zip(steps, in_turn(*steps.values()), strict=True):
        yield Row("proposals", f"{step}, {size}", seconds, "s")


def photo_rows(photos: Sequence[Path]) -> Iterator[Row]:
    """One photo with the default settings, and with 50 proposals."""
    for what, segmenter in (("default", Segmenter()), ("all of 50", Segmenter(proposals=50))):
        segmenter.load()
        segmenter.segment(photos[0])
        runs = [segmenter.segment(photos[0]).seconds for _ in range(3)]
        total = statistics.median(sum(run.values()) for run in runs)
        for step in runs[0]:
            yield Row("photo", f"{what}: {step}", statistics.median(run[step] for run in runs), "s")
        yield Row("photo", f"{what}: all", total, "s")
    if Path("/proc/self/status").exists():
        yield Row("photo", "default: peak memory", int(_python("-c", PEAK, photos[0]).stdout) / 1024, "MiB")


def precision_rows(photos: Sequence[Path]) -> Iterator[Row]:
    """One photo with the default settings in the number formats of this machine, in turn."""
    segmenters = {"fp32": Segmenter(precision="fp32")}
    if torch.backends.cpu.get_cpu_capability() != "AVX2":  # which emulates it, 24 s a photo
        segmenters["bf16"] = Segmenter(precision="bf16")
    if int8.works():
        segmenters["int8"] = Segmenter(precision="int8")
    slow, *others = in_turn(*(partial(each.segment, photos[0]) for each in segmenters.values()), rounds=3)
    for precision, seconds in zip([*segmenters][1:], others, strict=True):
        yield Row("precision", f"one photo, {precision}", seconds, "s", slow, "fp32")


def avx2_rows(photos: Sequence[Path]) -> Iterator[Row]:
    """The rows of `precision` where torch and oneDNN may use AVX2 alone."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "rows.json")
        options = ("--only", "precision", "--photos", photos[0].parent, "--json", report)
        _python(__file__, *options, "--threads", str(torch.get_num_threads()), **AVX2)
        for row in json.loads(report.read_bytes())["rows"]:
            del row["ratio"]
            yield Row(**row | {"part": "avx2"})


def peer_rows(photos: Sequence[Path], peer: Path) -> Iterator[Row]:
    """One photo of ours, read and all, against one call of another tool's network."""
    segmenter = Segmenter()
    segmenter.load()
    ours, other = in_turn(partial(segmenter.segment, photos[0]), _peer(peer))
    yield Row(
        "peer", f"one photo, {segmenter.inference.precision}", ours, "s", other, f"{peer.name}, network alone"
    )


def _peer(path: Path) -> Callable[[], object]:
    """A call of a network in a file on random numbers; open sizes are 1, the batch, and 513."""
    random = np.random.default_rng(0)
    if path.suffix == ".tflite":
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(path), num_threads=torch.get_num_threads())
        interpreter.allocate_tensors()
        for entry in interpreter.get_input_details():
            interpreter.set_tensor(
                entry["index"], random.integers(0, 255, entry["shape"]).astype(entry["dtype"])
            )
        return partial(interpreter.invoke)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options)
    feed = {}
    for entry in session.get_inputs():
        shape = [
            size if isinstance(size, int) else 513 if axis else 1 for axis, size in enumerate(entry.shape)
        ]
        kind = np.uint8 if "uint8" in entry.type else np.float32
        feed[entry.name] = random.integers(0, 255, shape).astype(kind)
    return partial(session.run, None, feed)


def folder_rows(photos: Sequence[Path]) -> Iterator[Row]:
    """Photos a second of a folder run, and of one run of the command a photo."""
    with tempfile.TemporaryDirectory() as folder:
        for i in range(FOLDER):
            Path(folder, f"{i:02}{photos[i % len(photos)].suffix}").symlink_to(
                photos[i % len(photos)].resolve()
            )
        report = json.loads(_command("segment", folder, "-o", f"{folder}/out", "--json", "--quiet").stdout)
        start = time.perf_counter()
        for photo in photos[:3]:
            _command("segment", str(photo), "-o", f"{folder}/one.png", "--quiet")
        single = len(photos[:3]) / (time.perf_counter() - start)
    rate = report["photos_per_second"]
    yield Row("folder", f"{FOLDER} photos", rate, "photos/s", single, "one run a photo", True)


def start_rows(photos: Sequence[Path]) -> Iterator[Row]:
    """From a cold command to its answer."""
    with tempfile.TemporaryDirectory() as folder:
        target = f"{folder}/mask.png"
        helps, masks = in_turn(
            partial(_command, "--help"),
            partial(_command, "segment", str(photos[0]), "-o", target, "--overwrite"),
            rounds=3,
        )
    yield Row("start", "deconvseg --help", helps, "s")
    yield Row("start", f"deconvseg segment {photos[0].name}", masks, "s")


def _command(*arguments: str) -> subprocess.CompletedProcess[str]:
    threads = ("--threads", str(torch.get_num_threads())) if arguments[0] == "segment" else ()
    return _python("-m", "deconvseg", *arguments, *threads)


def _python(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())} | variables
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    return done


PARTS: dict[str, Callable[[Sequence[Path]], Iterator[Row]]] = {
    "network": network_rows,
    "crf": crf_rows,
    "proposals": proposal_rows,
    "photo": photo_rows,
    "precision": precision_rows,
    "avx2": avx2_rows,
    "folder": folder_rows,
    "start": start_rows,
}


def _table(rows: Sequence[Row]) -> Table:
    table = Table(
        "part", "what", "ours", "other", "ratio", "against", title=f"{torch.get_num_threads()} threads"
    )
    for row in rows:
        other = "" if row.other is None else f"{row.other:.3g} {row.unit}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        table.add_row(row.part, row.what, f"{row.ours:.3g} {row.unit}", other, ratio, row.against)
    return table


def main() -> None:
    """Run the parts, print the table and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, help="of PyTorch, OpenCV, ONNX Runtime and the command")
    parser.add_argument("--photos", type=Path, default=ROOT / "examples", help="folder of JPEGs")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--peer", type=Path, help="another tool's network, .onnx or .tflite")
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    options = parser.parse_args()
    wanted = options.only.split(",")
    if unknown := set(wanted) - PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}; take {', '.join(PARTS)}")
    photos = sorted(options.photos.glob("*.jpg"))
    if not photos:
        parser.error(f"{options.photos}: no .jpg in it")
    reuse_freed_memory()  # as the command does
    if options.threads:
        torch.set_num_threads(options.threads)
        cv2.setNumThreads(options.threads)
    rows = [row for part in wanted for row in PARTS[part](photos)]
    rows += peer_rows(photos, options.peer) if options.peer else []
    Console(width=150).print(_table(rows))
    if options.json:
        report = {
            "threads": torch.get_num_threads(),
            "rows": [asdict(row) | {"ratio": row.ratio} for row in rows],
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
