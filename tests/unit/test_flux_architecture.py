"""What FLUX.1's own check finds about files that do not fit each other."""

import torch
from safetensors.torch import load_file, save_file

from host.architecture import read_header
from musubi_flux_dev import FLUX_DEV


def looked_at(files):
    names = ("dit", "vae", "text_encoder", "text_encoder2")
    found = {name: FLUX_DEV.identify(read_header(files[name])) for name in names}
    return FLUX_DEV.check_files(files, {name: part for name, part in found.items() if part is not None})


def test_encoders_of_the_transformer_s_width_are_fine(tmp_path):
    assert looked_at(FLUX_DEV.tiny(tmp_path)) == []


def test_an_encoder_of_another_width_is_named_with_both_widths(tmp_path):
    files = FLUX_DEV.tiny(tmp_path)
    weights = load_file(files["text_encoder2"])
    for name in ("shared.weight", "encoder.embed_tokens.weight"):
        if name in weights:
            weights[name] = torch.zeros(weights[name].shape[0], 96)
    save_file(weights, files["text_encoder2"])
    (problem,) = looked_at(files)
    assert problem.code == "E17"
    assert "T5 vectors of width 96" in problem.what
    assert "takes 64" in problem.what
