"""What is no safetensors file is refused by its first bytes, whatever its name; nothing is unpickled."""

import os
import pickle
import time

import pytest
import torch

from host.architecture import ProblemsFound, read_header


class Trap:
    def __reduce__(self):
        return os._exit, (66,)


FILES = {
    "is a GGUF file": b"GGUF\3\0\0\0" + bytes(64),
    "is a web page": b"\n <!DOCTYPE html><html></html>",
    "is a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "has 0 bytes": b"",
    "is not a safetensors file, or only the beginning of one": b"\x00\x01\x02",
    "a pickled one, which can run code": pickle.dumps(Trap(), protocol=2),
}


@pytest.mark.parametrize("name", ["model.safetensors", "model.bin", "model"])
@pytest.mark.parametrize("what", FILES)
def test_a_file_is_told_by_its_first_bytes(tmp_path, what, name):
    path = tmp_path / name
    path.write_bytes(FILES[what])
    with pytest.raises(ProblemsFound, match=what) as caught:
        read_header(path)
    (problem,) = caught.value.problems
    assert problem.code == "E16"
    assert str(path) in problem.what
    assert problem.remedy


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_torch_saved_is_never_opened_as_such(tmp_path, zipped):
    path = tmp_path / "model.safetensors"
    torch.save({"trap": Trap()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ProblemsFound, match="a pickled one, which can run code when it is opened"):
        read_header(path)


@pytest.mark.parametrize(
    "text",
    [
        b"[1, 2]",
        b'{"a": 3}',
        b'{"a": {"dtype": "F32", "shape": [1]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
        b'{"a": {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}}',
        b"\xff\xfe\xfd",
    ],
)
def test_a_header_that_makes_no_sense_is_refused(tmp_path, text):
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(ProblemsFound, match="is not a safetensors file"):
        read_header(path)


def test_a_large_file_is_read_in_no_time_because_no_weight_is_read(tmp_path):
    text = b'{"a": {"dtype": "BF16", "shape": [10000000000], "data_offsets": [0, 20000000000]}}'
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 20_000_000_000)
    start = time.perf_counter()
    assert read_header(path).tensors["a"].shape == (10_000_000_000,)
    assert time.perf_counter() - start < 1
