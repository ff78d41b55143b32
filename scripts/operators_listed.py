"""What the operators page says of each operator: its title, its formula, and how it is inverted."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One section of the page. task: the file in configs/tasks that it shows."""

    task: str
    title: str
    formula: str
    inverse: str


ENTRIES = (
    Entry(
        "super_resolution",
        "Super-resolution, bicubic",
        "y = R x Cᵀ, R and C a strided cubic kernel stretched by the factor (16 taps at ×4), edge pixel mirrored",
        "exact: singular value decompositions of R and C",
    ),
    Entry(
        "super_resolution_average",
        "Super-resolution, block average",
        "y = mean of each d × d block",
        "exact, as above",
    ),
    Entry(
        "super_resolution_gaussian",
        "Super-resolution, Gaussian and decimation",
        "y = (k ⊛ x)[::d, ::d], circular; `KernelSuperResolution` takes your own kernel",
        "exact: A Aᵀ is circulant with eigenvalues Γ = mean of |K|² over the d² aliases",
    ),
    Entry(
        "gaussian_deblur",
        "Gaussian blur",
        "y = k * x, border reflect, symmetric, circular, zero or valid; `KernelBlur` takes your own kernel",
        "exact: Fourier for circular borders, decompositions of the two factors for all others",
    ),
    Entry(
        "uniform_deblur", "Uniform blur", "y = moving average over n × n pixels", "exact, as above"
    ),
    Entry(
        "motion_deblur",
        "Motion blur",
        "y = k_i * x_i, a camera-shake path k_i for each image, saved with the result",
        "Fourier for circular borders, else conjugate gradients",
    ),
    Entry(
        "blind_deblur",
        "Motion blur, blind",
        "y = k_i * x_i, k_i unknown: the likeliest one, given how the prior's estimates are measured to err",
        "k first, by as many network calls as a restoration (`solvers/measured/kernel.py`), then as above",
    ),
    Entry(
        "inpainting_random",
        "Random inpainting",
        "y = m_i ∘ x_i, a share of the pixels removed",
        "exact: diagonal",
    ),
    Entry("inpainting_box", "Box inpainting", "y = m_i ∘ x_i, a box removed", "exact: diagonal"),
    Entry(
        "inpainting_mask",
        "Inpainting with your own mask",
        "y = m ∘ x, m from a file (1 or 255: measured)",
        "exact: diagonal",
    ),
    Entry("outpainting", "Outpainting", "y = m_i ∘ x_i, all but a box removed", "exact: diagonal"),
    Entry("destriping", "Destriping", "y = m_i ∘ x_i, columns or rows removed", "exact: diagonal"),
    Entry("denoising", "Denoising", "y = x", "exact: one number"),
    Entry(
        "center_tile",
        "Tile centres",
        "y = the centre pixel of each s × s tile (even s: the mean of its four)",
        "exact: one number, A Aᵀ = I or I / 4",
    ),
    Entry("hdr", "High dynamic range", "y = clip(g x, −1, 1)", "nonlinear: Gauss-Newton"),
    Entry(
        "phase_retrieval",
        "Phase retrieval",
        "y = |F pad(u)|, u = (x + 1) / 2",
        "nonlinear: Gauss-Newton",
    ),
    Entry(
        "nonlinear_deblur",
        "Nonlinear blur",
        "y = 2 r(clip(g k * u^γ)) − 1, r the camera's response l^(1/γ); `NetworkBlur` is the learned blur, with your weights",
        "nonlinear: Gauss-Newton",
    ),
    Entry(
        "ct_parallel_20",
        "CT, parallel beam",
        "y = line integrals of u μ_max, by Joseph's method, A and Aᵀ the same sparse matrix",
        "exact up to about 3,000 rays that meet the image (cached eigenvectors), else conjugate gradients",
    ),
    Entry("ct_fan_180", "CT, fan beam", "as above, flat detector", "as above"),
    Entry(
        "ct_limited_angle", "CT, limited angle", "as above, over less than half a turn", "as above"
    ),
    Entry(
        "mri_x4",
        "MRI, Cartesian",
        "y = M F S u, real and imaginary parts; masks equispaced, random or Poisson-disc; `RadialMRI` for spokes",
        "one coil: exact, 2 × 2 blocks that couple k and −k for real images; several coils: exact row by row for "
        "masks of whole columns, else conjugate gradients",
    ),
    Entry(
        "mri_radial",
        "MRI, radial",
        "y = F_k u at the points k of spokes through the centre, real and imaginary parts",
        "conjugate gradients",
    ),
    Entry(
        "mri_spiral", "MRI, spiral", "as above, at the points of interleaved spirals", "as above"
    ),
    Entry(
        "compressed_sensing",
        "Compressed sensing",
        "y = P H D x, signs D, fast transform H, random rows P",
        "exact: A Aᵀ = I",
    ),
)
