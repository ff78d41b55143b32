"""The parts of training: losses, averaging, noise levels, codebooks."""

import math

import pytest
import torch
from torch import nn

from data.seeding import Noise
from ldm.denoiser import EDM, VP, Prior, column
from ldm.networks.residual_unet import ResidualUNet
from ldm.networks.unet import VQModel
from ldm.schedule import Table
from ldm.training.bottleneck import Codebook, whiten
from ldm.training.diffusion import PixelDiffusion
from ldm.training.ema import EMA
from ldm.training.losses import adaptive_weight, commitment, hinge, kl_to_normal
from ldm.training.noise_levels import Mixture, UniformTime, weight
from ldm.training.optimisation import AdamW
from ldm.training.perceptual import LPIPS
from ldm.training.randomness import Draws


def test_losses_by_hand():
    z, z_q = (
        torch.tensor([0.0, 2.0], requires_grad=True),
        torch.tensor([1.0, 2.0], requires_grad=True),
    )
    loss = commitment(z, z_q, 0.25)  # (1 + 0.25) * mean(1, 0)
    loss.backward()
    assert loss.item() == 0.625
    assert z.grad.tolist() == [-0.25, 0] and z_q.grad.tolist() == [
        1,
        0,
    ]  # beta and 1 times 2 (a - b) / 2
    assert hinge(torch.tensor([2.0, 0.0]), torch.tensor([-2.0, 1.0])).item() == (0.5 + 1.0) / 2
    zero = torch.zeros(2, 1, 1, 1)
    assert kl_to_normal(zero, zero).item() == 0
    assert kl_to_normal(zero + 3, zero).item() == 4.5


def test_adaptive_weight_is_the_ratio_of_gradient_norms():
    w = nn.Parameter(torch.tensor([1.0, 1.0]))
    assert adaptive_weight((3 * w).sum(), (4 * w).sum(), w).item() == pytest.approx(
        0.75, rel=1e-4
    )  # 1e-4 is in its formula


@pytest.mark.parametrize("predicts", ["eps", "v", "x0"])
def test_weights_turn_the_denoiser_loss_into_the_networks_own(predicts):
    """|D - x0|^2 * weight = |output - target|^2, for an arbitrary output of the network."""
    noise = Noise(["a", "b", "c"], "noise")
    x0, n, output = (noise.normal((3, 1, 4, 4), torch.float64) for _ in range(3))
    sigma = torch.tensor([0.01, 1.0, 40.0], dtype=torch.float64)

    class Fixed(nn.Module):
        def forward(self, x, t):
            return output

    denoiser = VP(Fixed(), Table("linear").alpha_bar(), predicts)
    d = denoiser(x0 + column(sigma) * n, sigma)
    a = column(1 / (1 + sigma**2))
    target = {"eps": n, "v": a.sqrt() * n - (1 - a).sqrt() * x0, "x0": x0}[predicts]
    mine = weight(predicts, sigma) * (d - x0).square().mean([1, 2, 3])
    torch.testing.assert_close(
        mine, (output - target).square().mean([1, 2, 3]), rtol=1e-9, atol=0
    )  # (1 + 40^2) * 1e-16 * 1e3


def test_edm_weight_is_the_inverse_square_of_c_out():
    sigma = torch.tensor([0.002, 0.5, 80.0], dtype=torch.float64)
    c_out = EDM(nn.Identity()).scalings(sigma)[1]
    torch.testing.assert_close(weight("edm", sigma), c_out**-2)
    assert weight("min_snr", sigma).tolist() == [5.0, 4.0, 80.0**-2]


def test_levels_cover_what_solvers_use():
    draws = Draws(0, 0, 0)
    sigma = Mixture().draw(20_000, 0.002, 80, None, draws).log()
    assert sigma.min() >= math.log(0.002) - 1e-6 and sigma.max() <= math.log(80) + 1e-6
    span = math.log(80 / 0.002)
    for low, high in [
        (0.002, 0.01),
        (10, 80),
    ]:  # at least the uniform half's share, whose error is 1/n
        share = ((sigma >= math.log(low)) & (sigma <= math.log(high))).float().mean()
        assert share > 0.5 * math.log(high / low) / span - 4 * 0.5 / 20_000**0.5
    table = Table("linear").alpha_bar()
    drawn = UniformTime().draw(1000, 0.1, 1, table, draws)
    assert torch.isin(drawn, ((1 - table) / table).sqrt().float()).all()
    with pytest.raises(ValueError, match="UniformTime"):
        UniformTime().draw(1, 0.1, 1, None, draws)


def test_learning_rate_rises_and_falls():
    plan = AdamW(lr=1.0, warmup=4, floor=0.1)
    shares = [plan.share(step, 104) for step in range(105)]
    assert shares[:5] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert shares[54] == pytest.approx(0.55) and shares[104] == pytest.approx(0.1)
    assert shares[4:] == sorted(shares[4:], reverse=True)
    assert AdamW(lr=1.0).share(10**6, math.inf) == 1


def test_average_follows_the_half_life_and_swaps_back():
    module = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(0)
        ema = EMA(100, ramp=math.inf)
        ema.start(module, {"weight"})
        module.weight.fill_(1)
        for _ in range(10):
            ema.update(module, 10)
    assert ema.weights["weight"].item() == pytest.approx(0.5, abs=1e-6)
    raw, average = module.weight.clone(), ema.weights["weight"].clone()
    ema.swap(module)
    assert torch.equal(module.weight, average) and torch.equal(ema.weights["weight"], raw)
    ema.swap(module)
    assert torch.equal(module.weight, raw) and torch.equal(ema.weights["weight"], average)


def test_average_warms_up():
    """No more than `ramp` of what was seen: after the first update almost nothing of the start is left."""
    module = nn.Linear(1, 1, bias=False)
    ema = EMA(1e6)
    ema.start(module, {"weight"})
    start = ema.weights["weight"].clone()
    with torch.no_grad():
        module.weight.add_(1)
    ema.update(module, 8)
    assert (ema.weights["weight"] - start).item() == pytest.approx(
        1 - 0.5**20, abs=1e-5
    )  # 8 images, half-life 0.4


def test_whitening_changes_coordinates_and_nothing_else():
    torch.manual_seed(0)
    model = VQModel(1, (32, 32), 1, codes=8, attention=False).double().eval()
    x = Noise(["a", "b"], "noise").normal((2, 1, 16, 16), torch.float64)
    with torch.no_grad():
        before = model.encode(x).latents
        image = model.decode(before, force_not_quantize=True).sample
        whiten(model, before)
        after = model.encode(x).latents
        points = after.permute(1, 0, 2, 3).flatten(1)
        torch.testing.assert_close(
            torch.cov(points), torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-9
        )
        torch.testing.assert_close(
            model.decode(after, force_not_quantize=True).sample, image, rtol=0, atol=1e-9
        )


def test_codebook_is_set_from_data_and_dead_codes_are_revived():
    torch.manual_seed(0)
    model = VQModel(1, (32, 32), 1, codes=16, attention=False)
    codebook = Codebook(16, from_data=1, revive=3)
    x = Noise(["a", "b"], "noise").normal((2, 1, 16, 16))
    draws = Draws(0, 0, 0)
    assert codebook(model, x, 0, draws)[1].item() == 0
    _, loss, logs = codebook(model, x, 1, draws)
    assert loss > 0 and logs["codes used"] > 8 and 1 < logs["perplexity"] <= 16
    with torch.no_grad():
        model.quantize.embedding.weight[5] = 1e3
    codebook(model, x, 2, draws)
    codebook.uses[5] = 0
    codebook(model, x, 3, draws)
    assert model.quantize.embedding.weight[5].abs().max() < 100


def test_codes_change_once_an_optimiser_step():
    """With accumulation: no code dies and no coordinate changes between the batches of one step."""
    torch.manual_seed(0)
    model = VQModel(1, (32, 32), 1, codes=64, attention=False)
    codebook = Codebook(64, from_data=1, revive=3)
    codes, coordinates = model.quantize.embedding.weight, model.quant_conv.weight
    for step, part in ((1, 0), (1, 1), (3, 0), (3, 1)):
        before = codes.detach().clone(), coordinates.detach().clone()
        codebook.uses += step == 3 and part == 0  # every code was used since the last revival
        codebook(
            model,
            Noise([f"{step}{part}"], "noise").normal((1, 1, 8, 8)),
            step,
            Draws(0, 0, step, part),
        )
        changed = not torch.equal(codes, before[0]), not torch.equal(coordinates, before[1])
        assert changed == ((True, True) if (step, part) == (1, 0) else (False, False)), (step, part)


def test_straight_through_gradient_and_code_gradient():
    torch.manual_seed(0)
    model = VQModel(1, (32, 32), 1, codes=16, attention=False)
    z, loss, _ = Codebook(16)(model, torch.ones(1, 1, 8, 8), 5, Draws(0, 0, 0))
    z.sum().backward(retain_graph=True)
    assert model.encoder.conv_in.weight.grad.abs().sum() > 0
    assert model.quantize.embedding.weight.grad is None
    loss.backward()
    assert model.quantize.embedding.weight.grad.abs().sum() > 0


def test_lpips_equals_torchmetrics_with_the_same_weights(tmp_path):
    from torchmetrics.functional.image.lpips import _LPIPS

    torch.manual_seed(0)
    oracle = _LPIPS(pretrained=True, net="vgg", pnet_rand=True, eval_mode=True)
    slices = [getattr(oracle.net, f"slice{i}") for i in range(1, 6)]
    layers = {name: layer for part in slices for name, layer in part.named_children()}
    torch.save(
        {f"features.{n}.{k}": v for n, l in layers.items() for k, v in l.state_dict().items()},
        tmp_path / "vgg.pth",
    )
    mine = LPIPS(str(tmp_path / "vgg.pth"))
    a, b = (
        Noise(["a", "b"], purpose).normal((2, 3, 64, 64)).clamp(-1, 1)
        for purpose in ("noise", "mask")
    )
    with torch.no_grad():
        torch.testing.assert_close(
            mine(a, b), oracle(a, b).flatten(), rtol=1e-4, atol=0
        )  # float32 through 13 layers
        assert mine(a[:, :1], a[:, :1]).abs().max() == 0
    with pytest.raises(ValueError, match="not torchvision's VGG16"):
        torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
        LPIPS(str(tmp_path / "other.pth"))


def test_turned_images_are_seen_in_all_eight_positions_and_of_any_size():
    """In training only; a network of fixed size refuses others, this one only other channels."""
    prior = Prior(EDM(ResidualUNet(widths=(8, 12), blocks=1)), (1, 16, 16))
    module = PixelDiffusion(prior, AdamW(lr=1.0), flip=True, turn=True)
    image = torch.arange(64.0).reshape(1, 1, 8, 8)
    batch = {"image": image.expand(200, -1, -1, -1)}
    seen = {tuple(one.flatten().tolist()) for one in module.train().whole(batch, Draws(0, 0, 0))}
    wanted = [
        turn for k in range(4) for turn in (image.rot90(k, (2, 3)), image.rot90(k, (2, 3)).flip(3))
    ]
    assert seen == {tuple(one.flatten().tolist()) for one in wanted}
    assert torch.equal(module.eval().whole(batch, Draws(0, 0, 0)), batch["image"])
    with pytest.raises(ValueError, match="do not fit"):
        module.whole({"image": torch.zeros(1, 2, 8, 8)}, Draws(0, 0, 0))


def test_oblong_images_are_turned_without_swapping_their_sides():
    prior = Prior(EDM(ResidualUNet(widths=(8, 12), blocks=1)), (1, 16, 16))
    module = PixelDiffusion(prior, AdamW(lr=1.0), flip=True, turn=True).train()
    image = torch.arange(32.0).reshape(1, 1, 4, 8)
    seen = module.whole({"image": image.expand(100, -1, -1, -1)}, Draws(0, 0, 0))
    wanted = [image, image.flip(3), image.flip(2), image.flip(2, 3)]
    assert {tuple(one.flatten().tolist()) for one in seen} == {
        tuple(one.flatten().tolist()) for one in wanted
    }


@pytest.mark.parametrize("size", [(8, 8), (9, 13)])
def test_pictures_are_of_the_size_of_the_images(size):
    """And samples of the prior's."""
    prior = Prior(EDM(ResidualUNet(widths=(8, 12), blocks=1)), (1, 16, 16))
    pictures = PixelDiffusion(prior, AdamW(lr=1.0)).pictures({"image": torch.zeros(2, 1, *size)})
    assert pictures["denoising"].shape[1:] == (1, *size)
    assert pictures["samples"].shape[1:] == prior.shape
