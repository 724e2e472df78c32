"""The training examples: gates, choices and sub-gradients are what their papers say, and one is run to its end."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

FOLDER = Path(__file__).parents[2] / "examples" / "training"


def _module(name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        return importlib.import_module(name)


common = _module("common")
hard_concrete = _module("hard_concrete")
layer_choice = _module("layer_choice")
movement = _module("movement")
nuclear_norm = _module("nuclear_norm")
unlearn_recover = _module("unlearn_recover")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def noise(count: int) -> object:
    """Images that say which class they are of by where they are bright."""
    labels = torch.arange(count) % 10
    images = torch.randn(count, 1, 28, 28) / 2
    for row in range(10):
        images[labels == row, :, 2 * row : 2 * row + 4] += 2
    return common.Split(images, labels)


# Hard-concrete gates


@pytest.mark.parametrize("log_alpha", [-4.0, -1.0, 0.0, 0.7, 3.0])
def test_the_expected_number_of_gates_is_that_of_draws(log_alpha: float) -> None:
    gate = hard_concrete.HardConcrete(40_000)
    torch.nn.init.constant_(gate.log_alpha, log_alpha)
    drawn = gate.draw().detach()
    assert 0 <= drawn.min() <= drawn.max() <= 1
    assert (drawn > 0).float().mean().item() == pytest.approx(gate.open()[0].item(), abs=0.01)


def test_gates_that_are_kept_have_as_many_zeros_as_are_expected_and_take_the_lowest() -> None:
    gate = hard_concrete.HardConcrete(50)
    torch.nn.init.normal_(gate.log_alpha, std=3)
    kept, order = gate.gates(), gate.log_alpha.argsort()
    zeros = int((kept == 0).sum())
    assert zeros == round(50 - gate.open().sum().item()) > 0
    assert set(order[:zeros].tolist()) == set((kept == 0).nonzero().flatten().tolist())
    x = torch.randn(3, 50, 2, 2)
    torch.testing.assert_close(gate.eval()(x), x * kept[:, None, None])
    torch.nn.init.constant_(gate.log_alpha, -30)
    assert int((gate.gates() > 0).sum()) == 1, "one stays"


def test_the_multipliers_climb_while_the_network_is_too_large() -> None:
    steer = hard_concrete.Lagrangian(0.5, warmup=1)
    climber = torch.optim.SGD(steer.parameters(), 1.0, maximize=True)
    steer(torch.tensor(0.25)).backward()
    climber.step()
    assert (steer.first.item(), steer.second.item()) == (-0.25, 0.0625)
    sparsity = torch.tensor(0.25, requires_grad=True)
    steer(sparsity).backward()
    assert sparsity.grad is not None and float(sparsity.grad) < 0, "more sparsity costs less"


# Layer choice


@pytest.mark.parametrize(("layers", "keep"), [(2, 1), (4, 2), (5, 3)])
def test_a_choice_has_exactly_that_many_layers_for_every_sample(layers: int, keep: int) -> None:
    choice = layer_choice.LayerChoice(layers, keep)
    drawn = choice.draw(500, temperature=1.0)
    assert set(drawn.detach().unique().tolist()) == {0.0, 1.0}
    assert (drawn.sum(1) == keep).all() and choice.chosen().sum() == keep
    assert len(drawn.detach().unique(dim=0)) == len(choice.options)


def test_the_loss_of_a_layer_reaches_the_logits_and_the_right_layers_win() -> None:
    choice = layer_choice.LayerChoice(4, 2)
    optimizer = torch.optim.Adam(choice.parameters(), 2e-3)
    worth = torch.tensor([0.1, 1.0, 0.2, 0.9])
    for step in range(150):
        optimizer.zero_grad()
        (-(choice.draw(64, 4 - 3.9 * step / 150) @ worth)).mean().backward()
        assert step or choice.logits.grad.abs().min() > 0, "every way to choose learns"
        optimizer.step()
    assert choice.chosen().tolist() == [0, 1, 0, 1]


def test_a_change_of_low_rank_is_none_at_first() -> None:
    weight = torch.randn(6, 3, 3, 3)
    change = layer_choice.LowRank(weight, rank=2)
    torch.testing.assert_close(change(weight), weight)
    torch.nn.init.normal_(change.up)
    assert int(torch.linalg.matrix_rank((change(weight) - weight).reshape(6, -1))) == 2


# Nuclear norm


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (4, 3, 3, 3)])
def test_the_subgradient_is_the_slope_of_the_nuclear_norm(shape: tuple[int, ...]) -> None:
    weight, way = (torch.randn(*shape, dtype=torch.float64) for _ in range(2))

    def norm(step: float) -> float:
        return float(torch.linalg.matrix_norm(nuclear_norm.matrix_of(weight + step * way), "nuc"))

    slope = float((nuclear_norm.nuclear_subgradient(weight) * way).sum())
    assert (norm(1e-5) - norm(-1e-5)) / 2e-5 == pytest.approx(slope, rel=1e-6)


def test_singular_values_that_are_zero_have_no_part_in_it() -> None:
    weight = torch.randn(6, 2, dtype=torch.float64) @ torch.randn(2, 7, dtype=torch.float64)
    found = nuclear_norm.nuclear_subgradient(weight)
    np.testing.assert_allclose(torch.linalg.svdvals(found).numpy(), [1, 1, 0, 0, 0, 0], atol=1e-9)
    assert float((found * weight).sum()) == pytest.approx(float(torch.linalg.matrix_norm(weight, "nuc")))


def test_a_truncation_holds_the_energy_at_the_least_rank() -> None:
    weight = torch.nn.Parameter(torch.diag(torch.tensor([4.0, 3.0, 1.0, 0.5])))
    other = torch.nn.Parameter(weight.detach().clone())
    assert nuclear_norm.truncate([weight], energy=0.9) == [2]
    torch.testing.assert_close(weight.detach(), torch.diag(torch.tensor([4.0, 3.0, 0.0, 0.0])))
    assert nuclear_norm.truncate([other], energy=1.0) == [4]


def test_the_gradient_gets_the_subgradient_in_addition() -> None:
    weight = torch.nn.Parameter(torch.randn(3, 4))
    (2 * weight).sum().backward()
    nuclear_norm.add_nuclear_subgradient([weight], 0.5)
    torch.testing.assert_close(weight.grad, 2 + 0.5 * nuclear_norm.nuclear_subgradient(weight.detach()))


# Unlearning


def test_only_factors_are_trained_and_they_are_the_scales_of_the_norm() -> None:
    norm = torch.nn.BatchNorm2d(5)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    masked, x = unlearn_recover.Masked(norm).eval(), torch.randn(4, 5, 3, 3)
    torch.testing.assert_close(masked(x), norm.eval()(x))
    masked.factors.data = torch.tensor([0.0, 0.5, 1.0, 1.0, 0.25])
    bias = norm.bias[:, None, None]
    torch.testing.assert_close(masked(x), (norm(x) - bias) * masked.factors[:, None, None] + bias)
    assert [name for name, one in masked.named_parameters() if one.requires_grad] == ["factors"]


def test_poison_is_the_trigger_and_the_target_and_nothing_else() -> None:
    split = noise(100)
    bad = unlearn_recover.poisoned(split, share=0.1)
    changed = (bad.images != split.images).flatten(1).any(1)
    assert int(changed.sum()) == 10
    torch.testing.assert_close(bad.images[changed], unlearn_recover.stamped(split.images)[changed])
    assert (bad.labels[changed] == unlearn_recover.TARGET).all()
    assert (bad.labels[~changed] == split.labels[~changed]).all()


# Movement


def test_movement_uses_the_highest_scores_and_scores_what_it_does_not_use() -> None:
    weight = torch.nn.Parameter(torch.randn(4, 5))
    moved = movement.Movement(weight)
    torch.nn.init.normal_(moved.scores)
    moved.share = 0.25
    used, way = moved(weight), torch.randn(4, 5)
    mask = moved.mask().detach().bool()
    assert int(mask.sum()) == 5 and moved.scores[mask].min() > moved.scores[~mask].max()
    torch.testing.assert_close(used, weight * mask)
    (used * way).sum().backward()
    torch.testing.assert_close(moved.scores.grad, way * weight.detach())
    torch.testing.assert_close(weight.grad, way * mask)


def test_the_share_falls_from_all_to_what_was_asked_for() -> None:
    shares = [movement.cubic(done / 20, 0.1) for done in range(21)]
    assert shares[:3] == [1, 1, 1] and shares[14:] == [pytest.approx(0.1)] * 7
    assert shares == sorted(shares, reverse=True)


# To the end


def test_a_network_and_its_gates_become_a_smaller_network(tmp_path: Path) -> None:
    split, test = noise(640), noise(200)
    gated = common.SmallNet(hard_concrete.HardConcrete)
    hard_concrete.train(gated, split, epochs=3, target=0.7)
    graph = common.export(gated.plain())
    masks = {f"{name}.weight:0": gate.gates().numpy() for name, gate in gated.gates.items()}
    options = common.Options(True, 0, tmp_path, 0.0)
    path = common.save(options, "gates", graph, masks)
    outcome, small = common.operate(0.0, gated, graph, f'apply-masks{{file="{path}", threshold=0}}', test)
    assert outcome.difference < 1e-4 and outcome.small == outcome.gated
    sizes = {f"{name}.weight:0": small[f"{name}.weight"].const.shape[0] for name in gated.gates}
    assert sizes == {name: np.count_nonzero(gates) for name, gates in masks.items()}
    assert outcome.parameters[1] < outcome.parameters[0]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["gates.npz", "gates.onnx"]
