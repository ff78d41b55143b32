"""One denoiser under all networks: D(x, sigma) = E[x0 | x] for x = x0 + sigma n, images and sigma in [-1, 1] units.

x [B,C,H,W], sigma [B]; D has x's shape and dtype and is not clamped. eps-, v-, x0- and EDM-preconditioned networks are
adapters into it (k-diffusion's idea). A Prior knows its shape and noise levels too, and how its state becomes an image.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor, nn

from data.files import Refusal
from data.seeding import Noise
from ldm import checks, neighbours, spectra
from ldm.networks import call
from ldm.schedule import Table, sigma_of, time_of

Predicts = Literal["eps", "v", "x0"]


def column(sigma: Tensor) -> Tensor:
    """[B] -> [B,1,1,1]"""
    return sigma.reshape(-1, 1, 1, 1)


class VP(nn.Module):
    """A network trained on x_t = sqrt(a) x0 + sqrt(1-a) n as a denoiser; called as network(x_t, t) or (x_t, t, label).

    predicts: what the network's first C channels are: `eps`, `v` = sqrt(a) n - sqrt(1-a) x0, or `x0`.
    alpha_bar: the network's own table [T]; the time fed is its exact inverse, log-sigma interpolated.
    """

    alpha_bar: Tensor

    def __init__(self, network: nn.Module, alpha_bar: Tensor | Table, predicts: Predicts = "eps"):
        super().__init__()
        if predicts not in ("eps", "v", "x0"):
            raise Refusal(f"predicts must be eps, v or x0, not {predicts!r}")
        self.network, self.predicts = network, predicts
        table = alpha_bar.alpha_bar() if isinstance(alpha_bar, Table) else alpha_bar
        self.register_buffer("alpha_bar", table.double(), persistent=False)

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """c_skip, c_out, c_in with D = c_skip x + c_out F(c_in x); sigma [B,1,1,1]."""
        c_in = 1 / (1 + sigma**2).sqrt()
        if self.predicts == "eps":
            return torch.ones_like(sigma), -sigma, c_in
        if self.predicts == "v":
            return c_in**2, -sigma * c_in, c_in
        return torch.zeros_like(sigma), torch.ones_like(sigma), c_in

    def time(self, sigma: Tensor) -> Tensor:
        return time_of(sigma, self.alpha_bar)

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        c_skip, c_out, c_in = self.scalings(column(sigma).to(x))
        output = call(self.network, c_in * x, self.time(sigma), label)[:, : x.shape[1]]
        return c_skip * x + c_out * output.to(x)


class EDM(nn.Module):
    """EDM preconditioning, Karras et al. 2022, table 1; called as network(c_in x, ln(sigma)/4) or with a label."""

    def __init__(self, network: nn.Module, sigma_data: float = 0.5):
        super().__init__()
        checks.positive(sigma_data=sigma_data)
        self.network, self.sigma_data = network, sigma_data

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """c_skip, c_out, c_in with D = c_skip x + c_out F(c_in x); sigma [B,1,1,1]."""
        total = sigma**2 + self.sigma_data**2
        return self.sigma_data**2 / total, sigma * self.sigma_data / total.sqrt(), 1 / total.sqrt()

    def time(self, sigma: Tensor) -> Tensor:
        return sigma.log() / 4

    def forward(
        self, x: Tensor, sigma: Tensor, label: Tensor | None = None, position: Tensor | None = None
    ) -> Tensor:
        """position [B,2,H,W]: channels appended after preconditioning (patch networks)."""
        c_skip, c_out, c_in = self.scalings(column(sigma).to(x))
        scaled = c_in * x if position is None else torch.cat([c_in * x, position.to(x)], 1)
        output = call(self.network, scaled, self.time(sigma), label)[:, : x.shape[1]]
        return c_skip * x + c_out * output.to(x)


class Prior(nn.Module):
    """A pixel prior, and the base of the latent and patch ones.

    shape: [C,H,W] of the state. kind: where the state lives. patched: whether the network sees patches. alpha_bar: the VP
    table [T], or None for EDM networks. label: class number fed at every call (or one for each state, [B]). variances: rows
    of a noise level and Var[x0 | x] per state entry, by frequency, as training measured it (`ldm.spectra`). coherence: of the
    errors of neighbouring slices (`ldm.neighbours`). image_variances: as variances, of the decoded image, of latent priors.
    contracts: the stored values that were -1 and +1 in training, by modality as DICOM names it.
    """

    kind: Literal["pixel", "latent"] = "pixel"
    patched: bool = False
    gray: bool = False  # a 3-channel prior used on 1-channel images: replicated in, averaged out
    image_variances: Sequence[Sequence[float]] = ()
    error_variance: float = 0.0  # of decode(encode(image)) - image
    contracts: Mapping[str, tuple[float, float]] = MappingProxyType({})
    _origin: str | Callable[[], str] = ""

    def __init__(
        self,
        denoiser: nn.Module,
        shape: tuple[int, int, int],
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        label: int | Tensor | None = None,
        variances: Sequence[Sequence[float]] = (),
        coherence: Sequence[Sequence[float]] = (),
    ):
        super().__init__()
        self.denoiser, self.label, self.variances = denoiser, label, variances
        self.coherence = coherence
        self.shape: tuple[int, int, int] = (shape[0], shape[1], shape[2])
        table = self.alpha_bar
        low, high = (0.002, 80.0) if table is None else sigma_of(table[[0, -1]]).tolist()
        self.sigma_min = low if sigma_min is None else sigma_min
        self.sigma_max = high if sigma_max is None else sigma_max
        checks.counts(shape=self.shape)
        checks.positive(sigma_min=self.sigma_min, sigma_max=self.sigma_max)  # for logarithms
        if not self.sigma_min < self.sigma_max:
            raise Refusal(f"sigma_min {self.sigma_min} must be below sigma_max {self.sigma_max}")
        spectra.check(variances)
        neighbours.check(coherence)

    @property
    def alpha_bar(self) -> Tensor | None:
        return getattr(self.denoiser, "alpha_bar", None)

    @property
    def classes(self) -> int:
        """Classes the network tells apart; 0: it is unconditional. Our networks hold it as `classes`, diffusers' in `config`."""
        for module in self.denoiser.modules():
            diffusers = getattr(getattr(module, "config", None), "num_class_embeds", None)
            if known := getattr(module, "classes", None) or diffusers:
                return known
        return 0

    @property
    def any_size(self) -> bool:
        """Whether the network takes images of any H and W, and says of a crop what it says of the whole."""
        network = getattr(self.denoiser, "network", None)
        return self.kind == "pixel" and not self.patched and getattr(network, "any_size", False)

    @property
    def label(self) -> int | Tensor | None:
        return self._label

    @label.setter
    def label(self, value: int | Tensor | None) -> None:
        if value is not None and not isinstance(value, Tensor):
            if not self.classes:
                raise Refusal(f"label {value!r}: the network is unconditional and takes none")
            if type(value) is not int or value not in range(self.classes):
                raise Refusal(f"label {value!r}: 0 to {self.classes - 1} are allowed")
        self._label = value

    @contextmanager
    def told(self, labels: Tensor | None) -> Iterator[None]:
        """Within, each state has its own of these labels [B]; None: nothing changes."""
        before = self.label
        self.label = before if labels is None else labels
        try:
            yield
        finally:
            self.label = before

    def labels(self, x: Tensor) -> Tensor | None:
        """[B] what the network is told about the states x."""
        label = self.label
        return None if label is None else torch.as_tensor(label, device=x.device).expand(len(x))

    @property
    def origin(self) -> str:
        """Digest of the weights, written into every result; taken when first asked for, as it can last longer than loading."""
        if not isinstance(self._origin, str):
            self._origin = self._origin()
        return self._origin

    @origin.setter
    def origin(self, value: str | Callable[[], str]) -> None:
        self._origin = value

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """[C,H,W] of the images this prior speaks of."""
        return (1, self.shape[1], self.shape[2]) if self.gray else self.shape

    def denoise(self, x: Tensor, sigma: Tensor, noise: Noise | None = None) -> Tensor:
        """E[x0 | x] in the state's space; x [B,C,H,W], sigma [B]. `noise` draws patch offsets; others ignore it."""
        kind = "patch" if self.patched else self.kind
        checks.state(x, self.shape, kind, placed=self.patched and self.kind == "pixel")
        return self.denoiser(x, sigma, self.labels(x))

    def forward(self, x: Tensor, sigma: Tensor | float, noise: Noise | None = None) -> Tensor:
        """`denoise`, called as prior(x, sigma); sigma may be one number."""
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
        return self.denoise(x, sigma.expand(len(x)), noise)

    def begin(self, levels: Sequence[float]) -> None:
        """Told the noise levels of a run before its first call; most priors do not mind."""

    def coupled(self, z: Tensor) -> Tensor:
        """White noise of a state, as a solver is to add it; only volumes tie their slices' together."""
        return z

    def density(self, sigma: float) -> Tensor | None:
        """[H,W] Var[x0 | x] of every frequency of a state without its border; None: nobody measured it."""
        if not self.variances:
            return None
        inner = self.crop(torch.empty(self.shape, device="meta")).shape[1:]
        return torch.from_numpy(spectra.state_density(self.variances, sigma, *inner))

    def image_density(self, sigma: float) -> Tensor | None:
        """[H,W] the same of the image that a latent prior decodes from D(x)."""
        if not self.image_variances:
            return None
        return torch.from_numpy(spectra.density(self.image_variances, sigma, *self.image_shape[1:]))

    def variance(self, sigma: float) -> float | None:
        """Var[x0 | x] per state entry, the mean of `density`."""
        return None if (found := self.density(sigma)) is None else float(found.mean())

    def crop(self, state: Tensor) -> Tensor:
        """A state without the border that some priors have about it."""
        return state

    def pad(self, core: Tensor, value: float) -> Tensor:
        """The inverse, with a border of one value."""
        return core

    def to_image(self, state: Tensor) -> Tensor:
        """State -> image, differentiable and without quantisation; linear for pixel and patch priors."""
        return state.mean(1, keepdim=True) if self.gray else state

    def to_state(self, image: Tensor) -> Tensor:
        """Image -> a state that `to_image` maps back to it."""
        return image.expand(-1, self.shape[0], *image.shape[2:]) if self.gray else image

    @property
    def gain(self) -> float:
        """to_image(lift(x)) = gain * x for pixel and patch priors."""
        return 1 / self.shape[0] if self.gray else 1.0

    def lift(self, image: Tensor) -> Tensor:
        """The adjoint of `to_image` where that is linear."""
        return Prior.to_state(self, image) / self.shape[0] if self.gray else image

    def encode(self, image: Tensor) -> Tensor:
        raise Refusal("a pixel prior has no latent space to encode into")

    def decode(self, z: Tensor, quantize: bool = True) -> Tensor:
        raise Refusal("a pixel prior has no latent space to decode from")
