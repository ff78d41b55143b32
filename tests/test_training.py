"""Training: losses, averaging, noise levels, patches; a broken run that is gone on with; two processes; losses that fall."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from torch import nn

import main
from data.seeding import Noise
from ldm import checkpoints
from ldm import config as configuration
from ldm.bottleneck import Codebook, whiten
from ldm.crops import Crops
from ldm.denoiser import EDM, VP, column
from ldm.draws import Draws
from ldm.ema import EMA
from ldm.levels import Mixture, UniformTime, weight
from ldm.losses import adaptive_weight, commitment, hinge, kl_to_normal
from ldm.networks import VQModel
from ldm.optimisation import AdamW
from ldm.patch import PatchPrior, cut, cut_padded, positions
from ldm.perceptual import LPIPS
from ldm.schedule import Table


def trainable(part: str, node: dict, target: str, **params) -> dict:
    optimiser = {"target": "ldm.optimisation.AdamW", "params": {"lr": 1e-3, "warmup": 2}}
    return {part: node, "model": {"target": f"ldm.{target}", "params": {"optimiser": optimiser, **params}}}


def edm(**network) -> dict:
    denoiser = {"target": "ldm.denoiser.EDM", "params": {"network": tiny.network(1, time_scale=100, **network)}}
    return {"target": "ldm.denoiser.Prior", "params": {"denoiser": denoiser, "shape": [1, 16, 16]}}


CODEBOOK = {"target": "ldm.bottleneck.Codebook", "params": {"codes": 16, "from_data": 2, "revive": 2}}
CROPS = {"target": "ldm.crops.Crops", "params": {"sizes": {4: 0.4, 8: 0.6}, "per_image": 2}}
KINDS = {
    "autoencoder": trainable("first_stage", tiny.STAGE, "autoencoder.Autoencoder", bottleneck=CODEBOOK, crops={0: 8}),
    "latent": trainable("prior", tiny.latent(), "diffusion.LatentDiffusion", estimate_scale=True, flip=True),
    "pixel": trainable("prior", edm(dropout=0.1), "diffusion.PixelDiffusion", flip=True),
    "patch": trainable("prior", tiny.patch(), "diffusion.PatchDiffusion", crops=CROPS),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Eight smooth 16 x 16 scans and a data file that names them."""
    folder = tmp_path_factory.mktemp("scans")
    y, x = np.mgrid[0:16, 0:16] / 15
    for i in range(8):
        picture = 127 + 120 * np.sin(3 * x + i) * np.cos(2 * y - i)
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"s{i}.png")
    (folder / "train.csv").write_text("path,label\n" + "".join(f"s{i}.png,{i % 2}\n" for i in range(8)))
    (folder / "data.yaml").write_text(
        f"data: {{target: data.datamodule.ManifestData, params: {{train: {folder}/train.csv, validation: {folder}/train.csv, "
        "batch_size: 2}}\ntrainer: {accelerator: cpu, enable_progress_bar: false, enable_model_summary: false, "
        "num_sanity_val_steps: 0, limit_val_batches: 0}\n"
    )
    return folder


def arguments(data: Path, where: Path, kind: str, *more: str) -> list[str]:
    where.mkdir(parents=True, exist_ok=True)
    (where / f"{kind}.yaml").write_text(configuration.dump(KINDS[kind]))
    base = ["--base", str(where / f"{kind}.yaml"), str(data / "data.yaml")]
    return [*base, "--train", "--logdir", str(where), "--project", "p", "--name", kind, "--resume", "auto", *more]


def last(where: Path, kind: str) -> dict:
    return torch.load(where / "p" / kind / "checkpoints" / "last.ckpt", weights_only=True)


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


# ---------------------------------------------------------------------------------------------- parts


def test_losses_by_hand():
    z, z_q = torch.tensor([0.0, 2.0], requires_grad=True), torch.tensor([1.0, 2.0], requires_grad=True)
    loss = commitment(z, z_q, 0.25)  # (1 + 0.25) * mean(1, 0)
    loss.backward()
    assert loss.item() == 0.625
    assert z.grad.tolist() == [-0.25, 0] and z_q.grad.tolist() == [1, 0]  # beta and 1 times 2 (a - b) / 2
    assert hinge(torch.tensor([2.0, 0.0]), torch.tensor([-2.0, 1.0])).item() == (0.5 + 1.0) / 2
    zero = torch.zeros(2, 1, 1, 1)
    assert kl_to_normal(zero, zero).item() == 0
    assert kl_to_normal(zero + 3, zero).item() == 4.5


def test_adaptive_weight_is_the_ratio_of_gradient_norms():
    w = nn.Parameter(torch.tensor([1.0, 1.0]))
    assert adaptive_weight((3 * w).sum(), (4 * w).sum(), w).item() == pytest.approx(0.75, rel=1e-4)  # 1e-4 is in its formula


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
    torch.testing.assert_close(mine, (output - target).square().mean([1, 2, 3]), rtol=1e-9, atol=0)  # (1 + 40^2) * 1e-16 * 1e3


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
    for low, high in [(0.002, 0.01), (10, 80)]:  # at least the uniform half's share, whose error is 1/n
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
    assert (ema.weights["weight"] - start).item() == pytest.approx(1 - 0.5**20, abs=1e-5)  # 8 images, half-life 0.4


def test_cropping_in_thought_is_cropping_the_padded_image():
    x = Noise(["a", "b"], "noise").normal((2, 3, 16, 16))
    rows, columns = torch.tensor([[0, 5, 20], [24, 11, 3]]), torch.tensor([[24, 7, 0], [0, 12, 9]])
    padded = nn.functional.pad(x, [8] * 4, value=-1.0)
    assert torch.equal(cut_padded(x, rows, columns, 8, 8), cut(padded, rows, columns, 8))


def test_crops_carry_the_positions_of_the_prior():
    prior = PatchPrior(nn.Identity(), 1, 16, 8)
    crops = Crops({4: 0.5, 8: 0.5}, per_image=2)
    ramp = positions(prior.shape[-1])[:1, prior.margin : -prior.margin, prior.margin : -prior.margin][None]
    patches, place = crops.take(ramp, 4, prior.margin, Draws(0, 0, 0))
    assert patches.shape == (8, 1, 4, 4) and place.shape == (8, 2, 4, 4)
    inside = patches > -1
    assert torch.equal(patches[inside], place[:, :1][inside])  # an image of x coordinates shows each patch its own
    many = torch.tensor([crops.size(Draws(0, -1, step)) for step in range(400)])
    assert abs((many == 4).float().mean() - 0.5) < 4 * 0.5 / 20


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
        torch.testing.assert_close(torch.cov(points), torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-9)
        torch.testing.assert_close(model.decode(after, force_not_quantize=True).sample, image, rtol=0, atol=1e-9)


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


def test_straight_through_gradient_and_code_gradient():
    torch.manual_seed(0)
    model = VQModel(1, (32, 32), 1, codes=16, attention=False)
    z, loss, _ = Codebook(16)(model, torch.ones(1, 1, 8, 8), 5, Draws(0, 0, 0))
    z.sum().backward(retain_graph=True)
    assert model.encoder.conv_in.weight.grad.abs().sum() > 0
    assert model.quantize.embedding.weight.grad is None
    loss.backward()
    assert model.quantize.embedding.weight.grad.abs().sum() > 0


@pytest.mark.slow
def test_lpips_equals_torchmetrics_with_the_same_weights(tmp_path):
    from torchmetrics.functional.image.lpips import _LPIPS

    torch.manual_seed(0)
    oracle = _LPIPS(pretrained=True, net="vgg", pnet_rand=True, eval_mode=True)
    slices = [getattr(oracle.net, f"slice{i}") for i in range(1, 6)]
    layers = {name: layer for part in slices for name, layer in part.named_children()}
    torch.save({f"features.{n}.{k}": v for n, l in layers.items() for k, v in l.state_dict().items()}, tmp_path / "vgg.pth")
    mine = LPIPS(str(tmp_path / "vgg.pth"))
    a, b = (Noise(["a", "b"], purpose).normal((2, 3, 64, 64)).clamp(-1, 1) for purpose in ("noise", "mask"))
    with torch.no_grad():
        torch.testing.assert_close(mine(a, b), oracle(a, b).flatten(), rtol=1e-4, atol=0)  # float32 through 13 layers
        assert mine(a[:, :1], a[:, :1]).abs().max() == 0
    with pytest.raises(ValueError, match="not torchvision's VGG16"):
        torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
        LPIPS(str(tmp_path / "other.pth"))


# ---------------------------------------------------------------------------------------------- whole runs


def test_discriminator_starts_late_and_each_side_sees_the_other_as_constant(data, tmp_path):
    adversary = "model.params.discriminator={target: taming.modules.discriminator.model.NLayerDiscriminator, params: "
    more = [adversary + "{input_nc: 1, ndf: 8, n_layers: 1}}", "model.params.adversarial_start=2", "model.params.crops=null"]
    states = {}
    for steps in ("1", "2", "4"):
        assert main.main(arguments(data, tmp_path / steps, "autoencoder", "--max_steps", steps, *more)) == 0
        states[steps] = last(tmp_path / steps, "autoencoder")["state_dict"]
    key, other = "discriminator.main.0.weight", "first_stage.model.decoder.conv_out.weight"
    assert torch.equal(states["1"][key], states["2"][key]) and not torch.equal(states["2"][key], states["4"][key])
    assert not torch.equal(states["1"][other], states["2"][other])
    assert states["4"]["discriminator.main.3.running_mean"].abs().sum() > 0


def test_decoder_only_leaves_the_latents(data, tmp_path):
    for steps in ("1", "3"):
        more = ["model.params.decoder_only=true", "model.params.bottleneck.params.from_data=0"]
        more.append("model.params.bottleneck.params.revive=0")
        assert main.main(arguments(data, tmp_path / steps, "autoencoder", "--max_steps", steps, *more)) == 0
    a, b = (last(tmp_path / steps, "autoencoder")["state_dict"] for steps in ("1", "3"))
    changed = {key.split(".")[2] for key in a if key.startswith("first_stage.") and not torch.equal(a[key], b[key])}
    assert changed == {"decoder", "post_quant_conv"}


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_run_equals_an_unbroken_one_to_the_bit(kind, data, tmp_path):
    """7 steps of 4 an epoch in one go, and 3 + 4: weights, averages, optimiser, schedule, order and noise."""
    constant = "model.params.optimiser.params.floor=1.0"  # else the decay would know of the longer run
    assert main.main(arguments(data, tmp_path / "whole", kind, "--max_steps", "7", constant)) == 0
    assert main.main(arguments(data, tmp_path / "parts", kind, "--max_steps", "3", constant)) == 0
    assert last(tmp_path / "parts", kind)["global_step"] == 3
    assert main.main(arguments(data, tmp_path / "parts", kind, "--max_steps", "7", constant)) == 0
    a, b = last(tmp_path / "whole", kind), last(tmp_path / "parts", kind)
    for key in ("state_dict", "ema", "ema_images", "optimizer_states", "lr_schedulers", "global_step"):
        assert same(a[key], b[key]), key


@pytest.mark.slow
def test_killed_at_a_random_step_and_resumed(data, tmp_path):
    """kill -9 while it trains; going on gives the weights of a run that was left alone."""
    often = ["--max_steps", "40", "save_every=5"]
    assert main.main(arguments(data, tmp_path / "whole", "pixel", *often)) == 0
    command = [sys.executable, "main.py", *arguments(data, tmp_path / "parts", "pixel", *often)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    file = tmp_path / "parts" / "p" / "pixel" / "checkpoints" / "last.ckpt"
    while not file.exists():
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert last(tmp_path / "parts", "pixel")["global_step"] < 40
    assert main.main(arguments(data, tmp_path / "parts", "pixel", *often)) == 0
    a, b = last(tmp_path / "whole", "pixel"), last(tmp_path / "parts", "pixel")
    assert a["global_step"] == b["global_step"] == 40
    assert same(a["state_dict"], b["state_dict"]) and same(a["ema"], b["ema"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes(kind, data, tmp_path):
    """gloo on the CPU; both ranks end with the same weights (rank 0's are what is saved), and the loss is finite."""
    command = [
        sys.executable,
        "main.py",
        *arguments(data, tmp_path, kind, "--max_steps", "3", "--devices", "2", "--strategy", "ddp"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    saved = last(tmp_path, kind)
    assert saved["global_step"] == 3
    assert all(torch.isfinite(v).all() for v in saved["state_dict"].values() if v.is_floating_point())


@pytest.mark.parametrize("kind", ["autoencoder", "latent"])
def test_checkpoints_load_by_path(kind, data, tmp_path):
    """What training writes is what `ldm.checkpoints` reads, the averages by default, with the numbers training measured."""
    assert (
        main.main(arguments(data, tmp_path, kind, "--max_steps", "3", "--limit_val_batches", "1", "--val_check_interval", "2"))
        == 0
    )
    path = tmp_path / "p" / kind / "checkpoints" / "last.ckpt"
    saved = last(tmp_path, kind)
    if kind == "autoencoder":
        loaded = checkpoints.first_stage(path)
        key = "model.decoder.conv_out.weight"
        assert torch.equal(loaded.state_dict()[key], saved["ema"][f"first_stage.{key}"])
        return
    prior = checkpoints.load(path)
    key = "denoiser.network.conv_in.weight"
    assert torch.equal(prior.state_dict()[key], saved["ema"][f"prior.{key}"])
    assert not torch.equal(saved["state_dict"][f"prior.{key}"], saved["ema"][f"prior.{key}"])
    assert prior.scale != 1
    assert checkpoints.load(tmp_path / "p" / kind).origin == prior.origin  # the run's folder means its last checkpoint


def test_losses_fall(data, tmp_path):
    """A few steps on eight pictures: the training loss at the end is below that at the start."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for kind in ("autoencoder", "pixel"):
        assert main.main(arguments(data, tmp_path, kind, "--max_steps", "30", "--log_every_n_steps", "1")) == 0
        events = EventAccumulator(str(tmp_path / "p" / kind / "tensorboard"))
        events.Reload()
        name = "train/l1" if kind == "autoencoder" else "train/loss"
        values = [event.value for event in events.Scalars(name)]
        assert sum(values[-8:]) < 0.7 * sum(values[:8]), kind
