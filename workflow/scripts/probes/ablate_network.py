"""Rule `ablate_network`: what a network knows without parts of its weights, and the ranks of its gradients."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from rank_increase.data.packed import open_dataset
from rank_increase.jobs import progress, start_job
from rank_increase.probes.ablations import ablations_frame, gradients_frame
from rank_increase.probes.remade import RemadeNetwork
from rank_increase.tables import write_table
from rank_increase.training.snapshots import Snapshots

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(folders, dataset, ablations, gradients, *, runs, model, recipe, extensions, provenance):
    """Write the tables "ablations" and "gradients" of a network."""
    dataset, frames = open_dataset(dataset), {"ablations": [], "gradients": []}
    classes, patterns = len(dataset.manifest["classes"]), dataset.manifest["source"].get("relevant")
    with progress("Ablations", len(runs)) as advance:
        for done, (folder, run) in enumerate(zip(folders, runs, strict=True), 1):
            snapshots = Snapshots(folder)
            of_run = {"alpha": run["alpha"], "seed": run["seed"], "extensions": extensions}
            network = RemadeNetwork(dataset, snapshots, model=model, recipe=recipe, **of_run)
            found = {
                "ablations": ablations_frame(snapshots, network, run["seed"], classes, patterns),
                "gradients": gradients_frame(snapshots, network, recipe["batch_size"]),
            }
            for table, frame in found.items():
                frames[table].append(frame.assign(**run))
            advance(done)
    for path, table in ((ablations, "ablations"), (gradients, "gradients")):
        write_table(path, pd.concat(frames[table], ignore_index=True), table, provenance)


if __name__ == "__main__":
    provenance = start_job(snakemake)
    main(
        snakemake.input.snapshots,
        Path(snakemake.input.dataset[0]).parent,
        snakemake.output.ablations,
        snakemake.output.gradients,
        runs=snakemake.params.runs,
        model=snakemake.params.model,
        recipe=snakemake.params.recipe,
        extensions=tuple(snakemake.config.get("extensions", ())),
        provenance=provenance,
    )
