"""The house of kdlib: who may import whom, and how large files may grow."""

import ast
from pathlib import Path

import pytest

import kdlib

PACKAGE = Path(kdlib.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# From the ground up: a module imports only from its own room and from rooms before it.
ROOMS = (
    "paths", "files", "names", "losses", "bias", "recipes", "storage", "data", "methods", "models", "debias", "evaluate",
    "teachers", "train", "profiles", "runs", "engines", "sweep", "export", "report", "__main__",
)  # fmt: skip


def module_name(file):
    """Return the dotted name of a file of kdlib; that of a package's `__init__.py` is the package's."""
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in FILES}


def room(module):
    return module.split(".")[1] if "." in module else ""


def for_types_only(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def import_nodes(tree, in_functions):
    """Yield the import statements of a module, with those inside functions or without; those for type checkers never."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not for_types_only(child) and (in_functions or not isinstance(child, ast.FunctionDef | ast.Lambda)):
            yield from import_nodes(child, in_functions)


def loaded_by_name(node):
    """Return what `import_module("kdlib.data")` or `import_module(f"kdlib.data.{name}")` loads, as far as it is written."""
    if not (isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args):
        return None
    first = node.args[0].values[0] if isinstance(node.args[0], ast.JoinedStr) else node.args[0]
    return str(first.value).rstrip(".") if isinstance(first, ast.Constant) else None


def imported(module, in_functions):
    """Return the modules of kdlib that a module imports; a name that is no module stands for the one that defines it."""
    file, targets = MODULES[module], set()
    tree = ast.parse(file.read_text())
    if in_functions:
        targets |= {loaded for node in ast.walk(tree) if (loaded := loaded_by_name(node))}
    for node in import_nodes(tree, in_functions):
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
            continue
        base = node.module or ""
        if node.level:  # from . import …
            package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
            base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
        for alias in node.names:
            full = f"{base}.{alias.name}"
            targets.add(full if full in MODULES else base)
    return {target for target in targets if target.split(".")[0] == "kdlib" and target != "kdlib"}


def test_rooms_are_those_that_exist():
    existing = {room(module) for module in MODULES} - {""}
    assert existing <= set(ROOMS)
    assert [name for name in ROOMS if name in kdlib.MODULES] == list(kdlib.MODULES), "kdlib.MODULES is in another order"
    assert existing - {"__main__"} == set(kdlib.MODULES), "kdlib.MODULES is not what there is"


@pytest.mark.parametrize("module", MODULES)
def test_imports_come_from_rooms_above(module):
    level = ROOMS.index(room(module)) if room(module) else -1
    upward = sorted(target for target in imported(module, True) if ROOMS.index(room(target)) > level)
    assert not upward, f"{module} imports {upward}, which are built on it"


def test_no_circle_within_a_room():
    edges = {module: imported(module, False) & set(MODULES) for module in MODULES}
    remaining = dict(edges)
    while remaining:
        free = [module for module, targets in remaining.items() if not targets & set(remaining) - {module}]
        assert free, f"these import each other in a circle: {sorted(remaining)}"
        remaining = {module: targets for module, targets in remaining.items() if module not in free}


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("from kdlib import report", "kdlib.report"),
        ("def f():\n    from kdlib.report import words", "kdlib.report.words"),
        ("import kdlib.sweep", "kdlib.sweep"),
        ("try:\n    from kdlib.sweep import sweep\nexcept ImportError: pass", "kdlib.sweep"),
        ("from . import names", "kdlib.names"),
        ('import importlib\nimportlib.import_module(f"kdlib.data.{name}")', "kdlib.data"),
    ],
)
def test_imports_are_found(tmp_path, monkeypatch, statement, found):
    file = tmp_path / "paths.py"
    file.write_text(statement)
    monkeypatch.setitem(MODULES, "kdlib.paths", file)
    assert imported("kdlib.paths", True) == {found}


def lines(file):
    return len(file.read_text().splitlines())


def test_files_are_short():
    assert not {module_name(file): lines(file) for file in FILES if lines(file) > 300}


def lines_of_code(file):
    """Lines that are neither blank, nor a comment, nor a docstring."""
    text = file.read_text()
    kept = {
        number for number, line in enumerate(text.splitlines(), 1) if line.strip() and not line.strip().startswith("#")
    }
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            kept -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(kept)


def test_kdlib_is_thin():
    assert sum(map(lines_of_code, FILES)) <= 13_200


def test_top_level_is_small():
    entries = {path.name for path in PACKAGE.iterdir()} - {"__pycache__", "py.typed"}
    assert len(entries) <= 22, sorted(entries)
