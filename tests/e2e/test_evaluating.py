"""``evaluate.py`` from the command line to its three files, on a toy with a judge of its own."""

import json
import os
import re
import shutil
import signal
from collections import defaultdict
from dataclasses import replace

import pytest
import toy_architecture
from jobs import ROOT, run, train, write_job
from PIL import Image
from safetensors.torch import load_file, save_file

from host import evaluation
from host.judges import Judge
from host.sampling import Sampler

PROMPTS = """a spot, number 1 --w 64 --h 64 --d 5 --s 2
a dot --w 96 --h 64 --d 7 --s 2
a blot of blue --w 64 --h 96 --d 9 --s 2
"""
MUCH = 10.0
"""Levels of 255, between what the weak LoRA changes and what the strong one does."""
FILES = ("evaluation.json", "evaluation.md", "evaluation.png")


def answers(prompt, picture):
    if "blot" in prompt:
        return None
    return {"reddish": bool(picture[..., 0].mean() > picture[..., 2].mean()), "there": picture.size > 0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A job with two LoRAs, trained once."""
    folder = tmp_path_factory.mktemp("trained")
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    job = write_job(folder, learning_rate=0.05)
    for name, rate in (("weak", 0.01), ("strong", 0.1)):
        assert train(job, "--output_name", name, "--learning_rate", rate) == 0
    for number, handler in kept.items():
        signal.signal(number, handler)
    (folder / "prompts.txt").write_text(PROMPTS)
    return folder


@pytest.fixture
def counts(monkeypatch):
    """How often a transformer was loaded, a LoRA attached and a picture drawn; the judge is at work."""
    found = {"loaded": 0, "attached": 0, "drawn": []}
    load, attach, latents = (
        toy_architecture.SPEC.load_transformer,
        evaluation.attach_lora_file,
        Sampler.latents,
    )

    def counted_load(*words, **options):
        found["loaded"] += 1
        return load(*words, **options)

    def counted_attach(*words, **options):
        found["attached"] += 1
        return attach(*words, **options)

    def counted_latents(sampler, prompt):
        drawn = latents(sampler, prompt)
        found["drawn"].append((prompt.prompt, prompt.seed))
        return drawn

    judge = Judge(answers=answers, new_words=["spot"])
    spec = replace(toy_architecture.SPEC, load_transformer=counted_load, judges=lambda header: {"toy": judge})
    monkeypatch.setattr(toy_architecture, "SPEC", spec)
    monkeypatch.setattr(evaluation, "attach_lora_file", counted_attach)
    monkeypatch.setattr(Sampler, "latents", counted_latents)
    return found


@pytest.fixture
def evaluate(trained, tmp_path, monkeypatch, capsys):
    """Run the program in a folder of its own; return exit code and what was printed."""
    monkeypatch.chdir(tmp_path)
    out = trained / "out"

    def evaluated(*flags, loras=("weak", "strong"), strengths=(0.5, 1), code=0, save_path="found"):
        words = ["--lora", *(out / f"{name}.safetensors" for name in loras), "--strengths", *strengths]
        words += ["--from_file", trained / "prompts.txt", "--save_path", save_path, *flags]
        capsys.readouterr()
        assert run("evaluate", trained / "job.toml", *words) == code
        return capsys.readouterr().out

    return evaluated


def written(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


def test_the_table_has_the_base_and_every_file_at_every_strength(evaluate, counts, tmp_path):
    said = evaluate("--seeds", "2")
    rows = [line.split(" | ") for line in said.splitlines() if line.startswith("| ")]
    assert [(row[0].strip("| "), row[1].strip()) for row in rows] == [
        ("LoRA", "strength"),
        ("base", "0"),
        ("weak", "0.5"),
        ("weak", "1"),
        ("strong", "0.5"),
        ("strong", "1"),
    ]
    headings = [cell.strip("| ") for cell in rows[0]]
    assert headings == [
        "LoRA",
        "strength",
        "new concept: right",
        "reddish there",
        "old knowledge: right",
        "reddish there",
        "old: change",
        "diversity",
        "drift",
    ]
    lines = said.splitlines()
    assert "new concept (spot): 1 prompts; old knowledge: 2 prompts" in lines
    assert "not in the language of the judge (toy), and not judged: prompts 3" in lines
    assert lines[-2].startswith("recommended: nothing; 2 judged pictures of a kind of prompt are too few")
    assert lines[-1] == "FINISHED 30 pictures compared in found/evaluation.md"
    page = (tmp_path / "found" / "evaluation.md").read_text()
    assert all(line in page for line in lines if line.startswith("|"))
    assert "R" + lines[-2][1:] in page


def test_the_document_holds_every_number_and_every_picture(evaluate, counts, tmp_path):
    evaluate("--seeds", "3")
    document = json.loads((tmp_path / "found" / "evaluation.json").read_text())
    base, *others = document["rows"]
    assert (base["lora"], base["strength"], base["drift"]["value"]) == (None, 0.0, 0.0)
    assert [row["strength"] for row in others] == [0.5, 1.0, 0.5, 1.0]
    for row in others:
        assert row["rates"]["concept"]["there"]["value"] == 1
        assert row["rates"]["concept"]["right"]["count"] == 3
        assert row["rates"]["old"]["right"]["count"] == 3
        assert row["drift"]["count"] == 2
        assert row["drift"]["value"] > 0
        assert row["diversity"]["count"] == 3
    assert others[1]["drift"]["value"] > others[0]["drift"]["value"]
    assert document["groups"] == {"concept": [0], "old": [1, 2]}
    assert len(document["pictures"]) == 5 * 3
    last = document["pictures"][-1]
    assert last["seeds"] == [9, 10, 11]
    assert last["answers"]["right"] == [None, None, None]
    for picture in document["pictures"]:
        assert all((tmp_path / "found" / name).is_file() for name in picture["files"])


def test_the_base_is_drawn_once_and_each_lora_is_attached_once(evaluate, counts):
    evaluate("--seeds", "2", strengths=(0.5, 0.8, 1))
    assert counts["loaded"] == 1
    assert counts["attached"] == 2
    assert len(counts["drawn"]) == 3 * 2 * (1 + 2 * 3)


def test_a_picture_is_the_one_that_the_program_for_pictures_draws(evaluate, counts, trained, tmp_path):
    evaluate("--seeds", "1", loras=("strong",), strengths=(0.5,))
    words = ["--lora_weight", trained / "out" / "strong.safetensors", "--lora_multiplier", 0, 0.5]
    words += ["--from_file", trained / "prompts.txt", "--save_path", "drawn"]
    assert run("generate_image", trained / "job.toml", *words) == 0
    document = json.loads((tmp_path / "found" / "evaluation.json").read_text())
    names = [f"strong_{number:02}_{5 + 2 * number}_x{x}.png" for x in ("0", "0.5") for number in range(3)]
    for picture, name in zip(document["pictures"], names, strict=True):
        with (
            Image.open(tmp_path / "found" / picture["files"][0]) as one,
            Image.open(f"drawn/{name}") as other,
        ):
            assert one.tobytes() == other.tobytes()


def test_the_same_command_gives_the_same_bytes_and_draws_nothing_again(evaluate, counts, tmp_path):
    first = evaluate("--seeds", "2")
    before, drawn = written(tmp_path / "found"), len(counts["drawn"])
    second = evaluate("--seeds", "2")
    assert "30 there, 0 to draw" in second
    assert first.splitlines()[-8:] == second.splitlines()[-8:]
    assert written(tmp_path / "found") == before
    assert len(counts["drawn"]) == drawn
    assert counts["loaded"] == 1
    shutil.rmtree(tmp_path / "found")
    evaluate("--seeds", "2")
    assert written(tmp_path / "found") == before


def test_more_seeds_another_strength_and_another_file_draw_only_what_is_new(evaluate, counts):
    evaluate("--seeds", "2", loras=("weak",), strengths=(1,))
    assert len(counts["drawn"]) == 3 * 2 * 2
    evaluate("--seeds", "3", loras=("weak",), strengths=(1,))
    assert len(counts["drawn"]) == 3 * 3 * 2
    evaluate("--seeds", "3", strengths=(1, 0.5))
    assert len(counts["drawn"]) == 3 * 3 * (1 + 2 * 2)
    assert counts["attached"] == 1 + 1 + 2


def test_other_weights_under_the_same_name_are_drawn_anew(evaluate, counts, trained, tmp_path):
    evaluate("--seeds", "1", loras=("weak",), strengths=(1,))
    mine = tmp_path / "mine" / "weak.safetensors"
    mine.parent.mkdir()
    save_file(
        {name: 2 * tensor for name, tensor in load_file(trained / "out/weak.safetensors").items()}, mine
    )
    before = len(counts["drawn"])
    evaluate("--seeds", "1", "--lora", mine, strengths=(1,))
    assert len(counts["drawn"]) == before + 3
    dit = tmp_path / "toy.safetensors"
    save_file(
        {name: 2 * tensor for name, tensor in load_file(trained / "models/dit.safetensors").items()}, dit
    )
    evaluate("--seeds", "1", "--dit", dit, loras=("weak",), strengths=(1,))
    assert len(counts["drawn"]) == before + 3 + 6


def test_a_stopped_evaluation_keeps_what_is_drawn_and_goes_on(evaluate, counts, tmp_path, monkeypatch):
    whole = evaluate("--seeds", "2", save_path="whole")
    drawn, latents = len(counts["drawn"]), Sampler.latents

    def interrupted(sampler, prompt):
        found = latents(sampler, prompt)
        if len(counts["drawn"]) == drawn + 7:
            os.kill(os.getpid(), signal.SIGINT)
        return found

    monkeypatch.setattr(Sampler, "latents", interrupted)
    said = evaluate("--seeds", "2", code=3)
    assert said.splitlines()[-1] == (
        "STOPPED by you after 7 of 30 pictures, which stay in found/pictures; the same command goes on"
    )
    assert not (tmp_path / "found" / "evaluation.md").exists()
    resumed = evaluate("--seeds", "2")
    assert "7 there, 23 to draw" in resumed
    assert len(counts["drawn"]) == drawn + 30
    assert written(tmp_path / "found") == written(tmp_path / "whole")
    assert resumed.splitlines()[-2] == whole.splitlines()[-2]


def test_a_stop_while_pictures_are_decoded_loses_nothing_either(evaluate, counts, tmp_path, monkeypatch):
    from host import evaluation_pictures

    save = evaluation_pictures.save_picture

    def interrupted(*words, **options):
        save(*words, **options)
        if len([*(tmp_path / "found" / "pictures").glob("*.png")]) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation_pictures, "save_picture", interrupted)
        evaluate("--seeds", "1", loras=("weak",), strengths=(1,), code=3)
    drawn = len(counts["drawn"])
    evaluate("--seeds", "1", loras=("weak",), strengths=(1,))
    assert len(counts["drawn"]) == drawn
    assert not [*(tmp_path / "found" / "pictures").glob("*.safetensors")]


def test_a_picture_that_was_damaged_is_drawn_again(evaluate, counts, tmp_path):
    evaluate("--seeds", "1", loras=("weak",), strengths=(1,))
    before = written(tmp_path / "found")
    broken = sorted((tmp_path / "found" / "pictures").glob("*.png"))[0]
    broken.write_bytes(broken.read_bytes()[:100])
    assert "5 there, 1 to draw" in evaluate("--seeds", "1", loras=("weak",), strengths=(1,))
    assert written(tmp_path / "found") == before


def test_words_of_the_concept_that_are_given_go_before_those_of_the_judge(evaluate, counts, tmp_path):
    said = evaluate("--seeds", "1", "--concept", "BLUE", "dot", loras=("weak",), strengths=(1,))
    assert "new concept (BLUE, dot): 2 prompts; old knowledge: 1 prompts" in said
    document = json.loads((tmp_path / "found" / "evaluation.json").read_text())
    assert document["groups"] == {"concept": [1, 2], "old": [0]}


def test_the_file_that_learnt_and_forgot_nothing_is_recommended(evaluate, counts, tmp_path, monkeypatch):
    """Concept right: not as the base draws it. The rest right: nearly as the base draws it."""
    drawn = defaultdict(list)

    def by_change(prompt, picture):
        drawn[prompt].append(picture.astype(float))
        base = drawn[prompt][(len(drawn[prompt]) - 1) % 8]
        change = abs(drawn[prompt][-1] - base).mean()
        return {"as wanted": bool(change > 0 if "spot" in prompt else change < MUCH)}

    judge = Judge(answers=by_change, new_words=["spot"])
    spec = replace(toy_architecture.SPEC, judges=lambda header: {"toy": judge})
    monkeypatch.setattr(toy_architecture, "SPEC", spec)
    said = evaluate("--seeds", "8", strengths=(1,))
    assert said.splitlines()[-2] == (
        "recommended: weak x1; 1.00 (1.00 to 1.00) of its pictures right, 0.50 (0.50 to 0.50) ahead of the "
        "base; told apart from the other"
    )
    document = json.loads((tmp_path / "found" / "evaluation.json").read_text())
    assert document["recommended"]["lora"].endswith("weak.safetensors")
    assert document["rows"][2]["old_change"]["value"] == -1


def test_without_a_judge_nothing_is_recommended_and_the_table_is_there(evaluate, tmp_path):
    said = evaluate("--seeds", "2", loras=("weak",), strengths=(1,))
    lines = said.splitlines()
    assert [cell.strip("| ") for cell in lines[-8].split(" | ")] == ["LoRA", "strength", "diversity", "drift"]
    assert lines[-4] == (
        "which prompts name the new concept cannot be known: --concept does not say; drift is that of all "
        "prompts"
    )
    assert lines[-3] == "nobody judges the pictures of this model: what is right in them is not measured"
    assert lines[-2] == (
        "recommended: nothing; nothing here can see the concept: there is no judge for these prompts, and no "
        "held-out loss beside the files"
    )
    assert json.loads((tmp_path / "found" / "evaluation.json").read_text())["recommended"] is None


def test_without_a_judge_held_out_losses_beside_the_file_are_used(evaluate, trained, tmp_path):
    shutil.copytree(trained / "out", tmp_path / "out")
    rounds = [
        {
            "step": step,
            "held_out": True,
            "loss": loss,
            "sigmas": [0.5],
            "by_sigma": [loss],
            "by_picture": {f"0/{number}": loss + number / 1000 for number in range(9)},
        }
        for step, loss in ((0, 0.5), (6, 0.4))
    ]
    (tmp_path / "out" / "weak_validation.jsonl").write_text("\n".join(map(json.dumps, rounds)))
    said = evaluate("--seeds", "1", "--lora", tmp_path / "out" / "weak.safetensors", strengths=(0.5, 1))
    assert said.splitlines()[-2].startswith(
        "recommended: weak x1, by the held-out loss: 0.1000 +- 0.0000 below the base over 9 pictures"
    )


def test_one_seed_has_no_diversity_and_strength_0_is_the_base_itself(evaluate, counts):
    said = evaluate("--seeds", "1", loras=("weak",), strengths=(0, 1))
    assert "6 pictures: 0 there" in said
    row = next(line for line in said.splitlines() if line.startswith("| weak"))
    assert row.split(" | ")[-2].strip() == "-"


def test_files_of_one_name_are_told_apart_by_their_folders(evaluate, trained, tmp_path):
    shutil.copytree(trained / "out", tmp_path / "copied")
    said = evaluate(
        "--seeds",
        "1",
        "--lora",
        "copied/weak.safetensors",
        trained / "out" / "weak.safetensors",
        strengths=(1,),
    )
    assert "| copied/weak " in said


def test_the_grid_shows_a_row_a_prompt_and_a_column_for_base_and_each_strength(evaluate, counts, tmp_path):
    from host.evaluation_grid import NARROWEST_FRAME, VERDICTS
    from host.grids import GAP

    evaluate("--seeds", "1", loras=("weak",), strengths=(0.5, 1))
    with Image.open(tmp_path / "found" / "evaluation.png") as grid:
        wide = grid.convert("RGB")
    colours = {colour for _, colour in wide.getcolors(1 << 24) or ()}
    assert VERDICTS[True] in colours or VERDICTS[False] in colours
    evaluate("--seeds", "1", loras=("weak",), strengths=(1,))
    with Image.open(tmp_path / "found" / "evaluation.png") as grid:
        assert grid.height == wide.height
        assert wide.width - grid.width == 2 * (96 + 2 * NARROWEST_FRAME) + GAP


def test_everything_that_is_wrong_is_told_at_once_before_a_weight_is_read(refusal, trained, tmp_path):
    (tmp_path / "bad.txt").write_text("a spot --w 64\na dot --q 3\n")
    (tmp_path / "text.safetensors").write_text("no tensors")
    message = refusal(
        trained / "job.toml",
        "--vae",
        "nowhere.safetensors",
        "--lora",
        tmp_path / "missing.safetensors",
        trained / "models" / "dit.safetensors",
        tmp_path / "text.safetensors",
        trained / "models" / "vae.safetensors",
        trained / "out" / "weak.safetensors",
        trained / "out" / ".." / "out" / "weak.safetensors",
        "--strengths",
        "0.5",
        "much",
        "0.50",
        "nan",
        "--seeds",
        "none",
        "--from_file",
        tmp_path / "bad.txt",
        program="evaluate",
    )
    for part in (
        "--strengths: 'much' is not a number.",
        "--strengths: 'nan' is not a number.",
        "--strengths has 0.5 2 times.",
        "--seeds 'none' is not a whole number from 1 to 1000.",
        f"--lora has {trained / 'out' / 'weak.safetensors'} more than once.",
        "bad.txt, line 2, column 7: --q is not known.",
        "vae = 'nowhere.safetensors' does not exist",
        "missing.safetensors does not exist.",
        "dit.safetensors is a toy transformer, not a LoRA: full training writes whole transformers.",
        "Draw with it as the base:  --dit ",
        "text.safetensors is not a safetensors file, or only the beginning of one.",
        "vae.safetensors' does not fit this transformer: mix.weight",
        "python convert_lora.py",
    ):
        assert part in message, part


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        ([], "No LoRA is named."),
        (["--lora", "job.toml"], "Put the training file first:  python evaluate.py job.toml --lora ..."),
        (["--strengths"], "The command line cannot be read: argument --strengths: expected at least one"),
        (["--strengths", "0"], "--strengths has only 0, which is the base alone."),
        (["--seeds", "0"], "--seeds '0' is not a whole number from 1 to 1000."),
        (["--concept", "blob"], "--concept 'blob' is in no prompt of "),
        (["--from_file", "nowhere.txt"], "nowhere.txt cannot be read"),
        (["--from_file", "same.txt"], "same.txt: prompts 1 and 3 are the same but for the seed."),
        (["--learning_rat", "1"], "learning_rat"),
    ],
)
def test_a_word_of_the_command_line_that_is_wrong_is_named(
    refusal, trained, tmp_path, monkeypatch, flags, part
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "same.txt").write_text("a spot --d 1\na dot --d 1\na spot --d 2\n")
    words = [] if flags == [] else ["--lora", trained / "out" / "weak.safetensors"]
    if "--from_file" not in flags:
        words += ["--from_file", trained / "prompts.txt"]
    assert part in refusal(trained / "job.toml", *words, *flags, program="evaluate")


def test_a_lora_with_half_of_a_pair_is_refused_in_words(evaluate, counts, trained, tmp_path):
    tensors = load_file(trained / "out" / "weak.safetensors")
    half = next(name for name in tensors if name.endswith("lora_up.weight"))
    del tensors[half]
    save_file(tensors, tmp_path / "half.safetensors")
    said = evaluate("--seeds", "1", "--lora", "half.safetensors", code=2)
    assert "FAILED: E15 --lora half.safetensors cannot be attached: " in said


def test_without_prompts_it_says_where_they_are_looked_for(refusal, trained):
    words = ["--lora", trained / "out" / "weak.safetensors"]
    message = refusal(trained / "job.toml", *words, program="evaluate")
    assert "There is no prompt: neither --from_file nor sample_prompts is given." in message


def test_what_full_training_wrote_is_refused_as_a_lora_by_the_program_for_pictures_too(refusal, trained):
    words = ["--lora_weight", trained / "models" / "dit.safetensors", "--prompt", "a spot"]
    message = refusal(trained / "job.toml", *words, program="generate_image")
    assert "is a toy transformer, not a LoRA" in message


def test_the_command_on_the_page_is_the_one_of_the_readme_which_is_run():
    (command,) = re.findall(r"```bash\n(.*)\n```", (ROOT / "docs" / "evaluation.md").read_text())
    assert f"\n{command}\n" in (ROOT / "README.md").read_text()
