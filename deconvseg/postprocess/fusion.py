"""Score maps of many regions become one map of the photo."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from deconvseg.settings import EnsembleRule, FusionRule


class Fusion:
    """Accumulates regions one by one; memory does not grow with their number.

    `max` is the paper's equation 1 and the released code: per class and pixel the largest raw score of any
    region, never below 0, which is also the value outside every region; softmax comes last. `mean` averages
    the class probabilities of the regions that cover a pixel, each weighted by its area.
    """

    def __init__(
        self, classes: int, height: int, width: int, rule: FusionRule, device: torch.device | str = "cpu"
    ) -> None:
        self.rule = rule
        self.total = torch.zeros(classes, height, width, device=device)
        self.cover = torch.zeros(height, width, device=device)

    def add(self, scores: Tensor, box: tuple[int, int, int, int]) -> None:
        """Paste one region's raw scores, float (C, S, S), into a box of whole pixels that is not empty."""
        x0, y0, x1, y1 = box
        height, width = self.cover.shape
        left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        if left >= right or top >= bottom:
            return
        values = scores.float() if self.rule == "max" else scores.float().softmax(0)
        enlarged = functional.interpolate(
            values[None], (y1 - y0, x1 - x0), mode="bilinear", align_corners=False
        )[0, :, top - y0 : bottom - y0, left - x0 : right - x0]
        target = self.total[:, top:bottom, left:right]
        if self.rule == "max":
            torch.maximum(target, enlarged, out=target)
        else:
            area = float((y1 - y0) * (x1 - x0))
            target += area * enlarged
            self.cover[top:bottom, left:right] += area

    def probabilities(self) -> Tensor:
        """Class probabilities of the photo: float32 (C, H, W), summing to 1 over C."""
        if self.rule == "max":
            return self.total.softmax(0)
        return torch.where(self.cover > 0, self.total / self.cover, 1 / len(self.total))


def least_certain(scores: Tensor, boxes: Sequence[tuple[int, int, int, int]]) -> list[int]:
    """Places of boxes in whole pixels, that one first inside which the largest probabilities of raw scores,
    float (C, H, W), are the least on average."""
    certain = scores[:, ::4, ::4].float().softmax(0).amax(0).cpu()
    inside = [
        certain[max(y0, 0) // 4 : (y1 + 3) // 4, max(x0, 0) // 4 : (x1 + 3) // 4].mean().item()
        for x0, y0, x1, y1 in boxes
    ]
    return sorted(range(len(boxes)), key=inside.__getitem__)


def ensemble(fusion: Fusion, scores: Tensor, rule: EnsembleRule, share: float = 0.5) -> Tensor:
    """Class probabilities of the regions and an FCN together, float32 (C, H, W), summing to 1 over C.

    `mean` is the paper's: the mean of both probability maps, in which the regions have a `share`. `product`
    is the released code's (generate_EDeconvNet_CRF_results.m): the product of both raw score maps, each at
    least 0, then softmax; the fusion is of rule `max`. `scores` are float (C, H, W), raw, of the FCN.
    """
    if rule == "off":
        return fusion.probabilities()
    if rule == "mean":
        return torch.lerp(scores.float().softmax(0), fusion.probabilities(), share)
    return (fusion.total * scores.float().clamp_min(0)).softmax(0)


def log_prior(scores: Tensor, doubt: Tensor, exponent: float) -> Tensor:
    """An image-level prior (Pinheiro and Collobert 2015): what pixels' raw scores get before softmax.

    Each object class is weighed by (p / doubt) ** exponent, where p is the chance that the photo shows it.
    `scores` are float (C,), raw, of presence, background first, and `doubt` float (C,) of the network that
    they are from. Returns the weights' logarithms, float32 (C, 1, 1).
    """
    weights = exponent * (functional.logsigmoid(scores.float()) - doubt.float().log())
    weights[0] = 0
    # A pixel without a chance of background would have none of anything if e ** weight were 0.
    return weights.clamp_min(-80)[:, None, None]


def with_prior(probabilities: Tensor, prior: Tensor) -> Tensor:
    """Probabilities of pixels, float32 (C, H, W) summing to 1 over C, weighed by a `log_prior`."""
    found = probabilities.float() * prior.exp()
    return found.div_(found.sum(0))
