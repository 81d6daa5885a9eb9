"""Document pages for LayoutLMv2: a picture of the page, its words, and where each word stands.

The results are those of transformers' LayoutLMv2 processor, except for two labels that it gives wrongly: there the
words of a question take the labels of the page's, and a word that begins with a space or such loses its own.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from typing_extensions import override

from minitrans import hub
from minitrans.processing.encoding import BatchEncoding
from minitrans.processing.features import BatchFeature, open_with
from minitrans.processing.image import FIRST, ImageProcessor, as_pillow
from minitrans.processing.kinds import Kind, check_kinds, each, is_text, is_whole, or_none, plain, shown
from minitrans.processing.text import BertTokenizer

if TYPE_CHECKING:
    from PIL import Image

    from minitrans.processing.image import Picture

Words = list[str]
Boxes = Sequence[Any]  # left, top, right, bottom of each word, or the corners of a quadrangle
KINDS: dict[str, Kind] = {
    "ocr_lang": (or_none(is_text), "text or null"),
    "tesseract_config": (is_text, "text"),
    "ocr": (or_none(callable), "a function, or None"),
}
SLACK = 10  # thousandths of a page by which a box may hang over it


@dataclass
class LayoutLMv2ImageProcessor(ImageProcessor):
    """Pages as bytes of blue, green and red, 224 × 224 unless `size` says otherwise, and with OCR their words.

    With `apply_ocr` the result holds, beside `pixel_values`, the lists `words` and `boxes` of each page, the boxes as
    left, top, right, bottom from 0 to 1000. Tesseract reads them, in the language `ocr_lang` ("eng" where it is None)
    and with the options `tesseract_config`; or `ocr` does, any function that takes a PIL image in RGB and returns the
    words and their boxes in pixels: four numbers, or the corners of a quadrangle. What hangs over the page by two
    pixels or a hundredth is cut off. The other settings are those of `ImageProcessor`.
    """

    published_names: ClassVar[tuple[str, ...]] = (
        "LayoutLMv2ImageProcessor",
        "LayoutLMv2ImageProcessorFast",
        "LayoutLMv2ImageProcessorPil",
        "LayoutLMv2FeatureExtractor",
    )

    do_convert_rgb: bool | None = True
    do_rescale: bool = False
    do_normalize: bool = False
    apply_ocr: bool = True
    ocr_lang: str | None = None
    tesseract_config: str = ""
    ocr: Callable[[Image.Image], tuple[Words, Boxes]] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kinds(vars(self), KINDS, f"the {type(self).__name__}")

    def to_dict(self) -> dict[str, Any]:
        """All settings but `ocr`, as they stand in preprocessor_config.json."""
        return {name: value for name, value in super().to_dict().items() if name != "ocr"}

    def finish(self, picture: Picture) -> np.ndarray:
        """Do what `ImageProcessor` does, then turn RGB to BGR, which LayoutLMv2's backbone from Detectron2 takes."""
        pixels = super().finish(picture)
        return np.ascontiguousarray(np.flip(pixels, 0 if self.data_format == FIRST else -1))

    @override
    def collect(self, pictures: Iterable[Picture], return_tensors: str | None) -> BatchFeature:
        pictures = list(pictures)
        features = super().collect(pictures, return_tensors)
        if self.apply_ocr:
            pages = [as_pillow(page) if isinstance(page, np.ndarray) else page for page in pictures]
            found = [self._words_and_boxes(page, f"Page {index}") for index, page in enumerate(pages)]
            features.update(words=[words for words, _ in found], boxes=[boxes for _, boxes in found])
        return features

    def _words_and_boxes(self, page: Image.Image, name: str) -> tuple[Words, list[list[int]]]:
        found = plain(self.ocr(page) if self.ocr else tesseract(page, self.ocr_lang, self.tesseract_config))
        if not each(each(lambda _: True))(found) or len(found) != 2 or not each(is_text)(found[0]):
            raise TypeError(f"ocr gives the words of {name} and their boxes, two lists, not {shown(found)}.")
        words, boxes = found
        edges = (page.width, page.height) * 2
        scaled = [
            [int(1000 * (place / edge)) for place, edge in zip(upright(box), edges, strict=True)] for box in boxes
        ]
        return list(words), checked_boxes(scaled, words, name, max(SLACK, 2000 // min(edges)))


def tesseract(image: Image.Image, lang: str | None = None, config: str = "") -> tuple[Words, Boxes]:
    """Read a page with Tesseract; give its words and their boxes in pixels.

    Raises ImportError where pytesseract is missing, FileNotFoundError where the program is, ValueError for a language
    that is not installed, and, with Tesseract's message, for options that it does not take.
    """
    try:
        import pytesseract
    except ImportError as error:
        raise ImportError('Tesseract is called through pytesseract: pip install "minitrans[ocr]".') from error
    try:
        if lang and "+" in lang:  # else Tesseract leaves out those that it has not
            _check_languages(lang, pytesseract.get_languages(config))
        data = pytesseract.image_to_data(image, lang=lang, config=config, output_type="dict")
    except pytesseract.TesseractNotFoundError as error:
        raise FileNotFoundError(
            "The program tesseract was not found. Install it (Debian: apt-get install tesseract-ocr), or pass "
            "ocr=, a function that reads a page, or apply_ocr=False and your own words and boxes."
        ) from error
    except (pytesseract.TesseractError, ValueError, OSError) as error:
        _check_languages(lang or "", pytesseract.get_languages())
        said = " ".join(str(error).split())[:300]
        raise ValueError(
            f"Tesseract does not work with tesseract_config={config!r:.80}, lang={lang!r}: {said}."
        ) from error
    if absent := {"text", "left", "top", "width", "height"} - data.keys():
        raise ValueError(f"tesseract_config={config!r:.80} makes Tesseract leave out {', '.join(sorted(absent))}.")
    columns = [data[name] for name in ("text", "left", "top", "width", "height")]
    found = [word for word in zip(*columns, strict=True) if word[0].strip()]
    return [word[0] for word in found], [(x, y, x + width, y + height) for _, x, y, width, height in found]


def _check_languages(lang: str, there: list[str]) -> None:
    """ValueError for a language that pytesseract would list, and does not."""
    missing = [name for name in lang.split("+") if re.fullmatch("[a-z_]+", name) and name not in there]
    if missing and there:
        package = missing[0].replace("_", "-")
        raise ValueError(
            f"Tesseract has no language ocr_lang={missing[0]!r}, only {', '.join(there)}; install it (Debian: "
            f"apt-get install tesseract-ocr-{package}) or choose one of these."
        )


def upright(box: Any) -> list[float]:
    """Return left, top, right and bottom of a box: those four, or the corners of a quadrangle, flat or as points."""
    try:
        numbers = np.asarray(box, dtype=float).ravel().tolist()
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) not in (4, 8) or not all(map(math.isfinite, numbers)):
        raise ValueError(f"A box is left, top, right, bottom, or the corners of a quadrangle, not {shown(box)}.")
    if len(numbers) != 8:
        return numbers
    across, down = numbers[0::2], numbers[1::2]
    return [min(across), min(down), max(across), max(down)]


def checked_boxes(boxes: Any, words: Sequence[str], name: str, slack: int = 0) -> list[list[int]]:
    """Bring the boxes of a page's words to lists of int from 0 to 1000; quadrangles become the boxes around them.

    What hangs over the page by at most `slack` is cut off; ValueError for boxes that no page of 1000 × 1000 has.
    """
    if not isinstance(boxes, list | tuple) or len(boxes) != len(words):
        count = f"{len(boxes)} boxes" if isinstance(boxes, list | tuple) else f"the boxes {shown(boxes)}"
        raise ValueError(f"{name} has {len(words)} words and {count}; each word needs one.")
    listed = list(map(upright, boxes))
    for word, box in zip(words, listed, strict=True):
        if not all(-slack <= place <= 1000 + slack and place == int(place) for place in box):
            raise ValueError(
                f"{name} has the box {box} at the word {word!r}; a box is left, top, right, bottom as whole numbers "
                "from 0 to 1000: divide pixels by the page's width or height and multiply by 1000."
            )
        if box[0] > box[2] or box[1] > box[3]:
            raise ValueError(f"{name} has the box {box} at the word {word!r}, whose end comes before its beginning.")
    return [[min(max(int(place), 0), 1000) for place in box] for box in listed]


class LayoutLMv2Tokenizer(BertTokenizer):
    """BERT's tokenizer for words that have boxes, and labels if you train.

    Each token takes the box of its word; [CLS] has `cls_token_box`, [SEP] `sep_token_box`, padding and the words of a
    question `pad_token_box`. Only the first token of a word takes its label unless `only_label_first_subword=False`;
    all others have `pad_token_label`.
    """

    defaults: ClassVar[dict[str, object]] = {
        **BertTokenizer.defaults,
        "model_max_length": 512,
        "cls_token_box": [0, 0, 0, 0],
        "sep_token_box": [1000, 1000, 1000, 1000],
        "pad_token_box": [0, 0, 0, 0],
        "pad_token_label": -100,
        "only_label_first_subword": True,
    }

    def __init__(self, *vocab: Any, **options: Any) -> None:
        super().__init__(*vocab, **options)
        self.cls_token_box: list[int] = self._settings["cls_token_box"]
        self.sep_token_box: list[int] = self._settings["sep_token_box"]
        self.pad_token_box: list[int] = self._settings["pad_token_box"]
        self.pad_token_label: int = self._settings["pad_token_label"]
        self.only_label_first_subword: bool = self._settings["only_label_first_subword"]

    def __call__(  # type: ignore[override]
        self,
        text: Any,
        text_pair: Any = None,
        boxes: Any = None,
        word_labels: Any = None,
        *,
        return_tensors: str | None = None,
        return_overflowing_tokens: bool = False,
        **options: Any,
    ) -> BatchEncoding:
        """Encode pages, or questions (`text`) about pages (`text_pair`); gives `bbox` and `labels` beside the ids.

        A page is a list of words; `boxes` has four whole numbers from 0 to 1000 for each word, or a quadrangle's
        eight, and `word_labels` one int. A batch is a list of pages, of boxes, of labels and of questions; boxes and
        labels can be arrays. The first token of a word takes its label. `options` are those of `Tokenizer`. Raises
        TypeError for what is not a list of words, ValueError where the numbers of words, boxes and labels differ and
        for boxes that do not lie on the page.
        """
        text, word_labels, boxes = plain(text), plain(word_labels), plain(boxes)
        words = text if text_pair is None else text_pair
        if not isinstance(words, (list, tuple)):
            raise TypeError(f"The words of a page are a list of strings, not {words!r:.60}; a question comes first.")
        single = (
            isinstance(text, str) if text_pair is not None else not any(isinstance(p, (list, tuple)) for p in words)
        )
        if boxes is None:
            raise ValueError(
                "Each word needs a box: pass boxes, with left, top, right, bottom from 0 to 1000 for each."
            )
        if single:
            text, words, boxes, word_labels = [text], [words], [boxes], None if word_labels is None else [word_labels]
        for name, given in (("boxes", boxes), ("word_labels", word_labels), ("questions", text)):
            if given is not None and (not isinstance(given, list | tuple) or len(given) != len(words)):
                count = len(given) if isinstance(given, list | tuple) else shown(given)
                raise ValueError(f"There are {len(words)} pages of words, but {name} for {count}.")
        boxes = [
            checked_boxes(given, page, f"Page {n}") for n, (given, page) in enumerate(zip(boxes, words, strict=True))
        ]
        for index, (page, labels) in enumerate(zip(words, word_labels or (), strict=word_labels is not None)):
            if not each(is_whole)(labels):
                raise TypeError(
                    f"The word_labels of page {index} are {shown(labels)}; each word needs a whole number."
                )
            if len(page) != len(labels):
                raise ValueError(f"Page {index} has {len(page)} words and {len(labels)} labels; each word needs one.")

        encoding = super().__call__(
            words if text_pair is None else [question.split() for question in text],
            None if text_pair is None else words,
            is_split_into_words=True,
            return_overflowing_tokens=return_overflowing_tokens,
            **options,
        )
        starts = self._starts(words) if word_labels is not None and self.only_label_first_subword else {}
        special = {self.cls_token_id: self.cls_token_box, self.sep_token_id: self.sep_token_box}
        encoding["bbox"], all_labels = [], []
        pages = encoding.get("overflow_to_sample_mapping", range(len(words)))
        for index, part in zip(pages, encoding.encodings or (), strict=True):
            bbox, labels, last = [], [], None
            for token, text_of, word, text_number, (start, _) in zip(
                part.ids, part.tokens, part.word_ids, part.sequence_ids, part.offsets, strict=True
            ):
                box, label = self.pad_token_box, self.pad_token_label
                if word is None:
                    box = special.get(token, box)
                elif text_number == (text_pair is not None):
                    box = boxes[index][word]
                    # A character may become several tokens, and a sequence begin between them.
                    first = start == starts.get(words[index][word]) and word != last and not text_of.startswith("##")
                    if word_labels is not None and (first or not self.only_label_first_subword):
                        label = word_labels[index][word]
                    last = word
                bbox.append(box)
                labels.append(label)
            encoding["bbox"].append(bbox)
            all_labels.append(labels)
        if word_labels is not None:
            encoding["labels"] = all_labels
        if single and return_tensors is None and not return_overflowing_tokens:
            encoding.update({name: values[0] for name, values in encoding.items() if isinstance(values[0], list)})
        return encoding.convert_to_tensors(return_tensors)

    def _starts(self, pages: Iterable[Iterable[str]]) -> dict[str, int]:
        """Return where the first token of each word begins in it: what is not text, as an accent, makes no token."""
        words = sorted({word for page in pages for word in page})
        found = self.backend_tokenizer.encode_batch(
            [[word] for word in words], is_pretokenized=True, add_special_tokens=False
        )
        return {word: encoding.offsets[0][0] for word, encoding in zip(words, found, strict=True) if len(encoding)}

    def tokenize(self, text: Any, pair: Any = None, add_special_tokens: bool = False, **options: Any) -> list[str]:
        """Return the tokens of a text, which needs no boxes."""
        return super().__call__(text, pair, add_special_tokens=add_special_tokens, **options).tokens()

    def _padding_values(self) -> dict[str, Any]:
        return {**super()._padding_values(), "bbox": self.pad_token_box, "labels": self.pad_token_label}


LayoutLMv2TokenizerFast = LayoutLMv2Tokenizer


class LayoutLMv2Processor(hub.Saved):
    """From pictures of pages to LayoutLMv2's inputs: `input_ids`, `token_type_ids`, `attention_mask`, `bbox`, `image`.

    `image_processor` and `tokenizer` can be used alone; their settings are options of `from_pretrained`.
    """

    model_input_names = ("input_ids", "bbox", "token_type_ids", "attention_mask", "image")

    def __init__(self, image_processor: LayoutLMv2ImageProcessor, tokenizer: LayoutLMv2Tokenizer) -> None:
        self.image_processor = image_processor
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: hub.Source, **options: Any) -> LayoutLMv2Processor:
        """Read both parts from a folder or hub id; each option goes to the part that has such a setting."""
        repository, settings = open_with(pretrained_model_name_or_path, options)
        seen = {spec.name for spec in fields(LayoutLMv2ImageProcessor)}
        return cls(
            LayoutLMv2ImageProcessor.from_pretrained(repository, **{k: settings[k] for k in settings if k in seen}),
            LayoutLMv2Tokenizer.from_pretrained(repository, **{k: settings[k] for k in settings if k not in seen}),
        )

    def write_files(self, folder: Path) -> None:
        """Write processor_config.json, which holds the image processor's settings, and the tokenizer's files."""
        config = {"image_processor": self.image_processor.to_dict(), "processor_class": type(self).__name__}
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (folder / "processor_config.json").write_text(text, encoding="utf-8")
        self.tokenizer.write_files(folder)

    def __call__(
        self,
        images: Any,
        text: Any = None,
        text_pair: Any = None,
        boxes: Any = None,
        word_labels: Any = None,
        *,
        return_tensors: str | None = None,
        **options: Any,
    ) -> BatchEncoding:
        """Encode one page or a batch of pages, with a question about each as `text` if you like.

        Where the image processor reads the words (`apply_ocr`), give images and questions alone. Else give words as
        `text`, or questions as `text` and words as `text_pair`, with `boxes` and, to train, `word_labels`, all as for
        `LayoutLMv2Tokenizer`, which also takes `options`. A page that overflows has its `image` in each
        of its sequences. Raises ValueError for words beside `apply_ocr`, and for more or fewer images than texts.
        """
        reads = self.image_processor.apply_ocr
        if reads and not (text_pair is None and boxes is None and word_labels is None):
            raise ValueError(
                "The words and boxes are read from the image, since apply_ocr=True, and none can be given beside; for "
                "your own use from_pretrained(..., apply_ocr=False)."
            )
        if not reads and (text is None or boxes is None):
            raise ValueError("apply_ocr=False reads no words: pass them as text, with their boxes, or set it to True.")
        features = self.image_processor(images)
        if reads:
            boxes = features.boxes
            questions = [text] if isinstance(text, str) else text
            text, text_pair = (features.words, None) if text is None else (questions, features.words)
        encoding = self.tokenizer(text, text_pair, boxes, word_labels, return_tensors=return_tensors, **options)
        pages = encoding.get("overflow_to_sample_mapping", range(len(encoding.encodings or ())))
        pages = [int(index) for index in pages]
        if pages[-1] + 1 != len(features.pixel_values):
            raise ValueError(f"There are {len(features.pixel_values)} images for {pages[-1] + 1} pages of words.")
        image = BatchFeature(image=[features.pixel_values[index] for index in pages])
        encoding.update(image.convert_to_tensors(return_tensors, advice="Pass do_resize=True."))
        return encoding

    def decode(self, *args: Any, **options: Any) -> Any:
        """Return the text of token ids, as `LayoutLMv2Tokenizer.decode` does."""
        return self.tokenizer.decode(*args, **options)

    def batch_decode(self, *args: Any, **options: Any) -> list[str]:
        """Return the texts of a batch of token ids, as `LayoutLMv2Tokenizer.batch_decode` does."""
        return self.tokenizer.batch_decode(*args, **options)
