"""Feeds damaged and hostile `.caffemodel` files to the reader and the converter.

    python benchmarks/fuzz_caffemodel.py [--inputs 200000] [--seed 0]

Small sound files in every style are cut, spliced and have bits turned; every such file is read to the last
number, every 20th goes through the whole conversion, which runs on damaged DeconvNet, FCN-8s and VGG-16
files as well; and files made by hand want time or memory. Nothing but a WeightsError may come out, no file
may take over 2 seconds of processor time, and the process may not grow by over 200 MB.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import numpy as np

from deconvseg.errors import WeightsError
from deconvseg.network.caffe import CaffeModel
from deconvseg.network.caffe_networks import convert_caffemodel

TESTS = Path(__file__).resolve().parent.parent / "tests" / "network"
MAX_SECONDS, MAX_GROWTH = 2.0, 200e6
CONVERTED = 20


def helpers() -> tuple[ModuleType, ModuleType]:
    """The tests' writer and their makers of bad files, as a package of their own."""
    package = ModuleType("caffe_helpers")
    package.__path__ = [str(TESTS)]
    sys.modules["caffe_helpers"] = package
    return importlib.import_module("caffe_helpers.caffemodel"), importlib.import_module(
        "caffe_helpers.caffe_fuzz"
    )


def read(path: Path) -> None:
    """Read every number of a file."""
    for layer in CaffeModel(path).layers:
        for blob in layer.blobs:
            blob.tobytes()


def convert(path: Path) -> None:
    """Take a file through the whole conversion."""
    convert_caffemodel(path, path.with_name("out"), "float16")


def networks(writer: ModuleType) -> list[bytes]:
    """The three networks as files, as narrow as can be."""
    one = (1, 1, 1, 1, 1)
    layers = (
        writer.deconvnet(one, 1, 1, 2, one, one),
        writer.fcn8s(one, 1, 2),
        writer.vgg16(one, 1, 1),
    )
    return [
        b"".join(writer.layer(layer, writer.Style(new=i > 0)) for layer in net)
        for i, net in enumerate(layers)
    ]


def inputs(
    writer: ModuleType, fuzz: ModuleType, count: int, seed: int
) -> Iterator[tuple[str, bytes, Callable[[Path], None]]]:
    """Name, content and what is done with it."""
    for scale in (1_000, 1_000_000, 10_000_000):
        for name, content in fuzz.hostile(scale).items():
            yield f"{name} ({scale:,})", content, convert
    rng = np.random.default_rng(seed)
    small, whole = fuzz.mutations(rng, fuzz.seeds()), fuzz.mutations(rng, networks(writer))
    for i in range(count):
        if i % CONVERTED:
            yield f"small file {i}", next(small), read
        else:
            yield f"network {i}", next(whole), convert


def fault(act: Callable[[Path], None], path: Path) -> str | None:
    """Do it: None if it went well, "" if the file was refused as it should be, else what is wrong."""
    try:
        act(path)
    except WeightsError as error:
        line = str(error)
        return "" if "\n" not in line and len(line) < 1500 else f"not one clear line: {line!r}"
    except Exception as error:
        return repr(error)
    return None


def main() -> int:
    """Run, print figures, and return 1 if a bound is broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    writer, fuzz = helpers()
    outcomes: Counter[str] = Counter()
    slowest, largest = (0.0, ""), (0.0, "")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        path = Path(folder) / "n.caffemodel"
        for network in networks(writer):  # sound ones first: they bring in what torch loads late
            path.write_bytes(network)
            convert(path)
        for name, content, act in inputs(writer, fuzz, arguments.inputs, arguments.seed):
            path.write_bytes(content)
            clock = time.process_time()
            with fuzz.memory() if act is convert else nullcontext(lambda: 0) as grown:
                wrong = fault(act, path)
            slowest = max(slowest, (time.process_time() - clock, name))
            largest = max(largest, (grown() - len(content), name))
            outcomes["accepted" if wrong is None else "FAULTY" if wrong else "refused"] += 1
            if wrong:
                print(f"{name}: {wrong}; the file begins {content[:1000].hex()}")
    figures = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(outcomes.items()))
    print(f"{sum(outcomes.values()):,} inputs in {time.perf_counter() - start:.0f} s: {figures}")
    print(f"slowest: {slowest[0]:.2f} s of processor time ({slowest[1]})")
    print(f"most memory above the file's size: {largest[0] / 1e6:.0f} MB ({largest[1]})")
    return int(outcomes["FAULTY"] > 0 or slowest[0] > MAX_SECONDS or largest[0] > MAX_GROWTH)


if __name__ == "__main__":
    sys.exit(main())
