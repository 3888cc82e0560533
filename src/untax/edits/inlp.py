"""Iterative null-space projection: what a linear classifier reads of a group is taken out of a hidden state, again and again."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC
from torch import Tensor

from untax.edits import features
from untax.edits.common import Edited, projected
from untax.edits.projection import Projection, orthonormal
from untax.types import RecipeError, UserError

__all__ = ["inlp"]

#: sentences of a class below which neither the fit nor the test of it says anything
LEAST = 50


def inlp(
    base: Mapping[str, Tensor],
    tuned: Mapping[str, Tensor],
    *,
    model: Any,  # the module that gives the hidden states; `tuned` are its weights
    tokenizer: Any,  # the model's own
    texts: Mapping[str, Sequence[str]],  # plain texts, some of whose sentences name a group
    attribute: Literal["gender", "race", "religion"] = "gender",  # whose groups are no longer to be told apart
    layer: int = -1,  # -1: what the output layer reads, folded into its weights; else a block from 0, as a hook
    rounds: int = 80,  # the most classifiers (survey: 80)
    max_share: float = 0.1,  # of the width that may be removed; no round begins that would remove more (survey: none)
    stop: Literal[
        "chance", "never"
    ] = "chance",  # after the first classifier at chance on held-out sentences (survey: never)
    centred: bool = False,  # states less their mean before the fit: the same is unlearnt, and the mean, which the model needs, stays
    per_class: int = 10000,  # sentences of each class
    seed: int = 0,  # where sentences end, which are chosen and held out, which token is tested
) -> Edited:
    """Make a group unreadable for any linear classifier on the last hidden state: no training, no other weight changes.

    Paper: Ravfogel et al. 2020, arXiv 2004.07667: round i fits a linear classifier on projected states; B_i = orthonormal basis of
        its weights' rows, Q = sum B_i B_i^T, P = I - projector on range(Q); logits = W P h. w1 = (1,0,0), w2 = (1,1,0): P = diag(0,0,1).
    Differs: stops at chance (dev accuracy <= share of the largest class + 2 standard errors) or at a tenth of the width: the survey (Meade
        et al. 2021, arXiv 2110.08527) goes on for 80 rounds, 240 of GPT-2's 768 dimensions. Case is kept, and classes have equal numbers
        of words: length says nothing. The tokenizer's BOS is not in the mean. States are scaled by one number before the fit, so that the
        classifier's C means the same for every model. Single tokens are tested, too, for P acts on them and not on means. Without an
        intercept a classifier spends directions on the mean state, which no group owns: `centred` (ours) spares them.
    Shapes: state dict of the whole model in, like it out, with the output matrix replaced and untied (layer -1). `base` is not read.
    Raises: RecipeError for options out of range; UserError for too few sentences, nothing to remove, or an output layer that is not linear.
    """
    _check(rounds, max_share, per_class)
    known = features.sentences(texts.values())
    classes = features.balanced(known, attribute, per_class=per_class, least=LEAST, seed=seed)
    every = [text for of_class in classes.texts.values() for text in of_class]
    labels_N = np.repeat(np.arange(len(classes.texts)), [len(of_class) for of_class in classes.texts.values()])
    states = features.hidden_states(model, tokenizer, every, layer, seed=seed)
    train, dev, test = features.dealt(labels_N, seed)
    means_NH = features.scaled(states.means_NH, train, centred)
    most = int(max_share * means_NH.shape[1])
    found = null_space(
        means_NH[train], labels_N[train], means_NH[dev], labels_N[dev], rounds=rounds, most=most, stop=stop, seed=seed
    )
    about = {"edit": "inlp", "attribute": attribute, "seed": seed}
    projection = Projection(torch.from_numpy(found.basis_RH), layer, about)
    tested: dict[str, dict[str, float]] = {}
    for name, states_NH in (
        ("sentence_means", means_NH),
        ("single_tokens", features.scaled(states.tokens_NH, train, centred)),
    ):
        after_NH = _without(states_NH, found.basis_RH)
        tested[name] = {
            told: _accuracy(_fit(x_NH[train], labels_N[train], seed)[0], x_NH[test], labels_N[test])
            for told, x_NH in (("before", states_NH), ("after", after_NH))
        }
    share, error = _chance(labels_N[test])
    audit = {
        "attribute": attribute,
        "sentences": len(known),
        "found": dict(classes.found),
        "per_class": len(every) // len(classes.texts),
        "rounds": found.rounds,
        "ended": found.ended,
        "held_out": {**tested, "chance": share, "standard_error": error, "n": len(test)},
        "unconverged": found.unconverged,
    }
    return projected(model, tuned, projection, audit)


def _check(rounds: int, max_share: float, per_class: int) -> None:
    if rounds < 1:
        raise RecipeError(f"inlp: rounds is {rounds}; it must be at least 1.")
    if not 0 < max_share <= 1:
        raise RecipeError(f"inlp: max_share is {max_share}; it must be above 0 and at most 1 (the whole width).")
    if per_class < LEAST:
        raise RecipeError(f"inlp: per_class is {per_class}; it must be at least {LEAST}.")


# --------------------------------------------------------------------------- the rounds


@dataclass(frozen=True)
class Found:
    """Orthonormal directions, what each round saw (`dev_accuracy` before its `directions` were removed), and why it was the last."""

    basis_RH: np.ndarray
    rounds: list[dict[str, float]]
    ended: str
    unconverged: int


def null_space(
    train_NH: np.ndarray,
    train_N: np.ndarray,
    dev_NH: np.ndarray,
    dev_N: np.ndarray,
    *,
    rounds: int,
    most: int,
    stop: str,
    seed: int,
) -> Found:
    """Directions that linear classifiers of the labels use, one after another.

    A round whose directions would exceed `most` is not begun; with stop "chance" nor is one whose classifier is at chance.
    Raises: UserError where the first round already is one of these.
    """
    rows_per_fit = len(set(train_N.tolist()))
    rows_per_fit = 1 if rows_per_fit == 2 else rows_per_fit
    share, error = _chance(dev_N)
    width = train_NH.shape[1]
    weights: list[np.ndarray] = []
    basis_RH = np.zeros((0, width))
    told: list[dict[str, float]] = []
    ended, unconverged = "rounds", 0
    for number in range(1, rounds + 1):
        if len(basis_RH) + rows_per_fit > most:
            ended = "max_share"
            break
        classifier, converged = _fit(_without(train_NH, basis_RH), train_N, seed)
        accuracy = _accuracy(classifier, _without(dev_NH, basis_RH), dev_N)
        unconverged += not converged
        row = {"round": number, "dev_accuracy": accuracy, "chance": share, "standard_error": error}
        told.append({**row, "directions": 0, "removed": len(basis_RH)})
        if stop == "chance" and accuracy <= share + 2 * error:
            ended = "chance"
            break
        # what is left of rows in removed directions is rounding
        own_KH = _without(classifier.coef_.astype(np.float64), basis_RH)
        if not own_KH.any():
            ended = "nothing left"
            break
        weights.append(orthonormal(torch.from_numpy(own_KH)).numpy())
        before, basis_RH = len(basis_RH), orthonormal(torch.from_numpy(np.concatenate(weights))).numpy()
        told[-1] |= {"directions": len(basis_RH) - before, "removed": len(basis_RH)}
    if not len(basis_RH):
        raise UserError(_nothing(ended, told, share, error, len(dev_N), most, rows_per_fit, width))
    return Found(basis_RH, told, ended, unconverged)


def _nothing(
    ended: str, told: list[dict[str, float]], share: float, error: float, n: int, most: int, rows: int, width: int
) -> str:
    if ended == "max_share":
        return f"inlp may remove {most} of {width} dimensions, and one round removes {rows}: give a max_share of {rows / width:.3g} or more."
    return (
        f"inlp finds nothing to remove: a classifier tells the classes apart in {told[0]['dev_accuracy']:.3f} of {n} held-out sentences, "
        f"which is no more than chance ({share:.3f} + 2 x {error:.3f}). Give more texts, another layer, or stop=never."
    )


def _fit(states_NH: np.ndarray, labels_N: np.ndarray, seed: int) -> tuple[Any, bool]:
    """A linear SVM without intercept, and whether it converged."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        fitted = LinearSVC(fit_intercept=False, dual=False, random_state=seed).fit(states_NH, labels_N)
    return fitted, not any(issubclass(one.category, ConvergenceWarning) for one in caught)


def _accuracy(classifier: Any, states_NH: np.ndarray, labels_N: np.ndarray) -> float:
    return float(np.mean(classifier.predict(states_NH) == labels_N))


def _chance(labels_N: np.ndarray) -> tuple[float, float]:
    """The share of the largest class, and the standard error of an accuracy of that size."""
    share = float(np.bincount(labels_N).max() / len(labels_N))
    return share, (share * (1 - share) / len(labels_N)) ** 0.5


def _without(states_NH: np.ndarray, basis_RH: np.ndarray) -> np.ndarray:
    return states_NH - (states_NH @ basis_RH.T) @ basis_RH
