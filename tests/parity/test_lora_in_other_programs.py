"""What a saved LoRA does elsewhere: our live adapter, diffusers with our file, and our merged file agree."""

import json

import pytest
import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from flux_oracle import (
    call_diffusers,
    diffusers_transformer,
    diffusers_weights,
    random_flux,
    random_inputs,
)
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from musubi_flux_dev.architecture import FLUX_DEV
from musubi_flux_dev.checkpoints import load_transformer
from musubi_flux_dev.lora_layout import DIFFUSERS
from musubi_flux_dev.transformer import Flux, FluxParams
from networks.diffusers_files import write_diffusers_lora
from networks.files import write_lora
from networks.lora import attach
from networks.merge import merge_lora

PREFIX = FLUX_DEV.adapter_layout.kohya_prefix
TINY = FluxParams(
    in_channels=16,
    out_channels=16,
    vec_in_dim=20,
    context_in_dim=24,
    hidden_size=128,
    num_heads=4,
    depth=2,
    depth_single_blocks=3,
    axes_dim=(4, 14, 14),
)
REAL = FluxParams(vec_in_dim=20, context_in_dim=24, depth=1, depth_single_blocks=1)
TOLERANCE = 1e-5
"""Float32 in another order of summation; outputs have a deviation of about 1."""


def linears_of(flux):
    return [name for name, module in flux.named_modules() if isinstance(module, nn.Linear)]


def in_blocks(flux):
    return [name for name in linears_of(flux) if "_blocks." in name]


def live_adapter(flux, paths, *, alpha=3.0):
    """A LoRA whose change is about as large as what it changes, with ranks that differ."""
    ranks = {path: 2 + 2 * (number % 2) for number, path in enumerate(paths)}
    adapter = attach(flux, paths, rank=ranks, alpha=alpha, dropout=0.0, seed=0)
    generator = torch.Generator().manual_seed(5)
    for layer in adapter.layers.values():
        layer.down.data = torch.randn(layer.down.shape, generator=generator) / layer.down.shape[1] ** 0.5
        layer.up.data = 0.3 * torch.randn(layer.up.shape, generator=generator)
    return adapter


def load_into_diffusers(theirs, path):
    """Load a LoRA file as ``FluxPipeline.load_lora_weights`` does, without the pipeline's other parts."""
    state, alphas, metadata = FluxPipeline.lora_state_dict(
        str(path.parent),
        weight_name=path.name,
        return_alphas=True,
        return_lora_metadata=True,
        local_files_only=True,
    )
    FluxPipeline.load_lora_into_transformer(
        state, network_alphas=alphas, transformer=theirs, metadata=metadata
    )
    return state


def save_transformer(flux, path):
    weights = flux.state_dict()
    save_file(
        {
            name.replace(".base.", "."): w
            for name, w in weights.items()
            if not name.endswith((".down", ".up"))
        },
        path,
    )


def merged_output(flux, adapter, inputs, folder):
    base, merged = folder / "base.safetensors", folder / "merged.safetensors"
    save_transformer(flux, base)
    merge_lora(base, merged, factors=adapter.factors(), prefix="", strength=1.0)
    return load_transformer(merged, device="cpu")(**inputs)


@pytest.fixture
def tiny():
    flux = random_flux(TINY)
    return flux, diffusers_transformer(flux), random_inputs(TINY)


def test_diffusers_and_the_merged_file_do_what_the_live_adapter_does_on_every_linear(tiny, tmp_path):
    flux, theirs, inputs = tiny
    untrained = flux(**inputs)
    adapter = live_adapter(flux, linears_of(flux))
    live = flux(**inputs)
    path = tmp_path / "lora.safetensors"
    write_diffusers_lora(path, adapter.factors(), layout=DIFFUSERS, dtype=torch.float32, metadata={})

    load_into_diffusers(theirs, path)

    assert (live - untrained).abs().max() > 0.5  # else the tolerance would mean little
    torch.testing.assert_close(call_diffusers(theirs, inputs), live, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(merged_output(flux, adapter, inputs, tmp_path), live, rtol=0, atol=TOLERANCE)


def test_diffusers_reads_the_same_scale_without_the_headers_words(tiny, tmp_path):
    flux, theirs, inputs = tiny
    adapter = live_adapter(flux, linears_of(flux))
    path = tmp_path / "lora.safetensors"
    write_diffusers_lora(path, adapter.factors(), layout=DIFFUSERS, dtype=torch.float32, metadata={})
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no dictionary
    save_file(tensors, path)

    load_into_diffusers(theirs, path)

    torch.testing.assert_close(call_diffusers(theirs, inputs), flux(**inputs), rtol=0, atol=TOLERANCE)


def test_diffusers_takes_ranks_and_alphas_from_our_header(tiny, tmp_path):
    flux, theirs, _ = tiny
    adapter = live_adapter(flux, linears_of(flux))
    path = tmp_path / "lora.safetensors"
    write_diffusers_lora(path, adapter.factors(), layout=DIFFUSERS, dtype=torch.float32, metadata={})
    with safe_open(path, framework="pt") as file:
        words = json.loads(file.metadata()["lora_adapter_metadata"])

    load_into_diffusers(theirs, path)

    config = next(iter(theirs.peft_config.values()))
    assert config.rank_pattern == config.alpha_pattern == words["transformer.rank_pattern"] != {}
    layers = [module for module in theirs.modules() if hasattr(module, "scaling")]
    assert len(layers) == len(words["transformer.target_modules"])
    assert all(set(layer.scaling.values()) == {1.0} for layer in layers)


def fill_quickly(flux):
    """Give a large transformer weights of the right size: one pool of numbers, read from many places."""
    pool = torch.randn(1 << 22, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for number, (name, parameter) in enumerate(flux.named_parameters()):
            width = parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 10.0
            flat, source = parameter.view(-1), (pool.roll(7919 * number) / width)
            for start in range(0, flat.numel(), source.numel()):
                flat[start : start + source.numel()] = source[: flat.numel() - start]
            if name.endswith("scale"):
                parameter.add_(1.0)


def real_width_transformers():
    """One double and one single block at the published width, ours and diffusers', sharing their weights."""
    with torch.device("meta"):
        flux = Flux(REAL)
        theirs = FluxTransformer2DModel(
            num_layers=1,
            num_single_layers=1,
            joint_attention_dim=24,
            pooled_projection_dim=20,
            guidance_embeds=True,
        )
    flux = flux.to_empty(device="cpu").requires_grad_(False)
    fill_quickly(flux)
    theirs.load_state_dict(diffusers_weights(flux.state_dict()), strict=True, assign=True)
    return flux, theirs.requires_grad_(False)


def test_at_the_published_width_both_files_do_in_diffusers_what_the_live_adapter_does(tmp_path):
    flux, theirs = real_width_transformers()
    inputs = random_inputs(REAL, batch=1, rows=2, columns=3, text_tokens=4)
    untrained = flux(**inputs)
    adapter = live_adapter(flux, in_blocks(flux), alpha=1.0)
    live = flux(**inputs)
    path, kohya = tmp_path / "lora.safetensors", tmp_path / "kohya.safetensors"
    write_diffusers_lora(path, adapter.factors(), layout=DIFFUSERS, dtype=torch.float32, metadata={})
    write_lora(kohya, adapter.factors(), prefix=PREFIX, dtype=torch.float32, metadata={})

    converted = load_into_diffusers(theirs, kohya)
    from_kohya = call_diffusers(theirs, inputs)
    theirs.delete_adapters(["default_0"])
    ours = load_into_diffusers(theirs, path)
    from_diffusers = call_diffusers(theirs, inputs)

    assert (live - untrained).abs().max() > 0.1
    assert converted.keys() == ours.keys()
    torch.testing.assert_close(from_diffusers, live, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(from_kohya, live, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(merged_output(flux, adapter, inputs, tmp_path), live, rtol=0, atol=TOLERANCE)


def test_diffusers_passes_over_what_kohyas_keys_say_of_linears_outside_of_the_blocks(tiny, tmp_path):
    # So docs/lora_files.md says; the day this fails, that exception can go.
    flux, theirs, inputs = tiny
    untrained = call_diffusers(theirs, inputs)
    adapter = live_adapter(flux, ["img_in", "double_blocks.0.img_attn.proj"])
    adapter.layers["double_blocks.0.img_attn.proj"].up.data.zero_()
    path = tmp_path / "kohya.safetensors"
    write_lora(path, adapter.factors(), prefix=PREFIX, dtype=torch.float32, metadata={})

    load_into_diffusers(theirs, path)

    assert (flux(**inputs) - untrained).abs().max() > 0.1
    torch.testing.assert_close(call_diffusers(theirs, inputs), untrained, rtol=0, atol=TOLERANCE)
