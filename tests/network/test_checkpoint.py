"""Network files: what goes in comes out, and damaged ones are refused in one clear line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from deconvseg.errors import OutputError, WeightsError
from deconvseg.network.checkpoint import NetworkHeader, load_network, rewrite_header, save_network
from deconvseg.network.deconvnet import DeconvNet

HEADER = NetworkHeader(
    classes=("background", "red thing", "Grünes"),
    palette=((0, 0, 0), (255, 0, 0), (0, 255, 0)),
    mean=(1.5, 2.5, 3.5),
    scale=0.5,
    crf={"colour_weight": 7.0},
    training={"steps": 3},
)


def tiny(**changes: object) -> DeconvNet:
    torch.manual_seed(0)
    arguments = {"classes": 3, "crop_size": 64, "widths": (4, 5, 6, 7, 8), "bottleneck": 9, **changes}
    return DeconvNet(**arguments).eval()


@pytest.mark.parametrize("changes", [{}, {"encoder_norm": False, "decoder_convs": (2, 2, 2, 1)}], ids=str)
@pytest.mark.parametrize(("storage", "tolerance"), [("float32", 0.0), ("float16", 1e-3), ("int8", 1 / 127)])
def test_round_trip(tmp_path: Path, changes: dict[str, object], storage: str, tolerance: float) -> None:
    network = tiny(**changes)
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


def test_int8_is_about_a_quarter_of_float32(tmp_path: Path) -> None:
    network = tiny(widths=(16, 16, 32, 32, 64), bottleneck=64)
    for storage in ("float32", "int8"):
        save_network(tmp_path / storage, network, HEADER, storage)  # type: ignore[arg-type]
    assert (tmp_path / "int8").stat().st_size < 0.35 * (tmp_path / "float32").stat().st_size


def test_int8_scales_are_per_output_channel(tmp_path: Path) -> None:
    network = tiny()
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


def test_rewritten_header_keeps_the_weights(tmp_path: Path) -> None:
    save_network(tmp_path / "a", tiny(), HEADER)
    rewrite_header(tmp_path / "a", tmp_path / "b", crf={"colour_weight": 1.0})
    (first, _), (second, header) = load_network(tmp_path / "a"), load_network(tmp_path / "b")
    assert header.crf == {"colour_weight": 1.0}
    assert header.classes == HEADER.classes
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_writing_into_a_missing_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        save_network(tmp_path / "no" / "n", tiny(), HEADER)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "n"
    save_network(path, tiny(), HEADER)
    return path.read_bytes()


def rewritten(path: Path, good: bytes, **changes: object) -> None:
    """Write a network file whose JSON header has some entries replaced (None removes one)."""
    path.write_bytes(good)
    length = int.from_bytes(good[:8], "little")
    document = json.loads(json.loads(good[8 : 8 + length])["__metadata__"]["deconvseg"]) | changes
    document = {key: value for key, value in document.items() if value is not None}
    save_file(load_file(path), path, {"deconvseg": json.dumps(document)})


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such network file"):
        load_network(tmp_path / "none")


@pytest.mark.parametrize("keep", [0, 4, 100, 5_000, -1])
def test_truncated_file(tmp_path: Path, good: bytes, keep: int) -> None:
    (tmp_path / "n").write_bytes(good[:keep])
    with pytest.raises(WeightsError, match="not a readable network file"):
        load_network(tmp_path / "n")


def test_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello " * 100)
    with pytest.raises(WeightsError, match="not a readable network file"):
        load_network(tmp_path / "text")
    save_file({"a": torch.zeros(2)}, tmp_path / "other")
    with pytest.raises(WeightsError, match="not one of deconvseg's"):
        load_network(tmp_path / "other")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, "update deconvseg"),
        ({"classes": None}, "header of this network file is damaged"),
        ({"classes": ["a", "b"]}, "names 2 classes"),
        ({"palette": [1, 2, 3]}, "damaged"),
        ({"arguments": {"crop_size": 33}}, "damaged"),
        ({"arguments": {"nonsense": 1}}, "damaged"),
        ({"arguments": {"encoder_convs": [10**9] * 5, "decoder_convs": [1]}}, "layers"),
        (
            {
                "arguments": {
                    "widths": [10**6] * 5,
                    "encoder_convs": [1] * 5,
                    "decoder_convs": [1],
                }
            },
            "parameters",
        ),
        (
            {
                "arguments": {
                    "classes": 3,
                    "crop_size": 64,
                    "widths": [4, 5, 6, 7, 8],
                    "encoder_convs": [2, 2, 3, 3, 3],
                    "decoder_convs": [3, 3, 3, 2, 2],
                    "bottleneck": 10,
                }
            },
            "tensors missing, left over or of the wrong shape: .*fc6",
        ),
    ],
    ids=str,
)
def test_damaged_header(tmp_path: Path, good: bytes, changes: dict[str, object], message: str) -> None:
    rewritten(tmp_path / "n", good, **changes)
    with pytest.raises(WeightsError, match=message):
        load_network(tmp_path / "n")
