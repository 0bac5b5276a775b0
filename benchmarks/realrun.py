"""A model of the 348 pairs in a few minutes, painted pairs, and what they are worth, in one call.

The most valuable first: training for a share of the clock, the averaged weights, samples, pairs with known
masks, pasted lesions, pairs by chapter 3's way, distances, seams, and networks trained on small sets. A
further call continues from the work folder; the files in the folder `out` are those to bring back.
"""

import json
from functools import partial
from pathlib import Path

import realmeasures
import realmodel
import realpairs
import smallsets
import stages
import torch
from realwork import JOINED, OWN, PASTED, VARIED, Work, parameters, without_paths

from diffusegen_core.config import params
from diffusegen_core.data import dataset
from diffusegen_core.store import files
from diffusegen_core.store.workspace import Workspace

WORKERS = {False: 12, True: 2}  # processes that train small networks, by whether it is a rehearsal


def run(call: stages.Call, device: torch.device, home: Path, folder: Path, out: Path, tiny: bool) -> None:
    """Run all stages while there is time, the most valuable first."""
    p = parameters(home.resolve(), folder.resolve(), device, tiny)
    w = Work(call, device, p, home.resolve(), folder.resolve(), out.resolve(), tiny)
    call.record.facts["params"] = without_paths(p)
    team = smallsets.Team(w.folder, p, device, WORKERS[tiny])
    try:
        read_pairs(w)
        files.write_json(w.folder / "params.json", params.plain(p))
        call.stage("training", partial(realmodel.train, w), least=0)
        realmodel.weights_back(w)
        call.stage("weights", partial(realmodel.keep_weights, w))
        call.stage("samples", partial(realmodel.sample, w))
        for name, make in ((VARIED, partial(realpairs.known_masks, w, True)),
                           (OWN, partial(realpairs.known_masks, w, False)),
                           (PASTED, partial(realpairs.paste, w)), (JOINED, partial(realpairs.joined, w))):
            call.stage(name, partial(realpairs.pairs_of, w, name, make), least=12)
            realpairs.pairs_back(w, name)
        team.begin(list(smallsets.planned(p, w.sets, w.tiny)), call.record)
        call.stage("distances", partial(realmeasures.distances, w), least=15)
        call.stage("seams", partial(realmeasures.seams, w), least=8)
        team.gather(call, reserve=8)
    finally:
        team.end()


def read_pairs(w: Work) -> None:
    pairs = dataset.load(Workspace(w.p.folder, w.p.seed, w.p.device), w.p.data)
    split = json.loads((w.home / "kvasir" / "split.json").read_text())
    w.train, w.test, w.watch = (pairs.named(split[part]) for part in ("train", "test", "watch"))
    smallsets.store(w.folder / "real.npz", w.train, w.test)
    w.call.record.facts["pairs"] = {part: len(split[part]) for part in split}
    print(f"[{w.call.clock.spent:6.1f} s] {len(pairs)} pairs are read.", flush=True)
