"""What every figure script does besides drawing: read tables, choose the style, write the files."""

from textwrap import fill

from matplotlib.figure import Figure

from rank_increase.figures.style import PAGE_WIDTH, paper_style, save_figure
from rank_increase.jobs import logger, start_job
from rank_increase.tables import read_tables


class NothingToShow(ValueError):
    """The tables lack what a figure should show; the message is a sentence that says what."""


class StudyTables:
    """The tables that a figure may read.

    Parameters
    ----------
    files : dict of str to list of str
        Table -> its files.
    labels : dict of str to str
        Network -> its label in figures.
    """

    def __init__(self, files, labels):
        self._files, self.labels = files, labels

    def read(self, table, columns=None, *, may_be_empty=False, **wanted):
        """Rows of a table.

        Parameters
        ----------
        table : str
        columns : list of str, optional
            All of them if not given.
        may_be_empty : bool
        wanted : dict
            Column -> the value that rows must have, or a list of such values; None for any.

        Raises
        ------
        NothingToShow
            If there is no such row, or none for one of the values of a list.
        """
        wanted = {key: value for key, value in wanted.items() if value is not None}
        filters = [(key, "in" if isinstance(value, list) else "==", value) for key, value in wanted.items()]
        columns = columns and [*dict.fromkeys([*columns, *wanted])]
        rows = read_tables(self._files[table], columns=columns, filters=filters or None)
        if may_be_empty:
            return rows
        missing = [
            f"{key} {', '.join(map(str, lacking))}"
            for key, value in wanted.items()
            if (lacking := [one for one in _listed(value) if one not in set(rows[key])])
        ]
        if missing or rows.empty:
            raise NothingToShow(f"The table {table} has no rows with {' and '.join(missing) or 'any value'}.")
        return rows


def _listed(value):
    return value if isinstance(value, list) else [value]


def draw(main, snakemake):
    """Write the figure that `main(tables, **options)` returns, or one that says that there is nothing to show."""
    provenance = start_job(snakemake)
    files = {name: [paths] if isinstance(paths, str) else list(paths) for name, paths in snakemake.input.items()}
    params = snakemake.params
    with paper_style():
        try:
            figure = main(StudyTables(files, params.labels), **params.options)
        except NothingToShow as reason:
            logger.warning("%s", reason)
            figure = sentence_figure(str(reason))
        save_figure(figure, snakemake.output.pdf, snakemake.output.png, dpi=params.dpi, provenance=provenance)


def sentence_figure(text):
    """A figure that contains only a sentence."""
    figure = Figure(figsize=(PAGE_WIDTH, 1.5))
    figure.text(0.5, 0.5, fill(text, 80), ha="center", va="center", parse_math=False)
    return figure
