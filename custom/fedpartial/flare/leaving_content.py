"""Privacy filter: a result holds what the known tasks answer, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
from nvflare.apis.dxo import DataKind, MetaKey
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import ReservedHeaderKey, Shareable

from fedpartial.flare.failure import REASON_HEADER
from fedpartial.flare.leaving import LeavingFilter, LeavingRefused, shown
from fedpartial.flare.leaving_values import check_number, check_scores, check_update_metrics
from fedpartial.flare.weights import CONTENT, METRICS, WEIGHT_KINDS

NUMERIC_KINDS = "biuf"
REASON = re.compile(r"[^/\\\n\r]{1,500}")
RETURN_CODES = {value for name, value in vars(ReturnCode).items() if not name.startswith("_")}


class KnownContent(LeavingFilter):
    """Refuses a result with an unknown header, key, kind of data, metadata, metric or type of value.

    Nothing can be hidden beside the weights, then; in the weights themselves anything can (clip and add noise).
    """

    def passed(self, result: Shareable) -> Shareable:
        _check_headers(result)
        if unknown := [key for key in result if key not in (ReservedHeaderKey.HEADERS, CONTENT)]:
            raise LeavingRefused("unknown content", unknown[0])
        if CONTENT in result:
            if result.get_return_code() != ReturnCode.OK:
                raise LeavingRefused("a failed task has content")
            _check_content(result[CONTENT])
        return result


def _check_headers(result: Shareable) -> None:
    headers = result.get(ReservedHeaderKey.HEADERS)
    _check_each("header", headers, HEADERS)


def _check_content(dxo: object) -> None:
    if not isinstance(dxo, Mapping) or set(dxo) != {"kind", "data", "meta"}:
        raise LeavingRefused("content that is no DXO")
    kind, data, meta = dxo["kind"], dxo["data"], dxo["meta"]
    if kind in WEIGHT_KINDS:
        _check_tensors(data)
        _check_each("metadata", meta, UPDATE_META)
    elif kind == DataKind.METRICS:
        check_scores(data)
        _check_each("metadata", meta, {})
    else:
        raise LeavingRefused("a kind of data other than weights and metrics", kind)


def _check_tensors(data: object) -> None:
    if not isinstance(data, Mapping):
        raise LeavingRefused(f"got a {type(data).__name__} in place of weights")
    for name, value in data.items():
        # An array of objects, or a subclass with attributes, can hold anything.
        if type(value) is not np.ndarray or value.dtype.kind not in NUMERIC_KINDS:
            raise LeavingRefused(f"tensor {shown(name)} is no array of numbers")


def _check_each(what: str, given: object, checks: Mapping[str, Callable]) -> None:
    if not isinstance(given, Mapping):
        raise LeavingRefused(f"{what}: got a {type(given).__name__}")
    for name, value in given.items():
        if name not in checks:
            raise LeavingRefused(f"unknown {what}", name)
        checks[name](what, value)


def _check_return_code(_: str, value: object) -> None:
    if value not in RETURN_CODES:
        raise LeavingRefused("an unknown return code", value)


def _check_content_type(_: str, value: object) -> None:
    if value != CONTENT:
        raise LeavingRefused("an unknown type of content", value)


def _check_reason(_: str, value: object) -> None:
    if not isinstance(value, str) or not REASON.fullmatch(value):
        raise LeavingRefused("a reason that could name a path", value)


def _check_initial_metrics(_: str, value: object) -> None:
    _check_each("initial metric", value, {"val_dice": check_number})


def _check_metrics(_: str, value: object) -> None:
    check_update_metrics(value)


HEADERS: dict[str, Callable] = {
    ReservedHeaderKey.RC: _check_return_code,
    ReservedHeaderKey.CONTENT_TYPE: _check_content_type,
    REASON_HEADER: _check_reason,
}
UPDATE_META: dict[str, Callable] = {
    MetaKey.NUM_STEPS_CURRENT_ROUND: check_number,
    MetaKey.INITIAL_METRICS: _check_initial_metrics,
    METRICS: _check_metrics,
}
