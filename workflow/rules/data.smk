"""
Image datasets, packed.

Inputs: the configuration under `datasets`. Outputs: results/{study}/datasets/, or the folder `data_dir`.
"""


rule prepare_dataset:
    """Pixels and labels of a dataset, and a manifest of where they come from."""
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
        source=dataset_source,
        fingerprint=dataset_fingerprint,
        downloads=f"{DATASETS}/.downloads",
        # An edit of logs or progress must not train anew on the same images.
        code=library_digest("prepare_dataset", without=["jobs"]),
    message:
        "Dataset {wildcards.dataset}"
    script:
        "../scripts/prepare_dataset.py"
