"""Runs the examples of a document."""

import contextlib
import re
from pathlib import Path
from typing import Any

_EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run_examples(document: Path, folder: Path) -> dict[str, Any]:
    """Run a document's fenced ```python blocks, one after the other, as one program in `folder`.

    Returns the program's variables; what a block raises is raised, with the document's own line numbers.
    """
    text = document.read_text(encoding="utf-8")
    variables: dict[str, Any] = {"__name__": "__main__"}
    with contextlib.chdir(folder):
        for example in _EXAMPLE.finditer(text):
            lines_before = text.count("\n", 0, example.start(1))
            exec(compile("\n" * lines_before + example[1], document, "exec"), variables)
    return variables
