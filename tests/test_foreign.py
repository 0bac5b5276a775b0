"""The book of a run that somebody else has made: nothing in it is more than text and pictures.

And how a page is known to be this user's own.
"""

import base64
import html
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
import yaml
from browser import Browser
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell
from PIL import Image
from test_cli import call
from test_hostile import MARKUP, MYST, encoded

from diffusegen_core import notebooks
from diffusegen_core.config import params
from diffusegen_core.report import book, foreign, tables
from diffusegen_core.run import Run
from diffusegen_core.store import files, ownpages
from diffusegen_core.store.stamps import ASIDE, STAMP

EVIL = "https://evil.example"
SECRET = "the secret of this machine"
CHAPTERS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in notebooks.every()}
PICTURE = base64.b64encode(encoded("png", Image.new("RGB", (8, 6), (200, 30, 40)))).decode()
SCRIPT = "window.ran = (window.ran ?? 0) + 1"
HTML = (f"<script>{SCRIPT}</script><iframe src='{EVIL}/frame'></iframe><object data='{EVIL}/o'></object>"
        f"<img src='{EVIL}/i.png' onerror='{SCRIPT}'><a href='{EVIL}'>out</a><form action='{EVIL}'></form>"
        f"<a href='javascript:{SCRIPT}'>run</a><svg onload='{SCRIPT}'></svg><meta http-equiv='refresh' "
        f"content='9;url={EVIL}'><base href='{EVIL}'><style>@import url({EVIL}/s.css);</style>")
SVG = f"<svg xmlns='http://www.w3.org/2000/svg' onload='{SCRIPT}'><script>{SCRIPT}</script></svg>"
# What a page holds that is more than text and pictures of its own, asked in the browser.
FOUND = f"""(() => {{
    const own = new RegExp("^(file|data|about|blob):|^#");
    const all = name => [...document.querySelectorAll(name)];
    return {{
        ran: window.ran ?? 0,
        frames: all("iframe, frame, object, embed, portal").length,
        handlers: all("*").filter(one => [...one.attributes].some(
            a => a.name.startsWith("on") && a.value.includes("window.ran"))).length,
        scripts: all("script").filter(one => one.outerHTML.includes("window.ran")
                                      || (one.getAttribute("src") ?? "").includes("evil")).length,
        links: all("a, area, link, base, form, img, image, use, source, video, audio").filter(one => [
            "href", "src", "action", "srcset", "xlink:href", "poster"].some(name => /evil|javascript:/.test(
                one.getAttribute(name) ?? ""))).length,
        out: all("a[href]").map(one => one.href).filter(href => !own.test(href)),
        pictures: all("main img").map(one => one.getAttribute("src")),
        included: document.body.innerText.includes({json.dumps(SECRET)})}};
}})()"""


def myst(secret: Path) -> str:
    """Markdown that includes a file, in all ways that MyST has, and more."""
    return (f"```{{include}} {secret}\n```\n\n```{{literalinclude}} {secret}\n```\n\n"
            f":::{{include}} {secret}\n:literal:\n:::\n\n```{{raw}} html\n{HTML}\n```\n\n"
            f"```{{raw}} html\n:file: {secret}\n```\n\n```{{csv-table}} t\n:file: {secret}\n```\n\n"
            f"{{download}}`{secret}` {{doc}}`/{secret}` {{external:py:mod}}`os`\n\n"
            f"```{{eval-rst}}\n.. include:: {secret}\n.. raw:: html\n\n   {HTML}\n```\n\n"
            f"```{{image}} {EVIL}/i.png\n:target: {EVIL}\n```\n\n![]({EVIL}/j.png) [a]({EVIL}) "
            f"[b](javascript:{SCRIPT}) <{EVIL}>\n\n{HTML}\n\n(own-label)=\n# Not the title\n\n"
            f"````{{code-cell}} ipython3\n1 / 0\n````\n\n```{{toctree}}\n/etc\n```\n\n{{glue:}}`x`\n")


def bundle(secret: Path) -> list[nbformat.NotebookNode]:
    """Outputs of every kind that a builder of books may show."""
    table = (f":::{{table}} {HTML} {{raw}}`x`\n:name: tab-evil\n\n| a <b> | {{doc}}`x` |\n|:---|---:|\n"
             f"| {HTML} | [a]({EVIL}) ![]({EVIL}/p.png) |\n| {{include}}`{secret}` | <{EVIL}> |\n:::\n")
    data = [
        {"text/html": HTML}, {"text/html": HTML, "text/plain": HTML}, {"text/markdown": myst(secret)},
        {"text/markdown": table}, {"text/markdown": f"{table}\n\n{HTML}"}, {"image/svg+xml": SVG},
        {"image/png": base64.b64encode(HTML.encode()).decode()}, {"image/png": PICTURE},
        {"image/gif": base64.b64encode(SVG.encode()).decode()}, {"application/javascript": SCRIPT},
        {"text/latex": "\\href{" + EVIL + "}{x} \\input{" + str(secret) + "}"},
        {"application/vnd.jupyter.widget-view+json": {"model_id": "1", "version_major": 2,
                                                      "version_minor": 0}},
        {"application/vnd.vega.v5+json": {"x": HTML}}, {"application/json": {"x": HTML}},
        {"application/papermill.record/text/html": HTML}, {"application/pdf": PICTURE}]
    outputs = [new_output("display_data", data=one, metadata={"filenames": {"image/png": str(secret)}})
               for one in data]
    return [*outputs, new_output("stream", text=HTML), new_output("stream", text=myst(secret)),
            new_output("error", ename=HTML, evalue=HTML, traceback=[HTML, myst(secret)])]


def hostile(stem: str, secret: Path, p: params.Params) -> nbformat.NotebookNode:
    """A chapter that ran, as far as its metadata tell, and was then filled with what it should not hold."""
    notebook = nbformat.from_dict(json.loads(json.dumps(CHAPTERS[stem])))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = bundle(secret)
            cell.metadata["mystnb"] = {"figure": {"caption": myst(secret), "name": "fig-evil"},
                                       "code_prompt_show": HTML, "image": {"alt": HTML}}
    notebook.cells += [
        new_markdown_cell(myst(secret), attachments={"a.svg": {"image/svg+xml": SVG}}),
        new_raw_cell(HTML, metadata={"format": "text/html", "raw_mimetype": "text/html"}),
        new_code_cell(HTML, outputs=bundle(secret), metadata={"tags": ["injected-parameters", HTML]}),
        new_code_cell("x = '''\n```\n" + myst(secret), outputs=bundle(secret), metadata={"mystnb": {
            "text_lexer": HTML, "markdown_format": "commonmark"}})]
    # The first of these settings makes the builder execute the cells.
    notebook.metadata.update(
        mystnb={"execution_mode": "force", "nb_custom_formats": {}}, title=HTML, myst={"html_meta": {
            "refresh": HTML}, "substitutions": {"x": HTML}, "enable_extensions": ["linkify"]},
        widgets={"application/vnd.jupyter.widget-state+json": {"state": {}, "version_major": 2}},
        diffusegen={"params": {**notebooks._params(p), HTML: HTML}})
    return notebook


def write(run: Path, stem: str, notebook: nbformat.NotebookNode) -> Path:
    path = run / "notebooks" / f"{stem}.ipynb"
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return path


def looked_at(pages: list[Path]) -> dict[str, dict[str, Any]]:
    """What a browser finds on pages of a built book, by their names."""
    found = {}
    with Browser() as browser:
        for page in pages:
            report = browser.open_page(page)
            answer = browser.call("Runtime.evaluate", expression=FOUND, returnByValue=True)
            found[page.name] = answer["result"]["value"] | {"asked": report.outgoing_requests}
    return found


# ---- the book

@pytest.fixture
def strange(nano_run: Run, tmp_path: Path) -> Path:
    """A finished run whose parameters, tables, stamps, pages and book hold what they should not. The first
    chapter has no page, and is to be executed for it."""
    secret = files.write_text(tmp_path / "secret", SECRET)
    run, place = nano_run.folder, nano_run.folder / "params.yaml"
    values = yaml.safe_load(place.read_text())
    words = f"{HTML} {{include}}`{secret}` [a]({EVIL}) ![]({EVIL}/p.png)"
    values["profile"] = values["data"]["object"] = words
    place.write_text(yaml.safe_dump(values))
    for path in run.rglob(STAMP):
        stamp = json.loads(path.read_text())
        stamp |= {"device": HTML, "versions": {HTML: myst(secret)}}
        path.write_text(json.dumps(stamp))
    table = next((run / "evaluate").rglob("audit.csv"))
    table.write_text(pd.read_csv(table).assign(name=HTML, nearest=myst(secret)).to_csv(index=False))
    p = Run.open(run).params
    for stem in list(CHAPTERS)[1:]:
        write(run, stem, hostile(stem, secret, p))
    write(run, f"99_{SCRIPT.replace('/', '')}", hostile("01_cluster", secret, p))
    (run / "notebooks" / "98_link.ipynb").symlink_to(write(tmp_path, "mine", new_notebook(
        cells=[new_markdown_cell(SECRET)], metadata={"diffusegen": {"params": notebooks._params(p)}})))
    files.write_text(run / "site" / book.MARK, json.dumps([]))
    for name in ("site", f"{ASIDE}/site/strangers"):
        files.write_text(run / name / "_build" / "html" / f"{Path(name).name}.html", HTML)
    return run


def test_the_book_of_a_strangers_run_is_text_and_pictures(strange: Path) -> None:
    done = call("book", strange)
    assert done.exit_code == 0, done.exception or done.output
    assert f"If you trust this run: `diffusegen book {strange} --trust`." in done.stderr
    found = looked_at(sorted((strange / "site" / "_build" / "html").glob("*.html")))
    assert {*(f"{stem}.html" for stem in CHAPTERS), "index.html", "about.html"} <= found.keys()
    assert found.keys().isdisjoint({"site.html", "strangers.html"})
    for name, page in found.items():
        counts = {what: page[what] for what in ("ran", "frames", "handlers", "scripts", "links", "included")}
        assert not any(counts.values()), (name, counts)
        assert page["asked"] == [], name
        assert all(source.startswith(("_images/", "_static/")) for source in page["pictures"]), name
        stem = Path(name).stem
        if stem in CHAPTERS:  # links out are our own
            source = json.dumps(CHAPTERS[stem])
            assert [href for href in page["out"] if href not in source] == [], name
    text = (strange / "site" / "_build" / "html" / "02_train.html").read_text(encoding="utf-8")
    assert html.escape(f"<script>{SCRIPT}</script>") in text, "it is shown, as text"
    assert found["02_train.html"]["pictures"], "pictures are shown"


def test_a_trusted_book_shows_a_page_as_it_is(tmp_path: Path) -> None:
    page = new_notebook(metadata=CHAPTERS["01_cluster"]["metadata"], cells=[
        new_markdown_cell("# Clustering"),
        new_code_cell("1", outputs=[new_output("display_data", data={"text/html": HTML})])])
    write(tmp_path, "01_cluster", page)
    [found] = looked_at([book.build(tmp_path, trust=True).with_name("01_cluster.html")]).values()
    assert found["ran"] > 0
    assert found["links"] > 3
    assert (found["frames"], found["scripts"]) == (2, 1)


def test_a_line_tells_which_pages_are_shown_as_text(tmp_path: Path) -> None:
    pages = [write(tmp_path, stem, new_notebook()) for stem in ("01_cluster", "02_train", "77_notes")]
    ownpages.record(pages[0], pages[0].read_bytes())
    shown, absent = book.told_of_others(pages, tmp_path)
    assert "did not write them as they are: 02_train." in shown
    assert "you did not write them: 77_notes." in absent
    assert all(line.endswith(f"`diffusegen book {tmp_path} --trust`.") for line in (shown, absent))
    assert list(book.told_of_others(pages[:1], tmp_path)) == []


# ---- pages, without building them

VALUES = st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8), MARKUP),
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
                          ["cells", "cell_type", "source", "outputs", "output_type", "data", "metadata",
                           "tags", "text", "text/markdown", "text/html", "image/png", "traceback", "mystnb",
                           "diffusegen", "params", "name"]), inner, max_size=4), max_leaves=12)
CELLS = st.fixed_dictionaries(
    {"cell_type": st.sampled_from(["markdown", "code", "raw", "x"]), "source": VALUES},
    optional={"outputs": VALUES, "metadata": VALUES})


@settings(max_examples=200)
@given(st.one_of(VALUES, st.fixed_dictionaries({"cells": st.lists(CELLS, max_size=4), "metadata": VALUES})))
def test_whatever_a_page_is_nothing_of_it_is_markup(page: Any) -> None:
    chapter = CHAPTERS["01_cluster"]
    made = foreign.as_text(page, chapter)
    nbformat.validate(nbformat.from_dict(json.loads(json.dumps(made))))
    own = [cell["source"] for cell in chapter["cells"]]
    assert made["cells"][0]["source"] == own[0] or any(cell["source"] == own[0] for cell in made["cells"])
    for cell in made["cells"]:
        assert cell["source"] in (*own, "")
        assert cell["metadata"] in ([each["metadata"] for each in chapter["cells"]]
                                    + [{"tags": [tag]} for tag in ("remove-input", foreign.INJECTED)])
        for output in cell.get("outputs", []):
            assert output["output_type"] in ("stream", "display_data")
            assert set(output.get("data", {})) <= {"text/markdown", "image/png", "image/jpeg"}


def strange_table(words: str) -> str:
    return (f":::{{table}} {words}\n:name: tab-x\n:class: kind-2\n\n| {words} | b |\n|:---|---:|\n"
            f"| {words} | 1 |\n|  | {words} |\n:::\n")


@settings(max_examples=200)
@given(st.one_of(MARKUP, st.text(max_size=20), st.tuples(MARKUP, st.text(max_size=8), MARKUP).map("".join)))
def test_a_strange_table_is_text(words: str) -> None:
    shown = foreign._table(strange_table(words), set())
    if shown is None:  # not as ours are: it is shown as it is written
        return
    opening, label, empty, *table, end, after = shown["text/markdown"].split("\n")
    assert (label, empty, end, after) == (":name: tab-x", "", ":::", "")
    page = MYST.render("\n".join(table) + "\n\n" + opening.removeprefix(":::{table} "))
    text = re.sub(r"</?(table|thead|tbody|tr|th|td|p)( style=\"text-align:(left|right)\")?>|\n", "", page)
    assert "<" not in text


def test_a_table_of_ours_stays_as_it_is() -> None:
    frame = pd.DataFrame({"data type": ["a|b", "", "<i> \\ `x`", "&lt;"], "$n$": [1, 2, 3, 4]})
    folded = tables.show(frame, "folded", f"Of {tables.escaped('{x} & <y>')}.")
    noted = replace(tables.show(frame, "own", "It.", folded=folded), notes=("Read it.", "Or not."),
                    others=tables.show(frame, "others", "Not asked."))
    for one in (tables.show(frame, "own", "Of it."), tables.show(frame, "own", "It.", folded=folded), noted,
                tables.show(frame.iloc[:0], "own", "None.")):
        markdown = one._repr_markdown_()
        labels: set[str] = set()
        assert foreign._table(markdown, labels) == {"text/markdown": markdown}
        assert foreign._table(markdown, labels) is None, "a label is there once"
    assert foreign._table(noted._repr_markdown_().replace("- Or not.", "<b>"), set()) is None, "no list"


def test_a_page_of_a_colleague_looks_as_ones_own(tmp_path: Path) -> None:
    """Its tables, figures and title, without a warning of the book's builder."""
    chapter = nbformat.from_dict(json.loads(json.dumps(CHAPTERS["02_train"])))
    picture = {"image/png": PICTURE, "text/plain": "<Figure size 640x480 with 1 Axes>"}
    for number, cell in enumerate(cell for cell in chapter.cells if cell.cell_type == "code"):
        table = tables.show(pd.DataFrame({"cluster": [number]}), f"train-{number}", "Of it.")
        data = picture if "figure" in cell.metadata.get("mystnb", {}) else {
            "text/plain": "Table(...)", "text/markdown": table._repr_markdown_()}
        cell.outputs = [new_output("display_data", data=data)]
    made = foreign.as_text(json.loads(json.dumps(chapter)), CHAPTERS["02_train"])
    for one, other in zip(made["cells"], chapter.cells, strict=True):
        assert one["source"] == other.source
        assert one["metadata"] == other.metadata
        [shown] = [output["data"] for output in one.get("outputs", [])] or [{}]
        given = {kind: value for output in other.get("outputs", []) for kind, value in output.data.items()}
        assert shown == {kind: value for kind, value in given.items() if kind != "text/plain"}
