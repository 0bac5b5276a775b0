"""From executed chapters to a rendered book: lay out a folder of sources, then let Jupyter Book build it.

The book is built from whatever the run holds. A page may refer to a chapter that was not run, or to a picture
that was not made: such a reference becomes plain text here, so that the build can still fail on wrong ones.
"""

import contextlib
import html
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.report import foreign, meantfor, pdf
from diffusegen_core.report.rule import NOT_MADE
from diffusegen_core.store import files, ownpages
from diffusegen_core.store.moves import STRANGERS, free, into_place, refuse_links
from diffusegen_core.store.stamps import ASIDE, MAKING

ROOT = Path(__file__).parents[2]
PDF = "diffusegen.pdf"
MARK = ".built.json"  # lists the files of a site folder that a build wrote
FRONT = ["about", "how_to_read", "data", "own_data", "method", "jupyterlab", "on_a_server", "api"]
OTHERS = "site-others"  # the folder in ASIDE for files in the book's place that are not this user's
BACK = ["results_small", "on_a_gpu", "sharing", "citing", "references"]

ROLE = re.compile(r"\{(?:numref|ref|eq|doc)\}`(?:(?P<title>[^`<]+?) *<)?(?P<target>[^`<>]+)>?`")
LONGEST = 3600  # seconds after which Jupyter Book is not expected to finish any more
WIDGET = "application/vnd.jupyter.widget-view+json"
FIGURE = re.compile(r"^:::\{figure\} (?P<picture>figures/\S+)\n:name: (?P<name>\S+)\n.*?^:::\n", re.S | re.M)


def build(run_dir: Path, notebooks: list[Path] | None = None, footer: str = "", opening: str = "",
          as_pdf: bool = False, trust: bool = False) -> Path:
    """Build the book of a run and return the path of its index.html, or, if `as_pdf`, of its PDF.

    `notebooks` are the executed chapters, named NN_name.ipynb; by default all of run_dir/notebooks. Those
    that this user's own command did not write (see `ownpages.own`) are shown as text and pictures, or left
    out if this checkout has no such chapter, unless `trust`. `footer` is a line of plain text for every page,
    and `opening` the MyST that the first page begins with, its title included. The sources go to
    run_dir/site, written anew each time; other files there stay, but are moved to aside/ if a page of the
    new book, or the book that lies there, is neither this user's nor trusted.

    Raises UserError where the book's own pages are not found, run_dir/site is not a book's, a link leads out
    of the run, there is no browser to print a PDF with, or Jupyter Book fails: on any warning, if all pages
    are this user's or trusted.
    """
    if as_pdf:
        pdf.browser()  # fail before the build if there is none
    if not (ROOT / "_config.yml").is_file():
        raise UserError(f"The book's pages are not in {ROOT}. Install DiffuseGen from its checkout with "
                        "`pip install -e .`.")
    if notebooks is None:
        notebooks = list((run_dir / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    fresh, site = run_dir / MAKING / "site", run_dir / "site"
    _refuse_foreign(site)
    refuse_links(run_dir, (f"{MAKING}/site", f"{ASIDE}/site"))
    shutil.rmtree(fresh, ignore_errors=True)  # an interrupted build's
    pages, strict = _pages(sorted(notebooks), trust)
    _lay_out(fresh, pages, run_dir / "figures", footer, opening)
    _render(fresh, strict)
    _add_mathjax(fresh / "_build" / "html")
    if as_pdf:
        _print(fresh, strict)
    _as_the_umask_allows(fresh)
    made = files.write_json(fresh / MARK, files.below(fresh))
    ownpages.record(made, made.read_bytes())
    _make_way(run_dir, mixed=strict and (trust or _built_here(site)))
    into_place(fresh, site, run_dir / ASIDE / "site")
    return site / "_build" / (PDF if as_pdf else "html/index.html")


def told_of_others(notebooks: list[Path], run_dir: Path) -> Iterator[str]:
    """One line on the pages of a run that its book shows as text, and one on those that it leaves out."""
    theirs = [path for path in notebooks if not ownpages.own(path, path.read_bytes())]
    trusting = f"If you trust this run: `diffusegen book {run_dir} --trust`."
    if shown := [path.stem for path in theirs if _chapter_of(path).is_file()]:
        yield ("Shown as text and pictures only, because your own diffusegen did not write them as they are: "
               f"{', '.join(shown)}. {trusting}")
    if absent := [path.stem for path in theirs if path.stem not in shown]:
        yield ("Left out of the book, because they are not chapters and you did not write them: "
               f"{', '.join(absent)}. {trusting}")


def _pages(notebooks: list[Path], trust: bool) -> tuple[dict[str, str], bool]:
    """The JSON of the pages by file name, and whether all of them are this user's own, or trusted."""
    pages, strict = {}, True
    for path in notebooks:
        content = path.read_bytes()
        if trust or ownpages.own(path, content):
            pages[path.name] = content.decode()
            continue
        strict = False
        if _chapter_of(path).is_file():
            pages[path.name] = json.dumps(foreign.as_text(
                _parsed(content), json.loads(_chapter_of(path).read_text(encoding="utf-8"))))
    return pages, strict


def _chapter_of(notebook: Path) -> Path:
    """This checkout's chapter with the file name of an executed notebook; it need not exist."""
    return ROOT / "notebooks" / notebook.name


def _parsed(content: bytes) -> Any:
    """The value of JSON text; None where it is not JSON."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _lay_out(site: Path, notebooks: Mapping[str, str], figures: Path, footer: str, opening: str = "") -> None:
    """Write the sources of the book: pages, chapters (each file's JSON), pictures, settings and contents."""
    shutil.copytree(ROOT / "book", site)
    if figures.is_dir() and not figures.is_symlink():
        shutil.copytree(figures, site / "figures", ignore=_no_files)
    if opening:
        index = site / "index.md"
        title, _, rest = index.read_text(encoding="utf-8").partition("\n")
        assert title.startswith("# "), "the page begins with its title"
        _write(index, f"{opening.strip()}\n\n## About this book\n{rest}")
    chapters = [Path(name).stem for name in notebooks]
    front, back = ([name for name in names if (site / f"{name}.md").is_file()] for names in (FRONT, BACK))
    known = {*FRONT, *BACK, *(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))}
    absent = known.difference(chapters, front, back)
    for page in site.glob("*.md"):
        _write(page, _without_absent(page.read_text(encoding="utf-8"), absent, site))
    for name, content in notebooks.items():
        notebook = _in_texts(json.loads(content), lambda text: _without_absent(text, absent, site))
        _leave_out(notebook)
        _fold_parameters(notebook)
        _drop_widgets(notebook)
        _write(site / name, json.dumps(notebook))
    settings = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    settings["sphinx"]["config"]["html_theme_options"]["extra_footer"] = html.escape(footer)
    _write(site / "_config.yml", yaml.safe_dump(settings))
    parts = {"About": front, "Chapters": chapters, "Results and sources": back}
    contents = [{"caption": caption, "chapters": [{"file": name, **_numbered(site, name)} for name in names]}
                for caption, names in parts.items() if names]
    _write(site / "_toc.yml", yaml.safe_dump({"format": "jb-book", "root": "index", "parts": contents}))


def _numbered(site: Path, name: str) -> dict[str, str]:
    """A chapter's title for the menu, with the number that pages refer to it by; empty for other pages."""
    number, path = name.partition("_")[0], site / f"{name}.ipynb"
    if not number.isdigit() or not path.is_file():
        return {}
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = [line for cell in cells if cell["cell_type"] == "markdown"
             for line in "".join(cell["source"]).splitlines()]
    titles = [line.removeprefix("# ").strip() for line in lines if line.startswith("# ")]
    return {"title": f"{int(number)} {titles[0]}"} if titles else {}


def _refuse_foreign(site: Path) -> None:
    """Raise UserError if something that no build made lies in the book's place."""
    if site.is_symlink() or (site.exists() and not (site / MARK).is_file()):
        raise UserError(f"{site} was not made by building a book. Move it away: the book goes "
                        "there.")


def _clear(site: Path) -> None:
    """Remove what an earlier build has made, and nothing else; last its mark, in case a kill comes."""
    made = files.read_json(site / MARK)
    files.remove(site, [*(made if isinstance(made, list) else []), ownpages.WRITTEN, MARK])


def _built_here(site: Path) -> bool:
    """Whether this user built what lies in the book's place, or nothing lies there."""
    return not site.exists() or ownpages.own(site / MARK, (site / MARK).read_bytes())


def _make_way(run_dir: Path, mixed: bool) -> None:
    """Move the earlier book aside, then remove there what a build has made. What is left, others' files, is
    parked to be put back beside the new book or, unless the two may be mixed, stays aside.

    The book is moved as a whole, so that after a kill nothing without a mark lies in its place.
    """
    site, parked = run_dir / "site", run_dir / ASIDE / "site"
    others = run_dir / ASIDE / OTHERS
    aside = []
    for place, target in [(site, parked / STRANGERS)] if mixed else [(site, others), (parked, others)]:
        if place.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            aside.append(place.rename(free(target)))
    for old in (*aside, *parked.glob("*")):
        if old.is_dir() and not old.is_symlink():
            _clear(old)
    with contextlib.suppress(OSError):  # absent, or not empty
        os.removedirs(parked)


def _no_files(folder: str, names: list[str]) -> list[str]:
    """The names in a folder that are links, or neither files nor folders: in a stranger's run a link may lead
    to anything, which the book would publish, and reading a pipe would block."""
    paths = {name: Path(folder) / name for name in names}
    return [name for name, path in paths.items()
            if path.is_symlink() or not (path.is_file() or path.is_dir())]


def _in_texts(part: Any, change: Callable[[str], str]) -> Any:
    """A part of a notebook with `change` applied to each text as a whole, also where a text is stored as a
    list of lines."""
    if isinstance(part, str):
        return change(part)
    if isinstance(part, dict):
        return {key: change("".join(value)) if _is_lines(key, value) else _in_texts(value, change)
                for key, value in part.items()}
    return [_in_texts(one, change) for one in part] if isinstance(part, list) else part


def _is_lines(key: str, value: Any) -> bool:
    """Whether the value of this key in a notebook is a text as a list of lines: a source, or an output."""
    return (isinstance(value, list) and (key in ("source", "text") or "/" in key)
            and all(isinstance(line, str) for line in value))


def _without_absent(text: str, absent: set[str], site: Path) -> str:
    """MyST text with plain words for references to what is absent.

    `absent` names pages and chapters (02_train); a chapter's labels (KIND-CHAPTER-NAME, as fig-train-loss)
    are absent with it. Figures whose picture was not made are removed as a whole.
    """
    words = {}
    for name in absent:
        number, _, rest = name.partition("_")
        if number.isdigit():
            words[name] = words[rest.partition("_")[0]] = f"chapter {int(number)}"
        else:
            words[name] = name.replace("_", " ")
    for figure in FIGURE.finditer(text):
        if not (site / figure["picture"]).is_file():
            words[figure["name"]] = "a figure"
            text = text.replace(figure[0], "")

    def plain(role: re.Match[str]) -> str:
        label = role["target"].split("-")
        word = words.get(role["target"]) or (words.get(label[1]) if len(label) > 2 else None)
        return f"{role['title'] or word} ({NOT_MADE})" if word else role[0]

    return ROLE.sub(plain, text)


def _leave_out(notebook: dict[str, Any]) -> None:
    """Remove the cells that are for other runs than this one, and those that had nothing to say."""
    values = notebook["metadata"].get("diffusegen", {}).get("params", {})
    notebook["cells"] = [cell for cell in meantfor.meant(notebook["cells"], values)
                         if cell.get("outputs") or meantfor.SHOWN not in cell["metadata"].get("tags", [])]


def _fold_parameters(notebook: dict[str, Any]) -> None:
    """Show all parameters of the run, folded, in place of the cells that say where the run lies; of paths of
    this machine only the last part is shown."""
    def tagged(tag: str) -> list[dict[str, Any]]:
        return [cell for cell in notebook["cells"] if tag in cell["metadata"].get("tags", [])]

    values = notebook["metadata"].pop("diffusegen", {}).get("params", {})
    values = {name: params.shareable(value) if isinstance(value, dict) else value
              for name, value in values.items()}
    notebook["metadata"].pop("papermill", None)  # it tells where the run and this checkout lie
    injected = tagged("injected-parameters")
    for cell in tagged("parameters") if injected else []:
        notebook["cells"].remove(cell)
    for cell in injected:
        cell["source"] = "\n".join(f"{name} = {value!r}" for name, value in values.items())
        cell["metadata"]["tags"].append("hide-input")
        prompt = "Parameters of this run"
        cell["metadata"]["mystnb"] = {"code_prompt_show": prompt, "code_prompt_hide": prompt}


def _drop_widgets(notebook: dict) -> None:
    """Remove widgets, which are libraries' progress bars: pages with them load code from the network."""
    notebook["metadata"].pop("widgets", None)
    for cell in notebook["cells"]:
        if "outputs" in cell:
            cell["outputs"] = [output for output in cell["outputs"] if WIDGET not in output.get("data", {})]


def _print(site: Path, strict: bool) -> None:
    """Print a built site as a PDF, from a build of all its pages as one."""
    with tempfile.TemporaryDirectory(prefix="book-") as folder:
        _render(site, strict, "--builder", "custom", "--custom-builder", "singlehtml", "--path-output",
                folder)
        page = Path(folder) / "_build" / "singlehtml"
        _add_mathjax(page)
        pdf.print_page(page / "index.html", site / "_build" / PDF)


def _render(site: Path, strict: bool, *options: str) -> None:
    """Run Jupyter Book; if `strict`, warnings are errors. A stranger's page may lack anything."""
    warnings = ["-n", "-W", "--keep-going"] if strict else []
    command = [sys.executable, "-P", "-c", "from jupyter_book.cli.main import main; main()",
               "build", str(site), *warnings, "-q", *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace",
                              stdin=subprocess.DEVNULL, env=os.environ | {"PYTHONUTF8": "1"},
                              timeout=LONGEST)
    except subprocess.TimeoutExpired:
        raise UserError(f"The book was not built: Jupyter Book had not finished after {LONGEST} seconds. "
                        "`diffusegen book RUN` tries it again.") from None
    if done.returncode:
        output = re.sub(r"\x1b\[[0-9;]*m", "", done.stderr + done.stdout)
        lines = [line for line in output.splitlines() if line.strip(" =")]
        wrong = [line for line in lines if "WARNING" in line or "ERROR" in line] or lines
        raise UserError("\n".join(["The book was not built:", *wrong[-15:]]))


def _as_the_umask_allows(site: Path) -> None:
    """Give a built book the permissions of new files: copies, such as the theme's, have their originals'."""
    for parent, _, names in os.walk(site):
        os.chmod(parent, files.FOLDER)
        for name in names:
            os.chmod(Path(parent, name), files.MODE)


def _add_mathjax(pages: Path) -> None:
    """Copy the one MathJax file that the pages load: TeX in, SVG out, glyphs included."""
    folder = pages / "_static" / "mathjax"
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    if package is None or package.origin is None:
        raise UserError("The package sphinx-mathjax-offline is not installed; the book's formulas need it.")
    folder.mkdir(parents=True)
    shutil.copy(Path(package.origin).parent / "static" / "mathjax" / "tex-svg.js", folder)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
