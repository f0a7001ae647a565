"""Against the sizes that kohya-ss/musubi-tuner@30c658c computes."""

import pytest

import dataset
from dataset.buckets import Size, choose_bucket, cut_share, cut_sides, enumerate_buckets, scale_to_cover

SQUARE = Size(1024, 1024)

COUNTS = [  # width, height of the resolution; buckets; first; last (width, height)
    (512, 512, 33, (256, 1024), (1024, 256)),
    (768, 768, 49, (384, 1536), (1536, 384)),
    (1024, 1024, 65, (512, 2048), (2048, 512)),
    (960, 544, 47, (352, 1472), (1472, 352)),
    (1328, 1328, 85, (656, 2688), (2688, 656)),
]
CHOICES = [  # picture; bucket; bucket with no_upscale (all width, height)
    ((1920, 1080), (1360, 768), (1360, 768)),
    ((1080, 1920), (768, 1360), (768, 1360)),
    ((1000, 1000), (1024, 1024), (992, 992)),
    ((800, 600), (1184, 880), (800, 592)),
    ((1000, 700), (1232, 848), (992, 688)),
    ((640, 1536), (656, 1584), (640, 1536)),
    ((3000, 2000), (1248, 832), (1248, 832)),
    ((4000, 1000), (2048, 512), (2048, 512)),
    ((1365, 768), (1360, 768), (1360, 768)),
]


def wide_high(width, height):
    return Size(height=height, width=width)


def choose(image, *, no_upscale=False, enable_bucket=True, resolution=SQUARE):
    return choose_bucket(
        image, resolution=resolution, step=16, enable_bucket=enable_bucket, no_upscale=no_upscale
    )


def test_the_dataset_package_is_this_projects_own():
    assert dataset.__doc__ is not None
    assert dataset.__doc__.startswith("Pictures and captions as tensors and files")


@pytest.mark.parametrize(("width", "height", "count", "first", "last"), COUNTS)
def test_the_buckets_are_those_of_musubi(width, height, count, first, last):
    buckets = enumerate_buckets(wide_high(width, height), step=16)
    assert (len(buckets), buckets[0], buckets[-1]) == (count, wide_high(*first), wide_high(*last))


def test_all_buckets_of_512_are_those_of_musubi():
    narrow = "256x1024 272x960 288x896 304x848 320x816 336x768 352x736 368x704 384x672 400x640"
    narrow += " 416x624 432x592 448x576 464x560 480x544 496x528 512x512"
    sides = [tuple(int(side) for side in name.split("x")) for name in narrow.split()]
    expected = {wide_high(*pair) for pair in sides} | {wide_high(*pair[::-1]) for pair in sides}
    assert set(enumerate_buckets(Size(512, 512), step=16)) == expected


@pytest.mark.parametrize(("image", "bucket", "own"), CHOICES)
def test_a_picture_goes_to_the_bucket_that_musubi_chooses(image, bucket, own):
    assert choose(wide_high(*image)) == wide_high(*bucket)
    assert choose(wide_high(*image), no_upscale=True) == wide_high(*own)


def test_of_two_equally_near_buckets_the_narrower_wins():
    assert choose(Size(800, 1000), resolution=Size(32, 32)) == Size(32, 32)
    ratios = sorted(bucket.width / bucket.height for bucket in enumerate_buckets(Size(32, 32), step=16))
    midway = Size(1000, int(1000 * (ratios[-1] + ratios[-2]) / 2))
    assert midway.width / midway.height - ratios[-2] == ratios[-1] - midway.width / midway.height
    assert choose(midway, resolution=Size(32, 32)).width < 64


def test_without_buckets_every_picture_has_the_resolution_as_written():
    odd = Size(100, 333)
    assert choose(Size(7, 9), enable_bucket=False, no_upscale=True, resolution=odd) == odd


def test_a_picture_below_one_step_cannot_keep_its_size():
    with pytest.raises(ValueError, match="100 x 15 pixels are too few"):
        choose(Size(15, 100), no_upscale=True)


def test_a_resolution_below_one_step_has_no_bucket():
    with pytest.raises(ValueError, match="each side needs 16"):
        enumerate_buckets(Size(8, 64), step=16)


def test_no_bucket_is_without_height():
    assert enumerate_buckets(Size(16, 31), step=16) == (Size(16, 16),)


def test_the_smallest_resolution_has_its_one_bucket():
    assert enumerate_buckets(Size(16, 16), step=16) == (Size(16, 16),)


def test_the_scale_covers_the_bucket_on_both_sides():
    assert scale_to_cover(Size(1080, 1920), Size(768, 1360)) == pytest.approx(768 / 1080)
    assert scale_to_cover(Size(500, 1000), Size(1024, 1024)) == pytest.approx(1024 / 500)


def test_the_share_that_is_cut_off_is_what_is_missing_of_the_scaled_picture():
    assert cut_share(Size(500, 1000), Size(512, 512)) == pytest.approx(0.5)
    assert cut_share(Size(1200, 1000), Size(500, 500)) == pytest.approx(1 / 6)
    assert cut_share(Size(333, 444), Size(666, 888)) == pytest.approx(0)


@pytest.mark.parametrize(
    ("image", "sides"),
    [
        ((1000, 500), ("left", "right")),
        ((500, 1000), ("top", "bottom")),
        ((512, 512), ()),
        ((2000, 1999), ()),
        ((516, 512), ("left", "right")),
    ],
)
def test_a_side_is_cut_where_a_whole_pixel_goes(image, sides):
    assert cut_sides(wide_high(*image), Size(512, 512)) == sides
