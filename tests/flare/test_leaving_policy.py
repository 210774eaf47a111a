"""Hostile jobs against the shipped policy of a site, with FLARE's own deployer, runner, scopes and allow list."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from hostile import POLICY, PolicedSite, Says
from in_process import on_the_wire
from leaving_messages import PER_CASE, PRIVATE_TENSORS, SECRET, SMUGGLED, case, scores, tensor, update
from nvflare.apis.dxo import DataKind, from_shareable
from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_exception import UnsafeComponentError
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.workspace import Workspace
from nvflare.app_common.widgets.component_path_authorizer import ComponentPathAuthorizer
from nvflare.fuel.utils import fobs
from nvflare.private.fed.app.fl_conf import create_privacy_manager
from nvflare.private.privacy_manager import PrivacyService

from fedpartial.flare.failure import REASON_HEADER
from fedpartial.flare.weights import METRICS
from fedpartial.server.update_check import check_update
from fedpartial.training.reported import VALIDATION

POLICIES = ("site", "site-noise")


@pytest.fixture(autouse=True)
def own_privacy_service():
    manager = PrivacyService.manager
    yield
    PrivacyService.manager = manager


@pytest.fixture
def site(tmp_path) -> PolicedSite:
    site = PolicedSite(tmp_path)
    assert site.deploy() == ""
    return site


def refused(reply: Shareable) -> str:
    """The reason, of a reply that holds nothing else."""
    assert reply.get_return_code() == ReturnCode.TASK_RESULT_FILTER_ERROR
    assert set(reply) == {"__headers__"}
    assert SECRET not in str(on_the_wire(reply))
    assert SECRET.encode() not in fobs.dumps(reply)
    return reply.get_header(REASON_HEADER)


# --- the scope ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_a_job_cannot_choose_another_scope(tmp_path, policy):
    site = PolicedSite(tmp_path, policy)
    assert site.deploy(scope="open") == "privacy scope 'open' is not allowed"
    assert site.deploy() == site.deploy(scope="") == site.deploy(scope="hospital") == ""
    assert list(PrivacyService.manager.name_to_scopes) == ["hospital"]


@pytest.mark.parametrize("policy", POLICIES)
def test_the_policy_has_our_three_filters_first(tmp_path, policy):
    PolicedSite(tmp_path, policy)
    filters = PrivacyService.get_scope("").task_result_filters["out"]
    names = [type(f).__name__ for f in filters]
    assert names[:3] == ["KnownContent", "NamedParts", "ReportedMetrics"]
    assert (filters[2].per_case, filters[2].min_cases) == (False, 2)
    assert len(names) == (3 if policy == "site" else 5)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_server_that_shares_the_folder_does_not_filter(tmp_path, policy):
    """As in the simulator, where only the server reads the file; results have FLARE's own headers by then."""
    site = PolicedSite(tmp_path, policy)
    manager = create_privacy_manager(site.workspace, names_only=False, is_server=True)
    assert manager.get_scope("").task_result_filters["in"] == []


# --- what a job sends ---------------------------------------------------------------------------------


@pytest.mark.parametrize("message", PRIVATE_TENSORS)
@pytest.mark.parametrize("task", ["train", "submit_model", "exfiltrate"])
def test_a_private_tensor_cannot_leave(site, message, task):
    refused(site.run(task, Shareable(), Says(PRIVATE_TENSORS[message]())))


def test_the_server_learns_the_name_of_the_tensor(site, caplog):
    reply = site.run("train", Shareable(), Says(PRIVATE_TENSORS["in an update"]()))
    reason = "refused by the site's privacy policy: tensor 'output_block.private.bias' may not leave this site"
    assert refused(reply) == reason
    assert "'output_block.private.bias' may not leave this site" in caplog.text


def test_the_name_of_a_tensor_is_not_repeated_where_it_could_be_a_text(site):
    reply = site.run("train", Shareable(), Says(update({f"/data/{SECRET}.nii.gz": tensor()})))
    assert "with an unusual name" in refused(reply)


@pytest.mark.parametrize("message", SMUGGLED)
def test_nothing_can_be_smuggled_beside_the_numbers(site, message):
    assert refused(site.run("train", Shareable(), Says(SMUGGLED[message]())))


@pytest.mark.parametrize("message", PER_CASE)
def test_per_case_values_cannot_leave_under_any_name(site, message):
    refused(site.run("validate", Shareable(), Says(PER_CASE[message]())))


class Undo(Filter):
    """A job's filter that sends what it kept; the site's filters have run before it."""

    def __init__(self):
        super().__init__()
        self.seen: list[Shareable] = []

    def process(self, shareable, fl_ctx):
        self.seen.append(shareable)
        return shareable


@pytest.mark.parametrize("key", ["train/out", "*/out", "train/inout"])
def test_the_jobs_own_filters_come_after_those_of_the_site(site, key):
    job_filter = Undo()
    reply = site.run("train", Shareable(), Says(PRIVATE_TENSORS["in an update"]()), {key: [job_filter]})
    refused(reply)
    assert all("DXO" not in seen for seen in job_filter.seen)
    assert len(job_filter.seen) == (key == "train/out")


# --- the good job -------------------------------------------------------------------------------------


def assert_same_tensors(found: dict, sent: dict) -> None:
    assert list(found) == list(sent)
    for name, value in sent.items():
        assert found[name].dtype == value.dtype
        assert found[name].tobytes() == value.tobytes()


@pytest.mark.parametrize("kind", [DataKind.WEIGHT_DIFF, DataKind.WEIGHTS])
def test_a_good_update_passes_bit_for_bit(site, kind):
    sent = from_shareable(update(kind=kind))
    reply = on_the_wire(site.run("train", Shareable(), Says(update(kind=kind))))
    assert reply.get_return_code() == ReturnCode.OK
    found = from_shareable(reply)
    assert_same_tensors(found.data, sent.data)
    assert (found.data_kind, found.meta) == (sent.data_kind, sent.meta)


def test_good_scores_pass_but_for_the_cases(site):
    sent = from_shareable(scores()).data
    found = from_shareable(on_the_wire(site.run("validate", Shareable(), Says(scores())))).data
    assert {k: v for k, v in found.items() if k != "testing"} == {k: v for k, v in sent.items() if k != "testing"}
    assert set(found["testing"]) == set(sent["testing"])
    for summary in found["testing"].values():
        assert summary["liver"]["dice"] == {"mean": 0.625, "sd": 0.125, "n": 3}
    assert "scored" not in str(found)


def test_good_failures_pass(site):
    for code, reason in ((ReturnCode.EMPTY_RESULT, None), (ReturnCode.EXECUTION_EXCEPTION, "labels: expected a class")):
        reply = make_reply(code)
        if reason:
            reply.set_header(REASON_HEADER, reason)
        found = site.run("train", Shareable(), Says(reply))
        assert (found.get_return_code(), found.get_header(REASON_HEADER)) == (code, reason)


def test_the_answers_of_the_learner_pass(site, make_hospital, tiny, weights):
    """Tiny hospitals have one validation and one test case, so their scores are withheld."""
    from test_learner import score_task, train_task

    hospital = make_hospital()
    sent = hospital.execute("train", train_task(weights, 1))
    before = {name: value.copy() for name, value in from_shareable(sent).data.items()}
    assert from_shareable(sent).meta[METRICS]["val_dice"]
    found = from_shareable(on_the_wire(site.run("train", Shareable(), Says(sent))))
    assert_same_tensors(found.data, before)
    assert [found.meta[METRICS][field] for field in VALIDATION] == [{}, {}, {}]
    assert "initial_metrics" not in found.meta, "the mean over classes that were withheld"

    reply = site.run("validate", Shareable(), Says(hospital.execute("validate", score_task({"final": weights}))))
    summary = from_shareable(on_the_wire(reply)).data["testing"]["final"]
    assert set(summary) == {"liver", "liver_tumor"}
    assert all(entry["dice"] == {"mean": None, "sd": None, "n": None} for entry in summary.values())
    reply = site.run("submit_model", Shareable(), Says(hospital.execute("submit_model", Shareable())))
    assert set(from_shareable(on_the_wire(reply)).data) == set(weights)


# --- noise --------------------------------------------------------------------------------------------


@pytest.fixture
def seeded():
    """SVTPrivacy draws from NumPy's global generator."""
    state = np.random.get_state()
    np.random.seed(0)
    yield
    np.random.set_state(state)


@pytest.mark.parametrize("kind", [DataKind.WEIGHT_DIFF, DataKind.WEIGHTS])
def test_the_noise_policy_clips_and_the_server_still_takes_the_update(tmp_path, kind, seeded):
    site = PolicedSite(tmp_path, "site-noise")
    site.deploy()
    rng = np.random.default_rng(0)
    sent = {
        name: rng.normal(scale=1e-3, size=(40, 50)).astype(np.float32) for name in ("input_block.a", "bottleneck.b")
    }
    sent["input_block.a"][0, 0] = 100.0
    reply = on_the_wire(site.run("train", Shareable(), Says(update({n: v.copy() for n, v in sent.items()}, kind=kind))))
    found = from_shareable(reply).data
    check_update("liver", found, sent, 4)
    flat = np.concatenate([value.ravel() for value in found.values()])
    assert 0.45 < np.mean(flat == 0) < 0.6, "the fraction of SVTPrivacy"
    assert np.abs(flat).max() < 0.05, "the outlier is clipped"
    before = np.concatenate([sent[name].ravel() for name in found])
    assert (flat != before)[flat != 0].all(), "noise on all"


def test_the_noise_policy_leaves_metrics_alone(tmp_path):
    def answers(policy: str) -> dict:
        site = PolicedSite(tmp_path / policy, policy)
        site.deploy()
        metrics = from_shareable(site.run("train", Shareable(), Says(update()))).meta[METRICS]
        return {"update": metrics, "scores": from_shareable(site.run("validate", Shareable(), Says(scores()))).data}

    assert answers("site-noise") == answers("site")


# --- other ways out -----------------------------------------------------------------------------------

WAYS_OUT = (
    "nvflare.app_common.widgets.convert_to_fed_event.ConvertToFedEvent",
    "nvflare.app_common.widgets.event_recorder.ClientEventRecorder",
    "nvflare.app_common.logging.job_log_streamer.JobLogStreamer",
    "nvflare.app_common.executors.statistics.statistics_executor.StatisticsExecutor",
    "nvflare.app_opt.tracking.tb.tb_writer.TBWriter",
    "nvflare.app_opt.tracking.mlflow.mlflow_writer.MLflowWriter",
    "nvflare.app_common.psi.psi_executor.PSIExecutor",
    "nvflare.app_common.np.np_trainer.NPTrainer",
    "fedpartial.flare.learner.SiteLearnerOfSomebodyElse",
    "subprocess.Popen",
)


@pytest.fixture
def may_build(tmp_path):
    """What a job without code may have built at a site with the shipped class_allow_list."""
    (tmp_path / "startup").mkdir()
    (tmp_path / "local").mkdir()
    shutil.copy(POLICY / "site" / "resources.json", tmp_path / "local" / "resources.json")
    workspace = Workspace(str(tmp_path), "liver")

    def check(path: str) -> None:
        ComponentPathAuthorizer().authorize_component_config({"path": path}, workspace=workspace)

    return check


@pytest.mark.parametrize("path", WAYS_OUT)
def test_a_job_without_code_cannot_build_what_opens_another_way_out(may_build, path):
    with pytest.raises(UnsafeComponentError, match="not in allow_list"):
        may_build(path)


def test_the_classes_of_the_jobs_may_be_built(may_build):
    found = []
    for config in sorted((POLICY.parents[1] / "jobs").glob("*/app/config/config_fed_client.json")):
        client = json.loads(config.read_text(encoding="utf-8"))
        built = [e["executor"] for e in client["executors"]] + client["components"]
        built += [c["args"]["method"] for c in client["components"] if "method" in c["args"]]
        found += [entry["path"] for entry in built]
    assert len(found) >= 6
    for path in found:
        may_build(path)


def test_a_case_that_a_hostile_server_asks_for_alone_is_withheld(site):
    """A class that one case contains: neither its mean nor its count is told."""
    reply = site.run("validate", Shareable(), Says(scores(testing={"final": [case(0.123456)]})))
    assert "0.123456" not in str(from_shareable(reply).data)
