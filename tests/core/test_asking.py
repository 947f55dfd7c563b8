"""A task asked otherwise than its configuration says."""

from __future__ import annotations

from dataclasses import replace

from deltatune.core.backbone import BackboneConfig
from deltatune.core.data import builtin_task
from deltatune.core.delta import BitFit
from deltatune.core.files import read_json
from deltatune.core.formats import build_format
from deltatune.core.reuse import open_run
from deltatune.core.tune_config import TaskChoice, TuneConfig
from deltatune.core.tuning import tune_to

ASKED = {"template": "*cls**sent_0**mask**sep+*", "label_words": {"negative": "lovely", "positive": "dull"}}


def test_a_template_of_one_s_own_takes_the_place_of_the_task_s(reviews):
    own = TaskChoice(str(reviews)).load()
    asked = TaskChoice(str(reviews), **ASKED).load()
    assert asked.config.template == ASKED["template"] != own.config.template
    assert dict(asked.config.label_words) == ASKED["label_words"]
    assert asked.digest != own.digest
    assert asked.train == own.train


def test_a_limit_holds_for_each_piece(tiny, reviews):
    task = TaskChoice(str(reviews), template="*cls**sent_0**mask**sep*", first_sentence_limit=3).load()
    dots = replace(task.config, label_words=dict.fromkeys(task.labels, "."))
    form = build_format(tiny("roberta-prompt"), replace(task, config=dots))
    assert {len(feature["input_ids"]) for feature in form.features(task.train)} == {6}


def test_what_is_not_asked_otherwise_changes_no_digest():
    assert builtin_task("glue/rte").digest == "a5677678d1099337647b09264e18f3f48fd56aac2d686ed65e0b9e648ded5a94"
    config = TuneConfig(BackboneConfig("m"), TaskChoice("glue/rte"), (BitFit(),))
    assert not {"template", "label_words", "first_sentence_limit"} & config.identity()["task"].keys()
    other = replace(config, task=TaskChoice("glue/rte", template="*cls**mask**sep*"))
    assert other.identity()["task"]["template"] == "*cls**mask**sep*"


def test_a_run_is_scored_as_it_was_asked(reviews, tmp_path):
    model = BackboneConfig(str(reviews.with_name("model")), form="prompt", device="cpu")
    train = TuneConfig(model, TaskChoice(str(reviews)), (BitFit(),)).train
    config = TuneConfig(model, TaskChoice(str(reviews), **ASKED), (BitFit(),), replace(train, steps=2))
    tune_to(config, tmp_path / "run", {"command": "test"}, "")
    choice = open_run(tmp_path / "run").task_choice()
    assert (choice.template, choice.label_words) == (ASKED["template"], ASKED["label_words"])
    assert open_run(tmp_path / "run").task_choice(whole=True).template == ASKED["template"]
    assert read_json(tmp_path / "run/run.json")["config"]["task"]["template"] == ASKED["template"]
