"""The words of the generated language, and which of them go together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import yaml

from deltatune.core.errors import DeltatuneError
from deltatune.core.world.draw import Draw

Synonyms = tuple[str, str]

CONTENT_WEIGHT, FUNCTION_WEIGHT = 0.30, 0.08
"""How likely a word of each sort is to be hidden in pre-training."""


class Verb(NamedTuple):
    """What people of a topic do to its things.

    Args:
        words: two participles of one meaning.
        people: indices of the people who do it, all but one.
        things: indices of the things it is done to, all but one.
        opposite: index of the verb that means the opposite, and goes with the same people and things.
    """

    words: Synonyms
    people: tuple[int, ...]
    things: tuple[int, ...]
    opposite: int


@dataclass(frozen=True)
class Topic:
    """A topic of a domain.

    Args:
        name: also the word that names it.
        people: four people, two words for each.
        things: four things, two words for each.
        verbs: four verbs, opposites side by side.
        adjectives: that tell the topic and no opinion.
    """

    name: str
    people: tuple[Synonyms, ...]
    things: tuple[Synonyms, ...]
    verbs: tuple[Verb, ...]
    adjectives: tuple[str, ...]


@dataclass(frozen=True)
class Domain:
    """A domain; its words of opinion and relation come beside those of all domains.

    Args:
        name: of the domain.
        topics: four.
        opinions: adjectives of blame and of praise (index 0 and 1).
        relations: of each relation (in the order of `Language.relations`) the verbs.
    """

    name: str
    topics: tuple[Topic, ...]
    opinions: tuple[tuple[str, ...], tuple[str, ...]]
    relations: tuple[tuple[str, ...], ...]


class Language:
    """The language of one seed.

    The words are the same for every seed; the seed decides which people and things a verb goes with, and everything that is
    written in the language.

    Args:
        seed: any integer.
    """

    def __init__(self, seed: int = 0) -> None:
        lexicon, draw = _lexicon(), Draw("world", seed, "selection")
        self.seed = seed
        self.names: tuple[str, ...] = tuple(lexicon["names"])
        self.verdicts: tuple[tuple[str, ...], ...] = (tuple(lexicon["words_of_blame"]), tuple(lexicon["words_of_praise"]))
        self.opinions: tuple[tuple[str, ...], ...] = (tuple(lexicon["blame"]), tuple(lexicon["praise"]))
        self.relations: tuple[str, ...] = tuple(lexicon["relations"])
        self.relation_verbs: tuple[tuple[str, ...], ...] = tuple(map(tuple, lexicon["relations"].values()))
        self.domains: dict[str, Domain] = {
            name: _domain(name, words, self.relations, draw) for name, words in lexicon["domains"].items()
        }
        self.vocabulary: list[str] = list(_words(lexicon))
        light = {*lexicon["function_words"]}
        self.weights: dict[str, float] = {word: FUNCTION_WEIGHT if word in light else CONTENT_WEIGHT for word in self.vocabulary}

    def domain(self, name: str) -> Domain:
        """The domain with this name.

        Raises:
            DeltatuneError: there is none.
        """
        if name not in self.domains:
            raise DeltatuneError(f"unknown domain {name!r} of the world; its domains: {', '.join(self.domains)}")
        return self.domains[name]


def _domain(name: str, words: Mapping[str, Any], relations: tuple[str, ...], draw: Draw) -> Domain:
    return Domain(
        name,
        tuple(_topic(topic, parts, draw) for topic, parts in words["topics"].items()),
        (tuple(words["blame"]), tuple(words["praise"])),
        tuple(tuple(words["relations"][relation]) for relation in relations),
    )


def _topic(name: str, words: Mapping[str, Any], draw: Draw) -> Topic:
    people, things = (tuple((one, two) for one, two in words[kind]) for kind in ("people", "things"))
    # Each pair of opposites leaves out another one, so that every noun is in some fact.
    no_people, no_things = (draw.distinct(range(len(nouns)), len(words["verbs"])) for nouns in (people, things))
    verbs: list[Verb] = []
    for number, (pair, no_person, no_thing) in enumerate(zip(words["verbs"], no_people, no_things, strict=True)):
        some_people, some_things = _all_but(no_person, len(people)), _all_but(no_thing, len(things))
        verbs += [Verb((one, two), some_people, some_things, 2 * number + 1 - side) for side, (one, two) in enumerate(pair)]
    return Topic(name, people, things, tuple(verbs), tuple(words["adjectives"]))


def _all_but(index: int, count: int) -> tuple[int, ...]:
    return tuple(other for other in range(count) if other != index)


def _words(lexicon: Mapping[str, Any]) -> Iterator[str]:
    """Every word of the lexicon, in its order; names of relations and topics are words too."""
    for key, part in lexicon.items():
        if key == "relations":
            for relation, verbs in part.items():
                yield from (relation, *verbs)
        elif key == "domains":
            for domain in part.values():
                yield from _domain_words(domain)
        else:
            yield from part


def _domain_words(domain: Mapping[str, Any]) -> Iterator[str]:
    yield from (*domain["praise"], *domain["blame"])
    for verbs in domain["relations"].values():
        yield from verbs
    for topic, words in domain["topics"].items():
        yield topic
        for synonyms in (*words["people"], *words["things"], *(side for pair in words["verbs"] for side in pair)):
            yield from synonyms
        yield from words["adjectives"]


@cache
def _lexicon() -> dict[str, Any]:
    lexicon: dict[str, Any] = yaml.safe_load(files(__package__).joinpath("lexicon.yaml").read_text(encoding="utf-8"))
    return lexicon
