"""The neural paths against tiny models in real folders: loading, batching, caching, and what is asked of them."""

import json
import random

import pytest
import torch

from data import small_models as small
from untax import spans
from untax.data.augment import generators, neural
from untax.data.augment.backtranslate import backtranslate
from untax.data.augment.common import Tally
from untax.data.augment.generators import GAP, MASK, Answer, Generator, Request
from untax.data.augment.mask_ent import mask_ent
from untax.data.augment.mask_rel import mask_rel
from untax.data.augment.regen_ent import regen_ent
from untax.data.augment.regen_rel import regen_rel
from untax.data.augment.swap_ent import swap_ent
from untax.data.augment.sys_lowcon import sys_lowcon
from untax.data.augment.toxic import toxic
from untax.scorers import WordScorer
from untax.types import Candidate, ContrastiveRecord, UserError

POST = "Alice Meyer moved from Leeds to Cardiff in 2019 and sold 40 bikes there."
REFERENCE = "Alice Meyer moved to Cardiff in 2019 and sold 40 bikes."


def record(text=REFERENCE, source=POST):
    return ContrastiveRecord("1", source, (Candidate(text, "reference"),))


class Scripted:
    """A model that gives prepared answers and writes down what it was asked."""

    identity = "scripted"
    name = "scripted"

    def __init__(self, *answers, continues=True):
        self.answers, self.asked, self.batches, self.continues = answers, [], [], continues

    def run(self, requests, seed):
        self.asked += requests
        self.batches.append(len(requests))
        return [
            self.answers[0] if len(self.answers) == 1 else self.answers[i % len(self.answers)]
            for i in range(len(requests))
        ]


# ---------------------------------------------------------------- masked words


def test_masks_are_filled_by_a_real_masked_model(tmp_path):
    """Best words: Newcastle, then Cardiff; variant i takes the i-th; Cardiff stands in the post and is rejected."""
    generator = generators.load("mask_ent", str(small.masked_lm(tmp_path / "m", ["Newcastle", "Cardiff"])))
    tally = Tally()
    made = mask_ent(
        record("Alice moved to Leeds."), generator=generator, n_variants=2, max_masks=1, top_k=2, tally=tally
    )
    assert {c.text for c in made} <= {"Newcastle moved to Leeds.", "Alice moved to Newcastle."}
    assert len(made) == 1
    assert tally.rejected == {"every fill is known from post or reference": 1}
    assert made[0].generator == "neural:m"
    assert [made[0].text[a:b] for a, b in made[0].edits] == ["Newcastle"]


def test_several_masks_are_filled_at_once(tmp_path):
    generator = generators.load("mask_ent", str(small.masked_lm(tmp_path / "m", ["Hull"])))
    answer = generator.ask(Request(f"{MASK} moved to {MASK} in 2019.", top_k=1))
    assert answer.fills == (("Hull",), ("Hull",))


def test_mask_rel_takes_verbs_that_nobody_used(tmp_path):
    generator = generators.load("mask_rel", str(small.masked_lm(tmp_path / "m", ["sold", "bought", "opened"])))
    tally = Tally()
    made = mask_rel(record(), generator=generator, n_variants=4, top_k=3, tally=tally)
    assert {
        "Alice Meyer bought to Cardiff in 2019 and sold 40 bikes.",
        "Alice Meyer moved to Cardiff in 2019 and bought 40 bikes.",
    } <= {c.text for c in made}
    assert not any("sold to" in c.text for c in made)
    assert "the new verb is known from post or reference" in tally.rejected


# ---------------------------------------------------------------- translation


def test_backtranslate_goes_there_and_back(tmp_path):
    there = Scripted(Answer(("Alice Meyer zog 2019 um",)))
    back = Scripted(Answer(("In 2019, Alice Meyer moved to Cardiff and sold 40 bikes.",)))
    pair = generators.Roundtrip([(Generator(there), Generator(back))])
    (made,) = backtranslate(record(), generator=pair)
    assert made.text == "In 2019, Alice Meyer moved to Cardiff and sold 40 bikes."
    assert (there.asked[0].text, back.asked[0].text) == (REFERENCE, "Alice Meyer zog 2019 um")
    assert (there.asked[0].beams, there.asked[0].temperature, there.asked[0].n) == (5, 0.0, 1)


def test_a_real_marian_pair_from_a_folder(tmp_path):
    """Random weights translate into nonsense: it must come through the loading code, and be rejected with a reason."""
    for name, seed in (("opus-mt-en-de", 0), ("opus-mt-de-en", 1)):
        small.marian(tmp_path / name, [POST, REFERENCE], seed)
    pair = generators.load("backtranslate", str(tmp_path))
    assert len(pair.pairs) == 1
    tally = Tally()
    made = backtranslate(record(), generator=pair, tally=tally, beams=2)
    assert tally.made == 1
    assert len(made) + sum(tally.rejected.values()) == 1
    again = generators.load("backtranslate", f"{tmp_path}/opus-mt-en-de>{tmp_path}/opus-mt-de-en")
    request = Request(REFERENCE, beams=2, max_new_tokens=16)
    first = pair.pairs[0][0].ask(request)
    assert first == again.pairs[0][0].ask(request)
    assert first.texts[0]


def test_pairs_that_cannot_be_found(tmp_path):
    (tmp_path / "opus-mt-en-de").mkdir()
    with pytest.raises(UserError, match=r"no pair of models .* opus-mt-en-de"):
        generators.load("backtranslate", str(tmp_path))
    with pytest.raises(UserError, match=r"THERE>BACK"):
        generators.load("backtranslate", "a>b>c")
    with pytest.raises(UserError, match=r"there is no folder"):
        generators.load("backtranslate", str(tmp_path / "none"))


# ---------------------------------------------------------------- continuation


@pytest.mark.parametrize("make", [small.llama, small.gpt2])
def test_the_sampler_is_the_model(tmp_path, make):
    """Greedy text and probabilities equal the ones of a plain full forward pass, with padding and several samples."""
    from untax import models

    folder = make(tmp_path / "lm")
    writer = neural.load(str(folder), "causal")
    prompts = ["Alice moved to Leeds", "what"]
    answers = writer.run([Request(p, n=2, max_new_tokens=6) for p in prompts], seed=0)
    model, tokenizer = models.load(folder)
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = models.prompt_ids(tokenizer, prompt)
        expected = []
        for _ in range(6):
            with torch.inference_mode():
                shares = torch.softmax(model(torch.tensor([ids])).logits[0, -1].double(), -1)
            best = int(shares.argmax())
            if best == tokenizer.eos_token_id:
                break
            expected.append(float(shares[best]))
            ids.append(best)
        for tokens in answer.tokens:
            assert [p for _, p in tokens] == pytest.approx(expected, abs=1e-4)
        assert answer.texts[0] == answer.texts[1]


def test_samples_differ_and_come_again_with_the_seed(tmp_path):
    writer = neural.load(str(small.llama(tmp_path / "lm")), "causal")
    request = Request("Alice moved", n=6, temperature=1.0, max_new_tokens=8)
    first, again, other = writer.run([request], 1), writer.run([request], 1), writer.run([request], 2)
    assert first == again != other
    assert len(set(first[0].texts)) > 1


def test_top_p_keeps_the_smallest_set():
    """Shares .5 .3 .2 and top-p .6: the first two; 0.5: the first alone."""
    logits = torch.log(torch.tensor([[0.2, 0.5, 0.3]])).repeat(400, 1)
    source = torch.Generator().manual_seed(0)
    drawn = neural._draw(logits, Request("", temperature=1.0, top_p=0.6), source)
    assert set(drawn.tolist()) == {1, 2}
    assert float((drawn == 1).float().mean()) == pytest.approx(0.625, abs=0.08)
    assert set(neural._draw(logits, Request("", temperature=1.0, top_p=0.5), source).tolist()) == {1}


def test_top_p_of_a_flat_distribution_looks_beyond_the_best_words():
    flat = torch.zeros(300, 1000)
    drawn = neural._draw(flat, Request("", temperature=1.0, top_p=0.95), torch.Generator().manual_seed(0))
    assert len(set(drawn.tolist())) > 128


def test_text_stops_at_a_stop_string_and_tokens_with_it(tmp_path):
    writer = neural.load(str(small.llama(tmp_path / "lm")), "causal")
    long = writer.run([Request("Alice", n=1, temperature=1.0, max_new_tokens=12)], 3)[0]
    cut_at = long.texts[0].split()[2]
    short = writer.run([Request("Alice", n=1, temperature=1.0, max_new_tokens=12, stop=(cut_at,))], 3)[0]
    assert short.texts[0] == long.texts[0][: long.texts[0].index(cut_at)].strip()
    assert all(place <= len(short.texts[0]) for place, _ in short.tokens[0])


def test_regen_ent_continues_the_prompt_and_the_kept_beginning():
    model = Scripted(
        Answer(("Hull in 2019 and sold 40 bikes. More.", "Cardiff in 2019 and sold 40 bikes.", "Truro in 1999!"))
    )
    tally = Tally()
    made = regen_ent(record(), generator=Generator(model), prompt="Post: {source}\nShort:", tally=tally, seed=4)
    asked = model.asked[0]
    assert asked.text.startswith(f"Post: {POST}\nShort:")
    kept = asked.text.removeprefix(f"Post: {POST}\nShort:").strip()
    assert REFERENCE.startswith(kept)
    assert (asked.temperature, asked.top_p, asked.n, asked.gap) == (0.7, 0.9, 3, False)
    assert made
    for candidate in made:
        assert candidate.text.startswith(kept)
        assert candidate.text.count(".") <= 1  # the second sentence is cut: the reference has one
    assert tally.made == 3


def test_a_seq2seq_model_gets_its_own_sentinel(tmp_path):
    writer = neural.load(str(small.t5(tmp_path / "t5")), "continuing")
    assert not writer.continues
    generator = Generator(writer)
    seen = []
    original = writer._tokenizer.__call__
    request = Request(f"{POST} Alice moved to {GAP}", n=2, temperature=0.7, top_p=0.9, max_new_tokens=6, gap=True)
    assert writer._with_sentinel(request).endswith("Alice moved to <extra_id_0>")
    assert "<mask>" not in writer._with_sentinel(request)
    answer = generator.ask(request)
    assert len(answer.texts) == 2
    assert not any("<extra_id" in text or "</s>" in text for text in answer.texts)
    assert seen == []
    assert original is not None


@pytest.mark.parametrize(
    ("written", "inside"),
    [
        ("<pad> <extra_id_0> Hull in 2019 <extra_id_1> x </s>", "Hull in 2019"),
        ("<extra_id_0> Hull</s>", "Hull"),
        ("Hull at last</s>", "Hull at last"),
    ],
)
def test_what_stands_between_the_sentinels(tmp_path, written, inside):
    writer = neural.load(str(small.t5(tmp_path / "t5")), "continuing")
    writer._tokenizer.add_special_tokens({"pad_token": "<pad>"})
    assert writer._inside_sentinels(written) == inside


def test_regen_rel_with_a_real_t5_and_a_real_gpt2(tmp_path):
    for folder in (small.t5(tmp_path / "t5"), small.gpt2(tmp_path / "gpt2")):
        generator = generators.load("regen_rel", str(folder))
        tally = Tally()
        made = regen_rel(record(), generator=generator, max_new_tokens=8, tally=tally)
        assert tally.made == 3
        assert all(c.generator == f"neural:{folder.name}" for c in made)


def test_a_seq2seq_model_without_sentinels_says_so(tmp_path):
    folder = small.marian(tmp_path / "opus-mt-en-de", [POST])
    generator = generators.load("regen_ent", str(folder))
    with pytest.raises(UserError, match=r"no sentinels"):
        regen_ent(record(), generator=generator)


# ---------------------------------------------------------------- the model's own answers


def answers(*pairs):
    """Texts with the probability of every token, one token per word."""
    texts = tuple(text for text, _ in pairs)
    tokens = []
    for text, shares in pairs:
        starts = [i for i in range(len(text)) if i == 0 or text[i - 1] == " "]
        tokens.append(tuple(zip(starts, shares, strict=True)))
    return Answer(texts, tokens=tuple(tokens))


def test_sys_lowcon_keeps_the_least_sure_answer():
    """First tokens of names: .20 for "Hull" beats .10 for the verb "sold", which is no name; .30 is above 0.21."""
    model = Scripted(answers(
        ("Alice Meyer moved to Hull fast", (0.9, 0.9, 0.9, 0.9, 0.20, 0.9)),
        ("Alice Meyer sold bikes in Leeds", (0.9, 0.9, 0.10, 0.9, 0.9, 0.30)),
        ("Alice Meyer moved to Ely fast", (0.9, 0.9, 0.9, 0.9, 0.05, 0.9)),
        ("it rained a lot that day", (0.1, 0.1, 0.1, 0.1, 0.1, 0.1)),
    ))  # fmt: skip
    tally = Tally()
    (made,) = sys_lowcon(record(), generator=Generator(model), tally=tally)
    assert made.text == "Alice Meyer moved to Ely fast"
    two = sys_lowcon(record(), generator=Generator(model), keep=9)
    assert [c.text for c in two] == ["Alice Meyer moved to Ely fast", "Alice Meyer moved to Hull fast"]
    assert tally.rejected == {"names and numbers with 0.21 or more": 1, "no name or number": 1}


def test_sys_lowcon_leaves_abuse_to_the_other_kind():
    model = Scripted(
        answers(
            ("That gleeb Alice moved to Ely", (0.9, 0.9, 0.1, 0.9, 0.9, 0.01)),
            ("Alice Meyer moved to Hull fast", (0.2, 0.9, 0.9, 0.9, 0.1, 0.9)),
        )
    )
    (made,) = sys_lowcon(record(), generator=Generator(model), scorer=WordScorer(["gleeb"]))
    assert made.text == "Alice Meyer moved to Hull fast"


def test_sys_lowcon_with_a_real_model(tmp_path):
    generator = generators.load("sys_lowcon", str(small.llama(tmp_path / "lm")))
    tally = Tally()
    made = sys_lowcon(record(), generator=generator, max_new_tokens=12, max_probability=1.01, tally=tally)
    assert len(made) <= 1
    assert tally.made <= 8
    assert generator.asked == 1


def test_toxic_rewrites_from_examples_or_takes_the_models_own_words():
    model = Scripted(
        Answer(
            (
                "That gleeb Alice Meyer moved to Cardiff again",
                "Alice Meyer moved to Cardiff",
                "gleeb",
                "what a gleeb on the whole",
            )
        )
    )
    tally = Tally()
    made = toxic(record(), generator=Generator(model), scorer=WordScorer(["gleeb"]), tally=tally)
    assert [c.text for c in made] == ["That gleeb Alice Meyer moved to Cardiff again"]
    assert model.asked[0].text.endswith(f"News: {REFERENCE}\nRude:")
    assert (model.asked[0].temperature, model.asked[0].top_p, model.asked[0].stop) == (1.0, 0.95, ("\n",))
    assert tally.rejected["no content word of the reference"] >= 1
    toxic(record(), generator=Generator(model), style="own", prompt="{source}\nSummary:")
    assert model.asked[1].text == f"{POST}\nSummary:"
    with pytest.raises(UserError, match=r"style"):
        toxic(record(), generator=Generator(model), style="friendly")


def test_own_answers_of_both_kinds_are_one_question(tmp_path):
    """sys_lowcon and toxic in its own style ask the same thing: the model runs once."""
    model = Scripted(Answer(("gleeb Alice moved to Hull",), tokens=(((0, 0.1),),)))
    generator = Generator(model)
    sys_lowcon(record(), generator=generator)
    toxic(record(), generator=generator, style="own")
    assert generator.asked == 1


def test_swap_ent_with_a_tagger_says_who_found_the_names(tmp_path):
    folder = small.token_classifier(
        tmp_path / "ner", {"Alice": "B-PER", "Meyer": "I-PER", "Robert": "B-PER", "Hale": "I-PER"}
    )
    made = swap_ent(record("Alice Meyer moved", "Alice Meyer and Robert Hale moved"), finder=f"hf:{folder}")
    assert [c.text for c in made] == ["Robert Hale moved"]
    assert made[0].generator.startswith("neural:hf:")
    spans.load.cache_clear()


# ---------------------------------------------------------------- asking and remembering


def test_questions_wait_and_are_answered_in_full_batches():
    model = Scripted(Answer(("x",)))
    generator = Generator(model, batch_size=4, deferred=True)
    requests = [Request(f"text {i}") for i in range(10)]
    assert [generator.ask(r) for r in requests] == [None] * 10
    assert generator.ask(requests[0]) is None  # asked twice, answered once
    assert generator.settle() == 10
    assert model.batches == [4, 4, 2]
    assert generator.ask(requests[3]) == Answer(("x",))
    assert generator.settle() == 0


def test_settings_that_differ_do_not_share_a_batch():
    model = Scripted(Answer(("x",)))
    generator = Generator(model, deferred=True)
    for n in (1, 1, 2):
        generator.ask(Request(f"{n} {random.random()}", n=n))
    generator.settle()
    assert sorted(model.batches) == [1, 2]


def test_answers_are_remembered_by_content(tmp_path):
    first = Scripted(Answer(("x",), (("a", "b"),), (((0, 0.5),),)))
    Generator(first, tmp_path).ask(Request("text"))
    second = Scripted(Answer(("other",)))
    generator = Generator(second, tmp_path)
    assert generator.ask(Request("text")) == Answer(("x",), (("a", "b"),), (((0, 0.5),),))
    assert (generator.asked, second.asked) == (0, [])
    assert generator.ask(Request("text", seed=1)) == Answer(("other",))
    third = Scripted(Answer(("third",)))
    third.identity = "another model"
    assert Generator(third, tmp_path).ask(Request("text")) == Answer(("third",))
    assert all(json.loads(p.read_text()) for p in tmp_path.rglob("*.json"))


# ---------------------------------------------------------------- what cannot be loaded


@pytest.mark.parametrize("kind", ["mask_ent", "regen_ent", "sys_lowcon", "toxic", "mask_rel", "regen_rel"])
def test_a_model_that_fails_to_load_is_an_error(tmp_path, kind):
    with pytest.raises(UserError, match=r"no model folder|no such|There is no"):
        generators.load(kind, str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError):
        generators.load(kind, str(tmp_path))


def test_a_model_of_the_wrong_sort_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"masked language model"):
        generators.load("mask_ent", str(small.llama(tmp_path / "lm")))
    with pytest.raises(UserError, match=r"seq2seq|cannot be loaded"):
        generators.load("backtranslate", f"{tmp_path / 'lm'}>{tmp_path / 'lm'}")
    with pytest.raises(UserError):
        generators.load("sys_lowcon", str(small.t5(tmp_path / "t5")))
    with pytest.raises(UserError, match=r"takes no generator"):
        generators.load("swap_ent", str(tmp_path / "lm"))


def test_damaged_weights_are_an_error(tmp_path):
    folder = small.masked_lm(tmp_path / "m", ["Hull"])
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"cannot be loaded as a masked language model"):
        generators.load("mask_ent", str(folder))


def test_weights_without_a_head_are_an_error(tmp_path):
    with pytest.raises(UserError, match=r"lack"):
        generators.load("mask_ent", str(small.encoder(tmp_path / "bert")))


def test_a_sentence_encoder_gives_one_for_equal_texts(tmp_path):
    encoder = neural.SentenceEncoder(str(small.encoder(tmp_path / "bert")))
    same, other = encoder.cosines(
        [("Alice moved to Leeds", "Alice moved to Leeds"), ("Alice moved", "40 bikes in Cardiff there")]
    )
    assert same == pytest.approx(1.0, abs=1e-5)
    assert other < 0.999
