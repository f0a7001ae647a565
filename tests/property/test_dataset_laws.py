import random
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dataset.batch import Example, load_batch
from dataset.buckets import Size, choose_bucket, enumerate_buckets, scale_to_cover
from dataset.cache import judge, read_latents, read_text, write_latents, write_text
from dataset.config import DatasetConfig
from dataset.images import decode, fit_to_bucket, to_pixels
from dataset.sampler import group_steps, plan_epoch
from dataset.scan import scan
from tests.items import small_item

steps = st.sampled_from([8, 16, 32])
sides = st.integers(32, 1500)
resolutions = st.builds(Size, sides, sides)
images = st.builds(Size, st.integers(1, 5000), st.integers(1, 5000))
SIZES = [Size(32, 32), Size(48, 16), Size(16, 48)]
buckets = st.sampled_from(SIZES)
kinds = [
    small_item(bucket=bucket, dataset=dataset, repeats=repeats)
    for bucket in SIZES
    for dataset in range(3)
    for repeats in range(1, 5)
]
items = st.lists(st.sampled_from(kinds), max_size=20)
batch_sizes = st.lists(st.integers(1, 5), min_size=3, max_size=3)
small = st.integers(0, 2**40)


@given(resolutions, steps)
def test_buckets_are_multiples_within_the_area_sorted_and_come_with_their_transposes(resolution, step):
    found = enumerate_buckets(resolution, step=step)
    assert found
    assert all(bucket.height % step == bucket.width % step == 0 for bucket in found)
    assert all(0 < bucket.area <= resolution.area for bucket in found)
    assert list(found) == sorted(set(found), key=lambda bucket: (bucket.width, bucket.height))
    assert {Size(bucket.width, bucket.height) for bucket in found} == set(found)


@given(images, resolutions, steps)
def test_the_chosen_bucket_is_one_of_them_and_no_other_ratio_is_nearer(image, resolution, step):
    chosen = choose_bucket(image, resolution=resolution, step=step, enable_bucket=True, no_upscale=False)
    found = enumerate_buckets(resolution, step=step)
    assert chosen in found
    ratio = image.width / image.height
    distances = [abs(bucket.width / bucket.height - ratio) for bucket in found]
    assert found.index(chosen) == distances.index(min(distances))


@given(images.filter(lambda image: min(image) >= 32), resolutions, steps)
def test_without_upscaling_no_picture_is_enlarged_for_want_of_pixels(image, resolution, step):
    chosen = choose_bucket(image, resolution=resolution, step=step, enable_bucket=True, no_upscale=True)
    assert chosen.height % step == chosen.width % step == 0
    if image.area <= resolution.area:
        assert scale_to_cover(image, chosen) <= 1
        assert image.height - chosen.height < step
        assert image.width - chosen.width < step


@given(st.integers(1, 90), st.integers(1, 90), buckets)
@settings(max_examples=50, deadline=None)
def test_every_picture_fits_every_bucket_exactly(height, width, bucket):
    image = np.full((height, width, 3), 128, np.uint8)
    fitted = fit_to_bucket(image, bucket)
    assert fitted.shape == (*bucket, 3)
    assert set(fitted.flat) == {128}
    assert to_pixels(fitted).shape == (3, *bucket)


@given(items, batch_sizes, small, small)
def test_an_epoch_holds_every_item_as_often_as_it_repeats(chosen, sizes, seed, epoch):
    batches = plan_epoch(chosen, sizes, seed=seed, epoch=epoch)
    seen = Counter(index for batch in batches for index in batch)
    assert seen == Counter({index: item.repeats for index, item in enumerate(chosen)})


@given(items, batch_sizes, small)
def test_a_batch_is_of_one_dataset_and_bucket_and_only_the_last_one_is_smaller(chosen, sizes, seed):
    short = Counter()
    for batch in plan_epoch(chosen, sizes, seed=seed, epoch=0):
        ((dataset, bucket),) = {(chosen[index].dataset, chosen[index].bucket) for index in batch}
        assert 1 <= len(batch) <= sizes[dataset]
        short[dataset, bucket] += len(batch) < sizes[dataset]
    assert all(count <= 1 for count in short.values())


@given(items, batch_sizes, small, small, small)
def test_the_plan_of_an_epoch_depends_on_nothing_but_seed_and_epoch(chosen, sizes, seed, epoch, disturbance):
    plan = plan_epoch(chosen, sizes, seed=seed, epoch=epoch)
    random.seed(disturbance)
    plan_epoch(chosen, sizes, seed=seed, epoch=epoch + 1)
    assert plan_epoch(chosen, sizes, seed=seed, epoch=epoch) == plan


def test_epochs_and_seeds_differ_and_a_later_epoch_of_one_seed_is_not_an_earlier_one_of_the_next():
    many = [small_item()] * 40
    plans = [plan_epoch(many, [4], seed=seed, epoch=epoch) for seed in range(4) for epoch in range(4)]
    assert len({tuple(plan) for plan in plans}) == 16
    assert {tuple(sorted(batch)) for batch in plans[0]} != {tuple(sorted(batch)) for batch in plans[1]}


def test_the_order_of_a_seed_stays_the_same_for_ever():
    many = [small_item()] * 5 + [small_item(bucket=Size(16, 48))] * 2
    assert plan_epoch(many, [2], seed=42, epoch=1) == [(0, 3), (2, 1), (5, 6), (4,)]


@given(st.lists(st.tuples(st.integers()), max_size=30), st.integers(1, 6))
def test_steps_keep_all_batches_in_order(batches, per_step):
    grouped = group_steps(batches, batches_per_step=per_step)
    assert [batch for step in grouped for batch in step] == batches
    assert all(len(step) == per_step for step in grouped[:-1])
    assert all(grouped)


tensors = st.tuples(
    st.lists(st.integers(1, 5), min_size=3, max_size=3),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.integers(0, 2**31),
).map(lambda made: torch.randn(made[0], generator=torch.Generator().manual_seed(made[2])).to(made[1]))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(tensors, texts, st.dictionaries(st.sampled_from(["source", "encoder", "settings"]), texts, min_size=1))
@settings(max_examples=40, deadline=None)
def test_a_cache_gives_back_what_was_written_and_knows_what_it_was_made_from(tensor, caption, fingerprint):
    with TemporaryDirectory() as name:
        latents, text = Path(name) / "a_0032x0032_fd.safetensors", Path(name) / "a_fd_te.safetensors"
        write_latents(latents, tensor, architecture="flux_dev", size=Size(32, 32), fingerprint=fingerprint)
        write_text(
            text, {"t5_vec": tensor}, architecture="flux_dev", caption=caption, fingerprint=fingerprint
        )
        for read in (read_latents(latents), read_text(text)["t5_vec"]):
            assert read.dtype == tensor.dtype
            assert torch.equal(read, tensor)
        for path in (latents, text):
            assert judge(path, architecture="flux_dev", fingerprint=fingerprint).kind == "sound"
            for part, value in fingerprint.items():
                other = {**fingerprint, part: value + "x"}
                assert judge(path, architecture="flux_dev", fingerprint=other).kind == "stale"


def snapshot(folder):
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=3), st.booleans())
@settings(max_examples=15, deadline=None)
def test_scanning_and_caching_leave_the_picture_folder_as_it_was(sizes, enable_bucket):
    with TemporaryDirectory() as name:
        photos = Path(name) / "photos"
        photos.mkdir()
        for number, (width, height) in enumerate(sizes):
            Image.new("RGB", (width, height)).save(photos / f"{number}.png")
            (photos / f"{number}.txt").write_text(f"picture {number}")
        before = snapshot(photos)
        config = DatasetConfig(
            image_directory=photos,
            cache_directory=Path(name) / "cache",
            resolution=Size(32, 32),
            enable_bucket=enable_bucket,
        )
        found = scan([config], code="fd", bucket_step=16).items
        for item in found:
            pixels = to_pixels(fit_to_bucket(decode(item.image_path), item.bucket))
            write_latents(
                item.latent_cache,
                pixels,
                architecture="flux_dev",
                size=item.size,
                fingerprint={"source": "1"},
            )
            write_text(
                item.captions[0].cache,
                {"t5_vec": torch.ones(2, 2)},
                architecture="flux_dev",
                caption=item.caption,
                fingerprint={"source": "1"},
            )
        for batch in plan_epoch(found, [2], seed=0, epoch=0):
            load_batch([Example(item=found[index]) for index in batch], names={"t5_vec": "t5_hidden"})
        assert snapshot(photos) == before
        assert {path.name for path in Path(name).iterdir()} == {"photos", "cache"}
        assert len(list((Path(name) / "cache").iterdir())) == 2 * len(found)
