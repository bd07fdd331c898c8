"""Windows of perturbation runs, and whether they can test Assumptions 4.3 and 4.4."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Window:
    """Measures of a perturbation run; products are compared in the largest absolute difference over all entries.

    Attributes
    ----------
    start_distance, end_distance : float
        Distance between the perturbed and the reference path.
    movement : float
        Largest distance of the reference from its position at the perturbation.
    final_speed : float
        Distance that the reference moves in the last tenth of the window, per unit of rescaled time.
    slowest : float
        What the slowest mode at theta_k keeps of a perturbation over the length of the window; NaN before any stage.
    """

    start_distance: float
    end_distance: float
    movement: float
    final_speed: float
    slowest: float

    @classmethod
    def of(cls, run):
        """Measure one run of the table "perturbations", a data frame."""
        keys = {"index": "rescaled_time", "columns": ["product", "index"]}
        reference, relaxation = run.pivot(values="reference", **keys), run["relaxation"].iloc[0]
        distance = (run.pivot(values="value", **keys) - reference).abs().max(axis=1)
        time, reference = reference.index.to_numpy(), reference.to_numpy()
        last_tenth = np.searchsorted(time, time[-1] - (time[-1] - time[0]) / 10, side="right") - 1
        return cls(
            start_distance=distance.iloc[0],
            end_distance=distance.iloc[-1],
            movement=np.abs(reference - reference[0]).max(),
            final_speed=np.abs(reference[-1] - reference[last_tenth]).max() / (time[-1] - time[last_tenth]),
            slowest=np.exp(-relaxation * (time[-1] - time[0])),
        )

    @property
    def ratio(self):
        """Distance at the end of the window over that at its start; NaN if the path was not perturbed."""
        return self.end_distance / self.start_distance if self.start_distance else float("nan")

    def distances(self, on_support):
        """Distances at both ends and their ratio, in words; `on_support` is the Window with noise on the support."""
        if not self.start_distance:
            return "not perturbed: no weight is active or above the threshold"
        distances = f"distance {self.start_distance:.3f} to {self.end_distance:.3f}, ratio {self.ratio:.2f}"
        return f"{distances} (support: {f'{on_support.ratio:.2f}' if on_support.start_distance else 'not perturbed'})"

    def plateau_note(self, movement):
        """A note on whether the run can test Assumption 4.3, and True if it cannot.

        If the unperturbed path itself moves by more than `movement` within the window, there is no stationary point
        nearby to which the perturbed path could return.
        """
        off = self.movement > movement
        kept = "" if np.isnan(self.slowest) else f", keeps {self.slowest:.2f}"
        return f"{'not ' if off else ''}on a plateau: moves {self.movement:.3f}{kept}", off

    def rest_note(self, speed):
        """A note on whether the run can test Assumption 4.4, and True if it cannot.

        The assumption is about where the dynamics end. Windows end with the next activation. If stages are crowded, the
        path has not come to rest by then: its final speed is above `speed`. The distance moved does not show this, as
        it is large in every window with an activation.
        """
        restless = self.final_speed > speed
        return f"window ends {'before' if restless else 'at'} rest: speed {self.final_speed:.3f}", restless
