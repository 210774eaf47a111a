"""What the server tells every site about a run; it travels with each task, so a site needs no copy of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import get_args

from fedpartial.errors import ConfigError, check_keys
from fedpartial.networks.split import Exchange, has_private_heads
from fedpartial.networks.wire import Wire
from fedpartial.presets import Preset, UNetConfig, UniversalConfig, get_preset
from fedpartial.training.schedule import Schedule

LEAST = {
    "num_rounds": 0,
    "local_steps": 1,
    "seed": 0,
    "finetune_steps": 0,
    "pretrain_rounds": 0,
    "validate_every": 1,
}
"""The smallest value of every number of a plan."""
FEDERATION = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]{0,63})?")
JOB_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Preset, label space option, seed, length and exchange of a run.

    ``exchange`` says which tensors travel; anything but "all" gives every site private heads of its own classes.
    ``wire`` says how: "float16" halves the bytes of every message, in both directions (networks/wire.py).
    ``finetune_steps`` train these heads after the rounds, on the frozen trunk; 0 for no such phase.
    In the first ``pretrain_rounds`` of the rounds only ``pretrain_sites`` take part, with the cases that annotate every
    class (METHODS 3.4). Sites score the global model of every ``validate_every``-th round, of the last pretraining
    round and of the last one. No round at all is an evaluation or adaptation of the model that the run starts from.
    ``resumed_jobs`` are the FLARE ids of the interrupted jobs that this one continues, the latest first: in their
    folders at the sites lies the state of the optimisers.

    With the universal network (METHODS 4): ``federation`` names the server's model store and the sites' folders that
    outlive the job; "" is a job that has none. ``classes`` are those that a network of the whole run has, none given
    for all of the label space. ``site_presets`` gives a site another preset, which may differ in its network only, and
    ``site_classes`` the classes it trains, where these are not all that it annotates.
    """

    job: str
    preset: str
    num_rounds: int
    local_steps: int
    seed: int = 0
    merge_lesions: bool = False
    exchange: Exchange = "all"
    finetune_steps: int = 0
    pretrain_rounds: int = 0
    pretrain_sites: tuple[str, ...] = ()
    validate_every: int = 1
    resumed_jobs: tuple[str, ...] = ()
    federation: str = ""
    classes: tuple[str, ...] = ()
    site_presets: Mapping[str, str] = field(default_factory=dict)
    site_classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    wire: Wire = "float32"

    def __post_init__(self) -> None:
        get_preset(self.preset)
        self._check_exchange()
        if self.wire not in get_args(Wire):
            raise _wrong("wire", self.wire, f"one of {', '.join(get_args(Wire))}")
        self._check_universal()
        for name, least in LEAST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise _wrong(name, value, f"an integer of at least {least}")
        self._check_pretraining()
        object.__setattr__(self, "resumed_jobs", _job_ids(self.resumed_jobs))

    def _check_exchange(self) -> None:
        if self.exchange not in get_args(Exchange):
            raise _wrong("exchange", self.exchange, f"one of {', '.join(get_args(Exchange))}")
        if self.private_heads and not isinstance(get_preset(self.preset).network, UNetConfig):
            raise _wrong(
                "exchange", self.exchange, f"'all': the network of preset {self.preset!r} has no private heads"
            )
        if self.finetune_steps and not self.private_heads:
            raise _wrong("finetune_steps", self.finetune_steps, "0 where everything is exchanged: no site has a head")

    def _check_pretraining(self) -> None:
        sites = self.pretrain_sites
        if not isinstance(sites, list | tuple) or not all(isinstance(site, str) and site for site in sites):
            raise _wrong("pretrain_sites", sites, "a list of names of sites")
        if len(set(sites)) < len(sites):
            raise _wrong("pretrain_sites", list(sites), "each site once")
        object.__setattr__(self, "pretrain_sites", tuple(sites))
        if self.pretrain_rounds and not sites:
            raise _wrong(
                "pretrain_sites", list(sites), f"the sites that train in the first {self.pretrain_rounds} rounds"
            )
        if self.pretrain_rounds > self.num_rounds:
            raise _wrong("pretrain_rounds", self.pretrain_rounds, f"at most num_rounds, which is {self.num_rounds}")

    def _check_universal(self) -> None:
        check_federation(self.federation)
        given = (self.federation, self.classes, self.site_presets, self.site_classes)
        if any(given) and not isinstance(get_preset(self.preset).network, UniversalConfig):
            raise _wrong("preset", self.preset, "a preset of the universal network (phantom_mmds, mmds)")
        for name in ("site_presets", "site_classes"):
            by_site = getattr(self, name)
            if not isinstance(by_site, Mapping) or not all(isinstance(site, str) and site for site in by_site):
                raise _wrong(name, by_site, "an object with a value for a site's name")
        if empty := [site for site, names in self.site_classes.items() if not names]:
            raise _wrong("site_classes", dict(self.site_classes), f"a class at least for {empty[0]}")
        if not all(isinstance(preset, str) for preset in self.site_presets.values()):
            raise _wrong("site_presets", dict(self.site_presets), "the name of a preset for each site")
        object.__setattr__(self, "classes", self._class_names("classes", self.classes))
        by_site = {site: self._class_names("site_classes", names) for site, names in self.site_classes.items()}
        object.__setattr__(self, "site_classes", by_site)
        for preset in self.site_presets.values():
            if not differs_in_network_only(get_preset(preset), get_preset(self.preset)):
                raise _wrong("site_presets", preset, f"a preset that differs from {self.preset!r} in its network only")

    def _class_names(self, where: str, names: object) -> tuple[str, ...]:
        known = self.config.label_space.classes
        texts = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
        if not texts or len(set(names)) < len(names) or set(names) - set(known):
            raise _wrong(where, names, f"a list of different classes out of {', '.join(known)}")
        return tuple(name for name in known if name in names)

    def for_site(self, site: str) -> Plan:
        """The plan with the preset that this site has."""
        return replace(self, preset=self.site_presets.get(site, self.preset), site_presets={})

    def is_pretraining(self, round_number: int) -> bool:
        """Whether only ``pretrain_sites`` take part in this round, counted from 0."""
        return round_number < self.pretrain_rounds

    def is_validated(self, rounds: int) -> bool:
        """Whether the sites score the global model that stands after so many rounds when they get it for training."""
        return rounds > 0 and (rounds % self.validate_every == 0 or rounds == self.pretrain_rounds)

    @property
    def private_heads(self) -> bool:
        """Whether every site has heads of its own, one per class that it annotates."""
        return has_private_heads(self.exchange)

    @property
    def head_classes(self) -> tuple[str, ...] | None:
        """The classes of the universal network that all sites train together; None for another network."""
        if not isinstance(self.config.network, UniversalConfig):
            return None
        return self.classes or self.config.label_space.classes

    @property
    def config(self) -> Preset:
        return get_preset(self.preset, merge_lesions=self.merge_lesions)

    @property
    def schedule(self) -> Schedule:
        rounds = {"num_rounds": self.num_rounds, "pretrain_rounds": self.pretrain_rounds}
        return Schedule(local_steps=self.local_steps, **rounds)

    def to_dict(self) -> dict:
        lists = {name: list(getattr(self, name)) for name in ("pretrain_sites", "resumed_jobs", "classes")}
        site_classes = {site: list(names) for site, names in self.site_classes.items()}
        return {**asdict(self), **lists, "site_presets": dict(self.site_presets), "site_classes": site_classes}

    @classmethod
    def from_dict(cls, given: object) -> Plan:
        names = list(cls.__dataclass_fields__)
        check_keys(given, names, names, where="task from the server")
        return cls(**given)

    @classmethod
    def from_stored(cls, given: Mapping) -> Plan:
        """The plan in a file; one of an earlier version may lack an option that came later."""
        options = {f.name: f.default for f in fields(cls) if f.default is not MISSING}
        options |= {f.name: f.default_factory() for f in fields(cls) if f.default_factory is not MISSING}
        return cls.from_dict(options | dict(given))


def check_federation(name: object) -> None:
    """It becomes the name of a folder at server and sites: ConfigError for anything else."""
    if not isinstance(name, str) or not FEDERATION.fullmatch(name) or name == "global":
        raise _wrong("federation", name, "a name of up to 64 letters, digits, - and _, a letter or digit first")


def differs_in_network_only(one: Preset, other: Preset) -> bool:
    """Whether models of both can stand side by side: the same classes, grid and intensities."""
    return replace(one, name="", network=other.network) == replace(other, name="")


def _wrong(field: str, got: object, expected: str) -> ConfigError:
    remedy = "Correct it in config_fed_server.json."
    return ConfigError(where="job", field=field, got=got, expected=expected, remedy=remedy)


def _job_ids(given: object) -> tuple[str, ...]:
    """They become folder names at every site, so nothing but FLARE's ids may pass."""
    ids = list(given) if isinstance(given, list | tuple) else [given]
    for value in ids:
        if not isinstance(value, str) or not JOB_ID.fullmatch(value):
            raise ConfigError(
                where="job",
                field="resumed_jobs",
                got=value,
                expected="a list of FLARE job ids",
                remedy="Let 'fedpartial resume' write it.",
            )
    return tuple(ids)
