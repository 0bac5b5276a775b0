"""From executed chapters to a rendered book: lay out a folder of sources, then let Jupyter Book build it.

The book is built from whatever the run holds. A page may refer to a chapter that was not run, or to a picture that
was not made; such a reference becomes plain text here, so that a reference that is simply wrong still fails the build.
"""

import html
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from diffusegen_core.errors import UserError

ROOT = Path(__file__).parents[1]
FRONT = ["how_to_read", "method"]
BACK = ["summary", "results_small", "references"]
ROLE = re.compile(r"\{(?:numref|ref|eq|doc)\}`(?:(?P<title>[^`<]+?) *<)?(?P<target>[^`<>]+)>?`")
FIGURE = re.compile(r"^:::\{figure\} (?P<picture>figures/\S+)\n:name: (?P<name>\S+)\n.*?^:::\n", re.DOTALL | re.MULTILINE)


def build(run_dir: Path, notebooks: list[Path] | None = None, footer: str = "") -> Path:
    """Build the book of a run and return the path of its index.html.

    `notebooks` are the executed chapters, named NN_name.ipynb; by default all of run_dir/notebooks. `footer` is one
    plain line that every page carries. The sources go to run_dir/site, fresh each time. Raises UserError where the
    pages are not found or Jupyter Book warns of anything.
    """
    if notebooks is None:
        notebooks = sorted((run_dir / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if not (ROOT / "_config.yml").is_file():
        raise UserError(f"The book's pages are not in {ROOT}. Install DiffuseGen from its checkout: pip install -e .")
    site = run_dir / "site"
    _lay_out(site, sorted(notebooks), run_dir / "figures", footer)
    _render(site)
    pages = site / "_build" / "html"
    _add_mathjax(pages / "_static" / "mathjax")
    return pages / "index.html"


def _lay_out(site: Path, notebooks: list[Path], figures: Path, footer: str) -> None:
    """Write the sources of the book: pages, chapters, pictures, configuration and table of contents."""
    shutil.rmtree(site, ignore_errors=True)
    shutil.copytree(ROOT / "book", site)
    if figures.is_dir():
        shutil.copytree(figures, site / "figures")
    chapters = [path.stem for path in notebooks]
    pages = [name for name in FRONT + BACK if (site / f"{name}.md").is_file()]
    known = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} | set(FRONT + BACK)
    absent = {name: _plain_name(name) for name in known - set(chapters) - set(pages)}
    for page in site.glob("*.md"):
        page.write_text(_without_absent(page.read_text(encoding="utf-8"), absent, site), encoding="utf-8")
    for path in notebooks:
        notebook = json.loads(_without_absent(path.read_text(encoding="utf-8"), absent, site))
        _fold_parameters(notebook)
        (site / path.name).write_text(json.dumps(notebook), encoding="utf-8")
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    config["sphinx"]["config"]["html_theme_options"]["extra_footer"] = html.escape(footer)
    (site / "_config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (site / "_toc.yml").write_text(yaml.safe_dump(_contents(pages, chapters), sort_keys=False), encoding="utf-8")


def _contents(pages: list[str], chapters: list[str]) -> dict[str, object]:
    """Jupyter Book's table of contents of what is there."""
    parts = {"About": [p for p in pages if p in FRONT], "Chapters": chapters, "Results and sources": [p for p in pages if p in BACK]}
    return {"format": "jb-book", "root": "index",
            "parts": [{"caption": caption, "chapters": [{"file": name} for name in names]}
                      for caption, names in parts.items() if names]}


def _without_absent(text: str, absent: dict[str, str], site: Path) -> str:
    """MyST text in which references to absent pages, to labels of absent chapters and to absent pictures are plain.

    A label of a chapter is KIND-CHAPTER-NAME, as fig-train-loss in 02_train. The text may be a notebook's JSON.
    """
    gone = dict(absent) | {name.split("_", 1)[1]: words for name, words in absent.items() if name[:2].isdigit()}
    for figure in FIGURE.finditer(text):
        if not (site / figure["picture"]).is_file():
            gone[figure["name"]] = "a figure"
            text = text.replace(figure[0], "")

    def plain(role: re.Match[str]) -> str:
        target = role["target"].strip("/ ")
        part = target.split("-")[1] if target.count("-") > 1 else target
        words = gone.get(target) or gone.get(part)
        return role[0] if words is None else f"{role['title'] or words} (not in this run)"

    return ROLE.sub(plain, text)


def _plain_name(page: str) -> str:
    return f"chapter {int(page[:2])}" if page[:2].isdigit() else f"the page {page.replace('_', ' ')}"


def _fold_parameters(notebook: dict) -> None:
    """Show the values that were used, folded, instead of the defaults that papermill overrode."""
    def tagged(tag: str) -> list[dict]:
        return [cell for cell in notebook["cells"] if tag in cell["metadata"].get("tags", [])]

    injected = tagged("injected-parameters")
    for cell in tagged("parameters") if injected else []:
        notebook["cells"].remove(cell)
    for cell in injected:
        cell["metadata"]["tags"].append("hide-input")
        cell["metadata"]["mystnb"] = {"code_prompt_show": "Parameters of this run",
                                      "code_prompt_hide": "Parameters of this run"}


def _render(site: Path) -> None:
    """Run Jupyter Book, every warning an error."""
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()",
               "build", str(site), "-n", "-W", "--keep-going", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace",
                          stdin=subprocess.DEVNULL, env=os.environ | {"PYTHONUTF8": "1"})
    if done.returncode:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", done.stderr + done.stdout)
        lines = [line for line in plain.splitlines() if line.strip(" =")]
        wrong = [line for line in lines if "WARNING" in line or "ERROR" in line] or lines
        raise UserError("The book was not built:\n" + "\n".join(wrong[-15:]))


def _add_mathjax(target: Path) -> None:
    """Copy the one file of MathJax that the pages load: TeX in, SVG out, its glyphs included."""
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    if package is None:
        raise UserError("The package sphinx-mathjax-offline is not installed; the book needs it for its formulas.")
    target.mkdir(parents=True)
    shutil.copy(Path(package.origin).parent / "static" / "mathjax" / "tex-svg.js", target)
