"""Nets with denoising's parts: gradients, what depends on what, and batches at the edge."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from denoising_world import CLASSES, EVERY_KIND, LABELS, TABLE, VALUES, VECTOR, batch_of, denoised, spec_of
from torch import nn
from torch.func import functional_call

from training_core.learners import FusionNetConfig, LinearConfig, TabularMLPConfig
from training_core.objectives import Supervised
from training_core.objectives.denoising import (
    OBJECTIVES,
    Denoisable,
    DenoisedNet,
    DenoisingConfig,
    SupervisedAndDenoising,
    ask_inner_net,
    why_not_denoised,
)
from training_core.objectives.denoising.consistency import divergence
from training_core.objectives.denoising.reconstruction import Reconstruction
from training_core.objectives.denoising.views import Views, hidden_part
from training_core.schema import Batch, TaskSpec

pytestmark = pytest.mark.filterwarnings("error")

every_objective = pytest.mark.parametrize("kind", OBJECTIVES)
EVERY_TASK = pytest.mark.parametrize("task", [CLASSES, LABELS, VALUES], ids=lambda task: task.kind)


def judge(task: TaskSpec = CLASSES) -> SupervisedAndDenoising:
    return SupervisedAndDenoising(Supervised(task))


def rows(batch: Batch, index: torch.Tensor) -> Batch:
    assert batch.target is not None and batch.present is not None
    inputs = {name: values[index] for name, values in batch.inputs.items()}
    return Batch(inputs, batch.available[index], batch.target[index], present=batch.present[index])


@EVERY_TASK
@every_objective
def test_gradients_are_those_of_finite_differences(kind: Any, task: TaskSpec) -> None:
    model, batch, objective = denoised(spec_of(task=task), kind, weight=1.0), batch_of(spec_of(task=task)), judge(task)
    model.eval()  # no noise is drawn
    names = dict(model.named_parameters())
    source = torch.Generator().manual_seed(1)
    direction = {name: torch.randn(p.shape, generator=source, dtype=torch.float64) for name, p in names.items()}
    model.zero_grad()
    objective(model, batch).total.backward()
    slope = sum(float((p.grad * direction[name]).sum()) for name, p in names.items() if p.grad is not None)
    net = model.net
    assert isinstance(net, Denoisable) and batch.present is not None
    with torch.no_grad():  # the teacher is a constant of the objective: differences must not move it
        found = model(batch.inputs, batch.available, batch.present)
        latents = net.latents(batch.inputs, batch.present)
        teacher = net.answer(latents, batch.present)

    def moved(step: float) -> float:
        given = {name: p.detach() + step * direction[name] for name, p in names.items()}
        with torch.no_grad(), HeldConstant(model, teacher, latents, kind):
            return float(
                functional_call(_Judge(model, objective), {f"model.{n}": v for n, v in given.items()}, (batch,))
            )

    step = 1e-6
    assert slope == pytest.approx((moved(step) - moved(-step)) / (2 * step), rel=1e-5, abs=1e-8)
    assert found.judged[kind].total.isfinite()


class _Judge(nn.Module):
    def __init__(self, model: nn.Module, objective: SupervisedAndDenoising) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.objective(self.model, batch).total


class HeldConstant:
    """Within it, what the objective takes for constant stays what it was: the teacher's answer, the foretold latent."""

    def __init__(self, model: DenoisedNet, teacher: torch.Tensor, latents: torch.Tensor, kind: str) -> None:
        self._part, self._kind, self._teacher, self._latents = model.parts[kind], kind, teacher, latents

    def __enter__(self) -> None:
        part, own = self._part, type(self._part).forward
        if self._kind == "consistency":
            part.forward = lambda views: own(part, replace(views, full=self._teacher))  # pyright: ignore
        if self._kind == "prediction":
            part.forward = self._with_constant_target  # pyright: ignore[reportAttributeAccessIssue]

    def _with_constant_target(self, views: Any) -> Any:
        part: Any = self._part
        constant = replace(views, latents=self._latents)
        foretold = part.predict(views.latents)
        part.predict, kept = (lambda latents: foretold), part.predict
        try:
            return type(part).forward(part, constant)
        finally:
            part.predict = kept

    def __exit__(self, *_: object) -> None:
        self._part.__dict__.pop("forward", None)


@every_objective
def test_no_parameter_of_a_part_is_left_without_a_gradient(kind: Any) -> None:
    model = denoised(spec_of(), kind, learn_temperature=True)
    judge()(model, batch_of(spec_of(), num_rows=12)).total.backward()
    idle = [name for name, p in model.parts.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


def test_reconstruction_never_looks_at_what_it_is_to_find() -> None:
    model, batch = denoised(spec_of(), "reconstruction"), batch_of(spec_of(), absent=0.0, hidden=0.0)
    part = model.parts["reconstruction"]
    assert isinstance(part, Reconstruction)
    latents = torch.randn(6, 5, 8, dtype=torch.float64, requires_grad=True)
    for target, scales in enumerate(part.predict(latents, batch.available)):
        (slope,) = torch.autograd.grad(sum(scale.sum() for scale in scales), latents, retain_graph=True)  # pyright: ignore
        assert not slope[:, target].any()
        assert all(slope[:, source].any() for source in range(5) if source != target)


def test_reconstruction_looks_at_nothing_that_is_hidden() -> None:
    model = denoised(spec_of(), "reconstruction")
    part = model.parts["reconstruction"]
    assert isinstance(part, Reconstruction)
    latents = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    shown = torch.tensor([[True, True, False, True, False]]).expand(3, -1)
    (slope,) = torch.autograd.grad(sum(s.sum() for scales in part.predict(latents, shown) for s in scales), latents)  # pyright: ignore
    assert not slope[:, [2, 4]].any() and slope[:, [0, 1, 3]].any()


def test_the_full_view_teaches_and_is_not_taught() -> None:
    """Rows that show everything give consistency nothing to say, and the teacher gets no gradient."""
    spec = spec_of(VECTOR, TABLE)
    model, batch = denoised(spec, "consistency"), batch_of(spec, absent=0.0, hidden=0.0)
    loss = judge()(model, batch)
    assert loss.terms["denoising/consistency"].item() == pytest.approx(0.0, abs=1e-12)
    raw = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    found = model(batch.inputs, batch.available, batch.present)
    assert found.raw.requires_grad
    part = model.parts["consistency"]
    there = torch.ones(6, 2, dtype=torch.bool)
    views = Views({}, torch.zeros(6, 2, 1), there, there, there[:, 0], raw.detach().requires_grad_(), raw)
    assert part(views).total.grad_fn is not None
    part(views).total.backward()
    assert raw.grad is None


@every_objective
@pytest.mark.parametrize("num_rows", [1, 2])
def test_tiny_batches_and_absent_modalities_stay_finite(kind: Any, num_rows: int) -> None:
    spec = spec_of()
    batch = batch_of(spec, num_rows=num_rows)
    for lacking in ([0], [0, 1, 2, 3], [1, 4]):
        present = torch.ones(num_rows, 5, dtype=torch.bool)
        present[:, lacking] = False
        inputs = {m.name: values.clone() for m, values in zip(EVERY_KIND, batch.inputs.values(), strict=True)}
        for i in lacking:
            if inputs[EVERY_KIND[i].name].is_floating_point():
                inputs[EVERY_KIND[i].name].fill_(float("nan"))  # values of what is absent mean nothing
        model = denoised(spec, kind)
        loss = judge()(model, replace(batch, inputs=inputs, available=present, present=present))
        loss.total.backward()
        assert all(term.isfinite() for term in loss.terms.values())
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        shares = [loss.terms[f"denoising/{kind}/{EVERY_KIND[i].name}"].item() for i in lacking]
        assert shares == [0.0] * len(lacking)


@every_objective
def test_values_of_what_is_absent_change_nothing(kind: Any) -> None:
    spec = spec_of()
    model, batch = denoised(spec, kind).eval(), batch_of(spec, absent=0.4)
    assert batch.present is not None
    spoilt = {}
    for i, (name, values) in enumerate(batch.inputs.items()):
        spoilt[name] = values.clone()
        spoilt[name][~batch.present[:, i]] = 7 if not values.is_floating_point() else float("inf")
    before, after = judge()(model, batch), judge()(model, replace(batch, inputs=spoilt))
    assert {n: t.item() for n, t in before.terms.items()} == {n: t.item() for n, t in after.terms.items()}


@every_objective
def test_rows_of_no_weight_and_the_order_of_rows_do_not_matter(kind: Any) -> None:
    spec = spec_of()
    model, batch = denoised(spec, kind).eval(), batch_of(spec)
    expected = judge()(model, batch).terms
    shuffled = judge()(model, rows(batch, torch.tensor([3, 1, 5, 0, 2, 4]))).terms
    filled = rows(batch, torch.tensor([0, 1, 2, 3, 4, 5, 0, 0]))
    weight = torch.tensor([1.0] * 6 + [0.0] * 2, dtype=torch.float64)
    padded = judge()(model, replace(filled, weight=weight)).terms
    for name, term in expected.items():
        assert shuffled[name].item() == pytest.approx(term.item(), rel=1e-9, abs=1e-12)
        assert padded[name].item() == pytest.approx(term.item(), rel=1e-9, abs=1e-12)


def test_the_target_is_learned_from_every_view() -> None:
    """From what is shown, from what is hidden, and from all of it, each as the net itself would answer to it."""
    spec = spec_of()
    batch = batch_of(spec, num_rows=12)
    model, target = denoised(spec, "consistency", weight=0.0), Supervised(CLASSES)
    assert batch.present is not None
    seen = {
        "shown": batch.available,
        "rest": hidden_part(batch.available, batch.present),
        "full": batch.present,
    }
    alone = {view: target(model.net, replace(batch, available=mask)).total.item() for view, mask in seen.items()}
    loss = judge()(model, batch)
    assert {view: loss.terms[f"view/{view}"].item() for view in seen} == pytest.approx(alone, rel=1e-12)
    assert loss.total.item() == pytest.approx(sum(alone.values()) / 3, rel=1e-12)
    of_one = judge()(denoised(spec, "consistency", weight=0.0, views=("rest",)), batch)
    assert of_one.total.item() == pytest.approx(alone["rest"], rel=1e-12)
    assert [name for name in of_one.terms if name.startswith("view/")] == ["view/rest"]


def test_the_hidden_part_is_never_empty_and_only_what_is_there() -> None:
    present = torch.tensor([[True, True, True], [True, True, False], [True, False, True], [False, False, False]])
    shown = torch.tensor([[True, False, False], [True, True, False], [False, False, True], [False, False, False]])
    expected = [[False, True, True], [True, True, False], [True, False, False], [False, False, False]]
    assert hidden_part(shown, present).tolist() == expected


def test_consistency_counts_both_parts_alike() -> None:
    spec = spec_of(VECTOR, TABLE)
    model, batch = denoised(spec, "consistency"), batch_of(spec, absent=0.0, hidden=0.6)
    assert batch.present is not None
    raw = {
        view: model.net(batch.inputs, mask)
        for view, mask in {
            "shown": batch.available,
            "rest": hidden_part(batch.available, batch.present),
            "full": batch.present,
        }.items()
    }
    parts = [divergence(CLASSES, raw["full"], raw[view]).mean().item() for view in ("shown", "rest")]
    assert min(parts) > 0
    found = judge()(model, batch).terms
    assert found["denoising/consistency"].item() == pytest.approx(sum(parts) / 2, rel=1e-12)
    one = judge()(denoised(spec, "consistency", views=("shown", "full")), batch).terms
    assert one["denoising/consistency"].item() == pytest.approx(parts[0], rel=1e-12)


def test_terms_have_the_names_that_reports_read() -> None:
    spec = spec_of(VECTOR, TABLE)
    loss = judge()(denoised(spec, "alignment", "prediction", weight=0.5), batch_of(spec))
    assert list(loss.terms) == [
        "supervised/cross_entropy", "view/shown", "view/rest", "view/full",
        "denoising/alignment", "denoising/alignment/shape", "denoising/alignment/record",
        "denoising/prediction", "denoising/prediction/shape", "denoising/prediction/record",
        "denoising/total",
    ]  # fmt: skip
    parts = loss.terms["denoising/alignment"] + loss.terms["denoising/prediction"]
    assert loss.terms["denoising/total"].item() == pytest.approx(0.5 * parts.item(), rel=1e-12)
    whole = loss.terms["supervised/cross_entropy"] + loss.terms["denoising/total"]
    assert loss.total.item() == pytest.approx(whole.item(), rel=1e-12)


def test_only_the_chosen_modalities_are_concerned() -> None:
    spec = spec_of()
    model, batch = denoised(spec, *OBJECTIVES, modalities=("record", "photo")), batch_of(spec)
    terms = judge()(model, batch).terms
    assert {name.split("/")[2] for name in terms if name.count("/") == 2} == {"record", "photo"}
    part = denoised(spec, "reconstruction", modalities=("record", "photo")).eval()
    before = judge()(part, batch).terms["denoising/reconstruction"]
    other = {**batch.inputs, "shape": batch.inputs["shape"] + 1}
    assert judge()(part, replace(batch, inputs=other)).terms["denoising/reconstruction"].item() == before.item()


def test_the_net_inside_answers_as_it_does_without_denoising() -> None:
    spec = spec_of()
    model, batch = denoised(spec, *OBJECTIVES).eval(), batch_of(spec)
    alone = model.net(batch.inputs, batch.available)
    assert torch.equal(ask_inner_net(model, batch), alone)
    torch.testing.assert_close(model(batch.inputs, batch.available, batch.present).raw, alone, rtol=1e-12, atol=1e-12)


def test_noise_of_the_bottleneck_is_drawn_in_training_only() -> None:
    spec = spec_of()
    model, batch = denoised(spec, "information"), batch_of(spec)
    torch.manual_seed(0)
    drawn = [model(batch.inputs, batch.available, batch.present).raw for _ in range(2)]
    assert not torch.equal(*drawn)
    model.eval()
    assert torch.equal(*[model(batch.inputs, batch.available, batch.present).raw for _ in range(2)])


def test_hard_negatives_and_a_learned_temperature_change_alignment() -> None:
    spec = spec_of(VECTOR, TABLE)
    batch = batch_of(spec, num_rows=12)
    changed: tuple[dict[str, Any], ...] = ({}, {"hardness": 1.0}, {"temperature": 0.05})
    plain, hard, sharp = (
        judge()(denoised(spec, "alignment", **settings), batch).terms["denoising/alignment"].item()
        for settings in changed
    )
    assert hard > plain and sharp != plain
    learning = denoised(spec, "alignment", learn_temperature=True)
    assert [name for name, _ in learning.named_parameters() if "sharpness" in name]
    assert not [name for name, _ in denoised(spec, "alignment").named_parameters() if "sharpness" in name]


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_objectives_are_summed_up_in_full_precision(precision: torch.dtype) -> None:
    spec = spec_of(VECTOR, TABLE)
    model, batch = denoised(spec, *OBJECTIVES).float(), batch_of(spec)
    single = {name: values.float() for name, values in batch.inputs.items()}
    with torch.autocast("cpu", precision):
        loss = judge()(model, replace(batch, inputs=single))
    assert all(term.dtype == torch.float32 and term.isfinite() for term in loss.terms.values())


def test_who_is_not_denoised_is_told_why() -> None:
    spec, on = spec_of(VECTOR, TABLE), DenoisingConfig(enabled=True)
    net = FusionNetConfig().build(spec, 0)
    assert isinstance(net, Denoisable) and why_not_denoised(net, spec, on) is None
    assert why_not_denoised(net, spec, DenoisingConfig()) == "it is switched off"
    reason = why_not_denoised(net, spec, DenoisingConfig(enabled=True, modalities=("shape",)))
    assert reason is not None and "shape only" in reason
    mlp = TabularMLPConfig().build(spec_of(VECTOR), 0)
    assert "no latents" in str(why_not_denoised(mlp, spec_of(VECTOR), on))
    assert "one step" in str(why_not_denoised(LinearConfig().build(spec, 0), spec, on))
