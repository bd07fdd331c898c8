@register.figure("fig07", title="Figure 7", tables=["trajectory"])
def main(tables, *, alphas: Alphas | None = None):
    """Entries."""
