"""The autoencoder against diffusers' AutoencoderKL on tiny random weights."""

import pytest
import torch
from flux_oracle import diffusers_autoencoder, random_autoencoder

from musubi_flux_dev.autoencoder import AutoencoderParams, FluxAutoencoder

# Every level has a width of its own: with equal ones, levels in the wrong order would go unnoticed.
WIDTHS = (32, 64, 96, 128)
PARAMS = {
    "four levels": AutoencoderParams(widths=WIDTHS, num_res_blocks=2, z_channels=16),
    "two levels": AutoencoderParams(widths=(64, 32), num_res_blocks=1, z_channels=4),
}


def random_pair(name):
    ours = random_autoencoder(FluxAutoencoder(PARAMS[name]))
    return ours, diffusers_autoencoder(ours)


def random_pixels(*, contrast=1.0):
    """Two pictures, not square."""
    return contrast * (2 * torch.rand(2, 3, 40, 24, generator=torch.Generator().manual_seed(1)) - 1)


def mode(theirs, pixels):
    return theirs.encode(pixels).latent_dist.mode()


@pytest.mark.parametrize("name", PARAMS)
# A flat picture shows the norms' epsilon: 1e-5 instead of 1e-6 moves it far beyond the tolerance.
@pytest.mark.parametrize("contrast", [1.0, 1e-3])
def test_latents_are_the_shifted_and_scaled_mode_of_diffusers(name, contrast):
    ours, theirs = random_pair(name)
    pixels = random_pixels(contrast=contrast)
    expected = (mode(theirs, pixels) - 0.1159) * 0.3611
    latents = ours.encode(pixels)
    factor = PARAMS[name].pixels_per_latent
    assert latents.shape == (2, PARAMS[name].z_channels, 40 // factor, 24 // factor)
    assert latents.std() > 0.05  # else the tolerance would mean little
    # float32 in another order of summation, on values of about 0.2.
    torch.testing.assert_close(latents, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", PARAMS)
def test_decoded_pixels_match_diffusers(name):
    ours, theirs = random_pair(name)
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(2, PARAMS[name].z_channels, 5, 3, generator=generator)
    expected = theirs.decode(latents / 0.3611 + 0.1159).sample
    pixels = ours.decode(latents)
    assert pixels.std() > 0.5
    # float32 in another order of summation through twenty-odd convolutions, on values of about 1.
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-5)


def test_gradients_of_both_directions_match_diffusers():
    ours, theirs = random_pair("four levels")
    pixels = random_pixels().requires_grad_()
    (ours_encode,) = torch.autograd.grad(ours.encode(pixels).square().sum(), pixels)
    scaled = (mode(theirs, pixels) - 0.1159) * 0.3611
    (theirs_encode,) = torch.autograd.grad(scaled.square().sum(), pixels)
    torch.testing.assert_close(ours_encode, theirs_encode, rtol=1e-4, atol=1e-4 * float(theirs_encode.std()))

    latents = torch.randn(1, 16, 3, 5, generator=torch.Generator().manual_seed(3)).requires_grad_()
    (ours_decode,) = torch.autograd.grad(ours.decode(latents).square().sum(), latents)
    decoded = theirs.decode(latents / 0.3611 + 0.1159).sample
    (theirs_decode,) = torch.autograd.grad(decoded.square().sum(), latents)
    torch.testing.assert_close(ours_decode, theirs_decode, rtol=1e-4, atol=1e-4 * float(theirs_decode.std()))


def test_encoding_twice_gives_the_same_bits_because_nothing_is_sampled():
    ours, _ = random_pair("two levels")
    assert torch.equal(ours.encode(random_pixels()), ours.encode(random_pixels()))


def test_a_bfloat16_autoencoder_takes_and_returns_float32():
    ours, _ = random_pair("two levels")
    precise = ours.encode(random_pixels())
    rounded = ours.bfloat16().encode(random_pixels())
    assert rounded.dtype == torch.float32
    assert ours.decode(rounded).dtype == torch.float32
    # Some layers of 2 ** -9 relative rounding on values of about 0.3.
    torch.testing.assert_close(rounded, precise, rtol=0, atol=0.02)
    assert not torch.equal(rounded, precise)
    # Shift and scale stay float32: their result needs more digits than bfloat16 has.
    assert not torch.equal(rounded, rounded.bfloat16().float())


def test_a_picture_that_does_not_divide_into_latents_is_an_error():
    ours = FluxAutoencoder(PARAMS["four levels"])
    with pytest.raises(ValueError, match="40 x 20 pixels; both must be multiples of 8"):
        ours.encode(torch.zeros(1, 3, 40, 20))


def test_names_and_sizes_are_those_of_the_published_file():
    with torch.device("meta"):
        autoencoder = FluxAutoencoder(AutoencoderParams())
    weights = autoencoder.state_dict()
    assert len(weights) == 244
    assert sum(weight.numel() for weight in weights.values()) == 83_819_683
    assert sum(weight.numel() for weight in autoencoder.encoder.parameters()) == 34_274_208
    assert weights["encoder.mid.attn_1.q.weight"].shape == (512, 512, 1, 1)
    assert weights["encoder.conv_out.weight"].shape == (32, 512, 3, 3)
    assert weights["decoder.up.3.upsample.conv.weight"].shape == (512, 512, 3, 3)
    assert weights["decoder.up.1.block.0.nin_shortcut.weight"].shape == (256, 512, 1, 1)
    assert weights["decoder.up.0.block.2.conv2.weight"].shape == (128, 128, 3, 3)
    assert not [name for name in weights if "quant_conv" in name]
    assert not [name for name in weights if name.startswith(("encoder.down.3.down", "decoder.up.0.up"))]
