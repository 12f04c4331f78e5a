"""Whole runs: own classes, two stages, other starts; and the folder they leave."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from deconvseg import files
from deconvseg.errors import UsageError, WeightsError
from deconvseg.files import lock
from deconvseg.network.checkpoint import load_network, save_network
from deconvseg.proposals.cache import read_proposals
from deconvseg.segmenter import Segmenter
from deconvseg.training.loop import Options, Reporter
from deconvseg.training.plan import Plan, Sources, check_plan, digest, plan_training
from deconvseg.training.run import check_start, run_training
from deconvseg.training.run_folder import Start

from .conftest import CPU, HEADER, metrics, small_network
from .test_loop import RECIPE_FILE

CLASSES = {"ground": "#101010", "disc": "#ff8000", "square": "#0080ff"}
NETWORK = RECIPE_FILE + "learning_rate = 5e-3\nencoder_learning_rate = 5e-3\nema = 0.9\nwarmup_steps = 20\n"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Own data: discs and squares in noise, masks in RGB."""
    root = tmp_path_factory.mktemp("own")
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        width, height = rng.integers(60, 90, 2).tolist()
        photo = Image.fromarray(rng.integers(90, 140, (height, width, 3), dtype=np.uint8))
        mask = Image.new("RGB", (width, height), CLASSES["ground"])
        side = int(rng.integers(26, 40))
        x, y = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
        for canvas, fill in ((photo, ("#dc2828", "#283cdc")[i % 2]), (mask, [*CLASSES.values()][i % 2 + 1])):
            draw = ImageDraw.Draw(canvas)
            (draw.rectangle if i % 2 else draw.ellipse)((x, y, x + side, y + side), fill=fill)
        photo.save(root / f"images/{i:02}.png")
        mask.save(root / f"masks/{i:02}.png")
    classes = [f'[[classes]]\nname = "{name}"\ncolor = "{color}"' for name, color in CLASSES.items()]
    (root / "dataset.toml").write_text("\n".join(['[splits]\nval = 0.25\ntrain = "rest"', *classes]))
    return root


def plan_of(root: Path, tmp_path: Path, text: str = NETWORK, **overrides: object) -> Plan:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return plan_training(Sources(data=root), path, overrides)


def start(plan: Plan, out: Path, begin: Start | None = None, **options: Any) -> list[Path]:
    return run_training(plan, begin or Start(), out, Options(CPU, **options))


class Told(Reporter):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, line: str) -> None:
        self.notes.append(line)


def test_own_classes_are_learned_and_the_file_segments_with_their_names_and_colours(
    own: Path, tmp_path: Path
) -> None:
    text = NETWORK.replace("crop_size = 32", "crop_size = 64").replace("[1, 1, 1, 1]", "[1, 1, 1, 1, 1]")
    text = text.replace("16, 16]", "32, 32]").replace("ema = 0.9", "ema = 0.95")
    text += "object_share = 0.4\nwhole_share = 0.4\n"
    changes = {
        "steps": 300,
        "bottleneck": 32,
        "batch_size": 16,
        "validate_every": 100,
    }
    plan = plan_of(own, tmp_path, text, **changes)
    (folder,) = start(plan, tmp_path / "run")
    assert max(line.get("val_whole_image_miou", 0) for line in metrics(folder)) > 0.9
    segmenter = Segmenter(folder / "best.safetensors", proposals=0, crf=False)
    example = plan.validation.examples[0]
    result = segmenter.segment(example.image)
    assert result.classes == tuple(CLASSES)
    assert result.palette == ((16, 16, 16), (255, 128, 0), (0, 128, 255))
    assert (result.labels == plan.validation.read(example)[1]).mean() > 0.95

    document = json.loads((folder / "run.json").read_text())
    assert document["recipe"]["steps"] == 300
    assert document["data"]["photos"] == len(plan.names)
    assert document["data"]["sha256"] == digest(plan, check_plan(plan))
    assert document["versions"]["torch"] == torch.__version__
    for figure in ("curves.png", "validation.png"):
        assert min(Image.open(folder / figure).size) > 200


STAGES = """
[stage1]
label = "object"
object_share = 0.8
steps = 4
[stage2]
crop_size = 64
object_share = 0.2
proposal_share = 0.6
overlap = 0.3
steps = 3
"""


def test_two_stages_follow_each_other_and_each_can_be_taken_up_again(own: Path, tmp_path: Path) -> None:
    plan = plan_of(own, tmp_path, NETWORK.replace("steps = 120\n", "") + STAGES)
    assert plan.needs_proposals
    out, told = tmp_path / "run", Told()
    begin = Start(proposals=tmp_path / "p.npz")
    folders = start(plan, out, begin, reporter=told)
    assert folders == [out / "stage1", out / "stage2"]
    assert read_proposals(tmp_path / "p.npz").photos.keys() == set(plan.names)
    assert start(plan, tmp_path / "limited", begin, limit_steps=3) == [tmp_path / "limited/stage1"]
    assert start(plan, tmp_path / "limited", begin, limit_steps=3, resume=True) == [
        tmp_path / "limited/stage1",
        tmp_path / "limited/stage2",
    ]
    assert [metrics(folder)[-1]["step"] for folder in folders] == [4, 3]
    assert load_network(folders[1] / "last.safetensors")[0].crop_size == 64
    assert json.loads((folders[1] / "run.json").read_text())["init"]["file"] == str(
        out / "stage1/last.safetensors"
    )
    with pytest.raises(UsageError, match="it holds a run already; resume it"):
        start(plan, out, begin)
    longer = replace(plan, stages={**plan.stages, "stage2": replace(plan.stages["stage2"], steps=5)})
    assert start(longer, out, begin, resume=True) == folders
    assert [metrics(folder)[-1]["step"] for folder in folders] == [4, 5]
    first = replace(plan, stages={**plan.stages, "stage1": replace(plan.stages["stage1"], steps=6)})
    with pytest.raises(UsageError, match="started from another network than"):
        start(first, out, begin, resume=True)  # stage 1 goes on, and stage 2 would no longer be its successor


def test_stage_2_alone_needs_stage_1_or_a_network(own: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(NETWORK.replace("steps = 120\n", "") + STAGES.replace("proposal_share = 0.6\n", ""))
    plan = plan_training(Sources(data=own), path, {}, "2")
    with pytest.raises(UsageError, match="run stage 1 first, or give a network"):
        start(plan, tmp_path / "run")
    save_network(tmp_path / "n.safetensors", small_network(), HEADER)
    assert start(plan, tmp_path / "run", Start(init=tmp_path / "n.safetensors")) == [tmp_path / "run/stage2"]


def test_a_network_for_other_classes_keeps_all_but_its_last_layer(
    own: Path, tmp_path: Path, tiny_network: Path
) -> None:
    told = Told()
    plan = plan_of(own, tmp_path, steps=1, learning_rate=0.0, encoder_learning_rate=0.0, ema=0.0)
    plan = replace(plan, stages={"": replace(plan.stages[""], encoder_learning_rate=0.0, steps=1)})
    (folder,) = start(plan, tmp_path / "run", Start(init=tiny_network), reporter=told)
    assert any("made for other classes" in note for note in told.notes)
    before, after = (load_network(path)[0] for path in (tiny_network, folder / "last.safetensors"))
    assert after.seg_score.out_channels == 3
    assert torch.equal(after.fc7.conv.weight, before.fc7.conv.weight)


FCN = """
network = "fcn8s"
photo_side = 96
crop_size = 64
widths = [8, 16, 16, 16, 16]
encoder_convs = [1, 1, 1, 1, 1]
bottleneck = 16
head_kernel = 3
padding = 1
head_norm = true
pretrained = "none"
frozen_blocks = 0
batch_size = 8
canvas = 96
steps = 40
precision = "fp32"
learning_rate = 5e-3
encoder_learning_rate = 5e-3
ema = 0.9
"""


def test_fcn_is_trained_and_a_stopped_run_ends_with_the_same_network(own: Path, tmp_path: Path) -> None:
    plan = plan_of(own, tmp_path, FCN)
    (folder,) = start(plan, tmp_path / "run")
    lines = metrics(folder)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0] / 2
    result = Segmenter(folder / "best.safetensors").segment(plan.validation.examples[0].image)
    assert result.classes == tuple(CLASSES)
    again = tmp_path / "again"
    start(plan, again, limit_steps=17)
    start(plan, again, resume=True)
    # Dropout as well follows from the seed and the step.
    assert (again / "last.safetensors").read_bytes() == (folder / "last.safetensors").read_bytes()
    with pytest.raises(UsageError, match="a network of the kind fcn8s, the recipe is for deconvnet"):
        start(plan_of(own, tmp_path, steps=1), tmp_path / "other", Start(init=folder / "best.safetensors"))


def test_fcn_starts_from_a_deconvnet(own: Path, tmp_path: Path, tiny_network: Path) -> None:
    source = small_network(encoder_norm=False)
    save_network(tmp_path / "n.safetensors", source, HEADER)
    told = Told()
    plan = plan_of(own, tmp_path, FCN, steps=1)
    plan = replace(plan, stages={"": replace(plan.stages[""], frozen_blocks=5, ema=0.0)})
    (folder,) = start(plan, tmp_path / "run", Start(init=tmp_path / "n.safetensors"), reporter=told)
    assert any("FCN-8s starts from its encoder" in note for note in told.notes)
    network = load_network(folder / "last.safetensors")[0]
    assert torch.equal(network.encoder[0].conv1_1.conv.weight, source.encoder[0].conv1_1.conv.weight)
    assert network.arguments["classes"] == 3
    with pytest.raises(UsageError, match="the encoder of the DeconvNet has other layers"):
        check_start(plan, Start(init=tiny_network), tmp_path / "other", Options(CPU))


def test_a_resumed_run_must_be_the_same_run(own: Path, tmp_path: Path) -> None:
    plan = plan_of(own, tmp_path, steps=2)
    out = tmp_path / "run"
    start(plan, out)
    other = plan_of(own, tmp_path, steps=2, seed=9)
    with pytest.raises(UsageError, match="this run has other seed"):
        start(other, out, resume=True)
    fewer = replace(plan, validation=replace(plan.validation, examples=plan.validation.examples[1:]))
    with pytest.raises(UsageError, match="photos, masks, scores or classes have changed"):
        start(fewer, out, resume=True)
    with lock(out / ".lock"), pytest.raises(UsageError, match="another process is training there"):
        start(plan, out, resume=True)
    left = out / f".deconvseg-{files._here()}-{2**22 + 1}-00000000.tmp"  # of a process that is no more
    left.write_bytes(b"half a network")
    slower = plan_of(own, tmp_path, steps=3, learning_rate=1e-4)
    start(slower, out, resume=True)  # what helps after an exploded loss may change
    assert not left.exists()
    (out / "run.json").write_text("{}")
    with pytest.raises(UsageError, match=r"run\.json: cannot be read"):
        start(plan, out, resume=True)


def test_classes_that_mean_something_else_are_other_data(own: Path, tmp_path: Path) -> None:
    plan = plan_of(own, tmp_path)
    before = digest(plan, check_plan(plan))
    description = own / "dataset.toml"
    text = description.read_text()
    description.write_text(
        text.replace('"disc"', '"x"').replace('"square"', '"disc"').replace('"x"', '"square"')
    )
    swapped = plan_of(own, tmp_path)
    description.write_text(text)
    assert swapped.classes == ("ground", "square", "disc")
    assert digest(swapped, check_plan(swapped)) != before


def test_resume_before_the_first_checkpoint_starts_from_the_beginning(own: Path, tmp_path: Path) -> None:
    told = Told()
    plan = plan_of(own, tmp_path, steps=2)
    (folder,) = start(plan, tmp_path / "run", resume=True, reporter=told)
    assert any("no checkpoint yet" in note for note in told.notes)
    assert metrics(folder)[-1]["step"] == 2


def test_a_resumed_run_keeps_the_start_it_had(own: Path, tmp_path: Path, tiny_network: Path) -> None:
    plan = plan_of(own, tmp_path, steps=2)
    (folder,) = start(plan, tmp_path / "run", Start(init=tiny_network))
    start(plan_of(own, tmp_path, steps=3), tmp_path / "run", resume=True)
    assert json.loads((folder / "run.json").read_text())["init"]["file"] == str(tiny_network)
    assert load_network(folder / "last.safetensors")[1].scale == load_network(tiny_network)[1].scale
    save_network(tmp_path / "n.safetensors", small_network(), HEADER)
    with pytest.raises(UsageError, match="started from another network"):
        start(plan, tmp_path / "run", Start(init=tmp_path / "n.safetensors"), resume=True)


def test_what_is_missing_is_found_before_the_data_is_read(own: Path, tmp_path: Path) -> None:
    plan = plan_of(own, tmp_path, NETWORK.replace('"none"', '"init"'))

    def check(begin: Start) -> None:
        check_start(plan, begin, tmp_path / "run", Options(CPU))

    with pytest.raises(UsageError, match="starts from a trained network; name one"):
        check(Start())
    with pytest.raises(WeightsError, match="no such network file"):
        check(Start(init=tmp_path / "n.safetensors"))
    with pytest.raises(UsageError, match=r"v\.safetensors: does not exist"):
        check(Start(init="default", vgg16=tmp_path / "v.safetensors"))
    check(Start(init="default"))


def test_a_recipe_that_describes_no_network_is_told(own: Path, tmp_path: Path) -> None:
    plan = plan_of(own, tmp_path, NETWORK.replace("[8, 16, 16, 16, 16]", "[8, 16]"))
    with pytest.raises(UsageError, match="describes no network"):
        start(plan, tmp_path / "run")


def test_soft_labels_teach(own: Path, tmp_path: Path) -> None:
    """With scores that call everything a disc, and masks that do not count, the network does so."""
    (tmp_path / "scores").mkdir()
    sources = Sources(data=own, scores=[tmp_path / "scores"])
    path = tmp_path / "recipe.toml"
    path.write_text(NETWORK + "copy_paste = 0.3\n[mask_weight]\nOWN = 0\n".replace("OWN", own.name))
    for example in plan_training(Sources(data=own), path, {}).training[own.name].examples:
        width, height = Image.open(example.image).size
        scores = np.zeros((3, height, width), np.float16)
        scores[1] = 1
        np.savez(tmp_path / f"scores/{example.name}.scores.npz", probabilities=scores, classes=[*CLASSES])
    (folder,) = start(plan_training(sources, path, {"steps": 30}), tmp_path / "run")
    segmenter = Segmenter(folder / "last.safetensors", proposals=0, crf=False)
    assert segmenter.segment(np.full((64, 64, 3), 115, np.uint8)).class_shares()["disc"] > 0.9
