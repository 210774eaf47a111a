"""The house rule: rooms import downwards only, and FLARE is known in two rooms only."""

import ast
from pathlib import Path

import pytest

import fedpartial

PACKAGE = Path(fedpartial.__file__).parent
ROOMS = (
    "errors",
    "package_hash",
    "heap",
    "sides",
    "labels",
    "presets",
    "phantom",
    "sites",
    "data",
    "datasets",
    "networks",
    "losses",
    "methods",
    "evaluation",
    "training",
    "inference",
    "export",
    "distillation",
    "server",
    "flare",
    "cli",
    "__main__",
)
FLARE_ROOMS = {"flare", "cli"}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(file: Path, package: Path) -> tuple[str, ...]:
    """('fedpartial', 'losses', 'marginal') for losses/marginal.py; a package's __init__ is the package."""
    parts = ("fedpartial", *file.relative_to(package).with_suffix("").parts)
    return parts[:-1] if parts[-1] == "__init__" else parts


def imported_modules(file: Path, package: Path) -> list[tuple[int, str]]:
    """(line, dotted name) of every import in the file, also those inside functions and of import_module("...")."""
    found: list[tuple[int, str]] = []
    module = module_of(file, package)
    inside = module if file.name == "__init__.py" else module[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(inside[: len(inside) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            found += [(node.lineno, f"{source}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Call) and node.args and _is_dynamic_import(node.func):
            found += [(node.lineno, str(node.args[0].value))] if isinstance(node.args[0], ast.Constant) else []
    return found


def _is_dynamic_import(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in {"import_module", "__import__"}


def faults(file: Path, package: Path) -> list[str]:
    """What the file imports against the rules; one line each."""
    module = module_of(file, package)
    room = module[1] if len(module) > 1 else None
    if room is not None and room not in ROOMS:
        return [f"{file}: no room is called {room!r}; give it a place in ROOMS and in docs/architecture.md"]
    found = (
        f"{file}:{line}: {fault}"
        for line, name in imported_modules(file, package)
        if (fault := _fault(room, name.split(".")))
    )
    return list(dict.fromkeys(found))


def _fault(room: str | None, name: list[str]) -> str | None:
    if name[0] == "nvflare" and room not in FLARE_ROOMS:
        return f"only {sorted(FLARE_ROOMS)} may import nvflare"
    if name[0] != "fedpartial" or len(name) == 1 or (name[1] not in ROOMS and len(name) == 2):
        return None  # another package, or a name such as __version__ of the package itself
    if name[1] not in ROOMS:
        return f"no room is called {name[1]!r}"
    if room is None:
        return f"the package itself imports {name[1]!r}: it must not import any room"
    if ROOMS.index(name[1]) > ROOMS.index(room):
        return f"{room!r} imports {name[1]!r}, which lies above it"
    return None


def test_there_are_files_to_check():
    assert len(FILES) > 10
    rooms = {module_of(file, PACKAGE)[1] for file in FILES if len(module_of(file, PACKAGE)) > 1}
    assert rooms <= set(ROOMS), f"rooms without a place in the order: {sorted(rooms - set(ROOMS))}"


def test_rooms_import_downwards_and_flare_is_imported_in_its_rooms_only():
    checked = [(file, faults(file, PACKAGE)) for file in FILES]
    assert len(checked) > 10
    assert sum(len(imported_modules(file, PACKAGE)) for file in FILES) > 20
    assert not [fault for _, found in checked for fault in found]


def test_no_file_exists_only_to_be_shared():
    names = [file.stem for file in FILES] + [folder.name for folder in PACKAGE.rglob("*") if folder.is_dir()]
    assert len(names) > 10
    assert not {"utils", "util", "common", "helpers", "misc"} & set(names)


@pytest.mark.parametrize(
    ("place", "code", "fault"),
    [
        ("losses/marginal.py", "from fedpartial.methods import fedavg", "above"),
        ("losses/marginal.py", "import fedpartial.methods.fedavg", "above"),
        ("losses/marginal.py", "from fedpartial import methods", "above"),
        ("losses/marginal.py", "from ..methods import fedavg", "above"),
        ("losses/marginal.py", "from .. import methods", "above"),
        ("losses/__init__.py", "from ..methods import fedavg", "above"),
        ("losses/marginal.py", "def f():\n    from fedpartial.flare import learner", "above"),
        ("losses/marginal.py", "import importlib\nimportlib.import_module('fedpartial.cli.main')", "above"),
        ("training/local_trainer.py", "def f():\n    import nvflare", "nvflare"),
        ("training/local_trainer.py", "from nvflare.apis import dxo", "nvflare"),
        ("evaluation/tables.py", "from fedpartial.flare.learner import Learner", "above"),
        ("flare/learner.py", "from fedpartial.cli import main", "above"),
        ("__init__.py", "from fedpartial.labels import LabelSpace", "any room"),
        ("tools.py", "", "no room"),
        ("losses/marginal.py", "from fedpartial.tools.io import read", "no room"),
        ("losses/marginal.py", "import torch\nfrom fedpartial.errors import ConfigError", None),
        ("losses/marginal.py", "from .soft import soft_dice\nfrom fedpartial import __version__", None),
        ("flare/learner.py", "import nvflare\nfrom fedpartial.evaluation import tables", None),
        ("cli/main.py", "import nvflare\nfrom fedpartial.flare import learner", None),
    ],
)
def test_the_check_itself_sees_every_kind_of_import(tmp_path, place, code, fault):
    file = tmp_path / place
    file.parent.mkdir(exist_ok=True)
    file.write_text(code, encoding="utf-8")
    found = faults(file, tmp_path)
    assert [fault in line for line in found] == ([] if fault is None else [True]), found
