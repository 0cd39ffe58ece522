"""A synthetic world with exact truth: sampler, renderer, grammar and judge."""

from captioner.scenes.combinations import HELD_OUT, samples_with, samples_without
from captioner.scenes.folder import write_folder
from captioner.scenes.grammar import Facts, Judgement, captions, judge, parse
from captioner.scenes.renderer import IMAGE_SIZE, render
from captioner.scenes.sampler import TEST, TRAINING, VALIDATION, sample, samples, scene_count
from captioner.scenes.world import Relation, Scene, SceneObject

__all__ = [
    "HELD_OUT",
    "IMAGE_SIZE",
    "TEST",
    "TRAINING",
    "VALIDATION",
    "Facts",
    "Judgement",
    "Relation",
    "Scene",
    "SceneObject",
    "captions",
    "judge",
    "parse",
    "render",
    "sample",
    "samples",
    "samples_with",
    "samples_without",
    "scene_count",
    "write_folder",
]
