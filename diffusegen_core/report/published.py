"""The paper's own numbers, to stand beside a run's: every table transcribed once, under book/paper.

Each file is in long form, one row per printed value, with the table it comes from. `printed` is the text as
it stands in the paper, trailing zeros included. Decisions made for the long form:

- Table 1 prints one value across the three sets for Real: its `set` is "all".
- Tables 1, 2 and B1 omit the cluster count, as the paper does (section 3): their Diff is 20-Diff.
- In Tables 2, B3 and B4 the suffix of a data type is N, samples per real image (section 2.5). The column `n`
  of Tables 3 and B5 to B7 is their own N, the number of real images. Table 3 is Table B7 again.
- Table 2's stray colon in "Full-Diff-2:" is left out.
- cluster_sizes is no table of the paper: its source is the authors' repository, dsaragih/diffuse-gen.
"""

from pathlib import Path

import pandas as pd

from diffusegen_core.config.errors import UserError

FOLDER = Path(__file__).resolve().parents[2] / "book" / "paper"

TABLES = {
    "1": "FID and MS-SSIM against Real, 20 clusters",
    "2": "Segmentation trained on synthetic data alone, 20 clusters",
    "3": "Small training sets, r = 3 (the same as B7)",
    "B1": "Expert review",
    "B2": "FID and MS-SSIM against Real, by cluster count",
    "B3": "Segmentation trained on Diff alone, by cluster count",
    "B4": "Segmentation trained on Styled-Diff alone, by cluster count",
    "B5": "Small training sets, r = 1",
    "B6": "Small training sets, r = 2",
    "B7": "Small training sets, r = 3",
}

EVERY_COUNT = {"1": ["B2"], "2": ["B3", "B4"]}  # the tables that have all cluster counts
_SUPERSCRIPTS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def table(name: str) -> pd.DataFrame:
    """A table of the paper in long form, in the paper's order.

    `name` is a key of TABLES ("1" ... "B7"), or "cluster_sizes". Every column is text, except the integers
    `n`, `r`, `k` and `cluster` and a float column `value` parsed from `printed`. Raises UserError where the
    file is missing (the package is installed without its checkout).
    """
    if name not in TABLES and name != "cluster_sizes":
        raise UserError(f"The paper has no table {name}: there are {', '.join(TABLES)} and cluster_sizes.")
    path = FOLDER / (f"table_{name}.csv" if name in TABLES else f"{name}.csv")
    try:
        rows = pd.read_csv(path, dtype=str)
    except FileNotFoundError:
        raise UserError(f"The paper's numbers are not at {path}: work from a checkout.") from None
    integers = rows.columns.intersection(["n", "r", "k", "cluster"])
    return rows.astype(dict.fromkeys(integers, int)).assign(value=rows["printed"].map(_number))


def by_clusters(name: str) -> pd.DataFrame:
    """Table 1 or 2 with rows for every cluster count: K-Diff and K-Styled-Diff, from Tables B2 to B4, replace
    the rows of 20 clusters, whose names have no count."""
    rows, every = table(name), pd.concat([table(other) for other in EVERY_COUNT[name]])
    parts = []
    for data_type, one in rows.groupby("data_type", sort=False):
        counted = every[every["data_type"].map(kind).eq(data_type) & every["data_type"].ne(data_type)]
        parts.append(counted if len(counted) else one)
    return pd.concat(parts, ignore_index=True)


def kind(data_type: str) -> str:
    """A data type without its cluster count, as Tables 1 and 2 write it: Styled-Diff for 20-Styled-Diff."""
    number, _, rest = data_type.partition("-")
    return rest if number.isdigit() else data_type


def _number(printed: str) -> float:
    """The number behind a printed value, which may be in powers of ten: "-4.412 · 10⁻⁵"."""
    return float(printed.replace(" · 10", "e").translate(_SUPERSCRIPTS))
