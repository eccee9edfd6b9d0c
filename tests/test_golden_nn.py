"""Golden cases of the networks: encoders, position tables, tagging, text modules, preprocessing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from anytag.images import load, prepare
from anytag.torch.checkpoints.resample import resample_positions, resample_relative_positions
from anytag.torch.checkpoints.weight_names import SWIN, VIT
from anytag.torch.nn.backbones import Stages
from anytag.torch.nn.configs import FAMILIES
from anytag.torch.nn.transformer_backbones import SwinBackbone, VitBackbone
from tests.golden_cases import Case, cases
from tests.golden_networks import (
    as_rows,
    check_tagging,
    network_of,
    our_name,
    rows_of,
    swin_config,
    tensor,
    vit_config,
)

TAGGING = ("ram/tagging", "ram_plus/tagging", "ram/checkpoint", "ram_plus/checkpoint")
OPEN = ("ram/openset", "ram_plus/openset")

GRADIENTS = 1e-4
"""Of the largest value: CPUs add up float32 in other orders, which made 5e-5 on one of them."""


def load_backbone(case: Case, backbone: Stages) -> None:
    """A case of the encoder alone names its weights without the prefix."""
    table = VIT if isinstance(backbone, VitBackbone) else SWIN
    found = {our_name(f"visual_encoder.{name}", table): tensor(array) for name, array in case.weights.items()}
    mine = {name.removeprefix("encoder.backbone."): stored for name, stored in found.items() if name}
    backbone.load_state_dict(mine)
    backbone.eval()


@pytest.mark.parametrize("case", cases("swin/forward"), ids=str)
def test_golden_swin(case: Case) -> None:
    backbone = SwinBackbone(swin_config(case.config), size=case.config["image_size"])
    load_backbone(case, backbone)
    x = tensor(case.inputs["image"])
    patches = backbone(x, 0, 1)
    case.check("patch_embed", patches.flatten(1, 2).detach())
    for stage in range(len(case.config["depths"])):
        after = backbone(x, 0, stage + 2)
        if stage + 2 < len(backbone.stages):  # the published stage ends with what opens our next
            after = backbone.stages.get_submodule(f"{stage + 2}.downsample")(after)
        case.check(f"stage{stage}", after.flatten(1, 2).detach())
    tokens = backbone.tokens(backbone(x))
    case.check("tokens", tokens.detach())
    case.check("pooled", tokens[:, 0].detach())
    check_gradients(case, backbone, tokens.square().mean())


def check_gradients(case: Case, backbone: Stages, loss: Tensor) -> None:
    for name in (name for name in case.outputs if name.startswith("grad.sq.")):
        mine = our_name(f"visual_encoder.{name.removeprefix('grad.sq.')}", SWIN)
        assert mine is not None
        parameter = backbone.get_parameter(mine.removeprefix("encoder.backbone."))
        case.check(name, torch.autograd.grad(loss, parameter, retain_graph=True)[0], of_largest=GRADIENTS)


@pytest.mark.parametrize("case", cases("vit/forward"), ids=str)
@torch.inference_mode()
def test_golden_vit(case: Case) -> None:
    backbone = VitBackbone(vit_config(case.config), size=case.config["image_size"])
    load_backbone(case, backbone)
    tokens = backbone.tokens(backbone(tensor(case.inputs["image"])))
    case.check("tokens", tokens)
    case.check("pooled", tokens[:, 0])


@pytest.mark.parametrize("case", cases("swin/relpos_interpolation"), ids=str)
def test_golden_relative_positions(case: Case) -> None:
    table = tensor(case.inputs["table"])
    for window in case.config["dst_windows"]:
        case.check(f"table_{window}", resample_relative_positions(table, window))


@pytest.mark.parametrize("case", cases("vit/posembed_interpolation"), ids=str)
def test_golden_positions(case: Case) -> None:
    table = tensor(case.inputs["pos_embed"])
    for size in case.config["dst_image_sizes"]:
        made = resample_positions(table, size // case.config["patch_size"])
        case.check(f"pos_embed_{size}", made)


@pytest.mark.parametrize("case", cases(*TAGGING, *OPEN), ids=str)
@torch.inference_mode()
def test_golden_tagging(case: Case) -> None:
    network, queries = network_of(case)
    tags, thresholds = case.given["tag_list"], torch.tensor(case.config["class_threshold"])
    rows = rows_of(queries)
    if case.kind in OPEN:
        tags = case.given["open_tag_list"]
        rows = as_rows(tensor(case.inputs["label_embed"]), len(tags))
        thresholds = torch.full((len(tags),), float(case.config["openset_threshold"]))
    logits = check_tagging(case, network, rows)
    case.check("probabilities", logits.sigmoid())
    chosen = logits.sigmoid() > thresholds
    chosen[:, case.config["delete_tag_index"]] = False
    case.check("tag_mask", chosen)
    indices = [row.nonzero().flatten().tolist() for row in chosen]
    assert indices == case.said["tag_indices"]
    assert [" | ".join(tags[k] for k in row) for row in indices] == case.said["tags"]
    for name in (name for name in case.outputs if name.startswith("table.")):
        mine = our_name(name.removeprefix("table."), SWIN)
        assert mine is not None
        case.check(name, network.get_parameter(mine))


@pytest.mark.parametrize("case", cases("tag2text/text_modules"), ids=str)
@torch.inference_mode()
def test_golden_text_modules(case: Case) -> None:
    network, _ = network_of(case)
    head = network.captions
    assert head is not None
    given = {name: tensor(array) for name, array in case.inputs.items()}
    case.check(
        "tag_encoder_out", head.encode_tags(given["tag_ids"], given["tag_mask"], given["image_tokens"])
    )
    memory = head.project_kv(given["encoder_hidden_states"])
    logits, _ = head.decode(given["input_ids"], memory, mask=given["attention_mask"])
    case.check("logits", logits)
    past, steps = None, []
    for n in range(logits.shape[1]):
        ids, mask = given["input_ids"][:, n : n + 1], given["attention_mask"][:, : n + 1]
        step, past = head.decode(ids, memory, past, mask)
        steps.append(step)
    case.check("logits", torch.cat(steps, 1))


@pytest.mark.parametrize("case", cases("preprocess/image"), ids=str)
def test_golden_preprocessing(case: Case) -> None:
    """`images.prepare` squashes; the network normalises."""
    row = FAMILIES["ram"]
    assert (list(row.mean), list(row.std)) == (case.config["mean"], case.config["std"])
    for name, mode in case.config["modes"].items():
        picture = Image.fromarray(case.inputs[name])
        assert picture.mode == mode
        for size in case.config["image_sizes"]:
            pixels = prepare(load(picture, exact=True), size=size, exact=True)
            normalised = (pixels / 255 - np.reshape(row.mean, (3, 1, 1))) / np.reshape(row.std, (3, 1, 1))
            case.check(f"{name}.{size}", normalised.astype(np.float32))
