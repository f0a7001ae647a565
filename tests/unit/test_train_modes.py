"""The table of what can be trained, and what of a LoRA's settings is left alone in the other mode."""

from dataclasses import fields

import pytest
import torch
from jobs import write_full_job, write_job

from dataset.buckets import Size
from host.config import load_config
from host.full_training import FullModel
from host.memory_changes import milder
from host.memory_check import unset_in
from host.memory_estimate import Scene
from host.model_files import find_model_files
from host.prepare import ModelSettings
from host.setting import facts_of
from host.train_modes import MODES
from host.trained import Base, Weights
from networks.lora import Adapter

SCENE = Scene(batches=[(Size(1024, 1024), 2)])


@pytest.fixture
def lora(tmp_path):
    return load_config([str(write_job(tmp_path / "lora", network_dim=8))], prog="train.py")


@pytest.fixture
def full(tmp_path):
    return load_config([str(write_full_job(tmp_path / "full"))], prog="train.py")


def test_every_value_of_train_mode_has_its_row():
    (field,) = (field for field in fields(ModelSettings) if field.name == "train_mode")
    assert facts_of(field).choices == tuple(MODES)


def test_a_lora_and_a_whole_model_answer_the_same_questions():
    for weights in (Adapter({}), FullModel(torch.nn.Linear(2, 2))):
        assert isinstance(weights, Weights)


def test_the_planner_is_given_the_blocks_of_a_lora_s_base_and_not_those_that_are_trained(lora, full):
    assert unset_in(lora) == {"gradient_checkpointing", "blocks_to_swap"}
    assert unset_in(full) == {"gradient_checkpointing"}


def changes(config):
    return {name for change in milder(config.settings, SCENE, unset=()) for name in change.parts}


def test_less_memory_is_never_sought_in_settings_of_a_lora_when_the_model_is_trained(lora, full):
    assert changes(lora) - changes(full) == {"8 bit", "blocks_to_swap", "rank"}
    assert changes(full) == {"batch", "resolution", "text"}


@pytest.mark.parametrize(
    ("mode", "base", "later"),
    [
        ("lora", {"Step": "0", "LoRA strength": "0"}, {"Step": "7", "LoRA strength": "1"}),
        ("full", {"Step": "0", "Model": "base"}, {"Step": "7", "Model": "lora.safetensors"}),
    ],
)
def test_a_sample_says_whether_it_shows_the_base(request, mode, base, later):
    config = request.getfixturevalue(mode)
    architecture, settings = config.architecture, config.settings
    files, problems = find_model_files(architecture, settings.model, settings.plugin, needed=["dit"])
    assert not problems
    transformer = architecture.load_transformer(files.paths["dit"], device="cpu")
    began = MODES[mode].begin(
        Base(architecture=architecture, transformer=transformer, files=files, settings=settings)
    )
    names = {"LoRA": "lora.safetensors"} if mode == "lora" else {}
    assert began.caption(0, 0.0) == {**names, **base}
    assert began.caption(7, 1.0) == {**names, **later}
