"""Chapter 4: a guided step by hand, images that do not depend on one another, and that styling styles."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from diffusegen_core.chapters import inpaint, style
from diffusegen_core.config import params
from diffusegen_core.config.params import Params
from diffusegen_core.data import dataset, layouts, pairsets
from diffusegen_core.diffusion.guided import OK, Judge
from diffusegen_core.diffusion.model import Diffusion
from diffusegen_core.report import figures, tables
from diffusegen_core.store import runs


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


def test_a_run_makes_dataset_folders_with_the_masks_it_was_given(run_of: Callable[..., Params]) -> None:
    p = run_of()
    result = style.run(p)
    made = inpaint.run(p)
    assert list(result.folders) == ["2-Styled-Diff", "Full-Styled-Diff"]
    for data_type, origin in zip(result.folders, made.folders, strict=True):
        folder, manifest = result.folders[data_type], result.manifests[data_type]
        assert list(manifest.columns) == style.MANIFEST
        assert (manifest["status"] == OK).all()
        before = made.manifests[origin]
        for column in ("name", "source", "source_cluster", "model", "sample"):
            assert list(manifest[column]) == list(before[column])
        assert (manifest["area"] - before["area_after"]).abs().max() < 1e-6
        for name in manifest["name"]:
            (image, mask), (old_image, old_mask) = (pairsets.read_pair(f, name) for f in
                                                    (folder, made.folders[origin]))
            assert np.array_equal(mask, old_mask)
            assert not np.array_equal(image, old_image)
        steps = result.steps[data_type]
        assert [steps.index.name, *steps.columns] == style.STEPS
        assert len(steps) == 3 * len(manifest)
    assert result.backbone == "timm/test_resnet (random weights)"
    assert list(result.table["pairs"]) == [len(m) for m in made.manifests.values()]


def test_what_is_missing_is_made_again_and_nothing_else(run_of: Callable[..., Params]) -> None:
    folder = style.run(run_of()).folders["2-Styled-Diff"]
    images = sorted((folder / "images").glob("*.png"))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in images}
    (folder / runs.STAMP).unlink()
    images[1].unlink()
    style.run(run_of(batch_size=2))
    assert images[1].read_bytes() == before[images[1]][0]
    for path in (images[0], *images[2:]):
        assert path.stat().st_mtime_ns == before[path][1]
    stamps = [path.stat().st_mtime_ns for path in folder.parent.rglob(runs.STAMP)]
    style.run(run_of())
    assert stamps == [path.stat().st_mtime_ns for path in folder.parent.rglob(runs.STAMP)]


def test_a_stopped_pair_is_reported_and_left_out(run_of: Callable[..., Params],
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    through = style.guided

    def spoil(diffusion: Diffusion, judge: Judge, inpainted: Tensor, source: Tensor, *rest: object) -> tuple:
        source[0] = torch.inf
        return through(diffusion, judge, inpainted, source, *rest)

    monkeypatch.setattr(style, "guided", spoil)
    result = style.run(run_of(temperature=0.08, batch_size=16))
    manifest, folder = result.manifests["2-Styled-Diff"], result.folders["2-Styled-Diff"]
    stopped, painted = result.left_out["2-Styled-Diff"], inpaint.run(run_of()).manifests["2-Diff"]
    assert len(stopped) == painted["model"].nunique()
    assert stopped["status"].str.startswith("stopped in step 1 of 3: not finite: ").all()
    kept = set(painted["name"]) - set(stopped["name"])
    assert set(manifest["name"]) == kept
    for kind in pairsets.KINDS:
        assert {path.stem for path in (folder / kind).iterdir()} == kept
    assert set(result.steps["2-Styled-Diff"].index) == kept
    assert int(result.table.loc["2-Styled-Diff", "stopped"]) == len(stopped)
    row = json.loads((folder.parent / "rows" / folder.name / f"{stopped['name'].iloc[0]}.json").read_text())
    assert row["sha256"] == []
    assert layouts.check(folder).pairs


def test_what_decides_a_pair_is_in_its_recipe(run_of: Callable[..., Params]) -> None:
    stamp = runs.read_json(inpaint.run(run_of()).folders["2-Diff"] / runs.STAMP)
    name, model = next(iter(stamp["recipe"]["jobs"].items()))
    job = pairsets.Job(0, name, name, 0, model, 1, 5)

    def recipe(**settings: object) -> runs.Recipe:
        return style.decided_by(run_of(**settings), [job], "digest", stamp)

    assert recipe() == recipe(batch_size=1)
    for change in ({"guidance": "variance"}, {"lambda_mse": 1.0}, {"max_shift": None}, {"skip": 1}):
        assert runs.differences(recipe(), recipe(**change))
    outputs = {**stamp["outputs"], f"images/{name}.png": {"sha256": "other", "bytes": 1}}
    other_image = style.decided_by(run_of(), [job], "digest", {**stamp, "outputs": outputs})
    assert runs.differences(recipe(), other_image)


def test_the_page_of_a_run_in_which_nothing_was_styled(tmp_path: Path) -> None:
    name = "2-Styled-Diff"
    for file, columns in (("manifest.csv", style.MANIFEST), ("left_out.csv", style.MANIFEST),
                          ("steps.csv", style.STEPS)):
        pd.DataFrame(columns=columns).to_csv(tmp_path / file, index=False)
    nothing = pairsets.manifest(tmp_path)
    steps = pd.read_csv(tmp_path / "steps.csv", dtype=style.COLUMNS).set_index("name")
    result = style.Styled({name: tmp_path}, {name: tmp_path}, {name: nothing}, {name: nothing}, {name: steps},
                          "net", "vgg", 0.0)
    p = params.validate({})
    assert tables.losses(p, result)._repr_markdown_()
    assert tables.styled(result)._repr_markdown_()
    no_pairs = dataset.gather([], np.zeros((0, 3, 8, 8)), np.zeros((0, 1, 8, 8)))
    for figure in (figures.guidance(p, result), figures.styling(no_pairs, result)):
        assert "No image" in figure.axes[0].texts[0].get_text()
