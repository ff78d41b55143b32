"""Small worlds for the tests of the doors: priors with random weights in model folders, scans, and task files."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from data import formats
from data.seeding import Noise
from ldm import config as configuration

TABLE = {"target": "ldm.schedule.Table", "params": {"kind": "linear"}}
STAGE = {
    "target": "ldm.latent.VQ",
    "params": {
        "model": {
            "target": "ldm.networks.unet.VQModel",
            "params": {
                "channels": 1,
                "widths": [32, 32],
                "blocks": 1,
                "latent": 3,
                "codes": 16,
                "attention": False,
            },
        }
    },
}


def network(channels: int, out: int | None = None, **params) -> dict:
    return {
        "target": "ldm.networks.unet.UNet",
        "params": {"channels": channels, "out": out, "widths": [32, 32], "blocks": 1, **params},
    }


def vp(channels: int, **params) -> dict:
    return {
        "target": "ldm.denoiser.VP",
        "params": {"network": network(channels, **params), "alpha_bar": TABLE},
    }


def pixel(size: int = 16, channels: int = 1, **params) -> dict:
    return {
        "target": "ldm.denoiser.Prior",
        "params": {"denoiser": vp(channels, **params), "shape": [channels, size, size]},
    }


def latent(size: int = 16) -> dict:
    params = {
        "denoiser": vp(3),
        "shape": [3, size // 2, size // 2],
        "first_stage": STAGE,
        "error_variance": 0.01,
    }
    return {"target": "ldm.latent.LatentPrior", "params": params}


def patch(size: int = 16, channels: int = 1) -> dict:
    denoiser = {
        "target": "ldm.denoiser.EDM",
        "params": {"network": network(channels + 2, out=channels, time_scale=100)},
    }
    return {
        "target": "ldm.patch.PatchPrior",
        "params": {"denoiser": denoiser, "channels": channels, "size": size, "patch": size // 2},
    }


def folder(where: Path, node: dict) -> Path:
    """A model folder of random weights, the same at every call."""
    where.mkdir(parents=True)
    prior = configuration.build(node)
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(v.shape, generator=generator) * 0.1
        for name, v in prior.state_dict().items()
        if v.is_floating_point()
    }
    save_file(state, where / "model.safetensors")
    (where / "config.yaml").write_text(configuration.dump({"prior": node}))
    return where


def scans(where: Path, count: int = 3, shape: tuple[int, int] = (16, 16)) -> Path:
    """`count` smooth 16-bit PNG scans."""
    where.mkdir(parents=True, exist_ok=True)
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, shape[0]), torch.linspace(-1, 1, shape[1]), indexing="ij"
    )
    for i in range(count):
        a, b, c = Noise([str(i)], "noise").uniform((1, 3))[0]
        pixels = 20000 + 15000 * (torch.sin(3 * x * a + 2 * b) * torch.cos(3 * y * c))[None]
        formats.write(
            formats.Image(pixels.round(), formats.Meta("png", "uint16")), where / f"scan{i}.png"
        )
    return where


def task(where: Path, target: str = "SuperResolution", sigma_y: float = 0.05, **params) -> Path:
    operator = {"target": f"solvers.operators.{target}", "params": params}
    likelihood = {"target": "solvers.problem.Gaussian", "params": {"sigma_y": sigma_y}}
    where.write_text(configuration.dump({"operator": operator, "likelihood": likelihood}))
    return where


def solver(where: Path, target: str = "codps.CoDPSPlus", **params) -> Path:
    where.write_text(
        configuration.dump({"solver": {"target": f"solvers.{target}", "params": params}})
    )
    return where


def world(where: Path) -> Path:
    """Priors, scans, tasks and solvers in one folder, for runs of sample.py."""
    nodes = {
        "latent": latent(),
        "pixel": pixel(),
        "patch": patch(),
        "rgb": pixel(16, 3),
        "classes": pixel(classes=5, groups=8),
    }
    for name, node in nodes.items():
        folder(where / name, node)
    scans(where / "scans")
    task(where / "sr.yaml")
    task(where / "mask.yaml", "RandomInpainting")
    task(where / "denoising.yaml", "Denoising")
    solver(where / "codps.yaml", steps=4)
    solver(where / "daps.yaml", "daps.DAPS", steps=3)
    solver(where / "resample.yaml", "resample.ReSample", steps=3, newton=1, cg=2)
    return where


def asked(world: Path) -> dict[str, str]:
    """The words of `P.restore` for a quick restoration in such a world."""
    named = {"task": f"{world}/sr.yaml", "solver": f"{world}/codps.yaml", "accelerator": "cpu"}
    return {"prior": f"{world}/pixel", **named}


def words(
    world: Path, out: Path, *more: str, model="pixel", task="sr", solver="codps"
) -> list[str]:
    """The flags of a run of sample.py in such a world; later ones win."""
    named = [
        "--task",
        f"{world}/{task}.yaml",
        "--solver",
        f"{world}/{solver}.yaml",
        "--model",
        f"{world}/{model}",
    ]
    return [
        *named,
        "--data-root",
        f"{world}/scans",
        "--save-dir",
        str(out),
        "--accelerator",
        "cpu",
        *more,
    ]


def command(*arguments: str) -> list[str]:
    """sample.py as a process of its own."""
    return [sys.executable, str(Path(__file__).parents[1] / "sample.py"), *arguments]


def refusal(capsys) -> str:
    """The one line with which sample.py says what is wrong."""
    (line,) = (
        line for line in capsys.readouterr().err.splitlines() if line.startswith("sample.py: ")
    )
    return line


def records(results: Path) -> dict[str, dict]:
    """The lines of records.jsonl by image."""
    lines = [json.loads(line) for line in (results / "records.jsonl").read_text().splitlines()]
    assert len({r["image_id"] for r in lines}) == len(lines), "one record per image"
    return {r["image_id"]: r for r in lines}


def restored(results: Path) -> dict[str, bytes]:
    """The files of recon/ by name."""
    return {p.name: p.read_bytes() for p in sorted((results / "recon").iterdir())}
