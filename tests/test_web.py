"""The page in a real browser (Debian's chromium): what a visitor does, and what the browser asks other hosts for: nothing.

Where chromium or gradio is missing they skip with one line; with PALIMPSEST_BROWSER=1 that is a failure.
"""

import io
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import PIL.Image
import pydicom
import pytest
import tiny

from solvers.run import panels, report

ROOT = Path(__file__).parents[1]
PROGRAMS = [shutil.which("chromium"), shutil.which("chromedriver")]
LAST = int(
    os.environ.get("PALIMPSEST_WAIT", 120)
)  # seconds that anything may take on a loaded computer
SCAN = ROOT / "models/demo-data/lung2-ax-035.dcm"
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
    words = [
        sys.executable,
        str(ROOT / "scripts/web.py"),
        "--port",
        str(port),
        "--model",
        str(prior),
        "--max-upload-mb",
        "8",
    ]
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


def browser() -> Any:
    options = webdriver.ChromeOptions()
    options.binary_location = PROGRAMS[0]  # type: ignore[assignment]
    for word in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1200,1600",
    ):
        options.add_argument(word)
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

    def set(self, field: str, value: object) -> None:
        def typed() -> bool:
            box = next(one for one in self.seen(f"#{field} input") if one.is_displayed())
            box.send_keys(Keys.CONTROL, "a")
            box.send_keys(Keys.BACKSPACE, str(value), Keys.TAB)
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
        self.find("#go").click()

    def finish(self) -> str:
        """The words about the result."""
        return until(lambda: self.seen("#words") and self.find("#words").text)

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
    for driver in used:
        driver.get("about:blank")  # the page is closed
    browsers.extend(used)
    until(lambda: not list(server.folder.glob("palimpsest-web-*")))


def small(folder: Path, **tags: str) -> Path:
    """A DICOM slice of 32 x 32 pixels, of a named patient."""
    scan = pydicom.dcmread(SCAN)
    scan.PixelData = np.ascontiguousarray(scan.pixel_array[::8, ::8]).tobytes()
    scan.Rows = scan.Columns = 32
    scan.PatientName = "Mustermann^Erika"
    for name, value in tags.items():
        setattr(scan, name, value)
    scan.save_as(folder / "Mustermann Erika.dcm")
    return folder / "Mustermann Erika.dcm"


def claimed(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose head speaks of so many pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(head) - 4)
    return (
        start
        + head
        + struct.pack(">I", zlib.crc32(head))
        + b"\0\0\0\0IDAT"
        + struct.pack(">I", zlib.crc32(b"IDAT"))
    )


def nifti(folder: Path) -> Path:
    volume = np.random.default_rng(0).random((24, 20, 5)).astype(np.float32).cumsum(0)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / "volume.nii.gz")
    return folder / "volume.nii.gz"


def test_a_dicom_is_restored_looked_at_and_taken_home(visitors, tmp_path: Path, server: Server):
    page = visitors()
    page.send(small(tmp_path))
    assert "32 × 32" in page.find(".mask").find_element(By.XPATH, "..").text
    until(lambda: "about" in page.find("#pace").text)
    page.run(steps=2, draws=3)
    assert "Explains" in (said := page.finish()) or "unexplained" in said or "closely" in said
    assert page.split() == 50
    hand = webdriver.ActionChains(page.driver)
    hand.move_to_element(page.find(".compare")).click_and_hold().move_by_offset(
        100, 0
    ).release().perform()
    assert 60 < page.split() < 80
    assert page.source("#std").startswith("data:image/png")
    page.find("#draw").send_keys(Keys.ARROW_RIGHT)
    assert [one.is_displayed() for one in page.seen(".draws img")] == [False, True, False]
    page.set("row", 7)
    until(lambda: "row 7" in page.find("#profile").text and page.seen("#profile polygon.band"))

    written = pydicom.dcmread(page.take("result"))
    assert written.pixel_array.shape == (32, 32) and "Mustermann" not in str(written)
    assert "research use" in str(written.get("DerivationDescription", "")).lower()
    report = page.take("report").read_text()
    assert (
        "Mustermann" not in report + page.driver.page_source
        and "Mustermann" not in server.log.read_text()
    )
    assert page.take("panel").read_bytes().startswith(b"\x89PNG")

    asked = page.asked()
    assert len(asked) > 10
    assert [
        a for a in asked if not a.startswith((server.address, "data:", "blob:", "chrome", "about:"))
    ] == []


def test_a_slice_of_a_volume_with_its_settings(visitors, tmp_path: Path):
    page = visitors()
    page.send(nifti(tmp_path))
    first = page.source(".mask img")
    page.set("slice", 4)
    until(lambda: page.source(".mask img") != first)
    until(lambda: page.find("#set-factor input"))
    page.set("set-factor", 2)
    page.run()
    page.finish()
    assert nibabel.load(page.take("result")).shape[:2] == (24, 20)
    assert "factor: 2\n" in page.take("report").read_text()
    page.find("#without button").click()
    until(lambda: "operator.params.factor=2" in page.find("#code textarea").get_attribute("value"))
    page.set("steps", "")  # the solver's own
    until(lambda: "steps" not in page.find("#code textarea").get_attribute("value"))
    until(lambda: "about" in page.find("#pace").text)


def test_a_mask_is_drawn_by_hand(visitors, tmp_path: Path, server: Server):
    def hole() -> float:
        """The part of the mask that was not measured; 0 while there is no mask."""
        (folder,) = server.folder.glob("palimpsest-web-*")
        if not (folder / "mask.png").exists():
            return 0
        picture = np.asarray(PIL.Image.open(folder / "mask.png"))
        assert set(np.unique(picture)) <= {0, 255}
        return (picture == 0).mean()

    page = visitors()
    page.send(small(tmp_path))
    page.choose("task", "inpainting_mask")
    hand = webdriver.ActionChains(page.driver)
    hand.move_to_element(page.find("#hole")).click_and_hold().move_by_offset(30, 20).move_by_offset(
        20, -30
    ).release().perform()
    assert 0 < until(hole) < 0.5
    shown = page.source(".mask img")
    page.set("Window", 300)  # the picture is drawn anew, and the hole is still there
    until(lambda: page.source(".mask img") != shown)
    alpha = "const c = document.querySelector('#hole'); const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data"
    drawn = (
        f"{alpha}; return d.filter((_, i) => i % 4 === 3).reduce((sum, a) => sum + (a > 127), 0)"
    )
    assert page.driver.execute_script(drawn) == round(hole() * 32 * 32)
    page.run()
    page.finish()
    assert page.seen("#words") and hole()
    webdriver.ActionChains(page.driver).double_click(page.find("#hole")).perform()
    until(lambda: not hole())
    assert page.driver.execute_script(drawn) == 0


def test_a_run_is_stopped_and_another_visitor_waits(visitors, tmp_path: Path):
    one, two = visitors(), visitors()
    one.run(steps=500)
    until(lambda: one.seen("#now") and one.seen("#out polyline"))
    first = one.source("#now")
    until(lambda: one.source("#now") != first)
    assert "s left" in one.find("#out").text
    two.send(small(tmp_path))
    two.run()
    until(lambda: "queue" in two.find("body").text)
    two.find("#stop").click()  # while it waits
    one.find("#stop").click()
    until(lambda: one.seen("#stopped"))
    until(lambda: two.seen("#stopped"))
    assert not one.seen("#words") and not two.seen("#words")
    two.find("#go").click()
    two.finish()


def test_what_cannot_be_read_is_one_line(visitors, tmp_path: Path):
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "<f4", "fortran_order": False, "shape": (16384, 16384)}
    )
    bad = {
        "scan.exe": (b"MZ", "are not read"),
        "a gigabyte.npy": (head.getvalue() + bytes(100), "not a readable NPY"),
        "a gigabyte.png": (claimed(32768, 32768), "is more than"),
        "large.png": (bytes(9 * 2**20), "larger than 8 MB"),
        "broken.dcm": (b"no scan at all", "scan.dcm"),
    }
    page = visitors()
    for name, (content, wanted) in bad.items():
        (tmp_path / name).write_bytes(content)
        page.find("#file").send_keys(str(tmp_path / name))
        until(lambda wanted=wanted: wanted in page.find("#said").text)
        said = page.find("#said").text
        assert "\n" not in said and not re.search(r"(^|\s)/\w", said), said
    assert page.seen(".mask img"), "the scan before is still there"


@pytest.mark.parametrize("width", [1200, 390])
def test_the_pictures_of_a_report_lie_on_one_line(browsers: list, tmp_path: Path, width: int):
    """Those of a wide image, which a telephone shows smaller, one below the other."""
    sheet = PIL.Image.new("RGB", (1700, 286))
    names = ("measurement", "restored", "error")
    sheet.info["tiles"] = {
        name: (8 + 560 * i, 22, 520 + 560 * i, 278) for i, name in enumerate(names)
    }
    (tmp_path / "panel.png").write_bytes(panels.png(sheet))
    (tmp_path / "config.yaml").write_text("{}")
    (tmp_path / "summary.json").write_text(
        '{"images": 1, "seconds_per_image": 1, "peak_memory_mb": 1}'
    )
    (tmp_path / "records.jsonl").write_text(
        '{"image_id": "a", "status": "ok", "files": {"panels": "panel.png"}}\n'
    )
    browsers.append(driver := browsers.pop() if browsers else browser())
    window = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", window)
    driver.get(report.write(tmp_path).as_uri())
    slider, line, over, *_, error = [
        one.rect for one in driver.find_elements(By.CSS_SELECTOR, ".compare, .compare i, .crop")
    ]
    driver.execute_script("document.querySelector('details').open = true")
    wide = driver.execute_script("return document.documentElement.scrollWidth")
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= width
    assert (
        line["height"]
        == over["height"]
        == slider["height"]
        == error["height"]
        == pytest.approx(error["width"] / 2)
    )
    assert (error["y"] == slider["y"]) == (width == 1200)


def test_only_the_page_is_served(server: Server):
    def status(path: str, method: str = "GET", **headers: str) -> int:
        request = urllib.request.Request(
            server.address + path, b"x" if method == "POST" else None, headers, method=method
        )
        try:
            return urllib.request.urlopen(request, timeout=LAST).status
        except urllib.error.HTTPError as error:
            return error.code

    assert status("") == 200
    closed = (
        "gradio_api/upload",
        "gradio_api/file=/etc/passwd",
        "gradio_api/proxy=http://example.com",
        "docs",
        "take/x/report",
    )
    assert [status(path) for path in closed] == [404] * 5
    assert status("gradio_api/upload", "POST") == 404 and status("scan/wrong", "POST") == 404
    assert status("", Host="evil.example") == 421
    with urllib.request.urlopen(server.address + "config", timeout=LAST) as reply:
        assert str(ROOT) not in (text := reply.read().decode()) and str(server.folder) not in text


@pytest.mark.parametrize("words", [["--host", "0.0.0.0"], ["--user", "x"], ["--port", "no"]])
def test_it_listens_to_others_only_with_a_password(words: list[str], capsys):
    import web

    assert web.main(words) == 2 and len(capsys.readouterr().err.splitlines()) == 1


def test_the_password_is_asked_for():
    import asyncio

    import web

    async def told(login: bytes) -> int:
        sent: list[dict] = []

        async def send(message: dict) -> None:
            sent.append(message)

        async def page(scope, receive, send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})

        scope = {
            "type": "http",
            "path": "/",
            "headers": [(b"host", b"x"), (b"authorization", login)],
        }
        await web.Guard(page, (), "erika:geheim")(scope, None, send)
        return sent[0]["status"]

    assert [
        asyncio.run(told(word)) for word in (b"", b"Basic eDp5", b"Basic ZXJpa2E6Z2VoZWlt")
    ] == [401, 401, 200]
