"""Rule `train_vit`: a vision transformer trained from one init scale; goes on where a killed attempt was."""

from pathlib import Path
from typing import TYPE_CHECKING

from rank_increase.jobs import start_job
from rank_increase.slurm import requeue_if_preempted
from rank_increase.tables import write_table
from rank_increase.training import (
    Job,
    Recipe,
    clear_scratch,
    device_name,
    finished_metrics,
    process_count,
    publish_snapshots,
    train,
)

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(metrics, snapshots, *, job, gpus, provenance):
    """Write metrics (schema "metrics") and the folder of snapshots of a run, then delete its scratch folder."""
    try:
        train(job, process_count(gpus))
    except BaseException:
        requeue_if_preempted()
        raise
    publish_snapshots(job, snapshots)
    write_table(metrics, finished_metrics(job), "metrics", {**provenance, "device": device_name()})
    clear_scratch(job)


if __name__ == "__main__":
    provenance = start_job(snakemake)
    params, wildcards = snakemake.params, snakemake.wildcards
    job = Job(
        dataset=str(Path(snakemake.input.manifest).parent),
        scratch=params.scratch,
        model=params.model,
        recipe=Recipe(**params.training),
        alpha=float(wildcards.alpha),
        seed=int(wildcards.seed),
        code=params.code,
        checkpoint_minutes=snakemake.resources.checkpoint_minutes,
        pass_size=snakemake.resources.pass_size,
        threads=snakemake.threads,
        label=f"ViT on {wildcards.dataset}, alpha = {wildcards.alpha}, seed {wildcards.seed}",
        log=snakemake.log[0],
    )
    main(
        snakemake.output.metrics,
        snakemake.output.snapshots,
        job=job,
        gpus=snakemake.resources.gpu,
        provenance=provenance,
    )
