"""What the fuzz gives to which command: a strategy of cases for each family of inputs."""

import json
import pickle
from pathlib import Path
from typing import Any

import fuzzbytes as made
import yaml
from fuzzbytes import CANARY, COMMAND, EVIL, Draw
from fuzzcage import Case, Special
from hypothesis import strategies as st

ROOT = Path(__file__).parents[1]
NANO: dict[str, Any] = {
    "device": "cpu", "data": {"count": 10, "image_size": 16, "holdout": None}, "cluster": {"k": 2, "scan": [2, 3]},
    "model": {"base_channels": 32, "channel_mult": [1, 1], "res_blocks": 1, "attention_resolutions": [],
              "head_channels": 32},
    "train": {"images": 24, "batch_size": 4, "checkpoint_every": 2, "preview_every": 3, "preview_images": 2,
              "preview_steps": 4},
    "inpaint": {"masks": "joint", "guidance_scale": 1.0, "samples": 1, "sources": 4, "respacing": 4, "jump_length": 2,
                "resampling": 2, "baselines": None, "batch_size": 3},
    "style": {"respacing": 4, "skip": 1, "batch_size": 3, "vgg_weights": "random"},
    "gan": {"sources": 2, "min_side": 8, "layers": 3, "steps": 3},
    "segment": {"decoder_channels": [8, 8, 8], "epochs": 2, "epoch_images": 4, "batch_size": 4, "test_count": 4,
                "resamples": 200, "weights": "random"},
    "augment": {"sizes": [4]}}
# Everything is checked in advance, and nothing is tried out, as it is for the networks of chapters 6 and 7.
CHECKED = ["run", "p.yaml", "--dry-run", "--only", "summary"]
BASES = [NANO, *(yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "params").glob("*.yaml"))
                 if path.stem != "slurm")]
TOKENS = [b"&a ", b"*a", b"<<: ", f"!!python/object/apply:os.system [{COMMAND}]".encode(), b"!!set ", b"!!binary ", b"? ",
          f"!!python/object/new:subprocess.check_call [[touch, {CANARY}]]".encode(), b"[", b"{", b"!!timestamp ", b"%YAML 9",
          b"0x" + 4000 * b"f", b"1:1:1", b"\x1b[2J", b"---\n", b"!!int ", b"!!float ", b"\xff", b"\0", b"\t", 3000 * b"[",
          f"!!python/name:os.system\n{COMMAND}".encode(), b"!!js/function 'x'", b"!include /etc/passwd"]
TEXTS = ["x", "..", "-rf", "a b", f"$({COMMAND})", f"`{COMMAND}`", f"; {COMMAND} #", f"|{COMMAND}", "\x1b[2J", "\u202egpj", "é",
         "e\u0301", "<script>alert(1)</script>", "{{ x }}", "a" * 200, "a" * 254, "*", "?", "[a]", "%n%s", "a\nb", "~", "~x/y", "#",
         "con", "'", '"', "\\", "../../precious/letter", "=1+1", "{numref}`x`", "$x$", "|", "\udcff", "\ufeff", "a,b", "0", "-1",
         "NaN", "null"]
NAMES = st.one_of(st.sampled_from(TEXTS), st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]),
                                                  min_size=1, max_size=12))
SPECIAL = st.sampled_from([Special("fifo"), Special("folder"), Special("link", "nowhere"), Special("link", "."),
                           Special("link", "/dev/zero"), Special("link", "../../precious/letter"), Special("sparse", "", 3 << 30),
                           Special("sparse", "", 1 << 28), Special("link", "/proc/self/environ"), b""])
LABELS = ["{1: a}", "{'>0': a}", "{0: background, 255: a}", "{'#ff0000': a, '#00ff00': b}", "{a: a, b: b}", "{'>300': a}"]
RUN_FILES = ["params.yaml", "run.json", "data/made.json", "data/pairs.npz", "cluster/clusters.csv", "cluster/scan.csv",
             "cluster/made.json", "train/cluster-00/made.json", "train/cluster-00/model.safetensors",
             "inpaint/2-Diff/manifest.csv", "inpaint/2-Diff/made.json", "style/2-Styled-Diff/manifest.csv",
             "style/2-Styled-Diff/made.json", "gan/GAN/made.json", "evaluate/Real/values.csv", "evaluate/2-Diff/audit.csv",
             "evaluate/2-Diff/closest.npz", "evaluate/2-Diff/made.json", "segment/results.csv", "segment/runs.csv",
             "augment/results.csv", "augment/runs.csv", "evaluate/copies/copies.csv"]


def command(draw: Draw, argv: list[str], most: int = 2) -> tuple[str, ...]:
    """The words of a command with parameters of any kind after them."""
    for _ in range(draw(st.integers(0, most))):
        section, *rest = draw(st.sampled_from(KEYS))
        argv += ["-p", ".".join([section, *rest]), str(draw(st.one_of(EVIL, NAMES)))[:5000].replace("\0", "0")]
    return tuple(argv)


KEYS = [place for place in made.places(yaml.safe_load((ROOT / "params" / "smoke.yaml").read_text(encoding="utf-8")))
        if all(isinstance(part, str) for part in place)]


def profile(draw: Draw) -> bytes:
    """A damaged parameter file."""
    values = made.changed(draw, draw(st.sampled_from(BASES)), 4)
    text = yaml.safe_dump(values, allow_unicode=draw(st.booleans()), sort_keys=False).encode("utf-8", "surrogatepass")
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(st.sampled_from(TOKENS)) + text[place + draw(st.integers(0, 20)):]
    return made.spoilt(draw, text, 2) if draw(st.integers(0, 9)) == 0 else text


@st.composite
def parameters(draw: Draw) -> Case:
    content = profile(draw) if draw(st.integers(0, 15)) else draw(SPECIAL)
    how = draw(st.sampled_from([CHECKED, CHECKED, ["plan", "p.yaml", "--seconds", "0"],
                                ["data", "check", "set", "--profile", "p.yaml"]]))
    return Case("parameters", command(draw, list(how)), {"p.yaml": content, **pair(".png", ".png")})


def pair(image: str, mask: str, name: str = "b", folder: str = "set") -> dict[str, bytes | Special]:
    """A sound pair, by the formats of its files."""
    return {f"{folder}/images/{name}{image}": made.pictures(False)[image],
            f"{folder}/masks/{name}{mask}": made.pictures(True)[mask]}


def picture(draw: Draw, mask: bool) -> tuple[str, bytes | Special]:
    """A damaged file of a picture, and its ending."""
    way, kind = draw(st.integers(0, 11)), draw(st.sampled_from(sorted(made.pictures(mask))))
    if way <= 3:
        return kind, made.spoilt(draw, made.pictures(mask)[kind])
    if way == 4:  # another format than its name says
        return kind, made.pictures(mask)[draw(st.sampled_from(sorted(made.pictures(mask))))]
    if way == 5:
        return kind, draw(SPECIAL)
    if way == 6:
        name = draw(st.sampled_from(HEAVY))
        return Path(name).name.removeprefix(Path(name).name.split(".")[0]), Special("kept", name)
    makers = {".png": made.png, ".tif": made.tiff, ".npy": made.npy, ".dcm": made.dicom_elements, ".nii": made.nifti_header}
    ending = draw(st.sampled_from(sorted(makers)))
    content = makers[ending](draw)
    return (".nii.gz" if content[:2] == b"\x1f\x8b" else ending), content


HEAVY = ["heavy/rgba.png", "heavy/deep.png", "heavy/grey.png", "heavy/deepgrey.png", "heavy/floats.npy", "heavy/volume.nii.gz",
         "heavy/doubles.nii.gz", "heavy/large.tif", "heavy/large.jpg", "heavy/large.dcm"]


@st.composite
def pictures(draw: Draw) -> Case:
    kind, content = picture(draw, mask=False)
    mask_kind = kind if kind.startswith(".nii") else ".png"
    files = {**pair(".png", ".png"), f"set/images/s{kind}": content,
             f"set/masks/s{mask_kind}": made.pictures(True)[mask_kind]}
    return Case("pictures", ("data", "check", "set", *options(draw)), files)


@st.composite
def masks(draw: Draw) -> Case:
    kind, content = picture(draw, mask=True)
    if draw(st.integers(0, 3)) == 0:  # painted by, or over
        argv = ["paint", "run", "a.png", draw(st.sampled_from(["--mask", "--old"])), f"m{kind}", "--out", "out"]
        return Case("masks", tuple(argv), {"a.png": made.pictures(False)[".png"], f"m{kind}": content}, True,
                    writes=("out", "run"))
    image_kind = kind if kind.startswith(".nii") else ".png"
    files = {**pair(".png", ".png"), f"set/masks/s{kind}": content,
             f"set/images/s{image_kind}": made.pictures(False)[image_kind]}
    return Case("masks", ("data", "check", "set", *options(draw)), files)


def options(draw: Draw) -> list[str]:
    """Parameters of the data that a check may be given."""
    chosen = draw(st.lists(st.sampled_from([
        ("channels", "1"), ("channels", "3"), ("channels", "4"), ("intensities", "percentile"), ("intensities", "dicom"),
        ("intensities", "[0, 1000]"), ("slices", "[2, 0, 3]"), ("slices", "[0, 0, 1000000]"), ("fit", "crop"), ("fit", "squeeze"),
        ("image_size", "8192"), ("min_area", "0.5"), ("overlap", "true"), *(("labels", text) for text in LABELS)]), max_size=2))
    return [word for key, value in chosen for word in ("-p", f"data.{key}", value)]


COCO = {"images": [{"id": 1, "file_name": "a.png", "width": 24, "height": 20},
                   {"id": 2, "file_name": "b.png", "width": 24, "height": 20}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [2, 2, 9, 9],
                         "segmentation": [[2, 2, 12, 2, 12, 12, 2, 12]]},
                        {"id": 2, "image_id": 2, "category_id": 1, "iscrowd": 1,
                         "segmentation": {"size": [20, 24], "counts": [40, 40, 400]}}],
        "categories": [{"id": 1, "name": "lesion"}]}
LABELME = {"version": "5", "imagePath": "a.png", "imageWidth": 24, "imageHeight": 20, "imageData": None, "shapes": [
    {"label": "lesion", "shape_type": "polygon", "points": [[2, 2], [12, 2], [12, 12]]},
    {"label": "lesion", "shape_type": "circle", "points": [[8, 8], [12, 8]]},
    {"label": "lesion", "shape_type": "mask", "points": [[2, 2], [4, 4]], "mask": "iVBORw0KGgo="},
    {"label": "other", "shape_type": "rectangle", "points": [[2, 2], [4, 4]]}]}
NNUNET = {"channel_names": {"0": "R"}, "labels": {"background": 0, "lesion": 255, "other": [1, 2]}, "numTraining": 2,
          "file_ending": ".png"}


@st.composite
def labels(draw: Draw) -> Case:
    image, mask = (made.pictures(one)[".png"] for one in (False, True))
    kind, odd = draw(st.sampled_from(["coco", "labelme", "nnunet"])), draw(st.integers(0, 15)) == 0
    told: dict[str, bytes | Special]
    if kind == "coco":
        told = {"set/annotations/instances.json": draw(SPECIAL) if odd else made.as_json(draw, COCO),
                "set/a.png": image, "set/b.png": image}
    elif kind == "labelme":
        told = {"set/a.json": draw(SPECIAL) if odd else made.as_json(draw, LABELME), "set/a.png": image, "set/b.png": image,
                "set/b.json": json.dumps({**LABELME, "shapes": LABELME["shapes"][:1]}).encode()}
    else:
        told = {"set/dataset.json": draw(SPECIAL) if odd else made.as_json(draw, NNUNET),
                **{f"set/imagesTr/{name}_0000.png": image for name in "ab"},
                **{f"set/labelsTr/{name}.png": mask for name in "ab"}}
    return Case("labels", ("data", "check", "set", *options(draw)), told)


ENTRIES = ["images/a.png", "masks/a.png", "../x", "/x", "a/../../x", "..", ".", "a\\..\\b", "c:", "x" * 300, "a/" * 200 + "b", "\x1b",
           "images/", "con", "a//b", "./a", "../../precious/letter", ".bashrc", f"$({COMMAND})", "é", "images"]


@st.composite
def archives(draw: Draw) -> Case:
    sound = st.sampled_from(["images/a.png", "masks/a.png", "images/b.png", "masks/b.png", "n.txt"])
    one = sound if draw(st.booleans()) else st.one_of(st.sampled_from(ENTRIES), NAMES)
    names = draw(st.lists(one, min_size=1, max_size=6, unique=True))
    bodies = st.sampled_from([b"x", made.pictures(False)[".png"], bytes(3_000_000), b""])
    content: bytes | Special = made.archive({name.encode("utf-8", "replace").decode(): draw(bodies) for name in names},
                                            draw(st.sampled_from([0, 8, 12, 14])))
    way = draw(st.integers(0, 9))
    if way < 5:
        content = made.spoilt(draw, bytes(content))  # type: ignore[arg-type]
    elif way == 5:
        content = draw(SPECIAL)
    elif way == 6:  # names in the central list alone
        content = bytes(content).replace(b"images/a.png", draw(st.sampled_from([b"../../../aaa", b"/tmp/fuzz-aa", b"images/\xff.pn"])))  # type: ignore[arg-type]
    name = "to/hyper-kvasir-segmented-images.zip"
    files: dict[str, bytes | Special] = {name: content}
    if draw(st.integers(0, 3)) == 0:
        files[f"{name}.json"] = made.as_json(draw, {"sha256": "x", "url": "y", "contents": {"files": 0, "bytes": 0}})
    argv = ["data", "fetch", draw(st.sampled_from(["hyperkvasir"] * 6 + TEXTS)), "--to", "to"]
    if draw(st.integers(0, 3)) == 0:
        argv += ["--url", draw(st.sampled_from(["file:///etc/passwd", "http://[::1", "http://127.0.0.1:9/a.zip", "x", "", "http://",
                                                "ftp://127.0.0.1:9/x.zip", "https://\x1b", "http://127.0.0.1:9/../..zip"]))]
    if draw(st.integers(0, 4)) == 0:
        argv += ["--sha256", draw(st.sampled_from(TEXTS))]
    return Case("archives", tuple(argv), files, writes=("to",))


def safetensors(draw: Draw, content: bytes) -> bytes:
    """A file of ours with another header: the library's, or within it the program's own."""
    size = int.from_bytes(content[:8], "little")
    head, body = json.loads(content[8:8 + size]), content[8 + size:]
    if draw(st.booleans()):
        own = json.loads(head["__metadata__"]["header"])
        head["__metadata__"]["header"] = made.as_json(draw, own).decode("utf-8", "replace")
        text = json.dumps(head).encode()
    else:
        some = {name: head[name] for name in [*list(head)[:5], "__metadata__"]}
        text = json.dumps({**head, **changed(draw, some)}, default=str).encode() if draw(st.booleans()) else made.as_json(draw, head)
    told = len(text) if draw(st.integers(0, 9)) else draw(st.sampled_from([0, 8, 2**31, 2**63, 2**64 - 1, 10**8]))
    return told.to_bytes(8, "little") + text + body


def changed(draw: Draw, value: Any) -> dict[str, Any]:
    new = made.changed(draw, value)
    return new if isinstance(new, dict) else {}


def tensors(draw: Draw) -> bytes:
    """A torch file: of tensors, of payloads, or damaged."""
    import torch
    state = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(1, dtype=torch.int64)}
    value = draw(st.sampled_from([state, {"state_dict": state}, [state], made.Payload(draw(st.integers(0, 4))), 5, {},
                                  {"a": made.Payload(2)}, {1: torch.zeros(2)}, {"a": "x"}]))
    content = made.torch_file(value, draw(st.booleans()))
    way = draw(st.integers(0, 5))
    if way == 0:
        return draw(st.sampled_from(made.PICKLES))
    if way == 1:
        return made.archive({"archive/data.pkl": draw(st.sampled_from(made.PICKLES)), "archive/version": b"3\n",
                             "archive/constants.pkl": made.PICKLES[2], "archive/code/__torch__.py": b"import os"})
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
    if way == 0 and ours:  # a stranger's run, whose stamps say that this is its model
        name = "run/train/cluster-00/model.safetensors"
        argv = draw(st.sampled_from([("paint", "run", "a.png", "--out", "out"), ("status", "run"),
                                     ("export", "run", "--to", "models", "--out", "out")]))
        return Case("checkpoints", argv, {name: content, "a.png": made.pictures(False)[".png"]}, True, (name,), ("out", "run"))
    if way <= 2:
        names = [f"m/cluster-0{n}/model{ending}" if ours else f"m/cluster_{n}_x{ending}" for n in (0, 1)]
        files = {**nano, names[0]: content, names[1]: kept if ours else content}
        argv = (*CHECKED, "-p", "train.checkpoints", "m")
    else:
        key = draw(st.sampled_from(["segment.weights", "cluster.weights", "style.vgg_weights", "evaluate.weights"]))
        files, argv = {**nano, f"w{ending}": content}, (*CHECKED, "-p", key, f"w{ending}")
    return Case("checkpoints", argv, files)


SLURM = yaml.safe_load((ROOT / "params" / "slurm.yaml").read_text(encoding="utf-8"))
BASE = ROOT / ".fuzz" / "base"  # see `fuzz`, which may set another


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
        content = bytes(content)[:20] + draw(st.sampled_from(TOKENS)) + bytes(content)[20:]  # type: ignore[arg-type]
    if draw(st.booleans()):  # the authors' clusters, a pickle
        names = {number: [f"x_{number}.png", f"y_{number}.png"] for number in range(2)}
        value = draw(st.sampled_from([names, {0: made.Payload(2)}, made.Payload(), [names], {0: []}, {0: ["a"] * 3}, {-1: ["a"]}]))
        pickled = draw(st.sampled_from([pickle.dumps(value, draw(st.sampled_from([0, 2, 4]))), *made.PICKLES[:6]]))
        content = draw(SPECIAL) if draw(st.integers(0, 9)) == 0 else made.spoilt(draw, pickled)
        return Case("clusters", (*CHECKED, "-p", "cluster.file", "c.p"), {"c.p": content, "p.yaml": yaml.safe_dump(NANO).encode()})
    argv = ["run", "p.yaml", "--only", "cluster", "--no-book", "--slurm", "c.yaml"]
    if draw(st.integers(0, 9)) == 0:
        argv[-2:] = ["--scheduler", draw(st.sampled_from(["x", "tcp://", "tcp://127.0.0.1:9", "tcp://\x1b", "http://x", "", "tls://x:1",
                                                          "tcp://127.0.0.1:99999", "inproc://x", f"$({COMMAND})"]))]
    return Case("clusters", tuple(argv), {"c.yaml": content, "p.yaml": yaml.safe_dump({**NANO, "run_dir": "out"}).encode()},
                writes=("out", *([values["log_folder"]] if isinstance(values.get("log_folder"), str) else [])))


@st.composite
def runs(draw: Draw) -> Case:
    """A run of a stranger's, of which one file is another, with a stamp that agrees or without."""
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
    exports = [["export", "run", "--to", kind, "--out", "out"] for kind in ("folder", "nnunet", "coco", "hf", "monai", "models")]
    argv = draw(st.sampled_from([["status", "run"], ["status", "run", "--verify"], ["clean", "run"], ["compare", "run", "run"],
                                 ["review", "make", "run", "--per-type", "2", "--out", "out"],
                                 ["paint", "run", "a.png", "--out", "out"], ["run", "run/params.yaml", "--dry-run", "--only", "summary"], *exports]))
    return Case("runs", tuple(argv), {f"run/{name}": content, "a.png": made.pictures(False)[".png"]}, True,
                (f"run/{name}",) if draw(st.booleans()) else (), ("out", "run"))


def table(draw: Draw, text: str) -> bytes:
    """A CSV of which cells, rows or columns are others."""
    rows = [line.split(",") for line in text.splitlines()] or [[""]]
    rows = changed_rows(draw, rows)
    content = "\n".join(",".join(map(str, row)) for row in rows).encode("utf-8", "surrogatepass")
    way = draw(st.integers(0, 9))
    if way == 0:
        return made.spoilt(draw, content)
    return content + (b'"' if way == 1 else b"\0" if way == 2 else b"\n\n,,,\n" if way == 3 else b"")


def changed_rows(draw: Draw, rows: list[list[str]]) -> list[list[Any]]:
    new = made.changed(draw, rows)
    return [row if isinstance(row, list) else [row] for row in new] if isinstance(new, list) else [[new]]


@st.composite
def tables(draw: Draw) -> Case:
    """A table of patients, or the manifest of painted pairs."""
    names = ["a", "b", "c", "d"]
    files: dict[str, bytes | Special] = {}
    for name in names:
        files |= pair(".png", ".png", name)
    told = draw(st.sampled_from(["image,patient\n", "patient,image\n", "image;patient\n", "image\tpatient\n"]))
    text = told + "\n".join(f"{name}{told[5]}P{number // 2}" for number, name in enumerate(names))
    content = draw(SPECIAL) if draw(st.integers(0, 15)) == 0 else table(draw, text)
    key = draw(st.sampled_from(["who.csv:patient", "who.csv:patient", "who.csv:x", "who.csv:", "set/who.csv:patient", "^(.)", "(",
                                "(a+)+$", "^(.*)*$", "()", "nothing", "^([a-z]+)/.*", "\x1b(.)", "who.CSV:image"]))
    values = {**NANO, "run_dir": "out", "data": {"source": "set", "count": None, "image_size": 16, "holdout": 0.25, "patients": key}}
    values["cluster"] = {"k": 1, "scan": [2]}
    where = draw(st.sampled_from(["who.csv", "set/who.csv"]))
    return Case("tables", tuple(CHECKED), {**files, where: content, "p.yaml": yaml.safe_dump(values).encode()})


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
        "cell_type": "code", "metadata": {"tags": ["injected-parameters"]}, "execution_count": 1, "id": "planted",
        "source": f"import os\nos.system({COMMAND!r})", "outputs": [
            {"output_type": "stream", "name": "stdout", "text": "x"},
            {"output_type": "display_data", "metadata": {}, "data": {"text/html": "<script>alert(1)</script>"}}]}]
    content = draw(SPECIAL) if draw(st.integers(0, 9)) == 0 else made.as_json(draw, cells)
    return Case("notebooks", ("book", "run"), {f"run/notebooks/{name}.ipynb": content}, True, writes=("run",))


@st.composite
def names(draw: Draw) -> Case:
    """Names of files and words of commands."""
    name, files = draw(NAMES), pair(".png", ".png")
    way = draw(st.integers(0, 6))
    if way <= 1:
        files |= pair(".png", ".png", name) if "/" not in name else {}
        return Case("names", ("data", "check", "set", *options(draw)), files)
    if way == 2:
        argv = ["data", "check", "set", "--images", draw(st.one_of(NAMES, st.sampled_from(["images/*", "**", "*" * 25, "**/" * 12 + "*"]))),
                "--masks", draw(st.one_of(NAMES, st.sampled_from(["masks/*", "**", "*?" * 20])))]
        return Case("names", tuple(argv), {**files, f"set/{'x' * 120}.png": made.pictures(False)[".png"]})
    if way == 3:
        argv = draw(st.sampled_from([["status"], ["clean"], ["book"], ["plan"], ["data", "check"], ["run"], ["compare", "run"],
                                     ["review", "score", "x"], ["export", "--to", "folder"], ["paint", "run"]]))
        return Case("names", (*argv, "--", name), files, argv[-1] == "run", writes=("run",))
    if way == 4:
        option = draw(st.sampled_from(["--only", "--from", "--to", "--remake", "--slurm", "--workers", "--scheduler"]))
        return Case("names", (*CHECKED, f"{option}={name}"), {"p.yaml": yaml.safe_dump(NANO).encode()})
    if way == 5:
        argv = ["export", "run", "--to", "folder", "--out", f"out/{name}"] if draw(st.booleans()) else [
            "export", "run", "--to", "folder", "--out", "out", f"--types={name}"]
        return Case("names", tuple(argv), {}, True, writes=("out", "run"))
    argv = ["paint", "run", f"./{name}.png", "--out", "out", f"--like={draw(st.sampled_from(['medium', 'x', '0.05,0.4:0.6', '1e9,1:1', 'nan,nan:nan', name]))}"]
    return Case("names", tuple(argv), {f"{name}.png": made.pictures(False)[".png"]}, True, writes=("out", "run"))


# Each family, and its share of all inputs.
FAMILIES: dict[str, tuple[st.SearchStrategy[Case], float]] = {
    "parameters": (parameters(), 0.18), "pictures": (pictures(), 0.17), "masks": (masks(), 0.10), "labels": (labels(), 0.12),
    "archives": (archives(), 0.08), "checkpoints": (checkpoints(), 0.09), "clusters": (clusters(), 0.05), "runs": (runs(), 0.07),
    "tables": (tables(), 0.04), "reviews": (reviews(), 0.03), "notebooks": (notebooks(), 0.02), "names": (names(), 0.05)}
