"""The kinds of task: how each is asked and answered, and how its examples are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from deltatune.core.data.task import SENTINEL
from deltatune.core.world.draw import Draw
from deltatune.core.world.grammar import (
    AUXILIARIES,
    Fact,
    Words,
    contradicted,
    marked,
    new_fact,
    noun_phrase,
    opinion,
    opinion_word,
    relation_verb,
    reworded,
    state,
    unrelated,
)
from deltatune.core.world.language import Domain, Language, Synonyms

Texts = tuple[str, ...]
Maker = Callable[[Language, Domain, int, Draw], Texts]

LOWEST, HIGHEST = 0.0, 5.0
"""Values of similarity."""


@dataclass(frozen=True)
class Kind:
    """A kind of task.

    Args:
        make: the texts of an example of class number `int` (of similarity: with so many things shared).
        ask: what is asked after, or between, the texts: `{0}` and `{1}` stand for them, `{answer}` for the answer.
        words: answer word of each label in class order; none where the domain's topics or the relations are the labels, and of
            similarity those of the low and the high end.
        pair: whether an example has two texts.
        jitter: of similarity, what may be added to the number of things shared; empty for classes.
    """

    make: Maker
    ask: str
    words: Mapping[str, str] = field(default_factory=dict)
    pair: bool = False
    jitter: tuple[float, ...] = ()

    @property
    def template(self) -> str:
        """The prompt with a mask, in the language of `deltatune.core.template`."""
        pieces = self.ask.format("*sent_0*", "*+sent_1*", answer="*mask*").replace(" ", "_")
        return f"*cls*{pieces}*sep*"

    @property
    def text_input(self) -> str:
        """The same for a text-to-text model."""
        return self.ask.format("{0}", "{1}", answer=SENTINEL)


def labels_and_words(kind: str, language: Language, domain: Domain) -> dict[str, str]:
    """The labels of a kind of task in class order, each with its answer word."""
    if kind == "topic":
        return {topic.name: topic.name for topic in domain.topics}
    if kind == "relation":
        return {relation: relation for relation in language.relations}
    return dict(KIND[kind].words)


def _text(*sentences: Words) -> str:
    return " ".join(word for sentence in sentences for word in (*sentence, "."))


def _sentiment(language: Language, domain: Domain, good: int, draw: Draw) -> Texts:
    """Two opinions; each says the contrary with probability 0.1."""
    topic = draw.pick(domain.topics)
    said = [bool(good) != draw.chance(0.1) for _ in range(2)]
    return (_text(*(opinion(language, domain, draw.pick(topic.things), one, draw, second=0.3) for one in said)),)


def _topic(language: Language, domain: Domain, topic: int, draw: Draw) -> Texts:
    """Two facts; each is of any topic with probability 0.2."""
    topics = [draw.pick(domain.topics) if draw.chance(0.2) else domain.topics[topic] for _ in range(2)]
    return (_text(*(state(new_fact(one, draw), draw) for one in topics)),)


def _aspect(language: Language, domain: Domain, good: int, draw: Draw) -> Texts:
    """Opinions about a marked and another thing, which are contrary with probability 0.7."""
    marked_thing, other = draw.distinct(draw.pick(domain.topics).things, 2)
    about = _clause(language, domain, marked_thing, bool(good), draw, mark=True)
    beside = _clause(language, domain, other, bool(good) != draw.chance(0.7), draw, mark=False)
    return (_text([*about, "but", *beside] if draw.chance(0.5) else [*beside, "but", *about]),)


def _clause(language: Language, domain: Domain, thing: Synonyms, good: bool, draw: Draw, *, mark: bool) -> Words:
    plural, denied = draw.chance(0.5), draw.chance(0.2)
    subject = noun_phrase(draw.pick(thing), plural, draw)
    word = opinion_word(language, domain, good != denied, draw)
    return [*(marked(subject) if mark else subject), "were" if plural else "was", *(["not"] if denied else []), word]


def _relation(language: Language, domain: Domain, relation: int, draw: Draw) -> Texts:
    """A relation of two marked people beside one of two others; the second text names the two."""
    one, two, three, four = draw.distinct(language.names, 4)
    first = [*marked([one]), relation_verb(language, domain, relation, draw), *marked([two])]
    second = [three, relation_verb(language, domain, draw.index(len(language.relations)), draw), four]
    return _text([*first, "and", *second] if draw.chance(0.5) else [*second, "and", *first]), f"{one} to {two}"


def _inference(language: Language, domain: Domain, label: int, draw: Draw) -> Texts:
    """A fact, and the same, its contrary or another one; both the contrary and the other may or may not have a never."""
    fact = new_fact(draw.pick(domain.topics), draw)
    return _pair(fact, (reworded, contradicted, unrelated)[label](fact, draw), draw)


def _paraphrase(language: Language, domain: Domain, same: int, draw: Draw) -> Texts:
    """A fact, and the same; or another (half), one that differs in the thing (a quarter) or by never (a quarter)."""
    fact = new_fact(draw.pick(domain.topics), draw)._replace(negated=draw.chance(0.25))
    if same:
        return _pair(fact, reworded(fact, draw), draw)
    way = draw.uniform()
    if way < 0.5:
        return _pair(fact, unrelated(fact, draw), draw)
    if way < 0.75:
        things = fact.topic.verbs[fact.verb].things
        return _pair(fact, reworded(fact, draw)._replace(thing=draw.other(things, fact.thing)), draw)
    return _pair(fact, reworded(fact, draw)._replace(negated=not fact.negated), draw)


def _acceptability(language: Language, domain: Domain, right: int, draw: Draw) -> Texts:
    """Two facts; in a wrong text an auxiliary disagrees with its noun (two thirds), or a thing acts on a person."""
    topic = draw.pick(domain.topics)
    swapped = draw.index(2) if not right and draw.chance(1 / 3) else None
    sentences = [state(new_fact(topic, draw), draw, roles_swapped=place == swapped) for place in range(2)]
    if not right and swapped is None:
        spoilt = draw.pick(sentences)
        place = next(place for place, word in enumerate(spoilt) if word in AUXILIARIES)
        spoilt[place] = AUXILIARIES[spoilt[place]]
    return (_text(*sentences),)


def _similarity(language: Language, domain: Domain, shared: int, draw: Draw) -> Texts:
    """Two facts with `shared` of five things in common: who, how many of them, what they did, to what, to how many."""
    fact = new_fact(draw.pick(domain.topics), draw)
    differ = set(draw.distinct(("agent", "agents", "verb", "thing", "things"), 5 - shared))
    other = reworded(fact, draw)._replace(agents=fact.agents != ("agents" in differ), things=fact.things != ("things" in differ))
    if "verb" in differ:
        other = other._replace(verb=draw.pick([v for v in range(len(fact.topic.verbs)) if _allows(fact, v, differ)]))
    verb = fact.topic.verbs[other.verb]
    if "agent" in differ:
        other = other._replace(agent=draw.other(verb.people, fact.agent))
    if "thing" in differ:
        other = other._replace(thing=draw.other(verb.things, fact.thing))
    return _pair(fact, other, draw)


def _allows(fact: Fact, verb: int, differ: set[str]) -> bool:
    """Whether the verb is another one and goes with what stays of the fact."""
    people, things = fact.topic.verbs[verb].people, fact.topic.verbs[verb].things
    return verb != fact.verb and ("agent" in differ or fact.agent in people) and ("thing" in differ or fact.thing in things)


def _pair(first: Fact, second: Fact, draw: Draw) -> Texts:
    return " ".join(state(first, draw)), " ".join(state(second, draw))


_VERDICTS = {"negative": "terrible", "positive": "great"}
_INFERENCE = {"entailment": "yes", "contradiction": "no", "neutral": "maybe"}

KIND: dict[str, Kind] = {
    "sentiment": Kind(_sentiment, "{0} it was {answer} .", _VERDICTS),
    "topic": Kind(_topic, "{0} this is about {answer} ."),
    "aspect": Kind(_aspect, "{0} it was {answer} .", _VERDICTS),
    "relation": Kind(_relation, "{0} {1} : {answer} .", pair=True),
    "inference": Kind(_inference, "{0} ? {answer} , {1} .", _INFERENCE, pair=True),
    "paraphrase": Kind(_paraphrase, "{0} ? {answer} , {1} .", {"different": "no", "same": "yes"}, pair=True),
    "acceptability": Kind(_acceptability, "{0} it is {answer} .", {"unacceptable": "wrong", "acceptable": "right"}),
    "similarity": Kind(
        _similarity, "{0} ? {answer} , {1} .", {"0": "no", "1": "yes"}, pair=True, jitter=(-1.0, -0.5, 0.0, 0.5, 1.0)
    ),
}
