"""The whole transformer against diffusers' FluxTransformer2DModel on tiny random weights."""

from functools import partial

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from diffusers.models.embeddings import Timesteps
from flux_oracle import (
    GEOMETRIES,
    SMALL,
    call_diffusers,
    diffusers_transformer,
    diffusers_weights,
    random_flux,
    random_inputs,
)
from torch.utils.checkpoint import checkpoint

from musubi_flux_dev.transformer import Flux, FluxParams

MODULES_OF_A_DOUBLE_BLOCK = ("mod.lin", "attn.qkv", "attn.proj", "mlp.0", "mlp.2")
MODULES_OF_A_SINGLE_BLOCK = ("linear1", "linear2", "modulation.lin")


def output_and_gradients(model, inputs):
    leaves = [inputs[name].detach().clone().requires_grad_() for name in ("img", "txt", "y")]
    velocity = model({**inputs, "img": leaves[0], "txt": leaves[1], "y": leaves[2]})
    return velocity.detach(), torch.autograd.grad(velocity.square().mean() * 1000, leaves)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_velocity_and_gradients_match_diffusers(name, batch):
    flux = random_flux(GEOMETRIES[name])
    theirs = diffusers_transformer(flux)
    inputs = random_inputs(flux.params, batch=batch)

    ours = output_and_gradients(lambda given: flux(**given), inputs)
    expected = output_and_gradients(partial(call_diffusers, theirs), inputs)

    assert expected[0].std() > 0.8  # else the tolerance would mean little
    # float32 in another order of summation; the smallest slip of the list (erf GELU) moves 6e-4.
    torch.testing.assert_close(ours[0], expected[0], rtol=0, atol=1e-5)
    for gradient, reference in zip(ours[1], expected[1], strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-4 * float(reference.std()))


@pytest.mark.parametrize(("rows", "columns", "text_tokens"), [(1, 1, 1), (2, 9, 40), (6, 3, 2)])
def test_velocity_matches_diffusers_for_every_shape_of_picture_and_text(rows, columns, text_tokens):
    flux = random_flux(SMALL)
    inputs = random_inputs(SMALL, rows=rows, columns=columns, text_tokens=text_tokens)
    expected = call_diffusers(diffusers_transformer(flux), inputs)
    torch.testing.assert_close(flux(**inputs), expected, rtol=0, atol=1e-5)


def test_velocity_in_bfloat16_is_as_near_to_float32_as_that_of_diffusers():
    flux = random_flux(SMALL)
    # Values that bfloat16 and a factor of 1000 keep exact, for diffusers rounds both before the waves.
    inputs = {
        **random_inputs(SMALL),
        "timesteps": torch.tensor([0.5, 0.125]),
        "guidance": torch.tensor([4.0, 1.0]),
    }
    halved = {name: inputs[name].bfloat16() for name in ("img", "txt", "y")}
    inputs |= {name: value.float() for name, value in halved.items()}
    precise = flux(**inputs)
    weights_rounded = random_flux(SMALL).bfloat16()

    ours = weights_rounded(**inputs)
    theirs = call_diffusers(diffusers_transformer(weights_rounded), inputs | halved)

    assert ours.dtype == torch.bfloat16
    # Fused and separate q, k, v sum in another order; a last place of 2 ** -8 spreads through 5 blocks.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.05)
    our_error, their_error = ((each.float() - precise).square().mean().sqrt() for each in (ours, theirs))
    assert our_error < 1.1 * their_error


def test_noise_level_and_guidance_stay_float32_up_to_the_sinusoid_of_a_bfloat16_model():
    flux = random_flux(SMALL).bfloat16()
    seen = {}

    def record(module, given):
        seen[module] = given[0]

    embedders = {name: flux.get_submodule(name) for name in ("time_in", "guidance_in")}
    for embedder in embedders.values():
        embedder.register_forward_pre_hook(record)
    inputs = random_inputs(SMALL) | {
        "timesteps": torch.tensor([0.7003, 0.33337]),
        "guidance": torch.tensor([3.3, 1.0]),
    }

    flux(**inputs)

    for name, values in (("time_in", inputs["timesteps"]), ("guidance_in", inputs["guidance"])):
        expected = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)(1000 * values)
        assert torch.equal(seen[embedders[name]], expected.bfloat16())


@pytest.mark.parametrize("guidance_embed", [True, False])
def test_guidance_that_does_not_fit_the_model_is_an_error(guidance_embed):
    params = GEOMETRIES["small" if guidance_embed else "no guidance"]
    flux = Flux(params)
    inputs = random_inputs(params) | {"guidance": None if guidance_embed else torch.ones(2)}
    with pytest.raises(ValueError, match="guidance"):
        flux(**inputs)


def test_a_pooled_vector_with_a_token_axis_is_an_error():
    flux = Flux(SMALL)
    inputs = random_inputs(SMALL)
    # The annotation refuses it where annotations are checked, the assertion everywhere else.
    with pytest.raises((AssertionError, TypeError)):
        flux(**inputs | {"y": inputs["y"][:, None]})


def test_blocks_take_and_return_tensors_so_that_a_host_can_wrap_them():
    flux = random_flux(SMALL)
    inputs = random_inputs(SMALL)
    plain = output_and_gradients(lambda given: flux(**given), inputs)
    for block in (*flux.double_blocks, *flux.single_blocks):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    again = output_and_gradients(lambda given: flux(**given), inputs)
    assert torch.equal(plain[0], again[0])
    assert all(torch.equal(one, other) for one, other in zip(plain[1], again[1], strict=True))


def test_a_sample_does_not_depend_on_its_neighbours_in_the_batch():
    flux = random_flux(SMALL)
    inputs = random_inputs(SMALL)
    both = flux(**inputs)
    second = flux(**{name: value[1:] for name, value in inputs.items()})
    torch.testing.assert_close(both[1:], second, rtol=0, atol=1e-5)


def published_names(*, guidance):
    """The names of section 2 of the published files, written out once more."""
    embedders = ["time_in", "vector_in", *(["guidance_in"] if guidance else [])]
    linears = ["img_in", "txt_in", "final_layer.linear", "final_layer.adaLN_modulation.1"]
    linears += [f"{embedder}.{layer}" for embedder in embedders for layer in ("in_layer", "out_layer")]
    norms = []
    for n in range(19):
        streams = [f"double_blocks.{n}.{stream}_" for stream in ("img", "txt")]
        linears += [stream + module for stream in streams for module in MODULES_OF_A_DOUBLE_BLOCK]
        norms += [stream + "attn" for stream in streams]
    for n in range(38):
        linears += [f"single_blocks.{n}.{module}" for module in MODULES_OF_A_SINGLE_BLOCK]
        norms += [f"single_blocks.{n}"]
    names = {f"{linear}.{leaf}" for linear in linears for leaf in ("weight", "bias")}
    return names | {f"{norm}.norm.{which}_norm.scale" for norm in norms for which in ("query", "key")}


@pytest.mark.parametrize(
    ("guidance", "tensors", "parameters"), [(True, 780, 11_901_408_320), (False, 776, 11_891_178_560)]
)
def test_names_and_sizes_are_those_of_the_published_files(guidance, tensors, parameters):
    with torch.device("meta"):
        flux = Flux(FluxParams(guidance_embed=guidance))
    weights = flux.state_dict()
    assert len(weights) == tensors
    assert sum(weight.numel() for weight in weights.values()) == parameters
    assert weights.keys() == published_names(guidance=guidance)
    assert not list(flux.buffers())


def test_the_oracle_renames_weights_as_the_converter_of_diffusers_does():
    with torch.device("meta"):
        names = Flux(FluxParams(depth=1, depth_single_blocks=1)).state_dict()
    generator = torch.Generator().manual_seed(7)
    # Their converter assumes the real number of rows; two columns are enough to see where each row goes.
    weights = {
        name: torch.randn(len(weight), *([2] * (weight.ndim - 1)), generator=generator)
        for name, weight in names.items()
    }
    expected = convert_flux_transformer_checkpoint_to_diffusers(dict(weights))
    renamed = diffusers_weights(weights)
    assert renamed.keys() == expected.keys()
    assert all(torch.equal(renamed[name], expected[name]) for name in expected)


def test_sizes_that_do_not_fit_together_are_an_error():
    with pytest.raises(ValueError, match="axes_dim"):
        FluxParams(axes_dim=(16, 56, 54))
    with pytest.raises(ValueError, match="num_heads"):
        FluxParams(num_heads=25)
