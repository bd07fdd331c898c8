import numpy as np
import pytest
import torch

from rank_increase.toy.losses import LOSSES, teach


@pytest.fixture
def outputs():
    """Outputs of three tokens with four entries, for five samples, in the layout of the losses."""
    return 3 * np.random.default_rng(0).standard_normal((3, 4, 5))


def labels_of(outputs, loss, labels):
    """Labels from other outputs, in the layout of the losses."""
    return np.moveaxis(teach(np.moveaxis(np.roll(outputs, 1, axis=0), -1, 0), loss, labels), 0, -1)


def torch_loss(Z, Y, loss):
    if loss == "squared":
        return torch.nn.functional.mse_loss(Z, Y) / 2
    rows, classes = (array.permute(2, 0, 1).reshape(-1, 4) for array in (Z, Y))
    return torch.nn.functional.cross_entropy(rows, classes)


@pytest.mark.parametrize(
    ("loss", "labels"), [("squared", "soft"), ("cross_entropy", "soft"), ("cross_entropy", "hard")]
)
def test_loss_and_slope_agree_with_autograd(outputs, loss, labels):
    Y, Z = labels_of(outputs, loss, labels), torch.tensor(outputs, requires_grad=True)
    expected = torch_loss(Z, torch.tensor(Y), loss)
    expected.backward()
    found, slope = LOSSES[loss](outputs, Y)
    assert found == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(slope, Z.grad.numpy(), atol=1e-15)


def test_a_shift_of_all_logits_of_a_token_changes_nothing_however_large(outputs):
    Y = labels_of(outputs, "cross_entropy", "soft")
    loss, slope = LOSSES["cross_entropy"](outputs, Y)
    shifted, shifted_slope = LOSSES["cross_entropy"](outputs + 1e4, Y)
    assert shifted == pytest.approx(loss, rel=1e-9)
    np.testing.assert_allclose(shifted_slope, slope, atol=1e-12)


def test_soft_labels_are_the_optimum_of_their_loss_and_the_squared_error_takes_outputs(outputs):
    Z = np.moveaxis(outputs, -1, 0)
    assert abs(LOSSES["cross_entropy"](outputs, np.moveaxis(teach(Z, "cross_entropy", "soft"), 0, -1))[1]).max() < 1e-15
    np.testing.assert_array_equal(teach(Z, "squared", "soft"), Z)


def test_hard_labels_are_one_for_the_largest_output(outputs):
    hard = teach(np.moveaxis(outputs, -1, 0), "cross_entropy", "hard")
    assert hard.shape == (5, 3, 4)
    np.testing.assert_array_equal(hard.sum(axis=2), 1)
    np.testing.assert_array_equal(np.moveaxis(outputs, -1, 0)[hard == 1], outputs.max(axis=1).T.ravel())
