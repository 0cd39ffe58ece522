"""Heads: what else an encoder can learn to tell of a picture: classes, objects, masks."""

from captioner.heads.classifier import AttentionClassifier, Classified
from captioner.heads.config import (
    ClassifierConfig,
    DetectorConfig,
    HeadsConfig,
    SegmenterConfig,
)
from captioner.heads.detector import AttentionDetector, Detected, Found
from captioner.heads.heads import HEADS, HeadOutputs, Heads
from captioner.heads.segmenter import AttentionSegmenter, Segmented
from captioner.heads.targets import HeadTargets

__all__ = [
    "HEADS",
    "AttentionClassifier",
    "AttentionDetector",
    "AttentionSegmenter",
    "Classified",
    "ClassifierConfig",
    "Detected",
    "DetectorConfig",
    "Found",
    "HeadOutputs",
    "HeadTargets",
    "Heads",
    "HeadsConfig",
    "Segmented",
    "SegmenterConfig",
]
