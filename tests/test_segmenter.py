"""The whole way of a photo with a tiny network: sizes, sameness, and what is refused."""

import pickle
import shutil
from dataclasses import replace
from operator import length_hint
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import deconvseg.segmenter
import deconvseg.weights
from deconvseg.errors import InputError, UsageError, WeightsError
from deconvseg.files import code_digest
from deconvseg.images.read import read_photo
from deconvseg.network.checkpoint import copy_network, load_network
from deconvseg.proposals.boxes import shrink
from deconvseg.segmenter import WORKING_SIDE, Segmenter
from deconvseg.settings import PRESETS, CRFParameters

from .conftest import blocks_photo as photo
from .forests import Forest, write_forest


@pytest.mark.parametrize("size", [(120, 160), (1, 1), (2, 300), (300, 2), (33, 31)], ids=str)
def test_result_has_the_photos_size(tiny_network: Path, size: tuple[int, int]) -> None:
    result = Segmenter(tiny_network, proposals=5, min_side=20).segment(photo(*size), probabilities=True)
    assert result.labels.shape == size
    assert result.labels.dtype == np.uint8
    assert result.probabilities is not None
    assert result.probabilities.shape == (21, *size)
    np.testing.assert_allclose(result.probabilities.sum(0), 1, atol=1e-3)
    assert np.array_equal(result.probabilities.argmax(0), result.labels)
    # the first box is the whole photo
    x0, y0, x1, y1 = result.boxes[0]
    assert x0 <= 0 and y0 <= 0 and x1 >= size[1] and y1 >= size[0]
    if size == (120, 160):
        assert 1 < len(result.boxes) <= 6
        assert (Segmenter(tiny_network, proposals=0).segment(photo(*size)).labels != result.labels).any()


def test_large_photos_are_worked_on_small_and_answered_large(tiny_network: Path, tmp_path: Path) -> None:
    """Files are even read reduced; the result has the photo's size, from the file as from its pixels."""
    image, path = photo(80, 4 * WORKING_SIDE), tmp_path / "large.png"
    Image.fromarray(image).save(path)
    segmenter = Segmenter(tiny_network, proposals=3, crf=False, precision="fp32")
    result, small = segmenter.segment(image), segmenter.segment(shrink(image, WORKING_SIDE))
    assert result.labels.shape == image.shape[:2]
    assert (result.labels[::4, ::4] == small.labels).mean() > 0.97
    np.testing.assert_allclose(result.boxes, 4 * small.boxes)
    read, from_file = read_photo(path), segmenter.segment(path)
    assert read.image.shape[:2] != from_file.labels.shape == image.shape[:2]
    np.testing.assert_array_equal(from_file.labels, segmenter.segment(read).labels)
    assert (from_file.labels == result.labels).mean() > 0.9


def test_photos_of_every_kind(tiny_network: Path, tmp_path: Path) -> None:
    segmenter = Segmenter(tiny_network, proposals=0, crf=False, precision="fp32")
    image = photo(40, 50)
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    frame = image.copy()
    plain = segmenter.segment(frame)
    frame[:] = 0  # a camera's next
    np.testing.assert_array_equal(plain.photo, image)
    for same in (path, str(path), Image.open(path), read_photo(path), image[::-1][::-1]):
        np.testing.assert_array_equal(segmenter.segment(same).labels, plain.labels)
    assert (segmenter.segment(path).source, plain.source) == (path, None)


def test_many_photos_are_as_each_alone_and_taken_as_needed(tiny_network: Path) -> None:
    segmenter = Segmenter(tiny_network, proposals=3, min_side=20, crf=False, precision="fp32", batch_size=2)
    images = [photo(40 + 7 * i, 60 - 5 * i) for i in range(6)]
    alone = [segmenter.segment(image) for image in images]
    supply = iter(images)
    results = segmenter.segment_many(supply, probabilities=True)
    first = next(results)
    assert length_hint(supply) > 0  # not all have been taken
    for one, other, image in zip(alone, [first, *results], images, strict=True):
        np.testing.assert_array_equal(other.pixels, image)
        assert (one.labels == other.labels).mean() > 0.999
        assert other.probabilities is not None
        np.testing.assert_array_equal(one.boxes, other.boxes)
    assert list(segmenter.segment_many([])) == []


def test_a_bad_photo_among_many_comes_after_those_before_it(tiny_network: Path, tmp_path: Path) -> None:
    segmenter = Segmenter(tiny_network, proposals=2, min_side=20, crf=False)
    results = segmenter.segment_many([photo(50, 60), photo(40, 60), tmp_path / "none.jpg", photo(30, 60)])
    assert [next(results).height, next(results).height] == [50, 40]
    with pytest.raises(InputError, match=r"none\.jpg: no such file"):
        next(results)
    for one in ("cat.jpg", Image.new("RGB", (4, 4)), photo(4, 5)):
        with pytest.raises(InputError, match="one photo, where several are asked for"):
            list(segmenter.segment_many(one))  # type: ignore[arg-type]
    assert len(list(segmenter.segment_many(np.stack([photo(20, 25)] * 2)))) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fusion": "median"}, "median: no such fusion; take one of max, mean"),
        ({"ensemble": "none"}, "none: no such ensemble; take one of mean, product, off"),
        ({"proposals": -1}, "proposals -1: give a whole number, 0 or more"),
        ({"proposals": 2.5}, "proposals 2.5: give a whole number"),
        ({"min_side": -5}, "min_side -5: give a whole number, 0 or more"),
        ({"batch_size": 0}, "batch_size 0: give a whole number, 1 or more"),
        ({"threads": -1}, "threads -1: give a whole number, 1 or more"),
        ({"prior": "0.3"}, "prior 0.3: is an exponent"),
        ({"protocol": "mine"}, "no such protocol"),
        ({"ensemble": "product", "fusion": "mean"}, "needs the fusion rule max"),
        ({"ensemble": "off", "prior": 0.0, "fcn": "x"}, "an FCN is for an ensemble or a prior"),
        ({"protocol": "paper", "ensemble": "off", "fcn": "x"}, "an FCN is for an ensemble or a prior"),
    ],
    ids=str,
)
def test_settings_that_mean_nothing(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Segmenter(**options)


def test_no_more_threads_than_cores_unless_given(tiny_network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads(), cv2.getNumThreads()
    try:
        torch.set_num_threads(3)
        cv2.setNumThreads(3)
        monkeypatch.setattr(deconvseg.segmenter, "cores", lambda: 2)
        Segmenter(tiny_network).load()
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (2, 2)
        Segmenter(tiny_network, threads=4).load()
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (4, 4)
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def test_what_does_not_fit_is_found_on_load(tiny_network: Path, tiny_fcn: Path, tmp_path: Path) -> None:
    own, fcn = (tmp_path / f"{name}.safetensors" for name in ("own", "fcn"))
    for given, copy in ((tiny_network, own), (tiny_fcn, fcn)):
        copy_network(given, copy, {"classes": [f"class{i}" for i in range(21)]})
    faults: list[tuple[str | Path, dict[str, Any], str]] = [
        ("nonsense", {}, "no such network file, nor a network's name"),
        (tiny_network, {"device": "abacus"}, "no such device"),
        (tiny_network, {"forest": tmp_path / "none"}, "none: no such .*forest"),
        (tiny_network, {"only": ["cat", "Cat "]}, "'Cat ' is no class of this network; did you mean cat"),
        (tiny_network, {"only": "zebra crossing"}, "'zebra .*; choose from aeroplane, bicycle"),
        (tiny_fcn, {"ensemble": "mean", "fcn": tiny_fcn}, "is an FCN itself"),
        (tiny_fcn, {"ensemble": "off", "prior": 0.4, "fcn": tmp_path / "none"}, "is an FCN itself"),
        (tiny_network, {"fcn": tiny_network}, "is no FCN"),
        (tiny_network, {"fcn": fcn}, "is no FCN with the network's classes"),
        (tiny_network, {"prior": 1, "fcn": tiny_fcn}, "no FCN that tells which classes a photo shows"),
        (tiny_fcn, {"prior": 1}, "no FCN that tells which classes a photo shows"),
        (tiny_network, {"ensemble": "off", "fcn": tiny_fcn}, "no FCN that tells which classes a photo shows"),
        (own, {"protocol": "paper"}, "fcn-lite: is no FCN with the network's classes; take another, or go"),
    ]
    for weights, options, words in faults:
        with pytest.raises((UsageError, WeightsError), match=words):
            Segmenter(weights, **options).load()


def test_identity_names_what_changes_a_result(tiny_network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def identity(**options: Any) -> str:
        return Segmenter(tiny_network, **{"proposals": 5, "precision": "fp32", **options}).settings_hash()

    base = identity()
    assert base == identity(batch_size=3, threads=1) and identity(only="cat") == identity(only=["cat"])
    changes: list[dict[str, Any]] = [
        *({"proposals": 6}, {"min_side": 50}, {"fusion": "mean"}, {"crf": False}),
        *({"precision": "bf16"}, {"only": ["cat"]}, {"protocol": "paper", "ensemble": "off"}),
    ]
    hashes = {base, *(identity(**changed) for changed in changes)}
    assert len(hashes) == 1 + len(changes)
    monkeypatch.setattr("deconvseg.__version__", "9.9.9")
    assert identity() not in hashes


def test_networks_and_forests_are_known_by_their_content(
    tiny_network: Path, tiny_fcn: Path, hand_made_forest: Forest, tmp_path: Path
) -> None:
    """What was found with the file as it was stays of that one; who begins later takes the new one."""
    network = Path(shutil.copy(tiny_network, tmp_path))
    segmenter = Segmenter(network, proposals=0)
    before = segmenter.settings_hash()
    network.unlink()
    shutil.copy(tiny_fcn, network)
    assert segmenter.settings_hash() == before != Segmenter(network, proposals=0).settings_hash()

    forest = tmp_path / "edges.yml"
    write_forest(hand_made_forest, forest)
    options: dict[str, Any] = {"forest": forest, "proposals": 5, "min_side": 20}
    segmenter = Segmenter(tiny_network, **options)
    edges, before = segmenter.edges(photo(90, 140)), segmenter.settings_hash()
    write_forest(hand_made_forest, forest, votes=1)
    assert segmenter.settings_hash() == before
    later = Segmenter(tiny_network, **options)
    assert np.abs(later.edges(photo(90, 140)) - edges).max() > 0.01
    assert later.settings_hash() != before
    assert pickle.loads(pickle.dumps(segmenter)).settings_hash() == later.settings_hash()


def test_a_code_digest_is_of_all_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a copy of the package, in which one file after another is changed."""
    copy = Path(shutil.copytree(Path(deconvseg.__file__).parent, tmp_path / "deconvseg"))
    monkeypatch.setattr(deconvseg, "__file__", str(copy / "__init__.py"))
    digests = {code_digest()}
    for module in ("postprocess/lattice.py", "evaluation/metrics.py"):
        with (copy / module).open("a") as file:
            file.write("# changed\n")
        digests.add(code_digest())
    assert len(digests) == 3 and code_digest() in digests


def test_preparing_and_finishing_need_no_network(tiny_network: Path, tiny_fcn: Path, tmp_path: Path) -> None:
    for given in (tiny_network, tiny_fcn):
        network = tmp_path / given.name
        network.write_bytes(given.read_bytes())
        segmenter = Segmenter(network, proposals=3, min_side=20)
        image = photo(90, 140)
        prepared = segmenter.prepare(image)
        assert segmenter._inference is None
        ((looked_at, found),) = Segmenter(given, proposals=3, min_side=20).fuse([prepared])
        network.unlink()  # what another machine may not have
        again = pickle.loads(pickle.dumps(segmenter))
        want = Segmenter(given, proposals=3, min_side=20).segment(image)
        np.testing.assert_array_equal(again.prepare(image).boxes, prepared.boxes)
        np.testing.assert_array_equal(again.finish(looked_at, found).labels, want.labels)
        assert again._inference is None


def probabilities(*args: object, **options: object) -> np.ndarray:
    result = Segmenter(*args, **options, crf=False).segment(photo(90, 140), probabilities=True)  # type: ignore[arg-type]
    assert result.probabilities is not None
    return result.probabilities


def test_ensemble_is_the_mean_of_what_both_networks_say_alone(tiny_network: Path, tiny_fcn: Path) -> None:
    options = {"proposals": 20, "min_side": 20, "precision": "fp32"}  # all candidates
    ensemble = Segmenter(tiny_network, ensemble="mean", fcn=tiny_fcn, crf=False, **options)
    both = ensemble.with_settings(objects=False).segment(photo(90, 140), probabilities=True).probabilities
    alone = probabilities(tiny_network, **options), probabilities(tiny_fcn, **options)
    np.testing.assert_allclose(both, 0.6 * alone[0] + 0.4 * alone[1], atol=1e-5)
    product = probabilities(tiny_network, ensemble="product", fcn=tiny_fcn, **options)
    assert np.abs(product - both).max() > 0.01


def test_protocols_set_what_is_not_given(tiny_network: Path, tiny_fcn: Path) -> None:
    """What comes of each setting: `proposals/test_boxes.py`."""
    paper = Segmenter(tiny_network, protocol="paper", fcn=tiny_fcn)
    assert paper.settings == PRESETS["paper"]
    assert paper.identity()["ensemble"] == "mean"
    assert paper.crf_parameters == CRFParameters(10, 3, 3, 20, 3, 5, normalise=False)
    assert paper.settings.proposals == 50
    code = Segmenter(tiny_network, protocol="released-code", proposals=3, ensemble="off")
    assert code.settings == replace(PRESETS["released-code"], proposals=3, ensemble="off")
    assert len(code.prepare(photo(140, 200)).boxes) <= 3


def test_fast_is_the_fcn_alone_or_the_whole_photo(tiny_network: Path, tiny_prior: Path) -> None:
    fast = Segmenter(tiny_network, protocol="fast", fcn=tiny_prior)
    image, alone = photo(90, 140), Segmenter(tiny_prior, protocol="fast")
    assert np.array_equal(fast.segment(image).labels, alone.segment(image).labels)
    assert (fast.weights, fast.settings.ensemble) == (str(tiny_prior), "off")
    assert len(Segmenter(tiny_network, protocol="fast").segment(image).boxes) == 1
    own = Segmenter(tiny_network, protocol="fast", prior=0.3)  # a file keeps to itself but for what is asked
    assert (own.weights, own.settings.ensemble) == (str(tiny_network), "off")
    assert Segmenter(tiny_network, protocol="fast", fcn=tiny_prior, proposals=3).weights == str(tiny_network)
    assert fast.settings_hash() == alone.settings_hash() != Segmenter(tiny_prior).settings_hash()
    side, large = load_network(tiny_prior)[0].side, photo(200, 800)
    assert fast.prepare(large).image.shape == (side // 4, side, 3)
    assert fast.segment(large).labels.shape == (200, 800)
    for other in (Segmenter(tiny_prior), Segmenter(tiny_network, protocol="fast", proposals=1)):
        assert other.prepare(large).image.shape == large.shape  # regions need all of it
    assert Segmenter(tiny_network, protocol="best").settings.proposals == 50


def test_named_networks_come_with_their_partner_and_files_alone(
    tiny_network: Path, tiny_fcn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = 'kind = "network"\ndescription = "d"\nlicence = "l"\nlicence_free = true\n'
    pair = f'[weights.pair]\nfile = "p"\npartner = "other"\n{entry}'
    other = f'[weights.other]\nfile = "o"\n{entry}'
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "registry.toml").write_text(f"format = 1\n{pair}{other}")
    (tmp_path / "p").write_bytes(tiny_network.read_bytes())
    monkeypatch.setattr(deconvseg.weights, "weights_folder", lambda: tmp_path / "shipped")
    monkeypatch.setenv("DECONVSEG_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match="other: is not on this machine"):
        Segmenter("pair").load()
    Segmenter("pair", proposals=0, ensemble="off", prior=0.0).load()
    (tmp_path / "o").write_bytes(tiny_fcn.read_bytes())
    both = Segmenter("pair")
    assert (both.settings.ensemble, both.fcn) == ("mean", "other") and both.inference.partner
    assert Segmenter(tiny_network).settings.ensemble == "off"


def test_a_prior_weighs_classes(tiny_network: Path, tiny_prior: Path) -> None:
    image = photo(90, 140)
    without = Segmenter(tiny_network, proposals=0, crf=False)
    cats = Segmenter(tiny_network, proposals=0, crf=False, ensemble="off", fcn=tiny_prior, prior=1)
    plain = without.segment(image, probabilities=True).probabilities
    found = cats.segment(image, probabilities=True).probabilities
    assert plain is not None and found is not None
    cat, ratio = without.classes.index("cat"), found / plain
    np.testing.assert_allclose(ratio[cat] / ratio[0], 2, rtol=0.02)
    np.testing.assert_allclose(ratio[cat + 1] / ratio[cat], np.exp(-6), rtol=0.02)
    none = Segmenter(tiny_network, proposals=0, crf=False, prior=0.0)
    assert np.array_equal(none.segment(image, probabilities=True).probabilities, plain)
    assert none.settings_hash() == without.settings_hash() != cats.settings_hash()


def test_changed_settings_read_the_networks_they_need(tiny_network: Path, tiny_prior: Path) -> None:
    both = Segmenter(tiny_network, fcn=tiny_prior, crf=False, proposals=0)
    both.load()
    alone = both.with_settings(ensemble="off", prior=0.0)
    single = Segmenter(tiny_network, proposals=0, crf=False, ensemble="off")
    assert alone.identity() == single.identity()
    assert alone.inference.network is both.inference.network
    again = alone.with_settings(ensemble="mean", prior=both.settings.prior)
    assert again.identity() == both.identity()
    labels = [each.segment(photo(60, 90)).labels for each in (both, alone, again)]
    np.testing.assert_array_equal(labels[0], labels[2])
    assert (labels[0] != labels[1]).any()
    bare = Segmenter(tiny_network, proposals=0, crf=False)
    bare.load()
    assert bare.with_settings(prior=0.2).identity() == bare.identity()
    with pytest.raises(UsageError, match="no FCN for an ensemble"):
        bare.with_settings(ensemble="mean")
