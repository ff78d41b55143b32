"""The algorithm boxes in NumPy, for one image as a vector: no tensors, no batch, no classes of the program.

A `World` holds what a box needs: the dense A, y, sigma_y, a Gaussian denoiser with its Jacobian, a decoder with its own,
and a tape of standard normal numbers in the order the box asks for them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class World:
    A: np.ndarray  # [m,d] on images
    y: np.ndarray
    sigma_y: float
    S: np.ndarray  # prior covariance [d,d] and mean [d] of the state
    mu: np.ndarray
    tape: Any  # .normal(n), .uniform()
    order: np.ndarray | None = (
        None  # decoder: image = (s + bend sin s)[order]; None: the state is the image
    )
    bend: float = 0.0

    def K(self, sigma):
        return self.S @ np.linalg.inv(self.S + sigma**2 * np.eye(len(self.S)))

    def D(self, x, sigma):
        return self.mu + self.K(sigma) @ (x - self.mu)

    def decode(self, z):
        return z if self.order is None else (z + self.bend * np.sin(z))[self.order]

    def J(self, z):  # of decode
        return (
            np.eye(len(z)) if self.order is None else np.diag(1 + self.bend * np.cos(z))[self.order]
        )

    def encode(self, x):
        if self.order is None:
            return x
        target, s = np.empty_like(x), np.zeros_like(x)
        target[self.order] = x
        for _ in range(200):
            s = target - self.bend * np.sin(s)
        return s

    def update(self, m, V, A=None, noise=False, y=None):
        """Conditional mean or draw; V a matrix; a draw is made of m, which must be drawn already."""
        A, y = self.A if A is None else A, self.y if y is None else y
        if noise:
            y = y + self.sigma_y * self.tape.normal(len(y))
        return m + V @ A.T @ np.linalg.solve(
            self.sigma_y**2 * np.eye(len(y)) + A @ V @ A.T, y - A @ m
        )


def ddim(x, x0, a, b, eta, tape):
    eps = (x - np.sqrt(a) * x0) / np.sqrt(1 - a)
    c = eta * np.sqrt((1 - b) / (1 - a)) * np.sqrt(1 - a / b)
    x = np.sqrt(b) * x0 + np.sqrt(max(1 - b - c**2, 0)) * eps
    return x + c * tape.normal(len(x)) if eta > 0 else x


def dps(w, levels, zeta, eta=1.0, clip=False):
    x = w.tape.normal(len(w.mu))
    for a, b in zip(levels, levels[1:]):
        sigma = np.sqrt((1 - a) / a)
        x0 = w.D(x / np.sqrt(a), sigma)
        gate = np.abs(x0) <= 1 if clip else np.ones_like(x0, dtype=bool)
        x0 = np.clip(x0, -1, 1) if clip else x0
        r = w.y - w.A @ w.decode(x0)
        g = -(w.K(sigma) / np.sqrt(a)).T @ (gate * (w.J(x0).T @ (w.A.T @ (r / np.linalg.norm(r)))))
        x = ddim(x, x0, a, b, eta, w.tape) - zeta * g
    return x


def codps(w, levels, scale, t_div, div_ratio, lam, plus, eta=1.0):
    """scale None: x' takes the share of x0's update that a DDPM step would."""
    x = w.tape.normal(len(w.mu))
    n = len(levels) - 1
    for i, (a, b) in enumerate(zip(levels, levels[1:])):
        t = n - 1 - i
        x0 = np.clip(w.D(x / np.sqrt(a), np.sqrt((1 - a) / a)), -1, 1)
        x = ddim(x, x0, a, b, eta, w.tape)
        v = 1 / (a / (1 - a) + lam)
        if scale is None:
            left = 1 - b - eta**2 * (1 - b) / (1 - a) * (1 - a / b)
            share = np.sqrt(b) - np.sqrt(max(left, 0)) * np.sqrt(a / (1 - a))
            c = share / (np.sqrt(a) / (1 - a))
        else:
            c = scale / div_ratio if t < t_div else scale
        inverse = np.linalg.inv(w.sigma_y**2 * np.eye(len(w.y)) + v * w.A @ w.A.T)
        if plus:
            if t == 0 and scale is not None:
                continue
            J = 1 / np.sqrt(a) if lam == 0 else (1 / lam) * np.sqrt(a) / (1 - a + a / lam)
            x = x + c * J * w.A.T @ inverse @ (w.y - w.A @ x0)
        else:
            mu = v * (np.sqrt(a) / (1 - a) * x + lam * x0)
            x = x + c * v * np.sqrt(a) / (1 - a) * w.A.T @ inverse @ (w.y - w.A @ mu)
    return x


def daps_exact(w, sigmas, s0, covariance):
    x = sigmas[0] * w.tape.normal(len(w.mu))
    for s, s_next in zip(sigmas, [*sigmas[1:], 0.0]):
        m = w.D(x, s)
        if covariance == "operator":
            V = s**2 * w.K(s)
            values, vectors = np.linalg.eigh((V + V.T) / 2)
            root = vectors @ np.diag(np.sqrt(values)) @ vectors.T
            u = m + root @ w.tape.normal(len(m))
        else:
            v = s0**2 * s**2 / (s0**2 + s**2)
            if covariance == "trace":
                probe = np.sign(w.tape.normal(len(m)))
                v = s**2 * probe @ w.K(s) @ probe / len(m)
            V, u = v * np.eye(len(m)), m + np.sqrt(v) * w.tape.normal(len(m))
        x0 = w.update(u, V, noise=True)
        x = x0 + s_next * w.tape.normal(len(m))
    return x


def daps_published(
    w, sigmas, ode, K, s_end, inner, M, lr, lmr, tau, momentum, clamp=None, final=False
):
    N = len(sigmas)
    x = sigmas[0] * w.tape.normal(len(w.mu))
    for i, (s, s_next) in enumerate(zip(sigmas, [*sigmas[1:], 0.0])):
        grid = (s ** (1 / 7) + np.linspace(0, 1, K + 1) * (s_end ** (1 / 7) - s ** (1 / 7))) ** 7
        x0_hat = x
        for b, c in zip(grid, grid[1:]):
            d = (x0_hat - w.D(x0_hat, b)) / b
            ahead = x0_hat + (c - b) * d
            if ode == "heun":
                ahead = x0_hat + (c - b) * (d + (ahead - w.D(ahead, c)) / c) / 2
            x0_hat = ahead
        eta = lr * (1 + i / (N + 1) * (lmr - 1))

        def score(z, x0_hat=x0_hat, s=s):
            g = 2 * w.J(z).T @ w.A.T @ (w.A @ w.decode(z) - w.y)
            g = g if clamp is None else np.clip(g, -clamp, clamp)
            return -g / (2 * tau**2) - (z - x0_hat) / s**2

        def energy(z, x0_hat=x0_hat, s=s):
            r = w.A @ w.decode(z) - w.y
            return r @ r / (2 * tau**2) + (z - x0_hat) @ (z - x0_hat) / (2 * s**2)

        z = x0_hat
        velocity = w.tape.normal(len(z)) if inner == "hmc" else None
        for _ in range(M):
            if inner == "langevin":
                z = z + eta * score(z) + np.sqrt(2 * eta) * w.tape.normal(len(z))
            elif inner == "hmc":
                kick = np.sqrt(eta) * score(z)
                velocity = (
                    momentum * velocity + kick + np.sqrt(2 * (1 - momentum)) * w.tape.normal(len(z))
                )
                z = z + np.sqrt(eta) * velocity
            else:
                proposal = z + np.sqrt(eta) * w.tape.normal(len(z))
                if np.log(w.tape.uniform()) < energy(z) - energy(proposal):
                    z = proposal
        x = z + s_next * w.tape.normal(len(z))
    return w.D(x, sigmas[-1]) if final else x


def discrepancy(w, m, v_max):
    """The v at which the conditional mean leaves a residual of sigma_y sqrt(m), by bisection."""
    r, G, target = w.y - w.A @ m, w.A @ w.A.T, w.sigma_y * np.sqrt(len(w.y))

    def residual(v):
        return np.linalg.norm(
            w.sigma_y**2 * np.linalg.solve(w.sigma_y**2 * np.eye(len(r)) + v * G, r)
        )

    if residual(0) <= target:
        return 0.0
    if residual(v_max) >= target:
        return v_max
    low, high = 0.0, v_max
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if residual(middle) > target else (low, middle)
    return low


def adamw(loss_gradient, x, lr, iterations, stop, weight_decay, patience=None):
    m = v = np.zeros_like(x)
    history = []
    for k in range(iterations):
        loss, g = loss_gradient(x)
        history.append(loss)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        x = x * (1 - lr * weight_decay)
        x = x - lr * (m / (1 - 0.9 ** (k + 1))) / (np.sqrt(v / (1 - 0.999 ** (k + 1))) + 1e-8)
        if loss < stop or (patience is not None and k >= patience and loss > history[k - patience]):
            break
    return x


def resample(
    w,
    levels,
    gamma,
    skip,
    sigma_pixel,
    sigma_latent,
    form,
    look_ahead,
    tweedie,
    dps_weight,
    descent,
    eta=0.0,
):
    """descent: None for the exact update, else (lr_pixel, its_pixel, lr_latent, its_latent, patience, stop, decay)."""
    n = len(levels) - 1
    z = w.tape.normal(len(w.mu))
    root = 1.0 if w.order is not None else 0.5

    def estimate(z, a):
        x0 = w.D(z / np.sqrt(a), np.sqrt((1 - a) / a))
        eps = (z - np.sqrt(a) * x0) / np.sqrt(1 - a)
        return x0, (z - (1 - a) * eps) / np.sqrt(a) if tweedie == "code" else x0

    def pixel(x, sigma):
        if descent is None:
            v = 0.25 * sigma**2 / (root**2 + sigma**2)
            return w.update(x, discrepancy(w, x, v) * np.eye(len(x)))

        def loss(x):
            r = w.A @ x - w.y
            return np.mean(r**2), 2 / len(r) * w.A.T @ r

        return adamw(loss, x, descent[0], descent[1], descent[5], descent[6])

    def latent(z, v):
        if descent is None:
            return w.update(z, discrepancy(w, z, v) * np.eye(len(z)))

        def loss(z):
            r = w.A @ w.decode(z) - w.y
            return np.mean(r**2), 2 / len(r) * w.J(z).T @ w.A.T @ r

        return adamw(loss, z, descent[2], descent[3], descent[5], descent[6], descent[4])

    for i, (a, b) in enumerate(zip(levels, levels[1:])):
        index, sigma = n - 1 - i, np.sqrt((1 - a) / a)
        clean, x0 = estimate(z, a)
        z = ddim(z, clean, a, b, eta, w.tape)
        if dps_weight:
            r = w.A @ w.decode(x0) - w.y
            g = w.J(x0).T @ w.A.T @ r / np.linalg.norm(r) / np.sqrt(a)
            z = z - dps_weight * a * g
        if index > 0 and index % skip == 0 and sigma <= sigma_pixel:
            ahead = z
            for c, d in zip(levels[i + 1 : i + 2 + look_ahead], levels[i + 2 : i + 2 + look_ahead]):
                clean, x0 = estimate(ahead, c)
                ahead = ddim(ahead, clean, c, d, 0.0, None)
            variance = root**2 * sigma**2 / (root**2 + sigma**2)
            x0 = (
                w.encode(pixel(w.decode(x0), sigma))
                if sigma > sigma_latent
                else latent(x0, variance)
            )
            if form == "encode":
                z = np.sqrt(b) * x0 + np.sqrt(1 - b) * w.tape.normal(len(z))
            else:
                s2 = gamma * (1 - b) / (a if form == "paper" else 1 - a) * (1 - a / b)
                mean = (s2 * np.sqrt(b) * x0 + (1 - b) * z) / (s2 + 1 - b)
                z = mean + np.sqrt(s2 * (1 - b) / (s2 + 1 - b)) * w.tape.normal(len(z))
    top = (1 - levels[0]) / levels[0]
    return latent(z, root**2 * top / (root**2 + top))


def psld(w, levels, gamma, omega, s2, eta=0.0, reach=None):
    """s2 None: B = A^T, else B = A^T (s2 + A A^T)^-1."""
    z = w.tape.normal(len(w.mu))
    B = w.A.T if s2 is None else w.A.T @ np.linalg.inv(s2 * np.eye(len(w.y)) + w.A @ w.A.T)
    for a, b in zip(levels, levels[1:]):
        sigma = np.sqrt((1 - a) / a)
        z0 = w.D(z / np.sqrt(a), sigma)
        x = w.decode(z0)
        glued = x + B @ (w.y - w.A @ x)
        e, r = w.encode(glued) - z0, w.A @ x - w.y
        dz0 = w.K(sigma) / np.sqrt(a)
        dx = w.J(z0) @ dz0
        dE = np.linalg.inv(w.J(w.encode(glued)))
        de = dE @ (np.eye(len(x)) - B @ w.A) @ dx - dz0
        g = gamma * de.T @ e / np.linalg.norm(e) + omega * dx.T @ w.A.T @ r / np.linalg.norm(r)
        share = 1.0
        if reach is not None:
            share = min(
                1.0, reach / (len(levels) - 1) * np.sqrt((1 - b) * len(z)) / np.linalg.norm(g)
            )
        z = ddim(z, z0, a, b, eta, w.tape) - share * g
    return z


def padis(w, sigmas, inner, data, rule, zeta, eps, corrected):
    x = sigmas[0] * w.tape.normal(len(w.mu))
    L = np.linalg.norm(w.A, 2) ** 2
    for i, s in enumerate(sigmas):
        for k in range(inner):
            D, push = w.D(x, s), 0
            r = w.y - w.A @ (D if data == "dps" else x)
            if data == "ddnm":
                D = w.update(D, 0.25 * s**2 / (0.25 + s**2) * np.eye(len(x)))
            elif data == "dps":
                g = -w.K(s).T @ w.A.T @ r  # grad |r|^2 / 2
                length = np.linalg.norm(r)
                push = (
                    -zeta * {"operator": g / L, "paper": 2 * g / length, "code": g / length}[rule]
                )
            else:
                step = (
                    zeta / L
                    if rule == "operator"
                    else zeta / np.linalg.norm(r) * min(40, 200 * s / 2)
                )
                push = step * w.A.T @ r
            keep, spread = 1 - eps / 2, np.sqrt(eps) * s
            if corrected:  # noise of deviation s goes in, of the next evaluation's comes out
                fall = sigmas[i + 1] / s if k == inner - 1 and i < len(sigmas) - 1 else 1.0
                keep = min(keep, fall)
                spread = s * np.sqrt(fall**2 - keep**2)
            x = x + push + (1 - keep) * s**2 * (D - x) / s**2
            if i < len(sigmas) - 1:
                x = x + spread * w.tape.normal(len(x))
    return x


def padis_pc(w, sigmas, rule, zeta, r0, corrected):
    x = sigmas[0] * w.tape.normal(len(w.mu))

    def data(x, factor):
        r = w.y - w.A @ x
        return (
            zeta / np.linalg.norm(w.A, 2) ** 2 * w.A.T @ r
            if rule == "operator"
            else factor * zeta / np.linalg.norm(r) * w.A.T @ r
        )

    for s, s_next in zip(sigmas, sigmas[1:]):
        drop = s**2 - s_next**2
        x = (
            x
            + drop * (w.D(x, s) - x) / s**2
            + np.sqrt(drop) * (s_next / s if corrected else 1) * w.tape.normal(len(x))
        )
        x = x + data(x, 1.0)
        score = (w.D(x, s_next) - x) / s_next**2
        z = w.tape.normal(len(x))
        step = 2 * (r0 * np.linalg.norm(z) / np.linalg.norm(score)) ** 2
        step = min(step, s_next**2) if corrected else step
        kept = 1 - step / s_next**2  # of the noise that came in
        x = (
            x
            + step * score
            + (s_next * np.sqrt(1 - kept**2) if corrected else np.sqrt(2 * step)) * z
        )
        x = x + data(x, min(40, 200 * s / 2))
    return x


def tv(A, y, h, w, steps, lam, rho):
    """ADMM for |A x - y|^2 / 2 + lam TV(x), isotropic, with the x-update solved directly."""
    down, right = (
        np.kron(np.eye(h, k=1) - np.eye(h), np.eye(w)),
        np.kron(np.eye(h), np.eye(w, k=1) - np.eye(w)),
    )
    down[-w:], right[w - 1 :: w] = 0, 0
    G = np.concatenate([down, right])
    x = np.zeros(h * w)
    z, u = G @ x, np.zeros(2 * h * w)
    for _ in range(steps):
        x = np.linalg.solve(A.T @ A + rho * G.T @ G, A.T @ y + rho * G.T @ (z - u))
        slopes = (G @ x + u).reshape(2, -1)
        length = np.sqrt((slopes**2).sum(0))
        z = (slopes * np.maximum(1 - lam / rho / np.maximum(length, 1e-300), 0)).ravel()
        u = slopes.ravel() - z
    return x
