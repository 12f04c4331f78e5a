"""The search of the CRF's parameters."""

from deconvseg.evaluation.tune import search
from deconvseg.settings import CRFParameters


def test_the_search_climbs_to_a_peak() -> None:
    def score(parameters: CRFParameters) -> float:
        return -abs(parameters.colour_weight - 8) - abs(parameters.smooth_sigma - 1.5)

    best, tried = search(CRFParameters(colour_weight=2.0, smooth_sigma=3.0), score, 40)
    assert (best.colour_weight, best.smooth_sigma) == (8, 1.5)
    assert best == max(tried, key=lambda parameters: tried[parameters])


def test_the_search_ends_within_its_trials_and_what_a_network_file_may_hold() -> None:
    calls = []

    def rising(parameters: CRFParameters) -> float:
        calls.append(parameters)
        return len(calls)

    best, tried = search(CRFParameters(), rising, most=7)
    assert len(calls) == len(tried) == 7
    assert best == calls[-1]
    best, _ = search(CRFParameters(), lambda parameters: parameters.colour_weight, most=100)
    assert 500 < best.colour_weight <= 1000
    start = CRFParameters(colour_weight=0.0)  # no multiple of 0 is another
    best, tried = search(start, lambda parameters: 0, 40)
    assert best == start
    assert {parameters.colour_weight for parameters in tried} == {0}
