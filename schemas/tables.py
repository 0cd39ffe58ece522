"""The Parquet schemas of an output's tables.

Every column exists from the first version, typed, and is null where nothing fills it yet: readers
that glob a folder drop or reject columns that appear later. Files that were written before a column
came are read as if it were there, and null.
"""

import pyarrow as pa

SCHEMA_VERSION = 1
"""Written into every file's metadata; a reader refuses a file of a newer version."""

FEATURES: tuple[tuple[str, str], ...] = (
    ("logprob_mean", "mean log-probability of the caption's tokens, natural logarithm"),
    ("logprob_min", "lowest log-probability of a token"),
    ("logprob_sum", "log-probability of the whole caption"),
    ("num_tokens", "tokens, the end-of-sequence token included"),
    ("entropy_mean", "mean entropy of the token distributions, in nats"),
    ("entropy_max", "highest entropy of a token distribution, in nats"),
    ("margin_min", "lowest difference of the two best tokens' probabilities"),
    ("eos_probability", "probability of end-of-sequence where the caption ended"),
    ("beam_gap", "log-probability of the best beam less that of the second"),
    ("beam_agreement", "share of words on which the beams agree"),
    ("attention_entropy", "mean entropy of the attention weights, in nats"),
    ("attention_coverage", "attention got, of each position's even share, that at most: the mean"),
    ("feature_distance", "distance of the image's features to those of the training set"),
    ("image_information", "log-probability given the image less that given the mean image"),
    ("rescored_logprob_mean", "mean log-probability in one teacher-forced pass"),
    ("heads_disagree", "1 less the heads' probability of what they doubt most that is named"),
    ("verifier_logit", "of a verifier that the caption is right, see verifier_id"),
)


def _field(name: str, type_: pa.DataType, description: str, nullable: bool = True) -> pa.Field:
    return pa.field(name, type_, nullable, {"description": description})


_KEY = [
    _field("uri", pa.string(), "absolute, with protocol, unescaped", False),
    _field("uri_version", pa.string(), "what the store knows of the version: KIND:VALUE", False),
    _field("model_id", pa.string(), "hash of the model's weights and configuration", False),
    _field("decoding", pa.string(), "hash of the decoding configuration", False),
]
_RUN = [
    _field("run_id", pa.string(), "the run that made this row", False),
    _field("created_at", pa.timestamp("us", tz="UTC"), "when this row was made", False),
]

_LABELS = pa.list_(pa.struct([("name", pa.string()), ("probability", pa.float32())]))
_BOXES = pa.list_(
    pa.struct(
        [
            ("name", pa.string()),
            ("probability", pa.float32()),
            *((side, pa.float32()) for side in ("x", "y", "width", "height")),
        ]
    )
)
_MASKS = pa.list_(
    pa.struct([("name", pa.string()), ("size", pa.list_(pa.int32())), ("counts", pa.string())])
)
_GRIDS = pa.list_(
    pa.struct([("height", pa.int32()), ("width", pa.int32()), ("weights", pa.list_(pa.uint8()))])
)


def _table(name: str, fields: list[pa.Field]) -> pa.Schema:
    return pa.schema(fields, {"table": name, "schema_version": str(SCHEMA_VERSION)})


CAPTIONS = _table(
    "captions",
    [
        _field("image_id", pa.string(), "SHA-256 of the image's bytes", False),
        *_KEY[:2],
        _field("width", pa.int32(), "pixels, after EXIF orientation", False),
        _field("height", pa.int32(), "pixels, after EXIF orientation", False),
        _field("format", pa.string(), "as Pillow names it: JPEG, PNG, ...", False),
        _field("num_bytes", pa.int64(), "size of the image file", False),
        _field("phash", pa.string(), "64-bit perceptual hash, hexadecimal"),
        _field("caption", pa.string(), "the caption", False),
        _field("tokens", pa.list_(pa.string()), "the caption's tokens, <end> included"),
        _field("token_logprobs", pa.list_(pa.float32()), "log-probability of each token"),
        _field("word_attention", _GRIDS, "attention of each token, 255 at its highest"),
        _field("confidence", pa.float32(), "see confidence_kind", False),
        _field(
            "confidence_kind",
            pa.string(),
            "calibrated: probability that a reviewer accepts; uncalibrated: a score only",
            False,
        ),
        _field("confidence_id", pa.string(), "hash of the confidence head"),
        _field("verifier_id", pa.string(), "hash of the verifier that verifier_logit comes from"),
        _field(
            "features",
            pa.struct([_field(name, pa.float32(), text) for name, text in FEATURES]),
            "what confidence is computed from",
        ),
        _field(
            "n_best",
            pa.list_(pa.struct([("caption", pa.string()), ("logprob", pa.float32())])),
            "the best captions and their log-probabilities",
        ),
        _field("labels", _LABELS, "classes seen"),
        _field("boxes", _BOXES, "objects found, in pixels of the original"),
        _field("masks", _MASKS, "segments, as COCO run-length encoding"),
        _field("embedding", pa.list_(pa.float32()), "pooled encoder features"),
        *_KEY[2:],
        *_RUN,
    ],
)

FAILURES = _table(
    "failures",
    [
        *_KEY,
        _field("stage", pa.string(), "list, read, decode or caption", False),
        _field("kind", pa.string(), "one of a closed list, see FailureKind", False),
        _field("message", pa.string(), "what went wrong", False),
        _field("attempt", pa.int32(), "1 for the first attempt at this image", False),
        *_RUN,
    ],
)

REVIEW = _table(
    "review",
    [
        _field("image_id", pa.string(), "SHA-256 of the image's bytes", False),
        *_KEY,
        _field("confidence", pa.float32(), "as in captions", False),
        _field("reasons", pa.list_(pa.string()), "why it is here, see ReviewReason", False),
        _field("inclusion_probability", pa.float64(), "of the audit sample, where one was drawn"),
        _field("group_id", pa.string(), "near-duplicates share one"),
        _field("run_id", pa.string(), "the run whose caption is to be reviewed", False),
    ],
)

REVIEWS = _table(
    "reviews",
    [
        _field("image_id", pa.string(), "SHA-256 of the image's bytes", False),
        *_KEY[2:],
        _field("shown_caption", pa.string(), "what the reviewer was shown"),
        _field("verdict", pa.string(), "accepted, edited, rejected or skipped", False),
        _field("caption", pa.string(), "what the reviewer left"),
        _field("labels", _LABELS, "labels that the reviewer left"),
        _field("boxes", _BOXES, "boxes that the reviewer left"),
        _field("masks", _MASKS, "masks that the reviewer left"),
        _field("reviewer", pa.string(), "who"),
        _field("seconds", pa.float32(), "time spent"),
        _field("reviewed_at", pa.timestamp("us", tz="UTC"), "when"),
        _field("task_id", pa.int64(), "Label Studio's task"),
    ],
)

MERGED = _table(
    "merged",
    [
        _field("image_id", pa.string(), "SHA-256 of the image's bytes", False),
        *_KEY[:2],
        _field("width", pa.int32(), "pixels, after EXIF orientation", False),
        _field("height", pa.int32(), "pixels, after EXIF orientation", False),
        _field("caption", pa.string(), "the final caption; null where it is rejected"),
        _field("source", pa.string(), "whose caption it is, see CaptionSource", False),
        _field("model_caption", pa.string(), "what the model wrote", False),
        _field("verdict", pa.string(), "of the review that decided; null where none did"),
        _field("reviewer", pa.string(), "who made that review"),
        _field("reviewed_at", pa.timestamp("us", tz="UTC"), "when"),
        _field("confidence", pa.float32(), "of the model's caption, as in captions", False),
        _field("confidence_kind", pa.string(), "as in captions", False),
        _field("labels", _LABELS, "that review's where it has them, else the model's"),
        _field("boxes", _BOXES, "likewise, in pixels of the original"),
        _field("masks", _MASKS, "likewise, as COCO run-length encoding"),
        *_KEY[2:],
        _field("created_at", pa.timestamp("us", tz="UTC"), "when the model captioned it", False),
    ],
)

COMPARISONS = _table(
    "comparisons",
    [
        _field("image_id", pa.string(), "SHA-256 of the image's bytes", False),
        *_KEY[2:],
        _field("candidate_id", pa.string(), "model_id of the model that is compared to it", False),
        _field("candidate_decoding", pa.string(), "its decoding", False),
        _field("caption", pa.string(), "of the present model", False),
        _field("candidate_caption", pa.string(), "of the candidate", False),
        _field("choice", pa.string(), "which is better, see Choice; null as long as nobody said"),
        _field("inclusion_probability", pa.float64(), "with which the audit drew it", False),
        _field("shown_first", pa.string(), "candidate or present; null where both are the same"),
        _field("reviewer", pa.string(), "who said; null of what no person was asked"),
        _field("compared_at", pa.timestamp("us", tz="UTC"), "when"),
        _field("task_id", pa.int64(), "Label Studio's task"),
    ],
)

TABLES: dict[str, pa.Schema] = {
    "captions": CAPTIONS,
    "failures": FAILURES,
    "review": REVIEW,
    "reviews": REVIEWS,
    "merged": MERGED,
    "comparisons": COMPARISONS,
}
