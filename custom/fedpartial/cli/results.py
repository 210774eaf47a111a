"""Success is judged by what was written, and what was written is kept beside the workspace."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from fedpartial.cli.faults import Fault
from fedpartial.cli.simulator import RUN, SERVER_APP
from fedpartial.evaluation.report import read_report
from fedpartial.flare.exchange_watch import EXCHANGE_FILE
from fedpartial.flare.learner import ADAPTED_MODEL
from fedpartial.flare.persistor import BEST_MODEL, GLOBAL_MODEL
from fedpartial.flare.progress import PROGRESS_FILE
from fedpartial.server.external_set import PREDICTIONS

REPORT = "report.json"
LOCAL_MODELS = "local_*.safetensors"
"""What standalone training has in place of a global model."""
FILES = (REPORT, "report.html", "*.csv", GLOBAL_MODEL, BEST_MODEL, LOCAL_MODELS, PROGRESS_FILE, EXCHANGE_FILE)
ADAPTED = "adapted"
"""Folder with a folder for each site that has adapted the model: these are simulated sites of one user."""
MAX_ERROR_LINES = 5


def judge(folder: Path, sites: Sequence[str]) -> tuple[dict | None, list[Fault]]:
    """The report in the server's app or in a copy of it, where there is a valid one, and what is missing for a
    success."""
    report, faults = None, []
    if not (folder / GLOBAL_MODEL).is_file() and not list(folder.glob(LOCAL_MODELS)):
        faults.append(Fault(text=f"the run ended without a {GLOBAL_MODEL}"))
    if not (folder / REPORT).is_file():
        return None, [*faults, Fault(text=f"the run ended without a {REPORT}")]
    try:
        report = read_report(folder / REPORT)
    except (OSError, json.JSONDecodeError, ValueError) as error:
        return None, [*faults, Fault(text=f"{REPORT} cannot be used: {error}")]
    missing = [site for site in sites if site not in report["sites"]]
    faults += [Fault(site=site, text="gave no scores in the final evaluation") for site in missing]
    return report, faults


def collect(workspace: Path, out: Path) -> None:
    """Copy report, models (the server's, and those that sites have adapted), predictions, TensorBoard events and logs,
    as far as they exist, to ``out``."""
    for pattern in FILES:
        for path in (workspace / SERVER_APP).glob(pattern):
            shutil.copy2(path, out / path.name)
    for folder in (workspace / SERVER_APP / PREDICTIONS, workspace / SERVER_APP.parent / "tb_events"):
        if folder.is_dir():
            shutil.copytree(folder, out / folder.name, dirs_exist_ok=True)
    for model in workspace.glob(f"*/{RUN}/app_*/{ADAPTED_MODEL.format('*')}"):
        folder = out / ADAPTED / model.relative_to(workspace).parts[0]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy2(model, folder / model.name)
    for log in workspace.glob("*/log.txt"):
        (out / "logs").mkdir(exist_ok=True)
        shutil.copy2(log, out / "logs" / f"{log.parent.name}.txt")


def last_errors(log: Path) -> list[str]:
    """The last lines of FLARE's log that tell of an error: all that is known where nobody else says why."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    telling = [line for line in lines if " - ERROR - " in line or line.startswith("Error")]
    return (telling or lines)[-MAX_ERROR_LINES:]
