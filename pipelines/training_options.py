"""The command line of `captioner train`, `captioner evaluate` and `captioner statistics`."""

import argparse
from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_args

from captioner.heads import HEADS
from captioner.training.augment import AugmentConfig
from captioner.training.config import Precision, Schedule, TrainingConfig
from captioner.training.tasks import TaskConfig, Turns, Weighting
from pipelines.arguments import positive

_TRAIN = """\
examples:
  captioner train --data flickr8k --encoder google/mobilenet_v2_1.0_224 --output model
  captioner train --data captions_train2017.json --images train2017 --output model \\
      --encoder facebook/dinov2-small --decoder transformer \\
      --epochs 10 --schedule decoder_first --decoder_epochs 6 --thaw last:4

Run the same command again after a kill or a stop: it goes on, and ends with the same weights.
OUTPUT/best and OUTPUT/last are model folders for captioner annotate --model.
"""

_DATA = (
    "images with captions: a folder with metadata.jsonl or metadata.csv (Hugging Face's "
    "ImageFolder), COCO's captions JSON, Flickr8k.token.txt or captions.txt, an output of "
    "captioner annotate with its reviews, or Parquet with columns uri and caption"
)

DECODER_FIELDS: dict[str, tuple[Any, str, str]] = {
    "fusion": (
        str,
        "KIND",
        "attention, early (the image is the first word) or late (it joins at the output)",
    ),
    "attention": (str, "KIND", "of an LSTM: additive, dot, scaled_dot or multi_head"),
    "embedding_size": (positive, "N", "of an LSTM: numbers a word"),
    "hidden_size": (positive, "N", "of an LSTM: numbers in its memory"),
    "attention_size": (positive, "N", "of an LSTM: numbers in which image and words are compared"),
    "width": (positive, "N", "of a Transformer: numbers a word"),
    "feedforward_size": (positive, "N", "of a Transformer: numbers inside a layer"),
    "heads": (positive, "N", "of multi-head attention"),
    "layers": (positive, "N", "LSTMs or Transformer layers on top of each other"),
    "dropout": (float, "SHARE", "dropped of what layers pass on"),
    "embedding_dropout": (float, "SHARE", "of an LSTM: dropped of the words that it reads"),
    "memory_dropout": (float, "SHARE", "of an LSTM: dropped of the image's features"),
}
"""Flags for the fields of decoders' configurations, whose defaults they have."""


def add_train(commands: Any) -> None:
    """Add the command `train`."""
    train = commands.add_parser(
        "train",
        help="train a captioner on your own images and captions",
        description="Train a captioner with attention on images and captions of your own.",
        epilog=_TRAIN,
    )
    data = train.add_argument_group("data and output")
    data.add_argument("--data", required=True, metavar="URI", help=f"{_DATA}; or scenes:N")
    data.add_argument("--images", metavar="URI", help="where COCO's or Flickr8k's images lie")
    data.add_argument(
        "--validation",
        metavar="URI",
        help="likewise, to score on after each epoch (default: the data's own folder validation, "
        "dev or val; or one image in twenty, held back)",
    )
    data.add_argument("--output", required=True, metavar="DIR", help="a local folder")
    data.add_argument(
        "--name", default="captioner", help="of the model, part of its id (default: %(default)s)"
    )
    data.add_argument(
        "--languages",
        nargs="+",
        default=(),
        metavar="NAME",
        help="of scenes' captions: en, zh, or both; the model's first one first (default: en)",
    )
    _add_model(train)
    _add_tasks(train)
    _add_words(train)
    _add_learning(train)
    _add_augmentation(train)
    machine = train.add_argument_group("machine")
    machine.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu"),
        help="auto takes GPUs; several of them by `accelerate launch -m pipelines.cli train ...` "
        "(default: %(default)s)",
    )
    machine.add_argument(
        "--threads",
        type=positive,
        default=4,
        metavar="N",
        help="that read and decode images (default: %(default)s)",
    )
    train.set_defaults(parser=train)


def _add_model(train: argparse.ArgumentParser) -> None:
    model = train.add_argument_group(
        "model", "Fields of the decoder are, by default, as its configuration has them."
    )
    model.add_argument(
        "--encoder",
        default="grid",
        metavar="NAME",
        help="a vision network of Hugging Face (ResNet, ConvNeXt, MobileNet, ViT, DINOv2, Swin, "
        "CLIP, ...) by name or folder, timm:NAME, regions:NAME (a detector), or grid or vit, "
        "small ones trained from nothing (default: %(default)s)",
    )
    model.add_argument(
        "--image_size",
        type=positive,
        metavar="N",
        help="side of the square pictures that it sees (default: what it was trained on)",
    )
    model.add_argument(
        "--decoder",
        default="lstm",
        metavar="KIND",
        help="lstm, transformer, or lm:NAME, a pretrained language model of GPT-2's kind "
        "(default: %(default)s)",
    )
    model.add_argument(
        "--start_from",
        metavar="MODEL",
        help="a model that captioner train has made, or embedded: its encoder, decoder, words and "
        "the heads named by --tasks are gone on with, and words that it does not know are added",
    )
    for name, (kind, metavar, text) in DECODER_FIELDS.items():
        model.add_argument(
            f"--{name}", type=kind, metavar=metavar, default=argparse.SUPPRESS, help=text
        )
    model.add_argument(
        "--tied",
        action="store_true",
        default=argparse.SUPPRESS,
        help="words are read and said by the same numbers (fewer to learn)",
    )


def _add_tasks(train: argparse.ArgumentParser) -> None:
    tasks = train.add_argument_group(
        "labels, boxes and masks", "learned with the captions, by the same encoder"
    )
    tasks.add_argument(
        "--tasks",
        nargs="+",
        default=(),
        choices=tuple(HEADS),
        help="what the model tells besides captions: labels, boxes, masks (default: nothing)",
    )
    tasks.add_argument(
        "--annotations",
        metavar="URI",
        help="COCO's instances or panoptic JSON, where --data has the captions alone",
    )
    tasks.add_argument(
        "--validation_annotations",
        metavar="URI",
        help="likewise, of the images of --validation",
    )
    tasks.add_argument(
        "--no_gate",
        action="store_true",
        help="leave out the learned maps of attention that features pass through, to compare",
    )
    tasks.add_argument(
        "--mask_width",
        type=int,
        metavar="N",
        help="channels of the finest map of masks: fewer are faster, more follow edges better "
        "(default: 16, or those of --start_from)",
    )
    _add_fields(
        tasks,
        TaskConfig,
        {
            "caption_weight": (float, "W", "of captions; what counts 0 is not learned, but stays"),
            "label_weight": (float, "W", "of labels"),
            "box_weight": (float, "W", "of boxes"),
            "mask_weight": (float, "W", "of masks"),
            "weighting": (
                str,
                "KIND",
                "fixed takes the weights as they are; uncertainty learns what to divide them by",
            ),
            "turns": (
                str,
                "KIND",
                "joint learns all tasks in each step, alternating one after the other",
            ),
        },
    )


def _add_words(train: argparse.ArgumentParser) -> None:
    words = train.add_argument_group("words")
    words.add_argument(
        "--words",
        default="word",
        choices=("word", "byte_pair"),
        help="tokens are words in lower case (Chinese and Japanese: characters), or byte pairs, "
        "which know every word (default: %(default)s)",
    )
    words.add_argument(
        "--vocabulary_size",
        type=positive,
        metavar="N",
        help="most tokens (default: all words, or 8,000 byte pairs)",
    )
    words.add_argument(
        "--min_frequency",
        type=positive,
        default=1,
        metavar="N",
        help="rarer words are unknown (default: %(default)s)",
    )
    words.add_argument(
        "--drop_punctuation", action="store_true", help="as recipes of benchmarks have it"
    )
    words.add_argument(
        "--max_tokens",
        type=positive,
        default=64,
        metavar="N",
        help="longer captions are cut (default: %(default)s)",
    )


_LEARNING: dict[str, tuple[Any, str, str]] = {
    "epochs": (positive, "N", "passes over the images"),
    "batch_size": (positive, "N", "images a step"),
    "captions_per_image": (positive, "N", "captions of each in that step; of scenes always one"),
    "accumulate": (positive, "N", "batches whose gradients are added up before weights change"),
    "learning_rate": (float, "R", "the highest: it rises at first, then falls to nothing"),
    "encoder_learning_rate": (float, "R", "of the encoder, from where it learns on"),
    "schedule": (
        str,
        "KIND",
        "joint: encoder and decoder in one step; alternating: one of them "
        "rests while the other learns, in turn; decoder_first: the encoder rests for "
        "--decoder_epochs",
    ),
    "decoder_epochs": (positive, "N", "of --schedule decoder_first"),
    "weight_decay": (float, "W", "of matrices and kernels"),
    "label_smoothing": (float, "SHARE", "of each target that is spread over all words"),
    "word_noise": (float, "SHARE", "of the words read that those of other captions stand in for"),
    "doubly_stochastic": (
        float,
        "W",
        "weight of the term that asks attention to see all of the picture",
    ),
    "averaging": (float, "SHARE", "of the averaged weights kept at each step; 0 takes the last"),
    "clip": (float, "NORM", "largest norm of the gradient"),
    "patience": (int, "N", "epochs without a better score after which training ends; 0 goes on"),
    "seed": (int, "N", "decides order, captions, augmentation, dropout and first weights"),
}
_CHOICES = {
    "schedule": get_args(Schedule),
    "weighting": get_args(Weighting),
    "turns": get_args(Turns),
}


def _add_learning(train: argparse.ArgumentParser) -> None:
    learning = train.add_argument_group("learning")
    _add_fields(learning, TrainingConfig, _LEARNING)
    learning.add_argument(
        "--thaw",
        metavar="WHAT",
        help="of the encoder learns: none, all, last:N layers, or a regular expression for names "
        "of weights (default: none of a pretrained encoder, all of one from nothing or of a "
        "model to start from)",
    )
    learning.add_argument(
        "--precision",
        choices=get_args(Precision),
        help="of matrix products; weights stay in float32 (default: bfloat16 where the machine is "
        "fast at it)",
    )


def _add_augmentation(train: argparse.ArgumentParser) -> None:
    group = train.add_argument_group("augmentation")
    _add_fields(
        group,
        AugmentConfig,
        {
            "crop_scale": (float, "SHARE", "least share of a picture that a crop keeps; 1 is off"),
            "colour": (float, "SHARE", "by which brightness, contrast and saturation change"),
        },
    )
    group.add_argument(
        "--flip",
        action="store_true",
        help="mirror half of the pictures, and swap left and right in their captions",
    )
    group.add_argument(
        "--views",
        type=int,
        default=1,
        metavar="N",
        help="ways in which a frozen encoder sees each picture, once, kept on disk under the "
        "output; 0 keeps none and encodes each time (default: %(default)s)",
    )


def _add_fields(
    group: argparse._ArgumentGroup, config: type[Any], flags: dict[str, tuple[Any, str, str]]
) -> None:
    """Add flags for fields of a configuration, with its defaults."""
    defaults = {field.name: field.default for field in fields(config)}
    for name, (kind, metavar, text) in flags.items():
        choices = _CHOICES.get(name)
        group.add_argument(
            f"--{name}",
            type=kind,
            choices=choices,
            metavar=None if choices else metavar,
            default=defaults[name],
            help=f"{text} (default: %(default)s)",
        )


def add_evaluate(
    commands: Any,
    add_model: Callable[[argparse.ArgumentParser], argparse._ArgumentGroup],
    add_decoding: Callable[[argparse.ArgumentParser], None],
) -> None:
    """Add the command `evaluate`."""
    evaluate = commands.add_parser(
        "evaluate",
        help="score a model's captions against people's, or of drawn scenes against the truth",
        description="BLEU-1 to 4, ROUGE-L and CIDEr against people's captions, each with a 95% "
        "interval; for scenes:N\nthe share of captions that are true. Lower case, punctuation "
        "dropped, Chinese and Japanese by\ncharacter. METEOR and SPICE need Java and are not "
        "offered. Of a model that was trained with\n--tasks, where the data has them: F1 and mAP "
        "of labels, COCO's mAP of boxes, mIoU of masks.",
    )
    evaluate.add_argument("--data", required=True, metavar="URI", help=f"{_DATA}; or scenes:N")
    evaluate.add_argument("--images", metavar="URI", help="where COCO's or Flickr8k's images lie")
    evaluate.add_argument(
        "--annotations",
        metavar="URI",
        help="COCO's instances or panoptic JSON, where --data has the captions alone",
    )
    evaluate.add_argument(
        "--output",
        metavar="URI",
        help="folder for metrics.json and captions.jsonl (default: only the table is shown)",
    )
    model = add_model(evaluate)
    model.add_argument(
        "--batch_size",
        type=positive,
        default=32,
        metavar="N",
        help="images through the model at once (default: %(default)s)",
    )
    add_decoding(evaluate)
    evaluate.set_defaults(parser=evaluate, draft=False)


def add_statistics(commands: Any) -> None:
    """Add the command `statistics`."""
    statistics = commands.add_parser(
        "statistics",
        help="add statistics of training images to a model that has none",
        description="Look at images that a model was trained on, and keep what its encoder sees of "
        "them in the model's\nfolder, so that captioner annotate can tell how far an image is from "
        "those. captioner train does\nthis by itself. The model's id is another one afterwards.",
    )
    statistics.add_argument(
        "--model", required=True, metavar="DIR", help="a model folder, on any store"
    )
    statistics.add_argument(
        "--data",
        required=True,
        metavar="URI",
        help="images that it was trained on, of which 4,096 are looked at: a folder, an archive or "
        "a list file, on any store; or scenes:N",
    )
    statistics.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="(default: auto)"
    )
    statistics.set_defaults(parser=statistics)
