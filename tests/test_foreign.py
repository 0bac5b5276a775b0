"""The book of a run that somebody else has made: nothing in it is more than text and pictures.

And how a page is known to be this user's own.
"""

import base64
import html
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
from test_cli import call
from test_hostile import MARKUP, MYST, encoded
from PIL import Image

from diffusegen_core import notebooks
from diffusegen_core.config import params
from diffusegen_core.report import book, foreign, tables
from diffusegen_core.run import Run
from diffusegen_core.store import files, ownpages, stamps
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
        handlers: all("main *").filter(one => [...one.attributes].some(a => a.name.startsWith("on"))).length,
        scripts: all("script").filter(one => one.outerHTML.includes("window.ran")
                                      || one.src.includes("evil.example")).length,
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
        {"application/vnd.jupyter.widget-view+json": {"model_id": "1", "version_major": 2, "version_minor": 0}},
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


def looked_at(folder: Path) -> dict[str, dict[str, Any]]:
    """What a browser finds on each page of a built book."""
    found = {}
    with Browser() as browser:
        for page in sorted(folder.rglob("*.html")):
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
    values["profile"] = values["data"]["object"] = f"{HTML} {{include}}`{secret}` [a]({EVIL}) ![]({EVIL}/p.png)"
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
    write(run, f"99_{SCRIPT.replace('/', '')}", hostile(list(CHAPTERS)[0], secret, p))
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
    found = looked_at(strange / "site" / "_build" / "html")
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
    assert html.escape(f"<script>{SCRIPT}</script>", quote=False) in text.replace("&quot;", '"').replace(
        "&#39;", "'"), "it is shown, as text"
    assert "The network of this run beside" not in text or "Training" in text
    pictures = [source for source in found["02_train.html"]["pictures"]]
    assert pictures, "pictures are shown"


def test_a_trusted_book_shows_a_page_as_it_is(tmp_path: Path) -> None:
    page = new_notebook(metadata=CHAPTERS["01_cluster"]["metadata"], cells=[
        new_markdown_cell("# Clustering"),
        new_code_cell("1", outputs=[new_output("display_data", data={"text/html": HTML})])])
    write(tmp_path, "01_cluster", page)
    found = looked_at(book.build(tmp_path, trust=True).parent)["01_cluster.html"]
    assert found["ran"] > 0
    assert (found["frames"], found["links"] > 3, found["scripts"]) == (2, True, 1)
    again = looked_at(book.build(tmp_path).parent)["01_cluster.html"]
    assert (again["ran"], again["frames"], again["links"], again["scripts"]) == (0, 0, 0, 0)
