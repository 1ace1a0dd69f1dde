"""A run's folder as training would leave it, made in a moment: an adapter that has learnt something at random."""

import json

from small_runs import config_of
from tiny import tiny_model, tiny_tokenizer, with_adapter

from irpo.config.schema import RUN_CONFIG, to_yaml
from irpo.ranking.choosing import Choice
from irpo.runs import CHOICE, save_model
from irpo.scoring.models import LoadOptions, load_model, load_tokenizer, no_bar
from irpo.scoring.strength import PLAIN, Strength


def tiny_base(folder, **how):
    """A tiny model's folder."""
    with no_bar():
        tiny_model(**how).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def saved_run(run, *overrides, base="embedded", strength=PLAIN, temperature=None):
    """`strength` is what its validation lists chose."""
    chosen = [] if strength == PLAIN and temperature is None else ["ranking.strength=auto"]
    config = config_of(f"model.name={base}", *chosen, *overrides)
    run.mkdir(parents=True)
    (run / RUN_CONFIG).write_text(to_yaml(config), encoding="utf-8")
    if chosen:
        told = Choice(Strength(strength.value, strength.by), temperature, {strength.value: 0.5}).as_dict()
        (run / CHOICE).write_text(json.dumps(told), encoding="utf-8")
    with no_bar():  # what is tested is what a command says
        model = load_model(str(base), LoadOptions(config.model.quantization))
        model = with_adapter(model) if config.model.tuning == "lora" else model
        save_model(model, load_tokenizer(str(base)), run, tuning=config.model.tuning)
    return run
