"""Sentences about men, women and neither, and logits of 32 prompts: what tests of projections share."""

import itertools
import random

import torch

MALE = ("he", "the man", "the king", "his uncle", "the boy", "the actor")
FEMALE = ("she", "the woman", "the queen", "her aunt", "the girl", "the actress")
NEITHER = ("the table", "a river", "the weather", "some bread", "the road", "this house")
VERBS = ("was near", "stood behind", "came after", "looked like", "went past", "was under")
THINGS = ("the old gate", "a green field", "that tall tower", "the small shop", "our first stop", "the last train")
TIMES = ("today", "on Monday", "in the rain", "at noon", "again", "last year")


def written(*groups, count=900, seed=0):
    """`count` sentences that name one of the groups each."""
    parts = itertools.product([s for group in groups for s in group], VERBS, THINGS, TIMES)
    texts = [f"{who[0].upper()}{who[1:]} {does} {what} {when}." for who, does, what, when in parts]
    return random.Random(seed).sample(texts, count)


def logits(model):
    ids = torch.randint(1, 257, (32, 12), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return model(ids).logits
