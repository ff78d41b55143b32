"""What networks are trained on: crops, patches with positions, latents and patches of latents."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from data.seeding import Noise
from ldm import config as configuration
from ldm.denoiser import EDM, VP, Prior
from ldm.latent import KL, VQ, LatentPatchPrior, LatentPrior
from ldm.networks.unet import KLModel, UNet, VQModel
from ldm.patch import PatchPrior, cut, cut_padded, positions
from ldm.schedule import Table
from ldm.training.autoencoder import Autoencoder
from ldm.training.bottleneck import Codebook
from ldm.training.crops import Crops
from ldm.training.diffusion import PatchDiffusion, PixelDiffusion
from ldm.training.latent_cache import Latents
from ldm.training.latent_diffusion import LatentDiffusion
from ldm.training.optimisation import AdamW
from ldm.training.randomness import Draws


def test_cropping_in_thought_is_cropping_the_padded_image():
    x = Noise(["a", "b"], "noise").normal((2, 3, 16, 16))
    rows, columns = torch.tensor([[0, 5, 20], [24, 11, 3]]), torch.tensor([[24, 7, 0], [0, 12, 9]])
    padded = nn.functional.pad(x, [8] * 4, value=-1.0)
    assert torch.equal(cut_padded(x, rows, columns, 8, 8), cut(padded, rows, columns, 8))


def test_crops_carry_the_positions_of_the_prior():
    prior = PatchPrior(nn.Identity(), 1, 16, 8)
    crops = Crops({4: 0.5, 8: 0.5}, per_image=2)
    ramp = positions(prior.shape[-1])[
        :1, prior.margin : -prior.margin, prior.margin : -prior.margin
    ][None]
    patches, place = crops.take(ramp, 4, prior.margin, Draws(0, 0, 0))
    assert patches.shape == (8, 1, 4, 4) and place.shape == (8, 2, 4, 4)
    inside = patches > -1
    assert torch.equal(
        patches[inside], place[:, :1][inside]
    )  # an image of x coordinates shows each patch its own
    many = torch.tensor([crops.size(Draws(0, -1, step)) for step in range(400)])
    assert abs((many == 4).float().mean() - 0.5) < 4 * 0.5 / 20


@pytest.mark.parametrize("step, size, count", [(0, 16, 4), (9, 16, 4), (10, 32, 1), (20, 64, 1)])
def test_autoencoders_crops_grow_and_become_fewer(step, size, count):
    """As many of a larger size as make up the pixels of the first, and at least one; every one is a part of its image."""
    module = Autoencoder(
        VQ(VQModel(1, (32, 32), 1, codes=8)),
        Codebook(8),
        AdamW(1e-3),
        {20: 64, 0: 16, 10: 32},
        per_image=4,
    )
    module.trainer = SimpleNamespace(global_step=step)
    image = torch.arange(2 * 64 * 64.0).reshape(2, 1, 64, 64)
    found = module.crop(image, Draws(0, 0, step))
    assert found.shape == (2 * count, 1, size, size)
    for i, crop in enumerate(found):
        r, c = divmod(int(crop[0, 0, 0]) % 64**2, 64)
        assert torch.equal(crop[0], image[i // count, 0, r : r + size, c : c + size])
    with pytest.raises(ValueError, match="must name a size from step 0 on"):
        Autoencoder(VQ(VQModel(1, (32, 32), 1, codes=8)), Codebook(8), AdamW(1e-3), {10: 32})


def test_patch_training_holds_no_whole_image_of_activations():
    """No layer of the network ever sees more than the patches: at most P x P, and fewer pixels than the images have."""
    read = configuration.load(["configs/patch-diffusion/demo.yaml"])
    module = configuration.build(read["model"], prior=configuration.build(read["prior"])).train()
    module.trainer, module.log = SimpleNamespace(global_step=0, global_rank=0), lambda *a, **k: None
    seen = []

    def record(layer, inputs, output):
        seen.extend(
            tuple(t.shape) for t in (*inputs, output) if isinstance(t, torch.Tensor) and t.ndim == 4
        )

    for layer in module.denoiser.modules():
        layer.register_forward_hook(record)
    image = Noise(["a", "b"], "noise").normal((2, 1, 256, 256))
    patch, per_image = module.prior.patch, module.crops.per_image
    for step in range(3):  # sizes are drawn by step
        module.trainer.global_step = step
        module.training_step({"image": image}, 0).backward()
    assert (
        len(seen) > 100
        and {shape[2] for shape in seen} & {16, 32}
        and max(shape[2] for shape in seen) == patch
    )
    assert max(n * h * w for n, _, h, w in seen) <= 2 * per_image * patch**2 < 2 * 256**2


def test_kl_latents_are_kept_as_moments_and_drawn_anew():
    torch.manual_seed(0)
    stage = KL(KLModel(1, (32, 32), 1, latent=3)).eval()
    image, kept = Noise(["a", "b"], "noise").normal((2, 1, 16, 16)), Latents(stage, cache=True)
    mean, logvar = kept.posterior(image, ["a", "b"], [False, True])
    belief = stage.model.encode(torch.cat([image[:1], image[1:].flip(3)])).latent_dist
    torch.testing.assert_close(
        mean, belief.mean, rtol=0, atol=1e-5
    )  # batch of two against one by one, float32
    torch.testing.assert_close(logvar, belief.logvar, rtol=0, atol=1e-5)
    assert set(kept.found) == {("a", False), ("b", True)}
    stage.model = None  # what is kept needs no encoder
    assert torch.equal(kept.posterior(image, ["a", "b"], [False, True])[0], mean)
    assert (
        Latents(VQ(VQModel(1, (32, 32), 1)), False).posterior(image, ["a", "b"], [False] * 2)[1]
        is None
    )


def test_latents_of_a_kl_autoencoder_vary_in_training_only():
    """z = mean + exp(logvar / 2) n: over many draws mean and variance are the posterior's."""
    torch.manual_seed(0)
    stage = KL(KLModel(1, (32, 32), 1, latent=3))
    prior = LatentPrior(VP(nn.Identity(), Table("linear")), (3, 8, 8), stage, scale=2.0, shift=0.5)
    module = LatentDiffusion(prior, AdamW(1e-3))
    batch = {"image": Noise(["a"], "noise").normal((1, 1, 16, 16)), "image_id": ["a"]}
    with torch.no_grad():
        belief = stage.model.encode(batch["image"]).latent_dist
    drawn = torch.cat([module.train().whole(batch, Draws(0, 0, step)) for step in range(400)])
    expected = (belief.mean - 0.5) * 2
    z = (drawn - expected) / (2 * belief.std)  # 76,800 draws of N(0, 1)
    assert (
        abs(float(z.mean())) < 4 / z.numel() ** 0.5
        and abs(float(z.var()) - 1) < 4 * (2 / z.numel()) ** 0.5
    )
    torch.testing.assert_close(
        module.eval().whole(batch, Draws(0, 0, 0)), expected, rtol=0, atol=1e-5
    )


def test_padis_on_latents_pads_the_latent_and_nothing_else():
    torch.manual_seed(0)
    patches = PatchPrior(EDM(UNet(5, (32, 32), 1, out=3)), 3, 8, 6)
    first = VQ(VQModel(1, (32, 32), 1, codes=16, attention=False))
    prior = LatentPatchPrior(patches, first, scale=2.0, shift=0.5)
    plain = LatentPrior(VP(nn.Identity(), Table("linear")), (3, 8, 8), first, scale=2.0, shift=0.5)
    assert (prior.kind, prior.patched, prior.shape, prior.image_shape) == (
        "latent",
        True,
        (3, 16, 16),
        (1, 16, 16),
    )
    image, sigma = Noise(["a", "b"], "noise").normal((2, 1, 16, 16)), torch.tensor([0.5, 2.0])
    with torch.no_grad():
        z = prior.encode(image)
        assert torch.equal(z[..., 4:12, 4:12], plain.encode(image)) and (z[..., :4, :] == -1).all()
        assert torch.equal(prior.decode(z), plain.decode(plain.encode(image)))
        assert torch.equal(prior.denoise(z, sigma), patches.denoise(z, sigma))


def test_patch_training_says_what_it_needs():
    prior = PatchPrior(EDM(nn.Identity()), 1, 16, 8)
    with pytest.raises(ValueError, match="PatchDiffusion needs crops"):
        PatchDiffusion(prior, AdamW(1e-3))
    with pytest.raises(ValueError, match="trains on whole images and takes no crops"):
        PixelDiffusion(Prior(EDM(nn.Identity()), (1, 16, 16)), AdamW(1e-3), crops=Crops({16: 1.0}))
    with pytest.raises(ValueError, match="patch training needs an ldm.patch.PatchPrior"):
        PatchDiffusion(Prior(EDM(nn.Identity()), (1, 16, 16)), AdamW(1e-3), crops=Crops({16: 1.0}))
