"""Both sides of a limit: what is just allowed goes through, and what is just beyond gets its sentence."""

import json
import os
import types

import families
import numpy as np
import pytest
import torch
import transformers
from fuzz.outcomes import is_sentence

import minitrans
from minitrans import bench, ops, outputs
from minitrans.models.wav2vec2 import _compute_mask_indices
from minitrans.processing import beam
from minitrans.processing.encoding import BatchEncoding
from minitrans.processing.features import BatchFeature
from minitrans.tasks.image import save_maps
from minitrans.weights import LoadReport

TEXT, SWIN, SOUND = families.TEXT, families.SIZES["Swin"], families.SIZES["Wav2Vec2"]


def model(name, **values):
    return families.make(minitrans, name, **values)


def resized(count, device="cpu", **options):
    return model("BertModel").to(device).resize_token_embeddings(count, **options)


def labelled(name, labels):
    return lambda: model(name)(**families.inputs_of(name), labels=torch.tensor(labels))


def words(ids, **values):
    return lambda: model("BertModel", max_position_embeddings=6, **values)(torch.tensor(ids))


def image(height, width, patch):
    return lambda: model("SwinModel", patch_size=patch)(torch.randn(1, 3, height, width))


def patches(mask):
    made = model("SwinForMaskedImageModeling", image_size=32, patch_size=4)
    return made(torch.randn(1, 3, 32, 32), bool_masked_pos=mask)


def frames(value):
    made = model("Wav2Vec2Model", mask_time_prob=0.1)
    samples = made.feature_encoder.samples(3)
    return made(torch.randn(1, samples), mask_time_indices=torch.tensor([[1, value, 0]]))


def clip(samples):
    return lambda: model("Wav2Vec2Model")(torch.randn(1, samples))


def lists(**values):
    return lambda: minitrans.Wav2Vec2Config(**{**SOUND, **values})


def masked(length):
    return lambda: _compute_mask_indices((1, 6), 0.5, length)


def aligned(frames, tokens):
    logp = np.log(np.full((frames, 4), 0.25, np.float32))
    return lambda: beam.aligned(logp, tokens, 0)


def moved(dtype):
    return lambda: minitrans.BertModel.from_config(minitrans.BertConfig(**TEXT), dtype=dtype)


def speaker(frames):
    made = model("Wav2Vec2ForXVector")
    samples = made.wav2vec2.feature_encoder.samples(frames)
    return lambda: made(torch.randn(1, samples))


def rate(value):
    return lambda: FEATURES(np.zeros(4000), sampling_rate=value, resample=True)


def chances(mask, replace, random):
    return lambda: minitrans.DataCollatorForLanguageModeling(
        WORDS, mlm_probability=mask, mask_replace_prob=replace, random_replace_prob=random
    )


def box(*edges):
    return lambda: minitrans.LayoutLMv2Tokenizer(VOCABULARY)(["a"], boxes=[list(edges)])


def pixels(value):
    image = np.zeros((4, 4, 3), np.int64)
    image[1, 2, 0] = value
    return lambda: minitrans.ViTImageProcessor(do_resize=False)(image)


def strided(stride):
    options = {"truncation": True, "max_length": 7, "return_overflowing_tokens": True}
    return lambda: WORDS("a a a a a a a a", stride=stride, **options)


def shifted(shift):
    qkv, table = torch.randn(1, 4, 4, 3, 1, 8), torch.zeros(9, 1)
    return lambda: ops.window_attention(qkv, table, 2, shift, None)


def with_threads(count):
    def enter():
        with bench.threads(count):
            pass

    return enter


FEATURES = minitrans.Wav2Vec2FeatureExtractor()
MOST = 16 * (os.cpu_count() or 1)  # threads
FLOAT32 = float(np.finfo(np.float32).max)
VOCABULARY = {token: index for index, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"])}
WORDS = minitrans.BertTokenizer(VOCABULARY)

# name -> what is just allowed, what is just refused, the error and its words
LIMITS = {
    "the highest class": (
        labelled("BertForSequenceClassification", [0, 1]), labelled("BertForSequenceClassification", [0, 2]),
        ValueError, r"A label is 2; there are 2 classes, 0 to 1\."),
    "the lowest class": (
        labelled("BertForSequenceClassification", [0, -100]), labelled("BertForSequenceClassification", [-1, 0]),
        ValueError, r"A label is -1; there are 2 classes"),
    "a class that is no number": (
        labelled("SwinForImageClassification", [1, 0]), labelled("SwinForImageClassification", [7, 0]),
        ValueError, "A label is 7"),
    "speakers": (
        labelled("Wav2Vec2ForXVector", [0, 1]), labelled("Wav2Vec2ForXVector", [0, 1, 1]),
        ValueError, "labels"),
    "the last speaker": (
        labelled("Wav2Vec2ForXVector", [0, 1]), labelled("Wav2Vec2ForXVector", [0, 2]),
        ValueError, r"labels holds 2, outside the list of speakers of 2 rows \(0 to 1\)"),
    "the last word": (words([[0, 59]]), words([[0, 60]]), ValueError, r"input_ids holds 60.*60 rows \(0 to 59\)"),
    "the first word": (words([[0, 59]]), words([[0, -1]]), ValueError, "input_ids holds -1"),
    "the length of a text": (words([[1] * 6]), words([[1] * 7]), ValueError, "7.*6"),
    "the height of an image": (image(4, 9, 4), image(3, 9, 4), ValueError, "3 × 9 pixels, less than a patch of 4 × 4"),
    "the width of an image": (image(9, 4, 4), image(9, 3, 4), ValueError, "9 × 3 pixels, less than a patch of 4 × 4"),
    "the height in patches": (image(4, 9, (4, 2)), image(3, 9, (4, 2)), ValueError, "3 × 9 pixels.* patch of 4 × 2"),
    "the width in patches": (image(9, 4, (2, 4)), image(9, 3, (2, 4)), ValueError, "9 × 3 pixels.* patch of 2 × 4"),
    "the length of a clip": (clip(40), clip(39), ValueError, "39"),
    "lists of layers": (
        lists(tdnn_dim=(8, 8), tdnn_kernel=(3, 3), tdnn_dilation=(1, 1)),
        lists(tdnn_dim=(8, 8), tdnn_kernel=(3, 3), tdnn_dilation=(1, 1, 1)),
        ValueError, r"one number in each of tdnn_dim \[8, 8\].*make them equally long"),
    "a list of no layer": (
        lists(conv_dim=(8,), conv_stride=(5,), conv_kernel=(10,)), lists(conv_dim=(), conv_stride=(), conv_kernel=()),
        ValueError, "one number in each of conv_dim"),
    "the longest mask": (masked(6), masked(7), ValueError, "mask_length is 7; it must be from 1 to the 6 frames"),
    "the shortest mask": (masked(1), masked(0), ValueError, "mask_length is 0"),
    "frames for tokens": (aligned(2, [1, 2]), aligned(1, [1, 2]), ValueError, "1 frames are too few for 2 tokens"),
    "frames for a repeated token": (
        aligned(3, [1, 1]), aligned(2, [1, 1]), ValueError, "2 frames are too few for 2 tokens"),
    "a dtype of weights": (moved("bfloat16"), moved("float8_e4m3fn"), ValueError, "dtype is 'float8_e4m3fn'"),
    "a dtype to freeze in": (
        lambda: model("BertModel").freeze("float32"), lambda: model("BertModel").freeze("int8"),
        ValueError, "dtype is 'int8'"),
    "fields of an output": (
        lambda: outputs.BaseModelOutput(torch.ones(1), None), lambda: outputs.BaseModelOutput(*[torch.ones(1)] * 9),
        TypeError, "BaseModelOutput has the fields last_hidden_state.*and no others"),
    "named fields of an output": (
        lambda: outputs.BaseModelOutput(hidden_states=None), lambda: outputs.BaseModelOutput(surprise=None),
        TypeError, "and no others"),
    "pairs for an output": (
        lambda: outputs.BaseModelOutput([("last_hidden_state", 1)]),
        lambda: outputs.BaseModelOutput([("last_hidden_state", 1), 3]),
        ValueError, "not of a mixture"),
    "a configuration of the class": (
        lambda: minitrans.BertModel(minitrans.BertConfig(**TEXT)),
        lambda: minitrans.BertModel(minitrans.SwinConfig(**SWIN)),
        TypeError, "BertModel takes a BertConfig, not SwinConfig"),
    "a field of a configuration": (
        lambda: minitrans.BertConfig(surprise=1).surprise, lambda: minitrans.BertConfig().surprise,
        AttributeError, "BertConfig has no field 'surprise'"),
    "a class for a configuration": (
        lambda: minitrans.AutoModelForCTC.from_config(minitrans.Wav2Vec2Config(**SOUND)),
        lambda: minitrans.AutoModelForCTC.from_config(minitrans.BertConfig(**TEXT)),
        ValueError, "Bert has no class for AutoModelForCTC; it has .*BertForMaskedLM"),
    "a class of one's own": (
        lambda: minitrans.AutoModel.register(OwnConfig, Own, exist_ok=True),
        lambda: minitrans.AutoModel.register(minitrans.SwinConfig, minitrans.BertModel),
        ValueError, "BertModel has the config_class BertConfig, not SwinConfig"),
    "the most classes": (
        lambda: minitrans.BertConfig(num_labels=10**6), lambda: minitrans.BertConfig(num_labels=10**6 + 1),
        ValueError, "num_labels is 1000001; it must be a whole number from 1 to 1000000"),
    "the fewest classes": (
        lambda: minitrans.BertConfig(num_labels=1), lambda: minitrans.BertConfig(num_labels=0),
        ValueError, "num_labels is 0"),
    "the widest stage": (
        lambda: minitrans.SwinConfig(embed_dim=1, depths=[1] * 15, num_heads=[1] * 15),
        lambda: minitrans.SwinConfig(embed_dim=1, depths=[1] * 40, num_heads=[1] * 40),
        ValueError, "hidden_size, embed_dim doubled from stage to stage"),
    "the last stage": (
        lambda: model("SwinBackbone", out_indices=[-3, 2]), lambda: model("SwinBackbone", out_indices=[0, 3]),
        ValueError, "out_indices holds 3; the stages are 0 to 2"),
    "the first stage": (
        lambda: model("SwinBackbone", out_indices=[-3]), lambda: model("SwinBackbone", out_indices=[-4]),
        ValueError, "out_indices holds -4"),
    "the padding token": (
        lambda: model("BertModel", pad_token_id=59), lambda: model("BertModel", pad_token_id=60),
        ValueError, "pad_token_id is 60, outside the vocabulary of 60"),
    "a padding token from the end": (
        lambda: model("BertModel", pad_token_id=-60), lambda: model("BertModel", pad_token_id=-61),
        ValueError, "pad_token_id is -61"),
    "the blank": (
        lambda: model("Wav2Vec2ForCTC", vocab_size=9, pad_token_id=8),
        lambda: model("Wav2Vec2ForCTC", vocab_size=9, pad_token_id=9),
        ValueError, "vocab_size is 9 and pad_token_id 9"),
    "a vocabulary of one word": (
        lambda: model("BertModel").resize_token_embeddings(1), lambda: model("BertModel").resize_token_embeddings(0),
        ValueError, r"new_num_tokens is 0; it must be a whole number from 1 to 1e\+07"),
    "the largest vocabulary": (
        lambda: resized(10**7, "meta"), lambda: resized(10**7 + 1),
        ValueError, r"new_num_tokens is 10000001; it must be a whole number from 1 to 1e\+07"),
    "the largest vocabulary, rounded up": (
        lambda: resized(10**7 - 1, "meta", pad_to_multiple_of=8), lambda: resized(10**7, pad_to_multiple_of=7),
        ValueError, "new_num_tokens, rounded up, is 10000004"),
    "a multiple for a vocabulary": (
        lambda: resized(63, pad_to_multiple_of=1), lambda: resized(63, pad_to_multiple_of=0),
        ValueError, "pad_to_multiple_of is 0; it must be a whole number"),
    "frames of a speaker": (speaker(16), speaker(15), ValueError, "15 frames has no deviation .* at least 16"),
    "the lowest rate": (
        rate(1000), rate(999), ValueError, r"sampling_rate is 999; it must be .* \(Hz\) from 1000 to 384000"),
    "the highest rate": (rate(384_000), rate(384_001), ValueError, "sampling_rate is 384001"),
    "channels of a clip": (
        lambda: FEATURES(np.zeros((8, 400)), sampling_rate=16000, mono=True),
        lambda: FEATURES(np.zeros((9, 400)), sampling_rate=16000, mono=True),
        ValueError, r"has the shape \(9, 400\); a clip is \(n,\)"),
    "a value of padding": (
        lambda: minitrans.Wav2Vec2FeatureExtractor(padding_value=-FLOAT32),
        lambda: minitrans.Wav2Vec2FeatureExtractor(padding_value=FLOAT32 * 1.0001),
        ValueError, "padding_value is .*; it must be a number that float32 holds"),
    "a length of padding": (
        lambda: FEATURES.pad({"input_values": [[0.5]]}, padding="max_length", max_length=1),
        lambda: FEATURES.pad({"input_values": [[0.5]]}, padding="max_length", max_length=0),
        ValueError, "max_length=0 must be a whole number of at least 1"),
    "chances of a mask": (
        chances(1.0, 0.5, 0.5), chances(1.0001, 0.5, 0.5), ValueError, "each lies between 0 and 1"),
    "no chance": (chances(0.5, 0.0, 0.0), chances(0.5, 0.0, -0.0001), ValueError, "each lies between 0 and 1"),
    "chances together": (chances(0.5, 0.75, 0.25), chances(0.5, 0.75, 0.2501), ValueError, "no more than 1 together"),
    "the right edge of a page": (
        box(0, 0, 1000, 9), box(0, 0, 1001, 9), ValueError, r"has the box .*1001.* at the word 'a'"),
    "the left edge of a page": (box(0, 0, 9, 9), box(-1, 0, 9, 9), ValueError, r"has the box \[-1"),
    "a box without a width": (box(5, 0, 5, 9), box(6, 0, 5, 9), ValueError, "whose end comes before its beginning"),
    "a box without a height": (box(0, 5, 9, 5), box(0, 6, 9, 5), ValueError, "whose end comes before its beginning"),
    "the most pixels": (
        lambda: minitrans.ViTImageProcessor(size={"height": 1, "width": 2**24}),
        lambda: minitrans.ViTImageProcessor(size={"height": 1, "width": 2**24 + 1}),
        ValueError, "an image may have 16777216 pixels at most"),
    "the least edge": (
        lambda: minitrans.ViTImageProcessor(size=1), lambda: minitrans.ViTImageProcessor(size=0),
        ValueError, "its edges must be whole numbers of at least 1"),
    "white": (pixels(255), pixels(256), ValueError, "pixels from 0 to 256"),
    "black": (pixels(0), pixels(-1), ValueError, "pixels from -1 to 0"),
    "no token at all": (
        lambda: WORDS("a", truncation=True, max_length=0, add_special_tokens=False),
        lambda: WORDS("a", truncation=True, max_length=-1, add_special_tokens=False),
        ValueError, "max_length=-1 must be a whole number of at least 0"),
    "room for special tokens": (
        lambda: WORDS("a", truncation=True, max_length=2), lambda: WORDS("a", truncation=True, max_length=1),
        ValueError, "max_length=1 is less than the 2 special tokens"),
    "the longest stride": (strided(4), strided(5), ValueError, "stride=5 must be less than the 5 tokens"),
    "the last id of a vocabulary": (
        lambda: minitrans.BertTokenizer({**VOCABULARY, "z": 10**7 - 1}),
        lambda: minitrans.BertTokenizer({**VOCABULARY, "z": 10**7}),
        ValueError, "has the id 10000000; ids go up to 9999999"),
    "rows of a convolution": (
        lambda: ops.convolution(torch.ones(5, 3), torch.ones(4, 3, 3), torch.ones(4), dilation=2),
        lambda: ops.convolution(torch.ones(4, 3), torch.ones(4, 3, 3), torch.ones(4), dilation=2),
        ValueError, r"convolution takes at least 5 rows of 3, not \(4, 3\)"),
    "the shift of windows": (
        shifted(1), shifted(2), ValueError, "cannot shift windows of 2 by 2; 0 to 1 it can"),
    "a shift to the other side": (shifted(0), shifted(-1), ValueError, "cannot shift windows of 2 by -1"),
    "threads": (with_threads(1), with_threads(0), ValueError, "threads is 0; it must be a whole number from 1"),
    "the most threads": (
        with_threads(np.int64(MOST)), with_threads(MOST + 1),
        ValueError, f"threads is {MOST + 1}; it must be a whole number from 1 to {MOST}"),
    "rows of an encoding": (
        lambda: BatchEncoding({"input_ids": [[1]]})["input_ids"], lambda: BatchEncoding({"input_ids": [[1]]})[0],
        KeyError, "this encoding has the keys input_ids and no sequences to count"),
}  # fmt: skip


# name -> the error, its words, and calls that get it
REFUSED = {
    "sizes of a vocabulary": (
        ValueError, r"new_num_tokens is .*; it must be a whole number from 1 to 1e\+07\.",
        [lambda value=value: resized(value) for value in (10**9, 10**400, -1, "70", 70.5, True, [70], float("nan"))]),
    "multiples for a vocabulary": (
        ValueError, r"pad_to_multiple_of is .*; it must be a whole number from 1 to 1e\+07\.",
        [lambda value=value: resized(70, pad_to_multiple_of=value) for value in (-8, 2.5, "8", True, 10**9)]),
    "what is no configuration": (
        TypeError, "config is .*; it must be a configuration, or the folder or hub id of one",
        [lambda config=config: minitrans.BertModel.from_pretrained(".", config=config, state_dict={})
         for config in ({}, {"hidden_size": 3}, 3, [], b"x")]),
    "what is no configuration for any class": (
        TypeError, "A configuration is made by AutoConfig, not of a",
        [lambda config=config, kind=kind: kind.from_pretrained(".", config=config)
         for config in ({}, {"hidden_size": 3}, 3, [])
         for kind in (minitrans.AutoModel, minitrans.AutoTokenizer, minitrans.AutoProcessor)]),
    "an input that there is not": (
        TypeError, r"has no input 'foo'; it has (?!.*\bself\b).*return_dict",
        [lambda name=name, change=change: change(model(name).eval())(foo=1)
         for name in ("BertModel", "DistilBertForMaskedLM", "SwinBackbone", "Wav2Vec2ForCTC")
         for change in (lambda made: made, lambda made: made.freeze())]),
    "values of masks of patches": (
        ValueError, r"bool_masked_pos holds other values than 0 and 1, such as (0\.5|2|-1|nan|-inf)\.",
        [lambda value=value: patches(torch.tensor([[0, 1, value, 0] * 16])) for value in
         (0.5, 2, -1, float("nan"), float("-inf"))]),
    "values of masks of frames": (
        ValueError, r"mask_time_indices holds other values than 0 and 1, such as (0\.5|2|-1|nan)\.",
        [lambda value=value: frames(value) for value in (0.5, 2, -1, float("nan"))]),
    "an Auto class is no model": (
        TypeError, r"^Auto(\w+) is made by Auto\1\.from_pretrained\(\.\.\.\)",
        [minitrans.AutoModel, minitrans.AutoModelForCTC, minitrans.AutoTokenizer, minitrans.AutoProcessor,
         minitrans.AutoImageProcessor, minitrans.AutoFeatureExtractor]),
    "a dtype of a configuration": (
        ValueError, r"BertConfig\.dtype is .*; it must be a torch dtype, such as 'bfloat16'",
        [lambda dtype=dtype: minitrans.BertConfig(dtype=dtype).dtype for dtype in ("float33", "nn", 3, ["float32"])]),
    "an input twice": (
        TypeError, "was given an input twice, or more than it takes in order: input_ids, attention_mask,",
        [lambda: model("BertForMaskedLM")(torch.ones(1, 2).long(), input_ids=torch.ones(1, 2).long()),
         lambda: model("DistilBertForMaskedLM")(*[None] * 40)]),
    "ends of an answer": (
        ValueError, r"2 outputs \(start, end\); num_labels is [13]",
        [lambda name=name, count=count: model(name, num_labels=count)
         for name in ("BertForQuestionAnswering", "DistilBertForQuestionAnswering") for count in (1, 3)]),
    "a model that scores no vocabulary": (
        NotImplementedError, "has no layer that scores the vocabulary",
        [lambda name=name: model(name).set_output_embeddings(torch.nn.Linear(2, 2))
         for name in ("BertModel", "SwinModel", "Wav2Vec2ForCTC", "BertForTokenClassification")]),
    "no name and nothing else": (
        ValueError, r"Without the name of a checkpoint, from_pretrained needs config= and state_dict=",
        [lambda options=options: minitrans.BertModel.from_pretrained(None, **options)
         for options in ({}, {"config": minitrans.BertConfig(**TEXT)}, {"state_dict": {}})]),
    "an option of saving": (
        TypeError, "save_pretrained has no option 'repo'",
        [lambda name=name: model(name).save_pretrained("never", repo="x") for name in ("BertModel", "SwinModel")]),
    "what loading does not do": (
        ValueError, r"^(from_tf|from_flax|use_kernels|tp_plan|adapter_kwargs|key_mapping)=.* is not done here; leave",
        [lambda options=options: minitrans.BertModel.from_pretrained(
            None, config=minitrans.BertConfig(**TEXT), state_dict=model("BertModel").state_dict(), **options)
         for options in ({"from_tf": True}, {"from_flax": True}, {"use_kernels": True}, {"tp_plan": "auto"},
                         {"adapter_kwargs": {"a": 1}}, {"key_mapping": {"a": "b"}})]),
    "threads that are no number": (
        ValueError, r"threads is (10{8}|2\.0|'2'|None|nan); it must be a whole number from 1",
        [with_threads(count) for count in (10**8, 2.0, "2", None, float("nan"))]),
    "seconds of a row": (
        ValueError, r"seconds is ('10'|None|nan|-1|0); it must be a number above 0",
        [lambda seconds=seconds: bench.checkpoint("m", 1, seconds) for seconds in ("10", None, float("nan"), -1, 0)]),
    "a key of a load report": (
        KeyError, "A load report has no 'missing'; it has missing_keys, unexpected_keys",
        [lambda: LoadReport()["missing"]]),
    "a value of features": (
        AttributeError, r"There is no 'pixels' here, only ('input_values'|nothing)\.",
        [lambda: BatchFeature({"input_values": [1]}).pixels, lambda: BatchFeature().pixels]),
}  # fmt: skip


class OwnConfig(minitrans.BertConfig):
    """A configuration of a user's own."""

    model_type = "own"


class Own(minitrans.BertModel):
    """A model of a user's own."""

    config_class = OwnConfig


@pytest.mark.parametrize("name", LIMITS)
def test_what_is_just_allowed_and_what_is_just_not(name):
    allowed, refused, error, sentence = LIMITS[name]
    allowed()
    with pytest.raises(error, match=sentence) as caught:
        refused()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    error, sentence, calls = REFUSED[name]
    for call in calls:
        with pytest.raises(error, match=sentence) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("index", [0, 99, 30521, -1, -100])
def test_ids_below_0_are_no_tokens(minilm, index):
    tokenizer = minitrans.AutoTokenizer.from_pretrained(minilm)
    reference = transformers.AutoTokenizer.from_pretrained(minilm)
    if index >= 0:
        assert tokenizer.decode([index]) == reference.decode([index])
    else:
        with pytest.raises(ValueError, match=f"no token with the id {index}; put the padding token where labels are"):
            tokenizer.decode([5, index])


def test_what_are_no_ids_of_one_sequence(tmp_path):
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "A": 5}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    ctc = minitrans.Wav2Vec2CTCTokenizer(tmp_path / "vocab.json")
    assert ctc.decode([5, 5, 0, 5]) == "AA"
    for wrong in ([5.0], [[5], [5]], ["A"], np.ones((2, 3)), torch.ones(2)):
        with pytest.raises(TypeError, match=r"These are not ids: .*batch_decode those of several"):
            ctc.decode(wrong)


def test_maps_that_cannot_be_written_leave_nothing(tmp_path):
    """A folder that is gone, a file that is there, and a name that a map cannot have twice."""
    maps = [("a.png", {"stage1": np.ones((2, 3), np.float32)}), ("b.png", None)]
    assert save_maps(maps, tmp_path / "maps.safetensors") == [("a.png/stage1", (2, 3))]
    with pytest.raises(FileExistsError, match="is there already"):
        save_maps(maps, tmp_path / "maps.safetensors")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        save_maps(maps, tmp_path / "none" / "maps.safetensors")
    odd = [("a.png", {"stage1": np.array(["text"])})]
    with pytest.raises(OSError, match=r"odd\.safetensors could not be written"):
        save_maps(odd, tmp_path / "odd.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["maps.safetensors"]


def test_one_input_is_not_several_and_a_table_none(minilm):
    task = minitrans.Embedder.from_pretrained(minilm)
    assert len(task.encode(["a", "b"])) == 2
    for wrong in ("a text", 3, np.array(3)):
        with pytest.raises(TypeError, match=r"goes over several inputs here.*is not several"):
            list(task.stream(wrong))
    table = types.SimpleNamespace(columns=["title", "body"], shape=(1, 2))
    for call in (task, task.stream):
        with pytest.raises(
            TypeError, match=r"is a table; Embedder takes one of its columns, such as table\['title'\]"
        ):
            call(table)
    with pytest.raises(TypeError, match=r"encode takes .* or several"):
        task.encode(None)


# -- tokenizers

LETTERS = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "a": 5, "b": 6}
TOKENIZERS = {
    "BertTokenizer": {**VOCABULARY, "b": 6},
    "DistilBertTokenizer": {**VOCABULARY, "b": 6},
    "Wav2Vec2CTCTokenizer": LETTERS,
    "Wav2Vec2PhonemeCTCTokenizer": LETTERS,
}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    options = {"do_phonemize": False} if "Phoneme" in request.param else {}
    return getattr(minitrans, request.param)(TOKENIZERS[request.param], **options)


def refuses(call, error, sentence):
    """In one sentence of the package's own."""
    with pytest.raises(error, match=sentence) as caught:
        call()
    assert is_sentence(caught.value), caught.value


NO_IDS = ["5", None, ["a"], {"input_ids": [5]}, {5}, b"ab", [1.5], [True], [5, None], np.ones(2), torch.ones(2)]


@pytest.mark.parametrize("ids", NO_IDS, ids=repr)
@pytest.mark.parametrize("method", ["decode", "batch_decode", "convert_ids_to_tokens", "get_special_tokens_mask"])
def test_what_are_no_ids(tokenizer, method, ids):
    refuses(lambda: getattr(tokenizer, method)(ids), TypeError, r"These are not ids: .*batch_decode those of several")


def items_of(kind):
    return lambda ids: list(map(kind, ids))


@pytest.mark.parametrize("make", [list, tuple, np.array, torch.tensor, iter, lambda ids: range(ids[0], ids[1] + 1),
                                  items_of(np.int32), items_of(torch.tensor)])  # fmt: skip
def test_ids_in_every_form(tokenizer, make):
    assert tokenizer.decode(make([5, 6])) == tokenizer.decode([5, 6])
    assert tokenizer.convert_ids_to_tokens(make([5, 6])) == ["a", "b"]
    for one in (5, np.int64(5), torch.tensor(5), np.array(5)):
        assert tokenizer.decode(one) == "a"
        assert tokenizer.convert_ids_to_tokens(one) == "a"


@pytest.mark.parametrize("index", [2**32, 10**20, 10**400, -1])
def test_ids_that_the_library_cannot_hold(tokenizer, index):
    unknown = tokenizer.unk_token if "CTC" in type(tokenizer).__name__ else None
    assert tokenizer.convert_ids_to_tokens([index, 5]) == [unknown, "a"]
    assert tokenizer.get_special_tokens_mask([index, 0]) == [0, 1]
    if unknown is None:
        refuses(lambda: tokenizer.decode([5, index]), ValueError, f"no token with the id {index}"[:80])
    else:
        assert unknown in tokenizer.decode([5, index])
    refuses(lambda: setattr(tokenizer, "pad_token_id", index), ValueError, "pad_token_id=.* is not an id of the")


def test_what_are_no_tokens(tokenizer):
    for wrong in (None, 5, ["a", 5], [None], 1.5, b"a"):
        refuses(lambda: tokenizer.convert_tokens_to_ids(wrong), TypeError, "A token is a string or an AddedToken, not")  # noqa: B023
    for half in ("\ud800", "a\udfff"):
        if "CTC" in type(tokenizer).__name__:
            assert tokenizer.convert_tokens_to_ids(half) == tokenizer.unk_token_id
        else:
            refuses(lambda: tokenizer.convert_tokens_to_ids([half]), ValueError, "half a surrogate pair")  # noqa: B023


@pytest.mark.parametrize("value", ["a", "9", 1.5, 8.0, -1, True, [4], float("nan")], ids=repr)
@pytest.mark.parametrize("option", ["max_length", "stride", "pad_to_multiple_of"])
def test_options_that_count(tokenizer, option, value):
    sentence = f"{option}=.* must be a whole number of at least"
    refuses(lambda: tokenizer("a b", padding=True, **{option: value}), ValueError, sentence)
    if option != "stride":
        refuses(lambda: tokenizer.pad({"input_ids": [[5]]}, **{option: value}), ValueError, sentence)


@pytest.mark.parametrize("whole", [np.int64, np.uint8, torch.tensor, np.array])
def test_whole_numbers_of_other_libraries(tokenizer, whole):
    options = {"padding": "max_length", "truncation": True, "return_tensors": "np"}
    found = tokenizer(["a b", "a"], max_length=whole(8), stride=whole(0), pad_to_multiple_of=whole(4), **options)
    np.testing.assert_array_equal(found["input_ids"], tokenizer(["a b", "a"], max_length=8, **options)["input_ids"])
    tokenizer.model_max_length = whole(7)
    assert type(tokenizer.model_max_length) is int


def test_numbers_of_numpy_are_saved(tmp_path, tokenizer):
    kind, vocabulary = type(tokenizer), {token: np.int64(index) for token, index in tokenizer.get_vocab().items()}
    made = kind(vocabulary, model_max_length=np.int64(9), clean_up_tokenization_spaces=np.True_)
    made.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path)
    assert (again.model_max_length, again.clean_up_tokenization_spaces) == (9, True)
    assert again.get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("options", [{"pad_to_multiple_of": 10**9}, {"pad_to_multiple_of": 2 * 10**7},
                                     {"pad_to_multiple_of": 10**30}, {"padding": "max_length", "max_length": 10**12},
                                     {"padding": "max_length", "max_length": 10**30}])  # fmt: skip
def test_padding_that_no_memory_holds(tokenizer, options):
    refuses(lambda: tokenizer(["a b", "a"], **{"padding": True, **options}), ValueError, "adds more than 1000000;")
    refuses(lambda: tokenizer.pad({"input_ids": [[5, 6], [5]]}, **options), ValueError, "adds more than 1000000;")
    assert len(tokenizer("a b", truncation=True, max_length=10**30)["input_ids"]) == len(tokenizer("a b")["input_ids"])


SETTINGS = {
    "model_max_length": (["a", float("nan"), 2.5, 0, -1, True, [8]], [8, 8.0, 1e30, None], TypeError),
    "padding_side": (["x", None, 5, ["left"]], ["left", "right"], ValueError),
    "truncation_side": (["x", None, 5, ["left"]], ["left", "right"], ValueError),
    "model_input_names": (["input_ids", 5, [5]], [["input_ids"], None], TypeError),
    "clean_up_tokenization_spaces": (["x", 1], [True, False], TypeError),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_checked_where_they_are_set(tmp_path, tokenizer, name):
    wrong, right, error = SETTINGS[name]
    before = getattr(tokenizer, name)
    for value in wrong:
        refuses(lambda: setattr(tokenizer, name, value), error, name)  # noqa: B023
        assert getattr(tokenizer, name) == before
    for value in right:
        setattr(tokenizer, name, value)
        tokenizer.save_pretrained(tmp_path)
        assert getattr(type(tokenizer).from_pretrained(tmp_path), name) == getattr(tokenizer, name)


def test_files_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name in (*TOKENIZERS, "PreTrainedTokenizerFast"):
        kind = getattr(minitrans, name)
        make = (lambda file, kind=kind: kind(tokenizer_file=file)) if name not in TOKENIZERS else kind
        for file in ("folder", "nope", "", "nope.json", tmp_path / "folder"):
            refuses(lambda: make(file), FileNotFoundError, "There is no file .* is opened by from_pretrained")  # noqa: B023
        for file in (5, b"x", ["a"]):
            refuses(lambda: make(file), TypeError, r"is given by its path, not as .*\((int|bytes|list)\)")  # noqa: B023


@pytest.mark.parametrize("wrong", [{"a": "x"}, {"a": 1.5}, {"a": -1}, {"a": None}, {5: 1}], ids=repr)
def test_vocabularies_that_are_none(tmp_path, wrong):
    for name, vocabulary in TOKENIZERS.items():
        vocabulary = {**vocabulary, **wrong}
        refuses(lambda: getattr(minitrans, name)(vocabulary), ValueError, "a whole number from 0")  # noqa: B023
    if 5 not in wrong:
        path = tmp_path / "some.json"
        path.write_text(json.dumps({**LETTERS, **wrong}))
        refuses(lambda: minitrans.Wav2Vec2CTCTokenizer(path), ValueError, "The vocabulary of .*some.json must hold")


# What `pad` takes for a batch, and is none: the words of the refusal -> batches.
UNPADDABLE = {
    "attention_mask of sequence 0 is .* must have 1 or 0 for each of its": [
        {"input_ids": [[1, 2, 3], [4]], "attention_mask": [[1], [1]]},
        {"input_ids": [[1], [4, 5]], "attention_mask": [[1, 1], [1, 1]]},
        {"input_ids": [1, 2], "attention_mask": [1]},
        {"input_ids": [[1]], "attention_mask": [1]},
        {"input_ids": [[1]], "attention_mask": [[0.5]]},
        {"input_ids": [[1]], "attention_mask": [["1"]]},
        [{"input_ids": torch.tensor([1, 2]), "attention_mask": torch.tensor([1])}],
    ],
    "token_type_ids of sequence 1 is .* must have a whole number": [
        {"input_ids": [[1], [4, 5]], "token_type_ids": [[0], [0]]},
        {"input_ids": [[1], [4]], "token_type_ids": [[0], [0.5]]},
    ],
    "special_tokens_mask of sequence 0": [{"input_ids": [[1, 2]], "special_tokens_mask": [[1]]}],
    "input_ids of sequence . is .*; it must have a whole number for each": [
        {"input_ids": ids}
        for ids in ([[1.5, 2]], [1.5, 2], np.ones((2, 2)), torch.ones(2), [[1], 2], [[[1]], [[2]]], [["a"]], [[True]],
                    [[10**20]], [[None]])
    ],
    "'input_ids' is .*; it must be a list of ids": [{"input_ids": ids} for ids in (None, "ab", 5, {"a": 1}, {1, 2})],
    "'input_ids' has 1 sequences, but the number of sequences is another in 'labels'": [
        {"input_ids": [[1]], "labels": labels} for labels in ([1, 2], 5, None, "a")
    ],
    "Of 2 examples only some have": [
        [{"input_ids": [1], "x": 1}, {"input_ids": [1]}], [{"input_ids": [1]}, {"input_ids": [1], "x": 1}],
    ],
    "The features of a batch are a list": [[], [{"input_ids": [1]}, 5], [1, 2]],
    "takes a dict with 'input_ids'": [None, 5, "ab", {}, {"ids": [1]}, [{"ids": [1]}]],
}  # fmt: skip


@pytest.mark.parametrize("sentence", UNPADDABLE)
def test_what_cannot_be_padded(tokenizer, sentence):
    for features in UNPADDABLE[sentence]:
        for tensors in (None, "np", "pt"):
            refuses(lambda: tokenizer.pad(features, return_tensors=tensors), ValueError, sentence)  # noqa: B023


def test_labels_that_padding_does_not_fill(tokenizer):
    for labels in ([[1], [1, 2]], [[[1], [1, 2]], [[1], [1]]]):
        with pytest.raises(ValueError, match=r"labels .*Padding fills only input_ids.*a collator") as caught:
            tokenizer.pad({"input_ids": [[1], [2]], "labels": labels}, return_tensors="pt")
        assert "padding=True" not in str(caught.value)
    for labels in ([None, 1], ["a", "b"], [1, 10**30]):
        batch = {"input_ids": [[1], [2]], "labels": labels}
        refuses(lambda: tokenizer.pad(batch, return_tensors="pt"), ValueError, "^labels makes no tensor")  # noqa: B023
