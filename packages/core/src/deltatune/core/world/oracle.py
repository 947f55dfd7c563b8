"""What somebody who knows the language answers: the ceiling of each kind of task.

The oracle reads texts alone. Where a task's labels are noisy (sentiment, topic, similarity) its score is the best there is, up to
chance on ties; on the other kinds it is always right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from deltatune.core.world.grammar import AUXILIARIES
from deltatune.core.world.kinds import Texts, labels_and_words
from deltatune.core.world.language import Language
from deltatune.core.world.names import kind_and_domain

Answer = str | float


class _Noun(NamedTuple):
    topic: str
    person: bool
    number: int


class _Read(NamedTuple):
    """A sentence that states a fact: actor and target in the order of meaning, not of words."""

    actor: _Noun
    actors: bool
    verb: int
    opposite: int
    target: _Noun
    targets: bool
    negated: bool
    agrees: bool


class Oracle:
    """Answers the tasks of one language.

    Args:
        language: the language.
    """

    def __init__(self, language: Language) -> None:
        self.language = language
        topics = [topic for domain in language.domains.values() for topic in domain.topics]
        self._nouns = {
            word: _Noun(topic.name, kind == 0, index)
            for topic in topics
            for kind, nouns in enumerate((topic.people, topic.things))
            for index, words in enumerate(nouns)
            for word in words
        }
        self._verbs = {
            word: (index, verb.opposite) for topic in topics for index, verb in enumerate(topic.verbs) for word in verb.words
        }
        lists = [language.opinions, *(domain.opinions for domain in language.domains.values())]
        self._good = {word: bool(good) for opinions in lists for good in (0, 1) for word in opinions[good]}
        tables = [language.relation_verbs, *(domain.relations for domain in language.domains.values())]
        self._relations = {
            word: name for table in tables for name, words in zip(language.relations, table, strict=True) for word in words
        }

    def answer(self, task: str, texts: Texts) -> Answer:
        """The label of an example, or its value; the first of two equally likely ones.

        Raises:
            DeltatuneError: an unknown task.
        """
        kind, domain = kind_and_domain(task)
        by_kind: dict[str, Callable[[Texts], Answer | int]] = {
            "sentiment": self._sentiment,
            "topic": lambda texts: self._facts(texts[0])[0].actor.topic,
            "aspect": self._aspect,
            "relation": self._relation,
            "inference": self._inference,
            "paraphrase": self._paraphrase,
            "acceptability": lambda texts: int(all(fact.agrees and fact.actor.person for fact in self._facts(texts[0]))),
            "similarity": self._similarity,
        }
        found = by_kind[kind](texts)
        return (
            list(labels_and_words(kind, self.language, self.language.domain(domain)))[found] if isinstance(found, int) else found
        )

    def _is_good(self, words: list[str]) -> bool:
        return next(self._good[word] for word in words if word in self._good) != ("not" in words)

    def _sentiment(self, texts: Texts) -> int:
        return int(self._is_good(_sentences(texts[0])[0]))

    def _aspect(self, texts: Texts) -> int:
        words = texts[0].removesuffix(" .").split()
        middle = words.index("but")
        clauses = words[:middle], words[middle + 1 :]
        return int(self._is_good(next(clause for clause in clauses if "<<" in clause)))

    def _relation(self, texts: Texts) -> Answer:
        words = texts[0].split()
        return self._relations[words[words.index(">>") + 1]]

    def _inference(self, texts: Texts) -> int:
        one, two = (self._facts(text)[0] for text in texts)
        if (one.actor, one.target) != (two.actor, two.target):
            return 2
        if one.verb == two.verb:
            return int(one.negated != two.negated)
        return 1 if one.opposite == two.verb and one.negated == two.negated else 2

    def _paraphrase(self, texts: Texts) -> int:
        one, two = (self._facts(text)[0] for text in texts)
        return int(one == two)

    def _similarity(self, texts: Texts) -> float:
        one, two = (self._facts(text)[0] for text in texts)
        return float(sum(getattr(one, part) == getattr(two, part) for part in ("actor", "actors", "verb", "target", "targets")))

    def _facts(self, text: str) -> list[_Read]:
        return [self._fact(words) for words in _sentences(text)]

    def _fact(self, words: list[str]) -> _Read:
        place = next(place for place, word in enumerate(words) if word in AUXILIARIES)
        before, after = words[:place], words[place + 1 :]
        ends = [(self._nouns[words[1]], "-s" in words) for words in (before, after[-3:] if after[-1] == "-s" else after[-2:])]
        (actor, actors), (target, targets) = reversed(ends) if "by" in after else ends
        verb, opposite = next(self._verbs[word] for word in after if word in self._verbs)
        agrees = (words[place] in ("have", "were")) == ("-s" in before)
        return _Read(actor, actors, verb, opposite, target, targets, "never" in after, agrees)


def _sentences(text: str) -> list[list[str]]:
    return list(_split(text.split()))


def _split(words: list[str]) -> Iterator[list[str]]:
    sentence: list[str] = []
    for word in (*words, "."):
        if word != ".":
            sentence.append(word)
        elif sentence:
            yield sentence
            sentence = []
