"""
All runs of a study in one table per kind, and all runs on a dataset.

Inputs: the tables of single runs. Outputs: results/{study}/tables/, which is all that figures read.
"""


localrules:
    collect_table,
    collect_dataset_table,


rule collect_table:
    """All runs in one table, with columns such as `structure`, `dataset`, `alpha`, `seed` that say which they are."""
    input:
        table_parts,
    output:
        table="<results>/tables/{table}.parquet",
    log:
        "<logs>/collect_table/{table}.log",
    benchmark:
        "<benchmarks>/collect_table/{table}.tsv"
    wildcard_constraints:
        table="trajectory|events|conservation|stages|theorem|perturbations|metrics|spectra|baselines",
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=3000,
        runtime=10,
    params:
        code=library_digest("collect_table"),
    message:
        "Table of all runs: {wildcards.table}"
    script:
        "../scripts/collect_table.py"


use rule collect_table as collect_dataset_table with:
    # Figures read these, so that those of one dataset do not wait for runs on the others.
    input:
        dataset_table_parts,
    output:
        table="<results>/tables/{dataset}/{table}.parquet",
    log:
        "<logs>/collect_table/{dataset}_{table}.log",
    benchmark:
        "<benchmarks>/collect_table/{dataset}_{table}.tsv"
    wildcard_constraints:
        table="metrics|spectra|baselines",
    message:
        "Table of all runs on {wildcards.dataset}: {wildcards.table}"
