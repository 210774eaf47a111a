"""What the server tells every site about a run; it travels with each task, so a site needs no copy of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from fedpartial.errors import ConfigError, check_keys
from fedpartial.presets import Preset, get_preset
from fedpartial.training.local_trainer import Schedule


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Preset, label space option, seed and length of a run."""

    job: str
    preset: str
    num_rounds: int
    local_steps: int
    seed: int = 0
    merge_lesions: bool = False

    def __post_init__(self) -> None:
        get_preset(self.preset)
        for field, least in (("num_rounds", 1), ("local_steps", 1), ("seed", 0)):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(
                    where="job",
                    field=field,
                    got=value,
                    expected=f"an integer of at least {least}",
                    remedy="Correct it in config_fed_server.json.",
                )

    @property
    def config(self) -> Preset:
        return get_preset(self.preset, merge_lesions=self.merge_lesions)

    @property
    def schedule(self) -> Schedule:
        return Schedule(num_rounds=self.num_rounds, local_steps=self.local_steps)

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, given: object) -> Plan:
        names = list(cls.__dataclass_fields__)
        check_keys(given, names, names, where="task from the server")
        return cls(**given)
