"""The report's files: figures as in the run, a page that is whole without the network."""

import base64
import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

from deconvseg.data.dataset import Example
from deconvseg.evaluation.ablation import Subject
from deconvseg.evaluation.report import BLUE, ORANGE, PURPLE, choose, difference, write_report
from deconvseg.evaluation.run import REPORT_FILES, Truth, evaluate, summarise


def test_the_files_agree(report: Path, truth: Truth) -> None:
    assert {path.name for path in report.iterdir()} == {*REPORT_FILES, "predictions"}
    summary = json.loads((report / "report.json").read_text())
    assert [row["name"] for row in summary["rows"]] == ["whole photo", "50 proposals + CRF"]
    assert summary["mean_iou"] == summary["rows"][1]["mean_iou"] > summary["rows"][0]["mean_iou"]
    assert summary["seconds"] == {"network": 1.0, "crf": 0.25}
    assert summary["seconds_per_image"] == 1.25
    photos = list(csv.DictReader(io.StringIO((report / "per_image.csv").read_text())))
    assert [row["name"] for row in photos] == [example.name for example in truth.examples]
    assert sum(int(row["pixels_counted"]) for row in photos) == np.sum(summary["confusion"])
    for row in photos:
        image = Image.open(report / "predictions" / f"{row['name']}.png")
        assert (image.mode, image.size) == ("P", (int(row["width"]), int(row["height"])))


class Page(HTMLParser):
    """The images' attributes; every tag must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs))
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_needs_nothing(report: Path) -> None:
    text = (report / "report.html").read_text()
    assert not re.search(r"<script|<link|https?:|url\(|@import|<b>shifted", text)
    page = Page(text)
    assert not page.open
    assert len(page.images) == 6 and page.images[0]["alt"] == "shape004 and its labels"
    for image in page.images:
        head, _, encoded = (image["src"] or "").partition(",")
        assert head == "data:image/jpeg;base64"
        shown = Image.open(io.BytesIO(base64.b64decode(encoded)))
        shown.load()
        assert shown.width > 2.5 * shown.height  # four views, side by side


def test_without_predictions_there_is_no_gallery(truth: Truth, subject: Subject, tmp_path: Path) -> None:
    evaluation = evaluate(subject, truth)
    write_report(evaluation, summarise(evaluation), tmp_path)
    assert not Page((tmp_path / "report.html").read_text()).images


def test_the_gallery_shows_no_photo_twice() -> None:
    ranking = [Example(str(i), Path(), Path()) for i in range(101)]
    assert [example.name for example in choose(ranking)["Worst"]] == ["95", "96", "97", "98", "99", "100"]
    for count in (1, 12, 13):
        shown = [example for part in choose(ranking[:count]).values() for example in part]
        assert len(shown) == len({*shown}) == min(count, 12)


def test_the_difference_has_a_colour_for_each_mistake() -> None:
    photo = np.full((1, 6, 3), 100, np.uint8)
    truth = np.array([[0, 1, 1, 0, 1, 255]], np.uint8)
    found = np.array([[0, 1, 0, 1, 2, 1]], np.uint8)
    shown = [tuple(pixel) for pixel in difference(photo, truth, found)[0].tolist()]
    assert shown == [(40, 40, 40), (170, 170, 170), ORANGE, BLUE, PURPLE, (40, 40, 40)]
