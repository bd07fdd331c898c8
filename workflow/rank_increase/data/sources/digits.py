@register.source("digits")
def digits():
    """Digits."""
@register.source("parquet")
def parquet(threads, *, train: Path, test: Path, classes: Count, size: Count):
    """Parquet."""
