# The workflow is in workflow/Snakefile; this file lets `snakemake` find it from the top folder.
include: "workflow/Snakefile"


workflow.default_target = "all"  # Snakemake ignores the default target of an included file
