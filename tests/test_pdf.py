"""The book as one PDF: which browser prints it, what it says where it does not, and where the file lies."""

import json
import shutil
from pathlib import Path

import pytest

from diffusegen_core.config.errors import UserError
from diffusegen_core.report import book, pdf

PAGE = "<html><head><title>Title</title></head><body><h1>One</h1><p>Two</p></body></html>"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.html"
    path.write_text(PAGE)
    return path


def named(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A program that stands in for a browser."""
    program = folder / "browser"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv(pdf.NAMED, str(program))


def test_without_a_browser_one_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(pdf.NAMED, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"no browser here.*install Chromium, Chrome or Edge"):
        pdf.browser()


def test_a_named_program_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(pdf.NAMED, "no-such-browser")
    with pytest.raises(UserError, match="names no-such-browser, which is not a program here"):
        pdf.browser()


def test_what_a_browser_says_is_told_where_nothing_comes_of_it(page: Path, tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    named(tmp_path, monkeypatch, "echo no room on the disk >&2; exit 0")
    with pytest.raises(UserError, match="did not print the book:\nno room on the disk"):
        pdf.print_page(page, tmp_path / "out.pdf")


def test_a_browser_that_prints_for_ever_is_stopped(page: Path, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    named(tmp_path, monkeypatch, "exec sleep 60")
    monkeypatch.setattr(pdf, "MOST_SECONDS", 0.2)
    with pytest.raises(UserError, match="did not print the book in"):
        pdf.print_page(page, tmp_path / "out.pdf")


def test_a_browser_may_ask_no_other_machine(page: Path, tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    named(tmp_path, monkeypatch, f'echo "$@" > {tmp_path}/told; echo x > {tmp_path}/out.pdf')
    pdf.print_page(page, tmp_path / "out.pdf")
    told = (tmp_path / "told").read_text()
    assert "MAP * ~NOTFOUND" in told
    assert told.strip().endswith(page.as_uri())


def test_chromium_prints_a_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(pdf.NAMED, raising=False)
    if not any(map(shutil.which, pdf.BROWSERS)):
        pytest.skip("no browser is installed, so nothing was printed")
    pdf.print_page(page, tmp_path / "out.pdf")
    written = (tmp_path / "out.pdf").read_bytes()
    assert written.startswith(b"%PDF-")
    assert b"/Title" in written


def test_a_book_that_cannot_be_printed_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(pdf.NAMED, "no-such-browser")
    with pytest.raises(UserError, match="no-such-browser"):
        book.build(tmp_path, [], as_pdf=True)
    assert list(tmp_path.iterdir()) == []


def test_the_pdf_lies_beside_the_pages_and_is_the_program_s_own(tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """Jupyter Book is stood in for: that it makes one page of all is seen in `diffusegen book --pdf`."""
    rendered: list[tuple[str, ...]] = []

    def render(site: Path, strict: bool, *options: str) -> None:
        rendered.append(options)
        place = Path(options[-1]) / "_build" / "singlehtml" if options else site / "_build" / "html"
        (place / "_static").mkdir(parents=True)
        (place / "index.html").write_text(PAGE)

    named(tmp_path, monkeypatch,
          'for one; do case $one in --print-to-pdf=*) echo x > "${one#*=}";; esac; done')
    monkeypatch.setattr(book, "_render", render)
    run = tmp_path / "run"
    path = book.build(run, [], as_pdf=True)
    assert path == run / "site" / "_build" / "diffusegen.pdf"
    assert path.is_file()
    assert [options[:4] for options in rendered] == [(), ("--builder", "custom", "--custom-builder",
                                                          "singlehtml")]
    assert f"_build/{book.PDF}" in json.loads((run / "site" / book.MARK).read_text())
    assert (run / "site" / "_build" / "html" / "_static" / "mathjax" / "tex-svg.js").is_file()
