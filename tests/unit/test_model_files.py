"""Every FLUX file in every setting: put right and said, or refused with the place where it belongs."""

import shutil
from itertools import permutations, product

import pytest
import torch
from safetensors.torch import save_file

from host.model_files import find_model_files, unfit_lora
from host.prepare import ModelSettings
from musubi_flux_dev import FLUX_DEV
from musubi_flux_dev.tiny import tiny
from networks.factors import Factors
from networks.files import write_lora

SLOTS = ("dit", "vae", "text_encoder", "text_encoder2")
KINDS = {
    "dit": "a FLUX.1 transformer",
    "vae": "a FLUX.1 autoencoder",
    "text_encoder": "a CLIP-L text encoder",
    "text_encoder2": "a T5-XXL text encoder",
    "network_weights": "a LoRA",
}
NEEDED = {"dit": "transformer", "vae": "autoencoder", "text_encoder": "clip-l", "text_encoder2": "t5"}
LINEARS = {"double_blocks.0.img_attn.proj": (48, 32)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flux")
    return {**tiny(folder), "network_weights": saved_lora(folder / "lora.safetensors")}


def saved_lora(path, *, out=48, width=32):
    factors = Factors(down=torch.ones(2, width), up=torch.ones(out, 2), alpha=2.0)
    write_lora(path, dict.fromkeys(LINEARS, factors), prefix="lora_unet_", dtype=torch.bfloat16, metadata={})
    return path


def find(files, *, needed=SLOTS, **changed):
    """Return the files that are found, and the problems as they are printed."""
    paths = {**{slot: files[slot] for slot in (*SLOTS, "tokenizer", "tokenizer2")}, **changed}
    model = ModelSettings(dit=paths.pop("dit"), vae=paths.pop("vae"))
    found, problems = find_model_files(FLUX_DEV, model, FLUX_DEV.settings(**paths), needed=needed)
    return found, [str(problem) for problem in problems]


def test_the_right_files_are_right(files):
    found, problems = find(files)
    assert problems == []
    assert found.notes == ()
    assert {slot: part.role.replace("_", "-") for slot, part in found.parts.items()} == NEEDED
    assert found.variant.name == "dev"


@pytest.mark.parametrize(("slot", "home"), [pair for pair in product(SLOTS, KINDS) if pair[0] != pair[1]])
def test_a_file_in_anothers_setting_is_told_where_it_belongs(files, slot, home):
    _, (problem,) = find(files, **{slot: files[home]})
    what, belongs, write = problem.splitlines()
    assert what.startswith(f"E15 {slot} = '{files[home]}' is {KINDS[home]}")
    assert what.endswith(f"; the file of the {NEEDED[slot]} is needed here.")
    assert belongs.strip() == f"It belongs in:  {home} = '{files[home]}'"
    assert write.strip().startswith(f"Write:  {slot} = '")


def test_clip_and_t5_are_read_in_either_order_and_it_is_said(files):
    found, problems = find(files, text_encoder=files["text_encoder2"], text_encoder2=files["text_encoder"])
    assert problems == []
    assert {slot: found.paths[slot] for slot in SLOTS} == {slot: files[slot] for slot in SLOTS}
    assert (found.parts["text_encoder"].role, found.parts["text_encoder2"].role) == ("clip_l", "t5")
    (note,) = found.notes
    assert note.startswith("text_encoder and text_encoder2 were given the other way round")
    assert f"read as text_encoder = '{files['text_encoder']}'" in note


@pytest.mark.parametrize("order", list(permutations(SLOTS)), ids=" ".join)
def test_in_whatever_order_the_files_are_given_all_wrong_ones_are_named(files, order):
    given = {slot: files[other] for slot, other in zip(SLOTS, order, strict=True)}
    found, problems = find(files, **given)
    wrong = [slot for slot in SLOTS if found.parts[slot].role.replace("_", "-") != NEEDED[slot]]
    assert [problem.split()[1] for problem in problems] == wrong
    assert bool(found.notes) == any(found.paths[slot] != given[slot] for slot in SLOTS)


def test_what_is_missing_wrong_and_without_tokenizer_is_told_together(files, tmp_path):
    lonely = shutil.copy(files["text_encoder"], tmp_path / "clip.safetensors")
    _, problems = find(
        files, dit=None, vae=files["text_encoder2"], text_encoder=lonely, tokenizer=None, tokenizer2=tmp_path
    )
    assert problems[0].startswith('"dit" is not set')
    assert problems[1].startswith("E15 vae = ")
    assert [problem[:3] for problem in problems[2:]] == ["E20", "E20"]
    assert len(problems) == 4


def test_a_wrong_encoder_is_not_also_asked_for_its_tokenizer(files, tmp_path):
    wrong = shutil.copy(files["vae"], tmp_path / "ae.safetensors")
    for path in (wrong, tmp_path / "gone.safetensors"):
        _, (problem,) = find(files, text_encoder=path, tokenizer=None)
        assert problem.startswith("E15 text_encoder = ")


def test_a_file_that_this_program_does_not_need_may_be_absent_but_not_wrong(files):
    assert find(files, needed=["vae"], dit=None)[1] == []
    assert len(find(files, needed=["vae"], dit=files["vae"])[1]) == 1


def test_without_a_transformer_the_published_variant_is_assumed(files):
    assert find(files, needed=["vae"], dit=None)[0].variant == FLUX_DEV.default_variant


UNFIT = {
    "flux1-dev-Q4_K_S.gguf": "is a GGUF file",
    "model.ckpt": "is a pickled file, which can run code",
    "model.pt": "is a pickled file, which can run code",
    "model.pth": "is a pickled file, which can run code",
    "pytorch_model.bin": "is a pickled file, which can run code",
}


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("name", UNFIT)
def test_what_is_no_safetensors_file_is_refused_by_name(files, tmp_path, slot, name):
    path = tmp_path / name
    path.write_bytes(b"GGUF")
    _, (problem,) = find(files, **{slot: path})
    assert problem.startswith(f"E16 {slot} = '{path}' {UNFIT[name]}")
    assert "Use the .safetensors file of the same weights" in problem


CONTENTS = {
    "has 0 bytes": b"",
    "is a web page, not a model file": b"\n<!DOCTYPE html><html><body>Log in</body></html>",
    "is not a safetensors file": b"PK\3\4" + bytes(60),
}


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("reason", CONTENTS)
def test_what_a_failed_download_left_is_named_with_its_setting(files, tmp_path, slot, reason):
    path = tmp_path / "model.safetensors"
    path.write_bytes(CONTENTS[reason])
    _, (problem,) = find(files, **{slot: path})
    assert problem.startswith(f"E16 {slot} ")
    assert f"{path}" in problem
    assert reason in problem


@pytest.mark.parametrize("slot", SLOTS)
def test_a_file_that_was_cut_off_is_named_with_its_sizes(files, tmp_path, slot):
    whole = files[slot].read_bytes()
    path = tmp_path / "model.safetensors"
    path.write_bytes(whole[:-1])
    _, (problem,) = find(files, **{slot: path})
    assert problem.startswith(f"E16 {slot} cannot be used: {path} ends early")
    assert f"{len(whole) - 1:,} of {len(whole):,} bytes" in problem
    assert "Fetch the file again" in problem


def test_a_header_that_was_cut_off_is_no_traceback(files, tmp_path):
    path = tmp_path / "model.safetensors"
    for length in (3, 8, 100):
        path.write_bytes(files["dit"].read_bytes()[:length])
        assert "is not a safetensors file" in find(files, dit=path)[1][0]


def test_a_folder_without_a_model_is_refused(files, tmp_path):
    _, (problem,) = find(files, dit=tmp_path)
    assert problem.startswith(f"E16 dit cannot be used: {tmp_path} is a folder. It holds no .safetensors")
    assert "Name the single .safetensors file" in problem


def test_a_file_that_may_not_be_read_is_named(files, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("host.model_files.read_header", refuse)
    _, problems = find(files)
    assert len(problems) == 4
    assert problems[0].startswith(f"E16 dit = '{files['dit']}' cannot be read: Permission denied.")


def test_a_missing_file_is_told_with_what_lies_there_instead(files):
    absent = files["dit"].with_name("flux1-dev.safetensors")
    _, (problem,) = find(files, dit=absent)
    assert problem.startswith(f"E15 dit = '{absent}' does not exist.")
    assert "In that folder: ae.safetensors, clip_l.safetensors" in problem
    _, (problem,) = find(files, dit=absent.parent / "nowhere" / absent.name)
    assert "Correct the line  dit = ..." in problem


def test_a_model_of_nobody_is_said_to_be_unknown(files, tmp_path):
    save_file({"weight": torch.zeros(2, 2)}, tmp_path / "mine.safetensors")
    _, (problem,) = find(files, vae=tmp_path / "mine.safetensors")
    assert "is none of the model files known here" in problem
    assert "It needs the file of the autoencoder" in problem


def test_a_transformer_of_another_layout_is_refused_with_its_setting(files, tmp_path):
    path = tmp_path / "diffusers.safetensors"
    save_file({"single_transformer_blocks.0.proj_mlp.weight": torch.zeros(2, 2)}, path)
    _, (problem,) = find(files, dit=path)
    assert problem.startswith(f"E16 dit cannot be used: {path} is a FLUX.1 transformer")


def test_a_lora_of_this_transformer_may_be_continued_from(files):
    assert unfit_lora(files["network_weights"], linears=LINEARS, kohya_prefix="lora_unet_") == []


@pytest.mark.parametrize("size", [{"out": 49}, {"width": 31}])
def test_a_lora_of_another_width_is_refused(tmp_path, size):
    path = saved_lora(tmp_path / "other.safetensors", **size)
    (problem,) = unfit_lora(path, linears=LINEARS, kohya_prefix="lora_unet_")
    assert problem.what.startswith(f"network_weights = '{path}' does not fit this transformer")
    assert "lora_unet_double_blocks_0_img_attn_proj.lora_" in problem.what


def test_a_whole_model_is_no_lora_to_continue_from(files):
    (problem,) = unfit_lora(files["dit"], linears=LINEARS, kohya_prefix="lora_unet_")
    assert "does not fit this transformer" in problem.what
    assert "and " in problem.what
    assert "more" in problem.what
