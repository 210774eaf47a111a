"""Classes that nobody has annotated: their probability is the background's, the others' is what it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from federation import TINY
from fedpartial.inference.models import load_network
from fedpartial.labels import BACKGROUND
from fedpartial.losses.marginal import marginal_log_probabilities
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state
from fedpartial.networks.known_classes import KnownClasses
from fedpartial.training.model_file import load_model, model_info, save_model
from fedpartial.training.plan import Plan


class Given(nn.Module):
    """Answers what it is given."""

    def forward(self, image):
        return image


@pytest.fixture
def logits():
    return torch.randn(2, 5, 3, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_probability_moves_to_the_background_and_nowhere_else(logits):
    before, after = logits.softmax(1), KnownClasses(Given(), [1, 3], 5)(logits).softmax(1)
    torch.testing.assert_close(after[:, [1, 3]], before[:, [1, 3]])
    torch.testing.assert_close(after[:, 0], before[:, [0, 2, 4]].sum(1))
    assert after[:, [2, 4]].max() < 1e-12


def test_it_is_the_marginal_that_training_used(logits):
    labelled = torch.tensor([False, True, False, True, False]).expand(2, 5)
    trained = marginal_log_probabilities(logits, labelled)
    shown = KnownClasses(Given(), [1, 3], 5)(logits).log_softmax(1)
    torch.testing.assert_close(shown[:, [0, 1, 3]], trained[:, [0, 1, 3]])


def test_a_model_file_says_which_classes_were_taught(tmp_path):
    plan = Plan(job="j", preset="phantom", num_rounds=1, local_steps=1)
    state = {name: value.numpy() for name, value in canonical_state(build_network(plan.config, seed=0)).items()}
    image = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(1))
    answers = {}
    for annotated in (None, plan.config.label_space.classes, {"spleen", "liver"}):
        path = tmp_path / "model.safetensors"
        save_model(path, state, model_info(plan, 1, annotated=annotated))
        network, _ = load_network(path)
        with torch.no_grad():
            answers[str(annotated)] = network.eval()(image)
    unknown, everything, some = answers.values()
    assert load_model(path)[1].annotated == ("liver", "spleen")
    assert torch.equal(unknown, everything)
    assert set(some.argmax(1).unique().tolist()) <= {0, 1, 3}
    assert set(everything.argmax(1).unique().tolist()) - {0, 1, 3}, "without it the others win somewhere"
    assert load_model(path)[1].classes[0] == BACKGROUND
    assert TINY.label_space == plan.config.label_space
