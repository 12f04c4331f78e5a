"""Fusion: hand-computed cases of the paper's equation 1, and its properties."""

import pytest
import torch

from deconvseg.postprocess.fusion import Fusion, ensemble, least_certain, log_prior, with_prior


def test_max_by_hand() -> None:
    fusion = Fusion(2, 2, 3, "max")
    fusion.add(torch.tensor([[[1.0]], [[-5.0]]]), (0, 0, 2, 2))  # left two columns
    fusion.add(torch.tensor([[[3.0]], [[2.0]]]), (1, 0, 4, 1))  # top right, reaching outside
    fusion.add(torch.full((2, 1, 1), 9.0), (-5, 0, 0, 4))  # outside
    fusion.add(torch.full((2, 1, 1), 9.0), (3, 2, 5, 4))
    assert fusion.total[0].tolist() == [[1, 3, 3], [1, 1, 0]]
    assert fusion.total[1].tolist() == [[0, 2, 2], [0, 0, 0]]  # never below 0
    probabilities = fusion.probabilities()
    torch.testing.assert_close(probabilities.sum(0), torch.ones(2, 3))
    assert probabilities[0, 0, 0] == pytest.approx(torch.tensor([1.0, 0.0]).softmax(0)[0].item())
    assert probabilities[:, 1, 2].tolist() == [0.5, 0.5]  # no region covers it


def test_mean_averages_the_probabilities_of_the_regions_that_cover_a_pixel_by_area() -> None:
    fusion = Fusion(2, 1, 3, "mean")
    log3 = torch.tensor(3.0).log().item()
    fusion.add(torch.tensor([[[log3]], [[0.0]]]), (0, 0, 2, 1))  # probabilities 0.75, 0.25; area 2
    fusion.add(torch.tensor([[[-log3]], [[0.0]]]), (1, 0, 2, 1))  # probabilities 0.25, 0.75; area 1
    middle = (2 * 0.75 + 0.25) / 3
    want = torch.tensor([[0.75, middle, 0.5], [0.25, 1 - middle, 0.5]])
    torch.testing.assert_close(fusion.probabilities()[:, 0], want)


def test_scores_land_where_their_box_is() -> None:
    """A region cut from a known map and pasted back gives that map again."""
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    known = (rows + 2 * columns)[None]
    fusion = Fusion(1, 64, 64, "max")
    fusion.add(known[:, 16:48, 8:40], (8, 16, 40, 48))
    assert torch.equal(fusion.total[:, 16:48, 8:40], known[:, 16:48, 8:40])
    assert fusion.total[0, :16].abs().sum() == 0


@pytest.mark.parametrize("rule", ["mean", "product", "off"])
def test_ensemble_by_hand(rule: str) -> None:
    fusion = Fusion(2, 1, 2, "max")
    fusion.add(torch.tensor([[[2.0, 0.5]], [[-1.0, 3.0]]]), (0, 0, 2, 1))
    fused = torch.tensor([[[2.0, 0.5]], [[0.0, 3.0]]])
    other = torch.tensor([[[1.0, -4.0]], [[2.0, 1.0]]])
    want = {
        "mean": 0.65 * fused.softmax(0) + 0.35 * other.softmax(0),
        "product": torch.tensor([[[2.0, 0.0]], [[0.0, 3.0]]]).softmax(0),
        "off": fused.softmax(0),
    }[rule]
    torch.testing.assert_close(ensemble(fusion, other, rule, 0.65), want)  # type: ignore[arg-type]


def test_the_prior_by_hand() -> None:
    """Two classes of chance 0.9 and 0.1 in the photo; the square root of each is asked for."""
    scores = torch.tensor([5.0, 9.0, 1 / 9]).log()
    pixel = torch.tensor([0.5, 0.2, 0.3]).reshape(3, 1, 1)
    doubt = torch.tensor([0.1, 0.5, 0.2])
    weighted = torch.tensor([0.5, 0.2 * (0.9 / 0.5) ** 0.5, 0.3 * (0.1 / 0.2) ** 0.5])
    found = with_prior(pixel, log_prior(scores, doubt, 0.5))
    torch.testing.assert_close(found.flatten(), weighted / weighted.sum())
    torch.testing.assert_close(with_prior(pixel, log_prior(scores, doubt, 0)), pixel)
    absent = torch.tensor([0.0, -200.0, -200.0])
    for chances in (pixel, torch.tensor([0.0, 1.0, 0.0]).reshape(3, 1, 1)):  # with and without background
        sure = with_prior(chances, log_prior(absent, doubt, 10)).flatten()
        assert sure.isfinite().all() and sure.sum() == 1 and sure.argmax() == (chances[0] == 0)


def test_boxes_where_the_network_is_least_certain_come_first() -> None:
    scores = torch.zeros(3, 40, 60)
    scores[1, :, 20:] = 1.0
    scores[2, :, 40:] = 5.0
    left, middle, right, across = (-7, 0, 20, 40), (20, 4, 40, 40), (40, 0, 70, 44), (8, 0, 32, 40)
    assert least_certain(scores, [right, middle, left, across]) == [2, 3, 1, 0]
    assert least_certain(scores, [middle, right, middle]) == [0, 2, 1]
    assert least_certain(scores, []) == []
