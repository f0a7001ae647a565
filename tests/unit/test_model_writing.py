"""A transformer's file is put in place only when it was loaded again and answers as the live one."""

from dataclasses import replace

import pytest
import torch
import toy_architecture
from safetensors.torch import load_file, save_file

from host import model_writing
from host.architecture import read_header
from host.errors import FailedRunError
from host.full_training import FULL, FullModel
from host.model_files import ModelFiles
from host.model_writing import ModelWriter
from host.prepare import ModelSettings

SPEC = toy_architecture.SPEC


@pytest.fixture
def base(tmp_path):
    return SPEC.tiny(tmp_path / "models")["dit"]


@pytest.fixture
def live(base):
    transformer = SPEC.load_transformer(base, device="cpu", dtype=torch.float32).requires_grad_(True)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(0.01)
    return transformer


def writer_of(transformer, *, dtype=torch.bfloat16, spec=SPEC):
    return ModelWriter(
        architecture=spec,
        variant=toy_architecture.VARIANT,
        transformer=transformer,
        model=ModelSettings(),
        dtype=dtype,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_file_holds_the_live_tensors_in_its_type_and_says_what_it_was_told(live, tmp_path, dtype):
    path = tmp_path / "saved.safetensors"
    found = writer_of(live, dtype=dtype)(path, {"b": "2", "a": "1"}, must_change=True)
    assert (found.matched, found.total, str(found)) == (8, 8, "Verified: 8 of 8 tensors")
    saved = load_file(path)
    for name, parameter in live.named_parameters():
        assert torch.equal(saved[name], parameter.detach().to(dtype))
    assert dict(read_header(path).metadata) == {"a": "1", "b": "2"}


def test_the_same_model_is_the_same_bytes(live, tmp_path):
    paths = [tmp_path / name for name in ("one.safetensors", "other.safetensors")]
    for path in paths:
        writer_of(live)(path, {"b": "2", "a": "1"}, must_change=True)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_order_in_which_metadata_is_given_changes_no_byte(live, tmp_path):
    paths = [tmp_path / name for name in ("one.safetensors", "other.safetensors")]
    for path, metadata in zip(paths, ({"b": "2", "a": "1"}, {"a": "1", "b": "2"}), strict=True):
        writer_of(live)(path, metadata, must_change=True)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def refused(writer, path, match, *, must_change=True):
    path.write_bytes(b"what was there")
    with pytest.raises(ValueError, match=match):
        writer(path, {}, must_change=must_change)
    assert path.read_bytes() == b"what was there"
    assert not list(path.parent.glob(".*partial"))


def test_a_value_that_the_type_cannot_hold_is_refused_by_name(live, tmp_path):
    with torch.no_grad():
        live.head.weight[0, 0] = 1e6
    refused(writer_of(live, dtype=torch.float16), tmp_path / "a.safetensors", "head.weight holds values")


def test_a_model_that_did_not_change_is_refused_and_a_trial_is_not(live, tmp_path):
    writer = writer_of(live)
    writer(tmp_path / "trial.safetensors", {}, must_change=False)
    refused(writer, tmp_path / "a.safetensors", "every weight is that of the base")
    with torch.no_grad():
        live.head.bias[0] += 1e-9
    refused(writer, tmp_path / "a.safetensors", "every weight is that of the base")
    with torch.no_grad():
        live.head.bias[0] += 1
    writer(tmp_path / "a.safetensors", {}, must_change=True)


def spoiled(spoil):
    def load(path, **options):
        transformer = SPEC.load_transformer(path, **options)
        spoil(transformer)
        return transformer

    return replace(SPEC, load_transformer=load)


def test_a_loader_that_mixes_up_tensors_is_found_out(live, tmp_path):
    def swap(transformer):
        first, second = (layer[0].weight for layer in transformer.layers)
        kept = first.data.clone()
        first.data.copy_(second.data)
        second.data.copy_(kept)

    refused(writer_of(live, spec=spoiled(swap)), tmp_path / "a.safetensors", "2 of 8 tensors differ")


def test_a_loader_that_makes_another_model_of_the_right_tensors_is_found_out(live, tmp_path):
    def shorten(transformer):
        transformer.forward = lambda noisy, sigma, words: noisy

    refused(writer_of(live, spec=spoiled(shorten)), tmp_path / "a.safetensors", "loaded model is another one")


def test_a_loader_that_cannot_read_the_file_is_a_refusal(live, tmp_path):
    def fail(transformer):
        raise KeyError("head.weight")

    refused(writer_of(live, spec=spoiled(fail)), tmp_path / "a.safetensors", "the file does not load")


def test_the_file_is_loaded_again_on_the_device_of_training(live, tmp_path, monkeypatch):
    asked = []

    def load(path, *, device, **_):
        asked.append(device)
        raise KeyError("no weight is wanted here")

    # A device that no machine lacks; it has no numbers to write.
    monkeypatch.setattr(model_writing, "write_tensors", lambda *_, **__: "hash")
    writer = writer_of(live.to("meta"), spec=replace(SPEC, load_transformer=load))
    with pytest.raises(ValueError, match="does not load"):
        writer(tmp_path / "a.safetensors", {}, must_change=False)
    assert asked == [torch.device("meta")]


def files_of(base):
    header = read_header(base)
    part = SPEC.identify(header)
    assert part is not None
    return ModelFiles(
        paths={"dit": base},
        parts={"dit": part},
        variant=toy_architecture.VARIANT,
        notes=(),
        headers={"dit": header},
    )


def verify(path, base):
    return FULL.verify_finished(path, SPEC, files_of(base))


def test_a_finished_file_is_looked_at_without_the_live_model(live, base, tmp_path):
    path = tmp_path / "saved.safetensors"
    writer_of(live)(path, {}, must_change=True)
    assert str(verify(path, base)) == "Verified: 8 of 8 tensors"
    with pytest.raises(FailedRunError, match="is no transformer of the build"):
        verify(tmp_path / "models" / "vae.safetensors", base)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["embed.weight", "head.bias"])
def test_a_finished_file_with_a_value_that_is_not_finite_is_refused_by_name(
    live, base, tmp_path, name, number
):
    path = tmp_path / "saved.safetensors"
    writer_of(live)(path, {}, must_change=True)
    tensors = load_file(path)
    tensors[name].view(-1)[-1] = number
    save_file(tensors, path)
    with pytest.raises(FailedRunError, match=rf"not finite \({name}\)"):
        verify(path, base)


def test_a_state_of_another_model_is_refused_by_the_names_of_its_tensors(live):
    weights = FullModel(live)
    state = weights.state()
    weights.load_state(state)
    other = {**state, "tail.weight": state["head.weight"]}
    with pytest.raises(ValueError, match=r"does not fit the transformer \(tail.weight\)"):
        weights.load_state(other)
    with pytest.raises(ValueError, match=r"head\.bias"):
        weights.load_state({**state, "head.bias": torch.zeros(5)})


def test_a_state_is_a_copy(live):
    state = FullModel(live).state()
    before = state["head.bias"].clone()
    with torch.no_grad():
        live.head.bias += 1
    assert torch.equal(state["head.bias"], before)


def test_there_is_no_strength_between_base_and_model(live):
    weights = FullModel(live)
    weights.set_strength(0.0)
    weights.set_strength(1.0)
    with pytest.raises(ValueError, match=r"no strength 0\.5"):
        weights.set_strength(0.5)
