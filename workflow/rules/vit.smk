"""
Vision transformers (paper, section 5 and Appendix B).

Inputs: packed datasets, the configuration under `vit`. Outputs: results/{study}/vit/.
"""


rule train_vit:
    """One training run: metrics of every epoch, and the attention weights at some."""
    input:
        manifest=f"{DATASETS}/{{dataset}}/manifest.json",
        arrays=packed_files,
    output:
        metrics="<results>/vit/{dataset}/alpha_{alpha}/seed_{seed}/metrics.parquet",
        snapshots=directory("<results>/vit/{dataset}/alpha_{alpha}/seed_{seed}/snapshots"),
    log:
        "<logs>/train_vit/{dataset}_alpha_{alpha}_seed_{seed}.log",
    benchmark:
        "<benchmarks>/train_vit/{dataset}_alpha_{alpha}_seed_{seed}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: run_hardware("threads")
    resources:
        mem_mb=run_hardware("mem_mb"),
        runtime=run_minutes,
        gpu=run_hardware("gpu"),
        processes=run_hardware("processes"),
        # Not params: a change of what the results do not depend on would train anew.
        pass_size=run_hardware("pass_size"),
        checkpoint_minutes=config["vit"]["checkpoint_minutes"],
        # Not an output: Snakemake deletes the outputs of a job that failed, and this is what the next attempt needs.
        scratch_dir=SCRATCH,
    params:
        model=run_model,
        training=run_training,
        # A new table, a new metric of another rule or a new message must not train for days.
        code=library_digest("train_vit", without=["disk", "jobs", "ownership", "slurm", "study", "tables"]),
    message:
        "ViT on {wildcards.dataset}, init scale {wildcards.alpha}, seed {wildcards.seed}"
    script:
        "../scripts/train_vit.py"
