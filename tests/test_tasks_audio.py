"""Whole audio jobs from the file to the text, beside transformers' own processor and model."""

import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch
import transformers
from sounds import babble
from transformers import pipeline

import minitrans
from minitrans import AudioClassifier, AutoProcessor, Transcriber
from minitrans.processing.speech import Wav2Vec2Processor
from minitrans.tasks import subtitles
from minitrans.tasks.audio import read_blocks

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

RATE = 16000
SECONDS = (2.6, 4.5, 2.4)
SENTENCES = (
    "In a hole in the ground there lived a hobbit.",
    "The ferry leaves at ten past seven, and the museum is closed on Mondays.",
    "Ink dries faster on uncoated paper.",
)
SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "vocab_size": 32,
    "classifier_proj_size": 24,
}  # fmt: skip
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}


def checkpoint(folder: Path, head: str = "Wav2Vec2ForCTC", local: bool = False, **values: Any) -> Path:
    """A random tiny checkpoint of transformers', whose frames see only their neighbours where `local`."""
    torch.manual_seed(0)
    extractor = {name: values.pop(name) for name in ("do_normalize", "return_attention_mask") if name in values}
    model = getattr(transformers, head)(transformers.Wav2Vec2Config(**{**SIZES, **values}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight") and parameter.dim() > 1:
                parameter.mul_(16 if "lm_head" in name or "classifier" in name else 2)
            if local and (".v_proj" in name or ".out_proj" in name):
                parameter.zero_()
            if name == "lm_head.bias":  # letters, blanks and spaces rather than special tokens
                parameter.copy_(torch.tensor([1.0, -99.0, -99.0, -99.0, 3.0] + [0.0] * 27))
    model.save_pretrained(folder)
    vocabulary = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVKXJQZ'"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(vocabulary)}))
    transformers.Wav2Vec2Processor(
        transformers.Wav2Vec2FeatureExtractor(**extractor), transformers.Wav2Vec2CTCTokenizer(folder / "vocab.json")
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def speech(tmp_path_factory: Any) -> list[Path]:
    """Three utterances of different lengths, mono at 22050 Hz."""
    folder = tmp_path_factory.mktemp("speech")
    paths = [folder / f"{index}.wav" for index in range(len(SECONDS))]
    for index, (path, seconds) in enumerate(zip(paths, SECONDS, strict=True)):
        soundfile.write(path, babble(seconds, 22050, seed=index), 22050)
    return paths


def samples(path: Path) -> np.ndarray:
    sound, rate = soundfile.read(path, dtype="float32")
    return soxr.resample(sound, rate, RATE)


@pytest.fixture(scope="module")
def clip(speech: list[Path]) -> np.ndarray:
    """All utterances, several times, at the checkpoint's rate: 29 seconds."""
    return np.concatenate([samples(path) for path in speech] * 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    return checkpoint(tmp_path_factory.mktemp("ctc"), **LAYER_NORM, return_attention_mask=True)


def reference(folder: Path, sound: np.ndarray) -> tuple[str, list[tuple[str, float, float]]]:
    """Text and timed words by transformers' processor, model and decoder."""
    processor = transformers.Wav2Vec2Processor.from_pretrained(folder)
    model = transformers.Wav2Vec2ForCTC.from_pretrained(folder).eval()
    with torch.inference_mode():
        tokens = model(**processor(sound, sampling_rate=RATE, return_tensors="pt")).logits.argmax(-1)[0]
    decoded = processor.tokenizer.decode(tokens, output_word_offsets=True)
    step = model.config.inputs_to_logits_ratio / RATE
    words = [(word["word"], word["start_offset"] * step, word["end_offset"] * step) for word in decoded.word_offsets]
    return decoded.text, words


def same_words(transcript: dict[str, Any], words: list[tuple[str, float, float]], tolerance: float = 1e-9) -> None:
    """The words are equal, and their times to `tolerance` seconds."""
    assert [word["word"] for word in transcript["words"]] == [word for word, _, _ in words]
    ours = np.array([(word["start"], word["end"]) for word in transcript["words"]])
    assert np.abs(ours - np.array([times for _, *times in words])).max() <= tolerance


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("normalize", [True, False])
def test_speech_to_text(speech: list[Path], tmp_path: Path, norm: str, normalize: bool) -> None:
    values = LAYER_NORM if norm == "layer" else {}
    folder = checkpoint(tmp_path, **values, do_normalize=normalize, return_attention_mask=norm == "layer")
    transcribed_alike(folder, speech)


@pytest.mark.needs("espeak-ng")
def test_spoken_sentences_to_text(folder: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.wav" for index in range(len(SENTENCES))]
    for path, sentence in zip(paths, SENTENCES, strict=True):
        subprocess.run(["espeak-ng", "-w", path, sentence], check=True)
    transcribed_alike(folder, paths)


def transcribed_alike(folder: Path, speech: list[Path]) -> None:
    """Each file has the text and the words' times that transformers gives it."""
    transcripts = Transcriber.from_pretrained(folder)(speech)
    assert len({transcript["text"] for transcript in transcripts}) == 3
    for path, transcript in zip(speech, transcripts, strict=True):
        text, words = reference(folder, samples(path))
        assert len(words) >= 3
        assert transcript["text"] == text
        same_words(transcript, words)


def test_one_sound_of_any_kind(speech: list[Path], folder: Path, tmp_path: Path) -> None:
    transcribe = Transcriber.from_pretrained(folder)
    expected = transcribe(speech[0])
    sound = samples(speech[0])
    soundfile.write(tmp_path / "same.flac", np.stack([sound, sound], axis=1), RATE, subtype="PCM_24")
    for one in (
        str(speech[0]),
        (sound, RATE),
        (torch.from_numpy(sound), RATE),
        (np.stack([sound + sound[::-1], sound - sound[::-1]]), RATE),
        soundfile.read(speech[0], dtype="float32"),  # at another rate
        tmp_path / "same.flac",
    ):
        assert transcribe(one)["text"] == expected["text"]
    assert transcribe(iter(speech[:1]), budget=1) == [expected]
    assert transcribe([]) == []


def test_blocks_are_the_file(clip: np.ndarray, tmp_path: Path) -> None:
    """Read and resampled block by block as in one piece."""
    path = tmp_path / "clip.wav"
    for rate in (RATE, 8000, 44100):
        soundfile.write(path, soxr.resample(clip, RATE, rate), rate, subtype="FLOAT")
        whole = soxr.resample(soundfile.read(path, dtype="float32")[0], rate, RATE)
        blocks = list(read_blocks(path, RATE))
        assert len(blocks) > 2
        assert sum(map(len, blocks)) == len(whole)
        assert np.abs(np.concatenate(blocks) - whole).max() <= 1e-5


@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (1e-3, 0.3), (1e-5, 0)])
def test_normalised_as_in_one_piece(
    clip: np.ndarray, folder: Path, tmp_path: Path, scale: float, offset: float
) -> None:
    soundfile.write(tmp_path / "clip.wav", clip * scale + offset, RATE, subtype="FLOAT")
    sound = soundfile.read(tmp_path / "clip.wav")[0]
    expected = (sound - sound.mean()) / np.sqrt(sound.var() + 1e-7)
    blocks = list(Transcriber.from_pretrained(folder).blocks(tmp_path / "clip.wav"))
    assert np.abs(np.concatenate(blocks) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("seconds", [1.92, 3.84])
def test_chunks_as_in_transformers_pipeline(clip: np.ndarray, tmp_path: Path, seconds: float) -> None:
    folder = checkpoint(tmp_path, **LAYER_NORM, do_normalize=False, return_attention_mask=True)
    theirs = pipeline("automatic-speech-recognition", str(folder), device="cpu")
    options = {"chunk_length_s": seconds, "stride_length_s": seconds / 6, "return_timestamps": "word"}
    expected = theirs({"raw": clip.copy(), "sampling_rate": RATE}, **options)
    ours = Transcriber.from_pretrained(folder)
    ours.chunk_seconds = seconds
    transcript = ours((clip, RATE))
    assert transcript["text"] == expected["text"]
    same_words(transcript, [(chunk["text"], *chunk["timestamp"]) for chunk in expected["chunks"]], 0.0051)


def test_chunked_and_whole_agree(clip: np.ndarray, tmp_path: Path) -> None:
    """Where a frame sees its neighbours only, chunks give every frame of the whole, whatever the clip's length."""
    folder = checkpoint(tmp_path, local=True, **LAYER_NORM)
    whole, chunked = Transcriber.from_pretrained(folder), Transcriber.from_pretrained(folder)
    whole.chunk_seconds, chunked.chunk_seconds = float("inf"), 2.0
    for length in (len(clip), 400, 31680, 31681, 32000, 96 * 320, 96 * 320 + 1, 160 * 320, 160 * 320 + 399, 51600):
        path = tmp_path / "clip.wav"
        soundfile.write(path, clip[:length], RATE, subtype="FLOAT")
        # Chunks of 100 frames, of which each shares 17 with the one before and 17 with the one after.
        assert len(list(chunked.pieces([path]))) == max(1, -(-(length - 32000) // (66 * 320)) + 1)
        assert chunked(path) == whole(path)


def test_chunked_and_whole_agree_in_most_frames(clip: np.ndarray, folder: Path) -> None:
    """With attention over the whole clip, chunks differ a little."""
    whole, chunked = Transcriber.from_pretrained(folder), Transcriber.from_pretrained(folder)
    whole.chunk_seconds = float("inf")
    (everything,) = whole.run(list(whole.pieces([(clip, RATE)])))
    parts = [chunked.run([piece])[0] for piece in chunked.pieces([(clip, RATE)])]
    assert len(parts) == 2
    assert len(torch.cat(parts)) == len(everything)
    assert float((torch.cat(parts) == everything).float().mean()) > 0.9


def test_adapters_shorten_the_frames(clip: np.ndarray, tmp_path: Path) -> None:
    """Behind an adapter a frame stands for more samples."""
    values = {"add_adapter": True, "num_adapter_layers": 2, "output_hidden_size": 32}
    folder = checkpoint(tmp_path, **LAYER_NORM, **values, do_normalize=False, return_attention_mask=True)
    ours = Transcriber.from_pretrained(folder)
    ours.chunk_seconds = 1.92
    model = transformers.Wav2Vec2ForCTC.from_pretrained(folder).eval()
    starts = range(0, len(clip), 16 * 4 * 320)
    tokens = []
    for index, start in enumerate(starts):
        piece = clip[start : start + 24 * 4 * 320]
        last = start + 24 * 4 * 320 >= len(clip)
        with torch.inference_mode():
            row = model(torch.from_numpy(piece)[None]).logits.argmax(-1)[0]
        tokens.append(row[4 if index else 0 : None if last else 20])
        if last:
            break
    processor = transformers.Wav2Vec2Processor.from_pretrained(folder)
    decoded = processor.tokenizer.decode(torch.cat(tokens), output_word_offsets=True)
    transcript = ours((clip, RATE))
    assert transcript["text"] == decoded.text
    assert [word["start"] for word in transcript["words"]] == pytest.approx(
        [word["start_offset"] * 4 * 320 / RATE for word in decoded.word_offsets]
    )


MEMORY = """
import re, sys
from minitrans import Transcriber
transcribe = Transcriber.from_pretrained(sys.argv[1])
peaks = []
for path in sys.argv[2:]:
    words = transcribe(path)["words"]
    # getrusage would count the process that started this one.
    peaks.append(int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1024)
print(peaks[1] - peaks[0], words[-1]["end"])
"""


def test_ten_minutes_in_bounded_memory(clip: np.ndarray, folder: Path, tmp_path: Path) -> None:
    """Beyond the peak of three minutes, ten take less than their samples alone would, 37 MiB."""
    speech = soxr.resample(clip, RATE, 22050)
    paths = []
    for seconds in (180, 600):
        paths.append(tmp_path / f"{seconds}.wav")
        soundfile.write(paths[-1], np.resize(speech, seconds * 22050), 22050, subtype="PCM_16")
    command = [sys.executable, "-c", MEMORY, folder, *paths]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed goes back to the system at once
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    growth, end = map(float, done.stdout.split())
    assert growth < 30
    assert 595 < end <= 600


@pytest.mark.parametrize(
    "values", [{"num_labels": 4}, {"num_labels": 3, "problem_type": "multi_label_classification"}]
)
def test_audio_classification(speech: list[Path], tmp_path: Path, values: dict[str, Any]) -> None:
    folder = checkpoint(tmp_path, "Wav2Vec2ForSequenceClassification", **LAYER_NORM, **values)
    theirs = pipeline("audio-classification", str(folder), device="cpu")
    for path, answer in zip(speech, AudioClassifier.from_pretrained(folder)(speech), strict=True):
        expected = theirs({"raw": samples(path), "sampling_rate": RATE}, top_k=values["num_labels"])
        assert [item["label"] for item in answer] == [item["label"] for item in expected]
        assert [item["score"] for item in answer] == pytest.approx([item["score"] for item in expected], rel=1e-3)


def test_refused(folder: Path, clip: np.ndarray, tmp_path: Path) -> None:
    transcribe = Transcriber.from_pretrained(folder)
    path = tmp_path / "clip.wav"
    for sound, message in (
        (clip[:0], r"clip.wav is empty"),
        (np.full(5000, np.nan, np.float32), r"clip.wav holds NaN"),
        (np.where(np.arange(5000) == 4321, np.float32(np.inf), clip[:5000]), r"clip.wav holds NaN or infinite"),
    ):
        soundfile.write(path, sound, RATE, subtype="FLOAT")
        with pytest.raises(ValueError, match=message):
            transcribe(path)
    path.write_bytes(b"no sound" * 9)
    with pytest.raises(ValueError, match=r"clip.wav could not be read as audio"):
        transcribe(path)
    flac = tmp_path / "half.flac"  # it opens, and breaks off while it is read
    soundfile.write(flac, clip, RATE)
    flac.write_bytes(flac.read_bytes()[: flac.stat().st_size // 2])
    for read in (transcribe, transcribe.extractor):
        with pytest.raises(ValueError, match=r"half.flac could not be read as audio"):
            read(flac)
    with pytest.raises(FileNotFoundError, match=r"no audio file gone.wav"):
        transcribe(["gone.wav"])
    for options, message in (
        ({"chunk_seconds": 0.05}, r"chunk_seconds is 0.05; it must be more than 0.06"),
        ({"chunk_seconds": 1, "stride_seconds": 0.5}, "a chunk must be longer than both its strides"),
        ({"chunk_seconds": 1, "stride_seconds": (0.9, 0.2)}, "a chunk must be longer than both its strides"),
        ({"chunk_seconds": 0.06}, r"chunk_seconds is 0.06; it must be more than 0.06"),
        ({"chunk_seconds": 1, "stride_seconds": (0.5, 0.5)}, "a chunk must be longer than both its strides"),
    ):
        with pytest.raises(ValueError, match=message):
            transcribe((clip, RATE), **options)
    transcribe((clip[:2000], RATE), chunk_seconds=0.061)
    transcribe((clip[:20000], RATE), chunk_seconds=1, stride_seconds=(0.5, 0.48))


@pytest.mark.parametrize("length", [1, 160, 399])
def test_a_clip_too_short_for_a_frame_is_an_empty_text(
    folder: Path, clip: np.ndarray, tmp_path: Path, length: int
) -> None:
    transcribe, silence = Transcriber.from_pretrained(folder), {"text": "", "words": []}
    soundfile.write(tmp_path / "clip.wav", clip[:length], RATE, subtype="FLOAT")
    assert transcribe(tmp_path / "clip.wav") == silence
    assert transcribe((clip[:length], RATE), characters=True) == {**silence, "characters": []}
    answers = transcribe([(clip[:length], RATE), (clip, RATE), (clip[:length], RATE)])
    assert [answers[0], answers[2]] == [silence, silence]
    assert answers[1] == transcribe((clip, RATE))
    values = {**LAYER_NORM, "num_labels": 3}
    classify = AudioClassifier.from_pretrained(
        checkpoint(tmp_path / "c", "Wav2Vec2ForSequenceClassification", **values)
    )
    with pytest.raises(ValueError, match=f"The clip has {length} samples at 16000 Hz; the model needs 400"):
        classify((clip[:length], RATE))


def heard(task: Any) -> list[tuple[int, ...]]:
    """The shapes of what a task's model is given from here on."""
    shapes: list[tuple[int, ...]] = []
    task.model.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    return shapes


def test_the_shortest_clip_that_has_a_frame(folder: Path, clip: np.ndarray) -> None:
    transcribe = Transcriber.from_pretrained(folder)
    shapes = heard(transcribe)
    transcribe((clip[:399], RATE))
    assert shapes == []
    transcribe((clip[:400], RATE))
    assert shapes == [(1, 400)]
    assert transcribe((clip[:400], RATE))["text"] == reference(folder, clip[:400])[0]


def test_a_batch_is_a_minute_of_sound(folder: Path) -> None:
    transcribe = Transcriber.from_pretrained(folder)
    shapes = heard(transcribe)
    sounds = [(np.random.default_rng(seed).normal(size=12 * RATE).astype(np.float32), RATE) for seed in range(7)]
    transcribe(sounds)
    assert shapes == [(5, 12 * RATE), (2, 12 * RATE)]


@pytest.mark.parametrize("blank", [5, 31])
def test_rows_end_where_their_pieces_end(
    clip: np.ndarray, tmp_path: Path, blank: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Whichever blank config.json names, a batch adds nothing to a text; and the log says that they disagree."""
    folder = checkpoint(tmp_path, **LAYER_NORM, return_attention_mask=True)
    plain = Transcriber.from_pretrained(folder)
    assert not caplog.records
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": blank}))
    other = Transcriber.from_pretrained(folder)
    assert f"The model's blank is token {blank} (pad_token_id of config.json) and the tokenizer's is 0" in caplog.text
    sounds = [(clip[:length], RATE) for length in (9000, 30000, 400, 123456)]
    expected = [plain(sound) for sound in sounds]
    assert other(sounds) == expected
    assert [other(sound) for sound in sounds] == expected


def test_lower_case_is_everywhere(speech: list[Path], tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, **LAYER_NORM)
    upper = Transcriber.from_pretrained(folder)(speech[0], characters=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "do_lower_case": True}))
    lower = Transcriber.from_pretrained(folder)(speech[0], characters=True)
    assert upper["text"].isupper()
    assert lower["text"] == upper["text"].lower()
    assert lower["words"] == [{**word, "word": word["word"].lower()} for word in upper["words"]]
    assert lower["characters"] == [{**item, "character": item["character"].lower()} for item in upper["characters"]]
    assert not any(map(str.isupper, subtitles.srt(lower["words"], lower["characters"])))


def test_characters(speech: list[Path], folder: Path) -> None:
    """They are the words' and the spaces between, in their times."""
    answer = Transcriber.from_pretrained(folder)(speech[1], characters=True)
    assert "".join(item["character"] for item in answer["characters"]).split() == answer["text"].split()
    spoken = [item for item in answer["characters"] if item["character"] != " "]
    for word in answer["words"]:
        own, spoken = spoken[: len(word["word"])], spoken[len(word["word"]) :]
        assert (own[0]["start"], own[-1]["end"]) == (word["start"], word["end"])
    assert not spoken


@pytest.mark.parametrize("chunk", [1.0, 1.5, float("inf")])
def test_pieces_share_the_seconds_of_their_clip(folder: Path, clip: np.ndarray, tmp_path: Path, chunk: float) -> None:
    """Each second counts where it ends, in the piece that decides it: two sixths of a chunk are its neighbours'."""
    transcribe = Transcriber.from_pretrained(folder).with_options(chunk_seconds=chunk)
    for length in (399, 15999, 16000, 40000, 99999):
        soundfile.write(tmp_path / "clip.wav", clip[:length], RATE, subtype="FLOAT")
        for sound in ((clip[:length], RATE), tmp_path / "clip.wav"):
            pieces = list(transcribe.pieces([sound]))
            assert sum(piece.done for piece in pieces) == length // RATE == transcribe.total([sound])
            assert all(0 <= piece.done <= max(1, np.ceil(piece.size / RATE)) for piece in pieces)
            assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
            hop, frames = 320, round(min(chunk, 1e6) * 50)
            kept, side = frames - 2 * round(frames / 6), round(frames / 6)
            ends = [(frames - side + number * kept) * hop for number in range(len(pieces) - 1)] + [length]
            assert [piece.done for piece in pieces] == [
                end // RATE - start // RATE for start, end in pairwise([0, *ends])
            ]


def timed(*words: tuple[str, float, float]) -> list[dict[str, Any]]:
    return [{"word": word, "start": start, "end": end} for word, start, end in words]


def test_subtitles() -> None:
    words = timed(("a", 0.5, 0.75), ('<b> & "c"', 0.875, 1.0), ("late", 3601.9996, 3602.5))
    assert list(subtitles.srt(words)) == [
        "1", "00:00:00,500 --> 00:00:01,000", 'a <b> & "c"', "", "2", "01:00:02,000 --> 01:00:02,500", "late", "",
    ]  # fmt: skip
    assert list(subtitles.vtt(words)) == [
        "WEBVTT", "", "00:00:00.500 --> 00:00:01.000", 'a &lt;b&gt; &amp; "c"', "",
        "01:00:02.000 --> 01:00:02.500", "late", "",
    ]  # fmt: skip
    assert list(subtitles.srt([])) == []


def cue_texts(*words: tuple[str, float, float]) -> list[str]:
    return [text for _, _, text in subtitles.cues(timed(*words))]


def test_both_sides_of_the_limits_of_a_cue() -> None:
    """80 characters with the spaces between words, 7 seconds, a pause of one: each may be, and no more."""
    first, long = ("x" * 40, 0.0, 0.5), "y" * 39
    assert cue_texts(first, (long, 0.5, 1.0)) == [f"{'x' * 40} {long}"]
    assert cue_texts(first, (f"{long}y", 0.5, 1.0)) == ["x" * 40, f"{long}y"]
    assert cue_texts(("a", 1.0, 2.0), ("b", 2.5, 8.0)) == ["a b"]
    assert cue_texts(("a", 1.0, 2.0), ("b", 2.5, 8.25)) == ["a", "b"]
    assert cue_texts(("a", 1.0, 2.0), ("b", 3.0, 4.0)) == ["a b"]
    assert cue_texts(("a", 1.0, 2.0), ("b", 3.25, 4.0)) == ["a", "b"]
    # A cue's seconds count from its own first word, and a pause from the last.
    assert cue_texts(("a", 9.0, 12.0), ("b", 12.5, 15.0), ("c", 15.5, 16.0), ("d", 16.0, 16.25)) == ["a b c", "d"]
    # A word alone is cut where it is longer than a cue may be.
    assert cue_texts(("z" * 80, 0.0, 7.0)) == ["z" * 80]
    assert cue_texts(("z" * 81, 0.0, 7.0)) == ["z" * 80, "z"]
    assert cue_texts(("z" * 80, 0.0, 8.0)) == ["z" * 70, "z" * 10]
    assert cue_texts(("before", 0.0, 0.5), ("z" * 81, 0.5, 1.0)) == [f"before {'z' * 73}", "z" * 8]


def test_characters_of_a_cut_word_take_the_same_time() -> None:
    """Where their times are not known, or are not those of the word."""
    word = ("z" * 81, 4.0, 85.0)
    other = [{"character": "a", "start": 0.0, "end": 1.0}] * 81
    for characters in ([], other, other[:3]):
        made = list(subtitles.cues(timed(("a", 3.0, 3.5), word, ("b", 85.5, 86.0)), characters))
        assert made[:3] == [(3.0, 10.0, f"a {'z' * 6}"), (10.0, 17.0, "z" * 7), (17.0, 24.0, "z" * 7)]
        assert made[-1] == (80.0, 86.0, f"{'z' * 5} b")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0, "00:00:00,000"), (0.0004, "00:00:00,000"), (0.0006, "00:00:00,001"), (0.9996, "00:00:01,000"),
     (59.9994, "00:00:59,999"), (59.9996, "00:01:00,000"), (60.0, "00:01:00,000"), (3599.9, "00:59:59,900"),
     (3600.0, "01:00:00,000"), (3661.001, "01:01:01,001"), (359999.999, "99:59:59,999"), (360000.0, "100:00:00,000")],
)  # fmt: skip
def test_times_of_cues(seconds: float, shown: str) -> None:
    """Hours, minutes, seconds and thousandths, rounded."""
    rows = timed(("a", 0.0, seconds))
    assert list(subtitles.srt(rows, [{"character": "a", "start": 0.0, "end": seconds}]))[1].endswith(f"--> {shown}")
    assert list(subtitles.vtt(rows))[2].endswith(f"--> {shown.replace(',', '.')}")


def test_cues_are_short_and_lose_no_word() -> None:
    generator = np.random.default_rng(0)
    starts = np.cumsum(generator.uniform(0.2, 1.2, 300))
    words = timed(*(("x" * int(generator.integers(1, 15)), start, start + 0.15) for start in starts.tolist()))
    made = list(subtitles.cues(words))
    assert " ".join(text for _, _, text in made).split() == [word["word"] for word in words]
    assert all(len(text) <= 80 and end - start <= 7 for start, end, text in made)
    assert all(before[1] <= after[0] for before, after in pairwise(made))
    assert all(re.search(r"\S", text) for _, _, text in made)
    assert len(made) < 100


NGRAM = r"""\data\
ngram 1={count}
ngram 2=2

\1-grams:
{rows}

\2-grams:
-0.1 <s> {first}
-0.2 {first} {second}

\end\
"""


@pytest.fixture(scope="module", params=["read", "unreadable"])
def weighed(request: Any, tmp_path_factory: Any) -> Path:
    """A checkpoint with the n-gram of some words, which all its other words are not in; or with one that is none."""
    path = checkpoint(tmp_path_factory.mktemp("weighed"), local=True, **LAYER_NORM, return_attention_mask=True)
    words = ["E", "TO", "A", "IN", "<s>", "</s>", "<unk>"]
    text = NGRAM.format(
        count=len(words), rows="\n".join(f"-{1 + n / 4} {word} -0.3" for n, word in enumerate(words)),
        first=words[0], second=words[1],
    )  # fmt: skip
    (path / "language_model").mkdir()
    (path / "language_model" / "2gram.arpa").write_text(text if request.param == "read" else "nothing")
    (path / "language_model" / "unigrams.txt").write_text("\n".join(words[:4]))
    (path / "language_model" / "attrs.json").write_text(json.dumps({"alpha": 1.5, "beta": 2.5}))
    (path / "alphabet.json").write_text(json.dumps({"labels": [], "is_bpe": False}))
    config = json.loads((path / "processor_config.json").read_text())
    (path / "processor_config.json").write_text(json.dumps({**config, "processor_class": "Wav2Vec2ProcessorWithLM"}))
    return path


@pytest.mark.parametrize("chunk", [float("inf"), 2.0])
def test_an_n_gram_model_decodes_where_the_folder_has_one(clip: np.ndarray, weighed: Path, chunk: float) -> None:
    """Its words are those of `processor.decode` of the logits of transformers' model, also where it hears chunks."""
    transcribe = Transcriber.from_pretrained(weighed)
    processor = AutoProcessor.from_pretrained(weighed)
    model = transformers.Wav2Vec2ForCTC.from_pretrained(weighed).eval()
    step = model.config.inputs_to_logits_ratio / RATE
    sounds = [clip[:9000], clip[:399], clip[20000:120000]]
    answers = transcribe([(sound, RATE) for sound in sounds], chunk_seconds=chunk, characters=True)
    assert answers[1] == {"text": "", "words": [], "characters": []}
    if processor.decoder is not None:
        with pytest.raises(
            ValueError, match="An n-gram model weighs words: return_timestamps='word' gives their times"
        ):
            minitrans.pipeline("automatic-speech-recognition", weighed, return_timestamps="char")
    greedy = Transcriber(transcribe.model, Wav2Vec2Processor(processor.feature_extractor, processor.tokenizer))
    for sound, answer in zip(sounds[::2], answers[::2], strict=True):
        values = torch.from_numpy(processor(sound, sampling_rate=RATE)["input_values"][0])[None]
        with torch.inference_mode():
            decoded = processor.decode(model(values).logits[0], output_word_offsets=True)
        offsets = [(item["word"], item["start_offset"], item["end_offset"]) for item in decoded.word_offsets]
        same_words(answer, [(word, start * step, end * step) for word, start, end in offsets])
        assert answer["text"] == decoded.text
        assert "".join(item["character"] for item in answer["characters"]).split() == answer["text"].split()
        other = greedy((sound, RATE), chunk_seconds=chunk)["text"]
        assert (answer["text"] != other) is (processor.decoder is not None)


LONG = [("字" * 300, 61.0, 5), ("あ" * 70, 7.5, 2), ("x" * 81, 5.0, 2), ("ก" * 240, 20.0, 3), ("w" * 200, 0.0, 3)]


@pytest.mark.parametrize(("text", "seconds", "least"), LONG)
@pytest.mark.parametrize("known", [True, False])
def test_a_word_that_is_too_long_is_cut_between_characters(text: str, seconds: float, least: int, known: bool) -> None:
    """whisperX#310: by the limits of the module, at the characters' own times where they are known."""
    generator = np.random.default_rng(0)
    edges = np.sort(generator.uniform(10, 10 + seconds, len(text) + 1)).tolist()
    characters = [
        {"character": character, "start": start, "end": end}
        for character, start, end in zip(text, edges, edges[1:], strict=False)
    ]
    words = timed(("before", 8.0, 8.5), (text, edges[0], edges[-1]), ("after", edges[-1] + 0.5, edges[-1] + 0.9))
    around = [{"character": character, "start": 8.0, "end": 8.5} for character in "before"]
    spaced = [*around, {"character": " ", "start": 8.5, "end": 9.0}, *characters, *around]
    made = list(subtitles.cues(words, spaced if known else ()))
    assert len(made) > least
    assert "".join(cue for _, _, cue in made).replace(" ", "") == f"before{text}after"
    assert all(len(cue) <= subtitles.LONGEST_TEXT for _, _, cue in made)
    longest = max(end - start for start, end in pairwise(edges))
    assert all(end - start <= max(subtitles.LONGEST_CUE, longest) + 1e-9 for start, end, _ in made)
    assert all(before[1] <= after[0] + 1e-9 for before, after in pairwise(made))
    if known and seconds:
        assert {start for start, _, _ in made[1:-1]} <= {*edges, 8.0, edges[-1] + 0.5}


def test_marks_stay_with_their_characters() -> None:
    thai, family = "กำลังไป" * 20, "👩\u200d🚀" * 50
    for text in (thai, family):
        made = list(subtitles.cues(timed((text, 0.0, 30.0))))
        assert len(made) > 1
        assert "".join(cue for _, _, cue in made) == text
        for _, _, cue in made:
            assert not re.match("[\u0e31\u0e33-\u0e3a\u0e47-\u0e4e\u200d]", cue.replace("\u0e33", ""))
            assert not cue.endswith("\u200d")
    for text in (thai, family):  # as long as they all take together
        whole = [*subtitles._whole([(character, float(n), n + 1.0) for n, character in enumerate(text)])]
        assert "".join(character for character, _, _ in whole) == text
        assert all(end - start == len(character) for character, start, end in whole)
        assert all(before[2] == after[1] for before, after in pairwise(whole))


def test_a_pause_ends_a_cue_inside_a_long_word() -> None:
    characters = [{"character": "字", "start": float(n // 5 * 3 + n % 5 * 0.2), "end": n // 5 * 3 + n % 5 * 0.2 + 0.2}
                  for n in range(20)]  # fmt: skip
    made = list(subtitles.cues(timed(("字" * 20, 0.0, 10.0)), characters))
    assert [cue for _, _, cue in made] == ["字" * 5] * 4
    assert [start for start, _, _ in made] == [0.0, 3.0, 6.0, 9.0]


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "OGG", "MP3"])
def test_a_recording_that_ends_early_says_so(
    clip: np.ndarray, folder: Path, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"clip.{kind.lower()}"
    soundfile.write(path, clip, RATE, format=kind)
    transcribe = Transcriber.from_pretrained(folder)
    whole = transcribe(path)
    assert not caplog.records
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    half = transcribe(path)
    (record,) = caplog.records
    assert re.match(rf"{path} ends early, after 1\d\.\d\d s: ", record.getMessage())
    assert 3 < half["words"][-1]["end"] < 0.6 * len(clip) / RATE
    assert len(half["text"]) < 0.7 * len(whole["text"])


def test_the_bar_counts_seconds(folder: Path, clip: np.ndarray, tmp_path: Path) -> None:
    transcribe = Transcriber.from_pretrained(folder)
    soundfile.write(tmp_path / "a.wav", np.zeros(3 * 22050), 22050)
    sounds = [(np.zeros(4 * 8000), 8000), tmp_path / "a.wav", str(tmp_path / "a.wav"), (np.zeros(2 * RATE), RATE)]
    assert transcribe.total(sounds) == 4 + 3 + 3 + 2
    assert transcribe.total(iter(sounds)) is None
    with pytest.raises(FileNotFoundError):
        transcribe.total([*sounds, tmp_path / "none.wav"])


X = np.sin(np.arange(8000) * 0.05)


@pytest.fixture(scope="module")
def transcriber(tmp_path_factory: Any) -> Any:
    return Transcriber.from_pretrained(checkpoint(tmp_path_factory.mktemp("ctc"), "Wav2Vec2ForCTC", **LAYER_NORM))


@pytest.mark.parametrize("rate", [0, None, -1, 1, 100, 999, 1e18, float("inf"), float("nan"), "16000", True, 10**400,
                                  np.array(0), torch.tensor(16000)], ids=repr)  # fmt: skip
@pytest.mark.parametrize("form", ["tuple", "list of tuples", "mapping", "list of numbers"])
def test_rates_that_cannot_be(transcriber: Any, rate: Any, form: str) -> None:
    given = {"tuple": (X, rate), "list of tuples": [(X, rate)], "list of numbers": (X.tolist(), rate),
             "mapping": {"array": X, "sampling_rate": rate}}[form]  # fmt: skip
    said = "sampling_rate is [^;]*; it must be a number of samples per second"
    if form == "mapping" and rate is None:  # as a column without a value
        said = "not a mapping with 'array', 'sampling_rate'"
    with pytest.raises((ValueError, TypeError), match=said):
        transcriber(given)


@pytest.mark.parametrize("sounds", [(X, X), [(X, X)], (torch.from_numpy(X), X), [X, X], X, torch.from_numpy(X)])
def test_arrays_by_themselves_have_no_rate(transcriber: Any, sounds: Any) -> None:
    """Two of them are no sound with its rate."""
    with pytest.raises(TypeError, match=r"sound .*, (and an array does not say its rate|not a tuple)"):
        transcriber(sounds)


@pytest.mark.parametrize("sound", [(X,), (X, RATE, 1), (None, RATE), ("x", RATE), ([None], RATE),
                                   (X[:, None] + X, RATE),
                                   (torch.zeros(9000).to_sparse(), RATE), (torch.zeros(9000, device="meta"), RATE),
                                   (X + 0j, RATE), (X * np.nan, RATE), None, 5], ids=repr)  # fmt: skip
def test_sounds_that_are_none(transcriber: Any, sound: Any) -> None:
    with pytest.raises((ValueError, TypeError, OSError), match=r"(sound|clip|samples|tensor|audio)\b[^\n]*$"):
        transcriber(sound)
