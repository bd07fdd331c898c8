"""The reference of the configuration is what its types say."""

import json
from functools import reduce

import jsonschema
import pytest
import yaml

from rank_increase.registry import HOMES, registered
from rank_increase.study.configuration import read_config
from rank_increase.study.reference import CONFIG, FILES, KINDS, sections
from rank_increase.study.reference import study_type as study

STUDIES = ("config", "language", "laptop", "paper", "template")
SECTIONS = [
    *sections(study()),
    *((f"{kind} {name}", entry.options()) for kind in KINDS for name, entry in registered(kind).items()),
]
KEYS = [(place, model, name) for place, model in SECTIONS for name in model.model_fields]


def defaults():
    return yaml.safe_load((CONFIG / "defaults.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", FILES)
def test_files_are_those_that_make_reference_writes(name):
    assert (CONFIG / name).read_text(encoding="utf-8") == FILES[name](), "run `make reference`"


@pytest.mark.parametrize(("place", "model", "name"), KEYS, ids=[f"{place}.{name}" for place, _, name in KEYS])
def test_every_key_is_described_and_in_the_page(place, model, name):
    field = model.model_fields[name]
    assert len(field.description or "") > 5
    line = f"| `{name}` | {' '.join(field.description.split())} |".replace("\\", "")
    assert line in (CONFIG / "README.md").read_text(encoding="utf-8").replace("\\|", "|")


def test_every_kind_that_a_configuration_chooses_from_is_in_the_page():
    page = (CONFIG / "README.md").read_text(encoding="utf-8")
    assert set(KINDS) == set(HOMES) - {"measure", "claim"}
    for kind, (_, title) in KINDS.items():
        section = page.split(f"\n## {title}\n")[1].split("\n## ")[0]
        found = [line for line in section.splitlines() if line.startswith("### ")]
        assert found == [f"### {kind.capitalize()} `{name}`" for name in registered(kind)]


def in_defaults():
    """Sections of the configuration that the defaults have, and not only for names of the user's: (type, values)."""
    for place, model in sections(study()):
        if "[]" not in place and "<name>" not in place:
            yield model, reduce(lambda values, key: values[key], filter(None, place.split(".")), defaults())


def test_every_key_that_has_a_default_is_among_the_defaults():
    for model, values in in_defaults():
        optional = {name for name, field in model.model_fields.items() if not field.is_required()}
        assert optional - set(registered("figure")) <= set(values) <= set(model.model_fields)


def test_a_study_that_repeats_the_defaults_is_the_study_without_them():
    required = {"study": "x", "toy": {"runs": [{"alphas": ["0.01"], "seeds": [99]}]}, "assumptions": {"seeds": [99]}}
    required["linear_attention"] = {}
    repeated = defaults() | {"study": "x"}
    for section in ("toy", "assumptions"):
        repeated[section] = defaults()[section] | required[section]
    assert study()(**repeated) == study()(**required)


@pytest.mark.parametrize("name", STUDIES)
def test_studies_are_valid_by_the_schema_for_editors(name):
    schema = json.loads((CONFIG / "schema.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    config = read_config(CONFIG / f"{name}.yaml")
    assert not list(validator.iter_errors(config))
    assert list(validator.iter_errors(config | {"no_such_key": 1}))
