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
    for name in (
        "in/a.jpg",
        "in/sub/a.jpg",
        "in/sub/b.PNG",
        "in/x.txt",
        "in/.hidden/c.jpg",
        "in/a.mask.png",
        "c.jpg",
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def named(plan: Plan) -> dict[str, list[str]]:
    return {task.photo.path: [str(path) for path in task.outputs.values()] for task in plan.tasks}


def test_one_photo() -> None:
    assert named(make_plan(["c.jpg"], None, KINDS)) == {"c.jpg": ["c.mask.png", "c.overlay.jpg"]}
    assert named(make_plan(["in/a.jpg"], None, ["labels"])) == {"in/a.jpg": ["in/a.mask.png"]}
    assert named(make_plan(["c.jpg"], "new/m.png", KINDS)) == {"c.jpg": ["new/m.png", "new/m.overlay.jpg"]}
    assert named(make_plan(["c.jpg"], "m.jpg", KINDS[::-1])) == {"c.jpg": ["m.jpg", "m.mask.png"]}
    assert named(make_plan(["c.jpg"], "c.cut.png", ["cutout"])) == {"c.jpg": ["c.cut.png"]}
    assert named(make_plan(["c.jpg"], None, ["scores"])) == {"c.jpg": ["c.scores.npz"]}
    assert named(make_plan(["c.jpg"], "s.npz", ["scores", "labels"])) == {"c.jpg": ["s.npz", "s.mask.png"]}


def test_a_kind_given_twice_is_one() -> None:
    assert named(make_plan(["c.jpg"], None, ["color", "color"])) == {"c.jpg": ["c.color.png"]}


@pytest.mark.parametrize("out", ["out/", "out", "in/sub"])
def test_one_photo_into_a_folder(out: str) -> None:
    plan = make_plan(["c.jpg"], out, KINDS)
    assert named(plan) == {"c.jpg": [f"{out.rstrip('/')}/c.png", f"{out.rstrip('/')}/c.overlay.jpg"]}
    assert plan.folder and plan.folder.root == Path(out)


def test_folder_is_mirrored() -> None:
    assert named(make_plan(["in"], "out", ["labels"])) == {
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
    assert len(make_plan(["in"], "out", ["labels"]).tasks) == 23
    assert len(asked) == 2 * few


def test_results_below_the_photos_are_no_photos() -> None:
    Path("in/out").mkdir()
    Path("in/out/a.png").touch()
    assert len(make_plan(["in"], "in/out", ["labels"]).tasks) == 3


def test_glob() -> None:
    assert named(make_plan(["in/**/*.jpg"], "out", ["labels"])) == {
        "in/a.jpg": ["out/a.png"],
        "in/sub/a.jpg": ["out/sub/a.png"],
    }
    assert named(make_plan(["in/s?b/*.PNG"], None, ["labels"])) == {"in/sub/b.PNG": ["in/sub/b.mask.png"]}


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
    assert [task.photo.missing for task in plan.tasks] == [False, False, True, False]


def test_dash_in_a_list_is_a_file() -> None:
    Path("list.txt").write_text("-\nc.jpg\n")
    assert named(make_plan(["@list.txt"], "out", ["labels"])) == {
        "./-": ["out/-.png"],
        "c.jpg": ["out/c.png"],
    }


def test_each_photo_once() -> None:
    Path("link.jpg").symlink_to("c.jpg")
    assert list(
        named(make_plan(["c.jpg", "./c.jpg", "link.jpg", "in", "./in/a.jpg"], "out", ["labels"]))
    ) == [
        "c.jpg",
        "link.jpg",
        "in/a.jpg",
        "in/sub/a.jpg",
        "in/sub/b.PNG",
    ]


def test_photo_and_a_link_to_it_in_one_folder() -> None:
    Path("in/0.jpg").symlink_to("a.jpg")
    assert {"in/0.jpg", "in/a.jpg"} < named(make_plan(["in"], "out", ["labels"])).keys()


def test_only_results_beside_their_photo_are_no_photos() -> None:
    for name in ("hair.color.jpg", "hair.jpg", "alone.mask.png", "x.overlay.jpg", "x.JPEG"):
        (Path("in/sub") / name).touch()
    for inputs in (["in/sub"], ["in/sub/*[gG]"]):
        assert {Path(path).name for path in named(make_plan(inputs, "out", ["labels"]))} == {
            *("a.jpg", "b.PNG", "hair.color.jpg", "hair.jpg", "alone.mask.png", "x.JPEG"),
        }


def test_pipes_in_a_folder_are_no_photos() -> None:
    os.mkfifo("in/p.jpg")
    assert "in/p.jpg" not in named(make_plan(["in"], "out", ["labels"]))
    assert "in/p.jpg" not in named(make_plan(["in/*.jpg"], "out", ["labels"]))


def test_linked_folders_are_followed_but_not_in_circles() -> None:
    Path("in/sub/up").symlink_to("..", target_is_directory=True)
    Path("more").mkdir()
    Path("more/d.jpg").touch()
    Path("in/more").symlink_to("../more", target_is_directory=True)
    assert "in/more/d.jpg" in named(make_plan(["in"], "out", ["labels"]))
    assert len(make_plan(["in"], "out", ["labels"]).tasks) == 4


def test_pipe() -> None:
    assert make_plan(["-"], None, ["labels"]).tasks[0].outputs == {"labels": None}
    assert make_plan(["c.jpg"], "-", ["overlay"]).tasks[0].outputs == {"overlay": None}
    assert named(make_plan(["-"], "m.png", ["labels"])) == {"-": ["m.png"]}
    assert named(make_plan(["-"], "out/", ["labels"])) == {"-": ["out/stdin.png"]}


@pytest.mark.parametrize(
    ("inputs", "output", "kinds", "words"),
    [
        (["in"], None, KINDS, "in: is a folder"),
        (["in"], "-", ["labels"], "one photo"),
        (["in"], "m.png", KINDS, "m.png: is the name of one file"),
        (["in"], "c.jpg", KINDS, "c.jpg: is a file"),
        (["in"], "./in/", KINDS, "among the photos"),
        (["c.jpg", "in/a.jpg"], "m.png", KINDS, "m.png: is the name of one file"),
        (["-", "c.jpg"], "out", KINDS, "alone"),
        (["c.jpg"], "-", KINDS, "one kind"),
        (["c.jpg"], "c.jpg", ["overlay"], "c.jpg: is a photo of this run"),
        (["c.jpg"], "m.jpg", ["labels"], "labels files end in .png"),
        (["c.jpg"], "m.tif", ["overlay"], ".jpg or .jpeg or .png"),
        (["in/a.jpg", "in/sub/a.jpg"], "out", KINDS, "in/a.jpg and in/sub/a.jpg"),
        ([""], None, KINDS, "an input is empty"),
        (["c.jpg"], "", KINDS, "output is empty"),
        (["c.jpg"], "c.tga", ["labels"], "labels files end in .png"),
        (["c.jpg"], "c.npz", ["labels"], "labels files end in .png"),
        (["c.jpg"], "c.png", ["scores"], "scores files end in .npz"),
        (["c.jpg"], "c.WebP", ["labels"], "labels files end in .png"),
        (["in"], "c.jpg/x/y", ["labels"], "c.jpg/x/y: c.jpg is a file, not a folder"),
    ],
)
def test_refused(inputs: list[str], output: str | None, kinds: list[str], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_plan(inputs, output, kinds)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_masks_are_a_folder() -> None:
    assert named(make_plan(["c.jpg"], None, ["masks"])) == {"c.jpg": ["c.masks"]}
    assert named(make_plan(["c.jpg"], "out", ["labels", "masks"])) == {"c.jpg": ["out/c.png", "out/c.masks"]}
    assert named(make_plan(["c.jpg"], "m.png", ["labels", "masks"])) == {"c.jpg": ["m.png", "m.masks"]}
    for output in ("m.png", "-"):
        with pytest.raises(UsageError, match="masks are several files"):
            make_plan(["c.jpg"], output, ["masks"])


def test_photo_or_result_in_a_folder_for_masks() -> None:
    Path("in/a.masks").mkdir()
    Path("in/a.masks/cat.jpg").touch()
    with pytest.raises(UsageError, match=r"out/a\.masks: would hold masks, and in/a\.masks/cat\.jpg"):
        make_plan(["in"], "out", ["labels", "masks"])
    with pytest.raises(UsageError, match=r"in/a\.masks: would hold masks, and in/a\.masks/cat\.jpg"):
        make_plan(["in/a.jpg", "in/a.masks/cat.jpg"], None, ["masks"])


def test_one_photo_as_coco() -> None:
    assert named(make_plan(["c.jpg"], None, ["coco"])) == {"c.jpg": ["c.coco.json"]}
    assert named(make_plan(["c.jpg"], "c.json", ["coco"])) == {"c.jpg": ["c.json"]}


@pytest.mark.parametrize("twin", ["in/a.png", "in/A.JPG"])
def test_two_photos_with_one_result(twin: str) -> None:
    Path(twin).touch()
    with pytest.raises(UsageError, match=r"result of both in/(a|A)"):
        make_plan(["in"], "out", ["labels"])


def test_result_where_others_need_a_folder() -> None:
    Path("in/sub").rename("in/a.png")
    with pytest.raises(UsageError, match=r"in/a\.jpg: its result would be a file where .* need a folder"):
        make_plan(["in"], "out", ["labels"])
    assert len(make_plan(["in"], "out", ["overlay"]).tasks) == 3


def test_two_photos_with_one_result_by_two_paths(tmp_path: Path) -> None:
    Path("c.png").touch()
    with pytest.raises(UsageError, match=r"result of both c\.jpg and "):
        make_plan(["c.jpg", str(tmp_path / "c.png")], None, ["labels"])


def test_two_photos_with_one_result_in_another_unicode_form() -> None:
    names = [unicodedata.normalize("NFC", "é.jpg"), unicodedata.normalize("NFD", "é.png")]
    with pytest.raises(UsageError, match=r"result of both"):
        make_plan(names, "out", ["labels"])


def test_result_that_is_another_photo_of_the_run() -> None:
    Path("in/a.mask.png").touch()
    with pytest.raises(UsageError, match=r"in/a\.mask\.png: is a photo of this run"):
        make_plan(["in/a.jpg", "in/a.mask.png"], None, ["labels"])


def test_inputs_without_photos_do_not_stop_the_others() -> None:
    Path("empty").mkdir()
    Path("blank.txt").touch()
    Path("binary.txt").write_bytes(b"\xff\xfe\xfa")
    plan = make_plan(["empty", "*.png", "@none", "@blank.txt", "@binary.txt", "c.jpg"], "out", ["labels"])
    assert list(named(plan)) == ["c.jpg"]
    assert [problem.partition(":")[0] for problem in plan.problems] == [
        "empty",
        "*.png",
        "@none",
        "@blank.txt",
        "@binary.txt",
    ]
