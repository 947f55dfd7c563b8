"""How sentences are made: facts (who did what to what), opinions, relations between named people.

A sentence is a list of words. Plural is the word `-s` behind a noun; article and auxiliary agree with their noun.
"""

from __future__ import annotations

from typing import NamedTuple

from deltatune.core.world.draw import Draw
from deltatune.core.world.language import Domain, Language, Synonyms, Topic

Words = list[str]

AUXILIARIES = {"has": "have", "have": "has", "was": "were", "were": "was"}
"""Singular and plural of each other."""

_ARTICLES = (("this", "a"), ("these", "some"))
_COMMON = 0.35  # opinions and relations: how often the word is one of all domains rather than of its own
_PASSIVE = 0.3


class Fact(NamedTuple):
    """Somebody did something, or never did.

    Args:
        topic: everything is of one topic.
        verb: index in the topic, as are `agent` and `thing`.
        agent: who did it.
        thing: what it was done to.
        agents: whether there are several of `agent`.
        things: whether there are several of `thing`.
        negated: never.
        wording: which of the two words stands for agent, verb and thing.
    """

    topic: Topic
    verb: int
    agent: int
    thing: int
    agents: bool
    things: bool
    negated: bool
    wording: tuple[int, int, int]


def new_fact(topic: Topic, draw: Draw) -> Fact:
    """Any fact of the topic that is not negated."""
    verb = draw.index(len(topic.verbs))
    people, things = topic.verbs[verb].people, topic.verbs[verb].things
    wording = (draw.index(2), draw.index(2), draw.index(2))
    return Fact(topic, verb, draw.pick(people), draw.pick(things), draw.chance(0.5), draw.chance(0.5), False, wording)


def reworded(fact: Fact, draw: Draw) -> Fact:
    """The same fact; each of its three words is its synonym in a quarter of cases."""
    one, two, three = (draw.index(2) if draw.chance(0.5) else word for word in fact.wording)
    return fact._replace(wording=(one, two, three))


def unrelated(fact: Fact, draw: Draw) -> Fact:
    """A fact of the same topic about other people and other things; half of them with never."""
    while True:
        other = new_fact(fact.topic, draw)
        if other.agent != fact.agent and other.thing != fact.thing:
            return other._replace(negated=draw.chance(0.5))


def contradicted(fact: Fact, draw: Draw) -> Fact:
    """The contrary of `fact` in other words: with never (0.7), or with the verb of opposite meaning."""
    again = reworded(fact, draw)
    if draw.chance(0.7):
        return again._replace(negated=not fact.negated)
    return again._replace(verb=fact.topic.verbs[fact.verb].opposite)


def state(fact: Fact, draw: Draw, *, roles_swapped: bool = False) -> Words:
    """A sentence that states the fact, active or passive; with `roles_swapped` the thing acts on the person."""
    topic = fact.topic
    agent_word, verb_word, thing_word = fact.wording
    agent = noun_phrase(topic.people[fact.agent][agent_word], fact.agents, draw), fact.agents
    thing = noun_phrase(topic.things[fact.thing][thing_word], fact.things, draw), fact.things
    (actor, actors), (target, targets) = (thing, agent) if roles_swapped else (agent, thing)
    never = ["never"] if fact.negated else []
    verb = topic.verbs[fact.verb].words[verb_word]
    if draw.chance(_PASSIVE):
        return [*target, "were" if targets else "was", *never, verb, "by", *actor]
    return [*actor, "have" if actors else "has", *never, verb, *target]


def noun_phrase(noun: str, plural: bool, draw: Draw) -> Words:
    """Article and noun."""
    return [draw.pick(_ARTICLES[plural]), noun, "-s"] if plural else [draw.pick(_ARTICLES[plural]), noun]


def opinion(language: Language, domain: Domain, thing: Synonyms, good: bool, draw: Draw, second: float = 0.5) -> Words:
    """A sentence of praise or blame about a thing: `this soup was tasty`, `we think these pan -s were not greasy`.

    Args:
        language: the language.
        domain: whose adjectives are taken beside those of all domains.
        thing: its two words.
        good: praise.
        draw: makes the choices.
        second: how often an adjective without not or very is followed by `and` and another.
    """
    plural = draw.chance(0.5)
    subject = noun_phrase(draw.pick(thing), plural, draw)
    denied = draw.chance(0.12)
    judged = ["not"] if denied else ["very"] if draw.chance(0.3) else []
    judged.append(opinion_word(language, domain, good != denied, draw))
    if not denied and draw.chance(second):
        judged += ["and", opinion_word(language, domain, good, draw)]
    shape = draw.uniform()
    if shape < 0.5:
        return [*subject, "were" if plural else "was", *judged]
    if shape < 0.75:
        return ["i", "found", *subject, *judged]
    return ["we", "think", *subject, "were" if plural else "was", *judged]


def opinion_word(language: Language, domain: Domain, good: bool, draw: Draw) -> str:
    """An adjective of praise or blame."""
    return draw.pick(language.opinions[good] if draw.chance(_COMMON) else domain.opinions[good])


def relation_verb(language: Language, domain: Domain, relation: int, draw: Draw) -> str:
    """A word for the relation with this index."""
    return draw.pick(language.relation_verbs[relation] if draw.chance(_COMMON) else domain.relations[relation])


def marked(words: Words) -> Words:
    """The words between marks."""
    return ["<<", *words, ">>"]
