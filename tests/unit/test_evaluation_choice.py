"""The recommendation says what the numbers carry, and recommends nothing where they carry nothing."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from host.evaluation_choice import choose_by_judge
from host.evaluation_losses import choose_by_losses, held_out_of
from host.evaluation_numbers import CONCEPT, OLD, RIGHT, Measured
from host.evaluation_pictures import BASE, Column, LoraFile

LABELS = ["base", "one x1", "two x1", "three x1"]


def chosen(*words, **options):
    found = choose_by_judge(*words, **options)
    assert found is not None
    return found


def measured(concept, old, *, drift=(0.0, 0.2, 0.1, 0.3), prompts=10, seeds=4):
    """Shares of right pictures of each column -> answers; always the first prompts and seeds are right."""

    def answers(share):
        return [float(number < share * prompts * seeds) for number in range(prompts * seeds)]

    groups = {CONCEPT: list(range(prompts)), OLD: list(range(prompts, 2 * prompts))}
    right = np.array([[*answers(one), *answers(two)] for one, two in zip(concept, old, strict=True)])
    right = right.reshape(len(concept), 2 * prompts, seeds)
    drifts = np.tile(np.array(drift)[: len(concept), None], (1, 2 * prompts))
    return Measured(answers={RIGHT: right}, drift=drifts, spread=None), groups


def test_the_clearly_best_is_taken_and_told_apart_from_the_others():
    found = chosen(*measured([0, 1, 0.3, 0.2], [0.9, 0.9, 0.9, 0.9]), labels=LABELS)
    assert found.column == 1
    assert found.as_good == (1,)
    assert found.says.startswith("recommended: one x1; 0.95 (")
    assert "0.50 (0.50 to 0.50) ahead of the base" in found.says
    assert found.says.endswith("told apart from all 2 others")


def test_of_those_that_cannot_be_told_apart_the_least_drifting_is_taken():
    found = chosen(*measured([0, 0.825, 0.8, 0.1], [0.9] * 4), labels=LABELS)
    assert found.as_good == (1, 2)
    assert found.column == 2
    assert "2 of 3 cannot be told apart from the best (one x1, 0.86)" in found.says
    assert found.says.endswith("; of them it drifts least from the base")


def test_a_concept_learnt_at_the_price_of_old_knowledge_is_no_gain():
    found = chosen(*measured([0, 0.9, 1.0], [0.9, 0.9, 0.0]), labels=LABELS[:3])
    assert found.column == 1
    assert found.as_good == (1,)


def test_nothing_is_recommended_when_the_base_may_be_as_good():
    found = chosen(*measured([0.5, 0.525, 0.5], [0.9, 0.9, 0.9]), labels=LABELS[:3])
    assert found.column is None
    assert found.says.startswith("recommended: nothing; the best, one x1, has 0.71 (")
    assert found.says.endswith("the base 0.70: the difference may be chance")


def test_it_is_said_when_the_base_alone_does_better():
    found = chosen(*measured([0.9, 0.1], [0.9, 0.1]), labels=LABELS[:2])
    assert found.column is None
    assert found.says.endswith("the base 0.90: the base alone does better")


def test_one_that_may_be_no_better_than_the_base_is_not_taken_however_little_it_drifts():
    # Column 2 differs from the base, and from the best, in few pictures only.
    right, groups = measured([0.0, 0.3, 0.1], [0.9, 0.9, 0.9], drift=(0, 0.5, 0.01), prompts=10)
    found = chosen(right, groups, labels=LABELS[:3])
    assert 2 in found.as_good
    assert found.column == 1
    assert found.says.endswith("; it is the only one of them surely ahead of the base")


def test_too_few_judged_pictures_choose_nothing():
    found = chosen(*measured([0, 1], [1, 1], prompts=3, seeds=2), labels=LABELS[:2])
    assert found.column is None
    assert "6 judged pictures of a kind of prompt are too few" in found.says


def test_without_old_prompts_the_best_is_taken_and_that_is_said():
    right, groups = measured([0, 0.8, 0.9], [0.9] * 3)
    groups[OLD] = []
    found = chosen(right, groups, labels=LABELS[:3])
    assert found.column == 2
    assert "; of them it does best" in found.says
    assert found.says.endswith("; what became of old knowledge was not judged")


def test_who_cannot_see_the_concept_says_nothing():
    right, groups = measured([0, 1], [1, 1])
    assert choose_by_judge(right, {"all": [0, 1]}, labels=LABELS[:2]) is None
    nobody = Measured(answers={}, drift=right.drift, spread=None)
    assert choose_by_judge(nobody, groups, labels=LABELS[:2]) is None
    right.answers[RIGHT][:, groups[CONCEPT]] = np.nan
    assert choose_by_judge(right, groups, labels=LABELS[:2]) is None


def lora(folder, name, *, steps):
    path = folder / f"{name}.safetensors"
    save_file({"x": torch.zeros(1)}, path, {"ss_steps": str(steps)})
    return LoraFile(path=path, label=name, fingerprint=name)


def write_rounds(folder, name, losses, *, held_out=True, pictures=12, scatter=0.01):
    """Rounds of a run: step -> loss."""
    lines = []
    for step, loss in losses.items():
        noise = np.random.default_rng(step).normal(0, scatter, pictures)
        by_picture = {f"0/{number:02}": loss + shift for number, shift in enumerate(noise)}
        lines.append(
            {
                "step": step,
                "held_out": held_out,
                "loss": loss,
                "sigmas": [0.3, 0.7],
                "by_sigma": [loss, loss],
                "by_picture": by_picture,
            }
        )
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / f"{name}_validation.jsonl").write_text(text)


def columns_of(*loras, strengths=(0.5, 1.0)):
    return [BASE, *(Column(lora=one, strength=strength) for one in loras for strength in strengths)]


@pytest.mark.parametrize(
    ("name", "steps", "step"),
    [
        ("run", 900, 900),
        ("run-step00000500", 1, 500),
        ("run-best-step00000500", 1, 500),
        ("run-000003", 500, 500),
        ("run-diffusers", 900, 900),
    ],
)
def test_a_file_finds_the_round_of_its_run_at_its_step(tmp_path, name, steps, step):
    write_rounds(tmp_path, "run", {0: 1.0, 500: 0.8, 900: 0.9})
    found = held_out_of(lora(tmp_path, name, steps=steps))
    assert found is not None
    assert (found.then.step, found.base.step) == (step, 0)


def test_a_step_without_a_round_and_pictures_that_were_trained_on_say_nothing(tmp_path):
    write_rounds(tmp_path, "run", {0: 1.0, 500: 0.8})
    assert held_out_of(lora(tmp_path, "run", steps=499)) is None
    assert held_out_of(lora(tmp_path, "other", steps=500)) is None
    write_rounds(tmp_path, "run", {0: 1.0, 500: 0.8}, held_out=False)
    assert held_out_of(lora(tmp_path, "run", steps=500)) is None


def test_the_file_with_the_lowest_held_out_loss_is_taken_at_strength_1(tmp_path):
    write_rounds(tmp_path, "run", {0: 1.0, 500: 0.7, 900: 0.9})
    files = [lora(tmp_path, "run-step00000500", steps=500), lora(tmp_path, "run", steps=900)]
    found = choose_by_losses(columns_of(*files), [0, 0.1, 0.2, 0.3, 0.4])
    assert found.column == 2
    assert found.says.startswith("recommended: run-step00000500 x1, by the held-out loss: 0.3")
    assert "1 of 2 files cannot be told apart from the best" in found.says
    assert found.says.endswith(
        "Strengths other than 1 were not measured, and the loss does not see what is drawn"
    )


def test_of_files_whose_losses_cannot_be_told_apart_the_least_drifting_is_taken(tmp_path):
    write_rounds(tmp_path, "run", {0: 1.0, 500: 0.7, 900: 0.701})
    files = [lora(tmp_path, "run-step00000500", steps=500), lora(tmp_path, "run", steps=900)]
    found = choose_by_losses(columns_of(*files), [0, 0.1, 0.2, 0.05, 0.1])
    assert (found.column, found.as_good) == (4, (2, 4))


@pytest.mark.parametrize(
    ("losses", "options", "strengths", "because"),
    [
        ({0: 1.0, 900: 0.999}, {}, (1.0,), "which may be chance"),
        ({0: 1.0, 900: 0.7}, {"pictures": 5}, (1.0,), "5 held-out pictures are too few"),
        ({0: 1.0, 900: 0.7}, {}, (0.5,), "held-out losses are of strength 1"),
        ({0: 1.0, 800: 0.7}, {}, (1.0,), "no held-out loss beside the files"),
    ],
)
def test_losses_that_cannot_tell_recommend_nothing(tmp_path, losses, options, strengths, because):
    write_rounds(tmp_path, "run", losses, **options)
    found = choose_by_losses(columns_of(lora(tmp_path, "run", steps=900), strengths=strengths), [0, 0.1])
    assert found.column is None
    assert found.says.startswith("recommended: nothing; ")
    assert because in found.says


def test_files_are_not_compared_when_one_was_not_measured_or_otherwise(tmp_path):
    write_rounds(tmp_path, "run", {0: 1.0, 900: 0.7})
    run, other = lora(tmp_path, "run", steps=900), lora(tmp_path, "other", steps=900)
    said = choose_by_losses(columns_of(run, other), [0, 0.1, 0.1, 0.1, 0.1]).says
    assert "there is no held-out loss of other at its step" in said
    write_rounds(tmp_path, "other", {0: 1.1, 900: 0.6})
    said = choose_by_losses(columns_of(run, other), [0, 0.1, 0.1, 0.1, 0.1]).says
    assert "were measured in different ways" in said


def test_of_files_as_good_as_the_best_the_best_is_taken_where_drift_was_not_measured(tmp_path):
    write_rounds(tmp_path, "run", {0: 1.0, 500: 0.7, 900: 0.701})
    files = [lora(tmp_path, "run-step00000500", steps=500), lora(tmp_path, "run", steps=900)]
    found = choose_by_losses(columns_of(*files), None)
    assert (found.column, found.as_good) == (2, (2, 4))
    assert "; of them it does best" in found.says
