"""Against transformers called as the reference pipelines call it, CPU, float32 unless said.

Numbers after "trap" are those of the list of known mistakes in porting FLUX.1's text side.
"""

import copy
import json
import math
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import gelu
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from host.architecture import ProblemsFound
from musubi_flux_dev.text_encoder_files import plan_clip, plan_t5
from musubi_flux_dev.text_encoders import load_text_encoders
from musubi_flux_dev.tiny_tokenizers import (
    clip_tokenizer_files,
    clip_vocabulary_size,
    t5_tokenizer_files,
    t5_vocabulary_size,
)

SHORT = "a red circle on a white background"
LONG = "a small blue bird sitting on a large green tree above the river " * 14
CAPTIONS = [SHORT, LONG]


def assert_equal_to_rounding(ours, expected):
    """Same operations in the same order, in float32; only the way of batching may differ."""
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def reinitialise(model):
    """Give every weight a size that makes mistakes visible: norms off 1, biases off 0."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            weight.data = 1 + 0.3 * noise
        elif weight.ndim == 1:
            weight.data = 0.1 * noise
        elif "embed" in name or "shared" in name or "bias" in name:
            weight.data = noise
        else:
            weight.data = noise / weight.shape[1] ** 0.5
    return model.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def clip():
    config = CLIPTextConfig(
        vocab_size=clip_vocabulary_size(),
        hidden_size=128,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=2,
        hidden_act="quick_gelu",
        bos_token_id=clip_vocabulary_size() - 2,
        eos_token_id=clip_vocabulary_size() - 1,
    )
    return reinitialise(CLIPTextModel(config))


@pytest.fixture(scope="module")
def t5():
    config = T5Config(
        vocab_size=t5_vocabulary_size(),
        d_model=48,
        d_kv=8,
        d_ff=40,
        num_layers=3,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    return reinitialise(T5EncoderModel(config))


@pytest.fixture(scope="module")
def paths(tmp_path_factory, clip, t5):
    """The published layouts: CLIP below ``text_model.``, T5 with its embedding twice."""
    folder = tmp_path_factory.mktemp("encoders")
    found = {"text_encoder": folder / "clip_l.safetensors", "text_encoder2": folder / "t5xxl.safetensors"}
    save_file(
        {f"text_model.{name}": weight for name, weight in clip.state_dict().items()}, found["text_encoder"]
    )
    save_file({name: weight.clone() for name, weight in t5.state_dict().items()}, found["text_encoder2"])
    for setting, files in (("tokenizer", clip_tokenizer_files()), ("tokenizer2", t5_tokenizer_files())):
        found[setting] = folder / setting
        found[setting].mkdir()
        for name, content in files.items():
            (found[setting] / name).write_bytes(content)
    return found


@pytest.fixture(scope="module")
def encoders(paths):
    return load_text_encoders(paths, device="cpu")


def clip_ids(paths, captions):
    tokenizer = CLIPTokenizer.from_pretrained(paths["tokenizer"], local_files_only=True)
    return tokenizer(
        captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    ).input_ids


def t5_ids(paths, captions, length=512):
    tokenizer = T5Tokenizer.from_pretrained(paths["tokenizer2"], local_files_only=True)
    return tokenizer(
        captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids


def rewritten(paths, tmp_path, setting, change):
    """Return ``paths`` with another file for ``setting``: ``change`` maps its tensors to new ones."""
    path = tmp_path / "changed.safetensors"
    save_file({name: t.contiguous() for name, t in change(load_file(paths[setting])).items()}, path)
    return {**paths, setting: path}


@pytest.mark.parametrize("captions", [[SHORT], [LONG], CAPTIONS, ["", SHORT]])
def test_clip_gives_the_reference_s_pooled_output(encoders, clip, paths, captions):
    expected = clip(clip_ids(paths, captions)).pooler_output
    pooled = encoders.encode(captions)["clip_pooled"]
    assert pooled.shape == (len(captions), 128)
    assert_equal_to_rounding(pooled, expected)


def test_clip_pools_at_the_first_end_mark_and_not_at_the_last(encoders, clip, paths):
    """Trap 23; the pads behind it are end marks, too."""
    ids = clip_ids(paths, [SHORT])
    hidden = clip(ids).last_hidden_state[0]
    first = (ids[0] == clip_vocabulary_size() - 1).nonzero()[0, 0]
    pooled = encoders.encode([SHORT])["clip_pooled"][0]
    assert_equal_to_rounding(pooled, hidden[first])
    assert (pooled - hidden[-1]).abs().max() > 0.1


def test_clip_s_pooled_output_is_not_projected(encoders, paths, tmp_path):
    """Trap 23: the projection that many files carry is not used."""
    projection = {"text_projection.weight": 3 * torch.eye(128), "logit_scale": torch.tensor(4.6)}
    changed = rewritten(paths, tmp_path, "text_encoder", lambda tensors: tensors | projection)
    pooled = load_text_encoders(changed, device="cpu").encode([SHORT])["clip_pooled"]
    assert torch.equal(pooled, encoders.encode([SHORT])["clip_pooled"])


def test_clip_uses_quick_gelu(encoders, clip, paths):
    """Trap 24; the other GELU differs by far more than the tolerance of the parity test."""
    config = copy.deepcopy(clip.config)
    config.hidden_act = "gelu"
    erf = CLIPTextModel(config).eval()
    erf.load_state_dict(clip.state_dict())
    pooled = encoders.encode([SHORT])["clip_pooled"]
    assert (erf(clip_ids(paths, [SHORT])).pooler_output - pooled).abs().max() > 1e-3


@pytest.mark.parametrize("captions", [[SHORT], [LONG], CAPTIONS])
def test_t5_gives_the_reference_s_hidden_states(encoders, t5, paths, captions):
    """Trap 26: unscaled attention and one table of distances, here up to 511 tokens."""
    expected = t5(t5_ids(paths, captions)).last_hidden_state
    hidden = encoders.encode(captions)["t5_hidden"]
    assert hidden.shape == (len(captions), 512, 48)
    assert_equal_to_rounding(hidden, expected)


def t5_by_hand(model, ids):
    """Return T5's hidden states by plain arithmetic on its weights (Raffel et al. 2020, section 2.1)."""
    weights = model.state_dict()
    x = weights["shared.weight"][ids]
    b, n, _ = x.shape
    ahead = torch.arange(n)[None, :] - torch.arange(n)[:, None]
    near = ahead.abs().clamp(min=1)
    steps = (8 + torch.log(near / 8) / math.log(128 / 8) * 8).long().clamp(max=15)
    bucket = torch.where(ahead.abs() < 8, ahead.abs(), steps) + 16 * (ahead > 0)
    table = weights["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]

    def norm(x, name):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weights[name]

    for number in range(3):
        layer = f"encoder.block.{number}.layer"
        normed = norm(x, f"{layer}.0.layer_norm.weight")
        q, k, v = (
            (normed @ weights[f"{layer}.0.SelfAttention.{name}.weight"].T).reshape(b, n, 4, 8).transpose(1, 2)
            for name in "qkv"
        )
        attention = (q @ k.transpose(-1, -2) + table[bucket].permute(2, 0, 1)).softmax(-1) @ v
        x = x + attention.transpose(1, 2).reshape(b, n, 32) @ weights[f"{layer}.0.SelfAttention.o.weight"].T
        normed = norm(x, f"{layer}.1.layer_norm.weight")
        inside, gate, out = (
            weights[f"{layer}.1.DenseReluDense.{name}.weight"].T for name in ("wi_0", "wi_1", "wo")
        )
        x = x + (gelu(normed @ inside, approximate="tanh") * (normed @ gate)) @ out
    return norm(x, "encoder.final_layer_norm.weight")


def test_t5_s_attention_is_unscaled_with_one_table_for_all_layers(encoders, t5, paths):
    """Trap 26, by our own arithmetic instead of the reference's."""
    expected = t5_by_hand(t5, t5_ids(paths, CAPTIONS))
    torch.testing.assert_close(encoders.encode(CAPTIONS)["t5_hidden"], expected, rtol=1e-4, atol=1e-4)


def test_t5_reads_its_pads_and_returns_all_of_them(encoders, t5, paths):
    """Trap 25: no attention mask, and nothing is dropped."""
    ids = t5_ids(paths, [SHORT])
    masked = t5(ids, attention_mask=(ids != 0).long()).last_hidden_state
    hidden = encoders.encode([SHORT])["t5_hidden"]
    words = (ids[0] != 0).sum()
    assert hidden.shape[1] == 512
    assert (hidden - masked)[0, :words].abs().max() > 0.1
    assert hidden[0, words:].abs().min(dim=-1).values.max() > 0
    assert hidden[0, words:].std() > 0.1


def test_a_batch_of_two_equals_two_batches_of_one(encoders):
    together = encoders.encode(CAPTIONS)
    alone = [encoders.encode([caption]) for caption in CAPTIONS]
    for name, batch in together.items():
        assert_equal_to_rounding(batch, torch.cat([one[name] for one in alone]))


def test_both_encoders_are_frozen_and_hold_nothing_twice(encoders):
    for model in (encoders.clip, encoders.t5):
        tensors = [*model.parameters(), *model.buffers()]
        assert not model.training
        assert not any(tensor.requires_grad or tensor.is_meta for tensor in tensors)
    assert encoders.t5.shared.weight is encoders.t5.encoder.embed_tokens.weight
    assert not encoders.encode([SHORT])["t5_hidden"].requires_grad


@pytest.mark.parametrize("disable_mmap", [True, False])
def test_both_ways_of_reading_give_the_same_weights(encoders, paths, disable_mmap):
    again = load_text_encoders(paths, device="cpu", disable_mmap=disable_mmap)
    for ours, theirs in ((again.clip, encoders.clip), (again.t5, encoders.t5)):
        for name, weight in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], weight), name


def without(name):
    return lambda tensors: {key: t for key, t in tensors.items() if key != name}


@pytest.mark.parametrize("name", ["shared.weight", "encoder.embed_tokens.weight"])
def test_t5_needs_only_one_copy_of_its_embedding(encoders, paths, tmp_path, name):
    """Trap 28."""
    changed = rewritten(paths, tmp_path, "text_encoder2", without(name))
    hidden = load_text_encoders(changed, device="cpu").encode([SHORT])["t5_hidden"]
    assert torch.equal(hidden, encoders.encode([SHORT])["t5_hidden"])


@pytest.mark.parametrize(
    ("setting", "old", "new"),
    [
        ("text_encoder", "text_model.", ""),
        ("text_encoder", "", "clip_l.transformer."),
        ("text_encoder", "", "text_encoders.clip_l.transformer."),
        ("text_encoder2", "", "text_encoders.t5xxl.transformer."),
    ],
)
def test_known_prefixes_make_no_difference(encoders, paths, tmp_path, setting, old, new):
    """Trap 29; with a prefix, what else is in an all-in-one file is none of the encoder's business."""

    def change(tensors):
        renamed = {new + key.removeprefix(old): t for key, t in tensors.items()}
        return renamed | ({"model.diffusion_model.img_in.weight": torch.zeros(2)} if new else {})

    changed = load_text_encoders(rewritten(paths, tmp_path, setting, change), device="cpu")
    for name, expected in encoders.encode(CAPTIONS).items():
        assert torch.equal(changed.encode(CAPTIONS)[name], expected)


def test_t5_stays_finite_where_float16_overflows(paths, t5, tmp_path):
    """Trap 27: neither a float16 file nor ``dtype`` makes T5 run in float16."""
    loud = copy.deepcopy(t5)
    for block in loud.encoder.block:
        block.layer[1].DenseReluDense.wi_1.weight.mul_(3e4)
    assert not loud.half()(t5_ids(paths, [SHORT])).last_hidden_state.isfinite().all()
    changed = rewritten(
        paths, tmp_path, "text_encoder2", lambda _: {k: v.clone() for k, v in loud.state_dict().items()}
    )
    for dtype in (None, torch.float16):
        hidden = load_text_encoders(changed, device="cpu", dtype=dtype).encode([SHORT])["t5_hidden"]
        assert hidden.dtype == torch.bfloat16
        assert hidden.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_file_s_precision_is_kept_unless_told(paths, tmp_path, dtype):
    changed = rewritten(paths, tmp_path, "text_encoder", lambda ts: {k: t.to(dtype) for k, t in ts.items()})
    assert load_text_encoders(changed, device="cpu").clip.dtype == dtype
    told = load_text_encoders(changed, device="cpu", dtype=torch.float32)
    assert {told.clip.dtype, told.t5.dtype} == {torch.float32}


@pytest.mark.parametrize("scale_name", ["scale_weight", "weight_scale", None])
def test_8_bit_weights_of_t5_are_read_with_their_scales(encoders, t5, paths, tmp_path, scale_name):
    linear = "encoder.block.1.layer.1.DenseReluDense.wi_0"
    scale = torch.tensor(0.01)

    def change(tensors):
        stored = tensors[f"{linear}.weight"] / (scale if scale_name else 1)
        extra = {f"{linear}.{scale_name}": scale, "scaled_fp8": torch.zeros(0)} if scale_name else {}
        return {**tensors, **extra, f"{linear}.weight": stored.to(torch.float8_e4m3fn)}

    changed = load_text_encoders(rewritten(paths, tmp_path, "text_encoder2", change), device="cpu")
    ours, original = (m.get_submodule(linear).weight for m in (changed.t5, t5))
    # e4m3 keeps three bits behind the leading one; small numbers have less.
    torch.testing.assert_close(ours, original, rtol=2**-4, atol=1e-2)


def test_missing_and_left_over_keys_of_both_files_are_all_named_at_once(paths, tmp_path):
    (tmp_path / "other").mkdir()
    lost = "text_model.encoder.layers.1.mlp.fc2.bias"
    broken = rewritten(paths, tmp_path / "other", "text_encoder", without(lost))
    broken = rewritten(
        broken, tmp_path, "text_encoder2", lambda ts: ts | {f"extra.{i}": torch.zeros(1) for i in range(7)}
    )
    with pytest.raises(ProblemsFound) as found:
        load_text_encoders(broken, device="cpu")
    text = str(found.value)
    assert len(found.value.problems) == 2
    assert "are missing: text_model.encoder.layers.1.mlp.fc2.bias" in text
    assert "7 tensors belong to no part of the model: extra.0" in text
    assert "extra.4 and 2 more" in text


def test_a_tensor_of_another_shape_is_named(paths, tmp_path):
    name = "encoder.final_layer_norm.weight"
    broken = rewritten(paths, tmp_path, "text_encoder2", lambda ts: ts | {name: torch.ones(3)})
    with pytest.raises(ProblemsFound, match=f"1 tensors have another shape: {name}"):
        load_text_encoders(broken, device="cpu")


def test_the_two_encoders_in_each_other_s_place_are_refused(paths):
    swapped = paths | {"text_encoder": paths["text_encoder2"], "text_encoder2": paths["text_encoder"]}
    with pytest.raises(ProblemsFound) as found:
        load_text_encoders(swapped, device="cpu")
    assert [problem.code for problem in found.value.problems] == ["E15", "E15"]
    assert "is a T5-XXL text encoder (fp32, width 48); the clip_l is needed" in str(found.value)
    assert "is a CLIP-L text encoder (fp32, width 128); the t5 is needed" in str(found.value)


def test_a_tokenizer_of_another_vocabulary_is_refused(paths, tmp_path):
    name = "text_model.embeddings.token_embedding.weight"
    larger = rewritten(paths, tmp_path, "text_encoder", lambda ts: ts | {name: torch.zeros(49408, 128)})
    with pytest.raises(ProblemsFound, match="knows 49,408 tokens, but its tokenizer has 827"):
        load_text_encoders(larger, device="cpu")


def test_weights_of_a_type_that_cannot_be_computed_with_are_refused(paths, tmp_path):
    name = "encoder.block.0.layer.1.DenseReluDense.wo.weight"
    broken = rewritten(paths, tmp_path, "text_encoder2", lambda ts: ts | {name: ts[name].to(torch.uint8)})
    for dtype in (None, torch.bfloat16):
        with pytest.raises(ProblemsFound, match="stored as packed 8-bit integers, which is not read"):
            load_text_encoders(broken, device="cpu", dtype=dtype)


def header_alone(path, shapes):
    """Write a file that has these shapes in its header and no weights."""
    entries = {
        name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()
    }
    text = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    return path


def test_the_published_clip_is_planned_from_its_header(tmp_path):
    linears = [f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")]
    shapes = {
        "embeddings.token_embedding.weight": [49408, 768],
        "embeddings.position_embedding.weight": [77, 768],
    }
    shapes |= {"final_layer_norm.weight": [768], "final_layer_norm.bias": [768]}
    for layer in (f"encoder.layers.{number}" for number in range(12)):
        shapes |= {f"{layer}.{name}.weight": [768, 768] for name in linears}
        shapes |= {
            f"{layer}.{name}.bias": [768] for name in (*linears, "layer_norm1", "layer_norm2", "mlp.fc2")
        }
        shapes |= {f"{layer}.{name}.weight": [768] for name in ("layer_norm1", "layer_norm2")}
        shapes |= {f"{layer}.mlp.fc1.weight": [3072, 768], f"{layer}.mlp.fc1.bias": [3072]}
        shapes |= {f"{layer}.mlp.fc2.weight": [768, 3072]}
    named = {f"text_model.{name}": shape for name, shape in shapes.items()}
    plan = plan_clip(header_alone(tmp_path / "clip_l.safetensors", named), dtype=None)
    assert len(plan.sources) == 196
    assert sum(weight.numel() for weight in plan.model.parameters()) == 123_060_480
    assert plan.model.config.num_attention_heads == 12
    assert plan.model.config.eos_token_id == 49407


def test_the_published_t5_is_planned_from_its_header(tmp_path):
    shapes = {"shared.weight": [32128, 4096], "encoder.embed_tokens.weight": [32128, 4096]}
    shapes |= {"encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": [32, 64]}
    shapes |= {"encoder.final_layer_norm.weight": [4096]}
    for layer in (f"encoder.block.{number}.layer" for number in range(24)):
        shapes |= {f"{layer}.0.SelfAttention.{name}.weight": [4096, 4096] for name in "qkvo"}
        shapes |= {f"{layer}.1.DenseReluDense.{name}.weight": [10240, 4096] for name in ("wi_0", "wi_1")}
        shapes |= {f"{layer}.1.DenseReluDense.wo.weight": [4096, 10240]}
        shapes |= {f"{layer}.{number}.layer_norm.weight": [4096] for number in (0, 1)}
    plan = plan_t5(header_alone(tmp_path / "t5xxl.safetensors", shapes), dtype=None)
    assert len(plan.sources) == 219
    assert sum(weight.numel() for weight in plan.model.parameters()) == 4_762_310_656
    assert (plan.model.config.num_heads, plan.model.config.d_kv) == (64, 64)


def test_one_text_instead_of_a_list_is_an_error(encoders):
    with pytest.raises(TypeError, match="must be a list"):
        encoders.encode(SHORT)


def test_the_length_of_t5_can_be_set_for_schnell(paths, t5):
    encoders = load_text_encoders(paths, device="cpu")
    encoders.t5_length = 256
    expected = t5(t5_ids(paths, CAPTIONS, length=256)).last_hidden_state
    assert_equal_to_rounding(encoders.encode(CAPTIONS)["t5_hidden"], expected)


def test_a_caption_that_does_not_fit_is_named_with_what_is_cut(encoders):
    assert encoders.caption_overflow([SHORT]) == []
    crowded = "red " * 80 + "zebra"
    (note,) = encoders.caption_overflow([SHORT, crowded])
    assert note.startswith('CLIP-L reads 77 of 86 tokens of "red red')
    assert note.endswith('"red red red red red zebra"')
    assert len(encoders.caption_overflow(["cat " * 600])) == 2
