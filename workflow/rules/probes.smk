"""
Measurements of networks: singular values of their products, rank measures of these, single matrices, and probes of the
models of neighbouring papers.

Inputs: snapshots of the weights. Outputs: results/{study}/networks/, and tables/ with a file for each network.
"""


rule networks:
    """The runs of networks and their spectra."""
    input:
        [path for table in NETWORK_TABLES for path in table_files(table)],


rule compute_spectra:
    """Singular values of every product of a network: initial, trained, of the change, and of random changes."""
    input:
        snapshots="<results>/networks/{network}/alpha_{alpha}/seed_{seed}/snapshots",
    output:
        spectra="<results>/networks/{network}/alpha_{alpha}/seed_{seed}/spectra.parquet",
    log:
        "<logs>/compute_spectra/{network}_alpha_{alpha}_seed_{seed}.log",
    benchmark:
        "<benchmarks>/compute_spectra/{network}_alpha_{alpha}_seed_{seed}.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=library_digest("probes/compute_spectra"),
    message:
        "Spectra: {wildcards.network}, init scale {wildcards.alpha}, seed {wildcards.seed}"
    script:
        "../scripts/probes/compute_spectra.py"


rule collect_network_table:
    """All runs of a network in one table; the folder of a table has a file for each network."""
    input:
        run_parts,
    output:
        table="<results>/tables/{table}/{network}.parquet",
    log:
        "<logs>/collect_table/{table}_{network}.log",
    benchmark:
        "<benchmarks>/collect_table/{table}_{network}.tsv"
    wildcard_constraints:
        table="metrics|spectra",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=3000,
        runtime=10,
    params:
        code=library_digest("probes/collect_table"),
    message:
        "Table of all runs of {wildcards.network}: {wildcards.table}"
    script:
        "../scripts/probes/collect_table.py"


rule measure_spectra:
    """Rank measures and norms, from the singular values of all runs of a network."""
    input:
        spectra="<results>/tables/spectra/{network}.parquet",
    output:
        measures="<results>/tables/measures/{network}.parquet",
    log:
        "<logs>/measure_spectra/{network}.log",
    benchmark:
        "<benchmarks>/measure_spectra/{network}.tsv"
    localrule: True
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        code=all_digest("probes/measure_spectra", "measure"),
    message:
        "Rank measures: {wildcards.network}"
    script:
        "../scripts/probes/measure_spectra.py"


rule measure_matrices:
    """Sizes and ranks of the single matrices of a network, in all its runs."""
    input:
        snapshots=run_snapshots,
    output:
        table="<results>/tables/matrices/{network}.parquet",
    log:
        "<logs>/measure_matrices/{network}.log",
    benchmark:
        "<benchmarks>/measure_matrices/{network}.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=3000,
        runtime=120,
    params:
        runs=lambda wildcards: runs_of(wildcards.network),
        code=library_digest("probes/measure_matrices"),
    message:
        "Matrices of {wildcards.network}"
    script:
        "../scripts/probes/measure_matrices.py"


rule measure_condensation:
    """How the rows of a decoder's matrices align, and how its keys and queries follow a linear system."""
    input:
        snapshots=run_snapshots,
        dataset=packed_files,
    output:
        cosines="<results>/tables/cosines/{network}.parquet",
        key_query="<results>/tables/key_query/{network}.parquet",
    log:
        "<logs>/measure_condensation/{network}.log",
    benchmark:
        "<benchmarks>/measure_condensation/{network}.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        runs=lambda wildcards: runs_of(wildcards.network),
        model=lambda wildcards: STUDY.networks[wildcards.network].model.model_dump(),
        recipe=lambda wildcards: STUDY.networks[wildcards.network].recipe.model_dump(),
        code=model_digest("probes/measure_condensation"),
    message:
        "Condensation of {wildcards.network}"
    script:
        "../scripts/probes/measure_condensation.py"


rule ablate_network:
    """Accuracy of a network of patterns without parts of its weights, and the ranks of its gradients."""
    input:
        snapshots=run_snapshots,
        dataset=packed_files,
    output:
        ablations="<results>/tables/ablations/{network}.parquet",
        gradients="<results>/tables/gradients/{network}.parquet",
    log:
        "<logs>/ablate_network/{network}.log",
    benchmark:
        "<benchmarks>/ablate_network/{network}.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        runs=lambda wildcards: runs_of(wildcards.network),
        model=lambda wildcards: STUDY.networks[wildcards.network].model.model_dump(),
        recipe=lambda wildcards: STUDY.networks[wildcards.network].recipe.model_dump(),
        code=model_digest("probes/ablate_network"),
    message:
        "Ablations of {wildcards.network}"
    script:
        "../scripts/probes/ablate_network.py"
