"""Writes decoder.safetensors into a model folder that has none: of `mini`, version 4.

    python -m scripts.store_decoder [FOLDER]

The decoder's weights are read back out of tags.onnx, this once; the release writes them from now on.
"""

from __future__ import annotations

import sys
from pathlib import Path

from anytag.models.folder import ModelFolder, write_card
from anytag.models.registry import EMBEDDED
from anytag.runtime.onnx import TAGS
from anytag.torch.checkpoints.load import DECODER, save_decoder
from anytag.torch.export.decoder import read_decoder


def main(folder: Path = EMBEDDED) -> None:
    model = ModelFolder.open(folder)
    save_decoder(read_decoder(model.file(TAGS)), folder / DECODER)
    write_card(folder, model.card)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
