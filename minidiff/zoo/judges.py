"""The frozen judges: they look at what was generated and were never part of making it.

A classifier of images, whose features are the 128 numbers before the last layer, and two listeners:
a small recogniser of spoken digits and `pocketsphinx`, which was made elsewhere by others.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.audio import N_MELS, SAMPLE_RATE
from minidiff.data import DataNotFound, read_pictures
from minidiff.data.speech import WORDS
from minidiff.training import autocast


class Judge(nn.Module):
    """A small convolutional classifier of 28x28 images.

    >>> judge = Judge().eval()
    >>> judge(torch.zeros(2, 1, 28, 28)).shape, judge.features(torch.zeros(2, 1, 28, 28)).shape
    (torch.Size([2, 10]), torch.Size([2, 128]))
    """

    def __init__(self, n_classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(1, 32), _conv(32, 32), nn.MaxPool2d(2),
            _conv(32, 64), _conv(64, 64), nn.MaxPool2d(2),
            _conv(64, 128), _conv(128, 128), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(128, n_classes)

    def features(self, x: Tensor) -> Tensor:
        """Map images (B, 1, 28, 28) in [-1, 1] to features (B, 128)."""
        features: Tensor = self.body(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 1, 28, 28) in [-1, 1] to logits (B, n_classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits


def _conv(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def augment(x: Tensor, generator: torch.Generator, shift: int = 2) -> Tensor:
    """Mirror each image with probability 1/2 and move the batch by up to `shift` pixels.

    Args:
        x: Images (B, C, H, W) in [-1, 1].
        generator: CPU generator that decides.
        shift: Largest move in pixels; what comes in at the edge is background, -1.

    >>> augment(torch.full((2, 1, 28, 28), -1.0), torch.Generator()).unique()
    tensor([-1.])
    """
    mirror = torch.rand(len(x), generator=generator, device=generator.device) < 0.5
    x = torch.where(mirror.to(x.device).view(-1, 1, 1, 1), x.flip(-1), x)
    height, width = x.shape[-2:]
    down, right = torch.randint(
        2 * shift + 1, (2,), generator=generator, device=generator.device
    ).tolist()
    return F.pad(x, [shift] * 4, value=-1.0)[..., down : down + height, right : right + width]


@torch.no_grad()
def judge_images(judge: Judge, x: Tensor, batch_size: int = 500) -> tuple[Tensor, Tensor]:
    """Look at many images: the judge's class and features of each.

    Args:
        judge: The frozen judge.
        x: Images (N, 1, 28, 28) in [-1, 1].
        batch_size: Images at a time.

    Returns:
        Classes (N,) int64 and features (N, 128) float64, on the CPU.

    >>> classes, features = judge_images(Judge().eval(), torch.zeros(3, 1, 28, 28))
    >>> classes.shape, features.dtype
    (torch.Size([3]), torch.float64)
    """
    device = next(judge.parameters()).device
    classes, features = [], []
    for part in torch.split(x, batch_size):
        with autocast(device):
            feature = judge.features(part.to(device))
        feature = feature.float()
        classes.append(judge.head(feature).argmax(1).cpu())
        features.append(feature.double().cpu())
    return torch.cat(classes), torch.cat(features)


def judge_pictures(judge: Judge, pictures: Tensor, scenes: Tensor) -> Tensor:
    """Look at captioned fashion: which kind, which colour, on which ground?

    Colours are read from pixels, the kind by the judge from the photograph that the pixels hold,
    see `read_pictures`. A small garment that is not where the scene says is cut apart.

    Args:
        judge: The frozen judge of grey photographs.
        pictures: (N, 3, 32, 32), uint8 or in [-1, 1].
        scenes: What was asked for, (N, 5) int64; only size and place are looked at.

    Returns:
        (N, 3) int64, to be compared with scenes[:, :3].

    >>> pictures = torch.zeros(2, 3, 32, 32)
    >>> judge_pictures(Judge().eval(), pictures, torch.zeros(2, 5, dtype=torch.int64)).shape
    torch.Size([2, 3])
    """
    reading = read_pictures(pictures, scenes)
    kinds, _ = judge_images(judge, reading.photographs)
    return torch.stack([kinds, reading.colours.cpu(), reading.grounds.cpu()], dim=1)


class Listener(nn.Module):
    """A small recogniser of spoken digits: which word, if any, ends in each quarter of frames.

    Trained with the loss of connectionist temporal classification (Graves et al. 2006), which
    needs no timings.

    >>> Listener(width=16)(torch.zeros(2, 64, 128)).shape
    torch.Size([2, 32, 11])
    """

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv_1d(N_MELS, width, 2),
            _conv_1d(width, width, 2),
            _conv_1d(width, width, 1),
            _conv_1d(width, width, 1),
        )
        self.head = nn.Conv1d(width, 1 + len(WORDS), 1)

    def forward(self, mels: Tensor) -> Tensor:
        """Map mel spectrograms (B, 64, L) in [-1, 1] to logits (B, L / 4, 11); 0 is no word."""
        logits: Tensor = self.head(self.body(mels)).mT
        return logits


def _conv_1d(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(in_channels, out_channels, 5, stride, padding=2, bias=False),
        nn.BatchNorm1d(out_channels),
        nn.ReLU(),
    )


def listener_loss(
    listener: Listener, mels: Tensor, texts: Sequence[str], generator: torch.Generator
) -> Tensor:
    """Loss of a batch, mels (B, 64, L) in [-1, 1]: made noisy, louder or quieter, and shifted.

    The bands are shifted up or down by up to four, as another throat would, and up to a quarter of
    the bands and ten frames in a row are silenced (Park et al. 2019, "SpecAugment").
    """
    size = (len(mels), 1, 1)
    shift, band, frame = (
        int(torch.randint(low, high, (), generator=generator, device="cpu"))
        for low, high in ((-4, 5), (0, N_MELS - 8), (0, mels.shape[2] - 10))
    )
    mels = mels.roll(shift, dims=1)
    edge = mels[:, :shift] if shift > 0 else mels[:, N_MELS + shift :]
    if shift:
        edge.fill_(-1.0)
    louder = 0.15 * torch.randn(size, generator=generator, device="cpu")
    noise = torch.randn(mels.shape, generator=generator, device="cpu")
    spread = 0.15 * torch.rand(size, generator=generator, device="cpu")
    mels = (mels + louder + spread * noise).clamp(-1, 1)
    mels[:, band : band + 8] = -1.0
    mels[:, :, frame : frame + 10] = -1.0
    numbers = [[1 + WORDS.index(word) for word in text.split()] for text in texts]
    device = next(listener.parameters()).device
    logits = listener(mels.to(device)).float().log_softmax(2).transpose(0, 1)  # (L / 4, B, 11)
    return F.ctc_loss(
        logits,
        torch.tensor([number for row in numbers for number in row], device=device),
        torch.full((len(mels),), len(logits), device=device),
        torch.tensor([len(row) for row in numbers], device=device),
    )


@torch.no_grad()
def listen(listener: Listener, mels: Tensor, batch_size: int = 200) -> list[str]:
    """Write down what the recogniser hears: its best guess in each place, repetitions joined.

    Args:
        listener: The frozen recogniser.
        mels: Mel spectrograms (N, 64, L) in [-1, 1].
        batch_size: How many at a time.

    Returns:
        N texts; "" where no word is heard.

    >>> len(listen(Listener().eval(), torch.zeros(3, 64, 128)))
    3
    """
    device = next(listener.parameters()).device
    texts = []
    for part in torch.split(mels, batch_size):
        for row in listener(part.to(device)).argmax(2).tolist():
            changes = [n for i, n in enumerate(row) if n > 0 and (i == 0 or row[i - 1] != n)]
            texts.append(" ".join(WORDS[n - 1] for n in changes))
    return texts


@cache
def _sphinx() -> Any:
    """Make the recogniser once: it takes a second."""
    try:
        import pocketsphinx
    except ImportError as error:
        raise DataNotFound(
            "pocketsphinx is not installed; run: pip install 'minidiff[audio]'"
        ) from error
    # A word costs something (wip): otherwise breath is heard as further words.
    sphinx = pocketsphinx.Decoder(samprate=SAMPLE_RATE, lm=None, wip=1e-3, loglevel="FATAL")
    grammar = f"<w> = {' | '.join(WORDS)}; public <s> = <w> [<w> [<w> [<w>]]];"
    sphinx.add_jsgf_string("digits", f"#JSGF V1.0; grammar digits; {grammar}")
    sphinx.activate_search("digits")
    return sphinx


def transcribe(sounds: Tensor, seed: int = 0) -> list[str]:
    """Let pocketsphinx write down which digits it hears, one to four of them.

    It was trained on microphones, and does badly on perfect silence: each sound gets 0.3 seconds
    before and after, and faint noise, 40 decibels below its loudest.

    Args:
        sounds: (N, n_samples) at SAMPLE_RATE.
        seed: Of the noise.

    Returns:
        N texts; "" where nothing is recognised.

    Raises:
        DataNotFound: If pocketsphinx is not installed.

    >>> transcribe(torch.zeros(1, 16_000))
    ['']
    """
    sphinx = _sphinx()
    texts = []
    for i, sound in enumerate(sounds.cpu().float()):
        generator = torch.Generator("cpu").manual_seed(1_000_003 * seed + i)
        wave = F.pad(sound / sound.abs().max().clamp(min=1e-3), [int(0.3 * SAMPLE_RATE)] * 2)
        noise = torch.randn(wave.shape, generator=generator, device="cpu")
        samples = (12_000 * wave + 100 * noise).to(torch.int16)
        sphinx.start_utt()
        sphinx.process_raw(samples.numpy().tobytes(), full_utt=True)
        sphinx.end_utt()
        heard = sphinx.hyp()
        texts.append("" if heard is None else heard.hypstr)
    return texts
