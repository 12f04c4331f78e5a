"""The package as a program sees it: its names where they are said to be, and typed."""

from pathlib import Path

import pytest

import deconvseg


def test_every_public_name_is_there_and_no_other() -> None:
    for name in deconvseg.__all__:
        assert getattr(deconvseg, name) is not None
    from deconvseg.segmenter import Segmenter

    assert deconvseg.Segmenter is Segmenter
    assert dir(deconvseg) == sorted(deconvseg.__all__)
    with pytest.raises(AttributeError, match="Segmentor"):
        deconvseg.Segmentor  # type: ignore[attr-defined]  # noqa: B018
    assert Path(deconvseg.__file__).with_name("py.typed").is_file()
