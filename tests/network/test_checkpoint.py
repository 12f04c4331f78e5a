"""Network files: what goes in comes out, and damaged ones are refused in one clear line."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from deconvseg.errors import WeightsError
from deconvseg.network.checkpoint import NetworkHeader, copy_network, load_network, save_network

from .networks import KINDS, deconvnet

HEADER = NetworkHeader(
    classes=("background", "red thing", "Grünes"),
    palette=((0, 0, 0), (255, 0, 0), (0, 255, 0)),
    mean=(1.5, 2.5, 3.5),
    scale=0.5,
    crf={"colour_weight": 7.0},
    training={"steps": 3},
)

SMALL = deconvnet().arguments


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("storage", "tolerance"), [("float32", 0.0), ("float16", 1e-3), ("int8", 1 / 127)])
def test_round_trip(tmp_path: Path, kind: str, storage: str, tolerance: float) -> None:
    network = KINDS[kind]()
    save_network(tmp_path / "n.safetensors", network, HEADER, storage)  # type: ignore[arg-type]
    loaded, header = load_network(tmp_path / "n.safetensors")
    assert header == HEADER
    assert loaded.arguments == network.arguments
    assert not loaded.training
    for name, tensor in network.state_dict().items():
        got = loaded.state_dict()[name]
        assert got.dtype == tensor.dtype
        # int8 rounds by at most half a step, and a step is at most 1/127 of the kernel's largest weight
        np.testing.assert_allclose(got, tensor, atol=tolerance * float(tensor.abs().max()), rtol=0)
    assert list(tmp_path.iterdir()) == [tmp_path / "n.safetensors"]
    (tmp_path / "plain").touch()  # not for its owner alone, as safetensors itself would write it
    assert (tmp_path / "n.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_int8_scales_are_per_output_channel(tmp_path: Path) -> None:
    network = deconvnet()
    with torch.no_grad():  # one tiny output channel beside large ones must keep its precision
        network.encoder[1].conv2_1.conv.weight[2] *= 1e-4
        network.decoder[1].deconv4_1.conv.weight[:, 3] *= 1e-4
    save_network(tmp_path / "n", network, HEADER, "int8")
    loaded, _ = load_network(tmp_path / "n")
    for got, want in (
        (loaded.encoder[1].conv2_1.conv.weight[2], network.encoder[1].conv2_1.conv.weight[2]),
        (loaded.decoder[1].deconv4_1.conv.weight[:, 3], network.decoder[1].deconv4_1.conv.weight[:, 3]),
    ):
        assert (got - want).abs().max() < 0.01 * want.abs().max()


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("fc6.conv.weight.scale", torch.ones(4), "damaged"),
        ("fc6.conv.weight.scale", None, "does not contain tensor fc6.conv.weight.scale"),
        ("seg_score.bias", torch.zeros(4), r"missing, left over or of the wrong shape: seg_score\.bias"),
    ],
    ids=str,
)
def test_damaged_tensors(tmp_path: Path, name: str, wrong: torch.Tensor | None, message: str) -> None:
    path = tmp_path / "n"
    save_network(path, deconvnet(), HEADER, "int8")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = {key: tensor for key, tensor in {**load_file(path), name: wrong}.items() if tensor is not None}
    save_file(tensors, path, metadata)
    with pytest.raises(WeightsError, match=message):
        load_network(path)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "n"
    save_network(path, deconvnet(), HEADER)
    return path


def test_cut_files_and_those_of_another_kind(tmp_path: Path, good: Path) -> None:
    with pytest.raises(WeightsError, match="no such network file"):
        load_network(tmp_path / "none")
    whole = good.read_bytes()
    for content in (b"hello " * 100, b"", whole[:4], whole[:100], whole[:5_000], whole[:-1]):
        (tmp_path / "n").write_bytes(content)
        with pytest.raises(WeightsError, match="not a readable network file"):
            load_network(tmp_path / "n")
    save_file({"a": torch.zeros(2)}, tmp_path / "other")
    with pytest.raises(WeightsError, match="not one of deconvseg's"):
        load_network(tmp_path / "other")
    save_file({"a": torch.zeros(2)}, tmp_path / "part", {"deconvseg": '{"format": 1}'})
    with pytest.raises(WeightsError, match="header of this network file is damaged"):
        load_network(tmp_path / "part")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, "update deconvseg"),
        ({"architecture": "unet"}, "update deconvseg"),
        ({"classes": ["a", "b"]}, "2 names and 3 colours for 3 labels"),
        ({"classes": ["a", "b", "a"]}, "2 names and 3 colours"),
        ({"palette": [1, 2, 3]}, "damaged"),
        ({"ranges": {"conv1_1": [0]}}, "damaged"),
        ({"arguments": {**SMALL, "crop_size": 33}}, "multiple of 32"),
        ({"arguments": {**SMALL, "nonsense": 1}}, "nonsense"),
        ({"arguments": {**SMALL, "widths": [10**6] * 5}}, "tensors missing, left over or of the wrong shape"),
        ({"arguments": {**SMALL, "widths": [10**15] * 5}}, "damaged"),
        ({"arguments": {**SMALL, "bottleneck": 10}}, "left over or of the wrong shape: .*fc6"),
    ],
    ids=str,
)
def test_damaged_header(tmp_path: Path, good: Path, changes: dict[str, object], message: str) -> None:
    copy_network(good, tmp_path / "n", changes)
    with pytest.raises(WeightsError, match=message):
        load_network(tmp_path / "n")


def test_a_copy_differs_in_the_header_alone(tiny_network: Path, tmp_path: Path) -> None:
    small = tmp_path / "int8.safetensors"
    save_network(small, *load_network(tiny_network), storage="int8")
    target = tmp_path / "copy.safetensors"
    copy_network(small, target, {"crf": {"colour_weight": 3.5}})
    (old, before), (new, after) = load_network(small), load_network(target)
    assert after == dataclasses.replace(before, crf={"colour_weight": 3.5})
    assert abs(target.stat().st_size - small.stat().st_size) < 100
    for name, tensor in old.state_dict().items():
        assert torch.equal(tensor, new.state_dict()[name]), name
    with pytest.raises(WeightsError, match="no such network file"):
        copy_network(tmp_path / "none", target, {})


@pytest.mark.skipif(torch.__version__.startswith("2.4."), reason="torch 2.4 loads sympy in any case")
def test_networks_leave_torchs_compiler_alone(tiny_network: Path, tiny_fcn: Path) -> None:
    """Its import takes longer than all the rest of the loading, and half a second of the first photo."""
    script = (
        "import sys, torch; from pathlib import Path; before = set(sys.modules);"
        "from deconvseg.network.checkpoint import load_network;"
        "[load_network(Path(path))[0](torch.zeros(1, 3, 32, 32)) for path in sys.argv[1:]];"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    command = [sys.executable, "-c", script, tiny_network, tiny_fcn]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not {"sympy", "triton"} & set(done.stdout.split())
