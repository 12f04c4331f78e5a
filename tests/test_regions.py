"""What of a photo goes into the network: windows that coincide, levels that are needed, black outside."""

from pathlib import Path

import numpy as np
import pytest
import torch

from deconvseg.network.checkpoint import load_network
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.regions import Crops, Windows, scores


@pytest.fixture
def encoded(tiny_network: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Height and width of all images that went through an encoder."""
    sizes: list[tuple[int, int]] = []
    original = DeconvNet.pool

    def pool(self: DeconvNet, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        sizes.append((images.shape[2], images.shape[3]))
        return original(self, images)

    monkeypatch.setattr(DeconvNet, "pool", pool)
    return sizes


def photo(height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 255, (3, height, width), np.uint8))


def test_windows_that_coincide_are_one_and_levels_wait_until_they_are_needed(
    tiny_network: Path, encoded: list[tuple[int, int]]
) -> None:
    network, header = load_network(tiny_network)
    assert isinstance(network.eval(), DeconvNet)
    boxes = np.array([[0, 0, 64, 64], [0, 0, 32, 32], [1, 1, 34, 33], [32, 0, 64, 32]], np.float32)
    regions = Windows(network, header, photo(64, 64), boxes)  # type: ignore[arg-type]
    assert regions.boxes == [(0, 0, 64, 64), (0, 0, 32, 32), (32, 0, 64, 32)]
    assert encoded == []
    regions.inputs(0)
    assert encoded == [(32, 32)]
    parts = regions.inputs(1), regions.inputs(2)
    assert encoded == [(32, 32), (32, 64)]  # both windows of the second level in one pass, and no more of it
    assert [part.shape for part in parts[0]] == [part.shape for part in parts[1]]
    assert not torch.equal(parts[0][0], parts[1][0])


def test_the_whole_photo_is_what_it_is_exactly(tiny_network: Path) -> None:
    """Also where the square around it reaches outside: black there, and its place to the pixel."""
    network, header = load_network(tiny_network)
    network.eval()
    for height, width in ((64, 64), (51, 81)):
        half, x, y = max(height, width) / 2, width / 2, height / 2
        boxes = np.array([[x - half, y - half, x + half, y + half]], np.float32)
        exact = Crops(network, photo(height, width), boxes)
        shared = Windows(network, header, photo(height, width), boxes)  # type: ignore[arg-type]
        assert shared.boxes == exact.boxes
        want = scores(network, header, [part[None] for part in exact.inputs(0)], encoded=False)
        got = scores(network, header, [part[None] for part in shared.inputs(0)], encoded=True)
        assert want.std() > 0
        torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_windows_outside_the_photo_see_black(tiny_network: Path) -> None:
    """Those of one level further out than its frame, and the same cut out of a photo with a black border."""
    network, header = load_network(tiny_network)
    assert isinstance(network.eval(), DeconvNet)
    pixels = photo(64, 64)
    out = Windows(network, header, pixels, np.array([[-32, 0, 0, 32]], np.float32))
    assert out.boxes == [(-32, 0, 0, 32)]
    black = Windows(network, header, torch.zeros_like(pixels), np.array([[0, 0, 32, 32]], np.float32))
    for part, other in zip(out.inputs(0), black.inputs(0), strict=True):
        assert torch.equal(part, other)


def test_each_window_shows_its_own_part_of_its_own_level(tiny_network: Path) -> None:
    """Far apart or of another level, windows share nothing: each is the crop of its box."""
    network, header = load_network(tiny_network)
    assert isinstance(network.eval(), DeconvNet)
    pixels = photo(128, 128)
    boxes = [[0, 0, 128, 128], [0, 0, 64, 64], [0, 0, 32, 32], [96, 64, 128, 96], [64, 64, 128, 128]]
    regions = Windows(network, header, pixels, np.array(boxes, np.float32))
    assert regions.boxes == [tuple(box) for box in boxes]
    for index, box in enumerate(boxes):
        alone = Windows(network, header, pixels, np.array([box], np.float32))
        for part, other in zip(regions.inputs(index), alone.inputs(0), strict=True):
            torch.testing.assert_close(part, other, atol=1e-5, rtol=0)
    features = [regions.inputs(index)[0] for index in range(len(boxes))]
    assert not any(torch.equal(a, b) for i, a in enumerate(features) for b in features[:i])
