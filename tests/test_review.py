"""The review kit: a form that gives nothing away, keeps answers, exports them; and Table B1 from them."""

import base64
import io
import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from browser import Browser
from PIL import Image

from diffusegen_core.config.errors import UserError
from diffusegen_core.report import published, review

STYLED = "20-<script>alert('Styled')</script>"
KINDS = {"Real": (".jpg", (48, 40)), "20-Diff": (".png", (36, 36)), STYLED: (".png", (44, 44))}


def write_dataset(folder: Path, suffix: str, size: tuple[int, int], stems: list[str], blue: int) -> None:
    """Pairs whose colour says which file they come from: red counts the files, blue is the type's."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for i, stem in enumerate(stems):
        picture = Image.new("RGB", size, (20 * i, 90, blue))
        mask = Image.new("L", size)
        mask.paste(255, (0, 0, size[0] // 2, size[1]))
        exif = Image.Exif()
        exif[0x010E] = f"{stem} of {folder}"
        picture.save(folder / "images" / f"{stem}{suffix}", exif=exif, quality=95)
        mask.save(folder / "masks" / f"{stem}{suffix}", quality=30)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Twelve pairs of three types; the last type and its files have names that are HTML."""
    root = tmp_path_factory.mktemp("datasets")
    made = {}
    for i, (kind, (suffix, size)) in enumerate(KINDS.items()):
        made[kind] = root / f"type{i}"
        stems = [f"{'<i>&quot;' if kind == STYLED else 'stem'}{i}-{n}" for n in range(12)]
        write_dataset(made[kind], suffix, size, stems, blue=100 * i)
    return made


@pytest.fixture(scope="module")
def kit(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return review.make(folders, tmp_path_factory.mktemp("kit"))


def embedded(page: Path) -> dict:
    """The form's data, as its script reads them."""
    text = page.read_text(encoding="utf-8")
    return json.loads(text.split('id="form">')[1].split("</script>")[0])


def png(uri: str) -> bytes:
    return base64.b64decode(uri.removeprefix("data:image/png;base64,"), validate=True)


def chunks(data: bytes) -> list[bytes]:
    """The kinds of a PNG's chunks."""
    at, kinds = 8, []
    while at < len(data):
        kinds.append(data[at + 4:at + 8])
        at += 12 + int.from_bytes(data[at:at + 4], "big")
    return kinds


# The form


def test_the_form_does_not_tell_the_types_apart(kit: tuple[Path, Path], folders: dict[str, Path]) -> None:
    items = embedded(kit[0])["items"]
    assert len(items) == 30
    for part, mode in (("image", "RGB"), ("mask", "L")):
        data = [png(item[part]) for item in items]
        assert {tuple(chunks(d)) for d in data} == {(b"IHDR", b"IDAT", b"IEND")}
        # All of the header: size, depth, colour type, compression, filter, interlace.
        assert len({d[:29] for d in data}) == 1
        pictures = [Image.open(io.BytesIO(d)) for d in data]
        assert {(p.mode, p.size) for p in pictures} == {(mode, (36, 36))}
    assert all(set(np.unique(Image.open(io.BytesIO(png(item["mask"]))))) == {0, 255} for item in items)
    assert all(set(item) == {"image", "mask"} for item in items)
    text = kit[0].read_text(encoding="utf-8")
    names = [stem for n in range(3) for stem in (f"type{n}", f"stem{n}-", f"&quot;{n}-")]
    assert not [name for name in [*names, "Diff", "Styled", str(folders["Real"].parent)] if name in text]


def test_the_form_asks_nothing_of_the_network(kit: tuple[Path, Path]) -> None:
    text = kit[0].read_text(encoding="utf-8")
    assert "://" not in text
    assert "default-src 'none'" in text


def test_the_key_says_what_each_pair_is(kit: tuple[Path, Path]) -> None:
    form, key = embedded(kit[0]), json.loads(kit[1].read_text(encoding="utf-8"))
    assert key["form"] == form["form"]
    assert list(map(int, sorted(key["items"], key=int))) == list(range(1, 31))
    kinds = list(KINDS)
    for number, item in key["items"].items():
        picture = Image.open(io.BytesIO(png(form["items"][int(number) - 1]["image"])))
        red, _, blue = picture.resize((1, 1)).getpixel((0, 0))
        assert abs(blue - 100 * kinds.index(item["type"])) < 10
        assert abs(red - 20 * int(item["name"].split("-")[-1])) < 10


def test_each_type_has_ten_different_pairs_in_shuffled_order(kit: tuple[Path, Path]) -> None:
    items = json.loads(kit[1].read_text(encoding="utf-8"))["items"]
    order = [items[str(n)]["type"] for n in range(1, 31)]
    assert {kind: order.count(kind) for kind in KINDS} == dict.fromkeys(KINDS, 10)
    assert len({item["name"] for item in items.values()}) == 30
    # 30 shuffled items of three types change type 20 times on average; sorted ones, twice.
    assert sum(a != b for a, b in pairwise(order)) > 10


def test_the_seed_decides_the_form(kit: tuple[Path, Path], folders: dict[str, Path], tmp_path: Path) -> None:
    again, other = review.make(folders, tmp_path / "again"), review.make(folders, tmp_path / "other", seed=1)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in kit]
    assert embedded(other[0])["form"] != embedded(kit[0])["form"]


def test_pictures_are_squared_to_the_smallest_or_largest_allowed_side(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    for limit, side in ((512, 36), (24, 24)):
        page, _ = review.make(folders, tmp_path / str(limit), per_type=1, max_side=limit)
        pictures = [png(uri) for item in embedded(page)["items"] for uri in item.values()]
        assert {Image.open(io.BytesIO(data)).size for data in pictures} == {(side, side)}


def test_an_empty_mask_is_shown(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", ".png", (8, 8), ["a"], blue=0)
    Image.new("L", (8, 8)).save(tmp_path / "data" / "masks" / "a.png")
    page, _ = review.make({"Real": tmp_path / "data"}, tmp_path, per_type=1)
    mask = Image.open(io.BytesIO(png(embedded(page)["items"][0]["mask"])))
    assert not np.asarray(mask).any()


def test_what_cannot_be_shown_is_told(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one of the data types must be named Real"):
        review.make({"20-Diff": folders["20-Diff"]}, tmp_path)
    with pytest.raises(UserError, match=r"type0 has 12 pairs; the review needs 13 of Real"):
        review.make(folders, tmp_path, per_type=13)
    write_dataset(tmp_path / "broken", ".png", (8, 8), ["a"], blue=0)
    (tmp_path / "broken" / "images" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(UserError, match=r"a\.png cannot be read as a picture"):
        review.make({"Real": tmp_path / "broken"}, tmp_path, per_type=1)
    with pytest.raises(UserError, match="nowhere is not a folder"):
        review.make({"Real": tmp_path / "nowhere"}, tmp_path)
    assert not list(tmp_path.glob("form.html"))


# The score


def papers_answers() -> tuple[dict, dict]:
    """Answers and key that add up to the published Table B1."""
    answers, items = {}, {}
    for kind, rows in published.table("B1").groupby("data_type"):
        spread = {title: [answer for answer, n in zip(part["answer"], part["value"], strict=True)
                          for _ in range(int(n))] for title, part in rows.groupby("question")}
        for i in range(10):
            number = str(len(items) + 1)
            items[number] = {"type": kind, "name": f"{kind}-{i}"}
            answers[number] = {name: spread[q["title"]][i] for name, q in review.QUESTIONS.items()}
    return {"form": "paper", "answers": answers}, {"form": "paper", "items": items}


def save(folder: Path, answers: object, key: object) -> tuple[Path, Path]:
    paths = folder / "answers.json", folder / "key.json"
    for path, value in zip(paths, (answers, key), strict=True):
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return paths


def test_the_papers_answers_give_the_papers_score(tmp_path: Path) -> None:
    result = review.score(*save(tmp_path, *papers_answers()))
    table = published.table("B1")
    assert list(result.counts.index) == ["Real", "Diff", "Styled-Diff"]
    for row in table.itertuples():
        assert result.counts.loc[row.data_type, (row.question, row.answer)] == row.value
    assert result.counts.size == len(table)
    rates = result.agreement
    assert rates["hits"].to_dict() == {"Accuracy": 18, "Precision": 4, "Recall": 4}
    assert rates["of"].to_dict() == {"Accuracy": 30, "Precision": 10, "Recall": 10}
    assert rates["value"].to_dict() == {"Accuracy": 0.6, "Precision": 0.4, "Recall": 0.4}
    assert "Accuracy 60.0 % (18 of 30), 95 % interval 42.3 to 75.4 %." in review.describe(result)


def test_the_intervals_are_wilsons(tmp_path: Path) -> None:
    z = 1.959963984540054
    for rate in review.score(*save(tmp_path, *papers_answers())).agreement.itertuples():
        p, n = rate.hits / rate.of, rate.of
        centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        assert (rate.low, rate.high) == pytest.approx((centre - half, centre + half), abs=1e-12)


def test_partial_answers_are_scored_and_counted(tmp_path: Path) -> None:
    answers, key = papers_answers()
    for number, answer in answers["answers"].items():
        answer["quality"] = None
        if key["items"][number]["type"] == "Real":
            answer["origin"] = None
    result = review.score(*save(tmp_path, answers, key))
    assert result.answered.to_dict() == {"Image Quality": 0, "Segmentation Quality": 30, "Real or Fake": 20}
    assert result.counts["Image Quality"].to_numpy().sum() == 0
    assert result.agreement.loc["Accuracy", ["hits", "of"]].tolist() == [14, 20]
    assert np.isnan(result.agreement.loc["Recall", "value"])
    text = review.describe(result)
    assert "Answered, of 30 pairs: Image Quality 0, Segmentation Quality 30, Real or Fake 20." in text
    assert "Recall: nothing to count." in text


def test_hostile_names_are_harmless_in_a_terminal(tmp_path: Path) -> None:
    answers, key = papers_answers()
    for item in key["items"].values():
        item["type"] = item["type"].replace("Styled", "\x1b[2J\nStyled\u2028")
    text = review.describe(review.score(*save(tmp_path, answers, key)))
    assert r"\x1b[2J\nStyled\u2028-Diff" in text
    assert all(c.isprintable() or c == "\n" for c in text)


def _replaced(path: list[str], value: object) -> dict:
    answers, _ = papers_answers()
    place = answers
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return answers


def _without(number: str) -> dict:
    answers, _ = papers_answers()
    del answers["answers"][number]
    return answers


@pytest.mark.parametrize(("answers", "message"), [
    ("no JSON", r"answers\.json is not exported answers: Invalid JSON"),
    ("[" * 100_000, r"answers\.json is not exported answers"),
    ("[]", r"answers\.json is not exported answers"),
    (papers_answers()[1], r"answers\.json is not exported answers: answers: Field required"),
    (_replaced(["form"], "another"), r"answers\.json belongs to form another, but .*key\.json .* form paper"),
    (_replaced(["answers", "3", "quality"], "Superb"), r"answers\.3\.quality: .*'Moderate'.*, not 'Superb'"),
    (_replaced(["answers", "3", "origin"], "real"), r"answers\.3\.origin: .*, not 'real'"),
    (_replaced(["answers", "3"], {"quality": "Good"}), r"answers\.3\.segmentation: Field required"),
    (_replaced(["answers", "\x1b99"], {"quality": None, "segmentation": None, "origin": None}),
     r"answers\.json answers a pair that the form does not have, \\x1b99"),
    (_without("7"), r"answers\.json lacks pair 7"),
    (_replaced(["answers"], {str(n): dict.fromkeys(review.QUESTIONS) for n in range(1, 31)}),
     r"answers\.json holds no answer yet"),
])
def test_bad_answers_are_refused_by_name(tmp_path: Path, answers: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        review.score(*save(tmp_path, answers, papers_answers()[1]))


def test_bad_files_are_refused_by_name(tmp_path: Path) -> None:
    answers, key = save(tmp_path, papers_answers()[0], {"form": "paper"})
    with pytest.raises(UserError, match=r"key\.json is not a key file: items: Field required"):
        review.score(answers, key)
    save(tmp_path, {"form": "paper", "answers": {}}, {"form": "paper", "items": {}})
    with pytest.raises(UserError, match=r"key\.json is not a key file: items: .* at least 1 item"):
        review.score(answers, key)
    with pytest.raises(UserError, match=r"absent\.json cannot be read: No such file"):
        review.score(tmp_path / "absent.json", key)
    answers.write_bytes(b'{"form": "\xff"}')
    with pytest.raises(UserError, match=r"answers\.json is not exported answers"):
        review.score(answers, key)


# The form in a browser


class Page:
    """The form as a reviewer meets it."""

    def __init__(self, browser: Browser, path: Path, downloads: Path) -> None:
        self.browser, self.path, self.downloads = browser, path, downloads
        browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))

    def open(self) -> None:
        report = self.browser.open_page(self.path, width=1366, height=680)
        assert (report.console_errors, report.outgoing_requests, report.broken_images) == ([], [], [])
        assert report.scroll_width <= 1366

    def press(self, *keys: str) -> None:
        for key in keys:
            for kind in ("keyDown", "keyUp"):
                self.browser.call("Input.dispatchKeyEvent", type=kind, key=key)

    def value(self, expression: str) -> object:
        answer = self.browser.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def text(self, name: str) -> str:
        return self.value(f"document.getElementById('{name}').innerText")

    def pressed(self) -> list[str]:
        return self.value("[...document.querySelectorAll('[aria-pressed=true]')].map(b => b.dataset.answer)")

    def exported(self) -> Path:
        """The exported file, once it is whole."""
        deadline = time.monotonic() + 10
        while not (found := list(self.downloads.glob("answers-*.json"))):
            assert time.monotonic() < deadline, "nothing was downloaded"
            time.sleep(0.05)
        return found[0]


@pytest.fixture
def page(kit: tuple[Path, Path], tmp_path: Path) -> Iterator[Page]:
    with Browser() as browser:
        yield Page(browser, kit[0], tmp_path)


def test_answers_by_keyboard_outlive_the_window_and_are_scored(page: Page, kit: tuple[Path, Path]) -> None:
    page.open()
    assert page.text("progress") == "Pair 1 of 30 · 0 of 30 answered"
    assert "1 2 3 image quality · 4 5 6 segmentation quality · R F real or fake" in page.text("help")
    page.press("1", "4", "r", "ArrowRight", "2", "5", "F", "ArrowRight", "3")
    page.press("ArrowRight", "ArrowLeft")
    page.open()  # through another page: the window was closed
    assert page.text("progress") == "Pair 3 of 30 · 2 of 30 answered"
    assert page.text("missing") == "Not fully answered: 3 to 30."
    assert page.pressed() == ["Poor"]
    page.press("ArrowLeft")
    assert page.pressed() == ["Moderate", "Moderate", "Fake"]
    page.press("1", "u")
    assert page.text("progress").startswith("Pair 3 ")
    page.press("6", "r", *["ArrowRight", "1", "4", "f"] * 27)
    assert page.text("missing").startswith("Everything is answered.")
    page.press("e")
    result = review.score(page.exported(), kit[1])
    assert result.answered.tolist() == [30, 30, 30]
    sums = result.counts.sum()
    assert sums["Image Quality"].to_dict() == {"Good": 29, "Moderate": 0, "Poor": 1}
    assert sums["Segmentation Quality"].to_dict() == {"Good": 28, "Moderate": 1, "Poor": 1}
    assert sums["Real or Fake"].to_dict() == {"Real": 2, "Fake": 28}


def test_a_mouse_is_enough(page: Page, kit: tuple[Path, Path]) -> None:
    page.open()
    for selector in ("[data-question=origin][data-answer=Fake]", "#next", "[data-question=quality]",
                     "#strip li:nth-child(9) button", "[data-question=origin]", "#export"):
        page.value(f"document.querySelector('{selector}').click()")
    given = json.loads(page.exported().read_text(encoding="utf-8"))["answers"]
    nothing = dict.fromkeys(review.QUESTIONS)
    assert {number: answer for number, answer in given.items() if answer != nothing} == {
        "1": nothing | {"origin": "Fake"},
        "2": nothing | {"quality": "Good"},
        "9": nothing | {"origin": "Real"},
    }
    assert review.score(page.exported(), kit[1]).answered["Real or Fake"] == 2


def test_a_browser_that_keeps_nothing_says_so_and_exports(page: Page, kit: tuple[Path, Path]) -> None:
    page.browser.call("Page.addScriptToEvaluateOnNewDocument", source="""
        const get = () => { throw new DOMException("blocked", "SecurityError"); };
        Object.defineProperty(window, "localStorage", { get });
    """)
    page.open()
    assert page.value("document.getElementById('warning').hidden") is False
    page.press("3", "4", "f", "e")
    assert review.score(page.exported(), kit[1]).answered.tolist() == [1, 1, 1]


def test_a_spoilt_memory_does_no_harm(page: Page) -> None:
    page.open()
    for kept in ("not JSON", "null", '{"answers": 3, "current": 99}',
                 '{"answers": [{"quality": "<img>", "origin": 7}, null], "current": "length"}'):
        page.value(f"localStorage.setItem(store, {json.dumps(kept)})")
        page.open()
        assert page.text("progress") == "Pair 1 of 30 · 0 of 30 answered"
        assert page.value("document.getElementById('warning').hidden") is True
