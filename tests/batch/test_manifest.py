"""What a later run takes as done, and what a manifest holds after a stop."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from deconvseg.batch.inputs import Photo, Shard
from deconvseg.batch.manifest import JOURNAL, MANIFEST, Manifest, Record, line_of, new_record, read_records
from deconvseg.batch.results_folder import ResultsFolder
from deconvseg.errors import UsageError
from deconvseg.files import digest


def make_photo(folder: Path, name: str, kinds: tuple[str, ...] = ("labels",)) -> Photo:
    """One that exists."""
    path = folder / "in" / f"{name}.jpg"
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        path.write_text(name)
    return Photo(str(path), name, {kind: folder / "out" / f"{name}.{kind}.png" for kind in kinds})


def finish(manifest: Manifest, photo: Photo, settings: str = "s1") -> Record:
    """Write results of 4 x 3 pixels and the line that says so."""
    record = new_record(photo, settings)
    for kind, path in photo.outputs.items():
        assert path is not None
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (4, 3)).save(path)
        record["outputs"][kind] = path.name
        record["digests"][kind] = digest(path)
    record |= {"status": "done", "width": 4, "height": 3}
    return manifest.add(record)


def opened(folder: Path, shard: Shard | None = None) -> Manifest:
    return Manifest(ResultsFolder(folder / "out"), shard=shard)


def run(
    folder: Path, photos: Sequence[Photo], settings: str = "s1", shard: Shard | None = None
) -> dict[str, Record]:
    """Do what is not done; returns what was."""
    manifest = opened(folder, shard)
    with manifest.locked():
        done = manifest.find_done(photos, settings, {})
        manifest.start(photos, done)
        for photo in photos:
            if photo.name not in done:
                finish(manifest, photo, settings)
        manifest.finish(photos)
    return done


def reread(folder: Path) -> dict[str, str]:
    """Status by name, with the assurance that no photo has two lines."""
    records = [json.loads(line) for line in (folder / "out" / MANIFEST).read_text().splitlines()]
    statuses = {record["name"]: record["status"] for record in records}
    assert len(statuses) == len(records)
    return statuses


@pytest.fixture
def photo(tmp_path: Path) -> Photo:
    """A photo that an earlier run has finished."""
    photo = make_photo(tmp_path, "a", ("labels", "color"))
    run(tmp_path, [photo])
    return photo


def is_done(photo: Photo, folder: Path, settings: str = "s1") -> bool:
    return "a" in opened(folder).find_done([photo], settings, {})


def test_done_is_skipped(photo: Photo, tmp_path: Path) -> None:
    manifest = opened(tmp_path)
    record = manifest.shown(manifest.find_done([photo], "s1", {})["a"])
    assert record["status"] == "skipped"
    assert record["outputs"] == {kind: str(path) for kind, path in photo.outputs.items()}
    assert is_done(make_photo(tmp_path, "a", ("labels",)), tmp_path)  # fewer kinds than there are


def test_the_folder_may_move(photo: Photo, tmp_path: Path) -> None:
    (tmp_path / "out").rename(tmp_path / "moved")
    moved = replace(photo, outputs={kind: tmp_path / "moved" / f"a.{kind}.png" for kind in photo.outputs})
    assert Manifest(ResultsFolder(tmp_path / "moved")).find_done([moved], "s1", {}).keys() == {"a"}


def test_other_settings_and_kinds_are_not_done(photo: Photo, tmp_path: Path) -> None:
    assert not is_done(photo, tmp_path, settings="s2")
    Image.new("L", (4, 3)).save(tmp_path / "out" / "a.cutout.png")  # there, but of another run
    assert not is_done(make_photo(tmp_path, "a", ("labels", "cutout")), tmp_path)


def test_changed_photo_is_not_done(photo: Photo, tmp_path: Path) -> None:
    path = Path(photo.path)
    status = path.stat()
    os.utime(path, (status.st_atime, status.st_mtime + 1))
    assert not is_done(photo, tmp_path)
    os.utime(path, (status.st_atime, status.st_mtime))
    assert is_done(photo, tmp_path)
    path.write_text("longer than before")
    os.utime(path, (status.st_atime, status.st_mtime))
    assert not is_done(photo, tmp_path)


@pytest.mark.parametrize("fault", ["gone", "cut short"])
def test_damaged_result_is_not_done(photo: Photo, tmp_path: Path, fault: str) -> None:
    path = tmp_path / "out" / "a.color.png"
    if fault == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-20])
    manifest = Manifest(ResultsFolder(tmp_path / "out"))
    assert not manifest.find_done([photo], "s1", {})
    assert manifest.redone == int(fault == "cut short")


def test_a_photo_that_is_away_for_a_run_stays_done(photo: Photo, tmp_path: Path) -> None:
    before = json.loads((tmp_path / "out" / MANIFEST).read_text())
    (tmp_path / "in").rename(tmp_path / "away")
    for settings in ("s1", None):  # None: no photo is there, and no network is loaded
        manifest = opened(tmp_path)
        assert not manifest.find_done([photo], settings, {})
        manifest.start([photo], {})
        manifest.add({**new_record(photo, settings), "error": "no such file"})
        manifest.finish([photo])
    (line,) = map(json.loads, (tmp_path / "out" / MANIFEST).open())
    assert line == {**before, "status": "failed", "error": "no such file"}
    (tmp_path / "away").rename(tmp_path / "in")
    record = opened(tmp_path).find_done([photo], "s1", {})["a"]
    assert (record["status"], record["error"]) == ("skipped", None)


def test_a_photo_that_fails_keeps_its_results(photo: Photo, tmp_path: Path) -> None:
    path, content = Path(photo.path), Path(photo.path).read_bytes()
    status = path.stat()
    path.write_text("damaged")
    manifest = opened(tmp_path)
    manifest.start([photo], {})
    record = manifest.add({**new_record(photo, "s1"), "error": "is damaged"})
    assert (record["status"], record["outputs"].keys()) == ("failed", {"labels", "color"})
    manifest.finish([photo])
    opened(tmp_path).refuse_foreign([photo])
    assert not is_done(photo, tmp_path)
    path.write_bytes(content)
    os.utime(path, (status.st_atime, status.st_mtime))
    assert is_done(photo, tmp_path)
    other = replace(photo, path=str(make_photo(tmp_path, "other").path))  # of the same name, elsewhere
    record = manifest.add({**new_record(other, "s1"), "error": "is damaged"})
    assert (record["path"], record["outputs"]) == (other.path, {})


def test_one_line_a_photo_through_stops_and_other_runs(photo: Photo, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (out / MANIFEST).open("a") as stream:
        stream.write('[1]\nnull\n{"name": "b"}\n{"input": "killed in the mid')
    photos = [photo, make_photo(tmp_path, "b"), make_photo(tmp_path, "c")]

    manifest = opened(tmp_path)
    done = manifest.find_done(photos, "s1", {})
    manifest.start(photos, done)
    assert reread(tmp_path) == {"a": "skipped"}
    finish(manifest, photos[1])  # then comes a kill
    assert reread(tmp_path) == {"a": "skipped", "b": "done"}

    manifest = opened(tmp_path)
    manifest.start(photos[1:], {})  # --overwrite, without the first photo
    assert reread(tmp_path) == {"a": "skipped"}
    for later in photos[1:]:
        finish(manifest, later, "s2")
    assert reread(tmp_path) == {"a": "skipped", "b": "done", "c": "done"}
    assert opened(tmp_path).find_done(photos, "s2", {}).keys() == {"b", "c"}
    assert opened(tmp_path).find_done(photos, "s1", {}).keys() == {"a"}


def test_what_is_written_whole_is_put_on_the_disk(
    photo: Photo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    manifest = opened(tmp_path)
    for write in (lambda: manifest.start([photo], {}), lambda: manifest.finish([photo])):
        write()
        assert (tmp_path / "out" / MANIFEST).stat().st_ino in synced
        synced.clear()
        finish(manifest, photo)
        assert not synced  # of each photo it would take too long


def redo(tmp_path: Path, kinds: tuple[str, ...], settings: str) -> Record:
    """As a run in which the photo `a` is not done."""
    photo = make_photo(tmp_path, "a", kinds)
    opened(tmp_path).refuse_foreign([photo])
    assert not run(tmp_path, [photo], settings)
    return run(tmp_path, [photo], settings)["a"]


def test_other_kinds_of_the_same_settings_stay_known(photo: Photo, tmp_path: Path) -> None:
    record = redo(tmp_path, ("cutout",), "s1")
    assert record["outputs"].keys() == record["digests"].keys() == {"labels", "color", "cutout"}
    assert record["outputs"]["labels"] == "a.labels.png"
    assert is_done(make_photo(tmp_path, "a", ("color", "cutout")), tmp_path)
    (tmp_path / "out" / "a.color.png").unlink()
    assert redo(tmp_path, ("scores",), "s1")["outputs"].keys() == {"labels", "cutout", "scores"}


@pytest.mark.parametrize("change", ["settings", "photo"])
def test_other_kinds_of_other_settings_are_removed(photo: Photo, tmp_path: Path, change: str) -> None:
    mine = tmp_path / "out" / "a.color.png"
    mine.write_text("retouched")  # no longer what the run has written
    if change == "photo":
        Path(photo.path).write_text("another one")
    record = redo(tmp_path, ("cutout",), "s2" if change == "settings" else "s1")
    assert record["outputs"].keys() == {"cutout"}
    assert not (tmp_path / "out" / "a.labels.png").exists()
    assert mine.read_text() == "retouched"


def test_other_numbers_of_shards_know_what_is_done(tmp_path: Path) -> None:
    out = tmp_path / "out"
    photos = [make_photo(tmp_path, f"{number}") for number in range(12)]

    def work(shard: Shard | None, settings: str = "s1") -> int:
        """Returns how many photos were done before."""
        own = [photo for photo in photos if not shard or shard.holds(photo.name)]
        return len(run(tmp_path, own, settings, shard))

    assert work(None) == 0
    assert sum(work(Shard(index, 2)) for index in range(2)) == 12
    shares = [work(Shard(index, 3), "s2") for index in range(3)]  # the newest line of a photo counts
    assert shares == [0, 0, 0]
    lines = [json.loads(line) for path in out.glob("segment.*-of-3.jsonl") for line in path.open()]
    assert sorted(record["name"] for record in lines) == sorted(photo.name for photo in photos)
    assert work(None, "s2") == 12
    assert [path.name for path in out.glob("*.jsonl")] == [MANIFEST]
    assert set(reread(tmp_path).values()) == {"skipped"}


def test_results_of_a_stopped_run_are_ours(photo: Photo, tmp_path: Path) -> None:
    more = make_photo(tmp_path, "b")
    manifest = opened(tmp_path)
    manifest.start([photo, more], {})  # of other settings: the line of the first photo goes
    (tmp_path / "out" / "b.labels.png").touch()  # then comes a kill, before the line is written
    manifest = opened(tmp_path)
    manifest.refuse_foreign([photo, more])
    manifest.start([photo, more], {})
    finish(manifest, make_photo(tmp_path, "a"), "s2")  # without the colours, which are left from before
    finish(manifest, more, "s2")
    manifest.finish([])
    opened(tmp_path).refuse_foreign([photo, more])
    assert (tmp_path / "out" / "a.color.png").exists()  # ours, but the stop has cost its line
    assert json.loads((tmp_path / "out" / JOURNAL).read_text())["pending"] == ["a.color.png"]
    run(tmp_path, [photo], "s2")
    assert not (tmp_path / "out" / JOURNAL).exists()


def test_result_of_another_photo_is_refused(
    photo: Photo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(path: str, name: str = "a") -> None:
        manifest = opened(tmp_path)
        one = Photo(path, name, {"labels": tmp_path / "out" / f"{name}.labels.png"})
        try:
            manifest.refuse_foreign([one])
        except UsageError:
            assert not manifest.find_done([one], "s1", {})
            raise
        assert manifest.find_done([one], "s1", {})

    shutil.copytree(tmp_path / "in", tmp_path / "other" / "in", copy_function=shutil.copy2)
    monkeypatch.chdir(tmp_path)
    again("in/a.jpg")  # the same photo by another path
    run(tmp_path, [Photo("in/a.jpg", "a", photo.outputs)])
    (tmp_path / "in" / "a.labels.jpg").touch()
    with pytest.raises(UsageError, match="would replace the result of"):  # by another name
        one = Photo("in/a.labels.jpg", "a.labels", {"labels": tmp_path / "out" / "a.labels.png"})
        opened(tmp_path).refuse_foreign([one])
    monkeypatch.chdir(tmp_path / "other")  # from here another photo has the same path
    told = rf"^in/a\.jpg: would replace the result of {tmp_path}/in/a\.jpg in "
    with pytest.raises(UsageError, match=told):
        again("in/a.jpg")
    Path(photo.path).unlink()
    again("in/a.jpg")  # moved


@pytest.mark.parametrize("lacking", ["path", "digests", "width"])
def test_a_line_of_an_older_version_costs_its_photo_alone(photo: Photo, tmp_path: Path, lacking: str) -> None:
    """It is done again at worst; not refused."""
    manifest = tmp_path / "out" / MANIFEST
    record = json.loads(manifest.read_text())
    del record[lacking]
    manifest.write_bytes(b"\xff\n" + json.dumps(record | {"notes": None, "more": 1}).encode())
    opened(tmp_path).refuse_foreign([photo])
    assert is_done(photo, tmp_path) is (lacking != "digests")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.jpg")
    path.write_text("four")
    record = new_record(Photo(str(path), "a"), "s1")
    assert (record["bytes"], record["modified"]) == (4, path.stat().st_mtime)
    record["outputs"] = {"labels": "a.png"}
    record["notes"] = ["its colour profile is broken"]
    other = new_record(Photo("gone.jpg", "b"), None)
    assert (other["bytes"], other["modified"]) == (None, None)
    manifest = tmp_path / "segment.jsonl"
    assert read_records(manifest) == {}
    manifest.write_bytes(line_of(other) + line_of(record) + line_of({**record, "name": "b"}))
    assert read_records(manifest) == {"a": record, "b": {**record, "name": "b"}}


@pytest.mark.parametrize(
    "wrong",
    [
        {"input": 5},
        {"name": [1]},
        {"name": None},
        {"outputs": None},
        {"outputs": {"labels": 5}},
        {"outputs": {"labels": "../a.png"}},
        {"outputs": {"labels": "/a.png"}},
    ],
)
def test_a_damaged_line_costs_no_other(tmp_path: Path, wrong: dict[str, object]) -> None:
    damage = json.dumps({"input": "a.jpg", "name": "a", "outputs": {}, **wrong}).encode()
    record = new_record(Photo("b.jpg", "b"), "s1")
    (tmp_path / "segment.jsonl").write_bytes(damage + b"\n" + line_of(record) + damage[:20])
    assert read_records(tmp_path / "segment.jsonl") == {"b": record}
