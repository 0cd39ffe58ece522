"""What the steps of a run need to know. Travels to workers, so it holds no secret."""

import os
from dataclasses import dataclass

from captioner.confidence.head import ConfidenceHead
from captioner.contract import DecodingConfig
from captioner.images import Limits


@dataclass(frozen=True, kw_only=True)
class AnnotateConfig:
    """A run of the main job, frozen.

    Attributes:
        output: uri of the output folder.
        run_id: name of this run.
        model: where the model is: ``embedded``, a folder on any store, or a hub name.
        model_id: content hash of that model; a worker that loads another one fails.
        device: auto, cpu, cuda or mps.
        decoding: how captions are made.
        features: of ``EXTRAS``, what is to be computed besides the features that cost little.
        refill: columns and features that the model fills; rows in which one of them is null run
            again.
        head: what makes a confidence of features; None for an uncalibrated one.
        batch_size: most images in a batch; fewer after an out-of-memory error.
        limits: bytes and pixels above which an image is refused.
        read_threads: images being read at the same time. More hide a slow store's latency and
            cost memory.
        decode_threads: images being decoded at the same time; more than cores is no use.
        read_timeout: seconds after which a read is given up.
        part_rows: rows after which a part is written. Fewer lose less work in a crash and make
            more files.
        part_bytes: bytes of rows, before compression, after which a part is written.
        part_seconds: seconds after which a part is written, whatever it holds.
        progress_folder: local folder in which workers say how far they are and look for the
            request to stop; None where workers do not share a disk with the launcher.
    """

    output: str
    run_id: str
    model: str
    model_id: str
    device: str = "auto"
    decoding: DecodingConfig = DecodingConfig()
    features: tuple[str, ...] = ()
    refill: tuple[str, ...] = ()
    head: ConfidenceHead | None = None
    batch_size: int = 32
    limits: Limits = Limits()
    read_threads: int = 16
    decode_threads: int = os.cpu_count() or 1
    read_timeout: float = 120.0
    part_rows: int = 5_000
    part_bytes: int = 64 * 1024 * 1024
    part_seconds: float = 60.0
    progress_folder: str | None = None

    @property
    def verifier(self) -> str | None:
        """The id of the verifier that the head looks at, if it looks at one."""
        return None if self.head is None else self.head.verifier
