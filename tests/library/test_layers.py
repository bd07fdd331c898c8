"""The library's parts, from the lowest: each imports from itself and from those before it alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

WORKFLOW = Path(__file__).parents[2] / "workflow"
BASE = ("disk", "notation", "options", "tables", "jobs", "ownership", "registry")
LAYERS = ("toy", "data", "networks", "training", "probes", "evidence", "figures", "pages", "study", "gpu_check")
TABLES_ONLY = ("toy", "evidence", "figures", "pages")  # need no torch: a study without networks runs without it
TORCH = {"torch", "torchvision", "safetensors"}


def module_name(path, root=WORKFLOW):
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path, root=WORKFLOW):
    """Names of all that a file imports, wherever in it; of `from a import b`, both a and a.b."""
    package = module_name(path, root).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def part(name):
    """Part of the library that a module belongs to, such as toy or tables; None outside of it."""
    package, _, rest = name.partition(".")
    return rest.split(".")[0] if package == "rank_increase" and rest else None


def rank(name):
    """Height of a part: base modules lie below all others."""
    return LAYERS.index(name) + 1 if name in LAYERS else 0


def upward_imports(root=WORKFLOW):
    """(module, import) wherever a part imports one above itself."""
    return [
        (module_name(path, root), name)
        for path in sorted((root / "rank_increase").rglob("*.py"))
        for name in sorted(imported(path, root))
        if part(name) and part(name) != part(module_name(path, root))
        if rank(part(name)) > rank(part(module_name(path, root)))
    ]


def reached(path, root=WORKFLOW, seen=None):
    """Names of all that a file imports, directly or through files of the workflow."""
    seen = set() if seen is None else seen
    for name in imported(path, root) - seen:
        seen.add(name)
        base = root.joinpath(*name.split("."))
        for candidate in (base.with_suffix(".py"), base / "__init__.py"):
            if candidate.exists():
                reached(candidate, root, seen)
    return seen


def torch_imports(path, root=WORKFLOW):
    return {name for name in reached(path, root) if name.split(".")[0] in TORCH}


def files(*folders):
    return [path for folder in folders for path in sorted((WORKFLOW / folder).rglob("*.py"))]


def test_every_part_of_the_library_has_its_layer():
    parts = {path.stem for path in (WORKFLOW / "rank_increase").iterdir() if path.name[0] not in "_."}
    assert parts == {*BASE, *LAYERS}


def test_imports_point_downwards():
    assert upward_imports() == []


def test_base_modules_import_only_one_another():
    found = {name: part(name) for path in BASE for name in imported(WORKFLOW / "rank_increase" / f"{path}.py")}
    assert {part for part in found.values() if part} <= {*BASE}


def test_the_library_imports_no_script_and_no_test():
    found = {(module_name(path), name) for path in files("rank_increase") for name in imported(path)}
    assert {pair for pair in found if pair[1].split(".")[0] in ("scripts", "toy", "tests", "conftest")} == set()


@pytest.mark.parametrize("name", ["evidence", "figures", "pages"])
def test_what_reads_tables_knows_nothing_of_what_wrote_them(name):
    paths = files(f"rank_increase/{name}", f"scripts/{name}")
    parts = {part(module) for path in paths for module in reached(path)} - {None}
    assert "tables" in parts
    assert parts & {"data", "networks", "training", "probes"} == set()


@pytest.mark.parametrize("name", TABLES_ONLY)
def test_parts_that_compute_or_read_tables_import_no_torch(name):
    library = files(f"rank_increase/{name}")
    assert library
    for path in library + files(f"scripts/{name}"):
        assert torch_imports(path) == set(), path


def test_toy_and_figures_are_imported_without_torch():
    paths = files("rank_increase/toy", "rank_increase/figures", "scripts/toy", "scripts/figures")
    modules = [module_name(path) for path in paths]
    assert len(modules) > 30
    code = f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\n"
    code += f"print(*sorted({TORCH} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=WORKFLOW, capture_output=True, text=True)
    assert (run.returncode, run.stdout.strip()) == (0, ""), run.stderr


@pytest.mark.parametrize("path", files("scripts"), ids=module_name)
def test_scripts_are_small(path):
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(lines) <= 60


SOURCES = {
    "import rank_increase.study.plan": [("rank_increase.toy.made_up", "rank_increase.study.plan")],
    "def later():\n    from rank_increase.data import packed": [
        ("rank_increase.toy.made_up", "rank_increase.data"),
        ("rank_increase.toy.made_up", "rank_increase.data.packed"),
    ],
    "from rank_increase import training": [("rank_increase.toy.made_up", "rank_increase.training")],
    "from ..study import plan": [
        ("rank_increase.toy.made_up", "rank_increase.study"),
        ("rank_increase.toy.made_up", "rank_increase.study.plan"),
    ],
    "from . import heads\nfrom rank_increase import tables\nimport numpy": [],
}


@pytest.fixture
def made_up(tmp_path):
    """A workflow with one module rank_increase.toy.made_up, and one of another part, which imports torch."""
    for name in ("toy", "study"):
        (tmp_path / "rank_increase" / name).mkdir(parents=True)
    (tmp_path / "rank_increase" / "study" / "plan.py").write_text("def f():\n    import torch.nn\n")

    def make(source):
        path = tmp_path / "rank_increase" / "toy" / "made_up.py"
        path.write_text(source)
        return path

    return make


@pytest.mark.parametrize("source", SOURCES)
def test_an_import_that_points_upwards_is_found(made_up, tmp_path, source):
    made_up(source)
    assert upward_imports(tmp_path) == SOURCES[source]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch", {"torch"}),
        ("from rank_increase.study.plan import f", {"torch.nn"}),
        ("from ..study import plan", {"torch.nn"}),
        ("import torchlike", set()),
    ],
)
def test_torch_is_found_through_other_modules(made_up, tmp_path, source, expected):
    assert torch_imports(made_up(source), tmp_path) == expected
