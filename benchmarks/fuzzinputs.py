"""Which inputs the fuzz gives to which command: a strategy of cases for each family."""

import json
from pathlib import Path
from typing import Any

import fuzzbytes as made
import yaml
from fuzzbytes import CANARY, COMMAND, EVIL, Draw
from fuzzcage import Case, Special
from hypothesis import strategies as st

ROOT = Path(__file__).parents[1]
NANO: dict[str, Any] = {
    "device": "cpu", "data": {"count": 10, "image_size": 16, "holdout": None},
    "cluster": {"k": 2, "scan": [2, 3]},
    "model": {"base_channels": 32, "channel_mult": [1, 1], "res_blocks": 1, "attention_resolutions": [],
              "head_channels": 32},
    "train": {"images": 24, "batch_size": 4, "checkpoint_every": 2, "preview_every": 3, "preview_images": 2,
              "preview_steps": 4},
    "inpaint": {"masks": "joint", "guidance_scale": 1.0, "samples": 1, "sources": 4, "respacing": 4,
                "jump_length": 2,
                "resampling": 2, "baselines": None, "batch_size": 3},
    "style": {"respacing": 4, "skip": 1, "batch_size": 3, "vgg_weights": "random"},
    "gan": {"sources": 2, "min_side": 8, "layers": 3, "steps": 3},
    "segment": {"decoder_channels": [8, 8, 8], "epochs": 2, "epoch_images": 4, "batch_size": 4,
                "test_count": 4,
                "resamples": 200, "weights": "random"},
    "augment": {"sizes": [4]}}
# Checks everything in advance and tries nothing out, as a dry run of chapters 6 and 7 does with networks.
CHECKED = ["run", "p.yaml", "--dry-run", "--only", "summary"]
BASES = [NANO, *(yaml.safe_load(path.read_text(encoding="utf-8"))
                 for path in sorted((ROOT / "params").glob("*.yaml"))
                 if path.stem != "slurm")]
TOKENS = [b"&a ", b"*a", b"<<: ", f"!!python/object/apply:os.system [{COMMAND}]".encode(), b"!!set ",
          b"!!binary ", b"? ",
          f"!!python/object/new:subprocess.check_call [[touch, {CANARY}]]".encode(), b"[", b"{",
          b"!!timestamp ", b"%YAML 9",
          b"0x" + 4000 * b"f", b"1:1:1", b"\x1b[2J", b"---\n", b"!!int ", b"!!float ", b"\xff", b"\0", b"\t",
          3000 * b"[",
          f"!!python/name:os.system\n{COMMAND}".encode(), b"!!js/function 'x'", b"!include /etc/passwd"]
TEXTS = ["x", "..", "-rf", "a b", f"$({COMMAND})", f"`{COMMAND}`", f"; {COMMAND} #", f"|{COMMAND}", "\x1b[2J",
         "\u202egpj", "é",
         "e\u0301", "<script>alert(1)</script>", "{{ x }}", "a" * 200, "a" * 254, "*", "?", "[a]", "%n%s",
         "a\nb", "~", "~x/y", "#",
         "con", "'", '"', "\\", "../../precious/letter", "=1+1", "{numref}`x`", "$x$", "|", "\udcff",
         "\ufeff", "a,b", "0", "-1",
         "NaN", "null"]
NAMES = st.one_of(st.sampled_from(TEXTS), st.text(st.characters(exclude_characters="/\0",
                                                                exclude_categories=["Cs"]),
                                                  min_size=1, max_size=12))
SPECIAL = st.sampled_from([Special("fifo"), Special("folder"), Special("link", "nowhere"),
                           Special("link", "."),
                           Special("link", "/dev/zero"), Special("link", "../../precious/letter"),
                           Special("sparse", "", 3 << 30),
                           Special("sparse", "", 1 << 28), Special("link", "/proc/self/environ"), b""])
LABELS = ["{1: a}", "{'>0': a}", "{0: background, 255: a}", "{'#ff0000': a, '#00ff00': b}", "{a: a, b: b}",
          "{'>300': a}"]


def command(draw: Draw, argv: list[str], most: int = 2) -> tuple[str, ...]:
    """The words of a command, followed by up to `most` parameters with any values."""
    for _ in range(draw(st.integers(0, most))):
        section, *rest = draw(st.sampled_from(KEYS))
        argv += ["-p", ".".join([section, *rest]), str(draw(st.one_of(EVIL, NAMES)))[:5000].replace("\0",
            "0")]
    return tuple(argv)


KEYS = [place for place in made.places(yaml.safe_load((ROOT / "params/smoke.yaml").read_text("utf-8")))
        if all(isinstance(part, str) for part in place)]


def profile(draw: Draw) -> bytes:
    """A damaged parameter file."""
    values = made.changed(draw, draw(st.sampled_from(BASES)), 4)
    text = yaml.safe_dump(values, allow_unicode=draw(st.booleans()), sort_keys=False).encode("utf-8",
        "surrogatepass")
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
    """A valid pair, with files of these formats."""
    return {f"{folder}/images/{name}{image}": made.pictures(False)[image],
            f"{folder}/masks/{name}{mask}": made.pictures(True)[mask]}


def picture(draw: Draw, mask: bool) -> tuple[str, bytes | Special]:
    """The ending and the bytes of a damaged picture file."""
    way, kind = draw(st.integers(0, 11)), draw(st.sampled_from(sorted(made.pictures(mask))))
    if way <= 3:
        return kind, made.spoilt(draw, made.pictures(mask)[kind])
    if way == 4:  # not the format that its name says
        return kind, made.pictures(mask)[draw(st.sampled_from(sorted(made.pictures(mask))))]
    if way == 5:
        return kind, draw(SPECIAL)
    if way == 6:
        name = draw(st.sampled_from(HEAVY))
        return Path(name).name.removeprefix(Path(name).name.split(".")[0]), Special("kept", name)
    makers = {".png": made.png, ".tif": made.tiff, ".npy": made.npy, ".dcm": made.dicom_elements,
              ".nii": made.nifti_header}
    ending = draw(st.sampled_from(sorted(makers)))
    content = makers[ending](draw)
    return (".nii.gz" if content[:2] == b"\x1f\x8b" else ending), content


HEAVY = ["heavy/rgba.png", "heavy/deep.png", "heavy/grey.png", "heavy/deepgrey.png", "heavy/floats.npy",
         "heavy/volume.nii.gz",
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
    if draw(st.integers(0, 3)) == 0:  # the mask to paint, or of the lesion to paint over
        argv = ["paint", "run", "a.png", draw(st.sampled_from(["--mask", "--old"])), f"m{kind}", "--out",
                "out"]
        return Case("masks", tuple(argv), {"a.png": made.pictures(False)[".png"], f"m{kind}": content}, True,
                    writes=("out", "run"))
    image_kind = kind if kind.startswith(".nii") else ".png"
    files = {**pair(".png", ".png"), f"set/masks/s{kind}": content,
             f"set/images/s{image_kind}": made.pictures(False)[image_kind]}
    return Case("masks", ("data", "check", "set", *options(draw)), files)


def options(draw: Draw) -> list[str]:
    """Up to two parameters of the data for a check."""
    chosen = draw(st.lists(st.sampled_from([
        ("channels", "1"), ("channels", "3"), ("channels", "4"), ("intensities", "percentile"),
        ("intensities", "dicom"),
        ("intensities", "[0, 1000]"), ("slices", "[2, 0, 3]"), ("slices", "[0, 0, 1000000]"), ("fit", "crop"),
        ("fit", "squeeze"),
        ("image_size", "8192"), ("min_area", "0.5"), ("overlap", "true"),
        *(("labels", text) for text in LABELS)]), max_size=2))
    return [word for key, value in chosen for word in ("-p", f"data.{key}", value)]


COCO = {"images": [{"id": 1, "file_name": "a.png", "width": 24, "height": 20},
                   {"id": 2, "file_name": "b.png", "width": 24, "height": 20}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [2, 2, 9, 9],
                         "segmentation": [[2, 2, 12, 2, 12, 12, 2, 12]]},
                        {"id": 2, "image_id": 2, "category_id": 1, "iscrowd": 1,
                         "segmentation": {"size": [20, 24], "counts": [40, 40, 400]}}],
        "categories": [{"id": 1, "name": "lesion"}]}
LABELME = {"version": "5", "imagePath": "a.png", "imageWidth": 24, "imageHeight": 20, "imageData": None,
           "shapes": [
    {"label": "lesion", "shape_type": "polygon", "points": [[2, 2], [12, 2], [12, 12]]},
    {"label": "lesion", "shape_type": "circle", "points": [[8, 8], [12, 8]]},
    {"label": "lesion", "shape_type": "mask", "points": [[2, 2], [4, 4]], "mask": "iVBORw0KGgo="},
    {"label": "other", "shape_type": "rectangle", "points": [[2, 2], [4, 4]]}]}
NNUNET = {"channel_names": {"0": "R"}, "labels": {"background": 0, "lesion": 255, "other": [1, 2]},
          "numTraining": 2,
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
        told = {"set/a.json": draw(SPECIAL) if odd else made.as_json(draw, LABELME), "set/a.png": image,
                "set/b.png": image,
                "set/b.json": json.dumps({**LABELME, "shapes": LABELME["shapes"][:1]}).encode()}
    else:
        told = {"set/dataset.json": draw(SPECIAL) if odd else made.as_json(draw, NNUNET),
                **{f"set/imagesTr/{name}_0000.png": image for name in "ab"},
                **{f"set/labelsTr/{name}.png": mask for name in "ab"}}
    return Case("labels", ("data", "check", "set", *options(draw)), told)


def table(draw: Draw, text: str) -> bytes:
    """A CSV with some cells or rows changed, and perhaps damaged bytes."""
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
    """A table of patients, and a `data.patients` that names its column or is a pattern."""
    names = ["a", "b", "c", "d"]
    files: dict[str, bytes | Special] = {}
    for name in names:
        files |= pair(".png", ".png", name)
    told = draw(st.sampled_from(["image,patient\n", "patient,image\n", "image;patient\n",
                                 "image\tpatient\n"]))
    text = told + "\n".join(f"{name}{told[5]}P{number // 2}" for number, name in enumerate(names))
    content = draw(SPECIAL) if draw(st.integers(0, 15)) == 0 else table(draw, text)
    key = draw(st.sampled_from(["who.csv:patient", "who.csv:patient", "who.csv:x", "who.csv:",
                                "set/who.csv:patient", "^(.)", "(",
                                "(a+)+$", "^(.*)*$", "()", "nothing", "^([a-z]+)/.*", "\x1b(.)",
                                "who.CSV:image"]))
    values = {**NANO, "run_dir": "out", "data": {"source": "set", "count": None, "image_size": 16,
                                                 "holdout": 0.25, "patients": key}}
    values["cluster"] = {"k": 1, "scan": [2]}
    where = draw(st.sampled_from(["who.csv", "set/who.csv"]))
    return Case("tables", tuple(CHECKED), {**files, where: content,
                                           "p.yaml": yaml.safe_dump(values).encode()})
