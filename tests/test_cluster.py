"""Chapter 1: groups that are there are found, each pair has one, and nothing is done twice."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.cluster

from diffusegen_core.chapters import cluster
from diffusegen_core.config import params
from diffusegen_core.config.errors import UserError
from diffusegen_core.data import dataset
from diffusegen_core.networks import features
from diffusegen_core.parallel import fanout
from diffusegen_core.store import files
from diffusegen_core.store.artifacts import NotMadeError
from diffusegen_core.store.stamps import ASIDE, STAMP
from diffusegen_core.store.workspace import Workspace


@pytest.fixture
def quick(nano):
    """Parameters with timm's own network for tests."""
    nano["cluster"] = {"k": 3, "scan": [2, 3, 4], "backbone": "timm/test_resnet"}
    nano["data"]["count"] = 24
    return nano


def groups(per_group: int = 4, size: int = 16) -> dataset.Pairs:
    """Pairs of three kinds that anyone would tell apart, one after the other."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 12, (3 * per_group, 3, size, size), dtype=np.uint8)
    masks = np.zeros((3 * per_group, 1, size, size), np.uint8)
    for i in range(3 * per_group):
        images[i, i // per_group] += 200
        masks[i, 0, :2 + 5 * (i // per_group), :size - i % 2] = 1
    return dataset.gather([f"pair_{i:03d}" for i in range(3 * per_group)], images, masks)


def run(values: dict, pairs: dataset.Pairs | None = None, again: bool = False, writable: bool = True,
        **changes: object) -> cluster.Clusters:
    """The three groups, or whatever pairs are given, clustered."""
    p = params.validate({**values, "cluster": {**values["cluster"], **changes}})
    ws = Workspace(p.folder, p.seed, p.device, writable, again)
    kept = dataset.keep(Workspace(p.folder), "data", groups() if pairs is None else pairs)
    return cluster.run(ws, kept, p.cluster)


def test_well_separated_groups_are_recovered(quick):
    found = run(quick)
    assert found.names == groups().names
    assert found.sizes == [4, 4, 4]
    assert [len(set(found.labels[i:i + 4])) for i in (0, 4, 8)] == [1, 1, 1]
    assert len(set(found.labels)) == found.k == 3
    assert found.backbone == "timm/test_resnet (random weights)"
    assert found.scan["k"].tolist() == [2, 3, 4]
    assert found.scan["silhouette"].idxmax() == 1
    assert found.scan["inertia"].is_monotonic_decreasing


def test_the_stamp_names_the_device_of_the_worker_that_looked(quick, monkeypatch):
    go = fanout.run
    monkeypatch.setattr(fanout, "run", lambda *arguments: go(*arguments) and ["a GPU far away"])
    assert files.read_json(run(quick).folder / STAMP)["device"] == "a GPU far away"


def test_the_mask_matters_too(quick):
    three = groups()
    alike = dataset.gather(three.names, np.broadcast_to(three.images[:1], three.images.shape), three.masks)
    found = run(quick, alike, scan=[])
    assert [len(set(found.labels[i:i + 4])) for i in (0, 4, 8)] == [1, 1, 1]
    assert len(found.scan) == 0


def test_one_cluster_and_a_cluster_for_each(quick):
    whole = run(quick, k=1, scan=[1, 2])
    assert whole.sizes == [12]
    assert whole.scan["silhouette"].isna().tolist() == [True, False]
    each = run(quick, k=12, scan=[2, 11, 12, 40])
    assert each.sizes == [1] * 12
    assert sorted(each.labels) == list(range(12))
    assert each.scan["k"].tolist() == [2, 11]


def test_the_pairs_are_compared_once_however_many_k_are_tried(quick, monkeypatch):
    seen, different = [], cluster._different
    monkeypatch.setattr(cluster, "_different", lambda *given: seen.append(given) or different(*given))
    assert run(quick).scan["k"].tolist() == [2, 3, 4]
    assert len(seen) == 1


def test_a_singleton_is_a_cluster(quick):
    found = run(quick, groups().take([0, 1, 2, 3, 8]), k=2, scan=[2])
    assert sorted(found.sizes) == [1, 4]
    assert (found.labels == found.labels[4]).sum() == 1


def test_more_clusters_than_different_pairs_are_refused(quick):
    three = groups().take([0, 4, 8])
    twins = dataset.gather([*three.names, "copy_a", "copy_b"], three.images[[0, 1, 2, 0, 1]],
                           three.masks[[0, 1, 2, 0, 1]])
    with pytest.raises(UserError) as refusal:
        run(quick, twins, k=4)
    assert "only 3 different pairs" in str(refusal.value)
    assert "copy_a is pair_000" in str(refusal.value)
    assert sorted(run(quick, twins, k=3, scan=[2, 3]).sizes) == [1, 2, 2]


def test_a_backbone_that_sees_no_difference_is_refused(quick, monkeypatch):
    monkeypatch.setattr(features, "extract", lambda images, *_, **__: np.zeros((len(images), 5), np.float32))
    with pytest.raises(UserError, match="only 1 distinct feature vectors"):
        run(quick)


def test_a_second_run_reads_and_does_not_work(quick, monkeypatch):
    first = run(quick)
    extracted, clustered = [], []
    extract, kmeans = features.extract, sklearn.cluster.KMeans
    monkeypatch.setattr(features, "extract", lambda *a, **k: extracted.append(1) or extract(*a, **k))
    monkeypatch.setattr(sklearn.cluster, "KMeans", lambda *a, **k: clustered.append(1) or kmeans(*a, **k))
    again = run(quick)
    assert not extracted
    assert not clustered
    assert np.array_equal(again.labels, first.labels)
    pd.testing.assert_frame_equal(again.scan, first.scan)
    assert (again.names, again.sizes, again.seconds, again.folder) == (
        first.names, first.sizes, first.seconds, first.folder)
    with pytest.raises(NotMadeError, match=r"made with other values \(k: 3 -> 2"):
        run(quick, k=2, writable=False)
    assert not clustered
    other = run(quick, k=2)
    assert clustered
    assert not extracted  # K is none of the features' business
    assert other.sizes != first.sizes
    clustered.clear()
    assert np.array_equal(run(quick).labels, first.labels)  # taken back
    assert not clustered
    assert run(quick, groups(per_group=3), k=2).names == groups(per_group=3).names
    assert extracted


def file_of(folder: Path, groups: list[list[str]]) -> str:
    """The path of a file as the authors publish theirs."""
    path = folder / "clusters_3.pkl"
    path.write_bytes(pickle.dumps({k: np.array([f"./some/where/{name}.jpg" for name in names], str)
                                   for k, names in enumerate(groups)}, 4))
    return str(path)


def test_published_clusters_are_taken(quick, tmp_path):
    names = groups().names
    given = [names[5:7], names[:5], names[7:]]
    found = run(quick, file=file_of(tmp_path, given))
    assert (found.sizes, found.file) == ([2, 5, 5], "clusters_3.pkl")
    assert [[n for n, label in zip(found.names, found.labels, strict=True) if label == k]
            for k in range(3)] == given
    assert found.scan["k"].tolist() == [2, 3, 4]
    other = run(quick, file=file_of(tmp_path, [names[:1], names[1:2], names[2:]]))
    assert other.sizes == [1, 1, 10]
    own = run(quick)
    assert (own.sizes, own.file) == ([4, 4, 4], None)
    recipe = files.read_json(own.folder / "made.json")["recipe"]
    assert set(recipe) == {"data", "features", "k", "scan", "seed"}


def test_published_clusters_without_curves_need_no_features(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "extract", lambda *_, **__: pytest.fail("features were asked for"))
    names = groups().names
    found = run(quick, file=file_of(tmp_path, [names[:4], names[4:8], names[8:]]), scan=[],
                weights="there/is/no/such.file")
    assert found.sizes == [4, 4, 4]
    assert found.scan.empty


@pytest.mark.parametrize(("change", "says"), [
    (lambda names: [names[:4], names[4:8], names[9:]], "does not have pair_008 of the run"),
    (lambda names: [names[:1], names[1:2], names[2:3]], "does not have pair_003 and 8 more names of the run"),
    (lambda names: [names[:4], names[4:8], [*names[8:], "x\x1b[2J"]], r"has x\x1b[2J, not in the run"),
    (lambda names: [names[:4], names[4:8], names[8:], ["x"]], "holds 4 clusters, but cluster.k is 3"),
    (lambda names: [names[:4], names[4:], []], "cluster 2 is empty"),
    (lambda names: None, "cannot be read: No such file"),
])
def test_published_clusters_of_other_pairs_are_refused_by_the_file(quick, tmp_path, change, says):
    given = change(groups().names)
    path = file_of(tmp_path, given) if given else str(tmp_path / "absent.pkl")
    with pytest.raises(UserError) as refusal:
        run(quick, file=path)
    assert str(refusal.value).startswith(f"{path} ")
    assert says in str(refusal.value)
    assert not list((tmp_path / "run").rglob("clusters.csv"))


def test_a_file_that_is_gone_stands_for_the_clusters_that_were_taken_from_it_before_a_run_too(quick,
                                                                                              tmp_path):
    names = groups().names
    path = file_of(tmp_path, [names[:4], names[4:8], names[8:]])
    first = run(quick, file=path)
    p, typo = (params.validate({**quick, "cluster": {**quick["cluster"], "file": file}})
               for file in (path, str(tmp_path / "typo.pkl")))
    Path(path).unlink()
    assert list(cluster.check(p)) == []
    assert run(quick, file=path).sizes == first.sizes
    told, = cluster.check(typo)
    assert "typo.pkl cannot be read" in told


def test_a_table_that_was_changed_by_hand_is_refused_and_made_again_on_request(quick):
    first = run(quick)
    (first.folder / "clusters.csv").write_text("name,cluster\n")
    with pytest.raises(UserError, match=r"changed by hand: clusters\.csv is not .*--remake cluster"):
        run(quick)
    assert np.array_equal(run(quick, again=True).labels, first.labels)
    aside = Path(quick["run_dir"]) / ASIDE
    assert [path.read_text() for path in aside.rglob("clusters.csv")] == ["name,cluster\n"]


def test_names_like_numbers_and_missing_values_stay_names(quick):
    three = groups().take([0, 4, 8])
    odd = dataset.gather(["001", "1e3", "NA"], three.images, three.masks)
    assert run(quick, odd, k=2, scan=[]).names == ["001", "1e3", "NA"]


def test_phantoms_cluster_from_start_to_stamp(nano_params):
    ws = Workspace(nano_params.folder)
    found = cluster.run(ws, dataset.load(ws, nano_params.data), nano_params.cluster)
    assert len(found.labels) == 10
    assert sum(found.sizes) == 10
    assert min(found.sizes) > 0
    stamp = files.read_json(found.folder / "made.json")
    assert set(stamp["outputs"]) == {"clusters.csv", "scan.csv"}


def test_real_pairs_cluster_with_the_shared_weights(shared, quick, tmp_path):
    names = pd.read_csv(shared / "data" / "kvasir-seg" / "manifest.csv")["name"][:12]
    for name in names:
        for part in ("images", "masks"):
            [file] = (shared / "data" / "kvasir-seg" / part).glob(f"{name}.*")
            (tmp_path / "set" / part).mkdir(exist_ok=True, parents=True)
            shutil.copy(file, tmp_path / "set" / part)
    p = params.validate({**quick, "data": {"source": str(tmp_path / "set"), "count": 12, "image_size": 64,
                                           "holdout": None}})
    pairs = dataset.load(Workspace(p.folder), p.data)
    found = run(quick, pairs, k=2, scan=[2, 3, 4], backbone="mobilenet_v2", input_range="symmetric",
                weights=str(shared / "weights" / "mobilenet_v2_imagenet.pth"))
    assert found.backbone == "mobilenet_v2 (mobilenet_v2_imagenet.pth)"
    assert found.names == sorted(names)
    assert min(found.sizes) > 0
    assert found.scan["silhouette"].between(0, 1).all()
