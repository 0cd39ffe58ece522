"""From what a training is told to a run that is ready."""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from captioner.annotations import ClassNames
from captioner.contract import ModelLoadError
from captioner.decoders import DECODERS, DecoderConfig, language_model_from_pretrained
from captioner.encoders import Encoder, thaw
from captioner.encoders.from_name import encoder_from_name
from captioner.evaluation.annotation_counts import require_torchmetrics
from captioner.heads import (
    HeadsConfig,
)
from captioner.huggingface.files import cannot_load, local_folder
from captioner.model import CaptionModel, ModelConfig, check_name
from captioner.scenes import scene_count
from captioner.tokenizer import CaptionTokenizer
from captioner.training.checks import check_decoder, check_fusion, check_rest, check_tasks
from captioner.training.from_examples import ExampleMaterial
from captioner.training.from_scenes import SceneMaterial
from captioner.training.heads import heads_config
from captioner.training.images import check
from captioner.training.learned import LEARNED, learned_from
from captioner.training.loop import import_accelerate
from captioner.training.material import Material
from captioner.training.options import LANGUAGE_MODEL, WORDS, TrainingOptions
from captioner.training.run import TrainingRun
from captioner.training.sources import (
    DataError,
    Example,
    audited_images,
)
from captioner.training.splitting import hash_of, split
from captioner.training.start import Start, start_from
from captioner.training.tasks import let_rest
from schemas.uris import redact

logger = logging.getLogger(__name__)

BAD_IMAGES, FEATURES = "bad_images.txt", "features"
_OF_START = (
    *("encoder", "image_size", "decoder", "decoder_settings", "languages"),
    *("words", "vocabulary_size", "punctuation", "gate"),
)
"""What the model to start from decides."""
_NOT_OF_SCENES = (
    *WORDS,
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
    check_tasks(options)
    import_accelerate()
    if options.tasks:
        require_torchmetrics()
    torch.manual_seed(options.config.seed)
    start = _start(options)
    if start is None:
        encoder = encoder_from_name(options.encoder, options.image_size)
        check_decoder(options)
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
        settings["data_hash"] = hash_of(used)
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
        check_rest(options, heads, None)
        model = _model(options, encoder, material.tokenizer, heads)
    else:
        heads = start.heads(heads, options.mask_width)
        check_rest(options, heads, start.model.config.heads)
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
    training, validation = split(options, start)
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
    check_fusion(options, start.model.config.decoder)
    return start


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
