import pytest

from captioner.heads import ClassifierConfig, DetectorConfig, HeadsConfig, SegmenterConfig

CLASSES = ("cat", "dog")


@pytest.mark.parametrize("kind", [ClassifierConfig, DetectorConfig, SegmenterConfig])
@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ((), r"classes is \(\); give 1 to"),
        ("cat", "classes is 'cat'; give 1 to"),
        (("cat", " "), "classes holds ' '; use names that are not empty"),
        (("cat", "dog", "cat"), "classes holds 'cat' twice; give each name once"),
    ],
)
def test_classes_are_names_that_differ(kind, classes, message):
    with pytest.raises(ValueError, match=message):
        kind(classes=classes)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (ClassifierConfig, {"attention": "gates"}, "attention is 'gates'; use one of gate, query"),
        (ClassifierConfig, {"threshold": 1.5}, "threshold is 1.5; use 0 to 1"),
        (DetectorConfig, {"finer": -1}, "finer is -1; use 0 to 8"),
        (DetectorConfig, {"sizes": ()}, r"sizes is \(\); give one or more numbers above 0"),
        (DetectorConfig, {"ratios": (1.0, 0.0)}, r"ratios is \(1.0, 0.0\)"),
        (DetectorConfig, {"sizes": (0.1,) * 22}, "make 66 anchors a position; use 64"),
        (DetectorConfig, {"matched_iou": 1.1}, "matched_iou is 1.1; use 0 to 1"),
        (DetectorConfig, {"most": 0}, "most is 0; use 1 to 1000"),
        (SegmenterConfig, {"width": 0}, "width is 0; use 1 to 4096"),
    ],
)
def test_what_is_beyond_use_is_refused(kind, changes, message):
    with pytest.raises(ValueError, match=message):
        kind(classes=CLASSES, **changes)


def test_pixels_have_no_more_classes_than_bytes_have_values():
    names = tuple(map(str, range(255)))
    assert len(SegmenterConfig(classes=names[:254]).classes) == 254
    with pytest.raises(ValueError, match="classes is 255 names; give 1 to 254"):
        SegmenterConfig(classes=names)


def test_no_head_at_all_is_refused():
    with pytest.raises(ValueError, match="give one head or more"):
        HeadsConfig()
