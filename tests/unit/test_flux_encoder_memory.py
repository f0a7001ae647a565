"""Bytes of FLUX.1's encoders as calculated, against small ones at work with every allocation counted."""

from types import SimpleNamespace

import pytest
import torch
from allocations import Allocations
from flux_headers import AUTOENCODER, CLIP, T5, header_of
from transformers import T5Config, T5EncoderModel

from musubi_flux_dev import FLUX_DEV
from musubi_flux_dev.autoencoder import AutoencoderParams, FluxAutoencoder
from musubi_flux_dev.encoder_memory import coding_bytes, t5_working

FACTS = FLUX_DEV.memory


def most_of(call, *already):
    with Allocations(*already) as counted, torch.no_grad():
        before = counted.live
        call()
    return counted.peak - before


@pytest.mark.parametrize("size", [(64, 64), (128, 96)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_peaks_of_encoding_and_decoding_a_picture_are_calculated_within_five_percent(size, dtype):
    params = AutoencoderParams(widths=(32, 64, 128, 128))
    autoencoder = FluxAutoencoder(params).requires_grad_(False).to(dtype)
    pixels = torch.rand(1, 3, *size)
    latents = torch.rand(1, 16, size[0] // 8, size[1] // 8)
    encode, decode = coding_bytes(params, size[0] * size[1], itemsize=dtype.itemsize)
    weights = list(autoencoder.parameters())
    assert encode == pytest.approx(most_of(lambda: autoencoder.encode(pixels), *weights), rel=0.05)
    assert decode == pytest.approx(most_of(lambda: autoencoder.decode(latents), *weights), rel=0.05)


def test_the_peak_of_reading_a_caption_is_calculated_within_five_percent():
    config = T5Config(
        vocab_size=100,
        d_model=256,
        d_kv=16,
        d_ff=640,
        num_layers=2,
        num_heads=32,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )
    t5 = T5EncoderModel(config).bfloat16().eval()
    counted = most_of(lambda: t5(torch.zeros(1, 512, dtype=torch.long)), *t5.parameters())
    assert t5_working((256, 32, 512, 640), itemsize=2, eight_bit=False) == pytest.approx(counted, rel=0.05)


def text_bytes(settings, **headers):
    assert FACTS is not None
    return FACTS.text_encoders(headers, SimpleNamespace(**settings)).weights


def test_t5_takes_half_in_eight_bit_and_no_less_from_an_eight_bit_file():
    bf16 = text_bytes({"fp8_t5": False}, text_encoder2=header_of(T5))
    from_fp8 = text_bytes({"fp8_t5": False}, text_encoder2=header_of(T5, dtype="F8_E4M3"))
    eight_bit = text_bytes({"fp8_t5": True}, text_encoder2=header_of(T5))
    assert bf16 == from_fp8
    embedding = 32128 * 4096 * 2
    assert (eight_bit - embedding) / (bf16 - embedding) == pytest.approx(0.5, rel=0.01)


def test_clip_is_kept_in_the_files_precision():
    half = text_bytes({"fp8_t5": False}, text_encoder=header_of(CLIP, dtype="F16"))
    whole = text_bytes({"fp8_t5": False}, text_encoder=header_of(CLIP, dtype="F32"))
    assert whole == 2 * half


def test_the_autoencoder_of_every_flux_takes_a_third_of_a_gigabyte():
    assert FACTS is not None
    found = FACTS.autoencoder(header_of(AUTOENCODER, dtype="F32"))(1024, 1024)
    assert found.weights == 83_819_683 * 4
    assert found.encode == 5 * 128 * 1024**2 * 4
    assert found.decode == 6 * 128 * 1024**2 * 4
