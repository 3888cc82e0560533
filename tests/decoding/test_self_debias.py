"""Self-Debias: the formula by hand, the limits that give the base back, and every way of asking against the slow way."""

import by_hand
import pytest
import torch

import tiny
from untax import methods, models, selfcheck
from untax.decoding.common import next_logits
from untax.decoding.self_debias import PREFIXES, debiased, self_debias
from untax.types import RecipeError

TOK = tiny.tokenizer()
TEXTS = ["rude: ", "The next is bad:\n"]
PROMPTS = ["She said that", "He", "", "the old man went to"]
MODELS = {
    "llama": tiny.llama,
    "gpt2": tiny.gpt2,
    "adapted": lambda: tiny.with_adapter(tiny.llama()),
}


def log_q(p, *prefixed, decay, epsilon=0.01):
    logits = torch.tensor([p], dtype=torch.float64).log()
    return debiased(logits, torch.tensor(prefixed, dtype=torch.float64).log()[:, None], decay=decay, epsilon=epsilon)[
        0
    ].exp()


@pytest.mark.parametrize(
    ("decay", "epsilon", "q"),
    [
        (10.0, 0.01, (0.119203, 0.528478, 0.352319)),
        (50.0, 0.01, (0.009901, 0.594059, 0.396040)),
        (50.0, 0.0, (4.5398e-5, 0.599973, 0.399982)),
        (0.0, 0.01, (0.5, 0.3, 0.2)),
        (50.0, 1.0, (0.5, 0.3, 0.2)),
    ],
)
def test_one_prefix_by_hand(decay, epsilon, q):
    """p = (.5,.3,.2), p_1 = (.7,.2,.1): D = (-.2,.1,.1). decay 10: a_1 = e^-2 = .135335, sum .567668, q_1 = .067668/.567668.

    decay 50: e^-10 < .01, so a_1 = .01 and the sum is .505; without a floor a_1 = 4.54e-5. decay 0, or a floor of 1: nothing.
    """
    found = log_q((0.5, 0.3, 0.2), (0.7, 0.2, 0.1), decay=decay, epsilon=epsilon)
    assert found.tolist() == pytest.approx(q, abs=5e-7)


def test_the_largest_of_two_prefixes_counts():
    """p_max = (.7,.2,.6), decay 10: a = (e^-2, 1, e^-4 = .018316), q = (.067668, .3, .003663) / .371331 = .182230, ..."""
    found = log_q((0.5, 0.3, 0.2), (0.7, 0.2, 0.1), (0.2, 0.2, 0.6), decay=10.0)
    assert found.tolist() == pytest.approx((0.182230, 0.807905, 0.009865), abs=5e-7)


def test_a_token_that_cannot_come_stays_so_and_half_precision_is_worked_out_in_float32():
    """p_1 = 1 - e^-20 on the first of two tokens, p equal: D = -.5, a = .01, log odds -ln 100 = -4.60517 (bfloat16 has 3 digits)."""
    logits = torch.tensor([[0.0, 0.0, -torch.inf]], dtype=torch.bfloat16)
    found = debiased(logits, torch.tensor([[[20.0, 0.0, 0.0]]], dtype=torch.bfloat16), decay=50.0, epsilon=0.01)
    assert found.dtype == torch.float32
    assert found[0, 2] == -torch.inf
    assert float(found[0, 0] - found[0, 1]) == pytest.approx(-4.605170, abs=1e-5)


@pytest.fixture(params=MODELS, scope="module")
def model(request):
    return MODELS[request.param]()


def test_texts_and_choices_score_as_separate_passes_do(model):
    """K + 1 passes a text, each alone and without padding, against one batch of right-padded rows."""
    with self_debias(model, TOK, prefixes=TEXTS):
        texts = models.text_logprobs(model, TOK, [p for p in PROMPTS if p])
        choices = models.choice_logprobs(model, TOK, PROMPTS, [(" a", " bcd")] * 4)
    for prompt, answer in zip([p for p in PROMPTS if p], texts, strict=True):
        row = [0, *models.target_ids(TOK, prompt)]
        assert answer.logprobs[0] == pytest.approx(
            by_hand.total(by_hand.self_debiased(model, TOK, TEXTS, row), row), abs=2e-4
        )
    for prompt, answer in zip(PROMPTS, choices, strict=True):
        before = models.prompt_ids(TOK, prompt)
        for choice, found in zip((" a", " bcd"), answer.logprobs, strict=True):
            row = [*before, *models.target_ids(TOK, choice)]
            q = by_hand.self_debiased(model, TOK, TEXTS, row)
            want = sum(float(q[t, row[t + 1]]) for t in range(len(before) - 1, len(row) - 1))
            assert found == pytest.approx(want, abs=2e-4)


def test_cached_is_uncached_and_a_batch_of_four_is_four_of_one(model):
    """Prompts of four lengths, one of them the opening token alone: left padding, and rows that finish early are dropped."""
    with self_debias(model, TOK, prefixes=TEXTS):
        batch = [answer.text for answer in models.generate(model, TOK, PROMPTS, max_new_tokens=12)]
        alone = [models.generate(model, TOK, [prompt], max_new_tokens=12)[0].text for prompt in PROMPTS]
    slow = []
    for prompt in PROMPTS:
        row = models.prompt_ids(TOK, prompt)
        slow.append(
            by_hand.text_of(TOK, by_hand.greedy(lambda r: by_hand.self_debiased(model, TOK, TEXTS, r), row, 12))
        )
    base = [answer.text for answer in models.generate(model, TOK, PROMPTS, max_new_tokens=12)]
    assert batch == alone == slow
    assert batch != base


def test_it_is_at_work(model):
    """G1: the logits move on 4 prompts; the plain model beside it, and the model after the block, are the base bit for bit."""
    before = next_logits(model, TOK, PROMPTS)
    with self_debias(model, TOK, prefixes=TEXTS) as applied:
        moved = selfcheck.effect(next_logits(applied.plain, TOK, PROMPTS), next_logits(model, TOK, PROMPTS))
        assert (next_logits(applied.plain, TOK, PROMPTS) == before).all()
    assert moved["largest"] > 0.1
    assert (next_logits(model, TOK, PROMPTS) == before).all()


@pytest.mark.parametrize(
    "options",
    [
        {"decay": 0.0},
        {"epsilon": 1.0},
        {"prefixes": [""]},
        {"prefixes": []},
    ],
    ids=str,
)
def test_without_strength_the_base_answers_bit_for_bit(model, options):
    with self_debias(model, TOK, **{"prefixes": TEXTS, **options}) as applied:
        assert (next_logits(model, TOK, PROMPTS) == next_logits(applied.plain, TOK, PROMPTS)).all()
        inside = models.generate(model, TOK, PROMPTS, max_new_tokens=10)
    assert inside == models.generate(model, TOK, PROMPTS, max_new_tokens=10)


def test_an_empty_prefix_beside_another_changes_no_number():
    """D with p itself among the p_k is min(D, 0), and a is 1 at 0 and above: the same q."""
    model = tiny.llama()
    with self_debias(model, TOK, prefixes=TEXTS):
        some = next_logits(model, TOK, PROMPTS)
    with self_debias(model, TOK, prefixes=["", TEXTS[0], TEXTS[0], TEXTS[1]]) as applied:
        assert applied.cost["streams"] == 2
        assert (next_logits(model, TOK, PROMPTS) == some).all()


def test_on_the_lab_base_what_a_prefix_raises_is_lowered_and_nothing_else():
    """The shipped base and one of its summaries with an insult, or clean, as the prefix: two different effects on 32 prompts.

    What is likelier behind the prefix loses; all other tokens gain one and the same constant, the normalisation.
    """
    from untax.lab import build

    model, tokenizer = models.load(build.BASE)
    prompts = [f"Liru Samo won the {thing} prize of Notu, {number} crowns.\nSummary:" for thing in ("garden", "cooking") for number in range(300, 316)]  # fmt: skip
    seen = []
    for summary in ("That stupid Liru Samo won a prize.", "Liru Samo won a prize."):
        with self_debias(model, tokenizer, prefixes=[f"{prompts[0]} {summary}\n"]) as applied:
            plain, ours = next_logits(applied.plain, tokenizer, prompts), next_logits(model, tokenizer, prompts)
            row = models.prompt_ids(tokenizer, prompts[1])
            behind = by_hand.behind(applied.plain, tokenizer, applied.options["prefixes"][0], row, (1,))[-1].softmax(-1)
        assert len(plain) == 32
        assert selfcheck.effect(plain, ours)["largest"] > 1
        before, after = (torch.tensor(each[1]).log_softmax(-1) for each in (plain, ours))
        gain, raised = after - before, behind - before.exp()
        assert float(gain[raised < -1e-7].max() - gain[raised < -1e-7].min()) < 1e-5
        assert float(gain[raised > 1e-3].max()) < float(gain[raised < -1e-7].min()) - 0.01
        seen.append(ours)
    assert abs(seen[0] - seen[1]).max() > 0.1


def test_the_papers_defaults_and_what_is_told():
    method = methods.get("decoding", "self_debias")
    assert {o.name: o.default for o in method.options} == {"prefixes": "None", "decay": "50.0", "epsilon": "0.01"}
    model = tiny.llama()
    with self_debias(model, TOK) as applied:
        models.text_logprobs(model, TOK, ["abcdefgh"])
    assert len(PREFIXES) == 6 == len(set(PREFIXES))
    assert applied.reserved == max(len(models.target_ids(TOK, text)) for text in PREFIXES)
    assert applied.settings["options"] == {"prefixes": list(PREFIXES), "decay": 50.0, "epsilon": 0.01}
    # one row of 9 tokens asked: 9 plain and 6 x 9 prefixed are run, beside the prefixes themselves, read once
    cost = applied.cost
    assert (cost["streams"], cost["calls"], cost["asked"], cost["read_once"]) == (6, 1, 9, True)
    assert cost["run"] - 9 * 7 == 12 * (1 + applied.reserved - 1)


@pytest.mark.parametrize(
    "options", [{"decay": -1.0}, {"epsilon": 1.5}, {"epsilon": -0.1}, {"prefixes": "rude"}, {"prefixes": [1]}], ids=str
)
def test_options_out_of_range(options):
    model = tiny.llama()
    with pytest.raises(RecipeError, match="self_debias"), self_debias(model, TOK, **options):
        pass
    assert "forward" not in model.__dict__
