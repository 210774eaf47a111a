"""Each privacy filter for itself: its arguments, and what it does without the others beside it."""

from __future__ import annotations

import copy

import pytest
from in_process import Engine, Hospital, context
from leaving_messages import METRIC_VALUES, PER_CASE, PRIVATE_TENSORS, case, scores, tensor, update, with_metrics
from nvflare.apis.dxo import MetaKey, from_shareable
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable
from test_learner import FAULTS, train_task

from federation import tiny_plan
from fedpartial.errors import ConfigError
from fedpartial.evaluation.report import read_report
from fedpartial.flare.failure import REASON_HEADER
from fedpartial.flare.learner import validation_numbers
from fedpartial.flare.leaving import MAX_DEPTH
from fedpartial.flare.leaving_content import KnownContent
from fedpartial.flare.leaving_metrics import ReportedMetrics
from fedpartial.flare.leaving_parts import NamedParts
from fedpartial.flare.weights import METRICS
from fedpartial.losses.combination import LOSS_NAMES
from fedpartial.methods.condistfl import ConDistFL
from fedpartial.methods.fedavg import FedAvg
from fedpartial.methods.fedprox import FedProx
from fedpartial.methods.margexc import MargExc
from fedpartial.server.final_report import FinalReport
from fedpartial.server.run_history import RunHistory
from fedpartial.training.reported import UPDATE_NUMBERS, VALIDATION


@pytest.fixture
def passed(tmp_path):
    """``passed(filter, result)``: the answer that leaves, or None when nothing does."""
    fl_ctx = context(Engine({}), "liver", tmp_path)

    def process(one, result: Shareable) -> Shareable | None:
        reply = one.process(copy.deepcopy(result), fl_ctx)
        return None if reply.get_return_code() == ReturnCode.TASK_RESULT_FILTER_ERROR else reply

    return process


# --- NamedParts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [m for m in PRIVATE_TENSORS if m != "under a name that nobody allowed"])
def test_private_wins_over_parts(passed, message):
    assert passed(NamedParts(["*"], ["*private*"]), PRIVATE_TENSORS[message]()) is None


@pytest.mark.parametrize(
    ("parts", "name", "leaves"),
    [
        (["trunk.*"], "trunk.conv.weight", True),
        (["trunk.*"], "trunk", False),
        (["trunk.*"], "Trunk.conv", False),
        (["trunk.*"], "head.trunk.weight", False),
        (["*.weight"], "head.weight", True),
        (["trunk.conv?.weight"], "trunk.conv1.weight", True),
        (["a", "b"], "b", True),
    ],
)
def test_patterns_are_those_of_a_shell_and_fit_the_whole_name(passed, parts, name, leaves):
    assert (passed(NamedParts(parts), update({name: tensor()})) is not None) == leaves


@pytest.mark.parametrize("parts", [[], "trunk.*", None, [1], [""], {"trunk.*": True}])
def test_wrong_patterns_are_refused_when_the_policy_is_read(parts):
    with pytest.raises(ConfigError, match=r"privacy.json: NamedParts.parts"):
        NamedParts(parts)


def test_a_message_that_never_ends_is_refused(passed):
    deep: object = 1
    for _ in range(MAX_DEPTH + 1):
        deep = {"x": deep}
    assert passed(NamedParts(["*"]), update(deep=deep)) is None


# --- ReportedMetrics ----------------------------------------------------------------------------------


@pytest.mark.parametrize("message", PER_CASE)
def test_per_case_values_stay_without_the_other_filters_too(passed, message):
    assert passed(ReportedMetrics(), PER_CASE[message]()) is None


def test_a_site_may_allow_per_case_values(passed):
    assert passed(ReportedMetrics(per_case=True), scores()) == scores()
    few = with_metrics(val_cases={"liver": 1, "liver_tumor": 1}, val_found={"liver": 1, "liver_tumor": 1})
    assert from_shareable(passed(ReportedMetrics(per_case=True), few)).meta == from_shareable(few).meta


def test_the_mean_of_too_few_validation_cases_is_withheld(passed):
    rare = with_metrics(val_cases={"liver": 2, "liver_tumor": 1}, val_found={"liver": 2, "liver_tumor": 1})
    meta = from_shareable(passed(ReportedMetrics(), rare)).meta
    kept = {"val_dice": {"liver": 0.5}, "val_cases": {"liver": 2}, "val_found": {"liver": 2}}
    assert meta[METRICS] == {**METRIC_VALUES, **kept}
    assert MetaKey.INITIAL_METRICS not in meta, "FLARE's mean over all classes would give the rest away"
    assert from_shareable(passed(ReportedMetrics(min_cases=3), rare)).meta[METRICS]["val_dice"] == {}


@pytest.mark.parametrize(
    ("dice", "leaves"),
    [
        ((0.873, 0.0, 0.0), False),
        ((0.873, 0.5, 0.0), True),
        ((0.0, 0.0, 0.0), True),
        ((0.0,), False),
        ((0.873,), False),
        ((), False),
    ],
)
def test_a_mean_in_which_one_case_was_found_is_that_case(passed, dice, leaves):
    """Three times 0.291 is 0.873. A model that finds nothing anywhere counts as 0, or it would be chosen for it."""
    numbers = validation_numbers({"liver": dice} if dice else {})
    meta = from_shareable(passed(ReportedMetrics(), with_metrics(**numbers))).meta[METRICS]
    assert {field: meta[field] for field in VALIDATION} == (numbers if leaves else {key: {} for key in VALIDATION})
    by_model = {VALIDATION[field]: {"final": values} for field, values in numbers.items()}
    found = from_shareable(passed(ReportedMetrics(), scores(**by_model))).data
    expected = by_model if leaves else {key: {"final": {}} for key in by_model}
    assert {field: found[field] for field in by_model} == expected


@pytest.mark.parametrize("missing", ["val_cases", "val_found"])
def test_a_mean_without_a_number_of_cases_is_withheld(passed, missing):
    metrics = {name: value for name, value in METRIC_VALUES.items() if name != missing}
    found = from_shareable(passed(ReportedMetrics(), update(**{METRICS: metrics}))).meta
    assert found[METRICS]["val_dice"] == {}
    bare = from_shareable(passed(ReportedMetrics(), scores(**{VALIDATION[missing]: {}})))
    assert bare.data["validation"] == {"final": {}, "best": {}}


def test_flares_mean_alone_does_not_leave(passed):
    result = update()
    del result["DXO"]["meta"][METRICS]
    assert MetaKey.INITIAL_METRICS not in from_shareable(passed(ReportedMetrics(), result)).meta


def test_a_class_with_too_few_test_cases_is_withheld(passed):
    cases = [case(0.5), case(0.625), case(0.75), case(0.123456, name="spleen")]
    found = from_shareable(passed(ReportedMetrics(), scores(testing={"final": cases}))).data["testing"]["final"]
    assert found["liver"]["dice"]["n"] == 3
    assert found["spleen"]["dice"] == {"mean": None, "sd": None, "n": None}
    assert "0.123456" not in str(found)


@pytest.mark.parametrize("arguments", [{"min_cases": 1}, {"min_cases": True}, {"min_cases": "2"}, {"per_case": "no"}])
def test_wrong_arguments_are_refused_when_the_policy_is_read(arguments):
    with pytest.raises(ConfigError, match=r"privacy.json: ReportedMetrics"):
        ReportedMetrics(**arguments)


# --- KnownContent -------------------------------------------------------------------------------------


def test_every_number_of_every_method_is_known(passed, make_hospital, tiny, weights):
    """A new method that reports a new part of its loss needs a line in reported.py."""
    reported = set()
    all_losses = dict.fromkeys(LOSS_NAMES, 1.0)
    for method in (FedAvg(), FedProx(), ConDistFL(), MargExc(marginal=all_losses, exclusion=all_losses)):
        reply = make_hospital(method=method, folder=type(method).__name__).execute("train", train_task(weights, 1))
        assert passed(KnownContent(), reply) is not None
        metrics = from_shareable(reply).meta[METRICS]
        reported |= {name for name, value in metrics.items() if isinstance(value, int | float)}
    of_another_network = {"auxiliary", "bce"}  # tests/methods/test_fedmenu.py, test_mmds.py
    assert reported | of_another_network == set(UPDATE_NUMBERS)


# --- the report made of summaries ---------------------------------------------------------------------


def written(folder, answers: dict[str, dict]) -> dict:
    history = RunHistory(1)
    history.start_round(0)
    report = FinalReport(plan=tiny_plan(num_rounds=1), history=history, config_dir=folder)
    for site, answer in answers.items():
        report.add_site_scores(site, answer)
    models = {"final": {}, "best": {}}
    report.select(models)
    return read_report(report.write(folder / "report", {}, lambda: False)[0].json)


def test_the_report_of_summaries_is_that_of_the_cases(passed, tiny, without_figures, tmp_path):
    answer = from_shareable(scores()).data
    sent = from_shareable(passed(ReportedMetrics(), scores())).data
    whole = written(tmp_path / "cases", {"liver": answer})
    summed = written(tmp_path / "summaries", {"liver": sent})
    for field in ("sites", "cross_site", "selected_model"):
        assert summed[field] == whole[field], field
    assert summed["sites"]["liver"]["liver"]["dice"] == {"mean": 0.625, "sd": 0.125, "n": 3}
    assert (list(whole["cases"]), list(summed["cases"])) == (["liver"], [])


# --- a whole run --------------------------------------------------------------------------------------


class Policed(Hospital):
    """A hospital whose answers pass its filters."""

    def __init__(self, hospital: Hospital, filters: list):
        self.__dict__.update(hospital.__dict__)
        self.filters = filters

    def execute(self, task_name, task, signal=None):
        reply = super().execute(task_name, task, signal)
        for one in self.filters:
            reply = one.process(reply, self.fl_ctx)
        return reply


def test_a_run_of_sites_that_withhold_everything_ends_with_a_model_and_a_report(make_server, without_figures):
    server = make_server(method=ConDistFL())
    filters = [KnownContent(), NamedParts(["*"]), ReportedMetrics()]
    for name, hospital in server.link.hospitals.items():
        server.link.hospitals[name] = Policed(hospital, filters)
    server.run()
    report = read_report(server.app / "report.json")
    assert report["selected_model"] == {"name": "final", "round": 2, "val_dice": None}
    assert [set(r["sites"]) for r in report["rounds"]] == [{"liver", "spleen"}] * 2
    assert report["sites"]["spleen"]["spleen"]["dice"] == {"mean": None, "sd": None, "n": None}
    assert report["cases"] == {}
    assert ">withheld</span>" in (server.app / "report.html").read_text(encoding="utf-8")


def test_a_run_of_sites_with_one_refused_part_fails_by_name(make_server, without_figures):
    server = make_server(method=ConDistFL())
    hospital = server.link.hospitals["spleen"]
    server.link.hospitals["spleen"] = Policed(hospital, [NamedParts(["*"], ["output_block.*"])])
    server.run(min_clients=1)
    failures = {line["site"]: line["reason"] for line in server.progress() if line["event"] == "failure"}
    assert set(failures) == {"spleen"}
    assert "tensor 'output_block." in failures["spleen"]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_every_reason_of_a_failure_is_fit_to_leave(passed, make_hospital, tiny, weights, fault):
    hospital = make_hospital()
    task, _ = fault(hospital, weights)
    reply = hospital.execute("train", task)
    assert passed(KnownContent(), reply).get_header(REASON_HEADER) == reply.get_header(REASON_HEADER)
