"""Where the tokenizers are looked for, how they are told apart, and what they make of a caption."""

import io
import json

import pytest
import sentencepiece
import torch
from tokenizers import Tokenizer
from transformers import CLIPTokenizer, T5Tokenizer

from host.architecture import ProblemsFound
from musubi_flux_dev.tiny_tokenizers import WORDS, clip_tokenizer_files, t5_tokenizer_files
from musubi_flux_dev.tokenizer_files import load_clip_tokenizer, load_t5_tokenizer
from musubi_flux_dev.tokenizers import find_clip_tokenizer, find_t5_tokenizer

CAPTIONS = [
    "a red circle on a white background",
    "",
    "  Two   RED\ncats\tand 12 Zebras, with \u201cquotes\u201d  ",
    "a cat <|endoftext|> a dog",
    "na\u00efve caf\u00e9 \u732b",
    "a small blue bird in the tree " * 40,
]


@pytest.fixture(autouse=True)
def empty_home(tmp_path, monkeypatch):
    """No test may find what happens to be on this machine."""
    for name in ("HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def models(tmp_path):
    """A folder with both encoders' files and no tokenizer."""
    folder = tmp_path / "ComfyUI" / "models" / "text_encoders"
    return write(folder, {"clip_l.safetensors": b"", "t5xxl.safetensors": b""})


@pytest.fixture(scope="module")
def spiece():
    """A sentencepiece model with T5's marks, trained on our words."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS[start:] + WORDS[:start]) for start in range(40)]),
        model_writer=model,
        vocab_size=130,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        normalization_rule_name="nmt_nfkc",
        minloglevel=2,
    )
    return model.getvalue()


def whole_clip_file(tmp_path):
    """CLIP's tokenizer as one tokenizer.json."""
    parts = write(tmp_path / "parts", clip_tokenizer_files())
    backend = load_clip_tokenizer(parts / "vocab.json").backend
    return {"tokenizer.json": backend.to_str().encode()}


def both(folder):
    """Put both tokenizers into one folder: no file name is used by both."""
    return write(folder, t5_tokenizer_files() | clip_tokenizer_files())


@pytest.mark.parametrize("place", ["", "tokenizer", "tokenizer_2", "../tokenizer", "../tokenizer_2"])
def test_tokenizers_beside_the_encoders_are_found(models, place):
    both(models / place)
    clip = find_clip_tokenizer(encoder=models / "clip_l.safetensors")
    t5 = find_t5_tokenizer(encoder=models / "t5xxl.safetensors")
    assert clip.resolve() == (models / place / "vocab.json").resolve()
    assert t5.resolve() == (models / place / "tokenizer.json").resolve()


def test_the_comfyui_tree_that_the_encoder_lies_in_is_found(models):
    root = models.parent.parent
    clip = write(root / "comfy" / "sd1_tokenizer", clip_tokenizer_files())
    t5 = write(root / "comfy" / "text_encoders" / "t5_tokenizer", t5_tokenizer_files())
    assert find_clip_tokenizer(encoder=models / "clip_l.safetensors") == clip / "vocab.json"
    assert find_t5_tokenizer(encoder=models / "t5xxl.safetensors") == t5 / "tokenizer.json"


def test_a_link_to_an_encoder_in_a_comfyui_tree_is_followed(models, tmp_path):
    clip = write(models.parent.parent / "comfy" / "sd1_tokenizer", clip_tokenizer_files())
    link = tmp_path / "mine.safetensors"
    link.symlink_to(models / "clip_l.safetensors")
    assert find_clip_tokenizer(encoder=link) == clip / "vocab.json"


@pytest.mark.parametrize(
    ("find", "repository", "inside", "name"),
    [
        (find_clip_tokenizer, "openai--clip-vit-large-patch14", "", "vocab.json"),
        (find_clip_tokenizer, "black-forest-labs--FLUX.1-dev", "tokenizer", "vocab.json"),
        (find_t5_tokenizer, "google--t5-v1_1-xxl", "", "tokenizer.json"),
        (find_t5_tokenizer, "black-forest-labs--FLUX.1-dev", "tokenizer_2", "tokenizer.json"),
    ],
)
def test_the_local_hub_cache_is_read(models, tmp_path, find, repository, inside, name):
    snapshot = tmp_path / "hf" / "hub" / f"models--{repository}" / "snapshots" / "0a1b"
    both(snapshot / inside)
    assert find(encoder=models / "clip_l.safetensors") == snapshot / inside / name


def test_the_hub_cache_moves_with_its_own_variables(models, tmp_path, monkeypatch):
    folder = both(tmp_path / "elsewhere" / "models--google--t5-v1_1-xxl" / "snapshots" / "0a1b")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    assert find_t5_tokenizer(encoder=models / "t5xxl.safetensors") == folder / "tokenizer.json"


def test_beside_the_encoder_comes_before_comfyui_and_comfyui_before_the_hub(models, tmp_path):
    hub = tmp_path / "hf" / "hub" / "models--openai--clip-vit-large-patch14" / "snapshots" / "0a1b"
    places = [hub, models.parent.parent / "comfy" / "sd1_tokenizer", models]
    for place in places:
        write(place, clip_tokenizer_files())
        assert find_clip_tokenizer(encoder=models / "clip_l.safetensors") == place / "vocab.json"


def test_the_setting_goes_before_every_other_place(models, tmp_path):
    both(models)
    given = both(tmp_path / "given")
    assert find_clip_tokenizer(encoder=models / "clip_l.safetensors", given=given) == given / "vocab.json"
    assert find_t5_tokenizer(encoder=models / "t5xxl.safetensors", given=given) == given / "tokenizer.json"


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_the_setting_may_name_either_of_clip_s_two_files(models, tmp_path, name):
    given = write(tmp_path / "given", clip_tokenizer_files())
    found = find_clip_tokenizer(encoder=models / "clip_l.safetensors", given=given / name)
    assert found == given / "vocab.json"


def test_files_of_both_tokenizers_in_one_folder_are_not_mixed_up(models, tmp_path, spiece):
    """tokenizer.json may be either's; here it is CLIP's, and T5 has only spiece.model."""
    write(models, whole_clip_file(tmp_path) | {"spiece.model": spiece})
    assert find_clip_tokenizer(encoder=models / "clip_l.safetensors") == models / "tokenizer.json"
    assert find_t5_tokenizer(encoder=models / "t5xxl.safetensors") == models / "spiece.model"


def test_a_missing_tokenizer_is_an_error_that_names_files_and_places(models, tmp_path):
    with pytest.raises(ProblemsFound) as found:
        find_clip_tokenizer(encoder=models / "clip_l.safetensors")
    (problem,) = found.value.problems
    assert problem.code == "E20"
    assert "no vocab.json with merges.txt, or tokenizer.json" in problem.what
    assert str(models / "clip_l.safetensors") in problem.what
    for place in (
        str(models),
        str(models / "tokenizer"),
        str(models.parent / "tokenizer_2"),
        "comfy/sd1_tokenizer",
        str(tmp_path / "hf" / "hub" / "models--openai--clip-vit-large-patch14"),
    ):
        assert place in problem.remedy
    assert 'tokenizer = "/path/to/folder"' in problem.remedy
    with pytest.raises(ProblemsFound, match=r"no tokenizer\.json or spiece\.model"):
        find_t5_tokenizer(encoder=models / "t5xxl.safetensors")


def test_vocab_json_alone_is_not_a_tokenizer(models):
    write(models, {"vocab.json": clip_tokenizer_files()["vocab.json"]})
    with pytest.raises(ProblemsFound):
        find_clip_tokenizer(encoder=models / "clip_l.safetensors")


def test_a_setting_that_names_the_other_s_tokenizer_says_so(models, tmp_path):
    given = write(tmp_path / "given", clip_tokenizer_files())
    with pytest.raises(ProblemsFound, match="is the tokenizer of CLIP-L, not of T5-XXL"):
        find_t5_tokenizer(encoder=models / "t5xxl.safetensors", given=given)


@pytest.mark.parametrize(
    ("name", "says"), [("nowhere", "does not exist"), ("", "holds no tokenizer of CLIP-L")]
)
def test_a_setting_that_leads_nowhere_is_an_error_although_another_place_would_do(
    models, tmp_path, name, says
):
    both(models)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ProblemsFound, match=says):
        find_clip_tokenizer(encoder=models / "clip_l.safetensors", given=tmp_path / "empty" / name)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b'{"model": 1}', b'{"model": {"vocab": {}}}'])
def test_a_file_with_the_right_name_and_another_content_is_passed_over(models, content):
    write(
        models, {"tokenizer.json": content, "vocab.json": content, "merges.txt": b"", "spiece.model": content}
    )
    for find in (find_clip_tokenizer, find_t5_tokenizer):
        with pytest.raises(ProblemsFound):
            find(encoder=models / "clip_l.safetensors")


def test_merges_that_were_cut_off_are_an_error(tmp_path):
    files = clip_tokenizer_files()
    files["merges.txt"] = b"\n".join(files["merges.txt"].splitlines()[:-5])
    folder = write(tmp_path / "cut", files)
    with pytest.raises(ProblemsFound, match=r"merges\.txt holds 308 merges; vocab\.json beside it needs 313"):
        load_clip_tokenizer(folder / "vocab.json")


@pytest.mark.parametrize("caption", CAPTIONS)
@pytest.mark.parametrize("whole", [False, True])
def test_clip_s_ids_are_those_of_the_reference_pipelines(tmp_path, caption, whole):
    folder = write(tmp_path / "clip", clip_tokenizer_files())
    expected = CLIPTokenizer.from_pretrained(folder, local_files_only=True)(
        [caption], padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    ).input_ids
    other = write(tmp_path / "whole", whole_clip_file(tmp_path)) / "tokenizer.json"
    ours = load_clip_tokenizer(other if whole else folder / "vocab.json")
    assert torch.equal(ours.ids([caption], length=77), expected)


@pytest.mark.parametrize("caption", CAPTIONS)
@pytest.mark.parametrize("length", [256, 512])
def test_t5_s_ids_are_those_of_the_reference_pipelines(tmp_path, caption, length):
    folder = write(tmp_path / "t5", t5_tokenizer_files())
    expected = T5Tokenizer.from_pretrained(folder, local_files_only=True)(
        [caption], padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids
    ours = load_t5_tokenizer(folder / "tokenizer.json").ids([caption], length=length)
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("caption", [*CAPTIONS, "\uff21 \u2460 \ufb01 cat\u00a0dog", "\u200bx"])
def test_a_spiece_model_gives_sentencepiece_s_own_ids(tmp_path, spiece, caption):
    path = write(tmp_path / "spiece", {"spiece.model": spiece}) / "spiece.model"
    expected = [*sentencepiece.SentencePieceProcessor(model_proto=spiece).encode(caption), 1]
    ours = load_t5_tokenizer(path).ids([caption], length=600)[0]
    assert ours[: len(expected)].tolist() == expected
    assert not ours[len(expected) :].any()


def test_a_sentencepiece_model_of_another_family_is_not_t5_s(models):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(WORDS), model_writer=model, vocab_size=100, minloglevel=2
    )
    write(models, {"spiece.model": model.getvalue()})
    with pytest.raises(ProblemsFound):
        find_t5_tokenizer(encoder=models / "t5xxl.safetensors")


def test_a_tokenizer_json_with_lengths_of_its_own_does_not_impose_them(tmp_path):
    folder = write(tmp_path / "t5", t5_tokenizer_files())
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(5)
    backend.enable_padding(length=25)
    backend.save(str(folder / "tokenizer.json"))
    tokenizer = load_t5_tokenizer(folder / "tokenizer.json")
    assert tokenizer.token_count("red " * 20) == 21
    assert (tokenizer.ids(["red " * 20], length=30) != 0).sum() == 21


def test_what_does_not_fit_is_the_tail_of_the_caption_as_written(tmp_path):
    clip = load_clip_tokenizer(write(tmp_path / "clip", clip_tokenizer_files()) / "vocab.json")
    caption = "RED  " * 75 + "Red Dog"
    assert clip.token_count(caption) == 79
    assert clip.cut_text(caption, length=77) == "Red Dog"
    assert clip.cut_text("Red Dog", length=77) == ""
    assert clip.ids([caption], length=77)[0, -1] == clip.end


def test_the_tiny_vocabularies_end_and_begin_with_their_marks():
    clip = json.loads(clip_tokenizer_files()["vocab.json"])
    assert (clip["<|startoftext|>"], clip["<|endoftext|>"]) == (len(clip) - 2, len(clip) - 1)
    t5 = json.loads(t5_tokenizer_files()["tokenizer.json"])["model"]
    assert [piece for piece, _ in t5["vocab"][:3]] == ["<pad>", "</s>", "<unk>"]


def test_every_word_of_the_tiny_clip_tokenizer_is_one_token(tmp_path):
    tokenizer = load_clip_tokenizer(write(tmp_path / "clip", clip_tokenizer_files()) / "vocab.json")
    assert [word for word in WORDS if tokenizer.token_count(word) != 3] == []
