"""Data of other kinds than colonoscopy through all chapters: grey with one class, and grey with three."""

import ast
import copy
import json
import re
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from diffusegen_core import notebooks, painting
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.data import pairsets, planes, regions
from diffusegen_core.data.dataset import PAIRS
from diffusegen_core.data.planes import Planes
from diffusegen_core.diffusion import checkpoints
from diffusegen_core.measures import lesionwise, overlap
from diffusegen_core.report import (
    baselines,
    figures,
    front,
    limits,
    naming,
    opening,
    segment_details,
    segment_figures,
    showcase,
)
from diffusegen_core.report.tables import Table
from diffusegen_core.run import Run
from diffusegen_core.segmentation import details
from diffusegen_core.store.stamps import read_stamp

PROFILES = Path(__file__).parents[1] / "params"
BY = ["data_type", "samples"]


def made(nano_values: dict, folder: Path, name: str) -> Run:
    """A nano run of a profile's data, all of which is made."""
    data = params.load(PROFILES / f"{name}.yaml")["data"]
    if name == "phantom_grey":
        data["object"] = "nodule"
    values = params.merged(copy.deepcopy(nano_values), {
        "data": data, "run_dir": str(folder), "segment.epochs": 1, "train.images": 12,
        "inpaint.baselines": ["Paste", "Paste-Poisson"], "inpaint.sources": 3, "gan.sources": 1,
        "augment.sizes": [3], "inpaint.masks": "joint" if name == "phantom_grey" else "varied",
        "inpaint.guidance_scale": 1.0 if name == "phantom_grey" else 2.0,
        "evaluate.membership": 4, "train.augment": 0.2, "train.lesion_weight": 1.0})
    run = Run(params.validate(values))
    for chapter in ("evaluate", "segment", "augment"):
        run.make(chapter)
    return run


@pytest.fixture(scope="module")
def grey(nano_values: dict, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made(nano_values, tmp_path_factory.mktemp("grey") / "run", "phantom_grey")


@pytest.fixture(scope="module")
def several(nano_values: dict, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made(nano_values, tmp_path_factory.mktemp("several") / "run", "phantom_classes")


@pytest.fixture(params=["grey", "several"])
def run(request: pytest.FixtureRequest) -> Run:
    return request.getfixturevalue(request.param)


def test_all_chapters_are_made_and_every_network_is_tested(run: Run) -> None:
    assert set(run.status()["status"]) <= {"made", "none"}
    for result in (run.segmented, run.augmented):
        failed = result.runs[result.runs["status"] != "ok"]
        # What the untrained models painted may be too little to learn from; nothing else may fail.
        assert failed["status"].str.contains("too few|no pair").all(), failed["status"].tolist()
        assert (result.runs["data_type"] == "Real").any()
        assert len(result.images)


def test_models_have_the_channels_and_classes_of_the_data(run: Run) -> None:
    kind, model = Planes.of(run.params.data), run.models.models[0]
    told = checkpoints.header(model.path)["configuration"]
    assert {name: told[name] for name in kind.told} == kind.told
    diffusion = run.models.load(device="cpu")
    assert diffusion.planes == kind
    stem, head = diffusion.net.input_blocks[0][0], diffusion.net.out[2]
    assert (stem.in_channels, head.out_channels) == (kind.all, 2 * kind.all)
    with pytest.raises(UserError, match="channels"):
        checkpoints.judge(model.path, run.params.model, run.params.process, 16)


def test_synthetic_pairs_are_grey_and_outside_the_region_their_source(run: Run) -> None:
    kind, pairs = Planes.of(run.params.data), run.pairs
    for one in run.inpainted.sets.values():
        assert len(one) or run.params.inpaint.masks == "joint"
        for name, source in zip(one.manifest["name"], one.manifest["source"], strict=True):
            with Image.open(one.folder / "images" / f"{name}.png") as picture:
                assert picture.mode == "L"
            image, mask = pairsets.read_pair(one.folder, name)
            assert (len(image), len(mask)) == (kind.channels, kind.classes)
            assert planes.union(mask).sum() == mask.sum(), "classes exclude each other"
            i = pairs.names.index(source)
            new = None if run.params.inpaint.masks == "joint" else mask[None]
            region = regions.filled(pairs.masks[i][None], new, run.params.inpaint.dilate)[0]
            assert np.array_equal(image[:, region == 0], pairs.images[i][:, region == 0])


def test_every_set_of_pairs_loads_with_its_classes(run: Run) -> None:
    kind = Planes.of(run.params.data)
    for data_type, one in run.synthetic.sets.items():
        if len(one):
            assert one.load().planes == kind, data_type


def test_one_model_paints_samples_and_fills(run: Run) -> None:
    diffusion, kind = run.models.load(device="cpu"), Planes.of(run.params.data)
    pairs = diffusion.sample(2, seed=1, steps=2)
    assert (pairs.planes, pairs.images.dtype) == (kind, np.uint8)
    region = np.zeros((16, 16), np.uint8)
    region[4:12, 4:12] = 1
    mask = region * kind.classes
    image = run.pairs.images[0]
    filled = diffusion.fill(image, region, mask=mask, guidance_scale=2.0, respacing=2, resampling=1,
                            jump_length=1)
    assert np.array_equal(filled.images[0][:, region == 0], image[:, region == 0])
    assert np.array_equal(planes.numbered(filled.masks[0]), mask)
    if kind.classes > 1:
        with pytest.raises(UserError, match="class numbers, 0 to 3"):
            diffusion.fill(image, region, mask=mask + 1)


def test_pictures_of_ones_own_are_painted_into(run: Run) -> None:
    kind = Planes.of(run.params.data)
    picture = run.pairs.images[1].repeat(2, axis=1).repeat(2, axis=2).transpose(1, 2, 0)
    given = np.zeros((32, 32), np.uint8)
    given[10:20, 10:20] = kind.classes
    one, = run.paint(picture, given)
    assert np.array_equal(one.mask, given)
    assert (one.image[~one.region] == picture[~one.region]).all()
    drawn, = run.paint(picture, seed=3)
    assert drawn.image.shape == picture.shape
    assert 0 < drawn.mask.max() <= kind.classes
    with pytest.raises(UserError, match=r"must be \(H, W, 1\)"):
        run.paint(picture.repeat(3, axis=2), given)


def test_the_command_paints_into_files(run: Run, tmp_path: Path) -> None:
    kind, numbers = Planes.of(run.params.data), np.zeros((24, 24), np.uint8)
    numbers[8:14, 8:14] = kind.classes
    picture, mask = tmp_path / "mine.png", tmp_path / "mask.png"
    Image.fromarray(np.tile(np.arange(80, 104, dtype=np.uint8), (24, 1))).save(picture)
    Image.fromarray(255 * numbers if kind.classes == 1 else numbers).save(mask)
    rows = painting.paint(run, [picture], tmp_path / "out", mask=mask)
    image, again = pairsets.read_pair(tmp_path / "out", rows["name"][0])
    assert image.shape == (1, 24, 24)
    assert np.array_equal(planes.numbered(again), numbers)


def test_dice_is_the_mean_over_classes_and_each_class_has_a_table(several: Run) -> None:
    images = several.segmented.images
    own = overlap.of_classes(3)
    assert np.allclose(images[own].mean(axis=1), images["dice"])
    table = segment_details.by_class(several, several.segmented, BY, "classes")
    assert table is not None
    assert {"liver", "kidney", "tumour"} <= set(table.frame.columns)
    assert images[["dice", *own]].to_numpy().max() <= 1


def test_small_and_large_objects_are_those_of_each_class(several: Run) -> None:
    result, classes = several.segmented, several.params.data.classes
    test = next(test for test in result.tests if test.pairs is not None)
    sizes = segment_details.by_size(several, result, BY, "sizes").frame
    found = segment_details.detection(several, result, BY, "detection").frame
    lesions = result.details.lesions[result.details.lesions["data_type"] == "Real"]
    for number, title in enumerate(classes):
        areas = pd.Series(test.pairs.masks[:, number].mean(axis=(1, 2)), index=test.pairs.names)
        low, _ = lesionwise.bounds(areas[areas > 0])
        images = result.images[(result.images["data_type"] == "Real") & result.images["image"].isin(
            areas[(areas > 0) & (areas <= low)].index)]
        own = lesions[lesions["class"] == number + 1]
        least, _ = lesionwise.bounds(own.drop_duplicates(["image", "lesion"])["area"])
        hits = (own.loc[own["area"] <= least, "iou"] >= lesionwise.DETECTED).mean()
        for table, wanted in ((sizes, images[f"dice_{number + 1}"].mean()), (found, hits)):
            row, = table[(table["class"] == title) & (table["data type"] == "Real")].to_dict("records")
            assert float(row["small"].split()[0]) == pytest.approx(wanted, abs=6e-4)
    assert list(sizes["class"].unique()) == list(classes)
    many = result.details.distances.assign(false_alarms_2=lambda one: 3 + one["seed"])
    table = segment_details.detection(several, replace(result, details=replace(
        result.details, distances=many)), BY, "x")
    told = table.frame.set_index(["class", "data type"])[segment_details.ALARMS]
    means = {title: told.loc[(title, "Real")].replace("[", "").replace("]", "").replace(",", "").split()
             for title in classes}
    assert min(map(float, means[classes[1]])) >= 3, "its interval is not cut off at 1, as those of shares are"
    assert means[classes[0]][0] == f"{many.loc[many['data_type'] == 'Real', 'false_alarms_1'].mean():.2f}"


def test_details_that_tell_no_classes_apart_are_read_and_said_to_be_older(
        several: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(details, "VERSION", details.BY_CLASS)
    monkeypatch.setattr(details, "BY_CLASS", details.BY_CLASS + 1)
    result = Run.open(several.folder).segmented
    assert len(result.details.distances) == len(several.segmented.details.distances) > 0
    lesions = result.details.lesions.assign(**{details.CLASS: float("nan")})
    table = segment_details.detection(several, replace(result, details=replace(
        result.details, lesions=lesions)), BY, "x")
    assert "not told apart by class, are left out" in table.caption
    assert "small" not in table.frame
    distances = result.details.distances.drop(columns=details.alarms_of(3))
    nothing = replace(result, details=replace(result.details, lesions=lesions, distances=distances))
    assert segment_details.detection(several, nothing, BY, "x").frame.to_numpy().tolist() == [
        ["not known for any network"]]


def test_one_class_has_no_table_of_classes(grey: Run) -> None:
    assert not set(overlap.of_classes(3)) & set(grey.segmented.images)
    assert segment_details.by_class(grey, grey.segmented, BY, "classes") is None


def test_figures_show_grey_images_and_the_colours_of_classes(run: Run) -> None:
    classes = run.params.data.classes
    drawn: list[Figure] = [
        figures.samples(run.pairs, classes=classes), figures.clusters(run.pairs, run.clusters),
        figures.inpainting(run.pairs, run.inpainted, classes), figures.styling(run.pairs, run.styled),
        baselines.figure(run.pairs, run.inpainted, run.pasted, classes), figures.grids(run.models),
        showcase.strip(run), showcase.extremes(run),
        segment_figures.examples(run.segmented, classes=classes),
        segment_figures.worst(run.segmented, classes=classes)]
    for figure in drawn:
        figure.canvas.draw()
        words = [text for text in figure.findobj(Text) if text.get_text()]
        assert min((text.get_fontsize() for text in words), default=8) >= 7, "too small for a phone"
    for number in (0, 2, 3, 4, 6, 7):  # those that most readers look at
        sizes = [text.get_fontsize() for text in drawn[number].findobj(Text) if text.get_text()]
        wide = drawn[number].get_figwidth() * 72
        assert min(sizes, default=wide) * 350 / wide >= 7.9, "in a page of 390 pixels, which leaves it 350"
    legends = [drawn[number].legends for number in (0, 2, 4, 6, 7, 8, 9)]
    assert [bool(legend) for legend in legends] == [len(classes) > 1] * len(legends)
    for legend in legends if len(classes) > 1 else ():
        assert [text.get_text() for text in legend[0].get_texts()] == list(classes)
    shown = drawn[0].axes[0].images[0].get_array()
    assert np.array_equal(shown[..., 0], run.pairs.images[0, 0])
    plt.close("all")


# ---- the words that a run's pages use

# Those of the paper's case and, of its data sets, not the name of one.
PAPERS = re.compile(r"polyp(?!gen)|mucosa|colonosc|endoscop", re.IGNORECASE)


def page(notebook: Path, run: Run, patch: pytest.MonkeyPatch) -> list[object]:
    """What the cells of a chapter's notebook show of a run."""
    shown: list[object] = []
    space = {"display": shown.append}
    patch.setattr(Run, "from_notebook", lambda namespace: run)
    for cell in json.loads(notebook.read_text())["cells"]:
        if cell["cell_type"] != "code" or "parameters" in cell["metadata"].get("tags", []):
            continue
        body = ast.parse("".join(cell["source"]))
        last = body.body.pop() if isinstance(body.body[-1], ast.Expr) else None
        exec(compile(body, notebook.name, "exec"), space)
        if last is not None:
            shown.append(eval(compile(ast.Expression(last.value), notebook.name, "eval"), space))
    return shown


def texts(shown: object) -> list[str]:
    """The words of a table, but for the paper's own folded below it, or of a figure."""
    if isinstance(shown, Table):
        return [replace(shown, folded=None)._repr_markdown_()]
    return [text.get_text() for text in shown.findobj(Text)] if isinstance(shown, Figure) else []


@pytest.mark.parametrize(("clusters", "words"), [(1, "all pairs"), (3, "similar pairs")])
def test_the_scheme_of_a_run_with_one_cluster_speaks_of_one(clusters: int, words: str) -> None:
    told = front._told(params.validate({"cluster": {"k": clusters}}))
    assert told[0].startswith(words)
    assert ("each" in told[1]) == (clusters > 1)


def test_the_pages_of_a_run_use_the_words_of_its_data(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    told = [*limits.of(run.params), opening.page(run), *texts(front.scheme(run, run.pairs))]
    for notebook in notebooks.every():
        shown = page(notebook, run, monkeypatch)
        assert any(isinstance(one, Table) for one in shown)
        assert all(all(list(one.frame)[1:]) for one in shown if isinstance(one, Table))
        told += [text for one in shown for text in texts(one)]
        plt.close("all")
    assert not [text for text in told if PAPERS.search(text)]
    words = "\n".join(told)
    if len(run.params.data.classes) == 1:
        expected = ["Trained on one data type alone: nodule Dice", "Nodule Dice by the area",
                    "smallest nodule", "how much of an image is nodule", "share of nodule",
                    "a new nodule\nand its mask", "Dice is nodule Dice on the held-out phantoms",
                    "evidence about ultrasound"]
    else:
        expected = ["Trained on one data type alone: mean Dice over 3 classes", "mean area of liver",
                    "share of organ", "a new organ\nfor a given", "Dice is mean Dice over 3 classes on the",
                    "evidence about CT"]
    assert not [one for one in expected if one not in words]


@pytest.mark.parametrize(("data", "name", "dice"), [
    ({}, "polyp", "polyp Dice"), ({"object": "nodule"}, "nodule", "nodule Dice"),
    ({"labels": {"1": "gland"}}, "gland", "gland Dice"),
    ({"labels": {"1": "gland"}, "object": "cancer"}, "cancer", "cancer Dice"),
    ({"labels": {"1": "liver", "2": "spleen"}}, "object", "mean Dice over 2 classes"),
    ({"labels": {"1": "liver", "2": "spleen"}, "object": "organ"}, "organ", "mean Dice over 2 classes")])
def test_what_the_masks_mark_is_called_as_the_data_say(data: dict, name: str, dice: str) -> None:
    p = params.validate({"data": {"source": "somewhere", **data}})
    assert (p.data.object_name, naming.dice_of(p)) == (name, dice)


def test_a_name_is_no_markup_in_a_caption() -> None:
    p = params.validate({"data": {"object": "a_b`c"}})
    assert naming.sentence(naming.captioned(p, "IoU")) == r"A\_b\`c IoU"


@pytest.mark.parametrize(("data", "line"), [
    ({"source": "phantom"}, "nothing here is evidence about colonoscopy."),
    ({"source": "phantom-ultrasound", "channels": 1}, "nothing here is evidence about ultrasound."),
    ({"source": "mine", "object": "nodule"}, "how results differ on images from elsewhere is not known."),
    ({"source": "mine"}, "elsewhere is not known (`segment.cvc`, `segment.polypgen`).")])
def test_the_limits_speak_of_the_runs_own_data(data: dict, line: str) -> None:
    assert [one for one in limits.of(params.validate({"data": data})) if one.endswith(line)]


# ---- what does not change


def test_runs_of_rgb_with_one_class_keep_their_recipes_and_pairs(nano_run: Run) -> None:
    """As they were before there were other kinds: the pixels, and the names in every recipe."""
    assert nano_run.pairs.digest == "c8de538ff2e637a9fc775f784d5d4f1dadb621d72ed86d6224d5607277b90336"
    stamp = read_stamp(nano_run.folder / "train/cluster-00")
    assert stamp is not None
    assert sorted(stamp["recipe"]) == ["image_size", "images", "model", "name", "pairs", "process", "seed",
                                       "train", "version"]
    header = checkpoints.header(nano_run.models.models[0].path)
    assert sorted(header["configuration"]) == ["image_size", "model", "process"]
    data = json.loads((nano_run.folder / "data/made.json").read_text())
    assert sorted(data["recipe"]) == ["count", "image_size", "seed", "source", "version"]
    assert (nano_run.folder / "data" / PAIRS).is_file()
    assert list(nano_run.segmented.images)[-5:-1] == overlap.COLUMNS
