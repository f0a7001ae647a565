"""LoRA files of others: what is read, and what is refused with which reason."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from networks.factors import Factors
from networks.files import read_lora, write_lora
from networks.keys import kohya_table

TABLE = kohya_table(["double_blocks.0.img_attn.qkv", "img_in"], prefix="lora_unet_")


@pytest.fixture
def file(tmp_path):
    """A sound file of rank 2, with 3 features in and 5 out."""
    path = tmp_path / "x.safetensors"
    lora = {name: Factors(down=torch.ones(2, 3), up=torch.ones(5, 2), alpha=1.0) for name in TABLE.values()}
    write_lora(path, lora, prefix="lora_unet_", dtype=torch.bfloat16, metadata={})
    return path


def corrupt(path: Path, change) -> None:
    tensors = safetensors.torch.load(path.read_bytes())
    change(tensors)
    safetensors.torch.save_file(tensors, path)


def test_an_absent_alpha_is_the_rank(file):
    corrupt(file, lambda tensors: tensors.pop("lora_unet_img_in.alpha"))

    assert read_lora(file, table=TABLE)["img_in"].alpha == 2.0


def test_an_integer_alpha_of_another_program_is_read(file):
    corrupt(file, lambda tensors: tensors.update({"lora_unet_img_in.alpha": torch.tensor([8])}))

    assert read_lora(file, table=TABLE)["img_in"].alpha == 8.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.update({f"lora_te1_{n}.alpha": torch.tensor(1.0) for n in range(7)}),
            r"keys of no module of this model \(7: lora_te1_0\.alpha, .*lora_te1_4\.alpha \.\.\.\)",
        ),
        (
            lambda t: t.update({"lora_unet_img_in.dora_scale": torch.ones(5)}),
            r"keys of no module of this model \(1: lora_unet_img_in\.dora_scale\)",
        ),
        (
            lambda t: t.pop("lora_unet_img_in.lora_up.weight"),
            r"modules without both factors \(1: img_in\)",
        ),
        (
            lambda t: t.update({"lora_unet_img_in.lora_up.weight": torch.ones(5, 3)}),
            r"do not fit together \(1: img_in\)",
        ),
        (
            lambda t: t.update({"lora_unet_img_in.lora_down.weight": torch.ones(2, 3, 1, 1)}),
            r"do not fit together \(1: img_in\)",
        ),
        (
            lambda t: t.update({"lora_unet_img_in.alpha": torch.ones(2)}),
            r"do not fit together \(1: img_in\)",
        ),
        (lambda t: t.clear(), "has no LoRA modules"),
    ],
)
def test_a_file_that_cannot_be_read_whole_is_refused_with_the_reason(file, change, message):
    corrupt(file, change)

    with pytest.raises(ValueError, match=message):
        read_lora(file, table=TABLE)


def test_all_reasons_are_told_at_once(file):
    def change(tensors):
        del tensors["lora_unet_img_in.lora_up.weight"]
        tensors["other"] = torch.ones(1)

    corrupt(file, change)

    with pytest.raises(ValueError, match="keys of no module") as caught:
        read_lora(file, table=TABLE)
    assert "modules without both factors" in str(caught.value)


def test_a_file_that_is_cut_off_is_refused_by_name(file):
    file.write_bytes(file.read_bytes()[:-4])

    with pytest.raises(ValueError, match=r"x\.safetensors is not a sound safetensors file"):
        read_lora(file, table=TABLE)
