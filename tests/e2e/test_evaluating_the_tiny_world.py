"""On the tiny world the judge is the plugin's own, and the better of two LoRAs is found."""

import json
import random
from pathlib import Path

import toml
from jobs import run, train, write_job
from PIL import Image
from safetensors.torch import load_file, save_file

import musubi_flux_dev
from musubi_flux_dev.tiny import SETTINGS
from musubi_flux_dev.tiny_world.captions import captions
from musubi_flux_dev.tiny_world.drawing import COLOURS, NEW_WORD, draw
from musubi_flux_dev.tiny_world.scenes import concept_scenes, held_out_scenes, known_scenes, one_shape

WORLD = Path(musubi_flux_dev.__file__).parent / "tiny_world" / "files"
"""Where the trained tiny world is shipped."""


def write_pictures(folder, scenes):
    folder.mkdir(parents=True)
    for number, scene in enumerate(scenes):
        Image.fromarray(draw(scene)).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(captions(scene)[number % 4])
    return folder


def write_prompts(path, *, concept, old, flags):
    """Prompts of the new shape in every colour, and of what the base was never shown but can draw."""
    draws = random.Random(77)
    scenes = [one_shape(draws, pairs=[(colour, NEW_WORD)], size=(64, 64)) for colour in [*COLOURS][:concept]]
    lines = [captions(scene)[0].replace("small", "large") for scene in scenes]
    lines += [captions(scene)[0] for scene in held_out_scenes()[:old]]
    path.write_text("".join(f"{line} {flags}\n" for line in lines))
    return path


def test_flux_judges_a_transformer_that_says_it_draws_the_tiny_world(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    job = write_job(tmp_path, architecture="fd", max_train_steps=1)
    dit = tmp_path / "models" / SETTINGS["dit"]
    assert train(job) == 0
    prompts = write_prompts(
        tmp_path / "prompts.txt", concept=1, old=1, flags="--w 64 --h 64 --d 1 --s 1 --g 3.5"
    )
    words = ["--lora", "out/lora.safetensors", "--strengths", "1", "--from_file", prompts, "--seeds", "1"]
    assert run("evaluate", job, *words) == 0
    assert "nobody judges the pictures of this model" in capsys.readouterr().out
    save_file(load_file(dit), dit, {"tiny_world": "1"})
    assert run("evaluate", job, *words) == 0
    said = capsys.readouterr().out
    assert f"new concept ({NEW_WORD}): 1 prompts; old knowledge: 1 prompts" in said
    assert "colour shape place background" in said
    document = json.loads((tmp_path / "output" / "evaluation" / "evaluation.json").read_text())
    answers = [picture["answers"] for picture in document["pictures"]]
    assert all(one.keys() == {"right", "colour", "shape", "place", "background"} for one in answers)


def test_the_better_of_a_good_and_an_over_trained_lora_is_recommended(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    concept = concept_scenes()
    document = {
        **{name: str(WORLD / file) for name, file in SETTINGS.items() if name != "image_directory"},
        "output_dir": "out",
        "device": "cpu",
        "gradient_checkpointing": False,
        "optimizer_type": "AdamW",
        "network_dim": 16,
        "network_preset": "all_linears",
        "validation_budget": 0.0,
        "general": {"resolution": 96, "bucket_no_upscale": True, "enable_bucket": True, "batch_size": 8},
    }
    sets = {
        "twelve": {"image_directory": str(write_pictures(tmp_path / "twelve", concept)), "num_repeats": 8},
        "known": {"image_directory": str(write_pictures(tmp_path / "known", known_scenes())), "is_reg": True},
        "three": {"image_directory": str(write_pictures(tmp_path / "three", concept[:3]))},
    }
    for name, entry in sets.items():
        entry["cache_directory"] = f"cached/{name}"
    runs = {
        "good": {"learning_rate": 1e-3, "max_train_steps": 250, "datasets": [sets["twelve"], sets["known"]]},
        "over": {"learning_rate": 5e-3, "max_train_steps": 100, "datasets": [sets["three"]]},
    }
    for name, settings in runs.items():
        (tmp_path / f"{name}.toml").write_text(toml.dumps({**document, **settings, "output_name": name}))
        assert train(f"{name}.toml") == 0
    prompts = write_prompts(
        tmp_path / "prompts.txt", concept=7, old=8, flags="--w 64 --h 64 --d 1 --s 10 --g 3.5"
    )
    capsys.readouterr()
    words = ["--lora", "out/over.safetensors", "out/good.safetensors", "--strengths", "1"]
    assert run("evaluate", "good.toml", *words, "--from_file", prompts, "--seeds", "2") == 0
    assert "recommended: good x1" in capsys.readouterr().out
    base, over, good = json.loads(Path("output/evaluation/evaluation.json").read_text())["rows"]
    assert base["rates"]["concept"]["right"]["value"] < 0.1
    assert good["rates"]["concept"]["right"]["low"] > base["rates"]["concept"]["right"]["high"]
    assert good["old_change"]["value"] > over["old_change"]["value"] + 0.1
    assert good["drift"]["value"] < over["drift"]["value"]
