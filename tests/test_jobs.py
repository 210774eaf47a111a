"""Every job folder is complete, can be built, and differs from jobs/fedavg only where a table says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from job_checks import (
    CLIENT,
    CONFIGS,
    JOBS,
    JOBS_DIR,
    META,
    POOLED,
    REFERENCE,
    SERVER,
    SITES,
    STAGES,
    built_classes,
    differences_of,
    faults,
    read,
)

NAME = {"meta.json#/name", f"{SERVER}#/components/plan/args/job"}
GENERATOR = {f"{SERVER}#/components/shareable_generator/{part}" for part in ("path", "args")}
METHOD = f"{CLIENT}#/components/learner/args/method"
OTHER_METHOD = {f"{METHOD}/path", f"{METHOD}/args"}
PRESET, EXCHANGE = f"{SERVER}#/preset", f"{SERVER}#/exchange"
HEADS = {
    PRESET,
    *OTHER_METHOD,
    *(f"{SERVER}#/{place}exchange" for place in ("", "components/plan/args/")),
    f"{SERVER}#/workflows/heads",
    f"{SERVER}#/workflows/final_evaluation/args/cross_site",
    *(
        f"{CLIENT}#/executors/0/{place}"
        for place in (*(f"tasks/{i}" for i in (1, 2, 3)), "executor/path", "executor/args")
    ),
}
"""A trunk that travels and heads that do not."""
TUNED = {f"{SERVER}#/{place}finetune_steps" for place in ("", "components/plan/args/")}
ONE_SITE = {
    *(f"meta.json#/deploy_map/app/{place}" for place in (1, 2, 3, 4)),
    "meta.json#/min_clients",
    f"{SERVER}#/min_clients",
}

FIVE_SITES = {
    *(f"meta.json#/deploy_map/app/{place}" for place in (1, 2, 3, 4, 5)),
    "meta.json#/min_clients",
    f"{SERVER}#/min_clients",
}
LENGTH = {f"{SERVER}#/num_rounds", f"{SERVER}#/local_steps"}
BY_CASES = {
    PRESET,
    *OTHER_METHOD,
    f"{SERVER}#/components/aggregator/args/weighting",
    f"{SERVER}#/workflows/final_evaluation/args/cross_site",
}
"""Objective and weights of FL-PSMOS and Fed-MENU; local models are not scored at other sites."""
SELDOM_VALIDATED = {f"{SERVER}#/{place}validate_every" for place in ("", "components/plan/args/")}
PRETRAINED = SELDOM_VALIDATED | {
    f"{SERVER}#/{place}{name}"
    for place in ("", "components/plan/args/")
    for name in ("pretrain_rounds", "pretrain_sites")
}
ALL_PRETRAINING = {
    f"{SERVER}#/pretrain_sites",
    f"{SERVER}#/components/plan/args/pretrain_rounds",
    f"{SERVER}#/components/plan/args/pretrain_sites",
}
ADAPTED = {
    f"{SERVER}#/adapt_steps",
    f"{SERVER}#/adapt_lr_factor",
    f"{SERVER}#/workflows/adaptation",
    f"{CLIENT}#/executors/0/tasks/3",
    f"{CLIENT}#/executors/0/executor/path",
    f"{CLIENT}#/executors/0/executor/args",
}

ASYNCHRONOUS = ("deadline", "distil_steps", "embeddings", "enough", "entropy_domain", "linger", "warm_start")
ONE_ROUND = {
    PRESET,
    *LENGTH,
    *OTHER_METHOD,
    *(f"{SERVER}#/{name}" for name in ASYNCHRONOUS),
    *(f"{SERVER}#/{place}federation" for place in ("", "components/plan/args/")),
    *(f"{SERVER}#/components/{name}" for name in ("aggregator", "scalars", "shareable_generator")),
    f"{SERVER}#/components/persistor/args/generator_id",
    f"{SERVER}#/task_result_filters",
    *(f"{SERVER}#/workflows/{name}" for name in ("rounds", "single_round")),
    *(f"{SERVER}#/workflows/final_evaluation/args/{name}" for name in ("cross_site", "scored")),
    *(f"{CLIENT}#/components/learner/{part}" for part in ("path", "args")),
    *(f"{CLIENT}#/executors/0/{p}" for p in (*(f"tasks/{i}" for i in (0, 1, 2)), "executor/path", "executor/args")),
} - OTHER_METHOD
"""Training without rounds, one upload, distillation."""
FEDERATION = {f"{SERVER}#/federation"}
DISTILLING = {f"{SERVER}#/{place}{name}" for place in ("", "workflows/single_round/args/") for name in ASYNCHRONOUS}


def plan_value(name: str) -> set[str]:
    """A variable, and the plan's argument that takes it."""
    return {f"{SERVER}#/{place}{name}" for place in ("", "components/plan/args/")}


REFERENCES = {
    "mmds_central": "central",
    **dict.fromkeys(("mmds_heterogeneous", "mmds_evaluate", *(f"mmds_stage{n}" for n in STAGES)), "mmds"),
}
"""Jobs that are compared with another one than jobs/fedavg."""
ALLOWED_DIFFERENCES = {
    "mmds": {*NAME, *ONE_ROUND},
    "mmds_stage1": {*NAME, *FEDERATION, *ONE_SITE},
    "mmds_stage2": {*NAME, *FEDERATION, *(ONE_SITE - {"meta.json#/deploy_map/app/1"})},
    "mmds_stage3": {*NAME, *FEDERATION, *ONE_SITE},
    "mmds_stage4": {*NAME, *FEDERATION, *ONE_SITE, *plan_value("site_classes")},
    "mmds_stage5": {*NAME, *FEDERATION, *ONE_SITE},
    "mmds_heterogeneous": {*NAME, *FEDERATION, *plan_value("site_presets")},
    "mmds_evaluate": {*NAME, *FEDERATION, *FIVE_SITES, *DISTILLING, f"{SERVER}#/workflows/single_round/args/learn"},
    "mmds_fedavg": {
        *NAME,
        *FIVE_SITES,
        *LENGTH,
        PRESET,
        *OTHER_METHOD,
        *plan_value("classes"),
        *plan_value("site_classes"),
        f"{SERVER}#/workflows/final_evaluation/args/cross_site",
    },
    "mmds_central": {
        *NAME,
        *LENGTH,
        PRESET,
        *OTHER_METHOD,
        "meta.json#/deploy_map/app/1",
        f"{SERVER}#/workflows/final_evaluation/args/cross_site",
    },
    "fedavg": set(),
    "fedavg_plain": {*NAME, f"{METHOD}/args/unlabelled"},
    "fedprox": {*NAME, *OTHER_METHOD},
    "fedopt": {*NAME, *GENERATOR},
    "condistfl": {*NAME, *GENERATOR, *OTHER_METHOD},
    "condistfl_upstream": {*NAME, *GENERATOR, *OTHER_METHOD},
    "condistfl_union": {*NAME, *GENERATOR, *OTHER_METHOD, f"{SERVER}#/components/plan/args/merge_lesions"},
    "standalone": {
        *NAME,
        *GENERATOR,
        f"{METHOD}/args/unlabelled",
        f"{METHOD}/args/absent_class",
        f"{CLIENT}#/components/learner/args/start_from",
    },
    "segviz_fedavg": {*NAME, *HEADS},
    "segviz_fedbn": {*NAME, *HEADS},
    "segviz_fedavg_ft": {*NAME, *HEADS, *TUNED},
    "segviz_fedbn_ft": {*NAME, *HEADS, *TUNED},
    "segviz_standalone": {*NAME, *HEADS, *GENERATOR, f"{CLIENT}#/components/learner/args/start_from"},
    "segviz_conventional": {*NAME, PRESET, f"{METHOD}/args/unlabelled"},
    "segviz_central": {*NAME, PRESET, *ONE_SITE, f"{METHOD}/args/unlabelled"},
    "psmos": {*NAME, *FIVE_SITES, *LENGTH, *BY_CASES, *PRETRAINED},
    "psmos_adapt": {*NAME, *FIVE_SITES, *LENGTH, *BY_CASES, *PRETRAINED, *ADAPTED},
    "psmos_pretrain": {*NAME, *ONE_SITE, *LENGTH, *BY_CASES, *ALL_PRETRAINING},
    "psmos_central": {*NAME, *ONE_SITE, *LENGTH, *BY_CASES, *PRETRAINED},
    "psmos_standalone": {
        *NAME,
        *FIVE_SITES,
        *LENGTH,
        *GENERATOR,
        *SELDOM_VALIDATED,
        *(BY_CASES - {f"{SERVER}#/workflows/final_evaluation/args/cross_site"}),
        f"{CLIENT}#/components/learner/args/start_from",
    },
    "fedmenu": {
        *NAME,
        *FIVE_SITES,
        *BY_CASES,
        f"{SERVER}#/local_steps",
        f"{SERVER}#/components/aggregator/args/label_weights",
    },
    "central": {*NAME, *ONE_SITE},
    "central_plain": {*NAME, *ONE_SITE, f"{METHOD}/args/unlabelled"},
}
"""Job -> file#JSON pointer of every value that differs from jobs/fedavg, or from the job in REFERENCES. An entry of a
list that has an "id" goes by that id; "args" is compared as one value where "path" differs too."""


# --- the jobs of this collection ----------------------------------------------------------------------


def test_there_are_jobs_to_check():
    assert len(JOBS) == 33
    assert {job.name for job in JOBS} == set(ALLOWED_DIFFERENCES)
    assert set(ALLOWED_DIFFERENCES) > POOLED


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_a_job_has_no_fault(job):
    assert faults(job) == []


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_a_job_differs_from_fedavg_only_where_the_table_says(job):
    assert job.name in ALLOWED_DIFFERENCES, f"give jobs/{job.name} a row in ALLOWED_DIFFERENCES"
    reference = JOBS_DIR / REFERENCES.get(job.name, REFERENCE.name)
    assert differences_of(job, reference) == ALLOWED_DIFFERENCES[job.name]


def test_what_kind_of_job_each_one_is():
    """Which jobs aggregate nothing, merge lesions or pool the data, as the JSON says it."""
    kinds = {"NoAggregation": set(), "merge_lesions": set(), '"local"': set(), '"central"': set()}
    for job in JOBS:
        text = "".join((job / name).read_text(encoding="utf-8") for name in CONFIGS)
        for kind, found in kinds.items():
            if kind in text:
                found.add(job.name)
    assert kinds == {
        "NoAggregation": {"standalone", "segviz_standalone", "psmos_standalone"},
        '"local"': {"standalone", "segviz_standalone", "psmos_standalone"},
        "merge_lesions": {"condistfl_union"},
        '"central"': POOLED - {"psmos_central", "mmds_central"},
    }


def test_fedopt_has_the_server_of_condistfl_and_the_sites_of_fedavg():
    """Its README says that the two differ in the distillation alone; a copy of a number would go its own way."""
    fedopt, condistfl = (JOBS_DIR / name for name in ("fedopt", "condistfl"))
    assert differences_of(fedopt, condistfl) == {*NAME, *OTHER_METHOD}
    assert read(fedopt / CLIENT) == read(REFERENCE / CLIENT)
    assert differences_of(JOBS_DIR / "condistfl_union", condistfl) == {
        *NAME,
        f"{SERVER}#/components/plan/args/merge_lesions",
    }


@pytest.mark.parametrize(
    ("job", "reference"), [("segviz_conventional", "fedavg_plain"), ("segviz_central", "central_plain")]
)
def test_the_baselines_of_segviz_are_those_of_condistfl_with_another_network(job, reference):
    """Same code and arguments, so the same run where `fedpartial run fedavg_plain --preset phantom_segviz` is typed."""
    assert differences_of(JOBS_DIR / job, JOBS_DIR / reference) == {*NAME, PRESET}


def test_the_jobs_of_psmos_differ_in_adaptation_and_in_who_takes_part_alone():
    psmos = JOBS_DIR / "psmos"
    assert differences_of(JOBS_DIR / "psmos_adapt", psmos) == {*NAME, *ADAPTED}
    rounds = {f"{SERVER}#/num_rounds"}
    others = FIVE_SITES - {"meta.json#/deploy_map/app/1"}  # the fully annotated site comes first in both
    phases = {*SELDOM_VALIDATED, f"{SERVER}#/pretrain_rounds", f"{SERVER}#/components/plan/args/pretrain_rounds"}
    assert differences_of(JOBS_DIR / "psmos_pretrain", psmos) == {*NAME, *others, *phases, *rounds}
    numbers = {f"{SERVER}#/{name}" for name in ("pretrain_rounds", "pretrain_sites/0", "validate_every")}
    assert differences_of(JOBS_DIR / "psmos_central", psmos) == {*NAME, *FIVE_SITES, *LENGTH, *numbers}


def test_the_first_phase_of_psmos_is_psmos_pretrain():
    psmos, alone = (read(JOBS_DIR / name / SERVER) for name in ("psmos", "psmos_pretrain"))
    assert psmos["pretrain_rounds"] == alone["num_rounds"]
    assert psmos["local_steps"] == alone["local_steps"]
    assert psmos["pretrain_sites"] == alone["pretrain_sites"]
    assert alone["pretrain_sites"] == read(JOBS_DIR / "psmos_pretrain" / META)["deploy_map"]["app"][1:]


@pytest.mark.parametrize("kind", ["fedavg", "fedbn"])
def test_the_jobs_of_segviz_differ_in_what_is_exchanged_and_in_the_phase_alone(kind):
    plain, tuned = JOBS_DIR / f"segviz_{kind}", JOBS_DIR / f"segviz_{kind}_ft"
    assert differences_of(plain, JOBS_DIR / "segviz_fedavg") == (set() if kind == "fedavg" else {*NAME, EXCHANGE})
    assert differences_of(tuned, plain) == {*NAME, *TUNED}
    exchange = {"fedavg": "trunk", "fedbn": "trunk_without_norms"}[kind]
    assert {read(job / SERVER)["exchange"] for job in (plain, tuned)} == {exchange}
    assert read(JOBS_DIR / "segviz_fedbn_ft" / SERVER)["finetune_steps"] == read(tuned / SERVER)["finetune_steps"]


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_every_class_of_a_job_is_found(job):
    """The checks above loop over these; an empty loop would pass."""
    server, client = (built_classes(read(job / name)) for name in (SERVER, CLIENT))
    assert len(server) >= 5
    assert len(client) >= 3


def test_the_custom_folder_holds_no_code():
    found = [path for job in JOBS for path in (job / "app" / "custom").rglob("*") if path.is_file()]
    assert {path.name for path in found} == {"README.md"}
    assert len(found) == len(JOBS)


# --- the checks themselves ----------------------------------------------------------------------------


def change(name: str, edit: Callable[[dict], object]) -> Callable[[Path], None]:
    """Edits one of a job's JSON files."""

    def apply(job: Path) -> None:
        config = read(job / name)
        edit(config)
        (job / name).write_text(json.dumps(config))

    return apply


def replace_text(name: str, old: str, new: str) -> Callable[[Path], None]:
    def apply(job: Path) -> None:
        text = (job / name).read_text(encoding="utf-8")
        assert old in text
        (job / name).write_text(text.replace(old, new, 1), encoding="utf-8")

    return apply


def component(config: dict, name: str) -> dict:
    return next(entry for entry in config["components"] if entry["id"] == name)


def learner_args(config: dict) -> dict:
    return component(config, "learner")["args"]


SPOILERS = {
    "a missing README": (lambda job: (job / "README.md").unlink(), "missing file README.md"),
    "a missing custom folder": (lambda job: shutil.rmtree(job / "app/custom"), "missing file app/custom/README.md"),
    "no front matter": (replace_text("README.md", "---\n", ""), "no front matter"),
    "no paper": (replace_text("README.md", "paper: ", "article: "), "without paper"),
    "no limit": (replace_text("README.md", "limit: ", "limits: "), "without limit"),
    "a comment": (replace_text(SERVER, "{", "{ // rounds"), "unreadable JSON"),
    "a key twice": (replace_text(SERVER, '"seed": 0,', '"seed": 0, "seed": 1,'), "stands twice"),
    "another name": (change(META, lambda c: c.update(name="tiny")), "#/name"),
    "a forgotten site": (change(META, lambda c: c["deploy_map"]["app"].remove("spleen")), "#/deploy_map"),
    "too few clients": (change(META, lambda c: c.update(min_clients=1)), "meta.json#/min_clients"),
    "other clients in the rounds": (change(SERVER, lambda c: c.update(min_clients=1)), f"{SERVER}#/min_clients"),
    "no command of FLARE": (replace_text("README.md", "nvflare simulator jobs/fedavg", "nvflare"), "'nvflare simul"),
    "no command of ours": (
        replace_text("README.md", "fedpartial run jobs/fedavg", "fedpartial run"),
        "'fedpartial run",
    ),
    "a command of another job": (
        replace_text("README.md", "run jobs/fedavg ", "run jobs/fedavg_plain "),
        "'fedpartial run",
    ),
    "sites alone and a mean": (
        change(CLIENT, lambda c: learner_args(c).update(start_from="local")),
        "start_from: local",
    ),
    "a wrong start": (change(CLIENT, lambda c: learner_args(c).update(start_from="own")), "ConfigError"),
    "an undefined variable": (change(SERVER, lambda c: c.pop("seed")), "undefined variable 'seed'"),
    "a misspelt variable": (change(SERVER, lambda c: c.update(lokal_steps=3)), "nobody uses it"),
    "a missing class": (
        change(SERVER, lambda c: component(c, "plan").update(path="fedpartial.flare.plan.Plans")),
        "Plans",
    ),
    "a missing module": (
        change(SERVER, lambda c: component(c, "scalars").update(path="nvflare.nowhere.X")),
        "nowhere",
    ),
    "an unknown argument": (
        change(SERVER, lambda c: component(c, "aggregator")["args"].update(weights=1)),
        "'weights'",
    ),
    "an unknown nested argument": (
        change(CLIENT, lambda c: component(c, "learner")["args"]["method"]["args"].update(tau=1)),
        "/learner/args/method",
    ),
    "a missing argument": (change(SERVER, lambda c: component(c, "plan")["args"].pop("job")), "'job'"),
    "an unknown component": (change(CLIENT, lambda c: c["components"].pop(0)), "no component 'learner'"),
    "a renamed component": (change(SERVER, lambda c: component(c, "recorder").update(id="record")), "'recorder'"),
    "an id twice": (change(SERVER, lambda c: c["components"].append(c["components"][0])), "stands twice"),
    "a wrong option": (
        change(SERVER, lambda c: component(c, "aggregator")["args"].update(weighting="x")),
        "ConfigError",
    ),
    "an absolute path": (
        change(SERVER, lambda c: component(c, "persistor")["args"].update(start_from="/data/m.safetensors")),
        "absolute path '/data/m.safetensors'",
    ),
    "other rounds": (change(SERVER, lambda c: c.update(num_rounds=99)), "the preset is sized for"),
    "another preset": (change(SERVER, lambda c: c.update(preset="abdomen")), "#/preset"),
    "rounds of its own": (
        change(SERVER, lambda c: component(c, "plan")["args"].update(num_rounds=8)),
        "plan/args/num_rounds",
    ),
}


@pytest.mark.parametrize("spoiler", SPOILERS)
def test_the_check_itself_sees_every_kind_of_fault(tmp_path, spoiler):
    job = tmp_path / "fedavg"
    shutil.copytree(REFERENCE, job)
    assert faults(job) == []
    spoil, expected = SPOILERS[spoiler]
    spoil(job)
    assert [fault for fault in faults(job) if expected in fault]


def every_site(meta: dict) -> None:
    meta.update(min_clients=4, deploy_map={"app": ["server", *SITES]})


SPOILERS_OF_OTHERS = {
    "heads that nobody collects": (
        "segviz_fedavg",
        change(SERVER, lambda c: c["workflows"].pop(1)),
        "#/workflows: HeadCollection missing",
    ),
    "heads that are collected before they are trained": (
        "segviz_fedavg",
        change(SERVER, lambda c: c["workflows"].reverse()),
        "#/workflows: ['FinalEvaluation', 'HeadCollection', 'FederatedRounds']",
    ),
    "everything exchanged and heads collected": (
        "segviz_fedbn",
        change(SERVER, lambda c: c.update(exchange="all")),
        "HeadCollection without private heads",
    ),
    "a method of a joint head": (
        "segviz_fedbn",
        change(
            CLIENT, lambda c: learner_args(c).update(method={"path": "fedpartial.methods.fedavg.FedAvg", "args": {}})
        ),
        "SegViz missing",
    ),
    "sites that cannot tune": (
        "segviz_fedavg_ft",
        change(CLIENT, lambda c: c["executors"][0]["tasks"].remove("fine_tune")),
        "fine_tune, collect missing",
    ),
    "whole local models of private heads": (
        "segviz_standalone",
        change(
            SERVER,
            lambda c: component({"components": c["workflows"]}, "final_evaluation")["args"].update(cross_site=True),
        ),
        "cross_site: false missing",
    ),
    "the preset of another network": (
        "segviz_conventional",
        change(SERVER, lambda c: c.update(preset="phantom")),
        "#/preset: 'phantom'",
    ),
    "sites take a model that nobody makes": (
        "standalone",
        change(CLIENT, lambda c: learner_args(c).pop("start_from")),
        "start_from: global",
    ),
    "a mean that nobody takes": (
        "standalone",
        change(
            SERVER,
            lambda c: component(c, "shareable_generator").update(
                component(read(REFERENCE / SERVER), "shareable_generator")
            ),
        ),
        "start_from: local",
    ),
    "nothing to report": (
        "standalone",
        change(
            SERVER,
            lambda c: component({"components": c["workflows"]}, "final_evaluation")["args"].update(cross_site=False),
        ),
        "cross_site: False",
    ),
    "the sites beside the pool": (
        "central",
        change(META, lambda c: c["deploy_map"]["app"].append("liver")),
        "#/deploy_map",
    ),
    "the sites in place of the pool": ("central_plain", change(META, every_site), "#/deploy_map"),
    "more clients than the pool": (
        "central",
        change(META, lambda c: c.update(min_clients=4)),
        "meta.json#/min_clients",
    ),
    "the command of the pool's other job": (
        "central",
        replace_text("README.md", "nvflare simulator jobs/central", "nvflare simulator jobs/central_plain"),
        "'nvflare simulator jobs/central'",
    ),
}


@pytest.mark.parametrize("spoiler", SPOILERS_OF_OTHERS)
def test_the_check_itself_sees_the_faults_of_other_jobs(tmp_path, spoiler):
    name, spoil, expected = SPOILERS_OF_OTHERS[spoiler]
    job = tmp_path / name
    shutil.copytree(JOBS_DIR / name, job)
    assert faults(job) == []
    spoil(job)
    assert [fault for fault in faults(job) if expected in fault]


@pytest.mark.parametrize(
    ("name", "edit", "pointer"),
    [
        (SERVER, lambda c: c.update(seed=1), f"{SERVER}#/seed"),
        (SERVER, lambda c: c.update(seed=0.0), f"{SERVER}#/seed"),
        (
            SERVER,
            lambda c: c["workflows"][0]["args"].update(train_timeout=1),
            f"{SERVER}#/workflows/rounds/args/train_timeout",
        ),
        (SERVER, lambda c: c["components"].pop(), f"{SERVER}#/components/scalars"),
        (CLIENT, lambda c: c["executors"][0]["tasks"].pop(), None),
        (META, lambda c: c.update(extra=1), "meta.json#/extra"),
    ],
)
def test_the_comparison_sees_every_kind_of_difference(tmp_path, name, edit, pointer):
    job = tmp_path / "fedavg"
    shutil.copytree(REFERENCE, job)
    assert differences_of(job) == set()
    change(name, edit)(job)
    found = differences_of(job)
    assert len(found) == 1
    assert pointer is None or found == {pointer}
