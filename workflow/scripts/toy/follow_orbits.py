"""Rule `follow_orbits`: the constants C_k of Theorem 4.5, from the orbits between the stages of Algorithm 1."""

from typing import TYPE_CHECKING

import numpy as np

from rank_increase.jobs import progress, start_job
from rank_increase.tables import write_table
from rank_increase.toy.diagonal_flow import initial_state
from rank_increase.toy.frames import orbit_frame, read_stages
from rank_increase.toy.orbits import follow_orbits, resolved_from
from rank_increase.toy.problem import Problem
from rank_increase.toy.theorem import activation_levels, middles

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(problem, stages, table, *, max_time, label, provenance):
    """Write a row per stage (schema "orbits")."""
    problem = Problem.load(problem)
    stages = read_stages(stages, problem.shape)
    head, orbits = problem.head(), []
    with progress(label, max(len(stages), 1)) as advance:
        if stages:
            start = initial_state(problem.theta_0, 0.0)
            for orbit in follow_orbits(head, *start, stages, activation_levels(stages)):
                orbits.append(orbit)
                advance(len(orbits))
    times, delays = np.array([stage.time for stage in stages]), np.array([orbit.delay for orbit in orbits])
    bounds = resolved_from(times, delays, middles(times, max_time))
    write_table(table, orbit_frame(orbits, bounds), "orbits", provenance)


if __name__ == "__main__":
    provenance = start_job(snakemake)
    main(
        snakemake.input.problem,
        snakemake.input.stages,
        snakemake.output.orbits,
        max_time=snakemake.params.max_time,
        label=f"orbits, {snakemake.wildcards.variant}, seed {snakemake.wildcards.seed}",
        provenance=provenance,
    )
