"""k-space, coil maps and least squares against BART: centre, sign and scale to rounding, maps up to phase, pics to 1 %."""

import bart
import numpy as np
import pytest
import torch
from bart import needed

from data.formats import kspace as files
from data.seeding import Noise
from solvers.measured.espirit import espirit
from solvers.operators.base import conjugate_gradients
from solvers.operators.kspace import fourier, inverse_fourier, to_complex, to_real
from solvers.operators.mri import MRI
from solvers.problem import Gaussian, from_measurement

pytestmark = needed


@pytest.mark.parametrize("size", [(16, 16), (15, 16), (16, 13), (9, 11)], ids=str)
def test_the_transform_is_barts(size, tmp_path):
    """The same middle, sign and scale, odd sizes too."""
    z = Noise(["z"], "noise").normal((1, 2, *size), torch.float64)
    image = torch.complex(z[0, 0], z[0, 1])
    theirs = bart.run(tmp_path, "fft -u 3 {z} {out}", z=image.numpy())
    np.testing.assert_allclose(fourier(image)[None].numpy(), theirs, atol=2e-6)
    back = bart.run(tmp_path, "fft -u -i 3 {z} {out}", z=image.numpy())
    np.testing.assert_allclose(inverse_fourier(image)[None].numpy(), back, atol=2e-6)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """k-space [8,64,64] of BART's phantom, computed in k-space; with noise of 1e-3 of its root mean square in the middle."""
    folder = tmp_path_factory.mktemp("phantom")
    k = torch.from_numpy(bart.run(folder, "phantom -x 64 -k -s 8 {out}"))
    z = Noise(["phantom"], "noise").normal((1, 2, *k.shape), torch.float32)[0]
    return k + 1e-3 * k.abs().square().mean().sqrt() * torch.complex(z[0], z[1])


def middle(k: torch.Tensor, n: int = 24) -> torch.Tensor:
    h, w = k.shape[-2:]
    return k[:, h // 2 - n // 2 : h // 2 + n // 2, w // 2 - n // 2 : w // 2 + n // 2]


def test_maps_are_ecalibs_inside_the_object(phantom, tmp_path):
    theirs = torch.from_numpy(
        bart.run(tmp_path, "ecalib -m1 -r24 -k6 -c0.9 {k} {out}", k=phantom.numpy())
    )
    ours, value = espirit(middle(phantom), (64, 64), 6, 0.02, 0.0)
    inside = theirs.abs().square().sum(0) > 0
    assert 0.3 < float(inside.double().mean()) < 0.9
    alike = (ours.conj() * theirs).sum(0).abs()[inside]
    assert float(alike.quantile(0.05)) > 0.997 and float(alike.median()) > 0.9999
    assert float(value[inside].min()) > 0.85 and float(value.max()) < 1.001
    image = inverse_fourier(phantom)
    seen = (ours.conj() * image).sum(0).abs()
    rss = image.abs().square().sum(0).sqrt()
    assert float((seen - rss)[inside].abs().quantile(0.99) / rss.max()) < 0.02


def test_least_squares_are_those_of_pics(phantom, tmp_path):
    """The same maps, mask and weight: the two pictures differ by less than 1 % of the brightest."""
    maps, value = espirit(middle(phantom), (64, 64), 6, 0.02, 0.0)
    maps = maps * (value > 0.9)
    mask = torch.zeros(64, 64)
    mask[:, ::3] = mask[:, 26:38] = 1
    k = mask * phantom
    lam = 0.01
    command = f"pics -w1 -S -i300 -l2 -r{lam} {{k}} {{S}} {{out}}"
    theirs = torch.from_numpy(bart.run(tmp_path, command, k=k.numpy(), S=maps.numpy()))[0]
    A = MRI(mask[None, None], to_real(maps[None]), complex_image=True)
    problem = from_measurement(
        A, to_real(k[None]), Gaussian(0.1), Noise(["a"], "noise"), (2, 64, 64)
    )
    b = problem.operator.adjoint(problem.y)
    x = conjugate_gradients(
        lambda p: problem.operator.adjoint(problem.operator.forward(p)) + lam * p, b, cap=300
    ).x
    ours = to_complex(x)[0, 0]
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 0.01
    assert float((ours - theirs).norm() / theirs.norm()) < 0.01


def test_a_file_of_barts_is_read_as_it_is(phantom, tmp_path):
    bart.write(tmp_path / "scan", phantom.numpy())
    raw = files.read(tmp_path / "scan.cfl")
    assert torch.equal(raw.kspace, phantom) and raw.kept == (64, 64) and bool(raw.mask.all())
