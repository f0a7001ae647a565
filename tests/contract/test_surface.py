"""What other people's code and files rely on; a change here is a decision, not an accident."""

import dataclasses
import inspect
from pathlib import Path

import toml
from jobs import ROOT

import dataset
from host import architecture
from host.architecture import Architecture, Variant


def names(kind):
    return [field.name for field in dataclasses.fields(kind)]


def test_the_members_of_the_contract():
    assert set(names(Architecture)) == {
        "code",
        "full_name",
        "api_version",
        "bucket_step",
        "tokens_per_latent",
        "latent_channels",
        "pixels_per_latent",
        "settings",
        "identify",
        "default_variant",
        "check_files",
        "load_transformer",
        "load_autoencoder",
        "load_text_encoders",
        "call_dit",
        "blocks",
        "adapter_layout",
        "tiny",
        "demo",
        "find_tokenizers",
        "memory",
        "scaled_linears",
        "linears_ahead",
        "fast_blocks",
        "judges",
    }
    assert {"name", "conditioning", "takes_guidance", "training_shift", "sampling_sigmas"} <= set(
        names(Variant)
    )


def test_the_keywords_that_people_s_own_scripts_use():
    def keywords(protocol):
        return list(inspect.signature(protocol.__call__).parameters)[1:]

    assert keywords(architecture.LoadTransformer)[:5] == ["path", "device", "dtype", "disable_mmap", "place"]
    assert keywords(architecture.CallDit) == [
        "transformer",
        "noisy_latents",
        "sigma",
        "conditioning",
        "guidance",
    ]


def test_the_programs_are_where_their_users_look_for_them():
    for name in (
        "train.py",
        "flux_dev_cache_latents.py",
        "flux_dev_cache_text_encoder_outputs.py",
        "flux_dev_generate_image.py",
        "evaluate.py",
    ):
        assert len((ROOT / name).read_text().splitlines()) <= 12


def test_our_dataset_package_and_the_toml_package_do_not_hide_each_other():
    assert Path(dataset.__file__) == ROOT / "dataset" / "__init__.py"
    assert Path(toml.__file__).name == "__init__.py"
    assert ROOT / "toml" not in Path(toml.__file__).parents
