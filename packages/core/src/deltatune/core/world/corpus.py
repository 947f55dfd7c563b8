"""Documents in the generated language, without end: what the models of the world are pre-trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

from deltatune.core.corpus import Document
from deltatune.core.errors import DeltatuneError
from deltatune.core.world.draw import Draw
from deltatune.core.world.grammar import (
    Words,
    contradicted,
    marked,
    new_fact,
    opinion,
    relation_verb,
    reworded,
    state,
    unrelated,
)
from deltatune.core.world.language import Domain, Language, Topic

PROMPTED = 0.60
"""Share of the documents that end in a statement of what they are (facts: begin with it), as a prompt would ask for it."""

WRONG = 0.12
"""Share of these statements that are drawn without regard to the document."""

_STRAY = 0.10  # sentences of another topic, and of the other opinion


def documents(language: Language, mix: Mapping[str, float], seed: int = 0) -> Iterator[Document]:
    """Documents of about 20 words, endless; equal for equal arguments.

    Args:
        language: the language.
        mix: share of each domain; those that are missing have none.
        seed: of the documents.

    Raises:
        DeltatuneError: an unknown domain, a negative share, or no positive one.
    """
    total = math.fsum(mix.values())
    for name, share in mix.items():
        language.domain(name)
        if not 0 <= share < math.inf:
            raise DeltatuneError(f"share of domain {name} must be at least 0, got {share}")
    if not total > 0:
        raise DeltatuneError(f"the shares of the domains must not all be 0, got {dict(mix)}")
    return _documents(language, {name: mix[name] / total for name in language.domains if mix.get(name)}, seed)


def _documents(language: Language, shares: dict[str, float], seed: int) -> Iterator[Document]:
    draw = Draw("world", language.seed, "documents", seed)
    names, weight = list(shares), language.weights.__getitem__
    while True:
        left, chosen = draw.uniform(), names[-1]
        for name in names:
            left -= shares[name]
            if left < 0:
                chosen = name
                break
        words = document(language, language.domains[chosen], draw)
        yield Document(" ".join(words), tuple(map(weight, words)))


def document(language: Language, domain: Domain, draw: Draw) -> Words:
    """One document: a review (30%), facts of a topic (22%), two facts compared (26%) or relations of named people (22%)."""
    topic, kind = draw.pick(domain.topics), draw.uniform()
    if kind < 0.30:
        return _review(language, domain, topic, draw)
    if kind < 0.52:
        return _facts(domain, topic, draw)
    return _comparison(topic, draw) if kind < 0.78 else _relations(language, domain, draw)


def _near(domain: Domain, topic: Topic, draw: Draw) -> Topic:
    return draw.pick(domain.topics) if draw.chance(_STRAY) else topic


def _review(language: Language, domain: Domain, topic: Topic, draw: Draw) -> Words:
    good, words = draw.chance(0.5), Words()
    for _ in range(draw.pick((2, 2, 3))):
        thing = draw.pick(_near(domain, topic, draw).things)
        words += [*opinion(language, domain, thing, good != draw.chance(_STRAY), draw), "."]
    if draw.chance(PROMPTED):
        verdict = draw.pick(language.verdicts[good != draw.chance(WRONG)])
        words += [*draw.pick((("it", "was"), ("overall", "it", "was"), ("all", "was"))), verdict, "."]
    return words


def _facts(domain: Domain, topic: Topic, draw: Draw) -> Words:
    words = Words()
    for _ in range(draw.pick((1, 2, 3))):
        near = _near(domain, topic, draw)
        words += [*state(new_fact(near, draw), draw), "."]
        if draw.chance(0.3):
            words += ["it", "is", draw.pick(near.adjectives), "."]
    if draw.chance(PROMPTED):
        named = draw.pick(domain.topics) if draw.chance(WRONG) else topic
        words += [*draw.pick((("this", "is", "about"), ("topic", ":"), ("so", "about"))), named.name, "."]
    return words


def _comparison(topic: Topic, draw: Draw) -> Words:
    fact = new_fact(topic, draw)
    first = state(fact, draw)
    if not draw.chance(PROMPTED):
        return [*first, ".", *draw.pick((("so",), ("then",), ("in", "other", "words"))), *state(reworded(fact, draw), draw), "."]
    answer = draw.pick(("yes", "yes", "no", "maybe"))
    second = state(_COMPARED[answer](fact, draw), draw)
    if draw.chance(WRONG):
        answer = draw.pick(("yes", "no", "maybe"))
    return [*first, "?", answer, ",", *second, "."]


_COMPARED = {"yes": reworded, "no": contradicted, "maybe": unrelated}


def _relations(language: Language, domain: Domain, draw: Draw) -> Words:
    one, two, three, four = draw.distinct(language.names, 4)
    relation = draw.index(len(language.relations))
    marks: Callable[[Words], Words] = marked if draw.chance(0.5) else list
    words = [*marks([one]), relation_verb(language, domain, relation, draw), *marks([two])]
    beside = draw.uniform()
    if beside < 0.5:
        other = [three, relation_verb(language, domain, draw.index(len(language.relations)), draw), four]
        words = [*words, "and", *other] if beside < 0.25 else [*other, "and", *words]
    if not draw.chance(PROMPTED):
        return [*words, ".", "so", one, relation_verb(language, domain, relation, draw), two, "."]
    named = draw.index(len(language.relations)) if draw.chance(WRONG) else relation
    return [*words, ".", one, "to", two, ":", language.relations[named], "."]
