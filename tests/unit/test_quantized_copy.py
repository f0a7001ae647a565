"""The quantised weights are made once: the next start reads them, and never what is not whole."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from jobs import draw_pictures, lora_bytes, train, write_job
from safetensors.torch import load_file, save_file
from streamed_flux import BLOCKS, CPU, FLUX, velocity

from host import account, placement
from host.architecture import read_header
from host.frozen import Home, load_frozen_transformer, start_blocks
from host.movers import HostStore
from host.placement import Skeleton, eight_bit_linears
from host.prepare import ModelSettings, eight_bit_form
from host.quantization import INT8
from host.quantized_copy import CopyPlace, CopyWriter, read_record, tidy_copies
from musubi_flux_dev import checkpoints
from networks.linears import StoredLinear

FORMS: dict[str, dict[str, Any]] = {
    "fp8": {"fp8_base": True},
    "fp8_scaled": {"fp8_base": True, "fp8_scaled": True},
    "int8": {"int8_base": True},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return FLUX.tiny(tmp_path_factory.mktemp("models"))["dit"]


@pytest.fixture
def quantised(monkeypatch):
    """The shapes of what was quantised so far."""
    calls, original = [], placement.quantize
    monkeypatch.setattr(placement, "quantize", lambda w, form: calls.append(w.shape) or original(w, form))
    return calls


def place_of(path, folder, source="one", **settings: Any):
    part: Any = FLUX.identify(read_header(path))
    skeleton, form = (
        Skeleton(blocks=part.blocks, linears=part.linears),
        eight_bit_form(ModelSettings(**settings)),
    )
    assert form is not None
    coded = eight_bit_linears(skeleton, form, covered=FLUX.scaled_linears)
    linears = {name: part.linears[name] for name in coded}
    return skeleton, CopyPlace(
        folder=folder, code="fd", source=source, form=form, dtype=torch.bfloat16, linears=linears
    )


def load(path, folder, *, writes=True, source="one", **settings: Any) -> Any:
    form = {name: value for name, value in settings.items() if name != "blocks_to_swap"}
    skeleton, place = place_of(path, folder / "quantised", source, **form)
    home = Home(device=CPU, folder=folder, copy=place, writes_copy=writes)
    return load_frozen_transformer(
        FLUX, path, skeleton=skeleton, settings=ModelSettings(**settings), home=home
    )


def weights(frozen) -> dict[str, Any]:
    found: dict[str, Any] = {
        path: module.weight
        for path, module in frozen.transformer.named_modules()
        if isinstance(module, StoredLinear)
    }
    return {path: [part.view(torch.uint8) for part in weight.parts] for path, weight in found.items()}


def equal(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(a, b) for path in one for a, b in zip(one[path], other[path], strict=True)
    )


@pytest.mark.parametrize("form", FORMS)
def test_the_second_start_quantises_nothing_and_has_the_same_bytes(tiny, tmp_path, quantised, form):
    first = load(tiny, tmp_path, **FORMS[form])
    assert len(quantised) == len(weights(first)) > 20
    quantised.clear()
    second = load(tiny, tmp_path, **FORMS[form])
    assert quantised == []
    assert equal(weights(first), weights(second))
    assert "kept for the next start in" in first.notes[0]
    assert "8 bit: read from" in second.notes[0]
    assert first.notes[1:] == second.notes[1:]
    assert "worst: " in first.notes[1]


def test_the_second_start_does_not_even_read_those_weights(tiny, tmp_path, monkeypatch):
    read, original = [], checkpoints.read_sources
    monkeypatch.setattr(checkpoints, "read_sources", lambda s, **o: read.append(len(s)) or original(s, **o))
    for _ in range(2):
        load(tiny, tmp_path, fp8_base=True)
    assert read[0] - read[1] == 2 * 10 + 4 * 3


def test_a_copy_is_a_safetensors_file_of_exactly_the_size_that_was_reckoned(tiny, tmp_path):
    for form in FORMS.values():
        frozen, (_, place) = load(tiny, tmp_path, **form), place_of(tiny, tmp_path / "quantised", **form)
        assert place.path.stat().st_size == place.size
        found = load_file(place.path)
        for path, parts in weights(frozen).items():
            names = [f"{path}.weight", f"{path}.scale_weight"][: len(parts)]
            assert all(torch.equal(found[n].view(torch.uint8), p) for n, p in zip(names, parts, strict=True))


def test_it_is_written_tensor_by_tensor(tiny, tmp_path, monkeypatch):
    """Each weight is in the file before the next one is read."""
    sizes, original = [], placement.quantize

    def watched(weight, form):
        (partial,) = (tmp_path / "quantised").glob(".*.partial")
        sizes.append(partial.stat().st_size)
        return original(weight, form)

    monkeypatch.setattr(placement, "quantize", watched)
    put = CopyWriter.put

    def flushed(writer, path, parts):
        put(writer, path, parts)
        writer.file.flush()

    monkeypatch.setattr(CopyWriter, "put", flushed)
    load(tiny, tmp_path, fp8_base=True)
    assert len(set(sizes)) > len(sizes) / 2
    assert list((tmp_path / "quantised").glob(".*")) == []


def spoilt_by_cutting(place, tiny):
    place.path.write_bytes(place.path.read_bytes()[:-1])


def spoilt_by_a_stranger(place, tiny):
    place.path.write_bytes(tiny.read_bytes())


def spoilt_by_other_numbers(place, tiny):
    content = bytearray(place.path.read_bytes())
    content[-1] ^= 1
    place.path.write_bytes(bytes(content))


def spoilt_by_another_header(place, tiny):
    tensors = load_file(place.path)
    first = next(iter(tensors))
    save_file({f"{first}_": tensors.pop(first), **tensors}, place.path)


def spoilt_without_its_record(place, tiny):
    place.record.unlink()


def spoilt_with_a_torn_record(place, tiny):
    place.record.write_text(place.record.read_text()[:-20])


SPOILS = [value for name, value in sorted(globals().items()) if name.startswith("spoilt")]


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__)
def test_what_is_not_whole_is_made_anew_and_said(tiny, tmp_path, quantised, spoil):
    first = load(tiny, tmp_path, int8_base=True)
    _, place = place_of(tiny, tmp_path / "quantised", int8_base=True)
    whole = place.path.read_bytes()
    spoil(place, tiny)
    quantised.clear()
    again = load(tiny, tmp_path, int8_base=True)
    assert len(quantised) == 24
    assert equal(weights(first), weights(again))
    assert str(place.path) in again.notes[0]
    assert "it is made anew" in again.notes[0]
    assert place.path.read_bytes() == whole
    quantised.clear()
    load(tiny, tmp_path, int8_base=True)
    assert quantised == []


def test_another_source_or_form_has_another_copy(tiny, tmp_path, quantised):
    load(tiny, tmp_path, int8_base=True)
    others: list[dict[str, Any]] = [{"source": "two", **FORMS["int8"]}, FORMS["fp8"], FORMS["fp8_scaled"]]
    for other in others:
        quantised.clear()
        assert "8 bit: read from" not in load(tiny, tmp_path, **other).notes[0]
        assert quantised
    assert len(list((tmp_path / "quantised").glob("*.safetensors"))) == 4


def test_another_rule_or_type_has_another_name(tiny, tmp_path):
    _, place = place_of(tiny, tmp_path, int8_base=True)
    others = [
        replace(place, form=replace(INT8, group=64)),
        replace(place, dtype=torch.float32),
        replace(place, linears=dict(list(place.linears.items())[1:])),
    ]
    assert len({one.path for one in (place, *others)}) == 4


@pytest.mark.parametrize("swap", [1, BLOCKS])
def test_streamed_blocks_are_read_from_the_copy_and_not_written_again(tiny, tmp_path, quantised, swap):
    results = []
    for _ in range(2):
        frozen = load(tiny, tmp_path, blocks_to_swap=swap, fp8_base=True)
        start_blocks(frozen, FLUX, checkpointed=False)
        with torch.no_grad():
            results.append((velocity(frozen.transformer), frozen.streamer.shelf.store.end))
    (made, written), (read, rest) = results
    assert torch.equal(made, read)
    assert written > rest == 0
    assert len(quantised) == 32


def test_main_memory_takes_streamed_weights_from_the_copy_too(tiny, tmp_path):
    load(tiny, tmp_path, int8_base=True)
    _, place = place_of(tiny, tmp_path / "quantised", int8_base=True)
    stored, store = place.open(), HostStore(pinned=False)
    assert stored is not None
    path, parts = next(iter(stored.parts.items()))
    store.add(0, 0, parts[0])
    store.seal([parts[0].nbytes])
    codes = load_file(place.path)[f"{path}.weight"]
    assert torch.equal(store.flat[0], codes.view(torch.uint8).flatten())


def test_a_process_that_is_not_main_writes_none(tiny, tmp_path):
    frozen = load(tiny, tmp_path, writes=False, int8_base=True)
    assert not (tmp_path / "quantised").exists()
    assert len(weights(frozen)) == 24


def test_a_disk_that_fails_ends_the_copy_and_not_the_run(tiny, tmp_path, monkeypatch):
    def full(part):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("host.quantized_copy.bytes_of", full)
    frozen = load(tiny, tmp_path, int8_base=True)
    assert "no copy is kept in" in frozen.notes[0]
    assert "No space left on device" in frozen.notes[0]
    assert list((tmp_path / "quantised").iterdir()) == []
    (tmp_path / "other").write_text("a file where a folder should be")
    _, place = place_of(tiny, tmp_path / "other", int8_base=True)
    again: Any = load_frozen_transformer(
        FLUX, tiny, skeleton=place_of(tiny, tmp_path, int8_base=True)[0],
        settings=ModelSettings(int8_base=True), home=Home(device=CPU, folder=tmp_path, copy=place),
    )  # fmt: skip
    assert "no copy is kept in" in again.notes[0]
    assert equal(weights(frozen), weights(again))


def copies(folder):
    return sorted(path.name for path in (folder / "cached" / "quantised").glob("*"))


def test_a_job_keeps_its_copy_in_the_first_datasets_cache_and_ends_with_the_same_bytes(
    tmp_path, capsys, quantised
):
    job = write_job(tmp_path, int8_base=True, max_train_steps=2, pictures=draw_pictures(tmp_path / "p"))
    assert train(job) == 0
    said, found = capsys.readouterr().out, lora_bytes(tmp_path)
    assert "8-bit copy" in said
    (name, record) = sorted(copies(tmp_path), reverse=True)
    assert name.startswith("toy-int8-")
    assert json.loads((tmp_path / "cached" / "quantised" / record).read_text()).keys() >= {"file", "errors"}
    assert len(quantised) == 2
    assert train(job, "--overwrite") == 0
    said = capsys.readouterr().out
    assert "8 bit: read from" in said
    assert "8-bit copy" not in said
    assert len(quantised) == 2
    assert lora_bytes(tmp_path) == found

    assert train(job, "--overwrite", "--no_int8_base", "--fp8_base") == 0
    assert "8-bit copies are not used (toy-int8-" in capsys.readouterr().out
    assert len(copies(tmp_path)) == 4
    assert train(job, "--overwrite", "--clean_cache") == 0
    assert "8-bit copies deleted (toy-fp8-" in capsys.readouterr().out
    assert copies(tmp_path) == sorted([name, record])


def test_where_there_is_no_room_none_is_written_and_that_is_said(tmp_path, capsys, monkeypatch):
    def look(folder):
        here = "quantised" in folder.parts
        return account.Volume(device=int(here), free=10 if here else 10**9)

    check, has_room = account.check_space, account.has_room_for_copy
    monkeypatch.setattr("host.run.check_space", lambda *job, **on: check(*job, **on, look=look))
    monkeypatch.setattr("host.training.has_room_for_copy", lambda job, **on: has_room(job, **on, look=look))
    job = write_job(tmp_path, int8_base=True, max_train_steps=2)
    assert train(job) == 0
    said = capsys.readouterr().out
    assert "; no room for the 8-bit copy (" in said
    assert "no copy is kept for the next start: no room in" in said
    assert copies(tmp_path) == []


def test_unused_copies_and_what_a_kill_left_are_named_and_deleted_only_when_asked(tmp_path):
    for name in ("a.safetensors", "a.json", ".a.safetensors.77.partial"):
        (tmp_path / name).write_text("x")
    (said,) = tidy_copies(tmp_path, None, clean=False)
    assert "a.safetensors" in said
    assert len(list(tmp_path.iterdir())) == 3
    tidy_copies(tmp_path, None, clean=True)
    assert list(tmp_path.iterdir()) == []
    assert tidy_copies(tmp_path / "nowhere", None, clean=True) == []


def test_a_record_that_is_none_is_empty(tmp_path):
    for text in ("[]", "{}", "no json"):
        (tmp_path / "r.json").write_text(text)
        assert read_record(tmp_path / "r.json") == {}
