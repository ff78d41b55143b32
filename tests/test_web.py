"""The page in a real browser: what a visitor does, and what the browser asks other hosts for: nothing."""

import io
import re
import shlex
import struct
import urllib.error
import urllib.request
import zlib
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pydicom
import pytest
import test_opened
import yaml
from web_visitor import (
    ROOT,
    By,
    Keys,
    Server,
    browser,
    browsers,
    server,
    until,
    visitors,
    webdriver,
)

import sample
from solvers.run import panels, report

__all__ = ["browsers", "server", "visitors"]  # fixtures
SCAN = ROOT / "models/demo-data/lung2-ax-035.dcm"


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
    page.choose("solver", "daps")  # whose draws differ
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
    middle = page.source(".mask img")
    page.empty("slice")  # is the first
    until(lambda: page.source(".mask img") != middle)
    first = page.source(".mask img")
    page.set("slice", 4)
    until(lambda: page.source(".mask img") not in (middle, first))
    until(lambda: page.find("#set-factor input"))
    page.set("set-factor", 2)
    page.run()
    page.finish()
    assert nibabel.load(page.take("result")).shape[:2] == (24, 20)
    assert "factor: 2\n" in page.take("report").read_text()
    until(lambda: "operator.params.factor=2" in page.code())
    page.set("steps", "")  # the solver's own
    until(lambda: "steps" not in page.code())
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

    def stroke() -> None:
        hand = webdriver.ActionChains(page.driver)
        hand.move_to_element(page.find("#hole")).click_and_hold()
        hand.move_by_offset(30, 20).move_by_offset(20, -30).release().perform()

    page = visitors()
    page.send(small(tmp_path))
    page.choose("task", "inpainting_mask")
    until(lambda: page.find("#pace").text == "draw over the scan what is missing")
    stroke()
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
    stroke()
    until(hole)
    page.send(small(tmp_path, WindowWidth=100))  # of which nothing is missing yet
    until(lambda: page.driver.execute_script(drawn) == 0 and not hole())
    page.run()
    assert page.finish() == "draw over the scan what is missing"


def test_a_run_is_stopped_and_another_visitor_waits(visitors, tmp_path: Path):
    one, two = visitors(), visitors()
    one.run(steps=500)
    until(lambda: one.seen("#now") and one.seen("#out polyline"))
    first = one.source("#now")
    until(lambda: one.source("#now") != first)
    assert re.search("about [0-9.]+ (s|min) left", one.find("#out").text)
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
            return urllib.request.urlopen(request, timeout=120).status
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
    with urllib.request.urlopen(server.address + "config", timeout=120) as reply:
        assert str(ROOT) not in (text := reply.read().decode()) and str(server.folder) not in text


TASKS = {  # settings that are lists, or not set, by task
    "missing_slices": {"missing": "", "every": "2"},
    "volume_deblur": {"std": "2.0, 1.0, 1.0"},
    "through_plane_x4": {"thickness": ""},
    "mri": {"sigma_y": ""},
    "super_resolution": {"sigma_y": "0.01", "factor": "4"},
}


def test_settings_are_shown_as_they_are(visitors):
    page = visitors()
    for task, fields in TASKS.items():
        page.choose("task", task)
        for name, value in fields.items():
            until(lambda name=name, value=value: page.value(f"set-{name}") == value)
    assert page.find("#set-factor").text == "factor"  # not another's explanation


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (17, 23)])
def test_an_image_of_any_shape(visitors, tmp_path: Path, shape: tuple[int, int]):
    grey = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    PIL.Image.fromarray(grey).save(tmp_path / "odd.png")
    page = visitors()
    page.send(tmp_path / "odd.png")
    page.run()
    assert "PSNR" in page.finish()
    assert [one.is_displayed() for one in page.seen("#row")] == [True] * (shape[0] > 1)
    assert f"row {shape[0] // 2}:" in page.find("#profile").text
    assert PIL.Image.open(page.take("result")).size == shape[::-1]


def test_what_a_scanner_measured(visitors, tmp_path: Path):
    page = visitors()
    measured = test_opened.npy(tmp_path, np.ones((8, 24), np.float32))
    said = yaml.dump(test_opened.FAN | {"sigma_y": 0.05}).encode()
    page.send(test_opened.zipped(tmp_path, s_npy=measured, s_yaml=said))
    until(lambda: page.value("task") == "ct")
    page.find("#further button").click()
    page.find("#set-check input").click()  # this is no object's sinogram
    page.run()
    assert "noise" in page.finish()
    assert pydicom.dcmread(page.take("result")).pixel_array.shape == (16, 16)
    page.send(small(tmp_path))
    until(lambda: page.value("task") == "super_resolution")
    assert not page.find("#measured input").is_selected() and page.value("demo") == ""


def test_the_same_without_the_page(visitors, tmp_path: Path, server: Server, monkeypatch):
    """The command and the Python lines that it shows give what it gave; an emptied noise level is no number."""
    page = visitors()
    scan = small(tmp_path)
    page.send(scan)
    until(lambda: page.value("set-sigma_y") == "0.01")
    page.set("set-sigma_y", "")
    until(lambda: "sigma_y=null" in page.code())
    until(lambda: page.find("#pace").text.endswith("needs a value for sigma_y"))
    page.set("set-sigma_y", "0.03")
    until(lambda: "sigma_y=0.03" in page.code())
    page.run(draws=2)
    until(lambda: "draws=2" in page.code())
    assert "PSNR" in page.finish()
    written = pydicom.dcmread(page.take("result")).pixel_array

    monkeypatch.chdir(tmp_path)
    scan.rename("scan.dcm")
    (tmp_path / "tiny").symlink_to(server.folder.parent / "tiny")
    command, python = page.code().split("\n\n")
    assert sample.main([*shlex.split(command, comments=True)[2:], "--save-dir", "out"]) == 0
    assert (pydicom.dcmread("out/recon/scan.dcm").pixel_array == written).all()
    found: dict = {}
    exec(python, found)
    found["result"].save("python.dcm")
    assert (pydicom.dcmread("python.dcm").pixel_array == written).all()
