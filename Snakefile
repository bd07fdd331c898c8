# Reproduces "Transformers learn through gradual rank increase" (arXiv 2306.07042); config/README.md lists the options.
from snakemake.utils import min_version

min_version("9.27")


configfile: f"{workflow.basedir}/config/config.yaml"


report: "workflow/report/workflow.rst"


pathvars:
    results=f"results/{config['study']}",
    logs=f"results/{config['study']}/logs",
    benchmarks=f"results/{config['study']}/benchmarks",


include: "workflow/rules/common.smk"
include: "workflow/rules/toy.smk"
include: "workflow/rules/assumptions.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/vit.smk"
include: "workflow/rules/spectra.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/vit_figures.smk"
include: "workflow/rules/explorer.smk"
include: "workflow/rules/evidence.smk"
include: "workflow/rules/plan.smk"
include: "workflow/rules/study.smk"


wildcard_constraints:
    structure=r"[A-Za-z0-9_-]+",
    dataset=r"[A-Za-z0-9_-]+",
    alpha=r"[0-9.]+(e-?[0-9]+)?",
    seed=r"[0-9]+",


rule all:
    """Every figure and table of the study, and its claims."""
    default_target: True
    input:
        rules.toy.input,
        rules.assumptions.input,
        rules.vit.input,
        rules.figures.input,
        rules.explorer.output,
        rules.claims.output,
        rules.configuration.output,
    message:
        "All figures and tables are there"


onstart:
    prefer_own_squeue()


onsuccess:
    print(outcome())


onerror:
    print(describe_failures(log))
