"""What a confidence head is worth on scenes, where the truth of a caption is exact.

    python benchmarks/confidence.py --weak FOLDER --photographs FOLDER

For each of several seeds, a head is fitted on scenes that are left as they are, noisy, blurred or
partly hidden, and measured on others; then on scenes unlike those it was fitted on. A weak model
(see `WEAK`) shows how many captions reviewers must see for 95% of all to be right. Photographs are
no scenes: a threshold that accepts 95% of plain scenes should send them to review. Figures are the
mean over seeds and, in brackets, the least and the most.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from statistics import fmean

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageEnhance
from training_runs import machine

from captioner.checkpoint import embedded_path
from captioner.confidence import score
from captioner.confidence.fitting import fit
from captioner.confidence.head import ConfidenceHead
from captioner.decoding import Words, decode, features
from captioner.evaluation.scenes import SAMPLERS, Combinations
from captioner.evaluation.selective import (
    auroc,
    excess_aurc,
    expected_calibration_error,
    share_reviewed_for,
)
from captioner.loading import load
from captioner.model import AttentionCaptioner
from captioner.scenes import TEST, VALIDATION, Scene, judge, render
from captioner.scenes.degrade import Degradation, degrade, draw_degradation
from captioner.statistics import FeatureStatistics

WEAK = (
    "captioner train --data scenes:12800 --epochs 3 --tasks labels boxes masks --encoder grid "
    "--decoder lstm --embedding_size 96 --hidden_size 256 --attention_size 128 --dropout 0.1 "
    "--embedding_dropout 0 --batch_size 64 --captions_per_image 1 --label_smoothing 0 "
    "--learning_rate 2e-3 --encoder_learning_rate 2e-3 --output FOLDER (its folder last)"
)
"""The recipe of the weak model, which is stopped long before it has learned all."""

_STRIDE = 50_000
"""Seeds of scenes between one seed's and the next one's."""
_FAR = 400_000
"""Where the seeds of other kinds of scenes begin, so that no scene is met twice."""
_CHUNK = 250
_ACCURACY = 0.95


@dataclass(frozen=True)
class Labelled:
    """Captions of which the truth is known: features, whether true, and what was done."""

    rows: list[dict[str, float]]
    correct: npt.NDArray[np.bool_]
    kinds: npt.NDArray[np.str_]

    @property
    def before(self) -> npt.NDArray[np.float64]:
        """The uncalibrated confidence: the exponential of the mean log-probability."""
        return np.array([score(row).value for row in self.rows])

    def after(self, head: ConfidenceHead) -> npt.NDArray[np.float64]:
        """What a head says."""
        return np.array([head.probability(row) for row in self.rows])


@dataclass(frozen=True)
class Job:
    """Scenes that one process captions.

    Attributes:
        model: folder.
        first: seed of the first scene.
        count: how many.
        combinations: of colour and shape.
        change: ``drawn`` as calibration draws it, ``plain``, or ``other``: what it never saw.
        extras: features to compute besides.
    """

    model: str
    first: int
    count: int
    combinations: Combinations = "all"
    change: str = "drawn"
    extras: tuple[str, ...] = ()


def main() -> None:
    """Fit, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--model", default=embedded_path(), help="folder of the checkpoint")
    parser.add_argument("--weak", help=f"folder of a weak model, of this recipe: {WEAK}")
    parser.add_argument("--photographs", type=Path, help="folder of JPEG files that are no scenes")
    parser.add_argument("--seeds", type=int, default=5, help="heads that are fitted")
    parser.add_argument("--labels", type=int, default=4000, help="scenes that each is fitted on")
    parser.add_argument("--scenes", type=int, default=10_000, help="that each is measured on")
    parser.add_argument("--features", nargs="*", default=(), help="extra ones for the head")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="that caption")
    args = parser.parse_args()
    began = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.processes, context, _one_thread) as pool:
        heads = measure_model(pool, args)
        if args.photographs:
            measure_photographs(pool, args, heads)
        if args.weak:
            measure_weak(pool, args)
    _one_thread()
    measure_cost(args)
    print(f"- The whole script: {time.perf_counter() - began:.0f} s")
    print(machine())


def measure_model(pool: ProcessPoolExecutor, args: argparse.Namespace) -> list[ConfidenceHead]:
    """Print how heads tell right captions from wrong ones; return them, one a seed."""
    heads, found = [], []
    others: dict[str, list[float]] = {"combinations never seen": [], "other damage": []}
    for seed in range(args.seeds):
        head = fitted(labelled(pool, args, args.model, VALIDATION, args.labels, seed), args.model)
        test = labelled(pool, args, args.model, TEST, args.scenes, seed)
        heads.append(head)
        found.append(figures(test, head))
        far, count = TEST + _FAR, args.scenes // 5
        unseen = labelled(pool, args, args.model, far, count, seed, combinations="unseen")
        damaged = labelled(pool, args, args.model, far, count, seed, change="other")
        for name, shifted in zip(others, (unseen, damaged), strict=True):
            others[name].append(expected_calibration_error(shifted.after(head), shifted.correct))
    print(f"- Model {heads[0].model_id}, head on {', '.join(heads[0].features)}")
    print(f"- {args.seeds} seeds, {args.labels:,} scenes to fit, {args.scenes:,} to measure\n")
    print("| | mean log-prob | head |\n|---|---|---|")
    for name in found[0]:
        pairs = np.array([one[name] for one in found])
        print(f"| {name} | {spread(pairs[:, 0])} | {spread(pairs[:, 1])} |")
    for name, values in others.items():
        print(f"| ECE, {name} ({args.scenes // 5:,} scenes) | | {spread(values)} |")
    excess = np.array([one["excess AURC"] for one in found])
    print(f"\n- Excess AURC changes by {spread(excess[:, 1] / excess[:, 0] - 1, '.1%')}")
    return heads


def figures(test: Labelled, head: ConfidenceHead) -> dict[str, tuple[float, float]]:
    """Return figures of the uncalibrated confidence and of the head, by what they are."""
    scores = (test.before, test.after(head))
    found = {"true captions": (test.correct.mean(),) * 2}
    parts = {"": np.ones_like(test.correct)}
    parts |= {f", {kind}": test.kinds == kind for kind in np.unique(test.kinds)}
    lengths = np.array([row["num_tokens"] for row in test.rows])
    edges = np.quantile(lengths, (1 / 3, 2 / 3))
    names = (f"to {edges[0]:.0f} tokens", f"to {edges[1]:.0f} tokens", "longer")
    places = np.searchsorted(edges, lengths)
    parts |= {f", {name}": places == place for place, name in enumerate(names)}
    for name, rows in parts.items():
        found[f"AUROC{name}"] = _both(auroc, scores, test.correct, rows)
    found["excess AURC"] = _both(excess_aurc, scores, test.correct, parts[""])
    found["ECE"] = _both(expected_calibration_error, scores, test.correct, parts[""])
    return found


def measure_photographs(
    pool: ProcessPoolExecutor, args: argparse.Namespace, heads: Sequence[ConfidenceHead]
) -> None:
    """Print the share of photographs below a threshold that accepts 95% of plain scenes."""
    paths = sorted(str(path) for path in args.photographs.rglob("*.jpg"))
    if not paths:
        sys.exit(f"--photographs {args.photographs} has no .jpg files; name a folder with some")
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    extras = tuple(args.features)
    parts = list(pool.map(_photographs, [args.model] * len(chunks), chunks, [extras] * len(chunks)))
    rows = [row for part in parts for row in part]
    shares: dict[str, list[float]] = {"mean log-prob": [], "head": []}
    for seed, head in enumerate(heads):
        plain = labelled(pool, args, args.model, TEST + 2 * _FAR, 2000, seed, change="plain")
        scores = (
            (plain.before, np.array([score(row).value for row in rows])),
            (plain.after(head), np.array([head.probability(row) for row in rows])),
        )
        for name, (scenes, photographs) in zip(shares, scores, strict=True):
            shares[name].append(float(np.mean(photographs < np.quantile(scenes, 0.05))))
    told = ", ".join(f"{name} {spread(values, '.1%')}" for name, values in shares.items())
    print(f"- {len(rows):,} photographs sent to review where 95% of scenes are accepted: {told}")


def measure_weak(pool: ProcessPoolExecutor, args: argparse.Namespace) -> None:
    """Print what share of a weak model's captions reviewers must see for 95% to be right."""
    shares, accuracies = [], []
    for seed in range(args.seeds):
        labels = labelled(pool, args, args.weak, VALIDATION, args.labels, seed, change="plain")
        head = fitted(labels, args.weak)
        test = labelled(pool, args, args.weak, TEST, args.scenes, seed, change="plain")
        accuracies.append(float(test.correct.mean()))
        shares.append(
            [
                share_reviewed_for(s, test.correct, _ACCURACY)
                for s in (test.before, test.after(head))
            ]
        )
    before, after = np.array(shares).T
    print(f"- Weak model {head.model_id}, plain scenes: {spread(accuracies, '.1%')} true")
    print(
        f"- Its share reviewed for {_ACCURACY:.0%} right: mean log-prob {spread(before, '.1%')}, "
        f"head {spread(after, '.1%')}, in random order "
        f"{1 - (1 - _ACCURACY) / (1 - fmean(accuracies)):.1%}"
    )


def measure_cost(args: argparse.Namespace, count: int = 512, rounds: int = 7) -> None:
    """Print what features, head and the image-information score add to a caption's time."""
    plain, informed = (_captioner(args.model, extras) for extras in ((), ("image_information",)))
    images = [plain.prepare(render(scene)) for scene in SAMPLERS["all"](TEST, count)]
    rows = _caption_scenes(Job(args.model, VALIDATION, 600))
    head = fitted(rows, args.model)
    statistics = FeatureStatistics.parse((Path(args.model) / "statistics.safetensors").read_bytes())
    with torch.inference_mode():
        pixels = torch.from_numpy(np.stack([item.pixels for item in images]))
        memory = plain.model.encode(pixels)
        words = Words(plain.tokenizer.start_of(""), plain.tokenizer.end)
        decoded = decode(plain.model.decoder, memory, plain.decoding, words)
    shares = []
    for _ in range(rounds):
        all_of_it = _seconds(lambda: plain.caption(images))
        with_information = _seconds(lambda: informed.caption(images))
        distance = _seconds(lambda: statistics.distance(memory))
        found = _seconds(lambda: [features(one, words.end) for one in decoded])
        said = _seconds(lambda: [head.probability(row) for row in rows.rows[:count]])
        alone = all_of_it - distance - found
        shares.append(((distance + found + said) / alone, with_information / all_of_it - 1))
    default, information = np.median(shares, 0)
    print(f"- Default features and head add {default:.1%} to the model's time, one thread")
    print(f"- The image-information score adds {information:.1%} more")


def fitted(labels: Labelled, model: str) -> ConfidenceHead:
    """Fit a head."""
    captioner = _captioner(model, ())
    groups = [str(number) for number in range(len(labels.rows))]
    model_id, decoding = captioner.model_id, captioner.decoding.id
    return fit(labels.rows, labels.correct, groups, model_id=model_id, decoding=decoding).head


def labelled(
    pool: ProcessPoolExecutor,
    args: argparse.Namespace,
    model: str,
    first: int,
    count: int,
    seed: int,
    *,
    combinations: Combinations = "all",
    change: str = "drawn",
) -> Labelled:
    """Caption scenes in all processes."""
    starts = range(0, count, _CHUNK)
    jobs = [
        Job(
            model,
            first + seed * _STRIDE + start * _APART[combinations],
            min(_CHUNK, count - start),
            combinations,
            change,
            tuple(args.features),
        )
        for start in starts
    ]
    parts = list(pool.map(_caption_scenes, jobs))
    return Labelled(
        [row for part in parts for row in part.rows],
        np.concatenate([part.correct for part in parts]),
        np.concatenate([part.kinds for part in parts]),
    )


_APART: dict[Combinations, int] = {"all": 1, "seen": 10, "unseen": 20}
"""Seeds between two chunks for each scene in them: samplers leave out scenes of the other kind."""
_loaded: dict[tuple[str, tuple[str, ...]], AttentionCaptioner] = {}


def _captioner(model: str, extras: tuple[str, ...]) -> AttentionCaptioner:
    """Load a model, once a process."""
    if (model, extras) not in _loaded:
        captioner = load(model, "cpu", extras=extras)
        assert isinstance(captioner, AttentionCaptioner)
        _loaded[model, extras] = captioner
    return _loaded[model, extras]


def _one_thread() -> None:
    torch.set_num_threads(1)


def _caption_scenes(job: Job) -> Labelled:
    """Caption scenes and hold each caption against its scene."""
    captioner = _captioner(job.model, job.extras)
    every = SAMPLERS[job.combinations](job.first, job.count)
    rows: list[dict[str, float]] = []
    correct, kinds = [], []
    while scenes := list(islice(every, 50)):
        changed = [_changed(scene, job.change) for scene in scenes]
        captions = captioner.caption([captioner.prepare(image) for image, _ in changed])
        rows += [dict(caption.features) for caption in captions]
        kinds += [kind for _, kind in changed]
        correct += [
            judge(caption.text, scene, None).true
            for caption, scene in zip(captions, scenes, strict=True)
        ]
    return Labelled(rows, np.array(correct, np.bool_), np.array(kinds, np.str_))


def _changed(scene: Scene, change: str) -> tuple[Image.Image, str]:
    """Return the picture of a scene, and what was done to it."""
    image = render(scene)
    if change == "plain":
        return image, "plain"
    if change == "other":
        rng = np.random.default_rng((scene.seed, 7))
        kind = list(_OTHER)[rng.integers(len(_OTHER))]
        return _OTHER[kind](image, float(rng.uniform(0, 1))), kind
    drawn: Degradation = draw_degradation(scene.seed)
    return degrade(image, drawn, scene.seed), drawn.kind


def _compressed(image: Image.Image, strength: float) -> Image.Image:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=round(30 - 28 * strength))
    return Image.open(buffer).convert("RGB")


def _faded(image: Image.Image, strength: float) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(1 - 0.85 * strength)


def _coarse(image: Image.Image, strength: float) -> Image.Image:
    side = round(96 / (1 + 5 * strength))
    return image.resize((side, side), Image.Resampling.BOX).resize(
        image.size, Image.Resampling.NEAREST
    )


_OTHER = {"compressed": _compressed, "faded": _faded, "coarse": _coarse}
"""Damage that no head is fitted on, by a strength from 0 to 1."""


def _photographs(
    model: str, paths: Sequence[str], extras: tuple[str, ...]
) -> list[dict[str, float]]:
    """Return the features of captions of photographs, which are all wrong."""
    captioner = _captioner(model, extras)
    rows = []
    for start in range(0, len(paths), 50):
        images = [Image.open(path).convert("RGB") for path in paths[start : start + 50]]
        captions = captioner.caption([captioner.prepare(image) for image in images])
        rows += [dict(caption.features) for caption in captions]
    return rows


def _both(
    measure: Callable[..., float],
    scores: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]],
    correct: npt.NDArray[np.bool_],
    rows: npt.NDArray[np.bool_],
) -> tuple[float, float]:
    before, after = (measure(score[rows], correct[rows]) for score in scores)
    return before, after


def spread(values: Sequence[float] | npt.NDArray[np.float64], form: str = ".3f") -> str:
    """Return the mean, and the least and the most in brackets."""
    return f"{fmean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
