"""A borrowed GPU: `pack` here, `figures` and `train` there, `unpack` here again (README.md, On a GPU)."""

import argparse
import json
from pathlib import Path

import common
import stages

from diffusegen_core.config import devices
from diffusegen_core.config.errors import UserError
from diffusegen_core.store import files

HOME = common.ROOT / ".card"


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    calls = parser.add_subparsers(dest="call", required=True)
    pack = calls.add_parser("pack", help="fill the folder .card with what a card's machine lacks")
    pack.add_argument("--data", type=Path, required=True, help="a folder of Kvasir-SEG: images/, masks/")
    pack.add_argument("--weights", type=Path, required=True,
                      help="a folder with mobilenet_v2_imagenet.pth and vgg19_normalised_to_conv3_1.pth")
    pack.add_argument("--reference", type=Path, help="a checkout of the authors' code (dsaragih/diffuse-gen)")
    pack.add_argument("--home", type=Path, default=HOME)
    for name, limit, what in (("figures", 330, "measure"), ("train", 350, "train a model and make pairs")):
        call = calls.add_parser(name, help=f"{what}, within a limit of time")
        call.add_argument("--limit", type=float, default=limit, help="seconds, from the shell's start")
        call.add_argument("--device", default="auto")
        call.add_argument("--out", type=Path, default=HOME / "out", help="folder of results to bring back")
        call.add_argument("--tiny", action="store_true", help="a rehearsal: everything, as small as can be")
        if name == "figures":
            call.add_argument("--reference", type=Path, help="default: the packed checkout, if there is one")
            call.add_argument("--rounds", type=common.positive, default=6)
        else:
            call.add_argument("--home", type=Path, default=HOME, help="the folder that was packed")
            call.add_argument("--work", type=Path, default=HOME / "work",
                              help="folder that the next call resumes from")
    unpack = calls.add_parser("unpack", help="make a run folder of what `train` brought back")
    unpack.add_argument("files", type=Path, help="the folder of what came back")
    unpack.add_argument("run", type=Path, help="the run folder to make")
    return parser.parse_args(given)


def run(given: list[str] | None = None) -> None:
    asked = arguments(given)
    if asked.call == "pack":
        import pack
        print(json.dumps(pack.run(asked.data, asked.weights, asked.reference, asked.home), indent=1))
    elif asked.call == "unpack":
        import unpack
        unpack.run(asked.files, asked.run)
    else:
        device = devices.device(asked.device)
        packed = files.read_json(getattr(asked, "home", HOME) / "packed.json") or {}
        facts = {"call": asked.call, "commit": packed.get("commit", common.commit()), "tiny": asked.tiny,
                 "versions": files.versions(), "device": devices.name(str(device))}
        record = stages.Record(asked.out / f"{asked.call}.json", facts)
        call = stages.Call(stages.Clock(asked.limit), record)
        if asked.call == "figures":
            import figures
            code = asked.reference or HOME / "reference"
            if asked.reference and not code.is_dir():
                raise UserError(f"--reference {code} is no folder.")
            figures.run(call, device, asked.tiny, asked.rounds, code if code.is_dir() else None)
        else:
            import realrun
            realrun.run(call, device, asked.home, asked.work, asked.out, asked.tiny)


if __name__ == "__main__":
    common.main(run)
