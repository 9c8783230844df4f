"""The tower holds: imports only go down, one door to the system, and no room too large."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

import walkv.engine
import walkv.engine.snapshot
import walkv.integrations
import walkv.integrations.langgraph
import walkv.integrations.opentelemetry
import walkv.namespaces
import walkv.ops

ROOT = Path(walkv.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
ENGINE = [path for path in FILES if path.is_relative_to(ROOT / "engine")]
NAMESPACES = [path for path in FILES if path.is_relative_to(ROOT / "namespaces")]
OPERATIONS = [path for path in FILES if path.is_relative_to(ROOT / "ops")]
SYSTEM = {"os", "mmap", "fcntl", "socket", "io", "shutil", "pathlib", "tempfile", "subprocess"}
PARTS = {"cryptography", "msgpack", "sortedcontainers", "xxhash", "zstandard"}
FACE = {"click", "rich"}
OUTSIDE = {
    "cli": FACE,
    "interfaces": {"rich"},
    "integrations": {
        "langchain_core",
        "langgraph",
        "numpy",
        "opentelemetry",
        "ormsgpack",
        "prometheus_client",
    },
    "ops": {"obstore"},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(path: Path) -> set[str]:
    """Absolute names of the modules a file imports, inside functions too."""
    modules = {module_name(each) for each in FILES}
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in modules else node.module)
    return found


FLOORS = {"engine": walkv.engine, "namespaces": walkv.namespaces, "ops": walkv.ops}


def rooms(floor: str) -> list[str]:
    """The rooms of a floor, lowest first, as its docstring lists them."""
    listed = re.findall(r"^    (\S[^\n]*?)  +\S", FLOORS[floor].__doc__ or "", re.MULTILINE)
    return [name.strip(" /") for row in listed for name in row.split(",")]


def room_of(module: str, floor: str) -> str | None:
    """``walkv.<floor>.<room>`` and what is below it; None for what is not on the floor."""
    parts = module.split(".")
    return parts[2] if parts[:2] == ["walkv", floor] and len(parts) > 2 else None


@pytest.mark.parametrize("floor", FLOORS)
def test_the_list_of_rooms_is_complete(floor: str) -> None:
    there = {path.stem for path in (ROOT / floor).glob("*.py")} - {"__init__"}
    there |= {path.parent.name for path in (ROOT / floor).glob("*/__init__.py")}
    assert len(rooms(floor)) == len(set(rooms(floor)))
    assert set(rooms(floor)) == there


def test_the_detectors_of_this_file_see_what_they_look_for(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text(
        "import os.path\nfrom walkv.engine import core\n\ndef f():\n    import io\n    open('x')\n"
    )
    assert imports(bad) == {"os.path", "walkv.engine.core", "io"}
    assert calls_of_open(bad) == [6]


BELOW = {
    "engine": {"walkv.errors", "walkv.limits"},
    # Sync policies are the engine's; the rest of it is reached through the KeyValue protocol.
    "namespaces": {"walkv.errors", "walkv.limits", "walkv.engine.policies"},
    "ops": {"walkv.errors", "walkv.limits", "walkv.engine", "walkv.namespaces"},
}


@pytest.mark.parametrize("path", [*ENGINE, *NAMESPACES, *OPERATIONS], ids=module_name)
def test_imports_only_go_down(path: Path) -> None:
    floor = module_name(path).split(".")[1]
    order = {room: number for number, room in enumerate(rooms(floor))}
    room = room_of(module_name(path), floor)
    if room is None:
        assert floor == "ops" or imports(path) == set()
        return
    for imported in imports(path):
        if not imported.startswith("walkv"):
            continue
        other = room_of(imported, floor)
        if other is None:
            below = {imported, ".".join(imported.split(".")[:2])} if floor == "ops" else {imported}
            assert below & BELOW[floor] or imported == f"walkv.{floor}", imported
        elif other != room:
            assert order[other] < order[room], f"{room} imports {other}, which is above it"


HOUSES = {
    "agent": {"cli", "interfaces", "integrations"},
    "interfaces": {"cli", "integrations"},
    "integrations": {"cli", "interfaces"},
    "ops": {"agent", "cli", "interfaces", "integrations"},
}
"""What is above what, of the rest of the tower."""


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_the_floors_are_in_order(path: Path) -> None:
    own = module_name(path).split(".")[1:2]
    for imported in imports(path):
        if imported.startswith("walkv.") and own and own[0] in HOUSES:
            assert imported.split(".")[1] not in HOUSES[own[0]], imported


def test_snapshot_modules_are_in_their_reading_order() -> None:
    described = re.findall(r"``(\w+)``", walkv.engine.snapshot.__doc__ or "")
    assert sorted(described) == sorted(
        path.stem for path in (ROOT / "engine/snapshot").glob("*.py") if path.stem != "__init__"
    )
    order = {name: number for number, name in enumerate(described)}
    for name in described:
        for imported in imports(ROOT / "engine" / "snapshot" / f"{name}.py"):
            if imported.startswith("walkv.engine.snapshot."):
                assert order[imported.rpartition(".")[2]] < order[name], (name, imported)


def test_the_rooms_of_an_integration_are_in_their_reading_order() -> None:
    integrations = walkv.integrations
    for package in (integrations, integrations.langgraph, integrations.opentelemetry):
        folder = Path(package.__file__).parent
        listed = re.findall(r"^    (\w+)/?  +\S", package.__doc__ or "", re.MULTILINE)
        there = {path.stem for path in folder.glob("*.py")} - {"__init__"}
        there |= {path.parent.name for path in folder.glob("*/__init__.py")}
        assert set(listed) == there
        order = {name: number for number, name in enumerate(listed)}
        for name in order:
            for path in (folder / f"{name}.py", *(folder / name).glob("*.py")):
                for imported in imports(path) if path.exists() else ():
                    if imported.startswith(f"{package.__name__}."):
                        other = imported[len(package.__name__) + 1 :].partition(".")[0]
                        assert order[other] <= order[name], (name, imported)


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {module_name(path): imports(path) for path in FILES if path.name != "__init__.py"}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way, module))
        if module in graph and module not in done:
            for imported in graph[module]:
                visit(imported, (*way, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def calls_of_open(path: Path) -> list[int]:
    """Lines that call the built-in ``open``; a function of that name may be defined."""
    found = tree(path)
    defined = {node.name for node in found.body if isinstance(node, ast.FunctionDef)}
    return [
        node.lineno
        for node in ast.walk(found)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "open"
        and "open" not in defined
    ]


@pytest.mark.parametrize("path", ENGINE, ids=module_name)
def test_only_vfs_touches_the_system(path: Path) -> None:
    if path.parent.name == "vfs":
        return
    assert {name.partition(".")[0] for name in imports(path)} & SYSTEM == set()
    assert calls_of_open(path) == []


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_no_room_is_too_large(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_every_module_says_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(tree(path))
    assert docstring
    assert docstring.splitlines()[0].endswith((".", ":", "?"))


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_what_is_imported_from_outside(path: Path) -> None:
    """The engine needs its parts and the standard library; click and rich are the CLI's.

    An interface may show a progress bar where rich is installed. An integration needs what it
    integrates walkv with.
    """
    outside = {name.partition(".")[0] for name in imports(path)} - {"walkv"}
    third_party = outside - set(sys.stdlib_module_names)
    assert third_party <= PARTS | OUTSIDE.get(path.relative_to(ROOT).parts[0], set())


def test_importing_walkv_loads_no_face() -> None:
    import subprocess

    code = (
        "import sys, walkv; "
        "print([m for m in sys.modules if m.partition('.')[0] in ('click', 'rich', 'langgraph') "
        "or m.startswith(('walkv.cli', 'walkv.integrations'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
