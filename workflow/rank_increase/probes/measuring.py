"""The table of measures, from the table of singular values."""

import numpy as np
import pandas as pd

KEYS = ["step", "epoch", "layer", "head", "product", "matrix"]


def measures_frame(spectra, measures):
    """The rows of a table "spectra", with a column for each measure in place of the singular values.

    Parameters
    ----------
    spectra : pandas.DataFrame
    measures : dict of str to callable
        Name -> a function as in `probes.measures`.

    Raises
    ------
    ValueError
        If singular values are negative, not finite or not descending.
    """
    values = spectra["singular_values"]
    lengths = values.map(len).to_numpy()
    columns = {name: np.full(len(spectra), np.nan) for name in measures}
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        s = np.stack(values.iloc[rows])
        if not (np.isfinite(s).all() and (s >= 0).all() and (np.diff(s) <= 0).all()):
            raise ValueError("singular values must be finite, not negative, and descending")
        for name, measure in measures.items():
            columns[name][rows] = measure(s)
    return spectra.drop(columns="singular_values").assign(**{name: pd.array(c) for name, c in columns.items()})
