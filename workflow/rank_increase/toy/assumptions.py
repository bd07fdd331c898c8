"""Perturbation runs that test Assumptions 4.3 and 4.4 (paper, Appendix A, Figures 9 and 10)."""

from dataclasses import dataclass

import numpy as np

from rank_increase.toy.diagonal_flow import LogCoordinates, integrate


@dataclass(frozen=True)
class Moment:
    """A moment at which to perturb a flow: its time, the state s of shape (p,), and how long to follow.

    `activated` is the coordinate that becomes nonnegligible at that moment, or None for a random moment.
    """

    time: float
    state: np.ndarray
    end: float
    activated: int | None = None


@dataclass(frozen=True)
class PerturbedRun:
    """Products along a perturbed flow and along the unperturbed one, both of shape (len(times), p).

    `noise_on` says which weights were perturbed: those above the threshold ("nonnegligible", as in the paper's Appendix
    A), or only those that the assumptions allow ("support").
    """

    noise_on: str
    times: np.ndarray
    perturbed: np.ndarray
    reference: np.ndarray


def random_moments(head, coordinates, s, *, runs, active, follow, max_time, rng, rtol, atol, on_step=None):
    """Random moments of a flow for Assumption 4.3, in order of time.

    They are uniform in [0, max_time], and need not fall on a plateau. A run ends well before the next coordinate
    becomes active: halfway.

    Parameters
    ----------
    active : float
        A coordinate is active while the larger of its weights is above this.
    follow : float
        The longest time to follow a run, in the units of `max_time`.
    """
    times = np.sort(rng.uniform(0, max_time, runs))
    grid = np.r_[0.0, times, max_time + 2 * follow]
    states, crossings = integrate(
        head, coordinates, s, grid, rtol=rtol, atol=atol, thresholds=[active], on_step=_time_of(on_step)
    )
    rises = np.array([crossing.time for crossing in crossings if crossing.direction > 0])
    gaps = [min(2 * follow, (rises[rises > time] - time).min(initial=np.inf)) for time in times]
    return [Moment(time, state, time + gap / 2) for time, state, gap in zip(times, states[1:], gaps, strict=False)]


def activation_moments(head, coordinates, s, *, runs, threshold, active, max_time, rng, rtol, atol, on_step=None):
    """Moments of a flow for Assumption 4.4, at which a weight passes `threshold`, in order of time.

    A run is followed until the coordinate becomes active (its weight passes `active`), and further halfway until the
    next one does. The moments are drawn from all those for which this happens before `max_time`.
    """
    _, crossings = integrate(
        head,
        coordinates,
        s,
        np.array([0.0, max_time]),
        rtol=rtol,
        atol=atol,
        thresholds=(threshold, active),
        on_step=_time_of(on_step),
    )
    upwards = [crossing for crossing in crossings if crossing.direction > 0]
    rises = [crossing for crossing in upwards if crossing.threshold == active]
    moments = []
    for crossing in upwards:
        if crossing.threshold == threshold:
            own = [rise.time for rise in rises if rise.coordinate == crossing.coordinate and rise.time > crossing.time]
            ends = [rise.time for rise in rises if own and rise.time > own[0]]
            if ends:
                end = (own[0] + ends[0]) / 2
                moments.append(Moment(crossing.time, crossing.state, end, crossing.coordinate))
    drawn = np.sort(rng.choice(len(moments), size=min(runs, len(moments)), replace=False))
    return [moments[i] for i in drawn]


def _time_of(on_step):
    return on_step and (lambda time, _: on_step(time))


def perturb(coordinates, s, noise, chosen):
    """Coordinates and state after noise on some of the weights.

    Parameters
    ----------
    coordinates : LogCoordinates
    s : array, shape (p,)
    noise : array, shape (2, p)
        The noise added to u and to v.
    chosen : array of bool, shape (p,)
        The perturbed coordinates; the others keep u_i and v_i, however small.
    """
    u, v = (weight[chosen] for weight in coordinates.weights(s))
    moved, moved_s = LogCoordinates.of(u + noise[0, chosen], v + noise[1, chosen])
    fields = []
    for before, after in zip(
        (coordinates.log_c, coordinates.u_is_larger, coordinates.sign, s),
        (moved.log_c, moved.u_is_larger, moved.sign, moved_s),
        strict=True,
    ):
        field = before.copy()
        field[chosen] = after
        fields.append(field)
    return LogCoordinates(*fields[:3]), fields[3]


def perturbed_runs(head, coordinates, moment, *, std, threshold, active, points, rng, rtol, atol):
    """A `PerturbedRun` for each of the two choices of perturbed weights, with the same noise.

    At alpha = 1e-32 weights above the paper's threshold of 1e-5 may still be growing. Noise far larger than such a
    weight makes it rise too soon. Assumptions 4.3 and 4.4 are about perturbations on the support, and on the coordinate
    that is being activated: the second choice. Products are compared rather than weights: u_i^2 - v_i^2 is conserved,
    so perturbed weights cannot return.

    Parameters
    ----------
    moment : Moment
    std : float
        Standard deviation of the noise, drawn for each of u_i and v_i.
    threshold, active : float
        Coordinates with max(|u_i|, |v_i|) above these are nonnegligible, and on the support.
    points : int
        Number of recorded times.
    """
    times = np.linspace(moment.time, moment.end, points)
    noise = std * rng.standard_normal((2, len(moment.state)))
    support = abs(moment.state) > coordinates.reach(active)
    support[[] if moment.activated is None else moment.activated] = True
    chosen = {"nonnegligible": support | (abs(moment.state) > coordinates.reach(threshold)), "support": support}
    reference = coordinates.product(integrate(head, coordinates, moment.state, times, rtol=rtol, atol=atol)[0])
    runs = []
    for noise_on, coordinate in chosen.items():
        moved, moved_s = perturb(coordinates, moment.state, noise, coordinate)
        perturbed = moved.product(integrate(head, moved, moved_s, times, rtol=rtol, atol=atol)[0])
        runs.append(PerturbedRun(noise_on, times, perturbed, reference))
    return runs
