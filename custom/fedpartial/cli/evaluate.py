"""``fedpartial evaluate``: predictions or a model against the labels of a site."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedpartial.cli.check_cases import default_workers
from fedpartial.cli.refused import Refused
from fedpartial.cli.reply import SUCCESS, USER_ERROR, Reply
from fedpartial.data.datalist import SPLITS
from fedpartial.data.faults import Fault
from fedpartial.data.side_by_side import in_processes
from fedpartial.errors import ConfigError, needs_space
from fedpartial.evaluation.evaluation_files import JSON, EvaluationPaths, write_evaluation
from fedpartial.evaluation.evaluation_pictures import draw_cases
from fedpartial.evaluation.evaluation_record import Evaluation
from fedpartial.evaluation.evaluation_table import evaluation_table
from fedpartial.evaluation.formats import plural
from fedpartial.evaluation.metrics import EmptyClass
from fedpartial.evaluation.prediction_files import named_values
from fedpartial.evaluation.scored_case import ScoredCase, ScoreTask, score_files
from fedpartial.evaluation.scoring_plan import (
    ChosenCase,
    Predicted,
    Rules,
    choose_cases,
    choose_preset,
    find_predictions,
    plan_scoring,
    without_classes,
)
from fedpartial.phantom import PHANTOM_SITES, ensure_phantom
from fedpartial.presets import PRESETS, get_preset
from fedpartial.sites import SiteConfig, phantom_site, read_site_file

PREDICTIONS, PHANTOM = "predictions", "phantom:"
MAX_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asks for; see cli/commands/evaluate.py."""

    site: Path
    out: Path
    predictions: Path | None = None
    model: Path | None = None
    split: str = "testing"
    prediction_labels: str | None = None
    empty_class: EmptyClass = "exclude"
    merge_lesions: bool | None = None
    preset: str | None = None
    workers: int | None = None
    device: str = "auto"
    force: bool = False

    @property
    def splits(self) -> tuple[str, ...]:
        return SPLITS if self.split == "all" else (self.split,)

    @property
    def rules(self) -> Rules:
        lesions = {None: "auto", True: "merge", False: "keep"}[self.merge_lesions]
        labels = None if self.prediction_labels is None else named_values(self.prediction_labels)
        return Rules(preset=self.preset, labels=labels, lesions=lesions, empty_class=self.empty_class)


def evaluate(request: Request, reply: Reply) -> int:
    """Score every case that can be scored and write the evaluation; what is wrong with others is named."""
    rules = request.rules
    _check(request)
    sites = _open_sites(request.site)
    chosen, without_label = choose_cases(sites, request.splits)
    folder = _predictions(request, chosen, reply)
    predicted, faults = find_predictions(chosen, folder, rules)
    preset = choose_preset(rules.preset, predicted)
    tasks, found = plan_scoring(predicted, get_preset(preset).label_space, rules)
    tasks, unscored = without_classes(tasks)
    faults += found
    _refuse_nothing(tasks, faults, unscored, request)
    reply.fail(*shortened(faults))
    scored, broken = _score(tasks, request.workers or default_workers(), reply)
    if not scored:
        return USER_ERROR
    evaluation = Evaluation(
        site=", ".join(site.name for site in sites),
        splits=request.splits,
        preset=preset,
        space=get_preset(preset).label_space,
        lesions=rules.lesions,
        empty_class=rules.empty_class,
        predictions=str(folder),
        model=_model(request, predicted),
        cases=scored,
        unscored=unscored,
        without_label=without_label,
        faults=[str(fault) for fault in (*faults, *broken)],
    )
    _present(evaluation, request, reply)
    return USER_ERROR if faults or broken else SUCCESS


def _open_sites(given: Path) -> Sequence[SiteConfig]:
    """The site of a file, the members of a pool, or a site of the phantom, which is written where it is missing."""
    name = str(given).removeprefix(PHANTOM)
    if name == str(given):
        return read_site_file(given).members
    if name not in PHANTOM_SITES:
        expected = f"{PHANTOM} and one of {', '.join(PHANTOM_SITES)}"
        raise _wrong("SITE_FILE", str(given), expected, "Correct its spelling.")
    site = phantom_site(name)
    with needs_space("the phantom", site.data_root):
        ensure_phantom(site.data_root.parent, name)
    return [site]


def _check(request: Request) -> None:
    """ConfigError for options that do not go together, before anything is read."""
    if (request.predictions is None) == (request.model is None):
        got = "neither" if request.model is None else "both"
        raise _wrong("--predictions, --model", got, "one of the two", "Give label maps, or the model that makes them.")
    if request.predictions is not None and not request.predictions.is_dir():
        got, remedy = str(request.predictions), "Correct the path, or give --model to make them."
        raise _wrong("--predictions", got, "a folder of label maps", remedy)
    if request.preset is not None and request.preset not in PRESETS:
        raise _wrong("--preset", request.preset, f"one of {', '.join(PRESETS)}", "Correct its spelling.")
    if request.out.exists() and not request.out.is_dir():
        raise _wrong("--out", str(request.out), "a folder", "Give another name.")
    if (request.out / JSON).exists() and not request.force:
        remedy = "Give another folder, or --force to replace it."
        raise _wrong("--out", f"an evaluation in {request.out}", "a folder without one", remedy)


def _predictions(request: Request, chosen: Sequence[ChosenCase], reply: Reply) -> Path:
    """The folder with the predictions, which are made first where a model is given."""
    if request.model is None:
        return request.predictions
    from fedpartial.cli.evaluate_model import segment_cases

    folder = request.out / PREDICTIONS
    segment_cases(request.model, chosen, folder, device=request.device, force=request.force, reply=reply)
    return folder


def _model(request: Request, predicted: Sequence[Predicted]) -> str | None:
    """The name of the model that made the predictions, where all name the same."""
    if request.model is not None:
        return request.model.name
    names = {one.model for one in predicted}
    return names.pop() if len(names) == 1 else None


def _refuse_nothing(tasks: Sequence[ScoreTask], faults: Sequence, unscored: Sequence[str], request: Request) -> None:
    """Refused where no case can be scored: then nothing is written."""
    if tasks:
        return
    if faults:
        raise Refused(shortened(faults))
    got = f"{plural(len(unscored), 'case')} of which no annotated class is one of the predictions'"
    remedy = "Compare the site file's labels with those of the predictions (--prediction-labels), and --merge-lesions."
    raise _wrong(str(request.site), got, "at least one class that both name", remedy)


def shortened(faults: Sequence[Fault | ConfigError]) -> list[object]:
    """The first faults of every kind, and how many more there are: a wrong folder has one for every case."""
    by_kind: dict[str, list] = {}
    for fault in faults:
        by_kind.setdefault(getattr(fault, "kind", ""), []).append(fault)
    shown: list[object] = []
    for kind, found in by_kind.items():
        shown += found[:MAX_SHOWN]
        more = len(found) - MAX_SHOWN
        shown += [f"{more} more of this kind ({kind})" if kind else f"{more} more"] if more > 0 else []
    return shown


def _score(tasks: Sequence[ScoreTask], workers: int, reply: Reply) -> tuple[list[ScoredCase], list]:
    """Scores in the order of the tasks, and the faults of files that could not be scored."""
    found = {}
    with _progress(reply, len(tasks)) as advance:
        for position, result in in_processes(score_files, tasks, workers):
            found[position] = result
            advance(tasks[position].name)
    ordered = [found[position] for position in range(len(tasks))]
    broken = [fault for result in ordered if isinstance(result, list) for fault in result]
    reply.fail(*shortened(broken))
    return [result for result in ordered if isinstance(result, ScoredCase)], broken


@contextmanager
def _progress(reply: Reply, total: int) -> Iterator[Callable[[str], None]]:
    """One bar; advance(name) after every case."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("scored {task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=reply.console) as bar:
        task = bar.add_task("", total=total)
        yield lambda name: bar.update(task, advance=1, description=name)


def _present(evaluation: Evaluation, request: Request, reply: Reply) -> None:
    """Write the files, show the table and what must be known of it."""
    overlays, missing = draw_cases(evaluation)
    paths = write_evaluation(evaluation, request.out, overlays)
    reply.console.print(evaluation_table(evaluation))
    for note in evaluation.notes():
        reply.say(note)
    for fault in missing:
        reply.warn(f"not drawn: {fault}")
    reply.say(f"page: {paths.html}")
    reply.add(**evaluation.to_json(), files=_listed(paths))


def _listed(paths: EvaluationPaths) -> dict[str, object]:
    several = {kind: [str(path) for path in getattr(paths, kind)] for kind in ("figures", "pictures")}
    return {**{kind: str(getattr(paths, kind)) for kind in ("json", "html", "cases_csv", "summary_csv")}, **several}


def _wrong(field: str, got: object, expected: str, remedy: str) -> ConfigError:
    return ConfigError(where="fedpartial evaluate", field=field, got=got, expected=expected, remedy=remedy)
