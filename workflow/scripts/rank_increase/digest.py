"""Digests of code: parameters of rules, so that results are made again when the code behind them changes.

Code is compared as syntax trees, written out here: `ast.unparse` and `ast.dump` write the same tree differently in
different versions of Python. Only the standard library is imported, so that any Python can compute a digest.
"""

import ast
from copy import copy
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

SCRIPTS = Path(__file__).parents[1]
LIBRARY = "rank_increase"
WHOLE, IMPORTED = None, ""  # in place of a name: all of a module, and what runs when it is imported
REDUNDANT = {"ctx", "kind", "type_comment"}  # fields: where a node stands, whether a string is u"", a comment
_SCOPES = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_IMPORTS = ast.Import | ast.ImportFrom


def library_digest(script, without=(), also=(), folder=SCRIPTS):
    """Hash of a script and of the library code that it uses; 12 hexadecimal digits.

    Snakemake sees neither imported modules nor what an edit means. With this among its parameters, a rule runs again
    when code that it uses changes, but not for a comment, a docstring, formatting, a fresh checkout or another Python.

    Functions, classes, assignments and imports at the top level of a module count if their names are used by the script
    or by what else counts. Other statements at the top level count in every module that is imported. A module that is
    imported itself (`import rank_increase.x`, `from rank_increase import x`) counts as a whole. Code that is looked up
    by a string, as in a registry, is not seen: name its module in `also`.

    Parameters
    ----------
    script : str
        Path in `folder`, without ".py".
    without : sequence of str
        Modules of the library to leave out: for a rule that takes long, those that do not change what it computes. A
        package stands for all its modules, here and in `also`.
    also : sequence of str
        Modules of the library to add as a whole, such as "networks.vit".
    folder : Path
        Of the scripts and the library.

    Raises
    ------
    ValueError
        If the script, or anything named or imported, is missing, or if an import is relative or has a star.
    """
    left_out = {name for module in without for name in _modules(folder, f"{LIBRARY}.{module}")}
    roots = [script, *(name for module in also for name in _modules(folder, f"{LIBRARY}.{module}"))]
    pending, reached, counted = [(root, WHOLE) for root in roots], set(), {}
    while pending:
        name, symbol = target = pending.pop()
        if name in left_out or target in reached:
            continue
        reached.add(target)
        module = _read(folder, name)
        pending += [(other, IMPORTED) for other in (module.imports if symbol == IMPORTED else [name])]
        for index, statement in enumerate(module.statements):
            if symbol is WHOLE or symbol in statement.binds or (symbol == IMPORTED and statement.runs):
                counted[name, index] = statement.text
                pending += [(name, used) for used in statement.uses & module.binds]
                pending += [_resolve(folder, *imported) for imported in statement.imports]
    lines = [f"{name}: {text}" for (name, _), text in sorted(counted.items())]
    return sha256("\n".join(lines).encode()).hexdigest()[:12]


def folder_digest(folder):
    """Hash of the files in a folder of workflow/; 12 hexadecimal digits, a parameter of rules that read them."""
    digest = sha256()
    for path in sorted((SCRIPTS.parent / folder).iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class _Statement:
    """A statement at the top level of a module, or one name of an import there.

    Parameters
    ----------
    text : str
        Equal for equal code.
    runs : bool
        Whether it counts as soon as its module is imported, since it does more than define names.
    binds, uses : set of str
        Names that it defines, and all names in it.
    imports : list of (str, str or None)
        What it imports from the library: a module, and a name in it or `WHOLE`.
    """

    text: str
    runs: bool
    binds: set
    uses: set
    imports: list


@dataclass(frozen=True)
class _Module:
    statements: list
    binds: set  # names that its statements define
    imports: set  # modules of the library that importing it executes


@cache  # Snakemake takes the digests of all scripts at every start
def _read(folder, name):
    """A script or a module, given by its name with dots."""
    path = _existing(folder, name)
    statements, imports = [], {".".join(name.split(".")[:depth]) for depth in range(1, name.count(".") + 1)}
    for node in filter(_does_something, ast.parse(path.read_bytes(), path).body):
        for part in _one_by_one(node):
            statement = _statement(part, path)
            statements.append(statement)
            if isinstance(part, _IMPORTS):
                imports.update(module for module, _ in statement.imports)
                submodules = (f"{module}.{symbol}" for module, symbol in statement.imports)
                imports.update(module for module in submodules if _path(folder, module))
    return _Module(statements, set().union(*(statement.binds for statement in statements)), imports)


def _path(folder, name):
    """File of a script, a module or a package; None if there is none."""
    path = folder.joinpath(*name.split("."))
    candidates = path.with_name(f"{path.name}.py"), path / "__init__.py"
    return next((candidate for candidate in candidates if candidate.exists()), None)


def _existing(folder, name):
    """The same, if there has to be one."""
    path = _path(folder, name)
    if path is None:
        raise ValueError(f"code digest: {name} is imported, or named in a rule, but is not in {folder}.")
    return path


def _modules(folder, name):
    """Names of a module and, if it is a package, of all modules below it."""
    path = _existing(folder, name)
    if path.name != "__init__.py":
        return [name]
    below = (file.relative_to(folder).with_suffix("").parts for file in path.parent.rglob("*.py"))
    return [".".join(parts).removesuffix(".__init__") for parts in below]


def _resolve(folder, module, symbol):
    """Where something imported is defined: a module, and a name in it or `WHOLE`."""
    if symbol is WHOLE or symbol in _read(folder, module).binds:
        return module, symbol
    return f"{module}.{symbol}", WHOLE


def _one_by_one(node):
    """An import of several names as imports of one; any other statement as it is."""
    if not isinstance(node, _IMPORTS):
        return [node]
    parts = [copy(node) for _ in node.names]
    for part, alias in zip(parts, node.names, strict=True):
        part.names = [alias]
    return parts


def _statement(node, path):
    names, binds, imports = set(), set(), []
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            names.add(part.id)
            if isinstance(part.ctx, ast.Store):
                binds.add(part.id)
        elif isinstance(part, _SCOPES):
            binds.add(part.name)
        elif isinstance(part, _IMPORTS):
            binds.update(alias.asname or alias.name.split(".")[0] for alias in part.names)
            imports += _of_library(part, path)
    if isinstance(node, _SCOPES):
        binds = {node.name}
    return _Statement(_text(node), not _only_defines(node), binds, names, imports)


def _of_library(node, path):
    """What an import imports from the library: modules, each with a name or `WHOLE`."""
    if isinstance(node, ast.Import):
        found = [(alias.name, WHOLE) for alias in node.names]
    elif node.level or node.names[0].name == "*":
        raise ValueError(
            f"code digest: {path}, line {node.lineno}: relative imports and `import *` are not followed; import each"
            " name from the full name of its module."
        )
    else:
        found = [(node.module, alias.name) for alias in node.names]
    return [(module, symbol) for module, symbol in found if module.split(".")[0] == LIBRARY]


def _only_defines(node):
    """Whether a statement does nothing but give names a meaning, as far as its form tells."""
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        plain = ast.Name | ast.Tuple | ast.List | ast.Starred | ast.expr_context
        return all(isinstance(part, plain) for target in targets for part in ast.walk(target))
    return isinstance(node, _SCOPES | _IMPORTS)


def _text(value):
    """A syntax tree in a form that is the same for equal code, in every version of Python."""
    if isinstance(value, list):
        return f"[{' '.join(map(_text, filter(_does_something, value)))}]"
    if not isinstance(value, ast.AST):
        return ascii(value)  # not repr: which characters that escapes depends on the version
    fields = []
    for name in value._fields:
        field = getattr(value, name, None)
        if isinstance(value, ast.JoinedStr):  # Python 3.12 adds empty strings to some
            field = [part for part in field if not (isinstance(part, ast.Constant) and part.value == "")]
        # Fields that only newer versions have are empty in code that older ones can read.
        if name not in REDUNDANT and (field or name == "value"):
            fields.append(f"{name}={_text(field)}")
    return f"{type(value).__name__}({' '.join(fields)})"


def _does_something(statement):
    """False for a docstring, another lone constant, and `pass`."""
    if isinstance(statement, ast.Expr):
        return not isinstance(statement.value, ast.Constant)
    return not isinstance(statement, ast.Pass)
