"""The paper's symbols, as tables and files spell them."""

from decimal import Decimal, InvalidOperation

WEIGHTS = ("W_K", "W_Q", "W_V", "W_O")
PRODUCTS = ("KQ", "VO")  # W_K W_Q^T and W_V W_O^T
PRODUCT_NAMES = {"KQ": "W_K W_Qᵀ", "VO": "W_V W_Oᵀ"}  # for display
# Random changes of a product, for comparison with the change by training (probes/spectra.py)
RANDOM_CHANGES = ("random_product", "noisy_factors", "turned_factors")
COORDINATE = ["layer", "head", "product", "index"]  # columns of tables that say which coordinate a row is about


def log_alpha(alpha):
    """Natural logarithm of an init scale written as in the config.

    Uses decimal arithmetic, because 1e-3000 is below the range of float64.

    Parameters
    ----------
    alpha : str
        A positive number, such as "0.1" or "1e-3000".

    Raises
    ------
    ValueError
        If `alpha` is not a positive number.
    """
    try:
        value = Decimal(alpha)
    except InvalidOperation:
        value = Decimal(0)
    if not (value.is_finite() and value > 0):
        raise ValueError(f"alpha must be a positive number, not {alpha!r}")
    return float(value.ln())


def sort_alphas(alphas):
    """Init scales from largest to smallest, without duplicates; a list of str."""
    return sorted(set(alphas), key=log_alpha, reverse=True)


def alpha_label(alpha):
    """An init scale as shown in figures and pages."""
    return f"α = {alpha}"
