"""The package from outside: what importing it pulls in, and what it documents."""

import doctest
import importlib
import importlib.metadata
import importlib.resources
import inspect
import pathlib
import re
import subprocess
import sys

import pytest

import eagc_jax
from eagc_jax import diagnostics

FUNCTIONS = {
    name: getattr(eagc_jax, name)
    for name in eagc_jax.__all__
    if inspect.isfunction(getattr(eagc_jax, name))
} | {"diagnostics.report": diagnostics.report}


def test_the_core_imports_only_jax_numpy_and_optax():
    """Nor the part for category discovery, which needs the others."""
    code = """
import sys
import eagc_jax
assert "jax" not in sys.modules  # nor this, before something is used
from eagc_jax import *
assert "jax" in sys.modules
heavy = {
    "chex", "equinox", "flax", "hypothesis", "matplotlib", "orbax", "pandas", "PIL",
    "pytest", "rich", "sklearn", "torch", "eagc_jax.gcd",
}
print(sorted(heavy & set(sys.modules)))
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def sources():
    """All of them, by their path."""
    root = pathlib.Path(eagc_jax.__file__).parent
    return {path.relative_to(root): path for path in root.rglob("*.py")}


def core_files():
    """The sources outside of the part for category discovery, by their path."""
    return {name: path for name, path in sources().items() if name.parts[0] != "gcd"}


def test_only_declared_dependencies_are_imported_in_the_sources():
    """jax itself brings scipy: sys.modules can't tell who imported that."""
    allowed = sys.stdlib_module_names | {"jax", "numpy", "optax", "eagc_jax"}
    assert len(core_files()) > 80
    for name, path in core_files().items():
        for line in path.read_text().splitlines():
            words = line.split()
            if words[:1] in (["import"], ["from"]) and line[0] != " ":
                assert words[1].split(".")[0] in allowed, (name, line)
                assert not words[1].startswith("eagc_jax.gcd"), (name, line)


def test_any_is_rare():
    """Trees have names of their own, in ``eagc_jax.typing``."""
    files = [path.read_text() for path in sources().values()]
    lines = sum(len(text.splitlines()) for text in files)
    assert sum(len(re.findall(r"\bAny\b", text)) for text in files) < 4e-3 * lines


MODULES = {
    "energy": "ENERGIES NONFINITE_POLICIES AssessEnergyState assess_energy",
    "gating": "BlockMemory SoftGateState minimum_temperature soft_gate",
    "blocks": "GLOBAL GRANULARITIES ByLeaf Granularity Layout Place Split spec_of",
    "features.projection": "ElasticProjectionState elastic_projection",
    "aggregators": "AggregateState DirectState GramOptions Problem from_weighting",
    "objectives": "AssessedUpdates expand_to named_leaves stack_objectives",
}


@pytest.mark.parametrize("name", MODULES)
def test_names_are_imported_from_where_they_always_were(name):
    """Pickled states and users' imports name these modules."""
    module = importlib.import_module(f"eagc_jax.{name}")
    for public in MODULES[name].split():
        assert hasattr(module, public), public


def test_no_core_file_is_crowded():
    """One concern a file: one that grows beyond this becomes a package."""
    for name, path in core_files().items():
        assert len(path.read_text().splitlines()) < 400, name


def test_public_names_exist_once_and_in_order():
    assert list(eagc_jax.__all__) == sorted(set(eagc_jax.__all__))
    for name in eagc_jax.__all__:
        assert getattr(eagc_jax, name) is not None


def test_everything_imported_is_public():
    modules = {
        name
        for name, value in vars(eagc_jax).items()
        if inspect.ismodule(value) and name not in eagc_jax.__all__
    }
    names = {name for name in vars(eagc_jax) if not name.startswith("_")} - modules
    assert names == set(eagc_jax.__all__) - {"__version__"}


@pytest.mark.parametrize("name", sorted(set(eagc_jax.__all__) - {"__version__"}))
def test_public_names_are_documented(name):
    documented = inspect.getdoc(getattr(eagc_jax, name))
    assert documented
    first = documented.splitlines()[0]
    assert first.endswith((".", ":")), first


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_functions_document_arguments_results_errors_and_an_example(name):
    function = FUNCTIONS[name]
    documented = inspect.getdoc(function)
    for section in ("Args:", "Returns:", "Raises:", "Examples:"):
        assert f"\n{section}\n" in documented, f"{name} lacks {section}"
    arguments = documented.split("\nArgs:\n")[1].split("\nReturns:\n")[0]
    for argument, parameter in inspect.signature(function).parameters.items():
        stars = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        told = f"  {stars}{argument}: " in arguments
        assert told, f"{name} does not document {argument}"
    assert doctest.DocTestParser().get_examples(documented)
    order = [documented.index(f"\n{s}:\n") for s in ("Args", "Returns", "Raises")]
    assert order == sorted(order)
    assert order[-1] < documented.index("\nExamples:\n")


def test_functions_are_annotated():
    for name, function in FUNCTIONS.items():
        signature = inspect.signature(function)
        assert signature.return_annotation is not inspect.Signature.empty, name
        for parameter in signature.parameters.values():
            assert parameter.annotation is not inspect.Parameter.empty, (
                name,
                parameter,
            )


def test_eagc_takes_the_arguments_of_its_stages_with_their_defaults():
    """None stands for them where only preset "article", or an energy, has the stage."""
    own = dict(inspect.signature(eagc_jax.eagc).parameters)
    cone = inspect.signature(eagc_jax.aggregators.elastic_cone).parameters
    assert own.pop("preset").default == "balanced"
    for name in ("memory", "conflict_memory", "release"):
        assert own.pop(name).default == cone[name].default
    assert own.pop("balance").default is own.pop("stiffness").default is None
    assert own["energy"].default is None
    stages = inspect.signature(eagc_jax.assess_energy).parameters | dict(
        inspect.signature(eagc_jax.soft_gate).parameters
    )
    assert set(own) == set(stages)
    assert stages["energy"].default == "magnitude"  # what "article" gives
    for name, parameter in own.items():
        if parameter.default is not None:
            assert parameter.default == stages[name].default, name


def test_types_are_published():
    assert importlib.resources.files("eagc_jax").joinpath("py.typed").is_file()


def test_version_is_that_of_the_distribution():
    assert eagc_jax.__version__ == importlib.metadata.version("eagc_jax")
