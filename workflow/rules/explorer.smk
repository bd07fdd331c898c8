"""
A page in which the tables of a study are turned over with sliders.

Inputs: the tables of the study. Outputs: results/{study}/explorer.html, which needs no other file and no connection.
"""


localrules:
    explorer,


rule explorer:
    """Spectra of vision transformers through training, and the toy model beside its predicted limit, in one HTML file."""
    input:
        trajectory="<results>/tables/trajectory.parquet",
        stages="<results>/tables/stages.parquet",
        spectra="<results>/tables/spectra.parquet",
        baselines="<results>/tables/baselines.parquet",
        metrics="<results>/tables/metrics.parquet",
        claims="<results>/claims.parquet",
    output:
        page="<results>/explorer.html",
    log:
        "<logs>/explorer.log",
    benchmark:
        "<benchmarks>/explorer.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        structures=config["toy"]["structures"],
        names=config["figures"]["vit"]["names"],
        shown={
            "scale": config["figures"]["vit"]["alpha"],
            "seed": config["figures"]["vit"]["seed"],
            "alpha": config["figures"]["fig02_diagonal_alpha"],
            "problem": config["toy"]["headline_seed"],
        },
        template=folder_digest("explorer"),
        code=library_digest("build_explorer"),
    message:
        "Explorer of the study"
    script:
        "../scripts/build_explorer.py"
