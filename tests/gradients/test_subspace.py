"""The algebra of projections, by hand: numbers of the specification, exactness, and what a tensor may not be."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import nn

from untax.gradients.common import Meters, Parameters
from untax.gradients.subspace import Subspace, nonnegative, orthonormal


def point(**tensors):
    """A module whose parameters are the given vectors; a dot in a name makes modules."""
    made = nn.Module()
    for name, values in tensors.items():
        owner = made
        *path, last = name.split("__")
        for part in path:
            if part not in dict(owner.named_children()):
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        owner.register_parameter(last, nn.Parameter(torch.tensor(values, dtype=torch.float32)))
    return made


def subspace(module, references, *, side="two", granularity="tensor", sizes=None, **options):
    """Stores each reference (one list of numbers, or one list a tensor) as one direction."""
    view = Parameters(module, granularity=granularity)
    made = Subspace(view, sizes or [1] * len(references), side=side, **options)
    for i, reference in enumerate(references):
        parts = reference if isinstance(reference[0], (list, tuple)) else [reference]
        made.store(i, [torch.tensor(part, dtype=torch.float32) for part in parts])
    made.settle()
    return made


def projected(gradient, references, **options):
    """g~ of a gradient in R^n."""
    given = torch.tensor(gradient, dtype=torch.float32)
    subspace(point(x=gradient), references, **options).project_([given], descends=True)
    return given.tolist()


@pytest.mark.parametrize(
    ("reference", "side", "expected"),
    [
        ((1, 0), "two", [0, 4]),
        ((1, 0), "one", [3, 4]),  # <g, ref> = 3 > 0: the step -g lowers the reference loss too
        ((-1, 0), "one", [0, 4]),  # conflict
    ],
)
def test_one_reference_in_the_plane(reference, side, expected):
    """g = (3, 4): its part along (1, 0) is (3, 0); g - (3, 0) = (0, 4)."""
    assert projected((3, 4), [reference], side=side) == expected


def test_the_update_form_is_the_mirror_of_the_gradient_form():
    """SGD with rate 1 from x = (10, 10): d = -g = (-3, -4). <d, (1, 0)> = -3 lowers the loss; <d, (-1, 0)> = 3 raises it."""
    for reference, side, moved in (((1, 0), "one", [7, 6]), ((-1, 0), "one", [10, 6]), ((1, 0), "two", [10, 6])):
        after = torch.tensor([7.0, 6.0])
        held = subspace(point(x=(0, 0)), [reference], side=side)
        held.project_([after], before=[torch.tensor([10.0, 10.0])])
        assert after.tolist() == moved


def test_three_references_of_rank_two():
    """Gram-Schmidt of (1,0,0), (1,1,0) is e1, e2; what is left of (2,1,0) is 0: g = (1,2,3) -> (0,0,3)."""
    references = [(1, 0, 0), (1, 1, 0)]
    assert projected((1, 2, 3), references) == pytest.approx([0, 0, 3], abs=1e-6)
    assert projected((1, 2, 3), [*references, (2, 1, 0)]) == pytest.approx([0, 0, 3], abs=1e-6)
    gram = torch.tensor([*references, (2, 1, 0)], dtype=torch.float64)
    assert torch.linalg.matrix_rank(orthonormal((gram @ gram.T)[None], [1, 1, 1])).item() == 2


def test_a_quadratic():
    """L_A = (4 x^2 + y^2) / 2 at (1, 1): g_A = (4, 1), g = (1, 1): <g, g_A> = 5, |g_A|^2 = 17, g - 5/17 g_A."""
    x = torch.ones(2, requires_grad=True)
    (reference,) = torch.autograd.grad(0.5 * (4 * x[0] ** 2 + x[1] ** 2), x)
    assert reference.tolist() == [4, 1]
    found = projected((1, 1), [reference.tolist()])
    assert found == pytest.approx([1 - 20 / 17, 1 - 5 / 17], abs=1e-6)
    assert found == pytest.approx([-0.176471, 0.705882], abs=1e-6)
    assert 4 * found[0] + found[1] == pytest.approx(0, abs=1e-6)


def test_strength_takes_a_part_away():
    """Half of (3, 0): (1.5, 4). Nothing: not even rounding."""
    held = subspace(point(x=(0, 0)), [(1, 0)])
    half, none = torch.tensor([3.0, 4.0]), torch.tensor([0.1, 0.7])
    held.project_([half], descends=True, strength=0.5)
    held.project_([none], descends=True, strength=0)
    assert half.tolist() == [1.5, 4]
    assert torch.equal(none, torch.tensor([0.1, 0.7]))


@pytest.mark.parametrize("spread", [1.0, 1e-3])
@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 9, 16])
def test_nonnegative_least_squares_is_that_of_scipy(m, spread):
    """Both ways of solving (up to 4 references, and more), with references that are nearly one, opposite, twice there or zero."""
    generator = torch.Generator().manual_seed(m)
    given = torch.randn(40, m, 24, generator=generator, dtype=torch.float64)
    given = given[:, :1] + spread * given if spread < 1 else given
    if m > 2:
        given[::2, 1] *= -1
        given[1::4, -1] = given[1::4, 0]
        given[3::4, -1] = 0
    target = torch.randn(40, 24, generator=generator, dtype=torch.float64)
    found = nonnegative(given @ given.mT, (given @ target[..., None])[..., 0])
    assert found.min() >= 0
    left = target - (found[:, None] @ given)[:, 0]
    for i in range(40):
        expected, _ = nnls(given[i].T.numpy(), target[i].numpy(), maxiter=1000)
        assert np.abs(target[i].numpy() - given[i].T.numpy() @ expected - left[i].numpy()).max() < 1e-6
    sizes = given.norm(dim=-1) * target.norm(dim=-1, keepdim=True)
    assert ((given @ left[..., None])[..., 0] / sizes.clamp_min(1e-9)).max() < 1e-6


@pytest.mark.parametrize("side", ["one", "two"])
def test_long_vectors_keep_to_the_constraint_in_float32(side):
    """Eight references of 50 000 numbers, two of them nearly one; what is left has no part along any that was kept."""
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(8, 50_000, generator=generator)
    given[1] = given[0] + 0.1 * given[1]
    change = torch.randn(50_000, generator=generator) + given.sum(0)
    held = subspace(point(x=[0.0] * 50_000), given.tolist(), side=side)
    held.project_([change])
    cosine = (given @ change) / (given.norm(dim=1) * change.norm())
    assert cosine.max() < 1e-5
    if side == "two":
        assert cosine.abs().max() < 1e-5


def test_energy_keeps_the_leading_directions_of_a_set():
    """One set of rows (3, 0), (0, 1): 9 + 1 = 10 of energy; the first direction holds 90 %."""
    rows = [(3, 0), (0, 1)]
    assert projected((5, 7), rows, sizes=[2], energy=0.9) == pytest.approx([0, 7], abs=1e-6)
    assert projected((5, 7), rows, sizes=[2], energy=0.95) == pytest.approx([0, 0], abs=1e-6)
    assert projected((5, 7), rows, sizes=[1, 1], energy=0.9) == pytest.approx([0, 0], abs=1e-6)  # 100 % of each set


def test_a_nearly_repeated_reference_is_dropped():
    """(1, 0) and (1, .04): what is left of the second is .04 of it, below .05; with .06 it is kept."""
    assert projected((5, 7), [(1, 0), (1, 0.04)]) == pytest.approx([0, 7], abs=1e-5)
    assert projected((5, 7), [(1, 0), (1, 0.06)]) == pytest.approx([0, 0], abs=1e-5)


def test_granularity_decides_what_is_one_vector():
    """x.a = 1, x.b = 2, y.a = 3 along references 1, 1, 1.

    tensor: all 0. module: (1 + 2) / 2 = 1.5 from x, 3 from y. global: 6 / 3 = 2 from each."""
    expected = {"tensor": [0, 0, 0], "module": [-0.5, 0.5, 0], "global": [-1, 0, 1]}
    for granularity, wanted in expected.items():
        module = point(x__a=[0], x__b=[0], y__a=[0])
        change = [torch.tensor([float(i)]) for i in (1, 2, 3)]
        subspace(module, [([1], [1], [1])], granularity=granularity).project_(change)
        assert [float(t) for t in change] == pytest.approx(wanted)


def test_the_two_factors_of_a_lora_are_one_module():
    module = point(q__lora_A__default__weight=[0], q__lora_B__default__weight=[0], q__weight=[0], k__bias=[0])
    view = Parameters(module, granularity="module")
    by_name = dict(zip(view.names, [view.groups[i] for i in view.group_T], strict=True))
    assert by_name["q.lora_A.default.weight"] == by_name["q.lora_B.default.weight"] == "q"
    assert by_name["k.bias"] == "k"


def test_a_tensor_without_gradient_and_one_without_reference_are_left_alone():
    """b has no gradient, c no reference: a and c are (3, 4); only a loses its 3, and of 25 + 25 of squared norm 9 are removed."""
    module = point(a=(0, 0), b=(0, 0), c=(0, 0))
    held = subspace(module, [([1, 0], [1, 0], [0, 0])])
    assert held.silent == 1
    given = [torch.tensor([3.0, 4.0]), None, torch.tensor([3.0, 4.0])]
    removed = held.project_(given)
    assert [None if t is None else t.tolist() for t in given] == [[0, 4], None, [3, 4]]
    assert (removed.whole.item(), removed.part.item()) == (50, 9)
    assert removed.conflicts.item() == 0.5  # a of a and b, the tensors that references speak of


def test_meters_are_means_over_the_steps_that_moved():
    """Steps (3, 4) and (0, 4) against (1, 0): removed 9/25 and 0, in conflict 1 and 0; a step of zeros tells nothing."""
    held, meters = subspace(point(x=(0, 0)), [(1, 0)]), Meters()
    for step in ((3.0, 4.0), (0.0, 4.0), (0.0, 0.0)):
        meters.count(held.project_([torch.tensor(step)]))
    logs = {"loss": 1.0}
    state = type("State", (), {"log_history": [{"loss": 1.0}]})
    meters.write({"eval_loss": 1.0}, state)
    meters.write(logs, state)
    assert logs["removed_energy"] == pytest.approx(0.18)
    assert logs["conflict_rate"] == 0.5
    assert state.log_history == [logs]


def test_half_precision_weights_take_the_exact_change_and_are_rounded_once():
    """before (1.0078125, 1), after (256, 1.25), all exact in bf16; d = (254.9921875, .25) is not, and would round to 255.

    Freed of its part along (1, 0) it leads back to exactly 1.0078125 and on to 1.25."""
    before = torch.tensor([1.0078125, 1.0], dtype=torch.bfloat16)
    after = torch.tensor([256, 1.25], dtype=torch.bfloat16)
    held = subspace(point(x=(0, 0)).to(torch.bfloat16), [(1, 0)])
    assert held.kept[0].dtype == torch.bfloat16
    held.project_([after], before=[before])
    assert after.tolist() == [1.0078125, 1.25]


def test_weights_of_a_matrix_keep_their_shape():
    """A reference e_ij in R^(2x2): only that entry goes."""
    module = point(x=[[0, 0], [0, 0]])
    held = subspace(module, [([0, 0, 1, 0],)])
    change = torch.tensor([[1.0, 2], [3, 4]])
    held.project_([change])
    assert change.tolist() == [[1, 2], [0, 4]]
