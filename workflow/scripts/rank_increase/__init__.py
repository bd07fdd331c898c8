"""The library behind the scripts: pure functions and small classes, testable without Snakemake."""
