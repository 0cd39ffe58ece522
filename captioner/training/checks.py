"""Options of a training that do not fit together, refused before time is spent on the data."""

from dataclasses import asdict, fields

from captioner.decoders import DECODERS, DecoderConfig
from captioner.heads import HEADS, HeadsConfig
from captioner.training.options import LANGUAGE_MODEL, WORDS, TrainingOptions
from captioner.training.tasks import CAPTIONS

_ANY_SIZE = 100


def check_tasks(options: TrainingOptions) -> None:
    """Check tasks, and what goes with them.

    Raises:
        ValueError: naming what does not fit.
    """
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


def check_rest(
    options: TrainingOptions, heads: HeadsConfig | None, known: HeadsConfig | None
) -> None:
    """Check that a head which is not to be learned is one that the model to start from has.

    Args:
        options: of the training.
        heads: of the model that is to be trained.
        known: of the model to start from; None without one.

    Raises:
        ValueError: naming the head that is not.
    """
    for task in options.tasks:
        if not options.task_config.weights[task] and (
            known is None or getattr(heads, task) != getattr(known, task)
        ):
            raise ValueError(
                f"{task} count 0, but would begin from nothing and never be learned; give them a "
                "weight, or leave them out of the tasks"
            )


def check_decoder(options: TrainingOptions) -> None:
    """Check what was asked of the decoder.

    Raises:
        ValueError: naming what does not fit.
    """
    given = set(options.decoder_settings)
    if options.decoder.startswith(LANGUAGE_MODEL):
        default = TrainingOptions(data="", output="")
        given |= {name for name in WORDS if getattr(options, name) != getattr(default, name)}
        if given:
            raise ValueError(f"{min(given)} is given, but {options.decoder} brings its own")
        return
    if options.decoder not in ("lstm", "transformer"):
        raise ValueError(f"decoder is {options.decoder!r}; use lstm, transformer or lm:NAME")
    kind, _ = DECODERS[options.decoder]
    if wrong := given - {field.name for field in fields(kind)}:
        raise ValueError(f"{min(wrong)} is not for a decoder of the kind {options.decoder}")
    check_fusion(options, kind(vocabulary_size=_ANY_SIZE, **options.decoder_settings))


def check_fusion(options: TrainingOptions, decoder: DecoderConfig) -> None:
    """Check that attention is asked to see all of the picture only where there is attention.

    Raises:
        ValueError: if it is not.
    """
    fusion = getattr(decoder, "fusion", "attention")
    if fusion != "attention" and options.config.doubly_stochastic:
        raise ValueError(
            f"doubly_stochastic is {options.config.doubly_stochastic}, but with {fusion} fusion "
            "there is no attention; leave it out"
        )
