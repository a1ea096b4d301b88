"""The modules of gtcp import each other in one direction only, and none is too long to read."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import gtcp

ROOT = Path(gtcp.__file__).parent

MODULES = {
    ".".join(("gtcp", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in ROOT.rglob("*.py")
}


def imported(name: str) -> set[str]:
    """Modules of gtcp that this one imports when it is imported, or for type checkers only."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found.update(each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{each.name}" for each in node.names}
            found.update(names & MODULES.keys() or {node.module})
    return found & MODULES.keys()


def test_the_import_graph_has_no_cycle() -> None:
    graph = {name: imported(name) for name in MODULES}
    assert len(graph) > 100
    assert "gtcp.protocol.messages" in graph["gtcp.server.connections.connection"]
    assert TopologicalSorter(graph).prepare() is None  # raises CycleError


def test_no_module_is_too_long_to_read() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_folders_are_small_and_say_what_they_hold() -> None:
    folders = {path.parent for path in MODULES.values()}
    crowded = {each.name for each in folders if len(list(each.glob("*.py"))) > 16}
    assert crowded == set()
    for each in folders:
        docstring = ast.get_docstring(ast.parse((each / "__init__.py").read_text()))
        assert docstring, each
