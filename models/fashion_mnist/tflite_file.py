"""The names by which a TFLite file's input and output are found."""

from __future__ import annotations

from pathlib import Path

from ai_edge_litert.tools import flatbuffer_utils

from fashion_mnist.variants import INPUT_NAME, OUTPUT_NAME


def name_ends(path: Path) -> None:
    """Give the input and output tensor of the file the names that its signature has for them.

    The converter prefixes them, and the quantizer adds a suffix to one: a client would have to ask
    each version of the model for another output.

    Raises:
        ValueError: the file does not have one input and one output.
    """
    model = flatbuffer_utils.read_model(str(path))
    (graph,) = model.subgraphs
    if (len(graph.inputs), len(graph.outputs)) != (1, 1):
        raise ValueError(f"{path} has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs, expected one each")
    graph.tensors[graph.inputs[0]].name = INPUT_NAME.encode()
    graph.tensors[graph.outputs[0]].name = OUTPUT_NAME.encode()
    flatbuffer_utils.write_model(model, str(path))
    path.chmod(0o644)
