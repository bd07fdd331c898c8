"""
All runs of a study in one table per kind.

Inputs: the tables of single runs. Outputs: results/{study}/tables/, which is all that figures read.
"""


rule collect_table:
    """The tables of all runs of one kind, with columns `structure`, `assumption`, `alpha`, `seed` where they differ."""
    input:
        table_parts,
    output:
        table="<results>/tables/{table}.parquet",
    log:
        "<logs>/collect_table/{table}.log",
    benchmark:
        "<benchmarks>/collect_table/{table}.tsv"
    wildcard_constraints:
        table="trajectory|events|stages|theorem|perturbations",
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
