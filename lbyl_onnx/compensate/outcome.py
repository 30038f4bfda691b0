"""What becomes of one group, and how it is fitted by its weights alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.channels.groups import GroupBinding
from lbyl_onnx.compensate.fits import ConsumerFit, ProducerMixing
from lbyl_onnx.compensate.selection import GroupPlan
from lbyl_onnx.compensate.variance import OutputContribution
from lbyl_onnx.config import Config
from lbyl_onnx.errors import OptionError
from lbyl_onnx.methods.registry import Method, find_method
from lbyl_onnx.methods.types import Delivery, FoldedRows, Moments
from lbyl_onnx.observe.pooling import averaged
from lbyl_onnx.types import Floats


@dataclass(frozen=True, eq=False)
class Outcome:
    """One group: the channels that stay, its fits (None where they are not finite), and how."""

    entry: GroupPlan
    fits: tuple[ConsumerFit, ...] | None
    restored: str
    mixture: ProducerMixing | None = None
    product_mixings: tuple[ProducerMixing, ...] = ()
    gains: tuple[tuple[int, Floats], ...] = ()
    parts: tuple[tuple[int, OutputContribution], ...] = ()
    error: float | None = None


def by_weights(analyzed: AnalyzedModel, entry: GroupPlan, config: Config, why: str = "") -> Outcome:
    """Fit a group by its weights alone; None for the fits where these are not finite."""
    method = config.method_entry
    if method.needs == "moments" and method.fallback is not None:
        method = find_method(method.fallback)
    if not entry.group.consumers:
        return Outcome(entry, (), "dropped: nothing reads them linearly")
    fits = [_fit_one(analyzed, entry, place, config, method) for place in entry.group.consumers]
    restored = f"{method.name} ({why})" if why else method.name
    fitted = [fit for fit in fits if fit is not None]
    if len(fitted) < len(fits):
        return Outcome(entry, None, restored)
    if method.needs != "nothing":
        shared = averaged([fit.delivery for fit in fitted], analyzed.layers(entry.group))
        fitted = [replace(fit, delivery=d) for fit, d in zip(fitted, shared, strict=True)]
    return Outcome(entry, tuple(fitted), restored + notes_of([fit.delivery for fit in fitted]))


def _fit_one(
    analyzed: AnalyzedModel,
    entry: GroupPlan,
    consumer: GroupBinding,
    config: Config,
    method: Method,
) -> ConsumerFit | None:
    """Fit one consumer; None where the group's weights are not finite."""
    if method.needs == "nothing":
        delivery = delivered(method, entry.group.size, entry, config)
        return ConsumerFit(entry.group, consumer, delivery)
    response = analyzed.respond(entry.group, consumer)
    if response is None:
        return None
    delivery = delivered(method, response.rows, entry, config)
    return ConsumerFit(entry.group, consumer, response.at_consumer(delivery))


def delivered(
    method: Method, evidence: int | FoldedRows | Moments, entry: GroupPlan, config: Config
) -> Delivery:
    """Let a method deliver, and check that what it gives is of these channels."""
    delivery = method.deliver(evidence, entry.kept, **config.options_of(method))
    taps = (1, evidence.taps) if isinstance(evidence, Moments) else (1,)
    valid = (
        isinstance(delivery, Delivery)
        and delivery.size == entry.group.size
        and delivery.taps in taps
    )
    if not valid or not np.array_equal(delivery.kept, entry.kept):
        raise OptionError(
            f"method {method.name} gives no Delivery from {len(entry.kept)} kept channels to all "
            f"{entry.group.size}"
        )
    return delivery


def notes_of(deliveries: Iterable[Delivery]) -> str:
    """What the deliveries of a group say of themselves, each once."""
    return "".join(f", {note}" for note in dict.fromkeys(d.note for d in deliveries) if note)
