"""A visitor of the page in a real browser (Debian's chromium), for the tests that drive it.

Where chromium or gradio is missing they skip with one line; with PALIMPSEST_BROWSER=1 that is a failure.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny

ROOT = Path(__file__).parents[1]
PROGRAMS = [shutil.which("chromium"), shutil.which("chromedriver")]
LAST = int(
    os.environ.get("PALIMPSEST_WAIT", 120)
)  # seconds that anything may take on a loaded computer
TOAST = "[class*=toast-body]"  # gradio's word for an error
MISSING = "no chromium, chromedriver, selenium and gradio here: apt-get install chromium chromium-driver, pip install -e '.[dev]'"

try:
    import gradio  # noqa: F401
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    here = all(PROGRAMS)
except ModuleNotFoundError:
    here = False
if not here and not os.environ.get("PALIMPSEST_BROWSER"):
    pytest.skip(MISSING, allow_module_level=True)


@dataclass
class Server:
    address: str
    folder: Path  # temporary files
    log: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    assert here, MISSING
    where = tmp_path_factory.mktemp("web")
    prior = tiny.folder(where / "tiny", tiny.pixel(16))
    (where / "temporary").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--port", str(port), "--model", str(prior), "--max-upload-mb", "8"]
    words = [sys.executable, str(ROOT / "scripts/web.py"), *words]
    environment = {**os.environ, "TMPDIR": str(where / "temporary"), "OMP_NUM_THREADS": "1"}
    with (where / "log").open("wb") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, cwd=where)
    made = Server(f"http://127.0.0.1:{port}/", where / "temporary", where / "log")
    try:
        until(
            lambda: (
                process.poll() is not None
                or urllib.request.urlopen(made.address, timeout=30).status == 200
            )
        )
        assert process.poll() is None, made.log.read_text()
        yield made
    finally:
        process.terminate()
        process.wait(LAST)
        assert not list(made.folder.glob("palimpsest-web-*")), "folders of sessions are left"
        assert "Traceback" not in made.log.read_text(), made.log.read_text()


def browser() -> Any:
    options = webdriver.ChromeOptions()
    options.binary_location = PROGRAMS[0]  # type: ignore[assignment]
    for word in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{word}")
    options.add_argument("--window-size=1200,1600")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(PROGRAMS[1]))
    driver.set_page_load_timeout(LAST)
    return driver


class Page:
    """One visitor's browser, at the page, once it shows the demo scan."""

    def __init__(self, driver: Any, server: Server, downloads: Path):
        self.driver, self.server, self.downloads = driver, server, downloads
        self.driver.get(server.address)
        self.find(".mask img")

    def find(self, css: str) -> Any:
        return until(lambda: self.driver.find_element(By.CSS_SELECTOR, css))

    def seen(self, css: str) -> list:
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def empty(self, field: str) -> Any:
        """The box of a field, with nothing in it."""
        box = next(one for one in self.seen(f"#{field} input") if one.is_displayed())
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(Keys.BACKSPACE)
        return box

    def set(self, field: str, value: object) -> None:
        def typed() -> bool:
            box = self.empty(field)
            box.send_keys(str(value))
            self.driver.execute_script("arguments[0].blur()", box)  # a list next to it stays closed
            return box.get_attribute("value") == str(value)

        until(typed)  # controls are drawn anew when the task changes

    def choose(self, field: str, start: str) -> None:
        """The item of a drop-down list that begins so."""
        box = self.find(f"#{field} input")
        box.click()
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(start)
        until(lambda: self.seen("[role=option]"))
        box.send_keys(Keys.ENTER)
        until(lambda: box.get_attribute("value") == start)

    def send(self, path: Path) -> None:
        before = self.source(".mask img")
        self.find("#file").send_keys(str(path))
        until(
            lambda: (
                self.source(".mask img") != before
                or self.find("#said").text not in ("", "sending …")
            )
        )

    def source(self, css: str) -> str:
        return self.find(css).get_attribute("src")

    def run(self, steps: int = 2, draws: int = 1) -> None:
        self.set("steps", steps)
        self.set("draws", draws)
        self.driver.execute_script(
            "document.querySelectorAll('#words, #out .refused').forEach((old) => old.remove())"
        )
        self.find("#go").click()

    def finish(self) -> str:
        """The words about the result, or why there is none."""
        until(lambda: self.find("#go").is_enabled() and self.seen("#words, #out .refused"))
        return self.find("#words, #out .refused").text

    def value(self, field: str) -> str:
        """What a field holds."""
        return self.find(f"#{field} :is(input, textarea)").get_attribute("value")

    def code(self) -> str:
        """The same without this page."""
        if not self.seen("#code textarea"):
            self.find("#without button").click()
        return self.find("#code textarea").get_attribute("value")

    def split(self) -> float:
        """Where the line between measured and restored stands, in percent."""
        style = "return document.querySelector('.compare').style.getPropertyValue('--at')"
        return float(self.driver.execute_script(style).rstrip("%"))

    def take(self, what: str) -> Path:
        address = self.find(f"#take-{what}").get_attribute("href")
        with urllib.request.urlopen(address, timeout=LAST) as reply:
            name = re.search(r'filename="([^"]+)"', reply.headers["content-disposition"])[1]  # type: ignore[index]
            (self.downloads / name).write_bytes(reply.read())
        return self.downloads / name

    def asked(self) -> list[str]:
        """Addresses that the browser asked for since the last call."""
        events = [
            json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")
        ]
        return [
            e["params"]["request"]["url"]
            for e in events
            if e["method"] == "Network.requestWillBeSent"
        ]


def until(ready: Callable[[], Any], seconds: float = LAST) -> Any:
    """What `ready` returns once it is true; whatever it raises before is not yet."""
    end, last = time.monotonic() + seconds, None
    while time.monotonic() < end:
        try:
            if found := ready():
                return found
        except Exception as error:
            last = error
        time.sleep(0.3)
    raise AssertionError(f"nothing after {seconds} s; {last!r}")


@pytest.fixture(scope="module")
def browsers() -> Iterator[list]:
    """Those that nobody uses now."""
    idle: list[Any] = []
    yield idle
    for driver in idle:
        driver.quit()


@pytest.fixture
def visitors(server: Server, browsers: list, tmp_path: Path) -> Iterator[Callable[[], Page]]:
    used: list[Any] = []

    def visit() -> Page:
        used.append(browsers.pop() if browsers else browser())
        return Page(used[-1], server, tmp_path)

    yield visit
    told = [one.text for driver in used for one in driver.find_elements(By.CSS_SELECTOR, TOAST)]
    for driver in used:
        driver.get("about:blank")  # the page is closed
    browsers.extend(used)
    until(lambda: not list(server.folder.glob("palimpsest-web-*")))
    assert not told, told
