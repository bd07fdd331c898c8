"""Rule `import_checkpoints`: checkpoints of a run that was trained elsewhere, checked and written as snapshots."""

from functools import partial
from typing import TYPE_CHECKING

from rank_increase.data.series import checkpoint_files
from rank_increase.jobs import progress, start_job
from rank_increase.registry import find
from rank_increase.tables import write_table
from rank_increase.training.importing import import_checkpoints

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(checkpoints, snapshots, *, files, model, steps_per_epoch, label, extensions, provenance):
    """Write the snapshots, and a row for each checkpoint (schema "checkpoints")."""
    options = {key: value for key, value in model.items() if key != "family"}
    adapter = partial(find("adapter", model["family"], extensions).load(), **options)
    with progress(label, max(1, len(files))) as advance:
        frame = import_checkpoints(files, adapter, snapshots, steps_per_epoch=steps_per_epoch, advance=advance)
    write_table(checkpoints, frame, "checkpoints", provenance)


if __name__ == "__main__":
    provenance = start_job(snakemake)
    params, wildcards = snakemake.params, snakemake.wildcards
    main(
        snakemake.output.checkpoints,
        snakemake.output.snapshots,
        files=checkpoint_files(params.files, int(wildcards.seed)),
        model=params.model,
        steps_per_epoch=params.steps_per_epoch,
        label=f"importing {wildcards.network}, seed {wildcards.seed}",
        extensions=tuple(snakemake.config.get("extensions", ())),
        provenance=provenance,
    )
