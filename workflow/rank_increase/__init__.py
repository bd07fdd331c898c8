"""The library of the workflow: imports point downwards, from the study to the toy model."""
