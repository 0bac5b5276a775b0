"""Tables of the book: honest formats, and cells that nothing can break out of."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from browser import Browser
from made_up import changed
from PIL import Image

from diffusegen_core.chapters.trained import Trained, TrainedModel
from diffusegen_core.config import params
from diffusegen_core.config.text import duration
from diffusegen_core.data import dataset
from diffusegen_core.parallel import fanout
from diffusegen_core.report import baselines, evaluate_tables, published, style_tables, tables
from diffusegen_core.run import Run
from diffusegen_core.store import artifacts

ROOT = Path(__file__).parents[1]


def test_a_name_from_a_stranger_stays_text():
    hostile = "a|b\n:::\n<script>x</script> `c` $d$ *e* [f](g) {h}"
    frame = pd.DataFrame({"name": [hostile], "n": [1234567], "x": [0.123456], "absent": [float("nan")]})
    text = tables.show(frame, "t", "Caption.", {"n": ",d"})._repr_markdown_()
    head, _, *rows, end, rest = text.split("\n")[3:]
    assert head == "| name | n | x |", "a column without a value is left out"
    assert len(rows) == 1
    assert (end, rest) == (":::", "")
    assert rows[0].endswith("| 1,234,567 | 0.123 |")
    for markup in ("<script", "\n", " `", " $d", " *e", " [f", " {h"):
        assert markup not in rows[0]
    assert rows[0].replace("\\|", "").count("|") == 4
    assert "<script" not in tables.show(frame, "t", "Caption.")._repr_html_()


def test_a_loss_stands_beside_those_of_the_first_steps_and_half_way(tmp_path: Path):
    """So that a reader can tell whether it was still falling; a model that was taken over has neither."""
    models = [TrainedModel(name, 10, 800, 400, 1.5, 60.0, 9, tmp_path / name, "") for name in ("a", "b")]
    models[1].folder.mkdir()
    falling = pd.DataFrame({"step": range(1, 401), "loss": np.arange(400.0, 0, -1)})
    falling.to_csv(models[1].folder / "log.csv", index=False)
    shown = tables.models(Trained(models, None))
    assert list(shown.frame)[4:7] == ["first loss", "half-way loss", "final loss"]
    assert shown.frame["first loss"].tolist() == ["", "398.5000"], "of steps 1 to 4"
    assert shown.frame["half-way loss"].tolist() == ["", "220.5000"], "of steps 161 to 200"


def test_published_cluster_sizes_stand_beside_those_of_as_many_pairs_and_else_are_folded():
    def told(sizes: list[int], k: int) -> tables.Table:
        return tables.clusters(SimpleNamespace(sizes=sizes, k=k, file="", backbone="a network"))
    known = published.table("cluster_sizes").query("k == 10")["value"].astype(int).tolist()
    beside = told(known, 10)
    assert beside.frame["pairs, published"].tolist() == beside.frame["pairs, this run"].tolist()
    assert beside.folded is None
    other = told([5] * 9 + [3], 10)
    assert list(other.frame) == ["rank by size", "pairs, this run"]
    assert other.folded.frame["pairs, published"].tolist() == beside.frame["pairs, published"].tolist()
    assert told([4, 4], 2).folded is None, "of 2 clusters nothing is published"


def test_columns_that_a_run_does_not_have_are_left_out_with_their_alignment():
    frame = pd.DataFrame({"a": ["x", "y"], "none": ["", ""], "n": [float("nan")] * 2, "b": [1, 2]})
    table = tables.show(frame, "t", "Caption.")
    assert (list(table.frame), table.numeric) == (["a", "b"], [False, True])
    empty = tables.show(frame.head(0), "t", "Caption.")
    assert list(empty.frame) == list(frame), "without rows nothing is known of the columns"


def test_data_types_in_a_second_column_have_the_class_by_which_the_stylesheet_keeps_them_in_one_line():
    frame = pd.DataFrame({"test set": ["CVC-ClinicDB"], "data type": ["20-Diff"]})
    assert tables.show(frame, "t", "Caption.")._repr_markdown_().split("\n")[1:4] == [
        ":name: tab-t", ":class: kind-2", ""]
    assert "table.kind-2 td:nth-child(2)" in (ROOT / "book" / "_static" / "book.css").read_text()


@pytest.mark.parametrize(("width", "scrolled", "shaded"), [
    (900, 0, (False, True)), (900, 200, (True, True)), (900, 600, (True, False)), (300, 0, (False, False)),
    (320, 0, (False, True)), (320, 20, (True, False))])
def test_a_table_that_goes_on_beside_the_window_has_a_shadow_on_that_side(
        width: int, scrolled: int, shaded: tuple[bool, bool], tmp_path: Path):
    page, picture = tmp_path / "page.html", tmp_path / "page.png"
    page.write_text(
        "<style>:root { --pst-color-background: white; --pst-color-text-base: black; } body { margin: 0; }"
        ".pst-scrollable-table-container { height: 100px; width: 300px; overflow-x: auto; }"
        f"{(ROOT / 'book' / '_static' / 'book.css').read_text()}"
        "table { border-collapse: collapse; } td { padding: 0; }"
        "</style><div class=pst-scrollable-table-container><table>"
        "<caption>Of a table.<br>Two lines.</caption>"
        f"<tr><td style='width: {width}px; min-width: {width}px; height: 40px'></td></tr></table></div>"
        f"<script>document.querySelector('div').scrollLeft = {scrolled};</script>", encoding="utf-8")
    with Browser() as browser:
        browser.open_page(page, width=390, picture=picture)
    shown = np.asarray(Image.open(picture).convert("L"))
    row = shown[60]
    assert (row[1] < 200, row[298] < 200) == shaded
    assert row[150] == 255
    assert shown[3, 280:300].min() == 255, "nothing lies over the caption"


def test_columns_in_which_nothing_is_told_are_left_out():
    frame = pd.DataFrame({"pairs": [1, 1], "models": [1, 1], "without an object": [0, 2]})
    assert list(tables.without_idle(frame)) == ["pairs", "without an object"], "one model, but lost pairs"
    assert list(tables.without_idle(frame.assign(models=[1, 3]))) == list(frame)


@pytest.mark.parametrize(("labels", "chosen", "whose"), [
    (None, None, "of the image."),
    ({"1": "liver", "2": "lesion"}, ["lesion"], "of the masks of lesion alone."),
    ({"1": "liver", "2": "lesion"}, None, "of all classes together.")])
def test_areas_say_of_which_classes_they_are(labels: dict | None, chosen: list[str] | None, whose: str):
    p = params.validate({"data": {"source": "x", "labels": labels, "image_size": 32},
                         "inpaint": {"classes": chosen}})
    areas = pd.DataFrame({"area_before": [0.1, 0.2], "area_after": [1 / 32**2, 0.2]})
    one = SimpleNamespace(manifest=areas)
    mean = pd.DataFrame({"mean area after": [0.1]}, index=pd.Index(["1-Paint"], name="data type"))
    made = SimpleNamespace(table=mean, sets={"1-Paint": one})
    table = tables.inpainted(SimpleNamespace(params=p, inpainted=made))
    assert table.caption.endswith(whose)
    assert table.frame["smallest mask after, px"].tolist() == ["1"]
    masks = np.zeros((2, len(p.data.classes), 4, 4), np.uint8)
    masks[:, 0] = 1  # all of both pictures
    masks[0, -1:, 0], masks[0, :-1, 0] = 1, 0
    pairs = dataset.gather(["a", "b"], np.zeros((2, 3, 4, 4), np.uint8), masks)
    table = mean.assign(**{"mean area before": 0.7, "mean area pasted": 0.1})
    sets = {"Paste": SimpleNamespace(manifest=pd.DataFrame({"source": ["a", "a", "b", "a"]}))}
    pasted = baselines.table(SimpleNamespace(params=p, pairs=pairs, pasted=SimpleNamespace(
        table=table, sets=sets)))
    assert pasted.caption.endswith(whose.replace("of all", "of the masks of all"))
    assert pasted.frame["mean area before"].tolist() == ["0.188" if chosen else "0.700"], "3/4 of a quarter"
    assert ("mean area after" in pasted.frame) == (chosen is None)


@pytest.mark.parametrize(("name", "generators", "seconds"), [
    ("inpaint", 1, 20), ("inpaint", 3, 3 * 20 + 3), ("evaluate", 3, 20)])
def test_the_time_of_a_chapter_is_that_of_all_its_generators(name: str, generators: int, seconds: int):
    run = SimpleNamespace(params=SimpleNamespace(generators=generators),
                          read=lambda name, number: SimpleNamespace(seconds=20.0 + number))
    table = tables.took(run, name)
    where = f"{name}/ and generators/*/{name}/" if seconds > 20 else f"{name}/"
    assert table.frame["this run"].tolist() == [duration(seconds), where]
    assert ("all 3 generators" in table.caption) == (seconds > 20)


def test_small_numbers_are_powers_of_ten_as_in_the_paper():
    frame = pd.DataFrame({"x": [1.14e-5, 0.25, 2e6, float("nan")]})
    assert [text.replace("\u00a0", " ") for text in tables.show(frame, "t", "C.").frame["x"]] == [
        "1.14 · 10⁻⁵", "0.25", "2 · 10⁶", ""]


def test_the_name_of_a_weights_file_stays_text_in_a_caption():
    hostile = "resnet18 (<b>`x`{numref}$.pth)"
    copies = pd.DataFrame({"share": [0.0]}, index=pd.Index(["Real"], name="data type"))
    audited = SimpleNamespace(copies=copies, held_out=SimpleNamespace(pairs=None), backbone=hostile)
    steps = pd.DataFrame([{"step": step, **dict.fromkeys(style_tables.LOSSES, 1.0)} for step in (1, 2)])
    styled = SimpleNamespace(steps={"2-Styled-Diff": steps}, backbone=hostile, vgg=hostile, table=copies[:0])
    for shown in (evaluate_tables.copies(audited), style_tables.styled(SimpleNamespace(styled=styled)),
                  style_tables.method(params.Params(), styled)):
        text = shown._repr_markdown_().split("\n")[0]
        assert "&lt;b&gt;\\`x\\`\\{numref\\}\\$.pth" in text
        assert hostile not in text


def test_the_schedule_and_the_network_stand_beside_the_published_ones(nano_params: params.Params):
    schedule = tables.repaint(nano_params).frame.set_index("")
    assert schedule["the paper"].tolist() == ["200", "10", "5", "1,720", "960"]
    assert schedule["this run"].tolist() == ["4", "2", "2", "8", "6"]  # 3 2 1 0 1 2 1 0 -1
    guided = tables.repaint(changed(nano_params, inpaint={"masks": "own", "guidance_scale": 2.0}))
    assert guided.frame["this run"].tolist() == ["4", "2", "2", "8", "12"]
    network = tables.network(nano_params).frame.set_index("")
    windows = changed(nano_params, data={"window": 2.0, "window_size": 16})
    assert tables.network(windows).frame.set_index("").loc["image size", "this run"] == "16 (windows)"
    assert "image size" in network.index
    assert network.loc["parameters", "the paper"] == "526.56 M"
    assert (network["this run"] != "").all()


@pytest.mark.parametrize(("names", "told"), [
    (["AMD EPYC, 1 thread", "AMD EPYC, 2 threads"], "AMD EPYC, 1 or 2 threads"),
    (["AMD EPYC, 16 threads", "AMD EPYC, 2 threads"], "AMD EPYC, 2 or 16 threads"),
    (["AMD EPYC without bf16, 2 threads", "AMD EPYC, 1 thread"], "AMD EPYC without bf16, 1 or 2 threads"),
    (["NVIDIA T4", "NVIDIA T4 without bf16"], "NVIDIA T4 without bf16"),
    (["NVIDIA H200", "Intel(R) Xeon(R), 1 thread"], "Intel(R) Xeon(R), 1 thread, NVIDIA H200"),
    ([], "")])
def test_a_processor_is_named_once_however_many_threads_it_computed_with(names: list[str], told: str) -> None:
    assert tables._together(names) == told


def test_a_common_base_is_told_where_there_is_one(nano_params: params.Params):
    def images(**settings: object) -> str:
        network = tables.network(changed(nano_params, train=settings)).frame.set_index("")
        return network.loc["training images a cluster", "this run"]
    assert images(base_images=8) == "24, after 8 of a common base"
    assert images(base_images=8, checkpoints="elsewhere") == images() == "24"


@pytest.mark.parametrize("text", [
    "[1]", "3", "{", '{"recipe": {}, "outputs": {}, "shown": {}, "device": "x"}',
    '{"recipe": {}, "outputs": {}, "shown": {}, "seconds": "3", "device": "x"}',
    '{"recipe": {}, "outputs": {}, "shown": {}, "seconds": 3, "device": ["x"]}'])
def test_a_stamp_that_is_none_tells_a_page_nothing(nano_params: params.Params, monkeypatch, text: str):
    monkeypatch.delenv(fanout.SCHEDULER, raising=False)  # what would compute here does not count
    run = Run(nano_params)
    artifact = run.workspace.artifact("cluster", {})
    artifact.begin()
    artifact.finish([], 70, device="Abacus")
    (run.folder / "train").mkdir()
    (run.folder / "train" / artifacts.STAMP).write_text(text)
    assert "; Abacus; " in tables.line(run)
    assert tables.line(run).endswith("1 min 10 s of work, workers and GPUs added up.")
    assert "| device | Abacus |" in tables.facts(run, "x")._repr_markdown_()


@pytest.mark.parametrize("width", [390, 1280])
def test_no_parameter_is_broken_in_the_middle_of_its_name(width: int, tmp_path: Path):
    rows = "".join(f"<tr><td><code class=literal>{name}</code></td><td>{30 * 'Words and words. '}</td></tr>"
                   for name in ("data.holdout", "augment.generator_sees", "segment.decoder_channels"))
    page = tmp_path / "page.html"
    page.write_text(f"<style>{(ROOT / 'book' / '_static' / 'book.css').read_text()}</style>"
                    f"<div class=pst-scrollable-table-container><table>{rows}</table></div>")
    count = "[...document.querySelectorAll('code')].filter(e => e.getClientRects().length > 1).length"
    with Browser() as browser:
        report = browser.open_page(page, width=width)
        lines = browser.call("Runtime.evaluate", expression=count, returnByValue=True)["result"]["value"]
        inside = browser.call("Runtime.evaluate", returnByValue=True, expression=(
            "document.querySelector('table').getBoundingClientRect().right"))["result"]["value"]
    assert lines == 0
    assert inside <= width, "nor does it push the text out of sight"
    assert report.scroll_width <= width


@pytest.mark.parametrize("width", [390, 1280])
def test_no_line_of_code_is_cut(tmp_path: Path, width: int):
    page = tmp_path / "page.html"
    page.write_text(f"<style>{(ROOT / 'book' / '_static' / 'book.css').read_text()}</style>"
                    "<div class=cell_input><div class=highlight><pre style='overflow: auto; font-size: 16px'>"
                    f"{'run.make(chapter) ' * 9}{'x' * 200}</pre></div></div>")
    with Browser() as browser:
        browser.open_page(page, width=width)
        wide = browser.call("Runtime.evaluate", returnByValue=True, expression=(
            "(e => e.scrollWidth - e.clientWidth)(document.querySelector('pre'))"))["result"]["value"]
    assert wide == 0
