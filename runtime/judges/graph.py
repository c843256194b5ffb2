"""A language model as an ONNX graph, which runs without torch; meant for models of up to about a billion parameters."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from tilth.encoders.fusion import finite
from tilth.runtime.stages.graphs import Arrays, Graph
from tilth.runtime.stages.stage1 import Floats

INPUTS, OUTPUTS = {"ids", "mask"}, {"logits"}
KEEPS = ({"past"}, {"kept"})  # what a graph that keeps also takes and gives


class GraphModel:
    """A graph `ids, mask (n, t), past (2 × layers, heads, p, width) -> logits (n, k)` of the label tokens after each row.

    Args:
        graph: It.
        begins: What all rows begin with; read once where the graph keeps keys and values, and anew with each row where it does not.
        past_shape: Layers times two, heads and width of what the graph keeps; None where it keeps nothing.
        padding: The side that shorter rows are filled on.

    Attributes:
        kept: Keys and values of the beginning, `(2 × layers, heads, tokens, width)`; None where the graph keeps none.

    Raises:
        ModelError: The graph says what is no number.
    """

    def __init__(
        self, graph: Graph, begins: Sequence[int], past_shape: Sequence[int] | None, padding: Literal["left", "right"]
    ) -> None:
        self.graph, self.back_end = graph, graph.back_end
        self._begins, self._padding = [*begins], padding
        self.kept: Arrays | None = None
        if past_shape is not None:
            layers, heads, width = past_shape
            rows = np.array([self._begins], np.int64)
            past = np.zeros((layers, heads, 0, width), np.float32)
            (kept,) = graph.run(["kept"], {"ids": rows, "mask": np.ones_like(rows), "past": past})
            self.kept = np.ascontiguousarray(finite(kept, "verdict.onnx"))

    def __call__(self, rows: Sequence[Sequence[int]]) -> Floats:
        """Return the logits `(n, k)` of the label tokens after each row."""
        whole = [row if self.kept is not None else [*self._begins, *row] for row in rows]
        longest = max(map(len, whole))
        ids, mask = np.zeros((len(whole), longest), np.int64), np.zeros((len(whole), longest), np.int64)
        for i, row in enumerate(whole):
            part = slice(longest - len(row), None) if self._padding == "left" else slice(0, len(row))
            ids[i, part], mask[i, part] = row, 1
        given: dict[str, Arrays] = {"ids": ids, "mask": mask, **({} if self.kept is None else {"past": self.kept})}
        (logits,) = self.graph.run(["logits"], given)
        return finite(logits, "verdict.onnx")
