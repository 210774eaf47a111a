"""What FLARE would make of a site's policy: whether its filters run, and which classes a job may name."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from fedpartial.cli.json_file import read_json
from fedpartial.errors import ConfigError, renamed

PRIVACY, RESOURCES = "privacy.json", "resources.json"


def policy_faults(local: Path, texts: Mapping[str, str], site: str) -> list[ConfigError]:
    """What is wrong with the policy of a site whose folder ``local`` gets these files. Nothing is written there."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "local"
        (Path(folder) / "startup").mkdir()
        copy.mkdir()
        for path in local.glob("*.json*"):
            shutil.copy(path, copy)
        for name, text in texts.items():
            (copy / name).write_text(text, encoding="utf-8")
        found = [*_privacy_faults(Path(folder), site), *_allow_list_faults(copy)]
    return [renamed(fault, str(copy), str(local)) for fault in found]


def _privacy_faults(root: Path, site: str) -> Iterator[ConfigError]:
    from nvflare.apis.fl_constant import FilterKey
    from nvflare.apis.workspace import Workspace
    from nvflare.private.fed.app.fl_conf import create_privacy_manager

    from fedpartial.flare.leaving_content import KnownContent
    from fedpartial.flare.leaving_metrics import ReportedMetrics
    from fedpartial.flare.leaving_parts import NamedParts

    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # FLARE prints tracebacks
            scope = create_privacy_manager(Workspace(str(root), site), names_only=False).default_scope
    except Exception as error:  # noqa: BLE001 (FLARE and the filters it builds raise anything; it is told as it is)
        yield _fault(root / "local" / PRIVACY, "(file)", str(error), "what FLARE can load", "Correct the policy.")
        return
    filters = scope.task_result_filters[FilterKey.OUT] if scope else []
    needed = (KnownContent, NamedParts, ReportedMetrics)
    missing = [one.__name__ for one in needed if not any(isinstance(given, one) for given in filters)]
    if missing:
        got = f"none with {', '.join(missing)}" if scope else "none"
        expected = f"a scope that filters results with {', '.join(one.__name__ for one in needed)}"
        yield _fault(root / "local" / PRIVACY, "default_scope", got, expected, "Start from provision/policy/site.")


def _allow_list_faults(local: Path) -> Iterator[ConfigError]:
    from nvflare.app_common.widgets.component_path_authorizer import ALLOW_ALL

    path = next((p for p in (local / RESOURCES, local / f"{RESOURCES}.default") if p.is_file()), local / RESOURCES)
    given = read_json(path) if path.is_file() else {}
    classes, mode = given.get("class_allow_list"), given.get("class_list_enforcement_mode", "enforce")
    remedy = "Take the list of provision/policy/site."
    if path.name != RESOURCES or not isinstance(classes, list) or ALLOW_ALL in classes:
        got = classes if isinstance(classes, list) and ALLOW_ALL in classes else "FLARE's own list"
        yield _fault(local / RESOURCES, "class_allow_list", got, "the classes that a job may name", remedy)
    if mode != "enforce":
        yield _fault(local / RESOURCES, "class_list_enforcement_mode", mode, "'enforce'", remedy)


def _fault(path: Path, field: str, got: object, expected: str, remedy: str) -> ConfigError:
    return ConfigError(where=str(path), field=field, got=got, expected=expected, remedy=remedy)
