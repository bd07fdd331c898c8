import sys
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rank_increase import registry
from rank_increase.probes import measures
from rank_increase.registry import HOMES, LIBRARY, RegistryError, find, register, registered

EXTENSION = '''
"""A file of the user's."""

import this_module_does_not_exist
from rank_increase.registry import register


def not_registered(*, rate: Count = 3):
    """Not in the registry."""


@register.loss("{name}", weights=[0.5, 2.0], unit="nats")
def loss(logits, labels, *, smoothing: Share = 0.1, classes: Count, names: list[Name] | None = None):
    """Cross-entropy of the made-up kind.

    More of it, over
    two lines.

    Parameters
    ----------
    logits, labels : torch.Tensor
        Not options.
    smoothing : float
        Share of the mass that goes to
        all classes alike.

        In two paragraphs.
    other, classes, more : int
        How many there are.

    Raises
    ------
    ValueError
        If it does not like them.
    """


@register.model("{name}")
class Model:
    """A model without options."""


@register.optimizer("{name}", momentum=0.5)
class Optimizer:
    """An optimizer with some."""

    def step(self, *, ignored: int):
        pass

    def __init__(self, parameters, *, momentum: NotNegative = 0.0, nesterov: Flag = False):
        pass
'''


@pytest.fixture
def extension(tmp_path):
    """Writes a file of the user's; gives its path as the configuration has it."""

    def write(source, name="extension.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
        return str(path)

    return write


@pytest.fixture
def loss(extension):
    return find("loss", "mine", (extension(EXTENSION.replace("{name}", "mine")),))


@pytest.mark.parametrize("kind", HOMES)
def test_every_kind_has_entries_with_what_the_configuration_needs(kind):
    found = registered(kind)
    assert found
    for name, entry in found.items():
        assert (entry.kind, entry.name) == (kind, name)
        assert entry.summary and entry.description.startswith(entry.summary)
        assert entry.path.is_relative_to((LIBRARY / HOMES[kind]).resolve())
        fields = entry.options().model_fields
        assert list(fields) == [option for option in entry.parameters if option not in entry.details]


@pytest.mark.parametrize("kind", ["measure", "claim", "figure"])
def test_what_is_registered_loads_under_the_name_of_its_definition(kind):
    for entry in registered(kind).values():
        assert entry.load().__name__ == entry.definition
        assert Path(sys.modules[entry.load().__module__].__file__) == entry.path


def test_names_are_found_without_importing_anything(extension):
    path = extension(EXTENSION.replace("{name}", "mine"))  # it imports a module that does not exist
    assert "mine" in registered("loss", (path,))
    assert {"cross_entropy", "squared_error"} <= set(registered("loss", (path,)))
    assert "mine" not in registered("loss")
    with pytest.raises(ModuleNotFoundError, match="this_module_does_not_exist"):
        find("loss", "mine", (path,)).load()


def test_only_what_is_decorated_is_registered_and_only_as_its_kind(extension):
    path = extension(EXTENSION.replace("{name}", "mine"))
    added = {kind: set(registered(kind, (path,))) - set(registered(kind)) for kind in HOMES}
    expected = {"loss": {"mine"}, "model": {"mine"}, "optimizer": {"mine"}}
    assert added == {kind: expected.get(kind, set()) for kind in HOMES}


def test_an_entry_has_the_decorators_arguments_and_the_docstring(loss):
    assert loss.details == {"weights": [0.5, 2.0], "unit": "nats"}
    assert loss.definition == "loss"
    assert loss.summary == "Cross-entropy of the made-up kind."
    assert loss.caption == "Cross-entropy of the made-up kind.\n\nMore of it, over\ntwo lines."
    assert loss.description.endswith("If it does not like them.")
    assert loss.module is None


def test_options_are_the_keyword_only_parameters(loss):
    assert loss.parameters == {
        "smoothing": ("Share", "0.1", "Share of the mass that goes to all classes alike. In two paragraphs."),
        "classes": ("Count", None, "How many there are."),
        "names": ("list[Name] | None", "None", ""),
    }


def test_options_become_a_strict_model_with_their_defaults_and_descriptions(loss):
    options = loss.options()
    assert options(classes=3).model_dump() == {"smoothing": 0.1, "classes": 3, "names": None}
    assert list(options.model_fields) == ["smoothing", "classes", "names"]
    assert options.model_fields["classes"].description == "How many there are."
    assert options.model_fields["classes"].is_required() and not options.model_fields["names"].is_required()
    for wrong in ({}, {"classes": 0}, {"classes": "3"}, {"classes": 3, "smoothing": 0.0}, {"classes": 3, "extra": 1}):
        with pytest.raises(ValidationError):
            options(**wrong)


def test_options_of_a_class_are_those_of_its_init_and_none_without_one(extension):
    path = extension(EXTENSION.replace("{name}", "mine"))
    assert find("model", "mine", (path,)).parameters == {}
    assert find("model", "mine", (path,)).options()().model_dump() == {}
    optimizer = find("optimizer", "mine", (path,))
    assert list(optimizer.parameters) == ["momentum", "nesterov"]
    # An argument of the decorator fixes an option: the configuration cannot set it.
    assert optimizer.options()().model_dump() == {"nesterov": False}


def test_a_function_registered_twice_has_two_entries(extension):
    path = extension(
        "@register.loss('one', scale=1)\n@register.loss('two', scale=2)\ndef loss(*, scale: Count): '''A loss.'''\n"
    )
    assert [find("loss", name, (path,)).details for name in ("one", "two")] == [{"scale": 1}, {"scale": 2}]
    assert find("loss", "one", (path,)).definition == find("loss", "two", (path,)).definition == "loss"


def test_an_extension_is_imported_once(extension):
    source = "from rank_increase.registry import register\n@register.loss('mine')\ndef loss(): '''A loss.'''\n"
    path = extension(source, "imported_once_by_a_test.py")
    entry = find("loss", "mine", (path,))
    assert entry.load() is entry.load()
    assert entry.load().__module__ in sys.modules


def test_files_of_one_name_in_different_folders_are_different_modules(extension):
    source = "from rank_increase.registry import register\n@register.loss('{0}')\ndef loss(): return '{0}'\n"
    paths = tuple(extension(source.format(name), f"{name}/same.py") for name in ("one", "two"))
    assert [find("loss", name, paths).load()() for name in ("one", "two")] == ["one", "two"]


def test_an_extension_that_fails_to_import_fails_again(extension):
    path = extension("def loss(): pass\n@register.loss('mine')\nclass Loss: pass\n", "fails.py")  # without its import
    for _ in range(2):
        with pytest.raises(NameError, match="register"):
            find("loss", "mine", (path,)).load()


def test_what_is_in_the_library_is_imported_under_its_own_name():
    entry = find("measure", "stable_rank")
    assert entry.module == "rank_increase.probes.measures"
    assert entry.load() is measures.stable_rank


def test_a_decorator_returns_what_it_is_given():
    def loss():
        pass

    assert register.loss("mine", weight=3)(loss) is loss
    for kind in HOMES:
        assert getattr(register, kind)("mine")(registry) is registry


def test_nothing_is_registered_as_an_unknown_kind():
    with pytest.raises(AttributeError, match="nothing is registered as lose"):
        register.lose("mine")


def test_an_unknown_name_is_refused_with_those_that_are_known():
    with pytest.raises(RegistryError, match=r"^'huber' is no loss; known are cross_entropy, squared_error, hinge\.$"):
        find("loss", "huber")


def test_a_name_is_registered_once(extension):
    source = "@register.loss('{name}')\ndef loss(): '''A loss.'''\n"
    paths = extension(source.format(name="mine"), "one.py"), extension(source.format(name="mine"), "two.py")
    message = rf"^{paths[1]} registers the loss 'mine', as {paths[0]} does\.$"
    with pytest.raises(RegistryError, match=message):
        registered("loss", paths)
    taken = extension(source.format(name="cross_entropy"), "three.py")
    with pytest.raises(RegistryError, match=rf"^{taken} registers the loss 'cross_entropy', as .*losses\.py does\.$"):
        registered("loss", (taken,))
    other = extension("@register.model('cross_entropy')\nclass Model: '''A model.'''\n", "four.py")
    assert "cross_entropy" in registered("model", (other,))  # a name of another kind


def test_an_option_without_a_type_is_refused(extension):
    path = extension("@register.loss('mine')\ndef my_loss(logits, *, smoothing=0.1): '''A loss.'''\n")
    with pytest.raises(RegistryError, match="^my_loss: the option `smoothing` has no type.$"):
        registered("loss", (path,))


@pytest.mark.parametrize("source", ["def loss(:\n", b"\xff\xfe\x00", "a = '\x00'"])
def test_a_file_that_is_no_python_is_refused(tmp_path, source):
    path = tmp_path / "extension.py"
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    with pytest.raises(RegistryError, match=rf"^{path} cannot be read as Python: .*\.$"):
        registered("loss", (str(path),))


def test_a_file_that_is_missing_is_refused(tmp_path):
    with pytest.raises(RegistryError, match=r"absent\.py cannot be read as Python: .*No such file"):
        registered("loss", (str(tmp_path / "absent.py"),))


WORDS = st.text("abcdefghijklmnop", min_size=1, max_size=6)
VALUES = {
    "Count": st.integers(1, 10**6),
    "Size": st.integers(0, 10**6),
    "Flag": st.booleans(),
    "Positive": st.floats(1e-12, 1e12),
    "Share": st.floats(1e-6, 1.0),
    "Text": WORDS,
    "list[Positive]": st.lists(st.floats(1e-3, 1e3), max_size=3),
}
OPTIONS = st.sampled_from(sorted(VALUES)).flatmap(lambda kind: st.tuples(st.just(kind), st.none() | VALUES[kind]))
SIGNATURES = st.dictionaries(WORDS.map("option_{}".format), st.tuples(OPTIONS, WORDS), max_size=5)

NUMBERS = count()  # a file is read once


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(signature=SIGNATURES)
def test_any_signature_becomes_its_options(extension, signature):
    parameters = ", ".join(
        f"{name}: {kind}" + ("" if default is None else f" = {default!r}")
        for name, ((kind, default), _) in signature.items()
    )
    documented = "".join(f"    {name} : object\n        {text} it is.\n" for name, (_, text) in signature.items())
    source = f'@register.loss("mine")\ndef loss(logits{", *, " if signature else ""}{parameters}):\n    """A loss.\n\n'
    source += f'    Parameters\n    ----------\n    logits : array\n        Given.\n{documented}    """\n'
    entry = find("loss", "mine", (extension(source, f"extension_{next(NUMBERS)}.py"),))
    assert list(entry.parameters) == list(signature)
    fields = entry.options().model_fields
    for name, ((_, default), text) in signature.items():
        assert fields[name].description == entry.parameters[name][2] == f"{text} it is."
        assert fields[name].is_required() == (default is None)
        if default is not None:
            assert fields[name].default == default
    wanted = {name: default for name, ((_, default), _) in signature.items() if default is not None}
    if len(wanted) == len(signature):
        assert entry.options()().model_dump() == wanted
        assert entry.options()(**wanted).model_dump() == wanted


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def a(*, rate: Speed = 3):\n    '''A.'''\n", "the option `rate` of the loss 'mine' needs a type"),
        ("def a(*, rate: Count = 3 + x):\n    '''A.'''\n", "the option `rate` of the loss 'mine' needs a type"),
    ],
)
def test_an_option_of_an_unknown_type_or_without_a_literal_default_is_refused(extension, source, said):
    path = extension(f'@register.loss("mine")\n{source}')
    with pytest.raises(RegistryError, match=said):
        find("loss", "mine", (path,)).options()


def test_what_a_decorator_says_must_be_literal(extension):
    path = extension('@register.loss("mine", weight=1 / x)\ndef a():\n    """A."""\n')
    with pytest.raises(RegistryError, match="what is said of 'mine' must be literals"):
        registered("loss", (path,))


def test_figures_are_in_the_order_of_their_names():
    names = list(registered("figure"))
    assert names == sorted(names) and names[0] == "fig01"
