import re

import pytest

from rank_increase.pages import readme
from rank_increase.pages.readme import PAGES, ROOT, filled

README = (ROOT / "README.md").read_text()
# Numbers of the paper and of this repository's files; all others are results, and stand in blocks.
NAMES = r"[Ff]igures? \d+( and \d+)?|(Assumptions?|Theorem|Lemma|Algorithm) [\d.]+( and [\d.]+)?"
NAMES += r"|1e-\d+|fig\d+|CIFAR-10|seed 99|(1/)?ln\(1/α\)|α → 0|95 % interval"


def outside_of_blocks(section):
    text = README.split(f"\n## {section}\n")[1].split("\n## ")[0]
    for name in PAGES[ROOT / "README.md"]:
        text = re.sub(rf"<!-- {name} -->.*?<!-- /{name} -->", "", text, flags=re.S)
    return re.sub(rf"```.*?```|{NAMES}", "", text, flags=re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_numbers_are_those_of_the_published_tables(page):
    assert filled(page, page.read_text()) == page.read_text(), "run `make readme`"


@pytest.mark.parametrize("section", ["What was found"])
def test_results_are_told_with_no_other_numbers(section):
    assert re.findall(r".*\d.*", outside_of_blocks(section)) == []


def test_a_block_that_is_missing_is_named():
    with pytest.raises(ValueError, match="README.md has 0 blocks 'findings'"):
        filled(ROOT / "README.md", "")


def test_a_finding_that_the_claims_no_longer_bear_out_is_refused(monkeypatch):
    published = readme.claims

    def refuted(study):
        found = published(study).copy()
        found.loc[found["verdict"] == "supported", "verdict"] = "not supported"
        return found

    monkeypatch.setattr(readme, "claims", refuted)
    with pytest.raises(ValueError, match="a finding says that .* of theory is supported, but it is not supported"):
        readme.findings()


def test_every_link_and_picture_is_there():
    targets = re.findall(r"\]\(((?!https?:|#)[^)#]+)[^)]*\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []
