"""Training steps beside their networks: `python scripts/benchmark.py train`. Random weights and images; ratios of one run.

A step here is training_step + backward + optimiser; the bare network is forward + backward + optimiser on the same batch.
"""

import warnings
from collections.abc import Callable, Iterator

import torch
from benchmark_rows import Row, seconds
from torch import nn

from data.seeding import Noise
from ldm import config
from ldm.latent import VQ, LatentPrior
from ldm.networks.unet import VQModel
from ldm.training.autoencoder import Autoencoder
from ldm.training.bottleneck import Codebook
from ldm.training.diffusion import PatchDiffusion
from ldm.training.latent_diffusion import LatentDiffusion
from ldm.training.optimisation import AdamW
from ldm.training.randomness import Draws
from ldm.training.run_folder import PARTS

warnings.filterwarnings("ignore", message=".*self.log.*")
BATCH = 4


def step(parameters, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """One optimiser step on whatever `loss` computes."""
    parameters = [p for p in parameters if p.requires_grad]
    optimiser = AdamW(lr=1e-4).configure(parameters, 1000)["optimizer"]

    def call() -> None:
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()

    return call


def batch(size: int, n: int = BATCH) -> dict:
    ids = [f"image {i}" for i in range(n)]
    return {"image": Noise(ids, "noise").normal((n, 1, size, size)).clamp(-1, 1), "image_id": ids}


def latent(cache: bool, name: str = "demo") -> LatentDiffusion:
    torch.manual_seed(0)
    node = config.load([f"configs/latent-diffusion/{name}.yaml"])["prior"]
    prior: LatentPrior = config.build(node)
    return LatentDiffusion(prior, AdamW(lr=1e-4), cache=cache).train()


def diffusion_step() -> list[Row]:
    """Cached latents: the step against its U-Net alone."""
    module, images = latent(True), batch(256)
    network: nn.Module = module.prior.denoiser.network  # type: ignore[assignment]
    x, time = Draws(0, 0, 0).normal((BATCH, 3, 64, 64)), torch.rand(BATCH) * 999
    whole = step(module.parameters(), lambda: module.training_step(images, 0))
    bare = step(network.parameters(), lambda: network(x, time).square().mean())
    a, b = seconds(whole, bare, repeat=5)
    return [Row("latent diffusion step, cached / bare U-Net", a / b, 1.15, "x")]


def cached_latents() -> list[Row]:
    """Steps per second of `medical-vq-4` with and without the cache, one image a batch.

    By its operations (37.8 GMAC to encode an image, 90.9 to train on its latent) the ratio can be 1.42 in one precision.
    """
    modules, images = [latent(cache, "medical-vq-4") for cache in (True, False)], batch(256, 1)
    cached, encoded = seconds(
        *(step(m.parameters(), lambda m=m: m.training_step(images, 0)) for m in modules), repeat=3
    )
    return [
        Row(
            "latent diffusion (medical-vq-4), cached / encoded on the fly",
            encoded / cached,
            3,
            "x",
            at_least=True,
        )
    ]


def patch_step() -> list[Row]:
    """Patches cut, placed and denoised, against the network on patches alone."""
    torch.manual_seed(0)
    read = config.load(["configs/patch-diffusion/demo.yaml"])
    module: PatchDiffusion = config.build(read["model"], prior=config.build(read["prior"])).train()
    images, network = batch(256), module.prior.denoiser.network
    module.crops = type(module.crops)({56: 1.0}, module.crops.per_image)
    n = BATCH * module.crops.per_image
    x, time = Draws(0, 0, 0).normal((n, 3, 56, 56)), torch.rand(n)
    whole = step(module.parameters(), lambda: module.training_step(images, 0))
    bare = step(network.parameters(), lambda: network(x, time).square().mean())
    a, b = seconds(whole, bare, repeat=5)
    return [Row("patch diffusion step / bare network on the same patches", a / b, 1.15, "x")]


def autoencoder_step() -> list[Row]:
    """VQ-f4 without a discriminator; printed, no limit set."""
    torch.manual_seed(0)
    model = VQModel(1, (32, 64, 128), 1, codes=4096, attention=False)
    module = Autoencoder(VQ(model), Codebook(4096), AdamW(lr=1e-4)).train()
    images = batch(64, 8)
    whole = step(module.parameters(), lambda: module.training_step(images, 0))
    bare = step(
        [*model.encoder.parameters(), *model.decoder.parameters()],
        lambda: (
            model.decode(model.encode(images["image"]).latents, force_not_quantize=True)
            .sample.square()
            .mean()
        ),
    )
    a, b = seconds(whole, bare, repeat=5)
    return [Row("autoencoder step / bare encoder and decoder", a / b, float("inf"), "x")]


def loading() -> Iterator[Row]:
    """Of the time of a run on the demo data, the share in which the processor trains and does not wait for images."""
    for kind in ("autoencoder/demo-vq-4", "latent-diffusion/demo", "patch-diffusion/demo"):
        yield busy(kind)


def busy(kind: str) -> Row:
    torch.manual_seed(0)
    read = config.load([f"configs/{kind}.yaml"])
    part = next(name for name in PARTS if name in read)
    read["model"]["params"].pop(
        "estimate_scale", None
    )  # done once, by the processes of a Trainer together
    module = config.build(read["model"], **{part: config.build(read[part])}).train()
    images = iter(config.build(read["data"]).train_dataloader())
    one = next(images)
    train = step(module.parameters(), lambda: module.training_step(one, 0))
    loads, trains = seconds(lambda: next(images), train, repeat=4)
    return Row(
        f"busy share, data/demo, {kind}", 100 * trains / (trains + loads), 90, "%", at_least=True
    )


ROWS = (diffusion_step, cached_latents, patch_step, autoencoder_step, loading)
