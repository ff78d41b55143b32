"""What each operator is, by a second, independent formula; what it refuses, in one line."""

import math
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, signal
from torch.nn import functional

from data.seeding import Noise
from solvers.operators import (
    MRI,
    BoxInpainting,
    Denoising,
    GaussianBlur,
    GaussianSuperResolution,
    HighDynamicRange,
    Inpainting,
    KernelBlur,
    KernelSuperResolution,
    MotionBlur,
    NetworkBlur,
    NonlinearBlur,
    Outpainting,
    PhaseRetrieval,
    RandomInpainting,
    StripeInpainting,
    SuperResolution,
    TileCentre,
    UniformBlur,
)
from solvers.operators.bkse import BlurNetwork
from solvers.operators.inpainting import harmonic_fill
from solvers.operators.kernels import gaussian_taps, motion, product
from solvers.operators.separable import factor
from solvers.operators.super_resolution import bicubic_taps
from tests.operator_list import LINEAR, skew
from tests.test_operators import field

IDS = ("a", "b", "c", "d")
NOISE = Noise(IDS, "mask")


def test_bicubic_taps_are_the_published_ones():
    """To the five digits that were printed from the published code at x4; 32 taps at x8."""
    half = [-0.00171, -0.01099, -0.01831, -0.01196, 0.02271, 0.09741, 0.18188, 0.24097]
    np.testing.assert_allclose(bicubic_taps(4), half + half[::-1], atol=5e-6)
    assert len(bicubic_taps(8)) == 32 and sum(bicubic_taps(8)) == pytest.approx(1, abs=1e-15)


def test_super_resolution_is_a_strided_convolution_with_mirrored_border():
    x = field((2, 1, 24, 32))
    padded = torch.from_numpy(np.pad(x.numpy(), [(0, 0), (0, 0), (6, 6), (6, 6)], mode="symmetric"))
    expected = functional.conv2d(padded, product(bicubic_taps(4)), stride=4)
    torch.testing.assert_close(SuperResolution(4).forward(x), expected, rtol=0, atol=1e-13)
    torch_own = functional.interpolate(x, scale_factor=0.25, mode="bicubic", antialias=True)
    torch.testing.assert_close(
        SuperResolution(4).forward(x)[..., 2:-2, 2:-2],
        torch_own[..., 2:-2, 2:-2],
        rtol=0,
        atol=1e-12,
    )
    torch.testing.assert_close(
        SuperResolution(4, "average").forward(x), functional.avg_pool2d(x, 4), rtol=0, atol=1e-13
    )


def test_super_resolution_singular_values_are_the_published_ones():
    """1-D, x4 at 256: 0.3485 to 0.5, so AA^T is well conditioned."""
    s = factor(SuperResolution(4).engine.rows, 256).s
    assert float(s[-1]) == pytest.approx(0.3485, abs=5e-5) and float(s[0]) == pytest.approx(
        0.5, abs=1e-4
    )
    assert SuperResolution(4).draw((1, 256, 128), NOISE).norm() == pytest.approx(0.25, abs=1e-4)


def test_codps_kernel_is_the_published_one():
    """scipy's filter of a delta in a 9 x 9 window, folded at its edge: centre .0185, edge .0119, corner .0077."""
    kernel = product(gaussian_taps(9, 3.0))[0, 0]
    delta = np.zeros((9, 9))
    delta[4, 4] = 1
    np.testing.assert_allclose(kernel, ndimage.gaussian_filter(delta, 3.0), atol=1e-15)
    np.testing.assert_allclose(
        [kernel[4, 4], kernel[0, 4], kernel[0, 0]], [0.0185, 0.0119, 0.0077], atol=5e-5
    )


def test_gaussian_super_resolution_is_a_circular_blur_sampled_from_the_first_pixel():
    x = field((1, 1, 24, 16))
    blurred = ndimage.convolve(
        x[0, 0].numpy(), product(gaussian_taps(9, 3.0))[0, 0].numpy(), mode="wrap"
    )
    np.testing.assert_allclose(
        GaussianSuperResolution().forward(x)[0, 0], blurred[::4, ::4], atol=1e-14
    )


def test_kernel_super_resolution_centres_on_blocks():
    """A kernel of ones of the block's size averages blocks; any kernel is a circular blur, shifted and sampled."""
    x = field((1, 1, 12, 8))
    average = KernelSuperResolution(torch.full((4, 4), 1 / 16), 4)
    torch.testing.assert_close(average.forward(x), functional.avg_pool2d(x, 4), rtol=0, atol=1e-14)
    kernel = skew(6, 4)
    full = signal.convolve2d(
        np.pad(x[0, 0].numpy(), 8, mode="wrap"), kernel.numpy(), mode="valid"
    )  # row i starts at -8 + i
    np.testing.assert_allclose(
        KernelSuperResolution(kernel, 2).forward(x)[0, 0], full[6:18:2, 7:15:2], atol=1e-14
    )


def test_gaussian_blur_is_the_published_kernel_with_reflected_border():
    delta = np.zeros((61, 61))
    delta[30, 30] = 1
    kernel = torch.from_numpy(ndimage.gaussian_filter(delta, 3.0))
    assert len(gaussian_taps(61, 3.0)) == 25 and float(kernel.max()) == pytest.approx(
        0.01768, abs=5e-6
    )
    x = field((2, 1, 40, 33))
    expected = functional.conv2d(
        functional.pad(x, (30, 30, 30, 30), mode="reflect"), kernel[None, None]
    )
    torch.testing.assert_close(GaussianBlur().forward(x), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "kernel", [skew(5, 3), torch.outer(skew(1, 5)[0], skew(1, 3)[0])], ids=["full rank", "rank one"]
)
@pytest.mark.parametrize(
    "border, mode",
    [("reflect", "mirror"), ("symmetric", "reflect"), ("circular", "wrap"), ("zero", "constant")],
)
def test_blurs_are_true_convolutions(kernel, border, mode):
    x = field((1, 1, 9, 8))
    expected = ndimage.convolve(x[0, 0].numpy(), kernel.numpy(), mode=mode)
    np.testing.assert_allclose(KernelBlur(kernel, border).forward(x)[0, 0], expected, atol=1e-14)
    inner = signal.convolve2d(x[0, 0].numpy(), kernel.numpy(), mode="valid")
    np.testing.assert_allclose(KernelBlur(kernel, "valid").forward(x)[0, 0], inner, atol=1e-14)


@pytest.mark.parametrize("border", ["circular", "reflect", "zero"])
def test_the_image_of_a_point_is_the_kernel(border):
    point = torch.zeros(1, 1, 11, 13, dtype=torch.float64)
    point[..., 5, 6] = 1
    image = KernelBlur(skew(5, 3), border).forward(point)[0, 0]
    torch.testing.assert_close(image[3:8, 5:8], skew(5, 3), rtol=0, atol=1e-15)
    uniform = UniformBlur(3, border).forward(point)[0, 0]
    torch.testing.assert_close(
        uniform[4:7, 5:8], torch.full((3, 3), 1 / 9, dtype=torch.float64), rtol=0, atol=1e-15
    )


def test_every_kernel_size_agrees_on_separable_and_fourier_engines():
    """One Gaussian by dense factors and by transforms of its square kernel, circular border."""
    x = field((1, 1, 40, 30))
    taps = product(gaussian_taps(15, 2.0))
    separable = functional.conv2d(functional.pad(x, (7, 7, 7, 7), mode="circular"), taps)
    torch.testing.assert_close(
        GaussianBlur(15, 2.0, "circular").forward(x), separable, rtol=0, atol=1e-13
    )


def test_motion_kernels_belong_to_images():
    kernels = motion(61, 0.5, Noise(IDS, "kernel"))
    assert kernels.shape == (4, 1, 61, 61) and float(kernels.min()) >= 0
    torch.testing.assert_close(kernels.sum((1, 2, 3)), torch.ones(4).double(), rtol=0, atol=1e-12)
    assert len({k.numpy().tobytes() for k in kernels}) == 4
    assert torch.equal(motion(61, 0.5, Noise(("c",), "kernel"))[0], kernels[2])
    assert not torch.equal(motion(61, 0.5, Noise(("c",), "kernel", 1))[0], kernels[2]), (
        "another run, another kernel"
    )


def test_motion_intensity_bends_the_path():
    """Thickness over length (square roots of the second moments' eigenvalues): a line when 0, a curl when 1."""

    def roundness(intensity: float) -> float:
        kernels = motion(61, intensity, Noise([str(i) for i in range(20)], "kernel"))[:, 0]
        line = torch.arange(61).double()
        grid = torch.stack(torch.meshgrid(line, line, indexing="ij")).flatten(1)
        ratios = []
        for k in kernels:
            centred = grid - (grid * k.flatten()).sum(1, keepdim=True)
            low, high = torch.linalg.eigvalsh((centred * k.flatten()) @ centred.T)
            ratios.append(float((low / high).sqrt()))
        return float(np.median(ratios))

    assert roundness(0.0) < 0.2 < roundness(1.0)


def test_masks_are_what_they_say():
    draw = lambda recipe, h, w: recipe.draw((3, h, w), NOISE).m  # noqa: E731
    masks = draw(RandomInpainting(0.7, 0.71), 64, 64)
    removed = 1 - masks.mean((1, 2, 3))
    assert masks.shape == (4, 1, 64, 64) and bool(
        ((removed >= 0.7 - 1 / 4096) & (removed <= 0.71)).all()
    )
    boxes = 1 - draw(BoxInpainting(), 256, 128)
    assert (
        boxes.sum((1, 2, 3)).tolist() == [128 * 64] * 4
        and float(boxes[:, :, :32].sum() + boxes[..., :16].sum()) == 0
    )
    assert len({tuple(box.nonzero()[0].tolist()) for box in boxes}) == 4, (
        "each image has its own place"
    )
    torch.testing.assert_close(draw(Outpainting(), 256, 128), boxes)
    assert (1 - draw(BoxInpainting(16, 16), 64, 64)).sum((1, 2, 3)).tolist() == [256] * 4
    stripes = draw(StripeInpainting(0.2, 2), 50, 100)
    assert (1 - stripes).sum((1, 2, 3)).tolist() == [20 * 50] * 4 and bool(
        (stripes[:, :, :1] == stripes).all()
    )
    runs = {
        len(run)
        for line in stripes[:, 0, 0]
        for run in "".join(str(int(v)) for v in line).split("1")
        if run
    }
    assert runs == {2}, "stripes never touch"
    few = (
        StripeInpainting(0.25, 2)
        .draw((1, 4, 16), Noise(tuple(map(str, range(200))), "mask"))
        .m[:, 0, 0]
    )
    assert bool((few == 0).any(0).all()), (
        "any line may be lost"
    )  # the rarest, first and last, in 1 of 7


def test_mask_and_kernel_files(tmp_path):
    pixels = np.zeros((6, 5), np.uint8)
    pixels[2:] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    np.save(tmp_path / "kernel.npy", skew(3, 5).numpy())
    operator = Inpainting(str(tmp_path / "mask.png")).draw((1, 6, 5), NOISE)
    assert operator.forward(torch.ones(4, 1, 6, 5)).sum().item() == 4 * 20
    torch.testing.assert_close(operator.measured(torch.zeros(4, 3, 6, 5)), torch.full((4,), 60.0))
    blur = KernelBlur(str(tmp_path / "kernel.npy"), "zero")
    torch.testing.assert_close(blur.files()["kernel"][0, 0], skew(3, 5), rtol=0, atol=1e-7)


def test_harmonic_fill_continues_a_slope():
    """A plane is harmonic, so the hole in one is filled exactly, but for the solver's 1e-4."""
    plane = (torch.arange(16)[:, None] * 0.1 - torch.arange(14) * 0.05)[None, None].double()
    mask = torch.ones(1, 1, 16, 14).double()
    mask[..., 4:10, 3:9] = 0
    torch.testing.assert_close(harmonic_fill(plane * mask, mask), plane, rtol=0, atol=1e-3)


def test_solve_takes_a_diagonal_v_for_masks():
    operator = LINEAR[[case.name for case in LINEAR].index("inpainting")].drawn()
    v, r = field((3, 3, 5, 7), 1).abs(), field((3, 3, 5, 7), 2)
    torch.testing.assert_close(operator.solve(r, 0.1, v), r / (0.1 + v * operator.m))


def test_noiseless_mask_solve_is_finite():
    operator = LINEAR[[case.name for case in LINEAR].index("inpainting")].drawn()
    r = operator.forward(field((3, 3, 5, 7)))
    assert bool(torch.isfinite(operator.solve(r, 0.0, 1.0)).all())


def test_tile_centre_reads_the_middle():
    x = field((1, 1, 6, 9))
    torch.testing.assert_close(TileCentre(3).forward(x), x[..., 1::3, 1::3], rtol=0, atol=0)
    x = field((1, 1, 8, 4))
    torch.testing.assert_close(
        TileCentre(4).forward(x),
        functional.avg_pool2d(x[..., 1:-1, 1:-1], 2, 4),
        rtol=0,
        atol=1e-15,
    )


def test_phase_retrieval_keeps_energy_and_forgets_half_turns_and_shifts():
    operator, x = PhaseRetrieval(), torch.full((1, 1, 16, 24), -1.0).double()
    x[..., 4:9, 6:15] = field((5, 9)).abs()
    y = operator.forward(x)
    assert y.shape == (1, 1, 24, 36) and operator.shape_out((3, 256, 256)) == (3, 384, 384)
    torch.testing.assert_close(y.norm(), ((x + 1) / 2).norm())
    torch.testing.assert_close(operator.forward(x.flip(-1, -2)), y, rtol=0, atol=1e-13)
    torch.testing.assert_close(operator.forward(x.roll((3, -2), (-2, -1))), y, rtol=0, atol=1e-13)
    assert operator.turns


def test_high_dynamic_range_clips():
    x = torch.tensor([[-0.9, -0.3, 0.2, 0.7]])[None, None]
    torch.testing.assert_close(
        HighDynamicRange(2.0).forward(x)[0, 0], torch.tensor([[-1, -0.6, 0.4, 1]])
    )


def test_nonlinear_blur_blurs_light():
    """Flat images go through the response alone; bright ones saturate; slopes are finite even where it is black."""
    operator = NonlinearBlur(5, 1.0, gamma=2.0, gain=1.0)
    flat = torch.full((1, 1, 8, 8), 0.2).double()
    dark = 1e-3
    light = 0.6**2
    expected = ((light + dark) ** 0.5 - dark**0.5) / ((1 + dark) ** 0.5 - dark**0.5)
    torch.testing.assert_close(operator.forward(flat), torch.full_like(flat, 2 * expected - 1))
    torch.testing.assert_close(NonlinearBlur(5, 1.0).forward(flat + 0.79), torch.ones_like(flat))
    x = torch.full((1, 1, 8, 8), -1.2).double().requires_grad_()
    (slope,) = torch.autograd.grad(operator.forward(x).sum(), x)
    assert bool(torch.isfinite(slope).all())


@pytest.fixture(scope="module")
def small_network(tmp_path_factory):
    """Weights of the published layout, at width 2."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = {
            key: 2 * value for key, value in BlurNetwork(2).state_dict().items()
        }  # so that the code reaches the image
    folder = tmp_path_factory.mktemp("weights")
    state |= {"kernel_extractor.model.1.weight": torch.zeros(1)}
    torch.save(state, folder / "good.pth")
    torch.save(
        {key: value for key, value in state.items() if "submodule.up" not in key},
        folder / "partial.pth",
    )
    (folder / "broken.pth").write_bytes(b"not weights")
    return folder


def test_blur_network_has_the_published_layout():
    with torch.device("meta"):
        state = BlurNetwork().state_dict()
    assert len(state) == 6 + 10 * 4 + 5 + 5 * 4 + 20 * 4 + 8
    assert state["adapter.model.down.0.weight"].shape == (64, 64, 4, 4)
    assert state[
        "adapter.model.submodule.submodule.submodule.submodule.up.1.double_conv.0.weight"
    ].shape == (512, 1024, 5, 5)
    assert state["adapter.model.submodule.down.1.weight"].shape == (128, 64, 4, 4)
    assert state["feature_extractor.15.conv2.bias"].shape == (64,)
    assert state["recon_trunk.23.weight"].shape == (256, 64, 3, 3) and state[
        "recon_trunk.28.weight"
    ].shape == (3, 64, 3, 3)


def test_network_blur_keeps_each_image_its_code(small_network):
    def make(ids):
        return NetworkBlur(str(small_network / "good.pth")).draw((1, 128, 128), Noise(ids, "mask"))

    x = field((2, 1, 128, 128)) / 4
    operator = make(("a", "b"))
    y = operator.forward(x)
    assert operator.code.shape == (2, 16, 1, 1) and torch.equal(y, operator.forward(x))
    torch.testing.assert_close(make(("b",)).forward(x[1:]), y[1:], rtol=0, atol=1e-12)
    torch.testing.assert_close(operator.select([1]).forward(x[1:]), y[1:], rtol=0, atol=1e-12)
    assert not torch.allclose(operator.select([0]).forward(x[1:]), y[1:], rtol=0, atol=1e-9)
    assert float(y.abs().max()) <= 1


BAD = [
    (
        lambda t: SuperResolution(4).draw((1, 30, 32), NOISE),
        "image size 30 is not divisible by the factor 4",
    ),
    (
        lambda t: GaussianSuperResolution(4).draw((1, 32, 30), NOISE),
        "image of 32x30 is not divisible by the factor 4",
    ),
    (
        lambda t: TileCentre(3).draw((1, 256, 256), NOISE),
        "image of 256x256 is not divisible by tiles of 3",
    ),
    (lambda t: SuperResolution(1), "factor of super-resolution is an integer >= 2, not 1"),
    (lambda t: SuperResolution(4, "lanczos"), "'lanczos' is not one of bicubic, average"),
    (lambda t: GaussianBlur(60), "kernel of 60 pixels has no centre pixel"),
    (lambda t: UniformBlur(8), "kernel of 8 pixels has no centre pixel"),
    (lambda t: MotionBlur(60), "kernel of 60 pixels has no centre pixel"),
    (lambda t: KernelBlur(torch.full((4, 4), 1 / 16)), "kernel of 4 pixels has no centre pixel"),
    (
        lambda t: KernelSuperResolution(torch.full((4, 4), 1 / 16), 3),
        "kernel of 4 pixels has no centre for the odd factor 3",
    ),
    (
        lambda t: KernelBlur(torch.full((3, 3), math.nan)),
        "kernel holds values that are complex or not finite",
    ),
    (
        lambda t: KernelBlur(torch.full((3, 3), 1j / 9)),
        "kernel holds values that are complex or not finite",
    ),
    (lambda t: KernelBlur(torch.full((3,), 1 / 3)), r"kernel has shape \[3\]"),
    (lambda t: GaussianBlur(std=0.0), "std of a Gaussian blur must be > 0"),
    (
        lambda t: GaussianBlur(border="wrap"),
        "border 'wrap' is not one of reflect, symmetric, circular, zero, valid",
    ),
    (lambda t: MotionBlur(intensity=2.0), "intensity of a motion blur is between 0 and 1, not 2.0"),
    (
        lambda t: MotionBlur(61).draw((1, 60, 80), NOISE),
        "kernel of 61x61 pixels is larger than the image of 60x80",
    ),
    (
        lambda t: UniformBlur(17, "circular").draw((1, 16, 32), NOISE),
        "kernel of 17x17 pixels is larger than the image of 16x32",
    ),
    (
        lambda t: UniformBlur(17, "zero").draw((1, 16, 32), NOISE),
        "kernel of 17 pixels is larger than the image's 16",
    ),
    (
        lambda t: KernelBlur(skew(5, 5), "zero").draw((1, 4, 9), NOISE),
        "kernel of 5x5 pixels is larger than the image of 4x9",
    ),
    (
        lambda t: KernelBlur(torch.full((2, 1, 3, 3), 1 / 9)).draw((1, 9, 9), NOISE),
        "2 kernels for a batch of 4 images",
    ),
    (
        lambda t: Inpainting(torch.ones(8, 8)).draw((1, 8, 9), NOISE),
        "mask of 8x8 pixels does not fit the image of 8x9",
    ),
    (lambda t: Inpainting(torch.tensor([[0.0, 0.5], [1.0, 1.0]])), "mask holds 0.5 besides 0"),
    (lambda t: Inpainting(torch.zeros(4, 4)), "mask measures nothing"),
    (lambda t: KernelBlur(torch.zeros(3, 3)), "kernel measures nothing"),
    (lambda t: MRI(torch.ones(4, 4), torch.zeros(4, 4, 4)), "sensitivities measure nothing"),
    (lambda t: Inpainting(torch.ones(1, 3, 4, 4)), r"mask has shape \[1, 3, 4, 4\]"),
    (
        lambda t: Inpainting(torch.ones(2, 1, 4, 4)).draw((1, 4, 4), NOISE),
        "2 masks for a batch of 4 images",
    ),
    (lambda t: RandomInpainting(0.5, 1.0), "removed fractions need 0 <= low <= high < 1"),
    (
        lambda t: BoxInpainting(128, 16).draw((1, 128, 128), NOISE),
        "a box of 128x128 pixels with margins 16, 16 does not fit",
    ),
    (lambda t: StripeInpainting(0.5, 70).draw((1, 64, 64), NOISE), "do not fit 64 columns"),
    (lambda t: StripeInpainting(along="diagonals"), "stripes run along columns or rows"),
    (lambda t: PhaseRetrieval(-1.0), "oversampling must be >= 0"),
    (lambda t: HighDynamicRange(0.0), "gain must be > 0"),
    (lambda t: GaussianBlur().norm(), "draw first"),
    (lambda t: SuperResolution().norm(), "draw first"),
    (lambda t: NetworkBlur(), "needs a weights file"),
    (lambda t: NetworkBlur(str(t / "absent.pth")), "no such weights file"),
    (lambda t: NetworkBlur(str(t / "broken.pth")), "not a readable weights file"),
    (
        lambda t: NetworkBlur(str(t / "partial.pth")),
        "16 tensors are missing, unexpected or of another shape",
    ),
    (
        lambda t: NetworkBlur(str(t / "good.pth")).draw((3, 256, 200), NOISE),
        "sides divisible by 128, not 256x200",
    ),
    (
        lambda t: NetworkBlur(str(t / "good.pth")).forward(torch.zeros(1, 3, 128, 128)),
        "no kernel code yet",
    ),
]


@pytest.mark.parametrize("make, message", BAD, ids=[message for _, message in BAD])
def test_bad_input_is_one_line(make, message, small_network):
    with pytest.raises(ValueError, match=message) as error:
        make(small_network)
    assert "\n" not in str(error.value)


def test_kernels_that_change_brightness_warn():
    with pytest.warns(UserWarning, match="kernel sums to 0.9, not to 1"):
        KernelBlur(torch.full((3, 3), 0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        KernelBlur(torch.full((3, 3), 1 / 9))
        Denoising()
