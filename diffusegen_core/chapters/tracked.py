"""The final scores of a run for TensorBoard or MLflow: see store.tracking."""

from typing import Any

from diffusegen_core.chapters.evaluate import Evaluated
from diffusegen_core.segmentation.trials import Tested
from diffusegen_core.store import tracking
from diffusegen_core.store.workspace import Workspace

MEASURES = ("dice", "iou")


def scores(ws: Workspace, name: str, result: Any) -> Any:
    """Return a chapter's result as it is, after logging its scores to the run's tracking, if it has one."""
    values = of(result) if ws.tracking else {}
    if values:
        with tracking.track(ws.tracking, ws.folder, f"scores/{name}") as track:
            track.values(values, 0)
    return result


def of(result: Any) -> dict[str, float]:
    """The scores of chapter 5, means over the sets, or of 6 and 7, means over images and networks; none of
    any other result."""
    if isinstance(result, Evaluated):
        means = result.values.groupby(["data type", "metric"], sort=False)["value"].mean()
        return {_named(*kind): float(value) for kind, value in means.items()}
    if not isinstance(result, Tested) or result.images.empty:
        return {}
    by = ["test_set", "data_type", *(name for name in ("size", "samples", "ratio")
                                     if result.images[name].notna().any())]
    means = result.images.groupby(by, sort=False, dropna=False)[list(MEASURES)].mean()
    return {_named(measure, *kind): float(row[measure])
            for kind, row in means.iterrows() for measure in MEASURES}


def _named(*parts: object) -> str:
    """A name with only characters that both libraries accept."""
    text = "/".join(str(part) for part in parts)
    return "".join(c if c.isalnum() or c in "/_-. " else "_" for c in text)
