"""Privacy filter: metrics leave a site as summaries, unless the site allows per-case values."""

from __future__ import annotations

from collections.abc import Mapping

from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.shareable import ReservedHeaderKey, Shareable

from fedpartial.errors import ConfigError
from fedpartial.evaluation.metrics import CaseScores
from fedpartial.evaluation.summary import summarise_classes
from fedpartial.evaluation.withhold import may_leave, withhold
from fedpartial.flare.leaving import LeavingFilter, LeavingRefused
from fedpartial.flare.leaving_values import check_scores, check_update_metrics
from fedpartial.flare.weights import METRICS, WEIGHT_KINDS
from fedpartial.training.reported import VALIDATION


class ReportedMetrics(LeavingFilter):
    """Test scores of cases become summaries per class; means of too few cases are withheld.

    Args:
        per_case: let the scores of every case leave, numbered and without names; nothing is withheld then.
        min_cases: fewest cases, with the class found in them, behind a number that leaves, at least 2.
    """

    def __init__(self, per_case: bool = False, min_cases: int = 2):
        super().__init__()
        if not isinstance(per_case, bool):
            raise _wrong("per_case", per_case, "true or false")
        if isinstance(min_cases, bool) or not isinstance(min_cases, int) or min_cases < 2:
            raise _wrong("min_cases", min_cases, "a whole number of at least 2")
        self.per_case, self.min_cases = per_case, min_cases

    def passed(self, result: Shareable) -> Shareable:
        if set(result) == {ReservedHeaderKey.HEADERS}:
            return result
        try:
            dxo = from_shareable(result)
        except ValueError:
            raise LeavingRefused("content that is no DXO") from None
        if dxo.data_kind == DataKind.METRICS:
            check_scores(dxo.data)
            dxo.data = dxo.data if self.per_case else self._scores(dxo.data)
        elif dxo.data_kind not in WEIGHT_KINDS:
            raise LeavingRefused("a kind of data other than weights and metrics")
        elif METRICS in dxo.meta or MetaKey.INITIAL_METRICS in dxo.meta:
            self._update(dxo)
        return dxo.update_shareable(result)

    def _scores(self, data: Mapping) -> dict:
        models = data.get("validation", {})
        cases, found = data.get("validation_cases", {}), data.get("validation_found", {})
        enough = {model: self._enough(cases.get(model, {}), found.get(model, {})) for model in models}
        validation = {
            field: {model: _only(values, enough.get(model, set())) for model, values in data.get(field, {}).items()}
            for field in VALIDATION.values()
        }
        testing = {model: self._summary(scores) for model, scores in data.get("testing", {}).items()}
        return {**data, **validation, "testing": testing}

    def _summary(self, cases: object) -> dict:
        if isinstance(cases, Mapping):
            raise LeavingRefused("testing: a summary that this filter has not made")
        return withhold(summarise_classes([CaseScores.from_dict(case) for case in cases]), self.min_cases)

    def _update(self, dxo: DXO) -> None:
        metrics = dxo.get_meta_prop(METRICS, {})
        check_update_metrics(metrics)
        if self.per_case:
            return
        enough = self._enough(metrics.get("val_cases", {}), metrics.get("val_found", {}))
        kept = {field: _only(metrics[field], enough) for field in VALIDATION if field in metrics}
        if metrics:
            dxo.set_meta_prop(METRICS, {**metrics, **kept})
        # FLARE's own mean over the classes is made of all of them.
        if kept.get("val_dice", {}).keys() != metrics.get("val_dice", {}).keys() or not metrics:
            dxo.remove_meta_props([MetaKey.INITIAL_METRICS])

    def _enough(self, cases: Mapping, found: Mapping) -> set[str]:
        """The classes whose mean may leave; without both numbers it may not."""
        return {name for name in cases.keys() & found.keys() if may_leave(cases[name], found[name], self.min_cases)}


def _only(values: Mapping, names: set[str]) -> dict:
    return {name: value for name, value in values.items() if name in names}


def _wrong(field: str, got: object, expected: str) -> ConfigError:
    return ConfigError(
        where="privacy.json",
        field=f"ReportedMetrics.{field}",
        got=got,
        expected=expected,
        remedy="Correct the site's local/privacy.json.",
    )
