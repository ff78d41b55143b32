"""Optimisers and schedules: Muon against NumPy, its AdamW against torch's, learning rates by hand, and several averages."""

import math

import numpy as np
import pytest
import torch
from runs import arguments, data, last, same  # noqa: F401 (data is a fixture)

import main
from ldm import checkpoints
from ldm.networks.residual_autoencoder import ResidualVQ
from ldm.networks.residual_unet import ResidualUNet
from ldm.training.muon import MuonAdamW, orthogonalised
from ldm.training.optimisation import AdamW, Muon

# ruff: noqa: F811 (a fixture is imported)


def newton_schulz(m: np.ndarray) -> np.ndarray:
    """Jordan et al. 2024, as published: five steps of X <- a X + b X X^T X + c (X X^T)^2 X, the longer side across."""
    x = m.T if (tall := m.shape[0] > m.shape[1]) else m
    x = x / np.linalg.norm(x)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if tall else x


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (20, 2, 2, 2), (5, 5, 1, 1)])
def test_two_muon_steps_equal_the_published_ones(shape):
    """Float32 against float64: five steps amplify a rounding of 6e-8 at most 3.4445^5 = 485 times, in the square twice."""
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=shape), rng.normal(size=(2, *shape))
    p = torch.nn.Parameter(torch.tensor(start))
    optimiser = MuonAdamW(
        [{"params": [p], "lr": 0.1, "matrices": True}], momentum=0.95, weight_decay=0.1
    )
    x, m, n, rest = start, np.zeros(shape), shape[0], math.prod(shape[1:])
    for g in gradients:
        p.grad = torch.tensor(g)
        optimiser.step()
        m = 0.95 * m + g
        step = newton_schulz((g + 0.95 * m).reshape(n, rest)).reshape(shape)
        x = x * (1 - 0.1 * 0.1) - 0.1 * math.sqrt(max(1, n / rest)) * step
    assert np.abs(p.detach().numpy() - x).max() < 2 * 0.1 * 2 * 485 * 6e-8 * math.sqrt(n)


def test_singular_values_come_near_one():
    m = torch.randn(16, 90, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(m))
    assert 0.6 < values.min() and values.max() < 1.3  # the band of the published coefficients


def test_the_rest_is_torchs_adamw():
    torch.manual_seed(0)
    start, gradients = torch.randn(7).double(), torch.randn(5, 7).double()
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    settings = dict(betas=(0.9, 0.99), weight_decay=0.1)
    pairs = [
        (ours, MuonAdamW([{"params": [ours], "lr": 0.01, "matrices": False}], **settings)),
        (theirs, torch.optim.AdamW([theirs], lr=0.01, **settings)),
    ]
    for p, optimiser in pairs:
        for g in gradients:
            p.grad = g.clone()
            optimiser.step()
    assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "network, others",
    [
        (
            ResidualUNet(widths=(16, 24), blocks=1, positions=2),
            {"enter.weight", "place.weight", "leave.weight"},
        ),
        (
            ResidualVQ(widths=(16, 24), blocks=1, codes=32),
            {
                *(
                    f"{half}.conv_{end}.weight"
                    for half in ("encoder", "decoder")
                    for end in ("in", "out")
                ),
                *("quant_conv.weight", "post_quant_conv.weight", "quantize.embedding.weight"),
            },
        ),
    ],
)
def test_which_weights_are_matrices(network, others):
    optimiser = Muon(lr=0.02, adamw=0.003).configure(network.parameters(), 10)["optimizer"]
    matrices, rest = optimiser.param_groups
    names = {id(p): name for name, p in network.named_parameters()}
    assert (matrices["initial_lr"], rest["initial_lr"]) == (0.02, 0.003)
    assert {names[id(p)] for p in matrices["params"]} == {
        name for name, p in network.named_parameters() if p.ndim == 4
    } - others
    assert others - {"quantize.embedding.weight"} < {names[id(p)] for p in rest["params"]}
    assert len(matrices["params"]) + len(rest["params"]) == len(names)


@pytest.mark.parametrize("kind", [AdamW, Muon])
def test_learning_rates_by_hand(kind):
    cosine, trapezoid = kind(lr=1.0, warmup=4), kind(lr=1.0, warmup=4, decay=0.25, floor=0.1)
    assert [cosine.share(step, 104) for step in (0, 4, 54, 104)] == pytest.approx([0.2, 1, 0.5, 0])
    shares = [trapezoid.share(step, 100) for step in (0, 4, 75, 80, 99, 100)]
    assert shares == pytest.approx([0.2, 1, 1, 0.1 + 0.9 * 0.8, 0.1 + 0.9 * 0.04, 0.1])
    assert trapezoid.share(10**6, math.inf) == 1


def muon(*more: str) -> list[str]:
    return [
        "model.params.optimiser={target: ldm.training.optimisation.Muon, params: {decay: 0.5, floor: 1.0, warmup: 2}}",
        *more,
    ]


def test_a_resumed_run_with_muon_and_three_averages_equals_an_unbroken_one_to_the_bit(
    data, tmp_path
):
    more = muon(
        "ema_half_life=[100, 0.25, 0.2]"
    )  # the first is held at a twentieth of the images seen: 0.4 at most
    assert main.main(arguments(data, tmp_path / "whole", "pixel", "--max_steps", "4", *more)) == 0
    for steps in ("3", "4"):
        assert (
            main.main(arguments(data, tmp_path / "parts", "pixel", "--max_steps", steps, *more))
            == 0
        )
    a, b = last(tmp_path / "whole", "pixel"), last(tmp_path / "parts", "pixel")
    assert (
        list(a["ema_others"]) == ["0.25", "0.2"]
        and "momentum" in a["optimizer_states"][0]["state"][0]
    )
    for key in (
        "state_dict",
        "ema",
        "ema_others",
        "ema_images",
        "optimizer_states",
        "lr_schedulers",
        "global_step",
    ):
        assert same(a[key], b[key]), key


def test_a_constant_run_is_ended_by_a_branch(data, tmp_path):
    """The same steps, then a decay to 0 in another folder: it begins with the weights and the momentum of the run."""
    more = muon(
        "model.params.optimiser.params.floor=0.0", "model.params.optimiser.params.decay=0.0"
    )
    assert main.main(arguments(data, tmp_path / "run", "pixel", "--max_steps", "4", *more)) == 0
    checkpoint = tmp_path / "run" / "p" / "pixel" / "checkpoints" / "last.ckpt"
    branch = [
        *muon("model.params.optimiser.params.floor=0.0"),
        "--resume",
        str(checkpoint),
        "--max_steps",
        "8",
    ]
    assert main.main(arguments(data, tmp_path / "branch", "pixel", *branch)) == 0
    saved = last(tmp_path / "branch", "pixel")
    assert saved["global_step"] == 8 and saved["optimizer_states"][0]["param_groups"][0]["lr"] == 0
    assert last(tmp_path / "run", "pixel")["global_step"] == 4


def test_averages_are_chosen_by_their_half_life(data, tmp_path):
    more = muon(
        "ema_half_life=[100, 0.25]"
    )  # the first is held at a twentieth of the images seen: 0.5
    assert main.main(arguments(data, tmp_path, "pixel", "--max_steps", "5", *more)) == 0
    saved, path = last(tmp_path, "pixel"), tmp_path / "p" / "pixel" / "checkpoints" / "last.ckpt"
    key = "denoiser.network.conv_in.weight"
    for asked, held in (
        (True, saved["ema"]),
        (100, saved["ema"]),
        (0.25, saved["ema_others"]["0.25"]),
    ):
        assert torch.equal(
            checkpoints.load(path, ema=asked).state_dict()[key], held[f"prior.{key}"]
        )
    assert not torch.equal(
        saved["ema"][f"prior.{key}"], saved["ema_others"]["0.25"][f"prior.{key}"]
    )
    with pytest.raises(ValueError, match="no average of half-life 7; 100 and 0.25 are there"):
        checkpoints.load(path, ema=7)


@pytest.mark.parametrize("wrong", ["0", "[]", "[100, -3]", "true", "many"])
def test_half_lives_are_numbers_above_0(wrong, data, tmp_path, capsys):
    assert main.main(arguments(data, tmp_path, "pixel", f"ema_half_life={wrong}")) == 2
    assert "ema_half_life" in capsys.readouterr().err


def test_a_run_that_kept_one_average_goes_on_with_more(data, tmp_path):
    for steps, more in (("3", muon("ema_half_life=100")), ("4", muon("ema_half_life=[100, 3]"))):
        assert main.main(arguments(data, tmp_path, "pixel", "--max_steps", steps, *more)) == 0
    assert list(last(tmp_path, "pixel")["ema_others"]) == ["3"]


def test_a_training_kept_in_half_precision_is_gone_on_with(data, tmp_path, capsys):
    """From the file alone, elsewhere: momentum, average and order of images, as the whole checkpoint has them to 2^-8."""
    import convert_checkpoint

    more = muon("ema_half_life=[100, 3]")
    assert main.main(arguments(data, tmp_path, "pixel", "--max_steps", "3", *more)) == 0
    source, kept = (
        tmp_path / "p" / "pixel" / "checkpoints" / "last.ckpt",
        tmp_path / "training.ckpt",
    )
    assert convert_checkpoint.main([str(source), str(kept), "--training"]) == 0
    assert (
        kept.stat().st_size < 0.45 * source.stat().st_size
    )  # two of six tensors a weight are left out, the others halved
    for name, file in (("whole", source), ("half", kept)):
        assert (
            main.main(
                arguments(
                    data, tmp_path / name, "pixel", "--resume", str(file), "--max_steps", "5", *more
                )
            )
            == 0
        )
    whole, half = (last(tmp_path / name, "pixel") for name in ("whole", "half"))
    assert half["global_step"] == 5 and half["ema_images"] == whole["ema_images"] == 10
    assert (
        half["loops"]["fit_loop"]["epoch_progress"] == whole["loops"]["fit_loop"]["epoch_progress"]
    )
    for key in ("state_dict", "ema"):
        for name, tensor in whole[key].items():
            assert half[key][name].dtype == tensor.dtype
            if tensor.is_floating_point():
                assert (half[key][name] - tensor).norm() < 2**-8 * max(1, float(tensor.norm())), (
                    name
                )
    capsys.readouterr()
    assert (
        convert_checkpoint.main(
            ["models/demo-latent/model.safetensors", str(tmp_path / "b"), "--training"]
        )
        == 2
    )
    assert "not a training checkpoint" in capsys.readouterr().err
