"""
Toy attention heads (paper, section 5 and Appendix A), Algorithm 1 and Theorem 4.5.

Inputs: the configuration under `toy`. Outputs: results/{study}/toy/.
"""


rule toy:
    """The toy runs, and Algorithm 1 against them."""
    input:
        expand("<results>/tables/{table}.parquet", table=["trajectory", "events", "conservation", "stages", "theorem"]),


rule make_problem:
    """Data, teacher and initial weights of a toy problem."""
    output:
        problem="<results>/toy/{structure}/seed_{seed}/problem.npz",
    log:
        "<logs>/make_problem/{structure}_seed_{seed}.log",
    benchmark:
        "<benchmarks>/make_problem/{structure}_seed_{seed}.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        **{key: config["toy"][key] for key in ("samples", "tokens", "dim", "teacher_std_KQ", "teacher_std_VO")},
        structure=run_structure,
        # Without "jobs", here and below: an edit of logs or progress must not train anew.
        code=library_digest("make_problem", without=["jobs"]),
    message:
        "Toy problem {wildcards.structure}, seed {wildcards.seed}"
    script:
        "../scripts/make_problem.py"


rule run_algorithm1:
    """Algorithm 1 of the paper: predicted stages in the limit alpha -> 0."""
    input:
        problem="<results>/toy/diagonal/seed_{seed}/problem.npz",
    output:
        stages="<results>/toy/diagonal/seed_{seed}/stages.parquet",
    log:
        "<logs>/run_algorithm1/seed_{seed}.log",
    benchmark:
        "<benchmarks>/run_algorithm1/seed_{seed}.tsv"
    priority: 10
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        max_time=config["toy"]["max_time"],
        code=library_digest("run_algorithm1", without=["jobs"]),
    message:
        "Algorithm 1 on the problem of seed {wildcards.seed}"
    script:
        "../scripts/run_algorithm1.py"


rule train_toy:
    """One toy run: loss, and diagonal entries or singular values of both products, over time."""
    input:
        problem="<results>/toy/{structure}/seed_{seed}/problem.npz",
        stages=run_stages,
    output:
        trajectory="<results>/toy/{structure}/alpha_{alpha}/seed_{seed}/trajectory.parquet",
        events="<results>/toy/{structure}/alpha_{alpha}/seed_{seed}/events.parquet",
        conservation="<results>/toy/{structure}/alpha_{alpha}/seed_{seed}/conservation.parquet",
    log:
        "<logs>/train_toy/{structure}_alpha_{alpha}_seed_{seed}.log",
    benchmark:
        "<benchmarks>/train_toy/{structure}_alpha_{alpha}_seed_{seed}.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1500,
        runtime=60,
    params:
        **{key: config["toy"][key] for key in ("max_time", "points", "activation_weight", "flow_rtol", "flow_atol")},
        **{key: config["toy"][key] for key in ("full_flow_rtol", "full_flow_atol", "step", "batch_size")},
        method=run_method,
        code=library_digest("train_toy", without=["jobs"]),
    message:
        "Toy run {wildcards.structure}, alpha = {wildcards.alpha}, seed {wildcards.seed} ({params.method})"
    script:
        "../scripts/train_toy.py"


rule compare_theorem:
    """Theorem 4.5: stages of Algorithm 1 against the trajectories of every alpha."""
    input:
        stages="<results>/toy/diagonal/seed_{seed}/stages.parquet",
        trajectories=run_trajectories,
        events=run_events,
    output:
        theorem="<results>/toy/diagonal/seed_{seed}/theorem.parquet",
    log:
        "<logs>/compare_theorem/seed_{seed}.log",
    benchmark:
        "<benchmarks>/compare_theorem/seed_{seed}.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1500,
        runtime=10,
    params:
        alphas=run_alphas,
        max_time=config["toy"]["max_time"],
        code=library_digest("compare_theorem"),
    message:
        "Theorem 4.5 on the problem of seed {wildcards.seed}"
    script:
        "../scripts/compare_theorem.py"
