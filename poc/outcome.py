"""What a job left behind: its table and the paths of report and model, or why it failed.

python poc/outcome.py report DOWNLOADED_JOB      exit code 1 where report or model is missing or cannot be read
python poc/outcome.py reasons KITS JOB_ID        what the sites of this machine wrote about their failures
"""

from __future__ import annotations

import sys
from pathlib import Path

from fedpartial.errors import ConfigError

APP = Path("workspace") / "app_server"


def report(job: Path) -> int:
    from rich.console import Console

    from fedpartial.cli.results import LOCAL_MODELS
    from fedpartial.evaluation.report import read_report
    from fedpartial.evaluation.table import console_table
    from fedpartial.flare.persistor import BEST_MODEL, GLOBAL_MODEL
    from fedpartial.training.model_file import load_model

    app = job / APP
    local = {f"model of {path.stem.removeprefix('local_')}": path for path in sorted(app.glob(LOCAL_MODELS))}
    models = local or {"model": app / GLOBAL_MODEL}  # standalone training has no global one
    paths = {"report": app / "report.html", **models, "best model": app / BEST_MODEL}
    try:
        table = console_table(read_report(app / "report.json"))
        for path in models.values():
            load_model(path)
    except (OSError, ValueError, ConfigError) as error:
        print(f"error: the job ended without what it should write: {error}", file=sys.stderr)
        return 1
    Console(highlight=False).print(table)
    for what, path in paths.items():
        if path.is_file():
            print(f"{what}: {path}")
    return 0


def reasons(kits: Path, job: str) -> int:
    """In full, with paths: on this machine the user is every site's administrator."""
    from fedpartial.cli.faults import read_failure
    from fedpartial.flare.failure import FAILURE_FILE

    found = [read_failure(path, kits) for path in sorted(kits.glob(f"*/{job}/app_*/{FAILURE_FILE}"))]
    for fault in found:
        print(fault, file=sys.stderr)
    return 0


if __name__ == "__main__":
    action, *arguments = sys.argv[1:]
    sys.exit(report(Path(*arguments)) if action == "report" else reasons(Path(arguments[0]), arguments[1]))
