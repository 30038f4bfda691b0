"""Write a compressed model for given counts, beside the reference that it must equal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.compensate.fits import ProducerMixing, Repairs
from lbyl_onnx.compensate.group import Fitted, fit
from lbyl_onnx.compensate.selection import KeptCounts, PruningPlan, choose_channels
from lbyl_onnx.graph import source as graph_source
from lbyl_onnx.graph.costs import Costs, count_costs
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.guard.memory import release
from lbyl_onnx.io.external_data import TensorReader
from lbyl_onnx.io.writer import ModelDraft, write_draft
from lbyl_onnx.methods.types import Ranking
from lbyl_onnx.observe.session import ObservationRound, Prepared
from lbyl_onnx.rewrite.assemble import Shapes, apply_edits
from lbyl_onnx.rewrite.deployment import Deployed, Deployment
from lbyl_onnx.rewrite.norm_masks import norm_masks, with_kept_statistics
from lbyl_onnx.rewrite.product_masks import product_masks, with_masked_products
from lbyl_onnx.rewrite.shrink import new_shape, shrunk
from lbyl_onnx.rewrite.storing import as_stored, stored
from lbyl_onnx.rewrite.weights import Edits, compensated
from lbyl_onnx.runtime.baseline import Baseline
from lbyl_onnx.types import Progress


@dataclass(frozen=True, eq=False)
class ModelBuilder:
    """Makes and measures models of given counts.

    Parameters
    ----------
    prepared, deployment
        What can be fitted, and what becomes of what is made.
    measured, rankings
        What is measured, and how channels go where that is known.
    staged, reference
        Files: the compressed model, and the reference that it must equal.
    progress
        Called with each stage as it begins.
    """

    prepared: Prepared
    deployment: Deployment
    measured: Iterable[ObservationRound]
    rankings: Mapping[int, Ranking]
    staged: Path
    reference: Path
    progress: Progress

    @property
    def baseline(self) -> Baseline:
        """The original as it runs."""
        return self.deployment.baseline

    @property
    def deployed(self) -> Deployed:
        """The compressed model as it is deployed."""
        return self.deployment.of(self.staged)

    def make(self, counts: KeptCounts) -> Fitted:
        """Fit, rewrite, repair; write both files."""
        analyzed = self.prepared.analyzed
        step = partial(self.progress, "compensating")
        fitted = fit(self.prepared, counts, self.measured, self.rankings, step)
        if not fitted.plan.groups:
            return fitted
        self.progress("rewriting", 0, 1)
        release()
        repairs = fitted.modelled
        if fitted.statistics is not None:
            self.progress("repairing", 0, 1)
            plain = self._draft(self._compensated(fitted, fitted.product_mixings, {}), {})
            restored = self._staying_alone(plain, fitted.plan)
            changed = {f.consumer.binding.node for f in fitted.fits if f.delivery.removed.size}
            repairs = fitted.statistics.repaired(analyzed, restored, changed)
        mixings = (*fitted.producer_mixings, *fitted.product_mixings)
        edits = self._compensated(fitted, mixings, repairs)
        reference = self._staying_alone(self._draft(edits, {}), fitted.plan)
        write_draft(reference, self.reference, analyzed.read, "auto")
        release()
        self._write(edits, fitted.plan)
        return fitted

    def _compensated(
        self, fitted: Fitted, producer_mixings: Sequence[ProducerMixing], repairs: Repairs
    ) -> Edits:
        """Compensated constants, rounded to the types that they are stored in."""
        analyzed, held = self.prepared.analyzed, self.baseline.effort.held_weight
        graph, tensor_info = analyzed.graph, analyzed.tensor_info
        fits, norms = fitted.fits, fitted.norms
        edits = compensated(graph, tensor_info, fits, producer_mixings, repairs, norms, held)
        return as_stored(graph, tensor_info, analyzed.channels.sharing, edits)

    def _draft(self, edits: Edits, shapes: Shapes) -> ModelDraft:
        """Return the model with edits made where its constants are stored."""
        analyzed = self.prepared.analyzed
        edits, moved = stored(analyzed.tensor_info, analyzed.channels.sharing, edits)
        return apply_edits(analyzed.model, edits, {**shapes, **moved})

    def _staying_alone(self, draft: ModelDraft, plan: PruningPlan) -> ModelDraft:
        """Let what takes several channels together see those that stay alone."""
        analyzed = self.prepared.analyzed
        where = analyzed.model, analyzed.tensor_info, analyzed.channels, plan.removed
        masked = with_masked_products(draft, product_masks(*where))
        return with_kept_statistics(masked, norm_masks(*where), analyzed.tensor_info.opset)

    def cut(self, counts: KeptCounts) -> None:
        """Write a model of the compressed one's sizes, for timing: its values are not right."""
        analyzed = self.prepared.analyzed
        plan = choose_channels(
            analyzed.graph, analyzed.tensor_info, self.prepared.groups, counts, "random", 0
        )
        self._write(Edits({}, {}, {}), plan)

    def whole(self) -> None:
        """Write the original as it is, to be deployed."""
        analyzed = self.prepared.analyzed
        write_draft(analyzed.draft, self.staged, analyzed.read, "auto")

    def costs(self) -> tuple[Costs, int]:
        """Return the costs of what was written, and its bytes."""
        model, size = graph_source.load_model(self.staged)
        first = self.baseline.first
        return count_costs(model, TensorInfo(model, first, first, TensorReader(self.staged))), size

    def _write(self, edits: Edits, plan: PruningPlan) -> None:
        """Write the compressed model, without the channels that are not in the plan."""
        analyzed, held = self.prepared.analyzed, self.baseline.effort.held_weight
        graph, tensor_info, channels = analyzed.graph, analyzed.tensor_info, analyzed.channels
        edits = shrunk(graph, tensor_info, channels, edits, plan.removed, held)
        draft = self._draft(edits, _new_shapes(analyzed, plan))
        write_draft(draft, self.staged, analyzed.read, self.prepared.config.external_data)


def _new_shapes(analyzed: AnalyzedModel, plan: PruningPlan) -> dict[str, tuple[int | None, ...]]:
    """Shapes of the activations that have shrunk; None for the dimensions that stay.

    A declared shape that was wrong before is put right.
    """
    alive = ~np.isin(analyzed.channels.roots, plan.removed)
    shapes: dict[str, tuple[int | None, ...]] = {
        name: tuple(
            new if size > 1 else None
            for new, size in zip(new_shape(labels, alive), labels.shape, strict=True)
        )
        for name, labels in analyzed.channels.tensors.items()
        if not np.all(alive[labels])
    }
    for info in analyzed.model.graph.value_info:
        if analyzed.tensor_info.contradicts(info):
            shape = analyzed.tensor_info.static_shape(info.name) or ()
            new = shapes.get(info.name, (None,) * len(shape))
            shapes[info.name] = tuple(a or b for a, b in zip(new, shape, strict=True))
    return shapes
