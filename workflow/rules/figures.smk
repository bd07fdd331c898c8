"""
Figures of the toy half of the paper, and of Algorithm 1 and Theorem 4.5 against it.

Inputs: the tables of the study, and nothing else. Outputs: results/{study}/figures/, each figure as PDF and as PNG.
"""


localrules:
    fig02,
    fig06,
    fig07,
    fig08,
    fig09,
    fig10,
    fig_dense,
    fig_limit,
    fig_stage_times,


rule figures:
    """All figures, those of vision transformers that the study draws among them."""
    input:
        expand(
            "<results>/figures/{figure}.{format}",
            figure=[
                *("fig02", "fig06", "fig07", "fig08", "fig09", "fig10", "fig_dense", "fig_limit", "fig_stage_times"),
                *config["figures"]["vit"]["datasets"],
            ],
            format=["pdf", "png"],
        ),


rule fig02:
    """Products and loss of diagonal and of full weights (paper, Figure 2)."""
    input:
        trajectory="<results>/tables/trajectory.parquet",
        stages="<results>/tables/stages.parquet",
    output:
        pdf="<results>/figures/fig02.pdf",
        png=report(
            "<results>/figures/fig02.png",
            caption="../report/fig02.rst",
            category="Toy model",
            labels={"figure": "Figure 02"},
        ),
    log:
        "<logs>/fig02.log",
    benchmark:
        "<benchmarks>/fig02.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        rows=[
            {
                "structure": structure,
                "alpha": config["figures"][f"fig02_{structure}_alpha"],
                **config["toy"]["structures"][structure],
            }
            for structure in ("diagonal", "full")
        ],
        seed=config["toy"]["headline_seed"],
        dpi=config["figures"]["dpi"],
        code=library_digest("plot_rank_increase"),
    message:
        "Figure 2: diagonal and full weights"
    script:
        "../scripts/plot_rank_increase.py"


rule fig06:
    """Loss for every alpha (paper, Figure 6)."""
    input:
        trajectory="<results>/tables/trajectory.parquet",
    output:
        pdf="<results>/figures/fig06.pdf",
        png=report(
            "<results>/figures/fig06.png",
            caption="../report/fig06.rst",
            category="Toy model",
            labels={"figure": "Figure 06"},
        ),
    log:
        "<logs>/fig06.log",
    benchmark:
        "<benchmarks>/fig06.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        alphas=config["figures"]["alphas"],
        seed=config["toy"]["headline_seed"],
        dpi=config["figures"]["dpi"],
        code=library_digest("plot_losses"),
    message:
        "Figure 6: loss for every alpha"
    script:
        "../scripts/plot_losses.py"


rule fig07:
    """Diagonal entries of W_K W_Q^T for every alpha (paper, Figure 7)."""
    input:
        trajectory="<results>/tables/trajectory.parquet",
        stages="<results>/tables/stages.parquet",
    output:
        pdf="<results>/figures/fig07.pdf",
        png=report(
            "<results>/figures/fig07.png",
            caption="../report/fig07.rst",
            category="Toy model",
            labels={"figure": "Figure 07"},
        ),
    log:
        "<logs>/fig07.log",
    benchmark:
        "<benchmarks>/fig07.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        product="KQ",
        alphas=config["figures"]["alphas"],
        seed=config["toy"]["headline_seed"],
        dpi=config["figures"]["dpi"],
        code=library_digest("plot_entries"),
    message:
        "Figure 7: entries of W_K W_Q^T"
    script:
        "../scripts/plot_entries.py"


use rule fig07 as fig08 with:
    """Diagonal entries of W_V W_O^T for every alpha (paper, Figure 8)."""
    output:
        pdf="<results>/figures/fig08.pdf",
        png=report(
            "<results>/figures/fig08.png",
            caption="../report/fig08.rst",
            category="Toy model",
            labels={"figure": "Figure 08"},
        ),
    log:
        "<logs>/fig08.log",
    benchmark:
        "<benchmarks>/fig08.tsv"
    params:
        product="VO",
    message:
        "Figure 8: entries of W_V W_O^T"


rule fig09:
    """Perturbation runs that test Assumption 4.3 (paper, Figure 9)."""
    input:
        perturbations="<results>/tables/perturbations.parquet",
        stages="<results>/tables/stages.parquet",
    output:
        pdf="<results>/figures/fig09.pdf",
        png=report(
            "<results>/figures/fig09.png",
            caption="../report/fig09.rst",
            category="Toy model",
            labels={"figure": "Figure 09"},
        ),
    log:
        "<logs>/fig09.log",
    benchmark:
        "<benchmarks>/fig09.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        assumption="plateaus",
        seed=config["toy"]["headline_seed"],
        movement=config["figures"]["plateau_movement"],
        follow=config["assumptions"]["plateaus"]["follow"],
        dpi=config["figures"]["dpi"],
        code=library_digest("plot_perturbations"),
    message:
        "Figure 9: perturbations at random moments"
    script:
        "../scripts/plot_perturbations.py"


use rule fig09 as fig10 with:
    """Perturbation runs that test Assumption 4.4 (paper, Figure 10)."""
    output:
        pdf="<results>/figures/fig10.pdf",
        png=report(
            "<results>/figures/fig10.png",
            caption="../report/fig10.rst",
            category="Toy model",
            labels={"figure": "Figure 10"},
        ),
    log:
        "<logs>/fig10.log",
    benchmark:
        "<benchmarks>/fig10.tsv"
    params:
        assumption="activations",
    message:
        "Figure 10: perturbations at activations"


use rule fig02 as fig_dense with:
    """Full weights under a teacher with spread and one with crowded singular values (not in the paper)."""
    output:
        pdf="<results>/figures/fig_dense.pdf",
        png=report(
            "<results>/figures/fig_dense.png",
            caption="../report/fig_dense.rst",
            category="Toy model",
            labels={"figure": "Ours: dense teacher"},
        ),
    log:
        "<logs>/fig_dense.log",
    benchmark:
        "<benchmarks>/fig_dense.tsv"
    params:
        rows=[
            {**run, **config["toy"]["structures"][run["structure"]]}
            for run in TOY_RUNS
            if run["structure"] in ("full", "full_dense")
            if run["alpha"] == config["figures"]["fig02_full_alpha"]
            if run["seed"] == config["toy"]["headline_seed"]
        ],
    message:
        "Full weights, spread and crowded teacher"


rule fig_limit:
    """Loss for every alpha against the limit that Algorithm 1 predicts (not in the paper)."""
    input:
        trajectory="<results>/tables/trajectory.parquet",
        stages="<results>/tables/stages.parquet",
    output:
        pdf="<results>/figures/fig_limit.pdf",
        png=report(
            "<results>/figures/fig_limit.png",
            caption="../report/fig_limit.rst",
            category="Toy model",
            labels={"figure": "Ours: limit of the loss"},
        ),
    log:
        "<logs>/fig_limit.log",
    benchmark:
        "<benchmarks>/fig_limit.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        seed=config["toy"]["headline_seed"],
        dpi=config["figures"]["dpi"],
        code=library_digest("plot_limit"),
    message:
        "Loss against its limit"
    script:
        "../scripts/plot_limit.py"


rule fig_stage_times:
    """Predicted and measured stage times for every alpha and seed (not in the paper)."""
    input:
        theorem="<results>/tables/theorem.parquet",
    output:
        pdf="<results>/figures/fig_stage_times.pdf",
        png=report(
            "<results>/figures/fig_stage_times.png",
            caption="../report/fig_stage_times.rst",
            category="Toy model",
            labels={"figure": "Ours: stage times"},
        ),
    log:
        "<logs>/fig_stage_times.log",
    benchmark:
        "<benchmarks>/fig_stage_times.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        max_time=config["toy"]["max_time"],
        dpi=config["figures"]["dpi"],
        code=library_digest("plot_stage_times"),
    message:
        "Stage times, predicted and measured"
    script:
        "../scripts/plot_stage_times.py"
