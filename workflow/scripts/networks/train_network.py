"""Rule `train_network`: train a network from one init scale; an interrupted run resumes."""

from pathlib import Path
from typing import TYPE_CHECKING

from rank_increase.jobs import start_job
from rank_increase.ownership import owned
from rank_increase.study.slurm import requeue_if_preempted
from rank_increase.study.status import compiled_folder, scratch_folder
from rank_increase.tables import write_table
from rank_increase.training.loop import Job
from rank_increase.training.processes import device_name, process_count, train
from rank_increase.training.recipe import Recipe
from rank_increase.training.results import finished_metrics, prune_checkpoints, publish_snapshots

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(metrics, snapshots, *, job, processes, provenance, nodes=1):
    """Write metrics (schema "metrics") and the snapshots folder of a run; its scratch folder keeps both."""
    try:
        with owned(job.scratch, job.label) as ownership:
            train(job, ownership, processes, nodes)
            publish_snapshots(job, ownership, snapshots)
            ownership.check()
            write_table(metrics, finished_metrics(job), "metrics", {**provenance, "device": device_name()})
            prune_checkpoints(job)
    except BaseException:
        requeue_if_preempted()
        raise


if __name__ == "__main__":
    provenance = start_job(snakemake)
    params, wildcards, resources = snakemake.params, snakemake.wildcards, snakemake.resources
    processes = process_count(resources.gpu // resources.nodes, resources.processes)  # on each node
    job = Job(
        dataset=str(Path(snakemake.input.dataset[0]).parent),
        scratch=str(scratch_folder(resources.scratch_dir, **dict(wildcards.items()))),
        model=params.model,
        recipe=Recipe(**params.recipe),
        alpha=float(wildcards.alpha),
        seed=int(wildcards.seed),
        code=params.code,
        checkpoint_minutes=resources.checkpoint_minutes,
        pass_size=resources.pass_size,
        threads=max(1, snakemake.threads // processes),
        label=f"{wildcards.network}, alpha = {wildcards.alpha}, seed {wildcards.seed}",
        extensions=tuple(snakemake.config.get("extensions", ())),
        log=snakemake.log[0],
        compiled=str(compiled_folder(resources.scratch_dir)),
    )
    outputs = snakemake.output.metrics, snakemake.output.snapshots
    main(*outputs, job=job, processes=processes, nodes=resources.nodes, provenance=provenance)
