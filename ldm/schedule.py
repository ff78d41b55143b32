"""Noise levels, as pure functions of a few numbers; tables are float64.

Two time axes occur. VP papers (DPS, CoDPS, PSLD, ReSample): x_t = sqrt(a) x0 + sqrt(1-a) n with a = alpha_bar[t].
VE papers (EDM, DAPS, PaDIS): x = x0 + sigma n. They meet at sigma = sqrt((1-a)/a), x = x_t / sqrt(a).
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from data.files import Refusal

Spacing = Literal["geometric", "karras"]  # of VE levels
Times = Literal["even", "leading", "strided"]  # of VP levels


def linear_alpha_bar(beta_start: float = 1e-4, beta_end: float = 0.02, n: int = 1000) -> Tensor:
    """DDPM's table: beta linear. [n] float64."""
    return (1 - torch.linspace(beta_start, beta_end, n, dtype=torch.float64)).cumprod(0)


def scaled_linear_alpha_bar(
    beta_start: float = 0.0015, beta_end: float = 0.0195, n: int = 1000
) -> Tensor:
    """Latent diffusion's table: sqrt(beta) linear; the defaults are the FFHQ/CelebA VQ-f4 ones. [n] float64."""
    root = torch.linspace(beta_start**0.5, beta_end**0.5, n, dtype=torch.float64)
    return (1 - root**2).cumprod(0)


def cosine_alpha_bar(n: int = 1000, max_beta: float = 0.999) -> Tensor:
    """Nichol & Dhariwal 2021, eq. (17), with s = 0.008. [n] float64."""
    u = torch.linspace(0, 1, n + 1, dtype=torch.float64)
    f = torch.cos((u + 0.008) / 1.008 * torch.pi / 2) ** 2
    return (1 - (1 - f[1:] / f[:-1]).clamp(max=max_beta)).cumprod(0)


@dataclass(frozen=True)
class Table:
    """A VP network's own table, as a model file names it; without betas, the usual ones of that kind."""

    kind: Literal["linear", "scaled_linear", "cosine"]
    beta_start: float | None = None
    beta_end: float | None = None
    n: int = 1000

    def __post_init__(self) -> None:
        if not 1 < self.n <= 100_000:
            raise Refusal(f"a table's n must lie in 2..100000, not {self.n}")
        if (self.beta_start is None) != (self.beta_end is None) or (
            self.kind == "cosine" and self.beta_start is not None
        ):
            raise Refusal(
                "a table takes both beta_start and beta_end, or neither; a cosine table neither"
            )
        for name, beta in (("beta_start", self.beta_start), ("beta_end", self.beta_end)):
            if beta is not None and not 0 < beta < 1:
                raise Refusal(f"{name} must lie between 0 and 1, not {beta}")

    def alpha_bar(self) -> Tensor:
        """[n] float64; on the CPU even where the network around it is being built without memory (meta device)."""
        with torch.device("cpu"):
            if self.kind == "cosine":
                return cosine_alpha_bar(self.n)
            table = linear_alpha_bar if self.kind == "linear" else scaled_linear_alpha_bar
            if self.beta_start is None or self.beta_end is None:
                return table(n=self.n)
            return table(self.beta_start, self.beta_end, self.n)


def sigma_of(alpha_bar: Tensor) -> Tensor:
    """VE noise level of a VP one: sqrt((1-a)/a)."""
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def alpha_bar_of(sigma: Tensor) -> Tensor:
    """VP level of a VE noise level: 1 / (1 + sigma^2)."""
    return 1 / (1 + sigma**2)


def time_of(sigma: Tensor, alpha_bar: Tensor) -> Tensor:
    """The (fractional) index into a VP table at which its noise is sigma: log-sigma interpolated, exact at the entries.

    Levels below the table's first are fed its first index and levels above its last the last one.
    """
    table = sigma_of(alpha_bar.double()).log().to(sigma.device)
    wanted = sigma.double().clamp_min(1e-30).log().clamp(table[0], table[-1])
    upper = torch.searchsorted(table, wanted.contiguous()).clamp(1, len(table) - 1)
    below, above = table[upper - 1], table[upper]
    return upper - 1 + (wanted - below) / (above - below)


def karras(n: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """EDM eq. (5) without the final zero: n levels from sigma_max down to sigma_min. [n] float64."""
    r = torch.linspace(0, 1, n, dtype=torch.float64)
    return (sigma_max ** (1 / rho) + r * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho


def geometric(n: int, sigma_min: float, sigma_max: float) -> Tensor:
    """n levels from sigma_max down to sigma_min at a constant ratio (Song & Ermon 2019). [n] float64."""
    r = torch.linspace(0, 1, n, dtype=torch.float64)
    return sigma_max * (sigma_min / sigma_max) ** r


def ddim_times(steps: int, n: int = 1000) -> Tensor:
    """`steps` distinct indices from n-1 down to 0, evenly spread, for any 1 <= steps <= n. [steps] int64."""
    if not 1 <= steps <= n:
        raise Refusal(f"steps must be between 1 and {n}, got {steps}")
    return torch.linspace(n - 1, 0, steps, dtype=torch.float64).round().long()


class Levels(Protocol):
    """What a run's noise levels depend on: those that a prior knows, and its VP table [T] if it has one."""

    sigma_min: float
    sigma_max: float

    @property
    def alpha_bar(self) -> Tensor | None: ...


def ve_levels(
    prior: Levels, steps: int, sigma_min: float, sigma_max: float, spacing: Spacing = "karras"
) -> list[float]:
    """`steps` noise levels from sigma_max down to sigma_min, both moved inside the prior's; Refusal if nothing of it is left."""
    if not 0 < sigma_min <= sigma_max:
        raise Refusal(
            f"sigma_min must be above 0 and at most sigma_max, not {sigma_min} with sigma_max {sigma_max}"
        )
    low, high = max(sigma_min, prior.sigma_min), min(sigma_max, prior.sigma_max)
    if not low <= high:
        own = f"{prior.sigma_min:.4g}..{prior.sigma_max:.4g}"
        raise Refusal(f"sigma range {sigma_min}..{sigma_max} lies outside the prior's {own}")
    spread = karras if spacing == "karras" else geometric
    return spread(steps, low, high).tolist()


def vp_levels(
    prior: Levels, steps: int, times: Times = "even", table: Tensor | None = None
) -> list[float]:
    """alpha_bar of a run's levels from the noisiest up, none above the prior's sigma_max, and of where the last step ends.
    times: `even`, `steps` entries of the prior's table evenly spread over all of it, then 1. `strided`, guided diffusion's 0, c,
    2c, ... with c = T // steps, then 1. `leading`, latent diffusion's 1, 1 + c, 1 + 2c, ..., and at the end the table's first
    entry. The latter's number may differ from `steps`. EDM priors have no table: they take the one given, whose entries may be
    fewer than `steps`, or without one Karras levels, converted.
    """
    own = prior.alpha_bar
    if own is None and table is None:
        sigma = karras(steps, prior.sigma_min, prior.sigma_max)
        return [*alpha_bar_of(sigma).tolist(), 1.0]
    a = (table if own is None else own).cpu()  # type: ignore[union-attr]
    usable = int((sigma_of(a) <= prior.sigma_max * (1 + 1e-6)).sum())
    most = usable if times == "even" else len(a)
    steps = min(steps, most) if own is None else steps
    if not 1 <= steps <= most:
        raise Refusal(
            f"steps must be between 1 and {most}, the levels of the prior's table, not {steps}"
        )
    if times == "even":
        return [*a[ddim_times(steps, usable)].tolist(), 1.0]
    grid = torch.arange(0, len(a), len(a) // steps)
    if times == "leading":
        grid = grid.add(1).clamp_max(len(a) - 1).unique()
    found = a[grid[grid < usable]].flip(0).tolist()
    return [*found, 1.0 if times == "strided" else float(a[0])]
