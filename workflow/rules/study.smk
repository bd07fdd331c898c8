"""
How far a study has come, and room on the disk.

Inputs: the files of the study, as far as there are any. Outputs: none but the log, so these always run.
"""


localrules:
    status,
    clean_scratch,
    clean_snapshots,


rule status:
    """Print runs finished, running, stopped and waiting, and how far each has come."""
    log:
        "<logs>/status.log",
    conda:
        "../../envs/environment.yaml"
    params:
        study=STUDY,
    message:
        "Status of the study {config[study]}"
    script:
        "../scripts/report_status.py"


rule clean_scratch:
    """Delete the state of finished runs, which are trained anew only when their results are asked for anew."""
    log:
        "<logs>/clean_scratch.log",
    conda:
        "../../envs/environment.yaml"
    params:
        study=STUDY,
        snapshots=False,
    message:
        "Deleting scratch of finished runs of the study {config[study]}"
    script:
        "../scripts/clean_study.py"


rule clean_snapshots:
    """Delete that and the snapshots of runs whose spectra are there; a new measure would then train anew."""
    log:
        "<logs>/clean_snapshots.log",
    conda:
        "../../envs/environment.yaml"
    params:
        study=STUDY,
        snapshots=True,
    message:
        "Deleting scratch and snapshots of finished runs of the study {config[study]}"
    script:
        "../scripts/clean_study.py"
