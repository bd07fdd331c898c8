"""Models, adapters, sources, losses, optimizers, measures, claims and figures: each is registered where it is defined.

    @register.model("vit")
    class VisionTransformer: ...

A study chooses by these names. They are found by reading source files without importing them, so checking a
configuration or planning jobs does not need torch. A study imports only what it uses.

The keyword-only parameters of a registered function or class are its options. Their annotations (types of
`rank_increase.options`), defaults and descriptions in the docstring define the keys that the configuration accepts. The
workflow supplies the other parameters.
"""

import ast
import importlib
import importlib.util
import re
import sys
import typing
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rank_increase import options as option_types

LIBRARY = Path(__file__).resolve().parent
HOMES = {  # folders and modules in which each kind is defined
    "model": "networks",
    "adapter": "networks/adapters.py",
    "source": "data/sources",
    "loss": "training/losses.py",
    "optimizer": "training/optimizers.py",
    "measure": "probes/measures.py",
    "claim": "evidence",
    "figure": "../scripts/figures",
}
TYPES = {
    name: value
    for space in (vars(option_types), vars(typing), {t.__name__: t for t in (int, float, str, bool, list, dict, tuple)})
    for name, value in space.items()
    if not name.startswith("_")
}


class RegistryError(ValueError):
    """A mistake in a registration, or an unknown name; the message is one sentence."""


@dataclass(frozen=True)
class Entry:
    """A registration: kind and name, where the object is defined, and the decorator's other arguments.

    Attributes
    ----------
    kind, name : str
    path : pathlib.Path
        The source file.
    definition : str
        Name of the function or class in it.
    details : dict
        Keyword arguments of the decorator.
    summary, description : str
        First line of the docstring, and all of it.
    parameters : dict of str to tuple
        Option -> (annotation as written, default as written or None, description).
    """

    kind: str
    name: str
    path: Path
    definition: str
    details: dict
    summary: str
    description: str
    parameters: dict

    @property
    def module(self):
        """Name to import it by, such as rank_increase.networks.vit; None outside the library."""
        if not self.path.is_relative_to(LIBRARY):
            return None
        return ".".join(("rank_increase", *self.path.relative_to(LIBRARY).with_suffix("").parts))

    @property
    def fixed(self):
        """Options that the decorator fixes, which the configuration cannot choose; a dict."""
        return {key: value for key, value in self.details.items() if key in self.parameters}

    @property
    def caption(self):
        """The docstring up to the first underlined heading."""
        return re.split(r"\n\n\w+\n-{3,}\n", self.description)[0]

    def load(self):
        """The function or class."""
        return getattr(_import(self.path, self.module), self.definition)

    def options(self):
        """A pydantic model with a field for each option, in order, except those that the decorator fixes.

        Raises
        ------
        RegistryError
            If the type of an option is unknown, or its default is not a literal.
        """
        from pydantic import Field, create_model  # only a configuration is validated; training does without

        fields = {}
        for name, (annotation, default, description) in self.parameters.items():
            if name in self.details:
                continue
            try:
                kind = eval(annotation, {"__builtins__": {}}, TYPES)  # names of types, from our own source
                value = ... if default is None else ast.literal_eval(default)
            except (NameError, TypeError, ValueError, SyntaxError) as error:
                raise RegistryError(
                    f"{self.path}: the option `{name}` of the {self.kind} {self.name!r} needs a type of"
                    f" rank_increase.options and a literal default ({error})."
                ) from error
            fields[name] = kind, Field(value, description=description)
        return create_model(f"{self.kind} {self.name}", __base__=option_types.Section, **fields)


class _Register:
    """Decorators, one for each kind: `register.model("vit")`. They return the decorated object unchanged."""

    def __getattr__(self, kind):
        if kind not in HOMES:
            raise AttributeError(f"nothing is registered as {kind}")
        return lambda name, **details: lambda defined: defined


register = _Register()


@cache
def registered(kind, extensions=()):
    """Everything registered as this kind, in the library and in the user's files: a dict name -> `Entry`.

    Parameters
    ----------
    kind : str
        A key of `HOMES`.
    extensions : tuple of str
        The user's Python files.

    Raises
    ------
    RegistryError
        If a name is registered twice, or a file cannot be read.
    """
    home, found = (LIBRARY / HOMES[kind]).resolve(), {}
    paths = sorted(home.glob("*.py")) if home.is_dir() else [home]
    for path in [*paths, *(Path(name).resolve() for name in extensions)]:
        for entry in _entries(path):
            if entry.kind != kind:
                continue
            if entry.name in found:
                raise RegistryError(f"{path} registers the {kind} {entry.name!r}, as {found[entry.name].path} does.")
            found[entry.name] = entry
    return dict(sorted(found.items())) if kind == "figure" else found  # sorted, as one script may draw several figures


def find(kind, name, extensions=()):
    """The `Entry` of this name.

    Raises
    ------
    RegistryError
        If there is nothing of this kind with this name.
    """
    known = registered(kind, extensions)
    if name not in known:
        raise RegistryError(f"{name!r} is no {kind}; known are {', '.join(known)}.")
    return known[name]


@cache
def _entries(path):
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        raise RegistryError(f"{path} cannot be read as Python: {error}.") from error
    entries = []
    for node in tree.body:
        for decorator in getattr(node, "decorator_list", ()):
            match decorator:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="register"), attr=kind), args=[ast.Constant(name)]):
                    details = _details(decorator, path, name)
                    text = ast.get_docstring(node) or ""
                    entries.append(
                        Entry(kind, name, path, node.name, details, text.split("\n")[0], text, _parameters(node, text))
                    )
    return entries


def _details(decorator, path, name):
    """Keyword arguments of a decorator."""
    try:
        return {keyword.arg: ast.literal_eval(keyword.value) for keyword in decorator.keywords}
    except ValueError as error:
        raise RegistryError(f"{path}: what is said of {name!r} must be literals ({error}).") from error


def _parameters(node, text):
    """Keyword-only parameters of a function, or of the `__init__` of a class."""
    if isinstance(node, ast.ClassDef):
        node = next((part for part in node.body if getattr(part, "name", "") == "__init__"), None)
        if node is None:
            return {}
    found = {}
    for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        if argument.annotation is None:
            raise RegistryError(f"{node.name}: the option `{argument.arg}` has no type.")
        found[argument.arg] = (
            ast.unparse(argument.annotation),
            default and ast.unparse(default),
            _described(text, argument.arg),
        )
    return found


def _described(text, name):
    """The description of a parameter in a numpy docstring, on one line."""
    match = re.search(rf"(?m)^(?:\w+, )*{name}(?:, \w+)* :[^\n]*\n((?:    .*\n?|\n(?=    ))*)", text)
    return " ".join(match[1].split()) if match else ""


def _import(path, module):
    if module:
        return importlib.import_module(module)
    name = f"rank_increase extension {path}"  # two files may have the same name
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[name])
        except BaseException:
            del sys.modules[name]  # otherwise the next import would return a half-loaded module
            raise
    return sys.modules[name]
