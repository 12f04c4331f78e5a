"""What `deconvseg eval` shows: how far it is, and the scores as text."""

from __future__ import annotations

import time
from typing import Any

from deconvseg.cli import console


class EvalProgress:
    """A bar with the time left, or where there is no terminal a line every tenth of the way."""

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self._bar: console.Progress | None = None
        self._before = 0
        self._started = time.monotonic()

    def __enter__(self) -> EvalProgress:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar:
            self._bar.__exit__(*exception)

    def show(self, done: int, total: int) -> None:
        """`done` photos of `total` are done; the first call says how many were before."""
        if self._bar is None:
            self._before, self._started = done, time.monotonic()
            if done and self._wanted:
                console.say(f"going on: {done} of {total} photos are done")
            self._bar = console.Progress(total - done, wanted=self._wanted).__enter__()
            return
        self._bar.step()
        if (
            self._wanted
            and not self._bar.visible
            and total >= 10
            and done * 10 // total > (done - 1) * 10 // total
        ):
            passed = time.monotonic() - self._started
            left = passed / (done - self._before) * (total - done)
            console.say(f"[{done}/{total}] {int(left // 60)}:{int(left % 60):02} left")


def print_scores(summary: dict[str, Any]) -> None:
    """Print a summary of `evaluation.report.summarise`: the rows, the published ones, every figure."""
    print("mean IoU  95 % interval  boundary F  small  medium  large  setting")
    for row in summary["rows"]:
        sizes = "  ".join(_number(value, 3).rjust(5) for value in row["sizes"].values())
        mark = " *" * (row["name"] == summary["setting"] and len(summary["rows"]) > 1)
        figures = f"{row['mean_iou']:.4f}    {_interval(row):13}  {_number(row['boundary_f'], 4):10}  {sizes}"
        print(f"{figures}   {row['name']}{mark}")
    if summary["published"]:
        print(f"\nThe paper's rows, on other images ({summary['published_on']}):")
    for row in summary["published"]:
        print(f"{row['mean_iou']:.3f}   {row['name']}")
    print(f"\n{summary['setting']}, {summary['images']} of the {summary['split_images']} photos of", end=" ")
    print(summary["split"])
    for key, name in (
        ("mean_iou", "mean IoU"),
        ("voc_mean_iou", "mean IoU over all classes, absent ones 0, as VOC"),
        ("pixel_accuracy", "pixel accuracy"),
        ("mean_accuracy", "mean accuracy"),
        ("frequency_weighted_iou", "frequency-weighted IoU"),
        ("boundary_f", f"boundary F, tolerance {summary['boundary_tolerance']:.2%} of the diagonal"),
    ):
        print(f"{_number(summary[key], 4)}  {name}")
    if summary["seconds_per_image"] is not None:
        print(f"{summary['seconds_per_image']:.2f}    seconds a photo")
    print()
    for name, value in summary["per_class_iou"].items():
        print(f"{_number(value, 4):6}  {name}")


def print_tuned(result: dict[str, Any]) -> None:
    """Print what `evaluation.tune.tune_crf` returned."""
    from deconvseg.evaluation.tune import in_words

    for key in ("before", "after"):
        side = result[key]
        print(
            f"{key:7}{side['mean_iou_searched']:.4f} searched  {side['mean_iou_held_out']:.4f} held out  "
            + in_words(side["crf"])
        )
    kept = "the new parameters" if result["improved"] else "the old parameters: the new ones are not better"
    print(f"{result['output']}: holds {kept} on the photos held out")


def _interval(row: dict[str, Any]) -> str:
    low, high = row["mean_iou_interval"]
    return f"{low:.3f}-{high:.3f}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
