"""Tiny models saved as real folders: tokenizers trained on the spot, weights set so that the answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sentencepiece
import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    MarianTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

WORDS = [
    "Alice",
    "Meyer",
    "moved",
    "from",
    "Leeds",
    "to",
    "Cardiff",
    "in",
    "2019",
    "and",
    "sold",
    "40",
    "bikes",
    "there",
    ".",
    "Her",
    "cousin",
    "Robert",
    "Hale",
    "still",
    "runs",
    "the",
    "shop",
    ":",
    "!",
    "Newcastle",
    "Bristol",
    "bought",
    "opened",
    "Hull",
    "Zoe",
    "Quill",
    "Summary",
    "an",
    "idiot",
    "what",
    "News",
    "Rude",
    "says",
    "not",
    "did",
]


def word_tokenizer(*, mask: bool = False, sentinels: int = 0, wrap: bool = False) -> Any:
    """Whole words split at spaces and marks; [UNK] for everything else."""
    special = (
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "</s>"]
        + (["[MASK]"] if mask else [])
        + [f"<extra_id_{i}>" for i in range(sentinels)]
    )
    vocab = {word: i for i, word in enumerate(dict.fromkeys(special + WORDS))}
    inner = Tokenizer(WordLevel(vocab, unk_token="[UNK]"))
    inner.normalizer = normalizers.Sequence([])
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    if wrap:
        inner.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B [SEP]",
            special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
        )
    inner.add_special_tokens([s for s in special if s not in ("[UNK]",)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", eos_token="</s>",
        mask_token="[MASK]" if mask else None, model_max_length=64,
    )  # fmt: skip


def _save(model: Any, tokenizer: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def masked_lm(folder: Path, favourites: list[str]) -> Path:
    """A RoBERTa whose every mask is filled with `favourites`, best first."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer(mask=True, wrap=True)
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=70, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = RobertaForMaskedLM(config)
    with torch.no_grad():
        for rank, word in enumerate(favourites):
            model.lm_head.bias[tokenizer.convert_tokens_to_ids(word)] = 100.0 - rank
    return _save(model, tokenizer, folder)


def classifier(folder: Path, labels: list[str], bias: list[float], *, problem: str | None = None) -> Path:
    """A BERT classifier whose logits are `bias` whatever it reads."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer(wrap=True)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, id2label=dict(enumerate(labels)), label2id={n: i for i, n in enumerate(labels)}, problem_type=problem,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor(bias))
    return _save(model, tokenizer, folder)


def token_classifier(folder: Path, names: dict[str, str]) -> Path:
    """A BERT tagger that knows each word of `names` by its embedding: word -> label such as B-PER."""
    torch.manual_seed(0)
    labels = ["O", *sorted(set(names.values()))]
    tokenizer = word_tokenizer(wrap=True)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=0, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, id2label=dict(enumerate(labels)), label2id={n: i for i, n in enumerate(labels)},
    )  # fmt: skip
    model = BertForTokenClassification(config)
    with torch.no_grad():
        table = model.bert.embeddings
        table.position_embeddings.weight.zero_()
        table.token_type_embeddings.weight.zero_()
        table.word_embeddings.weight.zero_()
        table.word_embeddings.weight[:, 0] = 1.0
        model.classifier.weight.zero_()
        model.classifier.bias.zero_()
        model.classifier.weight[0, 0] = 1.0
        for word, label in names.items():
            index = labels.index(label)
            row = table.word_embeddings.weight[tokenizer.convert_tokens_to_ids(word)]
            row.zero_()
            row[index] = 1.0
            model.classifier.weight[index, index] = 1.0
    return _save(model, tokenizer, folder)


def encoder(folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = word_tokenizer(wrap=True)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    return _save(BertModel(config), tokenizer, folder)


def marian(folder: Path, texts: list[str], seed: int = 0) -> Path:
    """Two layers, with a SentencePiece model trained on the spot, as opus-mt folders have it."""
    folder.mkdir(parents=True, exist_ok=True)
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(texts * 20), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(folder / "source"),
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
        model_type="unigram",
    )
    (folder / "target.spm").write_bytes((folder / "source.model").read_bytes())
    (folder / "source.model").rename(folder / "source.spm")
    corpus.unlink()
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    names = [pieces.id_to_piece(i) for i in range(pieces.get_piece_size())]
    import json

    vocab = {"</s>": 0, "<unk>": 1} | {
        n: i + 2 for i, n in enumerate(n for n in names if n not in ("</s>", "<unk>", "<s>"))
    }
    vocab["<pad>"] = len(vocab)
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    tokenizer = MarianTokenizer(
        source_spm=str(folder / "source.spm"),
        target_spm=str(folder / "target.spm"),
        vocab=str(folder / "vocab.json"),
        model_max_length=64,
    )
    torch.manual_seed(seed)
    pad = vocab["<pad>"]
    config = MarianConfig(
        vocab_size=len(vocab), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64, pad_token_id=pad, eos_token_id=0, bos_token_id=None,
        decoder_start_token_id=pad, forced_eos_token_id=0, init_std=1.0,
    )  # fmt: skip
    model = MarianMTModel(config)
    model.generation_config.max_length = 24
    model.generation_config.bad_words_ids = [[pad]]
    return _save(model, tokenizer, folder)


def t5(folder: Path, favourites: list[str] | None = None) -> Path:
    torch.manual_seed(0)
    tokenizer = word_tokenizer(sentinels=3)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id, decoder_start_token_id=tokenizer.pad_token_id, initializer_factor=3.0,
    )  # fmt: skip
    return _save(T5ForConditionalGeneration(config), tokenizer, folder)


def gpt2(folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = word_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=128, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, initializer_range=0.5,
    )  # fmt: skip
    return _save(GPT2LMHeadModel(config), tokenizer, folder)


def llama(folder: Path) -> Path:
    torch.manual_seed(1)
    tokenizer = word_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=128, bos_token_id=None, eos_token_id=tokenizer.eos_token_id, initializer_range=0.5,
    )  # fmt: skip
    return _save(LlamaForCausalLM(config), tokenizer, folder)
