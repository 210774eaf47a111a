"""``fedpartial evaluate``: predictions or a model against the labels of a site."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedpartial.cli.check_cases import default_workers
from fedpartial.cli.evaluate_cases import score_cases, shortened
from fedpartial.cli.evaluate_request import Request, check_request, make_writable, wrong
from fedpartial.cli.evaluate_result import present
from fedpartial.cli.refused import Refused
from fedpartial.cli.reply import SUCCESS, USER_ERROR, Reply
from fedpartial.errors import needs_space
from fedpartial.evaluation.evaluation_record import Evaluation
from fedpartial.evaluation.formats import plural
from fedpartial.evaluation.private_paths import without_folders
from fedpartial.evaluation.scored_case import ScoreTask
from fedpartial.evaluation.scoring_plan import (
    ChosenCase,
    Predicted,
    choose_cases,
    choose_preset,
    find_predictions,
    plan_scoring,
    without_classes,
)
from fedpartial.phantom import PHANTOM_SITES, ensure_phantom
from fedpartial.presets import get_preset
from fedpartial.sites import SiteConfig, phantom_site, read_site_file

PREDICTIONS, PHANTOM = "predictions", "phantom:"


def evaluate(request: Request, reply: Reply) -> int:
    """Score every case that can be scored and write the evaluation; what is wrong with others is named."""
    rules = request.rules
    check_request(request)
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
    make_writable(request.out)
    scored, broken = score_cases(tasks, request.workers or default_workers(), reply)
    if not scored:
        return USER_ERROR
    evaluation = Evaluation(
        site=", ".join(site.name for site in sites),
        splits=request.splits,
        preset=preset,
        space=get_preset(preset).label_space,
        lesions=rules.lesions,
        empty_class=rules.empty_class,
        predictions=folder.resolve().name,
        model=_model(request, predicted),
        cases=scored,
        unscored=unscored,
        without_label=without_label,
        faults=[without_folders(str(fault), _folders(sites, chosen, folder)) for fault in (*faults, *broken)],
    )
    present(evaluation, request.out, reply)
    return USER_ERROR if faults or broken else SUCCESS


def _open_sites(given: Path) -> Sequence[SiteConfig]:
    """The site of a file, the members of a pool, or a site of the phantom, which is written where it is missing."""
    name = str(given).removeprefix(PHANTOM)
    if name == str(given):
        return read_site_file(given).members
    if name not in PHANTOM_SITES:
        expected = f"{PHANTOM} and one of {', '.join(PHANTOM_SITES)}"
        raise wrong("SITE_FILE", str(given), expected, "Correct its spelling.")
    site = phantom_site(name)
    with needs_space("the phantom", site.data_root):
        ensure_phantom(site.data_root.parent, name)
    return [site]


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


def _folders(sites: Sequence[SiteConfig], chosen: Sequence[ChosenCase], predictions: Path) -> set[Path]:
    """What faults may name."""
    of_sites = {folder for s in sites for folder in (s.data_root, s.datalist.parent, Path(s.where).parent)}
    of_cases = {file.parent for one in chosen for file in (one.case.image, one.case.label)}
    return {predictions, predictions.resolve(), *of_sites, *of_cases}


def _refuse_nothing(tasks: Sequence[ScoreTask], faults: Sequence, unscored: Sequence[str], request: Request) -> None:
    """Refused where no case can be scored: then nothing is written."""
    if tasks:
        return
    if faults:
        raise Refused(shortened(faults))
    got = f"{plural(len(unscored), 'case')} of which no annotated class is one of the predictions'"
    remedy = "Compare the site file's labels with those of the predictions (--prediction-labels), and --merge-lesions."
    raise wrong(str(request.site), got, "at least one class that both name", remedy)
