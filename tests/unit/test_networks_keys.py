"""kohya's names of modules."""

import pytest

from networks.keys import kohya_name, kohya_table


def test_a_name_is_the_prefix_and_the_path_with_underscores():
    name = kohya_name("double_blocks.0.img_attn.qkv", prefix="lora_unet_")

    assert name == "lora_unet_double_blocks_0_img_attn_qkv"


def test_the_table_leads_back_to_the_path():
    table = kohya_table(["img_in", "double_blocks.0.img_mod.lin"], prefix="lora_unet_")

    assert table == {
        "lora_unet_img_in": "img_in",
        "lora_unet_double_blocks_0_img_mod_lin": "double_blocks.0.img_mod.lin",
    }


def test_two_modules_of_one_name_are_an_error():
    with pytest.raises(ValueError, match=r"a\.b_c and a_b\.c would both be called x_a_b_c"):
        kohya_table(["a.b_c", "a_b.c"], prefix="x_")
