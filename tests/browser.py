"""Headless Chromium for tests, driven over its DevTools protocol: what a page logs, asks for and shows."""

import base64
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
import websocket

# No request can leave the machine: it is seen, and it fails.
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
         "--allow-file-access-from-files", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
         "--remote-debugging-port=0", "--remote-allow-origins=*"]
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
LOCAL = ("file:", "data:", "blob:", "about:")
SECONDS = 30

SETTLED = """(async () => {
    if (window.MathJax) await MathJax.startup?.promise;
    document.getAnimations().forEach(animation => animation.cancel());
    const broken = [];
    for (const image of document.images) {
        image.loading = "eager";
        await image.decode().catch(() => broken.push(image.src));
    }
    const formulas = [...document.querySelectorAll("mjx-container[display=true]")];
    const wide = formulas.filter(one => one.scrollWidth > one.clientWidth + 1);
    return {title: document.title, broken_images: broken, scroll_width: document.documentElement.scrollWidth,
            cut_formulas: wide.map(one => one.closest("[id]")?.id ?? "")};
})()"""


@dataclass(frozen=True)
class PageReport:
    """What a page did in a window of a given width, pixels."""

    title: str
    console_errors: list[str]
    outgoing_requests: list[str]
    broken_images: list[str]
    scroll_width: int
    cut_formulas: list[str]
    """Where formulas are that their box has no room for."""


class Browser:
    """One headless Chromium with one page, as a context manager. Skips the test where there is none."""

    def __enter__(self) -> "Browser":
        program = next(filter(None, map(shutil.which, PROGRAMS)), None)
        if program is None:
            pytest.skip("Chromium is not installed, so no page was opened")
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._sent, self._events = 0, []
        try:
            self._socket = websocket.create_connection(self._address(), timeout=SECONDS)
            for domain in ("Page", "Runtime", "Network", "Log"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._profile.cleanup()

    def open_page(self, path: Path, width: int = 1280, height: int = 900,
                  picture: Path | None = None) -> PageReport:
        """Open a file, wait for its formulas and images, and report; `picture` is a PNG of the whole page."""
        self._navigate("about:blank")
        self._resize(width, height)
        self._navigate(path.resolve().as_uri())
        answer = self.call("Runtime.evaluate", expression=SETTLED, awaitPromise=True, returnByValue=True)
        if picture is not None:
            # A window as high as the page: what Chromium captures beyond a window is laid out otherwise.
            self._resize(width, int(self.call("Page.getLayoutMetrics")["cssContentSize"]["height"]))
            shot = self.call("Page.captureScreenshot", format="png")
            picture.write_bytes(base64.b64decode(shot["data"]))
        requests = [event["params"]["request"]["url"] for event in self._events
                    if event["method"] == "Network.requestWillBeSent"]
        return PageReport(console_errors=[text for e in self._events if (text := _error(e))],
                          outgoing_requests=[url for url in requests if not url.startswith(LOCAL)],
                          **answer["result"]["value"])

    def _resize(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=False)

    def _address(self) -> str:
        """The page's debugging address; Chromium writes its port to a file once it listens."""
        port_file = Path(self._profile.name) / "DevToolsActivePort"
        deadline = time.monotonic() + SECONDS
        while not (port_file.is_file() and port_file.read_text().count("\n")):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("Chromium did not start.")
            time.sleep(0.05)
        port = port_file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=SECONDS) as answer:
            targets = json.load(answer)
        return next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page")

    def call(self, method: str, **params: object) -> dict:
        """Send one DevTools command; its result. Events that come meanwhile are kept."""
        self._sent += 1
        self._socket.send(json.dumps({"id": self._sent, "method": method, "params": params}))
        while (message := json.loads(self._socket.recv())).get("id") != self._sent:
            self._events.append(message)
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']['message']}")
        return message["result"]

    def _navigate(self, url: str) -> None:
        self._events.clear()
        self.call("Page.navigate", url=url)
        self._wait_for("Page.loadEventFired")

    def _wait_for(self, method: str) -> None:
        while not any(event["method"] == method for event in self._events):
            self._events.append(json.loads(self._socket.recv()))


def _error(event: dict) -> str | None:
    """The text of an event that a reader's console would show as an error."""
    params = event["params"]
    if event["method"] == "Runtime.exceptionThrown":
        details = params["exceptionDetails"]
        return details.get("exception", {}).get("description", details["text"])
    if event["method"] == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
        return " ".join(str(a.get("value", a.get("description"))) for a in params["args"])
    if event["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
        return f"{params['entry']['text']} {params['entry'].get('url', '')}"
    return None
