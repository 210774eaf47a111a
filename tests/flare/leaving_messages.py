"""Results for the privacy tests: those of the good job, and what a hostile one could make of them."""

from __future__ import annotations

import copy

import numpy as np
import torch
from nvflare.apis.dxo import DXO, DataKind, MetaKey
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable, make_reply

from fedpartial.evaluation.metrics import CaseScores
from fedpartial.flare.failure import REASON_HEADER
from fedpartial.flare.weights import METRICS

SECRET = "mrs_miller_1950"
FACTS = {
    "device": "cpu",
    "precision": "float32",
    "source": "site file",
    "setup_seconds": 1.5,
    "num_training": 3,
    "annotated": {"liver": 1, "liver_tumor": 1},
}
METRIC_VALUES = {
    "loss": 0.5,
    "dice": 0.25,
    "ce": 0.25,
    "condist": 0.125,
    "seconds": 2.0,
    "val_dice": {"liver": 0.5, "liver_tumor": 0.25},
    "val_cases": {"liver": 3, "liver_tumor": 3},
    "val_found": {"liver": 3, "liver_tumor": 2},
    "bytes_down": 12,
    "tensors_taken": 2,
    **FACTS,
}


def tensor(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(3, 2)).astype(np.float32)


def weights() -> dict[str, np.ndarray]:
    return {"input_block.conv1.conv.weight": tensor(1), "output_block.conv.conv.bias": tensor(2)}


def update(data: dict | None = None, kind: str = DataKind.WEIGHT_DIFF, **meta) -> Shareable:
    """A good update, or one with these tensors and this metadata."""
    known = {
        MetaKey.NUM_STEPS_CURRENT_ROUND: 4,
        METRICS: copy.deepcopy(METRIC_VALUES),
        MetaKey.INITIAL_METRICS: {"val_dice": 0.375},
    }
    return DXO(data_kind=kind, data=weights() if data is None else data, meta={**known, **meta}).to_shareable()


def case(dice: float, status: str = "scored", name: str = "liver") -> dict:
    numbers = {"dice": dice, "hd95_mm": 4 * dice, "assd_mm": dice / 8, "leakage": dice / 16}
    return CaseScores(**{k: {name: v} for k, v in numbers.items()}, status={name: status}).to_dict()


def scores(**changes) -> Shareable:
    """A good answer to the final evaluation: three test cases of the liver."""
    cases = [case(d) for d in (0.5, 0.625, 0.75)]
    data = {
        "validation": {"final": {"liver": 0.5}, "best": {"liver": 0.75}},
        "validation_cases": {"final": {"liver": 3}, "best": {"liver": 3}},
        "validation_found": {"final": {"liver": 3}, "best": {"liver": 2}},
        "testing": {"final": cases, "best": copy.deepcopy(cases), "local liver": copy.deepcopy(cases)},
        **FACTS,
    }
    return DXO(data_kind=DataKind.METRICS, data={**data, **changes}).to_shareable()


def with_header(name: str, value: object) -> Shareable:
    result = update()
    result.set_header(name, value)
    return result


def with_key(name: str, value: object) -> Shareable:
    result = update()
    result[name] = value
    return result


def with_dxo_key(name: str, value: object) -> Shareable:
    result = update()
    result["DXO"][name] = value
    return result


def with_metrics(**changes) -> Shareable:
    return update(**{METRICS: {**METRIC_VALUES, **changes}})


def failed_with(**content) -> Shareable:
    reply = make_reply(ReturnCode.EXECUTION_EXCEPTION)
    reply.update(content)
    return reply


def failed_because(reason: object) -> Shareable:
    reply = make_reply(ReturnCode.EXECUTION_EXCEPTION)
    reply.set_header(REASON_HEADER, reason)
    return reply


def collection(inner: DXO) -> Shareable:
    return DXO(data_kind=DataKind.COLLECTION, data={"a": DXO(DataKind.COLLECTION, {"b": inner})}).to_shareable()


PRIVATE = {**weights(), "output_block.private.bias": tensor(3)}
UNKNOWN = {**weights(), "liver_head.weight": tensor(3)}

PRIVATE_TENSORS = {
    "in an update": lambda: update(PRIVATE),
    "in weights": lambda: update(PRIVATE, kind=DataKind.WEIGHTS),
    "alone": lambda: update({"private.weight": tensor()}),
    "under a name that nobody allowed": lambda: update(UNKNOWN),
    "in a collection": lambda: collection(DXO(DataKind.WEIGHT_DIFF, PRIVATE)),
    "in a metric": lambda: with_metrics(loss=tensor()),
    "in metadata": lambda: update(head=tensor()),
    "in metadata as a torch tensor": lambda: update(head=torch.zeros(3)),
    "in metadata as a DXO": lambda: update(head=DXO(DataKind.WEIGHTS, PRIVATE)),
    "in a header": lambda: with_header("head", tensor()),
    "in a cookie": lambda: with_header("__cookie_jar__", {"head": tensor()}),
    "beside the DXO": lambda: with_key("fedpartial_models", {"final": PRIVATE}),
    "nested in the weights": lambda: update({**weights(), "input_block.x": {"private.weight": tensor()}}),
    "as metrics": lambda: DXO(DataKind.METRICS, {"head": tensor()}).to_shareable(),
    "in a failed answer": lambda: failed_with(DXO=update(PRIVATE)["DXO"]),
    "as numbers in a list": lambda: update({**weights(), "input_block.x": [1.0, 2.0]}),
}

SMUGGLED = {
    "text beside the DXO": lambda: with_key("note", SECRET),
    "bytes beside the DXO": lambda: with_key("note", SECRET.encode()),
    "a key beside the DXO": lambda: with_key(SECRET, 1),
    "a header": lambda: with_header("note", SECRET),
    "a header's name": lambda: with_header(SECRET, 1),
    "a cookie": lambda: with_header("__cookie_jar__", {"note": SECRET}),
    "peer properties": lambda: with_header("__peer_props__", {"note": SECRET}),
    "a return code": lambda: make_reply(SECRET),
    "a type of content": lambda: with_header("__content_type__", SECRET),
    "a key of the DXO": lambda: with_dxo_key("note", SECRET),
    "another kind of data": lambda: update(kind=SECRET),
    "data that an application defines": lambda: DXO(DataKind.APP_DEFINED, {"note": SECRET}).to_shareable(),
    "statistics": lambda: DXO(DataKind.STATISTICS, {"note": SECRET}).to_shareable(),
    "analytics": lambda: DXO(DataKind.ANALYTIC, {"note": SECRET}).to_shareable(),
    "metadata": lambda: update(note=SECRET),
    "the number of steps": lambda: update(**{MetaKey.NUM_STEPS_CURRENT_ROUND: int.from_bytes(SECRET.encode(), "big")}),
    "the history of filters": lambda: update(**{MetaKey.FILTER_HISTORY: [SECRET]}),
    "FLARE's initial metrics": lambda: update(**{MetaKey.INITIAL_METRICS: {"val_dice": 0.5, SECRET: 1}}),
    "a metric": lambda: with_metrics(note=SECRET),
    "a metric's name": lambda: with_metrics(**{SECRET: 1.0}),
    "a known metric": lambda: with_metrics(loss=SECRET),
    "a metric that is no number": lambda: with_metrics(loss=float("nan")),
    "a device": lambda: with_metrics(device=SECRET),
    "a class": lambda: with_metrics(val_dice={SECRET: 0.5}),
    "an annotated class": lambda: with_metrics(annotated={SECRET: 1}),
    "a word for an annotated class": lambda: with_metrics(annotated={"liver": SECRET}),
    "a count of annotated cases": lambda: with_metrics(annotated={"liver": 3}),
    "annotated classes as a list": lambda: scores(annotated=[SECRET]),
    "an array of objects": lambda: update({**weights(), "input_block.x": np.array([SECRET], dtype=object)}),
    "an array of text": lambda: update({**weights(), "input_block.x": np.array([SECRET])}),
    "an array of bytes": lambda: update({**weights(), "input_block.x": np.array([SECRET.encode()])}),
    "a reason with a path": lambda: failed_because(f"/data/{SECRET}.nii.gz"),
    "a reason that is no text": lambda: failed_because({"note": SECRET}),
    "a failed answer": lambda: failed_with(note=SECRET),
    "scores under another name": lambda: scores(note={"final": [SECRET]}),
    "a model's name": lambda: scores(validation={SECRET: {"liver": 0.5}}),
    "a local model's name": lambda: scores(testing={f"local /{SECRET}": []}),
    "a test case": lambda: scores(testing={"final": [{**case(0.5), "case": SECRET}]}),
    "a test case's class": lambda: scores(testing={"final": [case(0.5, name=SECRET)]}),
    "a status": lambda: scores(testing={"final": [{**case(0.5), "status": {"liver": SECRET}}]}),
    "a summary": lambda: scores(testing={"final": {SECRET: {}}}),
    "test cases that are text": lambda: scores(testing={"final": SECRET}),
    "metadata of metrics": lambda: DXO(DataKind.METRICS, {"validation": {}}, {"note": SECRET}).to_shareable(),
}

PER_CASE = {
    "under another name": lambda: scores(per_case={"final": [0.123456]}),
    "as validation Dice": lambda: scores(validation={"final": {"liver": [0.123456]}}),
    "by case in place of class": lambda: scores(validation={"final": {"case_1": 0.123456}}),
    "as models": lambda: scores(validation={"case 1": {"liver": 0.123456}}),
    "as metrics of an update": lambda: with_metrics(case_1=0.123456),
    "in the validation Dice of an update": lambda: with_metrics(val_dice={"liver": {"case_1": 0.123456}}),
    "in a collection": lambda: collection(DXO(DataKind.METRICS, {"testing": {"final": [case(0.123456)]}})),
    "as a summary that somebody else made": lambda: scores(
        testing={
            "final": {
                "liver": {
                    **{m: {"mean": 0.123456, "sd": None, "n": 2} for m in ("dice", "hd95_mm", "assd_mm")},
                    "leakage": 0.1,
                    "missed": 0,
                    "false_positive": 0,
                }
            }
        }
    ),
}
