"""Trace a model as a graph of calls (torch.fx), opened only along the path to one module.

Every other module stays one opaque call into the model itself. So its mode, its dropout and its statistics are read at
run time, and its parameters are the model's own.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from .execution_order import holders, is_within

Step = Callable[[Tensor], Tensor]


class NotTraceableError(Exception):
    """Reason why a model cannot be split at some point. The caller runs it whole instead."""


class _Whole(nn.Module):
    """Model called with images alone, so that its other arguments keep their defaults."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


class _Tracer(fx.Tracer):
    def __init__(self, opened: Collection[str]) -> None:
        super().__init__()
        self._opened = opened

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
        return module_qualified_name not in self._opened


def trace(model: nn.Module, name: str) -> fx.Graph:
    """Trace a model with the modules that hold `name` opened. Names of calls are those within the model.

    Raises:
        NotTraceableError: the path to the module depends on values.
    """
    opened = {f"model.{holder}".rstrip(".") for holder in holders(name)}
    whole = _Whole(model)
    # A tracer puts the modes of what it opens into the graph; the opened ones all take the model's own.
    modes = {module: module.training for module in model.modules()}
    try:
        for holder in holders(name):
            model.get_submodule(holder).training = model.training
        graph = _Tracer(opened).trace(whole)
    except Exception as error:  # Anything a forward does with a placeholder may fail, in its own way.
        raise NotTraceableError(f"its way to {name} cannot be traced ({type(error).__name__}: {error})") from error
    finally:
        for module, training in modes.items():
            module.training = training
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = str(node.target).removeprefix("model.")
    graph.owning_module = None
    return graph


def trace_in_both_modes(model: nn.Module, name: str) -> fx.Graph:
    """Trace a model whose training and evaluation graphs are equal.

    Raises:
        NotTraceableError: they differ, or the path to the module depends on values.
    """
    training = model.training
    try:
        model.training = True
        first = trace(model, name)
        model.training = False
        second = trace(model, name)
    finally:
        model.training = training
    if _calls(first) != _calls(second):
        raise NotTraceableError(f"on its way to {name} it does one thing in training and another in evaluation")
    return second


def first_call(graph: fx.Graph, name: str) -> int:
    """Return the position of the first call of a module, or of one inside it.

    Raises:
        NotTraceableError: it is not called as a module.
    """
    for position, node in enumerate(graph.nodes):
        if node.op == "call_module" and is_within(str(node.target), name):
            return position
    raise NotTraceableError(f"{name} is not called as a module")


def crossing(graph: fx.Graph, position: int) -> list[fx.Node]:
    """List the values computed before a position and used from there on, except parameters, which both parts read."""
    nodes = list(graph.nodes)
    late = set(nodes[position:])
    return [node for node in nodes[:position] if node.op != "get_attr" and any(user in late for user in node.users)]


def until(graph: fx.Graph, outputs: Sequence[fx.Node]) -> fx.Graph:
    """Extract the part of a graph that computes some of its nodes; several are concatenated along the channels."""
    part = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    needed = _needed(outputs)
    for node in graph.nodes:
        if node.op == "placeholder" or node in needed:
            copies[node] = part.node_copy(node, lambda old: copies[old])
    found = tuple(copies[node] for node in outputs)
    part.output(found[0] if len(found) == 1 else part.call_function(torch.cat, (found, 1)))
    return part


def after(graph: fx.Graph, position: int, given: fx.Node) -> fx.Graph:
    """Extract the part of a graph from a position on, as a function of the one tensor that crosses there."""
    part = fx.Graph()
    copies = {given: part.placeholder("features")}
    for number, node in enumerate(graph.nodes):
        if node is not given and (number >= position or node.op == "get_attr"):
            copies[node] = part.node_copy(node, lambda old: copies[old])
    return part


def runner(model: nn.Module, graph: fx.Graph) -> Step:
    """Wrap a graph over the model's own modules as a function of one tensor."""
    interpreter = fx.Interpreter(model, graph=graph)
    return lambda values: cast(Tensor, interpreter.run(values))


def _calls(graph: fx.Graph) -> list[Any]:
    return [(node.op, str(node.target), str(node.args), str(node.kwargs)) for node in graph.nodes]


def _needed(outputs: Sequence[fx.Node]) -> set[fx.Node]:
    """Collect all nodes that lead to the outputs."""
    needed: set[fx.Node] = set()
    waiting = list(outputs)
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting += node.all_input_nodes
    return needed
