"""The modules of the server import each other in one direction only."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import gtcp

SERVER = Path(gtcp.__file__).parent / "server"


def imported(path):
    """Modules of gtcp.server that this one imports, also for type checkers only."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            package, _, name = node.module.rpartition(".")
            if package == "gtcp.server":
                found.add(name)
            elif node.module == "gtcp.server":
                found.update(each.name for each in node.names)
    return found


def test_the_import_graph_has_no_cycle():
    graph = {path.stem: imported(path) for path in SERVER.glob("*.py")}
    assert len(graph) > 20
    assert graph["connection"]
    assert TopologicalSorter(graph).prepare() is None  # raises CycleError


def test_no_module_is_too_long_to_read():
    lengths = {path.name: len(path.read_text().splitlines()) for path in SERVER.glob("*.py")}
    assert {name: length for name, length in lengths.items() if length > 400} == {}
