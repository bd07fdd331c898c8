"""The loss in the limit alpha -> 0, a staircase whose steps are the stages of Algorithm 1."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Staircase:
    """A step function of rescaled time: heights[k] from times[k] on, times[0] = 0."""

    times: np.ndarray
    heights: np.ndarray

    @classmethod
    def of(cls, stages, start):
        """From the table "stages" of one problem, and the loss at theta_0."""
        stages = stages.sort_values("stage")
        return cls(np.r_[0.0, stages["predicted_time"]], np.r_[start, stages["loss"]])

    def at(self, time):
        """Heights at an array of rescaled times."""
        return self.heights[np.searchsorted(self.times, time, side="right") - 1]

    def distance(self, time, loss):
        """Integral of |loss - staircase| over rescaled time; the loss is linear between its records.

        Times ln(1/alpha), it tends to the sum of the areas of the orbits (toy.orbits), since the loss falls
        C_k / ln(1/alpha) after the staircase does.

        Parameters
        ----------
        time, loss : array, shape (records,)
            Rescaled times, ascending, and the loss at them.
        """
        edges = np.unique(np.r_[time, self.times[(self.times > time[0]) & (self.times < time[-1])]])
        curve, height = np.interp(edges, time, loss), self.at(edges[:-1])
        a, b = curve[:-1] - height, curve[1:] - height
        size = abs(a) + abs(b)
        crossed = np.where(
            a * b < 0, (a**2 + b**2) / np.where(size > 0, size, 1), size
        )  # two triangles, or one trapezoid
        return np.diff(edges) @ crossed / 2
