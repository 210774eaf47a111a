"""Where one training step's time goes, by phase and by kind of operation, from torch.profiler."""

from __future__ import annotations

from collections import Counter

import torch
from torch.nn.modules import module as module_hooks
from torch.nn.modules.loss import _Loss
from torch.profiler import ProfilerActivity, profile, record_function

REST = "clip, optimiser, loop"
PHASES = ("student forward", "teacher forward", "losses", "student backward", "losses backward", REST)
KINDS = ("convolution", "normalisation", "activation", "copies and layout", "resampling", "rest")
_BACKWARD = "autograd::engine::evaluate_function"
_WORDS = {
    "convolution": ("conv",),
    "normalisation": ("batch_norm", "instance_norm", "group_norm", "layer_norm"),
    "activation": ("leaky_relu",),
    "copies and layout": ("copy_", "clone", "contiguous", "aten::to", "::cat", "::stack", "reorder", "fill_", "zero_"),
    "resampling": ("upsample",),
}


class StepProfiler:
    """Profiles from its making to ``finish``. The outermost modules called in between are the phases."""

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self._open: list[record_function | None] = []
        self._hooks = (
            module_hooks.register_module_forward_pre_hook(self._enter),
            module_hooks.register_module_forward_hook(self._leave, always_call=True),
        )
        self._profile = profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * self.cuda)
        self._profile.__enter__()

    def finish(self) -> dict[str, dict[str, float]]:
        """Seconds by phase, by kind and by operation (the ten that take most)."""
        self._profile.__exit__(None, None, None)
        for hook in self._hooks:
            hook.remove()
        events = [event for event in self._profile.events() if event.device_type.name == "CPU"]
        in_losses = {e.sequence_nr for e in events if _phase_above(e) == "losses" and e.sequence_nr >= 0}
        phases, kinds, operations = Counter(dict.fromkeys(PHASES, 0.0)), Counter(dict.fromkeys(KINDS, 0.0)), Counter()
        for event in events:
            seconds = (event.self_device_time_total if self.cuda else event.self_cpu_time_total) / 1e6
            phases[_phase(event, in_losses)] += seconds
            kinds[_kind(event.name)] += seconds
            operations[event.name] += seconds
        return {"phases": phases, "kinds": kinds, "operations": dict(operations.most_common(10))}

    def _enter(self, module: torch.nn.Module, _: object) -> None:
        outermost = not self._open
        self._open.append(record_function(_name(module)) if outermost else None)
        if outermost:
            self._open[0].__enter__()

    def _leave(self, *_: object) -> None:
        if span := self._open.pop():
            span.__exit__(None, None, None)


def _name(module: torch.nn.Module) -> str:
    if isinstance(module, _Loss):
        return "losses"
    return "student forward" if module.training else "teacher forward"


def _phase(event, in_losses: set[int]) -> str:
    if phase := _phase_above(event):
        return phase
    outermost = None
    while event:
        # A backward pass may compute another one inside, as those of the losses do.
        outermost = event if event.name.startswith(_BACKWARD) else outermost
        event = event.cpu_parent
    if outermost is None:
        return REST
    return "losses backward" if outermost.sequence_nr in in_losses else "student backward"


def _phase_above(event) -> str | None:
    """The named phase of the forward pass that an event lies in."""
    while event and event.name not in PHASES:
        event = event.cpu_parent
    return event.name if event else None


def _kind(operation: str) -> str:
    return next((kind for kind, words in _WORDS.items() if any(word in operation for word in words)), "rest")
