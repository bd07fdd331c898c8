"""Perturbation runs that test Assumptions 4.3 and 4.4 (paper, Appendix A, Figures 9 and 10)."""

from dataclasses import dataclass

import numpy as np

from rank_increase.flow import LogCoordinates, integrate


@dataclass(frozen=True)
class PerturbedRun:
    """Products along a perturbed flow and along the flow it left, both of shape (len(times), p)."""

    perturbed_at: float
    times: np.ndarray
    perturbed: np.ndarray
    reference: np.ndarray


def perturb(coordinates, s, std, threshold, rng):
    """Coordinates and state after Gaussian noise on the nonnegligible weights.

    Parameters
    ----------
    coordinates : LogCoordinates
    s : array, shape (p,)
    std : float
        Standard deviation of the noise, drawn for each of u_i and v_i.
    threshold : float
        Coordinates with max(|u_i|, |v_i|) above it are perturbed, the others keep both u_i and v_i.
    rng : numpy.random.Generator
    """
    active = abs(s) > coordinates.reach(threshold)
    u, v = (weight[active] for weight in coordinates.weights(s))
    u, v = u + std * rng.standard_normal(u.shape), v + std * rng.standard_normal(v.shape)
    moved, moved_s = LogCoordinates.of(u, v)
    fields = []
    for before, after in zip(
        (coordinates.log_c, coordinates.u_is_larger, coordinates.sign, s),
        (moved.log_c, moved.u_is_larger, moved.sign, moved_s),
        strict=True,
    ):
        field = before.copy()
        field[active] = after
        fields.append(field)
    return LogCoordinates(*fields[:3]), fields[3]


def perturbed_run(head, coordinates, s, times, *, std, threshold, rng, rtol, atol):
    """Follow the flow from state `s` at times[0] with and without a perturbation of the weights; a `PerturbedRun`.

    Products are compared rather than weights: u_i^2 - v_i^2 is conserved, so perturbed weights cannot return.
    """
    moved, moved_s = perturb(coordinates, s, std, threshold, rng)
    products = [
        where.product(integrate(head, where, start, times, rtol=rtol, atol=atol)[0])
        for where, start in ((moved, moved_s), (coordinates, s))
    ]
    return PerturbedRun(times[0], times, *products)


def plateau_windows(head, coordinates, s, *, runs, follow, max_time, rng, rtol, atol, on_step=None):
    """Random moments of a flow for Assumption 4.3: a list of (state, start, end), by time.

    The moments are uniform in [0, max_time]; nothing makes sure that they fall on a plateau.

    Parameters
    ----------
    follow : float
        Length of a window.
    """
    starts = np.sort(rng.uniform(0, max_time, runs))
    states, _ = integrate(head, coordinates, s, np.r_[0.0, starts], rtol=rtol, atol=atol, on_step=on_step)
    return [(state, start, start + follow) for state, start in zip(states[1:], starts, strict=True)]


def activation_windows(head, coordinates, s, *, runs, threshold, max_time, rng, rtol, atol, on_step=None):
    """Moments of a flow for Assumption 4.4, where a weight passes `threshold`: a list of (state, start, end), by time.

    The moments are drawn from all activations but the last; a window ends where the next activation begins.
    """
    ends = np.array([0.0, max_time])
    _, crossings = integrate(head, coordinates, s, ends, rtol=rtol, atol=atol, threshold=threshold, on_step=on_step)
    activations = [crossing for crossing in crossings if crossing.direction > 0]
    drawn = np.sort(rng.choice(len(activations) - 1, size=min(runs, len(activations) - 1), replace=False))
    return [(activations[i].state, activations[i].time, activations[i + 1].time) for i in drawn]
