"""The cases of an evaluation segmented with a model, as ``fedpartial predict`` does it: what is done is remembered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedpartial.cli.evaluate_request import make_writable
from fedpartial.cli.predict import Request, open_job, segment_all, target_path
from fedpartial.cli.predict_scan import save_viewer_colours
from fedpartial.cli.reply import Reply
from fedpartial.evaluation.scoring_plan import ChosenCase
from fedpartial.inference.inputs import Scan
from fedpartial.inference.predictor import Predictor


def segment_cases(
    model: Path, chosen: Sequence[ChosenCase], folder: Path, *, device: str, force: bool, reply: Reply
) -> None:
    """Label maps <case>_labels.nii.gz in ``folder``. Images that are wrong are named and left out.

    Raises ConfigError for a foreign model, and for predictions of another model in the folder unless ``force``.
    """
    here = [one for one in chosen if one.case.image.is_file()]
    scans = [Scan(name=one.name, path=one.case.image) for one in here]
    if not scans:
        return
    targets = {scan.name: target_path(Path(scan.name), folder, several=True) for scan in scans}
    request = Request(model=model, inputs=tuple(scan.path for scan in scans), out=folder, device=device, force=force)
    predictor = Predictor(model, device=device)
    make_writable(folder)
    job = open_job(request, predictor, False, reply)
    if not force:
        for scan in scans:
            job.journal.check(scan.name, scan.source, scan.stamp, job.made_with)
    save_viewer_colours(job, folder)
    segment_all(job, scans, targets)
