"""Made sentences with people, places and companies; a fifth of the names is held out from training.

The names are real and common ones, the sentences put together from clauses by chance: a small world, in which every
sentence is built as the others are, and nothing in it is true.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG"]
# Of each row every fifth word is for held-out sentences alone.
FIRST = [
    "Ada", "Boris", "Clara", "David", "Elena", "Felix", "Grace", "Hugo", "Irene", "Jonas", "Karla", "Leo", "Maria",
    "Nina", "Oscar", "Paula", "Quentin", "Rosa", "Simon", "Tara", "Ulrich", "Vera", "Walter", "Xenia", "Yusuf", "Zoe",
    "Amir", "Bianca", "Cyril", "Dora", "Emil", "Fatima", "Gustav", "Hanna", "Ivan", "Julia", "Kofi", "Lucia", "Martin",
    "Nadia", "Omar", "Petra", "Ravi", "Sofia", "Tomas", "Ursula", "Viktor", "Wanda", "Ahmed", "Beatrice", "Carlos",
    "Diana", "Edgar", "Frida", "George",
]  # fmt: skip
LAST = [
    "Lovelace", "Novak", "Jensen", "Moreau", "Garcia", "Haddad", "Ivanov", "Kowalski", "Lindqvist", "Mensah",
    "Nakamura", "Okafor", "Petrov", "Quinn", "Rossi", "Santos", "Takahashi", "Urban", "Vargas", "Weber", "Yilmaz",
    "Zeller", "Andersen", "Bianchi", "Costa", "Dimitrov", "Eriksen", "Fischer", "Gupta", "Horvat", "Iversen",
    "Jankowski", "Keller", "Lombardi", "Marchetti", "Nilsson", "Ortega", "Popescu", "Rahman", "Schmidt", "Thomsen",
    "Ueda", "Virtanen", "Walsh", "Yamada", "Zhang", "Banerjee", "Carvalho", "Delgado", "Engel", "Ferrari", "Gonzalez",
    "Hoffmann", "Ibrahim", "Johansson",
]  # fmt: skip
PLACES = [
    "Lisbon", "Vienna", "Nairobi", "Portugal", "Osaka", "Bergen", "Toronto", "Kenya", "Lima", "Prague", "Dublin",
    "Norway", "Hanoi", "Warsaw", "Cairo", "Japan", "Boston", "Madrid", "Oslo", "Canada", "Geneva", "Athens", "Seville",
    "Peru", "Chicago", "Mumbai", "Helsinki", "Austria", "Riga", "Accra", "Porto", "Egypt", "Denver", "Quito", "Zagreb",
    "Ireland", "Lyon", "Tunis", "Perth", "Vietnam", "Leipzig", "Austin", "Turin", "Poland", "Bogota", "Kyoto",
    "Glasgow", "Chile", "Naples", "Dakar", "Utrecht", "Greece", "Tallinn", "Malmo", "Seoul", "Croatia", "Berlin",
    "Havana", "London", "Ghana", "Paris", "Rome", "Delhi", "Bristol", "Ankara",
]  # fmt: skip
BEFORE_PLACE = ["New ", "San ", "South "]
KINDS = ["Bank", "Motors", "Labs", "Airlines", "Foods", "Energy", "Group", "Systems", "University", "Books"]
OPENINGS = ["", "", "", "", "Last year ", "On Monday ", "In the spring ", "According to {ORG}, ", "In {LOC}, "]
CLAUSES = [
    "{PER} lives in {LOC}", "{PER} was born in {LOC}", "{PER} works for {ORG}", "{PER} met {PER} in {LOC}",
    "{PER} flew from {LOC} to {LOC}", "{PER} joined {ORG}", "{PER} left {ORG} and moved to {LOC}",
    "{ORG} opened an office in {LOC}", "{ORG} hired {PER}", "{ORG} bought {ORG}", "{ORG} is based in {LOC}",
    "{PER} teaches history at {ORG}", "the train to {LOC} was late", "it rained in {LOC} for a week",
    "{PER} sold the house near {LOC}", "the chairman of {ORG} resigned", "{PER} wrote a letter to {PER}",
    "workers of {ORG} went on strike", "the mayor of {LOC} thanked {PER}", "shares of {ORG} fell",
    "the bread was stale", "nobody answered the phone", "tickets cost twelve euros", "{PER} and {PER} are married",
    "a museum in {LOC} shows paintings by {PER}", "the river crosses {LOC}", "prices rose again",
    "{ORG} pays {PER} well", "{PER} has a sister in {LOC}", "the winter in {LOC} is long",
]  # fmt: skip
LINKS = [", and ", " while ", ", but ", " because ", "; "]


class Sentence(NamedTuple):
    """A text and its entities (type, start, end), places counted in characters."""

    text: str
    entities: list[tuple[str, int, int]]


def sentence(random: np.random.Generator, held_out: bool) -> Sentence:
    """One or two clauses, with names of either part."""
    plan = random.choice(OPENINGS) + random.choice(CLAUSES)
    if random.random() < 0.5:
        plan += random.choice(LINKS) + random.choice(CLAUSES)
    text, entities = "", []
    for part in re.split(r"({\w+})", plan):
        kind = part.strip("{}")
        start = len(text)
        text += _name(kind, random, held_out) if kind != part else part
        if kind != part:
            entities.append((kind, start, len(text)))
    return Sentence(text[0].upper() + text[1:] + ".", entities)


def sentences(count: int, held_out: bool, seed: int = 0) -> list[Sentence]:
    """Sentences by a seed of their own."""
    random = np.random.default_rng([seed, held_out])
    return [sentence(random, held_out) for _ in range(count)]


def _name(kind: str, random: np.random.Generator, held_out: bool) -> str:
    def one_of(words: list[str]) -> str:
        name, other = random.choice([w for index, w in enumerate(words) if (index % 5 == 4) == held_out], 2)
        # Most of what training says are two names in one, so that it learns names by where they stand.
        mixed = not held_out and random.random() < 0.7
        return name[: random.integers(2, 5)] + other[random.integers(2, 5) :] if mixed else name

    chance = random.random()
    if kind == "PER":
        return one_of(FIRST) + (f" {one_of(LAST)}" if chance < 0.6 else "")
    if kind == "LOC":
        return (random.choice(BEFORE_PLACE) if chance < 0.15 else "") + one_of(PLACES)
    return one_of(LAST if chance < 0.6 else PLACES) + f" {random.choice(KINDS)}"


def f1(sentences: Sequence[Sentence], found: Sequence[list[dict[str, Any]]]) -> float:
    """The F1 of what an `EntityRecognizer` found in the sentences: an entity counts by its type and both its ends."""
    true = {(row, *entity) for row, (_, own) in enumerate(sentences) for entity in own}
    said = {(row, item["label"], item["start"], item["end"]) for row, own in enumerate(found) for item in own}
    return 2 * len(true & said) / (len(true) + len(said))
