"""The options of `calibrate` and `rescore`."""

import argparse
from collections.abc import Callable
from typing import Any

from captioner.confidence.calibration import KINDS
from captioner.contract import EXTRAS
from pipelines.arguments import positive


def add_calibrate(
    commands: Any,
    add_model: Callable[[argparse.ArgumentParser], argparse._ArgumentGroup],
    add_decoding: Callable[[argparse.ArgumentParser], None],
) -> None:
    """Add the command `calibrate`."""
    calibrate = commands.add_parser(
        "calibrate",
        help="learn from labels how likely a caption is to be right",
        description="Fit a confidence head on labelled captions, show by cross-validation what it "
        "is worth, and write\na copy of the model that has it. A head is for one model and one "
        "set of decoding options.",
    )
    calibrate.add_argument(
        "--labels",
        required=True,
        metavar="WHAT",
        help="an output of annotate with reviews; a Parquet file, or a folder of such, with "
        "reviews of the captions of --captions; or scenes:N, drawn scenes labelled by their truth",
    )
    calibrate.add_argument(
        "--captions", metavar="URI", help="output of annotate that the reviews in --labels are of"
    )
    calibrate.add_argument(
        "--no_guarantee",
        action="store_true",
        help="use all reviews, also those of the half of the images that is kept for "
        "review plan --guarantee, which can promise nothing then",
    )
    calibrate.add_argument(
        "--verifier",
        action="store_true",
        help="learn anew, from the same labels, a verifier too: a small network that judges each "
        "word by what the model knew when it said it. Reviewed images are read and captioned "
        "again for it. Without this, one that the model has is kept",
    )
    calibrate.add_argument(
        "--output",
        required=True,
        metavar="URI",
        help="folder for the model with its head; may be the model's own",
    )
    calibrate.add_argument(
        "--calibration",
        default="auto",
        choices=("auto", *KINDS),
        help="from the head's logit to a probability; auto is sigmoid below 1,000 labels, and "
        "then isotonic where that does better (default: %(default)s)",
    )
    calibrate.add_argument(
        "--fold_seed",
        type=int,
        default=0,
        metavar="N",
        help="which images share a fold of the cross-validation (default: %(default)s)",
    )
    model = add_model(calibrate)
    model.add_argument(
        "--batch_size",
        type=positive,
        default=32,
        metavar="N",
        help="scenes, or for --verifier reviewed images, through the model at once (default: "
        "%(default)s)",
    )
    model.add_argument(
        "--features",
        nargs="+",
        choices=EXTRAS,
        default=(),
        metavar="NAME",
        help="for scenes:N, what else the head may look at, as in annotate (default: none)",
    )
    add_decoding(calibrate)
    calibrate.add_argument(
        "--draft", action="store_true", help="calibrate captions of annotate --draft"
    )
    calibrate.set_defaults(parser=calibrate)


def add_rescore(commands: Any) -> None:
    """Add the command `rescore`."""
    rescore = commands.add_parser(
        "rescore",
        help="apply a model's confidence heads to committed captions, without the model",
        description="Give the captions of an output the confidence that a model's heads compute "
        "from their features.",
    )
    rescore.add_argument("output", metavar="OUTPUT", help="folder written by annotate")
    rescore.add_argument(
        "--model", required=True, metavar="URI", help="folder written by calibrate"
    )
    rescore.set_defaults(parser=rescore)
