"""The known answers of the contrastive method (numbers of the tests follow its specification, section 8)."""

import math

import pytest
import torch
from torch.nn import functional as F

import tiny
from untax import prefix
from untax.objectives.contrastive import TOXIC_SOURCES, Contrastive, Head, pooled, source_losses
from untax.prefix import Counts, Example, Pass, Target
from untax.types import RecipeError, UserError

AXIS = torch.tensor([1.0, 0.0])
ACROSS = torch.tensor([0.0, 1.0])


def shape_of(*sources: tuple[int, int], toxicity=None, toxic=None):
    """A batch of sources with P positives and N negatives each, one token a target, all selected."""
    examples = []
    for s, (positives, negatives) in enumerate(sources):
        good = [Target((1, 0), True, spans=(True, False)) for _ in range(positives)]
        t = 0.0 if toxicity is None else toxicity[s]
        bad = [
            Target((2, 0), False, spans=(True, False), toxicity=t, toxic=toxic is not None and toxic[s])
            for _ in range(negatives)
        ]
        examples.append(Example((3,), tuple(good + bad)))
    return prefix.collate(examples)


def losses(vectors, *sources, temperature=1.0, positives_in_denominator=True):
    batch = shape_of(*sources)
    return source_losses(torch.stack(list(vectors)), batch, temperature, positives_in_denominator)


def value(vectors, positives, negatives, **options):
    return losses(vectors, (positives, negatives), **options).losses_S[0].item()


@pytest.mark.parametrize(("positives", "negatives", "expected"), [(2, 4, 1.609438), (4, 6, 2.197225)])
def test_1_equal_vectors_cost_the_log_of_the_others_and_have_no_gradient(positives, negatives, expected):
    """P=2, N=4: five others, all with the same e: log 5; P=4, N=6: log 9. The head's direction cannot change it."""
    raw = torch.ones(positives + negatives, 2, requires_grad=True)
    loss = losses(F.normalize(raw, dim=-1), (positives, negatives)).losses_S[0]
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    loss.backward()
    assert raw.grad.abs().max() < 1e-7


def test_2_best_and_orthogonal():
    """tau=1: opposite negatives log(1 + 4 e^-2) = 0.432653, orthogonal log(1 + 4 e^-1) = 0.904832."""
    assert value([AXIS] * 2 + [-AXIS] * 4, 2, 4) == pytest.approx(0.432653, abs=1e-6)
    assert value([AXIS] * 2 + [ACROSS] * 4, 2, 4) == pytest.approx(0.904832, abs=1e-6)


def test_3_more_positives():
    """P=4, N=6: log(3 + 6 e^-2) = 1.338157; tau=0.1: the floor log 3; without positives below: log(1 + 6 e^-2) = 0.594438."""
    best = [AXIS] * 4 + [-AXIS] * 6
    assert value(best, 4, 6) == pytest.approx(1.338157, abs=1e-6)
    assert value(best, 4, 6, temperature=0.1) == pytest.approx(1.098612, abs=1e-6)
    assert value(best, 4, 6, positives_in_denominator=False) == pytest.approx(0.594438, abs=1e-6)


def test_3_minimising_reaches_the_bound_and_never_passes_it():
    """P=3, N=4: log(2 + 4 e^-2) = 0.932692; the same number stands in the log as the best value."""
    torch.manual_seed(0)
    raw = torch.randn(7, 4, requires_grad=True)
    optimiser = torch.optim.Adam([raw], lr=0.05)
    lowest = math.inf
    for _ in range(600):
        optimiser.zero_grad()
        terms = losses(F.normalize(raw, dim=-1), (3, 4))
        terms.losses_S[0].backward()
        optimiser.step()
        lowest = min(lowest, terms.losses_S[0].item())
    assert lowest == pytest.approx(0.932692, abs=2e-4)
    assert lowest >= 0.932692 - 1e-6
    assert terms.best_S[0].item() == pytest.approx(0.932692, abs=1e-6)
    assert terms.equal_S[0].item() == pytest.approx(math.log(6), abs=1e-6)


def test_4_hand_case():
    """p1=(1,0), p2=(1/2, sqrt3/2), n=(0,1), tau=1/2: rows log(1+e^-1) and log(1+e^(sqrt3-1)); mean 0.718989; tau=1: 0.683446."""
    vectors = [AXIS, torch.tensor([0.5, math.sqrt(3) / 2]), ACROSS]
    assert value(vectors, 2, 1, temperature=0.5) == pytest.approx(0.718989, abs=1e-6)
    assert value(vectors, 2, 1) == pytest.approx(0.683446, abs=1e-6)
    terms = losses(vectors, (2, 1))
    assert terms.cos_positive_S[0].item() == pytest.approx(0.5, abs=1e-6)
    assert terms.cos_negative_S[0].item() == pytest.approx((0 + math.sqrt(3) / 2) / 2, abs=1e-6)


def test_5_zero_vectors_look_orthogonal():
    """Released rule: zero negatives cost as if orthogonal; one zero positive, four opposite: (log 5 + log(1+4e^-1))/2."""
    zero = torch.zeros(2)
    assert value([AXIS] * 2 + [zero] * 4, 2, 4) == pytest.approx(0.904832, abs=1e-6)
    # row of the zero positive: 5 times e^0; row of the other: e^0 with it, 4 e^-1 with the opposite negatives
    assert value([zero, AXIS] + [-AXIS] * 4, 2, 4) == pytest.approx(1.257135, abs=1e-6)


def test_5_ours_makes_no_zeros():
    """A negative without a span switches its whole source, and no other, to all tokens but EOS."""
    spanned = Target((5, 6, 0), True, spans=(True, False, False))
    bare = Target((7, 8, 0), False, spans=(False, False, False))
    batch = prefix.collate([Example((1,), (spanned, spanned, bare)), Example((1,), (spanned, spanned, spanned))])
    mask, switched = Contrastive(4).pooling_mask(batch)
    assert switched.tolist() == [True, False]
    assert mask[:3].tolist() == [[True, True, False]] * 3
    assert mask[3:].tolist() == [[True, False, False]] * 3
    vectors = pooled(torch.randn(6, 3, 4), mask, Head(4))
    assert torch.allclose(vectors.norm(dim=-1), torch.ones(6), atol=1e-5)


@pytest.mark.parametrize(("blind", "expected"), [(0, 0.432653), (1, 0.877968), (2, 1.184995), (4, 1.609438)])
def test_6_blind_negatives_add_one_each(blind, expected):
    """P=2, N=4, best case with B blind: log(1 + B + (4 - B) e^-2)."""
    vectors = [AXIS] * (2 + blind) + [-AXIS] * (4 - blind)
    assert value(vectors, 2, 4) == pytest.approx(expected, abs=1e-6)


def test_6_a_causal_model_is_blind_before_the_edit():
    """Two targets equal up to position 8: pooled before it they are one vector, pooled over it they are not."""
    model = tiny.llama()
    same = tuple(range(20, 28))
    early = tuple(i < 8 for i in range(11))
    late = tuple(i in (2, 9) for i in range(11))
    for spans, separable in ((early, False), (late, True)):
        targets = (Target((*same, 40, 41, 0), True, spans=spans), Target((*same, 50, 51, 0), False, spans=spans))
        forward = Pass(prefix.decoder(model), prefix.collate([Example((1, 2, 3), targets)]))
        one, other = pooled(forward.states_NTH, forward.batch.spans_NT, torch.nn.Identity())
        assert (torch.dot(one, other) < 1 - 1e-4) == separable
        assert torch.equal(one, other) != separable


def test_6_a_blind_negative_switches_its_source_unless_kept():
    spans = (True, False, False)
    seen, blind = (
        (Target((5, 6, 0), k < 2, spans=spans) for k in (0, 2)),
        Target((5, 9, 0), False, spans=spans, blind=True),
    )
    batch = prefix.collate([Example((1,), (*seen, blind))])
    assert Contrastive(4).pooling_mask(batch)[1].tolist() == [True]
    assert Contrastive(4, blind="keep").pooling_mask(batch)[1].tolist() == [False]


def test_7_normalise_then_average_then_normalise():
    """z = (3,4), (0,1): (0.6, 0.8) + (0, 1) -> (0.316228, 0.948683); averaging first would give (0.514496, 0.857493)."""
    states = torch.tensor([[[3.0, 4.0], [0.0, 1.0], [9.0, -9.0]]])
    vector = pooled(states, torch.tensor([[True, True, False]]), torch.nn.Identity())[0]
    assert vector.tolist() == pytest.approx([0.316228, 0.948683], abs=1e-6)


@pytest.mark.parametrize(
    ("scope", "w_tox", "expected"), [("source", 1.5, 1.0), ("batch", 1.5, 1.125), ("source", 1.0, 0.75)]
)
def test_8_dynamic_scaling(scope, w_tox, expected):
    """l = (1.0, 0.5), t = (1, 0): (1.5 + 0.5) / 2; one weight for the batch 1.5 * 0.75; w_tox 1: 0.75."""
    batch = shape_of((2, 1), (2, 1), toxicity=(1.0, 0.0))
    weights = Contrastive(4, toxic_scope=scope, w_tox=w_tox).scales(batch)
    assert (weights * torch.tensor([1.0, 0.5])).mean().item() == pytest.approx(expected)


def test_8_scaling_changes_the_loss_and_is_logged():
    _, shape, batch = lab()
    plain = run(shape, batch, w_tox=1.0)
    scaled = run(shape, batch, w_tox=2.0)
    assert scaled.logs["L_cl"] > plain.logs["L_cl"] * 1.2
    assert plain.logs["share_scaled"] == 0
    assert scaled.logs["share_scaled"] == pytest.approx(0.5)


def test_8_toxic_negatives_that_never_scale_are_an_error():
    objective = Contrastive(4)
    silent = shape_of(*[(2, 1)] * TOXIC_SOURCES, toxicity=[0.0] * TOXIC_SOURCES, toxic=[True] * TOXIC_SOURCES)
    with pytest.raises(UserError, match="no loss was scaled"):
        objective.scales(silent)
    Contrastive(4, w_tox=1.0).scales(silent)
    loud = shape_of(*[(2, 1)] * TOXIC_SOURCES, toxicity=[0.9] * TOXIC_SOURCES, toxic=[True] * TOXIC_SOURCES)
    Contrastive(4).scales(loud)


def test_9_mean_over_sources_not_over_pairs():
    """P=2 with l=0.5 and P=4 with l=1.4: (0.5 + 1.4)/2 = 0.95; over pairs (2*0.5 + 12*1.4)/14 = 1.271429.

    The first source's negative is placed so that log(1 + e^(c-1)) = 0.5; the second's two so that log(3 + 2 e^(c-1)) = 1.4.
    """

    def beside(cosine: float) -> torch.Tensor:
        return torch.tensor([cosine, math.sqrt(1 - cosine**2)])

    first = [AXIS] * 2 + [beside(math.log(math.e**0.5 - 1) + 1)]
    second = [AXIS] * 4 + [beside(math.log((math.e**1.4 - 3) / 2) + 1)] * 2
    terms = losses(first + second, (2, 1), (4, 2))
    assert terms.losses_S.tolist() == pytest.approx([0.5, 1.4], abs=1e-6)
    assert terms.losses_S.mean().item() == pytest.approx(0.95, abs=1e-6)


class Fixed(Pass):
    """A pass whose numbers are given: every token of a reference has the same log-probability, vectors are `states`."""

    def __init__(self, batch, nll_S, states_NTH):
        self.batch, self.nll_S, self.given = batch, nll_S, states_NTH

    def only(self, rows_N):
        return Fixed(
            self.batch.only(rows_N), self.nll_S, self.given[rows_N][:, : int(self.batch.mask_NT[rows_N].sum(1).max())]
        )

    @property
    def states_NTH(self):
        return self.given

    def logps(self, rows_N=None):
        rows_N = torch.ones_like(self.batch.positive_N) if rows_N is None else rows_N
        return -self.nll_S[self.batch.source_N[rows_N], None] * self.batch.mask_NT[rows_N]


def test_10_accumulation_divides_by_the_whole_step():
    """Four sources, CE tokens (10,20,30,40), mean NLL (1,2,3,4), l = (1,1,0,0): 300/100 + 2/4 = 3.5, at once or in four."""

    def source(tokens):
        good = Target((1,) * tokens, True, spans=(True,) + (False,) * (tokens - 1))
        bad = Target((2, 0), False, spans=(True, False))
        return Example((3,), (good, Target((1, 0), True, spans=(True, False)), bad))

    # l = log(1 + e^((c_n - c_p) / tau)) is 1 where c_n - c_p = tau log(e - 1): positives at angles +a and -a of their
    # negative, c_n = cos a and c_p = 2 cos^2 a - 1; it is 0 for opposite negatives, up to e^-20
    tau = 0.1
    cosine = (1 + math.sqrt(1 + 8 * (1 - tau * math.log(math.e - 1)))) / 4
    sine = math.sqrt(1 - cosine**2)
    costly = [torch.tensor([cosine, sine]), torch.tensor([cosine, -sine]), AXIS]
    free = [AXIS, AXIS, -AXIS]
    nll = torch.tensor([1.0, 2.0, 3.0, 4.0])
    examples = [source(n) for n in (10, 20, 30, 40)]
    vectors = [costly, costly, free, free]

    def loss(indices, step=None):
        batch = prefix.collate([examples[i] for i in indices])
        states = torch.zeros(3 * len(indices), batch.mask_NT.shape[1], 2)
        states[:, 0] = torch.stack([v for i in indices for v in vectors[i]])
        if step is not None:
            batch = prefix.replace(batch, step=step)
        objective = Contrastive(2, temperature=tau, use_head=False)
        return objective(Fixed(batch, nll[list(indices)], states))

    whole = loss(range(4))
    assert whole.logs["L_ce"] == pytest.approx(3.0, abs=1e-6)
    assert whole.logs["L_cl"] == pytest.approx(0.5, abs=1e-4)
    assert whole.value.item() == pytest.approx(3.5, abs=1e-4)
    step = sum((prefix.collate([e]).step for e in examples), Counts())
    parts = [loss([i], step) for i in range(4)]
    assert sum(p.value.item() for p in parts) == pytest.approx(3.5, abs=1e-4)
    for name, total in whole.logs.items():
        assert sum(p.logs[name] for p in parts) == pytest.approx(total, abs=1e-4), name


# ------------------------------------------------------------------ 13: limits, on a real (tiny) model


def lab(order=(0, 1, 2, 3, 4), extra=()):
    """Two sources on a tiny llama; the first has three positives and two negatives, in the given order."""
    model = tiny.llama()

    def target(start, positive, **options):
        ids = (*range(start, start + 6), 0)
        return Target(ids, positive, spans=(False, True, True, False, False, True, False), **options)

    first = [target(10, True), target(30, True), target(50, True), target(70, False), target(90, False)]
    second = (target(20, True), target(40, True), target(60, False, toxic=True, toxicity=0.8))
    examples = [Example((1, 2, 3, 4), tuple(first[i] for i in order)), Example((5, 6), second), *extra]
    return model, prefix.decoder(model), prefix.collate(examples)


def run(shape, batch, **options):
    torch.manual_seed(0)
    objective = Contrastive(32, **options)
    with torch.no_grad():
        objective.head.second.weight.mul_(20)
        objective.head.first.weight.mul_(50)
    return objective(Pass(shape, batch))


def test_13_order_of_the_other_targets_is_irrelevant():
    _, shape, batch = lab()
    _, _, shuffled = lab(order=(0, 2, 1, 4, 3))
    one, other = run(shape, batch), run(shape, shuffled)
    assert one.value.item() == pytest.approx(other.value.item(), abs=1e-5)
    _, _, swapped = lab(order=(1, 0, 2, 3, 4))
    assert run(shape, swapped).logs["L_ce"] != pytest.approx(one.logs["L_ce"], abs=1e-3)


def test_13_a_second_source_changes_nothing_in_the_first():
    vectors = F.normalize(torch.randn(9, 4, generator=torch.Generator().manual_seed(3)), dim=-1)
    alone = losses(vectors[:5], (2, 3)).losses_S
    both = losses(vectors, (2, 3), (2, 2)).losses_S
    assert both[0].item() == pytest.approx(alone[0].item(), abs=1e-6)


def test_13_a_source_without_contrast_trains_the_likelihood_only():
    """P = 1, and N = 0, add their references to the cross-entropy and nothing to the mean over contrasted sources."""
    lonely = Example((7, 8), (Target((9, 9, 0), True), Target((8, 8, 0), False)))
    praised = Example((9, 8), tuple(Target((k, 9, 0), True, spans=(True, True, False)) for k in (30, 40, 50)))
    model, shape, batch = lab()
    _, _, larger = lab(extra=(lonely, praised))
    one, other = run(shape, batch), run(shape, larger)
    assert other.logs["L_cl"] == pytest.approx(one.logs["L_cl"], abs=1e-6)
    assert other.logs["L_ce"] != pytest.approx(one.logs["L_ce"], abs=1e-3)
    seen = []
    model.model.embed_tokens.register_forward_hook(lambda _module, inputs, _out: seen.append(inputs[0].shape))
    nothing = run(shape, prefix.collate([lonely, praised]))
    assert nothing.logs["L_cl"] == 0
    assert seen == [(2, 5)], "one row for each of the two references: 2 tokens of prompt and 3 of target"
    nothing.value.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_the_loss_falls_between_its_bounds_and_gradients_reach_head_and_model():
    model, shape, batch = lab()
    torch.manual_seed(0)
    objective = Contrastive(32)
    loss = objective(Pass(shape, batch))
    # near the start all vectors share one direction: just below log(n - 1), averaged over n = 5 and n = 3
    assert loss.logs["bound_equal"] == pytest.approx((math.log(4) + math.log(2)) / 2, abs=1e-6)
    assert loss.logs["bound_best"] < loss.logs["l_unscaled"]
    assert abs(loss.logs["l_unscaled"] - loss.logs["bound_equal"]) < 0.2
    loss.value.backward()
    assert objective.head.first.weight.grad.abs().sum() > 0
    assert model.model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_alpha_zero_runs_the_references_only_and_equals_a_vanishing_alpha():
    _, shape, batch = lab()
    none, little = run(shape, batch, alpha=0.0), run(shape, batch, alpha=1e-12)
    assert none.logs.keys() == {"L_ce"}
    assert none.value.item() == pytest.approx(little.value.item(), abs=1e-5)


def test_pooling_last_takes_the_token_before_eos():
    batch = prefix.collate([Example((1,), (Target((5, 6, 0), True), Target((7, 8, 9, 0), False)))])
    mask, _ = Contrastive(4, pool="last").pooling_mask(batch)
    assert mask.tolist() == [[False, True, False, False], [False, False, True, False]]


def test_the_head_starts_as_the_paper_says():
    torch.manual_seed(0)
    head = Head(256)
    assert head.first.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert head.second.weight.std().item() == pytest.approx(1 / 256, rel=0.02)
    assert head.first.bias.abs().max() == head.second.bias.abs().max() == 0
    assert head.half().first.weight.dtype == torch.float16
    assert Head(4).first.weight.dtype == torch.float32


@pytest.mark.parametrize(
    "options", [{"pool": "words"}, {"blind": "no"}, {"toxic_scope": "all"}, {"temperature": 0}, {"alpha": -1}]
)
def test_impossible_options_are_refused(options):
    with pytest.raises(RecipeError, match="contrastive"):
        Contrastive(4, **options)
