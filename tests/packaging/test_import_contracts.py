"""The import contracts of pyproject.toml: each fails when one import that it forbids is added to the sources."""

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import grimp
import pytest
from importlinter.api import read_configuration
from importlinter.contracts.acyclic_siblings import AcyclicSiblingsContract
from importlinter.contracts.forbidden import ForbiddenContract
from importlinter.contracts.layers import LayersContract
from importlinter.contracts.protected import ProtectedContract
from importlinter.domain.contract import Contract

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = read_configuration(str(ROOT / "pyproject.toml"))
SESSION: dict[str, Any] = CONFIGURATION["session_options"]
OPTIONS: dict[str, dict[str, Any]] = {options["name"]: options for options in CONFIGURATION["contracts_options"]}
TYPES: dict[str, type[Contract]] = {
    "layers": LayersContract,
    "forbidden": ForbiddenContract,
    "protected": ProtectedContract,
    "acyclic_siblings": AcyclicSiblingsContract,
}
Import = tuple[str, str]  # the importing module, the imported one


@cache
def sources() -> grimp.ImportGraph:
    """Who imports whom, in all distributions."""
    return grimp.build_graph(*SESSION["root_packages"], cache_dir=None)


def broken(graph: grimp.ImportGraph) -> set[str]:
    """The names of the contracts that do not hold."""
    names = set()
    for name, options in OPTIONS.items():
        contract = TYPES[options["type"]](name, SESSION, options)
        if not contract.check(deepcopy(graph), verbose=False).kept:
            names.add(name)
    return names


@cache
def broken_now() -> set[str]:
    return broken(sources())


def forbidden_import(options: dict[str, Any]) -> Import:
    """One import that the contract forbids."""
    match options["type"]:
        case "layers":
            (container, *_) = options.get("containers") or [""]
            # Of the two highest layers, so that no other contract's layers come to import each other by way of it.
            higher, lower = (layer.split("|")[0].strip() for layer in options["layers"][:2])
            return f"{container}.{lower}".lstrip("."), f"{container}.{higher}".lstrip(".")
        case "forbidden":
            return options["source_modules"][0], options["forbidden_modules"][0]
        case "protected":
            return outsider(options["protected_modules"][0]), options["protected_modules"][0]
        case "acyclic_siblings":
            return closing_import()
        case other:
            pytest.fail(f"say here which import a contract of type {other!r} forbids")


def outsider(protected: str) -> str:
    """A module that may import from the package beside the protected module, but not the protected module."""
    package = protected.rpartition(".")[0]
    graph = sources()
    inside = {package, *graph.find_descendants(package)}
    return min(
        importer
        for module in inside
        for importer in graph.find_modules_that_directly_import(module)
        if importer not in inside
    )


def closing_import() -> Import:
    """An import that makes a circle of two modules of one folder, whose order no layers contract says."""
    graph = sources()
    containers = {container for options in OPTIONS.values() for container in options.get("containers", ())}
    pairs = (
        (imported, importer)
        for importer in sorted(graph.modules)
        for imported in sorted(graph.find_modules_directly_imported_by(importer))
        if importer.rpartition(".")[0] == imported.rpartition(".")[0] not in {*containers, ""}
    )
    return next(pairs)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_contract_fails_when_it_is_broken(name: str) -> None:
    """With one forbidden import more it breaks, and no other does, unless that import closes a circle as well."""
    importer, imported = forbidden_import(OPTIONS[name])
    graph = deepcopy(sources())
    graph.add_import(importer=importer, imported=imported)
    circles = {other for other, options in OPTIONS.items() if options["type"] == "acyclic_siblings"}
    newly = broken(graph) - broken_now()
    assert name in newly
    assert newly <= {name} | circles


def test_every_layer_is_written_down() -> None:
    """A module that no layer names breaks its contract: nobody adds a folder without saying where it belongs."""
    layered = [options for options in OPTIONS.values() if options.get("containers")]
    assert all(options["exhaustive"] for options in layered)
    containers = {container for options in layered for container in options["containers"]}
    assert set(SESSION["root_packages"]) - {"portway_proto"} <= containers
