"""Rule `configuration`: the configuration of the study as a page of the report."""

from html import escape
from typing import TYPE_CHECKING

import yaml

from rank_increase.jobs import start_job
from rank_increase.tables import atomic

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>Configuration</title>
<pre>{}</pre>
</html>
"""


def main(configuration, html):
    """Write all keys of a configuration, a dict, as YAML in an HTML file; the report shows no plain YAML."""
    text = yaml.safe_dump(configuration, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)
    with atomic(html) as temporary:
        temporary.write_text(PAGE.format(escape(text)), encoding="utf-8")


if __name__ == "__main__":
    start_job(snakemake)
    main(snakemake.params.configuration, snakemake.output.html)
