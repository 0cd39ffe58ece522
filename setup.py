"""The project's packages, what they need, and the command ``captioner``."""

from pathlib import Path

from setuptools import setup

STORES = ["gcsfs>=2026.1", "s3fs>=2026.1", "aiohttp>=3.9"]
TEST = [
    "datasets>=4",
    "duckdb>=1.2",
    "gcp-storage-emulator>=2024.8",
    "moto[server]>=5",
    "pandas>=2.2",
    "pytest>=8",
    "pytest-timeout>=2.3",
    "selenium>=4.20",
]
STYLE = ["mypy>=1.15", "ruff>=0.12", "types-PyYAML>=6"]
HUGGINGFACE = ["transformers>=5,<6"]
EVALUATION = ["pycocoevalcap>=1.2,<2", "torchmetrics>=1.9,<2"]
TRAINING = ["accelerate>=1.10,<2", *EVALUATION, *HUGGINGFACE]
TIMM = ["timm>=1,<2", "torchvision", *TRAINING]

setup(
    name="captioner",
    version="0.1.0",
    description="Batch image captioning with attention, calibrated review and Parquet, on Beam",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=[
        "schemas",
        "captioner",
        "captioner.confidence",
        "captioner.decoders",
        "captioner.decoding",
        "captioner.encoders",
        "captioner.evaluation",
        "captioner.heads",
        "captioner.huggingface",
        "captioner.scenes",
        "captioner.training",
        "captioner.training.sources",
        "pipelines",
        "pipelines.doctor",
        "pipelines.labelstudio",
        "pipelines.report",
        "pipelines.storage",
    ],
    package_data={"captioner": ["data/embedded/*"]},
    install_requires=[
        "ImageHash>=4.3,<5",
        "MAPIE>=1.6,<2",
        "PyYAML>=6,<7",
        "apache-beam[gcp]>=2.77,<3",
        "fsspec>=2026.1",
        "httpx>=0.27,<1",
        "label-studio-sdk>=2.1,<3",
        "matplotlib>=3.9,<4",
        "nltk>=3.10,<4",
        "numpy>=2.2,<3",
        "pillow>=12,<13",
        "pyarrow>=20",
        "pycocotools>=2.0.8,<3",
        "rapidfuzz>=3.9,<4",
        "safetensors>=0.5,<1",
        "scikit-learn>=1.7,<2",
        "scipy>=1.14,<2",
        "tokenizers>=0.22",
        "torch>=2.10,<3",
        "tqdm>=4.66,<5",
        *STORES,
    ],
    extras_require={
        "huggingface": HUGGINGFACE,
        "evaluation": EVALUATION,
        "training": TRAINING,
        "timm": TIMM,
        "test": [*TEST, *STYLE, *TRAINING],
        "style": STYLE,
    },
    entry_points={"console_scripts": ["captioner=pipelines.cli:run"]},
)
