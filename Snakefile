# The workflow is in workflow/Snakefile; this file lets `snakemake` find it from the top folder.
include: "workflow/Snakefile"


workflow.default_target = "all"  # of an included file Snakemake does not take it
