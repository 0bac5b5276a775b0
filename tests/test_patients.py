"""Held-out pairs: whole patients that no part of a run sees, and that test it."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from diffusegen_core.chapters import gan, inpaint, leaks, scorers
from diffusegen_core.chapters.cluster import Clusters
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.config.params import Params
from diffusegen_core.data import (
    checkup,
    dataset,
    layouts,
    patients,
    phantom,
    related,
    sequences,
    testsets,
)
from diffusegen_core.data.testsets import HELD_OUT
from diffusegen_core.data.types import PASTE, DataType
from diffusegen_core.report import opening, tables
from diffusegen_core.run import Run
from diffusegen_core.segmentation import trainsets
from diffusegen_core.store import ownparams, stamps
from diffusegen_core.store.stamps import read_stamp
from diffusegen_core.store.workspace import Workspace

NUMBERS = r"^(P\d+)_"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty-four pairs of eight patients, three each."""
    for number in range(24):
        image, mask, _ = phantom.draw(7, number, 16)
        dataset.write_pair(tmp_path / "set", f"P{number // 3}_{number}", image, mask)
    return tmp_path / "set"


def make(nano: dict, source: Path, **values: object) -> Params:
    data = {**nano["data"], "source": str(source), "count": None, "holdout": 0.25, "patients": NUMBERS}
    return params.validate({**nano, "data": {**data, **values}, "segment": {
        **nano["segment"], "test_count": 50}})


def load(p: Params) -> tuple[dataset.Pairs, testsets.TestSet]:
    ws = Workspace(p.folder, p.seed, p.device)
    pairs = dataset.load(ws, p.data)
    return pairs, testsets.held_out(ws, pairs, p.data, p.segment)


def of(names: list[str]) -> set[str]:
    return {name.split("_")[0] for name in names}


def test_whole_patients_are_held_out_and_they_alone_test(nano: dict, folder: Path) -> None:
    p = make(nano, folder)
    pairs, test = load(p)
    assert test.name == HELD_OUT
    assert (len(pairs), len(test.pairs)) == (18, 6)
    assert not of(pairs.names) & of(test.pairs.names)
    assert sorted([*pairs.names, *test.pairs.names]) == sorted(f"P{n // 3}_{n}" for n in range(24))
    assert test.groups.kind == "patient"
    assert test.groups.count == 2
    assert test.groups.of[test.pairs.names[0]] == test.pairs.names[0].split("_")[0]
    leaks.free(Workspace(p.folder, p.seed, p.device), p, pairs, None, {test.name: test})
    assert tables.data(p) == "set: 24 pairs, 18 to train on, 6 held out"
    assert opening.page(Run(p)).splitlines()[2].startswith("set: 24 pairs, 18 to train on, 6 held out; 16 ×")
    assert dataset.expected(p.data, p.seed) == (18, f"in {folder}, 6 more are held out")


def test_every_page_has_the_number_of_usable_pairs_and_why_others_are_left_out(nano: dict, folder: Path):
    p = make(nano, folder, on_bad="skip")
    ws = Workspace(p.folder, p.seed, p.device)
    pairs = dataset.load(ws, p.data)
    assert tables.data(p) == "set: 24 pairs, 18 to train on, 6 held out"
    held = patients.read(pairs.file)[1]
    for name in (held[0], pairs.names[0]):
        Image.new("L", (16, 16)).save(folder / "masks" / f"{name}.png")  # an empty mask
    fewer = dataset.load(ws, p.data)
    told = "set: 22 pairs, 17 to train on, 5 held out; left out: 2 (empty mask)"
    assert tables.data(p) == told, "before chapter 6 reads what is held out"
    assert len(testsets.held_out(ws, fewer, p.data, p.segment).pairs) == 5
    assert tables.data(p) == told
    stamp = p.folder / "data" / stamps.STAMP
    stamp.write_text(stamp.read_text().replace('"held_out": 5', '"older": 5'))
    assert tables.data(p) == "set: 17 pairs to train on, others held out; left out: 2 (empty mask)"


@pytest.mark.parametrize(("count", "wanted"), [
    (3, ["P0_0", "P1_3", "P2_6"]), (5, ["P0_0", "P0_1", "P1_3", "P2_6", "P3_9"]),
    (7, ["P0_0", "P0_1", "P1_3", "P1_4", "P2_6", "P2_7", "P3_9"]), (12, None), (None, None), (99, None)])
def test_sources_are_of_each_patient_in_turn_where_patients_are_told(nano, folder, count, wanted) -> None:
    names = [f"P{number // 3}_{number}" for number in range(12)]
    pairs, _ = load(make(nano, folder, holdout=None, names=names))
    chosen = patients.sources(pairs.names, pairs.file, count)
    assert [pairs.names[number] for number in chosen] == (wanted or pairs.names)
    untold, _ = load(make(nano, folder, holdout=None, names=names, patients=None))
    assert patients.sources(untold.names, untold.file, count) == list(range(12))[:count]
    each, _ = load(make(nano, folder, holdout=None, names=names, patients="each"))
    assert patients.sources(each.names, each.file, count) == list(range(12))[:count]


def test_a_pair_whose_patient_is_not_known_is_a_patient_of_its_own(tmp_path: Path) -> None:
    patients.write(tmp_path, {"a1": "a", "a2": "a", "b1": "b", "b2": "b"}, [])
    names = ["a1", "a2", "b1", "b2", "x1", "x2"]
    chosen = patients.sources(names, tmp_path / "pairs.npz", 4)
    assert [names[place] for place in chosen] == ["a1", "b1", "x1", "x2"]


def test_a_table_of_patients_lies_in_the_data_folder_or_where_its_path_says(tmp_path: Path) -> None:
    assert patients.file(tmp_path, "^(P)") is patients.file(tmp_path, None) is None
    asked = f"{tmp_path}/elsewhere/p.csv:who"
    assert patients.file(tmp_path / "data", asked) == tmp_path / "elsewhere/p.csv"
    (tmp_path / "p.csv").touch()
    assert patients.file(tmp_path, "p.csv:who") == tmp_path / "p.csv"


@pytest.mark.parametrize("told", [False, True])
def test_drawn_sources_are_part_of_more_and_the_same_whatever_else_there_is(nano, folder, told) -> None:
    names = [f"P{number // 3}_{number}" for number in range(24)]

    def drawn(names: list[str], count: int) -> list[str]:
        pairs, _ = load(make(nano, folder, holdout=None, names=names, **({} if told else {"patients": None})))
        places = patients.sources(pairs.names, pairs.file, count, drawn=True)
        assert places == sorted(places)
        return [pairs.names[place] for place in places]
    few, more = drawn(names, 5), drawn(names, 10)
    assert few != sorted(names)[:5]
    assert set(few) < set(more)
    assert drawn(sorted({*few, *names[::2]}), 5) == few
    if told:
        assert len(of(few)) == 5
        assert len(of(more)) == 8


@pytest.mark.parametrize("drawn", [False, True])
def test_all_that_is_made_of_sources_is_made_of_the_same_ones(nano, folder, drawn) -> None:
    p = params.validate(params.merged(params.plain(make(nano, folder)), {
        "inpaint": {"sources": 6, "draw_sources": drawn, "baselines": ["Paste"]}}))
    run = Run(p)
    pairs = run.make("data")
    made = run.make("paste").sets[PASTE].manifest
    wanted = [pairs.names[i] for i in patients.sources(pairs.names, pairs.file, 6, drawn)]
    assert len(of(wanted)) == 6, "one of each patient that is left"
    assert wanted != pairs.names[:6]
    assert list(made["source"]) == wanted
    clusters = Clusters(pairs.names, np.zeros(len(pairs), int), 1, [], pd.DataFrame(), "none", 0.0, folder)
    jobs = inpaint.plan(p.seed, DataType("Diff", "1"), pairs, clusters, p.inpaint)
    assert [(job.source, pairs.names[job.index]) for job in jobs] == [(name, name) for name in wanted]
    jobs = gan.plan(p.seed, pairs, gan.filled(p.gan.model_copy(update={"sources": None}), p.inpaint), drawn)
    assert [job.source for job in jobs] == wanted
    supply = trainsets.supply(len(pairs), 1, False, p.inpaint, p.gan)
    assert trainsets.collect(pairs, supply, run.pasted.sets.values()).real.names == wanted


def test_a_count_takes_the_first_of_what_is_not_held_out_and_lends_the_test_nothing(nano, folder) -> None:
    whole, _ = load(make(nano, folder))
    pairs, test = load(make(nano, folder, count=5))
    assert pairs.names == whole.names[:5]
    assert len(test.pairs) == 6
    assert not of(whole.names) & of(test.pairs.names)


def test_the_choice_hangs_on_seed_and_names_and_not_on_the_order_of_files() -> None:
    told = {f"P{n // 3}_{n}": f"P{n // 3}" for n in range(60)}
    chosen = patients.held_out(told, 0.2, 0)
    assert patients.held_out(dict(reversed(told.items())), 0.2, 0) == chosen
    assert len(chosen) == 12
    assert len({tuple(patients.held_out(told, 0.2, seed)) for seed in range(5)}) > 1
    # Who was held out stays so as patients join, as far as the share allows.
    more = {**told, "P99_0": "P99"}
    assert len(set(patients.held_out(more, 0.2, 0)) & set(chosen)) >= 9


@pytest.mark.parametrize(("sizes", "share", "count"), [
    ([10, 1, 1, 1, 1, 1, 1], 0.2, 3), ([5, 5], 0.2, 5), ([9, 3], 0.1, 3), ([1] * 4, 0.01, 1),
    ([1, 1], 0.9, 1)])
def test_a_large_patient_does_not_exceed_the_share_where_others_do_not(sizes, share, count) -> None:
    told = {f"{who}-{n}": str(who) for who, size in enumerate(sizes) for n in range(size)}
    held = patients.held_out(told, share, 0)
    assert len(held) == count
    kept = {told[name] for name in told if name not in held}
    assert kept
    assert not {told[name] for name in held} & kept


def test_one_patient_alone_cannot_be_held_out() -> None:
    with pytest.raises(UserError, match=r"all 3 pairs are of one patient.*data\.holdout null"):
        patients.held_out(dict.fromkeys("abc", "P1"), 0.2, 0)


@pytest.mark.parametrize(("text", "names"), [
    ("image,patient,age\n{name}.png,{who},40\n", "image"), ("pair;patient\n{name};{who}\n", "pair"),
    ("patient\tfile\n{who}\timages/{name}.png\n", "file")])
def test_a_table_tells_patients_by_the_column_that_names_the_images(nano, folder, text, names) -> None:
    head, row = text.splitlines()
    rows = [row.format(name=path.stem, who=path.stem.split("_")[0]) for path in
            sorted((folder / "images").iterdir())]
    (folder / "who.csv").write_text("\n".join([head, *rows]))
    by_table, by_name = make(nano, folder, patients="who.csv:patient"), make(nano, folder)
    report = dataset.layouts.scan(folder, by_table.data)
    assert patients.of_pairs(report, by_table.data) == patients.of_pairs(report, by_name.data)
    assert load(by_table)[0].digest == load(by_name)[0].digest


@pytest.mark.parametrize(("told", "says"), [
    (r"^(Q\d+)", r"finds no patient in images/P0_0.png"), ("no.csv:patient", "no.csv cannot be read"),
    ("who.csv:sex", "there is no column sex. There are image, patient"),
    ("who.csv:patient", "gives no patient for P0_1 and 22 more")])
def test_patients_that_are_not_told_are_refused_before_the_run(nano, folder, told, says) -> None:
    (folder / "who.csv").write_text("image,patient\nP0_0,P0\n")
    [line] = dataset.check(make(nano, folder, patients=told))
    assert says in line


@pytest.mark.parametrize(("told", "says"), [("(", "is not a regular expression"), ("P", "has 0 groups"),
                                            ("(P)(Q)", "has 2 groups")])
def test_an_expression_without_one_group_is_refused(nano, folder, told, says) -> None:
    with pytest.raises(UserError, match=says):
        make(nano, folder, patients=told)


def test_folders_tell_patients_where_the_expression_holds_a_slash(nano, tmp_path) -> None:
    for number in range(6):
        image, mask, _ = phantom.draw(7, number, 16)
        dataset.write_pair(tmp_path / "flat", f"{number}", image, mask)
        for kind in ("images", "masks"):
            place = tmp_path / "set" / kind / f"patient{number // 2}"
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(tmp_path / "flat" / kind / f"{number}.png", place)
    p = make(nano, tmp_path / "set", images="images/*/*.png", masks="masks/*/*.png",
             patients="images/([^/]+)/")
    pairs, test = load(p)
    assert len(pairs) == 4
    assert len(set(test.groups.of.values())) == 1


def test_held_out_pairs_can_not_be_named_and_subsets_and_phantoms_have_none(nano, folder) -> None:
    p = make(nano, folder)
    _, test = load(p)
    name = test.pairs.names[0]
    with pytest.raises(UserError, match=f"{name} is held out by data.holdout"):
        load(make(nano, folder, names=[name, "P0_0"]))
    assert make(nano, folder, subset="not348").data.held_share is None
    assert params.validate(nano).data.held_share is None
    assert params.validate({"data": {"holdout": 0.2}}).data.held_share is None


def test_an_older_run_holds_nothing_out_and_its_recipe_has_no_new_key(nano, folder) -> None:
    p = make(nano, folder, holdout=None, patients=None)
    pairs, test = load(p)
    assert len(pairs) == 24
    assert test.pairs is None
    stamp = dataset.read_stamp(p.folder / "data")
    assert not {"holdout", "patients", "split"} & set(stamp["recipe"])
    assert not (p.folder / "data" / patients.FILE).exists()
    ownparams.keep(p)
    path = p.folder / ownparams.PARAMS
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "holdout" not in line))
    assert ownparams.load(p.folder)["data"]["holdout"] is None


def test_a_run_that_is_copied_without_its_folder_still_knows_its_patients(nano, folder, tmp_path) -> None:
    p = make(nano, folder)
    pairs, test = load(p)
    folder.rename(tmp_path / "gone")
    again, same = load(p)
    assert (again.digest, same.pairs.digest) == (pairs.digest, test.pairs.digest)
    assert same.groups == test.groups


def test_what_a_subset_leaves_over_tests_only_with_patients_that_it_has_not(nano, folder) -> None:
    p = make(nano, folder, holdout=None, count=10)  # of P0 to P2, and one image of P3
    pairs, test = load(p)
    assert not of(pairs.names) & of(test.pairs.names)
    assert of(test.pairs.names) == {"P4", "P5", "P6", "P7"}


def test_networks_of_the_filter_do_not_judge_patients_that_they_learned_from(nano, folder) -> None:
    pairs, _ = load(make(nano, folder))
    assert sorted(map(len, scorers.groups(pairs).values())) == [3] * 6
    plain, _ = load(make(nano, folder, patients=None))
    assert len(scorers.groups(plain)) == len(plain)


def test_slices_of_one_volume_stay_together(tmp_path) -> None:
    nibabel = pytest.importorskip("nibabel")
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for number in range(3):
            values = np.full((8, 8, 4), 200, np.uint8)
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / kind / f"v{number}.nii.gz")
    data = params.validate({"data": {"source": str(tmp_path), "slices": [2, 0, 3], "channels": 1}}).data
    told, held = patients.split(dataset.layouts.scan(tmp_path, data), data, 0)
    assert told == {}
    assert len(held) == 4
    assert len({name.split("_")[0] for name in held}) == 1


def test_frames_of_a_sequence_stay_together_where_the_layout_tells_them(nano: dict, tmp_path: Path) -> None:
    frames = [start + number for start in (1, 26, 51, 68) for number in range(6)]
    for frame in frames:
        image, mask, _ = phantom.draw(7, frame, 16)
        dataset.write_pair(tmp_path / "set", str(frame), image, mask)
    source = tmp_path / "cvc"
    source.mkdir()
    (tmp_path / "set" / "images").rename(source / "Original")
    (tmp_path / "set" / "masks").rename(source / "Ground Truth")
    p = make(nano, source, patients=None)
    pairs, test = load(p)
    sequence = related.of_pairs(pairs)
    assert (sequence.kind, sequence.count, len(pairs)) == ("sequence", 3, 18)
    assert (test.groups.kind, test.groups.count, len(test.pairs)) == ("sequence", 1, 6)
    assert not set(sequence.of.values()) & set(test.groups.of.values())
    train, valid = trainsets.split(pairs.names, 0.3, 0, "x", groups=patients.together(pairs.file))
    assert not {sequence.of[name] for name in train} & {sequence.of[name] for name in valid}
    line, = (text for _, what, text in checkup.checkup(source, None, p.data).lines if what == "patients")
    assert line == "4 sequences, 6 images each, such as 01, by the layout; each is kept whole"
    with_test = p.model_copy(update={"segment": p.segment.model_copy(update={"cvc": str(source)})})
    ws = Workspace(p.folder, p.seed, p.device)
    testsets._Source(ws, pairs, p.data, with_test.segment).read("CVC-ClinicDB", str(source))
    recipe = read_stamp(p.folder / "tests" / "CVC-ClinicDB")["recipe"]
    assert "split" not in recipe, "test sets are never parted, and those that are there hold"
    unheld = p.model_copy(update={"data": p.data.model_copy(update={
        "holdout": None, "names": [str(start) for start in (1, 26, 51, 68)]})})
    assert testsets.lacking(unheld) == (
        "data.holdout is null, and all other pairs are of patients or sequences that are trained on")
    few = Workspace(tmp_path / "few", p.seed, p.device)
    rest = testsets.held_out(few, dataset.load(few, unheld.data), unheld.data, unheld.segment)
    assert rest.note == ("all 20 other pairs of data.source are of patients, sequences or volumes that are "
                         "trained on, or are copies of training pairs")
    apart = patients.split(layouts.scan(source, p.data), p.data.model_copy(update={"patients": "each"}), 0)[1]
    assert len(apart) == 6
    assert len({sequences.CVC_STARTS.index(start) for start in (1, 26, 51, 68) for name in apart
                if start <= int(name) < start + 6}) > 1, "each: the user says that frames are independent"


def test_a_check_of_one_patient_alone_is_a_table_and_no_refusal(folder: Path, nano: dict) -> None:
    p = make(nano, folder, patients="^(P)")
    lines = {what: text for _, what, text in checkup.checkup(folder, None, p.data).lines}
    assert lines["patients"].startswith("1 patient, 24 images each")
