"""Fusion of sensors over time with missing readings, compared with the Kalman smoother.

A position follows a random walk, and sensors of different quality read it at some of the times. The latent variables
are the steps of the walk with the prior N(0, I), and an expert is a Gaussian with full covariance over all of them: the
information of one sensor on the whole path. The product of such experts can be equal to the exact smoother.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

from pyro_mmvae import BarycentricGuide, Experts

TIMES, STEP = 10, 0.7
NOISE = torch.tensor([0.3, 0.8, 2.0])  # standard deviation of each sensor
WALK = STEP * torch.ones(TIMES, TIMES).tril()  # path = WALK @ steps


def model(readings: Tensor) -> None:
    """Draw paths of a random walk, and observe the readings `(track, sensor, time)` that are not NaN."""
    with pyro.plate("data", len(readings)):
        steps = pyro.sample("z", dist.Normal(torch.zeros(TIMES), 1.0).to_event(1))
        path = steps @ WALK.T
        for m, noise in enumerate(NOISE):
            reading = readings[:, m]
            sensor = dist.Normal(path, noise).mask(~reading.isnan()).to_event(1)
            pyro.sample(f"sensor_{m}", sensor, obs=reading.nan_to_num())


class Encode(nn.Module):
    """An encoder with the form of the posterior of the steps given one sensor and a wide prior.

    The noise, the offset and the prior precision of each sensor are learned.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_noise = nn.Parameter(torch.zeros(len(NOISE), 1))
        self.offset = nn.Parameter(torch.zeros(len(NOISE), 1))
        self.log_ridge = nn.Parameter(torch.full((len(NOISE), 1, 1), -3.0))

    def forward(self, readings: Tensor) -> Experts:
        """Return experts `(track, sensor, time)` with full covariance."""
        observed = (~readings.isnan()).to(WALK)
        trust = observed * (-2 * self.log_noise).exp()
        precision = WALK.T @ (trust[..., None] * WALK) + self.log_ridge.exp() * torch.eye(TIMES)
        shift = (trust * (readings.nan_to_num() - self.offset)) @ WALK
        covariance = torch.linalg.inv(precision)
        loc = (covariance @ shift[..., None]).squeeze(-1)
        return Experts(loc, scale_tril=torch.linalg.cholesky(covariance), present=observed.bool().any(-1))


def kalman(track: Tensor) -> tuple[Tensor, float]:
    """Return the smoothed path and log evidence of one track `(sensor, time)`.

    The smoother is Kalman's filter followed by the backward pass of Rauch, Tung and Striebel.
    """
    mean, variance, evidence = torch.tensor(0.0), torch.tensor(0.0), 0.0
    means, variances = [], []
    for t in range(TIMES):
        variance = variance + STEP**2
        for reading, noise in zip(track[:, t], NOISE, strict=True):
            if not reading.isnan():
                total = variance + noise**2
                evidence += float(dist.Normal(mean, total.sqrt()).log_prob(reading))
                gain = variance / total
                mean, variance = mean + gain * (reading - mean), (1 - gain) * variance
        means.append(mean)
        variances.append(variance)
    smoothed = [means[-1]]
    for t in range(TIMES - 2, -1, -1):
        gain = variances[t] / (variances[t] + STEP**2)
        smoothed.insert(0, means[t] + gain * (smoothed[0] - means[t]))
    return torch.stack(smoothed), evidence


def rms(error: Tensor) -> float:
    """Return the root mean square."""
    return float(error.square().mean().sqrt())


def main(steps: int = 120, aggregations: tuple[str, ...] = ("poe", "pool", "wb")) -> dict[str, dict[str, float]]:
    """Train one guide per aggregation, and print its error and gap to the evidence next to those of the smoother."""
    torch.manual_seed(0)
    path = torch.randn(30, TIMES) @ WALK.T
    readings = path[:, None] + NOISE[:, None] * torch.randn(30, len(NOISE), TIMES)
    readings[torch.rand(readings.shape) < 0.4] = torch.nan
    readings[:10, 0] = torch.nan  # the best sensor is missing
    smoothed, evidences = zip(*(kalman(track) for track in readings), strict=True)
    smoother = torch.stack(smoothed)
    evidence = sum(evidences) / len(evidences)
    results = {"kalman": {"rmse": rms(smoother - path), "elbo": evidence}}
    print(f"Kalman smoother  RMSE {results['kalman']['rmse']:.4f}   log evidence {evidence:.3f} nats per track")
    for aggregation in aggregations:
        pyro.clear_param_store()
        pyro.set_rng_seed(1)
        guide = BarycentricGuide(Encode(), aggregation)
        svi = SVI(model, guide, pyro.optim.ClippedAdam({"lr": 0.2, "lrd": 0.1 ** (1 / steps)}), Trace_ELBO())
        for _ in range(steps):
            svi.step(readings)
        elbo = Trace_ELBO(num_particles=100, vectorize_particles=True, max_plate_nesting=1)
        with torch.no_grad():
            mean = guide.posterior(guide.encode(readings)).mean @ WALK.T
            bound = -elbo.loss(model, guide, readings) / len(readings)
        errors = {"rmse": rms(mean - path), "from_kalman": rms(mean - smoother), "elbo": bound}
        results[aggregation] = errors
        print(f"{aggregation:<15}  RMSE {errors['rmse']:.4f}   ELBO {bound:.3f}   gap {evidence - bound:.3f}", end="")
        print(f"   from the smoother {errors['from_kalman']:.4f}")
    return results


if __name__ == "__main__":
    main()
