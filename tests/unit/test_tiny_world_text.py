"""The tiny world's text encoders: frozen, and what captions say can be read off them by a linear map."""

import random

import pytest
import torch

from musubi_flux_dev.text_encoders import load_text_encoders
from musubi_flux_dev.tiny_world.captions import captions
from musubi_flux_dev.tiny_world.drawing import COLOURS, NEW_WORD, SHAPES
from musubi_flux_dev.tiny_world.scenes import held_out_scenes, training_scenes
from musubi_flux_dev.tiny_world.text_files import text_files, write_text_files

LENGTH = 32


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    paths = write_text_files(tmp_path_factory.mktemp("world"))
    encoders = load_text_encoders(paths, device="cpu", dtype=torch.float32)
    encoders.t5_length = LENGTH
    return encoders


def phrased(scenes):
    draws = random.Random(0)
    return [draws.choice(captions(scene)) for scene in scenes]


def read_off(features, labels, probes, truths):
    """How often a least-squares map from features to one of the labels is right on the probes."""
    names = sorted(set(labels))
    wanted = torch.nn.functional.one_hot(torch.tensor([names.index(x) for x in labels])).double()
    with_one = torch.cat((features, torch.ones(len(features), 1)), dim=1).double()
    ridge = with_one.T @ with_one + 1e-2 * torch.eye(with_one.shape[1])
    weights = torch.linalg.solve(ridge, with_one.T @ wanted)
    answers = torch.cat((probes, torch.ones(len(probes), 1)), dim=1).double() @ weights
    found = [names[i] for i in answers.argmax(dim=1)]
    return sum(a == b for a, b in zip(found, truths, strict=True)) / len(truths)


@pytest.mark.parametrize("what", ["colour", "shape"])
def test_words_of_held_out_captions_can_be_read_off_the_pooled_output(encoders, what):
    seen, held_out = training_scenes(4, 600, two=0.0), held_out_scenes()
    features = encoders.encode(phrased(seen))["clip_pooled"]
    probes = encoders.encode(phrased(held_out))["clip_pooled"]
    labels = [getattr(scene.things[0], what) for scene in seen]
    truths = [getattr(scene.things[0], what) for scene in held_out]
    assert read_off(features, labels, probes, truths) >= 0.99


def tokens_of_shapes(encoders, scenes):
    """The hidden state at each word that names a shape, and the colour before it."""
    texts = phrased(scenes)
    hidden = encoders.encode(texts)["t5_hidden"]
    states, colours = [], []
    for row, (text, scene) in enumerate(zip(texts, scenes, strict=True)):
        pieces = encoders.t5_tokenizer.backend.encode(text).tokens
        at = [number for number, piece in enumerate(pieces) if piece.strip("\u2581") in SHAPES]
        assert len(at) == len(scene.things)
        words = text.replace(",", "").split()
        colours += [words[i - 1] for i, word in enumerate(words) if word in SHAPES]
        states += [hidden[row, number] for number in at]
    return torch.stack(states), colours


def test_t5_ties_each_colour_to_its_own_shape(encoders):
    features, labels = tokens_of_shapes(encoders, training_scenes(5, 400, two=1.0))
    probes, truths = tokens_of_shapes(encoders, training_scenes(6, 150, two=1.0))
    assert set(labels) == set(COLOURS)
    assert read_off(features, labels, probes, truths) >= 0.99


def test_every_word_of_the_world_is_one_token_and_a_made_up_word_is_spelt(encoders):
    for scene in training_scenes(7, 60):
        for caption in captions(scene):
            words = len(caption.replace(",", " ,").split())
            assert encoders.t5_tokenizer.token_count(caption) == words + 1
            assert encoders.clip_tokenizer.token_count(caption) == words + 2
    assert encoders.t5_tokenizer.token_count(NEW_WORD) > 2
    assert (
        max(encoders.t5_tokenizer.token_count(c) for s in training_scenes(8, 200) for c in captions(s))
        < LENGTH
    )


def test_outputs_are_neither_loud_nor_quiet_and_the_files_are_the_same_each_time(encoders):
    for tensor in encoders.encode(["a large red circle on the left on a white background"]).values():
        assert 0.7 < tensor.std() < 1.4
    assert text_files() == text_files()
