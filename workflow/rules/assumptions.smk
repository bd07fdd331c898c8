"""
Perturbation runs that test Assumptions 4.3 and 4.4 (paper, Appendix A).

Inputs: problems of the diagonal structure. Outputs: results/{study}/assumptions/.
"""


rule assumptions:
    """The perturbation runs of both assumptions."""
    input:
        "<results>/tables/perturbations.parquet",


rule perturb_toy:
    """Perturbed runs and the trajectory that they left, for Assumption 4.3 (plateaus) or 4.4 (activations)."""
    input:
        problem="<results>/toy/diagonal/seed_{seed}/problem.npz",
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
        **{key: config["assumptions"][key] for key in ("alpha", "threshold", "points")},
        **{key: config["toy"][key] for key in ("max_time", "activation_weight", "flow_rtol", "flow_atol")},
        noise=lambda wildcards: config["assumptions"][wildcards.assumption],
        code=library_digest("perturb_toy"),
    message:
        "Perturbation runs at {wildcards.assumption}, seed {wildcards.seed}"
    script:
        "../scripts/perturb_toy.py"
