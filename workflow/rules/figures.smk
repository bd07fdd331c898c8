"""
Figures of the paper and ours, by id. A figure is a script in scripts/figures/, which says which tables it reads.

Inputs: the tables of the study, and nothing else. Outputs: results/{study}/figures/, each figure as PDF and as PNG.
"""


rule figures:
    """All figures of the study."""
    input:
        expand("<results>/figures/{figure}.{format}", figure=FIGURES, format=["pdf", "png"]),


rule figure:
    """A figure, by its script."""
    input:
        unpack(figure_tables),
    output:
        pdf="<results>/figures/{figure}.pdf",
        png=report(
            "<results>/figures/{figure}.png",
            caption="../report/figure.rst",
            category=lambda wildcards: FIGURES[wildcards.figure].details["category"],
            labels=lambda wildcards: {"figure": FIGURES[wildcards.figure].details["title"]},
        ),
    log:
        "<logs>/figures/{figure}.log",
    benchmark:
        "<benchmarks>/figures/{figure}.tsv"
    wildcard_constraints:
        figure="|".join(FIGURES) or "none",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        options=lambda wildcards: figure_options(STUDY, FIGURES[wildcards.figure]),
        labels=NETWORK_LABELS,
        caption=lambda wildcards: FIGURES[wildcards.figure].caption,
        dpi=STUDY.figures.dpi,
        script=lambda wildcards: os.path.relpath(FIGURES[wildcards.figure].path, RULES),
        code=lambda wildcards: library_digest(FIGURES[wildcards.figure].path),
    message:
        "Figure {wildcards.figure}"
    script:
        "{params.script}"


for name in FIGURES:

    rule:
        name:
            name
        input:
            expand("<results>/figures/{figure}.{format}", figure=name, format=["pdf", "png"]),


for name, entry in FIGURES.items():
    workflow.get_rule(workflow.modifier.modify_rulename(name)).docstring = entry.summary
