"""What the fuzz gives to commands that read runs, archives, checkpoints, clusters, notebooks and names: a
strategy of cases for each family, and the share of every family."""

import json
import pickle
from typing import Any

import fuzzbytes as made
import fuzzinputs as given
import yaml
from fuzzbytes import COMMAND, Draw
from fuzzcage import Case, Special
from fuzzinputs import CHECKED, NAMES, NANO, ROOT, SPECIAL, TEXTS, TOKENS, options, pair, profile, table
from hypothesis import strategies as st

LIKE = ["medium", "x", "0.05,0.4:0.6", "1e9,1:1", "nan,nan:nan", "0,0:0", "-1,0.5:0.5", "huge,top-left"]
EXPORTED = ("out", "out-names.csv", "run")  # what an export may write
BASE = ROOT / ".fuzz" / "base"  # what is prepared; `fuzz` may set another folder
RUN_FILES = ["params.yaml", "run.json", "data/made.json", "data/pairs.npz", "cluster/clusters.csv",
             "cluster/scan.csv",
             "cluster/made.json", "train/cluster-00/made.json", "train/cluster-00/model.safetensors",
             "inpaint/2-Diff/manifest.csv", "inpaint/2-Diff/made.json", "style/2-Styled-Diff/manifest.csv",
             "style/2-Styled-Diff/made.json", "gan/GAN/made.json", "evaluate/Real/values.csv",
             "evaluate/2-Diff/audit.csv",
             "evaluate/2-Diff/closest.npz", "evaluate/2-Diff/made.json", "segment/results.csv",
             "segment/runs.csv",
             "augment/results.csv", "augment/runs.csv", "evaluate/copies/copies.csv"]


ENTRIES = ["images/a.png", "masks/a.png", "../x", "/x", "a/../../x", "..", ".", "a\\..\\b", "c:", "x" * 300,
           "a/" * 200 + "b", "\x1b",
           "images/", "con", "a//b", "./a", "../../precious/letter", ".bashrc", f"$({COMMAND})", "é",
           "images"]


@st.composite
def archives(draw: Draw) -> Case:
    sound = st.sampled_from(["images/a.png", "masks/a.png", "images/b.png", "masks/b.png", "n.txt"])
    one = sound if draw(st.booleans()) else st.one_of(st.sampled_from(ENTRIES), NAMES)
    names = draw(st.lists(one, min_size=1, max_size=6, unique=True))
    bodies = st.sampled_from([b"x", made.pictures(False)[".png"], bytes(3_000_000), b""])
    content: bytes | Special = made.archive({name.encode("utf-8", "replace").decode(): draw(bodies)
                                             for name in names},
                                            draw(st.sampled_from([0, 8, 12, 14])))
    way = draw(st.integers(0, 9))
    if way < 5:
        content = made.spoilt(draw, bytes(content))  # type: ignore[arg-type]
    elif way == 5:
        content = draw(SPECIAL)
    elif way == 6:  # a name outside the folder or not in UTF-8
        content = bytes(content).replace(b"images/a.png", draw(st.sampled_from([b"../../../aaa",
            b"/tmp/fuzz-aa", b"images/\xff.pn"])))  # type: ignore[arg-type]
    name = "to/hyper-kvasir-segmented-images.zip"
    files: dict[str, bytes | Special] = {name: content}
    if draw(st.integers(0, 3)) == 0:
        files[f"{name}.json"] = made.as_json(draw, {"sha256": "x", "url": "y",
                                                    "contents": {"files": 0, "bytes": 0}})
    argv = ["data", "fetch", draw(st.sampled_from(["hyperkvasir"] * 6 + TEXTS)), "--to", "to"]
    if draw(st.integers(0, 3)) == 0:
        argv += ["--url", draw(st.sampled_from(["file:///etc/passwd", "http://[::1",
                                                "http://127.0.0.1:9/a.zip", "x", "", "http://",
                                                "ftp://127.0.0.1:9/x.zip", "https://\x1b",
                                                "http://127.0.0.1:9/../..zip"]))]
    if draw(st.integers(0, 4)) == 0:
        argv += ["--sha256", draw(st.sampled_from(TEXTS))]
    return Case("archives", tuple(argv), files, writes=("to",))


def safetensors(draw: Draw, content: bytes) -> bytes:
    """A checkpoint of ours with a changed header: that of safetensors, or the program's own within it."""
    size = int.from_bytes(content[:8], "little")
    head, body = json.loads(content[8:8 + size]), content[8 + size:]
    if draw(st.booleans()):
        own = json.loads(head["__metadata__"]["header"])
        head["__metadata__"]["header"] = made.as_json(draw, own).decode("utf-8", "replace")
        text = json.dumps(head).encode()
    else:
        some = {name: head[name] for name in [*list(head)[:5], "__metadata__"]}
        text = made.as_json(draw, head)
        if draw(st.booleans()):
            text = json.dumps({**head, **changed(draw, some)}, default=str).encode()
    told = len(text) if draw(st.integers(0, 9)) else draw(st.sampled_from([0, 8, 2**31, 2**63, 2**64 - 1,
        10**8]))
    return told.to_bytes(8, "little") + text + body


def changed(draw: Draw, value: Any) -> dict[str, Any]:
    new = made.changed(draw, value)
    return new if isinstance(new, dict) else {}


def tensors(draw: Draw) -> bytes:
    """A torch file with tensors or payloads, perhaps damaged."""
    import torch
    state = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(1, dtype=torch.int64)}
    value = draw(st.sampled_from([state, {"state_dict": state}, [state],
                                  made.Payload(draw(st.integers(0, 4))), 5, {},
                                  {"a": made.Payload(2)}, {1: torch.zeros(2)}, {"a": "x"}]))
    content = made.torch_file(value, draw(st.booleans()))
    way = draw(st.integers(0, 5))
    if way == 0:
        return draw(st.sampled_from(made.PICKLES))
    if way == 1:
        return made.archive({"archive/data.pkl": draw(st.sampled_from(made.PICKLES)),
                             "archive/version": b"3\n",
                             "archive/constants.pkl": made.PICKLES[2],
                             "archive/code/__torch__.py": b"import os"})
    return made.spoilt(draw, content) if way < 5 else content


@st.composite
def checkpoints(draw: Draw) -> Case:
    kept = (BASE / "run" / "train" / "cluster-00" / "model.safetensors").read_bytes()
    ours = draw(st.booleans())
    content = draw(SPECIAL) if draw(st.integers(0, 20)) == 0 else safetensors(draw, kept) if ours and draw(
        st.integers(0, 3)) else made.spoilt(draw, kept) if ours else tensors(draw)
    way = draw(st.integers(0, 4))
    ending = ".safetensors" if ours else draw(st.sampled_from([".pt", ".pth"]))
    nano = {"p.yaml": yaml.safe_dump({**NANO, "run_dir": "out"}).encode()}
    if way == 0 and ours:  # a stranger's run, whose stamps list this file as its model
        name = "run/train/cluster-00/model.safetensors"
        argv = draw(st.sampled_from([("paint", "run", "a.png", "--out", "out"), ("status", "run"),
                                     ("export", "run", "--to", "models", "--out", "out")]))
        return Case("checkpoints", argv, {name: content, "a.png": made.pictures(False)[".png"]}, True,
                    (name,), ("out", "run"))
    if way <= 2:
        names = [f"m/cluster-0{n}/model{ending}" if ours else f"m/cluster_{n}_x{ending}" for n in (0, 1)]
        files = {**nano, names[0]: content, names[1]: kept if ours else content}
        argv = (*CHECKED, "-p", "train.checkpoints", "m")
    else:
        key = draw(st.sampled_from(["segment.weights", "cluster.weights", "style.vgg_weights",
                                    "evaluate.weights"]))
        files, argv = {**nano, f"w{ending}": content}, (*CHECKED, "-p", key, f"w{ending}")
    return Case("checkpoints", argv, files)


SLURM = yaml.safe_load((ROOT / "params" / "slurm.yaml").read_text(encoding="utf-8"))


@st.composite
def clusters(draw: Draw) -> Case:
    values = changed(draw, {**SLURM, "options": [f"--comment=$({COMMAND})"], "before": [COMMAND], "jobs": 1})
    content: bytes | Special = yaml.safe_dump(values).encode("utf-8", "surrogatepass")
    way = draw(st.integers(0, 9))
    if way == 0:
        content = draw(SPECIAL)
    elif way == 1:
        content = made.spoilt(draw, bytes(content))  # type: ignore[arg-type]
    elif way == 2:
        content = bytes(content)[:20] + draw(st.sampled_from(TOKENS)) + bytes(content)[
            20:]  # type: ignore[arg-type]
    if draw(st.booleans()):  # the authors' clusters, a pickle
        names = {number: [f"x_{number}.png", f"y_{number}.png"] for number in range(2)}
        value = draw(st.sampled_from([names, {0: made.Payload(2)}, made.Payload(), [names], {0: []},
                                      {0: ["a"] * 3}, {-1: ["a"]}]))
        pickled = draw(st.sampled_from([pickle.dumps(value, draw(st.sampled_from([0, 2, 4]))),
                                        *made.PICKLES[:6]]))
        content = draw(SPECIAL) if draw(st.integers(0, 9)) == 0 else made.spoilt(draw, pickled)
        return Case("clusters", (*CHECKED, "-p", "cluster.file", "c.p"),
                    {"c.p": content, "p.yaml": yaml.safe_dump(NANO).encode()})
    argv = ["run", "p.yaml", "--only", "cluster", "--no-book", "--slurm", "c.yaml"]
    if draw(st.integers(0, 9)) == 0:
        argv[-2:] = ["--scheduler", draw(st.sampled_from(["x", "tcp://", "tcp://127.0.0.1:9", "tcp://\x1b",
                                                          "http://x", "", "tls://x:1",
                                                          "tcp://127.0.0.1:99999", "inproc://x",
                                                          f"$({COMMAND})"]))]
    return Case("clusters", tuple(argv), {"c.yaml": content,
                                          "p.yaml": yaml.safe_dump({**NANO, "run_dir": "out"}).encode()},
                writes=("out", *([values["log_folder"]] if isinstance(values.get("log_folder"), str)
                                 else [])))


@st.composite
def runs(draw: Draw) -> Case:
    """A stranger's run with one file changed, whose stamp matches it or not."""
    name = draw(st.sampled_from(RUN_FILES))
    kept = BASE / "run" / name
    content: bytes | Special = kept.read_bytes() if kept.is_file() else b""
    if draw(st.integers(0, 9)) == 0:
        content = draw(SPECIAL)
    elif name.endswith(".json") and content:
        content = made.as_json(draw, json.loads(bytes(content)))  # type: ignore[arg-type]
    elif name.endswith(".yaml"):
        content = profile(draw)
    elif name.endswith(".csv"):
        content = table(draw, bytes(content).decode())  # type: ignore[arg-type]
    else:
        content = made.spoilt(draw, bytes(content))  # type: ignore[arg-type]
    exports = [["export", "run", "--to", kind, "--out", "out"]
               for kind in ("folder", "nnunet", "coco", "hf", "monai", "models")]
    argv = draw(st.sampled_from([["status", "run"], ["status", "run", "--verify"], ["clean", "run"],
                                 ["compare", "run", "run"],
                                 ["review", "make", "run", "--per-type", "2", "--out", "out"],
                                 ["paint", "run", "a.png", "--out", "out"],
                                 ["run", "run/params.yaml", "--dry-run", "--only", "summary"], *exports]))
    return Case("runs", tuple(argv), {f"run/{name}": content, "a.png": made.pictures(False)[".png"]}, True,
                (f"run/{name}",) if draw(st.booleans()) else (), EXPORTED)


ANSWERS = {"form": "f", "answers": {"1": {"quality": "Good", "segmentation": "Poor", "origin": "Real"},
                                    "2": {"quality": None, "segmentation": "Moderate", "origin": "Fake"}}}
KEY = {"form": "f", "items": {"1": {"type": "Real", "name": "a"}, "2": {"type": "2-Diff", "name": "b"}}}


@st.composite
def reviews(draw: Draw) -> Case:
    odd = draw(st.integers(0, 15)) == 0
    both = {"answers.json": json.dumps(ANSWERS).encode(), "key.json": json.dumps(KEY).encode()}
    name = draw(st.sampled_from(sorted(both)))
    told: dict[str, bytes | Special] = {**both, name: draw(SPECIAL) if odd else made.as_json(
        draw, ANSWERS if name == "answers.json" else KEY)}
    return Case("reviews", ("review", "score", "answers.json", "key.json"), told)


@st.composite
def notebooks(draw: Draw) -> Case:
    """An executed chapter of a stranger's run, shown or refused by `book`; its cells must not run."""
    name = draw(st.sampled_from(["01_cluster", "02_train", "05_evaluate", "09_x", "00_tour"]))
    cells = json.loads((ROOT / "notebooks" / "01_cluster.ipynb").read_text(encoding="utf-8"))
    cells["cells"] = [*cells["cells"][:3], {
        "cell_type": "code", "metadata": {"tags": ["injected-parameters"]}, "execution_count": 1,
        "id": "planted",
        "source": f"import os\nos.system({COMMAND!r})", "outputs": [
            {"output_type": "stream", "name": "stdout", "text": "x"},
            {"output_type": "display_data", "metadata": {}, "data": {
                "text/html": "<script>alert(1)</script>"}}]}]
    # The run has no results, so that no chapter is executed for its page.
    own: dict[str, bytes | Special] = {
        f"run/{path}": (BASE / "run" / path).read_bytes() for path in ("params.yaml", "run.json")}
    told = yaml.safe_load(bytes(own["run/params.yaml"]))  # type: ignore[arg-type]
    cells["metadata"]["diffusegen"] = {"params": {one: told[one] for one in told if one != "run_dir"}}
    content = draw(SPECIAL) if draw(st.integers(0, 9)) == 0 else made.as_json(draw, cells)
    return Case("notebooks", ("book", "run"), {**own, f"run/notebooks/{name}.ipynb": content},
                writes=("run",))


@st.composite
def names(draw: Draw) -> Case:
    """Odd names of files and words of commands."""
    name, files = draw(NAMES), pair(".png", ".png")
    way = draw(st.integers(0, 6))
    if way <= 1:
        files |= pair(".png", ".png", name) if "/" not in name else {}
        return Case("names", ("data", "check", "set", *options(draw)), files)
    if way == 2:
        argv = ["data", "check", "set", "--images", draw(st.one_of(NAMES,
                                                                   st.sampled_from(["images/*", "**",
                                                                       "*" * 25, "**/" * 12 + "*"]))),
                "--masks", draw(st.one_of(NAMES, st.sampled_from(["masks/*", "**", "*?" * 20])))]
        return Case("names", tuple(argv), {**files, f"set/{'x' * 120}.png": made.pictures(False)[".png"]})
    if way == 3:
        argv = draw(st.sampled_from([["status"], ["clean"], ["book"], ["plan"], ["data", "check"], ["run"],
                                     ["compare", "run"],
                                     ["review", "score", "x"], ["export", "--to", "folder"],
                                     ["paint", "run"]]))
        return Case("names", (*argv, "--", name), files, argv[-1] == "run", writes=("run",))
    if way == 4:
        option = draw(st.sampled_from(["--only", "--from", "--to", "--remake", "--slurm", "--workers",
                                       "--scheduler"]))
        return Case("names", (*CHECKED, f"{option}={name}"), {"p.yaml": yaml.safe_dump(NANO).encode()})
    if way == 5:
        argv = ["export", "run", "--to", "folder", "--out", f"out/{name}"] if draw(st.booleans()) else [
            "export", "run", "--to", "folder", "--out", "out", f"--types={name}"]
        return Case("names", tuple(argv), {}, True, writes=EXPORTED)
    argv = ["paint", "run", f"./{name}.png", "--out", "out",
            f"--like={draw(st.sampled_from([*LIKE, name]))}"]
    return Case("names", tuple(argv), {f"{name}.png": made.pictures(False)[".png"]}, True,
                writes=("out", "run"))


# Each family and its share of all inputs.
FAMILIES: dict[str, tuple[st.SearchStrategy[Case], float]] = {
    "parameters": (given.parameters(), 0.18), "pictures": (given.pictures(), 0.17),
    "masks": (given.masks(), 0.10), "labels": (given.labels(), 0.12),
    "archives": (archives(), 0.08), "checkpoints": (checkpoints(), 0.09), "clusters": (clusters(), 0.05),
    "runs": (runs(), 0.07),
    "tables": (given.tables(), 0.04), "reviews": (reviews(), 0.03), "notebooks": (notebooks(), 0.02),
    "names": (names(), 0.05)}
