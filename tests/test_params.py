"""Parameters: what is refused, in which words, and that profiles and defaults are what they say."""

import copy
from pathlib import Path

import pytest
import yaml
from parameters import keys

from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.diffusion.repaint import repaint_levels
from diffusegen_core.report import tables

PROFILES = sorted(path for path in (Path(__file__).parents[1] / "params").glob("*.yaml")
                  if path.stem != "slurm")  # which describes machines


def refusal(values: dict) -> str:
    with pytest.raises(UserError) as caught:
        params.validate(values)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("Parameters: ")
    return text


def at(key: str, value: object) -> dict:
    *sections, last = key.split(".")
    for section in reversed([*sections, last]):
        value = {section: value}
    return value


# ---- profiles

@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_every_profile_validates_and_leaves_its_name_to_its_file(path: Path):
    assert params.validate(params.load(path)).model_fields_set.isdisjoint({"profile"})


def test_the_smoke_profile_spells_out_every_default():
    values = params.load(PROFILES[0].with_name("smoke.yaml"))
    assert params.validate(values) == params.validate({}) == params.Params()
    spelled = []
    for name, value in values.items():
        spelled += [f"{name}.{inner}" for inner in value] if isinstance(value, dict) else [name]
    assert sorted([*spelled, "profile"]) == sorted(keys(params.Params))


def test_the_paper_profile_holds_the_values_of_the_paper():
    p = params.validate(params.load(PROFILES[0].with_name("paper.yaml")))
    assert (p.data.subset, p.data.image_size, p.data.count) == ("paper348", 256, None)
    assert (p.cluster.k, p.cluster.backbone, p.cluster.weights) == (20, "inception_v3_fid", "pretrained")
    assert p.model == tables.PAPER == params.Model(
        base_channels=256, channel_mult=[1, 1, 2, 2, 4, 4], res_blocks=2, attention_resolutions=[16],
        head_channels=64, dropout=0.0)
    assert p.process == params.Process(steps=1000, beta_start=1e-4, beta_end=0.02, objective="eps",
                                       variance="learned")
    assert (p.train.images, p.train.full_images, p.train.batch_size) == (110_000, 200_000, 1)
    assert (p.train.lr, p.train.weight_decay, p.train.flip, p.train.ema) == (5e-5, 0, 0.5, 0.9999)
    assert (p.train.sample_weights, p.train.grad_clip) == ("raw", None)
    assert (p.inpaint.respacing, p.inpaint.jump_length, p.inpaint.resampling) == (200, 10, 5)
    assert (p.inpaint.samples, p.inpaint.sources, p.inpaint.model_of) == (3, None, "any")
    assert (p.inpaint.dilate, p.inpaint.opening) == (20, 16)


# ---- what is refused

@pytest.mark.parametrize(("key", "value", "says"), [
    ("trian.images", 5, "trian: unknown key (did you mean train?)"),
    ("train.image", 5, "train.image: unknown key (did you mean train.images?)"),
    ("zzz", 5, "zzz: unknown key."),
    ("train", None, "train: "),
    ("train", [1], "train: "),
    ("profile", "", "profile: "),
    ("train.images", 0, "train.images: "),
    ("train.images", -5, "train.images: "),
    ("train.images", 7000.5, "train.images: "),
    ("train.images", "7000", "train.images: "),
    ("train.images", True, "train.images: "),
    ("train.micro_batch", 0, "train.micro_batch: "),
    ("train.lr", 0, "train.lr: "),
    ("train.lr", "fast", "train.lr: Input should be a valid number, not 'fast'."),
    ("train.lr", float("inf"), "train.lr: "),
    ("train.lr", float("nan"), "train.lr: "),
    ("train.lr", True, "train.lr: "),
    ("train.flip", 1.5, "train.flip: "),
    ("train.ema", 1.0, "train.ema: "),
    ("train.precision", "fp16", "train.precision: Input should be 'fp32' or 'bf16', not 'fp16'."),
    ("process.objective", "x0", "process.objective: "),
    ("inpaint.model_of", None, "inpaint.model_of: "),
    ("model.channel_mult", [], "model.channel_mult: "),
    ("model.channel_mult", [1, 0], "model.channel_mult.1: "),
    ("model.channel_mult", 2, "model.channel_mult: "),
    ("model.dropout", 1, "model.dropout: "),
    ("device", "gpu", "device: "),
    ("device", "cuda:x", "device: "),
    ("seed", -1, "seed: "),
    ("seed", 0.5, "seed: "),
    ("data.on_bad", "ignore", "data.on_bad: "),
    (5, 1, "5: "),
])
def test_a_bad_key_or_type_is_refused_by_name(key: str, value: object, says: str):
    assert says in refusal(at(key, value) if isinstance(key, str) else {key: value})


@pytest.mark.parametrize(("values", "says"), [
    ({"data": {"count": None}}, "data.count must say how many phantoms"),
    ({"data": {"subset": "paper348"}}, "data.subset paper348 needs the real images"),
    ({"data": {"count": 5}, "cluster": {"k": 6}}, "cluster.k 6 is more than the 5 pairs"),
    ({"data": {"image_size": 30}, "model": {"channel_mult": [1, 1, 1], "attention_resolutions": []}},
     "data.image_size 30 cannot be halved 2 times"),
    ({"model": {"base_channels": 48}}, "model.base_channels 48 is not a multiple of 32"),
    ({"model": {"attention_resolutions": [8]}},
     "model.attention_resolutions 8 is not one of the sides [32, 16]"),
    ({"model": {"head_channels": 48}}, "model.head_channels 48 does not divide the width 64"),
    ({"model": {"attention_resolutions": [32], "head_channels": 64}},
     "model.head_channels 64 does not divide the width 32"),
    ({"process": {"beta_start": 0.5}}, "process.beta_start is larger"),
    ({"train": {"micro_batch": 17}}, "train.micro_batch 17 exceeds train.batch_size 8"),
    ({"inpaint": {"respacing": 1001}}, "inpaint.respacing 1001 exceeds process.steps 1000"),
    ({"process": {"steps": 20}, "inpaint": {"respacing": 20}},
     "train.preview_steps 25 exceeds process.steps 20"),
    ({"inpaint": {"jump_length": 25, "resampling": 2}},
     "inpaint.jump_length 25 must be below inpaint.respacing 25, unless inpaint.resampling is 1"),
    ({"gan": {"layers": 5}}, "gan.min_side 10 must be above twice gan.layers 5"),
])
def test_an_impossible_combination_is_refused_in_words(values: dict, says: str):
    assert says in refusal(values)


def test_a_jump_length_without_effect_may_have_any_value():
    p = params.validate({"inpaint": {"respacing": 5, "jump_length": 10, "resampling": 1}})
    assert repaint_levels(p.inpaint.respacing, p.inpaint.jump_length, 1) == [4, 3, 2, 1, 0, -1]


def test_every_fault_is_named_at_once():
    text = refusal({"zzz": 1, "train": {"lr": -1, "images": "x"}})
    assert all(name in text for name in ("zzz", "train.lr", "train.images"))
    text = refusal({"model": {"base_channels": 48}, "process": {"beta_start": 0.5}})
    assert all(name in text for name in ("model.base_channels", "process.beta_start"))


def test_nothing_changes_a_validated_parameter(nano_params: params.Params):
    with pytest.raises(ValueError, match="frozen"):
        nano_params.train.lr = 1.0


# ---- reading and overriding

@pytest.mark.parametrize(("text", "wanted"), [("1e-4", 1e-4), ("1", 1.0), ("0.5", 0.5), ("5.0e-4", 5e-4)])
def test_numbers_as_yaml_reads_them_are_taken_as_numbers(text: str, wanted: float):
    p = params.validate(params.override({}, [("train.lr", text)]))
    assert p.train.lr == wanted
    assert type(p.train.lr) is float


def test_overrides_replace_single_values_and_leave_their_source_alone():
    values = {"profile": "x", "train": {"images": 5, "lr": 0.1}}
    changed = params.override(values, [("train.images", "7000"), ("model.channel_mult", "[1, 1]"),
                                       ("train.grad_clip", "null"), ("data.source", "some/folder"),
                                       ("train.images", "8000")])
    assert changed == {"profile": "x", "train": {"images": 8000, "lr": 0.1, "grad_clip": None},
                       "model": {"channel_mult": [1, 1]}, "data": {"source": "some/folder"}}
    assert values == {"profile": "x", "train": {"images": 5, "lr": 0.1}}


@pytest.mark.parametrize("text", ["set #2", "a: b", "[new] set", "2024", "no", "2024-01-05", "null", "~",
                                  " x ", "*a", "&a x", "'quoted'", "!!int 3", "{", "1e3", "0x10", "é"])
def test_what_is_given_for_a_text_parameter_is_taken_literally(text: str):
    p = params.validate(params.override({}, [("data.source", text), ("cluster.backbone", text)]))
    assert (p.data.source, p.cluster.backbone) == (text, text)


@pytest.mark.parametrize("text", ["set #2", "a: b", "[new] set", "2024", "no", "2024-01-05", "~"])
def test_a_text_parameter_that_may_be_absent_is_taken_literally_but_for_null(text: str):
    p = params.validate(params.override({}, [("train.checkpoints", text), ("run_dir", text)]))
    assert (p.train.checkpoints, p.run_dir) == (text, text)
    for nothing in ("null", ""):
        given = [(name, value) for value in (text, nothing) for name in ("train.checkpoints", "run_dir")]
        p = params.validate(params.override({}, given))
        assert (p.train.checkpoints, p.run_dir) == (None, None)


def test_changes_may_be_dotted_or_in_sections_and_leave_their_source_alone():
    values = {"seed": 1, "train": {"images": 5, "lr": 0.1}, "data": {"names": ["a"]}}
    before = copy.deepcopy(values)
    merged = params.merged(values, {"train.images": 7, "train": {"lr": 0.2, "flip": 0},
                                    "data": {"names": ["b"]}, "model.res_blocks": 2, "seed": 3})
    assert merged == {"seed": 3, "train": {"images": 7, "lr": 0.2, "flip": 0}, "data": {"names": ["b"]},
                      "model": {"res_blocks": 2}}
    assert values == before
    with pytest.raises(UserError, match=r"^Parameters: seed\.x: seed is a value, not a section\.$"):
        params.merged(values, {"seed.x": 1})


@pytest.mark.parametrize(("key", "value", "says"), [
    ("train.images.more", "1", "images is a value, not a section"),
    ("profile.x", "1", "profile is a value, not a section"),
    ("data", "foo", "data is a section, not a value: it cannot be 'foo'. Give its parameters, as data.KEY."),
    ("train", "null", "train is a section, not a value"),
    ("train.lr", "[1", "'[1' is not YAML"),
    ("", "1", "unknown key"),
    ("train.", "1", "unknown key"),
])
def test_an_override_that_makes_no_sense_is_refused_in_one_line(key: str, value: str, says: str):
    values = {"profile": "x", "train": {"images": 5}}
    with pytest.raises(UserError, match=r"^Parameters: ") as caught:
        params.validate(params.override(values, [(key, value)]))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "says"), [
    (b"- a\n- b\n", "does not hold a mapping"),
    (b"", "does not hold a mapping"),
    (b"train: [1\nb: 2\n", "is not YAML"),
    (b"\x89PNG\xff\xfe", "is not YAML"),
    (b"x: !!python/object/apply:os.system ['true']", "is not YAML"),
    (None, "cannot be read: No such file"),
])
def test_a_file_that_holds_no_parameters_is_refused_by_name(tmp_path: Path, content: bytes | None, says: str):
    path = tmp_path / "p.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        params.load(path)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_plain_values_go_through_yaml_and_back(nano_params: params.Params):
    text = yaml.safe_dump(params.plain(nano_params))
    assert params.validate(yaml.safe_load(text)) == nano_params


# ---- paths

def test_relative_paths_start_at_the_checkout_and_else_where_one_stands(tmp_path: Path, monkeypatch):
    checkout = tmp_path / "checkout"
    (checkout / "notebooks" / "deep").mkdir(parents=True)
    (checkout / "_config.yml").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    for here in (checkout, checkout / "notebooks", checkout / "notebooks" / "deep"):
        monkeypatch.chdir(here)
        assert params.resolve("runs/x") == checkout / "runs" / "x"
        assert params.Params(profile="x").folder == checkout / "runs" / "x"
        assert params.Params(run_dir="../elsewhere").folder == tmp_path / "elsewhere"
    monkeypatch.chdir(tmp_path)
    assert params.resolve("runs/x") == tmp_path / "runs" / "x"
    assert params.resolve("/a/../b") == Path("/b")
    assert params.resolve("~/data") == tmp_path / "me" / "data"
    assert params.Params(run_dir="~/run").folder == tmp_path / "me" / "run"


PATHS = ["run_dir", "data.source", "cluster.weights", "cluster.file", "train.checkpoints", "style.weights",
         "style.vgg_weights", "gan.source", "evaluate.weights", "segment.weights", "segment.held_out",
         "segment.cvc", "segment.polypgen", "inpaint.masks", "inpaint.backgrounds"]


@pytest.mark.parametrize("name", keys(params.Params))
def test_a_path_that_exists_where_one_stands_is_meant_and_no_other_parameter_is_a_path(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    checkout = tmp_path / "checkout"
    (checkout / "notebooks").mkdir(parents=True)
    (checkout / "_config.yml").touch()
    (checkout / "work" / "here").mkdir(parents=True)
    monkeypatch.chdir(checkout / "work")
    *sections, last = name.split(".")
    for text, meant in (("here", str(checkout / "work" / "here")), ("nowhere", "nowhere")):
        place = params.override({}, [(name, text)])
        for section in sections:
            place = place[section]
        assert place[last] == (meant if name in PATHS else text)


def test_a_word_that_means_something_else_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "_config.yml").touch()
    (tmp_path / "notebooks").mkdir()
    for word in ("phantom", "random", "singan", "pretrained", "rest"):
        (tmp_path / "notebooks" / word).mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    values = params.override({}, [("data.source", "phantom"), ("cluster.weights", "random"),
                                  ("gan.source", "singan"), ("style.weights", "pretrained"),
                                  ("segment.held_out", "rest"), ("data.source", "./phantom")])
    assert values == {"data": {"source": str(tmp_path / "notebooks" / "phantom")},
                      "cluster": {"weights": "random"}, "gan": {"source": "singan"},
                      "style": {"weights": "pretrained"}, "segment": {"held_out": "rest"}}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with the profile `here` in params/, and a file of its name in work/, where one stands."""
    folder = tmp_path / "checkout"
    for path in ("_config.yml", "params/here.yaml", "params/other.yaml", "work/here.yaml", "notebooks/x"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    monkeypatch.chdir(folder / "work")
    return folder


@pytest.mark.parametrize(("profile", "meant"), [
    ("here", "params/here.yaml"), ("here.yaml", "work/here.yaml"), ("./here.yaml", "work/here.yaml"),
    ("params/here.yaml", "params/here.yaml"), ("../params/other.yaml", "params/other.yaml"),
    ("other", "params/other.yaml")])
def test_a_profile_is_a_file_where_one_stands_or_of_the_checkout_or_a_name(
        checkout: Path, profile: str, meant: str):
    assert params.profile_file(profile).resolve() == checkout / meant
    assert params.profile_file(Path(profile)).resolve() == checkout / meant


@pytest.mark.parametrize("profile", ["absent", "absent.yaml", "work", "x/here", "../here", ".", "/"])
def test_a_profile_that_is_nowhere_is_refused_by_name(checkout: Path, profile: str):
    with pytest.raises(UserError) as caught:
        params.profile_file(profile)
    told = f"There is no parameter file {profile}, nor a profile of that name in {checkout / 'params'}."
    assert str(caught.value).startswith(told)


def test_a_folder_in_place_of_a_profile_is_told_what_to_give(checkout: Path):
    (checkout / "runs" / "mine").mkdir(parents=True)
    with pytest.raises(UserError, match=r"This is a folder: .*`diffusegen new runs/mine` writes such a "):
        params.profile_file("runs/mine")
    (checkout / "runs" / "mine" / "params.yaml").touch()
    with pytest.raises(UserError, match=r"This is the folder of a run: give .*runs/mine/params\.yaml\."):
        params.profile_file("runs/mine")


def test_links_that_lead_in_a_circle_are_a_path_where_nothing_is(tmp_path: Path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert not params.resolve(tmp_path / "a").exists()


def test_the_paper_does_not_follow_the_defaults_of_what_it_does_not_have():
    written = params.load(PROFILES[0].with_name("paper.yaml"))
    assert {name: written["data"][name] for name in ("window", "window_size")} == {"window": None,
                                                                                   "window_size": None}
    assert (written["inpaint"]["masks"], written["inpaint"]["backgrounds"]) == ("joint", None)
    off = {"one_model": False, "lr_decay": 0.0, "augment": 0.0, "lesion_weight": 0.0, "min_snr": None}
    assert {name: written["train"][name] for name in off} == off


def test_what_is_shown_to_others_has_no_directory_of_this_machine() -> None:
    told = params.shareable({
        "source": "/a/b/pairs", "weights": "nets/c.pth", "masks": "labels/*_seg.png", "images": "/a/b/*.png",
        "patients": "/a/b/who.csv:patient", "names": ["x", "y"], "count": 3, "labels": {"1": "liver"}})
    assert told == {
        "source": "pairs", "weights": "c.pth", "masks": "labels/*_seg.png", "images": "*.png",
        "patients": "who.csv:patient", "names": "2 of them", "count": 3, "labels": {"1": "liver"}}
