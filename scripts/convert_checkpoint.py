"""Turn weights of any known layout into a model folder: config.yaml, model.safetensors, README.md with the source's SHA-256.

    python scripts/convert_checkpoint.py models/ffhq/model.ckpt models/ffhq-vq4 --verify
    python scripts/convert_checkpoint.py network-snapshot.pkl models/padis-ct --config padis.yaml
    python scripts/convert_checkpoint.py logs/medical/run1/checkpoints/best.ckpt models/mine --half
    python scripts/convert_checkpoint.py logs/medical/run1/checkpoints/last.ckpt models/mine/training.ckpt --training

The last keeps a training of ours in a third of its bytes, from which `main.py --resume FILE` goes on, not to the bit.
The folder then works wherever a model is named (`--model models/ffhq-vq4`). docs/weights.md lists the published files and
what each needs as --config. Exit codes: 0 done, 2 a mistake in what was asked or in the file (one line says which).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data.files import Refusal
from data.seeding import Noise
from ldm import checkpoints, schedule
from ldm.checkpoints.own import keep_training
from ldm.checkpoints.reading import weights
from ldm.denoiser import Prior
from ldm.latent import LatentPrior
from solvers.run import door
from solvers.run.command import Parser

TOLERANCE = 1e-5  # a few float32 roundings of a deep network; weights are aligned alike in memory, and 0 was seen
HALF_TOLERANCE = 1e-2  # float16 weights carry 2^-11; 1e-3 was seen on a network of random weights


def outputs(prior: Prior) -> dict[str, Tensor]:
    """What a prior answers to fixed noise: D at four levels and, for latent priors, a decoded and an encoded image."""
    if prior.classes and prior.label is None:
        prior.label = 0  # any class will do
    noise = Noise(["verify"], "noise")
    x = noise.normal((1, *prior.shape))
    sigmas = schedule.geometric(4, prior.sigma_min, prior.sigma_max).tolist()
    found = {
        f"D at sigma {sigma:.3g}": prior.denoise(sigma * x, torch.tensor([sigma]))
        for sigma in sigmas
    }
    if isinstance(prior, LatentPrior):
        found["decoded"] = prior.decode(x, quantize=False)
        found["encoded"] = prior.encode(noise.normal((1, *prior.image_shape)).clamp(-1, 1))
    return found


def verify(source: Path, config: str | None, ema: bool | float, folder: Path, half: bool) -> None:
    """Outputs before and after, side by side. Raises Refusal if they differ (by more than half precision explains)."""
    allowed = HALF_TOLERANCE if half else TOLERANCE
    with torch.no_grad():
        before = outputs(checkpoints.load(source, config, ema=ema))
        after = outputs(checkpoints.load(folder))
    for name, expected in before.items():
        difference = float(
            (after[name] - expected).abs().max() / expected.abs().max().clamp_min(1e-30)
        )
        print(f"{name}: relative difference {difference:.2e}")
        if not difference <= allowed:  # nor if it is NaN
            raise Refusal(
                f"{folder}: {name} differs from the source by {difference:.2e}, more than {allowed:.0e}"
            )


def keep(source: Path, path: Path) -> Path:
    """`own.keep_training` of a checkpoint of main.py. Raises Refusal for other files."""
    content = weights(source)
    if not {"config", "manifests", "optimizer_states"} <= content.keys():
        raise Refusal(f"{source}: not a training checkpoint of main.py, which --training needs")
    return keep_training(content, path)


def arguments() -> Parser:
    parser = Parser("convert_checkpoint.py", __doc__)
    parser.add_argument("source", type=Path, help="weight file or model folder")
    parser.add_argument("folder", type=Path, help="new folder to write")
    parser.add_argument("--config", help="YAML with what a foreign file does not say")
    parser.add_argument(
        "--raw", action="store_true", help="the raw weights, not their moving average"
    )
    parser.add_argument(
        "--ema-half-life",
        type=float,
        metavar="IMAGES",
        help="which average, of a training that kept several",
    )
    parser.add_argument(
        "--training", action="store_true", help="keep what --resume needs, in half precision"
    )
    parser.add_argument("--half", action="store_true", help="store float16")
    parser.add_argument(
        "--verify", action="store_true", help="compare outputs before and after (priors)"
    )
    return parser


def main(argv: Sequence[str]) -> int:
    return door.run("convert_checkpoint.py", argv, lambda: convert(arguments().parse_args(argv)))


def convert(options: argparse.Namespace) -> None:
    """Do what was asked, and say what was written."""
    if options.training:
        kept = keep(options.source, options.folder)
        print(f"{kept}: {kept.stat().st_size / 1e6:.1f} MB")
        return
    ema = False if options.raw else options.ema_half_life or True
    described = checkpoints.describe(options.source, options.config, ema=ema)
    described.build()  # every key and shape is checked before anything is written
    checkpoints.export(described, options.folder, half=options.half)
    print(f"{options.folder}: {sum(t.numel() for t in described.state.values()):,} numbers")
    if options.verify and described.part == "prior":
        verify(options.source, options.config, ema, options.folder, options.half)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
