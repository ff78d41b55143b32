"""Every solver file and every published run builds; published runs hold operator, likelihood, solver and prior in one file."""

from pathlib import Path

import pytest

from ldm.config import build, load

ROOT = Path(__file__).resolve().parent.parent / "configs"
PUBLISHED = sorted((ROOT / "published").rglob("*.yaml"))
SOLVERS = sorted(p for p in (ROOT / "solvers").glob("*.yaml") if not p.stem.startswith("prior"))


@pytest.mark.parametrize("path", SOLVERS, ids=lambda p: p.stem)
def test_solver_file_builds(path):
    assert build(load([path])["solver"]).steps >= 1


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda p: "/".join(p.parts[-3:]))
def test_published_run_builds(path):
    config = load([path])
    assert set(config) == {"prior", "operator", "likelihood", "solver"} and config[
        "prior"
    ].startswith("models/")
    build(config["solver"]), build(config["likelihood"])
    if "weights" not in config["operator"].get(
        "params", {}
    ):  # the blur network's weights are the user's
        build(config["operator"])


def test_every_published_system_and_setting_is_there():
    found = {"/".join(p.parts[-3:-1]): 0 for p in PUBLISHED}
    for p in PUBLISHED:
        found["/".join(p.parts[-3:-1])] += 1
    expected = {
        "resample/ffhq-ddim": 5,
        "psld/ffhq_ldm-ddim": 4,
        "psld/sd-ddim": 5,
        "padis/aapm-dps": 4,
        "padis/celebahq-dps": 2,
    }
    expected |= {
        f"codps/{data}-{sampler}": 4
        for data in ("ffhq", "imagenet")
        for sampler in ("ddim", "ddpm")
    }
    expected |= {
        f"daps/{run}": 8
        for run in ("ffhq-langevin", "ffhq-hmc", "ffhq_ldm-hmc", "sd-hmc", "imagenet-langevin")
    }
    assert expected.items() <= found.items()
