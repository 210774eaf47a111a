"""How long a stage of MMDS waits for models, on a clock of its own, and what it survives while it stores them."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, Task, TaskCompletionStatus
from nvflare.apis.dxo import DXO, DataKind, MetaKey
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply

from fedpartial.errors import ConfigError, NoSpaceLeft
from fedpartial.flare.single_round import SingleRound
from fedpartial.flare.uploads import LOOK_SECONDS, Patience, Uploads
from fedpartial.flare.weights import METRICS
from fedpartial.server.stage import Stage
from fedpartial.training.reported import NEEDED_NUMBERS
from one_round import home, never, stage_plan, universal  # noqa: F401

SITES = ("liver", "spleen", "amos")
NUMBERS = {
    **dict.fromkeys(NEEDED_NUMBERS, 1),
    "loss": 0.5,
    "val_dice": {},
    "val_cases": {},
    "annotated": {"liver": 1},
    "device": "cpu",
    "precision": "float32",
    "source": "site file",
}
FOR_EVER = 1e6
"""Seconds after which the clock fails the test."""


class Clock:
    """Stands still but for sleep(), in which what was arranged happens."""

    def __init__(self):
        self.now, self.arranged = 1000.0, []
        self.began = self.now

    def at(self, seconds: float, what: Callable, *arguments) -> None:
        self.arranged.append((self.began + seconds, what, arguments))

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        assert self.now < self.began + FOR_EVER, "waits for ever"
        due = [one for one in self.arranged if one[0] <= self.now]
        self.arranged = [one for one in self.arranged if one not in due]
        for _, what, arguments in due:
            what(*arguments)

    @property
    def passed(self) -> float:
        return self.now - self.began


class Workflow:
    """What Uploads asks of SiteTasks; the sites answer when the test says so."""

    def __init__(self):
        self.gone, self.told, self.failures = set(), [], {}
        self.plan = SimpleNamespace(attach=lambda data: None)
        self.recorder = SimpleNamespace(
            failures=self.failures,
            note_failure=lambda site, reason, fl_ctx: self.failures.update({site: reason}),
            history=SimpleNamespace(add_update=lambda *_: None),
            progress=SimpleNamespace(write=lambda event, **fields: self.told.append((event, fields["site"]))),
        )
        self.log_info = self.log_error = self.log_warning = lambda *_: None
        self.watched = nullcontext

    def living(self) -> list[Client]:
        return [Client(site, "") for site in SITES if site not in self.gone]

    def is_gone(self, site: str) -> bool:
        return site in self.gone

    def broadcast(self, task: Task, fl_ctx: FLContext, targets: list[Client], min_responses: int) -> None:
        self.task, self.asked = task, [client.name for client in targets]

    def answers(self, site: str, result: Shareable | None = None) -> None:
        """FLARE's thread: an exception in here would end the task for every site."""
        client_task = ClientTask(Client(site, ""), self.task)
        client_task.result = model() if result is None else result
        self.task.result_received_cb(client_task, FLContext())

    def fails(self, site: str) -> None:
        self.answers(site, make_reply(ReturnCode.EXECUTION_EXCEPTION))

    def ended(self) -> None:
        """As FLARE does when a callback of the task raised, and when the job is aborted."""
        self.task.completion_status = TaskCompletionStatus.ERROR


def model() -> Shareable:
    dxo = DXO(data_kind=DataKind.WEIGHTS, data={}, meta={METRICS: NUMBERS, MetaKey.NUM_STEPS_CURRENT_ROUND: 4})
    return dxo.to_shareable()


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("fedpartial.flare.uploads.time", clock)
    return clock


@pytest.fixture
def workflow() -> Workflow:
    return Workflow()


@pytest.fixture
def stage(tmp_path, monkeypatch) -> Stage:
    """Takes every model unseen."""
    stage = Stage(stage_plan(), tmp_path / "local", {})
    monkeypatch.setattr(stage, "accept", lambda *_, **__: SimpleNamespace(version=1, classes=("liver",)))
    return stage


@pytest.fixture
def collect(workflow, stage, clock) -> Callable[..., Uploads]:
    """``collect(deadline=60.0)`` returns when the server has waited long enough."""

    def run(stop=never, **patience) -> Uploads:
        uploads = Uploads(workflow, stage, Patience(**{"min_clients": 1, **patience}))
        uploads.collect(stop, FLContext())
        return uploads

    return run


def took(clock: Clock, seconds: float) -> bool:
    """It looks again every half second."""
    return seconds <= clock.passed <= seconds + 2 * LOOK_SECONDS


# --- the values of a job ----------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["grace", "deadline", "linger"])
@pytest.mark.parametrize("value", [-0.5, math.inf, math.nan, True, "60", [60], None])
def test_a_time_is_a_finite_number_of_at_least_0(field, value):
    with pytest.raises(ConfigError, match=f"job: {field}: got .*expected a number of at least 0"):
        Patience(min_clients=1, **{field: value})
    with pytest.raises(ConfigError, match=f"job: {field}: got "):
        SingleRound(min_clients=1, distil_steps=1, **{field: value})


@pytest.mark.parametrize("field", ["min_clients", "enough"])
@pytest.mark.parametrize("value", [-1, 1.5, 2.0, math.inf, True, "2", None])
def test_a_number_of_models_is_whole(field, value):
    with pytest.raises(ConfigError, match=f"job: {field}: got .*expected a whole number of at least 0"):
        Patience(**{"min_clients": 1, field: value})


def test_good_values():
    patience = Patience(min_clients=2, enough=2, grace=0.5, deadline=60, linger=3600.0)
    assert (patience.enough, patience.grace, patience.deadline, patience.linger) == (2, 0.5, 60, 3600.0)
    assert Patience(min_clients=4).enough == 0
    assert Patience(min_clients=0, enough=1).enough == 1


def test_enough_is_no_less_than_what_the_stage_needs():
    with pytest.raises(ConfigError, match=r"job: enough: got 1; expected 0, or at least min_clients \(2\)"):
        Patience(min_clients=2, enough=1)


# --- how long it waits ------------------------------------------------------------------------------------


def test_it_waits_for_every_site_however_long_that_takes(collect, workflow, clock):
    for seconds, site in ((5, "spleen"), (900, "liver"), (9_000, "amos")):
        clock.at(seconds, workflow.answers, site)
    uploads = collect()
    assert took(clock, 9_000)
    assert uploads.uploaded == dict.fromkeys(SITES, 1)
    assert uploads.missing(list(SITES)) == {}
    assert [site for event, site in workflow.told if event == "model"] == ["spleen", "liver", "amos"]


def test_the_deadline_ends_it(collect, workflow, clock):
    clock.at(5, workflow.answers, "liver")
    clock.at(61, workflow.answers, "spleen")
    uploads = collect(deadline=60)
    assert took(clock, 60)
    assert uploads.missing(list(SITES)) == dict.fromkeys(("spleen", "amos"), "it has not finished")


def test_the_deadline_is_not_waited_for_when_all_have_come(collect, workflow, clock):
    for site in SITES:
        clock.at(5, workflow.answers, site)
    collect(deadline=60)
    assert took(clock, 5)


@pytest.mark.parametrize(("third", "ends", "count"), [(35, 35, 3), (45, 40, 2)])
def test_grace_is_for_those_who_come_soon_after_enough(collect, workflow, clock, third, ends, count):
    for seconds, site in ((2, "liver"), (10, "spleen"), (third, "amos")):
        clock.at(seconds, workflow.answers, site)
    uploads = collect(enough=2, grace=30)
    assert took(clock, ends)
    assert len(uploads.uploaded) == count


def test_a_failure_is_no_model_that_is_enough(collect, workflow, clock):
    clock.at(2, workflow.fails, "liver")
    clock.at(3, workflow.answers, "spleen")
    clock.at(70, workflow.answers, "amos")
    uploads = collect(enough=2)
    assert took(clock, 70)
    assert uploads.missing(list(SITES)) == {"liver": ReturnCode.EXECUTION_EXCEPTION}


def test_the_deadline_also_ends_the_grace(collect, workflow, clock):
    clock.at(2, workflow.answers, "liver")
    collect(enough=1, grace=500, deadline=60)
    assert took(clock, 60)


def test_who_failed_and_who_is_gone_is_not_waited_for(collect, workflow, clock):
    clock.at(2, workflow.fails, "liver")
    clock.at(3, workflow.gone.add, "spleen")
    clock.at(8, workflow.answers, "amos")
    uploads = collect()
    assert took(clock, 8)
    assert uploads.missing(list(SITES)) == {"liver": ReturnCode.EXECUTION_EXCEPTION, "spleen": "gone"}
    assert uploads.answered == {"liver", "amos"}


def test_who_is_gone_before_is_not_asked(collect, workflow, clock):
    workflow.gone.add("amos")
    clock.at(1, workflow.answers, "liver")
    clock.at(2, workflow.answers, "spleen")
    assert collect().missing(list(SITES)) == {"amos": "gone"}
    assert workflow.asked == ["liver", "spleen"]
    assert took(clock, 2)


def test_it_stops_when_the_job_is_aborted(collect, clock):
    collect(stop=lambda: clock.passed > 20)
    assert took(clock, 20)


def test_it_does_not_wait_for_answers_that_flare_would_drop(collect, workflow, clock):
    clock.at(4, workflow.answers, "liver")
    clock.at(9, workflow.ended)
    uploads = collect(enough=2, grace=30)
    assert took(clock, 9)
    assert uploads.missing(list(SITES)) == dict.fromkeys(("spleen", "amos"), "it has not finished")


@pytest.mark.parametrize(("needed", "came", "enough"), [(0, 0, False), (0, 1, True), (2, 1, False), (2, 2, True)])
def test_a_stage_needs_a_model_at_least(collect, workflow, clock, needed, came, enough):
    for site in SITES[:came]:
        clock.at(1, workflow.answers, site)
    assert collect(min_clients=needed, deadline=5).enough_came is enough


# --- late models ------------------------------------------------------------------------------------------


@pytest.fixture
def without_amos(collect, workflow, clock) -> Callable[..., Uploads]:
    """Liver and spleen came in 10 seconds, and the stage goes on without the third."""

    def run(**patience) -> Uploads:
        clock.at(1, workflow.answers, "liver")
        clock.at(10, workflow.answers, "spleen")
        uploads = collect(enough=2, **patience)
        clock.began = clock.now
        return uploads

    return run


def test_a_model_that_comes_late_is_stored_and_counted(without_amos, workflow):
    uploads = without_amos()
    workflow.answers("amos")
    assert uploads.uploaded == dict.fromkeys(SITES, 1)
    assert uploads.answered == set(SITES)


def test_nobody_is_waited_for_unless_the_job_says_so(without_amos, clock):
    without_amos().wait_for_late(never)
    assert clock.passed == 0


def test_it_lingers_until_the_last_one_has_come(without_amos, workflow, clock):
    uploads = without_amos(linger=60)
    clock.at(20, workflow.answers, "amos")
    uploads.wait_for_late(never)
    assert took(clock, 20)
    assert uploads.uploaded["amos"] == 1


def test_it_lingers_no_longer_than_the_job_says(without_amos, clock):
    without_amos(linger=60).wait_for_late(never)
    assert took(clock, 60)


@pytest.mark.parametrize("end", ["gone", "failed", "ended", "stopped"])
def test_it_does_not_linger_for_nobody(without_amos, workflow, clock, end):
    uploads = without_amos(linger=60)
    ends = {
        "gone": (workflow.gone.add, "amos"),
        "failed": (workflow.fails, "amos"),
        "ended": (workflow.ended,),
        "stopped": (lambda: None,),
    }
    clock.at(20, *ends[end])
    uploads.wait_for_late(lambda: end == "stopped" and clock.passed >= 20)
    assert took(clock, 20)


def test_without_anybody_missing_it_does_not_linger(collect, workflow, clock):
    for site in SITES:
        clock.at(1, workflow.answers, site)
    uploads = collect(linger=60)
    clock.began = clock.now
    uploads.wait_for_late(never)
    assert clock.passed == 0


# --- what cannot be stored --------------------------------------------------------------------------------

FAULTS = {
    "a broken disk": OSError(5, "Input/output error"),
    "a full disk": NoSpaceLeft("the model store", "store"),
    "a network that fails": RuntimeError("not enough memory: you tried to allocate 9 bytes"),
    "a number beyond all": OverflowError("int too large to convert to float"),
    "a division by nothing": ZeroDivisionError("division by zero"),
    "a refusal": ValueError("model of spleen refused: NaN"),
    "a withdrawn site": ConfigError(where="store", field="site", got="spleen", expected="a member", remedy="Ask it."),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_stored_names_its_site_and_the_others_are_stored(
    collect, workflow, stage, clock, monkeypatch, name
):
    accept = stage.accept

    def accept_all_but_one(site: str, *arguments, **more):
        if site == "spleen":
            raise FAULTS[name]
        return accept(site, *arguments, **more)

    monkeypatch.setattr(stage, "accept", accept_all_but_one)
    for seconds, site in enumerate(("liver", "spleen", "amos")):
        clock.at(seconds, workflow.answers, site)
    uploads = collect()
    assert workflow.task.completion_status is None
    assert uploads.uploaded == {"liver": 1, "amos": 1}
    assert uploads.answered == set(SITES)
    assert uploads.missing(list(SITES)) == {"spleen": str(FAULTS[name])}
    assert [site for event, site in workflow.told if event == "model"] == ["liver", "amos"]


def test_a_ledger_that_cannot_be_written_names_the_site_too(collect, workflow, stage, clock, monkeypatch):
    def full(site: str, *_) -> None:
        raise OSError(28, "No space left on device")

    for seconds, site in enumerate(SITES):
        clock.at(seconds + 1, workflow.answers, site)
    clock.at(0, monkeypatch.setattr, stage, "sent", full)
    uploads = collect()
    assert set(uploads.missing(list(SITES))) == set(SITES)
    assert all("No space left" in reason for reason in workflow.failures.values())
