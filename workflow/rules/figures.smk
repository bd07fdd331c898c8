"""
Figures of the paper, from the tables of the study alone.
"""


rule figures:
    """All figures."""
    input:
        expand("<results>/tables/{table}.parquet", table=["trajectory", "events", "stages", "theorem", "perturbations"]),
