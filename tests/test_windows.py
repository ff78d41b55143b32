"""Windows at the doors: nothing is lost by default, and what a narrower window leaves out is carried through or told."""

import json

import numpy as np
import pytest
import tiny
import torch
import yaml
from test_contracts import AIR, BODY, BONE, series

import palimpsest as P
import sample
from data import formats
from ldm import checkpoints
from ldm import config as configuration


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    where = tiny.world(tmp_path_factory.mktemp("world"))
    tiny.task(where / "clean.yaml", "Denoising", sigma_y=0.0)
    return where


@pytest.fixture
def scans(tmp_path):
    series(tmp_path / "ct")
    return tmp_path / "ct"


def run(world, scans, out, *more, task="clean") -> dict:
    assert (
        sample.main(
            tiny.words(world, out, "--data-root", str(scans), "--limit", "3", *more, task=task)
        )
        == 0
    )
    lines = (out / "records.jsonl").read_text().splitlines()
    return {record["image_id"]: record for record in map(json.loads, lines)}


def restored(out, name) -> np.ndarray:
    """Slice a, b or c of the series, which is one result: a folder with its slices in order."""
    (volume,) = (out / "recon").iterdir()
    return formats.read(volume / f"{'abc'.index(name) + 1:04d}.dcm").pixels[0].numpy()


@pytest.mark.parametrize("window", ["-100:100", "header", "full", "p10:p90"])
def test_hounsfield_units_outside_any_window_survive(world, scans, tmp_path, window):
    """Half a unit: what rounding to the file's integers leaves, because sigma 0 leaves nothing else open."""
    records = run(world, scans, tmp_path / "out", "--measurements", "--window", window)
    for name in "abc":
        truth = formats.read(scans / f"{name}.dcm").pixels[0].numpy()
        assert np.abs(restored(tmp_path / "out", name) - truth).max() <= 0.5
    if window == "-100:100":
        assert records["c"]["carried"] == pytest.approx((256 - 64 + 4) / 256)
        assert any("carried through to the result" in note for note in records["c"]["notes"])


def test_they_survive_in_a_volume_that_is_restored_as_one(world, scans, tmp_path):
    more = ["--measurements", "--window=-100:100", "--model", "demo-pixel", "--solver", "pnp"]
    (record,) = run(world, scans, tmp_path / "out", *more).values()
    assert record["carried"] > 0.5 and record["notes"][0].startswith("restored as a volume")
    for name in "abc":
        truth = formats.read(scans / f"{name}.dcm").pixels[0].numpy()
        assert np.abs(restored(tmp_path / "out", name) - truth).max() <= 0.5


def test_by_default_nothing_is_cut_off(world, scans, tmp_path, capsys):
    records = run(world, scans, tmp_path / "out", task="denoising")
    assert [record["contract"] for record in records.values()] == [[AIR, BONE]] * 3
    assert records["a"]["contract_from"] == "least and greatest value of the volume"
    assert all(record["clamped"] == 0 for record in records.values())
    assert "cut off" not in capsys.readouterr().out


def test_a_simulation_says_how_much_is_cut_off(world, scans, tmp_path, capsys):
    """Air around the body in two slices, and all of the first; four pixels of bone."""
    records = run(world, scans, tmp_path / "out", "--window", "-1000:400", task="denoising")
    shares = [1.0, 192 / 256, 196 / 256]
    assert [record["clamped"] for record in records.values()] == shares
    said = f"3 of 3 images have values outside their window, which are cut off: {np.mean(shares):.2%} on average, 100.00% at most"
    assert said in capsys.readouterr().out


def test_noise_is_not_carried(world, scans, tmp_path):
    """Noise of a body at the end of its window leaves it by half, and is the prior's matter."""
    noisy = tmp_path / "noisy"
    noisy.mkdir()
    image = formats.read(scans / "a.dcm")
    noise = 20 * torch.randn(image.pixels.shape, generator=torch.Generator().manual_seed(0))
    formats.write(formats.Image((image.pixels + noise).round(), image.meta), noisy / "a.dcm")
    sigma = 20 / 700  # in the model range of -1024:376
    tiny.task(tmp_path / "noise.yaml", "Denoising", sigma_y=sigma)
    records = run(
        world,
        noisy,
        tmp_path / "out",
        "--measurements",
        "--window=-1024:376",
        "--task",
        str(tmp_path / "noise.yaml"),
    )
    assert "carried" not in records["a"]


def test_what_is_carried_is_brought_to_the_result_s_grid(world, scans, tmp_path):
    tiny.task(tmp_path / "sr.yaml", "SuperResolution", sigma_y=0.0, factor=2)
    more = ["--measurements", "--window=-1024:376", "--task", str(tmp_path / "sr.yaml")]
    records = run(world, scans, tmp_path / "out", *more)
    assert records["c"]["carried"] == 4 / 256
    image = restored(tmp_path / "out", "c")
    assert image.shape == (32, 32)
    y = formats.read(scans / "c.dcm").pixels[0].numpy()
    assert (
        y[6:8, 6:8].min() == y.max() == BONE
    )  # at pixels 12 to 15 of the result, where blocks of 2 x 2 put it
    half = (376 + BONE) / 2
    assert image[12:16, 12:16].mean() > half
    image[11:17, 11:17] = 0  # a bicubic step takes a pixel on either side
    assert image.max() < half


def test_the_prior_s_own_contract(world, scans, tmp_path):
    """Said in its config.yaml, it comes before what the file holds, is exported, and is told in the card."""
    node = tiny.pixel()
    folder = tiny.folder(tmp_path / "prior", node)
    (folder / "config.yaml").write_text(
        configuration.dump({"contracts": {"CT": [-1000, 400]}, "prior": node})
    )
    records = run(world, scans, tmp_path / "out", "--model", str(folder), task="denoising")
    assert records["c"]["contract"] == [-1000, 400] and records["c"]["contract_from"] == "prior"
    checkpoints.export(checkpoints.describe(folder), tmp_path / "again")
    assert yaml.safe_load((tmp_path / "again/config.yaml").read_text())["contracts"] == {
        "CT": [-1000, 400]
    }
    assert "CT: -1000 is black and 400 white" in (tmp_path / "again/README.md").read_text()
    assert checkpoints.load(tmp_path / "again").contracts == {"CT": (-1000, 400)}


@pytest.mark.parametrize(
    "said", ["5", "{CT: 5}", "{CT: [1, 0]}", "{CT: [a, b]}", "{CT: [0, .inf]}", "{CT: [0, 1, 2]}"]
)
def test_contracts_that_are_none(world, tmp_path, said):
    folder = tiny.folder(tmp_path / "prior", tiny.pixel())
    (folder / "config.yaml").write_text(
        f"contracts: {said}\n{(folder / 'config.yaml').read_text()}"
    )
    with pytest.raises(ValueError, match="contracts.* allowed"):
        checkpoints.load(folder)


def test_another_window_is_another_configuration(world, scans, tmp_path, capsys):
    run(world, scans, tmp_path / "out", "--window", "-1000:400")
    words = tiny.words(
        world, tmp_path / "out", "--data-root", str(scans), "--window=0:400", task="clean"
    )
    assert sample.main(words) == 2 and "another configuration" in tiny.refusal(capsys)
    assert sample.main(tiny.words(world, tmp_path / "other", "--window", "400:0")) == 2
    assert "header or full is allowed" in tiny.refusal(capsys)


def test_from_python(world, scans):
    words = dict(
        prior=str(world / "pixel"), solver=str(world / "codps.yaml"), task=str(world / "clean.yaml")
    )
    result = P.restore(
        str(scans / "c.dcm"), measurements=True, window="-100:100", accelerator="cpu", **words
    )
    assert np.abs(result.image - formats.read(scans / "c.dcm").pixels[0].numpy()).max() <= 0.5
    assert result.image.max() > BODY
    with pytest.raises(P.Refusal, match="window= means nothing with an array"):
        P.restore(np.zeros((16, 16)), window="full", **words)


def test_a_picture_far_darker_than_its_window_is_named(world, tmp_path, capsys):
    """Twelve bits in sixteen: what a detector writes; a window of its own ends the remark."""
    values = 300 + 900 * torch.linspace(0, 1, 256).reshape(1, 16, 16)
    (tmp_path / "dark").mkdir()
    formats.write(
        formats.Image(values.round(), formats.Meta("png", "uint16")), tmp_path / "dark/a.png"
    )
    records = run(world, tmp_path / "dark", tmp_path / "out", "--measurements")
    said = "its values, 300 to 1200, end at 1.8% of its window, 0 to 65535; --window p0:p100 is theirs alone"
    assert said in records["a"]["notes"] and f"a: {said}" in capsys.readouterr().out
    records = run(
        world, tmp_path / "dark", tmp_path / "own", "--measurements", "--window", "p0:p100"
    )
    assert records["a"]["contract"] == [300, 1200] and not records["a"]["advice"]
