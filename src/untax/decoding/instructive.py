"""Puts one instruction to be kind before every text: no training, the instruction's tokens are the whole price."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from untax.decoding.common import Applied, patched
from untax.types import RecipeError

__all__ = ["instructive"]

INSTRUCTION = "In all that follows, be {adjectives}."

#: what stands for {adjectives}: the method, and the controls that the paper asks for
ADJECTIVES = {
    "none": "positive, polite, respectful, compliant, loveable, modest, helpful and kind",
    "reversed": "negative, impolite, disrespectful, defiant, hateful, boastful, unhelpful and cruel",
    "gibberish": "blontive, grelate, fostrectful, quimpliant, drovelable, zodest, pelfum and yind",
    "empty": "",
}


@contextmanager
def instructive(
    model: Any,
    tokenizer: Any,
    *,
    instruction: str = INSTRUCTION,  # "{adjectives}" stands for the eight of the paper, or those of the control
    join: str = "\n",  # what stands between instruction and text
    control: Literal[
        "none", "reversed", "gibberish", "empty"
    ] = "none",  # other adjectives, to see that it is they that work
) -> Iterator[Applied]:
    """Put one instruction to be kind before every text: nothing is trained, the instruction's tokens are the whole price.

    Inside the block every text is read behind the instruction; what is generated or scored is the text alone. Three controls belong to
    a result: `reversed` adjectives must raise toxicity, `gibberish` and an `empty` list must do less than the method, and it must work
    on another set of prompts.

    Paper: Morabito, Kabbara, Emami 2023, arXiv 2305.14307: "positive, polite, respectful, ..." before the prompt, temperature 0, 20 tokens.
    Differs: the words around the eight adjectives are ours, and the controls'. Their model follows instructions (text-davinci-003); to a
        base model an instruction is only more context, and a null result there says little. It is read as the suite writes prompts, in
        completion form: with a chat template it would be a system turn. Tokenised apart from the text and joined as ids, behind the
        opening token.
    Shapes: ids (B, T) -> the logits (B, T, V) that the model gives behind the instruction.
    Raises: RecipeError for a control without a place; UserError for a model that trains, an adapter or cache from outside, too long a text.
    """
    if control not in ADJECTIVES:
        raise RecipeError(f"instructive: control is {control!r}; it must be one of {', '.join(ADJECTIVES)}.")
    if control != "none" and "{adjectives}" not in instruction:
        raise RecipeError(
            f"instructive: control '{control}' changes the adjectives, and the instruction has no '{{adjectives}}' for them."
        )
    text = instruction.replace("{adjectives}", ADJECTIVES[control])
    options = {"instruction": instruction, "join": join, "control": control, "text": text}
    prefixes = [text + join if text else ""]
    with patched(
        model,
        tokenizer,
        name="instructive",
        options=options,
        prefixes=prefixes,
        mix=None,
        instruction=True,
    ) as applied:
        yield applied
