"""The networks that a network is used with: the FCN-8s of its ensemble, the image classifier of its prior."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deconvseg.errors import UsageError, WeightsError
from deconvseg.network.base import SegmentationNetwork
from deconvseg.network.checkpoint import NetworkHeader, load_network
from deconvseg.network.classifier import Classifier
from deconvseg.network.fcn8s import FCN8s
from deconvseg.settings import Settings
from deconvseg.weights import is_missing, network_file


def possible(settings: Settings, partner: object, classifier: object) -> Settings:
    """The settings without what there is no network for."""
    settings = settings if partner else replace(settings, ensemble="off")
    return settings if classifier else replace(settings, prior=0.0)


def load_partner(
    fcn: str | Path, network: SegmentationNetwork, header: NetworkHeader, *, must: bool
) -> tuple[FCN8s, NetworkHeader]:
    """The FCN-8s of an ensemble, by name or file.

    Args:
        fcn: its name or file.
        network, header: what it is to go with.
        must: it was asked for: what the cache lacks is an error of its file.

    Raises:
        UsageError: it does not fit.
        WeightsError: its file cannot be read.
    """
    if isinstance(network, FCN8s):
        raise UsageError("no ensemble: the network is an FCN-8s itself")
    if is_missing(fcn) and not must:
        raise UsageError(
            f"no ensemble: {fcn} is not on this machine; 'deconvseg weights pull {fcn}' tells more"
        )
    partner, own_header = load_network(network_file(fcn))
    if not isinstance(partner, FCN8s) or own_header.classes != header.classes:
        raise UsageError(f"no ensemble: {fcn} is no FCN-8s with the network's classes")
    return partner, own_header


def load_classifier(classifier: str | Path, header: NetworkHeader) -> tuple[Classifier, NetworkHeader]:
    """The image classifier of a prior, by name or file.

    Raises:
        UsageError: it is none, or has other classes than the network of this header.
        WeightsError: its file cannot be read.
    """
    network, own_header = load_network(network_file(classifier))
    if not isinstance(network, Classifier) or own_header.classes != header.classes:
        raise UsageError(f"{classifier}: is no image classifier with the network's classes; take another")
    if not bool((network.doubt > 0).all()):
        raise WeightsError(f"{classifier}: doubts of classes that are not above 0; train it again")
    return network, own_header
