"""Constants of the normalisations that lose channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.channels.labels import Labels
from lbyl_onnx.compensate.fits import NormFit
from lbyl_onnx.methods.normalised import kept_norm
from lbyl_onnx.methods.types import Moments
from lbyl_onnx.types import Floats


def norm_fits(
    analyzed: AnalyzedModel,
    removed: Labels,
    moments: Mapping[int, Moments],
    gains: Iterable[tuple[int, Floats]] = (),
) -> tuple[NormFit, ...]:
    """Fit the constants of each normalisation that loses channels.

    Parameters
    ----------
    analyzed
        The model.
    removed
        Root labels of the channels that go.
    moments
        Of what is normalised, by the normalisation's node; those that are not among them stay.
    gains
        What the outputs of some are to be multiplied by beside that, by node, each (channels,).
    """
    alive, scaled = ~np.isin(analyzed.channels.roots, removed), dict(gains)
    met = {n.node for g in analyzed.channels.groups if g.products for n in g.norms}
    index_of = {id(node): index for index, node in enumerate(analyzed.graph.nodes)}
    fits: list[NormFit] = []
    for norm in analyzed.channels.norms:
        stays = alive[norm.labels].reshape(-1, norm.labels.shape[-1])[0]  # (.., C) -> (C,)
        parts, here = analyzed.norm_parts(norm), moments.get(norm.node)
        if parts is None or here is None or np.all(stays):
            continue
        second = here.covariance + np.outer(here.mean, here.mean)
        kept = np.flatnonzero(stays)
        new = kept_norm(
            here.mean,
            second,
            kept,
            parts.epsilon,
            centred=parts.centred,
            constant=norm.node in met,
        )
        node, operand = parts.epsilon_at
        fits.append(
            NormFit(
                (index_of[id(parts.scale_at[0])], parts.scale_at[1]),
                new.scale * scaled.get(norm.node, np.ones(len(stays))),
                (index_of[id(node)], operand),
                new.epsilon,
            )
        )
    return tuple(fits)
