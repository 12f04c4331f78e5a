"""From the names of a network and its partner to both on their device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deconvseg.errors import UsageError, WeightsError
from deconvseg.network.checkpoint import load_network
from deconvseg.network.fcn8s import FCN8s
from deconvseg.network.fold import pick_batch_size, pick_device, pick_precision, prepare
from deconvseg.regions import Inference
from deconvseg.settings import Settings
from deconvseg.weights import is_missing, network_file


def load_inference(
    weights: str | Path,
    fcn: str | Path | None,
    settings: Settings,
    *,
    must_ensemble: bool,
    device: str,
    precision: str,
    batch_size: int | None,
) -> tuple[Inference, list[str]]:
    """Read a network and the FCN-8s of its ensemble. Returns both, and notes on what was left out.

    Args:
        weights, fcn: by name or file.
        settings: of the method; without a partner, their ensemble becomes `off`.
        must_ensemble: a partner that does not fit is an error; else it is left out.
        device, precision, batch_size: as of `Segmenter`.

    Raises:
        WeightsError, UsageError: as of `Segmenter.load`.
    """
    where = pick_device(device)
    arithmetic = pick_precision(precision, where)
    network, header = load_network(network_file(weights))
    if not header.statistics:
        raise WeightsError(
            f"{weights}: a network of a training stage, whose BatchNorm has no statistics yet; "
            "train on from it and segment with the result"
        )
    partner, partner_header, notes = None, None, []
    if settings.ensemble != "off" and fcn is not None:
        fault = None
        if isinstance(network, FCN8s):
            fault = f"{weights} is an FCN-8s itself"
        elif is_missing(fcn) and not must_ensemble:
            fault = f"{fcn} is not on this machine ('deconvseg weights pull {fcn}' tells more)"
        else:
            partner, partner_header = load_network(network_file(fcn))
            if not isinstance(partner, FCN8s):
                fault = f"{fcn} is no FCN-8s"
            elif partner_header.classes != header.classes:
                fault = f"{fcn} has other classes than {weights}"
        if fault and must_ensemble:
            raise UsageError(f"no ensemble: {fault}; take another network, or the ensemble off")
        if fault:
            partner, partner_header, notes = None, None, [f"no ensemble: {fault}"]
    network = prepare(network, where, arithmetic)
    inference = Inference(
        network=network,
        header=header,
        partner=partner and prepare(partner, where, arithmetic),
        partner_header=partner_header,
        settings=settings if partner else replace(settings, ensemble="off"),
        device=where,
        precision=arithmetic,
        batch_size=batch_size or pick_batch_size(where),
    )
    return inference, notes
