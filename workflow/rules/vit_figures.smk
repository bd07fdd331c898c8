"""
Figures of vision transformers (paper, section 5 and Appendix B).

Inputs: the tables of the datasets that they show. Outputs: results/{study}/figures/, each as PDF and as PNG.
"""


localrules:
    fig01,
    fig03,
    fig04,
    fig05,
    fig11,
    fig12,
    fig13,
    fig14,
    fig15,
    fig16,


rule vit:
    """Tables and figures of vision transformers."""
    input:
        expand("<results>/tables/{table}.parquet", table=["metrics", "spectra", "baselines"]),
        expand(
            "<results>/figures/{figure}.{format}", figure=config["figures"]["vit"]["datasets"], format=["pdf", "png"]
        ),


rule fig01:
    """Normalized spectra of a head, initial and of the change by training (paper, Figure 1)."""
    input:
        spectra=figure_tables("fig01", "spectra"),
        baselines=figure_tables("fig01", "baselines"),
    output:
        pdf="<results>/figures/fig01.pdf",
        png=report(
            "<results>/figures/fig01.png",
            caption="../report/fig01.rst",
            category="Vision transformers",
            labels={"figure": "Figure 01"},
        ),
    log:
        "<logs>/fig01.log",
    benchmark:
        "<benchmarks>/fig01.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        names=figure_names("fig01"),
        layers=[1],
        draw=config["figures"]["vit"]["draw"],
        alpha=config["figures"]["vit"]["alpha"],
        seed=config["figures"]["vit"]["seed"],
        dpi=config["figures"]["dpi"],
        code=library_digest("plot_head_spectra"),
    message:
        "Figure 1: {params.names}"
    script:
        "../scripts/plot_head_spectra.py"


rule fig03:
    """Singular values of the change of a head over training, for several init scales (paper, Figure 3)."""
    input:
        spectra=figure_tables("fig03", "spectra"),
    output:
        pdf="<results>/figures/fig03.pdf",
        png=report(
            "<results>/figures/fig03.png",
            caption="../report/fig03.rst",
            category="Vision transformers",
            labels={"figure": "Figure 03"},
        ),
    log:
        "<logs>/fig03.log",
    benchmark:
        "<benchmarks>/fig03.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        names=figure_names("fig03"),
        layers=[1],
        draw=config["figures"]["vit"]["draw"],
        alphas=config["figures"]["vit"]["fig03_alphas"],
        seed=config["figures"]["vit"]["seed"],
        dpi=config["figures"]["dpi"],
        code=library_digest("plot_singular_values"),
    message:
        "Figure 3: {params.names}"
    script:
        "../scripts/plot_singular_values.py"


rule fig04:
    """Stable rank of the change against init scale (paper, Figure 4)."""
    input:
        spectra=figure_tables("fig04", "spectra"),
        baselines=figure_tables("fig04", "baselines"),
    output:
        pdf="<results>/figures/fig04.pdf",
        png=report(
            "<results>/figures/fig04.png",
            caption="../report/fig04.rst",
            category="Vision transformers",
            labels={"figure": "Figure 04"},
        ),
    log:
        "<logs>/fig04.log",
    benchmark:
        "<benchmarks>/fig04.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        names=figure_names("fig04"),
        layers=[0, 2, 4],
        dpi=config["figures"]["dpi"],
        code=library_digest("plot_scales"),
    message:
        "Figure 4: {params.names}"
    script:
        "../scripts/plot_scales.py"


rule fig05:
    """Spectra of the change and of the initial product, for several heads (paper, Figure 5)."""
    input:
        spectra=figure_tables("fig05", "spectra"),
        baselines=figure_tables("fig05", "baselines"),
    output:
        pdf="<results>/figures/fig05.pdf",
        png=report(
            "<results>/figures/fig05.png",
            caption="../report/fig05.rst",
            category="Vision transformers",
            labels={"figure": "Figure 05"},
        ),
    log:
        "<logs>/fig05.log",
    benchmark:
        "<benchmarks>/fig05.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        names=figure_names("fig05"),
        layers=[0, 1, 2, 3, 4, 5],
        draw=config["figures"]["vit"]["draw"],
        alpha=config["figures"]["vit"]["alpha"],
        seed=config["figures"]["vit"]["seed"],
        dpi=config["figures"]["dpi"],
        code=library_digest("plot_perturbation"),
    message:
        "Figure 5: {params.names}"
    script:
        "../scripts/plot_perturbation.py"


rule fig11:
    """Normalized spectra at stages of training (paper, Figure 11)."""
    input:
        spectra=figure_tables("fig11", "spectra"),
        baselines=figure_tables("fig11", "baselines"),
    output:
        pdf="<results>/figures/fig11.pdf",
        png=report(
            "<results>/figures/fig11.png",
            caption="../report/fig11.rst",
            category="Vision transformers",
            labels={"figure": "Figure 11"},
        ),
    log:
        "<logs>/fig11.log",
    benchmark:
        "<benchmarks>/fig11.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        names=figure_names("fig11"),
        layers=[0, 2, 4],
        draw=config["figures"]["vit"]["draw"],
        alpha=config["figures"]["vit"]["alpha"],
        seed=config["figures"]["vit"]["seed"],
        dpi=config["figures"]["dpi"],
        code=library_digest("plot_stages"),
    message:
        "Figure 11: {params.names}"
    script:
        "../scripts/plot_stages.py"


rule fig12:
    """Stable rank of the change over training (paper, Figure 12)."""
    input:
        spectra=figure_tables("fig12", "spectra"),
        baselines=figure_tables("fig12", "baselines"),
    output:
        pdf="<results>/figures/fig12.pdf",
        png=report(
            "<results>/figures/fig12.png",
            caption="../report/fig12.rst",
            category="Vision transformers",
            labels={"figure": "Figure 12"},
        ),
    log:
        "<logs>/fig12.log",
    benchmark:
        "<benchmarks>/fig12.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        names=figure_names("fig12"),
        alpha=config["figures"]["vit"]["alpha"],
        seed=config["figures"]["vit"]["seed"],
        dpi=config["figures"]["dpi"],
        code=library_digest("plot_stable_ranks"),
    message:
        "Figure 12: {params.names}"
    script:
        "../scripts/plot_stable_ranks.py"


use rule fig11 as fig13 with:
    input:
        spectra=figure_tables("fig13", "spectra"),
        baselines=figure_tables("fig13", "baselines"),
    output:
        pdf="<results>/figures/fig13.pdf",
        png=report(
            "<results>/figures/fig13.png",
            caption="../report/fig11.rst",
            category="Vision transformers",
            labels={"figure": "Figure 13"},
        ),
    log:
        "<logs>/fig13.log",
    benchmark:
        "<benchmarks>/fig13.tsv"
    params:
        names=figure_names("fig13"),
    message:
        "Figure 13: {params.names}"


use rule fig12 as fig14 with:
    input:
        spectra=figure_tables("fig14", "spectra"),
        baselines=figure_tables("fig14", "baselines"),
    output:
        pdf="<results>/figures/fig14.pdf",
        png=report(
            "<results>/figures/fig14.png",
            caption="../report/fig12.rst",
            category="Vision transformers",
            labels={"figure": "Figure 14"},
        ),
    log:
        "<logs>/fig14.log",
    benchmark:
        "<benchmarks>/fig14.tsv"
    params:
        names=figure_names("fig14"),
    message:
        "Figure 14: {params.names}"


use rule fig11 as fig15 with:
    input:
        spectra=figure_tables("fig15", "spectra"),
        baselines=figure_tables("fig15", "baselines"),
    output:
        pdf="<results>/figures/fig15.pdf",
        png=report(
            "<results>/figures/fig15.png",
            caption="../report/fig11.rst",
            category="Vision transformers",
            labels={"figure": "Figure 15"},
        ),
    log:
        "<logs>/fig15.log",
    benchmark:
        "<benchmarks>/fig15.tsv"
    params:
        names=figure_names("fig15"),
    message:
        "Figure 15: {params.names}"


use rule fig12 as fig16 with:
    input:
        spectra=figure_tables("fig16", "spectra"),
        baselines=figure_tables("fig16", "baselines"),
    output:
        pdf="<results>/figures/fig16.pdf",
        png=report(
            "<results>/figures/fig16.png",
            caption="../report/fig12.rst",
            category="Vision transformers",
            labels={"figure": "Figure 16"},
        ),
    log:
        "<logs>/fig16.log",
    benchmark:
        "<benchmarks>/fig16.tsv"
    params:
        names=figure_names("fig16"),
    message:
        "Figure 16: {params.names}"
