"""A blur kernel that nobody told: found in the image, alone and in a batch, or refused in one line."""

from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from analytic import correlated

import palimpsest as P
import sample
from data.files import Refusal
from data.seeding import Noise
from solvers.measured import kernel as blind
from solvers.operators import BlindBlur, Composition, SuperResolution
from solvers.operators.blur import BlindBlurs, KernelBlurs
from solvers.operators.kernels import in_the_middle, motion, off_centre
from solvers.operators.volume import Slicewise
from solvers.problem import Gaussian, Poisson, Problem, from_measurement, measure

SHAPE, IDS = (1, 32, 36), ("a", "b")


def scene(ids=IDS) -> torch.Tensor:
    """Images with edges [B,1,32,36] in [-1, 1]: boxes of random places and greys."""
    noise = Noise(ids, "mask")
    x = torch.full((len(ids), *SHAPE), -1.0)
    for _ in range(12):
        top, left, grey = noise.uniform((len(ids), 3), torch.float32).unbind(1)
        for row, i, j, value in zip(x, (top * 24).int(), (left * 28).int(), grey):
            row[0, i : i + 8, j : j + 8] = 2 * value - 1
    return x


def prior():
    made = correlated(SHAPE)
    made.variances = [[level, *[0.2 * level**2 / (level**2 + 1)] * 16] for level in (0.05, 0.4, 5)]
    return made


@pytest.mark.parametrize("border", ["reflect", "symmetric", "circular", "zero"])
def test_the_likeliest_kernel_of_a_known_image_is_the_true_one(border):
    x = scene()
    problem = measure(BlindBlur(7, 0.5, border), x, 0.01, Noise(IDS, "noise"))
    flat = blind.beginning(7, problem.y)
    k = blind.likeliest(flat, x, problem, border, torch.full(SHAPE[1:], 1e-6))
    assert isinstance(problem.operator, BlindBlurs)
    assert min(blind.agreement(k, problem.operator.kernel)) > 0.97
    assert max(blind.agreement(flat, problem.operator.kernel)) < 0.95
    assert off_centre(k) == off_centre(problem.operator.kernel)


def test_errors_of_the_image_are_not_taken_for_the_kernels():
    """About an image that is too smooth, y = k * x with a sharp k: fitting alone finds a kernel that is too narrow."""
    x = scene()
    problem = measure(BlindBlur(7, 0.0, "circular"), x, 0.01, Noise(IDS, "noise"))
    smooth = torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    V = torch.fft.fft2(x - smooth, norm="ortho").abs().square().mean((0, 1))
    start = blind.beginning(7, problem.y)
    truth = problem.operator.kernel
    found_kernels = blind.likeliest(start, smooth, problem, "circular", V)
    naive = blind.likeliest(start, smooth, problem, "circular", 1e-9 * V)
    for found, fitted in zip(blind.agreement(found_kernels, truth), blind.agreement(naive, truth)):
        assert found > fitted


def test_a_kernel_and_its_image_are_centred_together():
    x, small = scene(), in_the_middle(motion(3, 0.5, Noise(IDS, "kernel")).float())
    k = torch.nn.functional.pad(small, (1, 3, 4, 0))
    assert off_centre(k) == [(2, -1)] * 2
    middle, moved = blind.centred(k, x)
    assert off_centre(middle) == [(0, 0)] * 2
    before = KernelBlurs(k, "circular").bind(SHAPE).forward(x)
    after = KernelBlurs(middle, "circular").bind(SHAPE).forward(moved)
    assert torch.allclose(after, before, atol=1e-5)


def test_each_image_has_the_kernel_it_has_alone(monkeypatch):
    monkeypatch.setattr(blind, "STEPS", 3)
    monkeypatch.setattr(blind, "ROUNDS", 5)
    problem = measure(BlindBlur(5), scene(), 0.02, Noise(IDS, "noise"))
    together = blind.with_found_kernel(problem, prior()).operator.kernel
    alone = [blind.with_found_kernel(problem.select([i]), prior()).operator.kernel for i in (0, 1)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-3)
    unknown = replace(problem, likelihood=Gaussian(None))
    assert blind.with_found_kernel(unknown, prior()).operator.kernel.shape == (2, 1, 5, 5)


def test_a_measured_image_needs_no_kernel_and_a_kernel_that_is_told_is_kept():
    y = scene()
    noise = Noise(IDS, "noise")
    assert isinstance(from_measurement(BlindBlur(5), y, Gaussian(0.02), noise, SHAPE), Problem)
    told = measure(P.operators.MotionBlur(5), y, 0.02, noise)
    assert blind.known(told, prior(), 0, True) == (told, [])


def test_what_cannot_be_found_is_refused_in_one_line():
    noise = Noise(IDS, "noise")
    problem = measure(BlindBlur(5), scene(), 0.02, noise)
    with pytest.raises(Refusal, match="knows its errors by frequency"):
        blind.with_found_kernel(problem, correlated(SHAPE))
    counted = measure(BlindBlur(5), scene(), Poisson(100), noise)
    with pytest.raises(Refusal, match="needs Gaussian noise"):
        blind.with_found_kernel(counted, prior())
    with pytest.raises(Refusal, match="border valid"):
        BlindBlur(5, border="valid")
    with pytest.raises(Refusal, match="stands alone"):
        Composition([BlindBlur(5), SuperResolution(2)])
    with pytest.raises(Refusal, match="slice by slice"):
        Slicewise(BlindBlur(5)).draw((1, 3, 32, 36), Noise(["a"], "noise"))


def test_volumes_are_restored_slice_by_slice(tmp_path, monkeypatch, capsys):
    """Each slice has a kernel of its own, and none that was drawn is taken for one that was found."""
    monkeypatch.setattr(blind, "STEPS", 3)
    monkeypatch.setattr(blind, "ROUNDS", 5)
    volume = scene(("a", "b", "c"))[:, 0].numpy()
    nibabel.save(nibabel.Nifti1Image(volume.T, np.eye(4)), tmp_path / "scan.nii")
    words = ["--data-root", tmp_path / "scan.nii", "--task", "blind_deblur", "--solver", "pnp"]
    words += ["--model", "demo-pixel", "--steps", "2", "--save-dir", tmp_path / "out"]
    assert sample.main([*map(str, words), "operator.params.size=5"]) == 0
    assert "found in an image" in capsys.readouterr().out
    (kernels,) = np.load(tmp_path / "out/operator/scan-kernel.npy")  # [channels, slices, k, k]
    assert len(kernels) == 3 and not np.allclose(kernels[0], kernels[1])


def test_a_prior_that_finds_no_kernel_is_refused_before_any_image(tmp_path, capsys):
    np.save(tmp_path / "scan.npy", scene(("a",))[0, 0].numpy())
    words = ["--data-root", tmp_path / "scan.npy", "--task", "blind_deblur", "--solver", "pnp"]
    words += ["--model", "demo-latent", "--save-dir", tmp_path / "out"]
    assert sample.main([*map(str, words), "operator.params.size=5"]) == 2
    assert "knows its errors by frequency" in capsys.readouterr().err


@pytest.mark.slow
def test_kernels_of_the_demos_scans_are_found():
    """`pytest -n 0 -s -m slow tests/test_blind.py` prints the figures of docs/scans.md."""
    for size in (9, 15, 25):
        for result in P.restore(
            "models/demo-data/test.csv",
            task="blind_deblur",
            solver="pnp",
            limit=2,
            precision="bf16-mixed",
            overrides=[f"operator.params.size={size}"],
        ):
            record = result.outcomes[0].record
            said = next(note for note in record["notes"] if "correlates" in note)
            blurred, restored = record["baseline_psnr"], record["psnr"]
            print(f"\n{size} pixels: {blurred:.1f} dB blurred, {restored:.1f} restored; {said}")
            assert restored > blurred + 1
