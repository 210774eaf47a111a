"""Site adaptation: one model of its own for every site, from the federated one (METHODS 3.5).

Liu, Sun, Zhou, "Multi-site organ segmentation with federated partial supervision and site adaptation". The paper gives
neither length nor learning rate; both are arguments of the job.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fedpartial.errors import ConfigError, check_keys
from fedpartial.networks.parts import check_has_parts, is_encoder
from fedpartial.training.local_trainer import LocalTrainer
from fedpartial.training.reported import ADAPTATION_WAYS
from fedpartial.training.tuning import Score, Tuned, tune

WHOLE_NETWORK = "all"
"""The way that needs no parts."""
CHECKS = 2
"""Validations within the phase; the better state is kept. The start does not compete: harm is to be seen."""


@dataclass(frozen=True, kw_only=True)
class AdaptationPlan:
    """What the server asks: in which ways, how many steps, and the first learning rate as a part of the preset's."""

    steps: int
    lr_factor: float = 0.1
    ways: tuple[str, ...] = field(default=ADAPTATION_WAYS)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ways", tuple(self.ways) if isinstance(self.ways, list | tuple) else (self.ways,))
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise _wrong("steps", self.steps, "an integer of at least 1")
        if type(self.lr_factor) not in (int, float) or not 0 < self.lr_factor < float("inf"):
            raise _wrong("lr_factor", self.lr_factor, "a number above 0")
        if not self.ways or any(way not in ADAPTATION_WAYS or self.ways.count(way) > 1 for way in self.ways):
            raise _wrong("ways", list(self.ways), f"some of {', '.join(ADAPTATION_WAYS)}, each once")

    def to_dict(self) -> dict:
        return {"steps": self.steps, "lr_factor": self.lr_factor, "ways": list(self.ways)}

    @classmethod
    def from_dict(cls, given: object) -> AdaptationPlan:
        names = list(cls.__dataclass_fields__)
        check_keys(given, names, names, where="task from the server")
        return cls(**given)


def adapt(
    trainer: LocalTrainer,
    weights: Mapping[str, Tensor],
    way: str,
    plan: AdaptationPlan,
    score: Score,
    stop: Callable[[], bool],
) -> Tuned:
    """The site's own model from the federated ``weights``; what is frozen is theirs, bit for bit.

    ``way``: "all", "encoder_frozen" or "decoder_frozen". Raises what LocalTrainer.run_round raises, and ConfigError
    when a part of a network without encoder and decoder is to be frozen.
    """
    config = trainer.preset.network
    if way != WHOLE_NETWORK:
        check_has_parts(config)
    trained = {
        WHOLE_NETWORK: lambda name: True,
        "encoder_frozen": lambda name: not is_encoder(name, config),
        "decoder_frozen": lambda name: is_encoder(name, config),
    }[way]
    trainer.load(weights, trainer.schedule.num_rounds)
    given = {"steps": plan.steps, "lr_factor": plan.lr_factor}
    return tune(trainer, trained=trained, checks=CHECKS, score=score, stop=stop, **given)


def _wrong(field: str, got: object, expected: str) -> ConfigError:
    remedy = "Correct the component 'adaptation' in config_fed_server.json."
    return ConfigError(where="job", field=f"adaptation.{field}", got=got, expected=expected, remedy=remedy)
