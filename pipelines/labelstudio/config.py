"""What a reviewer sees, and what a caption looks like in Label Studio's words."""

from typing import Any
from xml.etree import ElementTree

from label_studio_sdk.label_interface.interface import LabelInterface

from captioner.annotations import NO_CLASSES, ClassNames
from pipelines.labelstudio.client import LabelStudioError
from pipelines.labelstudio.regions import IMAGE, OPTIONS, TAGS, controls

CAPTION, VERDICT = "caption", "verdict"
UNSURE_WORDS, ATTENTION = "unsure_words", "attention"
VERDICTS = ("accept", "fix", "reject")
TASK_DATA = ("image", "image_id", "uri", "caption")

# The value of the TextArea is filled in for a task without a prediction of the model version that
# the project shows; where there is one, Label Studio takes that and leaves the value aside.
LABEL_CONFIG = """\
<View style="display: flex; gap: 24px; align-items: flex-start">
  <View style="flex: 3; min-width: 0">
    <Image name="image" value="$image" zoom="true" zoomControl="true" rotateControl="false"/>
  </View>
  <View style="flex: 2; min-width: 260px">
    <Header value="Caption" size="5"/>
    <TextArea name="caption" toName="image" value="$caption" editable="true" maxSubmissions="1"
              rows="3" placeholder="A caption for this image" required="true"
              requiredMessage="Write a caption, or skip the image"/>
    <Header value="Was the caption right?" size="5"/>
    <Choices name="verdict" toName="image" choice="single-radio" required="true"
             requiredMessage="Say what you think of the caption">
      <Choice value="accept" hotkey="1" hint="It is right as it was"/>
      <Choice value="fix" hotkey="2" hint="I have corrected it"/>
      <Choice value="reject" hotkey="3" hint="It is wrong and not worth correcting"/>
    </Choices>
  </View>
</View>
"""

INSTRUCTION = (
    "Read the caption and look at the image. If it is right, choose <b>accept</b>. If not, click "
    "the pencil beside it, correct it, click the tick and choose <b>fix</b>. "
    "If it cannot be saved, choose <b>reject</b>."
)
_UNSURE_TITLE = "Words that the model was unsure of"
_ATTENTION_TITLE = "Where the model looked for a word"
_OF_CLASSES = " Put right what else was found, too: labels, boxes and masks."
_OF_UNSURE_WORDS = " The words that the model was unsure of are marked."
_OF_ATTENTION = (
    " Below the image you see where the model looked for the words that it was least sure of, "
    "with the probability that it gave them."
)


def label_config(
    classes: ClassNames, show_unsure_words: bool = False, show_attention: bool = False
) -> str:
    """Return the labelling config for captions, and for what else a model finds.

    Args:
        classes: of labels, boxes and masks; a kind without any gets no control.
        show_unsure_words: show the caption with its unsure words marked, above its field.
        show_attention: show, below the image, a picture of where the model looked.
    """
    root = ElementTree.fromstring(LABEL_CONFIG)
    made = list(controls(classes))
    if not made and not show_unsure_words and not show_attention:
        return LABEL_CONFIG
    root[1].extend(made)
    if show_unsure_words:
        root[1].insert(0, ElementTree.Element("Header", value=_UNSURE_TITLE, size="5"))
        # A HyperText shows marks as marks; inline, for else it is a page in the page.
        shown = {"name": UNSURE_WORDS, "value": f"${UNSURE_WORDS}"}
        shown |= {"valueType": "text", "inline": "true"}
        root[1].insert(1, ElementTree.Element("HyperText", shown))
    if show_attention:
        root[0].append(ElementTree.Element("Header", value=_ATTENTION_TITLE, size="5"))
        picture = {"name": ATTENTION, "value": f"${ATTENTION}", "rotateControl": "false"}
        root[0].append(ElementTree.Element("Image", picture))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def instruction(
    classes: ClassNames, show_unsure_words: bool = False, show_attention: bool = False
) -> str:
    """Return what reviewers are told to do, for the same arguments as ``label_config``."""
    unsure = _OF_UNSURE_WORDS if show_unsure_words else ""
    looked = _OF_ATTENTION if show_attention else ""
    return INSTRUCTION + unsure + looked + (_OF_CLASSES if any(vars(classes).values()) else "")


def wants_unsure_words(config: str) -> bool:
    """Say whether tasks must bring the caption with its unsure words marked.

    Args:
        config: the XML of a project's config.
    """
    return UNSURE_WORDS in _variables(ElementTree.fromstring(config))


def wants_attention(config: str) -> bool:
    """Say whether tasks must bring a picture of where the model looked.

    Args:
        config: the XML of a project's config.
    """
    return ATTENTION in _variables(ElementTree.fromstring(config))


def validate(config: str) -> None:
    """Check a labelling config as Label Studio itself will, before anything is sent.

    Args:
        config: the XML of the config.

    Raises:
        LabelStudioError: if Label Studio would not take it.
    """
    try:
        LabelInterface(config).validate()
    except Exception as error:  # the SDK raises several kinds, some of them its own
        raise LabelStudioError(
            f"the labelling config is not valid: {error}; correct it in the project's settings"
        ) from error


def differences(
    config: str,
    classes: ClassNames = NO_CLASSES,
    show_unsure_words: bool = False,
    show_attention: bool = False,
) -> list[str]:
    """Say what a project's labelling config lacks for captions to be reviewed with it.

    Args:
        config: the XML of the project's config.
        classes: of labels, boxes and masks that are to be reviewed, too.
        show_unsure_words: whether it must show the caption with its unsure words marked.
        show_attention: whether it must show a picture of where the model looked.

    Returns:
        One sentence for each thing that is missing or different; none if it can be used.
    """
    try:
        root = ElementTree.fromstring(config)
    except ElementTree.ParseError as error:
        return [f"it is not XML ({error})"]
    named = {element.get("name"): element for element in root.iter() if element.get("name")}
    found = [
        *_difference(named.get(IMAGE), "Image", IMAGE, value=f"${IMAGE}"),
        *_difference(named.get(CAPTION), "TextArea", CAPTION, toName=IMAGE),
        *_difference(named.get(VERDICT), "Choices", VERDICT, toName=IMAGE),
    ]
    if not found:
        choices = {element.get("value") for element in named[VERDICT].iter("Choice")}
        missing = [verdict for verdict in VERDICTS if verdict not in choices]
        found += [f"the Choices {VERDICT!r} lack {', '.join(missing)}"] if missing else []
    for kind, tag in TAGS.items():
        found += _class_differences(named.get(kind), kind, tag, getattr(classes, kind))
    if show_unsure_words:
        unsure = named.get(UNSURE_WORDS)
        found += _difference(unsure, "HyperText", UNSURE_WORDS, value=f"${UNSURE_WORDS}")
    if show_attention:
        found += _difference(named.get(ATTENTION), "Image", ATTENTION, value=f"${ATTENTION}")
    foreign = sorted(_variables(root) - {*TASK_DATA, UNSURE_WORDS, ATTENTION})
    return found + [f"it wants ${name}, which captions do not have" for name in foreign]


def _difference(
    element: ElementTree.Element | None, tag: str, name: str, **wanted: str
) -> list[str]:
    if element is None:
        return [f"there is no {tag} named {name!r}"]
    if element.tag != tag:
        return [f"{name!r} is a {element.tag}, not a {tag}"]
    return [
        f"{key} of the {tag} {name!r} is {element.get(key)!r}, not {value!r}"
        for key, value in wanted.items()
        if element.get(key) != value
    ]


def _class_differences(
    element: ElementTree.Element | None, kind: str, tag: str, classes: tuple[str, ...]
) -> list[str]:
    if not classes:
        return []
    found = _difference(element, tag, kind, toName=IMAGE)
    if element is None or found:
        return found
    there = {option.get("value") for option in element.iter(OPTIONS[kind])}
    missing = [name for name in classes if name not in there]
    return [f"the {tag} {kind!r} lacks {', '.join(missing)}"] if missing else []


def _variables(root: ElementTree.Element) -> set[str]:
    values = (element.get("value", "") for element in root.iter())
    return {value[1:].partition("[")[0] for value in values if value.startswith("$")}


def prediction(
    caption: str, score: float | None, model_version: str, others: list[dict[str, Any]]
) -> dict[str, Any]:
    """Write a caption as a prediction that fills the caption's field.

    Args:
        caption: the text, taken as it is.
        score: its confidence, 0 to 1, if there is one.
        model_version: which model and decoding config made it.
        others: labels, boxes and masks, as ``regions`` writes them.

    Returns:
        The prediction as Label Studio imports it.
    """
    region = {
        "from_name": CAPTION,
        "to_name": IMAGE,
        "type": "textarea",
        "value": {"text": [caption]},
    }
    return {"model_version": model_version, "score": score, "result": [region, *others]}
