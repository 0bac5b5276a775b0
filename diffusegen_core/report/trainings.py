"""What each generator of a run has made, where there are several."""

import pandas as pd

from diffusegen_core.report.tables import Table, show
from diffusegen_core.run import Run
from diffusegen_core.segmentation.sharing import shares


def table(run: Run) -> Table:
    """A row per generator: its models, its pairs, the time it took, and the seeds that take its pairs."""
    p = run.params
    rows = []
    for number in range(p.generators):
        models, inpainted, styled = (run.read(name, number) for name in ("train", "inpaint", "style"))
        sets = [*inpainted.sets.values(), *styled.sets.values()]
        rows.append({"generator": number, "final loss": sum(m.loss for m in models.all) / len(models.all),
                     "pairs": sum(map(len, sets)), "left out": sum(len(one.left_out) for one in sets),
                     "seconds": models.card_seconds + inpainted.seconds + styled.seconds,
                     "seeds, chapter 6": _seeds(p.segment.seeds, p.generators, number),
                     "seeds, chapter 7": "" if p.augment.generator_sees == "subset" else
                     _seeds(p.augment.seeds, p.generators, number)})
    return show(pd.DataFrame(rows), "style-generators", "The generators of this run: the mean final loss of "
                "their models, their pairs of all data types, inpainted and styled, the time of chapters "
                "2 to 4, and the seeds of the segmentation networks that use their pairs.",
                {"final loss": ".4f", "seconds": ".0f"})


def _seeds(seeds: int, generators: int, number: int) -> str:
    return ", ".join(str(seed) for seed, owner in enumerate(shares(seeds, generators)) if owner == number)
