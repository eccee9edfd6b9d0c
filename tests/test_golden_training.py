"""Golden training cases: every loss, every stored gradient, a step of the optimizer, learning rates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from anytag.text_encoders.wordpiece import WordPieces
from anytag.torch.checkpoints.weight_names import FAMILY_TABLES, SWIN, VIT
from anytag.torch.nn.configs import VitConfig
from anytag.torch.nn.network import TagNetwork
from anytag.torch.nn.query_modules import LearnedQueries
from anytag.torch.training.batch import Batch
from anytag.torch.training.losses import caption_labels
from anytag.torch.training.objectives import OBJECTIVES
from anytag.torch.training.recipes import find
from anytag.torch.training.schedules import Schedule, cosine, linear_warmup, step_decay
from anytag.torch.training.student import PROMPT_LENGTH, FixedQueries, Student
from anytag.torch.training.terms import terms_of
from tests.golden_cases import Case, cases
from tests.golden_networks import check_tagging, family_of, network_of, our_name, rows_of, tensor

TRAIN = cases("tag2text/train", "ram/train", "ram_plus/train")
TERMS = {"loss_t2t": "caption", "loss_tag": "tag", "loss_dis": "distillation", "loss_alignment": "alignment"}


@dataclass
class Run:
    """A case's network with its losses."""

    network: TagNetwork
    queries: Tensor | LearnedQueries
    losses: dict[str, Tensor]

    def parameter(self, name: str, family: str) -> nn.Parameter:
        backbone = VIT if isinstance(self.network.config.backbone, VitConfig) else SWIN
        mine = our_name(name, (*backbone, *FAMILY_TABLES[family]))
        assert mine is not None
        if mine.startswith("queries."):
            assert isinstance(self.queries, LearnedQueries)
            return self.queries.get_parameter(mine.removeprefix("queries."))
        return self.network.get_parameter(mine)

    def parameters(self) -> list[nn.Parameter]:
        learned = self.queries.parameters() if isinstance(self.queries, nn.Module) else ()
        return [*self.network.parameters(), *learned]


def texts(case: Case) -> dict[str, Tensor]:
    """Wordpieces of tags and captions, cut by our tokenizer."""
    pieces, told = WordPieces(case.given["vocab"]), case.inputs.get("parse_tag", case.inputs["image_tag"])
    names = [[case.given["tag_list"][k] for k in row.nonzero()[0]] for row in told]
    tag_ids, tag_mask = pieces.tag_text(names)
    captions = torch.from_numpy(pieces.caption_text(case.given["captions"]))
    return {
        "tag_ids": torch.from_numpy(tag_ids),
        "tag_mask": torch.from_numpy(tag_mask),
        "caption_ids": captions,
    }


def prompt_length(case: Case) -> int:
    """Wordpieces of the prompt with the one before it: what the published code does not learn."""
    if "vocab" not in case.given or "prompt" not in case.config:
        return PROMPT_LENGTH
    return len(WordPieces(case.given["vocab"]).prompt(case.config["prompt"]))


def run(case: Case) -> Run:
    """The losses of a case, in evaluation mode with gradients, as stored."""
    network, queries = network_of(case)
    inputs = {name: tensor(array) for name, array in case.inputs.items()}
    network.encoder.mean.zero_()  # the stored photos are normalised already
    network.encoder.std.fill_(1.0)
    batch = Batch(
        pixels=inputs["image"],
        tags=inputs["image_tag"],
        teacher=inputs.get("clip_feature"),
        texts=inputs.get("batch_text_embed"),
    )
    if network.captions is not None:
        batch = replace(batch, **texts(case))  # type: ignore[arg-type]  # tensors, by the names of such fields
    asked = queries if isinstance(queries, LearnedQueries) else FixedQueries(queries[0])
    objective = replace(OBJECTIVES[family_of(case)], sums=True, same_captions_match=False)
    student = Student(
        network, asked, objective, terms_of(objective), prompt_length=prompt_length(case)
    ).eval()
    return Run(network, queries, student(batch))


@pytest.mark.parametrize("case", TRAIN, ids=str)
def test_golden_losses_and_gradients(case: Case) -> None:
    made = run(case)
    named = {name: made.losses[ours] for name, ours in TERMS.items() if name in case.outputs}
    assert len(named) == len(made.losses) - 1
    named["loss_total"] = named["total"] = made.losses["loss"]
    for name, loss in named.items():
        if name in case.outputs:
            case.check(name, loss.detach())
        check_gradients(case, f"grad.{name}.", TERMS.get(name, "loss"))


def check_gradients(case: Case, prefix: str, term: str) -> None:
    """Of a run of its own: the gradients of pieces are there once."""
    names = [name for name in case.outputs if name.startswith(prefix)]
    if not names:
        return
    made = run(case)
    parameters = [made.parameter(name.removeprefix(prefix), family_of(case)) for name in names]
    for name, gradient in zip(names, torch.autograd.grad(made.losses[term], parameters), strict=True):
        case.check(name, gradient)


@pytest.mark.parametrize("case", TRAIN, ids=str)
def test_golden_optimizer_step(case: Case) -> None:
    made = run(case)
    config = case.config
    optimizer = torch.optim.AdamW(made.parameters(), lr=config["lr"], weight_decay=config["weight_decay"])
    torch.autograd.backward(made.losses["loss"])
    optimizer.step()
    for name in (name for name in case.outputs if name.startswith("step.")):
        case.check(name, made.parameter(name.removeprefix("step."), family_of(case)).detach())


@pytest.mark.parametrize("case", TRAIN, ids=str)
@torch.inference_mode()
def test_golden_steps_on_the_way(case: Case) -> None:
    network, queries = network_of(case)
    check_tagging(case, network, rows_of(queries))
    if "alignment_logits" in case.outputs:
        captions = tensor(case.inputs["batch_text_embed"])
        check_tagging(case, network, captions[None, :, None], prefix="alignment_")


@pytest.mark.parametrize("case", [case for case in TRAIN if "decoder_logits" in case.outputs], ids=str)
@torch.inference_mode()
def test_golden_texts_on_the_way(case: Case) -> None:
    network, _ = network_of(case)
    assert network.captions is not None
    tokens, _ = network.encoder.from_stage(tensor(case.inputs["image"]), 0)
    ids = texts(case)
    case.check("tag_input_ids", ids["tag_ids"])
    case.check("tag_attention_mask", ids["tag_mask"])
    case.check("decoder_input_ids", ids["caption_ids"])
    case.check("decoder_attention_mask", (ids["caption_ids"] != 0).long())
    case.check("decoder_labels", caption_labels(ids["caption_ids"], skip=prompt_length(case)))
    memory = network.captions.encode_tags(ids["tag_ids"], ids["tag_mask"], tokens)
    case.check("tag_encoder_out", memory)
    remembered = network.captions.project_kv(memory)
    logits, _ = network.captions.decode(ids["caption_ids"], remembered, mask=ids["caption_ids"] != 0)
    case.check("decoder_logits", logits)


@pytest.mark.parametrize("case", cases("schedule/lr"), ids=str)
def test_golden_schedules(case: Case) -> None:
    said = case.config["step"]
    rates = [
        step_decay(epoch, first=said["init_lr"], least=said["min_lr"], decay=said["decay_rate"])
        for epoch in range(said["epochs"])
    ]
    case.check("step", rates)
    said = case.config["warmup"]
    numbers = {"steps": said["warmup_steps"], "start": said["warmup_lr"], "first": said["init_lr"]}
    case.check("warmup", [linear_warmup(step, **numbers) for step in said["steps"]])
    said = case.config["cosine"]
    rates = [
        cosine(epoch, last=said["max_epoch"], first=said["init_lr"], least=said["min_lr"])
        for epoch in range(said["max_epoch"])
    ]
    case.check("cosine", rates)


@pytest.mark.parametrize("case", cases("schedule/lr"), ids=str)
def test_golden_schedules_are_those_that_training_follows(case: Case) -> None:
    """`Schedule.learning_rate`, which the trainer calls, with the numbers of the case."""
    step, rise, cos = (case.config[name] for name in ("step", "warmup", "cosine"))
    each = max(rise["steps"]) + 1  # steps of an epoch
    pretrain = Schedule("epoch-decay", step["min_lr"], rise["warmup_lr"], step["decay_rate"])
    numbers = {"rate": step["init_lr"], "warmup": 0, "total": step["epochs"] * each, "per_epoch": each}
    rates = [pretrain.learning_rate(epoch * each, **numbers) for epoch in range(step["epochs"])]
    case.check("step", rates)
    risen = {**numbers, "rate": rise["init_lr"], "warmup": rise["warmup_steps"]}
    case.check("warmup", [pretrain.learning_rate(number, **risen) for number in rise["steps"]])
    tune = Schedule("epoch-cosine", cos["min_lr"])
    numbers = {"rate": cos["init_lr"], "warmup": 0, "total": cos["max_epoch"] * each, "per_epoch": each}
    rates = [tune.learning_rate(epoch * each + 5, **numbers) for epoch in range(cos["max_epoch"])]
    case.check("cosine", rates)


@pytest.mark.parametrize("family", ["tag2text", "ram", "ram-plus"])
def test_recipes_have_the_published_numbers(family: str) -> None:
    first, second = find(f"{family}-14m"), find(f"{family}-14m-384")
    schedule = Schedule("epoch-decay", 5e-7, 5e-7, 0.9)
    assert (first.rate, first.warmup, first.schedule) == (1e-4, 3000, schedule)
    assert (second.rate, second.epochs, second.schedule) == (5e-6, 2, Schedule("epoch-cosine"))
