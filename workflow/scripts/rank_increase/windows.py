"""Windows of perturbation runs, and whether they say something about Assumptions 4.3 and 4.4."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Window:
    """Measures of a perturbation run; products are compared in the largest absolute difference over all entries.

    Attributes
    ----------
    start_distance, end_distance : float
        Between the perturbed and the reference path.
    movement : float
        Largest distance of the reference from where it was when the perturbation was made.
    final_speed : float
        Distance that the reference goes in the last tenth of the window, per unit of rescaled time.
    """

    start_distance: float
    end_distance: float
    movement: float
    final_speed: float

    @classmethod
    def of(cls, run):
        """Measure one run of the table "perturbations", a data frame."""
        keys = {"index": "rescaled_time", "columns": ["product", "index"]}
        reference = run.pivot(values="reference", **keys)
        distance = (run.pivot(values="value", **keys) - reference).abs().max(axis=1)
        time, reference = reference.index.to_numpy(), reference.to_numpy()
        last_tenth = np.searchsorted(time, time[-1] - (time[-1] - time[0]) / 10, side="right") - 1
        return cls(
            start_distance=distance.iloc[0],
            end_distance=distance.iloc[-1],
            movement=np.abs(reference - reference[0]).max(),
            final_speed=np.abs(reference[-1] - reference[last_tenth]).max() / (time[-1] - time[last_tenth]),
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
        """Whether the run says something about Assumption 4.3, in words, and True if it does not.

        A path that itself moves by more than `movement` within the window, unperturbed, has no stationary point
        nearby to which the perturbed one could return.
        """
        off = self.movement > movement
        return f"{'not ' if off else ''}on a plateau: reference moves {self.movement:.3f}", off

    def rest_note(self, speed):
        """Whether the run says something about Assumption 4.4, in words, and True if it does not.

        The assumption is about where the dynamics end. Windows end with the next activation, and in a crowd of stages
        that is before the path has come to rest: it ends faster than `speed`. How far the reference has gone does not
        show this, as it goes far in every window that sees an activation.
        """
        restless = self.final_speed > speed
        return f"window ends {'before' if restless else 'at'} rest: speed {self.final_speed:.3f}", restless
