"""`deconvseg export`: a network as an ONNX file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from deconvseg.cli import console
from deconvseg.cli.options import DEBUG, JSON, OVERWRITE, QUIET, WEIGHTS, epilog, option, refuse_target

EPILOG = epilog(
    "deconvseg export --onnx net.onnx",
    "deconvseg export --onnx mine.onnx --weights run/best.safetensors",
)


def export(
    onnx: Path = option(None, "FILE", "The ONNX file to write.", "--onnx", default=...),
    weights: str = WEIGHTS,
    overwrite: bool = OVERWRITE,
    as_json: bool = JSON,
    quiet: bool = QUIET,
    debug: bool = DEBUG,
) -> int:
    """Write the network of regions for ONNX Runtime and others, once it answers there as it does in torch.

    The file is left only if, on 8 regions of a photo that comes along, scores differ by at most 0.001 in the
    mean and 99.9 % of the labels are the same.
    """
    from deconvseg.weights import network_file

    refuse_target(onnx, network_file(weights), overwrite=overwrite, option="--onnx")
    from deconvseg.export import export_onnx

    parity = export_onnx(weights, onnx)
    size = onnx.stat().st_size
    if as_json:
        document = {"file": str(onnx), "bytes": size, "weights": weights}
        print(json.dumps({**document, **asdict(parity)}))
    if not quiet:
        console.say(
            f"{onnx}: {size / 1e6:.1f} MB; on {parity.crops} regions scores differ "
            f"by {parity.difference:.1g} in the mean, {parity.labels:.3%} of the labels are the same"
        )
    return console.DONE
