"""The paper's expert review, Table B1: as printed, with intervals, and beside a reviewer who never looks."""

import pandas as pd

from diffusegen_core.report import published, review
from diffusegen_core.report.tables import Table, show


def survey() -> Table:
    """Table B1 as printed, with a row per answer and a column per data type, which fits a page."""
    rows = published.table("B1")
    rows = rows.assign(asked=rows["question"] + ": " + rows["answer"])
    frame = rows.pivot(index="asked", columns="data_type", values="printed")
    frame = frame.loc[list(dict.fromkeys(rows["asked"])), list(dict.fromkeys(rows["data_type"]))]
    return show(frame.rename_axis("answer"), "review-published", "Published: Table B1 of the paper, the "
                "answers of one radiologist to 30 pairs, ten of each data type, 20 clusters.")


def agreement() -> Table:
    """Accuracy, precision and recall of Table B1 with intervals, beside those of always answering "fake"."""
    rates = review.agreement(answers())
    rows = [{"measure": name, "of": f"{rate.hits:.0f} of {rate.of:.0f}", "value": rate.value,
             "95 % interval": f"{rate.low:.0%} to {rate.high:.0%}", 'always "fake"': fake}
            for (name, rate), fake in zip(rates.iterrows(), review.always_fake(answers()), strict=True)]
    return show(pd.DataFrame(rows), "review-agreement", "How well the paper's reviewer told real pairs from "
                "synthetic ones, Diff and Styled-Diff together, with Wilson 95 % intervals computed here "
                'from the published counts; and the scores of a reviewer who answers "fake" to every pair.',
                {"value": ".0%", 'always "fake"': ".0%"})


def answers() -> pd.DataFrame:
    """A row for each pair of Table B1: columns "Data type" and origin, "Real" or "Fake"."""
    rows = published.table("B1").query("question == 'Real or Fake'")
    return pd.DataFrame([{"Data type": row.data_type, "origin": row.answer} for row in rows.itertuples()
                         for _ in range(int(row.value))])
