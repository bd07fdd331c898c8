"""Rule `prepare_dataset`: images and labels of a dataset as packed arrays, whatever they come from."""

from pathlib import Path
from typing import TYPE_CHECKING

from rank_increase.data import pack
from rank_increase.jobs import progress, start_job
from rank_increase.sources import open_source

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(folder, *, source, fingerprint, code, downloads, threads, label):
    """Pack the dataset that `source`, an entry under `datasets` in the configuration, describes into `folder`.

    The folder is left as it is if another study has packed there the same source, in the same state, by the same code.
    """
    opened = open_source(source, downloads, threads)
    with progress(label, sum(split.count for split in opened.splits.values())) as advance:
        pack(folder, opened, {**source, "fingerprint": fingerprint, "code": code}, advance, again=False)


if __name__ == "__main__":
    start_job(snakemake)
    main(
        Path(snakemake.output.manifest).parent,
        source=snakemake.params.source,
        fingerprint=snakemake.params.fingerprint,
        code=snakemake.params.code,
        downloads=snakemake.params.downloads,
        threads=snakemake.threads,
        label=f"packing {snakemake.wildcards.dataset}",
    )
