"""Masks, mirrors and regularisation pictures reach the gradient, by the way that a job takes."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import toml
import torch
from jobs import draw_pictures, run, train, write_job
from PIL import Image

from host.caching import cache_names
from host.check import check_job
from host.config import load_config
from host.draws import batch_loader
from host.objective import Objective
from host.plan import MicroBatch
from host.prepare import attach_adapter, load_frozen_transformer
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
        transformer = load_frozen_transformer(
            config.architecture, checked.files.paths["dit"], settings=settings.model, device=CPU
        )
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
            device=CPU,
        )
        names = cache_names(checked.files.variant)
        self.load = batch_loader(checked.items, seed=settings.fit.seed, names=names)
        self.plan = checked.plan.step(0)

    def result(self, micro):
        batch = self.load(self.plan, micro)
        losses = self.objective.losses(batch, step=0, positions=micro.positions)
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


def test_a_masked_mirrored_and_regularised_run_trains_to_its_end(tmp_path, capsys):
    job = change(write_job(tmp_path, max_train_steps=3), row=draw_masks(tmp_path))
    job = add_dataset(change(job, flip_aug=True), tmp_path, is_reg=True)
    assert train(job, "--prior_loss_weight", "0.5", "--masked_loss") == 0
    said = capsys.readouterr().out
    assert f"masks: 5 of 5 found in {tmp_path / 'masks'}" in said
