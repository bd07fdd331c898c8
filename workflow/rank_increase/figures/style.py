"""The style of figures, their layout, and how they are written.

Figures are made without pyplot, so no state is shared between them.
"""

import json
from contextlib import contextmanager

import matplotlib
from matplotlib.figure import Figure

from rank_increase.tables import atomic

PAGE_WIDTH = 6.5  # inches, between the margins of a letter page
RESCALED_TIME = r"time / $\ln(1/\alpha)$"
PRODUCT_LABELS = {"KQ": r"$W_K W_Q^\top$", "VO": r"$W_V W_O^\top$"}
STYLE = {
    "font.family": "DejaVu Sans",  # comes with Matplotlib: the same on every machine
    "mathtext.fontset": "dejavusans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "lines.linewidth": 1.0,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "figure.constrained_layout.w_pad": 0.06,
    "figure.constrained_layout.h_pad": 0.06,
    "pdf.fonttype": 42,  # TrueType: text stays text in the PDF
}


@contextmanager
def paper_style():
    """Our style on Matplotlib's defaults within the block, regardless of the user's own settings."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def new_panels(rows, columns, height, **options):
    """A figure as wide as a page and its Axes, an array of shape (rows, columns).

    Parameters
    ----------
    height : float
        In inches.
    options : dict
        For matplotlib.figure.Figure.subplots, such as `sharey`.
    """
    figure = Figure(figsize=(PAGE_WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def panel_grid(count, height, columns=3, **options):
    """A figure with `count` panels of a height in inches, in rows of `columns`, and the list of their Axes."""
    columns = min(count, columns)
    rows = -(-count // columns)
    figure, axes = new_panels(rows, columns, height * rows + 0.4, **options)
    for panel in axes.flat[count:]:
        panel.set_visible(False)
    return figure, list(axes.flat[:count])


def save_figure(figure, pdf, png, *, dpi, provenance):
    """Write a figure as PDF and as PNG, each completely or not at all; the same figure gives the same bytes.

    Parameters
    ----------
    pdf, png : str
        Paths.
    dpi : int
        Of the PNG.
    provenance : dict
        Stored as JSON in the files' metadata: "Keywords" of the PDF, "provenance" of the PNG.
    """
    text = json.dumps(provenance)
    with atomic(pdf) as temporary:
        figure.savefig(temporary, format="pdf", metadata={"Keywords": text, "CreationDate": None})
    figure.set_layout_engine("none")  # keeps the layout of the PDF: finding it takes as long as drawing
    with atomic(png) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi, metadata={"provenance": text})
