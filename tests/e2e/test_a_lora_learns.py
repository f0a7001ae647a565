"""A LoRA learns a new thing in the tiny world, and a trainer with something wrong in it does not get away.

From a shared warm state one healthy run and sabotaged ones go on, with the embedded settings. Each sabotage
has to fail the very check that the healthy run passes. Pictures are drawn by the program that users draw
with, so what trains, saves, loads and samples is in it.
"""

import shutil
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import toml
from jobs import ROOT, run
from PIL import Image
from safetensors.torch import load_file

import host.objective
import musubi_flux_dev
from host.flow_matching import interpolate
from musubi_flux_dev import FLUX_DEV
from musubi_flux_dev.tiny_world.judge import answers
from musubi_flux_dev.tiny_world.scenes import probe_captions
from networks.lora import LoraLinear

WARM, MORE = 120, 180
"""Steps of the warm state, and of each run that goes on from it."""
NEW, OLD = 24, 48
"""Prompts of the new thing, and of what the base model knows."""
LEARNT, LOST = 0.55, 0.10
"""Share of pictures of the new thing that must be right, and by how much that of old ones may fall."""
FLAGS = "--w 64 --h 64 --s 12 --g 3.5"


@dataclass(frozen=True)
class Rates:
    """Shares of pictures in which colour, shape, place and background are as the prompt says."""

    new: float
    old: float


def complaints(base, after):
    """Return what stands against having learnt the new thing and kept the old ones."""
    found = []
    if base.new > 0.1:
        found.append(f"the base draws the new thing already: {base.new:.2f}")
    if after.new < LEARNT:
        found.append(f"the new thing is right in {after.new:.2f} only")
    if after.old < base.old - LOST:
        found.append(f"old things fell from {base.old:.2f} to {after.old:.2f}")
    return found


def prompts():
    """Return prompts that no picture of the training set shows: new things first, then known ones."""
    return probe_captions(new=NEW, known=OLD, seed=77)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The folder with the jobs, the prompts and the warm state."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        texts = [f"{text} {FLAGS} --d {number}" for number, text in enumerate(prompts())]
        (folder / "prompts.txt").write_text("\n".join(texts))
        document = tomllib.loads((ROOT / "toml" / "flux_dev_tiny.toml").read_text())
        del document["samples"]
        # Fewer steps than the embedded job has, so a higher rate that stays.
        short = {"learning_rate": 7e-4, "lr_scheduler": "constant", "validation_budget": 0.0}
        document["training"] |= {**short, "max_train_steps": WARM}
        document["output"] = {"output_dir": "warm", "output_name": "lora"}
        document |= {"device": "cpu", "report": False}
        (folder / "job.toml").write_text(toml.dumps(document))
        # Rank and alpha are those of the LoRA that a run goes on from.
        del document["network"]
        (folder / "more.toml").write_text(toml.dumps(document))
        assert run("train", "job.toml") == 0
        yield folder


def go_on(name, *, job="more.toml", steps=MORE):
    """Train on from the warm state; return the LoRA."""
    words = ["--network_weights", "warm/lora.safetensors", "--max_train_steps", steps]
    assert run("train", job, *words, "--output_dir", name) == 0
    return f"{name}/lora.safetensors"


def rates(lora, *, strength=1.0):
    """Draw every prompt with ``lora`` and return how often the pictures are right."""
    folder = Path("drawn")
    for old in folder.glob("*"):
        old.unlink()
    words = ["--lora_weight", lora, "--lora_multiplier", strength, "--from_file", "prompts.txt"]
    assert run("generate_image", "job.toml", *words, "--save_path", folder) == 0
    right = []
    for number, text in enumerate(prompts()):
        (path,) = folder.glob(f"*_{number:02d}_{number}_x{strength:g}.png")
        with Image.open(path) as picture:
            found = answers(text, np.array(picture.convert("RGB")))
        assert found is not None
        right.append(all(found.values()))
    return Rates(new=sum(right[:NEW]) / NEW, old=sum(right[NEW:]) / OLD)


@pytest.fixture(scope="module")
def base(world):
    return rates("warm/lora.safetensors", strength=0.0)


@pytest.fixture(scope="module")
def healthy(world):
    return go_on("healthy")


def test_the_new_thing_is_learnt_and_the_old_ones_stay(base, healthy):
    assert complaints(base, rates(healthy)) == []


def test_every_factor_of_the_lora_has_learnt(healthy):
    """A linear whose LoRA gets no gradient keeps the zeros that its second factor began with."""
    factors = load_file(healthy)
    idle = [name for name, factor in factors.items() if name.endswith("lora_up.weight") and not factor.any()]
    assert idle == []


def test_a_lora_that_is_switched_off_is_noticed(base, healthy, monkeypatch):
    monkeypatch.setattr(LoraLinear, "forward", lambda self, x: self.base(x))
    assert complaints(base, rates(healthy))


@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_a_wrong_alpha_is_noticed(base, healthy, monkeypatch, factor):
    monkeypatch.setattr(LoraLinear, "scale", property(lambda self: factor * self.alpha / self.rank))
    assert complaints(base, rates(healthy))


def test_a_wrong_guidance_is_noticed(base, healthy, monkeypatch):
    """The model takes a thousand times the guidance; here the factor is forgotten."""

    def call_dit(transformer, noisy_latents, *, guidance, **others):
        return FLUX_DEV.call_dit(transformer, noisy_latents, guidance=guidance / 1000, **others)

    monkeypatch.setattr(musubi_flux_dev, "FLUX_DEV", replace(FLUX_DEV, call_dit=call_dit))
    assert complaints(base, rates(healthy))


def test_a_reversed_sigma_in_training_is_noticed(world, base, monkeypatch):
    def reversed_sigma(latents, noise, sigma):
        return interpolate(latents, noise, 1 - sigma)

    monkeypatch.setattr(host.objective, "interpolate", reversed_sigma)
    assert complaints(base, rates(go_on("reversed")))


def test_swapped_captions_are_noticed(world, base):
    document = tomllib.loads((world / "more.toml").read_text())
    for number, entry in enumerate(document["datasets"]):
        swapped = world / f"swapped_{number}"
        shutil.copytree(entry["image_directory"], swapped)
        texts = sorted(swapped.glob("*.txt"))
        contents = [path.read_text() for path in texts]
        for path, content in zip(texts, [*contents[5:], *contents[:5]], strict=True):
            path.write_text(content)
        entry |= {"image_directory": str(swapped), "cache_directory": f"cached_swapped_{number}"}
    (world / "swapped.toml").write_text(toml.dumps(document))
    assert complaints(base, rates(go_on("swapped", job="swapped.toml")))


def test_the_same_seed_gives_the_same_bytes(world):
    first, second = (Path(go_on(name, steps=6)).read_bytes() for name in ("one", "other"))
    assert first == second
