"""The digests of code that are parameters of rules: what changes them and what does not, under any Python."""

import ast
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank_increase.registry import find, registered
from rank_increase.study import digest
from rank_increase.study.digest import folder_digest, library_digest

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / "workflow"
SAMPLE = (ROOT / "tests" / "data" / "digest_sample.txt").read_text(encoding="utf-8")
SAMPLE_DIGEST = "ae487d34f4f4"  # of CPython 3.11, 3.12, 3.13, 3.14 and 3.15
COMMON = (WORKFLOW / "rules" / "common.smk").read_text()
NOT_TRAINING = ast.literal_eval(re.search(r"(?m)^NOT_TRAINING = (\[.*\])$", COMMON)[1])
NAMED = {  # what scripts look up by name, in the study "demo" or in any
    "networks/prepare_dataset": [find("source", "digits")],
    "networks/train_network": [find("model", "vit"), find("loss", "cross_entropy"), find("optimizer", "adam")],
    "evidence/check_claims": list(registered("claim").values()),
    "probes/measure_spectra": list(registered("measure").values()),
}
RULES = {  # script -> what its rule leaves out
    script: NOT_TRAINING if without == "NOT_TRAINING" else ast.literal_eval(without or "[]")
    for path in sorted((WORKFLOW / "rules").glob("*.smk"))
    for script, without in re.findall(
        r'(?:library|all)_digest\("([\w/]+)"(?:, also=[\w\[\]]+)?(?:, "\w+")?(?:, without=(NOT_TRAINING|\[.*?\]))?\)',
        path.read_text(),
    )
}
RULES |= {f"figures/{entry.path.stem}": [] for entry in registered("figure").values()}
TRAINING = {  # and what it waits for
    "toy/make_problem",
    "toy/run_algorithm1",
    "toy/train_toy",
    "networks/prepare_dataset",
    "networks/train_network",
}


def rule_digest(script, folder=WORKFLOW):
    """The digest of a script of the workflow, or of a copy of it in `folder`, as its rule has it."""
    named = [
        SimpleNamespace(path=folder / entry.path.relative_to(WORKFLOW), definition=entry.definition)
        for entry in NAMED.get(script, [])
    ]
    return library_digest(script, RULES[script], named, folder)


def digest_of(files, script="script", also=(), **options):
    """The digest of a script among `files`, {path: text}, with the library's own __init__.py beside them.

    What the script looks up by name is in `also`, as pairs of a file and a name in it.
    """
    with TemporaryDirectory() as folder:
        for name, text in {"rank_increase/__init__.py": "", **files}.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        named = [SimpleNamespace(path=Path(folder, path), definition=name) for path, name in also]
        return library_digest(Path(folder, f"{script}.py"), also=named, folder=Path(folder), **options)


# One Python and another

# Run in a bare Python, so that the module must need nothing but the standard library.
PROGRAM = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from types import SimpleNamespace
from rank_increase.study.digest import library_digest
digests = {}
for script, without, named in json.loads(sys.argv[2]):
    also = [SimpleNamespace(path=Path(path), definition=name) for path, name in named]
    digests[script] = library_digest(script, without=without, also=also)
sample = Path(sys.argv[3], "sample.py")
print(json.dumps([library_digest(sample, folder=sample.parent), digests]))
"""


def digests_in(python, folder):
    """What another Python says of the sample and of all scripts; None if it does not start."""
    (folder / "sample.py").write_text(SAMPLE, encoding="utf-8")
    bare = [python, "-I", "-S"]  # without installed packages
    if subprocess.run([*bare, "-c", ""], capture_output=True).returncode:
        return None
    rules = [
        (script, without, [(str(entry.path), entry.definition) for entry in NAMED.get(script, [])])
        for script, without in RULES.items()
    ]
    line = [*bare, "-W", "error", "-c", PROGRAM, WORKFLOW, json.dumps(rules), folder]
    run = subprocess.run(line, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0"})
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_the_sample_has_the_digest_that_it_had_under_every_python_so_far():
    assert digest_of({"sample.py": SAMPLE}, "sample") == SAMPLE_DIGEST


@pytest.mark.parametrize(
    "python", [sys.executable, *(f"python3.{minor}" for minor in range(11, 16))], ids=os.path.basename
)
def test_digests_are_the_same_under_another_python(tmp_path, python):
    found = digests_in(python, tmp_path) if shutil.which(python) else None
    if found is None:
        pytest.skip(f"no {python} on this machine")
    assert found == [SAMPLE_DIGEST, {script: rule_digest(script) for script in RULES}]


def test_what_trees_of_other_pythons_have_more_or_less_does_not_count():
    tree = ast.parse(SAMPLE)
    expected = digest._text(tree)
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            node._fields, node.type_params = (*node._fields, "type_params"), []  # 3.12
        elif isinstance(node, ast.Import | ast.ImportFrom):
            node._fields, node.is_lazy = (*node._fields, "is_lazy"), 0  # 3.15
        elif isinstance(node, ast.JoinedStr):
            node.values = [*node.values, ast.Constant("")]  # 3.12, in format specifications
        elif isinstance(node, ast.Constant):
            node.kind = None if node.kind else "u"
    assert ast.dump(tree) != ast.dump(ast.parse(SAMPLE))
    assert digest._text(tree) == expected


# Comments, docstrings and formatting


def reformatted(text):
    return ast.unparse(ast.parse(text))


@pytest.mark.parametrize("script", RULES)
def test_formatting_all_code_anew_changes_no_digest(tmp_path, script):
    for path in WORKFLOW.rglob("*.py"):
        copy = tmp_path / path.relative_to(WORKFLOW)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(reformatted(path.read_text(encoding="utf-8")), encoding="utf-8")
    assert rule_digest(script, tmp_path) == rule_digest(script)


def ends_of_lines(text):
    """Numbers of the lines, from 0, at whose end a statement ends."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [token.start[0] - 1 for token in tokens if token.type == tokenize.NEWLINE]


remarks = st.sampled_from(["  # a remark: é", "\n", "\n\n# a line = 1\n", "\n        # not as deep as the code", " "])


@given(st.lists(st.tuples(st.sampled_from(ends_of_lines(SAMPLE)), remarks)))
def test_comments_and_blank_lines_never_change_a_digest(edits):
    lines = SAMPLE.splitlines()
    for line, remark in dict(edits).items():
        lines[line] += remark
    assert digest_of({"sample.py": "\n".join(lines)}, "sample") == SAMPLE_DIGEST


def test_line_ends_and_a_byte_order_mark_do_not_change_a_digest():
    text = "\ufeff" + SAMPLE.replace("\n", "\r\n")
    assert digest_of({"sample.py": text}, "sample") == SAMPLE_DIGEST


class Docstrings(ast.NodeTransformer):
    """Gives docstrings, or none, to everything that can have one."""

    def __init__(self, texts):
        self.texts = iter(texts)

    def generic_visit(self, node):
        super().generic_visit(node)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = next(self.texts)
            docstring = [] if text is None else [ast.Expr(ast.Constant(text))]
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            node.body = docstring + body or [ast.Pass()]
        return node


SCOPES = sum(
    isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(SAMPLE))
)


@given(st.lists(st.none() | st.text(st.characters(codec="utf-8")), min_size=SCOPES, max_size=SCOPES))
def test_docstrings_never_change_a_digest(texts):
    tree = ast.parse(SAMPLE.replace("from __future__ import annotations\n", ""))
    expected = digest_of({"sample.py": ast.unparse(tree)}, "sample")
    edited = ast.unparse(ast.fix_missing_locations(Docstrings(texts).visit(tree)))
    assert digest_of({"sample.py": edited}, "sample") == expected


# What code does

USED = '''
"""A module."""
from math import pi
LIMITS = {"low": -1.5, "high": [2, None, True]}
def used(x, y=3, *, name="a"):
    """Not this."""
    value = x + y * 2 if x < y and not (x == 0 or y != 1) else -x // 4
    value += LIMITS["low"] ** pi
    match value:
        case 5 | None:
            return b"bytes", ..., 1j
        case [True, "text"]:
            return x in (y, x) is y
    return f"{value:.{y}f} and {name!r:>10}" "joined"
'''
FILES = {"script.py": "from rank_increase.used import used\nprint(used(1))\n", "rank_increase/used.py": USED}


OPERATORS = {
    **dict.fromkeys((ast.Add, ast.Mult, ast.FloorDiv, ast.Pow), ast.Sub),
    **{ast.Lt: ast.LtE, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.Is, ast.Is: ast.IsNot},
    **{ast.And: ast.Or, ast.Or: ast.And, ast.Not: ast.UAdd, ast.USub: ast.Invert},
}


def changes(node):
    """Other values for fields of a node: one constant, operator, name or conversion each."""
    match node:
        case ast.Constant(value="A module." | "Not this."):
            return
        case ast.Constant(value=bool() as value) | ast.MatchSingleton(value=value):
            yield "value", not value
        case ast.Constant(value=str() | bytes() as value):
            yield "value", value + value[:1]
        case ast.Constant(value=int() | complex() | float() as value):
            yield "value", value + 1
        case ast.Constant():
            yield "value", "other"
        case ast.Compare(ops=[first, *rest]):
            yield "ops", [OPERATORS[type(first)](), *rest]
        case ast.BinOp() | ast.BoolOp() | ast.UnaryOp() | ast.AugAssign():
            yield "op", OPERATORS[type(node.op)]()
        case ast.FormattedValue():
            yield "conversion", ord("s")
    for field in ("id", "arg", "name", "module"):
        if isinstance(name := getattr(node, field, None), str):
            yield field, f"{name}_"


def mutants(text):
    """The text with one of these changes, for each of them."""
    for place, node in enumerate(ast.walk(ast.parse(text))):
        for field, value in changes(node):
            tree = ast.parse(text)
            setattr(list(ast.walk(tree))[place], field, value)
            yield ast.unparse(ast.fix_missing_locations(tree))


def test_any_change_of_a_constant_an_operator_or_a_name_changes_the_digest():
    script = "from rank_increase import used\nprint(used)\n"
    texts = [reformatted(USED), *mutants(USED)]
    assert len(set(texts)) == len(texts) > 60
    assert len({digest_of({"script.py": script, "rank_increase/used.py": text}) for text in texts}) == len(texts)


# What a script uses

LIBRARY = {
    "script.py": """
import numpy as np
from rank_increase.used import FACTOR as factor, used
from rank_increase.left_out import log
if __name__ == "__main__":
    log(used(np.pi, factor))
""",
    "rank_increase/used.py": """
import json
import math
from rank_increase import whole
from rank_increase.package.module import deeper
from rank_increase.package import again, unused_too
FACTOR, OTHER = 2, 3
FACTOR += 1
TABLE = {"a": 1}
TABLE["b"] = 2
LABELS = {"a": json}
def used(x, y):
    from rank_increase.late import late
    return Box(x).value + math.pi + deeper(y) + again(y) + late + whole.value
class Box:
    def __init__(self, value):
        self.value = helper(value)
def helper(value):
    return value
def unused(value):
    return helper(value) + LABELS["a"]
if TABLE:
    SWITCH = 4
""",
    "rank_increase/whole.py": "value = 5\nanother_value = 6\n",
    "rank_increase/late.py": "late = 7\nnot_late = 8\n",
    "rank_increase/package/__init__.py": "from rank_increase.package.other import again, unused_too\nprint(9)\n",
    "rank_increase/package/module.py": "import rank_increase.imported\nDEPTH = 10\ndef deeper(y):\n    return DEPTH\n",
    "rank_increase/package/other.py": "again = abs\nunused_too = 11\n",
    "rank_increase/package/registry.py": (
        "from rank_increase.late import not_late\ndef registered():\n    return 12 * not_late\n"
        "def another():\n    return 17\n"
    ),
    "rank_increase/imported.py": "print(13)\nnever_used = 14\n",
    "rank_increase/left_out.py": "def log(text):\n    print(15)\n",
    "rank_increase/alone.py": "print(16)\n",
}


@pytest.mark.parametrize(
    ("module", "old", "new", "counts"),
    [
        ("used", "FACTOR, OTHER = 2, 3", "FACTOR, OTHER = 0, 3", True),
        ("used", "FACTOR += 1", "FACTOR += 0", True),
        ("used", "math.pi", "math.e", True),
        ("used", "helper(value)\ndef", "-helper(value)\ndef", True),  # by way of a class
        ("used", "    return value\n", "    return -value\n", True),
        ("used", "SWITCH = 4", "SWITCH = 0", True),  # no definition
        ("used", '"b"] = 2', '"b"] = 0', True),
        ("used", '{"a": 1}', '{"a": 0}', True),  # used by what is no definition
        ("used", "import math", "import cmath as math", True),
        ("used", "import json", "import pickle as json", False),
        ("used", 'helper(value) + LABELS["a"]', "0", False),
        ("used", 'LABELS = {"a": json}', "LABELS = {}", False),
        ("used", "again, unused_too", "again", False),
        ("used", "import json\n", "import json\nimport csv\n", False),
        ("used", "def unused", "def added():\n    return 1\ndef unused", False),
        ("whole", "value = 5", "value = 0", True),
        ("whole", "another_value = 6", "another_value = 0", True),
        ("late", "late = 7", "late = 0", True),
        ("late", "not_late = 8", "not_late = 0", False),
        ("package/__init__", "print(9)", "print(0)", True),
        ("package/module", "DEPTH = 10", "DEPTH = 0", True),
        ("package/other", "again = abs", "again = int", True),
        ("package/other", "unused_too = 11", "unused_too = 0", False),
        ("package/registry", "12", "0", False),
        ("imported", "print(13)", "print(0)", True),
        ("imported", "never_used = 14", "never_used = 0", False),
        ("left_out", "print(15)", "print(0)", False),
        ("alone", "print(16)", "print(0)", False),
    ],
)
def test_a_digest_changes_with_the_code_that_a_script_uses_and_no_other(module, old, new, counts):
    path = f"rank_increase/{module}.py"
    assert LIBRARY[path].count(old) >= 1
    edited = {**LIBRARY, path: LIBRARY[path].replace(old, new, 1)}
    assert (digest_of(edited, without=["left_out"]) != digest_of(LIBRARY, without=["left_out"])) == counts


def edit(path, old, new):
    assert old in LIBRARY[f"rank_increase/{path}.py"]
    return {**LIBRARY, f"rank_increase/{path}.py": LIBRARY[f"rank_increase/{path}.py"].replace(old, new, 1)}


def test_nothing_is_left_out_unasked():
    assert digest_of(edit("left_out", "15", "0")) != digest_of(LIBRARY)


def test_what_is_looked_up_by_its_name_is_added_with_what_it_uses_and_no_more_of_its_module():
    named = {"also": [("rank_increase/package/registry.py", "registered")]}
    plain, added = digest_of(LIBRARY), digest_of(LIBRARY, **named)
    assert plain != added
    for edited in (edit("package/registry", "12", "0"), edit("late", "not_late = 8", "not_late = 0")):
        assert digest_of(edited) == plain
        assert digest_of(edited, **named) != added
    for edited in (edit("alone", "16", "0"), edit("package/registry", "17", "0")):
        assert digest_of(edited, **named) == added


def test_a_package_is_left_out_with_all_its_modules():
    options = {"without": ["package"]}
    for edited in (edit("package/__init__", "9", "0"), edit("package/module", "10", "0"), edit("imported", "13", "0")):
        assert digest_of(edited, **options) == digest_of(LIBRARY, **options)
        assert digest_of(edited) != digest_of(LIBRARY)


@pytest.mark.parametrize(
    "line", ["import rank_increase.late", "import rank_increase.late as l", "import rank_increase.late, os"]
)
def test_a_module_that_is_imported_itself_counts_as_a_whole(line):
    before, after = ({"script.py": line, "rank_increase/late.py": f"late = {number}"} for number in (1, 2))
    assert digest_of(before) != digest_of(after)


def test_modules_that_import_each_other_have_a_digest():
    def files(number):
        first = "from rank_increase.b import g\ndef f(n):\n    return g(n)\n"
        second = f"from rank_increase.a import f\ndef g(n):\n    return f(n - {number})\n"
        return {
            "script.py": "from rank_increase.a import f\n",
            "rank_increase/a.py": first,
            "rank_increase/b.py": second,
        }

    assert digest_of(files(1)) == digest_of(files(1)) != digest_of(files(2))


def test_equal_names_in_two_modules_are_told_apart():
    def files(first, second):
        modules = {"rank_increase/a.py": "def f():\n    return 1\n", "rank_increase/b.py": "def f():\n    return 2\n"}
        return {
            "script.py": f"from rank_increase.{first} import f\nfrom rank_increase.{second} import f as g\n",
            **modules,
        }

    assert digest_of(files("a", "b")) != digest_of(files("b", "a"))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("from . import late", "line 2: relative imports and `import .` are not followed"),
        ("from .late import late", "line 2: relative imports"),
        ("def f():\n    from ..late import late", "line 3: relative imports"),
        ("from rank_increase.late import *", "line 2: relative imports and `import .` are not followed"),
        ("from math import *", "line 2: relative imports and `import .` are not followed"),
        (
            "from rank_increase.late import early",
            "rank_increase.late.early is imported, or named in a rule, but is not in",
        ),
        (
            "from rank_increase.nosuch import late",
            "rank_increase.nosuch is imported, or named in a rule, but is not in",
        ),
        ("import rank_increase.nosuch", "rank_increase.nosuch is imported, or named in a rule, but is not in"),
    ],
)
def test_an_import_that_cannot_be_followed_is_refused(line, sentence):
    with pytest.raises(ValueError, match=sentence):
        digest_of({**LIBRARY, "script.py": f"import os\n{line}\n"})


def test_a_misspelt_module_or_script_is_refused():
    with pytest.raises(ValueError, match="rank_increase.left is imported, or named in a rule, but is not in"):
        digest_of(LIBRARY, without=["left"])
    with pytest.raises(ValueError, match="nosuch is imported, or named in a rule, but is not in"):
        digest_of(LIBRARY, "nosuch")


def test_each_file_is_read_once_for_all_scripts(monkeypatch):
    digest._read.cache_clear()
    read, parse = [], ast.parse
    monkeypatch.setattr(digest.ast, "parse", lambda text, path: read.append(path) or parse(text, path))
    for script in RULES:
        rule_digest(script)
    assert len(read) == len(set(read)) > len(RULES)


# The digests of the rules


def test_a_digest_is_short_and_each_script_has_its_own():
    digests = [rule_digest(script) for script in RULES]
    assert all(re.fullmatch("[0-9a-f]{12}", digest) for digest in digests)
    assert len(set(digests)) == len(digests)


def test_a_digest_depends_neither_on_the_place_nor_on_the_age_of_the_code(tmp_path):
    copy = shutil.copytree(WORKFLOW, tmp_path / "elsewhere")
    for path in copy.rglob("*.py"):
        path.touch()
    for script in ("toy/train_toy", "networks/train_network"):
        assert rule_digest(script, copy) == rule_digest(script)


@pytest.mark.parametrize(
    ("module", "old", "new", "trained"),
    [
        ("notation", "α = {alpha}", "alpha = {alpha}", ""),
        ("notation", "PRODUCTS =", 'PRODUCT_LABELS = {"KQ": "K"}\nPRODUCTS =', ""),
        ("notation", "value.ln()", "value.log10()", "train_toy"),
        ("notation", '("W_K", "W_Q",', '("W_Q", "W_K",', "make_problem run_algorithm1 train_toy train_network"),
        ("jobs", "done in %.1f s", "took %.1f s", ""),
        ("jobs", "failed", "stopped", ""),
        ("ownership", "SILENCE =", "SILENCE = 2 *", ""),
        ("tables", "def collect(", "def add(", ""),
        ("toy/kernels", "dq[:], db[:] = 0.0, 0.0", "dq[:], db[:] = 1.0, 0.0", "make_problem run_algorithm1 train_toy"),
        ("toy/rkc", "@cache\n", "@cache\n@cache\n", "run_algorithm1 train_toy"),
        ("data/packed", "def open_dataset(", "@staticmethod\ndef open_dataset(", "prepare_dataset train_network"),
        ("data/batches", "class Batches", "@abs\nclass Batches", "train_network"),
        ("data/packed", "def pack(", "@staticmethod\ndef pack(", "prepare_dataset"),
        ("data/sources/digits", "def digits(", "@staticmethod\ndef digits(", "prepare_dataset"),
        ("data/sources/folder", "def image_folder(", "@staticmethod\ndef image_folder(", ""),
        ("networks/attention", "class Attention(", "@abs\nclass Attention(", "train_network"),
        ("networks/vit", "class VisionTransformer(", "@abs\nclass VisionTransformer(", "train_network"),
        ("training/losses", "def cross_entropy(", "@abs\ndef cross_entropy(", "train_network"),
        ("training/losses", "def squared_error(", "@abs\ndef squared_error(", ""),
        ("training/optimizers", "def sgd(", "@abs\ndef sgd(", ""),
        ("probes/spectra", "GRAM_FLOOR =", "GRAM_FLOOR = 2 *", ""),
        ("figures/style", "PAGE_WIDTH =", "PAGE_WIDTH = 2 *", ""),
    ],
)
def test_only_an_edit_of_what_trains_trains_anew(tmp_path, module, old, new, trained):
    copy = shutil.copytree(WORKFLOW, tmp_path / "workflow")
    path = copy / "rank_increase" / f"{module}.py"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    changed = {Path(script).name for script in TRAINING if rule_digest(script, copy) != rule_digest(script)}
    assert changed == set(trained.split())


def test_the_digest_of_a_folder_changes_with_its_files_and_not_with_their_age(tmp_path, monkeypatch):
    monkeypatch.setattr(digest, "WORKFLOW", tmp_path)
    file = tmp_path / "page" / "style.css"
    file.parent.mkdir()
    digests = []
    for text in ("p { margin: 0 }", "p { margin: 0 }", "p { margin: 1em }"):
        file.write_text(text)
        digests.append(folder_digest("page"))
    assert digests[0] == digests[1] != digests[2]
