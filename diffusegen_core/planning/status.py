"""The status of a run in words: what is made, stale, set aside and under way, the time left, and the next
command. Nothing is written to the run."""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from diffusegen_core.chapters import standing
from diffusegen_core.chapters.standing import NUMBERS
from diffusegen_core.config import devices
from diffusegen_core.config.errors import UserError, some
from diffusegen_core.config.params import home, relative
from diffusegen_core.config.text import about, counted, duration, size
from diffusegen_core.parallel import progress
from diffusegen_core.planning import display, pace, plan, probe, remaining
from diffusegen_core.planning.flops import count
from diffusegen_core.planning.plan import Plan
from diffusegen_core.planning.preflight import PAGES
from diffusegen_core.run import GRIDS, Run
from diffusegen_core.store import aside, lock, ownparams
from diffusegen_core.store.artifacts import SHOWN

RUNS = "runs"  # the default folder of runs
PAGE = Path("site", "_build", "html", "index.html")
TITLES = {  # of the results, as on their pages; results merely assembled from others have no line
    "data": "real pairs", "cluster": "clusters", "windows": "windows around the lesions",
    "train": "diffusion models", "inpaint": "painted pairs", "paste": "pairs with pasted lesions",
    "style": "styled pairs", "gan": "pairs of the GAN", "evaluate": "distances, copies, memory",
    "tests": "test sets", "scorers": "networks of the filter", "filter": "pairs that the filter keeps",
    "segment": "segmentation networks", "augment": "networks on small sets"}
TO_DO = ("to make", "stale")


def text(run: Run, shown: str, verify: bool = False, seconds: float = 0.0) -> Iterator[str]:
    """The status of a run, line by line; `shown` is what the user calls its folder.

    `verify` compares the hash of every file. The device is probed for about `seconds` to estimate the time
    left, if the run has not finished enough to tell.
    """
    holder, table = lock.holder(run.folder), standing.table(run.params, run.read)
    if holder:
        yield f"Running: {holder}. {_under_way(run)}".rstrip()
    to_do = set(table.index[table["status"].isin(TO_DO)])
    yield from lines(table, remaining.took(run.folder), _counts(run, to_do))
    yield from run.changed_by_hand(verify)
    put_by = aside.kept(run.folder)
    if holder:  # which goes on with what is unfinished
        put_by = [one for one in put_by if one.seconds is not None]
    if put_by:
        total = size(sum(one.bytes for one in put_by))
        yield (f"Set aside{'' if holder else ' or unfinished'}: {counted(len(put_by), 'item')}, {total}; "
               f"`diffusegen clean {shown}` lists them.")
    last = None
    if holder and (word := display.said(run.folder)):
        left, last = word
        yield f"Time left for the running command: {left or 'not known yet'}. It ends with {_ending(last)}."
    elif to_do:
        yield _time(run, shown, bool(holder), seconds)
    yield next_step(table, shown, bool(holder), (run.folder / PAGE).is_file(), last)


def lines(table: pd.DataFrame, took: Mapping[str, float], counts: Mapping[str, str]) -> Iterator[str]:
    """One line for each row of a `standing.table`: chapter, title, and state.

    `took` has the seconds that results took, `counts` how many parts of unfinished ones are made.
    """
    blamed: dict[str, str] = {}  # reason -> the first result with it, which causes the others
    for name, title in TITLES.items():
        if name not in table.index:
            continue
        row = table.loc[name]
        cause = blamed.setdefault(row["reason"], name) if row["status"] not in ("made", "none") else name
        yield f"{NUMBERS[PAGES.get(name, name)]}  {title:28} {_state(name, cause, row, took, counts)}"


def _state(name: str, cause: str, row: pd.Series, took: Mapping[str, float],
           counts: Mapping[str, str]) -> str:
    """The state of a result in words; `row` is its row of the table, `cause` the first result with the same
    reason."""
    status = row["status"]
    if status == "made":
        return f"made; {duration(took[name])} of work" if took.get(name) else "made"
    if status == "none":
        return "not asked for"
    if status == "refused":
        return f"refused: {row['reason']}" if name == cause else f"waits for the {TITLES[cause]}"
    if row["set_aside"]:
        return "set aside; the run takes it back" if name == cause else f"waits for the {TITLES[cause]}"
    if status == "stale":
        return (f"stale: {some(row['differing'], SHOWN)}" if name == cause else
                f"stale, as the {TITLES[cause]} are")
    return f"to make{counts.get(name, '')}"


def _counts(run: Run, to_do: Collection[str]) -> dict[str, str]:
    """How much is finished of chapters whose parts are made one by one: ": 3 of 10 are made". Only of those
    `to_do`, as reading a grid again takes long."""
    known = {}
    for name in GRIDS:
        if name in to_do and (grid := run.finished(name)) is not None:
            known[name] = f": {len(grid.runs) - grid.unfinished} of {len(grid.runs)} are made"
    if there := remaining.models_made(run):
        known["train"] = f": {there} of {remaining.models(run.params)} are made"
    return known


def _under_way(run: Run) -> str:
    """The running chapter and its progress. Without progress the chapter is not named: its page may be left
    over from a killed command."""
    told = "; ".join(map(progress.words, progress.posted(run.folder)))
    page = _page(run) if told else ""
    return f"{page}: {told}" if page else told


def _page(run: Run) -> str:
    """The page under way, as "02_train"; "" if there is none."""
    pages = sorted((run.folder / "notebooks" / "running").glob("*.ipynb"), key=_changed)
    return pages[-1].stem if pages else ""


def _changed(path: Path) -> float:
    with contextlib.suppress(OSError):  # the chapter has just ended
        return path.stat().st_mtime
    return 0.0


def _time(run: Run, shown: str, running: bool, seconds: float) -> str:
    """How long the rest takes; where that is unknown, the command that measures it."""
    p, told = run.params, ""
    try:
        table = remaining.counted(run)
        rest = remaining.ahead(run, table)
        if rest.seconds is None and seconds and not running:
            p, _ = plan.at_hand(p)
            busy = probe.busy(devices.device(p.device))
            rates = probe.rates(p, count(p), sorted(set(table["kind"])), seconds)
            rest = remaining.ahead(run, table, rates.set_index("kind")["rate"].dropna().to_dict())
            pace.remember(p, rates, bool(busy))
        elif rest.seconds is None and (known := pace.known(p)):
            rest = remaining.ahead(run, table, known)
            told = (" This is based on an earlier measurement of this device; "
                    f"`diffusegen status {shown} --seconds 20` measures it again.")
    except UserError as error:
        return f"The time left cannot be estimated: {error}"
    levels = progress.posted(run.folder) if running else []
    if rest.seconds is None:
        if (left := _by_progress(run, rest, levels)) is not None:
            return f"Left to make: {about(left)}, judged by the progress of what is under way."
        measure = "" if running else f"; `diffusegen status {shown} --seconds 20` measures this device"
        return f"Left to make: time unknown, as too little is finished yet{measure}."
    now = levels[0] if levels and levels[0]["left"] else None
    here = f"; {now['title']} takes {about(now['left'])} of it" if now else ""
    return f"Left to make: {about(rest.seconds)} if items run one after the other{here}.{told}"


def _by_progress(run: Run, rest: remaining.Ahead, levels: Sequence[progress.Level]) -> float | None:
    """Seconds left by the pace of the running chapter alone; None if that is not known."""
    page = _page(run)
    now = next((name for name in rest.work if page[2:].startswith(f"_{name}")), None)
    if now is None or not levels:
        return None
    chapters = list(rest.work)
    return remaining.left(rest, chapters[chapters.index(now):], {}, float(levels[0]["elapsed"]), levels)


def _ending(last: str) -> str:
    """The chapter that a command ends with, in words."""
    return f"chapter {NUMBERS[last]}" if last in NUMBERS else "the last one"


def next_step(table: pd.DataFrame, shown: str, running: bool, book: bool, last: str | None = None) -> str:
    """The command that comes next; `last` is the chapter that a running one ends with, None if unknown."""
    again = f"diffusegen run {shown}/{ownparams.PARAMS}"
    if running:
        then = f"; `{again}` makes the rest afterwards" if last in NUMBERS else "; the run goes on by itself"
        return f"Next: `diffusegen status {shown}` in a while{then}."
    if "refused" in set(table["status"]):
        return f"Next: correct what is refused, then `{again}`."
    if set(table["status"]) & set(TO_DO):
        return f"Next: `{again}` makes the rest, and keeps what is made."
    if not book:
        return f"Next: `diffusegen book {shown}` builds the book."
    return f"Next: open {shown}/{PAGE.as_posix()} in a browser."


def beside_plan(run: Run, plan: Plan) -> tuple[str, bool]:
    """What is there and left of a run whose whole work is planned, in words, and whether nothing is left; ""
    where nothing is there."""
    if not ownparams.is_there(run.folder):
        return "", False
    folder = relative(run.folder)
    if holder := lock.holder(run.folder):
        return f"This run is in use by {holder}: `diffusegen status {folder}` tells what it is doing.", False
    table = standing.table(run.params, run.read)
    statuses = set(table["status"])
    if not statuses & {*TO_DO, "refused"}:
        built = (run.folder / PAGE).is_file()
        return f"All of this is made in {folder}. {next_step(table, folder, False, built)}", True
    rates = {} if plan.rates is None else plan.rates.set_index("kind")["rate"].dropna().to_dict()
    left = remaining.ahead(run, plan.table[remaining.COLUMNS], rates).seconds
    time = "" if left is None else f": {about(left)} if items run one after the other"
    return f"A part of this is made in {folder}, and `diffusegen run` makes only the rest{time}.", False


def unfinished(run: Run) -> str:
    """The command that goes on with a run, as the last line of one that has made a part; "" if nothing is
    left."""
    table = standing.table(run.params, Run(run.params).read)  # notebooks have made more than `run` has read
    return next_step(table, relative(run.folder), False, True) if set(table["status"]) & set(TO_DO) else ""


def every() -> Iterator[str]:
    """One line for each run in runs/: its folder, how many chapters are made, and other facts."""
    folder = home() / RUNS
    there = sorted(filter(ownparams.is_there, folder.iterdir())) if folder.is_dir() else []
    if not there:
        yield f"There is no run in {folder}. `diffusegen run params/smoke.yaml` makes one."
    width = max((len(place.name) for place in there), default=0)
    for place in there:
        yield f"{RUNS}/{place.name:{width}}  {_brief(place)}"


def _brief(folder: Path) -> str:
    try:
        table = Run.open(folder).status()
    except UserError as error:
        return f"cannot be read: {error}"
    parts = [f"{_pages(table, 'made', 'none')} of {len(NUMBERS) + 1} chapters made"]
    stale = len(NUMBERS) + 1 - _pages(table, "made", "none", "to make", "refused")
    parts += [f"{stale} stale"] if stale else []
    parts += ["a part is refused"] if "refused" in set(table["status"]) else []
    parts += ["book built"] if (folder / PAGE).is_file() else []
    parts += [f"running: {holder}"] if (holder := lock.holder(folder)) else []
    return ", ".join(parts)


def _pages(table: pd.DataFrame, *among: str) -> int:
    """How many chapters have only results with these statuses. The last, the summary, has none of its own: it
    counts as those do that it sums up."""
    pages = {chapter: set(table["status"][[PAGES.get(name, name) == chapter for name in table.index]])
             for chapter in NUMBERS}
    return sum(statuses <= set(among) for statuses in (*pages.values(), pages["segment"] | pages["augment"]))
