"""Whether this machine can run the model: versions, accelerator, precision and model itself."""

import platform
import shlex
import shutil
import time
from concurrent.futures import Future
from importlib.metadata import version
from pathlib import Path

import torch

from captioner.contract import EMBEDDED, PRECISIONS, Captioner, DecodingConfig, Prepared
from captioner.devices import choose_device
from captioner.loading import load
from captioner.scenes import render, samples
from pipelines.default_model import DefaultModel, read_default
from pipelines.doctor.checks import Check, Finding, failed, not_checked, ok, refused, warning
from pipelines.output import Output, OutputError
from schemas.uris import redact

MODEL_SECONDS = 300.0
"""For a model to load and to caption: the largest come from the hub first."""

_SCENES = 8
_FIRST_SCENE = 3_000_000_000  # no model was trained on it
_DRIVER = Path("/proc/driver/nvidia/version")
_WARM_SECONDS = 5.0
_PROBE = 16
_BUILDS = "https://pytorch.org/get-started/locally"


def checks(
    name: str | None,
    device: str,
    precision: str,
    loaded: "Future[Captioner]",
    output: Output | None = None,
) -> list[Check]:
    """Return the checks of machine and model.

    Args:
        name: of the model, as ``--model`` takes it; None for the one that annotate would take.
        device: auto, cpu, cuda or mps.
        precision: what it is to compute in, unless the output's model has one of its own.
        loaded: gets the model, or why there is none.
        output: that may name a model.
    """
    decoding = DecodingConfig(precision=precision)
    return [
        Check("versions", versions),
        Check("accelerator", accelerator),
        Check("precision", lambda: precision_of(name, device, decoding, output)),
        Check("model", lambda: model(name, device, decoding, loaded, output), MODEL_SECONDS),
    ]


def versions() -> Finding:
    """Say what runs."""
    beam = version("apache-beam")
    return ok(f"Python {platform.python_version()}, torch {torch.__version__}, Beam {beam}")


def accelerator() -> Finding:
    """Say which accelerator torch sees, and whether one is there that it does not see."""
    if torch.cuda.is_available():
        return _cuda()
    if torch.backends.mps.is_available():
        return ok(f"Apple's GPU, by MPS ({platform.processor() or platform.machine()})")
    cores = f"the processor (threads: {torch.get_num_threads()})"
    built = torch.version.cuda or torch.version.hip
    if built is None:
        if _has_driver():
            return warning(
                f"there is a GPU's driver, but torch {torch.__version__} is built without any, "
                f"so the model runs on {cores}",
                f"install a build of torch for it: {_BUILDS}",
            )
        return ok(f"none; the model runs on {cores}")
    if not _has_driver():
        return ok(f"none, no driver of one; the model runs on {cores}")
    try:
        torch.cuda.init()  # which says why
        why = "no GPU is visible to it"
    except (RuntimeError, AssertionError) as error:
        why = _first_line(error)
    return warning(
        f"there is a GPU's driver, but torch {torch.__version__}, built for {built}, does not get "
        f"on with it, so the model runs on {cores}: {why}",
        f"update the driver, or install a build of torch for it: {_BUILDS}; a container must be "
        "given the GPU (--gpus all)",
    )


def _cuda() -> Finding:
    count = torch.cuda.device_count()
    first = torch.cuda.get_device_properties(0)
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
    found = f"{count} x {first.name}, {first.total_memory / 1e9:.0f} GB, {built}"
    try:
        torch.ones(_PROBE, device="cuda").sum().item()
    except RuntimeError as error:
        return failed(
            f"{found}: it does not compute: {_first_line(error)}",
            f"install a build of torch for compute capability {first.major}.{first.minor}: "
            f"{_BUILDS}",
        )
    return ok(found)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _has_driver() -> bool:
    return _DRIVER.exists() or any(map(shutil.which, ("nvidia-smi", "rocm-smi")))


def precision_of(
    name: str | None, device: str, decoding: DecodingConfig, output: Output | None = None
) -> Finding:
    """Say whether a device computes in the precision that annotate would take.

    Args:
        name: of the model, as ``--model`` takes it; None for the output's, or the embedded one.
        device: auto, cpu, cuda or mps.
        decoding: as the options say.
        output: that may name a model, and how its captions are made.

    """
    try:
        promoted = _promoted(name, output)
    except OutputError:
        return not_checked("what the output's model computes in cannot be read", "see model, below")
    if promoted is None or decoding != DecodingConfig():
        return computes_in(decoding.precision, device)
    # Without --model, options that are as by default are not told from ones that were not given.
    option = shlex.join(["--model", redact(promoted.model), "--precision"])
    return computes_in(promoted.decoding.precision, device, option)


def computes_in(precision: str, device: str, option: str = "--precision") -> Finding:
    """Say whether a device computes in a precision, and in which others.

    Args:
        precision: what is asked for.
        device: auto, cpu, cuda or mps.
        option: by which another one is chosen.
    """
    where = choose_device(device)
    works = [name for name in PRECISIONS if _computes(name, where)]
    others = [name for name in works if name != precision]
    if precision not in works:
        return failed(
            f"{precision} does not compute on {where}",
            f"choose {option} of: {', '.join(works)}" if works else "choose another --device",
        )
    if precision == "bfloat16" and where.type == "cuda" and not _has_bfloat16():
        return warning(
            f"bfloat16 is emulated on {torch.cuda.get_device_name()}, and slow",
            f"choose {option} float16 or float32",
        )
    return ok(f"{precision} on {where}; {' and '.join(others)} would do as well")


def _has_bfloat16() -> bool:
    return torch.cuda.is_bf16_supported(including_emulation=False)


def _computes(precision: str, where: torch.device) -> bool:
    try:
        ones = torch.ones(_PROBE, _PROBE, dtype=getattr(torch, precision), device=where)
        return bool((ones @ ones)[0, 0].item() == _PROBE)
    except (RuntimeError, TypeError):
        return False


def model(
    name: str | None,
    device: str,
    decoding: DecodingConfig,
    loaded: "Future[Captioner]",
    output: Output | None = None,
) -> Finding:
    """Load a model and caption drawn scenes with it.

    Args:
        name: as ``--model`` takes it; None for the output's, or the embedded one.
        device: auto, cpu, cuda or mps.
        decoding: how captions are made.
        loaded: gets the model, or why there is none.
        output: that may name a model.
    """
    started = time.monotonic()
    try:
        name, captioner = _load(name, device, decoding, output)
    except Exception as error:  # of the libraries that read weights, too
        loaded.set_exception(error)
        return refused(error, "try it by itself: captioner explain IMAGE --model MODEL")
    seconds = time.monotonic() - started
    loaded.set_result(captioner)
    scenes = [captioner.prepare(render(scene)) for scene in samples(_FIRST_SCENE, _SCENES)]
    said, took = _caption(captioner, scenes)
    if took < _WARM_SECONDS:  # the first batch takes longer
        said, took = _caption(captioner, scenes)
    where = choose_device(device)
    found = f"{redact(name)}, {captioner.model_id}, on {where}: loaded in {seconds:.1f} s, about "
    found += f"{_rate(len(scenes) / took)} images/s in batches of {len(scenes)}"
    if not said:
        return warning(f"{found}; it says nothing of a drawn scene", "try it: captioner explain")
    return ok(f"{found}; of a drawn scene it says {said!r}")


def _rate(images: float) -> str:
    return f"{images:,.0f}" if images >= 10 else f"{images:.2g}"


def _load(
    name: str | None, device: str, decoding: DecodingConfig, output: Output | None
) -> tuple[str, Captioner]:
    """Load the model that annotate would take; return its name, too."""
    promoted = _promoted(name, output)
    if promoted is None:
        name = name or EMBEDDED
        return name, load(name, device, decoding)
    # Options that say how to decode are followed instead of all that was decided for the model.
    followed = promoted.decoding if decoding == DecodingConfig() else decoding
    captioner = load(promoted.model, device, followed)
    promoted.check(captioner)
    return promoted.model, captioner


def _promoted(name: str | None, output: Output | None) -> DefaultModel | None:
    """Return the output's model if it is to be taken."""
    return read_default(output) if name is None and output is not None else None


def _caption(captioner: Captioner, scenes: list[Prepared]) -> tuple[str, float]:
    """Caption a batch; return what is said of the first, and the seconds that it took."""
    started = time.monotonic()
    said = captioner.caption(scenes)[0].text
    return said, time.monotonic() - started
