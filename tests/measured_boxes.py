"""The default forms of DAPS, CoDPS+, PaDIS and ReSample in NumPy: their V is what training measured, by frequency and place.

One image of H x W pixels as a vector, V as a dense matrix. Nothing of the program is used but the table of variances.
"""

from dataclasses import dataclass

import numpy as np
from transcriptions import World, ddim

KNOTS = 2.0 ** np.arange(-8, 0, 0.5)  # cycles per pixel at which a row of the table holds variances
WINDOW, POWER = 9, 0.25  # of local contrast, and how the deviation of errors goes with it


@dataclass
class Measured(World):
    size: tuple[int, int] = (6, 6)
    rows: tuple = ()  # (noise level, variances at KNOTS) of the image, or of the state where that is the image
    v: tuple = ()  # (noise level, variance) of a latent's entry

    def density(self, sigma, state=True):
        """[H,W] the power of D's errors at each frequency: log-log between levels and knots, constant beyond them."""
        height, width = self.size
        f = np.hypot(
            *np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij")
        ).clip(KNOTS[0])
        table = np.log([[level, *variances] for level, variances in self.rows])
        here = [np.interp(np.log(sigma), table[:, 0], column) for column in table[:, 1:].T]
        found = np.exp(np.interp(np.log(f), np.log(KNOTS), here))
        if not state:
            return found
        found = found * min(1, sigma / self.rows[0][0]) ** 2  # below the lowest level as sigma^2
        return found * min(1, sigma**2 / found.mean())  # D(x) = x is no worse

    def place(self, estimate):
        """[H W] T: where D errs more. T stands twice in H, so that V goes with its fourth power."""
        image, (height, width) = estimate.reshape(self.size), self.size
        local, reach = np.empty(self.size), WINDOW // 2
        for i in range(height):
            for j in range(width):
                around = image[max(0, i - reach) : i + reach + 1, max(0, j - reach) : j + reach + 1]
                local[i, j] = (around**2).mean() - around.mean() ** 2
        local, mean = local.clip(0), local.clip(0).mean()
        deviation = np.sqrt((local + 1e-4 * mean + 1e-12) / (mean + 1e-12)) ** POWER
        return np.sqrt(deviation / np.sqrt((deviation**2).mean())).ravel()

    def H(self, sigma, estimate, variance=None, state=True):
        """V^(1/2) about an estimate; variance: the mean one of a pixel that V is scaled to."""
        density = self.density(sigma, state)
        density = density if variance is None else variance / density.mean() * density
        n = len(estimate)
        columns = np.eye(n).reshape(n, *self.size)
        filtered = np.fft.ifft2(np.sqrt(density) * np.fft.fft2(columns)).real.reshape(n, n).T
        T = self.place(estimate)
        return T[:, None] * filtered * T

    def to_residual(self, H, m):
        """H, larger where the residual is: |y - A m|^2 = sigma_y^2 n + tr(A V A^T) on average, one random probe for the trace."""
        probe = np.sign(self.tape.normal(len(self.y)))
        expected = np.sum((H @ self.A.T @ probe) ** 2)
        found = np.sum((self.y - self.A @ m) ** 2) - self.sigma_y**2 * len(self.y)
        return H * np.sqrt(max(1, found / expected))

    def morozov(self, m, V):
        """The mean under the least share of V that explains y to the noise level."""
        r, G, target = (
            self.y - self.A @ m,
            self.A @ V @ self.A.T,
            self.sigma_y * np.sqrt(len(self.y)),
        )

        def residual(share):
            total = self.sigma_y**2 * np.eye(len(r)) + share * G
            return np.linalg.norm(self.sigma_y**2 * np.linalg.solve(total, r))

        low, high = 0.0, 1.0
        if residual(low) <= target or residual(high) >= target:
            low = high = 0.0 if residual(low) <= target else 1.0
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if residual(middle) > target else (low, middle)
        return self.update(m, low * V)

    def variance(self, sigma):
        """Of an entry of the state: the mean of the density, or what was measured of latents."""
        if self.order is None:
            return self.density(sigma).mean()
        level, value = np.log(np.array(self.v)).T
        return np.exp(np.interp(np.log(sigma), level, value)) * min(1, sigma / self.v[0][0]) ** 2

    def mean(self, m, sigma, state=True):
        """x0 given y about an estimate, V scaled to the residual."""
        H = self.to_residual(self.H(sigma, m, state=state), m)
        return self.update(m, H @ H)


def daps(w, sigmas, coloured=0.3, hiding=3.0):
    """The draw before y is white, and of N(m, V) at fine levels and at the coarsest; a latent one is white and meets y decoded.

    The last image of a latent prior is a draw about the decoded mean.
    """
    x = sigmas[0] * w.tape.normal(len(w.mu))
    latent = w.order is not None
    for s, s_next in zip(sigmas, [*sigmas[1:], 0.0]):
        m = w.D(x, s)
        image = w.decode(m)
        if latent and s_next == 0:
            H = w.to_residual(w.H(s, image, state=False), image)
            return w.update(image + H @ w.tape.normal(len(image)), H @ H, noise=True)
        if not latent and not coloured < s <= hiding:
            H = w.to_residual(w.H(s, m), m)
            x0 = w.update(m + H @ w.tape.normal(len(m)), H @ H, noise=True)
        else:
            u = m + np.sqrt(w.variance(s)) * w.tape.normal(len(m))
            H = w.to_residual(w.H(s, image, state=not latent), image)
            x0 = w.encode(w.update(w.decode(u), H @ H, noise=True))
        x = x0 + s_next * w.tape.normal(len(x0))
    return x


def pnp(w, sigmas, quiet=0.1, lam=0.23):
    """Without a classical answer it starts from 0; below `quiet` nothing is random."""
    x = np.zeros(len(w.mu))
    latent = w.order is not None
    n = w.tape.normal(len(x))
    for k, s in enumerate(sigmas[:-1]):
        level = s / 2 if latent else s  # of images, whose deviation is half a latent's
        if level > quiet:
            x = x + (-1) ** (len(sigmas) + 1 - k) * s * n
            x = w.encode(w.mean(w.decode(w.D(x, s)), s, state=not latent))
        else:
            image = w.decode(w.D(x, s))
            x = w.encode(w.update(image, level**2 / lam * np.eye(len(image))))
    image = w.decode(w.D(x, sigmas[-1]))
    H = w.H(sigmas[-1], image, 0.25, state=not latent)
    return w.morozov(image, H @ H)


def codps_plus(w, levels, eta=1.0):
    x = w.tape.normal(len(w.mu))
    for a, b in zip(levels, levels[1:]):
        sigma = np.sqrt((1 - a) / a)
        x0 = np.clip(w.D(x / np.sqrt(a), sigma), -1, 1)
        x = ddim(x, x0, a, b, eta, w.tape)
        left = 1 - b - eta**2 * (1 - b) / (1 - a) * (1 - a / b)
        share = np.sqrt(b) - np.sqrt(max(left, 0)) * np.sqrt(a / (1 - a))
        x = x + share * (w.mean(x0, sigma) - x0)
    return x


def padis(w, sigmas, sigma_max):
    """One Langevin step a level with eps = 1, its noise corrected; the last mean explains y to the noise level."""
    x = sigmas[0] * w.tape.normal(len(w.mu))
    for s, s_next in zip(sigmas, [*sigmas[1:], 0.0]):
        D = w.mean(w.D(x, s), s)
        fall = s_next / s if s_next else 1.0
        keep = min(0.5, fall)
        x = x + (1 - keep) * (D - x)
        if s_next:
            x = x + s * np.sqrt(fall**2 - keep**2) * w.tape.normal(len(x))
    H = w.H(s, D, w.variance(sigma_max))
    return w.morozov(D, H @ H)


def resample(w, levels, gamma, skip, sigma_pixel, sigma_max, error=0.0):
    """Consistency in the image at every noise level (for latents: the fast mode)."""
    latent = w.order is not None
    n = len(levels) - 1
    z = w.tape.normal(len(w.mu))
    for i, (a, b) in enumerate(zip(levels, levels[1:])):
        index, sigma = n - 1 - i, np.sqrt((1 - a) / a)
        x0 = w.D(z / np.sqrt(a), sigma)
        z = ddim(z, x0, a, b, 0.0, w.tape)
        if index > 0 and index % skip == 0 and sigma <= sigma_pixel:
            x0 = w.encode(w.mean(w.decode(x0), sigma, state=not latent))
            s2 = gamma * (1 - b) / a * (1 - a / b)
            mean = (s2 * np.sqrt(b) * x0 + (1 - b) * z) / (s2 + 1 - b)
            z = mean + np.sqrt(s2 * (1 - b) / (s2 + 1 - b)) * w.tape.normal(len(z))
    image = w.decode(z)
    H = w.H(sigma, image, 0.25 + error if latent else w.variance(sigma_max), state=not latent)
    return w.morozov(image, H @ H)
