"""A full sampling run against diffusers' FluxPipeline, and a training step against its models.

diffusers 0.42.1, CPU, float32, on the seeded tiny files.
"""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from flux_oracle import diffusers_autoencoder, diffusers_transformer

from dataset.batch import Batch
from host.architecture import read_header
from host.checkpointing import checkpoint_blocks
from host.fit import FitSettings
from host.flow_matching import NoiseSettings
from host.objective import Objective
from host.prompts import SamplePrompt
from host.sampling import Sampler, initial_noise, to_picture
from musubi_flux_dev import FLUX_DEV
from networks.lora import attach
from networks.selection import select_linears


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    files = FLUX_DEV.tiny(tmp_path_factory.mktemp("tiny"))
    transformer: Any = FLUX_DEV.load_transformer(files["dit"], device="cpu", dtype=torch.float32)
    autoencoder: Any = FLUX_DEV.load_autoencoder(files["vae"], device="cpu", dtype=torch.float32)
    part = FLUX_DEV.identify(read_header(files["dit"]))
    assert part is not None
    generator = torch.Generator().manual_seed(5)
    return SimpleNamespace(
        files=files,
        transformer=transformer,
        autoencoder=autoencoder,
        variant=part.variant,
        theirs=diffusers_transformer(transformer),
        their_autoencoder=diffusers_autoencoder(autoencoder),
        text={
            name: {
                "t5_hidden": torch.randn(512, 64, generator=generator),
                "clip_pooled": torch.randn(64, generator=generator),
            }
            for name in ("wanted", "unwanted")
        },
    )


def pipeline(tiny):
    scheduler = FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1000,
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )
    parts: dict[str, Any] = dict(
        scheduler=scheduler,
        vae=tiny.their_autoencoder,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=tiny.theirs,
    )
    made: Any = FluxPipeline(**parts)
    made.set_progress_bar_config(disable=True)
    return made


def sampler(tiny):
    return Sampler(
        architecture=FLUX_DEV,
        variant=tiny.variant,
        transformer=tiny.transformer,
        conditioning=tiny.text,
        device=torch.device("cpu"),
        seed=42,
    )


# Not square; with distilled guidance alone, and with a negative prompt beside it.
@pytest.mark.parametrize("cfg_scale", [1.0, 2.5])
def test_a_whole_sampling_run_gives_the_latents_and_the_pixels_of_the_pipeline(tiny, cfg_scale):
    prompt = SamplePrompt(
        prompt="wanted",
        negative_prompt="unwanted",
        width=96,
        height=64,
        seed=9,
        steps=6,
        guidance=3.5,
        cfg_scale=cfg_scale,
    )
    noise = initial_noise(channels=16, height=8, width=12, seed=9)
    packed = FluxPipeline._pack_latents(noise, 1, 16, 8, 12)
    negative = {
        "negative_prompt_embeds": tiny.text["unwanted"]["t5_hidden"][None],
        "negative_pooled_prompt_embeds": tiny.text["unwanted"]["clip_pooled"][None],
        "true_cfg_scale": cfg_scale,
    }
    with torch.no_grad():
        expected = pipeline(tiny)(
            prompt_embeds=tiny.text["wanted"]["t5_hidden"][None],
            pooled_prompt_embeds=tiny.text["wanted"]["clip_pooled"][None],
            latents=packed,
            height=64,
            width=96,
            num_inference_steps=6,
            guidance_scale=3.5,
            output_type="latent",
            **(negative if cfg_scale > 1 else {}),
        ).images
        expected = FluxPipeline._unpack_latents(expected, 64, 96, 8)
        raw = expected / 0.3611 + 0.1159
        pixels = tiny.their_autoencoder.decode(raw).sample
    latents = sampler(tiny).latents(prompt)
    # Six calls of the model, each within 2e-6; the last steps of the walk add up.
    torch.testing.assert_close(latents, expected, rtol=0, atol=2e-5)
    with torch.no_grad():
        torch.testing.assert_close(tiny.autoencoder.decode(latents), pixels, rtol=0, atol=5e-4)
    assert to_picture(pixels[0]).size == (96, 64)


def objective(tiny, transformer, adapter, **noise):
    return Objective(
        architecture=FLUX_DEV,
        variant=tiny.variant,
        transformer=transformer,
        adapter=adapter,
        noise=replace(NoiseSettings(), **noise),
        fit=replace(FitSettings(), seed=3),
    )


def losses_of(made, batch, *, step, positions):
    return made.losses(made.stage(batch, step=step, positions=positions))


def batch_of(tiny, size):
    generator = torch.Generator().manual_seed(2)
    texts = [tiny.text["wanted"], tiny.text["unwanted"]][:size]
    return Batch(
        item_keys=("a", "b")[:size],
        latents=torch.randn(size, 16, 6, 10, generator=generator),
        conditioning={name: torch.stack([text[name] for text in texts]) for name in texts[0]},
    )


@pytest.fixture
def with_lora(tiny):
    transformer = FLUX_DEV.load_transformer(tiny.files["dit"], device="cpu", dtype=torch.float32)
    paths = select_linears(transformer, preset=FLUX_DEV.adapter_layout.presets["token_linears"])
    adapter = attach(transformer, paths, rank=4, alpha=4.0, dropout=0.0, seed=0)
    return transformer, adapter


def test_a_training_loss_is_the_reference_s_velocity_error_at_guidance_one(tiny, with_lora, monkeypatch):
    """Noise, level and target by their definitions; the velocity by diffusers' transformer."""
    seen = {}
    real = FLUX_DEV.call_dit

    def spy(transformer, noisy_latents, *, sigma, conditioning, guidance):
        seen.update(noisy=noisy_latents, sigma=sigma, guidance=guidance)
        return real(transformer, noisy_latents, sigma=sigma, conditioning=conditioning, guidance=guidance)

    made = objective(tiny, *with_lora)
    made = replace(made, architecture=replace(FLUX_DEV, call_dit=spy))
    batch = batch_of(tiny, 2)
    losses = losses_of(made, batch, step=4, positions=(0, 1))

    sigma = seen["sigma"]
    assert torch.equal(seen["guidance"], torch.ones(2))
    assert 0 < sigma.min() < sigma.max() < 1
    level = sigma.view(-1, 1, 1, 1)
    noise = (seen["noisy"] - (1 - level) * batch.latents) / level
    with torch.no_grad():
        (velocity,) = tiny.theirs(
            hidden_states=FluxPipeline._pack_latents(seen["noisy"], 2, 16, 6, 10),
            encoder_hidden_states=batch.conditioning["t5_hidden"],
            pooled_projections=batch.conditioning["clip_pooled"],
            timestep=sigma,
            guidance=torch.ones(2),
            img_ids=FluxPipeline._prepare_latent_image_ids(1, 3, 5, "cpu", torch.float32),
            txt_ids=torch.zeros(512, 3),
            return_dict=False,
        )
    velocity = FluxPipeline._unpack_latents(velocity, 48, 80, 8)
    expected = (velocity - (noise - batch.latents)).square().flatten(1).mean(1)
    torch.testing.assert_close(losses.detach(), expected, rtol=1e-4, atol=1e-5)


def test_a_batch_of_two_is_two_batches_of_one_in_losses_and_gradients(tiny, with_lora):
    transformer, adapter = with_lora
    made = objective(
        tiny, transformer, adapter, noise_offset=0.1, ip_noise_gamma=0.1, weighting_scheme="cosmap"
    )
    both = batch_of(tiny, 2)
    together = losses_of(made, both, step=1, positions=(0, 1))
    (together.sum() / 2).backward()
    expected = [parameter.grad.clone() for parameter in adapter.parameters()]
    for parameter in adapter.parameters():
        parameter.grad = None
    for place in (0, 1):
        one = Batch(
            item_keys=("x",),
            latents=both.latents[place : place + 1],
            conditioning={name: tensor[place : place + 1] for name, tensor in both.conditioning.items()},
        )
        loss = losses_of(made, one, step=1, positions=(place,))
        torch.testing.assert_close(loss[0], together[place], rtol=1e-5, atol=1e-6)
        (loss.sum() / 2).backward()
    for parameter, gradient in zip(adapter.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)


def test_checkpointing_and_split_attention_change_neither_loss_nor_gradient(tiny):
    results = []
    for split_attn, checkpointed in ((False, False), (False, True), (True, False)):
        transformer = FLUX_DEV.load_transformer(
            tiny.files["dit"], device="cpu", dtype=torch.float32, split_attn=split_attn
        )
        paths = select_linears(transformer, preset=FLUX_DEV.adapter_layout.presets["all_linears"])
        adapter = attach(transformer, paths, rank=4, alpha=4.0, dropout=0.3, seed=0)
        for layer in adapter.layers.values():
            torch.nn.init.normal_(layer.up, std=0.05, generator=torch.Generator().manual_seed(1))
        if checkpointed:
            checkpoint_blocks(FLUX_DEV.blocks(transformer))
        losses = losses_of(objective(tiny, transformer, adapter), batch_of(tiny, 2), step=0, positions=(0, 1))
        losses.sum().backward()
        assert all(
            parameter.grad is not None and parameter.grad.abs().sum() > 0
            for parameter in adapter.parameters()
        )
        results.append((losses.detach(), [parameter.grad for parameter in adapter.parameters()]))
    plain, checkpointed, split = results
    assert torch.equal(plain[0], checkpointed[0])
    assert all(torch.equal(one, other) for one, other in zip(plain[1], checkpointed[1], strict=True))
    torch.testing.assert_close(split[0], plain[0], rtol=1e-5, atol=1e-6)
    for one, other in zip(plain[1], split[1], strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-6)


def test_training_shift_sees_tokens_and_not_latent_positions(tiny, with_lora):
    """At 1024 px the shift is exp(1.15); from unpacked positions it would be 25."""
    shifts = []
    variant = replace(tiny.variant, training_shift=lambda tokens: shifts.append(tokens) or 1.0)
    made = replace(objective(tiny, *with_lora), variant=variant)
    losses_of(made, batch_of(tiny, 1), step=0, positions=(0,))
    assert shifts == [3 * 5]
