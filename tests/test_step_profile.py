"""benchmarks/step_profile.py: which phase and kind an operation of a training step counts for."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import fedpartial

SCRIPT = Path(fedpartial.__file__).parents[2] / "benchmarks" / "step_profile.py"


@pytest.fixture(scope="module")
def step_profile():
    spec = importlib.util.spec_from_file_location("step_profile", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def _profiled(step_profile, parts: set[str]) -> dict:
    """The profile of a step that consists of some of "student", "teacher", "losses"."""
    student, teacher = nn.Conv3d(1, 2, 3), nn.Conv3d(1, 2, 3).eval()
    image = torch.randn(1, 1, 16, 16, 16)
    profiler = step_profile.StepProfiler(torch.device("cpu"))
    output = student(image) if "student" in parts else torch.ones(2, requires_grad=True)
    if "teacher" in parts:
        with torch.no_grad():
            teacher(image)
    if "losses" in parts:
        nn.MSELoss()(output, torch.zeros_like(output)).backward()
    return profiler.finish()


@pytest.mark.parametrize(
    ("parts", "phases"),
    [
        ({"student"}, {"student forward"}),
        ({"teacher"}, {"teacher forward"}),
        ({"losses"}, {"losses", "losses backward"}),
        (
            {"student", "teacher", "losses"},
            {"student forward", "teacher forward", "losses", "losses backward", "student backward"},
        ),
    ],
)
def test_every_phase_that_ran_has_time_and_no_other(step_profile, parts, phases):
    found = _profiled(step_profile, parts)["phases"]
    # The gradient of the stand-in for the student's output is its own.
    own = {step_profile.REST, "student backward"}
    assert {phase for phase, seconds in found.items() if seconds > 0} - own == phases - own
    assert (found["student backward"] > 0) == ("losses" in parts)


def test_a_backward_pass_inside_another_counts_for_the_outer_one(step_profile):
    def event(name: str, parent: object = None, sequence_nr: int = -1) -> SimpleNamespace:
        return SimpleNamespace(name=name, cpu_parent=parent, sequence_nr=sequence_nr)

    backward = "autograd::engine::evaluate_function: "
    outer = event(f"{backward}_VoxelSumsBackward", sequence_nr=7)
    inner = event(f"{backward}MulBackward0", outer, sequence_nr=9)
    assert step_profile._phase(event("aten::mul", inner), {7}) == "losses backward"
    assert step_profile._phase(event("aten::mul", inner), {9}) == "student backward"
    assert step_profile._phase(event("aten::mul"), {7}) == step_profile.REST


def test_phases_and_kinds_add_up_to_the_same(step_profile):
    found = _profiled(step_profile, {"student", "teacher", "losses"})
    assert sum(found["phases"].values()) == pytest.approx(sum(found["kinds"].values()))
    assert found["kinds"]["convolution"] > 0
    assert max(found["operations"].values()) <= sum(found["kinds"].values())


def test_no_hook_stays(step_profile):
    hooks = nn.modules.module
    before = len(hooks._global_forward_pre_hooks), len(hooks._global_forward_hooks)
    profiler = step_profile.StepProfiler(torch.device("cpu"))
    assert (len(hooks._global_forward_pre_hooks), len(hooks._global_forward_hooks)) == tuple(n + 1 for n in before)
    profiler.finish()
    assert (len(hooks._global_forward_pre_hooks), len(hooks._global_forward_hooks)) == before


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("aten::mkldnn_convolution", "convolution"),
        ("aten::native_batch_norm_backward", "normalisation"),
        ("aten::leaky_relu_", "activation"),
        ("aten::copy_", "copies and layout"),
        ("aten::upsample_nearest3d", "resampling"),
        ("aten::mul", "rest"),
    ],
)
def test_kind_of_an_operation(step_profile, operation, kind):
    assert step_profile._kind(operation) == kind
