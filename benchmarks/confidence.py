"""What a confidence head is worth on scenes, where the truth of a caption is exact.

    python benchmarks/confidence.py --weak FOLDER --photographs FOLDER

For each of several seeds, a head is fitted on scenes that are left as they are, noisy, blurred or
partly hidden, and measured on others; then on scenes unlike those it was fitted on. The verifier is
the one in the model's folder. A weak model (see `WEAK`) gets one here, from scenes that nothing
else is measured on, and shows how many captions reviewers must see for 95% of all to be right.
Photographs are no scenes: a threshold that accepts 95% of plain scenes should send them to review.
Figures are the mean over seeds and, in brackets, the least and the most.
"""

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
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
from captioner.confidence.head import (
    ConfidenceHead,
    head_for,
    load_heads,
    load_verifier,
    save_heads,
)
from captioner.confidence.verification import learn
from captioner.decoding import Decoded, Words, decode, evidence, features
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
from captioner.verifier import Verifier

WEAK = (
    "captioner train --data scenes:12800 --epochs 3 --tasks labels boxes masks --encoder grid "
    "--decoder lstm --embedding_size 96 --hidden_size 256 --attention_size 128 --dropout 0.1 "
    "--embedding_dropout 0 --batch_size 64 --captions_per_image 1 --label_smoothing 0 "
    "--learning_rate 2e-3 --encoder_learning_rate 2e-3 --output FOLDER (its folder last)"
)
"""The recipe of the weak model, which is stopped long before it has learned all."""

_STRIDE = 50_000
"""Seeds of scenes between one seed's and the next one's."""
_FITTED = VALIDATION + 100_000
"""The first scene that a head is fitted on; the embedded model's verifier knows earlier ones."""
_VERIFIED = VALIDATION + 500_000
"""The first scene that the weak model's verifier learns from."""
_FAR = 400_000
"""Where the seeds of other kinds of scenes begin, so that no scene is met twice."""
_CHUNK = 250
_PARTS = ("model", "labels", "weak", "cost")
_FEW = (100, 300, 1_000, 4_000)
"""How many labels a verifier and its head learn from, in the part ``labels``."""
_ACCURACY = 0.95


@dataclass(frozen=True)
class Labelled:
    """Captions of which the truth is known: features, whether true, and what was done."""

    rows: list[dict[str, float]]
    correct: npt.NDArray[np.bool_]
    kinds: npt.NDArray[np.str_]
    evidence: list[npt.NDArray[np.float16]]

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
        with_evidence: bring what was known of each word, for a verifier.
    """

    model: str
    first: int
    count: int
    combinations: Combinations = "all"
    change: str = "drawn"
    extras: tuple[str, ...] = ()
    with_evidence: bool = False


def main() -> None:
    """Fit, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--model", default=embedded_path(), help="folder of the checkpoint")
    parser.add_argument("--weak", help=f"folder of a weak model, of this recipe: {WEAK}")
    parser.add_argument("--photographs", type=Path, help="folder of JPEG files that are no scenes")
    parser.add_argument("--seeds", type=int, default=5, help="heads that are fitted")
    parser.add_argument("--labels", type=int, default=4000, help="scenes that each is fitted on")
    parser.add_argument(
        "--weak_labels", type=int, default=24_000, help="scenes that the weak model's verifier sees"
    )
    parser.add_argument("--scenes", type=int, default=10_000, help="that each is measured on")
    parser.add_argument("--features", nargs="*", default=(), help="extra ones for the head")
    parser.add_argument(
        "--parts", nargs="+", choices=_PARTS, default=_PARTS, help="what to measure"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="that caption")
    args = parser.parse_args()
    began = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.processes, context, _one_thread) as pool:
        if "model" in args.parts:
            heads = measure_model(pool, args)
            if args.photographs:
                measure_photographs(pool, args, heads)
        if "labels" in args.parts:
            measure_labels(pool, args)
        if "weak" in args.parts and args.weak:
            measure_weak(pool, args)
    _one_thread()
    if "cost" in args.parts:
        measure_cost(args)
    print(f"- The whole script: {time.perf_counter() - began:.0f} s")
    print(machine())


def measure_model(pool: ProcessPoolExecutor, args: argparse.Namespace) -> list[ConfidenceHead]:
    """Print how heads tell right captions from wrong ones; return them, one a seed."""
    heads, found = [], []
    others: dict[str, list[float]] = {"combinations never seen": [], "other damage": []}
    for seed in range(args.seeds):
        labels = labelled(pool, args, args.model, _FITTED, args.labels, seed)
        head, plainer = fitted(labels, args.model), fitted(labels, args.model, verified=False)
        test = labelled(pool, args, args.model, TEST, args.scenes, seed)
        heads.append(head)
        found.append(figures(test, plainer, head))
        far, count = TEST + _FAR, args.scenes // 5
        unseen = labelled(pool, args, args.model, far, count, seed, combinations="unseen")
        damaged = labelled(pool, args, args.model, far, count, seed, change="other")
        for name, shifted in zip(others, (unseen, damaged), strict=True):
            others[name].append(expected_calibration_error(shifted.after(head), shifted.correct))
    print(f"- Model {heads[0].model_id}, head on {', '.join(heads[0].features)}")
    print(f"- {args.seeds} seeds, {args.labels:,} scenes to fit, {args.scenes:,} to measure\n")
    print("| | mean log-prob | head without verifier | head |\n|---|---|---|---|")
    for name in found[0]:
        columns = np.array([one[name] for one in found]).T
        print(f"| {name} | {' | '.join(map(spread, columns))} |")
    for name, values in others.items():
        print(f"| ECE, {name} ({args.scenes // 5:,} scenes) | | | {spread(values)} |")
    excess = np.array([one["excess AURC"] for one in found]).T
    print(f"\n- Excess AURC changes by {spread(excess[2] / excess[0] - 1, '.1%')}")
    return heads


def figures(test: Labelled, *heads: ConfidenceHead) -> dict[str, tuple[float, ...]]:
    """Return figures of the uncalibrated confidence and of heads, by what they are."""
    scores = (test.before, *map(test.after, heads))
    found = {"true captions": (test.correct.mean(),) * len(scores)}
    parts = {"": np.ones_like(test.correct)}
    parts |= {f", {kind}": test.kinds == kind for kind in np.unique(test.kinds)}
    lengths = np.array([row["num_tokens"] for row in test.rows])
    edges = np.quantile(lengths, (1 / 3, 2 / 3))
    names = (f"to {edges[0]:.0f} tokens", f"to {edges[1]:.0f} tokens", "longer")
    places = np.searchsorted(edges, lengths)
    parts |= {f", {name}": places == place for place, name in enumerate(names)}
    for name, rows in parts.items():
        found[f"AUROC{name}"] = _each(auroc, scores, test.correct, rows)
    found["excess AURC"] = _each(excess_aurc, scores, test.correct, parts[""])
    found["ECE"] = _each(expected_calibration_error, scores, test.correct, parts[""])
    return found


def measure_labels(pool: ProcessPoolExecutor, args: argparse.Namespace) -> None:
    """Print what a verifier and its head are worth that learn from the same few labels."""
    found: dict[int, list[tuple[float, float]]] = {count: [] for count in _FEW}
    for seed in range(args.seeds):
        known = dict(with_evidence=True, seed=seed)
        labels = labelled(pool, args, args.model, _FITTED, max(_FEW), **known)
        test = labelled(pool, args, args.model, TEST, args.scenes // 5, **known)
        words = [torch.from_numpy(one) for one in test.evidence]
        for count, figures in found.items():
            head, verifier = taught(labels, count, args.model)
            verified = Labelled(
                with_logits(test.rows, verifier.logits(words)), test.correct, test.kinds, []
            )
            first = Labelled(labels.rows[:count], labels.correct[:count], labels.kinds[:count], [])
            plainer = fitted(first, args.model, verified=False)
            scores = (test.after(plainer), verified.after(head))
            figures.append(_each(auroc, scores, test.correct, np.ones_like(test.correct)))
    print("\n| labels | AUROC, head without verifier | AUROC, head and verifier |\n|---|---|---|")
    for count, values in found.items():
        print(f"| {count:,} | {' | '.join(map(spread, np.array(values).T))} |")
    print(f"\n- Both learned from the same labels; measured on {args.scenes // 5:,} scenes a seed")


def taught(labels: Labelled, count: int, model: str) -> tuple[ConfidenceHead, Verifier]:
    """Learn verifier and head from the first labels, as `calibrate --verifier` does."""
    captioner = _captioner(model, ())
    ids = {"model_id": captioner.model_id, "decoding": captioner.decoding.id}
    groups = [str(number) for number in range(count)]
    evidence = [torch.from_numpy(words) for words in labels.evidence[:count]]
    correct = labels.correct[:count]
    learned = learn(evidence, correct.tolist(), groups)
    rows = with_logits(labels.rows[:count], learned.logits.tolist())
    head = fit(rows, correct, groups, verifier=learned.verifier.id, **ids).head
    return head, learned.verifier


def with_logits(
    rows: Sequence[dict[str, float]], logits: Sequence[float]
) -> list[dict[str, float]]:
    """Return features with what a verifier says."""
    return [{**row, "verifier_logit": logit} for row, logit in zip(rows, logits, strict=True)]


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
    shares, found = [], []
    with tempfile.TemporaryDirectory() as folder:
        model = with_verifier(pool, args, folder)
        for seed in range(args.seeds):
            labels = labelled(pool, args, model, _FITTED, args.labels, seed, change="plain")
            head, plainer = fitted(labels, model), fitted(labels, model, verified=False)
            test = labelled(pool, args, model, TEST, args.scenes, seed, change="plain")
            found.append(figures(test, plainer, head))
            scores = (test.before, test.after(plainer), test.after(head))
            shares.append([share_reviewed_for(s, test.correct, _ACCURACY) for s in scores])
    accuracies = [one["true captions"][0] for one in found]
    print(f"- Weak model {head.model_id}, plain scenes: {spread(accuracies, '.1%')} true")
    names = ("mean log-prob", "head without verifier", "head")
    for name, values in zip(names, np.array([one["AUROC"] for one in found]).T, strict=True):
        print(f"- Its AUROC, {name}: {spread(values)}")
    told = (
        f"{name} {spread(values, '.1%')}"
        for name, values in zip(names, np.array(shares).T, strict=True)
    )
    print(
        f"- Its share reviewed for {_ACCURACY:.0%} right: {', '.join(told)}, in random order "
        f"{1 - (1 - _ACCURACY) / (1 - fmean(accuracies)):.1%}"
    )


def with_verifier(pool: ProcessPoolExecutor, args: argparse.Namespace, folder: str) -> str:
    """Copy the weak model with a head and a verifier, as `calibrate --verifier` makes them."""
    count = args.weak_labels
    labels = labelled(
        pool, args, args.weak, _VERIFIED, count, 0, change="plain", with_evidence=True
    )
    torch.set_num_threads(args.processes)  # The other processes rest.
    head, verifier = taught(labels, count, args.weak)
    _one_thread()
    model = str(shutil.copytree(args.weak, folder, dirs_exist_ok=True))
    save_heads(model, [head], [verifier])
    return model


def measure_cost(args: argparse.Namespace, count: int = 512, rounds: int = 9) -> None:
    """Print what features, head and the image-information score add to a caption's time."""
    plain, informed = (_captioner(args.model, extras) for extras in ((), ("image_information",)))
    images = [plain.prepare(render(scene)) for scene in SAMPLERS["all"](TEST, count)]
    rows = _caption_scenes(Job(args.model, VALIDATION, 600))
    head = fitted(rows, args.model)
    statistics = FeatureStatistics.parse((Path(args.model) / "statistics.safetensors").read_bytes())
    verifier = load_verifier(args.model, head.verifier) if head.verifier else None
    words = Words(plain.tokenizer.start_of(""), plain.tokenizer.end)
    with torch.inference_mode():
        pixels = torch.from_numpy(np.stack([item.pixels for item in images]))
        memory = plain.model.encode(pixels)
    decoder = plain.model.decoder

    def captioned(keep: bool) -> list[Decoded]:
        return decode(decoder, memory, plain.decoding, words, keep_outputs=keep)

    decoded, shares = captioned(keep=True), []
    for _ in range(rounds):
        all_of_it = _seconds(lambda: plain.caption(images))
        with_information = _seconds(lambda: informed.caption(images))
        added = _seconds(lambda: statistics.distance(memory))
        added += _seconds(lambda: [features(one, words.end) for one in decoded])
        if verifier is not None:
            added += _seconds(lambda: verifier.logits(evidence(decoder, memory, decoded)))
            added += _seconds(lambda: captioned(keep=True))
            added -= _seconds(lambda: captioned(keep=False))
        said = _seconds(lambda: [head.probability(row) for row in rows.rows[:count]])
        alone = all_of_it - added
        shares.append(((added + said) / alone, with_information / all_of_it - 1))
    default, information = np.median(shares, 0)
    print(f"- Default features and head add {default:.1%} to the model's time, one thread")
    print(f"- The image-information score adds {information:.1%} more")


def fitted(labels: Labelled, model: str, *, verified: bool = True) -> ConfidenceHead:
    """Fit a head; with the model's verifier, if it has one and that is wanted."""
    captioner = _captioner(model, ())
    groups = [str(number) for number in range(len(labels.rows))]
    ids = {"model_id": captioner.model_id, "decoding": captioner.decoding.id}
    head = head_for(load_heads(model), **ids)
    verifier = head.verifier if head and verified else None
    return fit(labels.rows, labels.correct, groups, verifier=verifier, **ids).head


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
    with_evidence: bool = False,
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
            with_evidence,
        )
        for start in starts
    ]
    parts = list(pool.map(_caption_scenes, jobs))
    return Labelled(
        [row for part in parts for row in part.rows],
        np.concatenate([part.correct for part in parts]),
        np.concatenate([part.kinds for part in parts]),
        [words for part in parts for words in part.evidence],
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
    correct, kinds, evidence = [], [], []
    while scenes := list(islice(every, 50)):
        changed = [_changed(scene, job.change) for scene in scenes]
        images = [captioner.prepare(image) for image, _ in changed]
        if job.with_evidence:
            captions, known = captioner.caption_with_evidence(images)
            evidence += [words.numpy() for words in known]
        else:
            captions = captioner.caption(images)
        rows += [dict(caption.features) for caption in captions]
        kinds += [kind for _, kind in changed]
        correct += [
            judge(caption.text, scene, None).true
            for caption, scene in zip(captions, scenes, strict=True)
        ]
    return Labelled(rows, np.array(correct, np.bool_), np.array(kinds, np.str_), evidence)


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


def _each(
    measure: Callable[..., float],
    scores: tuple[npt.NDArray[np.float64], ...],
    correct: npt.NDArray[np.bool_],
    rows: npt.NDArray[np.bool_],
) -> tuple[float, ...]:
    return tuple(measure(score[rows], correct[rows]) for score in scores)


def spread(values: Sequence[float] | npt.NDArray[np.float64], form: str = ".3f") -> str:
    """Return the mean, and the least and the most in brackets."""
    return f"{fmean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
