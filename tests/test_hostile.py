"""Files from strangers: whatever they hold, the user gets one error that names file or key, and nothing else.

The generated inputs are the same in each run (see conftest.py). What single files of a kind do is tested with
the module that reads them; here are the many.
"""

import ast
import html
import io
import json
import os
import random
import re
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from markdown_it.renderer import RendererHTML
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser
from parameters import keep_params, keys
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from diffusegen_core import Run, cli, notebooks
from diffusegen_core.chapters import subruns
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError, printable
from diffusegen_core.data import checkup, dataset, fetch, rasters
from diffusegen_core.diffusion import checkpoints, origins
from diffusegen_core.networks import features, weights
from diffusegen_core.report import book, front, review, tables
from diffusegen_core.store import aside, files, moves
from diffusegen_core.store.artifacts import key
from diffusegen_core.store.stamps import STAMP
from diffusegen_core.store.workspace import Workspace

ROOT = Path(__file__).parents[1]
shared_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def attempt(call: Callable, *arguments: object) -> tuple[object, str]:
    """What a call returns, or what its refusal says; any other error is one."""
    try:
        return call(*arguments), ""
    except UserError as error:
        return None, str(error)


def refused(call: Callable, *arguments: object, names: str) -> str:
    """What a refusal says, which names the file or key."""
    _, text = attempt(call, *arguments)
    assert names in text
    return text


# ---- parameters

# No parameter is of these kinds, whatever its own.
BAD = st.one_of(
    st.dictionaries(st.text(max_size=5), st.integers(), min_size=1, max_size=2), st.binary(max_size=4),
    st.dates(), st.sampled_from([float("nan"), float("inf"), float("-inf"), (), {1}, 1j]),
    st.lists(st.dictionaries(st.text(max_size=3), st.none(), min_size=1), min_size=1, max_size=3),
    st.recursive(st.just([]), lambda inner: st.lists(inner, min_size=1, max_size=2), max_leaves=4).map(
        lambda deep: [deep]))


@settings(max_examples=400)
@given(st.sampled_from(keys(params.Params)), BAD)
def test_a_bad_value_is_refused_by_its_key(key: str, value: object):
    section, _, last = key.rpartition(".")
    values = {section: {last: value}} if section else {last: value}
    text = refused(params.validate, values, names=key)
    assert text.startswith("Parameters: ")
    assert text == printable(text)


@settings(max_examples=150)
@given(st.text(min_size=1, max_size=8), st.one_of(st.none(), st.integers(), st.text(max_size=5)),
       st.sampled_from(["", "train", "segment"]))
def test_an_unknown_key_is_refused_by_its_name(key: str, value: object, section: str):
    assume(key not in (params.Params.model_fields if not section else
                       params.Params.model_fields[section].annotation.model_fields))
    values = {section: {key: value}} if section else {key: value}
    text = refused(params.validate, values, names=printable(key))
    assert text == printable(text)


@settings(max_examples=120, parent=shared_fixture)
@given(st.data())
def test_a_damaged_profile_is_read_or_refused(tmp_path_factory, nano_values, draw):
    path = tmp_path_factory.getbasetemp() / "stranger.yaml"
    text = yaml.safe_dump(nano_values)
    place = draw.draw(st.integers(0, len(text)))
    cut = draw.draw(st.integers(0, 20))
    new = draw.draw(st.one_of(st.binary(max_size=6), st.sampled_from(
        [b"&a ", b"*a", b"<<: ", b"!!python/object/apply:os.system [x]", b"!!set ", b"!!binary ", b"? ", b"[",
         b"{", b"!!timestamp ", b"0x" + 4000 * b"f", b"1:1:1", b"\x1b[2J", b"%YAML 9", b"---\n", b"!!int ",
         b"!!float "])))
    path.write_bytes(text[:place].encode() + new + text[place + cut:].encode())
    p, text = attempt(lambda: params.validate(params.load(path)))
    assert p or text.startswith((f"{path} ", "Parameters: ", "No file can have"))
    assert text == printable(text)


def laughs() -> str:
    lines = ["a0: &a0 [lol, lol]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 60)]
    return "\n".join(lines)


def merges() -> str:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 30)]
    return "\n".join(lines)


@pytest.mark.parametrize(("text", "says"), [
    (laughs(), "an alias"),
    (merges(), "an alias"),
    ("a: &a [*a]", "an alias"),
    ("x: " + 100_000 * "[", "nested too deeply"),
    ("x: " + 50_000 * "{a: ", "nested too deeply"),
    ("\n".join(" " * n + "- " for n in range(1200)), "nested too deeply"),
    ("seed: 0x" + 5000 * "f", "more than 64 bits"),
    ("seed: " + 5000 * "9", "is not YAML"),
    ("train: {images: 5}\ntrain: {images: 6}", "a key occurs twice"),
    ("x: !!timestamp 2001-02-30", "is not YAML"),
    ("x: !!float a", "is not YAML"),
    ("x: !!bool a", "is not YAML"),
    ("x: " + (1 << 20) * "a", "characters"),
], ids=lambda value: value[:12])
@pytest.mark.parametrize("asked", ["profile", "override"])
def test_yaml_that_would_not_end_is_refused_at_once(tmp_path: Path, text: str, says: str, asked: str):
    path, start = tmp_path / "p.yaml", time.monotonic()
    path.write_text(text)
    if asked == "profile":
        assert says in refused(params.load, path, names=str(path))
    elif says != "characters":  # a command line is not that long
        assert says in refused(params.override, {}, [("seed", text)], names="Parameters: seed: ")
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("path", ["a\0b", 300 * "a", 3000 * "a/", "~nobody-has-this-name/x", "\ud800"])
def test_a_path_that_no_file_can_have_is_refused(tmp_path: Path, path: str):
    (tmp_path / "p.yaml").write_text("{}")
    for changes in ({"run_dir": path}, {"run_dir": str(tmp_path / "run"), "data.source": path}):
        with pytest.raises(UserError):
            Run.create(tmp_path / "p.yaml", changes)


def test_what_a_user_is_told_moves_no_terminal(tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "p.yaml").write_text('"\\e[2J\\nx\\u202e": 1\nrun_dir: "\\e]0;title\\a"\n')
    for profile in (tmp_path / "p.yaml", tmp_path / "absent\x1b[2J.yaml"):
        monkeypatch.setattr("sys.argv", ["diffusegen", "run", str(profile)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        shown = capsys.readouterr()
        assert stopped.value.code == 2
        assert shown.err.startswith("diffusegen: ")
        assert "Traceback" not in shown.err
        assert printable(shown.err.replace("\n", "")) == shown.err.replace("\n", "")


# ---- pictures

RED = np.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=np.uint8)
LABEL = Image.new("L", (24, 20))
LABEL.paste(255, (4, 4, 16, 14))


def encoded(kind: str, picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, {"jpg": "JPEG", "tif": "TIFF"}.get(kind, kind.upper()))
    return stream.getvalue()


KINDS = ("png", "jpg", "tif", "bmp")
PICTURES = {kind: encoded(kind, Image.fromarray(RED)) for kind in KINDS}
MASKS = {kind: encoded(kind, LABEL) for kind in KINDS}


def loaded(image: bytes, mask: bytes, kind: str) -> list[str] | str:
    """What a folder with this pair and a sound one gives: its names, or what is refused and left."""
    with tempfile.TemporaryDirectory() as place:
        for part, content in (("images", image), ("masks", mask)):
            folder = Path(place) / "set" / part
            folder.mkdir(parents=True)
            (folder / f"stranger.{kind}").write_bytes(content)
            (folder / "sound.png").write_bytes((PICTURES if part == "images" else MASKS)["png"])
        run = Path(place) / "run"
        p = params.validate({"run_dir": str(run), "cluster": {"k": 1},
                             "data": {"source": f"{place}/set", "count": None, "image_size": 16,
                                      "holdout": None}})
        pairs, text = attempt(dataset.load, Workspace(run), p.data)
        if text:
            assert files.below(run) == []
            return text
        assert pairs.images.shape == (len(pairs), 3, 16, 16)
        assert set(np.unique(pairs.masks)) <= {0, 1}
        return pairs.names


@settings(max_examples=150)
@given(st.sampled_from(KINDS), st.floats(0, 0.6), st.sampled_from(["images", "masks"]))
def test_a_truncated_picture_is_refused_by_its_name(kind: str, share: float, part: str):
    given_ = {"images": PICTURES[kind], "masks": MASKS[kind]}
    given_[part] = given_[part][:int(share * len(given_[part]))]
    assert f"{part}/stranger.{kind}" in loaded(given_["images"], given_["masks"], kind)


@settings(max_examples=150)
@given(st.sampled_from(KINDS), st.data(), st.sampled_from(["images", "masks"]))
def test_a_damaged_picture_is_read_or_refused_by_its_name(kind: str, draw: st.DataObject, part: str):
    given_ = {"images": bytearray(PICTURES[kind]), "masks": bytearray(MASKS[kind])}
    spoilt = given_[part]
    for _ in range(draw.draw(st.integers(1, 4))):
        last = min(len(spoilt), 120 if draw.draw(st.booleans()) else len(spoilt)) - 1
        place = draw.draw(st.integers(0, last))
        new = draw.draw(st.one_of(st.binary(min_size=1, max_size=4), st.sampled_from([bytes(4)])))
        spoilt[place:place + len(new)] = new
    found = loaded(bytes(given_["images"]), bytes(given_["masks"]), kind)
    assert found == ["sound", "stranger"] or f"stranger.{kind}" in found


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *extra: bytes, bits: int = 8, colour: int = 0, rows: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join([chunk(b"IHDR", head), *extra,
                                            chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")])


def text_bomb() -> bytes:
    return chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(100_000_000)))


@pytest.mark.parametrize(("kind", "content"), [
    ("png", png(2**31 - 1, 2**31 - 1)),
    ("png", png(0, 5)),
    ("png", png(8001, 8000)),
    ("png", png(64_000_001, 1)),
    ("png", png(24, 20, text_bomb(), rows=20 * bytes(25))),
    ("bmp", PICTURES["bmp"][:18] + struct.pack("<ii", 2**31 - 1, 2**31 - 1) + PICTURES["bmp"][26:]),
    ("bmp", PICTURES["bmp"][:18] + struct.pack("<ii", 24, -2**31) + PICTURES["bmp"][26:]),
    ("jpg", re.sub(rb"(?s)(\xff\xc0...).{4}", b"\\1" + 4 * b"\xff", PICTURES["jpg"], count=1)),
    ("png", b"GIF89a" + bytes(100)),
    ("png", b"%!PS-Adobe-3.0 EPSF-3.0\n"),
    ("tif", b"II*\0\x08\0\0\0\0\0"),
    ("tif", b"II*\0\x08\0\0\0\xff\xff" + bytes(40)),
], ids=["gigapixels", "no width", "pixels", "one long row", "text bomb", "bmp", "negative", "jpeg", "gif",
        "postscript", "no tags", "many tags"])
def test_a_picture_that_cannot_be_one_is_refused_by_its_name(kind: str, content: bytes):
    assert f"images/stranger.{kind}" in loaded(content, MASKS["png"], kind)


def test_a_file_of_many_gigabytes_is_not_read_into_memory(tmp_path: Path):
    for part, pictures in (("images", PICTURES), ("masks", MASKS)):
        (tmp_path / part).mkdir()
        for name in "ab":
            (tmp_path / part / f"{name}.png").write_bytes(pictures["png"])
    os.truncate(tmp_path / "images" / "a.png", rasters.MAX_BYTES + 1)  # sparse: it takes no room
    [problem] = checkup.check(tmp_path).problems
    assert (problem.file, problem.problem) == ("images/a.png", "unreadable")
    assert "million bytes" in problem.detail


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_16_bits_a_colour_are_read_as_8(kind: str, tmp_path: Path):
    deep = np.full((20, 24, 3), (40 * 257, 30 * 257, 200 * 257), np.uint16)  # in OpenCV's order: BGR
    cv2.imwrite(str(tmp_path / f"a.{kind}"), deep)
    assert np.all(np.asarray(rasters.rgb(tmp_path / f"a.{kind}")) == (200, 30, 40))


@pytest.mark.parametrize("turn", range(1, 9))
def test_image_and_mask_are_turned_as_each_says(tmp_path: Path, turn: int):
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[turn]
    tag = Image.Exif()
    tag[0x0112] = turn
    upright = Image.fromarray(RED)
    stored = upright if undo is None else upright.transpose(Image.Transpose(undo))
    stored.save(tmp_path / "a.png", exif=tag)
    assert np.array_equal(np.asarray(rasters.rgb(tmp_path / "a.png")), RED)


# ---- names

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=60)
MARKUP = st.sampled_from([
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "{numref}`fig-samples`", "$\\frac{1}$",
    "a|b", "](javascript:x)", "```", ":::", "..",
    "a\nb", "a\r:name: x", "\x1b[2J", "\u202egpj.exe", "&lt;",
    "{{ x }}", "[a](b)", "\\", "%", "(x)=", "a" * 190, "é" * 110, "con", "-rf", "~", "#", "@", "$$",
    "\\begin{x}", "<!--"])
# As the book reads its pages, see _config.yml.
MYST = create_md_parser(MdParserConfig(enable_extensions={"amsmath", "colon_fence", "deflist", "dollarmath"}),
                        RendererHTML)


@settings(max_examples=120)
@given(st.one_of(MARKUP, NAMES, st.tuples(MARKUP, NAMES).map("".join)))
def test_a_name_is_usable_or_named_as_what_it_is(name: str):
    assume("/" not in name and len(os.fsencode(name)) <= 250)
    with tempfile.TemporaryDirectory() as place:
        for part, pictures in (("images", PICTURES), ("masks", MASKS)):
            (Path(place) / part).mkdir()
            (Path(place) / part / f"{name}.png").write_bytes(pictures["png"])
        report = checkup.check(place)
        assert report.text == "\n".join(map(printable, report.text.split("\n")))
        if name.startswith("."):  # hidden
            assert (report.pairs, report.files) == ([], [])
        elif report.pairs:
            assert [pair.name for pair in report.pairs] == [name]
            assert printable(name) == name
            copy = Path(place) / "copy"
            dataset.write_pair(copy, f"{name}_12", np.zeros((3, 4, 4), np.uint8),
                               np.ones((1, 4, 4), np.uint8))
            assert {path.relative_to(copy).as_posix() for path in copy.rglob("*.png")} == {
                f"images/{name}_12.png", f"masks/{name}_12.png"}
        else:
            assert [p.problem for p in report.problems] == ["unusable name", "unusable name", "too few pairs"]
            assert report.problems[0].file == f"images/{printable(name)}.png"


@settings(max_examples=120)
@given(st.one_of(MARKUP, NAMES, st.tuples(MARKUP, NAMES, MARKUP).map("".join)))
def test_a_name_is_only_text_in_the_book(name: str):
    shown = tables.show(pd.DataFrame({"name": [name]}), "t", f"Of {tables.escaped(name)}.")._repr_markdown_()
    opening, label, empty, *table, end, after = shown.split("\n")
    assert (label, empty, end, after) == (":name: tab-t", "", ":::", "")
    page = MYST.render("\n".join(table) + "\n\n" + opening.removeprefix(":::{table} "))
    text = re.sub(r"</?(table|thead|tbody|tr|th|td|p)( style=\"text-align:left\")?>|\n", "", page)
    assert "<" not in text
    plain = " ".join(name.split())
    assert html.unescape(text) == f"name{plain}Of {plain}."


def test_the_review_form_holds_no_name(tmp_path: Path):
    names = ["</script><script>alert(1)</script>", "{{form}}", "\u2028", "a`b$c$"]
    for kind in ("Real", "K-Diff"):
        for part, pictures in (("images", PICTURES), ("masks", MASKS)):
            (tmp_path / kind / part).mkdir(parents=True)
            for name in names:
                if "/" not in name:
                    (tmp_path / kind / part / f"{name}.png").write_bytes(pictures["png"])
    (tmp_path / "Real" / "images" / "<img src=x>.png").write_bytes(PICTURES["png"])
    (tmp_path / "Real" / "masks" / "<img src=x>.png").write_bytes(MASKS["png"])
    folders = {kind: tmp_path / kind for kind in ("Real", "K-Diff")}
    form, key = review.make(folders, tmp_path / "out", per_type=2)
    page = form.read_text()
    assert all(item["name"] not in page for item in json.loads(key.read_text())["items"].values()
               if item["name"] != "{{form}}")
    assert page.count("</script>") == review.TEMPLATE.read_text().count("</script>")


TOLD = {"seconds": 1, "device": "x", "shown": {}}


@pytest.mark.parametrize(("stamp", "says"), [
    ([1], "inpaint/2-Diff was changed by hand: made.json cannot be read"),
    ({**TOLD, "recipe": [], "outputs": {}}, "made.json cannot be read"),
    ({**TOLD, "recipe": {}, "outputs": {"../../../x": {}}}, "made.json cannot be read"),
    ({**TOLD, "recipe": {"inpaint": {"no such": 1}}, "outputs": {}}, "was made with other values"),
])
def test_a_run_with_strange_stamps_gets_no_review_form(nano_run: Run, tmp_path: Path, stamp: object,
                                                       says: str):
    files.write_json(nano_run.folder / "inpaint" / "2-Diff" / STAMP, stamp)
    assert says in refused(review.folders_of, nano_run, tmp_path / "real", names="2-Diff")


def test_cleaning_a_strangers_run_removes_nothing_elsewhere(tmp_path: Path):
    letter = files.write_text(tmp_path / "mine" / "letter", "dear")
    run = tmp_path / "run"
    for number, name in enumerate(["../../../../mine/letter", str(letter), "link/letter"]):
        place = run / "aside" / "data" / f"{number:016d}"
        files.write_json(place / STAMP, {**TOLD, "recipe": {}, "outputs": {name: {}}})
        (place / "link").symlink_to(letter.parent)
    aside.kept(run)
    aside.remove(run, ["all"])
    assert letter.read_text() == "dear"


@pytest.mark.parametrize("seconds", ["NaN", "Infinity", "-5", "1e400", "1" + 400 * "0"])
@pytest.mark.parametrize("place", ["data", "aside/data/x"])
def test_a_stamp_of_impossible_seconds_is_none(nano_run: Run, seconds: str, place: str):
    text = json.dumps({**TOLD, "recipe": {}, "outputs": {}})
    files.write_text(nano_run.folder / place / STAMP, text.replace('"seconds": 1', f'"seconds": {seconds}'))
    for command in ("status", "clean"):
        assert CliRunner().invoke(cli.app, [command, str(nano_run.folder)]).exit_code == 0
    assert tables.line(nano_run)


@pytest.mark.parametrize("name", [5000 * "a", 3000 * "a/", "\ud800", "x\ud800/y"], ids=range(4))
def test_a_stamp_of_names_that_no_file_can_have_is_none(nano_run: Run, name: str):
    place = nano_run.folder / "data"
    files.write_json(place / STAMP, {**TOLD, "recipe": {}, "outputs": {name: {"bytes": 1}}})
    done = CliRunner().invoke(cli.app, ["status", str(nano_run.folder)])
    assert done.exit_code == 0, done.exception
    assert "made.json cannot be read" in done.stdout
    files.remove(place, [name])  # as from a book's list of its own files
    assert (place / STAMP).is_file()


@pytest.mark.parametrize("link", ["making", "making/train", f"making/train/{0:016d}", "aside", "aside/params",
                                  "aside/notebooks", "aside/params/a.yaml", "aside/train"])
def test_cleaning_follows_no_link_out_of_a_strangers_run(tmp_path: Path, link: str):
    theirs = tmp_path / "theirs"
    for name in (f"{0:016d}/letter", f"train/{0:016d}/letter", "a.yaml", "a.ipynb", "params/a.yaml"):
        files.write_text(theirs / name, "dear")
    files.write_json(theirs / "x" / STAMP, {**TOLD, "recipe": {}, "outputs": {}})
    before = files.below(theirs)
    place = tmp_path / "run" / link
    place.parent.mkdir(parents=True)
    place.symlink_to(theirs if not place.suffix else theirs / "a.yaml")
    assert aside.kept(tmp_path / "run") == []
    aside.remove(tmp_path / "run", ["all"])
    place.unlink()
    place.symlink_to(tmp_path / "nowhere")
    assert aside.kept(tmp_path / "run") == []
    assert files.below(theirs) == before


@pytest.mark.parametrize("link", ["aside", "aside/cluster", "aside/cluster/strangers"])
def test_looking_at_a_strangers_run_moves_nothing_into_it(nano_run: Run, tmp_path: Path, link: str):
    for name in ("letter", "strangers/letter", "cluster/strangers/letter"):
        files.write_text(tmp_path / "theirs" / name, "dear")
    (nano_run.folder / link).parent.mkdir(parents=True, exist_ok=True)
    (nano_run.folder / link).symlink_to(tmp_path / "theirs")
    before = files.below(tmp_path / "theirs")
    nano_run.make("cluster")
    assert files.below(tmp_path / "theirs") == before
    assert not (nano_run.folder / "cluster" / "letter").exists()


@pytest.mark.parametrize("link", ["augment", "augment/generators", "augment/generators/N4-seed0"])
def test_no_small_sets_generator_is_made_through_a_link(tmp_path: Path, link: str):
    place = linked(tmp_path, link)
    assert "is a symbolic link" in refused(
        subruns.generators, Workspace(tmp_path / "run"), [subruns.Subset(4, 0, [])],
        lambda one: SimpleNamespace(folder=tmp_path / "run" / one.folder), names=str(place))
    assert files.below(tmp_path / "theirs") == ["letter"]


@pytest.mark.parametrize("link", ["generators", "generators/1"])
def test_no_further_generator_is_made_through_a_link(tmp_path: Path, link: str):
    place = linked(tmp_path, link)
    assert "is a symbolic link" in refused(Workspace(tmp_path / "run").beside, 2, names=str(place))
    assert files.below(tmp_path / "theirs") == ["letter"]


@pytest.mark.parametrize("link", ["features", f"features/{key({})}"])
def test_features_are_not_kept_through_a_link(tmp_path: Path, link: str):
    place = linked(tmp_path, link)
    images = np.zeros((1, 3, 2, 2), np.uint8)
    assert "is a symbolic link" in refused(features.remembered, tmp_path / "run" / "features", images, {},
                                           lambda missing: np.zeros((len(missing), 1)), names=str(place))
    assert files.below(tmp_path / "theirs") == ["letter"]


def linked(folder: Path, link: str) -> Path:
    """A link in a run to a folder that holds somebody's letter."""
    files.write_text(folder / "theirs" / "letter", "dear")
    place = folder / "run" / link
    place.parent.mkdir(parents=True)
    place.symlink_to(folder / "theirs")
    return place


@pytest.mark.parametrize("link", ["making", "making/site", "aside", "aside/site"])
def test_a_book_is_not_built_through_a_link(tmp_path: Path, link: str):
    for name in ("x.html", "site/x.html"):
        files.write_text(tmp_path / "theirs" / name, "dear")
    (tmp_path / "run" / link).parent.mkdir(parents=True)
    (tmp_path / "run" / link).symlink_to(tmp_path / "theirs")
    assert "is a symbolic link" in refused(book.build, tmp_path / "run", names=link)
    assert files.below(tmp_path / "theirs") == ["site/x.html", "x.html"]


@pytest.mark.parametrize("link", ["running/01_cluster.ipynb", "failed/01_cluster.ipynb",
                                  "failed/01_cluster.stacks.txt"])
def test_a_page_is_not_written_over_what_a_link_leads_to(nano_run: Run, tmp_path: Path, link: str):
    path = nano_run.folder / "notebooks" / link
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(tmp_path / "profile")  # which is not there yet
    assert "is a symbolic link" in refused(notebooks.execute, notebooks.every()[0], nano_run, names=link)
    assert not (tmp_path / "profile").exists()


def test_what_lies_in_a_run_within_a_run_is_not_reached_through_a_link(nano_run: Run, tmp_path: Path):
    (tmp_path / "theirs").mkdir()
    inner = nano_run.folder / "generators" / "1"
    inner.parent.mkdir()
    inner.symlink_to(tmp_path / "theirs")
    assert "generators/1 is a symbolic link" in refused(moves.refuse_links, inner, ["train"], names="")
    moves.refuse_links(nano_run.folder, ["train"])


@pytest.mark.parametrize("link", ["figures", "notebooks", "notebooks/failed", "aside/notebooks",
                                  "aside/params"])
def test_pages_and_parameters_are_not_written_through_a_link(nano_run: Run, tmp_path: Path, link: str):
    for name in ("samples.png", "01_cluster.ipynb"):
        files.write_text(tmp_path / "theirs" / name, "dear")
    (nano_run.folder / link).parent.mkdir(parents=True, exist_ok=True)
    (nano_run.folder / link).symlink_to(tmp_path / "theirs")
    act = {"figures": lambda: front.draw(nano_run),
           "aside/params": lambda: keep_params(Run.open(nano_run.folder, {"seed": 3}))}.get(
               link, lambda: notebooks.execute(notebooks.every()[0], nano_run))
    assert "is a symbolic link" in refused(act, names=link)
    assert {path.read_text() for path in (tmp_path / "theirs").iterdir()} == {"dear"}


# ---- archives

def packed(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in files.items():
            bundle.writestr(name, content)
    return stream.getvalue()


ARCHIVE = packed({"images/a.png": PICTURES["png"], "masks/a.png": MASKS["png"], "notes/n.txt": 200 * b"text"})


def extracted(content: bytes) -> str | None:
    """What the refusal of an archive says, which leaves nothing; None where it went into its folder."""
    with tempfile.TemporaryDirectory() as place:
        archive = Path(place) / "deep" / "set.zip"
        archive.parent.mkdir()
        archive.write_bytes(content)
        folder, record = archive.parent / "set", archive.with_name("set.zip.json")
        try:
            fetch._extract(archive, folder, record, {})
        except (UserError, OSError) as error:  # `fetch` makes a UserError of an OSError
            said = str(error)
            assert set(Path(place).rglob("*")) <= {archive.parent, archive, record}
            assert isinstance(error, OSError) or str(archive) in said  # noqa: PT017
            return said
        assert {path.parts[0] for path in (p.relative_to(place) for p in Path(place).rglob("*"))} == {"deep"}
        assert {path.name for path in archive.parent.iterdir()} == {"set", "set.zip", "set.zip.json"}
        return None


@settings(max_examples=150)
@given(st.data())
def test_a_damaged_archive_is_extracted_whole_or_not_at_all(draw: st.DataObject):
    content = bytearray(ARCHIVE)
    for _ in range(draw.draw(st.integers(1, 3))):
        place = draw.draw(st.integers(0, len(content) - 1))
        new = draw.draw(st.one_of(st.binary(min_size=1, max_size=4), st.sampled_from([b"../", b"/"])))
        content[place:place + len(new)] = new
    extracted(bytes(content))


@pytest.mark.parametrize("name", [".", "a/../../b", "/a", "..", "c:", "a\\..\\b", 300 * "a", "\udc80"])
def test_an_archive_with_a_name_that_is_no_place_in_it(name: str):
    content = ARCHIVE.replace(b"notes/n.txt", b"N" * 11)
    stream = io.BytesIO(content)
    with zipfile.ZipFile(stream, "a") as bundle:
        member = zipfile.ZipInfo("x")
        member.filename = name.encode("utf-8", "replace").decode()
        bundle.writestr(member, b"x")
    if name == "\udc80":  # a name that claims to be UTF-8 and is not
        content = stream.getvalue().replace(b"?", b"\x80").replace(b"images/a.png", b"images/\xff.png")
    else:
        content = stream.getvalue()
    found = extracted(content)
    assert name == "\udc80" or found is not None


def test_an_archive_that_lies_about_its_sizes():
    content = packed({"zeros": bytes(3_000_000)})
    assert extracted(content.replace(struct.pack("<I", 3_000_000), struct.pack("<I", 1000))) is not None


# ---- weights, checkpoints, programs


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_damaged_weights_are_read_or_refused(tmp_path: Path, kind: str):
    path, chance = tmp_path / f"w.{'safetensors' if kind == 'safetensors' else 'pth'}", random.Random(0)
    tensors = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(1, dtype=torch.int64)}
    if kind == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    assert set(weights.read(path)) == set(tensors)
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            place = chance.randrange(min(len(content), 400) if chance.random() < 0.7 else len(content))
            content[place] = chance.randrange(256)
        path.write_bytes(content[:chance.choice([None, None, chance.randrange(len(content))])])
        state, text = attempt(weights.read, path)
        assert state is not None or str(path) in text


@pytest.mark.parametrize("header", [
    "", "5", "[1]", "null", 50_000 * "[", '{"configuration": 5}', '{"recipe": 3}',
    '{"seen": [1]}'])
def test_a_checkpoint_with_a_strange_header_is_refused(tmp_path: Path, header: str):
    path = tmp_path / "model.safetensors"
    save_file({"raw.a": torch.zeros(1)}, path, {"header": header})
    for call in (checkpoints.read, checkpoints.header, origins.read_fingerprints):
        assert "its header was not written by DiffuseGen" in refused(call, path, names=str(path))


def test_nothing_in_the_program_executes_a_file():
    """What unpickles, or evaluates, is nowhere called; YAML and arrays are read as plain data only."""
    never = {"pickle.load", "pickle.loads", "pickle.Unpickler", "pd.read_pickle", "joblib.load",
             "torch.jit.load", "torch.package.PackageImporter", "yaml.unsafe_load", "yaml.full_load", "eval",
             "exec", "os.system", "marshal.loads", "shelve.open"}
    told = {"torch.load": ("weights_only", "True"), "np.load": ("allow_pickle", "False"),
            "yaml.load": (None, "_Loader")}
    # Of what the process that started this one sends, as multiprocessing does.
    piped = {("ranks.py", "pickle.load"), ("ranks.py", "pickle.loads")}
    seen = set()
    for path in sorted((ROOT / "diffusegen_core").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            assert name not in never or (path.name, name) in piped, f"{path.name}: {name}"
            assert not any(k.arg == "shell" for k in node.keywords), f"{path.name}: a shell"
            if name in told:
                seen.add(name)
                key, value = told[name]
                given_ = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert (given_ | {None: ast.unparse(node.args[-1])}).get(key) == value, f"{path.name}: {name}"
    assert seen == set(told)
