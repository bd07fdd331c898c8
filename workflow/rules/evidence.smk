"""
Each claim of the paper as a number with a verdict; what is published.

Inputs: the tables of the study and the thresholds under `claims`. Outputs: results/{study}/claims.parquet, pages of it, the
page of the configuration that the report has beside it; and results/published/{study}/.
"""


localrules:
    claims,
    configuration,
    publish,


rule claims:
    """Test every claim of the paper on the runs of the study."""
    input:
        **{table: f"<results>/tables/{table}.parquet" for table in TOY_TABLES},
        spectra="<results>/tables/spectra.parquet",
        baselines="<results>/tables/baselines.parquet",
    output:
        table="<results>/claims.parquet",
        markdown="<results>/claims.md",
        html=report(
            "<results>/claims.html",
            caption="../report/claims.rst",
            category="Claims",
            labels={"page": "Claims of the paper"},
        ),
    log:
        "<logs>/claims.log",
    benchmark:
        "<benchmarks>/claims.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        study=config["study"],
        thresholds=config["claims"],
        toy={
            "active": config["toy"]["activation_weight"] ** 2,
            "max_time": config["toy"]["max_time"],
            "movement": config["figures"]["plateau_movement"],
            "speed": config["figures"]["plateau_movement"] / config["assumptions"]["plateaus"]["follow"],
        },
        vit={"alpha": config["figures"]["vit"]["alpha"], "names": trained_datasets()},
        code=library_digest("check_claims"),
    message:
        "Claims of the paper"
    script:
        "../scripts/check_claims.py"


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
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=500,
        runtime=5,
    params:
        configuration=config,
        code=library_digest("show_configuration"),
    message:
        "Configuration of the study"
    script:
        "../scripts/show_configuration.py"


rule publish:
    """Copy what is to be published of the study to results/published/."""
    input:
        tables=published_tables(),
        figures=[path for path in rules.figures.input if path.endswith(".png")],
        pages=["<results>/claims.md", "<results>/explorer.html"],
        claims="<results>/claims.parquet",
    output:
        manifest=f"results/published/{config['study']}/published.json",
    log:
        "<logs>/publish.log",
    benchmark:
        "<benchmarks>/publish.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=3000,
        runtime=10,
    params:
        code=library_digest("publish_study"),
    message:
        "Published results of the study {config[study]}"
    script:
        "../scripts/publish_study.py"
