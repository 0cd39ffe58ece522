from dataclasses import dataclass

import pytest

from captioner.decoders import (
    DECODERS,
    LSTMDecoder,
    LSTMDecoderConfig,
    TransformerDecoder,
    TransformerDecoderConfig,
    decoder_of,
)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (LSTMDecoderConfig(vocabulary_size=11), LSTMDecoder),
        (TransformerDecoderConfig(vocabulary_size=11), TransformerDecoder),
    ],
)
def test_attention_is_the_default(config, kind):
    assert type(decoder_of(config, feature_size=6, place_size=2)) is kind


def test_places_reach_the_decoder():
    decoder = decoder_of(LSTMDecoderConfig(vocabulary_size=11), feature_size=6, place_size=2)
    assert decoder.gate.out_features == 4


def test_every_configuration_has_one_name():
    kinds = [kind for kind, _ in DECODERS.values()]
    assert len(set(kinds)) == len(kinds) == 3


def test_another_configuration_is_refused():
    @dataclass
    class Other:
        vocabulary_size: int = 11

    with pytest.raises(TypeError, match="Other is the configuration of no decoder"):
        decoder_of(Other(), feature_size=6)  # type: ignore[arg-type]
