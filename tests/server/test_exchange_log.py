"""What moved in a round, and the sentence that ends a run whose exchange is none."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest

from fedpartial.networks.split import is_shared
from fedpartial.server.exchange_log import ExchangeLog

SITES = ("north", "south")
HEAD = "heads.liver.conv.weight"


def model(value: float = 1.0) -> dict[str, np.ndarray]:
    return {"trunk.0.weight": np.full((2, 3), value, np.float32), "trunk.1.bias": np.full(4, value, np.float32)}


def log(**options) -> ExchangeLog:
    return ExchangeLog(is_shared=partial(is_shared, exchange="trunk"), **options)


def reported(taken: int = 2) -> dict:
    return {"tensors_taken": taken, "bytes_down": 40, "loss": 0.5}


def play(kept: ExchangeLog, number: int, before: dict, after: dict, taken: int = 2) -> list[str]:
    """A round of two sites; the sentences that end the run."""
    said = [kept.start_round(number, before)]
    said += [kept.add_update(site, {n: v - before[n] for n, v in after.items()}, reported(taken), 40) for site in SITES]
    return [sentence for sentence in (*said, kept.finish_round(after)) if sentence]


def test_a_round_notes_what_moved_in_which_direction():
    kept = log()
    after = model(2.0) | {"trunk.1.bias": model()["trunk.1.bias"]}
    assert not play(kept, 0, model(), after)
    (noted,) = kept.rounds
    assert (noted["round"], noted["tensors_down"], noted["bytes_down"]) == (1, 2, 40)
    assert noted["sites"] == {
        site: {"tensors_up": 2, "bytes_up": 40, "tensors_not_zero": 1, "tensors_taken": 2, "bytes_received": 40}
        for site in SITES
    }
    assert (noted["tensors_changed"], noted["unchanged"]) == (1, ["trunk.1.bias"])
    assert kept.shared["trunk.0.weight"] == {"shape": [2, 3], "bytes": 24}


def test_averages_that_are_assigned_to_nothing_end_the_run():
    """METHODS 2.2, S1: the sites train and send, and the global model stays what it was."""
    kept = log()
    kept.start_round(4, model())
    for site in SITES:
        assert kept.add_update(site, model(0.5), reported(), 40) is None
    fault = kept.finish_round(model())
    assert fault == "round 5: the global model did not change: the aggregate left all 2 parameters bit for bit"
    assert kept.rounds == []
    assert kept.faults == [fault]


def test_an_average_that_no_site_takes_over_ends_the_run():
    """METHODS 2.2, S1 as the notebook has it: every site trains on from its own weights."""
    (*faults,) = play(log(), 1, model(), model(2.0), taken=0)
    assert faults == [
        f"round 2: site {site} did not take over what was sent: it starts from 0 of the 2 tensors" for site in SITES
    ]


def test_an_empty_list_of_shared_tensors_ends_the_run_before_a_site_is_asked():
    """METHODS 2.2, S2: a filter that is always false leaves nothing to send."""
    assert log().start_round(0, {}) == "round 1: nothing is exchanged: the global model holds no tensor"


def test_a_site_that_sends_an_empty_list_ends_the_run():
    """S2 at a site: its filter leaves nothing."""
    kept = log()
    kept.start_round(0, model())
    fault = kept.add_update("north", {}, reported(), 0)
    assert fault == "round 1: site north sends 0 of the 2 shared tensors, without 'trunk.0.weight'"


@pytest.mark.parametrize("taken", [1, 3])
def test_a_part_of_what_was_sent_is_not_enough(taken):
    assert len(play(log(), 1, model(), model(2.0), taken=taken)) == 2


def test_a_private_tensor_of_a_site_ends_the_run():
    kept = log()
    kept.start_round(0, model())
    fault = kept.add_update("north", model() | {HEAD: np.zeros(1, np.float32)}, reported(), 44)
    assert fault == f"round 1: a private part moved: site north sends 1 private tensor(s), first '{HEAD}'"


def test_a_private_tensor_of_the_server_ends_the_run():
    fault = log().start_round(0, model() | {HEAD: np.zeros(1, np.float32)})
    assert "a private part moved: the server sends 1" in fault


@pytest.mark.parametrize(("exchange", "moved"), [("trunk", False), ("trunk_without_norms", True), ("all", False)])
def test_what_is_private_is_the_plans_to_say(exchange, moved):
    """With FedBN a normalisation of the trunk is as private as a head."""
    kept = ExchangeLog(is_shared=partial(is_shared, exchange=exchange))
    assert bool(kept.start_round(0, {"trunk.0.adn.N.weight": np.ones(2, np.float32)})) == moved


def test_one_changed_value_of_one_tensor_is_a_change():
    after = model()
    after["trunk.0.weight"][1, 2] = np.nextafter(np.float32(1), np.float32(2))
    kept = log()
    assert not play(kept, 0, model(), after)
    assert kept.rounds[0]["unchanged"] == ["trunk.1.bias"]


def test_statistics_that_move_alone_are_no_exchange():
    before = model() | {"trunk.2.adn.N.running_mean": np.zeros(3, np.float32)}
    after = before | {"trunk.2.adn.N.running_mean": np.ones(3, np.float32)}
    (sentence,) = play(log(), 0, before, after, taken=3)
    assert "left all 2 parameters bit for bit" in sentence


def test_a_model_that_is_changed_in_place_has_changed():
    kept, weights = log(), model()
    kept.start_round(0, weights)
    for value in weights.values():
        value += 1
    assert kept.finish_round(weights) is None


def test_sites_that_start_from_their_own_weights_need_neither_take_over_nor_change():
    """Standalone training: the updates travel and nobody averages them."""
    kept = log(aggregates=False)
    kept.start_round(1, model())
    assert kept.add_update("north", model(0.5), reported(taken=0), 40) is None
    assert kept.finish_round(model()) is None
    assert (kept.rounds[0]["tensors_changed"], kept.rounds[0]["unchanged"]) == (None, None)
    kept.start_round(2, model())
    assert "private part" in kept.add_update("north", model() | {HEAD: np.ones(1)}, reported(taken=0), 48)


def test_the_log_goes_on_in_another_process():
    first = log()
    play(first, 0, model(), model(2.0))
    rounds = json.loads(json.dumps(first.rounds))
    second = log(rounds=rounds)
    play(second, 1, model(2.0), model(3.0))
    assert [noted["round"] for noted in rounds] == [1, 2], "the list that it was given"
    assert second.to_dict()["rounds"] == rounds


def test_the_round_with_the_fault_is_in_what_is_written_down():
    kept = log()
    play(kept, 0, model(), model(2.0))
    play(kept, 1, model(2.0), model(2.0))
    written = json.loads(json.dumps(kept.to_dict()))
    assert [noted["round"] for noted in written["rounds"]] == [1, 2]
    assert written["rounds"][1]["unchanged"] == ["trunk.0.weight", "trunk.1.bias"]
    assert len(written["faults"]) == 1
    assert set(written["shared"]) == set(model())
