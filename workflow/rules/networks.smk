"""
Networks (paper, section 5 and Appendix B): their datasets, packed, and their training, or checkpoints of others.

Inputs: the configuration under `datasets`, `networks` and `checkpoints`. Outputs: results/{study}/datasets/, or the folder `data_dir`,
and results/{study}/networks/.
"""


rule prepare_dataset:
    """Samples and labels of a dataset, and a manifest of where they come from."""
    output:
        manifest=shared(f"{DATASETS}/{{dataset}}/manifest.json"),
        arrays=[f"{DATASETS}/{{dataset}}/{name}" for name in DECLARED_ARRAYS],
    log:
        "<logs>/prepare_dataset/{dataset}.log",
    benchmark:
        "<benchmarks>/prepare_dataset/{dataset}.tsv"
    wildcard_constraints:
        dataset=datasets_to_pack(),
    conda:
        "../../envs/environment.yaml"
    threads: 16
    resources:
        mem_mb=4000,
        runtime=720,
    params:
        source=lambda wildcards: STUDY.datasets[wildcards.dataset].model_dump(),
        fingerprint=lambda wildcards: fingerprint(wildcards.dataset),
        downloads=f"{DATASETS}/.downloads",
        code=source_digest,
    message:
        "Dataset {wildcards.dataset}"
    script:
        "../scripts/networks/prepare_dataset.py"


rule train_network:
    """One training run: metrics of every epoch, and weights at some steps."""
    input:
        dataset=packed_files,
    output:
        metrics="<results>/networks/{network}/alpha_{alpha}/seed_{seed}/metrics.parquet",
        snapshots=directory("<results>/networks/{network}/alpha_{alpha}/seed_{seed}/snapshots"),
    log:
        "<logs>/train_network/{network}_alpha_{alpha}_seed_{seed}.log",
    benchmark:
        "<benchmarks>/train_network/{network}_alpha_{alpha}_seed_{seed}.tsv"
    wildcard_constraints:
        network=one_of(STUDY.networks),
    conda:
        "../../envs/environment.yaml"
    threads: hardware("threads")
    resources:
        mem_mb=hardware("mem_mb"),
        runtime=lambda wildcards, attempt: attempt * STUDY.networks[wildcards.network].hardware.runtime,
        gpu=hardware("gpu"),
        gpu_model=hardware("gpu_model"),
        nodes=hardware("nodes"),
        processes=hardware("processes"),
        # Not params: the results do not depend on these, and a change must not trigger training.
        pass_size=hardware("pass_size"),
        checkpoint_minutes=STUDY.checkpoint_minutes,
        # Not an output: Snakemake deletes outputs of a failed job, and the next attempt needs this folder.
        scratch_dir=SCRATCH,
    params:
        model=lambda wildcards: STUDY.networks[wildcards.network].model.model_dump(),
        recipe=lambda wildcards: STUDY.networks[wildcards.network].recipe.model_dump(),
        code=training_digest,
    message:
        "Network {wildcards.network}, init scale {wildcards.alpha}, seed {wildcards.seed}"
    script:
        "../scripts/networks/train_network.py"


rule import_checkpoints:
    """Weights of a run that was trained elsewhere, at all its steps, and a table of where they come from."""
    output:
        checkpoints="<results>/networks/{network}/alpha_1/seed_{seed}/checkpoints.parquet",
        snapshots=directory("<results>/networks/{network}/alpha_1/seed_{seed}/snapshots"),
    log:
        "<logs>/import_checkpoints/{network}_seed_{seed}.log",
    benchmark:
        "<benchmarks>/import_checkpoints/{network}_seed_{seed}.tsv"
    wildcard_constraints:
        network=one_of(networks_to_import()),
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        files=lambda wildcards: STUDY.checkpoints[wildcards.network].files,
        model=lambda wildcards: STUDY.checkpoints[wildcards.network].model.model_dump(),
        steps_per_epoch=lambda wildcards: STUDY.checkpoints[wildcards.network].steps_per_epoch,
        fingerprint=lambda wildcards: checkpoints_fingerprint(wildcards.network, int(wildcards.seed)),
        code=import_digest,
    message:
        "Checkpoints of {wildcards.network}, seed {wildcards.seed}"
    script:
        "../scripts/networks/import_checkpoints.py"
