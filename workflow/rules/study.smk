"""
The study as a whole: what it will cost, how far it has come, room on the disk, and what of it is published.

Inputs: the configuration, and the files of the study as far as there are any. Outputs: results/published/{study}/; of the
others none but the log, so they always run.
"""


rule plan:
    """Print jobs, hours and disk of the study; after a run, predicted against measured hours."""
    log:
        "<logs>/plan.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    params:
        study=config,
        folders=FOLDERS,
    message:
        f"Plan of the study {STUDY.study}"
    script:
        "../scripts/study/plan_study.py"


rule status:
    """Print runs finished, running, stopped and waiting, and how far each has come."""
    log:
        "<logs>/status.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    params:
        study=config,
        folders=FOLDERS,
    message:
        f"Status of the study {STUDY.study}"
    script:
        "../scripts/study/report_status.py"


rule clean_scratch:
    """Delete the state of finished runs, which are trained anew only when their results are asked for anew."""
    log:
        "<logs>/clean_scratch.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    params:
        study=config,
        folders=FOLDERS,
        snapshots=False,
    message:
        f"Deleting scratch of finished runs of the study {STUDY.study}"
    script:
        "../scripts/study/clean_study.py"


rule clean_snapshots:
    """Delete that and the snapshots of runs whose spectra are there; a new probe would then train anew."""
    log:
        "<logs>/clean_snapshots.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    params:
        study=config,
        folders=FOLDERS,
        snapshots=True,
    message:
        f"Deleting scratch and snapshots of finished runs of the study {STUDY.study}"
    script:
        "../scripts/study/clean_study.py"


rule publish:
    """Copy what is to be published of the study to results/published/."""
    input:
        tables=[path for table in TABLES for path in table_files(table)],
        figures=[f"<results>/figures/{figure}.png" for figure in FIGURES],
        pages=["<results>/claims.md", "<results>/explorer.html"],
        claims="<results>/claims.parquet",
    output:
        manifest=f"results/published/{STUDY.study}/published.json",
    log:
        "<logs>/publish.log",
    benchmark:
        "<benchmarks>/publish.tsv"
    localrule: True
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=3000,
        runtime=10,
    params:
        code=library_digest("study/publish_study"),
    message:
        f"Published results of the study {STUDY.study}"
    script:
        "../scripts/study/publish_study.py"
