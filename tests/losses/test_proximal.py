"""The proximal term of FedProx (METHODS 1.4): half the SQUARED distance."""

import pytest
import torch

from fedpartial.losses.proximal import proximal_term


def weights(*values):
    return [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values]


def test_a_hand_computed_distance():
    parameters = weights([1.0, 2.0], [[3.0], [-1.0]], 0.5)
    reference = weights([0.0, 4.0], [[3.0], [1.0]], 0.0)
    assert proximal_term(parameters, reference).item() == pytest.approx(0.5 * (1 + 4 + 0 + 4 + 0.25), rel=1e-15)


def test_the_gradient_is_the_distance_and_the_reference_has_none():
    parameters, reference = weights([1.0, 2.0], [[3.0]]), weights([0.5, 4.0], [[1.0]])
    proximal_term(parameters, reference).backward()
    for parameter, fixed in zip(parameters, reference, strict=True):
        torch.testing.assert_close(parameter.grad, (parameter - fixed).detach())
        assert fixed.grad is None or not fixed.grad.any()


def test_gradcheck():
    reference = weights([0.5, 4.0], [[1.0]])
    assert torch.autograd.gradcheck(
        lambda *parameters: proximal_term(parameters, reference), weights([1.0, 2.0], [[3.0]])
    )


def test_at_the_global_model_value_and_gradient_are_zero():
    model = torch.nn.Linear(3, 2)
    term = proximal_term(model.parameters(), [p.detach().clone() for p in model.parameters()])
    term.backward()
    assert term.shape == ()
    assert term.item() == 0
    assert all(not parameter.grad.any() for parameter in model.parameters())


def test_it_grows_with_the_square_of_the_distance():
    at = [proximal_term(weights([distance]), weights([0.0])).item() for distance in (1.0, 2.0, 4.0)]
    assert at == [0.5, 2.0, 8.0]


def test_the_term_is_still_there_in_the_second_step():
    parameters, reference = weights([1.0], [2.0]), weights([0.0], [0.0])
    assert [proximal_term(iter(parameters), reference).item() for _ in range(2)] == [2.5, 2.5]


@pytest.mark.parametrize(("ours", "theirs"), [(2, 1), (1, 2), (2, 0)])
def test_models_of_different_length_are_refused(ours, theirs):
    with pytest.raises(ValueError, match=r"shorter|longer|differ"):
        proximal_term(weights(*[[1.0]] * ours), weights(*[[0.0]] * theirs))
