"""The table of what can be trained."""

from dataclasses import fields

from host.full_training import FullModel
from host.prepare import ModelSettings
from host.setting import facts_of
from host.train_modes import MODES
from host.trained import Weights
from networks.lora import Adapter


def test_every_value_of_train_mode_has_its_row():
    (field,) = (field for field in fields(ModelSettings) if field.name == "train_mode")
    assert facts_of(field).choices == tuple(MODES)


def test_a_lora_and_a_whole_model_answer_the_same_questions():
    import torch

    for weights in (Adapter({}), FullModel(torch.nn.Linear(2, 2))):
        assert isinstance(weights, Weights)
