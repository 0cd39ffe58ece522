"""What a reviewer sees, and what a caption looks like in Label Studio's words."""

from typing import Any
from xml.etree import ElementTree

from label_studio_sdk.label_interface.interface import LabelInterface

from pipelines.labelstudio.client import LabelStudioError

IMAGE, CAPTION, VERDICT = "image", "caption", "verdict"
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


def differences(config: str) -> list[str]:
    """Say what a project's labelling config lacks for captions to be reviewed with it.

    Args:
        config: the XML of the project's config.

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
    foreign = sorted(_variables(root) - set(TASK_DATA))
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


def _variables(root: ElementTree.Element) -> set[str]:
    values = (element.get("value", "") for element in root.iter())
    return {value[1:].partition("[")[0] for value in values if value.startswith("$")}


def prediction(caption: str, score: float | None, model_version: str) -> dict[str, Any]:
    """Write a caption as a prediction that fills the caption's field.

    Args:
        caption: the text, taken as it is.
        score: its confidence, 0 to 1, if there is one.
        model_version: which model and decoding config made it.

    Returns:
        The prediction as Label Studio imports it.
    """
    region = {
        "from_name": CAPTION,
        "to_name": IMAGE,
        "type": "textarea",
        "value": {"text": [caption]},
    }
    return {"model_version": model_version, "score": score, "result": [region]}
