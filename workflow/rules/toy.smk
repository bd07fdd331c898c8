"""
Toy attention heads (paper, section 5 and Appendix A), Algorithm 1, Theorem 4.5, and tests of its assumptions.

Inputs: the configuration under `toy`, `assumptions` and `linear_attention`. Outputs: the folders of these names (toy/,
assumptions/, linear_attention/) in results/{study}/, and their tables.
"""


rule toy:
    """The toy runs, compared with Algorithm 1."""
    input:
        [path for table in TOY_TABLES if table not in ("perturbations", "returns") for path in table_files(table)],


rule assumptions:
    """The tests of both assumptions: perturbation runs, and in the limit."""
    input:
        table_files("perturbations"),
        table_files("returns"),


rule linear_attention:
    """Linear attention, compared with its known levels and jump times."""
    input:
        [path for table in LINEAR_ATTENTION_TABLES for path in table_files(table)],


rule make_problem:
    """Data, teacher and initial weights of a toy problem."""
    output:
        problem="<results>/toy/{variant}/seed_{seed}/problem.npz",
    log:
        "<logs>/make_problem/{variant}_seed_{seed}.log",
    benchmark:
        "<benchmarks>/make_problem/{variant}_seed_{seed}.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        **of_variant("samples", "tokens", "dim", "dim_head", "teacher_std_KQ", "teacher_std_VO", "weights", "teacher"),
        **of_variant("block", "layers", "heads", "bias_std", "loss", "labels"),
        code=library_digest("toy/make_problem", without=["jobs"]),
    message:
        "Toy problem {wildcards.variant}, seed {wildcards.seed}"
    script:
        "../scripts/toy/make_problem.py"


rule run_algorithm1:
    """Algorithm 1: predicted stages in the limit alpha -> 0, for diagonal and for full weights."""
    input:
        problem="<results>/toy/{variant}/seed_{seed}/problem.npz",
    output:
        stages="<results>/toy/{variant}/seed_{seed}/stages.parquet",
    log:
        "<logs>/run_algorithm1/{variant}_seed_{seed}.log",
    benchmark:
        "<benchmarks>/run_algorithm1/{variant}_seed_{seed}.tsv"
    priority: 10
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        **of_variant("max_time", "decay"),
        code=library_digest("toy/run_algorithm1", without=["jobs"]),
    message:
        "Algorithm 1 on the problem {wildcards.variant}, seed {wildcards.seed}"
    script:
        "../scripts/toy/run_algorithm1.py"


rule train_toy:
    """One toy run: loss, and diagonal entries or singular values of both products, over time."""
    input:
        problem="<results>/toy/{variant}/seed_{seed}/problem.npz",
        stages=stages_to_record,
    output:
        losses="<results>/toy/{variant}/alpha_{alpha}/seed_{seed}/losses.parquet",
        trajectory="<results>/toy/{variant}/alpha_{alpha}/seed_{seed}/trajectory.parquet",
        events="<results>/toy/{variant}/alpha_{alpha}/seed_{seed}/events.parquet",
        conservation="<results>/toy/{variant}/alpha_{alpha}/seed_{seed}/conservation.parquet",
    log:
        "<logs>/train_toy/{variant}_alpha_{alpha}_seed_{seed}.log",
    benchmark:
        "<benchmarks>/train_toy/{variant}_alpha_{alpha}_seed_{seed}.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1500,
        runtime=60,
    params:
        **toy_settings("points", "activation_weight", "flow_rtol", "flow_atol"),
        **of_variant(
            "full_flow_tolerance",
            "method",
            "max_time",
            "step",
            "batch_size",
            "decay",
            "beta1",
            "beta2",
            "eps",
            "momentum",
        ),
        code=library_digest("toy/train_toy", without=["jobs"]),
    message:
        "Toy run {wildcards.variant}, alpha = {wildcards.alpha}, seed {wildcards.seed} ({params.method})"
    script:
        "../scripts/toy/train_toy.py"


rule compare_theorem:
    """Theorem 4.5: stages of Algorithm 1 against the trajectories of every alpha."""
    input:
        problem="<results>/toy/{variant}/seed_{seed}/problem.npz",
        stages="<results>/toy/{variant}/seed_{seed}/stages.parquet",
        trajectories=problem_files("trajectory"),
        events=problem_files("events"),
    output:
        theorem="<results>/toy/{variant}/seed_{seed}/theorem.parquet",
    log:
        "<logs>/compare_theorem/{variant}_seed_{seed}.log",
    benchmark:
        "<benchmarks>/compare_theorem/{variant}_seed_{seed}.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1500,
        runtime=10,
    params:
        **of_variant("max_time"),
        alphas=problem_alphas,
        code=library_digest("toy/compare_theorem", without=["jobs"]),
    message:
        "Theorem 4.5 on the problem {wildcards.variant}, seed {wildcards.seed}"
    script:
        "../scripts/toy/compare_theorem.py"


rule perturb_toy:
    """Perturbed runs and the unperturbed trajectory, for Assumption 4.3 (plateaus) or 4.4 (activations)."""
    input:
        problem="<results>/toy/diagonal/seed_{seed}/problem.npz",
        stages="<results>/toy/diagonal/seed_{seed}/stages.parquet",
    output:
        perturbations="<results>/assumptions/{assumption}/seed_{seed}/perturbations.parquet",
    log:
        "<logs>/perturb_toy/{assumption}_seed_{seed}.log",
    benchmark:
        "<benchmarks>/perturb_toy/{assumption}_seed_{seed}.tsv"
    wildcard_constraints:
        assumption="plateaus|activations",
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime=20,
    params:
        **toy_settings("activation_weight", "flow_rtol", "flow_atol"),
        max_time=lambda wildcards: variant_settings(STUDY, "diagonal")["max_time"],
        settings=lambda wildcards: STUDY.assumptions.model_dump(include={"alpha", "threshold", "points"}),
        noise=lambda wildcards: getattr(STUDY.assumptions, wildcards.assumption).model_dump(),
        code=library_digest("toy/perturb_toy", without=["jobs"]),
    message:
        "Perturbation runs at {wildcards.assumption}, seed {wildcards.seed}"
    script:
        "../scripts/toy/perturb_toy.py"


rule run_linear_attention:
    """Linear attention from every init scale, by every parametrisation, on the problem of a seed."""
    output:
        linear_attention="<results>/linear_attention/seed_{seed}/linear_attention.parquet",
        linear_attention_losses="<results>/linear_attention/seed_{seed}/linear_attention_losses.parquet",
    log:
        "<logs>/run_linear_attention/seed_{seed}.log",
    benchmark:
        "<benchmarks>/run_linear_attention/seed_{seed}.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime=20,
    params:
        **linear_attention_settings("dim", "eigenvalues", "context", "ranks", "alphas", "points"),
        code=library_digest("toy/run_linear_attention", without=["jobs"]),
    message:
        "Linear attention, seed {wildcards.seed}"
    script:
        "../scripts/toy/run_linear_attention.py"


rule follow_orbits:
    """The constants C_k of Theorem 4.5, from the orbits between the stages of Algorithm 1."""
    input:
        problem="<results>/toy/{variant}/seed_{seed}/problem.npz",
        stages="<results>/toy/{variant}/seed_{seed}/stages.parquet",
    output:
        orbits="<results>/toy/{variant}/seed_{seed}/orbits.parquet",
    log:
        "<logs>/follow_orbits/{variant}_seed_{seed}.log",
    benchmark:
        "<benchmarks>/follow_orbits/{variant}_seed_{seed}.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        **of_variant("max_time"),
        code=library_digest("toy/follow_orbits", without=["jobs"]),
    message:
        "Orbits of the problem {wildcards.variant}, seed {wildcards.seed}"
    script:
        "../scripts/toy/follow_orbits.py"


rule perturb_limit:
    """Assumptions 4.3 and 4.4 in the limit alpha -> 0, at the stages of Algorithm 1."""
    input:
        problem="<results>/toy/{variant}/seed_{seed}/problem.npz",
        stages="<results>/toy/{variant}/seed_{seed}/stages.parquet",
    output:
        returns="<results>/toy/{variant}/seed_{seed}/returns.parquet",
    log:
        "<logs>/perturb_limit/{variant}_seed_{seed}.log",
    benchmark:
        "<benchmarks>/perturb_limit/{variant}_seed_{seed}.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime=60,
    params:
        noise=lambda wildcards: STUDY.assumptions.limit.model_dump(),
        code=library_digest("toy/perturb_limit", without=["jobs"]),
    message:
        "Assumptions in the limit, on the problem {wildcards.variant}, seed {wildcards.seed}"
    script:
        "../scripts/toy/perturb_limit.py"


rule collect_toy_table:
    """All toy runs in one table, with columns such as `variant`, `alpha`, `seed` that identify them."""
    input:
        lambda wildcards: toy_parts(wildcards.table),
    output:
        table="<results>/tables/{table}.parquet",
    log:
        "<logs>/collect_table/{table}.log",
    benchmark:
        "<benchmarks>/collect_table/{table}.tsv"
    wildcard_constraints:
        table="|".join([*TOY_TABLES, *LINEAR_ATTENTION_TABLES]),
    localrule: True
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=3000,
        runtime=10,
    params:
        code=library_digest("probes/collect_table"),
    message:
        "Table of all runs: {wildcards.table}"
    script:
        "../scripts/probes/collect_table.py"
