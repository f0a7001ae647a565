"""Masks, mirrors and regularisation pictures reach the gradient, by the way that a job takes."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import toml
import torch
from jobs import draw_pictures, run, train, write_job
from PIL import Image
from safetensors import safe_open

from host.caching import cache_names
from host.check import check_job
from host.config import load_config
from host.draws import batch_loader
from host.objective import Objective
from host.plan import MicroBatch
from host.prepare import attach_adapter
from host.processes import Processes

CPU = torch.device("cpu")


def change(job, *, row=(), **general):
    """Write keys into the only dataset of a job, and into [general]."""
    document = toml.loads(job.read_text())
    document["datasets"][0].update(row)
    document["general"].update(general)
    job.write_text(toml.dumps(document))
    return job


def add_dataset(job, folder, *, sizes=((64, 64),), **keys):
    document = toml.loads(job.read_text())
    draw_pictures(folder / "others", sizes=list(sizes))
    row = {"image_directory": str(folder / "others"), "cache_directory": str(folder / "cached-others")}
    document["datasets"].append({**row, **keys})
    job.write_text(toml.dumps(document))
    return job


def draw_masks(folder, *, names=(0, 1, 2, 3, 4), inverted=False):
    """Mask the left half of each picture; inverted, the right one."""
    (folder / "masks").mkdir(exist_ok=True)
    for number in names:
        with Image.open(folder / "pictures" / f"picture_{number}.png") as picture:
            width, height = picture.size
        mask = Image.new("L", (width, height), 255 if inverted else 0)
        mask.paste(0 if inverted else 255, (0, 0, width // 2, height))
        mask.save(folder / "masks" / f"picture_{number}.png")
    return {"mask_directory": str(folder / "masks")}


class FirstStep:
    """The first step of a job whose caches are made, one micro-batch after the other."""

    def __init__(self, job, *flags):
        assert run("cache_latents", job, *flags) == 0
        assert run("cache_text_encoder_outputs", job, *flags) == 0
        config = load_config([str(job), *flags], prog="train.py")
        checked = check_job(config, processes=Processes(device=CPU))
        settings = config.settings
        transformer = config.architecture.load_transformer(checked.files.paths["dit"], device=CPU)
        self.outputs = []

        def call_dit(*arguments, **named):
            velocity = config.architecture.call_dit(*arguments, **named).detach().requires_grad_()
            self.outputs.append(velocity)
            return velocity

        self.objective = Objective(
            architecture=replace(config.architecture, call_dit=call_dit),
            variant=checked.files.variant,
            transformer=transformer,
            adapter=attach_adapter(transformer, config.architecture, settings=settings.network, seed=0),
            noise=settings.noise,
            fit=settings.fit,
        )
        names = cache_names(checked.files.variant)
        self.load = batch_loader(checked.items, seed=settings.fit.seed, names=names)
        self.plan = checked.plan.step(0)

    def result(self, micro):
        batch = self.load(self.plan, micro)
        losses = self.objective.losses(self.objective.stage(batch, step=0, positions=micro.positions))
        losses.sum().backward()
        return SimpleNamespace(batch=batch, losses=losses.detach(), gradient=self.outputs[-1].grad)


def first_step(job, *flags):
    step = FirstStep(job, *flags)
    return [step.result(micro) for micro in step.plan.micro_batches]


def test_no_gradient_comes_from_where_the_mask_is_black(tmp_path):
    job = change(write_job(tmp_path, batch_size=3, resolution=32), row=draw_masks(tmp_path), flip_aug=True)
    for result in first_step(job, "--gradient_accumulation_steps", "5"):
        black = (result.batch.mask == 0).expand_as(result.gradient)
        assert black.any()
        assert result.gradient[black].abs().max() == 0
        assert (result.gradient[~black] != 0).all()


def test_an_inverted_mask_changes_the_loss_and_both_halves_make_the_whole(tmp_path):
    job = write_job(tmp_path, batch_size=5)
    whole = first_step(job)
    masked = first_step(change(job, row=draw_masks(tmp_path)))
    draw_masks(tmp_path, inverted=True)
    inverted = first_step(job)
    for one, two, both in zip(masked, inverted, whole, strict=True):
        assert both.batch.mask is None
        assert (one.losses - two.losses).abs().min() > 1e-4
        torch.testing.assert_close(one.losses + two.losses, both.losses)


def test_unmasked_weight_lets_the_rest_count_a_little(tmp_path):
    job = change(write_job(tmp_path, batch_size=5), row=draw_masks(tmp_path))
    masked = first_step(job)
    weighed = first_step(change(job, unmasked_weight=0.25))
    draw_masks(tmp_path, inverted=True)
    inverted = first_step(change(job, unmasked_weight=0.0))
    for one, two, some in zip(masked, inverted, weighed, strict=True):
        torch.testing.assert_close(one.losses + 0.25 * two.losses, some.losses)


def test_a_batch_of_masked_and_unmasked_pictures_is_as_many_batches_of_one(tmp_path):
    job = write_job(tmp_path, batch_size=3)
    masks = draw_masks(tmp_path, names=(0, 2))
    step = FirstStep(
        change(job, row=masks, missing_mask="whole_image", flip_aug=True),
        "--gradient_accumulation_steps",
        "5",
    )
    (micro,) = [micro for micro in step.plan.micro_batches if len(micro.indices) == 3]
    together = step.result(micro)
    alone = [
        step.result(MicroBatch(indices=(index,), positions=(position,)))
        for index, position in zip(micro.indices, micro.positions, strict=True)
    ]
    assert sorted(result.batch.mask is None for result in alone) == [False, True, True]
    torch.testing.assert_close(together.losses, torch.cat([result.losses for result in alone]))
    torch.testing.assert_close(together.gradient, torch.cat([result.gradient for result in alone]))


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_the_loss_of_regularisation_pictures_counts_by_its_weight(tmp_path, weight):
    job = add_dataset(write_job(tmp_path), tmp_path, is_reg=True, batch_size=1)
    flags = ["--gradient_accumulation_steps", "4"]
    plain = first_step(change_last(job, is_reg=False), *flags)
    weighed = first_step(change_last(job, is_reg=True), *flags, "--prior_loss_weight", str(weight))
    regs = [any(result.batch.is_reg) for result in weighed]
    assert sorted(regs) == [False, False, False, True]
    for before, after, reg in zip(plain, weighed, regs, strict=True):
        factor = weight if reg else 1.0
        assert torch.equal(after.losses, factor * before.losses)
        assert torch.equal(after.gradient, factor * before.gradient)


def change_last(job, **keys):
    document = toml.loads(job.read_text())
    document["datasets"][-1].update(keys)
    job.write_text(toml.dumps(document))
    return job


def test_a_masked_mirrored_and_regularised_run_says_so_on_screen_and_in_the_header(tmp_path, capsys):
    job = write_job(tmp_path, max_train_steps=3)
    job = change(job, row={**draw_masks(tmp_path), "num_repeats": 2}, flip_aug=True)
    add_dataset(job, tmp_path, is_reg=True)
    assert train(job, "--prior_loss_weight", "0.5", "--masked_loss") == 0
    said = capsys.readouterr().out
    assert f"masks: 5 of 5 found in {tmp_path / 'masks'}" in said
    assert "1 regularisation picture: 1 of the 11 samples of an epoch, of weight 0.5; 0.1 for each" in said
    with safe_open(tmp_path / "out" / "lora.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert (metadata["ss_num_train_images"], metadata["ss_num_reg_images"]) == ("10", "1")
    assert metadata["ss_prior_loss_weight"] == "0.5"
    first, second = json.loads(metadata["ss_datasets"])
    assert (first["is_reg"], first["flip_aug"], first["mask_directory"]) == (False, True, "masks")
    assert second["is_reg"] is True


def test_what_has_no_effect_on_masks_or_regularisation_is_refused_before_anything(tmp_path, refusal):
    job = write_job(tmp_path)
    assert "prior_loss_weight = 0.5 has no effect" in refusal(job, "--prior_loss_weight", "0.5")
    assert "masked_loss = true" in (message := refusal(job, "--masked_loss"))
    assert 'mask_directory = "masks"' in message
    assert "nothing is left to learn" in refusal(change(job, row={"is_reg": True}))


def test_a_changed_mask_and_mirroring_switched_on_are_told_with_the_entries_redone(tmp_path, capsys):
    job = write_job(tmp_path)
    change(job, row=draw_masks(tmp_path))
    assert run("cache_latents", job) == 0
    draw_masks(tmp_path, names=(2,), inverted=True)
    assert run("cache_latents", job) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.endswith("4 reused, 0 made, 1 redone (the mask changed: picture_2)")
    assert run("cache_latents", change(job, flip_aug=True)) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert "0 reused, 0 made, 5 redone (made without the mirrored picture: picture_0" in said
    assert run("cache_latents", change(job, flip_aug=False)) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("5 reused, 0 made")


def inverted_mask(folder, job):
    draw_masks(folder, inverted=True)


CHANGES = {
    "another mask": inverted_mask,
    "another unmasked weight": lambda folder, job: change(job, unmasked_weight=0.5),
    "no masks": lambda folder, job: job.write_text(
        "".join(line for line in job.read_text().splitlines(keepends=True) if "mask_" not in line)
    ),
    "mirrored pictures": lambda folder, job: change(job, flip_aug=True),
    "no regularisation": lambda folder, job: change_last(job, is_reg=False),
}


@pytest.mark.parametrize("change_something", CHANGES.values(), ids=CHANGES)
def test_masks_mirrors_and_regularisation_make_it_another_run(tmp_path, capsys, change_something):
    job = write_job(tmp_path, max_train_steps=1)
    add_dataset(change(job, row=draw_masks(tmp_path)), tmp_path, is_reg=True)
    assert train(job) == 0
    assert train(job) == 0
    assert "finished before with the same settings" in capsys.readouterr().out
    change_something(tmp_path, job)
    assert train(job) == 2
    assert "from a run with other settings or pictures" in capsys.readouterr().out
