"""Train the embedded model from nothing: ``python -m captioner.training --output FOLDER``."""

import argparse
import copy
import logging
import os
import resource
import time
from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from captioner.attention import AttentionKind
from captioner.checkpoint import choose_device, embedded_path, load, save
from captioner.decoders import LSTMDecoderConfig, TransformerDecoderConfig
from captioner.encoders import GridEncoderConfig
from captioner.evaluation.scenes import score_on_scenes
from captioner.model import CaptionModel, ModelConfig
from captioner.scenes import TRAINING, VALIDATION
from captioner.training.data import relation_weights, render_scenes, scene_tokenizer
from captioner.training.loop import Precision, TrainingConfig, train

logger = logging.getLogger("captioner.training")


def main(arguments: Sequence[str] | None = None) -> None:
    """Render scenes, train on them, and save the model after each pass."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.decoder == "transformer" and options.attention not in (None, "multi_head"):
        parser.error(f"--attention {options.attention}: a Transformer's is multi_head")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    began = time.monotonic()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    device = torch.device(choose_device(options.device))
    precision = options.precision or _fastest_precision(device)
    tokenizer = scene_tokenizer(TRAINING)
    encoder = GridEncoderConfig()
    data = render_scenes(
        TRAINING,
        options.scenes,
        image_size=encoder.image_size,
        tokenizer=tokenizer,
        workers=options.workers,
    )
    logger.info("%d scenes rendered in %.0f s", len(data), time.monotonic() - began)
    model = CaptionModel(
        ModelConfig(
            name=options.name,
            encoder=encoder,
            decoder=_decoder(options, len(tokenizer)),
        )
    )

    def save_and_score(epoch: int, weights: dict[str, Tensor]) -> None:
        averaged = copy.deepcopy(model)
        averaged.load_state_dict(weights)
        save(averaged, tokenizer, options.output)
        captioner = load(options.output, device=str(device))
        scores = score_on_scenes(captioner, VALIDATION, options.validation)
        logger.info(
            "epoch %d of %d: %.1f%% of captions true, %.2f of the facts stated %s",
            *(epoch + 1, options.epochs, 100 * scores.true_captions, scores.stated_facts),
            dict(scores.problems),
        )

    config = TrainingConfig(
        epochs=options.epochs,
        batch_size=options.batch_size,
        seed=options.seed,
        learning_rate=options.learning_rate,
        attention_weight=options.attention_weight,
        precision=precision,
    )
    train(
        model,
        data,
        config,
        pad=tokenizer.pad,
        word_weights=relation_weights(tokenizer, options.relation_weight),
        device=device,
        after_epoch=save_and_score,
    )
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    logger.info(
        "%s: %.1f minutes, %.1f minutes of processor time",
        options.output,
        (time.monotonic() - began) / 60,
        sum(usage.ru_utime + usage.ru_stime for usage in used) / 60,
    )


def _decoder(
    options: argparse.Namespace, vocabulary_size: int
) -> LSTMDecoderConfig | TransformerDecoderConfig:
    if options.decoder == "transformer":
        return TransformerDecoderConfig(
            vocabulary_size=vocabulary_size, width=128, layers=2, feedforward_size=512
        )
    attention: AttentionKind = options.attention or "additive"
    heads = 4 if attention == "multi_head" else 1
    return LSTMDecoderConfig(vocabulary_size=vocabulary_size, attention=attention, heads=heads)


def _fastest_precision(device: torch.device) -> Precision:
    """bfloat16 where there are instructions for it; elsewhere it is slower than float32."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    asked = getattr(torch.cpu, "get_capabilities", dict)  # Newer than the oldest that will do.
    abilities: dict[str, bool] = asked() if device.type == "cpu" else {}
    return "bfloat16" if abilities.get("avx512_bf16") or abilities.get("amx_bf16") else "float32"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m captioner.training", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--output", default=embedded_path(), help="folder of the checkpoint")
    parser.add_argument("--name", default="scenes", help="first part of the model id")
    parser.add_argument(
        "--decoder", choices=("lstm", "transformer"), default="lstm", help="what writes"
    )
    parser.add_argument(
        "--attention",
        choices=get_args(AttentionKind),
        help="of the LSTM (default: additive); a Transformer's is multi_head",
    )
    parser.add_argument("--scenes", type=int, default=50_000, help="how many to train on")
    parser.add_argument("--validation", type=int, default=500, help="scenes to score on")
    parser.add_argument("--epochs", type=int, default=8, help="passes over the scenes")
    parser.add_argument("--learning_rate", type=float, default=2e-3, help="the highest")
    parser.add_argument(
        "--relation_weight", type=float, default=5.0, help="how much a word like 'left' counts"
    )
    parser.add_argument(
        "--attention_weight", type=float, default=0.5, help="how much it counts where it looks"
    )
    parser.add_argument("--batch_size", type=int, default=64, help="scenes a step")
    parser.add_argument(
        "--precision",
        choices=get_args(Precision),
        help="of the arithmetic; by itself bfloat16 where the machine is fast at it",
    )
    parser.add_argument("--seed", type=int, default=0, help="decides weights, order and captions")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="of PyTorch, on the cpu"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes that render"
    )
    return parser


if __name__ == "__main__":
    main()
