"""
Claims as numbers with verdicts, and pages made from the tables: the explorer and the configuration.

Inputs: the tables of the study. Outputs: results/{study}/claims.*, explorer.html, configuration.html.
"""


rule claims:
    """Test every claim on the runs of the study."""
    input:
        **{table: table_files(table) for table in TABLES},
    output:
        table="<results>/claims.parquet",
        markdown="<results>/claims.md",
        html=report(
            "<results>/claims.html",
            caption="../report/claims.rst",
            category="Claims",
            labels={"page": "Claims"},
        ),
    log:
        "<logs>/claims.log",
    benchmark:
        "<benchmarks>/claims.tsv"
    localrule: True
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        study={
            **STUDY.model_dump(include={"study", "toy", "assumptions"}),
            "variants": all_variant_settings(STUDY),
            "warmups": {name: network.recipe.warmup_epochs for name, network in STUDY.networks.items()},
        },
        labels=NETWORK_LABELS,
        code=all_digest("evidence/check_claims", "claim"),
    message:
        "Claims"
    script:
        "../scripts/evidence/check_claims.py"


rule explorer:
    """Networks through training, and the toy model beside its predicted limit, in one HTML file."""
    input:
        **{table: table_files(table) for table in ("trajectory", "losses", "stages", "spectra", "measures", "metrics")},
        claims="<results>/claims.parquet",
    output:
        page="<results>/explorer.html",
    log:
        "<logs>/explorer.log",
    benchmark:
        "<benchmarks>/explorer.tsv"
    localrule: True
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        variants=all_variant_settings(STUDY),
        names=NETWORK_LABELS,
        shown=explorer_start(STUDY),
        template=folder_digest("explorer"),
        code=library_digest("evidence/build_explorer"),
    message:
        "Explorer of the study"
    script:
        "../scripts/evidence/build_explorer.py"


rule configuration:
    """All keys of the configuration, for the report."""
    output:
        html=report(
            "<results>/configuration.html",
            caption="../report/configuration.rst",
            category="Configuration",
            labels={"page": "All keys"},
        ),
    log:
        "<logs>/configuration.log",
    benchmark:
        "<benchmarks>/configuration.tsv"
    localrule: True
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=500,
        runtime=5,
    params:
        configuration=STUDY.model_dump(exclude_none=True),
        code=library_digest("evidence/show_configuration"),
    message:
        "Configuration of the study"
    script:
        "../scripts/evidence/show_configuration.py"
