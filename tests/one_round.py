"""Tiny universal networks, hospitals and public images for the stages of MMDS; one training by itself. No FLARE."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from tiny_hospital import write_case, write_site

from fedpartial import presets
from fedpartial.methods.mmds import Mmds
from fedpartial.presets import PHANTOM_MMDS, UniversalConfig
from fedpartial.sites import HOME_VARIABLE, SiteConfig
from fedpartial.training.alone import Trained, open_alone, train_alone
from fedpartial.training.local_trainer import LocalTrainer
from fedpartial.training.own_models import OwnModels
from fedpartial.training.plan import Plan
from fedpartial.training.site_session import SiteSession

LENGTH = 8
"""Of a class's vector."""
TINY_UNIVERSAL = replace(
    PHANTOM_MMDS,
    name="tiny_universal",
    spacing_mm=(2.0, 2.0, 2.0),
    patch=(16, 16, 16),
    network=UniversalConfig(extractor="unet", channels=(4, 8), embedding=LENGTH, global_features=8),
    local_steps=4,
    distil_steps=3,
)
TINY_DEEPER = replace(
    TINY_UNIVERSAL, name="tiny_deeper", network=replace(TINY_UNIVERSAL.network, channels=(4, 6, 8), head_channels=4)
)
TINY_SWIN = replace(
    TINY_UNIVERSAL,
    name="tiny_swin",
    patch=(32, 32, 32),
    network=replace(TINY_UNIVERSAL.network, extractor="swin_unetr", channels=(12,)),
)
TINY_BESIDE_SWIN = replace(TINY_SWIN, name="tiny_beside_swin", network=TINY_UNIVERSAL.network)
PRESETS = (TINY_UNIVERSAL, TINY_DEEPER, TINY_SWIN, TINY_BESIDE_SWIN)
LABELS = {
    "liver": {1: "liver", 2: "liver_tumor"},
    "spleen": {1: "spleen", 2: "background"},
    "amos": {1: "kidney", 2: "aorta"},
}
COUNTS = {"training": 2, "validation": 1, "testing": 1}
FEDERATION = "fed"
NO_VECTORS: Mapping[str, np.ndarray] = MappingProxyType({})


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models that outlive a job: nothing of a test reaches the user's folder."""
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(autouse=True, scope="module")
def universal() -> Iterator[None]:
    """get_preset() knows the presets of this file."""
    with pytest.MonkeyPatch.context() as registry:
        for preset in PRESETS:
            registry.setitem(presets.PRESETS, preset.name, preset)
        yield


def stage_plan(**changes) -> Plan:
    """The plan of one stage."""
    given = {"job": "stage", "preset": "tiny_universal", "num_rounds": 1, "local_steps": 4, "seed": 3}
    return Plan(**{**given, "federation": FEDERATION, **changes})


def stage_sites(root: Path) -> dict[str, SiteConfig]:
    """The three hospitals, each with two training cases, one for validation and one for testing."""
    sites = {}
    for number, (name, labels) in enumerate(LABELS.items()):
        cases = {
            split: [write_case(root / name, f"{split}{i}", seed=100 * number + 10 * i + len(split)) for i in range(n)]
            for split, n in COUNTS.items()
        }
        site = write_site(root / name, cases, labels)
        sites[name] = replace(site, name=name, where=f"sites/{name}.json", device="cpu")
    return sites


def public_file(config_dir: Path, data: Path, count: int = 2) -> Path:
    """The server's own images without labels, and their site file in ``config_dir``."""
    if not (data / "datalist.json").exists():
        images = [{"image": write_case(data, f"image{i}", seed=900 + i)["image"]} for i in range(count)]
        (data / "datalist.json").write_text(json.dumps({"training": images}))
    path = config_dir / "sites" / "public.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    given = {"data_root": str(data), "cache_dir": str(data / "cache"), "device": "cpu"}
    path.write_text(json.dumps(given))
    return path


def stopping_after(calls: int) -> Callable[[], bool]:
    """False as often as said, then True."""
    left = [calls]

    def stop() -> bool:
        left[0] -= 1
        return left[0] < 0

    return stop


def never() -> bool:
    return False


class Alone:
    """One hospital that trains by itself; every call is a new process."""

    def __init__(self, site: SiteConfig, **plan):
        self.site, self.plan = site, stage_plan(**plan)

    @property
    def own(self) -> OwnModels:
        return OwnModels(self.site.model_dir, self.plan.federation, self.site.name)

    def session(self, embeddings: Mapping[str, np.ndarray] = NO_VECTORS, method=None) -> SiteSession:
        return open_alone(self.site, self.plan, method or Mmds(), embeddings)[0]

    def train(
        self,
        stop: Callable[[], bool] = never,
        embeddings: Mapping[str, np.ndarray] = NO_VECTORS,
        **more,
    ) -> Trained:
        return train_alone(self.session(embeddings), self.own, embeddings, stop, **more)


def counted_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The step of every local step that is taken from now on."""
    taken, take = [], LocalTrainer._step

    def step(trainer: LocalTrainer, *args):
        taken.append(args[-1])
        return take(trainer, *args)

    monkeypatch.setattr(LocalTrainer, "_step", step)
    return taken


def same_tensors(one: Mapping, other: Mapping) -> bool:
    """Names and every bit."""
    return set(one) == set(other) and all(np.array_equal(np.asarray(one[n]), np.asarray(other[n])) for n in one)


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by name; {} for none."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
