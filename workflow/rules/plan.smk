"""
What a study will cost.

Inputs: the configuration, and benchmark files where there are some. Outputs: none but the log, so it always runs.
"""


localrules:
    plan,


rule plan:
    """Print jobs, GPU-hours and disk of the study; after a run, predicted against measured hours."""
    log:
        "<logs>/plan.log",
    conda:
        "../../envs/environment.yaml"
    params:
        study=config,
        datasets=DATASETS,
        benchmarks=f"{RESULTS}/benchmarks",
    message:
        "Plan of the study {config[study]}"
    script:
        "../scripts/plan_study.py"
