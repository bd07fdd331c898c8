"""The reference of the configuration, from its types: config/README.md, config/defaults.yaml and the JSON schema.

`make reference` writes them, and a test compares.
"""

import json
import typing
from pathlib import Path
from types import UnionType

import yaml
from pydantic_core import PydanticUndefined

from rank_increase.options import Section
from rank_increase.registry import HOMES, registered
from rank_increase.study.configuration import study_type

CONFIG = Path(__file__).resolve().parents[3] / "config"
WRITTEN = "written by `make reference` from the types in workflow/rank_increase/study/configuration.py"
KINDS = {  # what a configuration chooses by name -> the key that does, and a heading
    "source": ("datasets.<name>.source", "Sources"),
    "model": ("networks.<name>.model.family", "Models"),
    "loss": ("networks.<name>.recipe.loss", "Losses"),
    "optimizer": ("networks.<name>.recipe.optimizer", "Optimizers"),
    "figure": ("figures.<name>", "Figures"),
}
CHOSEN = {  # places of the configuration whose keys depend on such a choice
    "datasets": "see the sources below",
    "networks.<name>.model": "see the models below",
    "networks.<name>.recipe.loss": "see the losses below",
    "networks.<name>.recipe.optimizer": "see the optimizers below",
    "figures": "see the figures below",
}


def sections(model, place=""):
    """Yield (place, type) of the configuration and of each section in it, depth first.

    The place of a section that stands under names of the user's is `networks.<name>`, of one in a list `toy.runs[]`.
    """
    yield place, model
    for name, field in model.model_fields.items():
        inner, mark = _section(field.annotation)
        if inner and f"{place}.{name}".removeprefix(".") not in CHOSEN:
            yield from sections(inner, f"{place}.{name}{mark}".removeprefix("."))


def _section(annotation):
    """The section that a type is, or holds, and how its place is marked: "", ".<name>" in a dict, "[]" in a list."""
    arguments = [part for part in typing.get_args(annotation) if part is not type(None)]
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation, ""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, UnionType) and len(arguments) == 1:
        return _section(arguments[0])
    if origin is typing.Annotated:
        return _section(arguments[0])
    if origin in (list, dict):
        inner, mark = _section(arguments[-1])
        return inner, (".<name>" if origin is dict else "[]") + mark
    return None, ""


def must_be(model, name):
    """What a value of a key must be, in words."""
    schema = model.model_json_schema()
    node = schema["properties"][name]
    node = next((part for part in node.get("anyOf", ()) if part.get("type") != "null"), node)
    if "must_be" in node:
        return node["must_be"]
    if "enum" in node:
        return "one of " + ", ".join(node["enum"])
    if "const" in node:
        return f'"{node["const"]}"'
    node = node.get("items", node)
    if "must_be" in node:
        return f"a list; of each: {node['must_be']}"
    return ""


def default_text(field):
    """A default as YAML writes it, or "required"."""
    return "required" if field.is_required() else yaml_text(field.default)


def yaml_text(value):
    """A value as a configuration has it, on one line."""
    value = _plain(value)
    if isinstance(value, str) and value[:1].isdigit():
        return f'"{value}"'
    return yaml.safe_dump(value, default_flow_style=True, width=10000).removesuffix("...\n").strip()


def _plain(value):
    if isinstance(value, Section):
        return value.model_dump()
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def key_table(model, place=""):
    """The keys of a section at this place as a table in Markdown."""
    lines = ["| key | meaning | must be | default |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        inner, _ = _section(field.annotation)
        default = "" if inner and not field.is_required() and field.default is not None else f"`{default_text(field)}`"
        kind = CHOSEN.get(f"{place}.{name}".removeprefix("."), must_be(model, name))
        cells = [f"`{name}`", field.description or "", kind, default.replace("`required`", "required")]
        lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def readme():
    """The text of config/README.md."""
    parts = [(CONFIG / "introduction.md").read_text().rstrip(), f"<!-- What follows is {WRITTEN}. -->", "## Keys"]
    for place, model in sections(study_type()):
        title = f"### `{place}`" if place else "### Top level"
        about = " ".join((model.__doc__ or "").split())
        parts += [title, about, key_table(model, place)] if place else [title, key_table(model)]
    for kind, (key, title) in KINDS.items():
        parts += [f"## {title}", f"Chosen under `{key}`; each is defined in `workflow/{_home(kind)}`."]
        for name, entry in registered(kind).items():
            options = entry.options()
            parts += [f"### {kind.capitalize()} `{name}`", " ".join(entry.caption.split())]
            if options.model_fields:
                parts.append(key_table(options))
    return "\n\n".join(parts) + "\n"


def _home(kind):
    return "scripts/figures" if kind == "figure" else f"rank_increase/{HOMES[kind]}"


def defaults():
    """The text of config/defaults.yaml."""
    lines = [
        f"# Every key with its default: {WRITTEN}.",
        "# Keys without a default stand in comments. A study states what differs.",
    ]
    return "\n".join([*lines, "", *_default_lines(study_type(), 0)]) + "\n"


def _default_lines(model, depth, values=None):
    """Lines for each key; `values` is the section that is the default of the one above, if there is one."""
    indent = "  " * depth
    for name, field in model.model_fields.items():
        default = field.default if values is None else getattr(values, name)
        inner, mark = _section(field.annotation)
        about = " ".join((field.description or "").split())
        if name in registered("figure"):
            continue
        if inner and not mark:
            yield f"{indent}# {about}{'' if default else ' Left out unless a study has it.'}"
            yield f"{indent}{name}:"
            yield from _default_lines(inner, depth + 1, default or None)
        elif default is PydanticUndefined:
            yield f"{indent}# {name}: required. {about}"
        else:
            yield f"{indent}{name}: {yaml_text(default)}  # {about}"


def schema():
    """The JSON schema, for editors."""
    return json.dumps(study_type().model_json_schema(), indent=1) + "\n"


FILES = {"README.md": readme, "defaults.yaml": defaults, "schema.json": schema}

if __name__ == "__main__":
    for name, text in FILES.items():
        (CONFIG / name).write_text(text(), encoding="utf-8")
