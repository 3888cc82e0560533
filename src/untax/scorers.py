"""Says how toxic a text is: a word list, a small n-gram model, a Hugging Face classifier or a Detoxify checkpoint.

A scorer that chose the training data must not judge the result: the judge would grade its own homework. `identity` is a
hash of what decides the scores, so that `refuse_same` sees through two names for one scorer.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from untax import files
from untax.types import UserError

__all__ = [
    "CheckpointScorer",
    "ClassifierScorer",
    "LinearScorer",
    "NgramScorer",
    "Scorer",
    "WordScorer",
    "fit_ngram",
    "fit_ngram_file",
    "hash_files",
    "load",
    "read_words",
    "refuse_same",
]

SPECS = "words:FILE, ngram:FILE, fit:FILE, fit:FILE+WORDS, linear:FILE, hf:DIR, hf:DIR#LABEL, detoxify:FILE"


class Scorer(Protocol):
    """Something that scores texts in [0, 1]; `identity` is equal for two scorers exactly when they cannot disagree."""

    name: str
    identity: str

    def score(self, texts: Sequence[str]) -> list[float]:
        """One score per text; NaN for an empty text, which is missing and not safe."""
        ...


def load(spec: str, *, base_dir: Path | None = None) -> Scorer:
    """The scorer of a specification; a relative path starts at `base_dir` when one is given.

    words:FILE counts any listed word as 1; ngram:FILE is a model saved by `fit_ngram`; fit:FILE fits one on labelled JSONL,
    fit:FILE+WORDS on it and a word list; linear:FILE is a linear bag-of-words model as JSON; hf:DIR is any
    text-classification directory, hf:DIR#LABEL names its toxic label; detoxify:FILE is a local checkpoint.

    Raises: UserError when the specification is not understood or its file cannot be used.
    """
    kind, separator, where = spec.partition(":")
    if not separator or not where or kind not in ("words", "ngram", "fit", "linear", "hf", "detoxify"):
        raise UserError(f"scorer '{spec}' is not understood. There are: {SPECS}.")
    label = ""
    if kind == "hf":
        where, _, label = where.partition("#")
    path, words = _at(where, base_dir), None
    if kind == "fit" and "+" in where and not path.exists():
        path, words = (_at(part, base_dir) for part in where.rsplit("+", 1))
    for needed in (path, words):
        if needed is not None and not needed.exists():
            raise UserError(f"scorer '{spec}': there is no {needed}.")
    if kind == "words":
        return WordScorer(read_words(path), name=f"words:{path.name}")
    if kind == "ngram":
        return NgramScorer.load(path)
    if kind == "fit":
        return fit_ngram_file(path, words=read_words(words) if words else ())
    if kind == "linear":
        return LinearScorer.load(path)
    return ClassifierScorer(path, label=label or None) if kind == "hf" else CheckpointScorer(path)


def _at(where: str, base_dir: Path | None) -> Path:
    path = Path(where).expanduser()
    return path if base_dir is None or path.is_absolute() else base_dir / path


def refuse_same(building: Scorer, judging: Scorer, *, force: bool = False) -> None:
    """Stop when the scorer that built the data is to judge the result, unless forced.

    Raises: UserError when both have one identity and `force` is not set.
    """
    # two labels of one classifier are still one classifier
    if building.identity.partition("#")[0] == judging.identity.partition("#")[0] and not force:
        raise UserError(
            f"the scorer '{judging.name}' that is to judge the result also built the training data ('{building.name}'): it would grade its "
            "own homework. Name another scorer for one of the two, or force it and say so beside every number."
        )


def _hash(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:16]


def hash_files(paths: Sequence[Path]) -> str:
    """A short hash of names and contents of files: what identifies the weights in a folder."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


# --------------------------------------------------------------------------- word list


MAX_WORD_CHARS = 200


def read_words(path: Path) -> list[str]:
    """The words and phrases of a file, one a line; blank lines and lines that begin with # are left out.

    Raises: UserError when the file cannot be read as UTF-8 or holds no word.
    """
    if not path.is_file():
        raise UserError(f"word list: there is no file {path}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"word list {path}: not UTF-8 at byte {error.start}. Save it as UTF-8, one word a line."
        ) from None
    words = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.startswith("#") and (
            len(line) > MAX_WORD_CHARS or "\0" in line or line.lstrip().startswith(("{", "["))
        ):
            raise UserError(
                f"word list {path}:{number}: this is no word or phrase but data; a word list has one word or phrase a line."
            )
    if not words:
        raise UserError(f"word list {path}: it holds no word. Put one word or phrase on a line.")
    return list(dict.fromkeys(words))


def _word_pattern(words: Sequence[str]) -> re.Pattern[str]:
    longest_first = sorted({word.lower() for word in words}, key=lambda word: (-len(word), word))
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?:e?s)?(?!\w)", re.IGNORECASE)


class WordScorer:
    """Exact and blunt: 1 when the text holds a listed word or its plural, else 0."""

    def __init__(self, words: Sequence[str], *, name: str = "words") -> None:
        if not words:
            raise UserError("a word scorer needs at least one word.")
        self.name = name
        self.identity = "words:" + _hash("\n".join(sorted({word.lower() for word in words})).encode())
        self._pattern = _word_pattern(words)

    def score(self, texts: Sequence[str]) -> list[float]:
        """1.0 or 0.0 per text; NaN for an empty one."""
        return [math.nan if not t.strip() else float(self._pattern.search(t) is not None) for t in texts]


# --------------------------------------------------------------------------- character n-grams


class NgramScorer:
    """Logistic regression on hashed character n-grams, and on whether a listed word occurs."""

    def __init__(
        self,
        weights: np.ndarray,
        intercept: float,
        *,
        words: Sequence[str],
        ngrams: tuple[int, int],
        name: str = "ngram",
    ) -> None:
        self.name = name
        self.words = tuple(words)
        self.ngrams = ngrams
        self._weights = np.asarray(weights, dtype=np.float64)
        self._intercept = float(intercept)
        settings = json.dumps([sorted(self.words), list(ngrams), self._intercept]).encode()
        self.identity = "ngram:" + _hash(settings, self._weights.tobytes())
        self._features = _Features(len(self._weights) - 1, ngrams, self.words)

    def score(self, texts: Sequence[str]) -> list[float]:
        """Probability of being toxic per text; NaN for an empty one."""
        if not texts:
            return []
        margins = self._features(texts) @ self._weights + self._intercept
        return [math.nan if not t.strip() else _sigmoid(float(m)) for t, m in zip(texts, margins, strict=True)]

    def save(self, path: Path) -> None:
        """Write the model as one safetensors file (no pickle): weights, and words and settings as its metadata."""
        from safetensors.numpy import save

        about = {
            "words": json.dumps(list(self.words)),
            "ngrams": json.dumps(list(self.ngrams)),
            "intercept": repr(self._intercept),
        }
        files.write(path, save({"weights": self._weights}, metadata={"format": "untax-ngram-1", **about}))

    @classmethod
    def load(cls, path: Path) -> NgramScorer:
        """Read a model written by `save`.

        Raises: UserError when the file is something else or damaged.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                about: Mapping[str, str] = file.metadata() or {}
                if about.get("format") != "untax-ngram-1":
                    raise UserError(
                        f"scorer: {path} is no n-gram scorer of untax. Make one with fit:FILE or scorers.fit_ngram."
                    )
                low, high = json.loads(about["ngrams"])
                weights = file.get_tensor("weights")
                words = json.loads(about["words"])
                return cls(
                    weights, float(about["intercept"]), words=words, ngrams=(low, high), name=f"ngram:{path.name}"
                )
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise UserError(f"scorer: cannot read an n-gram model from {path}: {error}") from error


class _Features:
    """Texts to a sparse matrix: hashed n-grams (length 1), then one column for a listed word."""

    def __init__(self, n_hashed: int, ngrams: tuple[int, int], words: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer

        self._hashed = HashingVectorizer(
            analyzer="char_wb",
            ngram_range=ngrams,
            n_features=n_hashed,
            alternate_sign=False,
            lowercase=True,
            norm="l2",
            dtype=np.float64,
        )
        self._pattern = _word_pattern(words) if words else None

    def __call__(self, texts: Sequence[str]) -> Any:
        from scipy.sparse import csr_matrix, hstack

        hits = [[float(self._pattern is not None and self._pattern.search(text) is not None)] for text in texts]
        return hstack([self._hashed.transform(texts), csr_matrix(hits)], format="csr")


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def fit_ngram(
    texts: Sequence[str],
    labels: Sequence[int],
    *,
    words: Sequence[str] = (),  # a licensed word list: one more feature
    seed: int = 0,
    n_features: int = 1 << 15,
    ngrams: tuple[int, int] = (2, 4),
    strength: float = 100.0,  # C of scikit-learn: rows have length 1, so a weak penalty
) -> NgramScorer:
    """Fit the offline scorer on texts labelled 1 (toxic) and 0.

    Raises: UserError when the labels do not fit or hold one class only.
    """
    from sklearn.linear_model import LogisticRegression

    if len(texts) != len(labels):
        raise UserError(f"fitting a scorer: {len(texts)} texts but {len(labels)} labels.")
    if set(labels) != {0, 1}:
        raise UserError(
            f"fitting a scorer needs texts labelled 0 and texts labelled 1; the labels here are {sorted(set(labels))}."
        )
    features = _Features(n_features, ngrams, words)(texts)
    model = LogisticRegression(C=strength, max_iter=2000, random_state=seed, class_weight="balanced")
    model.fit(features, np.asarray(labels))
    # float32 once, so that a saved model and the one in memory are the same scorer
    return NgramScorer(
        model.coef_[0].astype(np.float32), float(np.float32(model.intercept_[0])), words=words, ngrams=ngrams
    )


def fit_ngram_file(path: Path, *, words: Sequence[str] = (), seed: int = 0) -> NgramScorer:
    """Fit the offline scorer on a JSONL file of {"text": str, "toxic": 0 or 1}.

    Raises: UserError naming file and line when a row does not fit.
    """
    texts, labels = [], []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise UserError(f"{path}:{number}: no UTF-8 JSON object: {error}") from None
        if not isinstance(row, dict) or not isinstance(row.get("text"), str) or row.get("toxic") not in (0, 1):
            raise UserError(f'{path}:{number}: a labelled row is {{"text": str, "toxic": 0 or 1}}.')
        texts.append(row["text"])
        labels.append(int(row["toxic"]))
    if not texts:
        raise UserError(f"{path}: it holds no row. Labelled rows are needed to fit a scorer.")
    scorer = fit_ngram(texts, labels, words=words, seed=seed)
    scorer.name = f"fit:{path.name}"
    return scorer


# --------------------------------------------------------------------------- classifiers

TOXIC_LABELS = (
    "toxic",
    "toxicity",
    "hate",
    "hateful",
    "hate speech",
    "hate_speech",
    "hatespeech",
    "offensive",
    "abusive",
    "insult",
)
CLEAN_LABELS = ("not", "non", "neutral", "clean", "safe", "normal", "nothate", "none", "acceptable")
MULTI_LABEL = {"severe_toxic", "severe_toxicity", "obscene", "threat", "identity_hate", "identity_attack"}


def _toxic_index(labels: Mapping[int, str], wanted: str | None, where: str) -> int:
    """Which output to read: the toxicity label, not the top one."""
    by_name = {label.lower(): index for index, label in labels.items()}
    if wanted is not None:
        if wanted.lower() in by_name:
            return by_name[wanted.lower()]
        raise UserError(f"{where}: it has no label '{wanted}'. Its labels: {', '.join(labels.values())}.")
    for name in TOXIC_LABELS:
        if name in by_name:
            return by_name[name]
    if len(labels) == 2:
        clean = [i for i, label in labels.items() if re.split(r"[\s_-]", label.lower())[0] in CLEAN_LABELS]
        if len(clean) == 1:
            return next(i for i in labels if i != clean[0])
    raise UserError(f"{where}: which label means toxic? Its labels: {', '.join(labels.values())}. Write hf:DIR#LABEL.")


class _TorchScorer:
    """What both kinds of checkpoint share: batches in, the probability of one label out."""

    name: str
    identity: str

    def __init__(self, model: Any, tokenizer: Any, index: int, *, independent: bool, batch_size: int = 32) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._index = index
        self._independent = independent
        self._batch_size = batch_size

    def score(self, texts: Sequence[str]) -> list[float]:
        """Probability of the toxic label per text; NaN for an empty one."""
        import torch

        scores = [math.nan] * len(texts)
        order = sorted((i for i, text in enumerate(texts) if text.strip()), key=lambda i: len(texts[i]))
        # some position tables start behind the padding index: leave room for it
        longest = min(int(self._tokenizer.model_max_length), int(self._model.config.max_position_embeddings) - 2)
        for first in range(0, len(order), self._batch_size):
            rows = order[first : first + self._batch_size]
            encoded = self._tokenizer(
                [texts[i] for i in rows], return_tensors="pt", padding=True, truncation=True, max_length=longest
            )
            with torch.inference_mode():
                logits = self._model(**encoded).logits.float()
            shares = torch.sigmoid(logits) if self._independent else torch.softmax(logits, dim=-1)
            for i, value in zip(rows, shares[:, self._index].tolist(), strict=True):
                scores[i] = float(value)
        return scores


class ClassifierScorer(_TorchScorer):
    """Any local Hugging Face text-classification directory."""

    def __init__(self, folder: Path, *, label: str | None = None) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        where = f"scorer hf:{folder}"
        if not (folder / "config.json").is_file():
            raise UserError(f"{where}: no config.json in there. Give a text-classification directory.")
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model, info = AutoModelForSequenceClassification.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except Exception as error:  # tokenizers and safetensors raise plain Exception for damaged files
            raise UserError(f"{where}: cannot be loaded: {type(error).__name__}: {error}") from error
        if info["missing_keys"]:
            missing = sorted(info["missing_keys"])
            raise UserError(
                f"{where}: it is no classifier: the weights lack {len(missing)} tensors, the first {missing[0]}."
            )
        labels = {int(i): str(name) for i, name in model.config.id2label.items()}
        index = _toxic_index(labels, label, where)
        names = {name.lower() for name in labels.values()}
        independent = (
            model.config.problem_type == "multi_label_classification" or len(labels) == 1 or bool(names & MULTI_LABEL)
        )
        super().__init__(model, tokenizer, index, independent=independent)
        self.name = f"hf:{folder.name}#{labels[index]}"
        self.identity = f"hf:{hash_files([*folder.glob('*.safetensors'), folder / 'config.json'])}#{index}"


class CheckpointScorer(_TorchScorer):
    """A Detoxify checkpoint: its state dict (read with weights_only), beside config.json and the tokenizer of its encoder."""

    def __init__(self, path: Path) -> None:
        import torch
        from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

        where = f"scorer detoxify:{path}"
        folder = path.parent
        if not (folder / "config.json").is_file():
            raise UserError(
                f"{where}: a checkpoint holds no architecture. Put config.json and the tokenizer of its encoder beside it."
            )
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            state = checkpoint["state_dict"]
            classes = [str(name) for name in checkpoint["config"]["dataset"]["args"]["classes"]]
            config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, num_labels=len(classes))
            model: Any = AutoModelForSequenceClassification.from_config(config)
            tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            missing, unexpected = model.load_state_dict(state, strict=False)
        except Exception as error:  # a damaged checkpoint fails in as many ways as there are libraries
            raise UserError(f"{where}: cannot be loaded: {type(error).__name__}: {error}") from error
        # older transformers wrote position_ids as a buffer; nothing else may differ
        unexpected = [key for key in unexpected if not key.endswith("position_ids")]
        if missing or unexpected:
            raise UserError(
                f"{where}: it does not fit {folder / 'config.json'}: missing {missing[:3]}, unknown {unexpected[:3]}."
            )
        index = _toxic_index(dict(enumerate(classes)), None, where)
        super().__init__(model, tokenizer, index, independent=True)
        self.name = f"detoxify:{path.name}#{classes[index]}"
        self.identity = f"detoxify:{hash_files([path])}"


# --------------------------------------------------------------------------- linear models from a JSON file


class LinearScorer:
    """A calibrated linear bag-of-words model that somebody else fitted, read from JSON without their code.

    The file holds `vocabulary` (word -> column), `token_pattern`, `lowercase`, and `folds` of `coef`, `intercept`, `a`, `b`. The
    score is the mean over folds of 1 / (1 + exp(a m + b)), with m the intercept plus the coefficients of the text's words.
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        folds: Sequence[tuple[Sequence[float], float, float, float]],
        *,
        token_pattern: str,
        lowercase: bool,
        identity: str,
        name: str = "linear",
    ) -> None:
        self.name = name
        self.identity = identity
        self._vocabulary = dict(vocabulary)
        self._folds = [(np.asarray(coef, dtype=np.float64), intercept, a, b) for coef, intercept, a, b in folds]
        self._tokens = re.compile(token_pattern)
        self._lowercase = lowercase

    def score(self, texts: Sequence[str]) -> list[float]:
        """The calibrated score per text; NaN for an empty one."""
        return [self._one(text) if text.strip() else math.nan for text in texts]

    def _one(self, text: str) -> float:
        words = self._tokens.findall(text.lower() if self._lowercase else text)
        columns = [self._vocabulary[word] for word in words if word in self._vocabulary]
        margins = [(float(coef[columns].sum()) + intercept, a, b) for coef, intercept, a, b in self._folds]
        return sum(_sigmoid(-(a * m + b)) for m, a, b in margins) / len(margins)

    @classmethod
    def load(cls, path: Path) -> LinearScorer:
        """Read a model from its JSON file.

        Raises: UserError when the file is something else or its parts do not fit together.
        """
        try:
            raw = path.read_bytes()
            told = json.loads(raw)
            vocabulary = {str(word): int(column) for word, column in told["vocabulary"].items()}
            folds = [(f["coef"], float(f["intercept"]), float(f["a"]), float(f["b"])) for f in told["folds"]]
            numbers = [float(value) for coef, *rest in folds for value in (*coef, *rest)]
            pattern, lowercase = str(told["token_pattern"]), bool(told["lowercase"])
            re.compile(pattern)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, re.error) as error:
            raise UserError(f"scorer: cannot read a linear model from {path}: {error!r}") from error
        columns = len(folds[0][0]) if folds else 0
        fits = all(len(coef) == columns for coef, *_ in folds) and all(0 <= c < columns for c in vocabulary.values())
        if not fits or not columns or not all(map(math.isfinite, numbers)):
            raise UserError(
                f"scorer: {path} is no whole linear model: vocabulary and coefficients do not fit together."
            )
        return cls(
            vocabulary,
            folds,
            token_pattern=pattern,
            lowercase=lowercase,
            identity="linear:" + _hash(raw),
            name=f"linear:{path.name}",
        )
