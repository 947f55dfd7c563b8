"""The table of docs/world.md: what chance, a bag of words and one who knows the language get on each kind of task.

python benchmarks/world_tasks.py
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix, hstack
from scipy.stats import pearsonr
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from deltatune.core import world
from deltatune.core.data import Example, Task
from deltatune.core.world.oracle import Oracle


def main() -> None:
    """Print a row for each kind, means over the domains."""
    oracle = Oracle(world.Language())
    print("| kind | chance | bag of words | one who knows the language |\n|---|---|---|---|")
    for kind in world.KINDS:
        tasks = [world.task(f"{kind}-{number}") for number in range(len(world.DOMAINS))]
        chance = 0.0 if tasks[0].regression else 1 / len(tasks[0].labels)
        words = np.mean([bag_of_words(task) for task in tasks])
        best = np.mean([score(task, [oracle.answer(task.name, e.texts) for e in task.test]) for task in tasks])
        print(f"| {kind} | {chance:.2f} | {words:.2f} | {best:.2f} |")


def bag_of_words(task: Task) -> float:
    """Score on test of a linear model of the numbers of each word, in each text of its own."""
    bags = [CountVectorizer(token_pattern=r"\S+") for _ in task.train[0].texts]

    def features(examples: Sequence[Example], fit: bool = False) -> csr_matrix:
        columns = [[example.texts[place] for example in examples] for place in range(len(bags))]
        found = [(bag.fit_transform if fit else bag.transform)(texts) for bag, texts in zip(bags, columns, strict=True)]
        return csr_matrix(hstack(found))

    model = Ridge() if task.regression else LogisticRegression(max_iter=2000)
    model.fit(features(task.train, fit=True), [example.label for example in task.train])
    return score(task, list(model.predict(features(task.test))))


def score(task: Task, answers: Sequence[str | float]) -> float:
    """Accuracy, or Pearson's correlation."""
    labels = [example.label for example in task.test]
    if task.regression:
        return float(pearsonr(np.array(answers, float), np.array(labels, float)).statistic)
    return float(np.mean([a == b for a, b in zip(answers, labels, strict=True)]))


if __name__ == "__main__":
    main()
