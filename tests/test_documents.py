"""The examples of the documents do what they say."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .documents import run_examples

ROOT = Path(__file__).parents[1]


def test_python_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Image.open(ROOT / "examples" / "cat.jpg") as photo:
        photo.reduce(2).save(tmp_path / "photo.jpg")
        size = photo.reduce(2).size
    found = run_examples(ROOT / "docs" / "python.md", tmp_path)

    made = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    files = {"mask.png", "masks/photo.png"}
    files |= {f"out/photo.{suffix}" for suffix in ("png", "jpg", "cutout.png", "json")}
    assert files | {"out/photo.masks/cat.png", "out/photo.masks/background.png"} <= made
    with Image.open(tmp_path / "mask.png") as mask:
        assert mask.size == size
    assert found["is_cat"].mean() > 0.2
    assert set(found["cats"].class_shares()) == {"background", "cat"}
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "out/photo.masks/cat.png")) == 255, found["is_cat"]
    )
    assert capsys.readouterr().out == "holiday.jpg: no such file; check the path\n"


def test_examples_run_in_order_and_a_fault_is_found_at_its_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n\n```python\na = 1\n```\n```sh\nno python\n```\n```python\nb = a + 1\n1 / 0\n```\n"
    )
    with pytest.raises(ZeroDivisionError) as fault:
        run_examples(page, tmp_path)
    assert (fault.traceback[-1].lineno + 1, Path(fault.traceback[-1].path)) == (11, page)
    page.write_text(page.read_text().replace("1 / 0", ""))
    assert run_examples(page, tmp_path)["b"] == 2
