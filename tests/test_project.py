"""The shape of the project: notebooks without outputs, locked packages, small modules that depend one way."""

import ast
import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import nbformat
import pytest
import yaml

from diffusegen_core.config import params

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PACKAGE = ROOT / "diffusegen_core"
MODULES = {path.stem: path for path in sorted(PACKAGE.rglob("*.py")) if not path.stem.startswith("__")}
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))
# Folders of the package and modules beside them, each of which may import what stands before it.
LAYERS = ["config", "store", "parallel", "networks", "data", "measures", "diffusion", "segmentation",
          "chapters", "outlets", "run", "painting", "planning", "newprofile", "report", "exports", "kernels",
          "watchdog", "notebooks",
          "lab", "cli_params", "cli_data", "cli_new", "cli_export", "cli_review", "cli_runs", "cli"]
MOST_LINES = 350
TOP_LEVEL = {
    ".ci", ".gitignore", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "Makefile",
    "README.md", "_config.yml", "benchmarks", "book", "diffusegen_core", "environment.yml", "notebooks",
    "params", "pyproject.toml", "requirements.lock", "tests"}
PARAMETERS = '''\
profile = "smoke"  # a profile of params/, a parameter file, or the folder of a run
changes = {}       # other values, such as {"train.images": 20000}'''
FOREIGN = r"/(work|root|home)/[a-z]|(pypi|pythonhosted)[.]org"  # a path of some machine, a package registry


def lock() -> dict[str, str]:
    """Package -> version of requirements.lock."""
    text = (ROOT / "requirements.lock").read_text()
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, flags=re.MULTILINE))


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those below `if TYPE_CHECKING`, which do nothing when the program runs."""
    yield tree
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield from statements(node)


def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in statements(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "diffusegen_core":
            found |= {node.module.split(".")[-1], *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[-1] for alias in node.names if "diffusegen_core" in alias.name}
    return found & set(MODULES)


def layer(name: str) -> int:
    """How high a module stands."""
    folder = MODULES[name].relative_to(PACKAGE).parent.name
    return LAYERS.index(folder or name)


def code_cells(path: Path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs(path: Path) -> None:
    notebook = json.loads(path.read_text())
    assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}
    assert set(notebook["metadata"]["language_info"]) == {"name"}
    for cell in notebook["cells"]:
        assert set(cell["metadata"]) <= {"tags", "mystnb"}
        assert "injected-parameters" not in cell["metadata"].get("tags", [])
    for cell in code_cells(path):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_defines_nothing(path: Path) -> None:
    defining = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    for cell in code_cells(path):
        tree = ast.parse("".join(cell["source"]))
        assert not [node for node in ast.walk(tree) if isinstance(node, defining)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_takes_a_profile_and_changes(path: Path) -> None:
    tagged = [cell for cell in code_cells(path) if "parameters" in cell["metadata"].get("tags", [])]
    assert ["".join(cell["source"]) for cell in tagged] == [PARAMETERS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_calls_nothing_as_a_parameter_is_called(path: Path) -> None:
    """Run twice in one kernel, its own variable would pass for a value that papermill was given; and what it
    imports passes for one the first time."""
    nodes = [node for cell in code_cells(path) for node in ast.walk(ast.parse("".join(cell["source"])))]
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    stored |= {name.asname or name.name.partition(".")[0] for node in nodes
               if isinstance(node, ast.Import | ast.ImportFrom) for name in node.names}
    assert stored & (params.Params.model_fields.keys() | {"changes"}) == {"profile", "changes"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_written_as_jupyterlab_saves_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert nbformat.writes(nbformat.reads(text, as_version=4)) + "\n" == text


def test_the_lock_names_no_server_and_hashes_everything() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    assert " @ " not in text
    assert set(re.findall(r"^\s*(-+[a-z-]+)", text, flags=re.MULTILINE)) == {"--hash"}
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(blocks) > 100
    for block in blocks:
        assert "--hash=sha256:" in block, block.splitlines()[0]


def test_the_lock_holds_the_pins_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = [pin.split("==") for pin in project["dependencies"] + project["optional-dependencies"]["dev"]]
    locked = lock()
    assert {name: locked.get(name) for name, _ in pins} == dict(pins)


def test_conda_users_get_the_same_packages() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, by_pip = environment["dependencies"]
    assert python in ("python=3.11", "python=3.12")
    assert pip == "pip"
    assert by_pip == {"pip": ["-r requirements.lock"]}


def test_the_top_level_is_as_agreed() -> None:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout, so what is committed cannot be told from what lies around")
    assert {name.split("/")[0] for name in done.stdout.splitlines()} <= TOP_LEVEL


def test_no_file_names_this_machine_or_a_package_registry() -> None:
    done = subprocess.run(["git", "grep", "-nIE", FOREIGN], cwd=ROOT, capture_output=True, text=True)
    if done.returncode > 1:
        pytest.skip("not a git checkout, so what is committed cannot be told from what lies around")
    assert done.stdout == ""


@pytest.mark.parametrize("path", [*MODULES.values(), *BENCHMARKS], ids=lambda path: path.stem)
def test_a_module_is_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_nothing_from_above(name: str) -> None:
    assert [other for other in imported(MODULES[name]) if layer(other) > layer(name)] == []


@pytest.mark.parametrize("name", MODULES)
def test_what_a_module_imports_of_the_package_is_there(name: str) -> None:
    for node in ast.walk(ast.parse(MODULES[name].read_text())):  # what is imported within a function, too
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            place = ROOT.joinpath(*node.module.split("."))
            files = [place / f"{alias.name}.py" for alias in node.names if alias.name != "__version__"]
            assert all(file.is_file() for file in (files if place.is_dir() else [place.with_suffix(".py")]))


def test_no_two_modules_have_one_name() -> None:
    names = [path.stem for path in PACKAGE.rglob("*.py") if not path.stem.startswith("__")]
    assert sorted(names) == sorted(MODULES)


def test_a_type_has_one_meaning_in_the_whole_package() -> None:
    named: dict[str, list[str]] = {}  # classes and names of types, such as Recipe = dict[str, Any]
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text()).body:
            names = ([node.name] if isinstance(node, ast.ClassDef) else
                     [target.id for target in node.targets if isinstance(target, ast.Name)]
                     if isinstance(node, ast.Assign) and "TypeVar(" not in ast.unparse(node.value) else [])
            for name in names:
                if name[0].isupper() and not name.isupper():
                    named.setdefault(name, []).append(module)
    assert named
    assert {name: modules for name, modules in named.items() if len(modules) > 1} == {}


def test_the_layers_are_the_packages_folders_and_the_modules_beside_them() -> None:
    folders = {path.parent.name for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE}
    assert sorted(LAYERS) == sorted({*folders, *(name for name, path in MODULES.items()
                                                 if path.parent == PACKAGE)})


@cache
def classes_of_chapters() -> dict[str, set[str]]:
    """The classes of each chapter: of each module in chapters/ that can be run."""
    trees = {name: ast.parse(path.read_text()) for name, path in MODULES.items()
             if path.parent.name == "chapters"}
    return {name: {part.name for part in tree.body if isinstance(part, ast.ClassDef)}
            for name, tree in trees.items()
            if any(isinstance(part, ast.FunctionDef) and part.name == "run" for part in tree.body)}


@pytest.mark.parametrize("name", [name for name in MODULES if name != "run"])
def test_only_run_chains_chapters(name: str) -> None:
    calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(MODULES[name].read_text()))
             if isinstance(node, ast.Call)}
    assert calls.isdisjoint({f"{chapter}.run" for chapter in classes_of_chapters()})


@pytest.mark.parametrize("name", [name for name in MODULES if MODULES[name].parent.name == "chapters"])
def test_of_other_chapters_a_chapter_knows_the_results_alone(name: str) -> None:
    chapters = classes_of_chapters()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("diffusegen_core.chapters"):
            *_, module = node.module.split(".")
            names = {alias.name for alias in node.names}
            assert names.isdisjoint(chapters)
            assert names <= chapters.get(module, names)


def test_no_imports_go_in_a_circle() -> None:
    graph = {name: set(imported(path)) - {name} for name, path in MODULES.items()}
    while leaves := {name for name, needs in graph.items() if not needs}:
        graph = {name: needs - leaves for name, needs in graph.items() if name not in leaves}
    assert graph == {}


# ---- the paper's own case: its words stand where the text is about it, and nowhere else

PAPERS = re.compile(r"polyp(?!gen)|mucosa|colonosc|endoscop", re.IGNORECASE)  # PolypGen is a data set's name
THEIR_PLACES = {
    "cli_data.py": "a list of the phantoms",
    "config/data.py": "the default of data.object",
    "data/phantom.py": "the phantom of colonoscopy",
    "report/limits.py": "what that phantom and the paper's test sets are of",
    "report/segment_tables.py": "the paper's published tables"}


def test_the_words_of_the_papers_case_stand_only_where_it_is_meant() -> None:
    found = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*") if path.suffix in (".py", ".html")
             and PAPERS.search(path.read_text(encoding="utf-8"))}
    assert found == THEIR_PLACES.keys()
    assert not [path.name for path in NOTEBOOKS if PAPERS.search(path.read_text(encoding="utf-8"))]
