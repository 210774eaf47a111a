"""TensorBoard files are written by the server, from the metrics of updates that were accepted."""

from __future__ import annotations

import pytest
import torch
from in_process import Engine, context, peer
from nvflare.apis.event_type import EventType
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from federation import tiny_plan
from fedpartial.flare.plan import RunPlan
from fedpartial.flare.scalars import TensorBoardScalars, scalars
from fedpartial.flare.weights import update_message

FIRST = {"loss": 2.0, "dice": 0.5, "ce": 1.5, "condist": 0.25, "seconds": 1.0, "val_dice": {}}
SECOND = {"loss": 1.0, "seconds": 1.0, "val_dice": {"liver": 0.75}}


@pytest.fixture
def server(tiny, tmp_path):
    engine = Engine({"plan": RunPlan(**tiny_plan(local_steps=2).to_dict()), "scalars": TensorBoardScalars()})
    return engine, context(engine, "server", tmp_path)


def update(server, site: str, metrics: dict, number: int, accepted: bool = True) -> None:
    engine, fl_ctx = server
    fl_ctx.set_peer_context(peer(site))
    result = update_message({"w": torch.zeros(1)}, 1, metrics)
    props = {"CURRENT_ROUND": number, "TRAINING_RESULT": result, "AGGREGATION_ACCEPTED": accepted}
    for key, value in props.items():
        fl_ctx.set_prop(getattr(AppConstants, key), value, private=True, sticky=False)
    engine.fire_event(AppEventType.AFTER_CONTRIBUTION_ACCEPT, fl_ctx)


def read(folder) -> dict[str, list[tuple[float, int]]]:
    found = EventAccumulator(str(folder)).Reload()
    return {name: [(e.value, e.step) for e in found.Scalars(name)] for name in found.Tags()["scalars"]}


def test_every_site_has_its_curves_beside_the_app(server, tmp_path):
    for number, metrics in enumerate((FIRST, SECOND)):
        for site in ("liver", "spleen"):
            update(server, site, metrics, number)
    server[0].fire_event(EventType.END_RUN, server[1])
    assert {path.name for path in (tmp_path / "tb_events").iterdir()} == {"liver", "spleen"}
    for site in ("liver", "spleen"):
        assert read(tmp_path / "tb_events" / site) == {
            "train/loss": [(2.0, 2), (1.0, 4)],
            "train/dice": [(0.5, 2)],
            "train/ce": [(1.5, 2)],
            "train/condist": [(0.25, 2)],
            "val_dice/liver": [(0.75, 2)],
        }


def test_curves_are_on_disk_after_every_update(server, tmp_path):
    """A server that is killed keeps them."""
    update(server, "liver", FIRST, 0)
    assert read(tmp_path / "tb_events" / "liver")["train/loss"] == [(2.0, 2)]
    server[0].fire_event(EventType.END_RUN, server[1])


def test_an_update_that_was_not_accepted_leaves_no_curve(server, tmp_path):
    update(server, "liver", FIRST, 0, accepted=False)
    assert not (tmp_path / "tb_events").exists()


def test_a_site_cannot_name_a_folder_elsewhere(server, tmp_path):
    with pytest.raises(ValueError, match="must stay inside"):
        update(server, "../app", FIRST, 0)


def test_the_dice_belongs_to_the_model_the_round_started_from():
    assert list(scalars(SECOND, 3, 45)) == [("train/loss", 1.0, 180), ("val_dice/liver", 0.75, 135)]
