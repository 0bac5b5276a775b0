"""Chapter 4: a guided step by hand, images that do not depend on one another, and that styling styles."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from diffusegen_core.chapters import style
from diffusegen_core.chapters.scenes import Scenes
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.config.sections import Style
from diffusegen_core.data import checkup, dataset, pairsets
from diffusegen_core.data.pairsets import PairSet
from diffusegen_core.data.types import DataType
from diffusegen_core.diffusion import guided
from diffusegen_core.diffusion.guided import OK, Judge
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.diffusion.process import Reverse
from diffusegen_core.report import figures, style_tables
from diffusegen_core.run import Run
from diffusegen_core.store.artifacts import Recipe, differences
from diffusegen_core.store.stamps import STAMP

PAINTED = DataType("Diff", "2")
STYLED = PAINTED.styled


@pytest.fixture(scope="module")
def run_of(nano_values: dict, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Params]:
    """Parameters of one nano run with a full-set model, whose style section may be changed."""
    folder = tmp_path_factory.mktemp("style") / "run"

    def made(**settings: object) -> Params:
        values = {**nano_values, "run_dir": str(folder), "style": {
            "respacing": 5, "skip": 2, "backbone": "timm/test_resnet", "backbone_size": 32, "batch_size": 3,
            **settings}}
        values["train"] = {**values["train"], "full_images": 24}
        return params.validate(values)
    return made


def times(folder: Path) -> list[int]:
    return [path.stat().st_mtime_ns for path in sorted(folder.rglob(STAMP))]


def test_a_run_makes_dataset_folders_with_the_masks_it_was_given(run_of: Callable[..., Params]) -> None:
    run = Run(run_of())
    result, painted = run.make("style"), run.inpainted
    assert [data_type.name for data_type in result.sets] == ["2-Styled-Diff", "Full-Styled-Diff"]
    assert list(result.origins.values()) == list(painted.sets.values())
    for data_type, one in result.sets.items():
        origin, manifest = painted.sets[data_type.inpainted], one.manifest
        assert one.folder == run.folder / "style" / data_type.name
        assert result.origins[data_type] is origin
        assert list(manifest.columns) == style.MANIFEST
        assert (manifest["status"] == OK).all()
        before = origin.manifest
        for column in ("name", "source", "source_cluster", "model", "sample"):
            assert list(manifest[column]) == list(before[column])
        assert (manifest["area"] - before["area_after"]).abs().max() < 1e-6
        for name in manifest["name"]:
            (image, mask), (old_image, old_mask) = (pairsets.read_pair(f, name) for f in
                                                    (one.folder, origin.folder))
            assert np.array_equal(mask, old_mask)
            assert not np.array_equal(image, old_image)
        steps = result.steps[data_type]
        assert [steps.index.name, *steps.columns] == list(style.COLUMNS)
        assert len(steps) == 3 * len(manifest)
    assert result.backbone == "timm/test_resnet (random weights)"
    assert list(result.table["pairs"]) == [len(one) for one in painted.sets.values()]


def test_what_is_missing_is_refused_and_made_again_on_request_and_nothing_else(
        run_of: Callable[..., Params], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Run(run_of()).make("style").sets[STYLED].folder
    images = sorted((folder / "images").glob("*.png"))
    before = {path: path.read_bytes() for path in images}
    images[1].unlink()
    with pytest.raises(UserError, match=rf"images/{images[1].name} is missing.*--remake style"):
        Run(run_of()).make("style")
    made, real = [], style.make_batch

    def noted(jobs: list[pairsets.Job], **rest: object) -> None:
        made.extend(job.name for job in jobs)
        real(jobs=jobs, **rest)
    monkeypatch.setattr(style, "make_batch", noted)
    Run(run_of(batch_size=2)).make("style", again=True)
    assert made == [images[1].stem]
    assert {path: path.read_bytes() for path in images} == before
    stamps = times(folder.parent)
    Run(run_of()).make("style")
    assert stamps == times(folder.parent)


def test_a_stopped_pair_is_reported_and_left_out(run_of: Callable[..., Params],
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    through = guided.guided

    def spoil(diffusion: Diffusion, judge: Judge, inpainted: Tensor, source: Tensor, *rest: object,
              **others: object) -> tuple:
        source[0] = torch.inf
        return through(diffusion, judge, inpainted, source, *rest, **others)

    monkeypatch.setattr(guided, "guided", spoil)
    run = Run(run_of(temperature=0.08, batch_size=16))
    result = run.make("style")
    one, painted = result.sets[STYLED], run.inpainted.sets[PAINTED].manifest
    manifest, folder, stopped = one.manifest, one.folder, one.left_out
    assert len(stopped) == painted["model"].nunique()
    assert stopped["status"].str.startswith("stopped in step 1 of 3: not finite: ").all()
    kept = set(painted["name"]) - set(stopped["name"])
    assert set(manifest["name"]) == kept
    for kind in pairsets.KINDS:
        assert {path.stem for path in (folder / kind).iterdir()} == kept
    assert set(result.steps[STYLED].index) == kept
    assert int(result.table.loc[STYLED.name, "stopped"]) == len(stopped)
    row = json.loads((folder / "rows" / f"{stopped['name'].iloc[0]}.json").read_text())
    assert row["sha256"] == []
    assert checkup.check(folder).pairs


def test_what_decides_a_pair_is_in_its_recipe(run_of: Callable[..., Params]) -> None:
    run = Run(run_of())
    run.make("inpaint")
    origin = run.inpainted.sets[PAINTED]
    name, model = next(iter(origin.stamp["recipe"]["jobs"].items()))
    job = pairsets.Job(0, name, name, 0, model, 1, 5)

    def recipe(origin: PairSet = origin, **settings: object) -> Recipe:
        p = run_of(**settings)
        return style.recipe(run.workspace, run.pairs, [job], run.models, origin, p.style,
                            Scenes.of(run.workspace, run.pairs, p.inpaint))

    assert recipe() == recipe(batch_size=1)
    for change in ({"guidance": "variance"}, {"lambda_mse": 1.0}, {"max_shift": None}, {"skip": 1}):
        assert differences(recipe(), recipe(**change))
    other_image = replace(origin, hashes={**origin.hashes, f"images/{name}.png": "other"})
    assert differences(recipe(), recipe(other_image))


@pytest.mark.parametrize("method", ["guided", "sdedit"])
def test_clipping_decides_a_styled_pair_only_where_it_is_switched_off(method: str) -> None:
    clipped, free = (style._decisive(Style(method=method, clip=clip)) for clip in (True, False))
    assert "clip" not in clipped, "pairs that are older than the parameter hold"
    assert free == {**clipped, "clip": False}


@pytest.mark.parametrize("method", ["guided", "sdedit"])
def test_styling_clips_what_the_models_aim_at_unless_it_is_told_not_to(
        run_of: Callable[..., Params], monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    clips, interpret = set(), Diffusion.interpret

    def noted(self: Diffusion, x_t: Tensor, t: Tensor, output: Tensor, clip: bool | None = None) -> Reverse:
        if clip is None:  # not of the losses, which see it as predicted
            clips.add(self.clip)
        return interpret(self, x_t, t, output, clip)
    Run(run_of(method=method)).make("inpaint")
    monkeypatch.setattr(Diffusion, "interpret", noted)
    for clip in (True, False):
        clips.clear()
        Run(run_of(method=method, clip=clip, respacing=6)).make("style")  # as no other test's
        assert clips == {clip}


def test_the_page_of_a_run_in_which_nothing_was_styled(tmp_path: Path) -> None:
    for file, columns in (("manifest.csv", style.MANIFEST), ("left_out.csv", style.MANIFEST),
                          ("steps.csv", list(style.COLUMNS))):
        pd.DataFrame(columns=columns).to_csv(tmp_path / file, index=False)
    nothing = PairSet(STYLED, tmp_path, pairsets.manifest(tmp_path), pairsets.left_out(tmp_path), {},
                      {"seconds": 0.0})
    steps = pd.read_csv(tmp_path / "steps.csv", dtype=style.COLUMNS).set_index("name")
    result = style.Styled({STYLED: nothing}, {STYLED: replace(nothing, data_type=PAINTED)}, {STYLED: steps},
                          "net", "vgg")
    p = params.validate({})
    assert style_tables.method(p, result)._repr_markdown_()
    no_pairs = dataset.gather([], np.zeros((0, 3, 8, 8)), np.zeros((0, 1, 8, 8)))
    assert style_tables.styled(SimpleNamespace(styled=result, pairs=no_pairs, params=p))._repr_markdown_()
    for figure in (figures.guidance(p, result), figures.styling(no_pairs, result)):
        assert "No image" in figure.axes[0].texts[0].get_text()
