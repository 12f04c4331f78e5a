"""Choices that several commands share."""

from __future__ import annotations

from enum import StrEnum


class Fusion(StrEnum):
    """Ways to put the regions' scores together."""

    max = "max"
    mean = "mean"


class Ensemble(StrEnum):
    """Ways to let FCN-8s join in."""

    off = "off"
    mean = "mean"
    product = "product"


class ProtocolName(StrEnum):
    """Sets of settings."""

    default = "default"
    paper = "paper"
    released_code = "released-code"


class Precision(StrEnum):
    """Number formats of the network."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"
