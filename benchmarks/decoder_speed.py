"""The decoding engine against decoding plainly: ``python benchmarks/decoder_speed.py``.

Both use the same decoder, with random weights (speed does not depend on them; captions then hardly
ever end early, so that every one has all its steps). The plain way takes one image at a time,
projects the image's keys at every step and follows each caption of a beam by itself. Prints images
a second of both, in turns within one run, the ratio, and how many captions are the same.
"""

import argparse
import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from captioner.contract import DecodingConfig
from captioner.decoders import LSTMDecoder, LSTMDecoderConfig, LSTMState
from captioner.decoding import Words, decode

START, END = 1, 2
POSITIONS, FEATURES, VOCABULARY, STEPS = 49, 512, 3000, 20


def plain_step(
    decoder: LSTMDecoder, image: Tensor, token: int, state: LSTMState
) -> tuple[Tensor, LSTMState]:
    """Take a step of one caption, projecting the keys anew."""
    keys, values = decoder.attention.project(image)
    logits, state = decoder.step(torch.tensor([token]), replace(state, keys=keys, values=values))
    return logits[0].log_softmax(0), state


def plain_greedy(decoder: LSTMDecoder, image: Tensor, config: DecodingConfig) -> list[int]:
    """Take the most probable token at each step."""
    state, said = decoder.start(image), [START]
    while len(said) <= config.max_length and said[-1] != END:
        logprobs, state = plain_step(decoder, image, said[-1], state)
        said.append(int(logprobs.argmax()))
    return said[1:]


def plain_beam(decoder: LSTMDecoder, image: Tensor, config: DecodingConfig) -> list[int]:
    """Follow ``beam_size`` captions, each by itself."""
    size = config.beam_size
    alive = [(0.0, [START], decoder.start(image))]
    done: list[tuple[float, list[int]]] = []
    for _ in range(config.max_length):
        grown = []
        for total, said, state in alive:
            logprobs, after = plain_step(decoder, image, said[-1], state)
            best = logprobs.topk(2 * size)
            for logprob, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                grown.append((total + logprob, [*said, token], after))
        grown.sort(key=lambda hypothesis: -hypothesis[0])
        done += [(total, said) for total, said, _ in grown[:size] if said[-1] == END]
        alive = [hypothesis for hypothesis in grown if hypothesis[1][-1] != END][:size]
    done += [(total, said) for total, said, _ in alive]
    return max(done, key=lambda pair: pair[0] / (len(pair[1]) - 1) ** config.length_penalty)[1][1:]


def main() -> None:
    """Measure and print lines for RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--attention", default="additive", help="kind of attention")
    parser.add_argument("--batch_size", type=int, default=32, help="images at once")
    parser.add_argument("--rounds", type=int, default=7, help="times each is measured")
    parser.add_argument("--seed", type=int, default=0, help="of weights and features")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    config = LSTMDecoderConfig(
        vocabulary_size=VOCABULARY,
        embedding_size=512,
        hidden_size=512,
        attention=options.attention,
        attention_size=512,
        heads=8 if options.attention == "multi_head" else 1,
    )
    decoder = LSTMDecoder(config, feature_size=FEATURES).eval()
    for weights in decoder.parameters():  # Spread, so that no two tokens are nearly as probable.
        torch.nn.init.normal_(weights, std=weights.shape[-1] ** -0.5 * 2)
    memory = torch.randn(options.batch_size, POSITIONS, FEATURES)
    print(
        f"- {config.attention} attention, LSTM of {config.hidden_size}, {POSITIONS} positions, at "
        f"most {STEPS} steps, {VOCABULARY} words, float32, batches of {options.batch_size}, median "
        f"of {options.rounds} rounds"
    )
    for name, plain, decoding in (
        ("greedy", plain_greedy, DecodingConfig(max_length=STEPS)),
        ("beam 3", plain_beam, DecodingConfig(strategy="beam", beam_size=3, max_length=STEPS)),
    ):
        measure(name, plain, decoder, memory, decoding, options.rounds)
    print(
        f"- {datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )


@torch.inference_mode()
def measure(
    name: str,
    plain: Callable[[LSTMDecoder, Tensor, DecodingConfig], list[int]],
    decoder: LSTMDecoder,
    memory: Tensor,
    config: DecodingConfig,
    rounds: int,
) -> None:
    """Time both ways in turns, after one round that does not count."""
    slow, fast = [], []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        wanted = [plain(decoder, image.unsqueeze(0), config) for image in memory]
        between = time.perf_counter()
        found = [item.tokens for item in decode(decoder, memory, config, Words(START, END))]
        slow.append(between - began)
        fast.append(time.perf_counter() - between)
    before, after = (len(memory) / statistics.median(times[1:]) for times in (slow, fast))
    same = sum(ours == theirs for ours, theirs in zip(found, wanted, strict=True))
    length = statistics.mean(map(len, wanted))
    print(
        f"- {name}: {after:.0f} images/s against {before:.1f}, {after / before:.1f} times as many, "
        f"{same} of {len(wanted)} captions the same token for token, {length:.1f} tokens a caption"
    )


if __name__ == "__main__":
    main()
