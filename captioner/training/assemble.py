"""From what a training is told to a run that is ready."""

import hashlib
import json
import logging
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from captioner.annotations import ClassNames
from captioner.contract import ModelLoadError
from captioner.decoders import DECODERS, DecoderConfig, language_model_from_pretrained
from captioner.encoders import Encoder, thaw
from captioner.encoders.from_name import encoder_from_name
from captioner.evaluation.annotation_counts import require_torchmetrics
from captioner.evaluation.annotations import BACKGROUND
from captioner.heads import (
    HEADS,
    ClassifierConfig,
    DetectorConfig,
    HeadsConfig,
    SegmenterConfig,
)
from captioner.huggingface.files import cannot_load, local_folder
from captioner.model import CaptionModel, ModelConfig, check_name
from captioner.scenes import scene_count
from captioner.tokenizer import CaptionTokenizer, words
from captioner.training.from_examples import ExampleMaterial
from captioner.training.from_scenes import SceneMaterial
from captioner.training.images import check
from captioner.training.learned import LEARNED, learned_from
from captioner.training.loop import import_accelerate
from captioner.training.material import Material
from captioner.training.options import TrainingOptions
from captioner.training.run import TrainingRun
from captioner.training.sources import (
    DataError,
    Example,
    audited_images,
    join_annotations,
    read_examples,
    splits_of,
)
from captioner.training.start import Start, start_from
from captioner.training.tasks import CAPTIONS, let_rest
from schemas.uris import redact

logger = logging.getLogger(__name__)

LANGUAGE_MODEL = "lm:"
BAD_IMAGES, FEATURES = "bad_images.txt", "features"
_HELD_BACK, _MOST_HELD_BACK = 0.05, 1000
_ANY_SIZE = 100
_WORDS = ("words", "vocabulary_size", "min_frequency", "punctuation")
_OF_START = (
    *("encoder", "image_size", "decoder", "decoder_settings", "languages"),
    *("words", "vocabulary_size", "punctuation", "gate"),
)
"""What the model to start from decides."""
_NOT_OF_SCENES = (
    *_WORDS,
    "images",
    "annotations",
    "validation",
    "validation_annotations",
    "max_tokens",
    "augment",
    "views",
)


def assemble(options: TrainingOptions) -> TrainingRun:
    """Read the data, build the model, and prepare the run, or take it up where it was left.

    Raises:
        DataError: if there is nothing to train on.
        ModelLoadError: if an encoder or a language model cannot be loaded.
        StateError: if the output holds another training.
        ValueError: if options do not fit together.
    """
    check_name(options.name)
    _check_tasks(options)
    import_accelerate()
    if options.tasks:
        require_torchmetrics()
    torch.manual_seed(options.config.seed)
    start = _start(options)
    if start is None:
        encoder = encoder_from_name(options.encoder, options.image_size)
        _check_decoder(options)
    else:
        encoder = start.model.encoder
    thaw(encoder, options.config.thaw)
    output = Path(options.output)
    settings = options.settings()
    if start is not None:
        settings = {name: value for name, value in settings.items() if name not in _OF_START}
        settings["start_from"] = start.model_id
    material: Material
    learned, bad = None, None
    if (count := scene_count(options.data)) is not None:
        material = _scenes(options, count, start)
        learned = start.learned if start is not None else None
    else:
        material, bad = _examples(options, output, start)
        used = [*material.examples, *material.validation]
        settings["data_hash"] = _hash(used)
        learned = learned_from(used, None if start is None else start.learned)
    if learned is not None:
        settings["reviews"] = learned.version
        logger.info(
            "reviews %s: %d captions of %d images",
            *(learned.version, learned.captions, len(learned.images)),
        )
    heads = heads_config(
        *(options.tasks, material.classes, encoder),
        gate=options.gate,
        mask_width=options.mask_width,
    )
    if start is None:
        _check_rest(options, heads, None)
        model = _model(options, encoder, material.tokenizer, heads)
    else:
        heads = start.heads(heads, options.mask_width)
        _check_rest(options, heads, start.model.config.heads)
        model = start.build(options.name, material.tokenizer, heads)
    thaw(model.encoder, options.config.thaw)
    let_rest(model, options.task_config)
    run = TrainingRun(
        model,
        material,
        options.config,
        output=output,
        settings=settings,
        learned=learned,
        device=options.device,
    )
    # Last: what is refused above leaves the folder, which may be another training's, as it was.
    if learned is not None:
        (output / LEARNED).write_bytes(learned.to_bytes())
    if bad is not None:
        _list_bad(output / BAD_IMAGES, bad)
    return run


def _scenes(options: TrainingOptions, count: int, start: Start | None) -> SceneMaterial:
    default = TrainingOptions(data="", output="")
    for name in _NOT_OF_SCENES:
        if (value := getattr(options, name)) != getattr(default, name):
            raise ValueError(f"{name} is {value!r}, but drawn scenes know no {name}; leave it out")
    if options.decoder.startswith(LANGUAGE_MODEL) or options.encoder.startswith("regions:"):
        raise ValueError(
            f"drawn scenes have words of their own, and are seen as a grid; {options.decoder} "
            f"with {options.encoder} is for images with captions"
        )
    languages = options.languages if start is None else start.tokenizer.languages
    material = SceneMaterial(
        count,
        options.config,
        languages=languages or ("en",),
        tasks=options.task_config,
        workers=options.threads,
    )
    if start is not None and start.tokenizer.to_json() != material.tokenizer.to_json():
        raise ValueError(
            f"the words of {start.model_id} are not those of drawn scenes in "
            f"{' and '.join(material.languages)}; start from a model that was trained on scenes"
        )
    if start is not None:
        _check_classes_of_scenes(options.tasks, start, material.classes)
    return material


def _check_classes_of_scenes(tasks: Sequence[str], start: Start, classes: ClassNames) -> None:
    """Check that heads number classes as the targets of scenes do."""
    for name in tasks:
        own = getattr(start.model.config.heads, name, None)
        if own is not None and own.classes != getattr(classes, name):
            raise ValueError(
                f"the {name} of {start.model_id} are not those of drawn scenes; leave them out of "
                "the tasks, or start from a model that was trained on scenes"
            )


def _list_bad(path: Path, bad: Mapping[str, str]) -> None:
    """Write down which images are left out, and why."""
    lines = (f"{uri}\t{message}\n" for uri, message in bad.items())
    path.write_text("".join(lines), encoding="utf-8")
    if bad:
        logger.warning(
            "images that cannot be used and are left out: %d; %s says which, and why",
            *(len(bad), path),
        )


def _examples(
    options: TrainingOptions, output: Path, start: Start | None
) -> tuple[ExampleMaterial, dict[str, str]]:
    """Return what is learned from, and by uri what is wrong with images that cannot be used."""
    if options.languages:
        raise ValueError("languages are given, but they are for scenes; leave them out")
    training, validation = _split(options, start)
    named = {options.data, options.validation or options.data}
    spared = frozenset[str]().union(*map(audited_images, named))
    good, bad = check(training, threads=options.threads, spared=spared)
    scored, unscored = check(validation, threads=options.threads, spared=spared)
    for which, usable, problems in (("train", good, bad), ("score", scored, unscored)):
        if not usable:
            raise DataError(
                f"none of the {len(problems):,} images to {which} on can be used; the first: "
                f"{next(iter(problems.values()))}"
            )
    if not any(example.captions for example in scored):
        raise DataError("no image to score on has a caption; name a --validation that has some")
    if not any(example.captions for example in good):
        raise DataError("no image to train on has a caption; name data that has some")
    if options.tasks and not any(example.annotated for example in scored):
        logger.warning(
            "no image to score on has labels, boxes or masks: only its captions are scored"
        )
    material = ExampleMaterial(
        good,
        scored,
        _tokenizer(options, good, start),
        options.config,
        cache=output / FEATURES,
        augment=options.augment,
        views=options.views,
        max_tokens=options.max_tokens,
        tasks=options.task_config if options.tasks else None,
        threads=options.threads,
    )
    return material, bad | unscored


def _split(options: TrainingOptions, start: Start | None) -> tuple[list[Example], list[Example]]:
    """Return what to train on, and what to score on."""
    splits = splits_of(options.data)
    training = _read(options, splits.get("train", options.data))
    elsewhere = options.validation or splits.get("validation")
    if elsewhere is not None:
        validation = _read_validation(options, elsewhere)
        known = {example.uri for example in training}
        both = [example.uri for example in validation if example.uri in known]
        if both:
            raise DataError(
                f"{len(both)} images are to be trained on and scored on, such as {both[0]}; "
                "take them out of one of the two"
            )
    elif options.validation_annotations is not None:
        raise ValueError(
            "validation_annotations are given, but images to score on are held back from the "
            "data; name their validation, too"
        )
    else:
        learned = start.learned.images if start is not None and start.learned else ()
        training, validation = _hold_back(training, options.config.seed, frozenset(learned))
    return training, _with_words(validation)


def _read(options: TrainingOptions, data: str) -> list[Example]:
    """Read what is to be learned from, annotations included where there are tasks."""
    annotated = bool(options.tasks)
    examples = read_examples(data, options.images, annotated=annotated, spare_audit=True)
    if options.annotations is not None:
        others = read_examples(options.annotations, options.images, annotated=True)
        examples = join_annotations(examples, others)
    return examples


def _read_validation(options: TrainingOptions, data: str) -> list[Example]:
    examples = _read_near(data, options.images, annotated=bool(options.tasks))
    if options.validation_annotations is not None:
        others = _read_near(options.validation_annotations, options.images, annotated=True)
        examples = join_annotations(examples, others)
    return examples


def _read_near(data: str, images: str | None, *, annotated: bool) -> list[Example]:
    """Read it with images at their usual place, or else where the others lie."""
    try:
        return read_examples(data, annotated=annotated, spare_audit=True)
    except DataError:
        if images is None:
            raise
        return read_examples(data, images, annotated=annotated, spare_audit=True)


def _hold_back(
    examples: Sequence[Example], seed: int, learned: Collection[str]
) -> tuple[list[Example], list[Example]]:
    """Hold some back, of those that the model to start from has not learned from if there are."""
    if len(examples) < 2:
        raise DataError("there is one image; give at least two: one is held back to score on")
    count = min(_MOST_HELD_BACK, max(1, round(_HELD_BACK * len(examples))))
    order = np.random.default_rng(seed).permutation(len(examples)).tolist()
    order.sort(key=lambda number: examples[number].image_id in learned)
    # One of those with captions at least: without any nothing can be scored.
    first = next((number for number in order if examples[number].captions), order[0])
    held = set(sorted(order, key=lambda number: number != first)[:count])
    logger.info("%d of %d images are held back to score on", count, len(examples))
    if known := sum(examples[number].image_id in learned for number in held):
        logger.warning(
            "the model to start from has learned from %d of these: scores are too good", known
        )
    return (
        [example for number, example in enumerate(examples) if number not in held],
        [example for number, example in enumerate(examples) if number in held],
    )


def _with_words(examples: Sequence[Example]) -> list[Example]:
    """Leave out captions without a word: nothing can be held against them."""
    spoken = [
        replace(example, captions=tuple(filter(words, example.captions))) for example in examples
    ]
    kept = [example for example in spoken if example.captions or example.annotated]
    if not any(example.captions for example in kept):
        raise DataError("no image to score on has a caption with a word in it")
    return kept


def _hash(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        about: list[object] = [example.uri, example.captions]
        if example.annotated:
            about += [example.annotations and asdict(example.annotations)]
            about += [example.mask_file and asdict(example.mask_file)]
        digest.update(json.dumps(about).encode())
    return digest.hexdigest()[:16]


def _tokenizer(
    options: TrainingOptions, examples: Sequence[Example], start: Start | None
) -> CaptionTokenizer:
    captions = (caption for example in examples for caption in example.captions)
    if start is not None and not options.task_config.caption_weight:
        return start.tokenizer  # New words that nobody learns would change what is said.
    if start is not None:
        return start.words_with(captions, options.min_frequency)
    if options.decoder.startswith(LANGUAGE_MODEL):
        return _adopted(options.decoder.removeprefix(LANGUAGE_MODEL))
    return CaptionTokenizer.train(
        captions,
        options.words,
        vocabulary_size=options.vocabulary_size,
        min_frequency=options.min_frequency,
        punctuation=options.punctuation,
    )


def _adopted(name: str) -> CaptionTokenizer:
    """Take over the words of a pretrained language model."""
    with tempfile.TemporaryDirectory() as temporary:
        path = local_folder(name, Path(temporary)) / "tokenizer.json"
        try:
            return CaptionTokenizer.adopt(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelLoadError(cannot_load(name, f"tokenizer.json: {error}")) from error


def _start(options: TrainingOptions) -> Start | None:
    """Load the model to start from, if one is named, and refuse options that it decides."""
    if options.start_from is None:
        return None
    default = TrainingOptions(data="", output="")
    for name in _OF_START:
        if (value := getattr(options, name)) != getattr(default, name):
            raise ValueError(
                f"{name} is {value!r}, but {redact(options.start_from)} brings its own; leave "
                "it out"
            )
    start = start_from(options.start_from)
    _check_fusion(options, start.model.config.decoder)
    return start


def _check_decoder(options: TrainingOptions) -> None:
    """Check what was asked of the decoder, before time is spent on the data."""
    given = set(options.decoder_settings)
    if options.decoder.startswith(LANGUAGE_MODEL):
        default = TrainingOptions(data="", output="")
        given |= {name for name in _WORDS if getattr(options, name) != getattr(default, name)}
        if given:
            raise ValueError(f"{min(given)} is given, but {options.decoder} brings its own")
        return
    if options.decoder not in ("lstm", "transformer"):
        raise ValueError(f"decoder is {options.decoder!r}; use lstm, transformer or lm:NAME")
    kind, _ = DECODERS[options.decoder]
    if wrong := given - {field.name for field in fields(kind)}:
        raise ValueError(f"{min(wrong)} is not for a decoder of the kind {options.decoder}")
    _check_fusion(options, kind(vocabulary_size=_ANY_SIZE, **options.decoder_settings))


def _check_fusion(options: TrainingOptions, decoder: DecoderConfig) -> None:
    fusion = getattr(decoder, "fusion", "attention")
    if fusion != "attention" and options.config.doubly_stochastic:
        raise ValueError(
            f"doubly_stochastic is {options.config.doubly_stochastic}, but with {fusion} fusion "
            "there is no attention; leave it out"
        )


def _check_tasks(options: TrainingOptions) -> None:
    if unknown := set(options.tasks) - set(HEADS):
        raise ValueError(f"tasks holds {min(unknown)!r}; use some of {', '.join(HEADS)}")
    default = TrainingOptions(data="", output="")
    for name in ("gate", "mask_width", "annotations", "validation_annotations"):
        if not options.tasks and (value := getattr(options, name)) != getattr(default, name):
            raise ValueError(f"{name} is {value!r}, but there are no tasks; name some")
    for name, value in asdict(options.task_config).items():
        if not options.tasks and value != getattr(default.task_config, name):
            raise ValueError(f"{name} is {value!r}, but there are no tasks; name some")
    for task, name in (("labels", "label"), ("boxes", "box"), ("masks", "mask")):
        weight = options.task_config.weights[task]
        if task not in options.tasks and weight != default.task_config.weights[task]:
            raise ValueError(f"{name}_weight is {weight}, but {task} are none of the tasks")
    if "masks" not in options.tasks and options.mask_width is not None:
        raise ValueError(f"mask_width is {options.mask_width}, but masks are none of the tasks")
    if not any(options.task_config.weights[task] for task in (CAPTIONS, *options.tasks)):
        raise ValueError("all weights of captions and tasks are 0; give one that is to be learned")
    if options.task_config.turns == "alternating" and options.config.accumulate > 1:
        raise ValueError(
            f"turns is alternating, but accumulate is {options.config.accumulate}, which would add "
            "up gradients of several tasks; use 1, or turns joint"
        )
    if options.task_config.turns == options.config.schedule == "alternating":
        raise ValueError(
            "turns and schedule are both alternating: of some tasks the encoder would never learn; "
            "use joint for one of them"
        )


def _check_rest(
    options: TrainingOptions, heads: HeadsConfig | None, known: HeadsConfig | None
) -> None:
    """Check that a head which is not to be learned is one that the model to start from has."""
    for task in options.tasks:
        if not options.task_config.weights[task] and (
            known is None or getattr(heads, task) != getattr(known, task)
        ):
            raise ValueError(
                f"{task} count 0, but would begin from nothing and never be learned; give them a "
                "weight, or leave them out of the tasks"
            )


def heads_config(
    tasks: Collection[str],
    classes: ClassNames,
    encoder: Encoder,
    *,
    gate: bool = True,
    mask_width: int | None = None,
) -> HeadsConfig | None:
    """Return the heads for some tasks, as they suit an encoder; None without tasks.

    Args:
        tasks: some of ``HEADS``.
        classes: of each.
        encoder: what they are put on.
        gate: whether features pass through learned maps of attention.
        mask_width: channels of the finest map of masks; the configuration's own if None.

    Raises:
        DataError: if there are no classes for a task.
    """
    if not tasks:
        return None
    for task in tasks:
        if not getattr(classes, task):
            raise DataError(
                f"the data has no {task} in any of its images; leave {task} out of the tasks, or "
                "name data that has some"
            )
    if BACKGROUND in classes.masks and "masks" in tasks:
        raise DataError(
            f"a class of masks is called {BACKGROUND!r}, as pixels of no class are; rename it, or "
            "leave it out"
        )
    # Small objects are told apart on a map that is finer than the grid.
    finer = min(1, len(encoder.finer))
    width = {} if mask_width is None else {"width": mask_width}
    return HeadsConfig(
        labels=ClassifierConfig(classes=classes.labels, attention="gate" if gate else "none")
        if "labels" in tasks
        else None,
        boxes=DetectorConfig(classes=classes.boxes, gate=gate, finer=finer)
        if "boxes" in tasks
        else None,
        masks=SegmenterConfig(classes=classes.masks, gate=gate, **width)
        if "masks" in tasks
        else None,
    )


def _model(
    options: TrainingOptions,
    encoder: Encoder,
    tokenizer: CaptionTokenizer,
    heads: HeadsConfig | None,
) -> CaptionModel:
    weights: dict[str, Tensor] = {}
    if options.decoder.startswith(LANGUAGE_MODEL):
        name = options.decoder.removeprefix(LANGUAGE_MODEL)
        decoder: DecoderConfig
        decoder, weights = language_model_from_pretrained(name, len(tokenizer))
    else:
        kind, _ = DECODERS[options.decoder]
        decoder = kind(vocabulary_size=len(tokenizer), **options.decoder_settings)
    model = CaptionModel(
        ModelConfig(name=options.name, encoder=encoder.config, decoder=decoder, heads=heads)
    )
    model.encoder.load_state_dict(encoder.state_dict())
    model.decoder.load_state_dict({**model.decoder.state_dict(), **weights})
    return model
