"""What the browser makes of the page and of a report: nothing cut, of no length, or beside the pointer."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from test_web import nifti, small
from web_visitor import By, Server, browser, browsers, server, until, visitors, webdriver

from solvers.run import panels, report
from solvers.run.record import COLUMNS

__all__ = ["browsers", "server", "visitors"]  # fixtures
PAPER = 718  # CSS pixels between the margins of A4


def grey(folder: Path, height: int, width: int) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width)).astype(np.uint8)
    PIL.Image.fromarray(pixels).save(folder / "long.png")
    return folder / "long.png"


def test_a_stroke_on_a_long_image_is_where_the_pointer_was(
    visitors, tmp_path: Path, server: Server
):
    page = visitors()
    page.send(grey(tmp_path, 300, 7))
    page.choose("task", "inpainting_mask")
    shown = page.find("#hole").rect
    assert shown["height"] < 700 and shown["width"] == pytest.approx(shown["height"] / 4, rel=0.02)
    hand = webdriver.ActionChains(page.driver, duration=0)  # as fast as a hand: no points between
    hand.move_to_element(page.find("#hole")).move_by_offset(0, -150).click_and_hold()
    hand.move_by_offset(0, 300).release().perform()
    (folder,) = server.folder.glob("palimpsest-web-*")
    until(lambda: (folder / "mask.png").exists())
    until(lambda: "about" in page.find("#pace").text)
    hidden = np.asarray(PIL.Image.open(folder / "mask.png")) == 0
    scale = 300 / shown["height"]
    ends = round(150 - 150 * scale), round(150 + 150 * scale)
    assert hidden.shape == (300, 7) and hidden[ends[0] : ends[1], 3].all()
    assert not hidden[: ends[0] - 12].any() and not hidden[ends[1] + 12 :].any()
    hand.move_to_element(page.find("#hole")).click_and_hold()
    hand.move_by_offset(200, 0).release().perform()  # let go beside the image
    until(lambda: (np.asarray(PIL.Image.open(folder / "mask.png"))[150] == 0)[3:].all())
    page.run()
    page.finish()
    assert page.find(".compare").rect["height"] < 700


def test_a_stopped_run_says_nothing_of_time_left(visitors, tmp_path: Path):
    page = visitors()
    page.send(small(tmp_path))
    page.run(steps=2000)
    until(lambda: page.seen("#now"))
    page.find("#stop").click()
    until(lambda: page.seen("#stopped"))
    assert page.seen("#now") and " left" not in page.find("#out").text
    page.run()
    assert "PSNR" in page.finish()
    page.run(steps=2000)
    until(lambda: page.seen("#now"))
    page.send(nifti(tmp_path))
    until(lambda: page.find("#go").is_enabled())
    assert not page.seen("#now") and not page.seen("#stopped"), "of the scan that was"


def test_a_report_fits_on_paper(browsers: list, tmp_path: Path):
    sheet = PIL.Image.new("RGB", (1700, 286))
    names = ("measurement", "restored", "error", "std")
    sheet.info["tiles"] = {
        name: (8 + 400 * i, 22, 392 + 400 * i, 278) for i, name in enumerate(names)
    }
    (tmp_path / "panel.png").write_bytes(panels.png(sheet))
    (tmp_path / "config.yaml").write_text("{}")
    means = {key: {"mean": 0.5, "interval_95": 0.25, "n": 2} for key in COLUMNS}
    summary = {"images": 1, "seconds_per_image": 1, "peak_memory_mb": 1, **means}
    numbers = dict.fromkeys(COLUMNS, 12.345) | {"nfe": 1000, "vjps": 1000}
    record = {"image_id": "brain2-ax-008", "status": "ok", "files": {"panels": "panel.png"}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "records.jsonl").write_text(json.dumps(record | numbers) + "\n")
    browsers.append(driver := browsers.pop() if browsers else browser())
    window = {"width": PAPER, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", window)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    driver.get(report.write(tmp_path).as_uri())
    tables = [one.rect for one in driver.find_elements(By.CSS_SELECTOR, "table")]
    looks = [one.rect for one in driver.find_elements(By.CSS_SELECTOR, ".looks > div")]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert max(one["x"] + one["width"] for one in tables) <= PAPER
    bottoms = [one["y"] + one["height"] for one in looks]
    assert len(looks) == 3 and bottoms == pytest.approx([bottoms[0]] * 3, abs=1)
