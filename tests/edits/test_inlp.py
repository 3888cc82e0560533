"""INLP: what a classifier finds is removed, and no more; sentences and states that it learns from; models that it changes."""

from collections import Counter

import numpy as np
import pytest
import torch
from people import FEMALE, MALE, NEITHER, logits, written

import tiny
from untax.edits import features, projection
from untax.edits.inlp import _accuracy, _fit, _without, inlp, null_space
from untax.types import RecipeError, UserError


def run_on(model, texts=None, **options):
    given = {"a": written(MALE, FEMALE, NEITHER)} if texts is None else {"a": texts}
    state = model.state_dict()
    return inlp(state, state, model=model, tokenizer=tiny.tokenizer(), texts=given, **{"max_share": 0.5, **options})


# --------------------------------------------------------------------------- the rounds


def planted(seed=0):
    """20,000 points in 8 dimensions around -u and +u, u a direction that is no axis: the best rule is right in Phi(1) = .841."""
    rng = np.random.default_rng(seed)
    u = np.arange(1.0, 9.0)
    u /= np.linalg.norm(u)
    labels = np.repeat([0, 1], 10000)
    return rng.normal(size=(20000, 8)) + np.where(labels, 1, -1)[:, None] * u, labels, u


def test_a_planted_direction_is_found_and_gone():
    """One round on 20,000 points: |cos| > .99; fresh classifiers on 20,000 others fall from Phi(1) = .841 to chance, in the mean of five
    draws. What is left is sin of the angle missed, about .03: Phi(.03) = .51."""
    before, after = [], []
    for seed in range(5):
        (points, labels, u), (others, _, _) = planted(seed), planted(100 + seed)
        found = null_space(points, labels, others, labels, rounds=1, most=8, stop="never", seed=0)
        assert found.basis_RH.shape == (1, 8)
        assert abs(float(found.basis_RH[0] @ u)) > 0.99
        before.append(found.rounds[0]["dev_accuracy"])
        fresh, _ = _fit(_without(points, found.basis_RH), labels, 0)
        after.append(_accuracy(fresh, _without(others, found.basis_RH), labels))
    assert np.mean(before) == pytest.approx(0.843, abs=0.010)
    assert np.mean(after) == pytest.approx(0.502, abs=0.010)


def test_it_ends_at_chance_and_not_before():
    """Dev accuracy <= .5 + 2 * sqrt(.25 / 4200) = .5154: the round that says so removes nothing."""
    points, labels, _ = planted()
    train, dev, _ = features.dealt(labels, 0)
    assert [len(train), len(dev)] == [9800, 4200]
    found = null_space(points[train], labels[train], points[dev], labels[dev], rounds=80, most=8, stop="chance", seed=0)
    assert found.ended == "chance"
    bound = 0.5 + 2 * (0.25 / 4200) ** 0.5
    assert all(row["dev_accuracy"] > bound for row in found.rounds[:-1])
    assert found.rounds[-1]["dev_accuracy"] <= bound
    assert found.rounds[-1]["directions"] == 0
    assert len(found.basis_RH) == len(found.rounds) - 1 <= 3


@pytest.mark.parametrize(("classes", "removed"), [(3, 30), (2, 10)])
def test_ten_rounds_remove_three_or_one_dimension_each(classes, removed):
    """Three classes have three weight rows: ten rounds take 30 of 64 dimensions; two have one: 10. P is a projection of trace 64 - rank,
    and the null space of the summed projectors, as scipy finds it from all weights that were seen."""
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(classes), 300)
    points = rng.normal(size=(len(labels), 64))
    points[np.arange(len(labels)), labels] += 3
    found = null_space(points, labels, points, labels, rounds=10, most=64, stop="never", seed=0)
    assert found.basis_RH.shape == (removed, 64)
    assert [row["removed"] for row in found.rounds] == list(range(removed // 10, removed + 1, removed // 10))
    P = projection.Projection(torch.from_numpy(found.basis_RH)).matrix_HH.numpy()
    assert np.allclose(P @ P, P, atol=1e-12)
    assert P.trace() == pytest.approx(64 - removed, abs=1e-9)
    first = _fit(points, labels, 0)[0].coef_
    assert np.abs(P @ first.T).max() < 1e-10 * np.abs(first).max(), (
        "what the first round found stays removed after the tenth"
    )


def test_a_round_that_would_remove_too_much_does_not_begin():
    """Of 24 dimensions 7 may go: two rounds of three, not three."""
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(3), 300)
    points = rng.normal(size=(900, 24))
    points[np.arange(900), labels] += 3
    found = null_space(points, labels, points, labels, rounds=10, most=7, stop="never", seed=0)
    assert (len(found.basis_RH), found.ended) == (6, "max_share")
    with pytest.raises(UserError, match=r"may remove 2 of 24 dimensions.*max_share of 0.125"):
        null_space(points, labels, points, labels, rounds=10, most=2, stop="never", seed=0)


def test_where_there_is_nothing_to_find_it_says_so():
    rng = np.random.default_rng(2)
    points, labels = rng.normal(size=(2000, 8)), np.repeat([0, 1], 1000)
    train, dev, _ = features.dealt(labels, 0)
    with pytest.raises(UserError, match="finds nothing to remove"):
        null_space(points[train], labels[train], points[dev], labels[dev], rounds=5, most=8, stop="chance", seed=0)
    points = np.where(labels, 1.0, -1.0)[:, None] * np.array(
        [3.0, 4.0]
    )  # all on one line: after one round all are zero
    found = null_space(points, labels, points, labels, rounds=20, most=2, stop="never", seed=0)
    assert (len(found.basis_RH), found.ended) == (1, "nothing left")
    assert np.allclose(np.abs(found.basis_RH), [[0.6, 0.8]])


# --------------------------------------------------------------------------- sentences


def test_sentences_are_cut_once_and_kept_as_they_are():
    texts = [["Mr. Hall came. She SAW him!\nNo end here", 'She SAW him! "Why?" he said.'], ["No end here"]]
    assert features.sentences(texts) == ["Mr. Hall came.", "She SAW him!", "No end here", '"Why?', "he said."]


def test_classes_have_one_group_and_equal_lengths():
    known = written(MALE, FEMALE, NEITHER, count=2000) + [f"He and she were at gate {i} that day." for i in range(80)]
    known += [
        f"Under the old tree by gate {i} waited the {who} in silence." for i in range(80) for who in ("king", "queen")
    ]
    made = features.balanced(known, "gender", per_class=200, least=50, seed=0)
    assert set(made.texts) == {"male", "female", "neutral"}
    lengths = [Counter(len(text.split()) for text in of_class) for of_class in made.texts.values()]
    assert lengths[0] == lengths[1] == lengths[2]
    assert sum(lengths[0].values()) == 200
    assert min(lengths[0]) >= 5
    assert len(lengths[0]) > 2, "sentences end at several places"
    every = [text for of_class in made.texts.values() for text in of_class]
    assert len(set(every)) == 600
    assert any("Monday" in text for text in every), "case is kept"
    for who, others in (("male", FEMALE), ("female", MALE), ("neutral", MALE + FEMALE)):
        own = " ".join(made.texts[who]).lower().split()
        assert not set(own) & {word for other in others for word in other.split()} - {"the"}, who
    men = {name.split()[-1] for name in MALE}
    assert all(men & set(text.lower().split()) for text in made.texts["male"]), "the group is in front of the cut"
    assert features.balanced(known, "gender", per_class=200, least=50, seed=0) == made
    assert features.balanced(known, "gender", per_class=200, least=50, seed=1) != made


def test_too_few_sentences_are_told_with_their_numbers():
    known = written(NEITHER, count=300) + [f"At gate {i} the Muslim family waits." for i in range(12)]
    with pytest.raises(UserError, match=r"religion\): 12 any group, 2\d\d neutral .* among 312 sentences.*at least 50"):
        features.balanced(known, "religion", per_class=100, least=50, seed=0)


def test_the_split_is_that_of_the_paper_in_every_class():
    """49/21/30 of 100: 49, 21, 30 of each class, nobody twice."""
    labels = np.repeat([0, 1, 2], 100)
    parts = features.dealt(labels, 3)
    assert [np.bincount(labels[part]).tolist() for part in parts] == [[49] * 3, [21] * 3, [30] * 3]
    assert sorted(np.concatenate(parts).tolist()) == list(range(300))


# --------------------------------------------------------------------------- states


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2])
@pytest.mark.parametrize(("layer", "place"), [(-1, 2), (0, 1)])
def test_states_are_those_of_the_model_one_sentence_at_a_time(make, layer, place):
    """Against transformers' own hidden states (number 2 of 2 layers is after the last norm), alone and unpadded."""
    model, tokenizer = make(), tiny.tokenizer()
    texts = ["one", "a much longer sentence than the others", "two words"]
    found = features.hidden_states(model, tokenizer, texts, layer)
    again = features.hidden_states(model, tokenizer, texts[::-1], layer)
    for i, text in enumerate(texts):
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            own = model(ids, output_hidden_states=True).hidden_states[place][0]
        assert np.allclose(found.means_NH[i], own.mean(0), atol=1e-4)
        assert np.allclose(again.means_NH[2 - i], own.mean(0), atol=1e-4)
        assert np.abs(own.numpy() - found.tokens_NH[i]).max(1).min() < 1e-4, "one of its tokens"


def test_what_opens_every_text_is_read_and_not_counted():
    model, tokenizer = tiny.llama(), tiny.tokenizer(adds_end_in_front=True)
    found = features.hidden_states(model, tokenizer, ["some text"], -1)
    ids = torch.tensor([[0, *tokenizer("some text", add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        own = model(ids, output_hidden_states=True).hidden_states[-1][0, 1:].mean(0)
    assert np.allclose(found.means_NH[0], own, atol=1e-4)


def test_long_sentences_are_cut_and_damaged_models_told():
    model = tiny.llama(context=32)
    assert np.isfinite(features.hidden_states(model, tiny.tokenizer(), ["x" * 500], -1).means_NH).all()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        features.hidden_states(model, tiny.tokenizer(), ["text"], -1)


# --------------------------------------------------------------------------- in models


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2])
def test_a_model_is_changed_and_what_was_readable_is_less_so(make):
    model = make()
    before, weights = logits(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    edited = run_on(model, written(MALE, FEMALE, NEITHER, count=3888))
    assert torch.equal(logits(model), before), "the model that was given is left alone"
    audit = edited.audit
    assert audit["removed"] == edited.projection.rank == audit["rounds"][-1]["removed"] <= 16
    assert audit["trace"] == 32 - audit["removed"]
    told = audit["held_out"]
    assert told["sentence_means"]["before"] > 0.8
    assert told["sentence_means"]["after"] < told["sentence_means"]["before"] - 0.2
    assert told["single_tokens"]["after"] < told["single_tokens"]["before"]
    assert audit["per_class"] > 100
    changed = [name for name, tensor in edited.state.items() if not torch.equal(tensor, weights[name])]
    assert changed == ["lm_head.weight"], "the embedding that it was tied to is not touched"
    assert torch.allclose(edited.state["lm_head.weight"], edited.projection.folded(weights["lm_head.weight"]))
    with edited.projection.applied(model):
        moved = (logits(model) - before).abs().flatten(1).max(1).values
    assert float(moved.min()) > 1e-4
    assert edited.projection.about == {"edit": "inlp", "attribute": "gender", "seed": 0}


def test_an_inner_layer_leaves_the_weights_alone():
    model = tiny.llama()
    edited = run_on(model, layer=0, rounds=2)
    assert edited.projection.layer == 0
    assert all(torch.equal(edited.state[name], tensor) for name, tensor in model.state_dict().items())


def test_centred_states_spare_the_mean():
    """Every state has the same large part: it goes where a classifier without intercept may use it, and stays otherwise."""
    model, texts = tiny.llama(), written(MALE, FEMALE, NEITHER)
    mean = features.hidden_states(model, tiny.tokenizer(), texts[:200], -1).means_NH.mean(0)
    kept = {}
    for centred in (False, True):
        basis = run_on(model, texts, centred=centred, rounds=3).projection.basis_RH.numpy()
        kept[centred] = 1 - np.linalg.norm(basis @ mean) / np.linalg.norm(mean)
    assert kept[True] > kept[False] + 0.1


def test_options_out_of_range_are_refused():
    for wrong, said in (({"rounds": 0}, "rounds"), ({"max_share": 0.0}, "max_share"), ({"max_share": 1.5}, "max_share"), ({"per_class": 3}, "per_class")):  # fmt: skip
        with pytest.raises(RecipeError, match=said):
            run_on(tiny.llama(), ["text"], **wrong)
    with pytest.raises(UserError, match="too few sentences"):
        run_on(tiny.llama(), written(NEITHER, count=50))
