"""What every processor returns and checks: batches of features, examples brought together, kinds of settings."""

import copy
import json
import pickle
import sys

import numpy as np
import pytest
import torch
import transformers
from fuzz.outcomes import is_sentence

import minitrans
from minitrans.processing import features, kinds
from minitrans.processing.features import BatchFeature, as_array, gathered

Theirs = transformers.BatchFeature


def same(found, expected):
    """The same keys, types, dtypes and numbers."""
    assert dict(found).keys() == dict(expected).keys()
    for name in expected:
        assert type(found[name]) is type(expected[name]), name
        if hasattr(expected[name], "dtype"):
            assert found[name].dtype == expected[name].dtype, name
        np.testing.assert_array_equal(found[name], expected[name])


VALUES = {
    "lists of floats": [[0.5, 1.0], [2.0, 3.0]],
    "lists of ints": [[1, 2], [3, 4]],
    "numbers": [1, 2, 3],
    "truths": [[True, False]],
    "arrays": [np.ones(3, np.float32), np.zeros(3, np.float32)],
    "bytes": [np.ones((2, 2), np.uint8)],
    "float64": np.linspace(0, 1, 6).reshape(2, 3),
    "not contiguous": np.arange(6.0).reshape(2, 3).T,
    "tensor": torch.arange(4),
}


@pytest.mark.parametrize("kind", ["pt", "np"])
@pytest.mark.parametrize("values", VALUES)
def test_values_become_what_transformers_makes_of_them(kind, values):
    found, expected = (
        batch({"input_values": copy.deepcopy(VALUES[values])}, tensor_type=kind) for batch in (BatchFeature, Theirs)
    )
    same(found, expected)
    later = BatchFeature(input_values=copy.deepcopy(VALUES[values]))
    assert later.convert_to_tensors() is later
    assert later.input_values is later["input_values"]
    same(later.convert_to_tensors(transformers.TensorType(kind)), expected)


@pytest.mark.parametrize("kind", ["pt", "np"])
@pytest.mark.parametrize(
    "values", [[], [[]], [[], []], [1, 2], [[1], [2]], [0.5, 2], [[0.5], [1]], [True], [[True, False]]], ids=str
)
def test_values_of_texts_become_what_transformers_makes_of_them(kind, values):
    found, expected = (
        library.BatchEncoding({"labels": values, "input_ids": [[1]]}).convert_to_tensors(kind)
        for library in (minitrans, transformers)
    )
    same(found, expected)


def test_tensors_are_stacked():
    items = [torch.arange(3), torch.arange(3) + 1]
    found = BatchFeature(ids=items, pair=tuple(items)).convert_to_tensors("pt")
    assert torch.equal(found.ids, torch.stack(items))
    assert torch.equal(found.pair, torch.stack(items))
    alone = BatchFeature(ids=[1, 2], array=np.ones(2, np.float32)).convert_to_tensors("pt", prepend_batch_axis=True)
    assert (alone.ids.shape, alone.array.shape) == ((1, 2), (1, 2))
    assert alone.array.dtype == torch.float32


@pytest.mark.parametrize("dtype", [">f4", ">i8", "<f8", np.longdouble, np.float16, np.uint8])
@pytest.mark.parametrize("form", ["array", "list of arrays"])
def test_numbers_of_any_order_and_width(dtype, form):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    found = BatchFeature(values=array if form == "array" else list(array)).convert_to_tensors("pt")["values"]
    assert found.tolist() == [[0, 1, 2], [3, 4, 5]]
    native = np.dtype(np.float64 if dtype is np.longdouble else dtype).newbyteorder("=")
    assert found.dtype == torch.from_numpy(np.zeros(1, native)).dtype


def test_rows_of_unequal_lengths():
    rows = [[1, 2], [3]]
    found = BatchFeature(ids=rows, arrays=[np.ones(2), np.ones(3)], even=[[1], [2]]).convert_to_tensors("np")
    assert (found.ids.dtype, found.arrays.dtype, found.even.dtype) == (object, object, np.int64)
    assert [row.tolist() for row in found.ids] == rows
    for kind, values in (("pt", rows), ("pt", [np.ones(2), np.ones(3)]), ("pt", [torch.ones(2), torch.ones(1)])):
        with pytest.raises(ValueError, match=r"ids have the shapes \(\d,\), \(\d,\) and make no .* Cut them[.]$"):
            BatchFeature(ids=values).convert_to_tensors(kind, advice="Cut them.")
    with pytest.raises(ValueError, match=r"make no single tensor\.$"):
        BatchFeature(ids=rows).convert_to_tensors("pt")


@pytest.mark.parametrize("value", [None, 5, [["a", "b"]], [None], [[None]], [len]], ids=repr)
def test_what_makes_no_tensor(value):
    with pytest.raises(ValueError, match="things ") as caught:
        BatchFeature(things=value).convert_to_tensors("pt")
    assert is_sentence(caught.value)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (("cpu",), {}),
        ((torch.float16,), {}),
        (("meta", torch.float16), {}),
        (("cpu",), {"dtype": torch.bfloat16}),
        ((), {"dtype": torch.float64}),
        ((), {"device": "meta", "non_blocking": True}),
        ((torch.device("meta"),), {}),
    ],
    ids=str,
)
def test_batches_are_moved_and_cast_as_in_transformers(arguments, options):
    made = {"values": torch.linspace(0, 1, 4), "ids": torch.arange(3), "mask": torch.ones(2, dtype=torch.bool)}
    others = {"text": ["a"], "array": np.ones(2)}
    found = BatchFeature(made, **others)
    assert found.to(*arguments, **options) is found
    expected = Theirs(made).to(*arguments, **options)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].device) == (tensor.dtype, tensor.device), name
    assert {name: found[name] for name in others} == others


def test_a_batch_is_a_dict_with_attributes():
    found = BatchFeature({"a": 1}, b=2)
    assert (found.a, found.b, {**found}, found.data) == (1, 2, {"a": 1, "b": 2}, {"a": 1, "b": 2})
    assert type(found.data) is dict
    assert (list(found.keys()), "a" in found.keys(), len(found)) == (["a", "b"], True, 2)  # noqa: SIM118
    for again in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert type(again) is BatchFeature
        assert again == found
    with pytest.raises(AttributeError, match="There is no 'c' here, only 'a', 'b'"):
        found.c  # noqa: B018
    assert not hasattr(BatchFeature(), "a")


def test_examples_are_gathered():
    rows = [{"a": 1, "b": [2]}, BatchFeature(b=[3], a=4)]
    for given in (rows, tuple(rows), iter(rows)):
        assert gathered(given) == {"a": [1, 4], "b": [[2], [3]]}
    for wrong in ([], None, 5, [5], [{"a": 1}, [1]], "ab"):
        with pytest.raises(ValueError, match="are a list of one dict or more, not") as caught:
            gathered(wrong)
        assert is_sentence(caught.value)
    for odd in ([{"a": 1}, {"b": 1}], [{"a": 1}, {"a": 1, "b": 2}], [{"a": 1, "b": 1}, {"a": 1}]):
        with pytest.raises(ValueError, match=r"Of 2 examples only some have '[ab]'; all of a batch need the same"):
            gathered(odd)


def test_tensors_as_arrays():
    for dtype, kind in ((torch.bfloat16, "float32"), (torch.float64, "float32"), (torch.int16, "int16")):
        found = as_array(torch.ones(2, dtype=dtype, requires_grad=dtype.is_floating_point))
        assert (found.dtype, found.tolist()) == (np.dtype(kind), [1, 1])
    for odd in (torch.ones(2, device="meta"), torch.ones(2).to_sparse()):
        with pytest.raises(TypeError, match="holds no plain numbers; give a dense one in memory"):
            as_array(odd)


class TestLikeness:
    """A feature extractor shows itself as one of transformers', and stays what it is."""

    def test_of_transformers(self):
        made = minitrans.Wav2Vec2FeatureExtractor(sampling_rate=8000)
        base = transformers.feature_extraction_sequence_utils.SequenceFeatureExtractor
        assert isinstance(made, base)
        assert isinstance(made, minitrans.Wav2Vec2FeatureExtractor)
        assert type(made) is minitrans.Wav2Vec2FeatureExtractor
        shown = made.__class__
        assert (shown.__name__, shown.__module__, shown.__qualname__, shown.__doc__) == (
            type(made).__name__, type(made).__module__, type(made).__qualname__, type(made).__doc__
        )  # fmt: skip
        assert type(shown(sampling_rate=8000)) is type(made)
        assert shown(sampling_rate=8000) == made

    def test_without_transformers(self, monkeypatch):
        monkeypatch.delitem(sys.modules, minitrans.Wav2Vec2FeatureExtractor.shown_as[0])
        assert minitrans.Wav2Vec2FeatureExtractor().__class__ is minitrans.Wav2Vec2FeatureExtractor

    def test_copies(self):
        made = minitrans.Wav2Vec2FeatureExtractor(sampling_rate=8000, extra={"note": [1]})
        for again in (copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
            assert type(again) is type(made)
            assert again == made
        assert copy.deepcopy(made).extra["note"] is not made.extra["note"]


@pytest.mark.parametrize("option", features.WITHOUT_EFFECT)
@pytest.mark.parametrize("kind", ["ViTImageProcessor", "Wav2Vec2FeatureExtractor"])
def test_options_of_transformers_without_an_effect(kind, option, tmp_path):
    made = getattr(minitrans, kind)()
    made.save_pretrained(tmp_path)
    assert getattr(minitrans, kind).from_pretrained(tmp_path, **{option: None}) == made


@pytest.mark.parametrize("nested", [{"image_processor": None}, {"feature_extractor": {"size": 3}}, {}], ids=str)
def test_a_file_of_both_parts_may_leave_one_to_its_own_file(nested, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text('{"size": 8}')
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert minitrans.ViTImageProcessor.from_pretrained(tmp_path).size == {"height": 8, "width": 8}


# -- kinds of values


class Index:
    def __index__(self):
        return 7

    def __repr__(self):
        return "an index"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5), (np.longdouble(0.5), 0.5), (np.complex64(1j), 1j), (np.int8(3), 3), (np.True_, True),
        (np.str_("a"), "a"), (torch.tensor(3), 3), (torch.tensor([0.5, 1.0]), [0.5, 1.0]), (np.array(3), 3),
        (np.array([[1, 2]]), [[1, 2]]), ((1, 2), [1, 2]), ([1, (2, np.int64(3))], [1, [2, 3]]), (Index(), 7),
        ({"a": (np.int64(1),)}, {"a": [1]}), (True, True), (None, None), ("a", "a"), (b"a", b"a"), ((), []),
        (np.array(["a", None], object), ["a", None]), (np.array([np.float32(0.5)], object), [0.5]),
    ],
    ids=repr,
)  # fmt: skip
def test_plain_values(value, expected):
    found = kinds.plain(value)
    assert found == expected
    assert type(found) is type(expected)
    if isinstance(expected, list):
        assert [type(item) for item in found] == [type(item) for item in expected]
        assert found is not value


def test_no_plain_values():
    for odd in (torch.ones(2, device="meta"), [torch.ones(2, device="meta")]):
        with pytest.raises(TypeError, match="A Tensor holds no plain numbers; give a dense one in memory"):
            kinds.plain(odd)


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (kinds.is_bool, [True, False], [0, 1, None, "x"]),
        (kinds.is_text, ["", "a"], [b"a", None, 1]),
        (kinds.is_whole, [0, -1, 10**400], [True, 1.0, "1", None]),
        (kinds.is_count, [1, 2**63 - 1], [0, -1, 2**63, True, 1.0, None]),
        (kinds.each(kinds.is_whole), [[], [1], (1, 2)], [1, "12", [1, "a"], ["a", 1], {1}, None]),
        (kinds.mapping(kinds.is_whole), [{}, {"a": 1}], [[1], {"a": "1"}, {"a": 1, "b": "1"}, None]),
        (kinds.or_none(kinds.is_whole), [None, 3], ["3", [None]]),
    ],
    ids=["bool", "text", "whole", "count", "each", "mapping", "or none"],
)
def test_kinds(check, right, wrong):
    assert [check(value) for value in right] == [True] * len(right)
    assert [check(value) for value in wrong] == [False] * len(wrong)


def test_whole_options():
    assert [kinds.whole("n", value, 2) for value in (None, 2, np.int64(3), torch.tensor(4))] == [None, 2, 3, 4]
    for wrong in (1, 2.0, "2", True, [2]):
        with pytest.raises(ValueError, match=r"n=.* must be a whole number of at least 2, or None"):
            kinds.whole("n", wrong, 2)


def test_what_is_shown_is_short_and_of_one_line():
    assert kinds.shown("a  b\n" * 2) == repr("a  b\n" * 2).replace("  ", " ")
    assert kinds.shown(np.arange(4).reshape(2, 2)) == "array([[0, 1], [2, 3]])"
    assert kinds.shown("x" * 99) == "'" + "x" * 79
    assert kinds.shown("x" * 99, 5) == "'xxxx"


def test_values_of_another_kind_are_named():
    known = {"a": (kinds.is_whole, "a whole number"), "b": (kinds.is_text, "text")}
    kinds.check_kinds({"a": 1, "c": None}, known, "the file")
    with pytest.raises(TypeError, match=r"^b of the file is 3; it must be text\.$"):
        kinds.check_kinds({"a": 1, "b": 3}, known, "the file")
