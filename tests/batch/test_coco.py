"""The COCO file of a run, while other shards are at work or end."""

import json
import threading
from pathlib import Path

import pytest

from deconvseg.batch.inputs import Photo
from deconvseg.batch.manifest import Manifest
from deconvseg.batch.records import new_record
from deconvseg.batch.results_folder import ResultsFolder
from deconvseg.batch.shard import Shard
from deconvseg.images import coco


class Shards:
    """Two shards, each with photos that are done; merging calls `meanwhile` in between."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.merges = folder, 0
        self.meanwhile = lambda: None
        self._shards = [Manifest(ResultsFolder(folder), shard=Shard(index, 2)) for index in range(2)]
        merge = coco.merge_coco

        def merge_and_more(parts: list[Path], target: Path) -> list[str]:
            self.merges += 1
            self.meanwhile()
            return merge(parts, target)

        monkeypatch.setattr(coco, "merge_coco", merge_and_more)

    def done(self, index: int, name: str, settings: str = "s1") -> None:
        """A photo is done by the shard."""
        part = self.folder / f"{name}.coco.json"
        image = {"id": 1, "file_name": name, "width": 5, "height": 5}
        part.write_text(json.dumps({"images": [image], "annotations": [], "categories": []}))
        record = new_record(Photo(f"{name}.jpg", name), settings)
        self._shards[index].add({**record, "status": "done", "outputs": {"coco": part.name}})

    def end(self, index: int) -> int:
        """The shard is through; returns how many photos are left out."""
        manifest = Manifest(ResultsFolder(self.folder), shard=Shard(index, 2))
        problems, others = manifest.write_coco(self.folder / "coco.json", "s1", {})
        assert not problems
        return others

    def merged(self) -> list[str]:
        document = json.loads((self.folder / "coco.json").read_text())
        return [image["file_name"] for image in document["images"]]


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shards:
    return Shards(tmp_path, monkeypatch)


def test_a_shard_that_ends_early_does_not_wait_for_the_rest(shards: Shards) -> None:
    """Though another one gets a photo done each time."""
    shards.done(0, "a")
    shards.meanwhile = lambda: shards.done(1, f"b{shards.merges}")
    shards.end(0)
    assert shards.merges == 2 and shards.merged()[0] == "a"


def test_shards_that_end_together_miss_nothing(shards: Shards) -> None:
    other = threading.Thread(target=lambda: (shards.done(1, "b"), shards.end(1)))
    shards.done(0, "a")

    def end_other() -> None:
        shards.meanwhile = lambda: None
        other.start()
        other.join(0.3)  # it gets through to its end now, or waits

    shards.meanwhile = end_other
    shards.end(0)
    other.join()
    assert shards.merged() == ["a", "b"]


def test_photos_of_other_settings_are_left_out(shards: Shards) -> None:
    for name, settings in (("a", "s1"), ("b", "s2"), ("c", "s1")):
        shards.done(0, name, settings)
    assert shards.end(0) == 1
    assert shards.merged() == ["a", "c"]
