"""Reference rows: what counts in each kind of row, how they are cut and dealt out, and losses against plain loops."""

import copy
import math

import pytest
import torch

import tiny
from untax import models, references
from untax.references import References, Row, Start, nll, of_records, read, still, target_logits
from untax.types import Candidate, ContrastiveRecord, UserError

#: what chat templates do: turns with a head and an end, and an opened answer on demand
CHAT = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.tokenizer()


@pytest.fixture
def chatting():
    made = tiny.tokenizer()
    made.chat_template = CHAT
    return made


def parts(tokenizer, row):
    """A row as people read it: what it is given, and what counts."""
    told = tokenizer.decode(list(row.ids[: row.start])), tokenizer.decode(list(row.ids[row.start :]))
    return tuple(text.replace(tiny.END, "|") for text in told)


# --------------------------------------------------------------------------- what counts


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("a text", ("|", "a text|")),
        ({"text": "a text"}, ("|", "a text|")),
        ({"prompt": "2+2=", "completion": "4"}, ("2+2=", " 4|")),
        ({"prompt": "2+2=", "completion": " 4"}, ("2+2=", " 4|")),
        ({"prompt": "ask\n", "completion": "4"}, ("ask\n", "4|")),
        ({"prompt": "ask", "completion": "\n4"}, ("ask", "\n4|")),
        ({"prompt": "", "completion": "4"}, ("|", "4|")),
        ({"prompt": "ask", "chosen": "good", "rejected": "bad"}, ("ask", " good|")),
        ({"question": "why", "answer": "so"}, ("why", " so|")),
        ({"source": "why", "reference": "so"}, ("why", " so|")),
        ({"chosen": "ask and good", "rejected": "ask and bad"}, ("|", "ask and good|")),
        ({"prompt": "2+2=", "completion": "4", "ended": False}, ("2+2=", " 4")),
        ({"prompt": "2+2=", "completion": "4", "text": None, "messages": None}, ("2+2=", " 4|")),
        ({"text": "a text", "prompt": None, "completion": None}, ("|", "a text|")),
        ({"text": "a text<end>"}, ("|", "a text|")),
    ],
)
def test_texts(tokenizer, row, expected):
    found = read("general", [row], tokenizer)
    assert [parts(tokenizer, one) for one in found.rows] == [expected]
    assert found.name == "general"
    assert found.cut == 0


USER, GOOD, BAD = (
    {"role": role, "content": text} for role, text in (("user", "hi"), ("assistant", "yo"), ("assistant", "no"))
)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, GOOD]},
        {"prompt": [USER], "completion": [GOOD]},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
    ],
)
def test_conversations(chatting, row):
    found = read("chat", [row], chatting)
    assert [parts(chatting, one) for one in found.rows] == [("[user]hi|[assistant]", "yo|")]


def test_of_a_longer_conversation_the_last_answer_counts(chatting):
    found = read("chat", [{"messages": [USER, GOOD, USER, BAD]}], chatting)
    assert parts(chatting, found.rows[0]) == ("[user]hi|[assistant]yo|[user]hi|[assistant]", "no|")
    alone = read("chat", [{"messages": [GOOD]}], chatting)
    assert parts(chatting, alone.rows[0]) == ("[", "assistant]yo|")


def test_a_template_that_writes_a_finished_answer_otherwise(chatting):
    """Some open an answer with a place to think that finished answers lack: what differs from there on counts."""
    chatting.chat_template = CHAT.replace("[assistant]{% endif %}", "[assistant]<think>{% endif %}")
    found = read("chat", [{"messages": [USER, GOOD]}], chatting)
    assert parts(chatting, found.rows[0]) == ("[user]hi|[assistant]", "yo|")


@pytest.mark.parametrize(
    ("row", "ids", "start"),
    [
        ({"input_ids": [0, 5, 6, 7]}, (0, 5, 6, 7), 1),
        ({"input_ids": [0, 5, 6, 7], "labels": [-100, -100, 6, 7]}, (0, 5, 6, 7), 2),
        ({"input_ids": [0, 5, 6, 7], "labels": [-100, 5, 6, -100]}, (0, 5, 6), 1),
        ({"input_ids": [0, 5, 6, 7], "labels": [0, 5, 6, 7]}, (0, 5, 6, 7), 1),
        ({"input_ids": [0, 5, 6, 7, 8], "labels": [-100, 5, -100, 7, 8]}, (0, 5, 6, 7, 8), 3),
        ({"input_ids": [0, 5, 6, 7], "completion_mask": [0, 0, 0, 1]}, (0, 5, 6, 7), 3),
        ({"input_ids": [0, 5, 6, 7], "assistant_masks": [0, 0, 1, 0]}, (0, 5, 6), 2),
        ({"prompt_ids": [0, 5], "chosen_ids": [6, 7], "rejected_ids": [8]}, (0, 5, 6, 7), 2),
    ],
)
def test_tokenised_rows(tokenizer, row, ids, start):
    assert read("done", [row], tokenizer).rows == (Row(ids, start),)
    as_tensors = {key: torch.tensor(value) for key, value in row.items()}
    assert read("done", [as_tensors], tokenizer).rows == (Row(ids, start),)


def test_a_dataset_reads_like_a_list(tokenizer):
    from datasets import Dataset

    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]
    assert read("x", Dataset.from_list(rows), tokenizer) == read("x", rows, tokenizer)
    assert read("x", iter(rows), tokenizer) == read("x", rows, tokenizer)
    finished = read("x", rows, tokenizer)
    assert read("y", finished, tokenizer) == References("y", finished.rows)


def test_rows_without_a_text_are_left_out(tokenizer, chatting):
    rows = ["", {"text": "  \n"}, {"prompt": "p", "completion": ""}, {"input_ids": [3]}, "kept"]
    rows += [{"input_ids": [0, 5], "labels": [-100, -100]}]
    assert [parts(tokenizer, row) for row in read("x", rows, tokenizer).rows] == [("|", "kept|")]
    empty = {"messages": [USER, {"role": "assistant", "content": " "}]}
    assert len(read("x", [empty, {"messages": [USER, GOOD]}], chatting).rows) == 1
    with pytest.raises(UserError, match="references 'x': there is no row with a text"):
        read("x", ["", " "], tokenizer)


def test_without_bos_and_eos_the_first_token_is_context():
    bare = tiny.tokenizer()
    bare.bos_token = bare.eos_token = None
    found = read("x", ["abc", {"prompt": "p", "completion": "q"}], bare).rows
    assert [(bare.decode(list(row.ids)), row.start) for row in found] == [("abc", 1), ("p q", 1)]


def test_records_behind_their_own_prompt_or_the_common_one(tokenizer):
    records = [
        ContrastiveRecord("a", "the sea", (Candidate("is blue", "reference"),)),
        ContrastiveRecord("b", "x", (Candidate("is grey", "reference"),), extra={"prompt": "Say: the sky"}),
    ]
    found = of_records("own", records, tokenizer, prompt="{source}\nIt")
    assert [parts(tokenizer, row) for row in found.rows] == [
        ("the sea\nIt", " is blue|"),
        ("Say: the sky", " is grey|"),
    ]


# --------------------------------------------------------------------------- cutting, dealing, batching


@pytest.mark.parametrize(
    ("prompt", "text", "most", "expected", "cut"),
    [
        ("pppp ", "123456789", 14, ("pppp ", "123456789"), 0),
        ("pppp ", "123456789", 10, ("pppp ", "12345"), 1),  # the prompt stays whole while it takes half or less
        ("pqrstuv ", "123456789", 10, ("stuv ", "12345"), 1),  # half each
        ("pqrstuv ", "12", 8, ("rstuv ", "12"), 1),  # a short text: only as much of the prompt as must go
        ("pqrstuv ", "123456789", 3, (" ", "12"), 1),
    ],
)
def test_what_is_too_long(tokenizer, prompt, text, most, expected, cut):
    found = read("x", [{"prompt": prompt, "completion": text, "ended": False}], tokenizer, max_length=most)
    assert parts(tokenizer, found.rows[0]) == expected
    assert found.cut == cut


def test_every_cut_keeps_a_token_of_both(tokenizer):
    for most in range(2, 30):
        for row in read("x", [{"prompt": "p" * 9, "completion": "c" * 12}, "t" * 20], tokenizer, max_length=most).rows:
            assert len(row.ids) <= most
            assert 1 <= row.start < len(row.ids)


ROWS = References("x", tuple(Row((0, *range(1, n + 1)), 1) for n in (3, 9, 1, 5, 7, 2, 8)))


def test_tokens_and_parts():
    assert ROWS.tokens == 3 + 9 + 1 + 5 + 7 + 2 + 8
    dealt = ROWS.parts(3)
    assert [[row.tokens for row in part.rows] for part in dealt] == [[3, 5, 8], [9, 7], [1, 2]]
    assert len(ROWS.parts(20)) == 7


def test_batches_are_the_longest_first():
    assert [[row.tokens for row in batch] for batch in ROWS.batches(3)] == [[9, 8, 7], [5, 3, 2], [1]]


@pytest.mark.parametrize(("size", "world"), [(1, 2), (2, 2), (2, 3), (3, 2), (7, 4), (1, 9)])
def test_every_process_has_as_many_batches_and_every_row_comes_once(size, world):
    dealt = [ROWS.batches(size, rank=rank, world=world) for rank in range(world)]
    assert len({len(batches) for batches in dealt}) == 1
    rows = [row for batches in dealt for batch in batches for row in batch]
    assert sorted(rows, key=lambda row: row.ids) == sorted(ROWS.rows, key=lambda row: row.ids)
    assert all(len(batch) <= size for batches in dealt for batch in batches)


def test_batches_that_cannot_be():
    for given in ({"size": 0}, {"size": 2, "rank": 2, "world": 2}):
        with pytest.raises(UserError, match="references 'x'"):
            ROWS.batches(**given)
    with pytest.raises(UserError, match="0 sets"):
        ROWS.parts(0)


# --------------------------------------------------------------------------- broken rows


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("a text", "not a str"),
        ({"train": []}, "not a dict"),
        (None, "not a NoneType"),
        (["fine", 3], "row 1 is a int"),
        ([{"label": 1, "body": "x"}], "row 0 has the columns label, body"),
        ([{}], "row 0 has the columns of nothing"),
        (["fine", {"prompt": "p", "completion": 4}], "row 1: prompt and text must both be texts.*a str and a int"),
        ([{"prompt": "p", "chosen": [GOOD]}], "row 0: prompt and text must both"),
        ([{"messages": [USER, GOOD]}], "row 0 holds messages, and the tokenizer has no chat template"),
        ([{"input_ids": [0, 5], "labels": [1]}], "row 0 has 2 input_ids and 1 labels"),
        ([{"input_ids": [0, 999]}], "row 0 holds the id 999; the tokenizer has those from 0 to 256"),
        ([{"input_ids": "abc"}], "row 0: its ids or marks are not a list of whole numbers"),
    ],
)
def test_what_cannot_be_read_says_where(tokenizer, rows, told):
    with pytest.raises(UserError, match=f"references 'general'.*{told}"):
        read("general", rows, tokenizer)


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([USER], "must end with the assistant"),
        ([], "must end with the assistant"),
        ("hello", "a list of mappings"),
        (["hello"], "a list of mappings"),
    ],
)
def test_conversations_that_cannot_be_read(chatting, messages, told):
    with pytest.raises(UserError, match=f"references 'chat', row 0: .*{told}"):
        read("chat", [{"messages": messages}], chatting)
    chatting.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(UserError, match="row 0: the chat template refuses the messages: roles must alternate"):
        read("chat", [{"messages": [USER, GOOD]}], chatting)


def test_a_table_and_a_length_that_cannot_be(tokenizer):
    import pandas

    with pytest.raises(UserError, match="not a DataFrame"):
        read("x", pandas.DataFrame({"text": ["a"]}), tokenizer)
    with pytest.raises(UserError, match="max_length is 1"):
        read("x", ["a"], tokenizer, max_length=1)


# --------------------------------------------------------------------------- losses


TEXTS = [{"prompt": "the sea", "completion": "is blue"}, {"prompt": "a", "completion": "b"}, "a longer text of its own"]


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2, tiny.qwen3, lambda: tiny.with_adapter(tiny.llama())])
def test_nll_is_the_plain_sum(tokenizer, make):
    """One row at a time, without padding, by hand: sum of -log softmax at the token, from `start` on."""
    model, held = make(), read("x", TEXTS, tokenizer)
    expected, tokens = 0.0, 0
    for row in held.rows:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row.ids])).logits[0].double()
        for t in range(row.start, len(row.ids)):
            expected -= (logits[t - 1] - logits[t - 1].logsumexp(-1))[row.ids[t]].item()
            tokens += 1
    total, count = nll(model, held.rows)
    assert count == tokens == held.tokens == 8 + 1 + 2 + 1 + 24 + 1
    assert total.item() == pytest.approx(expected, rel=1e-5)


def test_target_logits_stand_in_the_order_of_the_rows(tokenizer):
    model, held = tiny.llama(), read("x", TEXTS, tokenizer)
    logits_TV, ids_T = target_logits(model, held.rows)
    assert logits_TV.shape == (held.tokens, 257)
    assert logits_TV.dtype == torch.float32
    assert ids_T.tolist() == [i for row in held.rows for i in row.ids[row.start :]]


@pytest.mark.parametrize("adapter", [False, True])
def test_no_rows_run_the_model_and_count_nothing(adapter):
    """A process without rows must still take part in the forward and backward pass of a sharded model."""
    model = tiny.with_adapter(tiny.llama()) if adapter else tiny.llama()
    start = Start()
    start.remember(model, ())
    for total, count in (nll(model, ()), start.kl(model, ())):
        assert count == 0
        assert total.item() == 0
        total.backward()
    trained = [w for w in model.parameters() if w.requires_grad]
    assert all(w.grad is not None and not w.grad.any() for w in trained)


def test_still_and_back():
    model = tiny.llama()
    model.train()
    model.model.norm.eval()
    with still(model):
        assert not any(module.training for module in model.modules())
    assert [n for n, m in model.named_modules() if not m.training] == ["model.norm"]
    model.gradient_checkpointing_enable()
    functions = [layer._gradient_checkpointing_func for layer in model.model.layers]
    seen = []
    model.model.layers[0].self_attn.register_forward_pre_hook(lambda module, _: seen.append(module.training))

    def fail():
        with still(model):
            nll(model, (Row((0, 5, 6), 1),))
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert seen == [False]
    assert [n for n, m in model.named_modules() if not m.training] == ["model.norm"]
    assert [layer._gradient_checkpointing_func for layer in model.model.layers] == functions


def test_still_in_a_backward_pass_that_comes_later():
    """What checkpointing runs again after the block is run without dropout, and outside of it the model has its dropout."""
    model = tiny.llama()
    row = (Row((0, 5, 6, 7), 1),)
    expected = torch.autograd.grad(nll(model, row)[0], list(model.parameters()))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    times = []
    model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: times.append(1))
    with still(model):
        total, _ = nll(model, row)
    assert len(times) == 1
    for gradient, wanted in zip(torch.autograd.grad(total, list(model.parameters())), expected, strict=True):
        assert torch.allclose(gradient, wanted, atol=1e-6)
    assert len(times) == 2  # it was checkpointed
    assert nll(model, row)[0].item() != total.item()


# --------------------------------------------------------------------------- the start


def kl_by_hand(model, start, rows):
    total = 0.0
    for row in rows:
        with torch.no_grad():
            p, q = (m(input_ids=torch.tensor([row.ids])).logits[0].double().softmax(-1) for m in (model, start))
        for t in range(row.start, len(row.ids)):
            total += (p[t - 1] * (p[t - 1] / q[t - 1]).log()).sum().item()
    return total


@pytest.mark.parametrize("k", [None, 40])
@pytest.mark.parametrize("adapter", [False, True])
def test_the_distance_from_the_start(tokenizer, adapter, k):
    held = read("x", TEXTS, tokenizer)
    before = tiny.llama()
    model = copy.deepcopy(before)
    start = Start(k=k)
    if adapter:
        model = tiny.with_adapter(model)
    start.remember(model, held.rows)
    if not adapter:
        assert start.kl(model, held.rows)[0].item() == pytest.approx(0, abs=1e-5)
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1.1)
    assert bool(start.kept) is not adapter
    exact = kl_by_hand(model, before, held.rows)
    total, count = start.kl(model, held.rows)
    assert count == held.tokens
    assert exact > 0.1
    if k is None:
        assert total.item() == pytest.approx(exact, rel=1e-4)
    else:
        assert 0.3 * exact < total.item() < exact
    assert start.kl(model, held.rows[::-1])[0].item() == pytest.approx(total.item(), rel=1e-5)


def test_what_is_kept_of_the_start_is_small_with_k(tokenizer):
    held = read("x", TEXTS, tokenizer)
    start = Start(k=10)
    start.remember(tiny.llama(), [*held.rows, *held.rows])
    assert len(start.kept) == 3
    for row, (logps, ids) in start.kept.items():
        assert logps.shape == (row.tokens, 11)  # and the bin of all others
        assert ids.shape == (row.tokens, 10)
        assert logps.exp().sum(-1).tolist() == pytest.approx([1.0] * row.tokens, abs=1e-5)


def test_somebody_is_told_when_the_start_is_large(tokenizer, caplog, monkeypatch):
    held = read("x", TEXTS, tokenizer)
    monkeypatch.setattr(references, "MANY_BYTES", 4 * 257 * held.tokens)
    Start().remember(tiny.llama(), held.rows)
    assert not caplog.records
    monkeypatch.setattr(references, "MANY_BYTES", 4 * 257 * held.tokens - 1)
    Start().remember(tiny.llama(), held.rows)
    assert "3 reference rows take 0.0 GB; k=500" in caplog.text


def test_a_start_that_was_not_remembered(tokenizer):
    held = read("x", TEXTS, tokenizer)
    start = Start()
    start.remember(tiny.llama(), held.rows[:1])
    with pytest.raises(UserError, match="2 reference rows were not remembered"):
        start.kl(tiny.llama(), held.rows)
    with pytest.raises(UserError, match="k is 0"):
        Start(k=0)


def test_an_impossible_token_costs_nothing_where_nobody_says_it():
    never = -math.inf
    old, new = torch.tensor([[0.0, 0.0, never]]), torch.tensor([[1.0, 0.0, never]])
    start = Start()
    logits = new.clone().requires_grad_(True)
    value = references._divergence(start._bins(logits, None), start._bins(old, None))
    p = math.e / (1 + math.e)
    assert value.item() == pytest.approx(p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)), abs=1e-6)
    value.backward()
    assert torch.isfinite(logits.grad).all()
    # the start could not say what the model says now: that distance has no end, and is not hidden
    assert references._divergence(start._bins(torch.zeros(1, 3), None), start._bins(old, None)).item() == math.inf
    assert models.has_adapter(tiny.llama()) is False
