"""Every layout that FLUX.1's parts come in, made from the tiny instance, gives the same weights."""

import pytest
import torch
from flux_files import (
    all_in_one,
    diffusers_autoencoder,
    diffusers_weights,
    pipeline,
    save,
    save_shards,
)
from safetensors.torch import load_file

from host.architecture import ProblemsFound, read_header
from musubi_flux_dev import FLUX_DEV
from musubi_flux_dev.checkpoints import load_autoencoder, load_transformer
from musubi_flux_dev.identify import identify
from musubi_flux_dev.text_encoders import load_text_encoders
from musubi_flux_dev.tiny import tiny

ENCODERS = ("text_encoder", "text_encoder2", "tokenizer", "tokenizer2")
BOTH_WAYS_OF_READING = pytest.mark.parametrize("disable_mmap", [True, False])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def dit(files):
    return load_file(files["dit"])


def same(module, weights):
    loaded = dict(module.named_parameters())
    assert loaded.keys() == weights.keys()
    for name, tensor in weights.items():
        assert loaded[name].dtype == tensor.dtype, name
        assert torch.equal(loaded[name], tensor), name


@BOTH_WAYS_OF_READING
def test_a_diffusers_folder_of_shards_gives_the_published_weights(dit, tmp_path, disable_mmap):
    folder = save_shards(tmp_path / "transformer", diffusers_weights(dit))
    same(load_transformer(folder, device="cpu", disable_mmap=disable_mmap), dit)


@pytest.mark.parametrize("index", [True, False])
def test_one_piece_stands_for_all_pieces(dit, tmp_path, index):
    save_shards(tmp_path, diffusers_weights(dit), index=index)
    same(load_transformer(tmp_path / "diffusion_pytorch_model-00002-of-00003.safetensors", device="cpu"), dit)


def test_an_index_says_which_files_are_the_model_whatever_their_names(dit, tmp_path):
    save_shards(tmp_path, diffusers_weights(dit), names=["one.safetensors", "other.safetensors"])
    same(load_transformer(tmp_path, device="cpu"), dit)


def test_a_single_diffusers_file_and_a_split_published_one_are_read(dit, tmp_path):
    same(load_transformer(save(tmp_path / "a.safetensors", diffusers_weights(dit)), device="cpu"), dit)
    folder = save_shards(tmp_path / "split", dit, stem="flux1-dev", index=False)
    same(load_transformer(folder, device="cpu"), dit)


def test_a_half_precision_copy_beside_the_weights_is_not_taken_for_them(dit, tmp_path):
    save(tmp_path / "diffusion_pytorch_model.fp16.safetensors", {"a": torch.zeros(1)})
    save(tmp_path / "diffusion_pytorch_model.safetensors", diffusers_weights(dit))
    same(load_transformer(tmp_path, device="cpu"), dit)


@BOTH_WAYS_OF_READING
def test_an_autoencoder_in_the_diffusers_layout_gives_the_published_weights(files, tmp_path, disable_mmap):
    published = load_autoencoder(files["vae"], device="cpu")
    theirs = diffusers_autoencoder(published).state_dict()
    single = save(tmp_path / "vae" / "diffusion_pytorch_model.safetensors", theirs)
    for path in (single, single.parent):
        loaded = load_autoencoder(path, device="cpu", disable_mmap=disable_mmap)
        same(loaded, load_file(files["vae"]))


def test_text_encoders_are_read_from_folders(files, tmp_path):
    expected = load_text_encoders({name: files[name] for name in ENCODERS}, device="cpu")
    clip = save(tmp_path / "clip" / "model.safetensors", load_file(files["text_encoder"])).parent
    t5 = save_shards(tmp_path / "t5", load_file(files["text_encoder2"]), stem="model", count=2)
    paths = {name: files[name] for name in ENCODERS} | {"text_encoder": clip, "text_encoder2": t5}
    encoded = load_text_encoders(paths, device="cpu").encode(["a red circle"])
    for name, tensor in expected.encode(["a red circle"]).items():
        assert torch.equal(encoded[name], tensor)


@BOTH_WAYS_OF_READING
def test_all_four_parts_are_read_from_one_file(files, dit, tmp_path, disable_mmap):
    everything(files, dit, all_in_one(files, tmp_path / "all.safetensors"), disable_mmap, tokenizers=True)


@BOTH_WAYS_OF_READING
def test_all_four_parts_and_both_tokenizers_are_found_in_a_pipeline_folder(
    files, dit, tmp_path, disable_mmap
):
    everything(files, dit, pipeline(files, tmp_path / "FLUX"), disable_mmap, tokenizers=False)


def everything(files, dit, path, disable_mmap, *, tokenizers):
    reading = {"device": "cpu", "disable_mmap": disable_mmap}
    part = identify(read_header(path))
    assert part is not None
    assert part.contains.keys() == {"transformer", "autoencoder", "clip_l", "t5"}
    same(load_transformer(path, **reading), dit)
    same(load_autoencoder(path, **reading), load_file(files["vae"]))
    paths = {name: files[name] for name in ENCODERS}
    expected = load_text_encoders(paths, **reading).encode(["a red circle"])
    found = {"text_encoder": path, "text_encoder2": path}
    paths = {**paths, **found} if tokenizers else found
    assert not FLUX_DEV.check_files({**paths, "dit": path}, {name: part.of(name) for name in found})
    encoded = load_text_encoders(paths, **reading).encode(["a red circle"])
    for name, tensor in expected.items():
        assert torch.equal(encoded[name], tensor)


def test_a_pruned_transformer_has_the_blocks_that_its_file_has(dit, tmp_path):
    pruned = {key: tensor for key, tensor in dit.items() if not key.startswith("single_blocks.3.")}
    loaded = load_transformer(save(tmp_path / "pruned.safetensors", pruned), device="cpu")
    same(loaded, pruned)
    assert loaded.params.depth_single_blocks == 3
    diffusers = save(tmp_path / "theirs.safetensors", diffusers_weights(pruned))
    same(load_transformer(diffusers, device="cpu"), pruned)


def test_schnell_is_read_in_the_diffusers_layout_and_says_what_it_is(dit, tmp_path):
    schnell = {key: tensor for key, tensor in dit.items() if not key.startswith("guidance_in.")}
    path = save(tmp_path / "schnell.safetensors", diffusers_weights(schnell))
    same(load_transformer(path, device="cpu"), schnell)
    part = identify(read_header(path))
    assert part is not None
    assert part.variant is not None
    assert part.variant.modelspec == {"modelspec.architecture": "flux-1-schnell/lora"}
    assert "distilled" in part.variant.note


def test_fill_in_the_diffusers_layout_is_named_and_refused(dit, tmp_path):
    path = save(
        tmp_path / "fill.safetensors", diffusers_weights(dit | {"img_in.weight": torch.zeros(128, 384)})
    )
    with pytest.raises(ProblemsFound, match=r"\(Fill, diffusers layout, bf16, 2 \+ 4 blocks\).* not yet"):
        load_transformer(path, device="cpu")


def test_linears_have_their_names_of_the_model_in_every_layout(files, dit, tmp_path):
    plain = identify(read_header(files["dit"]))
    theirs = identify(read_header(save(tmp_path / "theirs.safetensors", diffusers_weights(dit))))
    assert plain is not None
    assert theirs is not None
    assert theirs.linears == plain.linears
    assert plain.linears is not None
    assert plain.linears["double_blocks.0.img_attn.qkv"] == (384, 128)


def test_missing_and_left_over_keys_have_their_names_of_the_file(dit, tmp_path):
    theirs = diffusers_weights(dit)
    del theirs["transformer_blocks.1.attn.to_k.weight"]
    theirs["single_transformer_blocks.0.norm.linear.lost"] = torch.zeros(1)
    theirs["proj_out.weight"] = torch.zeros(64, 127)
    with pytest.raises(ProblemsFound) as caught:
        load_transformer(save(tmp_path / "broken.safetensors", theirs), device="cpu")
    (problem,) = caught.value.problems
    assert f"1 tensors of {len(theirs)} are missing: transformer_blocks.1.attn.to_k.weight." in problem.what
    assert (
        "1 tensors belong to no part of the model: single_transformer_blocks.0.norm.linear.lost."
        in problem.what
    )
    assert "proj_out.weight [64, 127] instead of [64, 128]" in problem.what


def test_a_block_that_lacks_one_tensor_is_not_taken_for_one_block_less(dit, tmp_path):
    theirs = diffusers_weights(dit)
    del theirs["single_transformer_blocks.3.proj_out.weight"]
    with pytest.raises(ProblemsFound, match=r"missing: single_transformer_blocks\.3\.proj_out\.weight\."):
        load_transformer(save(tmp_path / "broken.safetensors", theirs), device="cpu")


def test_a_missing_piece_is_named(dit, tmp_path):
    folder = save_shards(tmp_path / "transformer", diffusers_weights(dit))
    (folder / "diffusion_pytorch_model-00002-of-00003.safetensors").unlink()
    for path in (folder, folder / "diffusion_pytorch_model-00001-of-00003.safetensors"):
        with pytest.raises(ProblemsFound, match=r"1 of its pieces .*model-00002-of-00003\.safetensors"):
            load_transformer(path, device="cpu")


def test_a_folder_of_several_models_asks_for_one(files, tmp_path):
    with pytest.raises(ProblemsFound, match=r"holds 4 models: ae, clip_l, flux1-tiny, t5xxl"):
        load_transformer(files["dit"].parent, device="cpu")
    with pytest.raises(ProblemsFound, match=r"holds no \.safetensors file"):
        load_transformer(tmp_path, device="cpu")
