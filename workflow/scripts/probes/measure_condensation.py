"""Rule `measure_condensation`: rows of a decoder that align, and keys and queries against a linear system."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from rank_increase.data.packed import open_dataset
from rank_increase.jobs import progress, start_job
from rank_increase.probes.condensation import cosines_frame, key_query_frame
from rank_increase.probes.remade import RemadeNetwork
from rank_increase.tables import SCHEMAS, write_table
from rank_increase.training.snapshots import Snapshots

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(folders, dataset, cosines, key_query, *, runs, model, recipe, extensions, provenance):
    """Write the tables "cosines" and "key_query" of a network; the latter of one layer and head, trained by SGD."""
    dataset, frames = open_dataset(dataset), {"cosines": [], "key_query": []}
    plain = recipe["optimizer"]["name"] == "sgd" and recipe["decay"] == "none" and not recipe["warmup_epochs"]
    linear = plain and model["depth"] == model["heads"] == 1
    with progress("Condensation", len(runs)) as advance:
        for done, (folder, run) in enumerate(zip(folders, runs, strict=True), 1):
            snapshots = Snapshots(folder)
            frames["cosines"].append(cosines_frame(snapshots).assign(**run))
            if linear:
                of_run = {"alpha": run["alpha"], "seed": run["seed"], "extensions": extensions}
                network = RemadeNetwork(dataset, snapshots, model=model, recipe=recipe, **of_run)
                frame = key_query_frame(snapshots, network, recipe["learning_rate"])
                if frame is not None:
                    frames["key_query"].append(frame.assign(**run))
            advance(done)
    for path, table in ((cosines, "cosines"), (key_query, "key_query")):
        found = frames[table]
        rows = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=SCHEMAS[table].names)
        write_table(path, rows, table, provenance)


if __name__ == "__main__":
    provenance = start_job(snakemake)
    main(
        snakemake.input.snapshots,
        Path(snakemake.input.dataset[0]).parent,
        snakemake.output.cosines,
        snakemake.output.key_query,
        runs=snakemake.params.runs,
        model=snakemake.params.model,
        recipe=snakemake.params.recipe,
        extensions=tuple(snakemake.config.get("extensions", ())),
        provenance=provenance,
    )
