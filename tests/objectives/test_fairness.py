"""Fairness objectives: divergences and log-odds worked by hand, which tokens of two versions belong together, and that a gap shrinks."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

import tiny
import untax
from untax import prefix
from untax.data.words import forms
from untax.objectives.common import align, continuing, word_tokens
from untax.objectives.fairness import divergence, fairness
from untax.objectives.sft import sft
from untax.prefix import Counts, Example, Pass, Target
from untax.train import encode, loop
from untax.types import Candidate, ContrastiveRecord, RecipeError, UserError

TOKENIZER = tiny.tokenizer()
LAB = Path(untax.__file__).parent / "lab" / "base"
CONTINUES = (False,) * 10  # ids below 10 that are words of their own
FORMS = ("cda", "jsd", "kl", "log_odds")


class Given(Pass):
    """A pass whose logits are given: (N, 1 + T, V), from the last prompt token on."""

    def __init__(self, batch, logits_NLV):
        self.batch, self.given = batch, logits_NLV

    @property
    def _run(self):
        return self.given, self.given

    def only(self, rows_N):
        smaller = self.batch.only(rows_N)
        return Given(smaller, self.given[rows_N][:, : smaller.mask_NT.shape[1] + 1])


class Words:
    """A tokenizer of whole words, as far as the objective asks it: a to e, and z."""

    all_special_ids = (0,)

    def __len__(self):
        return 6

    def convert_ids_to_tokens(self, ids):
        return ["zabcde"[i] for i in ids]

    def tokenize(self, text):
        return list(text)

    def __call__(self, text, add_special_tokens=False, verbose=False):
        return {"input_ids": ["zabcde".index(letter) for letter in text.lower().split()]}


def pair(one, other, prompt=(9,)):
    return Example(prompt, (Target(one, positive=True), Target(other, positive=True)))


def given(examples, fill, vocabulary=6):
    """`fill` maps (row, place) to the probabilities of what stands there; elsewhere all tokens are as likely."""
    batch = prefix.collate(examples)
    logits = torch.zeros(len(batch.source_N), batch.mask_NT.shape[1] + 1, vocabulary)
    for (row, place), p in fill.items():
        logits[row, place, : len(p)] = torch.tensor(p).log().clamp(min=-1e4)
        logits[row, place, len(p) :] = -1e4
    return Given(batch, logits.requires_grad_(True))


def value(forward, form, **options):
    return fairness(forward, form=form, likelihood=0.0, tokenizer=Words(), **{"words": [], **options})


def test_divergences_by_hand():
    """m = (.7, .3): JSD = .5 (.5 ln .5/.7 + .5 ln .5/.3) + .5 (.9 ln .9/.7 + .1 ln .1/.3) = .5 (.087177 + .116321) = .101749.
    KL + KL = (.5 - .9) ln(.5/.9) + (.5 - .1) ln(.5/.1) = .4 (.587787 + 1.609438) = .878890. (1, 0) and (0, 1): ln 2."""
    p = torch.tensor([[0.5, 0.5], [0.9, 0.1], [1, 0]]).log().clamp(min=-1e4)
    q = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0, 1]]).log().clamp(min=-1e4)
    assert divergence(p, q, "jsd").tolist() == pytest.approx([0.101749, 0, math.log(2)], abs=1e-6)
    assert divergence(p, q, "kl")[:2].tolist() == pytest.approx([0.878890, 0], abs=1e-6)
    assert divergence(q, p, "jsd").tolist() == pytest.approx(divergence(p, q, "jsd").tolist(), abs=1e-7)
    p.requires_grad_(True)
    divergence(p, q, "jsd").sum().backward()
    assert torch.isfinite(p.grad).all()


@pytest.mark.parametrize(("form", "per_place"), [("jsd", 0.101749), ("kl", 0.878890)])
def test_a_pair_counts_its_shared_places_behind_the_difference(form, per_place):
    """a b d . and a c d . share d and the end behind b/c: (.5,.5) against (.9,.1) at d and equal ones at the end, so half of it;
    what is said of b and c, and of a, counts nothing. A second pair, equal throughout its shared places, halves that again."""
    fill = {(0, 0): (1, 0), (0, 1): (0, 1), (1, 1): (1, 0), (0, 2): (0.5, 0.5), (1, 2): (0.9, 0.1)}
    one = given([pair((1, 2, 4, 0), (1, 3, 4, 0))], fill)
    assert value(one, form).value.item() == pytest.approx(per_place / 2, abs=1e-5)
    assert value(one, form, weight=3.0).value.item() == pytest.approx(1.5 * per_place, abs=1e-5)
    two = given([pair((1, 2, 4, 0), (1, 3, 4, 0)), pair((5, 0), (4, 0))], fill)
    assert value(two, form).value.item() == pytest.approx(per_place / 4, abs=1e-5)


def test_words_of_the_attribute_are_left_out_and_the_rest_renormalised():
    """After b (.3, .1, .6) and after c (.1, .3, .6) of z, a, b: without b they are (.75, .25) and (.25, .75).
    m = (.5, .5): JSD = .75 ln 1.5 + .25 ln .5 = .304099 - .173287 = .130812. With b: m = (.2, .2, .6),
    JSD = .3 ln 1.5 + .1 ln .5 = .121640 - .069315 = .052325."""
    fill = {(0, 2): (0.3, 0.1, 0.6), (1, 2): (0.1, 0.3, 0.6)}
    for place in (3,):
        fill |= {(0, place): (0.4, 0.3, 0.3), (1, place): (0.4, 0.3, 0.3)}
    forward = given([pair((1, 2, 4, 0), (1, 3, 4, 0))], fill)
    assert value(forward, "jsd").value.item() == pytest.approx(0.052325 / 2, abs=1e-6)
    assert value(forward, "jsd", words=["b"]).value.item() == pytest.approx(0.130812 / 2, abs=1e-6)
    with pytest.raises(UserError, match="no two tokens"):
        value(forward, "jsd", words=["a", "b", "c", "d", "e"])


def test_log_odds_by_hand():
    """p = (.3, .1, .6) at the slot, z against a: (ln 3)^2 = 1.206949, gradient on the logits 2 ln 3 (1, -1, 0)."""
    fill = {(0, 1): (0.3, 0.1, 0.6), (1, 1): (0.3, 0.1, 0.6)}
    forward = given([pair((4, 0, 5, 0), (4, 1, 5, 0))], fill)
    loss = value(forward, "log_odds")
    assert loss.value.item() == pytest.approx(1.206949, abs=1e-5)
    assert loss.logs["slot_gap"] == pytest.approx(math.log(3), abs=1e-5)
    loss.value.backward()
    # one prediction stands in two rows here: the same logits, and their gradients add up
    assert forward.given.grad[:, 1, :3].sum(0).tolist() == pytest.approx([2.197225, -2.197225, 0], abs=1e-5)
    assert forward.given.grad[:, [0, 2, 3, 4]].abs().max().item() == 0
    assert value(forward, "log_odds", delta=math.log(3)).value.item() == pytest.approx(0, abs=1e-6)


def test_a_slot_of_several_tokens_sums_their_log_probabilities():
    """a b | d against c | d: (ln .5 + ln .2 - ln .4)^2 = (ln .25)^2 = 1.921812."""
    fill = {(0, 0): (0.3, 0.5, 0.0, 0.2), (0, 1): (0.8, 0, 0.2), (1, 0): (0.3, 0.3, 0.0, 0.4)}
    forward = given([pair((1, 2, 4, 0), (3, 4, 0))], fill)
    assert value(forward, "log_odds").value.item() == pytest.approx(math.log(0.25) ** 2, abs=1e-4)


# --------------------------------------------------------------------------- alignment


def test_alignment_by_ids():
    """a b d e . / a c d d e .: b and c d differ; from the last d on the two go the same way."""
    found = align((1, 2, 4, 5, 0), (1, 3, 4, 4, 5, 0), CONTINUES)
    assert found.slot == ((1, 2), (1, 3))
    assert found.shared == ((2, 3), (3, 4), (4, 5))
    turned = align((1, 3, 4, 4, 5, 0), (1, 2, 4, 5, 0), CONTINUES)
    assert turned.shared == tuple((j, i) for i, j in found.shared)
    assert turned.slot == (found.slot[1], found.slot[0])
    found = align((1, 2, 5, 2, 0), (3, 5, 4, 0), CONTINUES)
    assert found.slot == ((0, 2), (0, 1))
    assert found.shared == ((2, 1), (4, 3))


def test_an_insertion_has_no_empty_slot():
    """d . / a d .: the word that was put in stands against the one that follows it."""
    assert align((4, 5, 0), (1, 4, 5, 0), CONTINUES).slot == ((0, 1), (0, 2))
    assert align((4, 0), (4, 5, 0), CONTINUES).slot == ((1, 2), (1, 3))  # nothing follows but the end


def ids(text):
    return (*TOKENIZER(text)["input_ids"], 0)


def test_letters_that_spell_the_difference_are_not_shared():
    """Letters are tokens here. "she" and "he" share "he", "actors" and "actresses" an s: none of it is a shared context."""
    one, other = ids("the actors ran"), ids("the actresses ran")
    found = align(one, other, continuing(TOKENIZER))
    assert [TOKENIZER.decode(one[i]) for i, _ in found.shared] == [*" ran", tiny.END]
    (start, end), (same, far) = found.slot
    assert (TOKENIZER.decode(one[start:end]), TOKENIZER.decode(other[same:far])) == ("ors", "resses")
    found = align(ids("she ran"), ids("he ran"), continuing(TOKENIZER))
    assert found.slot == ((0, 3), (0, 2))


def test_exchanging_the_versions_never_changes_the_alignment():
    luck = torch.Generator().manual_seed(0)
    for _ in range(300):
        one, other = (
            (*torch.randint(1, 5, (int(torch.randint(1, 9, (1,), generator=luck)),), generator=luck).tolist(), 0)
            for _ in range(2)
        )
        if one == other:
            continue
        found, turned = align(one, other, CONTINUES), align(other, one, CONTINUES)
        assert turned.shared == tuple((j, i) for i, j in found.shared)
        assert turned.slot == (found.slot[1], found.slot[0])
        assert found.shared[-1] == (len(one) - 1, len(other) - 1)  # the end is always shared
        assert all(one[i] == other[j] and one[:i] != other[:j] for i, j in found.shared)
        assert list(found.shared) == sorted(set(found.shared))


def test_tokens_of_words():
    """Letters are tokens: "he" has h and H in front, and is no token itself; the space in front is no token of the word."""
    assert {TOKENIZER.decode(i) for i in word_tokens(TOKENIZER, ["he", "she", "x"], whole=False)} == set("hHsSxX")
    assert {TOKENIZER.decode(i) for i in word_tokens(TOKENIZER, ["he", "she", "x"], whole=True)} == set("xX")


def test_tokens_of_the_attributes_own_words():
    """The tokenizer of the lab has "he", "she", "his" and "her" as tokens, and begins many other words as "aunt" begins."""
    built = AutoTokenizer.from_pretrained(LAB)
    whole = [built.decode(i) for i in word_tokens(built, forms("gender"), whole=True)]
    assert {" he", " she", " his", " her", "he"} <= set(whole)
    assert not {" a", " the", " was"} & set(whole)
    assert " a" in [built.decode(i) for i in word_tokens(built, forms("gender"), whole=False)]
    continues = continuing(built)
    ids = built(" an uncle, aunts and 42")["input_ids"]
    assert "".join("+" * continues[i] + built.decode(i) for i in ids) == " a+n +un+c+le, a+unt+s and +4+2"


# --------------------------------------------------------------------------- on a model


def example(one, other=None, prompt="Who? "):
    texts = [one] if other is None else [one, other]
    return Example(tuple(TOKENIZER(prompt)["input_ids"]), tuple(Target(ids(t), positive=True) for t in texts))


EXAMPLES = [
    example("She said that it was late.", "He said that it was late."),
    example("The actress left her house.", "The actor left his house.", prompt="Then: "),
    example("Nothing else happened on that day."),
    example("My mother sings.", "My father sings."),
]


def passed(model, examples, step=None, **options):
    batch = prefix.collate(examples)
    if step is not None:
        batch = dataclasses.replace(batch, step=step)
    options = {"form": "jsd", "words": ["her", "his"], "tokenizer": TOKENIZER} | options
    return fairness(Pass(prefix.decoder(model), batch), **options)


@pytest.mark.parametrize("form", FORMS)
def test_accumulation_and_padding_change_nothing(form):
    """The four records in one batch, one by one, and in two batches: the same loss and the same gradient."""
    model = tiny.llama()
    results = []
    for size in (4, 1, 3):
        parts = [EXAMPLES[i : i + size] for i in range(0, 4, size)]
        step = sum((prefix.collate(part).step for part in parts), Counts())
        model.zero_grad()
        total = sum(passed(model, part, step, form=form, delta=0.3).value for part in parts)
        total.backward()
        results.append((total.item(), torch.cat([p.grad.flatten() for p in model.parameters()])))
    for total, gradient in results[1:]:
        assert total == pytest.approx(results[0][0], rel=1e-5)
        assert torch.allclose(gradient, results[0][1], atol=1e-5 * float(results[0][1].abs().max()))
    assert results[0][1].abs().max() > 0.01


@pytest.mark.parametrize("form", FORMS)
def test_the_order_of_a_pair_does_not_matter(form):
    model = tiny.gpt2()
    turned = [Example(e.prompt, e.targets[::-1]) for e in EXAMPLES]
    one = passed(model, EXAMPLES, form=form, delta=0.3).value.item()
    assert passed(model, turned, form=form, delta=-0.3).value.item() == pytest.approx(one, rel=1e-5)
    if form == "log_odds":
        assert abs(passed(model, turned, form=form, delta=0.3).value.item() - one) > 1e-3


def test_cda_is_sft_on_the_doubled_records():
    """Both versions, each as a record of its own, by sft: the same loss, the same gradient, whatever the negatives."""
    model = tiny.llama()
    shape = prefix.decoder(model)
    doubled = [Example(e.prompt, (target,)) for e in EXAMPLES for target in e.targets]
    with_negative = [Example(e.prompt, (*e.targets, Target(ids("No."), positive=False))) for e in EXAMPLES]
    gradients = []
    for loss in (
        sft(Pass(shape, prefix.collate(doubled))),
        passed(model, EXAMPLES, form="cda"),
        passed(model, with_negative, form="cda", weight=7.0),
    ):
        model.zero_grad()
        loss.value.backward()
        gradients.append((loss.value.item(), torch.cat([p.grad.flatten() for p in model.parameters()])))
    for total, gradient in gradients[1:]:
        assert total == pytest.approx(gradients[0][0], rel=1e-6)
        assert torch.allclose(gradient, gradients[0][1], atol=1e-6)


def test_divergences_are_those_of_the_model_run_alone():
    """Both versions through the plain model, the distributions compared place by place, without the letters h, e, r and their capitals."""
    model = tiny.llama()
    one, other = "She ran.", "He ran."
    logits = [model(torch.tensor([[0, *ids(text)]])).logits[0] for text in (one, other)]
    keep = [i for i in range(257) if i not in word_tokens(TOKENIZER, ["h", "e", "r"], whole=True)]
    shared = [
        (3, 2),
        (4, 3),
        (5, 4),
        (6, 5),
        (7, 6),
        (8, 7),
    ]  # from the space on: place t is predicted at t, behind BOS
    wanted = sum(divergence(logits[0][i, keep][None], logits[1][j, keep][None], "jsd") for i, j in shared) / len(shared)
    texts = (Target(ids(one), positive=True), Target(ids(other), positive=True))
    found = passed(model, [Example((0,), texts)], words=["h", "e", "r"], likelihood=0.0)
    assert found.value.item() == pytest.approx(wanted.item(), rel=1e-5)
    everything = passed(model, [Example((0,), texts)], words=[], likelihood=0.0)
    assert abs(everything.value.item() - wanted.item()) > 1e-4


def test_equal_versions_and_single_ones_have_a_likelihood_only():
    model = tiny.llama()
    same = example("It rains.", "It rains.")
    loss = passed(model, [same, EXAMPLES[2]])
    assert loss.logs["L_jsd"] == 0
    assert loss.value.item() == pytest.approx(loss.logs["L_ce"])
    assert prefix.collate([same, EXAMPLES[2]]).step.pairs == 0


def test_options_that_cannot_be_used_are_refused():
    model = tiny.llama()
    for options, named in (
        ({"weight": -1.0}, "weight"),
        ({"likelihood": -1.0}, "likelihood"),
        ({"words": "her"}, "words"),
    ):
        with pytest.raises(RecipeError, match=named):
            passed(model, EXAMPLES, **options)


# --------------------------------------------------------------------------- in our loop


QUICK = {
    "learning_rate": 2e-3, "max_steps": 20, "per_device_train_batch_size": 4, "lr_scheduler_type": "constant", "warmup_steps": 0,
    "use_cpu": True,
}  # fmt: skip
JOBS = ("nurse", "pilot", "baker", "judge", "clerk", "guard", "miner", "tutor")


def record(number, one, other=None):
    positives = (Candidate(one, "reference"), *([Candidate(other, "counterfactual")] if other else []))
    return ContrastiveRecord(f"r{number}", "", positives)


PAIRS = [record(i, f"The {job} said she was late.", f"The {job} said he was late.") for i, job in enumerate(JOBS)]


def train(out, data=PAIRS, **options):
    return loop.train(
        tiny.llama(), TOKENIZER, data, objective="fairness", prompt="{source}\nTL;DR:", out=out,
        objective_options={"words": ["he", "she"], **options}, arguments=QUICK, progress=False,
    )  # fmt: skip


@pytest.mark.parametrize("form", ["jsd", "log_odds"])
def test_twenty_steps_make_the_versions_more_alike(tmp_path, form, caplog):
    """Against the same training without the equalising term, and against where both began."""
    fair = train(tmp_path / "fair", form=form, weight=10.0)
    free = train(tmp_path / "free", form=form, weight=0.0)
    name = f"L_{form}"
    assert fair.log[0][name] == pytest.approx(free.log[0][name])
    last = sum(row[name] for row in fair.log[-4:])
    assert last < 0.5 * sum(row[name] for row in free.log[-4:])
    assert last < 4 * 0.5 * fair.log[0][name]
    assert fair.log[-1]["L_ce"] < fair.log[0]["L_ce"]
    assert fair.summary["paired"] == 8
    assert not caplog.records
    if form == "log_odds":
        assert fair.log[-1]["slot_gap"] < 0.5 * fair.log[0]["slot_gap"]


def test_pairs_are_needed_for_what_compares_them(tmp_path):
    alone = [record(i, f"The {job} was late.") for i, job in enumerate(JOBS)]
    with pytest.raises(UserError, match="no record has two positives"):
        train(tmp_path / "run", alone)
    assert train(tmp_path / "cda", alone, form="cda").summary["paired"] == 0


def test_the_tokenizer_is_no_option(tmp_path):
    with pytest.raises(RecipeError, match="no option 'tokenizer'"):
        train(tmp_path / "run", tokenizer="x")


def test_a_text_without_a_source_has_an_empty_prompt():
    """The template is for sources: a plain text begins with BOS alone, and with no space."""
    encoded, _ = encode.encode(PAIRS[:1], TOKENIZER, prompt="{source}\nTL;DR:", max_length=100)
    assert encoded[0].prompt == (0,)
    assert encoded[0].positives[0].ids == ids("The nurse said she was late.")
