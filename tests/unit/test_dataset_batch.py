import pytest
import torch

from dataset.batch import Example, load_batch
from dataset.buckets import Size
from dataset.cache import write_latents, write_text
from dataset.problems import ProblemsFound
from tests.items import small_item

NAMES = {"t5_vec": "t5_hidden", "clip_l_pooler": "clip_pooled"}
SIZE = Size(32, 32)


def cached(directory, key, *, value=0.0, width=4, **tensors):
    made = small_item(key, directory=directory)
    latents = torch.full((16, 4, width), value)
    write_latents(made.latent_cache, latents, architecture="flux_dev", size=SIZE, fingerprint={})
    text = {"t5_vec": torch.full((3, 5), value), "clip_l_pooler": torch.full((7,), value), **tensors}
    write_text(made.captions[0].cache, text, architecture="flux_dev", caption="a cat", fingerprint={})
    return Example(item=made)


def test_items_are_stacked_in_order_under_the_models_names(tmp_path):
    items = [cached(tmp_path, "b", value=1.0), cached(tmp_path, "a", value=2.0)]
    batch = load_batch(items, names=NAMES)
    assert batch.item_keys == ("b", "a")
    assert batch.latents.shape == (2, 16, 4, 4)
    assert batch.latents[:, 0, 0, 0].tolist() == [1.0, 2.0]
    assert batch.conditioning.keys() == {"t5_hidden", "clip_pooled"}
    assert batch.conditioning["t5_hidden"].shape == (2, 3, 5)
    assert batch.conditioning["clip_pooled"][:, 0].tolist() == [1.0, 2.0]


def test_one_item_is_a_batch_of_one(tmp_path):
    assert load_batch([cached(tmp_path, "a")], names=NAMES).latents.shape == (1, 16, 4, 4)


def test_latents_that_do_not_stack_name_the_file_and_both_shapes(tmp_path):
    items = [cached(tmp_path, "a"), cached(tmp_path, "b", width=6), cached(tmp_path, "c")]
    with pytest.raises(ProblemsFound) as found:
        load_batch(items, names=NAMES)
    (problem,) = found.value.problems
    expected = f"{items[1].item.latent_cache} holds latents of 16 x 4 x 6, not 16 x 4 x 4 as for a"
    assert expected in problem.what


def test_text_that_does_not_stack_names_the_text_file(tmp_path):
    items = [cached(tmp_path, "a"), cached(tmp_path, "b", clip_l_pooler=torch.zeros(1, 7))]
    with pytest.raises(ProblemsFound, match=r"b_fd_te\.safetensors holds clip_pooled of 1 x 7, not 7"):
        load_batch(items, names=NAMES)


def test_all_files_that_lack_something_are_named(tmp_path):
    items = [cached(tmp_path, "a"), Example(item=small_item("gone", directory=tmp_path))]
    with pytest.raises(ProblemsFound) as found:
        load_batch(items, names={**NAMES, "ctx_vec": "context"})
    first, second = (problem.what for problem in found.value.problems)
    assert "a_fd_te.safetensors holds no ctx_vec" in first
    assert "gone_fd_te.safetensors is missing" in second
