"""Which photos a run takes and what their results are called."""

import os
import unicodedata
from pathlib import Path

import pytest

from deconvseg.batch.plan import Plan, make_plan
from deconvseg.errors import UsageError

KINDS = ("labels", "overlay")


@pytest.fixture(autouse=True)
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "sub/a.jpg", "sub/b.PNG", "x.txt", ".hidden/c.jpg", "a.mask.png", "../c.jpg"):
        path = Path("in", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def named(plan: Plan) -> dict[str, list[str]]:
    return {photo.path: [str(path) for path in photo.outputs.values()] for photo in plan.photos}


@pytest.mark.parametrize(
    ("photo", "output", "kinds", "results"),
    [
        ("c.jpg", None, KINDS, ["c.mask.png", "c.overlay.jpg"]),
        ("in/a.jpg", None, ["labels"], ["in/a.mask.png"]),
        ("c.jpg", "new/m.png", KINDS, ["new/m.png", "new/m.overlay.jpg"]),
        ("c.jpg", "m.jpg", KINDS[::-1], ["m.jpg", "m.mask.png"]),
        ("c.jpg", "c.cut.png", ["cutout"], ["c.cut.png"]),
        ("c.jpg", None, ["scores"], ["c.scores.npz"]),
        ("c.jpg", "s.npz", ["scores", "labels"], ["s.npz", "s.mask.png"]),
        ("c.jpg", None, ["color", "color"], ["c.color.png"]),
        ("c.jpg", None, ["coco"], ["c.coco.json"]),
        ("c.jpg", "c.json", ["coco"], ["c.json"]),
        ("c.jpg", None, ["masks"], ["c.masks"]),
        ("c.jpg", "out", ["labels", "masks"], ["out/c.png", "out/c.masks"]),
        ("c.jpg", "out/", KINDS, ["out/c.png", "out/c.overlay.jpg"]),
        ("a.b.jpg", "in/sub", ["labels"], ["in/sub/a.b.png"]),
        ("c.jpg", "file://out", ["labels"], ["out/c.png"]),
        ("c.jpg", "m.png", ["labels", "masks"], ["m.png", "m.masks"]),
        ("-", "m.png", ["labels"], ["m.png"]),
        ("-", "out/", ["labels"], ["out/stdin.png"]),
        ("-", None, ["labels"], ["None"]),
        ("c.jpg", "-", ["overlay"], ["None"]),
    ],
)
def test_one_photo(photo: str, output: str | None, kinds: list[str], results: list[str]) -> None:
    assert named(make_plan([photo], output, kinds)) == {photo: results}


@pytest.mark.parametrize("folder", ["in", "file://in"])
def test_folder_is_mirrored(folder: str) -> None:
    plan = make_plan([folder], "out", ["labels"])
    assert plan.folder and plan.folder.root == Path("out")
    assert named(plan) == {
        "in/a.jpg": ["out/a.png"],
        "in/sub/a.jpg": ["out/sub/a.png"],
        "in/sub/b.PNG": ["out/sub/b.png"],
    }


def test_folders_are_resolved_once_and_not_for_each_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    realpath, asked = os.path.realpath, []
    monkeypatch.setattr(os.path, "realpath", lambda path: asked.append(path) or realpath(path))
    make_plan(["in"], "out", ["labels"])
    few = len(asked)
    for number in range(20):
        Path(f"in/{number}.jpg").touch()
    assert len(make_plan(["in"], "out", ["labels"]).photos) == 23
    assert len(asked) == 2 * few


def test_results_below_the_photos_and_pipes_are_no_photos() -> None:
    Path("in/out").mkdir()
    Path("in/out/a.png").touch()
    os.mkfifo("in/p.jpg")
    assert len(make_plan(["in", "in/*.jpg"], "in/out", ["labels"]).photos) == 3


def test_glob_mirrors_what_is_below_its_plain_part() -> None:
    assert named(make_plan(["in/**/s?b/*.PNG"], "out", ["labels"])) == {"in/sub/b.PNG": ["out/sub/b.png"]}


def test_file_whose_name_looks_like_something_else() -> None:
    for name in ("[1].jpg", "@x.jpg"):
        Path(name).touch()
        assert list(named(make_plan([name], None, ["labels"]))) == [name]


def test_list(tmp_path: Path) -> None:
    absolute = tmp_path / "c.jpg"
    Path("list.txt").write_text(f"# photos\nin/a.jpg\n\n  in/sub/a.jpg\n../none.jpg\n{absolute}\n")
    plan = make_plan(["@list.txt"], "out", ["labels"])
    assert named(plan) == {
        "in/a.jpg": ["out/in/a.png"],
        "in/sub/a.jpg": ["out/in/sub/a.png"],
        "../none.jpg": ["out/none.png"],
        str(absolute): [f"out{absolute.with_suffix('.png')}"],
    }
    assert [photo.missing for photo in plan.photos] == [False, False, True, False]


def test_each_photo_once_and_links_are_photos_of_their_own() -> None:
    Path("link.jpg").symlink_to("c.jpg")
    Path("in/0.png").symlink_to("sub/b.PNG")
    plan = make_plan(["c.jpg", "./c.jpg", "link.jpg", "in", "./in/a.jpg"], "out", ["labels"])
    assert list(named(plan)) == [
        *("c.jpg", "link.jpg", "in/0.png", "in/a.jpg", "in/sub/a.jpg", "in/sub/b.PNG")
    ]
    with pytest.raises(UsageError, match=r"in/sub/b\.PNG: would .*, and is the photo in/0\.png"):
        make_plan(["in/0.png"], "in/sub/b.PNG", ["labels"])


def test_files_named_like_results_are_no_photos() -> None:
    for name in ("hair.color.jpg", "hair.jpg", "alone.mask.png", "x.overlay.jpg", "x.JPEG"):
        (Path("in/sub") / name).touch()
    for inputs in (["in/sub"], ["in/sub/*[gG]"]):
        assert {Path(path).name for path in named(make_plan(inputs, "out", ["labels"]))} == {
            *("a.jpg", "b.PNG", "hair.color.jpg", "hair.jpg", "x.JPEG"),
        }


@pytest.mark.parametrize(
    ("inputs", "output", "kinds", "words"),
    [
        (["in"], None, KINDS, "in: is a folder; say where"),
        (["in"], "-", ["labels"], "standard output: takes the result of one photo"),
        (["in"], "m.png", KINDS, "m.png: takes the result of one photo"),
        (["in"], "c.jpg", KINDS, "c.jpg: takes the result of one photo"),
        (["in"], "./in/", KINDS, "among the photos"),
        (["c.jpg", "in/a.jpg"], "m.png", KINDS, "m.png: takes the result of one photo"),
        (["-", "c.jpg"], "out", KINDS, "alone"),
        (["c.jpg"], "-", KINDS, "one result that is one file"),
        (["c.jpg"], "c.jpg", ["overlay"], "result of c.jpg, and is the photo c.jpg"),
        (["c.jpg"], "m.jpg", ["labels"], "labels files end in .png"),
        (["c.jpg"], "m.tif", ["overlay"], ".jpg or .jpeg or .png"),
        (["in/a.jpg", "in/sub/a.jpg"], "out", KINDS, "in/sub/a.jpg, and is the result of in/a.jpg"),
        ([""], None, KINDS, "an input is empty"),
        (["c.jpg"], "", KINDS, "output is empty"),
        (["c.jpg"], "c.tga", ["labels"], "labels files end in .png"),
        (["c.jpg"], "c.npz", ["labels"], "labels files end in .png"),
        (["c.jpg"], "c.png", ["scores"], "scores files end in .npz"),
        (["c.jpg"], "c.WebP", ["labels"], "labels files end in .png"),
        (["c.jpg"], "m.png", ["masks"], "masks are several files"),
        (["c.jpg"], "-", ["masks"], "one result that is one file"),
        (["in/a.jpg", "in/a.mask.png"], None, ["labels"], "and is the photo in/a.mask.png"),
        (["local://$PWD/c.jpg"], None, ["labels"], "is remote; say where"),
        (["local://$PWD/in"], "local://$PWD/in/", ["labels"], "results would lie among the photos"),
        (["in", "local://$PWD/in/a.jpg"], "local:///out", ["labels"], "file:///out/a.png: would be"),
        (["c.jpg", "$PWD/c.png"], None, ["labels"], "and is the result of c.jpg"),
        (["in/a.jpg", "in/A.JPG"], "out", ["labels"], "of in/A.JPG, and is the result of in/a.jpg"),
        (["é.jpg", unicodedata.normalize("NFD", "é.png")], "out", ["labels"], "and is the result of é.jpg"),
    ],
)
def test_refused(inputs: list[str], output: str | None, kinds: list[str], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        places = [place and place.replace("$PWD", str(Path.cwd())) for place in (*inputs, output)]
        make_plan(places[:-1], places[-1], kinds)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_photo_or_result_in_a_folder_for_masks() -> None:
    Path("in/a.masks").mkdir()
    Path("in/a.masks/cat.jpg").touch()
    with pytest.raises(UsageError, match=r"result of in/a\.masks/cat\.jpg would lie in .* of in/a\.jpg"):
        make_plan(["in"], "out", ["labels", "masks"])
    with pytest.raises(UsageError, match=r"photo in/a\.masks/cat\.jpg would lie in .* of in/a\.jpg"):
        make_plan(["in/a.jpg", "in/a.masks/cat.jpg"], None, ["masks"])


def test_inputs_without_photos_do_not_stop_the_others() -> None:
    Path("empty").mkdir()
    Path("blank.txt").touch()
    Path("binary.txt").write_bytes(b"\xff\xfe\xfa")
    bad = ["empty", "*.png", "@none", "@blank.txt", "@binary.txt"]
    plan = make_plan([*bad, "c.jpg"], "out", ["labels"])
    assert list(named(plan)) == ["c.jpg"]
    assert [problem.partition(":")[0] for problem in plan.problems] == bad
