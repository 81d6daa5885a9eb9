"""Images become the pixel values that a checkpoint was trained on, with Pillow and numpy alone.

The numbers are those of transformers' Pillow-backed processors. torch is needed only where tensors come in or go out.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

import numpy as np

from minitrans import hub
from minitrans.processing.features import BatchFeature, as_array, open_with, read_settings
from minitrans.processing.kinds import is_whole, plain
from minitrans.utils.logging import warn_once

if TYPE_CHECKING:
    from PIL import Image

    Picture: TypeAlias = Image.Image | np.ndarray  # 8 bits a channel; or an array of shape (H, W, C)


FIRST, LAST = "channels_first", "channels_last"
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # number of channels -> Pillow's name for them
BY_WAY_OF = {"La": "LA", "RGBa": "RGBA", "LAB": "RGB"}  # Pillow's modes that it does not convert to every other
SIZES = ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"}, {"max_height", "max_width"})
FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}  # Pillow's codes
# What a file is taken for, by Pillow's names: pixels with a header. Of its other formats some start a program that
# draws, some (IPTC) hold a file of any of these, and some are found in any bytes.
RASTER = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "ICNS", "QOI", "SGI",
          "PSD", "DDS", "PCX", "TGA")  # fmt: skip
MOST_PIXELS = 2**24  # of what a model is given, 200 MB; a photograph before it is resized may have more
TYPE_KEYS = {"image_processor_type", "feature_extractor_type", "processor_class"}

# What can be done with an image of that many channels where RGB is expected.
HINTS = {
    1: "; do_convert_rgb=True makes RGB of it",
    4: "; where the fourth is transparency, do_convert_rgb=True lays the image on white, else choose three",
}

P = TypeVar("P", bound="ImageProcessor")


@dataclass
class ImageProcessor(hub.Saved):
    """Read, convert, resize, crop, rescale and normalise images, each step by its `do_` switch.

    The fields are the settings of preprocessor_config.json; each can be overridden in a call. None stands for the
    default, and for a step that is left out. An image is a PIL image, the path of a file, or an array or tensor of
    shape (height, width), (height, width, channels) or (channels, height, width). A batch is any nesting of lists, or
    an array with one more dimension in front. A shape that can be read both ways has as many channels as `image_mean`
    has values, or else its channels first, unless `input_data_format` says otherwise.

    **Colours.** Palette, CMYK, 1-bit and 16-bit grey images become 8 bits a channel. A PIL image or file is brought to
    as many channels as `image_mean` has values; `do_convert_rgb=True` makes RGB of arrays too, and False leaves the
    channels as they are. Transparency is blended with white. A file or a PIL image is turned upright as its EXIF
    orientation asks. Of an animation the first frame counts. Files of vector graphics are not opened.

    **Resizing.** `size` is {"height", "width"}, {"shortest_edge"} with or without "longest_edge", {"max_height",
    "max_width"}, into which the image is fitted, (height, width), or one number: a square, or with
    `default_to_square=False` the shortest edge. `resample` is a filter's name or Pillow's code: 0 nearest, 1 lanczos,
    2 bilinear, 3 bicubic, 4 box, 5 hamming. It works on bytes as in transformers: whole numbers from 0 to 255 stay,
    numbers from 0 to 1 are cut to 255 levels, others are refused. The channels of an array are resized one by one:
    a fourth is not transparency.

    **Numbers.** `do_center_crop` cuts out `crop_size`, with zeros where the image does not reach; `do_rescale`
    multiplies by `rescale_factor`; `do_normalize` computes (pixels − `image_mean`) / `image_std`, each one number or
    one for each channel. The result is float32, or of the input's type where it is neither rescaled nor normalised.
    """

    published_names: ClassVar[tuple[str, ...]] = ()  # the types in config files that a class stands for
    model_input_names: ClassVar[tuple[str, ...]] = ("pixel_values",)

    do_convert_rgb: bool | None = None
    do_resize: bool = True
    size: Any = (224, 224)
    resample: Any = 2
    default_to_square: bool = True
    do_center_crop: bool = False
    crop_size: Any = None
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: Any = (0.5, 0.5, 0.5)
    image_std: Any = (0.5, 0.5, 0.5)
    input_data_format: str | None = None
    data_format: str = FIRST
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for spec in fields(self):
            value = plain(getattr(self, spec.name))
            setattr(self, spec.name, value)
            is_switch = isinstance(value, int) and value in (0, 1)
            if value is None:  # of a step it says, as to transformers, that it is not done
                is_step = spec.name.startswith("do_") and spec.default is not None
                setattr(self, spec.name, False if is_step else spec.default)
            elif spec.name.endswith("data_format") and not (isinstance(value, str) and value in (FIRST, LAST)):
                raise ValueError(f"{spec.name} is {value!r}; it must be {FIRST!r} or {LAST!r}.")
            elif spec.name.startswith(("do_", "default_to_square", "apply_")) and not is_switch:
                raise ValueError(f"{spec.name} is {value!r:.80}; it must be True or False.")
        self.size = _size("size", self.size, self.default_to_square)
        name = self.resample
        self.resample = FILTERS.get(name.lower(), name) if isinstance(name, str) else name
        if not is_whole(self.resample) or self.resample not in range(6):
            raise ValueError(f"resample is {name!r}; the filters are {', '.join(FILTERS)}, or their numbers 0 to 5.")
        if self.crop_size is not None:
            self.crop_size = _size("crop_size", self.crop_size)
        for name in ("rescale_factor", "image_mean", "image_std"):
            setattr(self, name, _numbers(name, getattr(self, name)))

    @classmethod
    def from_pretrained(cls: type[P], pretrained_model_name_or_path: hub.Source, **options: Any) -> P:
        """Read preprocessor_config.json of a folder or hub id, or a JSON file, old spellings included.

        `options` are those of `minitrans.hub.open_repository` and settings that override the file's. Unknown keys of
        the file are kept in `extra` and saved back. Raises ValueError where the file belongs to another processor or
        asks for padding, which this one does not do; TypeError for an unknown option.
        """
        repository, overrides = open_with(pretrained_model_name_or_path, options, "preprocessor_config.json")
        values = read_settings(repository, "image_processor")
        found = values.get("image_processor_type") or values.get("feature_extractor_type")
        if found is not None and found not in cls.published_names:
            raise ValueError(f"{repository.name} has a {found!r:.80}, for which {cls.__name__} does not stand.")
        if values.get("do_pad"):
            raise ValueError(f"{repository.name} asks for do_pad, which {cls.__name__} does not do.")
        known = {spec.name for spec in fields(cls)}
        extra = {key: value for key, value in values.items() if key not in known | TYPE_KEYS}
        return cls(**{**{key: values[key] for key in known & set(values)}, "extra": extra, **overrides})

    def to_dict(self) -> dict[str, Any]:
        """All settings, as they stand in preprocessor_config.json."""
        values = {spec.name: getattr(self, spec.name) for spec in fields(self) if spec.name != "extra"}
        values.update(resample=int(self.resample), image_processor_type=self.published_names[0])
        return {**self.extra, **{name: value for name, value in values.items() if value is not None}}

    def write_files(self, folder: Path) -> None:
        """Write preprocessor_config.json into an existing folder."""
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"
        (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")

    def __call__(
        self, images: Any, *, return_tensors: str | None = None, device: Any = None, **options: Any
    ) -> BatchFeature:
        """Make `pixel_values` of one image or a batch: a list of arrays, or one "np" array or "pt" tensor.

        A tensor goes to `device`; the work is done on the CPU. `options` override the settings for this call. Raises
        TypeError for an unknown option or input, ValueError for an image or a setting that cannot give right numbers,
        OSError for a file that is missing or damaged.
        """
        settings = replace(self, **{name: value for name, value in options.items() if value is not None})
        features = settings.collect((settings.read(image, name) for name, image in _named(images)), return_tensors)
        return features if device is None or return_tensors is None else features.to(device)

    def preprocess(self, images: Any, **options: Any) -> BatchFeature:
        """A call, by the name that training scripts know."""
        return self(images, **options)

    def collect(self, pictures: Iterable[Picture], return_tensors: str | None) -> BatchFeature:
        """Make the result of a call from images that `read` has taken in."""
        features = BatchFeature(pixel_values=[self.finish(picture) for picture in pictures])
        advice = "Pass do_resize=True with a fixed size, or call the processor image by image."
        return features.convert_to_tensors(return_tensors, advice=advice)

    def read(self, image: Any, name: str) -> Picture:
        """Take in one image of any accepted type: a PIL image of 8 bits a channel, or an array (H, W, C)."""
        pillow = _pillow()
        listed = len(self.image_mean) if isinstance(self.image_mean, list) else None
        if isinstance(image, (str, Path)):
            image = _opened(image, pillow)
        if isinstance(image, pillow.Image):
            kept = listed if self.do_normalize else None
            channels = kept if self.do_convert_rgb is None else 3 if self.do_convert_rgb else None
            image = _converted(image, channels, name, pillow)
            count = len(image.getbands())
        else:
            image = _checked(image, name, self.input_data_format, listed)
            image = _rgb(image, name) if self.do_convert_rgb else image
            count = image.shape[-1]
            if self.do_rescale and image.dtype != np.uint8:
                self._check_range(image, name)
        for setting in ("image_mean", "image_std"):
            values = getattr(self, setting)
            if self.do_normalize and isinstance(values, list) and len(values) != count:
                hint = HINTS.get(count, "") if len(values) == 3 else ""
                raise ValueError(f"{name} has {count} channels, but {setting} has {len(values)} values{hint}.")
        return image

    def _check_range(self, pixels: np.ndarray, name: str) -> None:
        low, high, top = pixels.min(), pixels.max(), max(255.0, 1 / self.rescale_factor)
        if low < 0 or high > top:
            advice = (
                "pass do_rescale=False for values that are rescaled already (and do_normalize=False if normalised)"
            )
            if low >= 0:  # of more bits a channel, which no switch of the processor puts right
                advice = f"bring 0 to its white, such as {2 ** (int(high).bit_length()) - 1}, to 0 to 255 first"
            raise ValueError(f"{name} has pixels from {low:g} to {high:g}, but 0 to {top:g} are expected; {advice}.")
        if 0 < high <= 1:
            warn_once(f"Pixels up to {high:g} are rescaled by {self.rescale_factor:g}; do_rescale=False prevents it.")

    def _resized(self, picture: Picture) -> np.ndarray:
        """Resize to an array (H, W, C), bytes where it held bytes."""
        unit, bands = _bands(picture) if isinstance(picture, np.ndarray) else (False, [picture])
        height, width = _checked_target(self.size, bands[0].height, bands[0].width)
        edges = max(width, 1), max(height, 1)
        pixels = np.concatenate([_array(band.resize(edges, self.resample)) for band in bands], axis=-1)
        return (pixels.astype(np.float64) * (1 / 255)).astype(np.float32) if unit else pixels

    def finish(self, picture: Picture) -> np.ndarray:
        """Resize, crop, rescale and normalise; the result has its axes in the order of `data_format`."""
        pixels = self._resized(picture) if self.do_resize else _array(picture)
        if self.do_center_crop:
            if "height" not in (self.crop_size or ()):
                raise ValueError(f"do_center_crop=True needs a crop_size of height and width, not {self.crop_size}.")
            pixels = _cropped(pixels, **self.crop_size)
        if pixels.dtype == np.uint8 and (self.do_rescale or self.do_normalize):
            # A byte has 256 values: computing each once takes a third of the time.
            count = pixels.shape[-1]
            table = self._standardised(np.repeat(np.arange(256, dtype=np.uint8)[:, None], count, axis=1))
            pixels = np.stack([table[:, channel].take(pixels[..., channel]) for channel in range(count)])
        else:
            pixels = np.array(np.moveaxis(self._standardised(pixels), -1, 0), order="C")  # never the caller's memory
        return pixels if self.data_format == FIRST else np.moveaxis(pixels, 0, -1)

    def _standardised(self, pixels: np.ndarray) -> np.ndarray:
        """Rescale and normalise an array (..., C); transformers, too, rescales in float64."""
        if self.do_rescale:
            pixels = (pixels.astype(np.float64) * self.rescale_factor).astype(np.float32)
        if self.do_normalize:
            mean, std = np.asarray(self.image_mean, np.float32), np.asarray(self.image_std, np.float32)
            pixels = (pixels.astype(np.float32) - mean) / std
        return pixels


class ViTImageProcessor(ImageProcessor):
    """The processor of Swin's checkpoints, and of ViT's; all is said at `ImageProcessor`.

    Checkpoints saved by transformers' torchvision backend are read as well, and computed as Pillow does.
    """

    published_names = ("ViTImageProcessor", "ViTImageProcessorFast", "ViTImageProcessorPil", "ViTFeatureExtractor")


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('Images are read with Pillow: pip install "minitrans[image]".') from error
    return Image


def _named(images: Any) -> list[tuple[str, Any]]:
    """Flatten any nesting of lists and batch dimensions; beside each image stands what to call it in messages."""
    flat = list(_flat(images))
    if not flat:
        raise ValueError("No images were given.")
    return [(str(x) if isinstance(x, (str, Path)) else f"Image {index}", x) for index, x in enumerate(flat)]


def _flat(images: Any) -> Iterator[Any]:
    batch = isinstance(images, (list, tuple))
    if batch or getattr(images, "ndim", None) == 4:
        for image in images:
            yield from _flat(image) if batch else [image]
    else:
        yield images


def _size(name: str, size: Any, square: bool = True) -> dict[str, int]:
    """Bring every way to write a size to one of the dicts of `SIZES`."""
    found = size
    if is_whole(size):
        found = {"height": size, "width": size} if square else {"shortest_edge": size}
    elif isinstance(size, (list, tuple)) and len(size) == 2:
        found = {"height": size[0], "width": size[1]}
    elif isinstance(size, Mapping):
        found = {key: edge for key, edge in size.items() if edge is not None}
    if not isinstance(found, dict) or set(found) not in SIZES:
        forms = ", ".join(" and ".join(sorted(keys)) for keys in SIZES)
        raise ValueError(f"{name} is {size!r:.80}; it must be a number, (height, width), or a dict with {forms}.")
    if not all(is_whole(edge) and edge > 0 for edge in found.values()):
        raise ValueError(f"{name} is {size!r:.80}; its edges must be whole numbers of at least 1.")
    if "height" in found and found["height"] * found["width"] > MOST_PIXELS:
        raise ValueError(f"{name} is {size!r:.80}; an image may have {MOST_PIXELS} pixels at most.")
    return found


def _numbers(name: str, value: Any) -> Any:
    """One number, or a list of one for each channel but of a factor, that float32 can hold; ValueError else."""
    try:
        values = np.asarray(value)
    except ValueError:  # rows of unequal lengths
        values = np.empty(0)
    numbers = values.dtype.kind in "if" and values.ndim <= (name != "rescale_factor") and values.size
    with np.errstate(over="ignore"):
        single = np.abs(values.astype(np.float32)) if numbers else values
    if (
        not numbers
        or not np.isfinite(single).all()
        or (name != "image_mean" and (values <= 0).any() | (single == 0).any())
    ):
        kind = "a number" if name == "image_mean" else "a positive number"
        many = "" if name == "rescale_factor" else ", or one for each channel"
        raise ValueError(f"{name} is {value!r:.80}; it must be {kind}{many}.")
    return values.tolist()


def _checked_target(size: dict[str, int], height: int, width: int) -> tuple[int, int]:
    """`_target`; ValueError for more pixels than a model is ever given."""
    target = _target(size, height, width)
    if target[0] * target[1] > MOST_PIXELS:
        raise ValueError(
            f"An image of {height} × {width} pixels would become {target[0]} × {target[1]} by size {size}; it must "
            f"stay within {MOST_PIXELS} pixels: choose a smaller size, or cut the image."
        )
    return target


def _target(size: dict[str, int], height: int, width: int) -> tuple[int, int]:
    """Height and width after resizing; all roundings are transformers'."""
    if "height" in size:
        return size["height"], size["width"]
    if "max_height" in size:
        scale = min(size["max_height"] / height, size["max_width"] / width)
        return int(height * scale), int(width * scale)
    short, long = sorted((height, width))
    edge: float = size["shortest_edge"]
    if "longest_edge" in size and long / short * edge > size["longest_edge"]:
        edge = size["longest_edge"] * short / long
    if round(edge) == short:
        return height, width
    target = round(edge), int(edge * long / short)
    return target if height <= width else target[::-1]


def _opened(path: str | Path, pillow: ModuleType) -> Image.Image:
    """Read an image file; ValueError for more pixels than Pillow's limit, OSError for what is not a raster image."""
    if "://" in str(path) or str(path).startswith("data:"):
        raise ValueError(f"{str(path)[:80]} is an address, and nothing is downloaded here; save it as a file first.")
    try:
        pillow.init()
        with pillow.open(path, formats=[name for name in RASTER if name in pillow.ID]) as image:
            if pillow.MAX_IMAGE_PIXELS and image.width * image.height > pillow.MAX_IMAGE_PIXELS:
                raise pillow.DecompressionBombError
            image.load()
            return _upright(image)
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        limit = "Pillow's limit against decompression bombs, PIL.Image.MAX_IMAGE_PIXELS"
        raise ValueError(f"{path} has more pixels than {limit}.") from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no file {path}.") from error
    except Exception as error:  # what decoders raise on damaged data is not limited to a list of types
        size = f" ({os.path.getsize(path)} bytes)" if os.path.isfile(path) else ""
        raise OSError(f"{str(path)[:300]}{size} cannot be read as an image: {str(error)[:300]}.") from error


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF orientation asks, once: the turned image asks for nothing."""
    from PIL import ImageOps

    return ImageOps.exif_transpose(image) if image.getexif().get(0x0112, 1) != 1 else image


def _converted(image: Image.Image, channels: int | None, name: str, pillow: ModuleType) -> Image.Image:
    """Bring a PIL image to 8 bits and to `channels`; None keeps L, RGB and RGBA and makes one of them of the rest."""
    if 0 in image.size:
        raise ValueError(f"{name} has no pixels: its size is {image.size}.")
    if channels not in (*MODES, None):
        raise ValueError(f"{name} cannot have the {channels} channels of image_mean; give an array instead.")
    if getattr(image, "format", None) not in (*RASTER, None):
        raise OSError(f"{name} is {image.format}, which is not opened here; save it as a PNG first.")
    try:
        image.load()
        image = _upright(image)
        image = image.convert(BY_WAY_OF[image.mode]) if image.mode in BY_WAY_OF else image
    except Exception as error:
        raise OSError(f"{name} cannot be read: {error}.") from error
    if image.mode.startswith("I;16"):
        image = pillow.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        levels = np.asarray(image)
        if not np.array_equal(levels, np.clip(np.round(levels), 0, 255)):
            raise ValueError(
                f"{name} has Pillow's mode {image.mode} and pixels from {levels.min():g} to {levels.max():g}, but "
                "nothing says what is black and what is white; scale them to 0 to 255 and convert them to mode L."
            )
        image = pillow.fromarray(levels.astype(np.uint8))
    clear = image.has_transparency_data
    mode = MODES[channels] if channels else "RGBA" if clear else "L" if image.mode in ("1", "L") else "RGB"
    if clear and mode != "RGBA":
        image = image.convert("RGBA")
        image = pillow.alpha_composite(pillow.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def _checked(image: Any, name: str, data_format: str | None, channels: int | None) -> np.ndarray:
    """Take in an array or tensor, shape (H, W, C) whatever it was; bool becomes 0 and 255.

    `channels` are expected, which says where they stand unless `data_format` does.
    """
    if "torch" in sys.modules and isinstance(image, sys.modules["torch"].Tensor):
        image = as_array(image)
    if not isinstance(image, np.ndarray) or image.dtype.kind not in "buif":
        kind = f"an array of {image.dtype}" if isinstance(image, np.ndarray) else f"a {type(image).__name__}"
        raise TypeError(f"{name} is {kind}; give a PIL image, the path of a file, or an array or tensor of numbers.")
    if 0 in image.shape or image.ndim not in (2, 3):
        raise ValueError(f"{name} has the shape {image.shape}; an image has a height, a width and channels.")
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ValueError(f"{name} holds NaN or infinite pixels.")
    image = image.astype(np.uint8) * np.uint8(255) if image.dtype == bool else image
    if image.ndim == 2:
        return image[..., None]
    if data_format is None:
        first, last = image.shape[0] == channels, image.shape[2] == channels
        if first is last:
            first, last = image.shape[0] in MODES, image.shape[2] in MODES
        if not first and not last:
            raise ValueError(
                f"{name} has the shape {image.shape}, where neither the first nor the last number is 1, 3 or 4 "
                "channels; if it has another number of channels, pass input_data_format."
            )
        if first and last:
            warn_once(f"An image of shape {image.shape} is taken as {FIRST}; pass input_data_format to be sure.")
        data_format = FIRST if first else LAST
    return np.moveaxis(image, 0, -1) if data_format == FIRST else image


def _rgb(pixels: np.ndarray, name: str) -> np.ndarray:
    """Make three channels of one, three or four; what is transparent lies on white."""
    count = pixels.shape[-1]
    if count not in MODES:
        raise ValueError(f"{name} has {count} channels, and only 1, 3 and 4 can become RGB.")
    if count < 4:
        return np.repeat(pixels, 3 // count, axis=-1)
    floating = pixels.dtype.kind == "f"
    white = 1 if floating else 255
    if pixels.min() < 0 or pixels.max() > white:
        raise ValueError(f"{name} has pixels outside 0 to {white}, so that its fourth channel is not transparency.")
    alpha = pixels[..., 3:] / white
    blend = alpha * pixels[..., :3] + (1 - alpha) * white
    return (blend if floating else np.round(blend)).astype(pixels.dtype)


def _array(picture: Picture) -> np.ndarray:
    pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def as_pillow(pixels: np.ndarray) -> Image.Image:
    """Make a PIL image of an array (H, W, C) of one or three channels."""
    return _bands(pixels)[1][0]


def _bands(pixels: np.ndarray) -> tuple[bool, list[Image.Image]]:
    """Make what is resized of (H, W, C), and say whether its bytes stand for 0 to 1, not 0 to 255.

    That is one PIL image of grey or RGB, or one of each channel: Pillow multiplies the others of four by the last.
    """
    low, high = pixels.min(), pixels.max()
    unit = pixels.dtype.kind == "f" and not np.allclose(pixels, np.trunc(pixels))
    if low < 0 or high > (1 if unit else 255):
        raise ValueError(
            f"An image has pixels from {low:g} to {high:g}; what is resized must be whole numbers from 0 to 255 or "
            "numbers from 0 to 1: scale it to one of these, from its black to its white, or pass do_resize=False."
        )
    levels = ((pixels.astype(np.float64) * 255).astype(np.float32) if unit else pixels).astype(np.uint8)
    whole = [levels] if levels.shape[-1] == 3 else np.moveaxis(levels, -1, 0)
    return unit, [_pillow().fromarray(np.ascontiguousarray(band)) for band in whole]


def _cropped(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut the middle out of (H, W, C), with zeros where the image does not reach."""
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    inside = pixels[max(top, 0) : top + height, max(left, 0) : left + width]
    crop = np.zeros((height, width, pixels.shape[2]), pixels.dtype)
    crop[max(-top, 0) :, max(-left, 0) :][: inside.shape[0], : inside.shape[1]] = inside
    return crop
