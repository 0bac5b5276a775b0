"""The book as one PDF: Sphinx makes a single page of it, and an installed browser prints that page."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from diffusegen_core.config.errors import UserError

# Programs to look for on PATH: Chromium and its derivatives. Other browsers cannot print without a window.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge",
            "microsoft-edge")
NAMED = "DIFFUSEGEN_BROWSER"  # the environment variable that names another program
# No requests to other machines; the virtual time (600 s, in ms) is enough for all formulas to be drawn.
FLAGS = ("--headless", "--disable-gpu", "--no-first-run", "--disable-sync", "--disable-background-networking",
         "--disable-component-update", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND",
         "--no-pdf-header-footer", "--virtual-time-budget=600000")
MOST_SECONDS = 1800


def browser() -> str:
    """The browser to print with. UserError where there is none."""
    named = os.environ.get(NAMED)
    program = shutil.which(named) if named else next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        what = f"{NAMED} names {named}, which is not a program here" if named else "There is no browser here"
        raise UserError(f"{what}, and the PDF needs a browser to print it: install Chromium, Chrome or Edge, "
                        f"or name the program in {NAMED}. Without --pdf the book is built as pages, which "
                        "any browser can print.")
    return program


def print_page(page: Path, target: Path) -> None:
    """Print an HTML file as a PDF. UserError, with the browser's own words, if that fails."""
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as profile:
        # Chromium's sandbox refuses to run as root, which is the user in most containers.
        free = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
        command = [browser(), *FLAGS, *free, f"--user-data-dir={profile}", f"--print-to-pdf={target}",
                   page.resolve().as_uri()]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace",
                                  stdin=subprocess.DEVNULL, timeout=MOST_SECONDS)
        except subprocess.TimeoutExpired:
            raise UserError(f"{command[0]} did not print the book in {MOST_SECONDS // 60} minutes.") from None
    if done.returncode or not target.is_file():
        lines = done.stderr.strip().splitlines()[-3:]
        raise UserError("\n".join([f"{command[0]} did not print the book:", *lines]))
