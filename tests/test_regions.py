"""Photos through the network together: the same as alone, in batches that neighbours share."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deconvseg.network.inputs import whole_pixels
from deconvseg.postprocess.fusion import least_certain
from deconvseg.proposals.boxes import around_objects, distinct
from deconvseg.regions import Prepared
from deconvseg.segmenter import Segmenter

EXACT: dict[str, Any] = {"min_side": 10, "precision": "fp32", "device": "cpu"}
SIZES = [(60, 90), (40, 40), (33, 70), (90, 60), (20, 25)]


def prepare_all(segmenter: Segmenter) -> list[Prepared]:
    """Photos of grainy blocks (in even ones poolings have no one maximum), whose regions differ in number."""
    rng = np.random.default_rng(0)
    photos = []
    for height, width in SIZES:
        image = rng.integers(0, 240, (height // 10 + 1, width // 10 + 1, 3), np.uint8)
        image = image.repeat(10, 0).repeat(10, 1)[:height, :width]
        image += rng.integers(0, 15, image.shape, np.uint8)
        photos.append(segmenter.prepare(image))
    return photos


def batches_of(segmenter: Segmenter) -> list[int]:
    """A list to which the size of every batch is added that goes through its network."""
    sizes: list[int] = []
    network = segmenter.inference.network
    network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    return sizes


@pytest.mark.parametrize("rule", ["max", "mean"])
def test_full_batches_make_a_photo_independent_of_others(tiny_network: Path, rule: Any) -> None:
    """In float32, where the size of a batch can change the last bits of its scores."""
    segmenter = Segmenter(tiny_network, batch_size=4, proposals=6, fusion=rule, **EXACT)
    photos, batches = prepare_all(segmenter), batches_of(segmenter)
    together = list(segmenter.fuse(photos, full_batches=True))
    counts = [len(photo.boxes) for photo, _ in together]
    assert len({*counts}) > 1
    assert set(batches) == {4}
    assert len(batches) == -(-sum(counts) // 4)
    backwards = list(segmenter.fuse(photos[::-1], full_batches=True))[::-1]
    alone = [next(segmenter.fuse([photo], full_batches=True)) for photo in photos]
    for (photo, fused), same, lone, given in zip(together, backwards, alone, photos, strict=True):
        assert photo.image is given.image
        for other, probabilities in (same, lone):
            assert np.array_equal(photo.boxes, other.boxes)
            assert np.array_equal(fused, probabilities)
        assert fused.shape == (21, *given.image.shape[:2])
        np.testing.assert_allclose(fused.sum(0), 1, atol=1e-5)


def test_photos_without_regions_keep_their_place(tiny_network: Path) -> None:
    segmenter = Segmenter(tiny_network, proposals=3, batch_size=2, **EXACT)
    photos = prepare_all(segmenter)
    bare = replace(photos[0], boxes=photos[0].boxes[:0], scores=photos[0].scores[:0])
    given = [bare, photos[1], bare, bare, photos[2], bare]
    results = list(segmenter.fuse(given))
    assert [photo.boxes.tolist() for photo, _ in results] == [photo.boxes.tolist() for photo in given]
    np.testing.assert_allclose(results[0][1], 1 / 21)
    assert np.array_equal(results[0][1], results[5][1])
    assert np.ptp(results[1][1]) > 0.1


def test_seconds_are_of_the_photo_alone(tiny_network: Path) -> None:
    segmenter = Segmenter(tiny_network, proposals=3, batch_size=2, **EXACT)
    start = time.perf_counter()
    results = list(segmenter.fuse(prepare_all(segmenter)))
    passed = time.perf_counter() - start
    spent = [photo.seconds["network"] for photo, _ in results]
    assert min(spent) > 0
    assert sum(spent) <= passed
    assert all(photo.seconds["proposals"] > 0 for photo, _ in results)


def test_an_fcn_looks_at_whole_photos(tiny_fcn: Path) -> None:
    segmenter = Segmenter(tiny_fcn, device="cpu", crf=False)
    photos = prepare_all(segmenter)
    for photo, fused in segmenter.fuse(photos, full_batches=True):
        alone = segmenter.segment(photo.image, probabilities=True).probabilities
        assert np.array_equal(fused, alone)
        assert photo.boxes.tolist() == [[0, 0, photo.image.shape[1], photo.image.shape[0]]]
        assert photo.seconds["network"] > 0


def test_in_an_ensemble_what_counts_is_the_answer_of_both(tiny_network: Path, tiny_fcn: Path) -> None:
    """A partner that is sure of one class leaves the regions nothing to change."""
    options: dict[str, Any] = {**EXACT, "proposals": 30, "crf": False}
    both = Segmenter(tiny_network, ensemble="mean", fcn=tiny_fcn, **options).with_settings(share=0.5)
    photos = prepare_all(both)
    assert both.inference.partner is not None
    sure = both.inference.partner[0].get_submodule("score_fr")
    sure.weight.data.zero_()
    sure.bias.data.fill_(-1000)
    sure.bias.data[7] = 1e6
    for photo, fused in both.fuse(photos):
        assert fused.shape == (21, *photo.image.shape[:2]) and (fused.argmax(0) == 7).all()


def test_of_the_candidates_those_come_first_where_the_fcn_is_least_certain(
    tiny_network: Path, tiny_fcn: Path
) -> None:
    """However many of them are looked at; regions that are no candidates follow in their order."""
    options: dict[str, Any] = {**EXACT, "ensemble": "mean", "fcn": tiny_fcn}
    few, many = (
        Segmenter(tiny_network, proposals=number, **options).with_settings(objects=False)
        for number in (3, 30)
    )
    changed = 0
    for given in prepare_all(many):
        ((photo, _),) = many.fuse([given])
        assert few.inference.partner is not None
        scores, _ = few.inference.whole_scores(few.inference.partner, given.image)
        ranked = least_certain(scores, whole_pixels(given.boxes[1:21]))
        wanted = [0, *(1 + place for place in ranked), *range(21, len(given.boxes))]
        assert np.array_equal(photo.boxes, given.boxes[wanted])
        ((first, _),) = few.fuse([few.prepare(given.photo)])
        assert np.array_equal(first.boxes, photo.boxes[: len(first.boxes)])
        changed += ranked != sorted(ranked)
    assert changed > 1


def test_regions_around_objects_that_the_fcn_sees_come_first(tiny_network: Path, tiny_fcn: Path) -> None:
    segmenter = Segmenter(tiny_network, proposals=9, ensemble="mean", fcn=tiny_fcn, **EXACT)
    alone = Segmenter(tiny_fcn, crf=False, **EXACT)
    several = 0
    for given in prepare_all(segmenter):
        ((photo, _),) = segmenter.fuse([given])
        ((others, _),) = segmenter.with_settings(objects=False).fuse([given])
        count = int(np.isnan(photo.scores).sum())
        labels = alone.segment(given.image).labels
        around = around_objects(labels[::4, ::4], *labels.shape)
        assert all((around == box).all(1).any() for box in photo.boxes[1 : 1 + count])
        kept = distinct(np.concatenate((given.boxes[:1], around)), 10, segmenter.settings.same)
        assert count == len(kept) - 1
        assert np.array_equal(photo.boxes[1 + count :], others.boxes[1:][: 9 - count])
        several += 1 < count < 9
    assert several


def too_small_for(network: torch.nn.Module, most: int) -> None:
    """Have the network run out of memory with batches of more than `most` regions."""

    def refuse(network: torch.nn.Module, inputs: Any) -> None:
        if len(inputs[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    network.register_forward_pre_hook(refuse)


def test_batches_that_do_not_fit_into_memory_are_halved_and_no_region_is_lost(tiny_network: Path) -> None:
    options: dict[str, Any] = {**EXACT, "proposals": 6}
    roomy, tight = Segmenter(tiny_network, batch_size=7, **options), Segmenter(tiny_network, **options)
    photos = prepare_all(roomy)
    want = [fused for _, fused in roomy.fuse(photos)]
    batches = batches_of(tight)
    too_small_for(tight.inference.network, 3)
    assert tight.inference.batch_size == 16
    got = [fused for _, fused in tight.fuse(photos, full_batches=True)]
    assert tight.inference.batch_size == 2
    assert batches[:3] == [16, 8, 4]
    assert set(batches[3:]) == {2}
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_region_that_does_not_fit_alone_is_an_error_and_so_is_another_fault(tiny_network: Path) -> None:
    segmenter = Segmenter(tiny_network, proposals=2, batch_size=4, **EXACT)
    photo = prepare_all(segmenter)[0]
    too_small_for(segmenter.inference.network, 0)
    with pytest.raises(MemoryError, match="single region"):
        list(segmenter.fuse([photo]))

    def fail(network: torch.nn.Module, inputs: Any) -> None:
        raise RuntimeError("no kernel for it")

    segmenter.inference.network.register_forward_pre_hook(fail, prepend=True)
    with pytest.raises(RuntimeError, match="no kernel"):
        list(segmenter.fuse([photo]))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_fork_of_a_process_that_has_segmented_says_so_and_one_before_that_works(tiny_network: Path) -> None:
    """It would hang: the threads of torch and OpenCV are not in it."""
    code = f"""
import multiprocessing
import numpy as np
from deconvseg import Segmenter
segmenter = Segmenter({str(tiny_network)!r}, proposals=0, crf=False, threads=2)
image = np.zeros((40, 50, 3), np.uint8)
def work(_):
    return segmenter.segment(image).labels.shape
for used in (False, True):
    if used:
        segmenter.segment(image)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        try:
            print(pool.apply_async(work, [0]).get(300))
        except Exception as error:
            print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    before, after = done.stdout.splitlines()
    assert before == "(40, 50)"
    assert after.startswith("UsageError this process was forked") and "spawn" in after
