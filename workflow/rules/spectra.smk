"""
Spectra of the attention products of vision transformers.

Inputs: snapshots of the weights. Outputs: results/{study}/vit/.../spectra.parquet and baselines.parquet.
"""


rule compute_spectra:
    """Singular values and rank measures of W_K W_Q^T and W_V W_O^T of every head: initial, trained, and the change."""
    input:
        snapshots="<results>/vit/{dataset}/alpha_{alpha}/seed_{seed}/snapshots",
        metrics="<results>/vit/{dataset}/alpha_{alpha}/seed_{seed}/metrics.parquet",
    output:
        spectra="<results>/vit/{dataset}/alpha_{alpha}/seed_{seed}/spectra.parquet",
    log:
        "<logs>/compute_spectra/{dataset}_alpha_{alpha}_seed_{seed}.log",
    benchmark:
        "<benchmarks>/compute_spectra/{dataset}_alpha_{alpha}_seed_{seed}.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=library_digest("compute_spectra"),
    message:
        "Spectra: ViT on {wildcards.dataset}, init scale {wildcards.alpha}, seed {wildcards.seed}"
    script:
        "../scripts/compute_spectra.py"


rule compute_baselines:
    """The same measures for random changes as large as those of training."""
    input:
        snapshots="<results>/vit/{dataset}/alpha_{alpha}/seed_{seed}/snapshots",
        spectra="<results>/vit/{dataset}/alpha_{alpha}/seed_{seed}/spectra.parquet",
    output:
        baselines="<results>/vit/{dataset}/alpha_{alpha}/seed_{seed}/baselines.parquet",
    log:
        "<logs>/compute_baselines/{dataset}_alpha_{alpha}_seed_{seed}.log",
    benchmark:
        "<benchmarks>/compute_baselines/{dataset}_alpha_{alpha}_seed_{seed}.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=library_digest("compute_baselines"),
    message:
        "Baselines: ViT on {wildcards.dataset}, init scale {wildcards.alpha}, seed {wildcards.seed}"
    script:
        "../scripts/compute_baselines.py"
